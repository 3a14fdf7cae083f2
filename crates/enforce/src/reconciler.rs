//! From what the controller said and the pods that are here to rules with ids, change by change.
//!
//! The rules are a function of cache and pods; ids are not, they stay with a rule for its life.

mod members;
mod pairing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use antrea_api::selection::PodSelection;
use antrea_flows::policy::{Direction, Realizer, Rule, RuleChange, RuleError, Service, SortedMap};
use antrea_flows::{Diff, EncapMode, Network, Table};
use openflow::Flow;

use self::members::PeerSet;
use self::pairing::pair;
use crate::cache::Cache;
use crate::ids::Ids;
use crate::isolation::Isolation;
use crate::kept::{Doubt, Kept, Way};
use crate::order::Orders;
use crate::placing::Putting;
use crate::pods::{LocalPod, LocalPods, PortOwner};
use crate::rules::{self, Facts, Variant};
use crate::spec::Policy;
use crate::tally::Counted;

/// Ids of a rule's variants, by what they say.
pub(crate) type Slot = SortedMap<Vec<Service>, u32>;

/// A policy whose rules have ids.
#[derive(Debug)]
pub(crate) struct Realised {
    pub(crate) policy: Arc<Policy>,
    /// One for each rule of the policy.
    pub(crate) slots: Vec<Slot>,
}

impl Realised {
    /// Traffic of this node's ports that its rules isolate.
    fn ways(&self, realizer: &Realizer, replaced: &HashMap<u32, Rule>) -> BTreeSet<Way> {
        let ids = self.slots.iter().flat_map(SortedMap::values);
        let rules = ids.filter_map(|id| realizer.rule(*id).or_else(|| replaced.get(id)));
        let rules = rules.filter(|rule| rule.class.is_of_pods());
        rules.flat_map(|rule| rule.pods.keys().map(|ofport| (*ofport, rule.direction))).collect()
    }
}

/// What one reconciliation came to.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// How the flows change.
    pub diff: Diff,
    /// Policies that were looked at and are in force with this.
    pub policies: BTreeSet<Arc<str>>,
    /// Pods that lost a policy and are still here, to be asked about ([`Reconciler::release`]).
    pub doubts: BTreeMap<Doubt, u64>,
    /// Why not all rules can be realised; those that cannot are as they were before.
    pub error: Option<RuleError>,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// What the controller said.
    pub cache: Cache,
    pub(crate) pods: LocalPods,
    /// Whose ports were those of the rules that there are.
    owners: BTreeMap<u32, Arc<PortOwner>>,
    pub(crate) kept: Kept,
    /// Who was isolated in the last life, until it is looked at.
    pub(crate) recalled: Isolation,
    pub(crate) ids: Ids,
    /// Priorities of native rules.
    pub(crate) orders: Orders,
    /// Rules that apply to Services.
    pub(crate) on_services: BTreeSet<u32>,
    /// Native policies with rules for which there is no priority: they are done again with the next changes.
    pub(crate) unplaced: BTreeSet<Arc<str>>,
    /// The pipeline has tables for native rules.
    pub(crate) takes_native: bool,
    /// The bridge serves Services, and knows of what is sent to one.
    pub(crate) serves: bool,
    /// It serves everybody, by addresses of the node too.
    pub(crate) serves_all: bool,
    pub(crate) policies: HashMap<Arc<str>, Realised>,
    /// None until the pipeline is known.
    pub(crate) realizer: Option<Realizer>,
    /// Some nodes are reached without a tunnel.
    routed: bool,
    /// The realizer has no rules yet, whatever changed.
    fresh: bool,
    /// Rules of the realizer that was replaced, until the new one has rules: what a pod loses by then it had by them.
    pub(crate) replaced: HashMap<u32, Rule>,
    /// Ports that policies no longer keep.
    released: BTreeMap<Arc<str>, BTreeSet<u32>>,
    /// Policies with rules that the realizer has refused: they are done again with the next changes.
    refused: BTreeSet<Arc<str>>,
}

impl Reconciler {
    /// Makes these interfaces all there are.
    pub fn set_pods(&mut self, interfaces: Vec<LocalPod>) {
        let changed = self.pods.set(interfaces);
        self.cache.pods_changed(&changed);
        let here = self.pods.attachments(self.pods.owners().keys().copied());
        self.cache.change_dns(|dns| dns.keep_pods(&here));
    }

