//! Services for everybody, where there is no kube-proxy: what the host sends in, of its own processes and from outside.
//!
//! ```text
//!  gateway ─► PreRoutingClassifier … EndpointDNAT ─► SNAT ┬ pod here ──────────────────────────────────► ConntrackZone
//!                                                         ├ pod behind the tunnel ─ from the node ─────► ConntrackZone
//!                                                         │                       └ else ct(nat gateway)─► ConntrackZone
//!                                                         └ anything else ─ ct(nat virtual address) ─► Output, back
//!  answers:  ConntrackCommit ─ ct(nat) of a source that was given ─► Output ─ ct(nat) of the Service ─► Output
//! ```
//!
//! The host routes what is for a Service into the bridge: its own connections have the gateway's address, others that of
//! their client. A node port it gives an address that stands for all of its own ([`NODE_PORT_V4`]).
//!
//! A pod of this node sees the true client, whatever the traffic policy, for its answers come this way anyhow. A pod
//! behind the tunnel would answer to the client by its own node, so it sees the gateway. None of this is exempt from
//! ingress policy: what is exempt is told by the host's mark or a MAC address ([`super::security`]), not by an address.
//! What is no pod, or a pod that the host routes to, goes back to the host under an address that is not the host's own,
//! or it would not take it; the host masquerades what leaves it from there.
//!
//! What pods of this node sent is not translated when it comes from the host: policy has judged it as something else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use openflow::{Action, ControllerAction, Ct, CtState, Flow, Match, Nat, PacketIn2};

use super::{
    priority::{HIGH, LOW, NORMAL},
    proxy::{
        Transport, family_of, first_packet, from_to_services, translate, translates, virtual_ip, ways_to,
    },
    reject::{HEADERS, source_of},
};
use crate::{
    config::{Network, VIRTUAL_MAC},
    cookie::Category,
    field::{Source, ct_masqueraded, ct_service, from_outside, hairpin, has_endpoint, masqueraded, source},
    state::Entry,
    table::Table,
};

/// What the host translates its own addresses to where somebody means a node port; upstream's address.
pub const NODE_PORT_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 252);
/// The same for IPv6.
pub const NODE_PORT_V6: Ipv6Addr = Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeefe);

/// First octet of the user data of packets to Services without endpoints; upstream's number.
pub const SERVICE_PACKET_IN: u8 = 4;
/// Their meter.
pub(super) const SERVICE_METER: u32 = 260;

/// Above all that looks at the destination alone.
const FROM_OWN_PODS: u16 = HIGH + 10;
/// Above the answers of connections that have their own source.
const GIVEN_BACK: u16 = HIGH + 5;
/// In ServiceState, above what goes on to ServiceLB: who is let in, and who is not.
const LET_IN: u16 = LOW + 4;
const KEPT_OUT: u16 = LOW + 2;

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All clients.
    Everybody,
    /// Those that come in by the node, but not the node itself.
    Outside,
}

impl Audience {
    /// Priority and match of the first packets of these clients.
    pub(super) fn narrow(self, first: Match) -> (u16, Match) {
        match self {
            Audience::Everybody => (NORMAL, first),
            Audience::Outside => (HIGH, first.bits(from_outside(), 1)),
        }
    }
}

/// A frontend that has no endpoint for some clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// Protocol of the frontend.
    pub transport: Transport,
    /// What clients connect to.
    pub frontend: SocketAddr,
    /// Who has no endpoint.
    pub audience: Audience,
    /// Clients are told; else they hear nothing, for there are endpoints elsewhere.
    pub is_refused: bool,
}

/// A frontend that takes only some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Protocol of the frontend.
    pub transport: Transport,
    /// What clients connect to.
    pub frontend: SocketAddr,
    /// Who may; others are dropped.
    pub sources: Vec<IpNet>,
}

/// Whether it is the address that stands for node ports.
pub(super) fn is_node_port(ip: IpAddr) -> bool {
    ip == IpAddr::V4(NODE_PORT_V4) || ip == IpAddr::V6(NODE_PORT_V6)
}

fn request(state: CtState) -> CtState {
    state.unset(CtState::RPL).set(CtState::TRK)
}

