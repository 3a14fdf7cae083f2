//! What policy sends up: packets whose decision is to be told, and those that a rule refuses and whose sender the agent
//! tells.
//!
//! ```text
//!  EgressMetric, IngressMetric ─controller(meter 256)─► agent ─ reset or ICMP error ─► packet-out
//!  packet-out ─ to a pod, to the tunnel ─► L3Forwarding ─► … ─► IngressSecurityClassifier ─► ConntrackCommit ─► Output
//!             └ to the host ─────────────► L2ForwardingCalc ─────┘                            └ct(nat): as the Service
//! ```
//!
//! The answer goes back the way that the packet came: to the host what came from there, which knows what it has
//! translated; else by its destination, which is a pod here or behind the tunnel. It enters behind the spoof guard and the
//! tracker and passes by ingress policy, known by a bit that only the agent can set. Where the bridge has given a pod's
//! packet an endpoint's address, the answer gets the Service's as all answers do: of the two zones it is the one in which
//! the refused connection is known. An answer that crosses the tunnel finds its connection on the other node, where it is
//! tracked and translated like any.
//!
//! Nothing of this lets a packet pass: without agent, meter or room in a queue, Reject is Drop.

use openflow::{
    Action, BandType, ControllerAction, Flow, MacAddr, Match, Meter, MeterBand, MeterFlags, PacketIn2,
    PacketOut, PortNo,
};

use super::{dns::DNS_METER, node_access::SERVICE_METER, priority::HIGH, proxy::translate};
use crate::{
    config::{Network, VIRTUAL_MAC},
    cookie::{Category, object_of},
    field::{Destination, Source, destination, refusal as is_refusal, source},
    table::Table,
};

/// First octet of the user data of policy's packet-ins; upstream's number.
pub const POLICY_PACKET_IN: u8 = 1;

/// Bits of the second octet, upstream's: the decision is to be told; the packet is to be refused.
pub(crate) const LOG: u8 = 1;
pub(crate) const REJECT: u8 = 2;

/// The meter of packets that are refused; upstream's number.
const METER: u32 = 256;
/// The meter of those whose decision is only told: what is told to the log leaves those who wait for an answer alone.
const LOG_METER: u32 = 259;

/// Packet-ins a second, and how many more at once; upstream's numbers.
const RATE: u32 = 500;
const BURST: u32 = 1000;

/// Octets of a packet that are sent up: all headers, and what an ICMP error has to carry of it.
pub(super) const HEADERS: u16 = 256;

/// Above the flows of ConntrackCommit that look at the tracker's state, which an answer has not.
const ANSWERS: u16 = HIGH + 10;

/// A packet that policy has decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Where it came in.
    pub source: Source,
    /// The number of the table that decided, or counts what was decided.
    pub table: u8,
    /// The rule; none: pods are isolated, and no rule allowed it.
    pub rule: Option<u32>,
    /// The decision is to be told.
    pub is_logged: bool,
    /// It is refused, and the sender is to be told.
    pub is_refused: bool,
}

/// The meters of packet-ins, where the datapath has meters.
pub fn meters(net: &Network) -> Vec<Meter> {
    let band = MeterBand { rate: RATE, burst: BURST, kind: BandType::Drop };
    let flags = MeterFlags::PKTPS | MeterFlags::BURST;
    let services = net.node.serves_all.then_some(SERVICE_METER);
    let ids = [METER, DNS_METER, LOG_METER].into_iter().chain(services).filter(|_| net.node.metered);
    ids.map(|id| Meter { id, flags, bands: vec![band] }).collect()
}

/// Sends a packet up, for these reasons.
pub(crate) fn send_up(net: &Network, reasons: u8) -> Action {
    let meter = if reasons & REJECT == 0 { LOG_METER } else { METER };
    let up = ControllerAction {
        max_len: HEADERS,
        userdata: vec![POLICY_PACKET_IN, reasons],
        meter_id: net.node.metered.then_some(meter),
        ..ControllerAction::default()
    };
    up.into()
}

/// Flows that take the agent's answers past policy and, where the bridge serves Services, to their translation.
pub fn refusals(net: &Network) -> Vec<Flow> {
    if !net.node.antrea_policy && !net.node.serves_all {
        return Vec::new();
    }
    let flow = |table, priority, matches: Match| {
        net.flow(Category::Default, table, priority, matches.bits(is_refusal(), 1))
    };
    let unjudged = flow(Table::IngressSecurityClassifier, ANSWERS, Match::new());
    let mut flows = vec![unjudged.action(net.goto(Table::ConntrackCommit))];
    if net.pipeline.features().services {
        // Of what came from the host the bridge has translated something only where it serves everybody.
        let host = net.node.serves_all.then_some(Destination::Gateway as u128);
        for family in net.pipeline.families() {
            flows.extend([0].into_iter().chain(host).map(|to| {
                let nat = translate(net, family.service_zone(), Table::Output);
                flow(Table::ConntrackCommit, ANSWERS, family.packets().bits(destination(), to)).action(nat)
            }));
        }
    }
    flows
}

/// Reads a packet-in of policy's; `None` if it is none.
pub fn judged(packet: &PacketIn2) -> Option<Judged> {
    let [POLICY_PACKET_IN, reasons] = *packet.userdata else { return None };
    let source = source_of(packet)?;
    let rule = packet.cookie.map(object_of).filter(|rule| *rule != 0);
    let (is_logged, is_refused) = (reasons & LOG != 0, reasons & REJECT != 0);
    Some(Judged { source, table: packet.table?, rule, is_logged, is_refused })
}

/// Where a packet-in came in.
pub(super) fn source_of(packet: &PacketIn2) -> Option<Source> {
    match packet.metadata.get_bits(source())? {
        1 => Some(Source::Tunnel),
        2 => Some(Source::Gateway),
        3 => Some(Source::Pod),
        _ => None,
    }
}

/// Has the bridge send the answer to a refused packet that came in there, which `make` makes for a frame from and to these
/// addresses.
pub fn refusal(
    net: &Network,
    to: Source,
    make: impl FnOnce(MacAddr, MacAddr) -> Option<Vec<u8>>,
) -> Option<PacketOut> {
    let gateway = net.node.gateway.mac;
    let (from, receiver, table, host) = match to {
        Source::Gateway => (VIRTUAL_MAC, gateway, Table::L2ForwardingCalc, Some(Destination::Gateway)),
        // Routing writes the receiver's.
        Source::Pod | Source::Tunnel => (gateway, gateway, Table::L3Forwarding, None),
    };
    let packet = make(from, receiver)?;
    let mut actions = vec![is_refusal().load(1), source().load(Source::Pod as u128)];
    actions.extend(host.map(|host| destination().load(host as u128)));
    actions.push(Action::resubmit_table(net.pipeline.id(table)));
    let matches = Match::new().in_port(PortNo::CONTROLLER.0);
    Some(PacketOut { buffer_id: None, matches, actions, packet: packet.into() })
}
