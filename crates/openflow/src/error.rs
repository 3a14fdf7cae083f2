//! Errors of the codec and of the text parser.

/// A message could not be decoded. Its bytes were consumed, so the stream can go on unless
/// [`DecodeError::is_fatal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of type {kind} with xid {:#x}: {what} at byte {offset}: {problem}", xid.0)]
pub struct DecodeError {
    /// Message type.
    pub kind: u8,
    /// Transaction id of the message.
    pub xid: crate::Xid,
    /// The structure or field that is wrong.
    pub what: &'static str,
    /// Offset of the wrong bytes from the start of the message.
    pub offset: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

impl DecodeError {
    /// Whether the boundaries of messages are lost, so that the connection is of no more use.
    pub fn is_fatal(&self) -> bool {
        self.what == crate::codec::MESSAGE_LENGTH
    }
}

/// What is wrong with bytes that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Fewer bytes than the structure needs.
    #[error("truncated: need {need} bytes, have {have}")]
    Truncated {
        /// Bytes that the structure needs.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A length field that cannot be right.
    #[error("bad length {0}")]
    BadLength(usize),
    /// A protocol version other than 6 (OpenFlow 1.5).
    #[error("unsupported protocol version {0}")]
    Version(u8),
    /// A value that the field cannot have.
    #[error("bad value {0:#x}")]
    BadValue(u64),
    /// Nested deeper than any real message.
    #[error("nested too deep")]
    TooDeep,
}

/// A text could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad {what} {text:?}: {problem}")]
pub struct ParseError {
    /// What was expected.
    pub what: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: &str, problem: impl Into<String>) -> Self {
        ParseError { what, text: text.chars().take(80).collect(), problem: problem.into() }
    }
}

/// A message is too long for OpenFlow's 16-bit length field, or a part of it for its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {len} is more than the {max} that the format has room for")]
pub struct EncodeError {
    /// The structure that is too long.
    pub what: &'static str,
    /// Its length, in bytes if nothing else is said.
    pub len: usize,
    /// The most it may have.
    pub max: usize,
}
