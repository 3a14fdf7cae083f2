//! What can go wrong between a caller and a database.

use std::fmt;
use std::time::Duration;

use super::{frame::FrameError, schema::SchemaError, value::ValueError};

/// Failure of a session, a transaction or a wait.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OvsdbError {
    /// No connection at the time of the call: nothing was sent.
    #[error("not connected to the database: {0}")]
    NotConnected(String),
    /// The connection broke after the request was accepted: it may or may not have been carried out.
    #[error("connection to the database lost, outcome of the request unknown: {0}")]
    ConnectionLost(String),
    /// The session task has ended.
    #[error("database session has ended")]
    Closed,
    /// The deadline passed while waiting for what is named.
    #[error("no {what} within {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// An operation of a transaction failed; none of its operations took effect.
    #[error("transaction refused: {0}")]
    Operation(#[from] OpError),
    /// The server refused a request as a whole.
    #[error("database refused {method}: {error}")]
    Refused {
        /// JSON-RPC method.
        method: &'static str,
        /// The server's error value as JSON text.
        error: String,
    },
    /// The server's bytes or messages do not follow the protocol.
    #[error("protocol violation by the database server: {0}")]
    Protocol(String),
    /// The byte stream is no JSON message sequence.
    #[error("unreadable message from the database server: {0}")]
    Frame(#[from] FrameError),
    /// The server's schema is unusable.
    #[error("unusable database schema: {0}")]
    Schema(#[from] SchemaError),
    /// A value has not the type its column has.
    #[error("value from the database does not fit: {0}")]
    Value(#[from] ValueError),
}

impl OvsdbError {
    /// Whether the same call may succeed once the session is connected again.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::NotConnected(_) | Self::ConnectionLost(_))
    }

    /// Why a connection failed, without saying again that it did.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NotConnected(reason) | Self::ConnectionLost(reason) => reason.clone(),
            other => other.to_string(),
        }
    }

    /// Whether another client changed the database between our read and our write.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            // "timed out" is a failed `wait`, the others appear when a row went away or came twice.
            Self::Operation(op) => {
                matches!(
                    op.error.as_str(),
                    "timed out" | "constraint violation" | "referential integrity violation"
                )
            }
            _ => false,
        }
    }
}

/// A failed operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpError {
    /// Position of the operation, or `None` when only the commit failed and no operation could be made out.
    pub index: Option<usize>,
    /// The operation in words, e.g. `insert Port p1`.
    pub op: String,
    /// Error kind as RFC 7047 names it, e.g. `constraint violation`.
    pub error: String,
    /// The server's explanation, possibly empty.
    pub details: String,
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "operation {index} ({}): {}", self.op, self.error)?,
            None => write!(f, "{}: {}", self.op, self.error)?,
        }
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl std::error::Error for OpError {}
