//! Packets as octets: the headers of a frame, read and made, and the answer that refuses a packet.
//!
//! ```text
//!  frame ─► parse ──► Headers ─► build ─► frame            Traceflow
//!  frame ─► refuse ─► TCP reset, or ICMP "prohibited"      action Reject
//! ```
//!
//! # Invariants
//! - Nothing is assumed of a frame's length or contents: what cannot be read is no packet.
//! - What is made here has correct checksums.

mod headers;
mod refusal;

pub use headers::{Headers, ICMP, ICMPV6, TCP, Transport, UDP, build, parse};
pub use refusal::refuse;
