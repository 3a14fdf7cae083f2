//! What the controller has said: policies, AddressGroups and AppliedToGroups, and what changed of them.

mod intake;
mod saving;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use antrea_api::controlplane::{self, ObjectReference};
use antrea_api::k8s::{DecodeError, Object};
use antrea_api::selection::PodSelection;
use antrea_flows::policy::{Direction, Targets};

use self::intake::Staged;
pub use self::saving::Save;
use self::saving::Unsaved;
use crate::dns::{Again, DnsCache};
use crate::groups::{Group, Groups, Users};
use crate::services::Services;
use crate::spec::{Member, MemberKey, Policy, RuleSpec, Standing};

/// A watched resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// networkpolicies
    Policies,
    /// addressgroups
    AddressGroups,
    /// appliedtogroups
    AppliedToGroups,
}

impl Kind {
    /// All of them. Groups first, so that most of them are there when policies name them.
    pub const ALL: [Self; 3] = [Self::AppliedToGroups, Self::AddressGroups, Self::Policies];

    /// Name in request paths.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Policies => "networkpolicies",
            Self::AddressGroups => "addressgroups",
            Self::AppliedToGroups => "appliedtogroups",
        }
    }
}

/// An event that does not fit what is known. Only a new list helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// A change of a group that was never sent.
    #[error("{} {name} changed but was never added", .kind.resource())]
    UnknownGroup {
        /// Kind of group.
        kind: Kind,
        name: String,
    },
    /// What happened to an object cannot be read.
    #[error("{} {name}: {error}", .kind.resource())]
    Damaged {
        /// Kind of object.
        kind: Kind,
        name: String,
        /// What is wrong.
        error: DecodeError,
    },
    /// Too many objects or members.
    #[error("more {} than {limit}", .kind.resource())]
    TooMany {
        /// Of what.
        kind: Kind,
        /// How many are taken.
        limit: usize,
    },
}

/// What has to be looked at again.
#[derive(Debug, Default)]
pub struct Changes {
    /// Policies that are new, changed or gone.
    pub policies: BTreeSet<Arc<str>>,
    /// Policies whose AppliedToGroups' members, or those's interfaces, changed.
    pub pods: BTreeSet<Arc<str>>,
    /// AddressGroups whose members changed, with the addresses that came or went.
    pub addresses: HashMap<Arc<str>, HashSet<IpAddr>>,
    /// Domain names of rules whose addresses changed, with those that came or went.
    pub fqdns: HashMap<Arc<str>, HashSet<IpAddr>>,
}

#[derive(Debug)]
struct Entry {
    /// In force.
    live: Arc<Policy>,
    /// Newer, but a group that it names is not there yet.
    next: Option<Arc<Policy>>,
}

impl Entry {
    fn newest(&self) -> &Arc<Policy> {
        self.next.as_ref().unwrap_or(&self.live)
    }

