//! Packets as octets: the headers of a frame, read and made, the answer that refuses a packet, and what DNS tells.
//!
//! ```text
//!  frame ─► parse ──► Headers ─► build ─► frame            Traceflow
//!  frame ─► refuse ─► TCP reset, or ICMP "prohibited"      action Reject
//!  frame ─► unreachable ─► TCP reset, or ICMP "no port"    a Service without endpoints
//!  frame ─► DnsStreams ─► names and addresses              peers by FQDN
//!  name ─► dns_query ─► DNS ─► dns_reply ─► the same       those that applications keep
//! ```
//!
//! # Invariants
//! - Nothing is assumed of a frame's length or contents: what cannot be read is no packet.
//! - What is made here has correct checksums.

mod dns;
mod headers;
mod offload;
mod refusal;

pub use dns::{DnsAnswer, DnsPacket, DnsQuestion, DnsStreams, dns_query, dns_reply};
pub use headers::{Headers, ICMP, ICMPV6, TCP, Transport, UDP, build, parse};
pub use offload::without_offload;
pub use refusal::{refuse, unreachable};
