//! Metrics, and what is made of them.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Metrics of agents and controller, and the objects by which Prometheus and Grafana find them.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.metrics) || self.metrics || !(has(self.serviceMonitors) && self.serviceMonitors || has(self.alerts) && self.alerts)"
).message("spec.monitoring: serviceMonitors and alerts need metrics"))]
pub struct Monitoring {
    /// Whether agents and controller serve Prometheus metrics on their API ports; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<bool>,

    /// Whether ServiceMonitors are made where the cluster serves monitoring.coreos.com/v1, also when it begins
    /// to later; by default true if metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitors: Option<bool>,

    /// Whether a PrometheusRule with alerts is made where the cluster serves monitoring.coreos.com/v1, also when
    /// it begins to later; by default true if metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<bool>,

    /// Whether ConfigMaps with Grafana boards are made; by default true if metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dashboards: Option<bool>,

    /// Existing namespace for ServiceMonitors, PrometheusRule and boards. Default: boards and rules in kube-system,
    /// each ServiceMonitor beside what it watches, where certificates can be verified; elsewhere they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(max = 63))]
    pub namespace: Option<String>,

    /// Labels for these objects, by which a Prometheus or a Grafana selects them, such as "release: prometheus".
    /// Boards have "grafana_dashboard: 1" unless it is said otherwise here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {
        "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
    }))]
    #[x_kube(validation = Rule::new(
        "!('app' in self || 'app.kubernetes.io/managed-by' in self || 'operator.antrea.io/installation' in self)"
    ).message("spec.monitoring.labels: app, app.kubernetes.io/managed-by and operator.antrea.io/installation are the operator's"))]
    pub labels: BTreeMap<String, String>,

    /// Annotations for these objects. Boards have "grafana_folder: Antrea" unless it is said otherwise here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    #[x_kube(validation = Rule::new("!('operator.antrea.io/applied-hash' in self)")
        .message("spec.monitoring.annotations: operator.antrea.io/applied-hash is the operator's"))]
    pub annotations: BTreeMap<String, String>,

    /// URL of the folder with the alerts' runbook pages, for those who keep their own. Default: where this
    /// project keeps them.
    #[serde(rename = "runbookURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^ ]+$"), length(max = 255))]
    pub runbook_url: Option<String>,
}
