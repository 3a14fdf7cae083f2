//! The agent, as a library: the binary starts it ([`run`]), tests take its parts. ARCHITECTURE.md has the picture.
//!
//! Invariants:
//! - OVSDB's external_ids are the only memory of attachments; a restarted agent finds everything there.
//! - No flow is removed before its successor is in: flows of an earlier process go in the transaction
//!   that brings the new ones.
//! - A failure keeps what works: without API server, controller or agent, pods keep talking.

// Rooms are private, so that the compiler finds what nobody uses; `pub` says what one room offers to the others.
#![allow(unreachable_pub)]

pub mod args;
mod bringup;
mod capture;
mod cleanup;
mod config;
mod dataplane;
mod facts;
mod host;
mod life;
pub mod metrics;
mod ovs;
mod peers;
mod pods;
mod policy;
mod probes;
pub mod run;
mod services;
mod status;
mod subnet;
mod traceflow;

pub use capture::password;

/// Version of this build.
pub use antrea_api::VERSION;
