//! Fields that flows match on and actions read or write: names, sizes and OXM/NXM identifiers.

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// How a field's value is written in text (ovs-fields(7), "Format").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Dec,
    Hex,
    Mac,
    Ipv4,
    Ipv6,
    Port,
    CtState,
    Frag,
    TunFlags,
    TcpFlags,
    PacketType,
}

/// What a packet must be for a field to exist (ovs-fields(7), "Prerequisites").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prereq {
    None,
    Vlan,
    Mpls,
    /// A valid connection-tracking state, of either family.
    Ct,
    Ct4,
    Ct6,
    Arp,
    Ipv4,
    Ipv6,
    Ip,
    Tcp,
    Udp,
    Sctp,
    Icmp4,
    Icmp6,
    Nd,
    NdSolicit,
    NdAdvert,
}

/// The identifier of a field on the wire: the upper 23 bits of an OXM header, plus the experimenter
/// of class 0xffff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OxmId {
    /// OXM class: 0x0000 `NXM_OF`, 0x0001 `NXM_NX`, 0x8000 `OXM_OF`, 0x8001 `OXM_OF_PKT_REG`, 0xffff
    /// experimenter.
    pub class: u16,
    /// Field number within the class, 0–127.
    pub field: u8,
    /// Experimenter of class 0xffff, else 0.
    pub experimenter: u32,
}

const fn id(class: u16, field: u8) -> Option<OxmId> {
    Some(OxmId { class, field, experimenter: 0 })
}
const fn onf(field: u8) -> Option<OxmId> {
    Some(OxmId { class: 0xffff, field, experimenter: 0x4f4e_4600 })
}
const NXM_OF: u16 = 0;
const NXM_NX: u16 = 1;
const OXM_OF: u16 = 0x8000;
const PKT_REG: u16 = 0x8001;

pub(crate) struct Info {
    pub(crate) name: &'static str,
    pub(crate) alias: &'static str,
    pub(crate) bits: u16,
    pub(crate) format: Format,
    pub(crate) maskable: bool,
    pub(crate) prereq: Prereq,
    pub(crate) nxm: Option<OxmId>,
    pub(crate) oxm: Option<OxmId>,
    pub(crate) nxm_name: &'static str,
    pub(crate) oxm_name: &'static str,
}

macro_rules! fields {
    ($( $variant:ident $name:literal $alias:literal $bits:literal $fmt:ident $mask:literal $pre:ident
        [$nxm:expr, $nxm_name:literal] [$oxm:expr, $oxm_name:literal] ; )*) => {
        /// A field known to this crate. The declaration order is the order in which Open vSwitch writes
        /// a match.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field {
            $(
                #[doc = concat!("`", $name, "`, ", stringify!($bits), " bits.")]
                $variant,
            )*
        }
        impl Field {
            /// Every field, in declaration order.
            pub const ALL: &'static [Field] = &[$(Field::$variant),*];
        }
        static INFO: &[Info] = &[$(
            Info {
                name: $name, alias: $alias, bits: $bits, format: Format::$fmt, maskable: $mask,
                prereq: Prereq::$pre, nxm: $nxm, oxm: $oxm, nxm_name: $nxm_name, oxm_name: $oxm_name,
            },
        )*];
    };
}

