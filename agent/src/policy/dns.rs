//! Answers of DNS servers to pods to which rules with domain names apply: each waits here until the rules have its addresses.
//!
//! An answer is let go only when policy knows what it says: a rule that denies would else come after the connection that it
//! is about. What cannot be known in time, or read, is not let go, and the pod asks again.
//!
//! A TCP stream waits from the segment on that completes an answer: of a pod that has an answer to wait for nothing that came
//! later goes before it, for it may be the same segment again.

mod again;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use antrea_enforce::dns::Remembered;
use antrea_packet::{DnsAnswer, DnsPacket, DnsStreams};
use openflow::PacketIn2;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::handle::{PolicyError, PolicyHandle, Request};
use super::notes;
use crate::dataplane::{Dataplane, Subscriber};
use crate::metrics::{DnsMetrics, Outcome};
use crate::ovs::settled::Settled;

/// How long an answer waits for its rules and for the datapath. Resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers that wait together.
const TOGETHER: usize = 64;

/// How soon after a change what is known is on disk.
const EVERY: Duration = Duration::from_secs(1);

/// Addresses, and until which second of Unix time each is one.
type Until = BTreeMap<IpAddr, u64>;

/// What is kept on disk.
type Record = BTreeMap<String, Noted>;

/// What is kept of a name.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Noted {
    /// With the name that was asked for, and of whom.
    Asked { until: Until, asked: Option<(String, IpAddr)> },
    /// As agents wrote it that did not ask again.
    Told(Until),
}

/// How answers are dealt with.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// For how long addresses remain at least.
    pub shortest: Duration,
    /// Octets of the longest packet that pods take.
    pub mtu: usize,
    /// The datapath.
    pub settled: Settled,
}

/// An answer that waits.
struct Held {
    ofport: u32,
    frames: Vec<Vec<u8>>,
    outcome: Outcome,
}

