//! Actions and instructions.

use std::borrow::Borrow;

use bytes::{BufMut, BytesMut};

use super::frame::{begin, end_padded, set_len};
use super::read::{Reader, Result as Res};
use super::{MAX_DEPTH, nicira, oxm};
use crate::{Action, Actions, EncodeError, Field, MatchField, PortNo, Problem};

type Enc = Result<(), EncodeError>;

/// Writes actions without instructions among them; instructions are left out.
pub(crate) fn put_actions<A: Borrow<Action>>(b: &mut BytesMut, actions: impl IntoIterator<Item = A>) -> Enc {
    actions.into_iter().try_for_each(|a| put_action(b, a.borrow()))
}

fn simple(b: &mut BytesMut, kind: u16, arg: u32) {
    b.put_u16(kind);
    b.put_u16(8);
    b.put_u32(arg);
}

pub(crate) fn output(b: &mut BytesMut, port: PortNo, max_len: u16) {
    b.put_u16(0);
    b.put_u16(16);
    b.put_u32(port.0);
    b.put_u16(max_len);
    b.put_bytes(0, 6);
}

fn put_action(b: &mut BytesMut, a: &Action) -> Enc {
    match a {
        Action::Output(PortNo::CONTROLLER) => output(b, PortNo::CONTROLLER, 0xffff),
        Action::Output(p) => output(b, *p, 0),
        Action::ToController { max_len } => output(b, PortNo::CONTROLLER, *max_len),
        Action::PushVlan(t) => simple(b, 17, u32::from(*t) << 16),
        Action::PopVlan => simple(b, 18, 0),
        Action::SetQueue(q) => simple(b, 21, *q),
        Action::Group(g) => simple(b, 22, *g),
        Action::DecTtl => simple(b, 24, 0),
        Action::Meter(m) => simple(b, 29, *m),
        Action::SetField { field, value, mask } => {
            let s = begin(b, 25);
            let mask = mask & field.full_mask();
            oxm::put_oxm(b, MatchField { field: *field, value: value & mask, mask });
            end_padded(b, s, "set_field")?;
        }
        Action::Move { src, dst } => {
            let s = begin(b, 28);
            b.put_u16(src.n_bits());
            b.put_u16(src.ofs());
            b.put_u16(dst.ofs());
            b.put_u16(0);
            oxm::put_oxm_name(b, src.field());
            oxm::put_oxm_name(b, dst.field());
            end_padded(b, s, "move")?;
        }
        Action::Unknown(bytes) => b.put_slice(bytes),
        Action::ClearActions
        | Action::WriteActions(_)
        | Action::WriteMetadata { .. }
        | Action::GotoTable(_) => {}
        other => nicira::put_action(b, other)?,
    }
    Ok(())
}

/// Reads actions up to the end.
pub(crate) fn read_actions(r: &mut Reader, depth: usize) -> Res<Vec<Action>> {
    if depth > MAX_DEPTH {
        return Err(r.fault("actions", Problem::TooDeep));
    }
    let mut out = Vec::new();
    while !r.is_empty() {
        let a = r.framed("action", 8)?;
        if a.remaining() % 8 != 0 {
            return Err(a.fault("action", Problem::BadLength(a.remaining())));
        }
        out.push(read_action(a, depth)?);
    }
    Ok(out)
}

fn read_action(mut r: Reader, depth: usize) -> Res<Action> {
    let whole = r.clone();
    let kind = r.u16("action type")?;
    r.skip("action length", 2)?;
    Ok(match kind {
        0 => {
            let port = PortNo(r.u32("output port")?);
            let max_len = r.u16("output max_len")?;
            match port {
                PortNo::CONTROLLER => Action::ToController { max_len },
                p => Action::Output(p),
            }
        }
        17 => Action::PushVlan(r.u16("push_vlan type")?),
        18 => Action::PopVlan,
        21 => Action::SetQueue(r.u32("queue")?),
        22 => Action::Group(r.u32("group")?),
        24 => Action::DecTtl,
        25 => match oxm::oxm(&mut r)? {
            oxm::Oxm::Known(MatchField { field, value, mask }) => Action::SetField { field, value, mask },
            oxm::Oxm::Unknown(_) => unknown(whole),
        },
        28 => {
            let n = r.u16("move n_bits")?;
            let (so, d_o) = (r.u16("move source offset")?, r.u16("move destination offset")?);
            r.skip("move", 2)?;
            match (known_name(&mut r)?, known_name(&mut r)?) {
                (Some(s), Some(d)) => {
                    Action::Move { src: oxm::subfield(&r, s, so, n)?, dst: oxm::subfield(&r, d, d_o, n)? }
                }
                _ => unknown(whole),
            }
        }
        29 => Action::Meter(r.u32("meter")?),
        0xffff => match nicira::read_action(r, depth)? {
            Some(a) => a,
            None => unknown(whole),
        },
        _ => unknown(whole),
    })
}

