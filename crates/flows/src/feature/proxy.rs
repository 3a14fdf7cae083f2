//! Services that the bridge serves itself: a pod's packet to a frontend gets an endpoint's address before policy and
//! routing see it, and the answer gets the frontend's again when all is decided.
//!
//! ```text
//!  PreRoutingClassifier ─ct(nat)─► ServiceState ─ known ──────────────────────────────► SNAT ─► ConntrackZone
//!                                       └ new ► ServiceLB ─► [EndpointDNAT] ─► group ─ct(commit,nat)─►┘
//!                                                   ▲ └ resubmit: SessionAffinity
//!                                                   └ no frontend, or not a first packet: as it is, to the host
//! ```
//!
//! Translation has a zone of its own. What follows sees a connection between pod and endpoint and knows nothing of
//! the Service, but for one bit of its mark, by which ConntrackCommit sends answers back through this zone. So a
//! connection is committed to the pipeline's zone only after all policy, as every other, although its translation is
//! committed before; a refused one is judged again with each packet.
//!
//! First packets are told by their flags, not only by the tracker, which takes any packet of an unknown TCP connection
//! for a first one: a connection that the host translates goes on there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use openflow::{
    Action, Bucket, Ct, CtState, CtZone, Field, Flow, Group, GroupType, Learn, Match, Nat, PortNo,
    SelectionMethod,
};

use super::{
    Family, SYN, established,
    node_access::{Audience, is_node_port},
    priority::{HIGH, LOW, NORMAL},
};
use crate::{
    config::{Datapath, Network, PodInterface},
    cookie::{Category, Round, cookie},
    field::{
        Source, affinity_port, affinity_v4, affinity_v6, ct_service, from_outside, hairpin, has_endpoint,
        named_service, service_group, source,
    },
    policy::at_node,
    state::Entry,
    table::Table,
};

/// Endpoints of one group. Open vSwitch spreads a group by at most 256 values of the datapath's hash; and a message has
/// 64 KiB, a bucket up to 90 bytes.
const GROUP_SIZE: usize = 250;

/// In ServicePolicyRule, below all rules.
const NO_RULE: u16 = 10;

/// Weight of a bucket: all are alike.
const WEIGHT: u16 = 100;

/// What a pod sees as its peer when a Service brings it back to itself, and the node's processes of whom the bridge brings
/// to them. Upstream's address.
pub const VIRTUAL_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 253);
/// The same for IPv6.
pub const VIRTUAL_V6: Ipv6Addr = Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeeff);

/// Where datapath probes reach their own Service: beside the addresses above, and nobody else's.
const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 249);
/// The same for IPv6.
const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeef9);

/// Groups of that Service, one for each family: the last two that OpenFlow has room for. Services get theirs from the
/// first on.
const PROBE_GROUPS: [u32; 2] = [0xffff_fe00, 0xffff_fd00];

/// Cookie of the flows that hold a client's endpoint. Without a round: they outlive the agent.
pub const AFFINITY_COOKIE: u64 = cookie(Round(0), Category::Service, 0);

/// IP protocol of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    /// Its number in IP headers.
    fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }
}

/// Where connections to some addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceBackend {
    /// Group id; the last eight bits are zero.
    pub group: u32,
    /// Protocol of the frontends.
    pub transport: Transport,
    /// Addresses of one family that clients connect to.
    pub frontends: Vec<SocketAddr>,
    /// Of these only for who comes from outside of the node, before others that have the same frontends.
    pub outside: Vec<SocketAddr>,
    /// Endpoints of that family; without any, nothing is served.
    pub endpoints: Vec<SocketAddr>,
    /// For how many seconds after its last connection a client keeps its endpoint. More than 65535, which a flow
    /// cannot have, is 65535.
    pub affinity: Option<u32>,
}

pub(super) fn virtual_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => VIRTUAL_V4.into(),
        Family::V6 => VIRTUAL_V6.into(),
    }
}

pub(super) fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// A look-up that applies the translation that the connection has.
pub(super) fn translate(net: &Network, zone: u16, next: Table) -> Ct {
    Ct {
        zone: CtZone::Immediate(zone),
        table: net.pipeline.number(next),
        nat: Some(Nat::restore()),
        ..Ct::default()
    }
}

