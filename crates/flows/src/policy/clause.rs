//! The matches that members of a clause become.

use std::{collections::BTreeMap, net::IpAddr};

use antrea_policy::ports::{self, PortMask};
use ipnet::IpNet;
use openflow::{Field, Match};

use super::{Direction, PortRange, Protocol, Service};
use crate::{Family, field::target_port};

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

fn transport(protocol: Protocol, family: Family, src: PortMask, dst: PortMask) -> Match {
    let (number, src_field, dst_field) = match protocol {
        Protocol::Udp => (17, Field::UdpSrc, Field::UdpDst),
        Protocol::Sctp => (132, Field::SctpSrc, Field::SctpDst),
        _ => (6, Field::TcpSrc, Field::TcpDst),
    };
    family.packets().nw_proto(number).masked(src_field, src.value.into(), src.mask.into()).masked(
        dst_field,
        dst.value.into(),
        dst.mask.into(),
    )
}

fn icmp(service: &Service, family: Family) -> Match {
    let (number, type_field, code_field) = match family {
        Family::V4 => (1, Field::IcmpType, Field::IcmpCode),
        Family::V6 => (58, Field::Icmpv6Type, Field::Icmpv6Code),
    };
    let mut matches = family.packets().nw_proto(number);
    for (field, value) in [(type_field, service.icmp_type), (code_field, service.icmp_code)] {
        if let Some(value) = value {
            matches = matches.exact(field, value.into());
        }
    }
    matches
}
