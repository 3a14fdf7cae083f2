//! NetworkPolicy on one node, as plain functions over plain data: from what the controller says and the pods that are
//! here to rules, and how their flows change.
//!
//! ```text
//!  events ─► cache ──(what changed)──► reconciler ─► rules with ids ─► antrea_flows' Realizer ─► difference of flows
//!                                           ▲
//!  pods of this node ───────────────────────┘
//! ```
//!
//! # Invariants
//! - A policy that changed stays as it was until all groups of its new form are there, and a group stays until no policy
//!   in force names it: the three watches are not ordered among each other.
//! - Rules are a function of the cache and the pods, in whatever order events came. Ids are not: a rule keeps its own, also
//!   from one process to the next ([`ids`]).
//! - A pod that is still here keeps a policy that is taken from it until the controller, asked after that, still knows the
//!   pod: policy ends with the sandbox, not with the pod's object ([`kept`]), and not with this process ([`isolation`]).
//! - What cannot be read allows nothing, and the policy isolates, or if it is native denies, all the same ([`spec`]).
//!
//! Nothing here waits, reads a clock or does input or output; the agent's room `policy` does.

pub mod cache;
pub mod dns;
pub mod egress;
pub mod established;
mod groups;
pub mod ids;
pub mod isolation;
pub mod kept;
pub mod logged;
pub mod order;
mod placing;
pub mod pods;
pub mod reconciler;
mod rules;
mod services;
pub mod spec;
pub mod tally;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
