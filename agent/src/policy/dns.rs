//! Answers of DNS servers to pods to which rules with domain names apply: each waits here until the rules have its addresses.
//!
//! An answer is let go only when policy knows all that it says: a rule that denies would else come after the connection that
//! it is about. What cannot be known in time or for want of room, or be read, is not let go, and the pod asks again.
//!
//! Who waits for what is decided in `antrea_enforce::dns::lanes`: pods do not wait for each other. A TCP stream waits from the
//! segment on that completes an answer: of a pod that has an answer to wait for nothing that came later goes before it.

mod again;
mod record;

use std::time::{Duration, Instant};

use antrea_enforce::dns::lanes::{Lanes, Packet, Question};
use antrea_enforce::dns::{Learned, Receiver};
use antrea_packet::{DnsPacket, DnsStreams};
use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use openflow::PacketIn2;
use tokio::sync::mpsc;

use super::handle::{PolicyHandle, Request};
use crate::dataplane::{Dataplane, Subscriber};
use crate::metrics::{DnsMetrics, Outcome};
use crate::ovs::settled::Settled;

/// Packets that are taken from the queue at once.
const TOGETHER: usize = 64;

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

/// What goes to a pod in the end.
struct Held {
    frames: Vec<Vec<u8>>,
    outcome: Outcome,
}

impl PolicyHandle {
    /// Holds answers until rules know them, for ever.
    pub async fn follow_dns(&self, dataplane: &Dataplane, settings: DnsSettings, metrics: &DnsMetrics) {
        let queue = dataplane.subscribe(Subscriber::Dns);
        let deliver = |ofport: u32, frame: Vec<u8>| async move {
            let sent = dataplane.session().packet_out(antrea_flows::deliver_dns(ofport, frame)).await;
            sent.inspect_err(|error| tracing::debug!(%error, "a pod does not get DNS's answer")).is_ok()
        };
        let settle = || settings.settled.wait();
        self.hold(queue, (settings.shortest, settings.mtu), settle, deliver, metrics).await;
    }

    /// As [`Self::follow_dns`], of packets that come from anywhere, with what waits for the datapath and what delivers.
    pub(super) async fn hold<S: Future<Output = ()>, D: Future<Output = bool>>(
        &self,
        mut queue: mpsc::Receiver<PacketIn2>,
        (shortest, mtu): (Duration, usize),
        settle: impl Fn() -> S,
        deliver: impl Fn(u32, Vec<u8>) -> D,
        metrics: &DnsMetrics,
    ) {
        let mut packets = Vec::with_capacity(TOGETHER);
        let (mut streams, mut lanes) = (DnsStreams::default(), Lanes::default());
        let mut learning = FuturesUnordered::new();
        // News that comes meanwhile waits for the next one, all together.
        let mut settling = std::pin::pin!(Fuse::terminated());
        let settled = |news: u64| {
            let settle = settle();
            async move {
                settle.await;
                news
            }
        };
        loop {
            for (ofport, Packet { what: Held { frames, outcome }, came, .. }) in lanes.ready() {
                let mut outcome = outcome;
                for frame in frames {
                    if !deliver(ofport, frame).await {
                        outcome = Outcome::NotRealized;
                        break;
                    }
                }
                metrics.answered(outcome, came.elapsed());
            }
            for question in lanes.questions() {
                learning.push(self.learn(question, shortest));
            }
            if settling.is_terminated()
                && let Some(news) = lanes.unsettled()
            {
                settling.set(settled(news).fuse());
            }
            let deadline = lanes.deadline();
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let lost = tokio::select! {
                count = queue.recv_many(&mut packets, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    let now = Instant::now();
                    for packet in packets.drain(..) {
                        if let Err(outcome) = take(&packet, &mut lanes, &mut streams, mtu, now) {
                            metrics.answered(outcome, now.elapsed());
                        }
                    }
                    Vec::new()
                }
                Some((question, learned)) = learning.next() => {
                    let receiver = question.receiver;
                    let lost = lanes.learned(&question, learned.as_deref());
                    lost.into_iter().map(|packet| (receiver, packet)).collect()
                }
                news = &mut settling => {
                    lanes.settle(news);
                    Vec::new()
                }
                () = late => {
                    let lost = lanes.expire(Instant::now());
                    tracing::warn!(answers = lost.len(), "rules could not have DNS's answers in time");
                    lost
                }
            };
            for (ofport, packet) in lost {
                // What was read of a stream and is not let go has to be read again.
                if packet.in_stream {
                    streams.forget(ofport);
                }
                metrics.answered(Outcome::NotRealized, packet.came.elapsed());
            }
        }
    }

    /// Has rules know what DNS told a pod, in the bridge; says what became of each answer if that is known.
    async fn learn(&self, mut question: Question, shortest: Duration) -> (Question, Option<Vec<Learned>>) {
        let (receiver, answers) = (Receiver::Port(question.receiver), std::mem::take(&mut question.answers));
        let learned = self.request(|reply| Request::Learn(receiver, answers, shortest, reply)).await;
        (question, learned.ok())
    }
}

/// Has a packet-in wait in its receiver's lane; what becomes of it where nothing is to be let go.
fn take(
    packet: &PacketIn2,
    lanes: &mut Lanes<Held>,
    streams: &mut DnsStreams,
    mtu: usize,
    now: Instant,
) -> Result<(), Outcome> {
    let ofport = antrea_flows::dns_receiver(packet).ok_or(Outcome::Malformed)?;
    // Before it is read: of a stream it will be sent again, and be read then.
    if !lanes.has_room(ofport) {
        return Err(Outcome::Crowded);
    }
    let headers = antrea_packet::parse(&packet.packet);
    let in_stream = headers.as_ref().is_some_and(|headers| headers.protocol == antrea_packet::TCP);
    let (held, answers) = match streams.read(ofport, &packet.packet, now) {
        DnsPacket::Answers(mut answers) => {
            let server = headers.map(|headers| headers.src);
            answers.iter_mut().for_each(|answer| answer.server = server);
            // The packet does not come to a card any more that could do the rest.
            let frames = antrea_packet::without_offload(&packet.packet, mtu).ok_or(Outcome::Malformed)?;
            (Held { frames, outcome: Outcome::Delivered }, answers)
        }
        DnsPacket::Ended(reset) => (Held { frames: vec![reset], outcome: Outcome::Ended }, Vec::new()),
        DnsPacket::Early => return Err(Outcome::Early),
        DnsPacket::Malformed => return Err(Outcome::Malformed),
    };
    lanes.push(ofport, Packet { what: held, in_stream, came: now }, answers);
    Ok(())
}
