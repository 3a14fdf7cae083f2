//! Reading with bounds and with offsets for errors.

use bytes::Bytes;

use crate::Problem;

/// Where and what went wrong, before it is known in which message.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) what: &'static str,
    pub(super) offset: usize,
    pub(super) problem: Problem,
}

/// A cursor over a part of a message. Errors say where in the message they are.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    bytes: Bytes,
    offset: usize,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Reader {
    /// A reader of bytes that begin at `offset` of the message.
    pub(super) fn new(bytes: &Bytes, offset: usize) -> Self {
        Self { bytes: bytes.clone(), offset }
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn fail<T>(&self, what: &'static str, problem: Problem) -> Result<T> {
        Err(Fault { what, offset: self.offset, problem })
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, what: &'static str, len: usize) -> Result<Bytes> {
        if self.bytes.len() < len {
            return self.fail(what, Problem::Truncated { need: len, have: self.bytes.len() });
        }
        self.offset += len;
        Ok(self.bytes.split_to(len))
    }

    /// A reader of the next `len` bytes.
    pub(super) fn part(&mut self, what: &'static str, len: usize) -> Result<Reader> {
        let offset = self.offset;
        Ok(Reader { bytes: self.take(what, len)?, offset })
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        self.offset += self.bytes.len();
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn skip(&mut self, what: &'static str, len: usize) -> Result<()> {
        self.take(what, len).map(drop)
    }

    /// Skips padding, of which the end of a structure may lack some.
    pub(super) fn pad(&mut self, len: usize) {
        let len = len.min(self.bytes.len());
        self.offset += len;
        drop(self.bytes.split_to(len));
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let bytes = self.take(what, N)?;
        let mut array = [0; N];
        array.copy_from_slice(&bytes);
        Ok(array)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_be_bytes)
    }

    pub(super) fn mac(&mut self, what: &'static str) -> Result<crate::MacAddr> {
        self.array(what).map(crate::MacAddr)
    }

    /// A number of up to 16 bytes.
    pub(super) fn uint(&mut self, what: &'static str, len: usize) -> Result<u128> {
        let bytes = self.take(what, len)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u128::from(*byte)))
    }

    /// A text in a field of `len` bytes, ended by a zero byte or the field's end. If it is not UTF-8, question
    /// marks stand for its bytes that are not ASCII.
    pub(super) fn text(&mut self, what: &'static str, len: usize) -> Result<String> {
        let bytes = self.take(what, len)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = bytes.get(..end).unwrap_or_default();
        Ok(match std::str::from_utf8(text) {
            Ok(t) => t.to_owned(),
            Err(_) => text.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '?' }).collect(),
        })
    }

    /// Reads structures until nothing is left.
    pub(super) fn all<T>(&mut self, read: impl Fn(&mut Reader) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_empty() {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// A structure whose length stands in its first two bytes and is not below `least`.
    pub(super) fn sized(&mut self, what: &'static str, least: usize) -> Result<Reader> {
        let mut peek = self.clone();
        let length = usize::from(peek.u16(what)?);
        if length < least.max(2) {
            return self.fail(what, Problem::BadLength(length));
        }
        let mut part = self.part(what, length)?;
        part.skip(what, 2)?;
        Ok(part)
    }

    /// A property: type and content. Properties are padded to 8 bytes, which their length leaves out.
    pub(super) fn property(&mut self, what: &'static str) -> Result<(u16, Reader)> {
        let kind = self.u16(what)?;
        let length = usize::from(self.u16(what)?);
        if length < 4 {
            return self.fail(what, Problem::BadLength(length));
        }
        let content = self.part(what, length - 4)?;
        self.pad(length.next_multiple_of(8) - length);
        Ok((kind, content))
    }

    pub(super) fn fault(&self, what: &'static str, problem: Problem) -> Fault {
        Fault { what, offset: self.offset, problem }
    }

    pub(super) fn bad<T>(&self, what: &'static str, value: u64) -> Result<T> {
        self.fail(what, Problem::BadValue(value))
    }

    /// A structure that begins with a 16-bit type and its 16-bit length, at least `least`. The reader
    /// covers all of it.
    pub(super) fn framed(&mut self, what: &'static str, least: usize) -> Result<Reader> {
        let mut peek = self.clone();
        peek.skip(what, 2)?;
        let length = usize::from(peek.u16(what)?);
        if length < least.max(4) {
            return self.fail(what, Problem::BadLength(length));
        }
        self.part(what, length)
    }
}
