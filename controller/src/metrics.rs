//! Everything on the controller's `/metrics`.

use std::time::Duration;

use antrea_runtime::{
    health::Readiness,
    metrics::{Metrics, Result},
    trace,
};
use apiserver_kit::{
    metrics::{CertificateExpiry, ServerMetrics},
    tls::Tls,
};
use prometheus::{IntGauge, IntGaugeVec};
use tokio::sync::watch;

use crate::{VERSION, info::Counts, policy, system};

/// Interval at which the certificate in use is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The controller's metrics.
pub struct Registered {
    pub registry: Metrics,
    /// Of the computation of policy.
    pub policy: policy::PolicyMetrics,
    /// Of the webhooks.
    pub admission: policy::AdmissionMetrics,
    /// Of the API port.
    pub server: ServerMetrics,
    /// Of the API port's certificate.
    pub certificate: CertificateExpiry,
    /// Of the published status.
    pub status: StatusMetrics,
    /// Of the export of spans.
    pub spans: trace::Counters,
}

/// What AntreaControllerInfo says.
#[derive(Clone)]
pub struct StatusMetrics {
    conditions: IntGaugeVec,
    connected_agents: IntGauge,
}

/// Registers every metric of the controller.
///
/// # Errors
/// Two have the same name.
pub fn register() -> Result<Registered> {
    let registry = Metrics::new("antrea_controller", VERSION)?;
    Ok(Registered {
        policy: policy::PolicyMetrics::new(&registry)?,
        admission: policy::AdmissionMetrics::new(&registry)?,
        server: ServerMetrics::new(&registry, policy::PLURALS.into_iter().chain(system::PLURALS))?,
        certificate: CertificateExpiry::new(&registry, "antrea_controller")?,
        status: StatusMetrics {
            conditions: registry.gauge_vec(
                "antrea_controller_condition",
                "1 while the condition of the AntreaControllerInfo is True, by type.",
                &["type"],
            )?,
            connected_agents: registry.gauge(
                "antrea_controller_connected_agents",
                "Number of agents with an open watch on NetworkPolicies.",
            )?,
        },
        spans: trace::Counters::new(&registry)?,
        registry,
    })
}

impl StatusMetrics {
    /// Follows what is wrong with the controller, and its numbers, for ever.
    pub async fn follow(self, problems: Readiness, mut counts: watch::Receiver<Counts>) {
        let mut changes = problems.subscribe();
        loop {
            changes.mark_unchanged();
            let healthy = i64::from(problems.is_ready());
            self.conditions.with_label_values(&["ControllerHealthy"]).set(healthy);
            let agents = counts.borrow_and_update().connected_agents;
            self.connected_agents.set(i64::try_from(agents).unwrap_or(i64::MAX));
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = counts.changed() => {}
                else => std::future::pending().await,
            }
        }
    }
}

/// Shows for ever when the certificate that `tls` serves expires.
pub async fn watch_expiry(tls: Tls, expiry: CertificateExpiry) {
    loop {
        expiry.set("api", tls.cert().expires_at());
        tokio::time::sleep(LOOK).await;
    }
}