/// Sends what may be for a Service through the zone of translations.
pub(crate) fn to_services(net: &Network, destination: impl Into<ipnet::IpNet>) -> Flow {
    from_to_services(net, Source::Pod, destination)
}

/// The same of what comes in there.
pub(super) fn from_to_services(net: &Network, from: Source, destination: impl Into<ipnet::IpNet>) -> Flow {
    let destination = destination.into();
    let zone = family_of(destination.addr()).service_zone();
    let from = Match::new().nw_dst(destination).bits(source(), from as u128);
    net.flow(Category::Service, Table::PreRoutingClassifier, NORMAL, from).action(translate(
        net,
        zone,
        Table::ServiceState,
    ))
}

/// Flows of the node for Services; none where the bridge serves none.
pub fn proxy(net: &Network) -> Vec<Flow> {
    if !net.pipeline.features().services {
        return Vec::new();
    }
    let flow = |table, priority, matches| net.flow(Category::Service, table, priority, matches);
    let mut flows = vec![
        flow(Table::Output, HIGH, Match::new().bits(hairpin(), 1)).action(Action::Output(PortNo::IN_PORT)),
    ];
    for family in net.pipeline.families() {
        let packets = || family.packets();
        let unanswered = packets().nw_dst(virtual_ip(family));
        let from_pod = unanswered.clone().bits(source(), Source::Pod as u128);
        flows.push(flow(Table::PreRoutingClassifier, HIGH, from_pod).action(translate(
            net,
            family.hairpin_zone(),
            Table::SNAT,
        )));
        // An answer to nobody's question.
        flows.push(flow(Table::SNAT, NORMAL, unanswered));
        flows.push(flow(Table::PreRoutingClassifier, LOW, packets()).action(net.goto(Table::ConntrackZone)));
        let known = established();
        flows.push(
            flow(Table::ServiceState, NORMAL, packets().ct_state(known.unset(CtState::INV)))
                .action(has_endpoint().load(1))
                .action(net.goto(Table::SNAT)),
        );
        // A first packet that is sent again.
        let again = CtState::new().set(CtState::NEW | CtState::TRK | CtState::DNAT);
        flows.push(
            flow(Table::ServiceState, NORMAL, packets().ct_state(again))
                .action(has_endpoint().load(1))
                .action(net.goto(Table::SNAT)),
        );
        flows.push(flow(Table::ServiceState, LOW, packets()).action(net.goto(Table::ServiceLB)));
        let answer = packets()
            .ct_state(CtState::new().unset(CtState::NEW).set(CtState::RPL | CtState::TRK))
            .bits(ct_service(), 1);
        flows.push(flow(Table::ConntrackCommit, HIGH, answer).action(translate(
            net,
            family.service_zone(),
            Table::Output,
        )));
    }
    flows.extend(net.node.service_cidrs.iter().map(|cidr| to_services(net, *cidr)));
    if has_gate(net) {
        // Whom no rule keeps out.
        let on = Action::resubmit_table(net.pipeline.id(Table::ServiceState));
        let of =
            |family: Family| flow(Table::ServicePolicyRule, NO_RULE, family.packets()).action(on.clone());
        flows.extend(net.pipeline.families().map(of));
    }
    flows
}

/// Whether rules may apply to Services.
fn has_gate(net: &Network) -> bool {
    net.node.serves_all && net.pipeline.number(Table::ServicePolicyRule).is_some()
}

