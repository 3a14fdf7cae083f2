//! Bytes: OpenFlow 1.5 (ONF TS-025) with Open vSwitch's extensions (nicira-ext.h, netronome-ext.h).
//!
//! Encoding appends to a buffer and patches lengths; decoding reads a slice and names the structure and
//! the offset of what is wrong. Nothing here panics on input, and nesting is bounded.

mod actions;
mod frame;
mod groups;
mod learn;
mod messages;
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
    /// The message cannot be read. It is consumed all the same, unless its header is wrong: then no later
    /// byte can be trusted either and the connection has to be closed.
    pub fn decode(input: &mut BytesMut) -> Result<Option<(Xid, Message)>, DecodeError> {
        let Some(&[version, kind, a, b, c, d, e, f]) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([a, b]));
        let wrong = |offset, problem| Err(DecodeError { what: "message header", offset, problem });
        if length < HEADER {
            return wrong(2, Problem::BadLength(length));
        }
        if input.len() < length {
            return Ok(None);
        }
        let message = input.split_to(length).freeze();
        let xid = Xid(u32::from_be_bytes([c, d, e, f]));
        // A peer may greet, or refuse the greeting, in whatever version it speaks.
        if version != VERSION && !(kind == messages::HELLO || kind == messages::ERROR) {
            return wrong(0, Problem::Version(version));
        }
        let mut body = message.clone();
        body.advance(HEADER);
        let mut reader = Reader::new(&body, HEADER);
        messages::decode(kind, &mut reader).map(|message| Some((xid, message)))
    }
}
