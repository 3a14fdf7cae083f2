//! Matches and sub-fields.

use std::str::FromStr;

use super::show_match::PROTOCOLS;
use super::token::{Token, Tokens};
use super::value;
use crate::{Field, Match, OxmId, ParseError, SubField, UnknownField};

impl FromStr for SubField {
    type Err = ParseError;

    /// `NXM_NX_REG0[0..3]`, `reg0[4]`, `reg0[]` or `reg0`.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = |problem: &str| ParseError::new("sub-field", s, problem);
        let Some((name, tail)) = s.split_once('[') else {
            return Ok(SubField::whole(s.parse()?));
        };
        let field: Field = name.parse()?;
        let range = tail.strip_suffix(']').ok_or_else(|| bad("bracket is not closed"))?;
        if range.is_empty() {
            return Ok(SubField::whole(field));
        }
        let bit = |t: &str| t.parse::<u16>().map_err(|_| bad("bits must be decimal numbers"));
        let (start, end) = match range.split_once("..") {
            Some((a, b)) => (bit(a)?, bit(b)?),
            None => (bit(range)?, bit(range)?),
        };
        let n = (u32::from(end) + 1).checked_sub(start.into()).and_then(|n| u16::try_from(n).ok());
        n.and_then(|n| SubField::new(field, start, n)).ok_or_else(|| bad("bits are not in the field"))
    }
}

/// A match being read. Names whose meaning depends on the protocol wait for the end.
#[derive(Default)]
pub(super) struct MatchParser<'a> {
    out: Match,
    later: Vec<(&'a str, &'a str)>,
}

/// Names that stand for different fields in different protocols.
const DEPENDENT: [&str; 6] = ["tp_src", "tp_dst", "nw_src", "nw_dst", "icmp_type", "icmp_code"];

impl<'a> MatchParser<'a> {
    /// Takes a piece that is part of a match; `false` if it is not.
    pub(super) fn take(&mut self, t: &Token<'a>) -> Result<bool, ParseError> {
        let Some(text) = t.value else {
            let Some((ty, proto, _)) = PROTOCOLS.iter().find(|(_, _, w)| *w == t.key) else {
                return Ok(false);
            };
            self.out.insert(Field::EthType, u128::from(*ty), u128::MAX);
            if let Some(p) = proto {
                self.out.insert(Field::NwProto, u128::from(*p), u128::MAX);
            }
            return Ok(true);
        };
        match t.key {
            "unknown" => self.out.insert_unknown(unknown(text)?),
            "dl_vlan" if matches!(text, "0xffff" | "65535") => {
                self.out.insert(Field::VlanVid, 0, u128::MAX);
            }
            "dl_vlan" => {
                let vid = value::number(text, 0xfff)?;
                self.out.insert(Field::VlanVid, vid | 0x1000, u128::MAX);
            }
            "dl_vlan_pcp" => self.out.insert(Field::VlanPcp, value::number(text, 7)?, u128::MAX),
            "ipv6_dst" | "ipv6_src" | "arp_spa" | "arp_tpa" => self.field(t.key.parse()?, text)?,
            key if DEPENDENT.contains(&key) => self.later.push((key, text)),
            key => match key.parse() {
                Ok(field) => self.field(field, text)?,
                Err(_) => return Ok(false),
            },
        }
        Ok(true)
    }

