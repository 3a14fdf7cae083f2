//! A table as it should be: plain data, and the text that nft reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sha1::{Digest, Sha1};

use crate::Family;

/// A table of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family of all addresses in it.
    pub family: Family,
    /// Its name. Beginning with `ANTREA-`, it is seen by [`super::NftMonitor`].
    pub name: &'static str,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Maps from addresses to verdicts, by name.
    pub maps: BTreeMap<String, BTreeMap<IpAddr, Verdict>>,
}

/// A chain as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come in by themselves.
    pub hook: Option<Hook>,
    /// Rules in order. What none of them decides returns, from a hook's chain into the stack.
    pub rules: Vec<Rule>,
}

/// A place in the kernel's way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name: `input`, `forward`, `output`.
    pub name: &'static str,
    /// Place among others there.
    pub priority: i32,
}

/// Members of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// Single addresses, which come and go.
    Addresses(BTreeSet<IpAddr>),
    /// Ranges that neither overlap nor touch. Such a set is made once and stays as it is.
    Ranges(BTreeSet<(IpAddr, IpAddr)>),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing of this table forbids it.
    Accept,
    /// It goes no further.
    Drop,
    /// Another chain decides.
    Goto(String),
    /// Another chain is asked first.
    Jump(String),
    /// What a map says of the source; where it says nothing the next rule is asked.
    OfSource(String),
}

/// Conditions and what follows when all of them hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All have to hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
}

/// What a rule asks of a packet. A packet that lacks what is asked for does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It came in by this link.
    InIface(String),
    /// It does not leave by this link.
    NotOutIface(String),
    /// Its source is in this range.
    Src(IpNet),
    /// It has another source.
    NotSrc(IpAddr),
    /// Its destination is in this range.
    Dst(IpNet),
    /// Its destination is in the set of this name.
    DstIn(String),
    /// It belongs to a connection that was seen before: by its addresses and ports, which another one may have had.
    Known,
    /// It is of TCP and does not ask for a connection: SYN without ACK (RFC 9293 §3.5).
    TcpGoesOn,
    /// Its connection is followed: no rule of the table `raw` has taken it out.
    Tracked,
    /// Its connection's destination was translated by netfilter.
    Translated,
    /// Its destination is the one that its connection had at first, and this one.
    AsSent(IpAddr),
    /// The destination port that its connection had at first is not in this range; to come after [`Self::Protocol`].
    NotSentTo(u16, u16),
    /// Its protocol has this number.
    Protocol(u8),
    /// Its protocol has another number.
    NotProtocol(u8),
    /// A port of TCP, UDP or SCTP is in one of these ranges, which are in order and do not overlap.
    Ports {
        /// `tcp`, `udp` or `sctp`.
        protocol: &'static str,
        /// `dport` or `sport`.
        which: &'static str,
        /// First and last of each.
        ranges: Vec<(u16, u16)>,
    },
    /// ICMP of the family with types in this range.
    IcmpType(u8, u8),
    /// ICMP of the family with this code.
    IcmpCode(u8),
}

impl Set {
    /// A set of ranges of one family, from whatever covers it.
    pub fn of_nets(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let mut nets: Vec<(u128, u128, IpNet)> =
            nets.into_iter().map(|net| (number(net.network()), number(net.broadcast()), net)).collect();
        nets.sort_unstable_by_key(|(first, last, _)| (*first, *last));
        let mut merged: Vec<(u128, u128, bool)> = Vec::new();
        for (first, last, net) in nets {
            match merged.last_mut() {
                Some((_, end, _)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                    *end = (*end).max(last);
                }
                _ => merged.push((first, last, matches!(net, IpNet::V4(_)))),
            }
        }
        Self::Ranges(merged.into_iter().map(|(a, b, v4)| (address(a, v4), address(b, v4))).collect())
    }
}

pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

