//! Lists of actions, as small as what is in them.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::small::{Cursor, Piece, Small};
use crate::{Action, Ct, CtZone, Field, Nat, NatKind, PortNo};

/// Bytes of a list that need no memory of their own. What rules of policies and buckets of Services do has fewer.
const HERE: usize = 30;

/// What a flow or bucket does, in order.
///
/// An [`Action`] is as large as its largest kind, and there are some for each flow. So lists of usual ones are kept as bytes:
/// short lists in place, and of others clones share them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Actions(Form);

/// Which one a list has follows from its actions.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    /// Each as [`write`] has it.
    Packed(Small<HERE>),
    /// At least one cannot be written so.
    Plain(Arc<[Action]>),
}

impl Actions {
    /// The actions, in order.
    pub fn iter(&self) -> impl Iterator<Item = Action> {
        let (mut packed, plain): (_, &[Action]) = match &self.0 {
            Form::Packed(bytes) => (Cursor(bytes.bytes()), &[]),
            Form::Plain(list) => (Cursor(&[]), &**list),
        };
        std::iter::from_fn(move || read(&mut packed)).chain(plain.iter().cloned())
    }

    /// Appends an action.
    pub fn push(&mut self, action: Action) {
        self.extend([action]);
    }
}

impl Extend<Action> for Actions {
    fn extend<I: IntoIterator<Item = Action>>(&mut self, actions: I) {
        let mut actions = actions.into_iter();
        let Form::Packed(known) = &mut self.0 else {
            self.0 = Form::Plain(self.iter().chain(actions).collect());
            return;
        };
        // All of it, once it has no room in place.
        let mut long: Vec<u8> = Vec::new();
        while let Some(action) = actions.next() {
            let mut piece = Piece::new();
            let packed = write(&mut piece, &action);
            let Some(bytes) = piece.bytes().filter(|_| packed) else {
                let mut known = Cursor(if long.is_empty() { known.bytes() } else { &long });
                let known = std::iter::from_fn(move || read(&mut known));
                self.0 = Form::Plain(known.chain([action]).chain(actions).collect());
                return;
            };
            if long.is_empty() && known.push(bytes) {
                continue;
            }
            if long.is_empty() {
                long.reserve(known.bytes().len() + bytes.len() * (1 + actions.size_hint().0));
                long.extend(known.bytes());
            }
            long.extend(bytes);
        }
        if !long.is_empty() {
            *known = Small::of([&long, &[], &[]]);
        }
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self(Form::Packed(Small::default()))
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut all = Self::default();
        all.extend(actions);
        all
    }
}

