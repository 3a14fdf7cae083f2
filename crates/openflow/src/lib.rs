//! OpenFlow 1.5 with Nicira's extensions, without input or output: values, their bytes, and a text form
//! equal to ovs-ofctl's.
//!
//! ```text
//!   "cookie=0x5, table=3, priority=200,ip actions=drop"        06 0e 00 40 …
//!            │ FromStr          ▲ Display                        │ Message::decode
//!            ▼                  │                                ▼       ▲ Message::encode
//!        Flow, Match, Action, Group, Meter  ◄──── in ────►    Message ───┘
//! ```
//!
//! What holds:
//! - Values are canonical: what the switch treats as the same flow has the same [`FlowKey`], and what a
//!   dump reports equals what was sent. Register pairs are their registers, `vlan_tci` is `vlan_vid` and
//!   `vlan_pcp`, a load is a masked `set_field`.
//! - Encoding then decoding, and writing then reading, give the same value for every value in that form.
//! - Decoding takes any bytes: it does not panic, does not nest without bound, and names what is wrong. A
//!   message that cannot be decoded is consumed, and the stream goes on.
//! - Match fields, actions and messages that are not known are kept as bytes and go back as they came.
//! - The bytes are those that ovs-ofctl 3.1 sends (`tests/ofctl`).
//!
//! Names of tables come from OVSDB (`Bridge.flow_tables`), not over OpenFlow; [`TableNames`] lets text use
//! them.
//!
//! ```
//! use openflow::{CtState, Flow, Match, SubField};
//!
//! let flow = Flow::new(8, 190)
//!     .matching(Match::new().ip().ct_state(CtState::new().unset(CtState::NEW).set(CtState::TRK)))
//!     .action(SubField::reg(0, 9, 9).load(1))
//!     .goto(14);
//! let text = "cookie=0x0, table=8, priority=190,ct_state=-new+trk,ip \
//!             actions=set_field:0x200/0x200->reg0,goto_table:14";
//! assert_eq!(flow.to_string(), text);
//! assert_eq!(text.parse(), Ok(flow));
//! ```

mod action;
mod actions;
mod codec;
mod error;
mod field;
mod flow;
mod matches;
mod message;
mod mods;
pub mod multipart;
mod small;
mod text;
mod types;

pub use action::*;
pub use actions::Actions;
pub use error::{DecodeError, EncodeError, ParseError, Problem};
pub use field::{Field, OxmId};
pub use flow::*;
pub use matches::{Match, MatchField, UnknownField};
pub use message::*;
pub use mods::*;
pub use text::{Named, TableNames};
pub use types::*;
