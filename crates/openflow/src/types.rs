//! Small values: ports, MAC addresses, transaction ids, sub-fields, connection-tracking state.

use std::fmt;
use std::str::FromStr;

use crate::{Action, Field, ParseError};

/// Transaction id: a reply carries that of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xid(pub u32);

/// An OpenFlow port number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortNo(pub u32);

impl PortNo {
    /// Highest number of a real port.
    pub const MAX: PortNo = PortNo(0xffff_ff00);
    /// No port is in the action set.
    pub const UNSET: PortNo = PortNo(0xffff_fff7);
    /// The port that the packet came in on.
    pub const IN_PORT: PortNo = PortNo(0xffff_fff8);
    /// Process the packet through the flow tables (packet-out only).
    pub const TABLE: PortNo = PortNo(0xffff_fff9);
    /// Legacy L2/L3 switching.
    pub const NORMAL: PortNo = PortNo(0xffff_fffa);
    /// All ports but the ingress port and those with flooding disabled.
    pub const FLOOD: PortNo = PortNo(0xffff_fffb);
    /// All ports but the ingress port.
    pub const ALL: PortNo = PortNo(0xffff_fffc);
    /// Up to whoever is connected.
    pub const CONTROLLER: PortNo = PortNo(0xffff_fffd);
    /// The bridge's own port.
    pub const LOCAL: PortNo = PortNo(0xffff_fffe);
    /// Any port (wildcard in requests); also "none".
    pub const ANY: PortNo = PortNo(0xffff_ffff);

    const NAMES: [(PortNo, &'static str); 9] = [
        (Self::UNSET, "UNSET"),
        (Self::IN_PORT, "IN_PORT"),
        (Self::TABLE, "TABLE"),
        (Self::NORMAL, "NORMAL"),
        (Self::FLOOD, "FLOOD"),
        (Self::ALL, "ALL"),
        (Self::CONTROLLER, "CONTROLLER"),
        (Self::LOCAL, "LOCAL"),
        (Self::ANY, "ANY"),
    ];

    /// The name of a reserved port.
    pub fn reserved_name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(p, _)| *p == self).map(|(_, n)| *n)
    }

    /// From the 16-bit number of OpenFlow 1.0 and of Nicira actions.
    pub fn from_u16(n: u16) -> PortNo {
        if n >= 0xff00 { PortNo(0xffff_0000 | u32::from(n)) } else { PortNo(u32::from(n)) }
    }

    /// To the 16-bit number; `None` if the number has none.
    pub fn to_u16(self) -> Option<u16> {
        match self.0 {
            0..0xff00 | Self::MAX_U32.. => Some((self.0 & 0xffff) as u16),
            _ => None,
        }
    }

    const MAX_U32: u32 = Self::MAX.0;
}

impl From<u32> for PortNo {
    fn from(n: u32) -> Self {
        PortNo(n)
    }
}

impl fmt::Display for PortNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved_name() {
            Some(n) => f.write_str(n),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for PortNo {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        if let Some((p, _)) = Self::NAMES.iter().find(|(_, n)| n.eq_ignore_ascii_case(s)) {
            return Ok(*p);
        }
        if s.eq_ignore_ascii_case("none") {
            return Ok(Self::ANY);
        }
        s.parse().map(PortNo).map_err(|_| ParseError::new("port", s, "neither a number nor a reserved port"))
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    pub(crate) fn to_u128(self) -> u128 {
        self.0.iter().fold(0, |a, b| a << 8 | u128::from(*b))
    }

    pub(crate) fn from_u128(v: u128) -> Self {
        let [.., a, b, c, d, e, f] = v.to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(b: [u8; 6]) -> Self {
        MacAddr(b)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("Ethernet address", s, "must be six colon-separated hexadecimal bytes");
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len())).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(MacAddr(out)) }
    }
}

/// A run of bits within a field, such as `NXM_NX_REG0[0..3]`. Always inside the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubField {
    field: Field,
    ofs: u8,
    n_bits: u8,
}

impl SubField {
    /// `n_bits` bits of `field` from bit `ofs`, counted from the least significant; `None` unless
    /// there is at least one and all are inside the field.
    pub fn new(field: Field, ofs: u16, n_bits: u16) -> Option<SubField> {
        let end = ofs.checked_add(n_bits)?;
        if n_bits == 0 || end > field.sub_bits() {
            return None;
        }
        Some(SubField { field, ofs: u8::try_from(ofs).ok()?, n_bits: u8::try_from(n_bits).ok()? })
    }

