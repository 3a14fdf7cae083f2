//! Which nodes have realized which generation of a policy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use antrea_api::controlplane::NetworkPolicyNodeStatus;
use antrea_policy::model::PolicyChange;

/// Longest message that is kept per node and policy.
const MAX_MESSAGE: usize = 1024;

/// What agents reported, for policies and nodes that still exist for each other.
#[derive(Default)]
pub(super) struct Realization {
    policies: HashMap<Arc<str>, BTreeMap<String, NetworkPolicyNodeStatus>>,
}

impl Realization {
    /// Takes in a report.
    pub(super) fn report(&mut self, policy: &Arc<str>, mut status: NetworkPolicyNodeStatus) {
        if status.message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|at| status.message.is_char_boundary(*at)).unwrap_or(0);
            status.message.truncate(end);
        }
        self.policies.entry(Arc::clone(policy)).or_default().insert(status.node_name.clone(), status);
    }

    /// Forgets what a change makes void.
    pub(super) fn follow(&mut self, policy: &str, change: &PolicyChange) {
        match change {
            PolicyChange::Created { .. } => {}
            PolicyChange::Updated { span, .. } => {
                if let Some(nodes) = self.policies.get_mut(policy) {
                    for node in &span.removed {
                        nodes.remove(&**node);
                    }
                }
            }
            PolicyChange::Deleted { .. } => {
                self.policies.remove(policy);
            }
        }
    }

    /// All reports about a policy, by node.
    pub(super) fn of(&self, policy: &str) -> Vec<NetworkPolicyNodeStatus> {
        self.policies.get(policy).into_iter().flat_map(|nodes| nodes.values().cloned()).collect()
    }
}
