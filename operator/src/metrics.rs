//! The operator's metrics.

use antrea_crds::installation::AntreaInstallationStatus;
use antrea_runtime::metrics::{Metrics, Result};
use apiserver_kit::metrics::{CertificateExpiry, ServerMetrics};
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::VERSION;

/// Buckets for the duration of a reconciliation in seconds.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Everything that the operator counts.
#[derive(Clone, Debug)]
pub struct OperatorMetrics {
    /// Duration of reconciliations in seconds, by result (`ok`, `error`).
    pub reconcile_seconds: HistogramVec,
    /// 1 while a condition is true, by type.
    pub condition: IntGaugeVec,
    /// Nodes by state: desired, updated, ready, failing.
    pub nodes: IntGaugeVec,
    /// Applied changes by kind and action.
    pub changes: IntCounterVec,
    /// Objects put back because somebody else changed them, by kind.
    pub drift: IntCounterVec,
    /// Agents' Pods deleted to be replaced.
    pub replaced: IntCounter,
    /// Changes that were taken back because they failed.
    pub rollbacks: IntCounter,
    /// 1 while this process leads.
    pub leader: IntGauge,
}

/// What makes up the operator's `/metrics`.
#[derive(Clone, Debug)]
pub struct Registered {
    pub registry: Metrics,
    /// The operator's own.
    pub operator: OperatorMetrics,
    /// The port's.
    pub server: ServerMetrics,
    /// Of the port's certificate and of the controller's CA.
    pub certificates: CertificateExpiry,
}

/// Registers every metric of the operator.
///
/// # Errors
/// Two have the same name.
pub fn register() -> Result<Registered> {
    let registry = Metrics::new("antrea_operator", VERSION)?;
    Ok(Registered {
        operator: OperatorMetrics::new(&registry)?,
        server: ServerMetrics::new(&registry, [])?,
        certificates: CertificateExpiry::new(&registry, "antrea_operator")?,
        registry,
    })
}

impl OperatorMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> Result<Self> {
        let made = Self {
            reconcile_seconds: metrics.histogram_vec(
                "antrea_operator_reconcile_duration_seconds",
                "Duration of reconciliations of the AntreaInstallation, by result.",
                &["result"],
                SECONDS,
            )?,
            condition: metrics.gauge_vec(
                "antrea_operator_condition",
                "1 while the condition of the AntreaInstallation is true.",
                &["type"],
            )?,
            nodes: metrics.gauge_vec(
                "antrea_operator_nodes",
                "Nodes of the installation by state.",
                &["state"],
            )?,
            changes: metrics.counter_vec(
                "antrea_operator_changes_total",
                "Changes applied to managed objects.",
                &["kind", "action"],
            )?,
            drift: metrics.counter_vec(
                "antrea_operator_drift_repairs_total",
                "Managed objects put back after somebody else changed them.",
                &["kind"],
            )?,
            replaced: metrics.counter(
                "antrea_operator_agent_pods_replaced_total",
                "Agent Pods deleted so that their successors run the wanted revision.",
            )?,
            rollbacks: metrics.counter(
                "antrea_operator_rollbacks_total",
                "Changes of the AntreaInstallation that were taken back because they failed.",
            )?,
            leader: metrics.gauge("antrea_operator_leader", "1 while this process leads.")?,
        };
        // From zero: a series that begins with the first error hides that error from `increase`.
        for result in ["ok", "error"] {
            made.reconcile_seconds.with_label_values(&[result]);
        }
        Ok(made)
    }

    /// Shows a status.
    pub fn show(&self, status: &AntreaInstallationStatus) {
        for condition in &status.conditions {
            let gauge = self.condition.with_label_values(&[&format!("{:?}", condition.type_)]);
            gauge.set(i64::from(condition.status == "True"));
        }
        let nodes = status.nodes.clone().unwrap_or_default();
        let failing = i32::try_from(nodes.failing.len()).unwrap_or(i32::MAX);
        for (state, count) in [
            ("desired", nodes.desired),
            ("updated", nodes.updated),
            ("ready", nodes.ready),
            ("failing", failing),
        ] {
            self.nodes.with_label_values(&[state]).set(count.into());
        }
    }
}