fields! {
    PacketType "packet_type" "" 32 PacketType false None [None, ""] [id(OXM_OF, 44), "OXM_OF_PACKET_TYPE"];
    ConjId "conj_id" "" 32 Dec false None [id(NXM_NX, 37), "NXM_NX_CONJ_ID"] [None, ""];
    InPort "in_port" "" 16 Port false None [id(NXM_OF, 0), "NXM_OF_IN_PORT"] [None, ""];
    InPortOxm "in_port_oxm" "" 32 Port false None [None, ""] [id(OXM_OF, 0), "OXM_OF_IN_PORT"];
    ActsetOutput "actset_output" "" 32 Port false None [None, ""] [id(OXM_OF, 43), "OXM_OF_ACTSET_OUTPUT"];
    EthSrc "eth_src" "dl_src" 48 Mac true None [id(NXM_OF, 2), "NXM_OF_ETH_SRC"] [id(OXM_OF, 4), "OXM_OF_ETH_SRC"];
    EthDst "eth_dst" "dl_dst" 48 Mac true None [id(NXM_OF, 1), "NXM_OF_ETH_DST"] [id(OXM_OF, 3), "OXM_OF_ETH_DST"];
    EthType "eth_type" "dl_type" 16 Hex false None [id(NXM_OF, 3), "NXM_OF_ETH_TYPE"] [id(OXM_OF, 5), "OXM_OF_ETH_TYPE"];
    VlanTci "vlan_tci" "" 16 Hex true None [id(NXM_OF, 4), "NXM_OF_VLAN_TCI"] [None, ""];
    VlanVid "vlan_vid" "" 13 Dec true None [None, ""] [id(OXM_OF, 6), "OXM_OF_VLAN_VID"];
    VlanPcp "vlan_pcp" "" 3 Dec false Vlan [None, ""] [id(OXM_OF, 7), "OXM_OF_VLAN_PCP"];
    MplsTc "mpls_tc" "" 3 Dec false Mpls [None, ""] [id(OXM_OF, 35), "OXM_OF_MPLS_TC"];
    MplsBos "mpls_bos" "" 1 Dec false Mpls [None, ""] [id(OXM_OF, 36), "OXM_OF_MPLS_BOS"];
    MplsTtl "mpls_ttl" "" 8 Dec false Mpls [id(NXM_NX, 30), "NXM_NX_MPLS_TTL"] [None, ""];
    MplsLabel "mpls_label" "" 20 Dec false Mpls [None, ""] [id(OXM_OF, 34), "OXM_OF_MPLS_LABEL"];
    Ipv4Src "ip_src" "nw_src" 32 Ipv4 true Ipv4 [id(NXM_OF, 7), "NXM_OF_IP_SRC"] [id(OXM_OF, 11), "OXM_OF_IPV4_SRC"];
    Ipv4Dst "ip_dst" "nw_dst" 32 Ipv4 true Ipv4 [id(NXM_OF, 8), "NXM_OF_IP_DST"] [id(OXM_OF, 12), "OXM_OF_IPV4_DST"];
    Ipv6Src "ipv6_src" "" 128 Ipv6 true Ipv6 [id(NXM_NX, 19), "NXM_NX_IPV6_SRC"] [id(OXM_OF, 26), "OXM_OF_IPV6_SRC"];
    Ipv6Dst "ipv6_dst" "" 128 Ipv6 true Ipv6 [id(NXM_NX, 20), "NXM_NX_IPV6_DST"] [id(OXM_OF, 27), "OXM_OF_IPV6_DST"];
    IpFrag "ip_frag" "nw_frag" 2 Frag true Ip [id(NXM_NX, 26), "NXM_NX_IP_FRAG"] [None, ""];
    NwTos "nw_tos" "" 8 Dec false Ip [id(NXM_OF, 5), "NXM_OF_IP_TOS"] [None, ""];
    IpDscp "ip_dscp" "" 6 Dec false Ip [None, ""] [id(OXM_OF, 8), "OXM_OF_IP_DSCP"];
    NwEcn "nw_ecn" "ip_ecn" 2 Dec false Ip [id(NXM_NX, 28), "NXM_NX_IP_ECN"] [id(OXM_OF, 9), "OXM_OF_IP_ECN"];
    NwTtl "nw_ttl" "" 8 Dec false Ip [id(NXM_NX, 29), "NXM_NX_IP_TTL"] [None, ""];
    Ipv6Label "ipv6_label" "" 20 Hex true Ipv6 [id(NXM_NX, 27), "NXM_NX_IPV6_LABEL"] [id(OXM_OF, 28), "OXM_OF_IPV6_FLABEL"];
    NwProto "nw_proto" "ip_proto" 8 Dec false Ip [id(NXM_OF, 6), "NXM_OF_IP_PROTO"] [id(OXM_OF, 10), "OXM_OF_IP_PROTO"];
    TcpSrc "tcp_src" "" 16 Dec true Tcp [id(NXM_OF, 9), "NXM_OF_TCP_SRC"] [id(OXM_OF, 13), "OXM_OF_TCP_SRC"];
    TcpDst "tcp_dst" "" 16 Dec true Tcp [id(NXM_OF, 10), "NXM_OF_TCP_DST"] [id(OXM_OF, 14), "OXM_OF_TCP_DST"];
    TcpFlags "tcp_flags" "" 12 TcpFlags true Tcp [id(NXM_NX, 34), "NXM_NX_TCP_FLAGS"] [id(OXM_OF, 42), "OXM_OF_TCP_FLAGS"];
    UdpSrc "udp_src" "" 16 Dec true Udp [id(NXM_OF, 11), "NXM_OF_UDP_SRC"] [id(OXM_OF, 15), "OXM_OF_UDP_SRC"];
    UdpDst "udp_dst" "" 16 Dec true Udp [id(NXM_OF, 12), "NXM_OF_UDP_DST"] [id(OXM_OF, 16), "OXM_OF_UDP_DST"];
    SctpSrc "sctp_src" "" 16 Dec true Sctp [None, ""] [id(OXM_OF, 17), "OXM_OF_SCTP_SRC"];
    SctpDst "sctp_dst" "" 16 Dec true Sctp [None, ""] [id(OXM_OF, 18), "OXM_OF_SCTP_DST"];
    IcmpType "icmp_type" "" 8 Dec false Icmp4 [id(NXM_OF, 13), "NXM_OF_ICMP_TYPE"] [id(OXM_OF, 19), "OXM_OF_ICMPV4_TYPE"];
    IcmpCode "icmp_code" "" 8 Dec false Icmp4 [id(NXM_OF, 14), "NXM_OF_ICMP_CODE"] [id(OXM_OF, 20), "OXM_OF_ICMPV4_CODE"];
    Icmpv6Type "icmpv6_type" "" 8 Dec false Icmp6 [id(NXM_NX, 21), "NXM_NX_ICMPV6_TYPE"] [id(OXM_OF, 29), "OXM_OF_ICMPV6_TYPE"];
    Icmpv6Code "icmpv6_code" "" 8 Dec false Icmp6 [id(NXM_NX, 22), "NXM_NX_ICMPV6_CODE"] [id(OXM_OF, 30), "OXM_OF_ICMPV6_CODE"];
    NdTarget "nd_target" "" 128 Ipv6 true Nd [id(NXM_NX, 23), "NXM_NX_ND_TARGET"] [id(OXM_OF, 31), "OXM_OF_IPV6_ND_TARGET"];
    NdSll "nd_sll" "" 48 Mac true NdSolicit [id(NXM_NX, 24), "NXM_NX_ND_SLL"] [id(OXM_OF, 32), "OXM_OF_IPV6_ND_SLL"];
    NdTll "nd_tll" "" 48 Mac true NdAdvert [id(NXM_NX, 25), "NXM_NX_ND_TLL"] [id(OXM_OF, 33), "OXM_OF_IPV6_ND_TLL"];
    ArpOp "arp_op" "" 16 Dec false Arp [id(NXM_OF, 15), "NXM_OF_ARP_OP"] [id(OXM_OF, 21), "OXM_OF_ARP_OP"];
    ArpSpa "arp_spa" "" 32 Ipv4 true Arp [id(NXM_OF, 16), "NXM_OF_ARP_SPA"] [id(OXM_OF, 22), "OXM_OF_ARP_SPA"];
    ArpTpa "arp_tpa" "" 32 Ipv4 true Arp [id(NXM_OF, 17), "NXM_OF_ARP_TPA"] [id(OXM_OF, 23), "OXM_OF_ARP_TPA"];
    ArpSha "arp_sha" "" 48 Mac true Arp [id(NXM_NX, 17), "NXM_NX_ARP_SHA"] [id(OXM_OF, 24), "OXM_OF_ARP_SHA"];
    ArpTha "arp_tha" "" 48 Mac true Arp [id(NXM_NX, 18), "NXM_NX_ARP_THA"] [id(OXM_OF, 25), "OXM_OF_ARP_THA"];
    TunId "tun_id" "tunnel_id" 64 Hex true None [id(NXM_NX, 16), "NXM_NX_TUN_ID"] [id(OXM_OF, 38), "OXM_OF_TUNNEL_ID"];
    TunFlags "tun_flags" "" 16 TunFlags true None [id(NXM_NX, 104), "NXM_NX_TUN_FLAGS"] [None, ""];
    TunSrc "tun_src" "" 32 Ipv4 true None [id(NXM_NX, 31), "NXM_NX_TUN_IPV4_SRC"] [None, ""];
    TunDst "tun_dst" "" 32 Ipv4 true None [id(NXM_NX, 32), "NXM_NX_TUN_IPV4_DST"] [None, ""];
    TunIpv6Src "tun_ipv6_src" "" 128 Ipv6 true None [id(NXM_NX, 109), "NXM_NX_TUN_IPV6_SRC"] [None, ""];
    TunIpv6Dst "tun_ipv6_dst" "" 128 Ipv6 true None [id(NXM_NX, 110), "NXM_NX_TUN_IPV6_DST"] [None, ""];
    TunGbpId "tun_gbp_id" "" 16 Dec true None [id(NXM_NX, 38), "NXM_NX_TUN_GBP_ID"] [None, ""];
    TunGbpFlags "tun_gbp_flags" "" 8 Hex true None [id(NXM_NX, 39), "NXM_NX_TUN_GBP_FLAGS"] [None, ""];
    Reg0 "reg0" "" 32 Hex true None [id(NXM_NX, 0), "NXM_NX_REG0"] [None, ""];
    Reg1 "reg1" "" 32 Hex true None [id(NXM_NX, 1), "NXM_NX_REG1"] [None, ""];
    Reg2 "reg2" "" 32 Hex true None [id(NXM_NX, 2), "NXM_NX_REG2"] [None, ""];
    Reg3 "reg3" "" 32 Hex true None [id(NXM_NX, 3), "NXM_NX_REG3"] [None, ""];
    Reg4 "reg4" "" 32 Hex true None [id(NXM_NX, 4), "NXM_NX_REG4"] [None, ""];
    Reg5 "reg5" "" 32 Hex true None [id(NXM_NX, 5), "NXM_NX_REG5"] [None, ""];
    Reg6 "reg6" "" 32 Hex true None [id(NXM_NX, 6), "NXM_NX_REG6"] [None, ""];
    Reg7 "reg7" "" 32 Hex true None [id(NXM_NX, 7), "NXM_NX_REG7"] [None, ""];
    Reg8 "reg8" "" 32 Hex true None [id(NXM_NX, 8), "NXM_NX_REG8"] [None, ""];
    Reg9 "reg9" "" 32 Hex true None [id(NXM_NX, 9), "NXM_NX_REG9"] [None, ""];
    Reg10 "reg10" "" 32 Hex true None [id(NXM_NX, 10), "NXM_NX_REG10"] [None, ""];
    Reg11 "reg11" "" 32 Hex true None [id(NXM_NX, 11), "NXM_NX_REG11"] [None, ""];
    Reg12 "reg12" "" 32 Hex true None [id(NXM_NX, 12), "NXM_NX_REG12"] [None, ""];
    Reg13 "reg13" "" 32 Hex true None [id(NXM_NX, 13), "NXM_NX_REG13"] [None, ""];
    Reg14 "reg14" "" 32 Hex true None [id(NXM_NX, 14), "NXM_NX_REG14"] [None, ""];
    Reg15 "reg15" "" 32 Hex true None [id(NXM_NX, 15), "NXM_NX_REG15"] [None, ""];
    Xreg0 "xreg0" "" 64 Hex true None [None, ""] [id(PKT_REG, 0), "OXM_OF_PKT_REG0"];
    Xreg1 "xreg1" "" 64 Hex true None [None, ""] [id(PKT_REG, 1), "OXM_OF_PKT_REG1"];
    Xreg2 "xreg2" "" 64 Hex true None [None, ""] [id(PKT_REG, 2), "OXM_OF_PKT_REG2"];
    Xreg3 "xreg3" "" 64 Hex true None [None, ""] [id(PKT_REG, 3), "OXM_OF_PKT_REG3"];
    Xreg4 "xreg4" "" 64 Hex true None [None, ""] [id(PKT_REG, 4), "OXM_OF_PKT_REG4"];
    Xreg5 "xreg5" "" 64 Hex true None [None, ""] [id(PKT_REG, 5), "OXM_OF_PKT_REG5"];
    Xreg6 "xreg6" "" 64 Hex true None [None, ""] [id(PKT_REG, 6), "OXM_OF_PKT_REG6"];
    Xreg7 "xreg7" "" 64 Hex true None [None, ""] [id(PKT_REG, 7), "OXM_OF_PKT_REG7"];
    Xxreg0 "xxreg0" "" 128 Hex true None [id(NXM_NX, 111), "NXM_NX_XXREG0"] [None, ""];
    Xxreg1 "xxreg1" "" 128 Hex true None [id(NXM_NX, 112), "NXM_NX_XXREG1"] [None, ""];
    Xxreg2 "xxreg2" "" 128 Hex true None [id(NXM_NX, 113), "NXM_NX_XXREG2"] [None, ""];
    Xxreg3 "xxreg3" "" 128 Hex true None [id(NXM_NX, 114), "NXM_NX_XXREG3"] [None, ""];
    PktMark "pkt_mark" "" 32 Hex true None [id(NXM_NX, 33), "NXM_NX_PKT_MARK"] [None, ""];
    CtState "ct_state" "" 32 CtState true None [id(NXM_NX, 105), "NXM_NX_CT_STATE"] [None, ""];
    CtZone "ct_zone" "" 16 Dec false None [id(NXM_NX, 106), "NXM_NX_CT_ZONE"] [None, ""];
    CtMark "ct_mark" "" 32 Hex true None [id(NXM_NX, 107), "NXM_NX_CT_MARK"] [None, ""];
    CtLabel "ct_label" "" 128 Hex true None [id(NXM_NX, 108), "NXM_NX_CT_LABEL"] [None, ""];
    CtNwSrc "ct_nw_src" "" 32 Ipv4 true Ct4 [id(NXM_NX, 120), "NXM_NX_CT_NW_SRC"] [None, ""];
    CtIpv6Src "ct_ipv6_src" "" 128 Ipv6 true Ct6 [id(NXM_NX, 122), "NXM_NX_CT_IPV6_SRC"] [None, ""];
    CtNwDst "ct_nw_dst" "" 32 Ipv4 true Ct4 [id(NXM_NX, 121), "NXM_NX_CT_NW_DST"] [None, ""];
    CtIpv6Dst "ct_ipv6_dst" "" 128 Ipv6 true Ct6 [id(NXM_NX, 123), "NXM_NX_CT_IPV6_DST"] [None, ""];
    CtNwProto "ct_nw_proto" "" 8 Dec false Ct [id(NXM_NX, 119), "NXM_NX_CT_NW_PROTO"] [None, ""];
    CtTpSrc "ct_tp_src" "" 16 Dec true Ct [id(NXM_NX, 124), "NXM_NX_CT_TP_SRC"] [None, ""];
    CtTpDst "ct_tp_dst" "" 16 Dec true Ct [id(NXM_NX, 125), "NXM_NX_CT_TP_DST"] [None, ""];
    Metadata "metadata" "" 64 Hex true None [None, ""] [id(OXM_OF, 2), "OXM_OF_METADATA"];
}

