//! Egress policy for what kube-proxy translates to something that the bridge does not see again: a host-network pod, the
//! API server, an address outside, a pod of a node that is reached without a tunnel.
//!
//! The bridge hands a pod's packet to a Service address to the host and judges it when it comes back with the
//! endpoint's address. What does not come back is judged here, by a table of nftables of our own:
//!
//! ```text
//!  forward ─┐
//!  input  ──┼─► JUDGE ─► PODS, a map by source ─► F-… native ─► K-… Kubernetes' ─► B-… baseline ─► accept
//!  output ──┘     └ known: accept     └ not in it: drop  └ Pass ──────┘     └ isolated: drop
//! ```
//!
//! - In forward stands what kube-proxy translates by iptables or nftables.
//! - In input what a pod sends to its own node, after everything that translates there; in its ipvs mode kube-proxy does
//!   so in this hook at 99. Only what has the node's own address as it was sent is left to the bridge.
//! - In output what ipvs has translated to an endpoint elsewhere.
//!
//! In input stands also what guards the tunnel against what ipvs translates ([`translated_to_the_tunnel`]).
//!
//! Pods of the same rules share their chains; the map finds them, whatever their number. One that is not in the map, for
//! it is new and policy has not said anything of it yet, may do nothing here. The table changes at once or not at all: what
//! cannot be installed leaves the one before. Without nftables iptables refuses everything to pods to which policy forbids
//! anything ([`refuse`]).
//!
//! Names say what is in a chain or set. A set of blocks has its name from its content and never changes; one of an
//! AddressGroup changes with the group.

mod chains;
pub mod refuse;

use std::collections::BTreeSet;
use std::net::IpAddr;

use antrea_enforce::egress::HostEgress;
use ipnet::IpNet;
use netcfg::Family;
use netcfg::nft::{Chain, Hook, Match, Rule, Table, Verdict};

use self::chains::PodChains;
use crate::host::network::HostConfig;
use crate::host::tunnel_guard::Outer;
use crate::subnet::gateway_of;

/// Name of the table in nftables, in both families.
pub const TABLE: &str = "ANTREA-EGRESS";

const JUDGE: &str = "JUDGE";
/// Map from pods of this node to where their rules begin.
const PODS: &str = "PODS";

/// Before others decide: what they accept is not asked for again.
const EARLY: i32 = -150;
/// After ipvs (99), and after source translation in input (100).
const LATE: i32 = 110;

/// kube-proxy's range of NodePorts, unless it was told another one.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const IGMP: u8 = 2;
/// ICMPv6 types of neighbour discovery (RFC 4861 §4): of the link, and nobody's connection.
const NEIGHBOUR_DISCOVERY: (u8, u8) = (133, 137);

fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// Pods of this node, and what egress policy says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Addresses of all pods.
    pub pods: BTreeSet<IpAddr>,
    pub policy: HostEgress,
}

/// The table of one family, and pods for whose rules it has no room: they may do nothing that it judges. None where the
/// node has neither pods nor a tunnel of the family.
pub fn table(config: &HostConfig, family: Family) -> Option<(Table, BTreeSet<IpAddr>)> {
    let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
        nets.iter().copied().filter(|net| Family::from(*net) == family).collect()
    };
    let subnets = of_family(&config.subnets);
    let tunnel = translated_to_the_tunnel(config, family);
    if subnets.is_empty() && tunnel.is_none() {
        return None;
    }
    let PodChains { mut table, left_out } = chains::of_pods(&config.egress, family, TABLE, PODS);
    let gateway = || Match::InIface(config.gateway.clone());
    let leaving = || Match::NotOutIface(config.gateway.clone());
    let judge = || Rule::new(Verdict::Goto(JUDGE.to_owned()));
    let (mut forward, mut input, mut output) = (Vec::new(), Vec::new(), Vec::new());
    input.extend(tunnel);
    if family == Family::V6 {
        let (first, last) = NEIGHBOUR_DISCOVERY;
        input.push(Rule::new(Verdict::Accept).when(Match::IcmpType(first, last)));
    }
    let services = of_family(&config.service_cidrs);
    let own = config.own.iter().copied().chain(config.subnets.iter().map(gateway_of));
    let own: BTreeSet<IpAddr> = own.filter(|ip| Family::from(*ip) == family).collect();
    for subnet in subnets {
        // Nobody but a load balancer gives a packet of this node's pods back to the host by another link: what goes to
        // other nodes' pods by their own address was judged by the bridge and is not translated.
        let forwarded = || judge().when(gateway()).when(leaving()).when(Match::Src(subnet));
        forward.push(forwarded().when(Match::Translated));
        // What nobody translates (ICMP, ports that the Service has not) leaves with the Service's address.
        forward.extend(services.iter().map(|services| forwarded().when(Match::Dst(*services))));
        let received = |verdict| Rule::new(verdict).when(gateway()).when(Match::Src(subnet));
        input.push(received(judge().verdict).when(Match::Translated));
        for address in &own {
            let as_sent = || received(Verdict::Accept).when(Match::AsSent(*address));
            for transport in [TCP, UDP, SCTP] {
                // A NodePort is the node's own address, and ipvs may have changed the port alone.
                let (first, last) = NODE_PORTS;
                input.push(as_sent().when(Match::Protocol(transport)).when(Match::NotSentTo(first, last)));
            }
            input.push(as_sent().when(Match::Protocol(icmp(family))));
        }
        input.push(received(judge().verdict));
        let not_own = Match::NotSrc(gateway_of(&subnet));
        output.push(judge().when(leaving()).when(Match::Src(subnet)).when(not_own));
    }
    for (name, priority, rules) in
        [("forward", EARLY, forward), ("input", LATE, input), ("output", EARLY, output)]
    {
        let chain = Chain { hook: Some(Hook { name, priority }), rules };
        table.chains.insert(name.to_uppercase(), chain);
    }
    // A SYN begins a connection, also one with the addresses and ports of an earlier one that policy had allowed.
    let known = || Rule::new(Verdict::Accept).when(Match::Known);
    let rules = vec![
        known().when(Match::TcpGoesOn),
        known().when(Match::NotProtocol(TCP)),
        Rule::new(Verdict::OfSource(PODS.to_owned())),
        Rule::new(Verdict::Drop),
    ];
    table.chains.insert(JUDGE.to_owned(), Chain { hook: None, rules });
    Some((table, left_out))
}

/// Refuses what ipvs has translated to the node's end of the tunnel, after [`super::tunnel_guard`] has seen it with another
/// destination. Packets of the tunnel itself are not tracked (`raw`), and what was sent to something else is.
fn translated_to_the_tunnel(config: &HostConfig, family: Family) -> Option<Rule> {
    let Some(Outer::Udp(port)) = config.tunnel else { return None };
    let ports = Match::Ports { protocol: "udp", which: "dport", ranges: vec![(port, port)] };
    let rule = Rule::new(Verdict::Drop).when(Match::Protocol(UDP)).when(ports).when(Match::Tracked);
    (Family::from(config.transport) == family).then_some(rule)
}

#[cfg(test)]
mod tests;
