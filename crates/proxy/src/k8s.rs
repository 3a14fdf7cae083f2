//! What is read of Kubernetes' objects, and what follows from them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::model::{Address, Endpoint, Here, Hint, Port, Problem, Protocol, Service, Slice, SlicePort};

/// Label of Services that somebody else serves.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of Services that nobody serves although they have an address; also of EndpointSlices of those that have none.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of EndpointSlices with the name of their Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `null` where something optional is meant, as Go writes it.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(input: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(input).map(Option::unwrap_or_default)
}

/// `spec` of a Service, as far as a proxy goes by it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "nullable")]
    type_: String,
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    external_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<ServicePort>,
    #[serde(deserialize_with = "nullable")]
    session_affinity: String,
    #[serde(deserialize_with = "nullable")]
    session_affinity_config: AffinityConfig,
    #[serde(deserialize_with = "nullable")]
    internal_traffic_policy: String,
    #[serde(deserialize_with = "nullable")]
    load_balancer_source_ranges: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    external_traffic_policy: String,
    #[serde(deserialize_with = "nullable")]
    health_check_node_port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    #[serde(deserialize_with = "nullable")]
    name: String,
    protocol: Option<String>,
    port: i64,
    #[serde(deserialize_with = "nullable")]
    node_port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    client_ip: ClientIp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<i64>,
}

/// `status` of a Service: addresses of load balancers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(deserialize_with = "nullable")]
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    #[serde(deserialize_with = "nullable")]
    ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ingress {
    #[serde(deserialize_with = "nullable")]
    ip: String,
    ip_mode: Option<String>,
}

/// Kubernetes' default for a client's endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// Reads a Service. `None` if this node serves nothing of it: it is headless, a name elsewhere, or without addresses.
///
/// Load balancers that are no way to the Service but a proxy (`ipMode: Proxy`) are reached as they are.
pub fn service(
    name: &str,
    created: i64,
    spec: &ServiceSpec,
    status: &ServiceStatus,
) -> (Option<Service>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut bad = |field: String, message: String| {
        problems.push(Problem { object: format!("Service {name}"), field, message });
    };
    let single = std::slice::from_ref(&spec.cluster_ip);
    let cluster_ips = if spec.cluster_ips.is_empty() { single } else { &spec.cluster_ips };
    let headless = cluster_ips.iter().any(|ip| ip == "None") || cluster_ips.iter().all(String::is_empty);
    if spec.type_ == "ExternalName" || headless {
        return (None, problems);
    }
    let balanced = status.load_balancer.ingress.iter();
    let balanced = balanced.filter(|ingress| {
        let direct = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        !ingress.ip.is_empty() && direct
    });
    let guarded = !spec.load_balancer_source_ranges.is_empty();
    let of_balancer = if guarded { Address::Guarded } else { Address::External as fn(IpAddr) -> Address };
    let texts =
        cluster_ips.iter().map(|ip| ("spec.clusterIPs", ip, Address::Cluster as fn(IpAddr) -> Address));
    let texts = texts.chain(
        spec.external_ips
            .iter()
            .map(|ip| ("spec.externalIPs", ip, Address::External as fn(IpAddr) -> Address)),
    );
    let texts =
        texts.chain(balanced.map(|ingress| ("status.loadBalancer.ingress", &ingress.ip, of_balancer)));
    let mut addresses: Vec<Address> = Vec::new();
    for (field, text, kind) in texts {
        match text.parse::<IpAddr>() {
            // Of an address that is there twice the first is the one that counts.
            Ok(ip) if addresses.iter().any(|known| known.ip() == ip) => {}
            Ok(ip) if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() => {
                bad(
                    field.to_owned(),
                    format!("{text:?} cannot be an address of a Service; it is not served"),
                );
            }
            Ok(ip) => addresses.push(kind(ip)),
            Err(_) => bad(field.to_owned(), format!("{text:?} is no IP address; it is not served")),
        }
    }
    let mut sources: Vec<IpNet> = Vec::new();
    for text in &spec.load_balancer_source_ranges {
        match text.trim().parse() {
            Ok(range) => sources.push(range),
            Err(_) => bad(
                "spec.loadBalancerSourceRanges".to_owned(),
                format!("{text:?} is no CIDR; nobody is let in by it"),
            ),
        }
    }
    let has_node_ports = matches!(&*spec.type_, "NodePort" | "LoadBalancer");
    let mut ports: Vec<Port> = Vec::new();
    for (n, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{n}]");
        match (protocol(port.protocol.as_deref()), port_number(port.port)) {
            (None, _) => {
                bad(field, format!("protocol {:?} is unknown; the port is not served", port.protocol))
            }
            (_, None) => bad(field, format!("port {} is none; it is not served", port.port)),
            (Some(protocol), Some(number)) => {
                if ports.iter().any(|other| (other.protocol, other.port) == (protocol, number)) {
                    bad(field, format!("{protocol} port {number} is there twice; the first counts"));
                } else {
                    // A type that has no node ports may have kept its number.
                    let node_port = port_number(port.node_port).filter(|_| has_node_ports).unwrap_or(0);
                    ports.push(Port { name: port.name.as_str().into(), protocol, port: number, node_port });
                }
            }
        }
    }
    let seconds = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(AFFINITY_SECONDS);
    let affinity =
        (spec.session_affinity == "ClientIP").then(|| u32::try_from(seconds.max(1)).unwrap_or(u32::MAX));
    let external_local = spec.external_traffic_policy == "Local";
    let tells = spec.type_ == "LoadBalancer" && external_local;
    let health_port = port_number(spec.health_check_node_port).filter(|_| tells).unwrap_or(0);
    let service = Service {
        created,
        addresses: addresses.into(),
        ports: ports.into(),
        internal_local: spec.internal_traffic_policy == "Local",
        external_local,
        sources: sources.into(),
        health_port,
        affinity,
    };
    (Some(service), problems)
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    conditions: Conditions,
    node_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    hints: Hints,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hints {
    #[serde(deserialize_with = "nullable")]
    for_zones: Vec<Named>,
    #[serde(deserialize_with = "nullable")]
    for_nodes: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
}

