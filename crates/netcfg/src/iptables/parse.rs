//! Reading a rule back from the text of `iptables-save`.

use std::{collections::BTreeSet, iter::Peekable, net::IpAddr, str::FromStr, vec::IntoIter};

use ipnet::IpNet;

use super::rule::{Rule, Target};
use super::terms::{
    AddrType, CtState, IcmpType, Mark, Match, NatTo, Ports, Proto, RejectWith, SetDir, SetMatch,
};
use crate::Error;

/// Splits at spaces; text in double quotes is one word, in which a backslash protects the next character
/// (`add_param_to_argv` of xtables).
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => word.push(chars.next().ok_or("ends within quotes")?),
                        Some(c) => word.push(c),
                        None => return Err("ends within quotes".to_owned()),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

struct Reader {
    words: Peekable<IntoIter<String>>,
}

impl Reader {
    fn value(&mut self, flag: &str) -> Result<String, String> {
        self.words.next().ok_or_else(|| format!("{flag} needs a value"))
    }

    fn take(&mut self, word: &str) -> bool {
        self.words.next_if(|w| w == word).is_some()
    }
}

fn number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is not a number"))
}

fn mark(text: &str) -> Result<Mark, String> {
    match text.split_once('/') {
        Some((value, mask)) => Ok(Mark { value: number(value)?, mask: number(mask)? }),
        None => Ok(Mark { value: number(text)?, mask: u32::MAX }),
    }
}

fn net(text: &str) -> Result<IpNet, String> {
    let parsed = match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    parsed.ok_or_else(|| format!("{text} is not a prefix"))
}

fn ports(text: &str) -> Result<Ports, String> {
    let port = |t: &str| t.parse::<u16>().map_err(|_| format!("{t} is not a port"));
    let ranges = text.split(',').map(|range| match range.split_once(':') {
        Some((low, high)) => Ok((port(low)?, port(high)?)),
        None => port(range).map(|p| (p, p)),
    });
    ranges.collect::<Result<Vec<_>, String>>().map(Ports)
}

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Result<T, String> {
    names.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).ok_or_else(|| format!("{name} is not known"))
}

fn proto(text: &str) -> Result<Proto, String> {
    named(&Proto::NAMES, text).or_else(|e| text.parse().map(Proto).map_err(|_| e))
}

fn icmp_type(text: &str) -> Result<IcmpType, String> {
    let octet = |t: &str| t.parse::<u8>().map_err(|_| format!("{t} is not an ICMP type"));
    match text.split_once('/') {
        Some((kind, code)) => Ok(IcmpType { kind: octet(kind)?, code: Some(octet(code)?) }),
        None => Ok(IcmpType { kind: octet(text)?, code: None }),
    }
}

fn set_match(name: String, dirs: &str) -> Result<SetMatch, String> {
    let dirs = dirs.split(',').map(|d| named(&[("src", SetDir::Src), ("dst", SetDir::Dst)], d));
    Ok(SetMatch { name, dirs: dirs.collect::<Result<_, _>>()? })
}

fn group(text: &str) -> Result<u32, String> {
    // Group 0 has a name in the list that iproute2 ships.
    if text == "default" { Ok(0) } else { number(text) }
}

fn nat_to(text: &str) -> Result<NatTo, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.into());
    }
    let bad = || format!("{text} is not an address with ports");
    let (ip, ports) = text.rsplit_once(':').ok_or_else(bad)?;
    let ip = ip.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| bad())?;
    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |t: &str| t.parse::<u16>().map_err(|_| bad());
    Ok(NatTo { ip, ports: Some((port(low)?, port(high)?)) })
}

fn expect(reader: &mut Reader, flag: &str) -> Result<String, String> {
    if reader.take(flag) { reader.value(flag) } else { Err(format!("target needs {flag}")) }
}

