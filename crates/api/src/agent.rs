//! The agent's own API, as far as its clients have to know of it.

use std::net::{IpAddr, SocketAddr};

/// Audience of tokens that are good for the agent of `node` and for nobody else: an agent that is shown one can use it
/// neither with the API server nor with another agent.
pub fn audience(node: &str) -> String {
    format!("antrea-agent/{node}")
}

/// What passes the bridge of a node, as `/traffic` tells it: counters since Open vSwitch has the ports and flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// The node's pods.
    pub pods: Vec<PodTraffic>,
    /// What tables of the bridge drop.
    pub drops: Vec<TableDrops>,
    /// The datapath's flows that most went through, the busiest first.
    pub flows: Vec<FlowTraffic>,
}

/// Counters of a pod's port, as the pod sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTraffic {
    pub namespace: String,
    pub name: String,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// Packets that its link dropped, either way.
    pub dropped_packets: u64,
}

/// Flows that a [`Traffic`] has at most.
pub const BUSIEST: usize = 128;

/// Counters of a flow of the datapath since it has it: it forgets what nobody sends for ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowTraffic {
    /// Open vSwitch's name of it. Another flow between the same ends has another one.
    pub id: String,
    /// A pod as `namespace/name`, an address, a subnet or a port of the bridge.
    pub from: String,
    /// The same; empty where the flow does not look at it.
    pub to: String,
    /// TCP, UDP, SCTP, ICMP or a number; empty where the flow does not look at it.
    pub protocol: String,
    /// That it goes to, where the flow looks at it.
    pub port: Option<u16>,
    pub packets: u64,
    pub bytes: u64,
}

/// Counters of a table's flows that drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TableDrops {
    /// Name of the table.
    pub table: String,
    pub packets: u64,
    pub bytes: u64,
}

/// What a node's own network stack does with packets between two ends, as `/hostpath` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostPath {
    /// The ways to the addresses that were asked about.
    pub routes: Vec<HostRoute>,
    /// What is tracked of the source's connections to the other ends.
    pub connections: Vec<TrackedConnection>,
    /// There are more of these.
    pub more_connections: bool,
    /// Who gives the Service that was asked about its endpoints.
    pub service: Option<ServiceRules>,
    /// Why there may be others that are not among them.
    pub connections_unknown: Vec<String>,
    /// What else could not be looked at, with why.
    pub unknown: Vec<String>,
}

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRoute {
    pub to: IpAddr,
    /// None: there is no route, or one that drops.
    pub link: Option<HostLink>,
    /// The router on the way.
    pub via: Option<IpAddr>,
    /// The address that the node itself would send from.
    pub source: Option<IpAddr>,
    /// The address is the node's own.
    pub local: bool,
    /// What is known of the router, or without one of the address itself; none: nothing yet, or the link knows no neighbours.
    pub neighbour: Option<HostNeighbour>,
}

/// A link that packets leave by.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostLink {
    pub name: String,
    pub up: bool,
    /// Octets; of the route, where that has one of its own.
    pub mtu: u32,
    /// It leads into Antrea's bridge.
    pub is_gateway: bool,
}

/// Somebody on a link.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostNeighbour {
    pub ip: IpAddr,
    /// Empty until it has answered.
    pub mac: String,
    /// As `ip neigh` writes it; nobody answers where it is `INCOMPLETE` or `FAILED`.
    pub state: String,
}

/// As its first packet had it, before anything was translated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackedConnection {
    /// By the bridge, after policy has let it begin; else by the host.
    pub by_bridge: bool,
    /// Number of its protocol: 6 is TCP.
    pub protocol: u8,
    pub from: SocketAddr,
    /// Where its first packet was sent; ports are 0 where there are none.
    pub to: SocketAddr,
    /// Who answers, where the destination was translated.
    pub endpoint: Option<SocketAddr>,
    /// Whether there was an answer; none where that is not known.
    pub answered: Option<bool>,
}

/// What kube-proxy's rules on a node do with a Service's address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceRules {
    /// `iptables`, `nftables` or `ipvs`; empty where none has rules of kube-proxy's.
    pub by: String,
    /// It has something for this address and port.
    pub found: bool,
    /// It is refused or dropped, for want of endpoints.
    pub refused: bool,
    /// Who may get it.
    pub endpoints: Vec<SocketAddr>,
    /// There are more of them.
    pub more_endpoints: bool,
}
