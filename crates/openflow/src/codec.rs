//! Bytes: OpenFlow 1.5 (ONF TS-025) with Open vSwitch's extensions (nicira-ext.h, netronome-ext.h).
//!
//! Encoding appends to a buffer and patches lengths; decoding reads a slice and names the structure and
//! the offset of what is wrong. Nothing here panics on input, and nesting is bounded.

mod actions;
mod frame;
mod groups;
mod learn;
mod messages;
mod monitor;
mod multipart;
mod nicira;
mod oxm;
mod read;
mod write;

use bytes::{Buf, BytesMut};

use crate::{DecodeError, EncodeError, Message, Problem, Xid};
use read::Reader;

/// Wire version of OpenFlow 1.5.
pub(crate) const VERSION: u8 = 6;

/// Length of the header that every message begins with.
pub(crate) const HEADER: usize = 8;

/// What [`DecodeError::what`] says of a length that loses the boundaries of messages.
pub(crate) const MESSAGE_LENGTH: &str = "message length";

/// Deepest nesting of actions that is decoded; Open vSwitch itself stops at a similar depth.
const MAX_DEPTH: usize = 8;

/// Nicira's experimenter number.
const NICIRA: u32 = 0x0000_2320;

/// Netronome's experimenter number.
const NETRONOME: u32 = 0x0000_154d;

impl Message {
    /// Appends the message to `out`.
    ///
    /// # Errors
    /// A part does not fit its length field. `out` is then as it was.
    pub fn encode(&self, xid: Xid, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        let result = messages::encode(self, xid, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Takes one message from the beginning of `input`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// The message cannot be read. It is consumed all the same. After a length that cannot be right no later
    /// byte can be trusted ([`DecodeError::is_fatal`]); the input is then emptied.
    pub fn decode(input: &mut BytesMut) -> Result<Option<(Xid, Message)>, DecodeError> {
        let Some(&[version, kind, a, b, c, d, e, f]) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([a, b]));
        let xid = Xid(u32::from_be_bytes([c, d, e, f]));
        let wrong = |what, offset, problem| Err(DecodeError { kind, xid, what, offset, problem });
        if length < HEADER {
            input.clear();
            return wrong(MESSAGE_LENGTH, 2, Problem::BadLength(length));
        }
        if input.len() < length {
            return Ok(None);
        }
        let mut body = input.split_to(length).freeze();
        // A peer may greet, or refuse the greeting, in whatever version it speaks.
        if version != VERSION && !matches!(kind, messages::HELLO | messages::ERROR) {
            return wrong("message version", 0, Problem::Version(version));
        }
        body.advance(HEADER);
        match messages::decode(kind, &mut Reader::new(&body, HEADER)) {
            Ok(message) => Ok(Some((xid, message))),
            Err(fault) => wrong(fault.what, fault.offset, fault.problem),
        }
    }
}
