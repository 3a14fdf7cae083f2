//! Traceflow: the way of one packet, told by the flows that it really meets.
//!
//! ```text
//!  ConntrackState  tag, not seen   seen, resubmit(self), controller(tag)     what comes after this packet is told here
//!  each table      seen, not here  here, resubmit(self)                      how far it came
//!  Output          tag, seen       drop                                      of a packet that nobody sent
//! ```
//!
//! A packet is known by its DSCP. The first flow has the rest of the pipeline decide on it, and then sends it up with the
//! registers as they are when all is decided: tables that it came to, rules that let it pass or denied it, where it goes.
//! So a trace changes no decision, whatever features made it, and costs one packet-in on each node. The tables are
//! those at which a packet can end. Flows of tables are the same for all traces, who share them.
//!
//! Where no trace runs there is none of these flows.

use openflow::{
    Action, BandType, ControllerAction, CtState, Field, Flow, Match, Meter, MeterBand, MeterFlags, PacketIn2,
    SubField,
};

use crate::{
    config::{EncapMode, Network},
    cookie::Category,
    field::{
        Destination, Source, denied, deny_rule, destination, disposition, egress_rule, ingress_rule, output,
        source, target_port,
    },
    state::Entry,
    table::{Pipeline, Table},
};

/// First octet of the user data of packet-ins; upstream's number.
pub const TRACE_PACKET_IN: u8 = 0;

/// The meter of packet-ins, for all traces together; upstream's number.
const METER: u32 = 257;

/// Packet-ins a second, and how many more at once.
const RATE: u32 = 100;
const BURST: u32 = 200;

/// Octets of a packet that are sent up: all headers that are looked at.
const HEADERS: u16 = 192;

/// Above everything else in each table.
const CHECKPOINT: u16 = 65300;
/// In Output: what is sent out although nobody sent it.
const GOES_ON: u16 = 65200;
/// In Output: what is not.
const ENDS: u16 = 65100;

/// Tables whose bit in `reg2` says that the packet came there, in order.
const CHECKPOINTS: [Table; 8] = [
    Table::EgressDefaultRule,
    Table::EgressMetric,
    Table::L3Forwarding,
    Table::L2ForwardingCalc,
    Table::IngressSecurityClassifier,
    Table::IngressDefaultRule,
    Table::IngressMetric,
    Table::Output,
];

/// `reg2[0]`: the packet is traced.
fn seen() -> SubField {
    SubField::reg(2, 0, 0)
}

/// The bit of a checkpoint.
fn bit(number: usize) -> SubField {
    let at = number as u16 + 1;
    SubField::reg(2, at, at)
}

/// A trace, as one node has to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Value of DSCP, 1 to 63.
    pub tag: u8,
    /// OpenFlow number of the pod that sends the packet, if it is here.
    pub source: Option<u32>,
    /// Of real traffic, what gets the tag here. Each has the family in it.
    pub mark: Vec<Match>,
    /// It is real traffic, which arrives where it goes.
    pub live: bool,
    /// The bridge has meters.
    pub metered: bool,
}

/// What a node knows of a packet when all is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The trace's tag.
    pub tag: u8,
    /// Number of the port that it came in by.
    pub in_port: u32,
    /// What kind of port that is.
    pub source: Source,
    /// What it is sent to; `None` is a pod of this node.
    pub destination: Option<Destination>,
    /// Number of the port that it goes to, as soon as that is known.
    pub target: Option<u32>,
    /// Whether it is sent there.
    pub sent: bool,
    /// The last table of [`CHECKPOINTS`] that it came to; `None` is before all of them.
    pub reached: Option<Table>,
    /// Rules that let it pass.
    pub egress_rule: Option<u32>,
    /// Rules that let it pass.
    pub ingress_rule: Option<u32>,
    /// The rule that denied it, and whether by an answer.
    pub denied: Option<(u32, bool)>,
}

