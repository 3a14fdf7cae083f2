//! Metrics of the server itself, under the names that Kubernetes API servers use.

use std::{collections::HashSet, sync::Arc};

use antrea_runtime::metrics::{Metrics, Result};
use http::StatusCode;
use prometheus::{IntCounterVec, IntGaugeVec};

/// Counters of requests and watches; shared by clones.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    requests: IntCounterVec,
    watchers: IntGaugeVec,
    connections: IntGaugeVec,
    ended: IntCounterVec,
    known: Arc<HashSet<&'static str>>,
}

impl ServerMetrics {
    /// Registers with `metrics`. `resources` are the plurals that may appear as a label; any other
    /// becomes `other`, so that a client cannot invent label values.
    ///
    /// # Errors
    /// The names are taken.
    pub fn new(metrics: &Metrics, resources: impl IntoIterator<Item = &'static str>) -> Result<Self> {
        Ok(Self {
            requests: metrics.counter_vec(
                "apiserver_request_total",
                "Requests by verb, resource and HTTP status.",
                &["verb", "resource", "code"],
            )?,
            watchers: metrics.gauge_vec(
                "apiserver_registered_watchers",
                "Watches that are open now.",
                &["resource"],
            )?,
            connections: metrics.gauge_vec(
                "antrea_api_connections",
                "Connections that are held now. class: own (from the host itself), stranger (no request was allowed yet), \
                 known.",
                &["class"],
            )?,
            ended: metrics.counter_vec(
                "antrea_api_connections_ended_total",
                "Connections that the server ended. reason: room (others came, and their address held most), handshake \
                 (failed or took too long), no_request (none was allowed in time), idle.",
                &["reason"],
            )?,
            known: Arc::new(resources.into_iter().collect()),
        })
    }

    pub(crate) fn resource(&self, plural: &str) -> &'static str {
        self.known.get(plural).copied().unwrap_or("other")
    }

    pub(crate) fn request(&self, verb: &str, resource: &str, code: StatusCode) {
        self.requests.with_label_values(&[verb, resource, code.as_str()]).inc();
    }

    pub(crate) fn held(&self, class: &'static str, count: usize) {
        self.connections.with_label_values(&[class]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn ended(&self, reason: &'static str) {
        self.ended.with_label_values(&[reason]).inc();
    }

    /// Counts a watch as open until the guard is dropped.
    pub(crate) fn watch_opened(&self, resource: &'static str) -> OpenWatch {
        let gauge = self.watchers.with_label_values(&[resource]);
        gauge.inc();
        OpenWatch(gauge)
    }
}

/// When certificates expire.
#[derive(Debug, Clone)]
pub struct CertificateExpiry(IntGaugeVec);

impl CertificateExpiry {
    /// Registers `<component>_certificate_expiration_timestamp_seconds` with `metrics`.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(metrics: &Metrics, component: &str) -> Result<Self> {
        let name = format!("{component}_certificate_expiration_timestamp_seconds");
        let help = "When the certificate expires, in seconds since 1970; 0 if it cannot be read.";
        metrics.gauge_vec(&name, help, &["certificate"]).map(Self)
    }

    /// Shows when a certificate expires, in seconds since 1970.
    pub fn set(&self, certificate: &'static str, expires_at: i64) {
        self.0.with_label_values(&[certificate]).set(expires_at);
    }
}

/// Counts as an open watch for as long as it lives.
pub(crate) struct OpenWatch(prometheus::IntGauge);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}
