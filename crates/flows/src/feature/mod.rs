//! The parts of the pipeline, one file each. Every function is pure: facts in, flows out.

mod base;
mod conntrack;
mod dns;
mod ended;
mod gateway;
mod node_access;
mod peer;
mod pod;
mod proxy;
pub(crate) mod reject;
mod security;
mod service;
mod trace;
mod tunnel;

pub use base::base;
pub use conntrack::conntrack;
pub use dns::{DNS_PACKET_IN, deliver_dns, dns, dns_receiver};
pub use ended::{Ended, REFUSED_FOR, ended};
pub use gateway::{SELF_TEST_ETHERTYPE, gateway};
pub use node_access::{
    Audience, Guard, NODE_PORT_V4, NODE_PORT_V6, SERVICE_PACKET_IN, Unserved, guard, node_access, unserved,
    unserved_source,
};
pub use peer::peer;
pub use pod::pod;
pub(crate) use proxy::to_services;
pub use proxy::{
    AFFINITY_COOKIE, ServiceBackend, Transport, VIRTUAL_V4, VIRTUAL_V6, probe_service, proxy, service_backend,
};
pub use reject::{Judged, POLICY_PACKET_IN, judged, meters, refusal, refusals};
pub use security::security;
pub use service::service_cidrs;
pub use trace::{TRACE_PACKET_IN, Trace, Traced, trace, traced};
pub use tunnel::tunnel;

use openflow::{Action, CtState, Flow, Match};

use crate::{
    config::Network,
    cookie::Category,
    field::{HAIRPIN_ZONE_V4, HAIRPIN_ZONE_V6, SERVICE_ZONE_V4, SERVICE_ZONE_V6, ZONE_V4, ZONE_V6},
    table::{Pipeline, Table},
};

/// Priorities that the pipeline's own flows use.
pub(crate) mod priority {
    /// Established connections pass policy tables above every rule.
    pub(crate) const BYPASS: u16 = 64990;
    pub(crate) const HIGH: u16 = 210;
    pub(crate) const NORMAL: u16 = 200;
    pub(crate) const LOW: u16 = 190;
    pub(crate) const MISS: u16 = 0;
}

/// `tcp_flags` of a connection's first packet, and the bits that tell: SYN is set and ACK is not.
const SYN: (u16, u16) = (0x002, 0x012);

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Matches every packet of the family.
    pub fn packets(self) -> Match {
        match self {
            Family::V4 => Match::new().ip(),
            Family::V6 => Match::new().ipv6(),
        }
    }

    /// The family's connection-tracking zone.
    pub const fn zone(self) -> u16 {
        match self {
            Family::V4 => ZONE_V4,
            Family::V6 => ZONE_V6,
        }
    }

    /// The zone in which the family's Services are translated.
    pub const fn service_zone(self) -> u16 {
        match self {
            Family::V4 => SERVICE_ZONE_V4,
            Family::V6 => SERVICE_ZONE_V6,
        }
    }

    /// The zone of what a Service brings back to its sender.
    pub const fn hairpin_zone(self) -> u16 {
        match self {
            Family::V4 => HAIRPIN_ZONE_V4,
            Family::V6 => HAIRPIN_ZONE_V6,
        }
    }
}

impl Pipeline {
    /// The families that pods have.
    pub fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let f = *self.features();
        [(f.ipv4, Family::V4), (f.ipv6, Family::V6)]
            .into_iter()
            .filter_map(|(on, family)| on.then_some(family))
    }

    /// Whether pods have the family.
    pub(crate) fn has(&self, family: Family) -> bool {
        self.families().any(|own| own == family)
    }
}

impl Network {
    /// A flow without actions: it drops.
    pub(crate) fn flow(&self, category: Category, table: Table, priority: u16, matches: Match) -> Flow {
        Flow::new(self.pipeline.id(table), priority).cookie(self.cookie(category, 0)).matching(matches)
    }

    /// The action that goes on at a later table.
    pub(crate) fn goto(&self, table: Table) -> Action {
        Action::GotoTable(self.pipeline.id(table))
    }

    /// The action that goes on at the next table of the chain. Tables without one end it.
    pub(crate) fn goto_next(&self, table: Table) -> Option<Action> {
        self.pipeline.next(table).map(|t| self.goto(t))
    }
}

/// ICMPv6 types of neighbour discovery: router solicitation and advertisement, neighbour solicitation and
/// advertisement, redirect (RFC 4861 §4).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Matches one ICMPv6 message of neighbour discovery. OVS gives the ND fields only to messages of code 0.
fn nd(icmp_type: u8) -> Match {
    Match::new().icmp6().icmpv6_type(icmp_type).icmpv6_code(0)
}

/// Connections that are known to the tracker.
fn established() -> CtState {
    CtState::new().unset(CtState::NEW).set(CtState::TRK)
}
