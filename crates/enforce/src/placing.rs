//! What native policies need of the reconciler beside others: places in the order, and what pods lose rule by rule.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use antrea_flows::policy::{Action, Class, Realizer, RuleChange};

use crate::kept::Way;
use crate::order::{Full, Orders};
use crate::reconciler::{Realised, Reconciler, Slot};
use crate::rules::Variant;
use crate::spec::{MemberKey, Policy, RuleSpec, Standing};

/// What the rules of a policy are put into.
pub(crate) struct Putting<'a> {
    pub(crate) policy: &'a Arc<str>,
    pub(crate) realizer: &'a Realizer,
    pub(crate) now: Instant,
    pub(crate) changes: &'a mut Vec<RuleChange>,
}

impl Reconciler {
    /// What this node cannot do of a policy that could be read.
    pub fn problem(&self, policy: &Policy) -> Option<&'static str> {
        if policy.native && !self.takes_native {
            return Some(
                "the feature gate AntreaPolicy is off on this node: nothing of the policy is in force",
            );
        }
        if !self.serves && policy.to_services().next().is_some() {
            return Some(
                "toServices needs AntreaProxy (spec.proxy.mode: Services), which this node does not have: what a rule \
                 allows to Services is not allowed, and one that denies or passes denies whatever its pods send",
            );
        }
        if !self.serves_all && policy.on_services().next().is_some() {
            return Some(
                "a policy that applies to Services needs AntreaProxy for everybody (spec.proxy.mode: All), which this node \
                 does not have: it keeps nobody from them here",
            );
        }
        self.unplaced.contains(&policy.name).then_some(
            "the node has more native rules of different rank than there are OpenFlow priorities: of those without one, \
             what denies comes before all others and what allows is left out",
        )
    }

    /// What rules of a native policy applied to and the groups of these rules have no more.
    pub(crate) fn lost(&self, realised: &Realised, realizer: &Realizer) -> BTreeSet<Way> {
        let gone = self.cache.policy(&realised.policy.name).is_none();
        let is_member = |spec: &RuleSpec, ofport: u32| {
            let groups = || spec.applied_to.iter().filter_map(|name| self.cache.applied_to_group(name));
            self.pods.on(ofport).any(|pod| {
                let key = MemberKey::Pod(pod.clone());
                groups().any(|group| group.members().contains_key(&key))
            })
        };
        let mut lost = BTreeSet::new();
        for (spec, slot) in realised.policy.rules.iter().zip(&realised.slots) {
            let rules = slot.values().filter_map(|id| realizer.rule(*id).or_else(|| self.replaced.get(id)));
            let rules = rules.filter(|rule| rule.class.is_of_pods());
            let ports = rules.flat_map(|rule| rule.pods.keys());
            lost.extend(
                ports
                    .filter(|ofport| gone || !is_member(spec, **ofport))
                    .map(|ofport| (*ofport, spec.direction)),
            );
        }
        lost
    }

    /// Gives an id and its rule's place back.
    pub(crate) fn release_id(&mut self, id: u32, now: Instant) {
        self.ids.release(id, now);
        self.orders.remove(id);
        self.on_services.remove(&id);
    }

    /// Has a variant of a rule realised with this id, if it has a place.
    pub(crate) fn put(
        &mut self,
        to: &mut Putting<'_>,
        spec: &RuleSpec,
        variant: Variant,
        id: u32,
        slot: &mut Slot,
    ) {
        let Some(place) = self.place(to.policy, spec, id) else {
            to.changes.push(RuleChange::Remove(id));
            self.release_id(id, to.now);
            return;
        };
        slot.insert(variant.services.clone(), id);
        let rule = variant.rule(id, spec, place);
        if to.realizer.rule(id) != Some(&rule) {
            to.changes.push(RuleChange::Upsert(rule));
        }
    }

    /// Where a rule stands and what it does there; none: there is no room, and it does not deny.
    fn place(&mut self, policy: &Arc<str>, spec: &RuleSpec, id: u32) -> Option<(Class, Action)> {
        let (baseline, rank) = match spec.standing {
            Standing::K8s => {
                self.orders.remove(id);
                return Some((Class::K8s, spec.action));
            }
            Standing::Native(rank) => (false, rank),
            Standing::Baseline(rank) => (true, rank),
        };
        let is_unknown = || {
            let services = &spec.to_services;
            let unserved = !self.serves || self.cache.services().targets(services).is_none();
            (!services.is_empty() && unserved) || spec.groups.iter().any(|name| self.cache.is_partial(name))
        };
        let skips_unknown = spec.action == Action::Pass && is_unknown();
        let action = if skips_unknown { Action::Drop } else { spec.action };
        if spec.on_services.is_empty() {
            self.on_services.remove(&id);
        } else {
            self.on_services.insert(id);
        }
        match self.orders.place(id, spec.direction, baseline, rank) {
            Ok(class) => Some((self.of_services(id, class), action)),
            Err(Full) => {
                self.unplaced.insert(policy.clone());
                let closed = if action == Action::Pass { Action::Drop } else { action };
                let class = self.of_services(id, Orders::overflow(baseline));
                (action != Action::Allow).then_some((class, closed))
            }
        }
    }

    /// The class of a rule that has this place in the order: those of Services have it in a table of their own.
    pub(crate) fn of_services(&self, id: u32, class: Class) -> Class {
        match class {
            Class::Native { priority } if self.on_services.contains(&id) => Class::Service { priority },
            other => other,
        }
    }
}
