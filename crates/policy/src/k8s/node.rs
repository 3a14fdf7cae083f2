//! Nodes, as peers of rules.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{Pod, PodIps, null_default};
use crate::labels::Labels;

/// What stands in the index for the namespace of Nodes: no namespace has such a name.
pub(crate) const NODES: &str = "/nodes";

/// The name of the Node that a member of [`NODES`] is of, and the address that it is for.
pub(crate) fn node_of(member: &str) -> (&str, Option<IpAddr>) {
    member.split_once('/').map_or((member, None), |(node, ip)| (node, ip.parse().ok()))
}

/// A Node, as far as policies depend on it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "Raw")]
pub struct Node {
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.labels`
    pub labels: Labels,
    /// `status.addresses` that are IP addresses, and those of its end of the Pods' subnets (the first of each of
    /// `spec.podCIDRs`), by which Pods see what its processes send them.
    pub ips: Vec<IpAddr>,
}

impl Node {
    /// The members that it is to groups: one for each address, so that each comes and goes for itself.
    pub(crate) fn members(&self) -> Vec<Pod> {
        let member = |ip: &IpAddr| Pod {
            namespace: NODES.into(),
            name: format!("{}/{ip}", self.name).into(),
            labels: self.labels.clone(),
            ips: [*ip].into_iter().collect::<PodIps>(),
            // A policy that is for all Nodes is for this one.
            node: Some(self.name.clone()),
            ..Pod::default()
        };
        self.ips.iter().map(member).collect()
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Raw {
    metadata: Metadata,
    #[serde(deserialize_with = "null_default")]
    spec: Spec,
    #[serde(deserialize_with = "null_default")]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: Box<str>,
    #[serde(deserialize_with = "null_default")]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR", deserialize_with = "null_default")]
    pod_cidr: Box<str>,
    #[serde(rename = "podCIDRs", deserialize_with = "null_default")]
    pod_cidrs: Vec<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "null_default")]
    addresses: Vec<Address>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(deserialize_with = "null_default")]
    address: Box<str>,
}

impl From<Raw> for Node {
    fn from(Raw { metadata, spec, status }: Raw) -> Self {
        let mut ips = Vec::new();
        let mut take = |ip: IpAddr| {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        };
        status.addresses.iter().filter_map(|known| known.address.parse().ok()).for_each(&mut take);
        let single = std::slice::from_ref(&spec.pod_cidr);
        let cidrs = if spec.pod_cidrs.is_empty() { single } else { &spec.pod_cidrs[..] };
        cidrs.iter().filter_map(|cidr| gateway(cidr)).for_each(take);
        Self { name: metadata.name, labels: metadata.labels, ips }
    }
}

/// The first address of a subnet after its own.
fn gateway(cidr: &str) -> Option<IpAddr> {
    match cidr.parse::<IpNet>().ok()?.network() {
        IpAddr::V4(first) => first.to_bits().checked_add(1).map(|bits| IpAddr::from(bits.to_be_bytes())),
        IpAddr::V6(first) => first.to_bits().checked_add(1).map(|bits| IpAddr::from(bits.to_be_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_all_its_addresses_and_those_of_its_gateway() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n1", "labels": {"zone": "a"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"},
                {"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "InternalIP", "address": "192.0.2.1"},
            ]},
        }))
        .unwrap();
        let texts: Vec<String> = node.ips.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.1", "198.51.100.1", "10.244.1.1", "fd00:1::1"]);
        let members = node.members();
        assert_eq!(members.len(), 4);
        let told: Vec<_> = members.iter().map(|member| node_of(&member.name)).collect();
        assert_eq!(told, node.ips.iter().map(|ip| ("n1", Some(*ip))).collect::<Vec<_>>());
        assert!(members.iter().all(|member| member.ips.iter().count() == 1));
        let bare: Node =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "n"}, "spec": null})).unwrap();
        assert!(bare.ips.is_empty() && bare.members().is_empty());
    }
}
