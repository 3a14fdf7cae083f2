//! What a bridge shall hold: entries, who wants them, and how to get from one state to another.
//!
//! ```text
//!  owner ─► Change (all that it wants, or a difference) ─┐
//!  owner ─► Change ──────────────────────────────────────┴─► BridgeStore::stage ─► Undo
//!                                                                                   │
//!                                                  BridgeStore::difference ◄────────┘
//!                                                        │
//!                                                        ▼
//!  what the bridge reports ─► BridgeStore::compare ─►  Diff  ─► Diff::steps ─► messages
//! ```
//!
//! # Invariants
//! - An entry is there as long as an owner wants it; owners that want it must want the same.
//! - [`Diff::steps`] is safe after each single message: no flow is there without the groups and meters that it
//!   names, and no packet is sent to a table that lacks the new flows.
//! - [`BridgeStore::undo`] restores exactly what was there: after a refusal the store says what the bridge has.

mod diff;
mod entry;
mod foreign;
mod held;
mod owner;
mod store;

pub use diff::{Diff, Steps};
pub use entry::{Entry, Key, key_of};
pub use foreign::{Comparison, Found};
pub use owner::Owner;
pub use store::{BridgeStore, Change, Conflict, Undo};
