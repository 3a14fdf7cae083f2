//! The fields of a match as bytes, in canonical order.
//!
//! ```text
//!  2 × number of the field + has mask │ value │ mask      for each, in as many bytes as the field has on the wire
//!  255 │ class │ field │ experimenter │ has mask │ length of the value │ value │ mask      what this crate does not know
//! ```
//!
//! Equal matches have equal bytes: fields are in the order of their numbers, and a mask is there unless it is full.

use super::{HERE, MatchField, UnknownField};
use crate::small::{Cursor, Piece, Small};
use crate::{Field, OxmId};

/// What begins a field that this crate does not know.
const UNKNOWN: u8 = 0xff;

const _: () =
    assert!(Field::ALL.len() < 127, "the number of a field needs 7 bits, and the last one stands for none");

fn write(to: &mut Piece, MatchField { field, value, mask }: MatchField) {
    let masked = mask != field.full_mask();
    to.put(&[(field as u8) << 1 | u8::from(masked)]);
    to.put_uint(value, field.bytes());
    if masked {
        to.put_uint(mask, field.bytes());
    }
}

/// The next field; none at the end of those that are known.
fn read(from: &mut Cursor<'_>) -> Option<MatchField> {
    let mut at = *from;
    let first = at.u8()?;
    let field = *Field::ALL.get(usize::from(first >> 1))?;
    let value = at.uint(field.bytes())?;
    let mask = if first & 1 == 0 { field.full_mask() } else { at.uint(field.bytes())? };
    *from = at;
    Some(MatchField { field, value, mask })
}

pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = MatchField> {
    let mut rest = Cursor(bytes);
    std::iter::from_fn(move || read(&mut rest))
}

/// Where a field is, or belongs.
pub(super) struct Place {
    at: usize,
    /// The bytes that it takes there.
    len: usize,
    pub(super) known: Option<MatchField>,
}

pub(super) fn find(bytes: &[u8], field: Field) -> Place {
    let mut rest = Cursor(bytes);
    loop {
        let at = bytes.len() - rest.0.len();
        match read(&mut rest) {
            Some(known) if known.field == field => {
                return Place { at, len: bytes.len() - rest.0.len() - at, known: Some(known) };
            }
            Some(known) if known.field < field => {}
            _ => return Place { at, len: 0, known: None },
        }
    }
}

impl Place {
    /// These bytes with another field in this place, or none.
    pub(super) fn with(&self, bytes: &[u8], field: Option<MatchField>) -> Small<HERE> {
        let mut new = Piece::new();
        if let Some(field) = field {
            write(&mut new, field);
        }
        let before = bytes.get(..self.at).unwrap_or_default();
        let after = bytes.get(self.at + self.len..).unwrap_or_default();
        Small::of([before, new.bytes().unwrap_or_default(), after])
    }
}

/// Where those begin that are not known.
fn unknown_at(bytes: &[u8]) -> usize {
    let mut rest = Cursor(bytes);
    while read(&mut rest).is_some() {}
    bytes.len() - rest.0.len()
}

pub(super) fn unknown_fields(bytes: &[u8]) -> impl Iterator<Item = UnknownField> {
    let mut rest = Cursor(bytes.get(unknown_at(bytes)..).unwrap_or_default());
    std::iter::from_fn(move || {
        rest.u8()?;
        let id = OxmId { class: rest.u16()?, field: rest.u8()?, experimenter: rest.u32()? };
        let has_mask = rest.u8()? != 0;
        let len = usize::from(rest.u8()?);
        let value = rest.part(len)?.into();
        let mask = if has_mask { Some(rest.part(len)?.into()) } else { None };
        Some(UnknownField { id, value, mask })
    })
}

/// These bytes with one more field that is not known.
pub(super) fn with_unknown(bytes: &[u8], field: UnknownField) -> Small<HERE> {
    let mut all: Vec<UnknownField> = unknown_fields(bytes).chain([field]).collect();
    all.sort_unstable();
    let mut last = Vec::new();
    for UnknownField { id, value, mask } in all {
        last.push(UNKNOWN);
        last.extend(id.class.to_be_bytes());
        last.push(id.field);
        last.extend(id.experimenter.to_be_bytes());
        // A length on the wire has a byte.
        last.extend([u8::from(mask.is_some()), value.len() as u8]);
        last.extend(value);
        last.extend(mask.unwrap_or_default());
    }
    Small::of([bytes.get(..unknown_at(bytes)).unwrap_or_default(), &last, &[]])
}
