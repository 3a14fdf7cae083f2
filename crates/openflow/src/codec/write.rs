//! Writing with lengths that are patched when they are known.

use bytes::{BufMut, BytesMut};

use crate::EncodeError;

pub(super) type Result<T> = std::result::Result<T, EncodeError>;

pub(super) trait Write {
    /// Pads with zeros until the bytes since `start` are a multiple of 8.
    fn pad8(&mut self, start: usize);
    /// Appends zeros.
    fn zeros(&mut self, len: usize);
    /// Writes the number of bytes since `start` at `at`.
    fn patch(&mut self, what: &'static str, at: usize, start: usize) -> Result<()>;
    /// Appends a property: header, content, and padding that its length leaves out.
    fn property(&mut self, kind: u16, content: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()>;
}

impl Write for BytesMut {
    fn pad8(&mut self, start: usize) {
        let len = self.len() - start;
        self.zeros(len.next_multiple_of(8) - len);
    }

    fn zeros(&mut self, len: usize) {
        self.put_bytes(0, len);
    }

    fn patch(&mut self, what: &'static str, at: usize, start: usize) -> Result<()> {
        let len = self.len() - start;
        let max = usize::from(u16::MAX);
        let length = u16::try_from(len).map_err(|_| EncodeError { what, len, max })?;
        if let Some(field) = self.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    fn property(&mut self, kind: u16, content: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
        let start = self.len();
        self.put_u16(kind);
        self.put_u16(0);
        content(self)?;
        self.patch("property", start + 2, start)?;
        self.pad8(start);
        Ok(())
    }
}
