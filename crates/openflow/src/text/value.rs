//! Values of fields.

use std::fmt::{self, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::field::Format;
use crate::{CtState, Field, MacAddr, ParseError, PortNo};

const TCP_FLAGS: [&str; 12] =
    ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"];
const TUN_FLAGS: [&str; 1] = ["oam"];

/// Hexadecimal as C's `%#x`: zero has no prefix.
pub(super) struct Hex(pub(super) u128);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:#x}", self.0) }
    }
}

fn flag_names(field: Field) -> &'static [&'static str] {
    match field.info().format {
        Format::CtState => &CtState::NAMES,
        Format::TcpFlags => &TCP_FLAGS,
        _ => &TUN_FLAGS,
    }
}

fn show_flags(f: &mut Formatter<'_>, field: Field, value: u128, mask: u128) -> fmt::Result {
    let names = flag_names(field);
    let known = u128::MAX >> (128 - names.len() as u32);
    if mask & !known & field.full_mask() != 0 && mask != field.full_mask() || value & !known != 0 {
        return write!(f, "{value:#x}/{mask:#x}");
    }
    let chosen = |bits: u128| names.iter().enumerate().filter(move |(i, _)| bits >> i & 1 != 0);
    if mask == field.full_mask() {
        if value == 0 {
            return f.write_str("0");
        }
        for (n, (_, name)) in chosen(value).enumerate() {
            write!(f, "{}{name}", if n > 0 { "|" } else { "" })?;
        }
        return Ok(());
    }
    for (i, name) in chosen(mask) {
        write!(f, "{}{name}", if value >> i & 1 != 0 { '+' } else { '-' })?;
    }
    Ok(())
}

/// Number of leading ones if the mask of `bits` bits is a prefix.
fn prefix(mask: u128, bits: u32) -> Option<u32> {
    let top = mask << (128 - bits);
    let ones = top.leading_ones().min(bits);
    (ones == 0 && top == 0 || ones > 0 && top == u128::MAX << (128 - ones)).then_some(ones)
}

/// Writes a value, and its mask unless all bits count, as `set_field` and learned matches do.
pub(super) fn show(f: &mut Formatter<'_>, field: Field, value: u128, mask: u128) -> fmt::Result {
    let exact = mask == field.full_mask();
    match field.info().format {
        Format::Mac => {
            write!(f, "{}", MacAddr::from_u128(value))?;
            if exact { Ok(()) } else { write!(f, "/{}", MacAddr::from_u128(mask)) }
        }
        Format::Ipv4 => {
            write!(f, "{}", Ipv4Addr::from_bits(value as u32))?;
            match prefix(mask, 32) {
                Some(32) => Ok(()),
                Some(n) => write!(f, "/{n}"),
                None => write!(f, "/{}", Ipv4Addr::from_bits(mask as u32)),
            }
        }
        Format::Ipv6 => {
            write!(f, "{}", Ipv6Addr::from_bits(value))?;
            match prefix(mask, 128) {
                Some(128) => Ok(()),
                Some(n) => write!(f, "/{n}"),
                None => write!(f, "/{}", Ipv6Addr::from_bits(mask)),
            }
        }
        Format::Port if !exact => write!(f, "{value:#x}/{mask:#x}"),
        Format::Port if field == Field::InPort => write!(f, "{}", PortNo::from_u16(value as u16)),
        Format::Port => write!(f, "{}", PortNo(value as u32)),
        Format::CtState | Format::TcpFlags | Format::TunFlags => show_flags(f, field, value, mask),
        Format::Frag => f.write_str(match (value, mask) {
            (0, 3) => "no",
            (1, 3) => "first",
            (3, 3) => "later",
            (0, 1) => "no",
            (1, 1) => "yes",
            (0, 2) => "not_later",
            (2, 2) => "later",
            _ => return write!(f, "{value:#x}/{mask:#x}"),
        }),
        Format::PacketType => write!(f, "({},{:#x})", value >> 16, value & 0xffff),
        Format::Dec if exact => write!(f, "{value}"),
        Format::Dec => write!(f, "{value}/{mask:#x}"),
        Format::Hex if exact => write!(f, "{}", Hex(value)),
        Format::Hex => write!(f, "{}/{}", Hex(value), Hex(mask)),
    }
}

