//! The NetworkPolicy engine: from Pods, Namespaces and policies to what each node has to enforce.
//!
//! It is a plain data structure: no I/O, no threads, no clock. The controller feeds it from watches and sends out
//! what it drains; the agent uses [`cidr`], [`limits`] and [`ports`].
//!
//! ```text
//!  k8s::NetworkPolicy ─ translate ─► PolicyDraft ─┐
//!  crd::Policy ─ native ───────────► PolicyDraft ─┤ selectors become groups, shared by normalised text
//!  crd::Tier, crd::Group ──┘                      ▼
//!  k8s::Pod ──► class ─────────────────────────► Index ─ drain ─► IndexChange: AddressGroup, AppliedToGroup, Policy
//!  k8s::Namespace   (namespace, label set)                        with patches of members and of spans
//! ```
//!
//! ```
//! use antrea_policy::{Index, model::IndexChange};
//!
//! let mut index = Index::new();
//! let policy = r#"{"metadata": {"namespace": "shop", "name": "web", "uid": "u1"},
//!     "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "lb"}}}]}]}}"#;
//! let mistakes = index.apply_network_policy(&serde_json::from_str(policy)?);
//! assert!(mistakes.is_empty());
//! // An AppliedToGroup and an AddressGroup, then the policy that refers to them.
//! let changes = index.drain();
//! assert!(matches!(&changes[2], IndexChange::Policy(name, _) if &**name == "u1"));
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! Invariants
//! - The state depends on the objects that are there, not on the events that led to it: applying, deleting and
//!   resetting in any order ends in the same policies, groups and spans (but for addresses that agents tell, which
//!   count until the status of their Pod has one). `tests/convergence.rs` checks it against
//!   a recomputation from scratch, and that the drained changes lead a replica to the same state.
//! - The cost of an event is that of what it changes. Selectors are matched against classes (Pods of a namespace
//!   with equal labels), found through inverted indexes; Pods, members and spans are only listed when handed out.
//! - A mistake in a policy never opens anything: see [`translate`].
//! - Nothing outlives its users: label texts, classes, groups and nodes go with the last thing that needs them.
//!
//! Semantics, where Kubernetes leaves a choice
//! - Pods on the host network and Pods that have ended are never selected. A Pod without an address is in
//!   AppliedToGroups (its flows can be made before it has one) but not in AddressGroups.
//! - A namespace selector, even an empty one, does not match a namespace that has not been seen yet.
//! - `policyTypes` decides alone which sections count: egress rules of a policy that only lists Ingress are
//!   ignored.

pub mod cidr;
pub mod crd;
pub mod draft;
pub mod error;
pub mod evaluate;
mod index;
pub mod k8s;
pub mod labels;
pub mod limits;
pub mod model;
mod native;
pub mod ports;
pub mod standard;
pub mod translate;

pub use index::{
    AddressGroup, AppliedToGroup, Effective, Findings, GroupMembers, GroupReference, Index, NativeView,
    NodeView, Peering, Selection, Sizes, Told,
};