    /// Bits `start` to `end`, both included, of a field.
    ///
    /// # Panics
    /// If the range is empty or outside the field; meant for constants known when writing the code.
    pub fn range(field: Field, start: u16, end: u16) -> SubField {
        end.checked_add(1)
            .and_then(|e| e.checked_sub(start))
            .and_then(|n| Self::new(field, start, n))
            .expect("must be a non-empty range inside the field")
    }

    /// Bits `start` to `end`, both included, of register `reg`.
    ///
    /// # Panics
    /// If there is no such register or the range is not inside it.
    pub fn reg(reg: u8, start: u16, end: u16) -> SubField {
        Self::range(Field::reg(reg).expect("must be a register number below 16"), start, end)
    }

    /// All bits of a field.
    pub fn whole(field: Field) -> SubField {
        SubField { field, ofs: 0, n_bits: field.sub_bits() as u8 }
    }

    pub fn field(self) -> Field {
        self.field
    }

    /// The lowest bit.
    pub fn ofs(self) -> u16 {
        u16::from(self.ofs)
    }

    /// The number of bits, 1–128.
    pub fn n_bits(self) -> u16 {
        u16::from(self.n_bits)
    }

    /// The largest value that fits.
    pub fn max_value(self) -> u128 {
        u128::MAX >> (128 - u32::from(self.n_bits))
    }

    /// The bits of the field that this sub-field covers.
    pub fn mask(self) -> u128 {
        self.max_value() << self.ofs
    }

    /// `value` moved to this sub-field's place. Bits that do not fit are cut off.
    pub fn place(self, value: u128) -> u128 {
        (value & self.max_value()) << self.ofs
    }

    /// This sub-field's bits of a value of the whole field.
    pub fn extract(self, field_value: u128) -> u128 {
        field_value >> self.ofs & self.max_value()
    }

    /// The action that loads `value` here. Bits that do not fit are cut off.
    pub fn load(self, value: u128) -> Action {
        Action::SetField { field: self.field, value: self.place(value), mask: self.mask() }
    }
}

/// Connection-tracking state to match (`NXM_NX_CT_STATE`): which flags must be set, which must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CtState {
    set: u32,
    mask: u32,
}

impl CtState {
    /// Begins a connection that is not committed.
    pub const NEW: u32 = 0x01;
    /// Part of a committed connection.
    pub const EST: u32 = 0x02;
    /// Related to a committed connection, such as an ICMP error.
    pub const REL: u32 = 0x04;
    /// In the reply direction.
    pub const RPL: u32 = 0x08;
    /// Could not be identified.
    pub const INV: u32 = 0x10;
    /// Went through the connection tracker.
    pub const TRK: u32 = 0x20;
    /// Its source was translated.
    pub const SNAT: u32 = 0x40;
    /// Its destination was translated.
    pub const DNAT: u32 = 0x80;

    pub(crate) const NAMES: [&'static str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];

    /// Matches any state.
    pub const fn new() -> Self {
        CtState { set: 0, mask: 0 }
    }

    /// Requires these flags.
    pub const fn set(self, flags: u32) -> Self {
        CtState { set: self.set | flags, mask: self.mask | flags }
    }

    /// Forbids these flags.
    pub const fn unset(self, flags: u32) -> Self {
        CtState { set: self.set & !flags, mask: self.mask | flags }
    }

    /// The flags that must be set.
    pub const fn value(self) -> u32 {
        self.set
    }

    /// The flags that are looked at.
    pub const fn mask(self) -> u32 {
        self.mask
    }
}

impl fmt::Display for CtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, name) in Self::NAMES.iter().enumerate() {
            let flag = 1 << bit;
            if self.mask & flag != 0 {
                write!(f, "{}{name}", if self.set & flag != 0 { '+' } else { '-' })?;
            }
        }
        Ok(())
    }
}

impl FromStr for CtState {
    type Err = ParseError;

    /// Parses `+new-est+trk`.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let mut state = CtState::new();
        let mut rest = s;
        while !rest.is_empty() {
            let (plus, after) = match (rest.strip_prefix('+'), rest.strip_prefix('-')) {
                (Some(a), _) => (true, a),
                (_, Some(a)) => (false, a),
                _ => return Err(ParseError::new("ct_state", s, "each flag needs + or - before it")),
            };
            let end = after.find(['+', '-']).unwrap_or(after.len());
            let (name, tail) = after.split_at(end);
            let bit = Self::NAMES
                .iter()
                .position(|n| *n == name)
                .ok_or_else(|| ParseError::new("ct_state", s, format!("unknown flag {name:?}")))?;
            let flag = 1u32 << bit;
            if state.mask & flag != 0 {
                return Err(ParseError::new("ct_state", s, format!("flag {name:?} given twice")));
            }
            state = if plus { state.set(flag) } else { state.unset(flag) };
            rest = tail;
        }
        Ok(state)
    }
}
