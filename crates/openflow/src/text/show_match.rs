//! Matches and sub-fields.

use std::fmt::{self, Display, Formatter};

use super::value::{self, Hex};
use crate::field::Format;
use crate::{Field, Match, MatchField, SubField};

/// Ethernet type, IP protocol and the word for both.
pub(super) const PROTOCOLS: [(u16, Option<u8>, &str); 14] = [
    (0x0800, Some(1), "icmp"),
    (0x0800, Some(6), "tcp"),
    (0x0800, Some(17), "udp"),
    (0x0800, Some(132), "sctp"),
    (0x0800, None, "ip"),
    (0x86dd, Some(58), "icmp6"),
    (0x86dd, Some(6), "tcp6"),
    (0x86dd, Some(17), "udp6"),
    (0x86dd, Some(132), "sctp6"),
    (0x86dd, None, "ipv6"),
    (0x0806, None, "arp"),
    (0x8035, None, "rarp"),
    (0x8847, None, "mpls"),
    (0x8848, None, "mplsm"),
];

/// What comes before the protocol, in order.
const BEFORE: [Field; 14] = [
    Field::PktMark,
    Field::ConjId,
    Field::ActsetOutput,
    Field::CtState,
    Field::CtZone,
    Field::CtMark,
    Field::CtLabel,
    Field::CtNwSrc,
    Field::CtIpv6Src,
    Field::CtNwDst,
    Field::CtIpv6Dst,
    Field::CtNwProto,
    Field::CtTpSrc,
    Field::CtTpDst,
];

/// What comes after the registers, in order.
const AFTER: [Field; 49] = [
    Field::TunId,
    Field::TunSrc,
    Field::TunDst,
    Field::TunIpv6Src,
    Field::TunIpv6Dst,
    Field::TunGbpId,
    Field::TunGbpFlags,
    Field::TunFlags,
    Field::Metadata,
    Field::InPortOxm,
    Field::VlanVid,
    Field::EthSrc,
    Field::EthDst,
    Field::EthType,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::Ipv6Label,
    Field::ArpSpa,
    Field::ArpTpa,
    Field::Ipv4Src,
    Field::Ipv4Dst,
    Field::ArpOp,
    Field::NwProto,
    Field::ArpSha,
    Field::ArpTha,
    Field::IpDscp,
    Field::NwEcn,
    Field::NwTtl,
    Field::MplsLabel,
    Field::MplsTc,
    Field::MplsTtl,
    Field::MplsBos,
    Field::IpFrag,
    Field::IcmpType,
    Field::IcmpCode,
    Field::Icmpv6Type,
    Field::Icmpv6Code,
    Field::NdTarget,
    Field::NdSll,
    Field::NdTll,
    Field::TcpSrc,
    Field::UdpSrc,
    Field::SctpSrc,
    Field::TcpDst,
    Field::UdpDst,
    Field::SctpDst,
    Field::TcpFlags,
    // Always with `vlan_vid`, which writes it.
    Field::VlanPcp,
    Field::PacketType,
];

/// The word for a field in a match, where that is not its name.
fn word(field: Field) -> &'static str {
    match field {
        Field::InPortOxm => "in_port",
        Field::EthSrc => "dl_src",
        Field::EthDst => "dl_dst",
        Field::EthType => "dl_type",
        Field::Ipv4Src => "nw_src",
        Field::Ipv4Dst => "nw_dst",
        Field::IpDscp => "nw_tos",
        Field::IpFrag => "nw_frag",
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => "tp_src",
        Field::TcpDst | Field::UdpDst | Field::SctpDst => "tp_dst",
        Field::Icmpv6Type => "icmp_type",
        Field::Icmpv6Code => "icmp_code",
        f => f.name(),
    }
}

fn show_vlan(f: &mut Formatter<'_>, m: &Match) -> fmt::Result {
    let part = |field| m.get(field).map_or((0, 0), |p| (p.value, p.mask));
    let (vid, vid_mask) = part(Field::VlanVid);
    let (pcp, pcp_mask) = part(Field::VlanPcp);
    let present = vid & 0x1000 != 0;
    let ids = vid_mask & 0xfff;
    if present && (ids == 0 || ids == 0xfff) && (ids != 0 || pcp_mask != 0) {
        if ids != 0 {
            write!(f, ",dl_vlan={}", vid & 0xfff)?;
        }
        if pcp_mask != 0 {
            write!(f, ",dl_vlan_pcp={pcp}")?;
        }
        return Ok(());
    }
    let (tci, mask) = (vid | pcp << 13, vid_mask | pcp_mask << 13);
    if mask == 0xffff {
        write!(f, ",vlan_tci={tci:#06x}")
    } else {
        write!(f, ",vlan_tci={tci:#06x}/{mask:#06x}")
    }
}