/// A decimal or 0x-hexadecimal number up to `max`.
pub(super) fn number(text: &str, max: u128) -> Result<u128, ParseError> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let parsed = match hex {
        Some(h) if !h.starts_with('+') => u128::from_str_radix(h, 16),
        None if !text.starts_with('+') => text.parse(),
        _ => return Err(ParseError::new("number", text, "must be decimal or 0x-hexadecimal")),
    };
    match parsed {
        Ok(n) if n <= max => Ok(n),
        Ok(_) => Err(ParseError::new("number", text, format!("must be at most {max}"))),
        Err(e) => Err(ParseError::new("number", text, e.to_string())),
    }
}

fn flags(field: Field, text: &str) -> Result<(u128, u128), ParseError> {
    let names = flag_names(field);
    let bit = |name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .map(|i| 1u128 << i)
            .ok_or_else(|| ParseError::new(field.name(), text, format!("unknown flag {name:?}")))
    };
    if !text.starts_with(['+', '-']) {
        let value = text.split('|').try_fold(0, |v, name| Ok(v | bit(name)?))?;
        return Ok((value, field.full_mask()));
    }
    let (mut value, mut mask) = (0, 0);
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        let after = rest.get(1..).unwrap_or_default();
        let end = after.find(['+', '-']).unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        let b = bit(name)?;
        if mask & b != 0 {
            return Err(ParseError::new(field.name(), text, format!("flag {name:?} given twice")));
        }
        mask |= b;
        value |= if sign == '+' { b } else { 0 };
        rest = tail;
    }
    Ok((value, mask))
}

fn address(field: Field, text: &str) -> Result<u128, ParseError> {
    let bad = |e: std::net::AddrParseError| ParseError::new(field.name(), text, e.to_string());
    match field.info().format {
        Format::Mac => text.parse().map(MacAddr::to_u128),
        Format::Ipv4 => text.parse::<Ipv4Addr>().map(|a| a.to_bits().into()).map_err(bad),
        _ => text.parse::<Ipv6Addr>().map(Ipv6Addr::to_bits).map_err(bad),
    }
}

/// Reads a value and, after a slash, a mask. The value has no bits outside the mask.
pub(super) fn parse(field: Field, text: &str) -> Result<(u128, u128), ParseError> {
    let full = field.full_mask();
    let (head, tail) = match text.split_once('/') {
        Some((h, t)) => (h, Some(t)),
        None => (text, None),
    };
    let fail = |e: ParseError| ParseError::new(field.name(), text, e.problem);
    let plain = |t: &str| number(t, full).map_err(fail);
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    let (value, mask) = match field.info().format {
        Format::CtState | Format::TcpFlags | Format::TunFlags if !is_number => flags(field, text)?,
        Format::Frag if !is_number => match text {
            "no" => (0, 3),
            "first" => (1, 3),
            "later" => (3, 3),
            "yes" => (1, 1),
            "not_later" => (0, 2),
            _ => {
                return Err(ParseError::new(
                    field.name(),
                    text,
                    "must be no, yes, first, later or not_later",
                ));
            }
        },
        Format::Port if tail.is_none() => {
            let port: PortNo = text.parse()?;
            let value = match field {
                Field::InPort => port.to_u16().map(u128::from),
                _ => Some(port.0.into()),
            };
            (value.ok_or_else(|| ParseError::new(field.name(), text, "not a 16-bit port"))?, full)
        }
        Format::PacketType => {
            let bad = || ParseError::new(field.name(), text, "must be (namespace,type)");
            let inner = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')).ok_or_else(bad)?;
            let (ns, ty) = inner.split_once(',').ok_or_else(bad)?;
            (number(ns, 0xffff)? << 16 | number(ty, 0xffff)?, full)
        }
        Format::Mac | Format::Ipv4 | Format::Ipv6 => {
            let mask = match tail {
                None => full,
                Some(m) if m.chars().all(|c| c.is_ascii_digit()) => {
                    let bits = u128::from(field.bits());
                    let n = number(m, bits).map_err(fail)? as u32;
                    full & !full.checked_shr(n).unwrap_or(0)
                }
                Some(m) => address(field, m)?,
            };
            (address(field, head)?, mask)
        }
        _ => (plain(head)?, tail.map_or(Ok(full), plain)?),
    };
    Ok((value & mask, mask))
}