fn target(name: String, reader: &mut Reader) -> Result<Target, String> {
    Ok(match name.as_str() {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "REJECT" => Target::Reject(named(&RejectWith::NAMES, &expect(reader, "--reject-with")?)?),
        "MASQUERADE" => Target::Masquerade { random_fully: reader.take("--random-fully") },
        "SNAT" => Target::Snat {
            to: nat_to(&expect(reader, "--to-source")?)?,
            random_fully: reader.take("--random-fully"),
        },
        "DNAT" => Target::Dnat(nat_to(&expect(reader, "--to-destination")?)?),
        "MARK" => Target::Mark(mark(&expect(reader, "--set-xmark")?)?),
        "CONNMARK" => {
            if reader.take("--set-xmark") {
                return Ok(Target::ConnMark(mark(&reader.value("--set-xmark")?)?));
            }
            let save = reader.take("--save-mark");
            if !save && !reader.take("--restore-mark") {
                return Err("CONNMARK does something else".to_owned());
            }
            let mut mask = |flag: &str| match reader.take(flag) {
                true => number(&reader.value(flag)?),
                false => Ok(u32::MAX),
            };
            let (packet, connection) = (mask("--nfmask")?, mask("--ctmask")?);
            match (save, packet == connection) {
                (true, true) => Target::SaveMark(packet),
                (false, true) => Target::RestoreMark(packet),
                _ => return Err("CONNMARK with two masks".to_owned()),
            }
        }
        "CT" if reader.take("--notrack") => Target::NoTrack,
        "NOTRACK" => Target::NoTrack,
        "TCPMSS" if reader.take("--clamp-mss-to-pmtu") => Target::ClampMss,
        "LOG" => Target::Log(expect(reader, "--log-prefix")?),
        "CT" | "QUEUE" | "NFQUEUE" | "NFLOG" | "TPROXY" | "REDIRECT" | "TCPMSS" => {
            return Err(format!("target {name} is not known"));
        }
        _ => Target::Jump(name),
    })
}

impl Rule {
    fn read(&mut self, reader: &mut Reader) -> Result<(), String> {
        let mut module = String::new();
        while let Some(mut flag) = reader.words.next() {
            let negated = flag == "!";
            if negated {
                flag = reader.value("!")?;
            }
            if matches!(flag.as_str(), "-m" | "-j" | "-g") && negated {
                return Err(format!("! before {flag}"));
            }
            let value = reader.value(&flag)?;
            match flag.as_str() {
                "-m" => module = value,
                "-s" => self.src = Some(Match::new(negated, net(&value)?)),
                "-d" => self.dst = Some(Match::new(negated, net(&value)?)),
                "-i" => self.in_iface = Some(Match::new(negated, value)),
                "-o" => self.out_iface = Some(Match::new(negated, value)),
                "-p" => self.proto = Some(Match::new(negated, proto(&value)?)),
                "--sport" | "--sports" => self.src_ports = Some(Match::new(negated, ports(&value)?)),
                "--dport" | "--dports" => self.dst_ports = Some(Match::new(negated, ports(&value)?)),
                "--tcp-flags" => {
                    let set = reader.value(&flag)?;
                    match (value.as_str(), set.as_str()) {
                        ("FIN,SYN,RST,ACK", "SYN") => self.syn = Some(!negated),
                        ("SYN,RST", "SYN") if !negated => self.opens = true,
                        _ => return Err(format!("{flag} {value} {set} is not known")),
                    }
                }
                "--icmp-type" | "--icmpv6-type" => {
                    self.icmp = Some(Match::new(negated, icmp_type(&value)?));
                }
                "--src-type" => self.src_type = Some(Match::new(negated, named(&AddrType::NAMES, &value)?)),
                "--dst-type" => self.dst_type = Some(Match::new(negated, named(&AddrType::NAMES, &value)?)),
                "--match-set" => {
                    let dirs = reader.value(&flag)?;
                    self.sets.insert(Match::new(negated, set_match(value, &dirs)?));
                }
                "--mark" if module == "mark" => self.mark = Some(Match::new(negated, mark(&value)?)),
                "--mark" if module == "connmark" => self.connmark = Some(Match::new(negated, mark(&value)?)),
                "--src-group" => self.src_group = Some(Match::new(negated, group(&value)?)),
                "--dst-group" => self.dst_group = Some(Match::new(negated, group(&value)?)),
                "--ctstate" => {
                    let states = value.split(',').map(|s| named(&CtState::NAMES, s));
                    let states = states.collect::<Result<BTreeSet<_>, _>>()?;
                    self.ct_state = Some(Match::new(negated, states));
                }
                "--comment" if !negated => self.comment = Some(value),
                "-j" => self.target = Some(target(value, reader)?),
                "-g" => self.target = Some(Target::Goto(value)),
                _ => return Err(format!("{flag} is not known")),
            }
        }
        Ok(())
    }
}

impl FromStr for Rule {
    type Err = Error;

