//! Which pods are isolated, so that it is known after a restart.
//!
//! What a pod keeps of its policies is known to nobody but this process ([`crate::kept`]). Of a pod that the controller
//! no longer tells of, a new process would believe that no policy selects it. What is kept across lives is therefore,
//! for each attachment, whether it was isolated, and whether native rules denied something of its traffic. A pod that was,
//! and is not by what is known now, allows nothing until the controller still knows the pod, or its interface is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use antrea_flows::policy::{
    Action, Class, Direction, Peers, Realizer, Rule, RuleChange, SortedMap, SortedSet,
};

use crate::kept::Way;
use crate::pods::{Attachment, PortOwner};
use crate::reconciler::{Realised, Reconciler, Slot, isolates};
use crate::spec::{Policy, RuleSpec};

/// Stands for the policies of the process's last life. The others are named by UIDs.
const LAST_LIFE: &str = "isolated in the agent's last life";

const BOTH: [Direction; 2] = [Direction::In, Direction::Out];

/// What policy does to a pod's traffic in a direction, for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    /// Kubernetes policies isolate it.
    Isolated,
    /// Native rules deny something of it.
    Denied,
}

/// All limits, by the names that the record has.
const LIMITS: [(&str, Limit, Direction); 4] = [
    ("ingress", Limit::Isolated, Direction::In),
    ("egress", Limit::Isolated, Direction::Out),
    ("ingress-denied", Limit::Denied, Direction::In),
    ("egress-denied", Limit::Denied, Direction::Out),
];

/// Which traffic of a pod is isolated, or partly denied by native rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Isolated([bool; LIMITS.len()]);

/// Isolated pods, by attachment.
pub type Isolation = BTreeMap<Attachment, Isolated>;

impl Isolated {
    fn has(self, limit: Limit, direction: Direction) -> bool {
        LIMITS.iter().zip(self.0).any(|((_, l, d), is)| is && (*l, *d) == (limit, direction))
    }

    fn insert(&mut self, limit: Limit, direction: Direction) {
        for ((_, l, d), is) in LIMITS.iter().zip(&mut self.0) {
            *is |= (*l, *d) == (limit, direction);
        }
    }

    /// Reads what [`fmt::Display`] writes. What cannot be read isolates in both directions.
    pub fn read(text: &str) -> Self {
        let mut read = Self::default();
        for name in text.split(',') {
            match LIMITS.iter().find(|(known, ..)| *known == name) {
                Some((_, limit, direction)) => read.insert(*limit, *direction),
                None => BOTH.into_iter().for_each(|direction| read.insert(Limit::Isolated, direction)),
            }
        }
        read
    }
}