    /// Begins anew with a pipeline. The next [`Self::reconcile`] returns all flows.
    pub fn attach(&mut self, network: &Network) {
        for rule in self.realizer.iter().flat_map(Realizer::rules) {
            self.replaced.insert(rule.id, rule.clone());
        }
        self.realizer = Some(Realizer::new(network));
        self.routed = network.node.encap_mode != EncapMode::Encap;
        self.takes_native = network.pipeline.number(Table::AntreaPolicyIngressRule).is_some();
        self.serves = network.pipeline.number(Table::ServiceState).is_some();
        self.serves_all = self.serves && network.node.serves_all;
        self.fresh = true;
        self.refused.clear();
    }

    /// Whether packets to pods of some nodes leave without coming to the bridge.
    pub(crate) fn is_routed(&self) -> bool {
        self.routed
    }

    /// What the bridge holds of policy, whole; none before there is a pipeline.
    pub fn flows(&self) -> Vec<Flow> {
        self.realizer.as_ref().map(Realizer::flows).unwrap_or_default()
    }

    /// Whether the policy has rules that cannot be realised.
    pub fn refuses(&self, policy: &Arc<str>) -> bool {
        self.refused.contains(policy)
    }

    /// The controller knows a pod, and what selects it: what it lost up to the time of the question was meant. False: not
    /// all of what selects it has arrived, so the question has to be asked again.
    pub fn release(&mut self, doubt: &Doubt, at: u64, selection: &PodSelection) -> bool {
        if !self.cache.holds(&doubt.pod, selection) {
            return false;
        }
        for (policy, ports) in self.kept.release(doubt, at) {
            self.released.entry(policy).or_default().extend(ports);
        }
        true
    }

    /// Pods to ask about.
    #[cfg(test)]
    pub fn doubts(&self) -> BTreeMap<Doubt, u64> {
        self.kept.doubts()
    }

    /// Number of ingress and egress rules.
    pub fn rule_counts(&self) -> [usize; 2] {
        let rules = || self.realizer.iter().flat_map(Realizer::rules);
        [Direction::In, Direction::Out].map(|direction| rules().filter(|r| r.direction == direction).count())
    }

    /// The policy that a rule in force comes from, for people.
    pub fn source_of(&self, rule: u32) -> Option<&Arc<str>> {
        let has =
            |realised: &&Realised| realised.slots.iter().flat_map(SortedMap::values).any(|id| *id == rule);
        self.policies.values().find(has).map(|realised| &realised.policy.source)
    }

    /// Whose rule each id is.
    pub fn owners(&self) -> HashMap<u32, Counted> {
        let mut owners = HashMap::new();
        for Realised { policy, slots } in self.policies.values() {
            for (rule, slot) in policy.rules.iter().zip(slots) {
                let counted = || Counted { policy: policy.clone(), rule: rule.name.clone() };
                owners.extend(slot.values().map(|id| (*id, counted())));
            }
        }
        owners
    }

