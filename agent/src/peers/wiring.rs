//! Other nodes: what of a Node object matters to this node's network, and what follows from it.

use std::net::IpAddr;

use antrea_flows::{VIRTUAL_MAC, Via, tunnel_mac};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use netcfg::MacAddr;
use netcfg::nl::neigh::{FdbEntry, Neighbour};
use netcfg::nl::route::Route;
use serde::{Deserialize, Serialize};

use crate::config::EncapMode;
use crate::subnet::gateway_of;

/// Node annotation with the addresses that carry tunnels, where they are not the node's own.
const TRANSPORT_ADDRESSES: &str = "node.antrea.io/transport-addresses";

/// Node label with the zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Taint of nodes that the cluster's autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is decoded of a Node object. The rest, mostly the list of images, never reaches memory.
#[derive(Clone, Debug, Default, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
#[serde(default)]
pub struct Node {
    /// Name, annotations and labels.
    pub metadata: ObjectMeta,
    /// Pod subnets.
    pub spec: NodeSpec,
    /// Addresses.
    pub status: NodeStatus,
}

/// `spec` of a [`Node`]: which addresses its pods get.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeSpec {
    /// The first subnet.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// All subnets, at most one of each family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    /// What it does not take, or not any more.
    pub taints: Option<Vec<Taint>>,
}

/// A taint of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Taint {
    /// What it is about.
    pub key: String,
}

/// `status` of a [`Node`]: where it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses by type.
    pub addresses: Option<Vec<NodeAddress>>,
}

/// An address with its type, as kubelet or a cloud controller wrote it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` …
    #[serde(rename = "type")]
    pub type_: String,
    pub address: String,
}

/// A node as another node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Node name.
    pub name: String,
    /// Addresses that tunnels end at, at most one of each family.
    pub transport_ips: Vec<IpAddr>,
    /// Subnets of the node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// All addresses that the node may send from.
    pub addresses: Vec<IpAddr>,
    /// The zone that it is in, empty if none is known.
    pub zone: String,
    /// Whether it is about to go: load balancers give it nothing new.
    pub leaving: bool,
    /// Whether an annotation says where tunnels end.
    annotated: bool,
}

/// A Node object that cannot be used. The message names node and field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("node {node}: {field}: {message}")]
pub struct BadNode {
    /// Node name.
    pub node: String,
    /// Field path.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

impl Peer {
    /// Reads a Node object. A node that has no pod subnet or no address yet gives `None`.
    ///
    /// # Errors
    /// A subnet or address that does not parse.
    pub fn from_node(node: &Node) -> Result<Option<Self>, BadNode> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let bad = |field, message: String| BadNode { node: name.clone(), field, message };
        let mut texts: Vec<&String> = node.spec.pod_cidrs.iter().flatten().collect();
        if texts.is_empty() {
            texts.extend(&node.spec.pod_cidr);
        }
        let mut pod_cidrs = Vec::new();
        for text in texts {
            let cidr: IpNet =
                text.parse().map_err(|_| bad("spec.podCIDRs", format!("{text:?} is no CIDR")))?;
            pod_cidrs.push(cidr.trunc());
        }
        let annotated = node.metadata.annotations.as_ref().and_then(|a| a.get(TRANSPORT_ADDRESSES));
        let mut transport_ips: Vec<IpAddr> = Vec::new();
        let mut push = |ip: IpAddr| {
            if !transport_ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                transport_ips.push(ip);
            }
        };
        if let Some(list) = annotated {
            for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                push(text.parse().map_err(|_| {
                    bad(
                        "metadata.annotations[node.antrea.io/transport-addresses]",
                        format!("{text:?} is no address"),
                    )
                })?);
            }
        }
        let mut addresses = transport_ips.clone();
        // As upstream: external addresses only where there is no internal one.
        for kind in ["InternalIP", "ExternalIP"] {
            let of_kind = node.status.addresses.iter().flatten().filter(|address| address.type_ == kind);
            let parsed: Result<Vec<IpAddr>, _> = of_kind
                .map(|NodeAddress { address, .. }| {
                    address.parse().map_err(|_| bad("status.addresses", format!("{address:?} is no address")))
                })
                .collect();
            let parsed = parsed?;
            if transport_ips.is_empty() {
                for ip in &parsed {
                    if !transport_ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                        transport_ips.push(*ip);
                    }
                }
            }
            addresses.extend(parsed);
        }
        if pod_cidrs.is_empty() || transport_ips.is_empty() {
            return Ok(None);
        }
        addresses.sort_unstable();
        addresses.dedup();
        let zone =
            node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default();
        let doomed = node.spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED);
        let leaving = doomed || node.metadata.deletion_timestamp.is_some();
        let annotated = annotated.is_some();
        Ok(Some(Self { name, transport_ips, pod_cidrs, addresses, zone, leaving, annotated }))
    }

    /// Keeps the addresses that were used before as long as the node has them: another may come first for a
    /// moment, such as one that a load balancer moves from node to node. An annotation is obeyed at once.
    pub fn settled(mut self, previous: Option<&Self>) -> Self {
        let Some(previous) = previous.filter(|_| !self.annotated) else { return self };
        for ip in &mut self.transport_ips {
            *ip = previous.transport_ip(*ip).filter(|old| self.addresses.contains(old)).unwrap_or(*ip);
        }
        self
    }

    /// Whether this node's own network would have to be another one.
    pub fn has_moved_from(&self, before: &Self) -> bool {
        (&self.transport_ips, &self.pod_cidrs) != (&before.transport_ips, &before.pod_cidrs)
    }

    /// The address of the same family as `local`, where tunnels and direct routes to this peer go.
    pub fn transport_ip(&self, local: IpAddr) -> Option<IpAddr> {
        self.transport_ips.iter().copied().find(|ip| ip.is_ipv4() == local.is_ipv4())
    }
}

