//! iptables: typed rules, rulesets and their difference (pure), and the tools that apply it.
//!
//! ```text
//!   Ruleset (desired) ─┐
//!                      ├─► plan ─► one `iptables-restore --noflush`  (our chains, atomically per table)
//!   iptables-save ─────┘       └─► `iptables -A/-I` per missing jump (the `iptables` crate)
//! ```
//!
//! Chains whose names begin with our prefix are ours: they hold what is desired, or go. In built-in chains only
//! jumps to such chains are ours. Nothing else is read closely, and nothing else is changed.

mod apply;
mod backend;
mod parse;
mod rule;
mod ruleset;
mod terms;

pub use apply::{Applied, CHAIN_PREFIX, Iptables, cleanup_all, in_use};
pub use backend::{Backend, choose_backend};
pub use rule::{Rule, Target};
pub use ruleset::{Jump, Plan, Ruleset, Saved, Table, TableRules, plan};
pub use terms::{
    AddrType, CtState, IcmpType, Mark, Match, NatTo, Ports, Proto, RejectWith, SetDir, SetMatch,
};
