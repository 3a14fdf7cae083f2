//! Services as peers of egress rules.
//!
//! ```text
//!  ServiceState 210 reg11=0 ct_nw_dst,ct_nw_proto,ct_tp_dst=FRONTEND   reg11=GROUP, ServiceState again   one per frontend
//!  EgressRule       reg11=GROUP                                        conjunction(ID,2/2)
//!  DNAT         210 reg11=GROUP, no endpoint                           conjunction(ID,2/2)   of rules that deny
//! ```
//!
//! Policy sees a packet with its endpoint's address, and of the second packet of a connection that was not let through the
//! bridge knows the translation but not by which Service. What the tracker of translations knows of each packet is where it
//! was sent to; by that it is marked, whether it is the first of its connection or not.
//!
//! What the bridge has no endpoint for goes to the host, which may know one. A rule that denies is asked before that.

use std::net::IpAddr;

use openflow::{Action as OfAction, CtState, Field, Flow, Match};

use super::{Action, Class, Direction, Frontend, Peers, Protocol, Rule, is_at_node};
use crate::{
    Family, Network, Table,
    cookie::Category,
    feature::{priority::HIGH, to_services},
    field::{has_endpoint, named_service},
};

/// Priority of what denies before the host is asked, above what hands packets to it.
pub(super) const GUARD: u16 = HIGH;

/// Whether a rule denies what is sent to Services.
pub(super) fn guards(rule: &Rule) -> bool {
    matches!(rule.peers, Peers::Services(_)) && matches!(rule.action, Action::Drop | Action::Reject)
}

/// Whether a rule that names Services, or applies to them, can be what it says.
pub(super) fn is_sound(rule: &Rule, class: Class) -> bool {
    if let Class::Service { .. } = class {
        let named = matches!(rule.peers, Peers::Services(_));
        return rule.direction == Direction::In
            && rule.services.is_empty()
            && !named
            && rule.pods.keys().all(|group| is_at_node(*group));
    }
    let Peers::Services(targets) = &rule.peers else { return true };
    rule.direction == Direction::Out && rule.services.is_empty() && !targets.contains_key(&0)
}

/// The packets to a Service, where policy sees them.
pub(super) fn sent_to(group: u32) -> Match {
    Match::new().bits(named_service(), group.into())
}

/// Of these the ones that the bridge has no endpoint for.
pub(super) fn left_to_the_host(group: u32) -> Match {
    sent_to(group).bits(has_endpoint(), 0)
}

/// The flows that mark what is sent to a frontend, each under a number by which two that differ are told apart; none if
/// pods have no such addresses.
pub(super) fn marking(net: &Network, group: u32, frontend: &Frontend) -> Vec<(u32, Flow)> {
    let ip = frontend.address.ip();
    let (family, field, bits) = match ip {
        IpAddr::V4(ip) => (Family::V4, Field::CtNwDst, ip.to_bits().into()),
        IpAddr::V6(ip) => (Family::V6, Field::CtIpv6Dst, ip.to_bits()),
    };
    if !net.pipeline.has(family) {
        return Vec::new();
    }
    let protocol: u8 = match frontend.protocol {
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        _ => 6,
    };
    let sent = family
        .packets()
        .ct_state(CtState::new().set(CtState::TRK).unset(CtState::INV))
        .exact(field, bits)
        .exact(Field::CtNwProto, protocol.into())
        .exact(Field::CtTpDst, frontend.address.port().into())
        .bits(named_service(), 0);
    let mark = net
        .flow(Category::NetworkPolicy, Table::ServiceState, HIGH, sent)
        .action(named_service().load(group.into()))
        .action(OfAction::resubmit_table(net.pipeline.id(Table::ServiceState)));
    // What is outside the cluster's range comes there only while it is served: by the same flow.
    let outside = !net.node.service_cidrs.iter().any(|cidr| cidr.contains(&ip));
    std::iter::once((group, mark)).chain(outside.then(|| (0, to_services(net, ip)))).collect()
}
