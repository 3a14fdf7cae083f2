use foldhash::fast::RandomState;
use hashbrown::HashSet;
use openflow::{Action, Actions, Flow, Group, Meter};

use super::{Diff, Key, entry::visit};

/// What a bridge reports.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub flows: Vec<Flow>,
    pub groups: Vec<Group>,
    pub meters: Vec<Meter>,
}

impl Found {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.flows.len() + self.groups.len() + self.meters.len()
    }

    /// Whether the bridge is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a bridge differs from the store.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What has to be done to the bridge.
    pub diff: Diff,
    /// Flows of the store with a timeout that the bridge does not have any more: they have had their time.
    pub expired: Vec<Key>,
}

/// Flows that are not in the store and are left alone all the same: those that the bridge makes by itself because
/// an entry of the store has it learn. They are known by table and cookie.
#[derive(Debug)]
pub(super) struct Learned(HashSet<(u8, u64), RandomState>);

impl Learned {
    /// With these alone.
    pub(super) fn of(known: &[(u8, u64)]) -> Self {
        Self(known.iter().copied().collect())
    }

    /// Notes the `learn` actions among these.
    pub(super) fn note(&mut self, actions: &Actions) {
        visit(actions.iter(), &mut |action| {
            if let Action::Learn(learn) = action {
                self.0.insert((learn.table, learn.cookie));
            }
        });
    }

    pub(super) fn has(&self, flow: &Flow) -> bool {
        self.0.contains(&(flow.table, flow.cookie))
    }
}
