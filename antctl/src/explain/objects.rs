//! What is read of Kubernetes' objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use antrea_api::k8s::IntOrString;
use antrea_policy::model::Protocol;
use anyhow::bail;
use serde::{Deserialize, Deserializer};

use super::facts::{self, ContainerPort};

/// A list of some kind, or a page of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct List<T> {
    metadata: ListMetadata,
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: String,
}

impl<T> List<T> {
    /// What to ask the next page with; empty after the last one.
    pub(super) fn next(&self) -> &str {
        &self.metadata.next
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<DeclaredPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeclaredPort {
    name: String,
    container_port: u16,
    protocol: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
    addresses: Vec<NodeAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    #[serde(rename = "type")]
    type_: String,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    metadata: Metadata,
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    type_: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    external_name: String,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
}

/// A port of a Service, with the name or number that it has at Pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServicePort {
    name: String,
    pub(super) port: u16,
    protocol: String,
}

/// A list that must be there and is empty, as Go writes it.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice {
    address_type: String,
    #[serde(deserialize_with = "nullable")]
    endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<SlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SliceEndpoint {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<String>,
    conditions: EndpointConditions,
    target_ref: Option<Reference>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reference {
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    name: String,
    port: Option<u16>,
    protocol: String,
}

/// An endpoint that serves a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) ready: bool,
    /// Namespace and name.
    pub(super) pod: Option<(String, String)>,
}

/// What is asked for by `--port` and `--protocol`.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) port: Option<IntOrString>,
    /// None where it was left open.
    pub(super) protocol: Option<Protocol>,
}

/// Kubernetes leaves TCP out.
fn protocol(name: &str) -> Option<Protocol> {
    if name.is_empty() { Some(Protocol::Tcp) } else { Protocol::transport(name) }
}

fn unready(conditions: &[Condition]) -> Option<String> {
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) if condition.message.is_empty() => Some(condition.reason.clone()),
        Some(condition) => Some(condition.message.clone()),
        None => Some("nobody has said that it is".to_owned()),
    }
}

impl Pod {
    /// Whether this is an address of its own. One that has ended has none, and one in its Node's network the Node's.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let ended = self.status.phase == "Succeeded" || self.status.phase == "Failed";
        let mut own = self.status.ips.iter().filter_map(|pod| pod.ip.parse::<IpAddr>().ok());
        !self.spec.host_network && !ended && own.any(|ip| ip == address)
    }

    pub(super) fn facts(self) -> facts::Pod {
        let declared = self.spec.containers.into_iter().flat_map(|container| container.ports);
        let ports = declared.filter_map(|port| {
            let protocol = protocol(&port.protocol)?;
            Some(ContainerPort { name: port.name, port: port.container_port, protocol })
        });
        facts::Pod {
            ports: ports.collect(),
            unready: unready(&self.status.conditions),
            ending: self.metadata.deletion_timestamp.is_some(),
            namespace: self.metadata.namespace,
            name: self.metadata.name,
            node: self.spec.node_name,
            phase: self.status.phase,
            host_network: self.spec.host_network,
            ips: self.status.ips.iter().filter_map(|pod| pod.ip.parse().ok()).collect(),
        }
    }
}

impl Node {
    /// Why it is not ready, and its addresses.
    pub(super) fn facts(&self) -> (Option<String>, Vec<IpAddr>) {
        let internal = self.status.addresses.iter().filter(|address| address.type_ == "InternalIP");
        let addresses = internal.filter_map(|address| address.address.parse().ok()).collect();
        (unready(&self.status.conditions), addresses)
    }
}

impl Service {
    /// Namespace and name.
    pub(super) fn full(&self) -> (&str, &str) {
        (&self.metadata.namespace, &self.metadata.name)
    }

    /// Its cluster IPs; none of a headless one.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect()
    }

    pub(super) fn has_selector(&self) -> bool {
        !self.spec.selector.is_empty()
    }

    /// The port that is meant.
    ///
    /// # Errors
    /// It has none such, or several.
    pub(super) fn port(&self, wanted: &Wanted) -> anyhow::Result<(ServicePort, Protocol)> {
        let (namespace, name) = self.full();
        if self.spec.type_ == "ExternalName" {
            bail!(
                "Service {namespace}/{name} is a name for {}: give an address of that",
                self.spec.external_name
            );
        }
        if wanted.protocol == Some(Protocol::Icmp) {
            bail!("--protocol icmp: nobody answers that at the address of a Service; give one of its Pods");
        }
        let fits = |port: &&ServicePort| {
            let is = protocol(&port.protocol);
            let asked = wanted.port.as_ref().is_none_or(|asked| match asked.kind {
                0 => asked.int_val == i32::from(port.port),
                _ => asked.str_val == port.name,
            });
            is.is_some() && wanted.protocol.is_none_or(|asked| Some(asked) == is) && asked
        };
        let mut found = self.spec.ports.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(port), None) => Ok((port.clone(), protocol(&port.protocol).unwrap_or(Protocol::Tcp))),
            _ => bail!(
                "--port, --protocol: name one port of Service {namespace}/{name}, which has {}",
                ports(self.spec.ports.iter().map(|port| (&port.name[..], port.port, &port.protocol[..])))
            ),
        }
    }
}

/// Ports as a message names them.
pub(super) fn ports<'a>(all: impl Iterator<Item = (&'a str, u16, &'a str)>) -> String {
    let shown = |(name, port, protocol): (&str, u16, &str)| {
        let protocol = if protocol.is_empty() { "TCP" } else { protocol };
        if name.is_empty() { format!("{protocol} {port}") } else { format!("{protocol} {port} ({name})") }
    };
    let shown: Vec<String> = all.map(shown).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// The endpoints of a Service's port, ready ones first; each once.
pub(super) fn endpoints(
    slices: &[EndpointSlice],
    port: &ServicePort,
    of: Protocol,
    v6: bool,
) -> Vec<Endpoint> {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let serves = |served: &&SlicePort| served.name == port.name && protocol(&served.protocol) == Some(of);
        let Some(served) = slice.ports.iter().find(serves).and_then(|served| served.port) else { continue };
        for endpoint in &slice.endpoints {
            // They mean the same; clients take the first.
            let Some(Ok(address)) = endpoint.addresses.first().map(|address| address.parse()) else {
                continue;
            };
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
            found.push(Endpoint {
                address,
                port: served,
                ready: endpoint.conditions.ready != Some(false),
                pod: pod.map(|pod| (pod.namespace.clone(), pod.name.clone())),
            });
        }
    }
    found.sort_by_key(|endpoint| (!endpoint.ready, endpoint.address));
    found.dedup_by_key(|endpoint| endpoint.address);
    found
}
