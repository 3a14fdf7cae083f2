//! OpenFlow 1.5 with Nicira extensions: a codec without input or output, and a text form equal to
//! ovs-ofctl's.

mod action;
mod codec;
mod error;
mod field;
mod flow;
mod matches;
mod message;
pub mod multipart;
mod text;
mod types;

pub use action::*;
pub use error::{DecodeError, EncodeError, ParseError, Problem};
pub use field::{Field, OxmId};
pub use flow::*;
pub use matches::{Match, MatchField, UnknownField};
pub use message::*;
pub use text::{Named, TableNames};
pub use types::*;