    fn field(&mut self, field: Field, text: &str) -> Result<(), ParseError> {
        if text == "*" || text == "ANY" && field.info().format != crate::field::Format::Port {
            return Ok(());
        }
        let field = if field == Field::InPort { Field::InPortOxm } else { field };
        let (value, mask) = value::parse(field, text)?;
        if mask != field.full_mask() && !field.info().maskable {
            return Err(ParseError::new(field.name(), text, "the field cannot be masked"));
        }
        self.out.insert(field, value, mask);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Match, ParseError> {
        let is = |m: &Match, f: Field, v: u128| m.get(f).is_some_and(|p| p.value == v);
        for (name, text) in std::mem::take(&mut self.later) {
            let m = &self.out;
            let arp = is(m, Field::EthType, 0x0806) || is(m, Field::EthType, 0x8035);
            let v6 = is(m, Field::EthType, 0x86dd);
            let proto = m.get(Field::NwProto).map(|p| p.value);
            let field = match (name, proto) {
                ("nw_src", _) if arp => Field::ArpSpa,
                ("nw_dst", _) if arp => Field::ArpTpa,
                ("nw_src", _) => Field::Ipv4Src,
                ("nw_dst", _) => Field::Ipv4Dst,
                ("icmp_type", _) if v6 => Field::Icmpv6Type,
                ("icmp_code", _) if v6 => Field::Icmpv6Code,
                ("icmp_type", _) => Field::IcmpType,
                ("icmp_code", _) => Field::IcmpCode,
                ("tp_src", Some(6)) => Field::TcpSrc,
                ("tp_src", Some(17)) => Field::UdpSrc,
                ("tp_src", Some(132)) => Field::SctpSrc,
                ("tp_dst", Some(6)) => Field::TcpDst,
                ("tp_dst", Some(17)) => Field::UdpDst,
                ("tp_dst", Some(132)) => Field::SctpDst,
                _ => return Err(ParseError::new("match", name, "needs tcp, udp or sctp")),
            };
            self.field(field, text)?;
        }
        // In ARP the operation goes by the name of the IP protocol too.
        if is(&self.out, Field::EthType, 0x0806)
            && let Some(p) = self.out.remove(Field::NwProto)
        {
            self.out.insert(Field::ArpOp, p.value, u128::MAX);
        }
        match self.out.unmet_prerequisite() {
            Some(f) => Err(ParseError::new("match", f.name(), "needs a match on the protocol that has it")),
            None => Ok(self.out),
        }
    }
}

/// `class:field[:experimenter]=value[/mask]`
fn unknown(text: &str) -> Result<UnknownField, ParseError> {
    let bad = || ParseError::new("unknown field", text, "must be class:field=hexadecimal");
    let (id, rest) = text.split_once('=').ok_or_else(bad)?;
    let mut parts = id.split(':');
    let mut number = |max: u128| parts.next().ok_or_else(bad).and_then(|t| value::number(t, max));
    let class = number(0xffff)? as u16;
    let field = number(127)? as u8;
    let experimenter = if class == 0xffff { number(u32::MAX.into())? as u32 } else { 0 };
    let (value, mask) = match rest.split_once('/') {
        Some((v, m)) => (v, Some(m)),
        None => (rest, None),
    };
    let value: Box<[u8]> = hex_bytes(value)?.into();
    let mask: Option<Box<[u8]>> = mask.map(hex_bytes).transpose()?.map(Into::into);
    if mask.as_ref().is_some_and(|m| m.len() != value.len()) || value.len() > 120 {
        return Err(ParseError::new("unknown field", text, "bad length of value or mask"));
    }
    let id = OxmId { class, field, experimenter };
    if Field::from_id(id).is_some() {
        return Err(ParseError::new("unknown field", text, "is a known field"));
    }
    Ok(UnknownField { id, value, mask })
}

/// Pairs of hexadecimal digits.
pub(super) fn hex_bytes(text: &str) -> Result<Vec<u8>, ParseError> {
    let bad = || ParseError::new("bytes", text, "must be pairs of hexadecimal digits");
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.contains('+') {
        return Err(bad());
    }
    (0..text.len() / 2)
        .map(|i| text.get(2 * i..2 * i + 2).and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(bad))
        .collect()
}

impl FromStr for Match {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let mut p = MatchParser::default();
        for t in Tokens::new(s) {
            let t = t?;
            if !p.take(&t)? {
                return Err(ParseError::new("match", t.text, "unknown field or protocol"));
            }
        }
        p.finish()
    }
}
