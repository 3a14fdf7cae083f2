//! One rule: typed matches and target, printed in the form `iptables-save` prints.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;

use super::terms::{
    AddrType, CtState, IcmpType, Mark, Match, NatTo, Ports, Proto, RejectWith, SetDir, SetMatch,
};

/// What happens to a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Let through.
    Accept,
    /// Discard.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Refuse.
    Reject(RejectWith),
    /// To another chain and back.
    Jump(String),
    /// To another chain; its end returns to our caller.
    Goto(String),
    /// Source becomes the outgoing interface's address.
    Masquerade {
        /// Choose ports at random (avoids races for the same port under load).
        random_fully: bool,
    },
    /// Source becomes this.
    Snat {
        /// The new source.
        to: NatTo,
        /// Choose ports at random.
        random_fully: bool,
    },
    /// Destination becomes this.
    Dnat(NatTo),
    /// Packet mark: the masked bits become the value's (`--set-xmark`).
    Mark(Mark),
    /// Connection mark: the masked bits become the value's.
    ConnMark(Mark),
    /// Masked bits of the packet mark to the connection mark.
    SaveMark(u32),
    /// Masked bits of the connection mark to the packet mark.
    RestoreMark(u32),
    /// Exempt from connection tracking (raw table).
    NoTrack,
    /// Announce segments no longer than the way on takes.
    ClampMss,
    /// Write to the kernel log, at most 29 octets of prefix.
    Log(String),
}

impl Target {
    /// Sets bits of the packet mark (`--or-mark`).
    pub fn or_mark(bits: u32) -> Self {
        Target::Mark(Mark { value: bits, mask: bits })
    }
}

/// A rule. [`fmt::Display`] is what follows `-A CHAIN` and [`std::str::FromStr`] reads it back.
///
/// The order of matches has no meaning, so two rules are equal if they hold the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Source prefix.
    pub src: Option<Match<IpNet>>,
    /// Destination prefix.
    pub dst: Option<Match<IpNet>>,
    /// Incoming interface; a trailing `+` matches any that begin so.
    pub in_iface: Option<Match<String>>,
    /// Outgoing interface.
    pub out_iface: Option<Match<String>>,
    pub proto: Option<Match<Proto>>,
    /// Source ports; needs TCP, UDP or SCTP.
    pub src_ports: Option<Match<Ports>>,
    pub dst_ports: Option<Match<Ports>>,
    /// Whether it asks for a connection: of FIN, SYN, RST and ACK it has SYN alone; needs TCP.
    pub syn: Option<bool>,
    /// Asks for a connection or agrees to it: of SYN and RST it has SYN; needs TCP.
    pub opens: bool,
    /// ICMP type; needs ICMP or ICMPv6.
    pub icmp: Option<Match<IcmpType>>,
    /// Kind of the source address.
    pub src_type: Option<Match<AddrType>>,
    /// Kind of the destination address.
    pub dst_type: Option<Match<AddrType>>,
    /// Memberships in ipsets.
    pub sets: BTreeSet<Match<SetMatch>>,
    /// Packet mark.
    pub mark: Option<Match<Mark>>,
    /// Connection mark.
    pub connmark: Option<Match<Mark>>,
    /// Device group of the incoming interface.
    pub src_group: Option<Match<u32>>,
    /// Device group of the outgoing interface.
    pub dst_group: Option<Match<u32>>,
    /// Connection states.
    pub ct_state: Option<Match<BTreeSet<CtState>>>,
    pub comment: Option<String>,
    /// What happens; a rule without a target only counts.
    pub target: Option<Target>,
}

/// Longest comment, in octets (`XT_MAX_COMMENT_LEN` less its NUL).
const MAX_COMMENT: usize = 255;

impl Rule {
    /// A rule for every packet.
    pub fn new(target: Target) -> Self {
        Self { target: Some(target), ..Self::default() }
    }

    /// Jumps to a chain.
    pub fn jump(chain: impl Into<String>) -> Self {
        Self::new(Target::Jump(chain.into()))
    }

    /// With a comment; control characters become spaces, and what is beyond 255 octets is cut.
    pub fn comment(mut self, text: impl AsRef<str>) -> Self {
        let mut text: String = text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        while text.len() > MAX_COMMENT {
            text.pop();
        }
        self.comment = Some(text).filter(|text| !text.is_empty());
        self
    }

    /// From a prefix. A zero-length prefix is no condition.
    pub fn src(mut self, net: IpNet) -> Self {
        self.src = prefix(false, net);
        self
    }

    /// From outside a prefix.
    pub fn not_src(mut self, net: IpNet) -> Self {
        self.src = prefix(true, net);
        self
    }

    /// To a prefix.
    pub fn dst(mut self, net: IpNet) -> Self {
        self.dst = prefix(false, net);
        self
    }

    /// In by an interface.
    pub fn in_iface(mut self, name: impl Into<String>) -> Self {
        self.in_iface = Some(Match::new(false, name.into()));
        self
    }

