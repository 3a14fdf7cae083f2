//! Nicira extension actions (nicira-ext.h `NXAST_*`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::actions::{put_actions, read_actions};
use super::frame::{begin, end_padded, end_then_pad, put_uint};
use super::read::{Reader, Result as Res};
use super::{NICIRA, learn, oxm};
use crate::{Action, ControllerAction, Ct, CtZone, EncodeError, Nat, NatKind, PacketInReason, PortNo};

type Enc = Result<(), EncodeError>;

/// Starts a Nicira action; 10 bytes.
pub(crate) fn start(b: &mut BytesMut, subtype: u16) -> usize {
    let s = begin(b, 0xffff);
    b.put_u32(NICIRA);
    b.put_u16(subtype);
    s
}

fn port16(p: PortNo) -> u16 {
    p.to_u16().unwrap_or(0xffff)
}

pub(crate) fn put_action(b: &mut BytesMut, a: &Action) -> Enc {
    match a {
        Action::Controller(c) => return put_controller(b, c),
        Action::Ct(ct) => return put_ct(b, ct),
        Action::Nat(nat) => return put_nat(b, nat),
        Action::Learn(l) => return learn::put_learn(b, l),
        _ => {}
    }
    let s = b.len();
    match a {
        Action::OutputReg { src, max_len } => {
            start(b, 15);
            b.put_u16(oxm::ofs_nbits("output_reg bits", *src)?);
            oxm::put_nxm_name(b, src.field());
            b.put_u16(*max_len);
        }
        Action::OutputTrunc { port, max_len } => {
            start(b, 39);
            b.put_u16(port16(*port));
            b.put_u32(*max_len);
        }
        Action::Push(f) | Action::Pop(f) => {
            start(b, if matches!(a, Action::Push(_)) { 27 } else { 28 });
            b.put_u16(f.ofs());
            oxm::put_nxm_name(b, f.field());
            b.put_u16(f.n_bits());
        }
        Action::Resubmit { port, table, ct } => {
            let subtype = if *ct { 44 } else { 14 };
            start(b, subtype);
            b.put_u16(port16(port.unwrap_or(PortNo::IN_PORT)));
            b.put_u8(table.unwrap_or(0xff));
        }
        Action::CtClear => {
            start(b, 43);
        }
        Action::PopQueue => {
            start(b, 5);
        }
        Action::Exit => {
            start(b, 17);
        }
        Action::Conjunction { id, clause, n_clauses } => {
            start(b, 34);
            b.put_u8(clause.saturating_sub(1));
            b.put_u8(*n_clauses);
            b.put_u32(*id);
        }
        Action::FinTimeout { idle, hard } => {
            start(b, 19);
            b.put_u16(*idle);
            b.put_u16(*hard);
        }
        Action::Note(bytes) => {
            start(b, 8);
            b.put_slice(bytes);
        }
        Action::Clone(list) => {
            start(b, 42);
            b.put_bytes(0, 6);
            put_actions(b, list)?;
        }
        // The caller writes the rest.
        _ => return Ok(()),
    }
    end_padded(b, s, "nicira action")
}

fn put_controller(b: &mut BytesMut, c: &ControllerAction) -> Enc {
    if *c == (ControllerAction { max_len: c.max_len, ..ControllerAction::default() }) {
        super::actions::output(b, PortNo::CONTROLLER, c.max_len);
        return Ok(());
    }
    if c.userdata.is_empty() && !c.pause && c.meter_id.is_none() {
        let s = start(b, 20);
        b.put_u16(c.max_len);
        b.put_u16(c.controller_id);
        b.put_u8(c.reason.number());
        return end_padded(b, s, "controller");
    }
    let s = start(b, 37);
    b.put_bytes(0, 6);
    let mut prop = |kind: u16, value: &[u8]| {
        let p = begin(b, kind);
        b.put_slice(value);
        end_then_pad(b, p, "controller property")
    };
    let padded = |v: [u8; 2]| [v[0], v[1], 0, 0];
    if c.max_len != 0xffff {
        prop(0, &padded(c.max_len.to_be_bytes()))?;
    }
    if c.controller_id != 0 {
        prop(1, &padded(c.controller_id.to_be_bytes()))?;
    }
    if c.reason != PacketInReason::Action {
        prop(2, &[c.reason.number()])?;
    }
    if !c.userdata.is_empty() {
        prop(3, &c.userdata)?;
    }
    if c.pause {
        prop(4, &[])?;
    }
    if let Some(m) = c.meter_id {
        prop(5, &m.to_be_bytes())?;
    }
    end_padded(b, s, "controller")
}