    /// Brings the rules up to date with cache and pods. A rule that cannot be realised holds up no other.
    pub fn reconcile(&mut self, now: Instant) -> Reconciled {
        let Some(mut realizer) = self.realizer.take() else { return Reconciled::default() };
        let changes = self.cache.take_changes();
        let mut whole = changes.policies;
        whole.append(&mut self.refused);
        whole.append(&mut self.unplaced);
        let released = std::mem::take(&mut self.released);
        whole.extend(released.keys().cloned());
        let (cache, pods) = (&self.cache, &self.pods);
        let policies = &self.policies;
        let unneeded = self.kept.retain(|policy, way, owner| {
            let native = policies.get(policy).is_some_and(|realised| realised.policy.native);
            pods.owners().get(&way.0) == Some(owner) && (native || !isolates(cache, pods, way))
        });
        whole.extend(unneeded);
        if std::mem::take(&mut self.fresh) {
            // With those that the cache does not know any more, for pods that keep them.
            whole.extend(self.cache.policies().chain(self.policies.keys()).cloned());
        }
        let recalled = self.note_recalled();
        let mut doubts = self.keep(whole.iter().chain(&changes.pods), &released, &realizer);
        if recalled {
            whole.retain(|name| !Self::is_last_life(name));
            doubts = self.kept.doubts();
        }
        let mut looked_at = whole.clone();
        let mut rule_changes = Vec::new();
        for name in changes.pods {
            if !looked_at.contains(&name) && !self.change_pods(&name, &realizer, &mut rule_changes) {
                whole.insert(name.clone());
            }
            looked_at.insert(name);
        }
        let groups = changes.addresses.into_iter().map(|(name, touched)| (PeerSet::Group(name), touched));
        let fqdns = changes.fqdns.into_iter().map(|(name, touched)| (PeerSet::Fqdn(name), touched));
        for (set, touched) in groups.chain(fqdns) {
            let users: Vec<Arc<str>> = match &set {
                PeerSet::Group(group) => self.cache.users_of(group).cloned().collect(),
                PeerSet::Fqdn(fqdn) => self.cache.users_of_fqdn(fqdn).cloned().collect(),
            };
            for name in users {
                if !whole.contains(&name)
                    && !self.change_peers(&name, &set, &touched, &realizer, &mut rule_changes)
                {
                    whole.insert(name.clone());
                }
                looked_at.insert(name);
            }
        }
        for name in &whole {
            self.change_policy(name, &realizer, now, &mut rule_changes);
        }
        if recalled {
            self.isolate_recalled(now, &mut rule_changes);
        }
        // After what changes the same rules, for that may name priorities from before the last of these moves.
        let moved = self.orders.take_moved().into_iter();
        rule_changes.extend(moved.map(|(id, class)| RuleChange::Class(id, self.of_services(id, class))));
        // The realizer takes all or nothing, and what has changed will not be told again.
        let (rule_changes, error, ids) = takeable(&realizer, rule_changes);
        let diff = realizer.apply(rule_changes);
        self.realizer = Some(realizer);
        if !ids.is_empty() {
            let has = |realised: &Realised| {
                realised.slots.iter().flat_map(SortedMap::values).any(|id| ids.contains(id))
            };
            let refused = self.policies.iter().filter(|(_, realised)| has(realised));
            self.refused.extend(refused.map(|(name, _)| name.clone()));
            looked_at.retain(|name| !self.refused.contains(name));
        }
        if diff.is_ok() {
            self.replaced.clear();
        }
        match diff {
            Ok(diff) => Reconciled { diff, policies: looked_at, doubts, error },
            Err(error) => Reconciled { doubts, error: Some(error), ..Reconciled::default() },
        }
    }

    fn facts<'a>(&'a self, policy: &'a str) -> Facts<'a> {
        let kept = Some((policy, &self.kept));
        let Self { serves, serves_all, .. } = *self;
        Facts { cache: &self.cache, local: &self.pods, serves, serves_all, kept }
    }

