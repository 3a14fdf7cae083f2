//! Matches: canonical sets of fields with masks.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::field::Prereq;
use crate::{CtState, Field, MacAddr, OxmId, PortNo, SubField};

/// One field of a match. Bits of `value` outside `mask` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatchField {
    /// Which field.
    pub field: Field,
    /// The value, right-aligned.
    pub value: u128,
    /// The bits that are compared.
    pub mask: u128,
}

/// A match field this crate does not know, kept as it came from the switch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownField {
    /// Its identifier.
    pub id: OxmId,
    /// The bytes of the value.
    pub value: Box<[u8]>,
    /// The bytes of the mask, as many as of the value; `None` compares all bits.
    pub mask: Option<Box<[u8]>>,
}

/// A canonical match: two matches that the switch treats as the same are equal, whatever the order
/// and the names by which they were built.
///
/// The canonical form has no `xreg`/`xxreg` (they are their `reg`s), no `vlan_tci` (it is `vlan_vid`
/// with bit 12 for "present", and `vlan_pcp`), no `nw_tos` (it is `ip_dscp`) and no 16-bit `in_port`.
/// Fields with an empty mask are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Match {
    fields: Vec<MatchField>,
    unknown: Vec<UnknownField>,
}

impl Match {
    /// Matches every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields in canonical order.
    pub fn fields(&self) -> &[MatchField] {
        &self.fields
    }

    /// Fields that came from a switch and that this crate does not know.
    pub fn unknown_fields(&self) -> &[UnknownField] {
        &self.unknown
    }