    fn names<'a>(
        &'a self,
        of: impl Fn(&'a Policy) -> Box<dyn Iterator<Item = &'a Arc<str>> + 'a>,
    ) -> BTreeSet<Arc<str>> {
        of(&self.live).chain(self.next.iter().flat_map(|next| of(next))).cloned().collect()
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Cache {
    policies: HashMap<Arc<str>, Entry>,
    address: Groups,
    applied_to: Groups,
    /// Domain names of rules.
    fqdns: Users,
    /// Their addresses.
    dns: DnsCache,
    /// Services that rules are about.
    services: Services,
    /// AppliedToGroups of each pod.
    pod_groups: HashMap<ObjectReference, BTreeSet<Arc<str>>>,
    staged: HashMap<Kind, Staged>,
    /// Objects whose last form did not decode.
    damaged: BTreeMap<(Kind, String), DecodeError>,
    /// AddressGroups of which only a part could be read.
    partial: HashSet<String>,
    /// Lists that became what is known.
    commits: u64,
    changes: Changes,
    unsaved: HashMap<(Kind, Arc<str>), Unsaved>,
}

impl Cache {
    /// The policy of this name as it is in force.
    pub fn policy(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policies.get(name).map(|entry| &entry.live)
    }

    /// Names of all policies.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<str>> {
        self.policies.keys()
    }

    /// An AddressGroup.
    pub fn address_group(&self, name: &str) -> Option<&Group> {
        self.address.by_name.get(name)
    }

    /// An AppliedToGroup.
    pub fn applied_to_group(&self, name: &str) -> Option<&Group> {
        self.applied_to.by_name.get(name)
    }

    /// Policies that name an AddressGroup.
    pub fn users_of(&self, address_group: &str) -> impl Iterator<Item = &Arc<str>> {
        self.address.users(address_group)
    }

    /// Policies that name a domain name.
    pub(crate) fn users_of_fqdn(&self, fqdn: &str) -> impl Iterator<Item = &Arc<str>> {
        self.fqdns.of(fqdn)
    }

    /// What DNS has told of domain names in policies.
    pub fn dns(&self) -> &DnsCache {
        &self.dns
    }

    /// What DNS has to be asked again by now and may be, beside what is under way.
    pub fn dns_due(&mut self, now: Instant, under_way: &[Again]) -> Vec<Again> {
        self.dns.due(now, under_way)
    }

    /// Changes what is known of addresses of domain names.
    pub fn change_dns<T>(&mut self, change: impl FnOnce(&mut DnsCache) -> T) -> T {
        let done = change(&mut self.dns);
        for (fqdn, touched) in self.dns.take_touched() {
            self.changes.fqdns.entry(fqdn).or_default().extend(touched);
        }
        done
    }

    /// Where Services are reached.
    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Takes in where Services are reached by now; `all` are all there are.
    pub fn change_services(&mut self, told: Vec<(Arc<str>, Targets)>, all: bool) {
        self.changes.policies.extend(self.services.change(told, all));
    }

    /// Number of policies, AddressGroups and AppliedToGroups.
    pub fn counts(&self) -> [usize; 3] {
        [self.policies.len(), self.address.by_name.len(), self.applied_to.by_name.len()]
    }

    /// The generation that is in force of a policy, if it is the newest and all its groups are there.
    pub fn realizable(&self, name: &str) -> Option<&Arc<Policy>> {
        let entry = self.policies.get(name)?;
        (entry.next.is_none() && self.is_complete(&entry.live)).then_some(&entry.live)
    }

    /// Whether everything that selects a pod is known and complete, as the controller names it.
    pub fn holds(&self, pod: &ObjectReference, selection: &PodSelection) -> bool {
        let groups = self.pod_groups.get(pod);
        let in_group = |name: &String| groups.is_some_and(|groups| groups.contains(name.as_str()));
        selection.applied_to_groups.iter().all(in_group)
            && selection.policies.iter().all(|name| self.realizable(name).is_some())
    }

    /// Whether a Kubernetes policy in force selects the pod for this direction.
    pub fn isolates(&self, pod: &ObjectReference, direction: Direction) -> bool {
        self.has_rule(pod, direction, |rule| rule.standing == Standing::K8s)
    }

    /// Whether a native rule in force denies something of what the pod is sent or sends.
    pub fn denies(&self, pod: &ObjectReference, direction: Direction) -> bool {
        self.has_rule(pod, direction, RuleSpec::denies)
    }

    fn has_rule(
        &self,
        pod: &ObjectReference,
        direction: Direction,
        is_such: impl Fn(&RuleSpec) -> bool,
    ) -> bool {
        let groups = self.pod_groups.get(pod).into_iter().flatten();
        groups.flat_map(|group| self.applied_to.users(group).map(move |name| (group, name))).any(
            |(group, name)| {
                let rules = self.policy(name).into_iter().flat_map(|policy| &policy.rules);
                let mut rules = rules.filter(|rule| rule.direction == direction && is_such(rule));
                rules.any(|rule| rule.applied_to.contains(group))
            },
        )
    }

    /// Objects whose last form did not decode, and why.
    pub fn damaged(&self) -> &BTreeMap<(Kind, String), DecodeError> {
        &self.damaged
    }

    /// Whether an AddressGroup may have members that nobody knows: it did not decode, and was never known whole.
    pub fn is_partial(&self, address_group: &str) -> bool {
        self.partial.contains(address_group)
    }

    /// How often a list became what is known; 0: nothing was heard of a controller yet.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Looks at the policies of these pods again: their interfaces changed.
    pub fn pods_changed<'a>(&mut self, pods: impl IntoIterator<Item = &'a ObjectReference>) {
        for pod in pods {
            for group in self.pod_groups.get(pod).into_iter().flatten() {
                self.changes.pods.extend(self.applied_to.users(group).cloned());
            }
        }
    }

    fn groups(&mut self, kind: Kind) -> &mut Groups {
        if kind == Kind::AppliedToGroups { &mut self.applied_to } else { &mut self.address }
    }

