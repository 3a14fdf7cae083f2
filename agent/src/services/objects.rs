//! What is decoded of Services and EndpointSlices: the rest never reaches memory.

use std::collections::BTreeMap;

use antrea_proxy::{Here, Problem, Service, Slice, k8s};
use antrea_runtime::tolerant::Tolerant;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

/// Services of a watch.
pub(super) type TolerantService = Tolerant<ServiceObject, k8s_openapi::api::core::v1::Service>;
/// EndpointSlices of a watch.
pub(super) type TolerantSlice = Tolerant<SliceObject, k8s_openapi::api::discovery::v1::EndpointSlice>;

/// Services that this node serves, as a selector of labels.
pub(super) const SERVICES: &str = "!service.kubernetes.io/service-proxy-name";
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

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceObject {
    metadata: Meta,
    spec: k8s::ServiceSpec,
    status: k8s::ServiceStatus,
}

impl ServiceObject {
    /// What this node serves of it. Whoever has another proxy is none of ours, whatever the watch was asked for.
    pub(super) fn read(&self, name: &str) -> (Option<Service>, Vec<Problem>) {
        if self.metadata.label(k8s::PROXY_NAME).is_some() {
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

    /// Its endpoints.
    pub(super) fn read(&self, name: &str, here: &Here) -> (Option<Slice>, Vec<Problem>) {
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        k8s::slice(name, here, &self.address_type, endpoints, self.ports.as_deref().unwrap_or_default())
    }
}
