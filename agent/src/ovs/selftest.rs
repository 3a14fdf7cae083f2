//! Does the datapath forward? A frame goes into the bridge by the gateway's link and has to come back.
//!
//! The frame takes the way of the host's packets: the gateway's port, the flow table, an output. That a
//! process lives or a socket answers says nothing about that.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use antrea_flows::{SELF_TEST_ETHERTYPE, VIRTUAL_MAC};
use netcfg::FrameSocket;
use tokio::time::{sleep, timeout};

use crate::facts::{Health, Reporter};
use crate::metrics::SelfTestMetrics;

/// Between tests.
const PERIOD: Duration = Duration::from_secs(2);

/// The same after a frame that was lost.
const AGAIN: Duration = Duration::from_millis(200);

/// A frame that takes longer is lost. Userspace forwarding waits for a busy core at times.
const LIMIT: Duration = Duration::from_secs(1);

/// Frames in a row that are lost before the datapath counts as broken.
const TOLERATED: u32 = 1;

/// Length of the frame: the shortest that Ethernet has.
const FRAME: usize = 60;

/// Where the number of the test is, after the Ethernet header.
const NUMBER: std::ops::Range<usize> = 14..22;

/// Makes health of outcomes.
#[derive(Debug, Default)]
struct Judge {
    lost: u32,
}

impl Judge {
    fn judge(&mut self, link: &str, outcome: &Result<Duration, String>) -> Option<Health> {
        match outcome {
            Ok(_) => {
                self.lost = 0;
                Some(Health::Good)
            }
            Err(error) => {
                self.lost += 1;
                (self.lost > TOLERATED).then(|| {
                    Health::bad(
                        "DatapathSelfTestFailed",
                        format!(
                            "test frames into the bridge by {link} do not come back: {error}; pods may have no \
                             network: look at the container antrea-ovs, and restart it if it does not recover"
                        ),
                    )
                })
            }
        }
    }
}

/// Tests the datapath behind `link` for ever.
///
/// # Errors
/// None: what fails is told.
pub async fn run(link: &str, reporter: &Reporter, metrics: &SelfTestMetrics) -> Infallible {
    let mut judge = Judge::default();
    let mut socket = None;
    let mut number: u64 = 0;
    loop {
        number += 1;
        let outcome = attempt(link, &mut socket, number).await;
        match &outcome {
            Ok(time) => metrics.passed(*time),
            Err(error) => {
                tracing::debug!(link, error, "datapath self-test");
                metrics.failed();
                // Open vSwitch makes the link anew when it restarts.
                socket = None;
            }
        }
        match judge.judge(link, &outcome) {
            Some(health) => {
                reporter.update(|facts| facts.datapath = health);
                sleep(PERIOD).await;
            }
            // One lost frame is looked into at once.
            None => sleep(AGAIN).await,
        }
    }
}

async fn attempt(link: &str, socket: &mut Option<FrameSocket>, number: u64) -> Result<Duration, String> {
    let opened = match socket.take() {
        Some(opened) => opened,
        None => FrameSocket::open(link, SELF_TEST_ETHERTYPE).map_err(|error| error.to_string())?,
    };
    let opened = socket.insert(opened);
    let sent = frame(opened.mac().0, number);
    let begin = Instant::now();
    let returned = async {
        opened.send(&sent).await.map_err(|error| error.to_string())?;
        let mut buffer = [0; FRAME];
        loop {
            let length = opened.receive(&mut buffer).await.map_err(|error| error.to_string())?;
            // An earlier test's frame may come late.
            if buffer.get(NUMBER).is_some_and(|found| length >= NUMBER.end && sent.get(NUMBER) == Some(found))
            {
                return Ok(begin.elapsed());
            }
        }
    };
    timeout(LIMIT, returned).await.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

fn frame(mac: [u8; 6], number: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&VIRTUAL_MAC.0);
    frame[12..14].copy_from_slice(&SELF_TEST_ETHERTYPE.to_be_bytes());
    frame[NUMBER].copy_from_slice(&number.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_frame_is_no_failure_and_one_that_returns_ends_it() {
        let mut judge = Judge::default();
        let lost = Err("no answer".to_owned());
        assert_eq!(judge.judge("antrea-gw0", &lost), None);
        let Some(Health::Bad { reason, message }) = judge.judge("antrea-gw0", &lost) else {
            panic!("not told")
        };
        assert_eq!(reason, "DatapathSelfTestFailed");
        assert!(message.contains("antrea-gw0") && message.contains("no answer"), "{message}");
        assert_eq!(judge.judge("antrea-gw0", &Ok(Duration::ZERO)), Some(Health::Good));
        assert_eq!(judge.judge("antrea-gw0", &lost), None);
    }

    #[test]
    fn frames_carry_their_number() {
        let frame = frame([2, 0, 0, 0, 0, 1], 0x0102_0304);
        assert_eq!(frame[12..14], [0x88, 0xb5]);
        assert_eq!(frame[NUMBER], [0, 0, 0, 0, 1, 2, 3, 4]);
    }
}
