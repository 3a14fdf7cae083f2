//! Packets that flows send up: by the first octet of their user data to whoever subscribed.
//!
//! Nobody here waits for a subscriber. What does not fit into its queue is dropped and counted, and so is what nobody
//! subscribed to; the session's own queue bounds what waits before ([`ovs::of::OfConfig::packet_in_queue`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openflow::PacketIn2;
use ovs::of::OfHandle;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::metrics::PacketInMetrics;

/// Packets that wait for a subscriber.
const QUEUE: usize = 256;

/// How often the session's own drops are read.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Who takes packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subscriber {
    /// What a rule rejects.
    Policy,
    /// What DNS answers pods to which rules with domain names apply.
    Dns,
    Traceflow,
    /// What is sent to Services without endpoints.
    Services,
}

impl Subscriber {
    /// The first octet of the user data.
    fn of(packet: &PacketIn2) -> Option<Self> {
        match *packet.userdata.first()? {
            antrea_flows::POLICY_PACKET_IN => Some(Self::Policy),
            antrea_flows::DNS_PACKET_IN => Some(Self::Dns),
            antrea_flows::TRACE_PACKET_IN => Some(Self::Traceflow),
            antrea_flows::SERVICE_PACKET_IN => Some(Self::Services),
            _ => None,
        }
    }

    /// As metrics have it.
    fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Dns => "dns",
            Self::Traceflow => "traceflow",
            Self::Services => "services",
        }
    }
}

/// Subscribers; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Packets {
    queues: Arc<Mutex<BTreeMap<Subscriber, mpsc::Sender<PacketIn2>>>>,
    metrics: PacketInMetrics,
}

impl Packets {
    pub(super) fn new(metrics: PacketInMetrics) -> Self {
        Self { queues: Arc::default(), metrics }
    }

    /// Takes the place of whoever subscribed before.
    pub(super) fn subscribe(&self, subscriber: Subscriber) -> mpsc::Receiver<PacketIn2> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.queues.lock().insert(subscriber, sender);
        receiver
    }

    fn dispatch(&self, packet: PacketIn2) {
        let Some(subscriber) = Subscriber::of(&packet) else {
            self.metrics.dropped("none", 1);
            return;
        };
        let queue = self.queues.lock().get(&subscriber).cloned();
        if queue.is_some_and(|queue| queue.try_send(packet).is_ok()) {
            self.metrics.taken(subscriber.name());
        } else {
            self.metrics.dropped(subscriber.name(), 1);
        }
    }

    /// Shows what meters dropped, for ever.
    pub(super) async fn count_metered(self, session: OfHandle) {
        let mut tick = tokio::time::interval(COUNT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            // Without a connection there is nothing new to show.
            for meter in session.meter_stats().await.unwrap_or_default() {
                let dropped = meter.bands.iter().map(|(packets, _)| packets).sum();
                self.metrics.metered(meter.id, dropped);
            }
        }
    }

    /// Hands packets of the session out; ends with it.
    pub(super) async fn run(self, session: OfHandle) {
        let Some(mut packets) = session.take_packet_ins() else {
            return std::future::pending().await;
        };
        let mut count = tokio::time::interval(COUNT_EVERY);
        let mut lost = 0;
        loop {
            tokio::select! {
                packet = packets.recv() => match packet {
                    Some(packet) => self.dispatch(packet),
                    None => return,
                },
                _ = count.tick() => {
                    let now = session.packet_ins_dropped();
                    self.metrics.dropped("session", now - lost);
                    lost = now;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_runtime::metrics::Metrics;

    fn packet(userdata: &'static [u8]) -> PacketIn2 {
        PacketIn2 { userdata: userdata.into(), ..PacketIn2::default() }
    }

    #[test]
    fn a_slow_subscriber_loses_packets_and_holds_up_nobody() {
        let registry = Metrics::new("test", "v0").unwrap();
        let metrics = PacketInMetrics::new(&registry).unwrap();
        let packets = Packets::new(metrics.clone());
        packets.dispatch(packet(&[antrea_flows::TRACE_PACKET_IN, 7]));
        let mut queue = packets.subscribe(Subscriber::Traceflow);
        for _ in 0..QUEUE + 3 {
            packets.dispatch(packet(&[antrea_flows::TRACE_PACKET_IN, 7]));
        }
        packets.dispatch(packet(&[]));
        packets.dispatch(packet(&[200]));
        assert_eq!(metrics.counts("traceflow"), [QUEUE as u64, 4]);
        assert_eq!(metrics.counts("none"), [0, 2]);
        assert_eq!(queue.try_recv().unwrap().userdata, [0, 7][..]);
        // A new subscriber takes its place; the old one is told by the end of its queue.
        let mut next = packets.subscribe(Subscriber::Traceflow);
        while queue.try_recv().is_ok() {}
        assert_eq!(queue.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        packets.dispatch(packet(&[antrea_flows::TRACE_PACKET_IN, 11]));
        assert_eq!(next.try_recv().unwrap().userdata, [0, 11][..]);
    }
}