/// Flows of a trace, and the meter of its packet-ins.
pub fn trace(net: &Network, trace: &Trace) -> Vec<Entry> {
    let flow = |table, priority, matches: Match| {
        net.flow(Category::Traceflow, table, priority, matches).cookie(net.cookie(Category::Traceflow, 0))
    };
    let own = |flow: Flow| flow.cookie(net.cookie(Category::Traceflow, trace.tag.into()));
    let again = |table| Action::resubmit_table(net.pipeline.id(table));
    let up = ControllerAction {
        max_len: HEADERS,
        userdata: vec![TRACE_PACKET_IN, trace.tag],
        meter_id: trace.metered.then_some(METER),
        ..ControllerAction::default()
    };
    let request = CtState::new().unset(CtState::RPL).set(CtState::TRK);
    let begin = |matches: Match, tag: Option<Action>| {
        own(flow(Table::ConntrackState, CHECKPOINT, matches.ct_state(request).bits(seen(), 0)))
            .actions(tag)
            .action(seen().load(1))
            .action(again(Table::ConntrackState))
            .action(up.clone())
    };
    let mut flows = Vec::new();
    for family in net.pipeline.families() {
        let tagged = || family.packets().ip_dscp(trace.tag);
        if let Some(ofport) = trace.source {
            flows.push(begin(tagged().in_port(ofport), None));
        }
        for from in [Source::Tunnel, Source::Gateway] {
            flows.push(begin(tagged().bits(source(), from as u128), None));
        }
        if trace.live {
            continue;
        }
        let sent = || tagged().bits(seen(), 1).bits(bit(CHECKPOINTS.len() - 1), 1);
        let to_host = || sent().bits(destination(), Destination::Gateway as u128);
        flows.push(own(flow(Table::Output, ENDS, sent().bits(destination(), 0))));
        if net.node.encap_mode == EncapMode::Encap {
            flows.push(own(flow(Table::Output, ENDS, to_host())));
            // The host gives it an endpoint's address and sends it back.
            let services = net.node.service_cidrs.iter().filter(|cidr| {
                matches!(
                    (cidr, family),
                    (ipnet::IpNet::V4(_), super::Family::V4) | (ipnet::IpNet::V6(_), super::Family::V6)
                )
            });
            flows.extend(services.map(|cidr| {
                own(flow(Table::Output, GOES_ON, to_host().nw_dst(*cidr)))
                    .action(Action::output_reg(target_port()))
            }));
        }
    }
    let tag = Action::set_field(Field::IpDscp, trace.tag.into());
    flows.extend(trace.mark.iter().map(|matches| begin(matches.clone(), Some(tag.clone()))));
    flows.extend(CHECKPOINTS.into_iter().enumerate().map(|(number, table)| {
        flow(table, CHECKPOINT, Match::new().bits(seen(), 1).bits(bit(number), 0))
            .action(bit(number).load(1))
            .action(again(table))
    }));
    let meter = trace.metered.then(|| {
        let band = MeterBand { rate: RATE, burst: BURST, kind: BandType::Drop };
        Entry::Meter(Meter { id: METER, flags: MeterFlags::PKTPS | MeterFlags::BURST, bands: vec![band] })
    });
    meter.into_iter().chain(flows.into_iter().map(Entry::Flow)).collect()
}

/// Reads a packet-in of a trace; `None` if it is none.
pub fn traced(pipeline: &Pipeline, packet: &PacketIn2) -> Option<Traced> {
    let [TRACE_PACKET_IN, tag] = *packet.userdata else { return None };
    let bits = |field: SubField| packet.metadata.get_bits(field).unwrap_or(0);
    let id = |field: SubField| Some(bits(field) as u32).filter(|id| *id != 0);
    let source = match bits(source()) {
        1 => Source::Tunnel,
        2 => Source::Gateway,
        3 => Source::Pod,
        _ => return None,
    };
    let came = |number: &usize| bits(bit(*number)) == 1;
    let last = (0..CHECKPOINTS.len()).rev().find(came);
    let reached = last.and_then(|number| CHECKPOINTS.get(number).copied());
    Some(Traced {
        tag,
        in_port: packet.in_port()?.0,
        source,
        destination: match bits(destination()) {
            1 => Some(Destination::Tunnel),
            2 => Some(Destination::Gateway),
            _ => None,
        },
        target: id(target_port()),
        sent: reached == Some(Table::Output) && bits(output()) == 1,
        reached: reached.filter(|table| pipeline.number(*table).is_some()),
        egress_rule: id(egress_rule()),
        ingress_rule: id(ingress_rule()),
        denied: (bits(denied()) == 1).then(|| (bits(deny_rule()) as u32, bits(disposition()) == 2)),
    })
}