/// Has policy decide on what somebody outside begins with a frontend of the node's addresses, also where the tracker knows
/// its translation from a packet before.
fn gate(net: &Network, group: u32, transport: Transport, frontend: SocketAddr) -> Vec<Flow> {
    let family = family_of(frontend.ip());
    let asked = |state: CtState| {
        let (field, bits) = match frontend.ip() {
            IpAddr::V4(ip) => (Field::CtNwDst, ip.to_bits().into()),
            IpAddr::V6(ip) => (Field::CtIpv6Dst, ip.to_bits()),
        };
        family
            .packets()
            .ct_state(state.set(CtState::TRK))
            .exact(field, bits)
            .exact(Field::CtNwProto, transport.number().into())
            .exact(Field::CtTpDst, frontend.port().into())
            .bits(from_outside(), 1)
            .bits(named_service(), 0)
    };
    let mut all = vec![asked(CtState::new().set(CtState::NEW))];
    if transport == Transport::Tcp {
        // One that takes over ports of an earlier connection.
        let again = asked(CtState::new().unset(CtState::NEW | CtState::INV));
        all.push(again.nw_proto(transport.number()).tcp_flags(SYN.0, SYN.1));
    }
    let flow = |matches| {
        net.flow(Category::Service, Table::ServiceState, HIGH, matches)
            .action(named_service().load(at_node(group).into()))
            .action(net.goto(Table::ServicePolicyRule))
    };
    all.into_iter().map(flow).collect()
}

/// Flows that bring a pod's own packet back to it, under another sender's address: a pod does not take what comes from
/// itself. Policy has no say, for a pod can't be isolated from itself.
pub(super) fn to_itself(net: &Network, pod: &PodInterface, ip: IpAddr) -> Vec<Flow> {
    if !net.pipeline.features().services {
        return Vec::new();
    }
    let family = family_of(ip);
    let request = |state: CtState| state.unset(CtState::RPL).set(CtState::TRK);
    let back = |state: CtState, zone: u16, commit: bool| {
        let own = Match::new().in_port(pod.ofport).nw_src(ip).nw_dst(ip).ct_state(state);
        let nat = if commit { Nat::src(virtual_ip(family)) } else { Nat::restore() };
        net.flow(Category::Service, Table::SNAT, HIGH, own)
            .action(Action::set_eth_src(net.node.gateway.mac))
            .action(Action::set_eth_dst(pod.mac))
            .action(hairpin().load(1))
            .action(Ct { commit, nat: Some(nat), ..translate(net, zone, Table::Output) })
    };
    vec![
        back(request(CtState::new().set(CtState::NEW)), family.hairpin_zone(), true),
        back(request(CtState::new().unset(CtState::NEW)), family.hairpin_zone(), false),
        back(CtState::new().set(CtState::RPL | CtState::TRK), family.service_zone(), false),
    ]
}

/// Groups and flows of a backend.
pub fn service_backend(net: &Network, backend: &ServiceBackend) -> Vec<Entry> {
    let mut entries = Vec::new();
    let has = |frontend: &&SocketAddr| net.pipeline.has(family_of(frontend.ip()));
    let everybody = backend.frontends.iter().filter(has).map(|frontend| (*frontend, Audience::Everybody));
    let outside = backend.outside.iter().filter(has).map(|frontend| (*frontend, Audience::Outside));
    let frontends: Vec<(SocketAddr, Audience)> = everybody.chain(outside).collect();
    if !translates(net, backend.transport) || backend.endpoints.is_empty() || frontends.is_empty() {
        return entries;
    }
    let divided = backend.endpoints.len() > GROUP_SIZE;
    let flow = |table, priority, matches: Match| {
        let flow = net.flow(Category::Service, table, priority, matches);
        let object = net.cookie(Category::Service, backend.group);
        flow.cookie(object)
    };
    for (frontend, audience) in frontends {
        entries.extend(ways_to(net, frontend.ip()).into_iter().map(Entry::from));
        let (priority, matches) = audience.narrow(first_packet(backend.transport, frontend));
        let first = flow(Table::ServiceLB, priority, matches).action(has_endpoint().load(1));
        entries.push(
            match backend.affinity {
                None => first.action(Action::Group(backend.group)),
                Some(_) => first
                    .action(service_group().load(backend.group.into()))
                    .action(Action::resubmit_table(net.pipeline.id(Table::SessionAffinity)))
                    .action(net.goto(Table::EndpointDNAT)),
            }
            .into(),
        );
    }
    if has_gate(net) {
        let by_node =
            backend.frontends.iter().filter(|frontend| has(frontend) && is_node_port(frontend.ip()));
        let gates = by_node.flat_map(|frontend| gate(net, backend.group, backend.transport, *frontend));
        entries.extend(gates.map(Entry::from));
    }
    let through = |group: u32| {
        let chosen = Match::new().bits(service_group(), group.into());
        flow(Table::EndpointDNAT, LOW, chosen).action(Action::Group(group))
    };
    if let Some(seconds) = backend.affinity {
        entries.push(through(backend.group).into());
        for endpoint in &backend.endpoints {
            let family = family_of(endpoint.ip());
            let kept = address(family.packets().bits(service_group(), backend.group.into()), endpoint.ip())
                .bits(affinity_port(), endpoint.port().into());
            let learn = keep(net, backend.group, *endpoint, seconds);
            entries.push(
                flow(Table::EndpointDNAT, NORMAL, kept).action(learn).action(dnat(net, *endpoint)).into(),
            );
        }
    }
    if !divided {
        entries.push(group(net, backend, backend.group, &backend.endpoints).into());
        return entries;
    }
    // The part is chosen by another hash than the endpoint in it, or some endpoints would never be.
    let parts = backend.endpoints.len().div_ceil(GROUP_SIZE);
    let mut buckets = Vec::with_capacity(parts);
    for (number, part) in (1u32..).zip(backend.endpoints.chunks(backend.endpoints.len().div_ceil(parts))) {
        let id = backend.group | number;
        entries.push(group(net, backend, id, part).into());
        entries.push(through(id).into());
        buckets.push(
            Bucket::new(number, part.len() as u16)
                .action(service_group().load(id.into()))
                .action(Action::resubmit_table(net.pipeline.id(Table::EndpointDNAT))),
        );
    }
    let selection = backend.endpoints.first().map(|endpoint| by_client(endpoint.ip()));
    entries.push(Group { id: backend.group, kind: GroupType::Select, selection, buckets }.into());
    entries
}

