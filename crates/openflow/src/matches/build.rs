//! Matches by the names that ovs-fields(7) has for fields.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Match;
use crate::{CtState, Field, MacAddr, PortNo, SubField};

impl Match {
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
    /// Frames with EtherType 0x0806.
    pub fn arp(self) -> Self {
        self.eth_type(0x0806)
    }
    /// IPv4.
    pub fn ip(self) -> Self {
        self.eth_type(0x0800)
    }
    /// Frames with EtherType 0x86dd.
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
    /// Protocol 1 over IPv4.
    pub fn icmp(self) -> Self {
        self.ip().nw_proto(1)
    }
    /// ICMPv6.
    pub fn icmp6(self) -> Self {
        self.ipv6().nw_proto(58)
    }
    /// Protocol 2 over IPv4.
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
    /// Type of the message; say `.icmp()` too.
    pub fn icmp_type(self, t: u8) -> Self {
        self.exact(Field::IcmpType, t.into())
    }
    /// Code of the message; say `.icmp()` too.
    pub fn icmp_code(self, c: u8) -> Self {
        self.exact(Field::IcmpCode, c.into())
    }
    /// Type of the message; say `.icmp6()` too.
    pub fn icmpv6_type(self, t: u8) -> Self {
        self.exact(Field::Icmpv6Type, t.into())
    }
    /// Code of the message; say `.icmp6()` too.
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
