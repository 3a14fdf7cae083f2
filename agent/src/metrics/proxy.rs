//! What AntreaProxy counts.

use std::time::Duration;

use antrea_runtime::metrics::{self, Metrics};
use prometheus::{Histogram, IntCounter, IntGaugeVec};

/// Buckets for a batch of Services: one takes a millisecond, ten thousand a second.
const SYNC_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Counts of Services and endpoints. Upstream's names; where upstream has a metric of each family, a batch here has both.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    sync: Histogram,
    installed: [IntGaugeVec; 2],
    updates: [IntCounter; 2],
}

impl ProxyMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        Ok(Self {
            sync: metrics.histogram(
                "antrea_proxy_sync_proxy_rules_duration_seconds",
                "Time that changes of Services and endpoints took from their computation into the bridge.",
                SYNC_SECONDS,
            )?,
            installed: [
                metrics.gauge_vec(
                    "antrea_proxy_total_services_installed",
                    "Ports of Services that the bridge serves, by family of addresses.",
                    &["ip_family"],
                )?,
                metrics.gauge_vec(
                    "antrea_proxy_total_endpoints_installed",
                    "Endpoints of the ports of Services that the bridge serves, by family of addresses.",
                    &["ip_family"],
                )?,
            ],
            updates: [
                metrics.counter(
                    "antrea_proxy_total_services_updates",
                    "Events of Services that were taken in; none while the bridge serves no Services.",
                )?,
                metrics.counter(
                    "antrea_proxy_total_endpoints_updates",
                    "Events of EndpointSlices that were taken in; none while the bridge serves no Services.",
                )?,
            ],
        })
    }

    /// An event of a Service.
    pub fn service_update(&self) {
        self.updates[0].inc();
    }

    /// An event of an EndpointSlice.
    pub fn endpoints_update(&self) {
        self.updates[1].inc();
    }

    /// A batch took this long; `totals` are ports and endpoints, of IPv4 and of IPv6.
    pub fn synced(&self, took: Duration, totals: [[usize; 2]; 2]) {
        self.sync.observe(took.as_secs_f64());
        for (family, counts) in ["v4", "v6"].iter().zip(totals) {
            for (gauge, count) in self.installed.iter().zip(counts) {
                gauge.with_label_values(&[family]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}
