//! Messages to and from bytes, by the `openflow` crate.

use bytes::BytesMut;
use openflow::{DecodeError, Message, Packet, Problem, Xid};

use super::OfError;

/// Versions offered: 1.5 only (wire version 6).
pub(super) const VERSIONS: u32 = 1 << 6;

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
    pub(super) fn next(&mut self) -> Result<Option<Result<Packet, DecodeError>>, OfError> {
        match Message::decode(&mut self.buf) {
            Ok(packet) => Ok(packet.map(Ok)),
            Err(error) if error.is_fatal() || matches!(error.problem, Problem::Version(_)) => {
                Err(OfError::Protocol(error.to_string()))
            }
            Err(error) => Ok(Some(Err(error))),
        }
    }
}

pub(super) fn encode(xid: Xid, message: &Message, out: &mut BytesMut) -> Result<(), OfError> {
    message.encode(xid, out).map_err(|error| OfError::Protocol(error.to_string()))
}