/// A field named by a header, or `None` if it is not known.
fn known_name(r: &mut Reader) -> Res<Option<Field>> {
    let (id, _, _) = oxm::header(r)?;
    Ok(Field::from_id(id))
}

fn unknown(mut whole: Reader) -> Action {
    Action::Unknown(whole.rest().to_vec().into())
}

/// Writes the instructions of a flow: the plain actions as one apply-actions, then what
/// the list has of the other instructions in the order that the switch runs them.
pub(crate) fn put_instructions(b: &mut BytesMut, actions: &Actions) -> Enc {
    let start = begin(b, 4);
    b.put_u32(0);
    // Most lists have nothing but this one of the others.
    let (mut goto, mut others) = (None, Vec::new());
    for action in actions.iter() {
        match action {
            Action::GotoTable(table) => others.extend(goto.replace(table).map(|t| (4, Action::GotoTable(t)))),
            Action::ClearActions => others.push((1, action)),
            Action::WriteActions(_) => others.push((2, action)),
            Action::WriteMetadata { .. } => others.push((3, action)),
            action => put_action(b, &action)?,
        }
    }
    if b.len() == start + 8 {
        b.truncate(start);
    } else {
        set_len(b, start, start + 2, "apply_actions")?;
    }
    others.sort_by_key(|(order, _)| *order);
    let last = goto.map(|table| (4, Action::GotoTable(table)));
    others.into_iter().chain(last).try_for_each(|(_, instruction)| put_instruction(b, &instruction))
}

fn put_instruction(b: &mut BytesMut, instruction: &Action) -> Enc {
    match instruction {
        Action::ClearActions => simple(b, 5, 0),
        Action::WriteActions(list) => {
            let s = begin(b, 3);
            b.put_u32(0);
            put_actions(b, list)?;
            set_len(b, s, s + 2, "write_actions")?;
        }
        Action::WriteMetadata { value, mask } => {
            let s = begin(b, 2);
            b.put_u32(0);
            b.put_u64(value & mask);
            b.put_u64(*mask);
            set_len(b, s, s + 2, "write_metadata")?;
        }
        Action::GotoTable(t) => simple(b, 1, u32::from(*t) << 24),
        _ => {}
    }
    Ok(())
}

/// Reads instructions up to the end.
pub(crate) fn read_instructions(r: &mut Reader) -> Res<Actions> {
    let mut apply = Vec::new();
    let mut rest: Vec<(u8, Action)> = Vec::new();
    while !r.is_empty() {
        let mut i = r.framed("instruction", 8)?;
        let at = i.clone();
        let kind = i.u16("instruction type")?;
        i.skip("instruction length", 2)?;
        match kind {
            1 => rest.push((4, Action::GotoTable(i.u8("goto_table")?))),
            2 => {
                i.skip("write_metadata", 4)?;
                let value = i.u64("write_metadata value")?;
                let mask = i.u64("write_metadata mask")?;
                rest.push((3, Action::WriteMetadata { value: value & mask, mask }));
            }
            3 => {
                i.skip("write_actions", 4)?;
                rest.push((2, Action::WriteActions(read_actions(&mut i, 1)?)));
            }
            4 => {
                i.skip("apply_actions", 4)?;
                apply.extend(read_actions(&mut i, 0)?);
            }
            5 => rest.push((1, Action::ClearActions)),
            6 => rest.push((0, Action::Meter(i.u32("meter")?))),
            k => return at.bad("instruction type", k.into()),
        }
    }
    rest.sort_by_key(|(order, _)| *order);
    let meters = rest.iter().filter(|(o, _)| *o == 0).count();
    let tail = rest.split_off(meters);
    let one = |(_, action): (u8, Action)| action;
    Ok(rest.into_iter().map(one).chain(apply).chain(tail.into_iter().map(one)).collect())
}