impl From<Vec<Action>> for Actions {
    fn from(actions: Vec<Action>) -> Self {
        actions.into_iter().collect()
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialOrd for Actions {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Actions {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

// First bytes of actions.
const OUTPUT: u8 = 0;
const GROUP: u8 = 1;
const METER: u8 = 2;
const RESUBMIT: u8 = 3;
const CONJUNCTION: u8 = 4;
const GOTO_TABLE: u8 = 5;
const CT_CLEAR: u8 = 6;
const DEC_TTL: u8 = 7;
const CT: u8 = 8;
/// A field of which not all bits are set.
const SET_BITS: u8 = 9;
/// All of a field, with its number.
const SET: u8 = 0x80;

const _: () = assert!(Field::ALL.len() <= 0x80, "the number of a field needs 7 bits");

/// Bits that say what an action has.
fn bits<const N: usize>(has: [bool; N]) -> u8 {
    has.iter().rev().fold(0, |bits, has| bits << 1 | u8::from(*has))
}

fn has(bits: u8, at: u8) -> bool {
    bits >> at & 1 != 0
}

/// Whether the action can be written, if it also fits. What can is read as it was.
fn write(to: &mut Piece, action: &Action) -> bool {
    match action {
        Action::Output(port) => tagged(to, OUTPUT, port.0),
        Action::Group(id) => tagged(to, GROUP, *id),
        Action::Meter(id) => tagged(to, METER, *id),
        Action::Resubmit { port, table, ct } => {
            to.put(&[RESUBMIT, bits([port.is_some(), table.is_some(), *ct])]);
            port.iter().for_each(|port| to.put(&port.0.to_be_bytes()));
            table.iter().for_each(|table| to.put(&[*table]));
        }
        Action::Conjunction { id, clause, n_clauses } => {
            tagged(to, CONJUNCTION, *id);
            to.put(&[*clause, *n_clauses]);
        }
        Action::GotoTable(table) => to.put(&[GOTO_TABLE, *table]),
        Action::CtClear => to.put(&[CT_CLEAR]),
        Action::DecTtl => to.put(&[DEC_TTL]),
        Action::Ct(ct) => return write_ct(to, ct),
        Action::SetField { field, value, mask } => {
            let (number, n) = (*field as u8, field.bytes());
            let all = *mask == field.full_mask();
            if all {
                to.put(&[SET | number]);
            } else {
                to.put(&[SET_BITS, number]);
            }
            to.put_uint(*value, n);
            if !all {
                to.put_uint(*mask, n);
            }
            let fits = |number: u128| n == 16 || number >> (8 * n) == 0;
            return fits(*value) && fits(*mask);
        }
        _ => return false,
    }
    true
}

fn tagged(to: &mut Piece, tag: u8, number: u32) {
    to.put(&[tag]);
    to.put(&number.to_be_bytes());
}

fn write_ct(to: &mut Piece, ct: &Ct) -> bool {
    let CtZone::Immediate(zone) = ct.zone else { return false };
    let flags =
        bits([ct.commit, ct.force, ct.table.is_some(), ct.alg != 0, ct.nat.is_some(), !ct.exec.is_empty()]);
    to.put(&[CT, flags]);
    to.put(&zone.to_be_bytes());
    ct.table.iter().for_each(|table| to.put(&[*table]));
    if ct.alg != 0 {
        to.put(&ct.alg.to_be_bytes());
    }
    ct.nat.iter().for_each(|nat| write_nat(to, nat));
    let mut exec = Piece::new();
    if !ct.exec.iter().all(|action| write(&mut exec, action)) {
        return false;
    }
    match exec.bytes() {
        Some([]) => true,
        Some(exec) => {
            // A piece has room for less than 256.
            to.put(&[exec.len() as u8]);
            to.put(exec);
            true
        }
        None => false,
    }
}

fn write_nat(to: &mut Piece, nat: &Nat) {
    let (first, last) = nat.addrs.unzip();
    let more = last.filter(|last| Some(*last) != first);
    let is_v6 = |ip: Option<IpAddr>| ip.is_some_and(|ip| ip.is_ipv6());
    to.put(&[
        bits([nat.kind.is_some(), nat.kind == Some(NatKind::Dst), nat.ports.is_some()]),
        bits([nat.persistent, nat.hash, nat.random]),
        bits([first.is_some(), is_v6(first), more.is_some(), is_v6(more)]),
    ]);
    for ip in first.into_iter().chain(more) {
        match ip {
            IpAddr::V4(ip) => to.put(&ip.octets()),
            IpAddr::V6(ip) => to.put(&ip.octets()),
        }
    }
    if let Some((first, last)) = nat.ports {
        to.put(&first.to_be_bytes());
        to.put(&last.to_be_bytes());
    }
}

/// The next action; none at the end.
fn read(from: &mut Cursor<'_>) -> Option<Action> {
    Some(match from.u8()? {
        OUTPUT => Action::Output(PortNo(from.u32()?)),
        GROUP => Action::Group(from.u32()?),
        METER => Action::Meter(from.u32()?),
        RESUBMIT => {
            let bits = from.u8()?;
            let port = if has(bits, 0) { Some(PortNo(from.u32()?)) } else { None };
            let table = if has(bits, 1) { Some(from.u8()?) } else { None };
            Action::Resubmit { port, table, ct: has(bits, 2) }
        }
        CONJUNCTION => Action::Conjunction { id: from.u32()?, clause: from.u8()?, n_clauses: from.u8()? },
        GOTO_TABLE => Action::GotoTable(from.u8()?),
        CT_CLEAR => Action::CtClear,
        DEC_TTL => Action::DecTtl,
        CT => read_ct(from)?.into(),
        SET_BITS => {
            let field = *Field::ALL.get(usize::from(from.u8()?))?;
            let (value, mask) = (from.uint(field.bytes())?, from.uint(field.bytes())?);
            Action::SetField { field, value, mask }
        }
        set => {
            let field = *Field::ALL.get(usize::from(set & !SET))?;
            Action::SetField { field, value: from.uint(field.bytes())?, mask: field.full_mask() }
        }
    })
}

fn read_ct(from: &mut Cursor<'_>) -> Option<Ct> {
    let bits = from.u8()?;
    let zone = CtZone::Immediate(from.u16()?);
    let table = if has(bits, 2) { Some(from.u8()?) } else { None };
    let alg = if has(bits, 3) { from.u16()? } else { 0 };
    let nat = if has(bits, 4) { Some(read_nat(from)?) } else { None };
    let mut exec = Vec::new();
    if has(bits, 5) {
        let len = usize::from(from.u8()?);
        let mut list = Cursor(from.part(len)?);
        exec.extend(std::iter::from_fn(|| read(&mut list)));
    }
    Some(Ct { commit: has(bits, 0), force: has(bits, 1), zone, table, alg, nat, exec })
}

fn read_nat(from: &mut Cursor<'_>) -> Option<Nat> {
    let (what, how, addrs) = (from.u8()?, from.u8()?, from.u8()?);
    let mut ip = |is_v6: bool| {
        Some(if is_v6 {
            IpAddr::from(<[u8; 16]>::try_from(from.part(16)?).ok()?)
        } else {
            IpAddr::from(<[u8; 4]>::try_from(from.part(4)?).ok()?)
        })
    };
    let first = if has(addrs, 0) { Some(ip(has(addrs, 1))?) } else { None };
    let last = if has(addrs, 2) { Some(ip(has(addrs, 3))?) } else { first };
    let kind = if has(what, 1) { NatKind::Dst } else { NatKind::Src };
    Some(Nat {
        kind: has(what, 0).then_some(kind),
        addrs: first.zip(last),
        ports: if has(what, 2) { Some((from.u16()?, from.u16()?)) } else { None },
        persistent: has(how, 0),
        hash: has(how, 1),
        random: has(how, 2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bucket, Flow, SubField};

    fn dnat(ip: &str) -> Action {
        let nat = Nat::dst(ip.parse().unwrap(), Some(8080));
        Ct { commit: true, zone: 65520_u16.into(), table: Some(12), nat: Some(nat), ..Ct::default() }.into()
    }

    #[test]
    fn what_there_are_many_of_needs_no_memory_of_its_own() {
        let bit = |reg, at| SubField::reg(reg, at, at).load(1);
        let denies =
            vec![SubField::reg(3, 0, 31).load(70_000), bit(0, 10), bit(0, 11), Action::GotoTable(30)];
        let keeps = vec![SubField::reg(3, 0, 31).load(1), bit(4, 17), Action::resubmit_table(9)];
        for list in [
            vec![],
            vec![Action::Conjunction { id: 70_000, clause: 2, n_clauses: 3 }],
            denies,
            keeps,
            vec![dnat("10.0.0.1")],
        ] {
            let actions = Actions::from(list.clone());
            assert!(matches!(actions.0, Form::Packed(Small::Here(..))), "{list:?}");
            assert!(actions.iter().eq(list));
        }
        assert_eq!((size_of::<Actions>(), size_of::<Flow>(), size_of::<Bucket>()), (32, 80, 56));
    }

    #[test]
    fn a_list_is_the_same_however_it_came_to_be() {
        let set = |value, mask| Action::SetField { field: Field::MplsLabel, value, mask };
        let all = [
            Action::DecTtl,
            dnat("fd00::1"),
            set(5, Field::MplsLabel.full_mask()),
            set(u128::MAX, 7),
            Action::Resubmit { port: Some(PortNo(7)), table: None, ct: true },
            Ct {
                nat: Some(Nat {
                    addrs: Some(("1.2.3.4".parse().unwrap(), "::5".parse().unwrap())),
                    ..Nat::restore()
                }),
                ..Ct::default()
            }
            .into(),
            Ct { exec: vec![SubField::reg(0, 0, 3).load(1); 9], alg: 21, force: true, ..Ct::default() }
                .into(),
            Action::note(b"n"),
            Action::Group(3),
            Action::CtClear,
        ];
        for from in 0..all.len() {
            let mut pushed = Actions::default();
            for to in from..all.len() {
                pushed.push(all[to].clone());
                let whole: Actions = all[from..=to].iter().cloned().collect();
                assert!(pushed == whole && pushed.cmp(&whole).is_eq(), "{pushed:?}");
                assert!(whole.iter().eq(all[from..=to].iter().cloned()), "{whole:?}");
                let (first, second) = all[from..=to].split_at((to - from) / 2);
                let mut halves: Actions = first.iter().cloned().collect();
                halves.extend(second.iter().cloned());
                assert_eq!(halves, whole);
            }
        }
    }
}
