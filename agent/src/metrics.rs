//! Metrics, under upstream's names.

use std::time::{Duration, Instant};

use antrea_crds::AgentCondition;
use antrea_runtime::metrics::{self, MILLISECOND_BUCKETS, Metrics};
use antrea_runtime::trace;
use apiserver_kit::metrics::{CertificateExpiry, ServerMetrics};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

mod capture;
mod dns;
mod packets;
mod policy;
mod probes;
mod proxy;

pub use capture::CaptureMetrics;
pub use dns::{DnsMetrics, Outcome};
pub use packets::PacketInMetrics;
pub use policy::PolicyMetrics;
pub use probes::ProbeMetrics;
pub use proxy::{Families, ProxyMetrics};

/// Buckets for a comparison of flows: a few hundred flows take milliseconds, 100,000 a second.
const VERIFICATION_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Buckets for a frame's way through the datapath.
const SELF_TEST_SECONDS: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

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
    verification: Histogram,
    /// Of the datapath's self-test.
    pub self_test: SelfTestMetrics,
    /// Of the comparison of the datapath's flows with the bridge's.
    pub audit: AuditMetrics,
    /// Of connection tracking.
    pub conntrack: ConntrackMetrics,
    /// Of packets that flows send up.
    pub packet_ins: PacketInMetrics,
    /// Of PacketCaptures.
    pub captures: CaptureMetrics,
    /// Of datapath probes.
    pub probes: ProbeMetrics,
    conditions: IntGaugeVec,
}

/// What the datapath's self-test counts.
#[derive(Clone, Debug)]
pub struct SelfTestMetrics {
    time: Histogram,
    failures: IntCounter,
}

/// What the comparison of the datapath's flows with the bridge's counts.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    compared: IntCounter,
    wrong: IntCounter,
}

/// Sizes of the connection tracking table.
#[derive(Clone, Debug)]
pub struct ConntrackMetrics {
    total: IntGauge,
    max: IntGauge,
    /// Without labels: a gauge that can be absent.
    antrea: IntGaugeVec,
}

/// What makes up the agent's `/metrics`.
#[derive(Clone, Debug)]
pub struct Registered {
    pub registry: Metrics,
    /// The agent's own.
    pub agent: AgentMetrics,
    pub policy: PolicyMetrics,
    /// AntreaProxy's.
    pub proxy: ProxyMetrics,
    /// The API port's.
    pub server: ServerMetrics,
    /// Of the API port's certificate.
    pub certificate: CertificateExpiry,
    /// Of the export of spans.
    pub spans: trace::Counters,
}

/// Registers every metric of the agent.
///
/// # Errors
/// Two have the same name.
pub fn register() -> metrics::Result<Registered> {
    let registry = Metrics::new("antrea_agent", crate::VERSION)?;
    Ok(Registered {
        agent: AgentMetrics::new(&registry)?,
        policy: PolicyMetrics::new(&registry)?,
        proxy: ProxyMetrics::new(&registry)?,
        server: ServerMetrics::new(&registry, ["supportbundles"])?,
        certificate: CertificateExpiry::new(&registry, "antrea_agent")?,
        spans: trace::Counters::new(&registry)?,
        registry,
    })
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
            verification: metrics.histogram(
                "antrea_agent_ovs_flow_verification_duration_seconds",
                "Time that a comparison of installed flows with intended ones took, with the repair.",
                VERIFICATION_SECONDS,
            )?,
            self_test: SelfTestMetrics {
                time: metrics.histogram(
                    "antrea_agent_datapath_self_test_duration_seconds",
                    "Time that a test frame took through the gateway port into the bridge and back.",
                    SELF_TEST_SECONDS,
                )?,
                failures: metrics.counter(
                    "antrea_agent_datapath_self_test_failures_total",
                    "Test frames into the bridge that did not come back.",
                )?,
            },
            audit: AuditMetrics {
                compared: metrics.counter(
                    "antrea_agent_datapath_flows_compared_total",
                    "Flows of the datapath that were compared with what the bridge's flows decide.",
                )?,
                wrong: metrics.counter(
                    "antrea_agent_datapath_flows_wrong_total",
                    "Flows of the datapath that did something else for several looks; they were removed.",
                )?,
            },
            conntrack: ConntrackMetrics {
                total: metrics.gauge(
                    "antrea_agent_conntrack_total_connection_count",
                    "Number of connections in the conntrack table.",
                )?,
                antrea: metrics.gauge_vec(
                    "antrea_agent_conntrack_antrea_connection_count",
                    "Number of connections in the Antrea zones of the conntrack table; absent with the kernel's \
                     datapath, which does not count by zone.",
                    &[],
                )?,
                max: metrics.gauge(
                    "antrea_agent_conntrack_max_connection_count",
                    "Size of the conntrack table.",
                )?,
            },
            packet_ins: PacketInMetrics::new(metrics)?,
            captures: CaptureMetrics::new(metrics)?,
            probes: ProbeMetrics::new(metrics)?,
            conditions: metrics.gauge_vec(
                "antrea_agent_condition",
                "1 while the condition of the AntreaAgentInfo is True, by type.",
                &["type"],
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

    /// Records a comparison of flows.
    pub fn verified(&self, took: Duration) {
        self.verification.observe(took.as_secs_f64());
    }

    /// Sets the flow counts: number and name of each table, and how many flows it has.
    pub fn flow_counts(&self, tables: impl IntoIterator<Item = ((u8, &'static str), usize)>) {
        let mut total = 0;
        for ((number, name), count) in tables {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.flows.with_label_values(&[number.to_string().as_str(), name]).set(count);
            total += count;
        }
        self.total_flows.set(total);
    }

    /// Shows conditions.
    pub fn conditions(&self, conditions: &[AgentCondition]) {
        for condition in conditions {
            let gauge = self.conditions.with_label_values(&[condition.type_.name()]);
            gauge.set(i64::from(condition.status == "True"));
        }
    }
}

impl ConntrackMetrics {
    /// Sets the numbers of connections and the size of the table.
    pub fn set(&self, total: i64, max: i64, antrea: Option<i64>) {
        self.total.set(total);
        self.max.set(max);
        match antrea {
            Some(count) => self.antrea.with_label_values::<&str>(&[]).set(count),
            None => self.antrea.reset(),
        }
    }
}

impl SelfTestMetrics {
    /// A frame came back after `time`.
    pub fn passed(&self, time: Duration) {
        self.time.observe(time.as_secs_f64());
    }

    /// A frame did not come back.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

impl AuditMetrics {
    /// A flow was compared.
    pub fn compared(&self) {
        self.compared.inc();
    }

    /// Flows are wrong.
    pub fn wrong(&self, flows: usize) {
        self.wrong.inc_by(flows.try_into().unwrap_or(u64::MAX));
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
