//! Metrics, under upstream's names.

use std::collections::BTreeMap;
use std::time::Instant;

use antrea_flows::Pipeline;
use antrea_runtime::metrics::{self, MILLISECOND_BUCKETS, Metrics};
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// The agent's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    /// `antrea_agent_local_pod_count`
    pub local_pods: IntGauge,
    /// `antrea_agent_ovs_total_flow_count`
    total_flows: IntGauge,
    /// `antrea_agent_ovs_flow_count`
    flows: IntGaugeVec,
    ops: IntCounterVec,
    errors: IntCounterVec,
    latency: HistogramVec,
    drift: IntCounter,
}

/// Measures one bundle.
#[derive(Debug)]
pub struct OpsTimer {
    metrics: AgentMetrics,
    counts: [(&'static str, usize); 3],
    start: Instant,
}

impl AgentMetrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let made = Self {
            local_pods: metrics.gauge("antrea_agent_local_pod_count", "Number of Pods on local Node.")?,
            total_flows: metrics
                .gauge("antrea_agent_ovs_total_flow_count", "Total flow count of all OVS flow tables.")?,
            flows: metrics.gauge_vec(
                "antrea_agent_ovs_flow_count",
                "Flow count for each OVS flow table.",
                &["table_id", "table_name"],
            )?,
            ops: metrics.counter_vec(
                "antrea_agent_ovs_flow_ops_count",
                "Number of OVS flow operations, by operation (add, modify and delete).",
                &["operation"],
            )?,
            errors: metrics.counter_vec(
                "antrea_agent_ovs_flow_ops_error_count",
                "Number of OVS flow operation errors, by operation (add, modify and delete).",
                &["operation"],
            )?,
            latency: metrics.histogram_vec(
                "antrea_agent_ovs_flow_ops_latency_milliseconds",
                "Time that a bundle of flow operations took, in milliseconds, by operation.",
                &["operation"],
                MILLISECOND_BUCKETS,
            )?,
            drift: metrics.counter(
                "antrea_agent_ovs_flow_repairs_total",
                "Flows that differed from what the agent had installed and were repaired.",
            )?,
        };
        for operation in ["add", "modify", "delete"] {
            made.ops.with_label_values(&[operation]);
            made.errors.with_label_values(&[operation]);
            made.latency.with_label_values(&[operation]);
        }
        Ok(made)
    }

    /// Starts to measure a bundle.
    pub fn flow_ops(&self, adds: usize, mods: usize, deletes: usize) -> OpsTimer {
        let counts = [("add", adds), ("modify", mods), ("delete", deletes)];
        OpsTimer { metrics: self.clone(), counts, start: Instant::now() }
    }

    /// Counts repaired flows.
    pub fn drift(&self, flows: usize) {
        self.drift.inc_by(flows as u64);
    }

    /// Sets the flow counts.
    pub fn flow_counts(&self, pipeline: &Pipeline, counts: &BTreeMap<u8, i32>) {
        for (number, name) in pipeline.names() {
            let count = counts.get(&number).copied().unwrap_or(0);
            self.flows.with_label_values(&[number.to_string().as_str(), name]).set(count.into());
        }
        self.total_flows.set(counts.values().map(|count| i64::from(*count)).sum());
    }
}

impl OpsTimer {
    /// Records the end.
    pub fn done(self, good: bool) {
        let elapsed = self.start.elapsed().as_secs_f64() * 1000.0;
        let counter = if good { &self.metrics.ops } else { &self.metrics.errors };
        for (operation, count) in self.counts.into_iter().filter(|(_, count)| *count > 0) {
            counter.with_label_values(&[operation]).inc_by(count as u64);
            self.metrics.latency.with_label_values(&[operation]).observe(elapsed);
        }
    }
}
