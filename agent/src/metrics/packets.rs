//! What is counted of packets that flows send up.

use antrea_runtime::metrics::{self, Metrics};
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

/// Counts of packet-ins, by who takes them.
#[derive(Clone, Debug)]
pub struct PacketInMetrics {
    taken: IntCounterVec,
    dropped: IntCounterVec,
    metered: IntGaugeVec,
    unlogged: IntCounter,
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
            metered: metrics.gauge_vec(
                "antrea_agent_ovs_meter_packet_dropped_count",
                "Number of packets dropped by OVS meter, since Open vSwitch has it: 256 is of packets that policy \
                 rejects, 257 of Traceflow's, 258 of DNS's answers to Pods that rules with domain names apply to, 259 of what the audit log tells, \
                 260 of what is sent to Services without endpoints.",
                &["meter_id"],
            )?,
            unlogged: metrics.counter(
                "antrea_agent_audit_log_dropped_total",
                "Decisions of policies that are not in the audit log: too many came at once, or it could not be written.",
            )?,
        };
        for subscriber in ["dns", "policy", "services", "traceflow"] {
            made.taken.with_label_values(&[subscriber]);
        }
        for subscriber in ["dns", "none", "policy", "services", "session", "traceflow"] {
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

    /// A meter has dropped so many.
    pub fn metered(&self, meter: u32, dropped: u64) {
        let gauge = self.metered.with_label_values(&[meter.to_string().as_str()]);
        gauge.set(i64::try_from(dropped).unwrap_or(i64::MAX));
    }

    /// So many are not in the audit log.
    pub fn unlogged(&self, count: u64) {
        self.unlogged.inc_by(count);
    }

    /// Taken and dropped.
    #[cfg(test)]
    pub fn counts(&self, subscriber: &str) -> [u64; 2] {
        [&self.taken, &self.dropped].map(|counter| counter.with_label_values(&[subscriber]).get())
    }
}
