//! What policy counts.

use antrea_runtime::metrics::{self, Metrics};
use prometheus::{Histogram, IntCounterVec, IntGauge};

use super::DnsMetrics;

const TOLD_BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

/// Counts of policies and rules.
#[derive(Clone, Debug)]
pub struct PolicyMetrics {
    policies: IntGauge,
    rules: [IntGauge; 2],
    /// Objects of the controller whose last form did not decode.
    pub undecodable: IntGauge,
    /// Connections that policies with `established: Reset` ended, by direction.
    pub ended: IntCounterVec,
    /// Of DNS's answers.
    pub dns: DnsMetrics,
    /// From a change of the pods' addresses to the controller's answer to it.
    pub address_told: Histogram,
}

impl PolicyMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let made = Self {
            ended: metrics.counter_vec(
                "antrea_agent_connections_ended_total",
                "Established connections that policies with established: Reset came to deny and that were ended, by the \
                 direction that is denied.",
                &["direction"],
            )?,
            dns: DnsMetrics::new(metrics)?,
            address_told: metrics.histogram(
                "antrea_agent_pod_address_told_duration_seconds",
                "From a change of this node's pods, or of the session with the controller, to the controller's knowing \
                 their addresses.",
                TOLD_BUCKETS,
            )?,
            policies: metrics
                .gauge("antrea_agent_networkpolicy_count", "Number of NetworkPolicies on local Node.")?,
            rules: [
                metrics.gauge(
                    "antrea_agent_ingress_networkpolicy_rule_count",
                    "Number of ingress NetworkPolicy rules on local Node which are managed by the Antrea Agent.",
                )?,
                metrics.gauge(
                    "antrea_agent_egress_networkpolicy_rule_count",
                    "Number of egress NetworkPolicy rules on local Node which are managed by the Antrea Agent.",
                )?,
            ],
            undecodable: metrics.gauge(
                "antrea_agent_undecodable_objects",
                "Objects of the controller that do not decode; what was known of them stays in force.",
            )?,
        };
        for direction in ["egress", "ingress"] {
            made.ended.with_label_values(&[direction]);
        }
        Ok(made)
    }

    /// Sets them; `rules` are ingress and egress.
    pub fn set(&self, policies: usize, rules: [usize; 2]) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.policies.set(number(policies));
        for (gauge, count) in self.rules.iter().zip(rules) {
            gauge.set(number(count));
        }
    }
}
