//! The learn action (nicira-ext.h `NXAST_LEARN`, `NXAST_LEARN2`).

use bytes::{BufMut, BytesMut};

use super::frame::{end_padded, put_uint};
use super::oxm;
use super::read::{Reader, Result as Res};
use crate::{Action, EncodeError, Learn, LearnDst, LearnSpec, LearnSrc, SubField};

const IMMEDIATE: u16 = 1 << 13;

fn put_sub(b: &mut BytesMut, s: SubField) {
    oxm::put_nxm_name(b, s.field());
    b.put_u16(s.ofs());
}

pub(crate) fn put_learn(b: &mut BytesMut, l: &Learn) -> Result<(), EncodeError> {
    let second = l.limit != 0 || l.result.is_some();
    let s = super::nicira::start(b, if second { 45 } else { 16 });
    b.put_u16(l.idle_timeout);
    b.put_u16(l.hard_timeout);
    b.put_u16(l.priority);
    b.put_u64(l.cookie);
    let flag = |on: bool, bit: u16| if on { bit } else { 0 };
    b.put_u16(flag(l.send_flow_removed, 1) | flag(l.delete_learned, 2) | flag(l.result.is_some(), 4));
    b.put_u8(l.table);
    b.put_u8(0);
    b.put_u16(l.fin_idle_timeout);
    b.put_u16(l.fin_hard_timeout);
    if second {
        b.put_u32(l.limit);
        b.put_u16(l.result.map_or(0, SubField::ofs));
        b.put_u16(0);
        if let Some(r) = l.result {
            oxm::put_nxm_name(b, r.field());
        }
    }
    for spec in &l.specs {
        let (n_bits, dst) = match (spec.dst, spec.src) {
            (LearnDst::Match(d), _) => (d.n_bits(), 0),
            (LearnDst::Load(d), _) => (d.n_bits(), 1 << 11),
            (LearnDst::Output, LearnSrc::Field(s)) => (s.n_bits(), 2 << 11),
            (LearnDst::Output, LearnSrc::Immediate(_)) => (16, 2 << 11),
        };
        match spec.src {
            LearnSrc::Field(src) => {
                b.put_u16(n_bits | dst);
                put_sub(b, src);
            }
            LearnSrc::Immediate(v) => {
                b.put_u16(n_bits | dst | IMMEDIATE);
                put_uint(b, v, 2 * usize::from(n_bits.div_ceil(16)));
            }
        }
        match spec.dst {
            LearnDst::Match(d) | LearnDst::Load(d) => put_sub(b, d),
            LearnDst::Output => {}
        }
    }
    end_padded(b, s, "learn")
}

/// Reads a learn action after its subtype; `None` if it uses fields that are not known.
pub(crate) fn read_learn(mut r: Reader, second: bool) -> Res<Option<Action>> {
    let mut l = Learn::new(0, 0);
    l.idle_timeout = r.u16("learn idle_timeout")?;
    l.hard_timeout = r.u16("learn hard_timeout")?;
    l.priority = r.u16("learn priority")?;
    l.cookie = r.u64("learn cookie")?;
    let flags = r.u16("learn flags")?;
    l.send_flow_removed = flags & 1 != 0;
    l.delete_learned = flags & 2 != 0;
    l.table = r.u8("learn table")?;
    r.skip("learn", 1)?;
    l.fin_idle_timeout = r.u16("learn fin_idle_timeout")?;
    l.fin_hard_timeout = r.u16("learn fin_hard_timeout")?;
    if second {
        l.limit = r.u32("learn limit")?;
        let ofs = r.u16("learn result offset")?;
        r.skip("learn", 2)?;
        if flags & 4 != 0 {
            let Ok(f) = oxm::name(&mut r) else { return Ok(None) };
            l.result = Some(oxm::subfield(&r, f, ofs, 1)?);
        }
    }
    while r.remaining() >= 2 {
        let at = r.clone();
        let head = r.u16("learn spec")?;
        if head == 0 {
            break;
        }
        let n_bits = head & 0x7ff;
        if head & IMMEDIATE != 0 && n_bits > 128 {
            return at.bad("learn spec", head.into());
        }
        let src = if head & IMMEDIATE != 0 {
            LearnSrc::Immediate(r.uint("learn value", 2 * usize::from(n_bits.div_ceil(16)))?)
        } else {
            match sub(&mut r, n_bits)? {
                Some(s) => LearnSrc::Field(s),
                None => return Ok(None),
            }
        };
        let dst = match head >> 11 & 3 {
            2 => LearnDst::Output,
            3 => return at.bad("learn spec", head.into()),
            kind => match sub(&mut r, n_bits)? {
                Some(d) if kind == 0 => LearnDst::Match(d),
                Some(d) => LearnDst::Load(d),
                None => return Ok(None),
            },
        };
        let src = match (src, dst) {
            (LearnSrc::Immediate(v), LearnDst::Match(d) | LearnDst::Load(d)) => {
                LearnSrc::Immediate(v & d.max_value())
            }
            (LearnSrc::Immediate(_), LearnDst::Output) => return at.bad("learn spec", head.into()),
            (s, _) => s,
        };
        l.specs.push(LearnSpec { src, dst });
    }
    Ok(Some(l.into()))
}

fn sub(r: &mut Reader, n_bits: u16) -> Res<Option<SubField>> {
    let at = r.clone();
    let Ok(f) = oxm::name(r) else {
        return Ok(None);
    };
    let ofs = r.u16("learn offset")?;
    oxm::subfield(&at, f, ofs, n_bits).map(Some)
}
