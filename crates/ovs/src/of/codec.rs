//! Messages to and from bytes, by the `openflow` crate.

use bytes::BytesMut;
use openflow::{DecodeError, Message, Problem, Xid};

use super::OfError;

/// Versions offered: 1.5 only (wire version 6).
pub(super) const VERSIONS: u32 = 1 << 6;

/// A message with its transaction id, readable or not.
pub(super) type Received = (Xid, Result<Message, DecodeError>);

/// Bytes received.
#[derive(Default)]
pub(super) struct Input {
    buf: BytesMut,
}

impl Input {
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// The next complete message; the inner error is that of a message whose bytes are gone while the stream goes on.
    pub(super) fn next(&mut self) -> Result<Option<Received>, OfError> {
        // The answer to a request that cannot be read must still find its request.
        let xid = match self.buf.first_chunk() {
            Some(&[_, _, _, _, a, b, c, d]) => Xid(u32::from_be_bytes([a, b, c, d])),
            None => return Ok(None),
        };
        match Message::decode(&mut self.buf) {
            Ok(None) => Ok(None),
            Ok(Some((xid, message))) => Ok(Some((xid, Ok(message)))),
            Err(error @ DecodeError { problem: Problem::Version(_), .. }) => {
                Err(OfError::Protocol(error.to_string()))
            }
            Err(error) if error.what == "message header" => Err(OfError::Protocol(error.to_string())),
            Err(error) => Ok(Some((xid, Err(error)))),
        }
    }
}

pub(super) fn encode(xid: Xid, message: &Message, out: &mut BytesMut) -> Result<(), OfError> {
    message.encode(xid, out).map_err(|error| OfError::Protocol(error.to_string()))
}