/// The keyword of a family's addresses, and of its tables.
pub(super) fn keyword(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

impl Rule {
    /// A rule for all packets.
    pub fn new(verdict: Verdict) -> Self {
        Self { matches: Vec::new(), verdict }
    }

    /// Narrows it.
    #[must_use]
    pub fn when(mut self, one: Match) -> Self {
        self.matches.push(one);
        self
    }

    /// As nft reads it, without its digest.
    pub(super) fn text(&self, family: Family) -> String {
        let mut text = String::new();
        for one in &self.matches {
            one.write(family, &mut text);
            text.push(' ');
        }
        if self.verdict == Verdict::Drop {
            text.push_str("counter ");
        }
        if let Verdict::OfSource(map) = &self.verdict {
            let _ = write!(text, "{} saddr vmap @{map}", keyword(family));
        } else {
            let _ = write!(text, "{}", self.verdict);
        }
        text
    }

    /// What it is known by.
    pub(super) fn digest(&self, family: Family) -> String {
        let digest = Sha1::digest(self.text(family));
        digest.iter().take(10).map(|octet| format!("{octet:02x}")).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::OfSource(map) => write!(f, "vmap @{map}"),
        }
    }
}

impl Match {
    fn write(&self, family: Family, text: &mut String) {
        let ip = keyword(family);
        let icmp = if family == Family::V4 { "icmp" } else { "icmpv6" };
        let _ = match self {
            Self::InIface(link) => write!(text, "iifname {link:?}"),
            Self::NotOutIface(link) => write!(text, "oifname != {link:?}"),
            Self::Src(net) => write!(text, "{ip} saddr {net}"),
            Self::NotSrc(address) => write!(text, "{ip} saddr != {address}"),
            Self::Dst(net) => write!(text, "{ip} daddr {net}"),
            Self::DstIn(set) => write!(text, "{ip} daddr @{set}"),
            Self::Known => write!(text, "ct state established,related"),
            Self::TcpGoesOn => write!(text, "tcp flags & (syn | ack) != syn"),
            Self::Tracked => write!(text, "ct state != untracked"),
            Self::Translated => write!(text, "ct status dnat"),
            Self::AsSent(address) => write!(text, "ct original {ip} daddr {address} {ip} daddr {address}"),
            Self::NotSentTo(first, last) => write!(text, "ct original proto-dst != {first}-{last}"),
            Self::Protocol(number) => write!(text, "meta l4proto {number}"),
            Self::NotProtocol(number) => write!(text, "meta l4proto != {number}"),
            Self::Ports { protocol, which, ranges } => {
                let ranges = ranges.iter().map(|(first, last)| range(first, last));
                let ranges = ranges.collect::<Vec<_>>().join(", ");
                write!(text, "{protocol} {which} {{ {ranges} }}")
            }
            Self::IcmpType(first, last) => write!(text, "{icmp} type {}", range(first, last)),
            Self::IcmpCode(code) => write!(text, "{icmp} code {code}"),
        };
    }
}

pub(super) fn range<T: fmt::Display + PartialEq>(first: &T, last: &T) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// For people and comparisons; what nft is given follows from it.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {}", keyword(self.family), self.name)?;
        for (name, set) in &self.sets {
            let members = members(set).join(", ");
            writeln!(f, "  set {name}: {members}")?;
        }
        for (name, map) in &self.maps {
            writeln!(f, "  map {name}")?;
            for (address, verdict) in map {
                writeln!(f, "    {address}: {verdict}")?;
            }
        }
        for (name, chain) in &self.chains {
            match chain.hook {
                Some(Hook { name: hook, priority }) => writeln!(f, "  chain {name}, {hook} {priority}")?,
                None => writeln!(f, "  chain {name}")?,
            }
            for rule in &chain.rules {
                writeln!(f, "    {}", rule.text(self.family))?;
            }
        }
        Ok(())
    }
}

pub(super) fn members(set: &Set) -> Vec<String> {
    match set {
        Set::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Set::Ranges(ranges) => ranges.iter().map(|(first, last)| range(first, last)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_where_they_overlap_or_touch() {
        let set = |nets: &[&str]| members(&Set::of_nets(nets.iter().map(|net| net.parse().unwrap())));
        assert_eq!(
            set(&["10.0.0.0/24", "10.0.0.7/32", "10.0.1.0/24", "10.0.3.1/32"]),
            ["10.0.0.0-10.0.1.255", "10.0.3.1"]
        );
        assert_eq!(set(&["0.0.0.0/0", "10.0.0.0/8"]), ["0.0.0.0-255.255.255.255"]);
        assert_eq!(set(&["::/0", "fd00::/8"]), ["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        assert_eq!(set(&["fd00::2/127", "fd00::1/128", "::5/128"]), ["::5", "fd00::1-fd00::3"]);
    }
}