/// Whether the bridge translates this protocol. The userspace datapath does not translate SCTP.
pub(super) fn translates(net: &Network, transport: Transport) -> bool {
    let untranslated = transport == Transport::Sctp && net.node.datapath == Datapath::Userspace;
    net.pipeline.features().services && !untranslated
}

/// What brings packets for a frontend to the zone of translations, beyond those for the cluster's ranges.
pub(super) fn ways_to(net: &Network, ip: IpAddr) -> Vec<Flow> {
    if net.node.service_cidrs.iter().any(|cidr| cidr.contains(&ip)) {
        return Vec::new();
    }
    // Where the host translates node ports to, pods have nothing to look for.
    let pods = (!is_node_port(ip)).then_some(Source::Pod);
    let host = net.node.serves_all.then_some(Source::Gateway);
    pods.into_iter().chain(host).map(|from| from_to_services(net, from, ip)).collect()
}

/// The Service of datapath probes: what serves TCP to `port` of its address by the same port of these endpoints, and the
/// address for each endpoint. None where the bridge serves no Services.
pub fn probe_service(net: &Network, endpoints: &[IpAddr], port: u16) -> Option<(Vec<Entry>, Vec<IpAddr>)> {
    net.pipeline.features().services.then(|| {
        let frontend = |ip: &IpAddr| if ip.is_ipv4() { PROBE_V4.into() } else { PROBE_V6.into() };
        let backends = endpoints.iter().zip(PROBE_GROUPS).map(|(ip, group)| ServiceBackend {
            group,
            transport: Transport::Tcp,
            frontends: vec![SocketAddr::new(frontend(ip), port)],
            outside: Vec::new(),
            endpoints: vec![SocketAddr::new(*ip, port)],
            affinity: None,
        });
        let entries = backends.flat_map(|backend| service_backend(net, &backend)).collect();
        (entries, endpoints.iter().map(frontend).collect())
    })
}

pub(super) fn first_packet(transport: Transport, frontend: SocketAddr) -> Match {
    let number = transport.number();
    // By the connection's protocol and port: a fragment has none in Open vSwitch's eyes.
    let first = Match::new()
        .nw_dst(frontend.ip())
        .ct_state(CtState::new().set(CtState::NEW | CtState::TRK))
        .exact(Field::CtNwProto, number.into())
        .exact(Field::CtTpDst, frontend.port().into());
    if transport == Transport::Tcp { first.nw_proto(number).tcp_flags(SYN.0, SYN.1) } else { first }
}

