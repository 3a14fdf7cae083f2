//! What is counted of PacketCaptures.

use antrea_runtime::metrics::{self, Metrics};
use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// Counts of captures on this node.
#[derive(Clone, Debug)]
pub struct CaptureMetrics {
    running: IntGauge,
    ended: IntCounterVec,
    packets: IntCounter,
    uploads: IntCounterVec,
}

impl CaptureMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let made = Self {
            running: metrics.gauge(
                "antrea_agent_packet_captures_running",
                "Number of PacketCaptures that take down packets on this Node.",
            )?,
            ended: metrics.counter_vec(
                "antrea_agent_packet_captures_total",
                "PacketCaptures that ended on this Node, by the reason of their condition PacketCaptureComplete.",
                &["reason"],
            )?,
            packets: metrics.counter(
                "antrea_agent_packet_captures_packets_total",
                "Packets in the files of PacketCaptures that ended on this Node.",
            )?,
            uploads: metrics.counter_vec(
                "antrea_agent_packet_capture_uploads_total",
                "Files of PacketCaptures that were to be sent to a server, by what became of it.",
                &["result"],
            )?,
        };
        for result in ["success", "failure"] {
            made.uploads.with_label_values(&[result]);
        }
        for reason in ["Succeed", "Timeout", "Full", "Failed"] {
            made.ended.with_label_values(&[reason]);
        }
        Ok(made)
    }

    /// So many run.
    pub fn running(&self, count: usize) {
        self.running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A file was sent, or was not.
    pub fn uploaded(&self, is: bool) {
        self.uploads.with_label_values(&[if is { "success" } else { "failure" }]).inc();
    }

    /// One ended, with so many packets.
    pub fn ended(&self, reason: &str, packets: u32) {
        self.ended.with_label_values(&[reason]).inc();
        self.packets.inc_by(packets.into());
    }
}
