//! Matches: canonical sets of fields with masks.

mod build;
mod packed;

use std::cmp::Ordering;
use std::fmt;

use crate::field::Prereq;
use crate::small::Small;
use crate::{CtState, Field, OxmId, PortNo, SubField};

/// Bytes of a match that need no memory of their own. Those of most flows of policies have fewer.
const HERE: usize = 22;

/// One field of a match. Bits of `value` outside `mask` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatchField {
    pub field: Field,
    /// The value, right-aligned.
    pub value: u128,
    /// The bits that are compared.
    pub mask: u128,
}

/// A match field this crate does not know, kept as it came from the switch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownField {
    pub id: OxmId,
    /// The bytes of the value, 255 at most with those of the mask.
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
///
/// There are some for each flow, so the fields are kept as bytes: short matches in place, and of others clones share them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Match(Small<HERE>);

impl fmt::Debug for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Match").field(&format_args!("{self}")).finish()
    }
}

impl PartialOrd for Match {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Match {
    fn cmp(&self, other: &Self) -> Ordering {
        self.fields().cmp(other.fields()).then_with(|| self.unknown_fields().cmp(other.unknown_fields()))
    }
}

impl Match {
    /// Matches every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields in canonical order.
    pub fn fields(&self) -> impl Iterator<Item = MatchField> {
        packed::fields(self.0.bytes())
    }

    /// Fields that came from a switch and that this crate does not know.
    pub fn unknown_fields(&self) -> impl Iterator<Item = UnknownField> {
        packed::unknown_fields(self.0.bytes())
    }

    /// Whether every packet matches.
    pub fn is_empty(&self) -> bool {
        self.0.bytes().is_empty()
    }

    /// What the match says of a canonical field.
    pub fn get(&self, field: Field) -> Option<MatchField> {
        packed::find(self.0.bytes(), field).known
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
        let place = packed::find(self.0.bytes(), field);
        let (was, before) = place.known.map_or((0, 0), |known| (known.value, known.mask));
        let new = MatchField { field, value: was & !mask | value & mask, mask: before | mask };
        self.0 = place.with(self.0.bytes(), Some(new));
    }

    /// Adds a field of a group's hash as it is: its value is the bits that count.
    pub(crate) fn insert_hashed(&mut self, field: Field, bits: u128) {
        self.insert_plain(field, bits, bits);
    }

    pub(crate) fn insert_unknown(&mut self, field: UnknownField) {
        self.0 = packed::with_unknown(self.0.bytes(), field);
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
        self.fields().map(|m| m.field).find(|f| !met(*f))
    }

    /// Takes a canonical field out of the match.
    pub fn remove(&mut self, field: Field) -> Option<MatchField> {
        let place = packed::find(self.0.bytes(), field);
        let gone = place.known?;
        self.0 = place.with(self.0.bytes(), None);
        Some(gone)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_matches_need_no_memory_of_their_own() {
        let first = || Match::new().ip().ct_state(CtState::new().set(CtState::NEW | CtState::TRK));
        let here = [
            Match::new().nw_src("10.10.0.0/16".parse::<ipnet::IpNet>().unwrap()),
            Match::new().nw_dst("fd00::1".parse::<std::net::IpAddr>().unwrap()),
            first().exact(Field::CtNwProto, 6).masked(Field::CtTpDst, 8080, 0xfff0),
            first().bits(SubField::reg(0, 10, 10), 1),
            Match::new().conj_id(7),
        ];
        for matches in here {
            assert!(matches!(matches.0, Small::Here(..)), "{matches}");
        }
        let long = first().exact(Field::CtLabel, 1).bits(SubField::reg(1, 0, 31), 2);
        assert!(matches!(long.0, Small::Shared(..)), "{long}");
        assert_eq!((size_of::<Match>(), size_of::<crate::FlowKey>()), (24, 32));
    }

    #[test]
    fn what_is_not_known_comes_last_and_in_order() {
        let unknown = |field, value: &[u8], mask: Option<&[u8]>| UnknownField {
            id: OxmId { class: 0xffff, field, experimenter: 9 },
            value: value.into(),
            mask: mask.map(Into::into),
        };
        let all = [unknown(1, &[1, 2], None), unknown(1, &[1, 2], Some(&[3, 0])), unknown(2, &[], None)];
        let (mut one, mut other) = (Match::new().arp(), Match::new());
        all.iter().for_each(|field| one.insert_unknown(field.clone()));
        all.iter().rev().for_each(|field| other.insert_unknown(field.clone()));
        other.insert(Field::EthType, 0x0806, u128::MAX);
        assert_eq!((one.cmp(&other), one == other), (Ordering::Equal, true));
        assert!(one.unknown_fields().eq(all));
        assert_eq!((one.fields().count(), one.remove(Field::EthType).map(|m| m.value)), (1, Some(0x0806)));
        assert!(one < other && !one.is_empty() && one.fields().next().is_none());
    }
}
