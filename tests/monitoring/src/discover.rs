//! Targets of Services, with the labels that Prometheus's own discovery by EndpointSlices gives them.
//!
//! Debian's Prometheus is built without discovery in Kubernetes. Relabelling stays Prometheus's work.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// `kubectl get services,endpointslices,pods -A -o json`.
#[derive(Deserialize)]
pub(crate) struct Cluster {
    items: Vec<Value>,
}

#[derive(Clone, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Service {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointSlice {
    metadata: Metadata,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<String>,
    target_ref: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: String,
    port: u16,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct PodStatus {
    phase: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    ports: Vec<ContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    container_port: u16,
}

/// A label's name as Prometheus writes it.
pub(crate) fn sanitized(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

impl Cluster {
    fn of<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>> {
        let of_kind = self.items.iter().filter(|item| item["kind"] == kind);
        of_kind.map(|item| T::deserialize(item).with_context(|| format!("a {kind}"))).collect()
    }

    /// Static configurations of every endpoint of every Service of these namespaces.
    ///
    /// # Errors
    /// An object that is not what its kind says.
    pub(crate) fn targets(&self, namespaces: &[String]) -> Result<Vec<Value>> {
        let services: Vec<Service> = self.of("Service")?;
        let pods: Vec<Pod> = self.of("Pod")?;
        let mut made = Vec::new();
        for slice in self.of::<EndpointSlice>("EndpointSlice")? {
            let namespace = &slice.metadata.namespace;
            if !namespaces.contains(namespace) {
                continue;
            }
            let of_slice = slice.metadata.labels.get("kubernetes.io/service-name");
            let service = services.iter().find(|service| {
                Some(&service.metadata.name) == of_slice && service.metadata.namespace == *namespace
            });
            for endpoint in &slice.endpoints {
                let pod =
                    endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod").and_then(|target| {
                        pods.iter().find(|pod| {
                            pod.metadata.name == target.name && pod.metadata.namespace == *namespace
                        })
                    });
                for (address, port) in endpoint
                    .addresses
                    .iter()
                    .flat_map(|address| slice.ports.iter().map(move |port| (address, port)))
                {
                    let mut labels = json!({
                        "__meta_kubernetes_namespace": namespace,
                        "__meta_kubernetes_endpointslice_name": slice.metadata.name,
                        "__meta_kubernetes_endpointslice_port_name": port.name,
                    });
                    service_labels(service, &mut labels);
                    pod_labels(pod, port.port, &mut labels);
                    made.push(json!({"targets": [format!("{address}:{}", port.port)], "labels": labels}));
                }
            }
        }
        Ok(made)
    }
}

fn service_labels(service: Option<&Service>, labels: &mut Value) {
    let Some(Service { metadata }) = service else { return };
    labels["__meta_kubernetes_service_name"] = json!(metadata.name);
    for (label, value) in &metadata.labels {
        let label = sanitized(label);
        labels[format!("__meta_kubernetes_service_label_{label}")] = json!(value);
        labels[format!("__meta_kubernetes_service_labelpresent_{label}")] = json!("true");
    }
}

fn pod_labels(pod: Option<&Pod>, port: u16, labels: &mut Value) {
    let Some(Pod { metadata, spec, status }) = pod else { return };
    labels["__meta_kubernetes_pod_name"] = json!(metadata.name);
    labels["__meta_kubernetes_pod_node_name"] = json!(spec.node_name);
    labels["__meta_kubernetes_pod_phase"] = json!(status.phase);
    let has_port = |container: &&Container| container.ports.iter().any(|one| one.container_port == port);
    if let Some(container) = spec.containers.iter().find(has_port) {
        labels["__meta_kubernetes_pod_container_name"] = json!(container.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_the_labels_of_its_service_and_pod() {
        let cluster: Cluster = serde_json::from_value(json!({"items": [
            {"kind": "Service", "metadata": {"name": "s", "namespace": "n", "labels": {"app.kubernetes.io/x": "y"}}},
            {"kind": "EndpointSlice", "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
             "ports": [{"name": "api", "port": 10350}],
             "endpoints": [{"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "name": "p"}}]},
            {"kind": "EndpointSlice", "metadata": {"name": "other", "namespace": "m"},
             "ports": [{"port": 1}], "endpoints": [{"addresses": ["192.0.2.2"]}]},
            {"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Running"},
             "spec": {"nodeName": "node1", "containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 10350}]}]}},
        ]}))
        .unwrap();
        let targets = cluster.targets(&["n".into()]).unwrap();
        assert_eq!(
            targets,
            [json!({"targets": ["192.0.2.1:10350"], "labels": {
                "__meta_kubernetes_namespace": "n",
                "__meta_kubernetes_endpointslice_name": "s-1",
                "__meta_kubernetes_endpointslice_port_name": "api",
                "__meta_kubernetes_service_name": "s",
                "__meta_kubernetes_service_label_app_kubernetes_io_x": "y",
                "__meta_kubernetes_service_labelpresent_app_kubernetes_io_x": "true",
                "__meta_kubernetes_pod_name": "p",
                "__meta_kubernetes_pod_node_name": "node1",
                "__meta_kubernetes_pod_phase": "Running",
                "__meta_kubernetes_pod_container_name": "b",
            }})]
        );
    }
}