impl Field {
    #[allow(clippy::indexing_slicing)]
    pub(crate) fn info(self) -> &'static Info {
        &INFO[self as usize]
    }

    /// The name that ovs-fields(7) gives the field, such as `reg0`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Number of significant bits, 1–128.
    pub fn bits(self) -> u16 {
        self.info().bits
    }

    /// Number of bits that a sub-field can address: as [`Field::bits`], except that `vlan_vid`'s bit for
    /// "present" is out of reach.
    pub(crate) fn sub_bits(self) -> u16 {
        if self == Field::VlanVid { 12 } else { self.bits() }
    }

    /// Bytes of the value on the wire, 1–16.
    pub fn bytes(self) -> usize {
        match self {
            // 20-bit labels travel in 32 bits.
            Field::MplsLabel | Field::Ipv6Label => 4,
            f => usize::from(f.bits().div_ceil(8)),
        }
    }

    /// All significant bits set: the mask of an exact match.
    pub fn full_mask(self) -> u128 {
        u128::MAX >> (128 - u32::from(self.bits()))
    }

    /// `regN`; `None` unless `n < 16`.
    pub fn reg(n: u8) -> Option<Field> {
        (n < 16).then(|| Self::offset(Field::Reg0, n))
    }

    /// `xregN`, the pair `reg2N:reg2N+1`; `None` unless `n < 8`.
    pub fn xreg(n: u8) -> Option<Field> {
        (n < 8).then(|| Self::offset(Field::Xreg0, n))
    }

    /// `xxregN`, the four `reg4N…reg4N+3`; `None` unless `n < 4`.
    pub fn xxreg(n: u8) -> Option<Field> {
        (n < 4).then(|| Self::offset(Field::Xxreg0, n))
    }

    #[allow(clippy::indexing_slicing)]
    fn offset(base: Field, n: u8) -> Field {
        Self::ALL[base as usize + usize::from(n)]
    }

    /// The identifier used by Nicira actions: NXM if the field has one, else OXM.
    pub fn nxm_id(self) -> OxmId {
        let i = self.info();
        i.nxm.or(i.oxm).expect("must have an identifier: the table gives every field one")
    }

    /// The identifier used by OpenFlow 1.5 matches and actions: OXM if the field has one, else NXM.
    pub fn oxm_id(self) -> OxmId {
        let i = self.info();
        i.oxm.or(i.nxm).expect("must have an identifier: the table gives every field one")
    }

    /// The field with this identifier, whichever of its names it is.
    pub fn from_id(wanted: OxmId) -> Option<Field> {
        if wanted.class == 0xffff {
            return match (Some(wanted) == onf(42), Some(wanted) == onf(43)) {
                (true, _) => Some(Field::TcpFlags),
                (_, true) => Some(Field::ActsetOutput),
                _ => None,
            };
        }
        let class = class_index(wanted.class)?;
        *by_id().get(class)?.get(usize::from(wanted.field))?
    }
}

