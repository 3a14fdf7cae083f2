//! OXM/NXM headers, values and matches.

use bytes::{BufMut, BytesMut};

use super::frame::{end_then_pad, put_uint};
use super::read::{Reader, Result as Res};
use crate::{EncodeError, Field, Match, MatchField, OxmId, Problem, SubField, UnknownField};

/// Writes the header of an OXM with `len` bytes of value and mask.
fn put_header(b: &mut BytesMut, id: OxmId, has_mask: bool, len: usize) {
    let exp = id.class == 0xffff;
    b.put_u16(id.class);
    b.put_u8(id.field << 1 | u8::from(has_mask));
    b.put_u8((len + if exp { 4 } else { 0 }) as u8);
    if exp {
        b.put_u32(id.experimenter);
    }
}

/// Writes an OXM with value, and mask unless all bits count.
pub(crate) fn put_oxm(b: &mut BytesMut, m: MatchField) {
    let n = m.field.bytes();
    let exact = m.mask == m.field.full_mask();
    put_header(b, m.field.oxm_id(), !exact, if exact { n } else { 2 * n });
    put_uint(b, m.value, n);
    if !exact {
        put_uint(b, m.mask, n);
    }
}

/// Writes the bare header that names a field in an OpenFlow action.
pub(crate) fn put_oxm_name(b: &mut BytesMut, f: Field) {
    put_header(b, f.oxm_id(), false, f.bytes());
}

/// Writes the bare header that names a field in a Nicira action.
pub(crate) fn put_nxm_name(b: &mut BytesMut, f: Field) {
    put_header(b, f.nxm_id(), false, f.bytes());
}

/// An OXM header: identifier, whether there is a mask, bytes that follow.
pub(crate) fn header(r: &mut Reader) -> Res<(OxmId, bool, usize)> {
    const WHAT: &str = "oxm header";
    let class = r.u16(WHAT)?;
    let field = r.u8(WHAT)?;
    let mut len = usize::from(r.u8(WHAT)?);
    let mut experimenter = 0;
    if class == 0xffff {
        len = len.checked_sub(4).ok_or_else(|| r.fault(WHAT, Problem::BadLength(len)))?;
        experimenter = r.u32("oxm experimenter")?;
    }
    Ok((OxmId { class, field: field >> 1, experimenter }, field & 1 != 0, len))
}

/// A header that names a field.
pub(crate) fn name(r: &mut Reader) -> Res<Field> {
    let at = r.clone();
    let (id, mask, len) = header(r)?;
    match Field::from_id(id) {
        Some(f) if !mask && len == f.bytes() => Ok(f),
        _ => at.bad("field name", u64::from(id.class) << 16 | u64::from(id.field) << 8 | len as u64),
    }
}

/// A sub-field from its name, offset and size.
pub(crate) fn subfield(r: &Reader, f: Field, ofs: u16, n_bits: u16) -> Res<SubField> {
    match SubField::new(f, ofs, n_bits) {
        Some(s) => Ok(s),
        None => r.bad("sub-field", u64::from(ofs) << 16 | u64::from(n_bits)),
    }
}

/// The 16 bits in which some Nicira actions keep offset and size, of which there is room for 64.
pub(crate) fn ofs_nbits(what: &'static str, s: SubField) -> Result<u16, EncodeError> {
    match s.n_bits() {
        n @ 1..=64 => Ok(s.ofs() << 6 | (n - 1)),
        n => Err(EncodeError { what, len: n.into(), max: 64 }),
    }
}

/// A field with value and mask, or one that is not known.
pub(crate) enum Oxm {
    Known(MatchField),
    Unknown(UnknownField),
}

/// Reads an OXM.
pub(crate) fn oxm(r: &mut Reader) -> Res<Oxm> {
    let at = r.clone();
    let (id, has_mask, len) = header(r)?;
    let mut body = r.part("oxm value", len)?;
    let half = if has_mask { len / 2 } else { len };
    if has_mask && len % 2 != 0 {
        return Err(at.fault("oxm value", Problem::BadLength(len)));
    }
    match Field::from_id(id) {
        Some(field) => {
            if half != field.bytes() {
                return Err(at.fault(field.name(), Problem::BadLength(len)));
            }
            let full = field.full_mask();
            let value = body.uint(field.name(), half)? & full;
            let mask = if has_mask { body.uint(field.name(), half)? & full } else { full };
            Ok(Oxm::Known(MatchField { field, value: value & mask, mask }))
        }
        None => {
            let value = body.take("oxm value", half)?.to_vec().into();
            let mask = has_mask.then(|| body.rest().to_vec().into());
            Ok(Oxm::Unknown(UnknownField { id, value, mask }))
        }
    }
}

/// Writes the fields of a match as Open vSwitch does for OpenFlow 1.5: registers in pairs.
pub(crate) fn put_fields(b: &mut BytesMut, m: &Match) {
    let mut fields = m.fields().peekable();
    while let Some(f) = fields.next() {
        let reg = f.field as u8;
        if !(Field::Reg0..=Field::Reg15).contains(&f.field) {
            put_oxm(b, f);
            continue;
        }
        let n = reg - Field::Reg0 as u8;
        let (mut value, mut mask) = (f.value, f.mask);
        if n.is_multiple_of(2) {
            value <<= 32;
            mask <<= 32;
            if let Some(low) = fields.next_if(|l| Some(l.field) == Field::reg(n + 1)) {
                value |= low.value;
                mask |= low.mask;
            }
        }
        if let Some(field) = Field::xreg(n / 2) {
            put_oxm(b, MatchField { field, value, mask });
        }
    }
    for u in m.unknown_fields() {
        let mask = u.mask.as_deref().unwrap_or_default();
        put_header(b, u.id, u.mask.is_some(), u.value.len() + mask.len());
        b.put_slice(&u.value);
        b.put_slice(mask);
    }
}

/// Reads fields up to the end.
pub(crate) fn fields(r: &mut Reader) -> Res<Match> {
    let mut m = Match::new();
    while !r.is_empty() {
        match oxm(r)? {
            Oxm::Known(f) => m.insert(f.field, f.value, f.mask),
            Oxm::Unknown(u) => m.insert_unknown(u),
        }
    }
    Ok(m)
}

/// Writes the fields that a group hashes: each with the bits that count as its value.
pub(crate) fn put_hashed(b: &mut BytesMut, m: &Match) {
    for f in m.fields() {
        put_oxm(b, MatchField { value: f.mask, mask: f.field.full_mask(), ..f });
    }
}

/// Reads the fields that a group hashes.
pub(crate) fn hashed(r: &mut Reader) -> Res<Match> {
    let mut m = Match::new();
    while !r.is_empty() {
        if let Oxm::Known(f) = oxm(r)? {
            m.insert_hashed(f.field, f.value);
        }
    }
    Ok(m)
}

/// Writes `struct ofp_match` with its padding.
pub(crate) fn put_match(b: &mut BytesMut, m: &Match) -> Result<(), EncodeError> {
    let start = super::frame::begin(b, 1);
    put_fields(b, m);
    end_then_pad(b, start, "match")
}

/// Reads `struct ofp_match` with its padding.
pub(crate) fn read_match(r: &mut Reader) -> Res<Match> {
    let mut m = r.framed("match", 4)?;
    r.pad(m.remaining().next_multiple_of(8) - m.remaining());
    let kind = m.u16("match type")?;
    m.skip("match length", 2)?;
    if kind != 1 {
        return m.bad("match type", kind.into());
    }
    fields(&mut m)
}