fn put_ct(b: &mut BytesMut, ct: &Ct) -> Enc {
    let s = start(b, 35);
    b.put_u16(u16::from(ct.commit) | u16::from(ct.force) << 1);
    match ct.zone {
        CtZone::Immediate(z) => {
            b.put_u32(0);
            b.put_u16(z);
        }
        CtZone::Field(f) => {
            oxm::put_nxm_name(b, f.field());
            b.put_u16(oxm::ofs_nbits("ct zone bits", f)?);
        }
    }
    b.put_u8(ct.table.unwrap_or(0xff));
    b.put_bytes(0, 3);
    b.put_u16(ct.alg);
    if let Some(nat) = &ct.nat {
        put_nat(b, nat)?;
    }
    put_actions(b, &ct.exec)?;
    end_padded(b, s, "ct")
}

fn put_nat(b: &mut BytesMut, nat: &Nat) -> Enc {
    let s = start(b, 36);
    b.put_u16(0);
    let kind = match nat.kind {
        None => 0,
        Some(NatKind::Src) => 1,
        Some(NatKind::Dst) => 2,
    };
    let flag = |on: bool, bit: u16| if on { bit } else { 0 };
    b.put_u16(kind | flag(nat.persistent, 4) | flag(nat.hash, 8) | flag(nat.random, 16));
    let present_at = b.len();
    b.put_u16(0);
    let mut present = 0;
    let (bit, bytes) = match nat.addrs {
        Some((IpAddr::V6(_), _)) => (4, 16),
        _ => (1, 4),
    };
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    if let Some((first, last)) = nat.addrs {
        present |= bit;
        put_uint(b, bits(first), bytes);
        if last != first {
            present |= bit << 1;
            put_uint(b, bits(last), bytes);
        }
    }
    if let Some((first, last)) = nat.ports {
        present |= 16;
        b.put_u16(first);
        if last != first {
            present |= 32;
            b.put_u16(last);
        }
    }
    super::frame::patch16(b, present, present_at, "nat")?;
    end_padded(b, s, "nat")
}

/// Reads a Nicira action after its type and length; `None` if it is not known.
pub(crate) fn read_action(mut r: Reader, depth: usize) -> Res<Option<Action>> {
    if r.u32("experimenter")? != NICIRA {
        return Ok(None);
    }
    let subtype = r.u16("nicira action subtype")?;
    Ok(Some(match subtype {
        1 | 14 | 44 => {
            let port = PortNo::from_u16(r.u16("resubmit port")?);
            let table = r.u8("resubmit table")?;
            Action::Resubmit {
                port: (port != PortNo::IN_PORT).then_some(port),
                table: (subtype != 1 && table != 0xff).then_some(table),
                ct: subtype == 44,
            }
        }
        5 => Action::PopQueue,
        8 => Action::Note(r.rest().to_vec()),
        15 => {
            let on = r.u16("output_reg sub-field")?;
            let Ok(f) = oxm::name(&mut r) else { return Ok(None) };
            let src = oxm::subfield(&r, f, on >> 6, (on & 0x3f) + 1)?;
            Action::OutputReg { src, max_len: r.u16("output_reg max_len")? }
        }
        16 | 45 => return learn::read_learn(r, subtype == 45),
        17 => Action::Exit,
        19 => Action::FinTimeout { idle: r.u16("fin_timeout idle")?, hard: r.u16("fin_timeout hard")? },
        20 => {
            let c = ControllerAction {
                max_len: r.u16("controller max_len")?,
                controller_id: r.u16("controller id")?,
                reason: PacketInReason::from_number(r.u8("controller reason")?),
                ..ControllerAction::default()
            };
            controller(c)
        }
        27 | 28 => {
            let ofs = r.u16("stack offset")?;
            let Ok(f) = oxm::name(&mut r) else { return Ok(None) };
            let n = r.u16("stack n_bits")?;
            let sub = oxm::subfield(&r, f, ofs, n)?;
            if subtype == 27 { Action::Push(sub) } else { Action::Pop(sub) }
        }
        34 => {
            let clause = r.u8("conjunction clause")?;
            let n_clauses = r.u8("conjunction n_clauses")?;
            if clause >= n_clauses {
                return r.bad("conjunction clause", clause.into());
            }
            Action::Conjunction { id: r.u32("conjunction id")?, clause: clause + 1, n_clauses }
        }
        35 => return read_ct(r, depth),
        36 => Action::Nat(read_nat(r)?),
        37 => controller(read_controller2(r)?),
        39 => Action::OutputTrunc {
            port: PortNo::from_u16(r.u16("output port")?),
            max_len: r.u32("output max_len")?,
        },
        42 => {
            r.skip("clone", 6)?;
            Action::Clone(read_actions(&mut r, depth + 1)?)
        }
        43 => Action::CtClear,
        _ => return Ok(None),
    }))
}

