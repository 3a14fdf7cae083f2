//! Sessions with ovsdb-server and ovs-vswitchd over their unix sockets.
//!
//! ```text
//!   db.sock                                   br-int.mgmt
//!      │ JSON-RPC                                  │ OpenFlow 1.5
//!  ┌───┴───────────────────────┐             ┌─────┴──────────────────────┐
//!  │ db::Session (one task)    │             │ of::OfSession (one task)   │
//!  │  frame → rpc → monitor    │             │  frame → xid table         │
//!  │  typed row cache          │             │  bundles, multipart,       │
//!  │  transactions             │             │  packet-in queue           │
//!  └───┬───────────────────────┘             └─────┬──────────────────────┘
//!  vswitch::Vswitch (bridges, ports)            of::OfHandle
//! ```
//!
//! Invariants:
//! - One task owns one socket. It reconnects for ever (back-off with jitter, see [`backoff`]) until its
//!   `CancellationToken` fires; callers see the connection only as a state that changes.
//! - The row cache holds exactly the rows that the server last told about. While disconnected it is marked
//!   stale; on reconnect it is brought up to date by the difference, and subscribers see only the difference.
//! - A call whose request may have reached the server when the connection broke fails with an error saying so;
//!   nothing is sent twice behind the caller's back except by the idempotent operations of
//!   [`vswitch::Vswitch`], which compute their transaction anew from the re-synchronised cache.
//! - Every queue is bounded, every message has a maximal size.
//!
//! Of the `ovsdb` crate the schema types and the UUID and map wire forms are used; the session is written here
//! because that crate's client has neither monitors nor inactivity handling.

pub mod backoff;
pub mod connect;
pub mod ctl;
pub mod db;
pub mod of;
mod reconnect;
#[cfg(feature = "testing")]
pub mod testing;

pub mod vswitch;

pub use db::{OvsdbError, Session, SessionConfig};
pub use of::{OfConfig, OfError, OfHandle, OfSession, OfState};
pub use vswitch::Vswitch;