/// What this node's wiring of a peer depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// How traffic crosses the underlay.
    pub mode: EncapMode,
    /// This node's address on the transport link, with its prefix.
    pub transport: IpNet,
    /// Index of the transport link.
    pub transport_link: u32,
    /// Index of the gateway link.
    pub gateway_link: u32,
    /// Whether the tunnel is a kernel VXLAN device with a forwarding table of its own.
    pub kernel_vxlan: bool,
}

/// What follows from a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    /// Flows; `None` where the peer has no address of this node's family.
    pub flows: Option<antrea_flows::Peer>,
    /// Routes of the node.
    pub routes: Vec<Route>,
    /// Neighbours on the gateway link.
    pub neighbours: Vec<Neighbour>,
    /// Forwarding table of the VXLAN device.
    pub fdb: Vec<FdbEntry>,
}

/// How a peer is wired.
pub fn wire(underlay: &Underlay, peer: &Peer) -> Wiring {
    let Some(remote) = peer.transport_ip(underlay.transport.addr()) else {
        return Wiring::default();
    };
    let mut wiring = Wiring::default();
    let gateway_ips: Vec<IpAddr> = peer.pod_cidrs.iter().map(gateway_of).collect();
    let tunnelled = uses_tunnel(underlay.mode, &underlay.transport, remote);
    for (cidr, gateway) in peer.pod_cidrs.iter().zip(&gateway_ips) {
        if tunnelled {
            // The host sends to the peer's gateway, whose address the bridge answers for in IPv4; for
            // IPv6 a permanent neighbour stands in.
            wiring.routes.push(Route::new(*cidr).via_onlink(*gateway).dev(underlay.gateway_link));
            if gateway.is_ipv6() {
                let host = IpNet::from(*gateway);
                wiring.routes.push(Route::new(host).dev(underlay.gateway_link));
                wiring.neighbours.push(Neighbour { ip: *gateway, mac: MacAddr(VIRTUAL_MAC.0) });
            }
        } else if underlay.transport.contains(&remote)
            && let Some(next) = peer.transport_ip(cidr.addr())
        {
            // A link that leads to the peer without a router in one family does in the other, of which this node's
            // own prefix is not known.
            let route = Route::new(*cidr);
            let route = if next == remote { route.via(next) } else { route.via_onlink(next) };
            wiring.routes.push(route.dev(underlay.transport_link));
        }
        // Across subnets without a tunnel the underlay's own routers have to know the pod subnets.
    }
    let via = if tunnelled { Via::Tunnel { transport_ip: remote } } else { Via::Direct };
    if tunnelled && underlay.kernel_vxlan {
        wiring.fdb.push(FdbEntry { mac: MacAddr(tunnel_mac(remote).0), dst: remote });
    }
    wiring.flows = Some(antrea_flows::Peer {
        pod_cidrs: peer.pod_cidrs.clone(),
        gateway_ips,
        addresses: peer.addresses.clone(),
        via,
    });
    wiring
}

