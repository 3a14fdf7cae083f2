//! Structures of 16-bit type and 16-bit length, as actions and instructions are.

use bytes::{BufMut, BytesMut};

use crate::EncodeError;

/// Writes the value's low `bytes` bytes.
pub(crate) fn put_uint(b: &mut BytesMut, value: u128, bytes: usize) {
    let all = value.to_be_bytes();
    b.put_slice(all.get(16usize.saturating_sub(bytes)..).unwrap_or(&all));
}

/// Writes zeros until the length from `start` is a multiple of 8.
pub(crate) fn pad8(b: &mut BytesMut, start: usize) {
    let len = b.len() - start;
    b.put_bytes(0, len.next_multiple_of(8) - len);
}

/// Writes the length since `start` as 16 bits at `at`.
pub(crate) fn set_len(
    b: &mut BytesMut,
    start: usize,
    at: usize,
    what: &'static str,
) -> Result<(), EncodeError> {
    let len = b.len() - start;
    patch16(b, len, at, what)
}

/// Writes a length as 16 bits at `at`.
pub(crate) fn patch16(
    b: &mut BytesMut,
    len: usize,
    at: usize,
    what: &'static str,
) -> Result<(), EncodeError> {
    let n = u16::try_from(len).map_err(|_| EncodeError { what, len, max: usize::from(u16::MAX) })?;
    if let Some(slot) = b.get_mut(at..at + 2) {
        slot.copy_from_slice(&n.to_be_bytes());
    }
    Ok(())
}

/// Starts a structure of 16-bit type and 16-bit length; returns where.
pub(crate) fn begin(b: &mut BytesMut, kind: u16) -> usize {
    let start = b.len();
    b.put_u16(kind);
    b.put_u16(0);
    start
}

/// Ends a structure begun with [`begin`]: pads it, then states its length with the padding.
pub(crate) fn end_padded(b: &mut BytesMut, start: usize, what: &'static str) -> Result<(), EncodeError> {
    pad8(b, start);
    set_len(b, start, start + 2, what)
}

/// Ends a structure begun with [`begin`]: states its length, then pads it.
pub(crate) fn end_then_pad(b: &mut BytesMut, start: usize, what: &'static str) -> Result<(), EncodeError> {
    set_len(b, start, start + 2, what)?;
    pad8(b, start);
    Ok(())
}