    /// In by any other interface.
    pub fn not_in_iface(mut self, name: impl Into<String>) -> Self {
        self.in_iface = Some(Match::new(true, name.into()));
        self
    }

    /// Out by an interface.
    pub fn out_iface(mut self, name: impl Into<String>) -> Self {
        self.out_iface = Some(Match::new(false, name.into()));
        self
    }

    /// Out by any other interface.
    pub fn not_out_iface(mut self, name: impl Into<String>) -> Self {
        self.out_iface = Some(Match::new(true, name.into()));
        self
    }

    /// Of a protocol.
    pub fn proto(mut self, proto: Proto) -> Self {
        self.proto = Some(Match::new(false, proto));
        self
    }

    /// From ports.
    pub fn src_ports(mut self, ports: impl Into<Ports>) -> Self {
        self.src_ports = Some(Match::new(false, ports.into()));
        self
    }

    /// To one of at most 15 ports and ends of ranges; needs TCP, UDP or SCTP.
    pub fn dst_ports(mut self, ports: impl Into<Ports>) -> Self {
        self.dst_ports = Some(Match::new(false, ports.into()));
        self
    }

    /// That opens a TCP connection, in either direction.
    pub fn opens(mut self) -> Self {
        self.opens = true;
        self
    }

    /// Of TCP, and asking for a connection.
    pub fn syn(mut self) -> Self {
        self.syn = Some(true);
        self.proto(Proto::TCP)
    }

    /// Of an ICMP type.
    pub fn icmp(mut self, kind: u8, code: Option<u8>) -> Self {
        self.icmp = Some(Match::new(false, IcmpType { kind, code }));
        self
    }

    /// From an address of a kind.
    pub fn src_type(mut self, kind: AddrType) -> Self {
        self.src_type = Some(Match::new(false, kind));
        self
    }

    /// From an address not of a kind.
    pub fn not_src_type(mut self, kind: AddrType) -> Self {
        self.src_type = Some(Match::new(true, kind));
        self
    }

    /// To an address of a kind.
    pub fn dst_type(mut self, kind: AddrType) -> Self {
        self.dst_type = Some(Match::new(false, kind));
        self
    }

    /// With an address (and port) in an ipset.
    pub fn in_set(mut self, name: impl Into<String>, dirs: impl IntoIterator<Item = SetDir>) -> Self {
        let dirs = dirs.into_iter().collect();
        self.sets.insert(Match::new(false, SetMatch { name: name.into(), dirs }));
        self
    }

    /// With an address (and port) not in an ipset.
    pub fn not_in_set(mut self, name: impl Into<String>, dirs: impl IntoIterator<Item = SetDir>) -> Self {
        let dirs = dirs.into_iter().collect();
        self.sets.insert(Match::new(true, SetMatch { name: name.into(), dirs }));
        self
    }

    /// With a packet mark.
    pub fn mark(mut self, value: u32, mask: u32) -> Self {
        self.mark = Some(Match::new(false, Mark { value, mask }));
        self
    }

    /// With a connection mark.
    pub fn connmark(mut self, value: u32, mask: u32) -> Self {
        self.connmark = Some(Match::new(false, Mark { value, mask }));
        self
    }

    /// In by an interface of a device group.
    pub fn src_group(mut self, group: u32) -> Self {
        self.src_group = Some(Match::new(false, group));
        self
    }

    /// Out by an interface of a device group.
    pub fn dst_group(mut self, group: u32) -> Self {
        self.dst_group = Some(Match::new(false, group));
        self
    }

    /// In one of these connection states.
    pub fn ct_state(mut self, states: impl IntoIterator<Item = CtState>) -> Self {
        self.ct_state = Some(Match::new(false, states.into_iter().collect()));
        self
    }
}

fn prefix(negated: bool, net: IpNet) -> Option<Match<IpNet>> {
    let net = net.trunc();
    (net.prefix_len() > 0 || negated).then(|| Match::new(negated, net))
}

/// The name of a value in a table of names. The tables are complete, which a test checks.
fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, v)| v == value).map_or("?", |(name, _)| name)
}

