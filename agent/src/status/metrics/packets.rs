//! What is counted of packets that flows send up.

use antrea_runtime::metrics::{self, Metrics};
use prometheus::IntCounterVec;

/// Counts of packet-ins, by who takes them.
#[derive(Clone, Debug)]
pub struct PacketInMetrics {
    taken: IntCounterVec,
    dropped: IntCounterVec,
}

impl PacketInMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let made = Self {
            taken: metrics.counter_vec(
                "antrea_agent_packet_ins_total",
                "Packets that Open vSwitch sent up and a feature took, by feature.",
                &["subscriber"],
            )?,
            dropped: metrics.counter_vec(
                "antrea_agent_packet_ins_dropped_total",
                "Packets that Open vSwitch sent up and nobody took: a feature was too slow, the connection was \
                 (\"session\"), or no feature asked for them (\"none\").",
                &["subscriber"],
            )?,
        };
        made.taken.with_label_values(&["traceflow"]);
        for subscriber in ["none", "session", "traceflow"] {
            made.dropped.with_label_values(&[subscriber]);
        }
        Ok(made)
    }

    /// A packet is in its queue.
    pub fn taken(&self, subscriber: &str) {
        self.taken.with_label_values(&[subscriber]).inc();
    }

    /// Packets are lost.
    pub fn dropped(&self, subscriber: &str, count: u64) {
        self.dropped.with_label_values(&[subscriber]).inc_by(count);
    }

    /// Taken and dropped.
    #[cfg(test)]
    pub fn counts(&self, subscriber: &str) -> [u64; 2] {
        [&self.taken, &self.dropped].map(|counter| counter.with_label_values(&[subscriber]).get())
    }
}