fn show_field(f: &mut Formatter<'_>, m: &MatchField) -> fmt::Result {
    write!(f, ",{}=", word(m.field))?;
    let exact = m.mask == m.field.full_mask();
    match (m.field, m.field.info().format) {
        (Field::EthType, _) => write!(f, "{:#06x}", m.value),
        (Field::IpDscp, _) => write!(f, "{}", m.value << 2),
        (Field::Ipv6Label, _) if exact => write!(f, "{:#07x}", m.value),
        (Field::Ipv6Label, _) => write!(f, "{:#07x}/{:#07x}", m.value, m.mask),
        (_, Format::Hex) if exact => write!(f, "{}", Hex(m.value)),
        (_, Format::Hex) => write!(f, "{}/{}", Hex(m.value), Hex(m.mask)),
        (_, Format::Dec) if !exact => write!(f, "{}/{}", Hex(m.value), Hex(m.mask)),
        _ => value::show(f, m.field, m.value, m.mask),
    }
}

/// Writes the match, every part with a comma before it.
pub(super) fn show(f: &mut Formatter<'_>, m: &Match) -> fmt::Result {
    let number = |field| m.get(field).map(|p| p.value);
    let proto = number(Field::NwProto);
    let protocol = number(Field::EthType).and_then(|t| {
        PROTOCOLS
            .iter()
            .find(|(ty, p, _)| u128::from(*ty) == t && (p.is_none() || p.map(u128::from) == proto))
    });
    let one = |f: &mut Formatter<'_>, field: Field| match m.get(field) {
        Some(part) => show_field(f, &part),
        None => Ok(()),
    };
    BEFORE.iter().try_for_each(|field| one(f, *field))?;
    if let Some((_, _, name)) = protocol {
        write!(f, ",{name}")?;
    }
    (0..16).filter_map(Field::reg).try_for_each(|field| one(f, field))?;
    for field in AFTER {
        match field {
            Field::VlanVid if m.get(field).is_some() => show_vlan(f, m)?,
            Field::VlanVid | Field::VlanPcp => {}
            Field::EthType if protocol.is_some() => {}
            Field::NwProto if protocol.is_some_and(|(_, p, _)| p.is_some()) => {}
            field => one(f, field)?,
        }
    }
    for u in m.unknown_fields() {
        write!(f, ",unknown({:#06x}:{}", u.id.class, u.id.field)?;
        if u.id.class == 0xffff {
            write!(f, ":{:#x}", u.id.experimenter)?;
        }
        for (sep, bytes) in [('=', Some(&u.value)), ('/', u.mask.as_ref())] {
            if let Some(bytes) = bytes {
                write!(f, "{sep}")?;
                bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
            }
        }
        f.write_str(")")?;
    }
    Ok(())
}

/// Cuts the first character off what is written through it.
struct Tail<'a, 'b> {
    to: &'a mut Formatter<'b>,
    begun: bool,
}

impl fmt::Write for Tail<'_, '_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let s = if self.begun || s.is_empty() { s } else { s.get(1..).unwrap_or_default() };
        self.begun = true;
        self.to.write_str(s)
    }
}

struct WithComma<'a>(&'a Match);

impl Display for WithComma<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(f, self.0)
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Tail { to: f, begun: false }, format_args!("{}", WithComma(self)))
    }
}

impl Display for SubField {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let info = self.field().info();
        f.write_str(if info.nxm_name.is_empty() { info.oxm_name } else { info.nxm_name })?;
        let (start, n) = (self.ofs(), self.n_bits());
        if n == self.field().sub_bits() {
            f.write_str("[]")
        } else if n == 1 {
            write!(f, "[{start}]")
        } else {
            write!(f, "[{start}..{}]", start + n - 1)
        }
    }
}
