//! PacketCapture as plain functions over plain data: which packets are meant, how they are found and written, what is told.
//!
//! ```text
//!  spec ─► request ─ addresses of both ends ─► filter ──► a classic BPF program for a socket      agent
//!  packets ─► pcapng ──► octets of a file                                                         agent
//!  spec.fileServer ─► upload ──► what sftp is told                                                agent
//!  stage, time ─► status ──► what is written into the object                                      agent, controller
//! ```
//!
//! # Invariants
//! - A program only goes forward and reads nothing that a packet may not have: the kernel takes all that are made here.
//! - What was told of a condition keeps its time until the condition turns.

pub mod filter;
pub mod pcapng;
pub mod request;
pub mod status;
pub mod upload;
