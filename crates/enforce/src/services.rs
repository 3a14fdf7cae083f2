//! Services that rules are about, and where they are reached.
//!
//! Whoever follows Services tells of all of them, so that a rule that comes later finds its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use antrea_flows::policy::{PodIps, Targets, is_at_node};

use crate::groups::Users;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Services {
    /// By namespace and name, with at least one frontend.
    known: HashMap<Arc<str>, Targets>,
    /// Whether that is all there is.
    complete: bool,
    users: Users,
}

impl Services {
    /// Where pods reach these; none until all Services have been told.
    pub(crate) fn targets(&self, names: &[Arc<str>]) -> Option<Targets> {
        let known = names.iter().filter_map(|name| self.known.get(name)).flatten();
        let of_pods = known.filter(|(group, _)| !is_at_node(**group));
        self.complete.then(|| of_pods.map(|(group, at)| (*group, at.clone())).collect())
    }

    /// The numbers by which what comes to these by addresses of the node is known, as rules have pods. A Service that has not
    /// been told is served to nobody.
    pub(crate) fn at_node(&self, names: &[Arc<str>]) -> BTreeMap<u32, PodIps> {
        let known = names.iter().filter_map(|name| self.known.get(name)).flatten();
        known.filter(|(group, _)| is_at_node(**group)).map(|(group, _)| (*group, PodIps::new())).collect()
    }

    /// Takes in what changed, or all there is; policies that are concerned are returned.
    pub(super) fn change(&mut self, told: Vec<(Arc<str>, Targets)>, all: bool) -> BTreeSet<Arc<str>> {
        let mut changed: HashSet<Arc<str>> = HashSet::new();
        if all {
            let listed: HashSet<Arc<str>> = told.iter().map(|(name, _)| name.clone()).collect();
            changed.extend(self.known.keys().filter(|name| !listed.contains(*name)).cloned());
            self.known.retain(|name, _| listed.contains(name));
        }
        for (name, targets) in told {
            if self.known.get(&name).map_or(targets.is_empty(), |known| *known == targets) {
                continue;
            }
            if targets.is_empty() {
                self.known.remove(&name);
            } else {
                self.known.insert(name.clone(), targets);
            }
            changed.insert(name);
        }
        if all && !std::mem::replace(&mut self.complete, true) {
            return self.users.all().cloned().collect();
        }
        changed.iter().flat_map(|name| self.users.of(name)).cloned().collect()
    }

    /// A policy is about `after` now, and was about `before` until now.
    pub(super) fn index(
        &mut self,
        policy: &Arc<str>,
        before: &BTreeSet<Arc<str>>,
        after: &BTreeSet<Arc<str>>,
    ) {
        self.users.index(policy, before, after);
    }
}
