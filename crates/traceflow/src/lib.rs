//! Traceflow as plain functions over plain data: whose turn it is, what packet is meant, what a node saw of it.
//!
//! ```text
//!  Traceflows, time ─► turns ──► statuses to write: tag and begin, end, timeout        controller
//!  spec ─► request ─► packet ──► octets to send, or a match for real traffic           agent
//!  packet-in ─► packet, antrea_flows::traced ─► observe ──► observations               agent
//! ```
//!
//! # Invariants
//! - What a trace needs to go on is in its object: whoever starts anew finds it there.
//! - A tag is one trace's at a time.
//! - A packet that cannot be read is no packet of a trace; nothing is assumed of its length.

pub mod observe;
pub mod request;
pub mod turns;
