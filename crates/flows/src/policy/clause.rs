//! The matches that members of a clause become.

use std::{collections::BTreeMap, net::IpAddr};

use antrea_policy::ports::{self, PortMask};
use ipnet::IpNet;
use openflow::{CtState, Field, Match};

use super::{Direction, PortRange, Protocol, Service};
use crate::{
    Family,
    field::{named_service, target_port},
};

/// The packets that a pod of this node receives (ingress) or sends (egress). A pod is known by its port where it
/// receives, by its address where it sends: translated traffic to a Service comes back from the host.
pub(super) fn pod(direction: Direction, ofport: u32, ips: &[IpAddr], families: &[Family]) -> Vec<Match> {
    match direction {
        Direction::In => vec![Match::new().bits(target_port(), ofport.into())],
        Direction::Out => {
            ips.iter().filter(|ip| has(families, (**ip).into())).map(|ip| Match::new().nw_src(*ip)).collect()
        }
    }
}

/// The packets that come to a Service from outside by the node's addresses.
pub(super) fn service(group: u32) -> Match {
    Match::new().bits(named_service(), group.into())
}

/// The packets from (ingress) or to (egress) a peer; `None` if there are none of its family.
pub(super) fn peer(direction: Direction, net: IpNet, families: &[Family]) -> Option<Match> {
    has(families, net).then(|| match direction {
        Direction::In => Match::new().nw_src(net),
        Direction::Out => Match::new().nw_dst(net),
    })
}

fn has(families: &[Family], net: IpNet) -> bool {
    families.contains(&if matches!(net, IpNet::V4(_)) { Family::V4 } else { Family::V6 })
}

/// The packets of any of these services.
pub(super) fn services(services: &[Service], families: &[Family]) -> Vec<Match> {
    // Ranges of one protocol that differ in nothing else make fewer masks together.
    let mut ranges: BTreeMap<(Protocol, Option<PortRange>), Vec<PortRange>> = BTreeMap::new();
    let mut matches = Vec::new();
    for service in services {
        match service.protocol {
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => ranges
                .entry((service.protocol, service.src_ports))
                .or_default()
                .push(service.ports.unwrap_or(PortRange::ALL)),
            Protocol::Icmp => matches.extend(families.iter().map(|family| icmp(service, *family))),
            Protocol::Igmp if families.contains(&Family::V4) => matches.push(Match::new().igmp()),
            Protocol::Igmp => {}
        }
    }
    for ((protocol, src_ports), dst_ports) in ranges {
        let dst: Vec<PortMask> = ports::merge(dst_ports).into_iter().flat_map(PortRange::masks).collect();
        let src = src_ports.unwrap_or(PortRange::ALL).masks();
        for family in families {
            for dst in &dst {
                matches.extend(src.iter().map(|src| transport(protocol, *family, *src, *dst)));
            }
        }
    }
    matches.sort_unstable();
    matches.dedup();
    matches
}

/// The first packet of a connection of this protocol. The tracker knows protocol and ports of all fragments of a
/// datagram; the packet itself has none in Open vSwitch's eyes, not even in the first fragment, and later fragments
/// of IPv6 not even a protocol. Policy judges only first packets, so "original direction" is the packet's own.
fn connection(family: Family, protocol: u8) -> Match {
    family
        .packets()
        .ct_state(CtState::new().set(CtState::NEW | CtState::TRK))
        .exact(Field::CtNwProto, protocol.into())
}

fn transport(protocol: Protocol, family: Family, src: PortMask, dst: PortMask) -> Match {
    let number = match protocol {
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        _ => 6,
    };
    connection(family, number).masked(Field::CtTpSrc, src.value.into(), src.mask.into()).masked(
        Field::CtTpDst,
        dst.value.into(),
        dst.mask.into(),
    )
}

/// The tracker keeps ICMP's type and code where other protocols have ports.
fn icmp(service: &Service, family: Family) -> Match {
    let mut matches = connection(family, if family == Family::V4 { 1 } else { 58 });
    for (field, value) in [(Field::CtTpSrc, service.icmp_type), (Field::CtTpDst, service.icmp_code)] {
        if let Some(value) = value {
            matches = matches.exact(field, value.into());
        }
    }
    matches
}