    /// Reads what follows `-A CHAIN`. Matches and targets this crate does not make are an error.
    fn from_str(line: &str) -> Result<Self, Error> {
        let read = || {
            let mut reader = Reader { words: words(line)?.into_iter().peekable() };
            let mut rule = Rule::default();
            rule.read(&mut reader)?;
            Ok(rule)
        };
        read().map_err(|reason: String| Error::Parse {
            what: "iptables rule".to_owned(),
            line: line.to_owned(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched<T: Clone + std::fmt::Debug>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Option<Match<T>>> {
        prop::option::of((any::<bool>(), value).prop_map(|(n, v)| Match::new(n, v)))
    }

    fn a_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 1u8..=32).prop_map(|(a, p)| IpNet::new(IpAddr::from(a.to_be_bytes()), p).unwrap()),
            (any::<u128>(), 1u8..=128)
                .prop_map(|(a, p)| IpNet::new(IpAddr::from(a.to_be_bytes()), p).unwrap()),
        ]
        .prop_map(|n| n.trunc())
    }

    fn a_mark() -> impl Strategy<Value = Mark> {
        (any::<u32>(), prop_oneof![Just(u32::MAX), any::<u32>()])
            .prop_map(|(value, mask)| Mark { value, mask })
    }

    fn a_target() -> impl Strategy<Value = Target> {
        let nat = (a_net(), prop::option::of((1u16..9, 9u16..99)))
            .prop_map(|(n, ports)| NatTo { ip: n.addr(), ports })
            .boxed();
        prop_oneof![
            Just(Target::Accept),
            Just(Target::Drop),
            Just(Target::Return),
            Just(Target::NoTrack),
            Just(Target::ClampMss),
            (0..5usize).prop_map(|i| Target::Reject(RejectWith::NAMES[i].1)),
            "ANTREA-[A-Z]{1,8}".prop_map(Target::Jump),
            "ANTREA-[A-Z]{1,8}".prop_map(Target::Goto),
            any::<bool>().prop_map(|random_fully| Target::Masquerade { random_fully }),
            (nat.clone(), any::<bool>()).prop_map(|(to, random_fully)| Target::Snat { to, random_fully }),
            nat.prop_map(Target::Dnat),
            a_mark().prop_map(Target::Mark),
            a_mark().prop_map(Target::ConnMark),
            any::<u32>().prop_map(Target::SaveMark),
            any::<u32>().prop_map(Target::RestoreMark),
            "[ -~]{1,20}".prop_map(Target::Log),
        ]
    }

    prop_compose! {
        fn a_rule()(
            (src, dst) in (matched(a_net()), matched(a_net())),
            (in_iface, out_iface) in (matched("[a-z]{1,8}[0-9+]?"), matched("[a-z]{1,8}")),
            (proto, icmp) in (matched((0u8..=255).prop_map(Proto)), matched((any::<u8>(), prop::option::of(any::<u8>()))
                .prop_map(|(kind, code)| IcmpType { kind, code }))),
            ports in matched(prop::collection::vec((0u16..9, 9u16..12), 1..4).prop_map(Ports)),
            (src_type, dst_type) in (
                matched((0..4usize).prop_map(|i| AddrType::NAMES[i].1)),
                matched((0..4usize).prop_map(|i| AddrType::NAMES[i].1)),
            ),
            sets in prop::collection::btree_set(
                (any::<bool>(), "[A-Z]{1,8}", prop::collection::vec(
                    prop_oneof![Just(SetDir::Src), Just(SetDir::Dst)], 1..3))
                    .prop_map(|(n, name, dirs)| Match::new(n, SetMatch { name, dirs })), 0..3),
            (mark, connmark) in (matched(a_mark()), matched(a_mark())),
            (src_group, dst_group, syn, opens) in
                (matched(any::<u32>()), matched(any::<u32>()), prop::option::of(any::<bool>()), any::<bool>()),
            ct_state in matched(prop::collection::btree_set((0..7usize).prop_map(|i| CtState::NAMES[i].1), 1..4)),
            comment in prop::option::of("[ -~äß]{1,40}"),
            target in prop::option::of(a_target()),
        ) -> Rule {
            Rule {
                src, dst, in_iface, out_iface,
                // A port match names its protocol as the module; a negated one has no meaning there.
                src_ports: ports.clone(), dst_ports: ports,
                proto, syn, opens, icmp, src_type, dst_type, sets, mark, connmark, src_group, dst_group, ct_state, comment,
                target,
            }
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(rule in a_rule()) {
            let text = rule.to_string();
            prop_assert_eq!(text.parse::<Rule>().unwrap(), rule, "{}", text);
            prop_assert!(!text.contains('\n'));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[ -~]{0,80}") {
            let _ = text.parse::<Rule>();
        }
    }

    #[test]
    fn order_of_matches_has_no_meaning() {
        let a: Rule =
            "-m mark --mark 0x1/0x1 -s 10.0.0.0/8 -m comment --comment \"a b\" -j ACCEPT".parse().unwrap();
        let b: Rule =
            "-s 10.0.0.0/8 -m comment --comment \"a b\" -m mark --mark 1/1 -j ACCEPT".parse().unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "-m statistic --mode random -j ACCEPT",
            "-j CT --zone 1",
            "-m comment --comment \"open",
            "-s",
            "! -j ACCEPT",
            "-p tcp -m tcp --tcp-flags SYN SYN -j ACCEPT",
            "-s 10.0.0.0/255.0.255.0 -j DROP",
        ] {
            assert!(line.parse::<Rule>().is_err(), "{line}");
        }
    }
}
