//! nftables: tables of our own, and who changes what.
//!
//! ```text
//!  Table (desired) ──┐
//!                    ├─► plan (pure) ──► one transaction of `nft -f`
//!  `nft -j list` ────┘
//! ```
//!
//! A table is ours as a whole: what somebody else puts into it goes. It changes at once or not at all, so that what
//! cannot be installed leaves what was there. How a rule is printed depends on the version of nft, so each of ours carries
//! a digest of itself as its comment, and is known by that.

mod apply;
mod found;
mod monitor;
mod plan;
mod table;

pub use apply::Nft;
pub use monitor::{Committer, NftMonitor};
pub use table::{Chain, Hook, Match, Rule, Set, Table, Verdict};
