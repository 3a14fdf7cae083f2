//! Answers of DNS servers, which go to the agent before they go to pods to which rules with domain names apply.
//!
//! ```text
//!  … ─► Output ─controller(meter 258)─► agent ─ rules have the addresses ─► packet-out ─► pod
//! ```
//!
//! They are met where nothing is left to be done but to send them: translated back, and past all policy. A server's port is
//! the one that the pod has sent to, as the tracker knows it; so it is with all fragments of an answer.
//!
//! Nothing of this lets a packet pass: without agent, meter or room in a queue the pod gets no answer.

use std::collections::BTreeSet;

use openflow::{Action, ControllerAction, CtState, Field, Flow, Match, PacketIn2, PacketOut, PortNo};

use crate::{
    config::Network,
    cookie::Category,
    field::{output, target_port},
    table::Table,
};

/// First octet of the user data of these packet-ins; upstream's number.
pub const DNS_PACKET_IN: u8 = 2;

/// The meter of these packet-ins; upstream's number.
pub(super) const DNS_METER: u32 = 258;

/// Upstream's number: above all that sends a packet out.
const INTERCEPT: u16 = 64_991;

const PORT: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Flows that send DNS's answers to these ports up.
pub fn dns(net: &Network, ofports: &BTreeSet<u32>) -> Vec<Flow> {
    // Errors about a query are no answers.
    let answers =
        CtState::new().set(CtState::TRK | CtState::EST | CtState::RPL).unset(CtState::NEW | CtState::REL);
    let up = ControllerAction {
        userdata: vec![DNS_PACKET_IN],
        meter_id: net.node.metered.then_some(DNS_METER),
        ..ControllerAction::default()
    };
    let mut flows = Vec::with_capacity(ofports.len() * 4);
    for ofport in ofports {
        for family in net.pipeline.families() {
            for protocol in [UDP, TCP] {
                let answers = family
                    .packets()
                    .ct_state(answers)
                    .exact(Field::CtNwProto, protocol.into())
                    .exact(Field::CtTpDst, PORT.into())
                    .bits(output(), 1)
                    .bits(target_port(), (*ofport).into());
                flows.push(
                    net.flow(Category::NetworkPolicy, Table::Output, INTERCEPT, answers).action(up.clone()),
                );
            }
        }
    }
    flows
}

/// The port that an answer was to be sent to; `None` if the packet-in is of something else.
pub fn dns_receiver(packet: &PacketIn2) -> Option<u32> {
    if *packet.userdata != [DNS_PACKET_IN] {
        return None;
    }
    u32::try_from(packet.metadata.get_bits(target_port())?).ok()
}

/// Has the bridge send an answer to its receiver.
pub fn deliver_dns(ofport: u32, frame: Vec<u8>) -> PacketOut {
    PacketOut {
        buffer_id: None,
        matches: Match::new().in_port(PortNo::CONTROLLER.0),
        actions: vec![Action::Output(PortNo(ofport))],
        packet: frame.into(),
    }
}