impl PolicyHandle {
    /// Holds answers until rules know them, for ever.
    pub async fn follow_dns(&self, dataplane: &Dataplane, settings: DnsSettings, metrics: &DnsMetrics) {
        let mut queue = dataplane.subscribe(Subscriber::Dns);
        let mut packets = Vec::with_capacity(TOGETHER);
        let mut streams = DnsStreams::default();
        // Of so many addresses that rules were given, the datapath goes by the rules.
        let mut settled = 0;
        while queue.recv_many(&mut packets, TOGETHER).await > 0 {
            let begin = Instant::now();
            let (mut answers, mut waiting) = (Vec::new(), Vec::<Held>::new());
            for packet in packets.drain(..) {
                let (held, found) = match read(&packet, &mut streams, settings.mtu, begin) {
                    Ok(read) => read,
                    Err(outcome) => {
                        metrics.answered(outcome, begin.elapsed());
                        continue;
                    }
                };
                if found.is_empty() && waiting.iter().all(|before| before.ofport != held.ofport) {
                    deliver(dataplane, held, begin, metrics).await;
                } else {
                    answers.extend(found);
                    waiting.push(held);
                }
            }
            if waiting.is_empty() {
                continue;
            }
            let known = self.learn(answers, &settings, &mut settled);
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, known).await {
                for held in waiting {
                    deliver(dataplane, held, begin, metrics).await;
                }
            } else {
                tracing::warn!(
                    answers = waiting.len(),
                    "rules could not have DNS's answers in time: pods have to ask again"
                );
                for held in waiting {
                    streams.forget(held.ofport);
                    metrics.answered(Outcome::NotRealized, begin.elapsed());
                }
            }
        }
    }

    /// Has rules know what DNS told, in the bridge and in what the datapath has made of it.
    /// What others have made rules know (as who asks again), or what was known without time to wait for the datapath, is
    /// waited for here, too.
    pub(super) async fn learn(
        &self,
        answers: Vec<DnsAnswer>,
        settings: &DnsSettings,
        settled: &mut u64,
    ) -> Result<(), PolicyError> {
        let given = self.request(|reply| Request::Learn(answers, settings.shortest, reply)).await?;
        if given != *settled {
            settings.settled.wait().await;
            *settled = given;
        }
        Ok(())
    }

    /// Keeps what is known on disk, for ever.
    pub async fn keep_dns(&self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut version = 0;
        loop {
            tick.tick().await;
            let (reply, answer) = oneshot::channel();
            if self.requests.send(Request::Dns(version, reply)).await.is_err() {
                return;
            }
            if let Ok(Some((now, names))) = answer.await
                && notes::write(&self.dns_file, &record(names, unix_time())).await
            {
                version = now;
            }
        }
    }

    /// What was known in the agent's last life.
    pub async fn dns_before(&self) -> Vec<Remembered> {
        let record: Record = notes::read(&self.dns_file).await.unwrap_or_default();
        recalled(record, unix_time())
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn record(names: Vec<Remembered>, now: Duration) -> Record {
    let until = |left: Duration| (now + left).as_secs() + 1;
    let noted = |Remembered { name, addresses, asked }| {
        let all: Vec<(IpAddr, Duration)> = addresses;
        (name, Noted::Asked { until: all.into_iter().map(|(ip, left)| (ip, until(left))).collect(), asked })
    };
    names.into_iter().map(noted).collect()
}

fn recalled(record: Record, now: Duration) -> Vec<Remembered> {
    let left = |until: u64| Duration::from_secs(until).checked_sub(now);
    let remembered = |(name, noted)| {
        let (all, asked) = match noted {
            Noted::Asked { until, asked } => (until, asked),
            Noted::Told(until) => (until, None),
        };
        let addresses = all.into_iter().filter_map(|(ip, until)| Some((ip, left(until)?))).collect();
        Remembered { name, addresses, asked }
    };
    record.into_iter().map(remembered).collect()
}

/// What a packet-in brings for its receiver, and what it tells; what becomes of it where nothing is to be let go.
fn read(
    packet: &PacketIn2,
    streams: &mut DnsStreams,
    mtu: usize,
    now: Instant,
) -> Result<(Held, Vec<DnsAnswer>), Outcome> {
    let ofport = antrea_flows::dns_receiver(packet).ok_or(Outcome::Malformed)?;
    match streams.read(ofport, &packet.packet, now) {
        DnsPacket::Answers(mut found) => {
            let server = antrea_packet::parse(&packet.packet).map(|headers| headers.src);
            found.iter_mut().for_each(|answer| answer.server = server);
            // The packet does not come to a card any more that could do the rest.
            let frames = antrea_packet::without_offload(&packet.packet, mtu).ok_or(Outcome::Malformed)?;
            Ok((Held { ofport, frames, outcome: Outcome::Delivered }, found))
        }
        DnsPacket::Ended(reset) => {
            Ok((Held { ofport, frames: vec![reset], outcome: Outcome::Ended }, Vec::new()))
        }
        DnsPacket::Early => Err(Outcome::Early),
        DnsPacket::Malformed => Err(Outcome::Malformed),
    }
}

async fn deliver(dataplane: &Dataplane, held: Held, begin: Instant, metrics: &DnsMetrics) {
    let Held { ofport, frames, outcome } = held;
    for frame in frames {
        let sent = dataplane.session().packet_out(antrea_flows::deliver_dns(ofport, frame)).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a pod does not get DNS's answer");
            return metrics.answered(Outcome::NotRealized, begin.elapsed());
        }
    }
    metrics.answered(outcome, begin.elapsed());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_is_known_again_for_the_time_that_is_left() {
        let now = Duration::from_millis(1_000_400);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let names = vec![Remembered {
            name: "a.example".into(),
            addresses: vec![(a, Duration::from_secs(30)), (b, Duration::from_secs(3))],
            asked: Some(("www.example".into(), b)),
        }];
        let written = record(names.clone(), now);
        // Whole seconds, rounded up: nothing goes early.
        let until = [(a, 1031), (b, 1004)].into();
        assert_eq!(written["a.example"], Noted::Asked { until, asked: names[0].asked.clone() });
        let text = serde_json::to_string(&written).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        let later = recalled(read, now + Duration::from_secs(10));
        assert_eq!(later[0].addresses, [(a, Duration::from_millis(20_600))]);
        assert_eq!(later[0].asked, names[0].asked);
        // As it was written before it was asked again.
        let read: Record = serde_json::from_str("{\"a.example\": {\"192.0.2.1\": 1031}}").unwrap();
        let old = recalled(read, now);
        assert_eq!((old[0].addresses.len(), &old[0].asked), (1, &None));
    }
}