    fn put_group(&mut self, kind: Kind, name: &str, members: HashMap<MemberKey, Member>) {
        let groups = self.groups(kind);
        let was_there = groups.is_there(name);
        let (name, mut group) =
            groups.by_name.remove_entry(name).unwrap_or_else(|| (name.into(), Group::default()));
        group.doomed = false;
        let left: Vec<_> = group.members.keys().filter(|key| !members.contains_key(key)).cloned().collect();
        let (mut joined, mut touched) = (Vec::new(), HashSet::new());
        for (key, member) in members {
            if group.members.get(&key) != Some(&member) {
                joined.push(key.clone());
                group.insert(key, member, &mut touched);
            }
        }
        for key in &left {
            group.remove(key, &mut touched);
        }
        self.groups(kind).by_name.insert(name.clone(), group);
        if !was_there || !left.is_empty() || !joined.is_empty() {
            self.group_changed(kind, &name, &left, &joined, touched);
        }
        if kind == Kind::AddressGroups && self.partial.remove(&*name) {
            self.changes.policies.extend(self.address.users(&name).cloned());
        }
        if !was_there {
            self.promote(kind, &name);
        }
    }

    fn delete_group(&mut self, kind: Kind, name: &str) {
        let Some((name, group)) = self.groups(kind).by_name.remove_entry(name) else { return };
        self.unsaved.insert((kind, name.clone()), Unsaved::Gone);
        if self.is_in_force(kind, &name) {
            self.groups(kind).by_name.insert(name, Group { doomed: true, ..group });
            return;
        }
        let left: Vec<_> = group.members.into_keys().collect();
        self.members_changed(kind, &name, &left, &[], group.ips.into_keys().collect());
    }

    fn group_changed(
        &mut self,
        kind: Kind,
        name: &Arc<str>,
        left: &[MemberKey],
        joined: &[MemberKey],
        touched: HashSet<IpAddr>,
    ) {
        self.unsaved.insert((kind, name.clone()), Unsaved::Group);
        self.members_changed(kind, name, left, joined, touched);
    }

    fn members_changed(
        &mut self,
        kind: Kind,
        name: &Arc<str>,
        left: &[MemberKey],
        joined: &[MemberKey],
        touched: HashSet<IpAddr>,
    ) {
        if kind == Kind::AddressGroups {
            // Also without addresses: a named port may have changed.
            self.changes.addresses.entry(name.clone()).or_default().extend(touched);
            return;
        }
        for key in left {
            if let MemberKey::Pod(pod) = key
                && let Some(groups) = self.pod_groups.get_mut(pod)
            {
                groups.remove(name);
                if groups.is_empty() {
                    self.pod_groups.remove(pod);
                }
            }
        }
        for key in joined {
            if let MemberKey::Pod(pod) = key {
                self.pod_groups.entry(pod.clone()).or_default().insert(name.clone());
            }
        }
        self.changes.pods.extend(self.applied_to.users(name).cloned());
    }

    /// Brings policies into force that waited for this group.
    fn promote(&mut self, kind: Kind, group: &str) {
        let users: Vec<Arc<str>> = self.groups(kind).users(group).cloned().collect();
        for name in users {
            let Some(entry) = self.policies.get(&name) else { continue };
            if let Some(next) = entry.next.clone()
                && self.is_complete(&next)
            {
                self.install(&name, Entry { live: next, next: None });
            }
        }
    }

    fn put_policy(&mut self, message: &controlplane::NetworkPolicy) {
        let policy = Arc::new(Policy::read(message));
        let name = policy.name.clone();
        let entry = self.policies.get(&name);
        if entry.is_some_and(|entry| *entry.newest() == policy) {
            return;
        }
        self.unsaved.insert((Kind::Policies, name.clone()), Unsaved::Policy(message.seal()));
        let entry = match entry {
            Some(entry) if entry.live == policy => Entry { live: policy, next: None },
            Some(entry) if !self.is_complete(&policy) => {
                Entry { live: entry.live.clone(), next: Some(policy) }
            }
            // A rule that denies whom nobody knows yet denies nobody, and one after it would decide.
            None if policy.native && !self.is_complete(&policy) => {
                Entry { live: Arc::new(policy.without_rules()), next: Some(policy) }
            }
            _ => Entry { live: policy, next: None },
        };
        self.install(&name, entry);
    }