/// Quotes text as `iptables-save` does: only when it has anything but letters, digits, `-` and `_`.
pub(crate) fn quoted(text: &str) -> String {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        let mut put = |module: Option<&str>, negated: bool, flag: &str, value: String| {
            words.extend(module.map(|m| format!("-m {m}")));
            words.extend(negated.then(|| "!".to_owned()));
            words.push(format!("{flag} {value}"));
        };
        if let Some(m) = &self.src {
            put(None, m.negated, "-s", m.value.to_string());
        }
        if let Some(m) = &self.dst {
            put(None, m.negated, "-d", m.value.to_string());
        }
        if let Some(m) = &self.in_iface {
            put(None, m.negated, "-i", m.value.clone());
        }
        if let Some(m) = &self.out_iface {
            put(None, m.negated, "-o", m.value.clone());
        }
        if let Some(m) = &self.proto {
            put(None, m.negated, "-p", m.value.to_string());
        }
        let proto = self.proto.as_ref().map(|m| m.value.to_string());
        for (ports, one, many) in
            [(&self.src_ports, "--sport", "--sports"), (&self.dst_ports, "--dport", "--dports")]
        {
            if let Some(m) = ports {
                match m.value.0.len() {
                    1 => put(proto.as_deref(), m.negated, one, m.value.to_string()),
                    _ => put(Some("multiport"), m.negated, many, m.value.to_string()),
                }
            }
        }
        if let Some(syn) = self.syn {
            put(Some("tcp"), !syn, "--tcp-flags", "FIN,SYN,RST,ACK SYN".to_owned());
        }
        if self.opens {
            put(Some("tcp"), false, "--tcp-flags", "SYN,RST SYN".to_owned());
        }
        if let Some(m) = &self.icmp {
            let value = match m.value.code {
                Some(code) => format!("{}/{code}", m.value.kind),
                None => m.value.kind.to_string(),
            };
            match self.proto.as_ref().map(|p| p.value) {
                Some(Proto::ICMPV6) => put(Some("icmp6"), m.negated, "--icmpv6-type", value),
                _ => put(Some("icmp"), m.negated, "--icmp-type", value),
            }
        }
        if let Some(m) = &self.src_type {
            put(Some("addrtype"), m.negated, "--src-type", name_of(&AddrType::NAMES, &m.value).to_owned());
        }
        if let Some(m) = &self.dst_type {
            let module = self.src_type.is_none().then_some("addrtype");
            put(module, m.negated, "--dst-type", name_of(&AddrType::NAMES, &m.value).to_owned());
        }
        for m in &self.sets {
            let dirs: Vec<_> =
                m.value.dirs.iter().map(|d| if *d == SetDir::Src { "src" } else { "dst" }).collect();
            put(Some("set"), m.negated, "--match-set", format!("{} {}", m.value.name, dirs.join(",")));
        }
        if let Some(m) = &self.mark {
            put(Some("mark"), m.negated, "--mark", m.value.whole_as_plain());
        }
        if let Some(m) = &self.connmark {
            put(Some("connmark"), m.negated, "--mark", m.value.whole_as_plain());
        }
        if let Some(m) = &self.src_group {
            put(Some("devgroup"), m.negated, "--src-group", format!("{:#x}", m.value));
        }
        if let Some(m) = &self.dst_group {
            let module = self.src_group.is_none().then_some("devgroup");
            put(module, m.negated, "--dst-group", format!("{:#x}", m.value));
        }
        if let Some(m) = &self.ct_state {
            let names: Vec<_> = m.value.iter().map(|s| name_of(&CtState::NAMES, s)).collect();
            put(Some("conntrack"), m.negated, "--ctstate", names.join(","));
        }
        if let Some(comment) = &self.comment {
            put(Some("comment"), false, "--comment", quoted(comment));
        }
        if let Some(target) = &self.target {
            words.push(target.to_string());
        }
        f.write_str(&words.join(" "))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let random = |on: &bool| if *on { " --random-fully" } else { "" };
        match self {
            Target::Accept => f.write_str("-j ACCEPT"),
            Target::Drop => f.write_str("-j DROP"),
            Target::Return => f.write_str("-j RETURN"),
            Target::Reject(with) => {
                write!(f, "-j REJECT --reject-with {}", name_of(&RejectWith::NAMES, with))
            }
            Target::Jump(chain) => write!(f, "-j {chain}"),
            Target::Goto(chain) => write!(f, "-g {chain}"),
            Target::Masquerade { random_fully } => write!(f, "-j MASQUERADE{}", random(random_fully)),
            Target::Snat { to, random_fully } => {
                write!(f, "-j SNAT --to-source {to}{}", random(random_fully))
            }
            Target::Dnat(to) => write!(f, "-j DNAT --to-destination {to}"),
            Target::Mark(m) => write!(f, "-j MARK --set-xmark {:#x}/{:#x}", m.value, m.mask),
            Target::ConnMark(m) => write!(f, "-j CONNMARK --set-xmark {:#x}/{:#x}", m.value, m.mask),
            Target::SaveMark(mask) => {
                write!(f, "-j CONNMARK --save-mark --nfmask {mask:#x} --ctmask {mask:#x}")
            }
            Target::RestoreMark(mask) => {
                write!(f, "-j CONNMARK --restore-mark --nfmask {mask:#x} --ctmask {mask:#x}")
            }
            Target::NoTrack => f.write_str("-j CT --notrack"),
            Target::ClampMss => f.write_str("-j TCPMSS --clamp-mss-to-pmtu"),
            Target::Log(prefix) => write!(f, "-j LOG --log-prefix {}", quoted(prefix)),
        }
    }
}
