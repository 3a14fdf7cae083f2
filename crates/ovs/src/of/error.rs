//! What can go wrong between a caller and a bridge.

use std::{fmt, sync::Arc, time::Duration};

use openflow::{ErrorMsg, Message};

/// Failure of an OpenFlow request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OfError {
    /// No connection at the time of the call: nothing was sent.
    #[error("not connected to the bridge: {0}")]
    NotConnected(String),
    /// The connection broke while the request was under way: it may or may not have been carried out. A bundle that
    /// was not committed has no effect.
    #[error("connection to the bridge lost, outcome of the request unknown: {0}")]
    ConnectionLost(String),
    /// The session task has ended.
    #[error("OpenFlow session has ended")]
    Closed,
    /// No answer in time.
    #[error("no answer to {what} within {after:?}")]
    Timeout {
        /// The request.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The bridge refused a message of a bundle or of a batch. Of a bundle nothing took effect.
    #[error(transparent)]
    Rejected(#[from] Box<Rejection>),
    /// The bridge refused a single request.
    #[error("bridge refused {what}: {error}")]
    Refused {
        /// The request.
        what: String,
        /// The error the bridge sent.
        error: Box<ErrorMsg>,
    },
    /// A message cannot be put into OpenFlow's form.
    #[error("message {index} ({message}) cannot be sent: {error}")]
    Encode {
        /// Position in the list given.
        index: usize,
        /// The message as text.
        message: String,
        subject: Box<Message>,
        /// Why not.
        error: String,
    },
    /// The bridge does not follow the protocol, or not in the version spoken here.
    #[error("protocol violation by the bridge: {0}")]
    Protocol(String),
}

impl OfError {
    /// Whether the same call may succeed once the session is connected again.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::NotConnected(_) | Self::ConnectionLost(_))
    }

    /// The message at fault, where it is known that nothing else is and that a bundle took no effect because of it.
    #[must_use]
    pub fn subject(&self) -> Option<&Message> {
        match self {
            Self::Rejected(rejection) => rejection.subject.as_ref(),
            Self::Encode { subject, .. } => Some(subject),
            _ => None,
        }
    }

    /// Whether a bundle that failed like this had no effect for certain.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Encode { .. } | Self::NotConnected(_))
    }

    /// Why a connection failed, without saying again that it did.
    pub(super) fn reason(&self) -> Arc<str> {
        match self {
            Self::NotConnected(reason) | Self::ConnectionLost(reason) => reason.as_str().into(),
            other => other.to_string().into(),
        }
    }
}

/// A message that a bridge refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Position in the list given, or in all parts of a bundle; `None` when the bundle as such was refused.
    pub index: Option<usize>,
    /// The message as text, in the form of ovs-ofctl.
    pub message: String,
    /// The message, as it was sent, in a bundle within a `BundleAdd`; none if it was of an earlier part.
    pub subject: Option<Message>,
    /// The error the bridge sent.
    pub error: ErrorMsg,
    /// Errors of further messages. A bundle stops at the first message that is refused, others may have been on
    /// their way.
    pub further: usize,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "bridge refused message {index} ({}): {}", self.message, self.error)?,
            None => write!(f, "bridge refused {}: {}", self.message, self.error)?,
        }
        match self.further {
            0 => Ok(()),
            1 => f.write_str("; and one further message"),
            more => write!(f, "; and {more} further messages"),
        }
    }
}

impl std::error::Error for Rejection {}

/// Longest text of a message in an error, in characters.
const MAX_TEXT: usize = 2000;

/// A message in the form of ovs-ofctl where it has one.
pub(super) fn describe(message: &Message) -> String {
    let text = match message {
        Message::BundleAdd { message, .. } => return describe(message),
        other => other.to_string(),
    };
    if text.chars().count() > MAX_TEXT {
        text.chars().take(MAX_TEXT).chain("...".chars()).collect()
    } else {
        text
    }
}