fn class_index(class: u16) -> Option<usize> {
    [NXM_OF, NXM_NX, OXM_OF, PKT_REG].iter().position(|c| *c == class)
}

type ById = [[Option<Field>; 128]; 4];

fn by_id() -> &'static ById {
    static MAP: std::sync::OnceLock<Box<ById>> = std::sync::OnceLock::new();
    MAP.get_or_init(|| {
        let mut map = Box::new([[None; 128]; 4]);
        for f in Field::ALL {
            for id in [f.info().nxm, f.info().oxm].into_iter().flatten() {
                let row = class_index(id.class).and_then(|c| map.get_mut(c));
                if let Some(slot) = row.and_then(|r| r.get_mut(usize::from(id.field))) {
                    *slot = Some(*f);
                }
            }
        }
        map
    })
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Field {
    type Err = ParseError;

    /// Accepts the name, its alias and the `NXM_…`/`OXM_…` constants, case-insensitively.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        Field::ALL
            .iter()
            .copied()
            .find(|f| {
                let i = f.info();
                [i.name, i.alias, i.nxm_name, i.oxm_name]
                    .iter()
                    .any(|n| !n.is_empty() && n.eq_ignore_ascii_case(s))
            })
            .ok_or_else(|| ParseError::new("field", s, "unknown field"))
    }
}
