//! NetworkPolicy on this node: from the controller's watches to flows.
//!
//! ```text
//!  controller ─ h2, protobuf ─► client ─► cache ─┐
//!                       files ─(no controller)─► ├─► reconciler ─► Realizer ─► Dataplane
//!  CNI ADD ─ confirm_pod ─(asks)─► controller    │       │
//!          ─ install_pod ─► local pods ──────────┘       │
//!                                 └─ addresses ─► controller
//!                                                         ├─► status of each policy ─► controller
//!                                  counters of flows ─────┴─► statistics ────────────► controller
//!  connections that rules came to deny (`established: Reset`) ─► end, in the bridge and its tracker
//!  packets that rules reject ─► answers ─► bridge       packets that are logged ─► np.log
//!  answers of DNS ─► cache ─► … ─► Dataplane, and then ─► bridge
//!  where Services are reached (room `services`) ─► cache ─► …
//! ```
//!
//! # Invariants
//! - A policy that selects a pod isolates it as soon as the policy and its AppliedToGroup are known, whether
//!   or not the peers are. What is not known of the peers allows nothing.
//! - A pod's own flows come with the flows of the policies that select it, in one transaction
//!   ([`PolicyHandle::install_pod`]), or after them ([`PolicyHandle::attach`], before the bridge goes live).
//! - A pod is connected when everything that selects it is known here: [`PolicyHandle::confirm_pod`] asks the
//!   controller. While it does not answer, pods that it has told everything of before go by that, and new pods
//!   wait. So do all pods of a node that neither has a controller nor knows what one said last.
//! - A policy that changed stays as it was until all groups of its new form are there, and a group stays
//!   until no policy in force names it: the three watches are not ordered among each other.
//! - A pod that is still here keeps a policy that is taken from it until the controller, asked after that, still knows
//!   the pod: policy ends with the sandbox, not with the pod's object ([`antrea_enforce::kept`]).
//! - What a lost controller said last stays in force. A new session replaces it in one step, when the last
//!   of the three initial sets is complete; what did not change touches no flow.

mod addresses;
mod agent;
pub mod audit;
#[cfg(test)]
mod bridge_tests;
mod causes;
mod client;
mod confirm;
mod discovery;
mod dns;
mod established;
#[cfg(test)]
mod fake;
mod files;
mod handle;
pub mod judged;
mod known;
mod notes;
mod report;
mod rule_ids;
mod saver;
mod statistics;

pub use agent::{PolicyAgent, PolicyConfig};
pub use confirm::PodName;
pub use dns::DnsSettings;
pub use established::Ways;
pub use handle::{PolicyHandle, Prepared, Question, Reached, Site};
pub use known::{Objects, Record};

#[cfg(test)]
pub use agent::tests::attached_for_tests;