/// The action, or its plain form if no argument needs more.
fn controller(c: ControllerAction) -> Action {
    let plain = ControllerAction { max_len: c.max_len, ..ControllerAction::default() };
    if c == plain { Action::ToController { max_len: c.max_len } } else { c.into() }
}

fn read_controller2(mut r: Reader) -> Res<ControllerAction> {
    r.skip("controller", 6)?;
    let mut c = ControllerAction::default();
    while !r.is_empty() {
        let (kind, mut p) = r.property("controller property")?;
        match kind {
            0 => c.max_len = p.u16("controller max_len")?,
            1 => c.controller_id = p.u16("controller id")?,
            2 => c.reason = PacketInReason::from_number(p.u8("controller reason")?),
            3 => c.userdata = p.rest().to_vec(),
            4 => c.pause = true,
            5 => c.meter_id = Some(p.u32("controller meter")?),
            k => return p.bad("controller property", k.into()),
        }
    }
    Ok(c)
}

fn read_ct(mut r: Reader, depth: usize) -> Res<Option<Action>> {
    let flags = r.u16("ct flags")?;
    let mut zone_src = r.clone();
    r.skip("ct zone", 4)?;
    let imm = r.u16("ct zone")?;
    let mut peek = zone_src.clone();
    let zone = if peek.u32("ct zone")? == 0 {
        CtZone::Immediate(imm)
    } else {
        let Ok(f) = oxm::name(&mut zone_src) else { return Ok(None) };
        CtZone::Field(oxm::subfield(&r, f, imm >> 6, (imm & 0x3f) + 1)?)
    };
    let table = r.u8("ct table")?;
    r.skip("ct", 3)?;
    let alg = r.u16("ct alg")?;
    let mut exec = read_actions(&mut r, depth + 1)?;
    let nat = match exec.first() {
        Some(Action::Nat(n)) => Some(*n),
        _ => None,
    };
    if nat.is_some() {
        exec.remove(0);
    }
    let table = (table != 0xff).then_some(table);
    let ct = Ct { commit: flags & 1 != 0, force: flags & 2 != 0, zone, table, alg, nat, exec };
    Ok(Some(ct.into()))
}

fn read_nat(mut r: Reader) -> Res<Nat> {
    r.skip("nat", 2)?;
    let flags = r.u16("nat flags")?;
    let present = r.u16("nat range")?;
    let kind = match flags & 3 {
        0 => None,
        1 => Some(NatKind::Src),
        2 => Some(NatKind::Dst),
        _ => return r.bad("nat flags", flags.into()),
    };
    let mut range = |bit: u16, bytes: usize| -> Res<Option<(u128, u128)>> {
        if present & bit == 0 {
            return Ok(None);
        }
        let first = r.uint("nat range", bytes)?;
        let last = if present & bit << 1 == 0 { first } else { r.uint("nat range", bytes)? };
        Ok(Some((first, last)))
    };
    let v4 = range(1, 4)?;
    let v6 = range(4, 16)?;
    let ports = range(16, 2)?.map(|(a, b)| (a as u16, b as u16));
    let ip4 = |v: u128| IpAddr::V4(Ipv4Addr::from_bits(v as u32));
    let ip6 = |v: u128| IpAddr::V6(Ipv6Addr::from_bits(v));
    let addrs = v4.map(|(a, b)| (ip4(a), ip4(b))).or(v6.map(|(a, b)| (ip6(a), ip6(b))));
    Ok(Nat { kind, addrs, ports, persistent: flags & 4 != 0, hash: flags & 8 != 0, random: flags & 16 != 0 })
}