fn hint(names: &[Named], own: &str) -> Hint {
    match names {
        [] => Hint::Absent,
        names if !own.is_empty() && names.iter().any(|named| named.name == own) => Hint::Here,
        _ => Hint::Elsewhere,
    }
}

/// Reads an EndpointSlice. `None` if its endpoints have names instead of addresses.
pub fn slice(
    name: &str,
    here: &Here,
    address_type: &str,
    endpoints: &[SliceEndpoint],
    ports: &[EndpointPort],
) -> (Option<Slice>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut bad = |field: String, message: String| {
        problems.push(Problem { object: format!("EndpointSlice {name}"), field, message });
    };
    let ipv6 = match address_type {
        "IPv4" => false,
        "IPv6" => true,
        _ => return (None, problems),
    };
    let mut read_ports = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        // A slice without a number is of a Service without ports.
        let Some(number) = port.port else { continue };
        match (protocol(port.protocol.as_deref()), port_number(number)) {
            (Some(protocol), Some(number)) => {
                let name = port.name.as_deref().unwrap_or_default();
                read_ports.push(SlicePort { name: name.into(), protocol, port: number });
            }
            _ => {
                bad(format!("ports[{n}]"), format!("{:?} {number} is no port; it is left out", port.protocol))
            }
        }
    }
    let mut read_endpoints = Vec::with_capacity(endpoints.len());
    for (n, endpoint) in endpoints.iter().enumerate() {
        // Further addresses are the same endpoint's.
        let Some(text) = endpoint.addresses.first() else { continue };
        let ip = match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv6() == ipv6 && !ip.is_unspecified() && !ip.is_multicast() => ip,
            _ => {
                bad(
                    format!("endpoints[{n}].addresses"),
                    format!("{text:?} is no {address_type} address of an endpoint; it is left out"),
                );
                continue;
            }
        };
        let Conditions { ready, serving, terminating } = endpoint.conditions;
        read_endpoints.push(Endpoint {
            ip,
            ready: ready.unwrap_or(true),
            serving: serving.unwrap_or(ready.unwrap_or(true)),
            terminating: terminating.unwrap_or(false),
            local: endpoint.node_name.as_deref().is_some_and(|node| node == here.node),
            node_hint: hint(&endpoint.hints.for_nodes, &here.node),
            zone_hint: hint(&endpoint.hints.for_zones, &here.zone),
        });
    }
    (Some(Slice { ports: read_ports.into(), endpoints: read_endpoints.into() }), problems)
}

#[cfg(test)]
mod tests;