/// Whether traffic to the peer at `remote` is tunnelled, given this node's transport address and prefix.
pub fn uses_tunnel(mode: EncapMode, local: &IpNet, remote: IpAddr) -> bool {
    match mode {
        EncapMode::Encap => true,
        EncapMode::NoEncap => false,
        EncapMode::Hybrid => !local.contains(&remote),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn reads_cidrs_and_addresses() {
        let peer = Peer::from_node(&node(json!({
            "metadata": {"name": "node2"},
            "spec": {"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24", "fd00:2::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "node2"},
                {"type": "InternalIP", "address": "192.0.2.12"},
                {"type": "InternalIP", "address": "192.0.2.99"},
                {"type": "InternalIP", "address": "2001:db8::12"}]}
        })))
        .unwrap()
        .unwrap();
        assert_eq!(peer.pod_cidrs.len(), 2);
        assert_eq!(peer.transport_ip("192.0.2.11".parse().unwrap()), Some("192.0.2.12".parse().unwrap()));
        assert_eq!(peer.transport_ip("::1".parse().unwrap()), Some("2001:db8::12".parse().unwrap()));
    }

    #[test]
    fn external_addresses_serve_where_there_is_no_internal_one() {
        let with = |addresses: serde_json::Value| {
            let peer = Peer::from_node(&node(json!({
                "metadata": {"name": "n"}, "spec": {"podCIDR": "10.244.2.0/24"},
                "status": {"addresses": addresses}
            })));
            peer.unwrap().unwrap()
        };
        let external = json!({"type": "ExternalIP", "address": "198.51.100.2"});
        assert_eq!(with(json!([external])).transport_ips, ["198.51.100.2".parse::<IpAddr>().unwrap()]);
        let both = with(json!([external, {"type": "InternalIP", "address": "192.0.2.2"}]));
        assert_eq!(both.transport_ips, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(both.addresses.len(), 2, "it may send from either");
    }

    #[test]
    fn an_annotation_moves_the_tunnel() {
        let peer = Peer::from_node(&node(json!({
            "metadata": {"name": "n", "annotations": {"node.antrea.io/transport-addresses": "198.51.100.2"}},
            "spec": {"podCIDR": "10.244.2.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.12"}]}
        })));
        assert_eq!(peer.unwrap().unwrap().transport_ips, ["198.51.100.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn an_unfinished_node_is_no_peer_and_a_bad_one_is_named() {
        assert_eq!(Peer::from_node(&node(json!({"metadata": {"name": "n"}}))), Ok(None));
        let error = Peer::from_node(&node(json!({
            "metadata": {"name": "n"}, "spec": {"podCIDR": "10.244.2.0/99"}
        })))
        .unwrap_err();
        assert_eq!(error.to_string(), "node n: spec.podCIDRs: \"10.244.2.0/99\" is no CIDR");
    }

    #[test]
    fn hybrid_tunnels_only_across_subnets() {
        let local = "192.0.2.11/24".parse().unwrap();
        assert!(!uses_tunnel(EncapMode::Hybrid, &local, "192.0.2.12".parse().unwrap()));
        assert!(uses_tunnel(EncapMode::Hybrid, &local, "198.51.100.1".parse().unwrap()));
        assert!(uses_tunnel(EncapMode::Encap, &local, "192.0.2.12".parse().unwrap()));
        assert!(!uses_tunnel(EncapMode::NoEncap, &local, "198.51.100.1".parse().unwrap()));
    }

    fn peer() -> Peer {
        Peer {
            name: "node2".into(),
            transport_ips: vec!["192.0.2.12".parse().unwrap()],
            pod_cidrs: vec!["10.244.2.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()],
            addresses: vec!["192.0.2.12".parse().unwrap()],
            zone: String::new(),
            leaving: false,
            annotated: false,
        }
    }

    fn underlay(mode: EncapMode) -> Underlay {
        Underlay {
            mode,
            transport: "192.0.2.11/24".parse().unwrap(),
            transport_link: 2,
            gateway_link: 7,
            kernel_vxlan: true,
        }
    }

    #[test]
    fn a_tunnelled_peer_gets_routes_neighbour_and_forwarding() {
        let wiring = wire(&underlay(EncapMode::Encap), &peer());
        let text: Vec<_> = wiring.routes.iter().map(ToString::to_string).collect();
        assert_eq!(wiring.routes.len(), 3, "{text:?}");
        assert_eq!(wiring.routes[0].via, Some("10.244.2.1".parse().unwrap()));
        assert!(wiring.routes[0].onlink);
        assert_eq!(wiring.neighbours.len(), 1);
        assert_eq!(wiring.fdb[0].dst, "192.0.2.12".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_direct_peer_is_routed_through_its_address() {
        let wiring = wire(&underlay(EncapMode::NoEncap), &peer());
        assert_eq!(
            wiring.routes.len(),
            1,
            "an IPv6 subnet has no next hop where the peer has no IPv6 address"
        );
        assert_eq!(wiring.routes[0].via, Some("192.0.2.12".parse().unwrap()));
        assert_eq!(wiring.routes[0].dev, Some(2));
        assert!(wiring.fdb.is_empty());
        assert_eq!(wiring.flows.unwrap().via, Via::Direct);

        let mut both = peer();
        both.transport_ips.push("2001:db8::12".parse().unwrap());
        let routes = wire(&underlay(EncapMode::NoEncap), &both).routes;
        assert_eq!(routes.len(), 2);
        assert_eq!((routes[1].via, routes[1].dev), (Some("2001:db8::12".parse().unwrap()), Some(2)));
        assert!(routes[1].onlink && !routes[0].onlink);
        both.transport_ips[0] = "198.51.100.12".parse().unwrap();
        assert!(wire(&underlay(EncapMode::NoEncap), &both).routes.is_empty(), "routers know the way there");
    }

    #[test]
    fn a_peer_of_the_other_family_is_left_alone() {
        let mut peer = peer();
        peer.transport_ips = vec!["2001:db8::12".parse().unwrap()];
        assert_eq!(wire(&underlay(EncapMode::Encap), &peer), Wiring::default());
    }
}