/// Chooses by a hash of addresses, protocol and ports that the datapath makes. Without a word, Open vSwitch takes a
/// symmetric one, which in its userspace datapath leaves out the ports of datagrams, so that all of a client come to one
/// endpoint; and from 64 values on, none of the datapath's (`group_set_selection_method` of its ofproto-dpif.c).
fn by_packet() -> SelectionMethod {
    SelectionMethod { method: "dp_hash".to_owned(), param: 0, fields: Match::new() }
}

/// Chooses by address and port of the client, as the tracker knows them: a fragment has no port.
fn by_client(of_family: IpAddr) -> SelectionMethod {
    let source = if of_family.is_ipv4() { Field::Ipv4Src } else { Field::Ipv6Src };
    let fields = [source, Field::CtTpSrc]
        .into_iter()
        .fold(Match::new(), |fields, field| fields.exact(field, field.full_mask()));
    SelectionMethod { method: "hash".to_owned(), param: 0, fields }
}

fn address(matches: Match, ip: IpAddr) -> Match {
    match ip {
        IpAddr::V4(ip) => matches.bits(affinity_v4(), ip.to_bits().into()),
        IpAddr::V6(ip) => matches.bits(affinity_v6(), ip.to_bits()),
    }
}

/// Commits the choice of an endpoint and goes on with its address.
fn dnat(net: &Network, endpoint: SocketAddr) -> Ct {
    Ct {
        commit: true,
        nat: Some(Nat::dst(endpoint.ip(), Some(endpoint.port()))),
        ..translate(net, family_of(endpoint.ip()).service_zone(), Table::SNAT)
    }
}

fn group(net: &Network, backend: &ServiceBackend, id: u32, endpoints: &[SocketAddr]) -> Group {
    // Buckets take no `learn`: where a client keeps its endpoint, a flow translates.
    let bucket = |(number, endpoint): (u32, &SocketAddr)| match backend.affinity {
        None => Bucket::new(number, WEIGHT).action(dnat(net, *endpoint)),
        Some(_) => Bucket::new(number, WEIGHT)
            .action(load_address(endpoint.ip()))
            .action(affinity_port().load(endpoint.port().into()))
            .action(service_group().load(backend.group.into()))
            .action(Action::resubmit_table(net.pipeline.id(Table::EndpointDNAT))),
    };
    let buckets = (0..).zip(endpoints).map(bucket).collect();
    Group { id, kind: GroupType::Select, selection: Some(by_packet()), buckets }
}

fn load_address(ip: IpAddr) -> Action {
    match ip {
        IpAddr::V4(ip) => affinity_v4().load(ip.to_bits().into()),
        IpAddr::V6(ip) => affinity_v6().load(ip.to_bits()),
    }
}

/// Has the switch remember the endpoint for this client. Only first packets use what it learns, so its time begins anew
/// with each connection.
fn keep(net: &Network, group: u32, endpoint: SocketAddr, seconds: u32) -> Learn {
    let learn = Learn {
        cookie: AFFINITY_COOKIE,
        idle_timeout: u16::try_from(seconds).unwrap_or(u16::MAX),
        ..Learn::new(net.pipeline.id(Table::SessionAffinity), NORMAL)
    };
    let whole = openflow::SubField::whole;
    let learn = match endpoint.ip() {
        IpAddr::V4(ip) => learn
            .match_value(Field::EthType, 0x0800)
            .match_field(whole(Field::Ipv4Src), whole(Field::Ipv4Src))
            .load_value(affinity_v4(), ip.to_bits().into()),
        IpAddr::V6(ip) => learn
            .match_value(Field::EthType, 0x86dd)
            .match_field(whole(Field::Ipv6Src), whole(Field::Ipv6Src))
            .load_value(affinity_v6(), ip.to_bits()),
    };
    learn.match_value(Field::Reg7, group.into()).load_value(affinity_port(), endpoint.port().into())
}