impl fmt::Display for Isolated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = LIMITS.iter().zip(self.0).filter(|(_, is)| *is).map(|((name, ..), _)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

impl Reconciler {
    /// Pods that are isolated, for [`Self::recall`] in the next life.
    pub fn isolation(&self) -> Isolation {
        let mut isolation = Isolation::new();
        let rules = self.realizer.iter().flat_map(Realizer::rules);
        for rule in rules.filter(|rule| rule.class.is_of_pods()) {
            let limit = match (rule.class, rule.action) {
                (Class::K8s, _) => Limit::Isolated,
                (_, Action::Drop | Action::Reject) => Limit::Denied,
                (_, Action::Allow | Action::Pass) => continue,
            };
            for owner in rule.pods.keys().filter_map(|ofport| self.pods.owners().get(ofport)) {
                isolation.entry(owner.attachment.clone()).or_default().insert(limit, rule.direction);
            }
        }
        isolation
    }

    /// The policies that isolate a port, for people.
    pub fn isolating(&self, ofport: u32, direction: Direction) -> BTreeSet<Arc<str>> {
        let isolates = |id: &u32| {
            let rule = self.realizer.as_ref().and_then(|realizer| realizer.rule(*id));
            rule.is_some_and(|rule| {
                rule.class == Class::K8s && rule.direction == direction && rule.pods.contains_key(&ofport)
            })
        };
        let has = |realised: &&Realised| realised.slots.iter().flat_map(SortedMap::values).any(isolates);
        self.policies.values().filter(has).map(|realised| realised.policy.source.clone()).collect()
    }

    /// These were isolated in the last life: the next [`Self::reconcile`] isolates those that nothing isolates any more
    /// and returns them as pods to ask about.
    pub fn recall(&mut self, isolation: Isolation) {
        self.recalled = isolation;
    }

    /// Notes what was isolated in the last life and is by nothing now. Returns whether there is any.
    pub(crate) fn note_recalled(&mut self) -> bool {
        let recalled = std::mem::take(&mut self.recalled);
        let open_now = |owner: &PortOwner, way: Way| {
            let Some(was) = recalled.get(&owner.attachment) else { return false };
            let is_denied = || self.pods.on(way.0).any(|pod| self.cache.denies(pod, way.1));
            let limited = was.has(Limit::Isolated, way.1) || (was.has(Limit::Denied, way.1) && !is_denied());
            limited && !isolates(&self.cache, &self.pods, way)
        };
        let mut open: BTreeMap<Way, Arc<PortOwner>> = BTreeMap::new();
        for (ofport, owner) in self.pods.owners() {
            for direction in BOTH {
                let way = (*ofport, direction);
                if open_now(owner, way) {
                    open.insert(way, owner.clone());
                }
            }
        }
        let any = !open.is_empty();
        if any {
            self.kept.begin();
            self.kept.note(&Arc::from(LAST_LIFE), |_| false, open);
        }
        any
    }

    /// Makes the rules of what [`Self::note_recalled`] noted.
    pub(crate) fn isolate_recalled(&mut self, now: Instant, changes: &mut Vec<RuleChange>) {
        let name: Arc<str> = LAST_LIFE.into();
        let before = self.policies.remove(&name);
        let mut slots = Vec::new();
        for direction in BOTH {
            let mut slot = Slot::new();
            let ofports: BTreeSet<u32> = self.kept.of(&name, direction).map(|(ofport, _)| ofport).collect();
            let owned = ofports.into_iter().filter_map(|ofport| {
                let owner = self.pods.owners().get(&ofport)?;
                let (_, ips) = self.pods.get(&owner.pod).find(|(known, _)| *known == ofport)?;
                Some((ofport, ips.clone()))
            });
            let pods: SortedMap<_, _> = owned.collect();
            if !pods.is_empty() {
                match self.ids.take(now) {
                    Some(id) => {
                        let (class, action) = (Class::K8s, Action::Allow);
                        let (peers, services) = (Peers::Of(SortedSet::new()), Vec::new());
                        let rule = Rule { id, direction, class, action, pods, peers, services, logs: false };
                        changes.push(RuleChange::Upsert(rule));
                        slot.insert(Vec::new(), id);
                    }
                    None => tracing::error!(policy = &*name, "out of rule ids"),
                }
            }
            slots.push(slot);
        }
        for id in before.into_iter().flat_map(|old| old.slots).flat_map(SortedMap::into_values) {
            changes.push(RuleChange::Remove(id));
            self.release_id(id, now);
        }
        let rules = BOTH.map(|direction| RuleSpec::isolating(direction, Vec::new()));
        let policy = Policy {
            name: name.clone(),
            generation: 0,
            source: name.clone(),
            native: false,
            resets: false,
            rules: rules.into(),
            problems: Vec::new(),
        };
        self.policies.insert(name, Realised { policy: Arc::new(policy), slots });
    }

    /// Whether it is the name of [`Self::isolate_recalled`]'s policy, which only this process knows of.
    pub(crate) fn is_last_life(name: &str) -> bool {
        name == LAST_LIFE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_isolates_where_it_cannot_read() {
        for text in ["", "ingress", "egress", "ingress,egress", "egress-denied", "ingress,ingress-denied"] {
            assert_eq!(
                Isolated::read(text).to_string(),
                if text.is_empty() { "ingress,egress" } else { text }
            );
        }
        assert_eq!(Isolated::read("ingress,something newer").to_string(), "ingress,egress");
    }
}
