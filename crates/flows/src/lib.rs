//! The OVS pipeline of a node as data: facts in, flows out. Nothing here opens a socket.
//!
//! ```text
//!  NodeConfig ─┐
//!  PodInterface├─► feature functions ─► Vec<Flow> ─► BridgeStore ─► Diff ─► Steps: OpenFlow messages
//!  Peer ───────┘                                         ▲
//!  policy::Rule ──► policy::Realizer ─► Diff ────────────┘
//!
//!  PipelineRootClassifier
//!   ├ arp ─► ARPSpoofGuard ─► ARPResponder
//!   └ ip ──► Classifier ─► SpoofGuard ─► [IPv6] ─► [PreRoutingClassifier … SNAT: Services] ─► ConntrackZone ─ct─► ConntrackState ─► DNAT
//!            ─► AntreaPolicyEgressRule ─► EgressRule ─► EgressDefaultRule ─► EgressMetric
//!            ─► L3Forwarding ─► L3DecTTL ─► L2ForwardingCalc ─► IngressSecurityClassifier
//!            ─► AntreaPolicyIngressRule ─► IngressRule ─► IngressDefaultRule ─► IngressMetric
//!            ─► ConntrackCommit ─► Output
//! ```
//!
//! # Invariants
//! - A packet goes on only if a flow says so: tables that validate, route, switch or send drop on a miss.
//! - A pod sends only with its own MAC, IP, ARP and neighbour discovery addresses, untagged.
//! - Where a packet goes follows from its IP destination alone. The MAC destination that a pod wrote is
//!   looked at only to see whether it meant its gateway, so ingress policy, which goes by output port,
//!   always sees the port that the packet leaves by.
//! - A connection is committed after all policy, never between egress and ingress.
//! - Every flow carries the cookie of the current round.

pub mod config;
mod cookie;
mod feature;
pub mod field;
pub mod policy;
pub mod state;
mod table;

pub use config::{
    Datapath, EncapMode, Gateway, HOST_PROCESS_MAC, Network, NodeConfig, Peer, PodInterface, Tunnel,
    TunnelKind, VIRTUAL_MAC, Via, tunnel_mac,
};
pub use cookie::{Category, Round, cookie, object_of, round_of};
pub use feature::{
    AFFINITY_COOKIE, Audience, DNS_PACKET_IN, Ended, Family, Guard, Judged, NODE_PORT_V4, NODE_PORT_V6,
    POLICY_PACKET_IN, REFUSED_FOR, SELF_TEST_ETHERTYPE, SERVICE_PACKET_IN, ServiceBackend, TRACE_PACKET_IN,
    Trace, Traced, Transport, Unserved, VIRTUAL_V4, VIRTUAL_V6, base, conntrack, deliver_dns, dns,
    dns_receiver, ended, gateway, guard, judged, meters, node_access, peer, pod, probe_service, proxy,
    refusal, refusals, security, service_backend, service_cidrs, trace, traced, tunnel, unserved,
    unserved_source,
};
pub use state::{BridgeStore, Change, Conflict, Diff, Entry, Key, Owner};
pub use table::{Features, Miss, Pipeline, Protocol, Stage, Table};

/// The flows of the node itself, that is everything but pods, peers and policy. Those of policy name its [`meters`].
pub fn node(net: &Network) -> Vec<openflow::Flow> {
    let parts = [base, conntrack, gateway, tunnel, proxy, node_access, service_cidrs, security, refusals];
    parts.into_iter().flat_map(|part| part(net)).collect()
}
