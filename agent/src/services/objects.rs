//! What is decoded of Services and EndpointSlices: the rest never reaches memory.

use std::collections::BTreeMap;

use antrea_proxy::{Here, Problem, Service, Slice, k8s};
use antrea_runtime::tolerant::Tolerant;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::metrics::Families;

/// Services of a watch.
pub(super) type TolerantService = Tolerant<ServiceObject, k8s_openapi::api::core::v1::Service>;
/// EndpointSlices of a watch.
pub(super) type TolerantSlice = Tolerant<SliceObject, k8s_openapi::api::discovery::v1::EndpointSlice>;

/// Services that this node serves, as a selector of labels; kube-proxy's.
pub(super) const SERVICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// Their EndpointSlices.
pub(super) const SLICES: &str =
    "kubernetes.io/service-name,!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    creation_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
}

impl Meta {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }
}

/// A Service as its watch brings it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceObject {
    metadata: Meta,
    spec: k8s::ServiceSpec,
    status: k8s::ServiceStatus,
}

impl ServiceObject {
    /// What this node serves of it. Whoever has another proxy, or wants none, is none of ours, whatever the watch was asked
    /// for.
    pub(super) fn read(&self, name: &str) -> (Option<Service>, Vec<Problem>) {
        if [k8s::PROXY_NAME, k8s::HEADLESS].iter().any(|label| self.metadata.label(label).is_some()) {
            return (None, Vec::new());
        }
        let created = self.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        k8s::service(name, created, &self.spec, &self.status)
    }
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SliceObject {
    metadata: Meta,
    address_type: String,
    endpoints: Option<Vec<k8s::SliceEndpoint>>,
    ports: Option<Vec<k8s::EndpointPort>>,
}

impl SliceObject {
    /// The name of its Service.
    pub(super) fn service(&self) -> Option<&str> {
        self.metadata.label(k8s::SERVICE_NAME)
    }

    /// The family of its addresses; none where it has names.
    pub(super) fn families(&self) -> Families {
        ["IPv4", "IPv6"].map(|family| self.address_type == family)
    }

    /// Its endpoints.
    pub(super) fn read(&self, name: &str, here: &Here) -> (Option<Slice>, Vec<Problem>) {
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        k8s::slice(name, here, &self.address_type, endpoints, self.ports.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As with kube-proxy, also where the label comes to a Service that was served.
    #[test]
    fn a_service_of_another_proxy_or_of_none_is_not_served() {
        let is_served = |label: Option<&str>| {
            let labels = label.map(|label| json!({label: ""}));
            let object = json!({
                "metadata": {"labels": labels},
                "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]},
            });
            let object: ServiceObject = serde_json::from_value(object).unwrap();
            let (service, problems) = object.read("default/web");
            assert!(problems.is_empty(), "{problems:?}");
            service.is_some()
        };
        assert!(is_served(None) && is_served(Some("app")));
        for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
            assert!(!is_served(Some(label)), "{label}");
            assert!(SERVICES.split(',').any(|part| part.strip_prefix('!') == Some(label)));
        }
    }
}