    /// Finds the pods that these policies are about to lose although they are still here and nothing else isolates them,
    /// and has them keep the policies. Returns the pods to ask about.
    fn keep<'a>(
        &mut self,
        policies: impl Iterator<Item = &'a Arc<str>>,
        released: &BTreeMap<Arc<str>, BTreeSet<u32>>,
        realizer: &Realizer,
    ) -> BTreeMap<Doubt, u64> {
        self.kept.begin();
        let mut any = false;
        for name in policies {
            let Some(realised) = self.policies.get(name) else { continue };
            let had = realised.ways(realizer, &self.replaced);
            if had.is_empty() {
                continue;
            }
            let facts = Facts { kept: None, ..self.facts(name) };
            let specs = self.cache.policy(name).into_iter().flat_map(|policy| &policy.rules);
            let specs = specs.filter(|spec| spec.on_services.is_empty());
            let has: BTreeSet<u32> = specs.flat_map(|spec| rules::pods(spec, facts).into_keys()).collect();
            let mut known = self.kept.ports(name);
            known.extend(released.get(name).into_iter().flatten());
            let open = |way: Way| {
                let owner = self.pods.owners().get(&way.0)?;
                let stayed = self.owners.get(&way.0) == Some(owner);
                (stayed && !isolates(&self.cache, &self.pods, way)).then(|| (way, owner.clone()))
            };
            if realised.policy.native {
                // Beside others it decides all the same, and each of its rules may apply to other pods.
                let stayed = |way: Way| {
                    let owner = self.pods.owners().get(&way.0)?;
                    (self.owners.get(&way.0) == Some(owner)).then(|| (way, owner.clone()))
                };
                // Whom it applied to may be in a group that is on its way.
                let new = self.cache.policy(name);
                let awaits = new.is_some_and(|new| self.cache.awaits_groups(&realised.policy, new));
                let gone = if awaits { had } else { self.lost(realised, realizer) }.into_iter();
                let lost: BTreeMap<_, _> =
                    gone.filter(|(ofport, _)| !known.contains(ofport)).filter_map(stayed).collect();
                any |= !lost.is_empty();
                self.kept.note(name, |_| false, lost);
                continue;
            }
            let gone = had.into_iter().filter(|(ofport, _)| !has.contains(ofport) && !known.contains(ofport));
            let lost: BTreeMap<_, _> = gone.filter_map(open).collect();
            any |= !lost.is_empty();
            self.kept.note(name, |ofport| has.contains(&ofport), lost);
        }
        self.owners.clone_from(self.pods.owners());
        if any { self.kept.doubts() } else { BTreeMap::new() }
    }

    /// A policy is gone, and remains for the pods that keep it.
    fn keep_gone(
        &mut self,
        name: &Arc<str>,
        old: Realised,
        realizer: &Realizer,
        now: Instant,
        changes: &mut Vec<RuleChange>,
    ) -> Option<Realised> {
        let Realised { policy, mut slots } = old;
        let keeps: BTreeSet<Way> = [Direction::In, Direction::Out]
            .into_iter()
            .flat_map(|direction| self.kept.of(name, direction).map(move |(ofport, _)| (ofport, direction)))
            .collect();
        let mut free = Vec::new();
        for slot in &mut slots {
            slot.retain(|_, id| {
                let known = realizer.rule(*id);
                let rule = known.or_else(|| self.replaced.get(id));
                let keeps = |rule: &Rule, ofport: &u32| {
                    rule.class.is_of_pods() && keeps.contains(&(*ofport, rule.direction))
                };
                let Some(rule) = rule.filter(|rule| rule.pods.keys().any(|ofport| keeps(rule, ofport)))
                else {
                    changes.push(RuleChange::Remove(*id));
                    free.push(*id);
                    return false;
                };
                if known.is_none() || rule.pods.keys().any(|ofport| !keeps(rule, ofport)) {
                    let mut left = rule.clone();
                    left.pods.retain(|ofport, _| keeps(rule, ofport));
                    changes.push(RuleChange::Upsert(left));
                }
                true
            });
        }
        for id in free {
            self.release_id(id, now);
        }
        slots.iter().any(|slot| !slot.is_empty()).then_some(Realised { policy, slots })
    }

    /// A policy is new, changed or gone.
    fn change_policy(
        &mut self,
        name: &Arc<str>,
        realizer: &Realizer,
        now: Instant,
        changes: &mut Vec<RuleChange>,
    ) {
        let old = self.policies.remove(name);
        let Some(policy) = self.cache.policy(name).cloned() else {
            let kept = old.and_then(|old| self.keep_gone(name, old, realizer, now, changes));
            self.policies.extend(kept.map(|kept| (name.clone(), kept)));
            return;
        };
        let (mut slots, mut spare) = pair(old, &policy);
        let mut to = Putting { policy: name, realizer, now, changes };
        for (at, (spec, slot)) in policy.rules.iter().zip(&mut slots).enumerate() {
            let variants = if policy.native && !self.takes_native {
                Vec::new()
            } else {
                rules::variants(spec, self.facts(name))
            };
            let mut ids = std::mem::take(slot);
            let (known, new): (Vec<Variant>, Vec<Variant>) =
                variants.into_iter().partition(|variant| ids.contains_key(&variant.services));
            for variant in known {
                if let Some(id) = ids.remove(&variant.services) {
                    self.put(&mut to, spec, variant, id, slot);
                }
            }
            // A rule that says something else now keeps its id where it can.
            let mut left = ids.into_values().collect::<BTreeSet<u32>>();
            for variant in new {
                self.ids.touch();
                let place = (at, spec.direction);
                let before = || self.ids.for_rule(now, name, place, &variant.services);
                let Some(id) = left.pop_first().or_else(before) else {
                    tracing::error!(policy = &**name, "out of rule ids");
                    continue;
                };
                self.put(&mut to, spec, variant, id, slot);
            }
            spare.extend(left);
        }
        // Last, so that what replaces them comes first.
        for id in spare {
            changes.push(RuleChange::Remove(id));
            self.release_id(id, now);
        }
        self.policies.insert(name.clone(), Realised { policy, slots });
    }
}

/// Whether a policy that the controller knows selects a pod with this port, for this direction.
pub(crate) fn isolates(cache: &Cache, pods: &LocalPods, (ofport, direction): Way) -> bool {
    pods.on(ofport).any(|pod| cache.isolates(pod, direction))
}

/// The changes that the realizer can take, why it cannot take the others, and the ids of their rules.
fn takeable(
    realizer: &Realizer,
    mut changes: Vec<RuleChange>,
) -> (Vec<RuleChange>, Option<RuleError>, BTreeSet<u32>) {
    let (mut first, mut ids) = (None, BTreeSet::new());
    while let Err(error) = realizer.check(&changes) {
        ids.insert(error.id());
        changes.retain(|change| change.id() != error.id());
        first.get_or_insert(error);
    }
    (changes, first, ids)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod native_tests;