    fn delete_policy(&mut self, name: &str) {
        let Some((name, entry)) = self.policies.remove_entry(name) else { return };
        self.unsaved.insert((Kind::Policies, name.clone()), Unsaved::Gone);
        self.changes.policies.insert(name.clone());
        self.reindex(&name, Some(&entry));
    }

    fn install(&mut self, name: &Arc<str>, entry: Entry) {
        let old = self.policies.insert(name.clone(), entry);
        self.changes.policies.insert(name.clone());
        self.reindex(name, old.as_ref());
    }

    /// Updates the group → policy indexes after an entry was replaced or removed, and drops groups that only
    /// its old form kept.
    fn reindex(&mut self, name: &Arc<str>, old: Option<&Entry>) {
        let now = self.policies.get(name);
        let none = BTreeSet::new;
        let address = |entry: Option<&Entry>| {
            entry.map_or_else(none, |entry| entry.names(|policy| Box::new(policy.address_groups())))
        };
        let applied_to = |entry: Option<&Entry>| {
            entry.map_or_else(none, |entry| entry.names(|policy| Box::new(policy.applied_to_groups())))
        };
        let fqdns = |entry: Option<&Entry>| {
            entry.map_or_else(none, |entry| entry.names(|policy| Box::new(policy.fqdns())))
        };
        let (address_before, applied_to_before) = (address(old), applied_to(old));
        let (fqdns_before, fqdns_now) = (fqdns(old), fqdns(now));
        self.address.users.index(name, &address_before, &address(now));
        self.applied_to.users.index(name, &applied_to_before, &applied_to(now));
        self.fqdns.index(name, &fqdns_before, &fqdns_now);
        let services = |entry: Option<&Entry>| {
            entry.map_or_else(none, |entry| {
                entry.names(|policy| Box::new(policy.to_services().chain(policy.on_services())))
            })
        };
        self.services.index(name, &services(old), &services(now));
        for fqdn in fqdns_now.difference(&fqdns_before) {
            self.dns.want(fqdn);
        }
        for fqdn in fqdns_before.difference(&fqdns_now) {
            if self.fqdns.of(fqdn).next().is_none() {
                self.dns.unwant(fqdn);
            }
        }
        let before = [(Kind::AddressGroups, address_before), (Kind::AppliedToGroups, applied_to_before)];
        for (kind, names) in before {
            for group in names {
                let doomed = self.groups(kind).by_name.get(&group).is_some_and(|group| group.doomed);
                if doomed && !self.is_in_force(kind, &group) {
                    self.delete_group(kind, &group);
                }
            }
        }
    }

    /// Whether a policy in force names the group, and takes the members that it had until it changes itself.
    fn is_in_force(&self, kind: Kind, group: &str) -> bool {
        let groups = if kind == Kind::AppliedToGroups { &self.applied_to } else { &self.address };
        groups.users(group).filter_map(|name| self.policies.get(name)).any(|entry| match kind {
            // Of several groups of a native policy one may go from here while the others stay.
            Kind::AppliedToGroups => {
                !entry.live.native && entry.live.applied_to_groups().any(|name| **name == *group)
            }
            _ => entry.live.address_groups().any(|name| **name == *group),
        })
    }

    /// A node is told of AppliedToGroups that have members on it. The policies of Kubernetes have one, without which the
    /// node would not be told of them; of a native policy's there may be some that never come.
    fn is_complete(&self, policy: &Policy) -> bool {
        policy.address_groups().all(|name| self.address.is_there(name))
            && (policy.native || policy.applied_to_groups().all(|name| self.applied_to.is_there(name)))
    }

    /// Whether a policy applies to groups that its older form did not, and that have not come: they may have no member
    /// here, or be on their way.
    pub(crate) fn awaits_groups(&self, old: &Policy, new: &Policy) -> bool {
        let known = |group: &Arc<str>| {
            self.applied_to.is_there(group) || old.applied_to_groups().any(|name| name == group)
        };
        !new.applied_to_groups().all(known)
    }

    /// Names of all objects of a kind that the controller wants here.
    pub fn names(&self, kind: Kind) -> HashSet<Arc<str>> {
        let there = |groups: &Groups| {
            groups.by_name.iter().filter(|(_, group)| !group.doomed).map(|(name, _)| name.clone()).collect()
        };
        match kind {
            Kind::Policies => self.policies.keys().cloned().collect(),
            Kind::AddressGroups => there(&self.address),
            Kind::AppliedToGroups => there(&self.applied_to),
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