    /// Whether every packet matches.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.unknown.is_empty()
    }

    /// What the match says of a canonical field.
    pub fn get(&self, field: Field) -> Option<MatchField> {
        self.position(field).ok().and_then(|i| self.fields.get(i)).copied()
    }

    /// The value of the bits of `sub`, if all of them are compared. Register pairs are looked up in
    /// their registers.
    pub fn get_bits(&self, sub: SubField) -> Option<u128> {
        let (value, mask) = match split(sub.field()) {
            Some((first, n)) => {
                let (mut value, mut mask) = (0, 0);
                for i in 0..n {
                    let part = Field::reg(first + i).and_then(|f| self.get(f));
                    value = value << 32 | part.map_or(0, |p| p.value);
                    mask = mask << 32 | part.map_or(0, |p| p.mask);
                }
                (value, mask)
            }
            None => self.get(sub.field()).map(|m| (m.value, m.mask))?,
        };
        (mask & sub.mask() == sub.mask()).then(|| sub.extract(value))
    }

    fn position(&self, field: Field) -> Result<usize, usize> {
        self.fields.binary_search_by_key(&field, |m| m.field)
    }

    /// Adds bits of a field to the match. Bits already there take the new value; bits that the field
    /// does not have are ignored.
    pub fn insert(&mut self, field: Field, value: u128, mask: u128) {
        if let Some((first, n)) = split(field) {
            for i in 0..n {
                let shift = 32 * u32::from(n - 1 - i);
                let part = |v: u128| v >> shift & 0xffff_ffff;
                if let Some(reg) = Field::reg(first + i) {
                    self.insert_plain(reg, part(value), part(mask));
                }
            }
            return;
        }
        match field {
            Field::InPort => {
                let port = PortNo::from_u16((value & 0xffff) as u16);
                self.insert_plain(Field::InPortOxm, port.0.into(), Field::InPortOxm.full_mask());
            }
            Field::NwTos => self.insert_plain(Field::IpDscp, (value & 0xff) >> 2, Field::IpDscp.full_mask()),
            Field::VlanTci => {
                self.insert(Field::VlanVid, value & 0x1fff, mask & 0x1fff);
                // Without a header there is no priority to look at.
                if mask & 0xe000 != 0 && value & mask & 0x1fff != 0 {
                    self.insert_plain(Field::VlanPcp, value >> 13 & 7, 7);
                }
            }
            Field::VlanVid => {
                self.insert_plain(field, value, mask);
                if self.get(field).is_some_and(|m| m.mask & 0x1000 != 0 && m.value & 0x1000 == 0) {
                    self.remove(Field::VlanPcp);
                }
            }
            Field::VlanPcp => {
                self.insert_plain(Field::VlanVid, 0x1000, 0x1000);
                self.insert_plain(Field::VlanPcp, value, mask);
            }
            f => self.insert_plain(f, value, mask),
        }
    }

    fn insert_plain(&mut self, field: Field, value: u128, mask: u128) {
        let mask = mask & field.full_mask();
        if mask == 0 {
            return;
        }
        match self.position(field) {
            Ok(i) => {
                if let Some(m) = self.fields.get_mut(i) {
                    m.value = m.value & !mask | value & mask;
                    m.mask |= mask;
                }
            }
            Err(i) => self.fields.insert(i, MatchField { field, value: value & mask, mask }),
        }
    }

    /// Adds a field of a group's hash as it is: its value is the bits that count.
    pub(crate) fn insert_hashed(&mut self, field: Field, bits: u128) {
        self.insert_plain(field, bits, bits);
    }

    pub(crate) fn insert_unknown(&mut self, field: UnknownField) {
        let at = self.unknown.binary_search(&field).unwrap_or_else(|i| i);
        self.unknown.insert(at, field);
    }

    /// The first field that no packet of the matched protocol has, such as a TCP port without `.tcp()`. The
    /// switch refuses such a match (`OFPBMC_BAD_PREREQ`).
    pub fn unmet_prerequisite(&self) -> Option<Field> {
        let is = |field, values: &[u128]| self.get(field).is_some_and(|m| values.contains(&m.value));
        let ip = |proto| is(Field::EthType, &[0x0800, 0x86dd]) && is(Field::NwProto, &[proto]);
        let icmp6 = |types: &[u128]| {
            is(Field::EthType, &[0x86dd]) && is(Field::NwProto, &[58]) && is(Field::Icmpv6Type, types)
        };
        let ct = |types: &[u128]| {
            let state = self.get(Field::CtState).map_or((0, 0), |m| (m.value as u32, m.mask as u32));
            let tracked = state.0 & CtState::TRK != 0;
            let valid = state.1 & CtState::INV != 0 && state.0 & CtState::INV == 0;
            let known = state.0 & (CtState::NEW | CtState::EST | CtState::REL) != 0;
            (known || tracked && valid) && is(Field::EthType, types)
        };
        let met = |field: Field| match field.info().prereq {
            Prereq::None => true,
            Prereq::Vlan => self.get(Field::VlanVid).is_some_and(|m| m.value & 0x1000 != 0),
            Prereq::Mpls => is(Field::EthType, &[0x8847, 0x8848]),
            Prereq::Ct => ct(&[0x0800, 0x86dd]),
            Prereq::Ct4 => ct(&[0x0800]),
            Prereq::Ct6 => ct(&[0x86dd]),
            Prereq::Arp => is(Field::EthType, &[0x0806, 0x8035]),
            Prereq::Ipv4 => is(Field::EthType, &[0x0800]),
            Prereq::Ipv6 => is(Field::EthType, &[0x86dd]),
            Prereq::Ip => is(Field::EthType, &[0x0800, 0x86dd]),
            Prereq::Tcp => ip(6),
            Prereq::Udp => ip(17),
            Prereq::Sctp => ip(132),
            Prereq::Icmp4 => is(Field::EthType, &[0x0800]) && is(Field::NwProto, &[1]),
            Prereq::Icmp6 => is(Field::EthType, &[0x86dd]) && is(Field::NwProto, &[58]),
            Prereq::Nd => icmp6(&[135, 136]),
            Prereq::NdSolicit => icmp6(&[135]),
            Prereq::NdAdvert => icmp6(&[136]),
        };
        self.fields.iter().map(|m| m.field).find(|f| !met(*f))
    }

    /// Takes a canonical field out of the match.
    pub fn remove(&mut self, field: Field) -> Option<MatchField> {
        self.position(field).ok().map(|i| self.fields.remove(i))
    }

    /// All bits of `field` must be those of `value`.
    pub fn exact(mut self, field: Field, value: u128) -> Self {
        self.insert(field, value, field.full_mask());
        self
    }

    /// The bits in `mask` of `field` must be those of `value`.
    pub fn masked(mut self, field: Field, value: u128, mask: u128) -> Self {
        self.insert(field, value, mask);
        self
    }

    /// The bits of `sub` must be `value`.
    pub fn bits(mut self, sub: SubField, value: u128) -> Self {
        self.insert(sub.field(), sub.place(value), sub.mask());
        self
    }

    // Protocols.

    /// An Ethernet type.
    pub fn eth_type(self, t: u16) -> Self {
        self.exact(Field::EthType, t.into())
    }
    /// ARP.
    pub fn arp(self) -> Self {
        self.eth_type(0x0806)
    }
    /// IPv4.
    pub fn ip(self) -> Self {
        self.eth_type(0x0800)
    }
    /// IPv6.
    pub fn ipv6(self) -> Self {
        self.eth_type(0x86dd)
    }
    /// An IP protocol; say `.ip()` or `.ipv6()` too.
    pub fn nw_proto(self, p: u8) -> Self {
        self.exact(Field::NwProto, p.into())
    }
    /// TCP over IPv4.
    pub fn tcp(self) -> Self {
        self.ip().nw_proto(6)
    }
    /// TCP over IPv6.
    pub fn tcp6(self) -> Self {
        self.ipv6().nw_proto(6)
    }
    /// UDP over IPv4.
    pub fn udp(self) -> Self {
        self.ip().nw_proto(17)
    }
    /// UDP over IPv6.
    pub fn udp6(self) -> Self {
        self.ipv6().nw_proto(17)
    }
    /// SCTP over IPv4.
    pub fn sctp(self) -> Self {
        self.ip().nw_proto(132)
    }
    /// SCTP over IPv6.
    pub fn sctp6(self) -> Self {
        self.ipv6().nw_proto(132)
    }
    /// ICMP.
    pub fn icmp(self) -> Self {
        self.ip().nw_proto(1)
    }
    /// ICMPv6.
    pub fn icmp6(self) -> Self {
        self.ipv6().nw_proto(58)
    }
    /// IGMP.
    pub fn igmp(self) -> Self {
        self.ip().nw_proto(2)
    }

    // Ports and link layer.

    /// The port the packet came in on.
    pub fn in_port(self, port: impl Into<PortNo>) -> Self {
        self.exact(Field::InPortOxm, port.into().0.into())
    }
    /// The Ethernet source address.
    pub fn eth_src(self, mac: impl Into<MacAddr>) -> Self {
        self.exact(Field::EthSrc, mac.into().to_u128())
    }
    /// The Ethernet destination address.
    pub fn eth_dst(self, mac: impl Into<MacAddr>) -> Self {
        self.exact(Field::EthDst, mac.into().to_u128())
    }
    /// An 802.1Q header with this VLAN id (0–4095).
    pub fn vlan_vid(self, vid: u16) -> Self {
        self.exact(Field::VlanVid, u128::from(vid & 0xfff | 0x1000))
    }
    /// Any 802.1Q header.
    pub fn vlan_present(self) -> Self {
        self.masked(Field::VlanVid, 0x1000, 0x1000)
    }
    /// An 802.1Q header with this priority (0–7).
    pub fn vlan_pcp(self, pcp: u8) -> Self {
        self.exact(Field::VlanPcp, pcp.into())
    }

    // ARP.

    /// ARP operation: 1 request, 2 reply.
    pub fn arp_op(self, op: u16) -> Self {
        self.exact(Field::ArpOp, op.into())
    }
    /// ARP sender protocol address.
    pub fn arp_spa(self, net: impl Into<Ipv4Net>) -> Self {
        self.net4(Field::ArpSpa, net.into())
    }
    /// ARP target protocol address.
    pub fn arp_tpa(self, net: impl Into<Ipv4Net>) -> Self {
        self.net4(Field::ArpTpa, net.into())
    }
    /// ARP sender hardware address.
    pub fn arp_sha(self, mac: impl Into<MacAddr>) -> Self {
        self.exact(Field::ArpSha, mac.into().to_u128())
    }
    /// ARP target hardware address.
    pub fn arp_tha(self, mac: impl Into<MacAddr>) -> Self {
        self.exact(Field::ArpTha, mac.into().to_u128())
    }

    // IP. `nw_*` take either family and set the Ethernet type with it.

    fn net4(self, field: Field, net: Ipv4Net) -> Self {
        self.masked(field, net.addr().to_bits().into(), net.netmask().to_bits().into())
    }
    fn net6(self, field: Field, net: Ipv6Net) -> Self {
        self.masked(field, net.addr().to_bits(), net.netmask().to_bits())
    }
    /// The IP source, with the Ethernet type of its family.
    pub fn nw_src(self, net: impl Into<IpNet>) -> Self {
        match net.into() {
            IpNet::V4(n) => self.ip().net4(Field::Ipv4Src, n),
            IpNet::V6(n) => self.ipv6().net6(Field::Ipv6Src, n),
        }
    }
    /// The IP destination, with the Ethernet type of its family.
    pub fn nw_dst(self, net: impl Into<IpNet>) -> Self {
        match net.into() {
            IpNet::V4(n) => self.ip().net4(Field::Ipv4Dst, n),
            IpNet::V6(n) => self.ipv6().net6(Field::Ipv6Dst, n),
        }
    }
    /// Time to live or hop limit.
    pub fn nw_ttl(self, ttl: u8) -> Self {
        self.exact(Field::NwTtl, ttl.into())
    }
    /// Differentiated services code point, 0–63.
    pub fn ip_dscp(self, dscp: u8) -> Self {
        self.exact(Field::IpDscp, dscp.into())
    }
    /// Explicit congestion notification, 0–3.
    pub fn ip_ecn(self, ecn: u8) -> Self {
        self.exact(Field::NwEcn, ecn.into())
    }
    /// Fragment bits: 1 any fragment, 2 not the first; those in `mask` are compared.
    pub fn ip_frag(self, value: u8, mask: u8) -> Self {
        self.masked(Field::IpFrag, value.into(), u128::from(mask & 3))
    }

    // Transport. The mask is that of the port number, 0xffff for one port.

    /// TCP source port.
    pub fn tcp_src(self, port: u16, mask: u16) -> Self {
        self.masked(Field::TcpSrc, port.into(), mask.into())
    }
    /// TCP destination port.
    pub fn tcp_dst(self, port: u16, mask: u16) -> Self {
        self.masked(Field::TcpDst, port.into(), mask.into())
    }
    /// TCP flags, bit 0 FIN to bit 11.
    pub fn tcp_flags(self, flags: u16, mask: u16) -> Self {
        self.masked(Field::TcpFlags, flags.into(), mask.into())
    }
    /// UDP source port.
    pub fn udp_src(self, port: u16, mask: u16) -> Self {
        self.masked(Field::UdpSrc, port.into(), mask.into())
    }
    /// UDP destination port.
    pub fn udp_dst(self, port: u16, mask: u16) -> Self {
        self.masked(Field::UdpDst, port.into(), mask.into())
    }
    /// SCTP source port.
    pub fn sctp_src(self, port: u16, mask: u16) -> Self {
        self.masked(Field::SctpSrc, port.into(), mask.into())
    }
    /// SCTP destination port.
    pub fn sctp_dst(self, port: u16, mask: u16) -> Self {
        self.masked(Field::SctpDst, port.into(), mask.into())
    }
    /// ICMP type.
    pub fn icmp_type(self, t: u8) -> Self {
        self.exact(Field::IcmpType, t.into())
    }
    /// ICMP code.
    pub fn icmp_code(self, c: u8) -> Self {
        self.exact(Field::IcmpCode, c.into())
    }
    /// ICMPv6 type.
    pub fn icmpv6_type(self, t: u8) -> Self {
        self.exact(Field::Icmpv6Type, t.into())
    }
    /// ICMPv6 code.
    pub fn icmpv6_code(self, c: u8) -> Self {
        self.exact(Field::Icmpv6Code, c.into())
    }
    /// Neighbour discovery target.
    pub fn nd_target(self, net: impl Into<Ipv6Net>) -> Self {
        self.net6(Field::NdTarget, net.into())
    }
    /// Neighbour discovery source link-layer address.
    pub fn nd_sll(self, mac: impl Into<MacAddr>) -> Self {
        self.exact(Field::NdSll, mac.into().to_u128())
    }
    /// Neighbour discovery target link-layer address.
    pub fn nd_tll(self, mac: impl Into<MacAddr>) -> Self {
        self.exact(Field::NdTll, mac.into().to_u128())
    }

    // Tunnel and metadata.

    /// Tunnel key.
    pub fn tun_id(self, id: u64) -> Self {
        self.exact(Field::TunId, id.into())
    }
    /// IPv4 source of the tunnel.
    pub fn tun_src(self, ip: Ipv4Addr) -> Self {
        self.exact(Field::TunSrc, ip.to_bits().into())
    }
    /// IPv4 destination of the tunnel.
    pub fn tun_dst(self, ip: Ipv4Addr) -> Self {
        self.exact(Field::TunDst, ip.to_bits().into())
    }
    /// IPv6 source of the tunnel.
    pub fn tun_ipv6_src(self, ip: Ipv6Addr) -> Self {
        self.exact(Field::TunIpv6Src, ip.to_bits())
    }
    /// IPv6 destination of the tunnel.
    pub fn tun_ipv6_dst(self, ip: Ipv6Addr) -> Self {
        self.exact(Field::TunIpv6Dst, ip.to_bits())
    }
    /// OpenFlow metadata.
    pub fn metadata(self, value: u64, mask: u64) -> Self {
        self.masked(Field::Metadata, value.into(), mask.into())
    }
    /// All of register `n`, which must be below 16 (others are ignored).
    pub fn reg(self, n: u8, value: u32) -> Self {
        match Field::reg(n) {
            Some(f) => self.exact(f, value.into()),
            None => self,
        }
    }
    /// All of the 128-bit register `n`, which must be below 4 (others are ignored).
    pub fn xxreg(self, n: u8, value: u128) -> Self {
        match Field::xxreg(n) {
            Some(f) => self.exact(f, value),
            None => self,
        }
    }
    /// The kernel's packet mark.
    pub fn pkt_mark(self, value: u32, mask: u32) -> Self {
        self.masked(Field::PktMark, value.into(), mask.into())
    }
    /// The id of a conjunction all of whose clauses matched.
    pub fn conj_id(self, id: u32) -> Self {
        self.exact(Field::ConjId, id.into())
    }

    // Connection tracking.

    /// Connection-tracking state.
    pub fn ct_state(self, s: CtState) -> Self {
        self.masked(Field::CtState, s.value().into(), s.mask().into())
    }
    /// Connection-tracking zone.
    pub fn ct_zone(self, zone: u16) -> Self {
        self.exact(Field::CtZone, zone.into())
    }
    /// Connection mark.
    pub fn ct_mark(self, value: u32, mask: u32) -> Self {
        self.masked(Field::CtMark, value.into(), mask.into())
    }
    /// Connection label.
    pub fn ct_label(self, value: u128, mask: u128) -> Self {
        self.masked(Field::CtLabel, value, mask)
    }
    /// Source of the connection's original direction.
    pub fn ct_nw_src(self, net: impl Into<IpNet>) -> Self {
        match net.into() {
            IpNet::V4(n) => self.net4(Field::CtNwSrc, n),
            IpNet::V6(n) => self.net6(Field::CtIpv6Src, n),
        }
    }
    /// Destination of the connection's original direction.
    pub fn ct_nw_dst(self, net: impl Into<IpNet>) -> Self {
        match net.into() {
            IpNet::V4(n) => self.net4(Field::CtNwDst, n),
            IpNet::V6(n) => self.net6(Field::CtIpv6Dst, n),
        }
    }
}

/// The first register and the number of registers that a wide register field stands for.
fn split(field: Field) -> Option<(u8, u8)> {
    let at = |base: Field| field as u8 - base as u8;
    match field {
        f if (Field::Xreg0..=Field::Xreg7).contains(&f) => Some((2 * at(Field::Xreg0), 2)),
        f if (Field::Xxreg0..=Field::Xxreg3).contains(&f) => Some((4 * at(Field::Xxreg0), 4)),
        _ => None,
    }
}
