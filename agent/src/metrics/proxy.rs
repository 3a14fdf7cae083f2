//! What AntreaProxy counts.

use std::time::Duration;

use antrea_runtime::metrics::{self, Metrics};
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

/// Buckets for a batch of Services: one takes a millisecond, ten thousand a second.
const SYNC_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Values of the label `ip_family`.
const FAMILIES: [&str; 2] = ["v4", "v6"];

/// Counts of Services and endpoints. Those that upstream has too have its names and labels: a Service, and a batch, counts
/// in each family of the cluster.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    sync: HistogramVec,
    installed: [IntGaugeVec; 2],
    updates: [IntCounterVec; 2],
    refused: IntGauge,
    invalid: IntGaugeVec,
}

/// Which families a cluster has: IPv4, IPv6.
pub type Families = [bool; 2];

fn names(families: Families) -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().zip(families).filter_map(|(name, is_there)| is_there.then_some(name))
}

impl ProxyMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let family = &["ip_family"];
        let made = Self {
            sync: metrics.histogram_vec(
                "antrea_proxy_sync_proxy_rules_duration_seconds",
                "Time that changes of Services and endpoints took from their computation into the bridge.",
                family,
                SYNC_SECONDS,
            )?,
            installed: [
                metrics.gauge_vec(
                    "antrea_proxy_total_services_installed",
                    "Ports of Services that the bridge serves, by family of addresses.",
                    family,
                )?,
                metrics.gauge_vec(
                    "antrea_proxy_total_endpoints_installed",
                    "Endpoints of the ports of Services that the bridge serves, by family of addresses.",
                    family,
                )?,
            ],
            updates: [
                metrics.counter_vec(
                    "antrea_proxy_total_services_updates",
                    "Events of Services that were taken in; none while the bridge serves no Services.",
                    family,
                )?,
                metrics.counter_vec(
                    "antrea_proxy_total_endpoints_updates",
                    "Events of EndpointSlices that were taken in; none while the bridge serves no Services.",
                    family,
                )?,
            ],
            refused: metrics.gauge(
                "antrea_proxy_refused_services",
                "Services of which Open vSwitch refused flows or groups; they have what they had before.",
            )?,
            invalid: metrics.gauge_vec(
                "antrea_proxy_invalid_objects",
                "Services and EndpointSlices of which a part is not served, or that do not decode; the agent's log says what and why.",
                &["resource"],
            )?,
        };
        made.installed([[0; 2]; 2]);
        made.invalid([("services", 0), ("endpointslices", 0)]);
        Ok(made)
    }

    /// An event of a Service.
    pub fn service_update(&self, families: Families) {
        names(families).for_each(|family| self.updates[0].with_label_values(&[family]).inc());
    }

    /// An event of an EndpointSlice of these families; of one that does not decode it may be any.
    pub fn endpoints_update(&self, families: Families) {
        names(families).for_each(|family| self.updates[1].with_label_values(&[family]).inc());
    }

    /// A batch took this long; `totals` are ports and endpoints, of IPv4 and of IPv6.
    pub fn synced(&self, took: Duration, families: Families, totals: [[usize; 2]; 2], refused: usize) {
        let seconds = took.as_secs_f64();
        names(families).for_each(|family| self.sync.with_label_values(&[family]).observe(seconds));
        self.installed(totals);
        self.refused.set(number(refused));
    }

    fn installed(&self, totals: [[usize; 2]; 2]) {
        for (family, counts) in FAMILIES.iter().zip(totals) {
            for (gauge, count) in self.installed.iter().zip(counts) {
                gauge.with_label_values(&[family]).set(number(count));
            }
        }
    }

    /// Objects with which something is wrong, by resource.
    pub fn invalid(&self, counts: [(&str, usize); 2]) {
        for (resource, count) in counts {
            self.invalid.with_label_values(&[resource]).set(number(count));
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
