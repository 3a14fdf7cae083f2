//! What rules are made of: conditions and their values.

use std::{fmt, net::IpAddr};

/// A condition, or its opposite.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match<T> {
    /// Whether packets that do *not* meet the condition match (`!`).
    pub negated: bool,
    /// The condition.
    pub value: T,
}

impl<T> Match<T> {
    pub(crate) fn new(negated: bool, value: T) -> Self {
        Self { negated, value }
    }
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proto(pub u8);

impl Proto {
    /// `-p icmp`
    pub const ICMP: Proto = Proto(1);
    /// `-p tcp`
    pub const TCP: Proto = Proto(6);
    /// `-p udp`
    pub const UDP: Proto = Proto(17);
    /// `-p gre`, of a tunnel
    pub const GRE: Proto = Proto(47);
    /// IPsec ESP.
    pub const ESP: Proto = Proto(50);
    /// IPsec AH.
    pub const AH: Proto = Proto(51);
    /// `-p ipv6-icmp`
    pub const ICMPV6: Proto = Proto(58);
    /// `-p sctp`
    pub const SCTP: Proto = Proto(132);

    pub(crate) const NAMES: [(&'static str, Proto); 9] = [
        ("icmp", Proto::ICMP),
        ("tcp", Proto::TCP),
        ("udp", Proto::UDP),
        ("gre", Proto::GRE),
        ("esp", Proto::ESP),
        ("ah", Proto::AH),
        ("ipv6-icmp", Proto::ICMPV6),
        ("icmpv6", Proto::ICMPV6),
        ("sctp", Proto::SCTP),
    ];
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, proto)| proto == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Ports: inclusive ranges, at most 15 numbers with the ends of a range counting one each (`-m multiport`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports(pub Vec<(u16, u16)>);

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Ports(vec![(port, port)])
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (low, high)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{low}")?;
            if low != high {
                write!(f, ":{high}")?;
            }
        }
        Ok(())
    }
}

/// A value compared or set under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The bits.
    pub value: u32,
    /// Which bits count.
    pub mask: u32,
}

impl Mark {
    pub(super) fn whole_as_plain(self) -> String {
        match self.mask {
            u32::MAX => format!("{:#x}", self.value),
            mask => format!("{:#x}/{mask:#x}", self.value),
        }
    }
}

/// What part of a packet is looked up in an ipset; a set of several dimensions takes several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetDir {
    /// Source address or port.
    Src,
    /// Destination address or port.
    Dst,
}

/// Membership in an ipset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetMatch {
    pub name: String,
    /// One direction per dimension.
    pub dirs: Vec<SetDir>,
}

/// Kind of an address in the local routing tables (`-m addrtype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddrType {
    /// Of this host.
    Local,
    Unicast,
    Broadcast,
    Multicast,
}

impl AddrType {
    pub(crate) const NAMES: [(&'static str, AddrType); 4] = [
        ("LOCAL", AddrType::Local),
        ("UNICAST", AddrType::Unicast),
        ("BROADCAST", AddrType::Broadcast),
        ("MULTICAST", AddrType::Multicast),
    ];
}

/// State of a connection (`-m conntrack --ctstate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtState {
    /// Belongs to no connection.
    Invalid,
    /// Opens one.
    New,
    /// Opens one that another one announced.
    Related,
    /// Belongs to one seen both ways.
    Established,
    /// Not tracked.
    Untracked,
    /// Its source was translated.
    Snat,
    /// Its destination was translated.
    Dnat,
}

impl CtState {
    pub(crate) const NAMES: [(&'static str, CtState); 7] = [
        ("INVALID", CtState::Invalid),
        ("NEW", CtState::New),
        ("RELATED", CtState::Related),
        ("ESTABLISHED", CtState::Established),
        ("UNTRACKED", CtState::Untracked),
        ("SNAT", CtState::Snat),
        ("DNAT", CtState::Dnat),
    ];
}

/// ICMP or ICMPv6 type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpType {
    pub kind: u8,
    /// Code; any if not given.
    pub code: Option<u8>,
}

/// New address, and port range, of a translated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatTo {
    pub ip: IpAddr,
    /// Inclusive port range.
    pub ports: Option<(u16, u16)>,
}

impl From<IpAddr> for NatTo {
    fn from(ip: IpAddr) -> Self {
        Self { ip, ports: None }
    }
}

impl fmt::Display for NatTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((low, high)) = self.ports else { return write!(f, "{}", self.ip) };
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{low}")?,
            IpAddr::V6(ip) => write!(f, "[{ip}]:{low}")?,
        }
        if low != high {
            write!(f, "-{high}")?;
        }
        Ok(())
    }
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectWith {
    /// ICMP port unreachable (IPv4).
    PortUnreachable,
    /// ICMPv6 port unreachable.
    PortUnreachable6,
    /// ICMP communication administratively prohibited (IPv4).
    AdminProhibited,
    /// ICMPv6 communication administratively prohibited.
    AdminProhibited6,
    /// A TCP reset; for TCP only.
    TcpReset,
}

impl RejectWith {
    pub(crate) const NAMES: [(&'static str, RejectWith); 5] = [
        ("icmp-port-unreachable", RejectWith::PortUnreachable),
        ("icmp6-port-unreachable", RejectWith::PortUnreachable6),
        ("icmp-admin-prohibited", RejectWith::AdminProhibited),
        ("icmp6-adm-prohibited", RejectWith::AdminProhibited6),
        ("tcp-reset", RejectWith::TcpReset),
    ];
}
