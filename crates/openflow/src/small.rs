//! Bytes that stand for values where there are many of these: short ones need no memory of their own.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Up to `N` bytes in place; clones of longer ones share them.
#[derive(Clone)]
pub(crate) enum Small<const N: usize> {
    /// How many of the bytes count.
    Here(u8, [u8; N]),
    Shared(Arc<[u8]>),
}

impl<const N: usize> Small<N> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Here(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Shared(bytes) => bytes,
        }
    }

    /// These parts, one after the other.
    pub(crate) fn of(parts: [&[u8]; 3]) -> Self {
        let mut here = Self::default();
        if parts.iter().all(|part| here.push(part)) {
            return here;
        }
        let [first, second, third] = parts;
        Self::Shared(first.iter().chain(second).chain(third).copied().collect())
    }

    /// Appends what has room in place; if it has none, nothing changes.
    pub(crate) fn push(&mut self, more: &[u8]) -> bool {
        let Self::Here(len, bytes) = self else { return false };
        let end = usize::from(*len) + more.len();
        let room = bytes.get_mut(usize::from(*len)..end);
        let (Some(room), Ok(end)) = (room, u8::try_from(end)) else { return false };
        room.copy_from_slice(more);
        *len = end;
        true
    }
}

impl<const N: usize> Default for Small<N> {
    fn default() -> Self {
        Self::Here(0, [0; N])
    }
}

impl<const N: usize> PartialEq for Small<N> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl<const N: usize> Eq for Small<N> {}

impl<const N: usize> Hash for Small<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

/// The bytes of one value while they are put together.
pub(crate) struct Piece {
    bytes: [u8; Self::MOST],
    len: usize,
    /// More was put than there is room for.
    full: bool,
}

impl Piece {
    /// What fits into one.
    const MOST: usize = 64;

    pub(crate) fn new() -> Self {
        Self { bytes: [0; Self::MOST], len: 0, full: false }
    }

    pub(crate) fn put(&mut self, more: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + more.len()) {
            Some(room) => {
                room.copy_from_slice(more);
                self.len += more.len();
            }
            None => self.full = true,
        }
    }

    /// The lowest `n` bytes of a number, 16 at most; the highest of them first.
    pub(crate) fn put_uint(&mut self, number: u128, n: usize) {
        self.put(number.to_be_bytes().get(16 - n..).unwrap_or_default());
    }

    /// All that was put; none if it did not fit.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len).filter(|_| !self.full)
    }
}

/// Reads what was put into a [`Piece`]. It ends where there is not enough left.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn part(&mut self, n: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(part)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.part(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.part(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// As [`Piece::put_uint`] has put it.
    pub(crate) fn uint(&mut self, n: usize) -> Option<u128> {
        let mut all = [0; 16];
        all.get_mut(16_usize.checked_sub(n)?..)?.copy_from_slice(self.part(n)?);
        Some(u128::from_be_bytes(all))
    }
}