/// Flows of the node for what the host sends to Services; none where kube-proxy serves it.
pub fn node_access(net: &Network) -> Vec<Flow> {
    if !net.node.serves_all {
        return Vec::new();
    }
    let flow = |table, priority, matches| net.flow(Category::Service, table, priority, matches);
    let mut flows: Vec<Flow> =
        net.node.service_cidrs.iter().map(|cidr| from_to_services(net, Source::Gateway, *cidr)).collect();
    for cidr in &net.node.pod_cidrs {
        let own = Match::new().nw_src(*cidr).bits(source(), Source::Gateway as u128).bits(from_outside(), 1);
        flows.push(
            flow(Table::PreRoutingClassifier, FROM_OWN_PODS, own).action(net.goto(Table::ConntrackZone)),
        );
        let here = Match::new().nw_dst(*cidr).bits(source(), Source::Gateway as u128).bits(has_endpoint(), 1);
        flows.push(flow(Table::SNAT, HIGH, here).action(net.goto(Table::ConntrackZone)));
    }
    for family in net.pipeline.families() {
        let from_host = || family.packets().bits(source(), Source::Gateway as u128);
        let back = |priority, matches: Match, ct: Ct| {
            flow(Table::SNAT, priority, matches)
                .action(Action::set_eth_src(VIRTUAL_MAC))
                .action(Action::set_eth_dst(net.node.gateway.mac))
                .action(hairpin().load(1))
                .action(ct)
        };
        let given = translate(net, family.hairpin_zone(), Table::Output);
        let given_new = Ct { commit: true, nat: Some(Nat::src(virtual_ip(family))), ..given.clone() };
        let chosen = |state| from_host().bits(has_endpoint(), 1).ct_state(request(state));
        flows.push(back(LOW, chosen(CtState::new().set(CtState::NEW)), given_new));
        flows.push(back(LOW, chosen(CtState::new().unset(CtState::NEW)), given));
        // The host's answer to what was brought back.
        let answer = from_host().nw_dst(virtual_ip(family));
        let known = translate(net, family.hairpin_zone(), Table::SNAT);
        flows.push(flow(Table::PreRoutingClassifier, HIGH, answer).action(known));
        let state = CtState::new().set(CtState::RPL | CtState::TRK);
        let answered = from_host().bits(has_endpoint(), 0).ct_state(state);
        flows.push(back(HIGH, answered, translate(net, family.service_zone(), Table::Output)));
        // The answer of a pod behind the tunnel, in two steps, the other way round than the question.
        let state = CtState::new().unset(CtState::NEW).set(CtState::RPL | CtState::TRK);
        let answer = family.packets().ct_state(state).bits(ct_service(), 1).bits(ct_masqueraded(), 1);
        flows.push(
            flow(Table::ConntrackCommit, GIVEN_BACK, answer).action(masqueraded().load(1)).action(translate(
                net,
                family.hairpin_zone(),
                Table::Output,
            )),
        );
        let given_back = family.packets().bits(source(), Source::Tunnel as u128).bits(masqueraded(), 1);
        flows.push(
            flow(Table::Output, GIVEN_BACK, given_back).action(masqueraded().load(0)).action(translate(
                net,
                family.service_zone(),
                Table::Output,
            )),
        );
    }
    flows
}

/// Flows that let what the host sends to Services reach endpoints of a peer through the tunnel.
pub(super) fn to_peer(net: &Network, cidr: IpNet) -> Vec<Flow> {
    let family = family_of(cidr.addr());
    if !net.node.serves_all || !net.pipeline.has(family) {
        return Vec::new();
    }
    let chosen = || Match::new().nw_dst(cidr).bits(source(), Source::Gateway as u128).bits(has_endpoint(), 1);
    let flow = |priority, matches| net.flow(Category::Service, Table::SNAT, priority, matches);
    let gateway = net.node.gateway.ips.iter().find(|ip| family_of(**ip) == family);
    let Some(gateway) = gateway else { return Vec::new() };
    let known = translate(net, family.hairpin_zone(), Table::ConntrackZone);
    let new = Ct { commit: true, nat: Some(Nat::src(*gateway)), ..known.clone() };
    let masquerade = |state, ct| {
        let matches = chosen().bits(from_outside(), 1).ct_state(request(state));
        flow(NORMAL, matches).action(masqueraded().load(1)).action(ct)
    };
    vec![
        flow(HIGH, chosen().bits(from_outside(), 0)).action(net.goto(Table::ConntrackZone)),
        masquerade(CtState::new().set(CtState::NEW), new),
        masquerade(CtState::new().unset(CtState::NEW), known),
    ]
}

/// Entries of a frontend without an endpoint.
pub fn unserved(net: &Network, unserved: &Unserved) -> Vec<Entry> {
    let Unserved { transport, frontend, audience, is_refused } = *unserved;
    if !net.node.serves_all || !translates(net, transport) || !net.pipeline.has(family_of(frontend.ip())) {
        return Vec::new();
    }
    let up = ControllerAction {
        max_len: HEADERS,
        userdata: vec![SERVICE_PACKET_IN],
        meter_id: net.node.metered.then_some(SERVICE_METER),
        ..ControllerAction::default()
    };
    let (priority, matches) = audience.narrow(first_packet(transport, frontend));
    let flow = net.flow(Category::Service, Table::ServiceLB, priority, matches);
    let refused = flow.actions(is_refused.then(|| up.into()));
    ways_to(net, frontend.ip()).into_iter().chain([refused]).map(Entry::from).collect()
}

/// Entries of a frontend that takes only some clients.
pub fn guard(net: &Network, guard: &Guard) -> Vec<Entry> {
    let Guard { transport, frontend, sources } = guard;
    let family = family_of(frontend.ip());
    if !net.node.serves_all || !translates(net, *transport) || !net.pipeline.has(family) {
        return Vec::new();
    }
    let first = || first_packet(*transport, *frontend);
    let flow = |priority, matches| net.flow(Category::Service, Table::ServiceState, priority, matches);
    let of_family = sources.iter().filter(|net| family_of(net.addr()) == family);
    let let_in = of_family.map(|net_| flow(LET_IN, first().nw_src(*net_)).action(net.goto(Table::ServiceLB)));
    let_in.chain([flow(KEPT_OUT, first())]).map(Entry::from).collect()
}

/// Where a packet to a Service without endpoints came in; `None` if the packet-in is none of these.
pub fn unserved_source(packet: &PacketIn2) -> Option<Source> {
    (*packet.userdata == [SERVICE_PACKET_IN]).then(|| source_of(packet)).flatten()
}
