//! Native policies: what they refer to, and which have to be computed anew when that changes.
//!
//! A draft is a function of the policy, the tiers, the groups and, where a rule asks for them, the namespaces; so all
//! that has to be known is which policies to make a draft of again. Kubernetes policies have no part in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Index, slab::NONE};
use crate::{
    crd,
    error::PolicyError,
    k8s,
    labels::Labels,
    model::{NetworkPolicy, Nodes},
    native::{self, Context, Key, Uses},
    standard,
};

/// A policy as it was written.
#[derive(Debug, PartialEq)]
pub(super) enum Written {
    Antrea(crd::Policy),
    /// The Kubernetes project's.
    Standard(standard::Policy),
}

impl Written {
    /// The Tier that it names, empty if it names none.
    pub(super) fn tier(&self) -> &str {
        match self {
            Self::Antrea(policy) => &policy.spec.tier,
            Self::Standard(_) => "",
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) policy: Written,
    uses: Uses,
    errors: Vec<PolicyError>,
}

/// A native policy as it was computed.
#[derive(Clone, Debug)]
pub struct NativeView<'a> {
    /// The internal policy.
    pub policy: &'a Arc<NetworkPolicy>,
    /// Nodes that need it.
    pub span: Nodes,
    /// What of the policy as it was written is not in force.
    pub errors: &'a [PolicyError],
}

#[derive(Debug, Default)]
pub(super) struct Natives {
    pub(super) tiers: BTreeMap<Box<str>, i64>,
    pub(super) groups: BTreeMap<Key, crd::Group>,
    /// Services, by the labels of their Pods.
    pub(super) services: BTreeMap<Key, Labels>,
    pub(super) policies: BTreeMap<Key, Entry>,
    /// Nodes, and the names of the members that they are to groups.
    pub(super) nodes: BTreeMap<Box<str>, Vec<Box<str>>>,
    /// To be computed before changes are handed out.
    dirty: BTreeSet<Key>,
    /// Computed since somebody asked.
    computed: BTreeSet<Key>,
    /// Groups that came or changed since somebody asked.
    groups_computed: BTreeSet<Key>,
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.into(), name.into())
}

impl Natives {
    pub(super) fn is_empty(&self) -> bool {
        self.tiers.is_empty()
            && self.groups.is_empty()
            && self.services.is_empty()
            && self.policies.is_empty()
            && self.nodes.is_empty()
    }

    fn mark(&mut self, concerned: impl Fn(&Entry) -> bool) {
        let concerned = self.policies.iter().filter(|(_, entry)| concerned(entry));
        self.dirty.extend(concerned.map(|(key, _)| key.clone()));
    }

    /// Namespaces or their labels changed.
    pub(super) fn namespaces_changed(&mut self) {
        self.mark(|entry| entry.uses.namespaces);
    }
}

impl Index {
    // === tiers ===

    /// Takes in a Tier that was added or changed.
    pub fn apply_tier(&mut self, tier: &crd::Tier) {
        if self.natives.tiers.insert(tier.name.clone(), tier.priority) != Some(tier.priority) {
            self.natives.mark(|entry| entry.policy.tier() == &*tier.name);
        }
    }

    /// Takes in that a Tier is gone.
    pub fn delete_tier(&mut self, name: &str) {
        if self.natives.tiers.remove(name).is_some() {
            self.natives.mark(|entry| entry.policy.tier() == name);
        }
    }

    /// Whether the Tier is known.
    #[must_use]
    pub fn has_tier(&self, name: &str) -> bool {
        self.natives.tiers.contains_key(name)
    }

    /// Takes in the complete list of Tiers. Those of `kept` are in the list too and stay as they are known.
    pub fn reset_tiers<'a>(
        &mut self,
        tiers: impl IntoIterator<Item = &'a crd::Tier>,
        kept: impl IntoIterator<Item = &'a str>,
    ) {
        let mut listed: BTreeSet<&str> = kept.into_iter().collect();
        for tier in tiers {
            self.apply_tier(tier);
            listed.insert(&tier.name);
        }
        let gone = self.natives.tiers.keys().filter(|name| !listed.contains(&***name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.delete_tier(&name);
        }
    }

    // === groups ===

    /// Takes in a ClusterGroup or Group that was added or changed.
    pub fn apply_group(&mut self, group: &crd::Group) {
        let key = key(&group.namespace, &group.name);
        let known = self.natives.groups.insert(key.clone(), group.clone());
        if known.as_ref().map(|known| &known.spec) != Some(&group.spec) {
            self.natives.mark(|entry| entry.uses.groups.contains(&key));
        }
        if known.is_none_or(|known| known.uid != group.uid) {
            self.natives.groups_computed.insert(key);
        }
    }

    /// Takes in that a ClusterGroup (without a namespace) or Group is gone.
    pub fn delete_group(&mut self, namespace: &str, name: &str) {
        let key = key(namespace, name);
        self.natives.groups_computed.remove(&key);
        if self.natives.groups.remove(&key).is_some() {
            self.natives.mark(|entry| entry.uses.groups.contains(&key));
        }
    }

    /// Whether the ClusterGroup or Group is known.
    #[must_use]
    pub fn has_group(&self, namespace: &str, name: &str) -> bool {
        self.natives.groups.contains_key(&key(namespace, name))
    }

    /// Takes in the complete list of ClusterGroups, or of Groups. Those of `kept` are in the list too and stay as they
    /// are known.
    pub fn reset_groups<'a>(
        &mut self,
        cluster: bool,
        groups: impl IntoIterator<Item = &'a crd::Group>,
        kept: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let mut listed: BTreeSet<Key> =
            kept.into_iter().map(|(namespace, name)| key(namespace, name)).collect();
        for group in groups {
            self.apply_group(group);
            listed.insert(key(&group.namespace, &group.name));
        }
        for (namespace, name) in unlisted(&self.natives.groups, cluster, &listed) {
            self.delete_group(&namespace, &name);
        }
    }

    // === services ===

    /// Takes in a Service that was added or changed.
    pub fn apply_service(&mut self, service: &k8s::Service) {
        let key = key(&service.namespace, &service.name);
        let known = self.natives.services.insert(key.clone(), service.selector.clone());
        if known.as_ref() != Some(&service.selector) {
            self.natives.mark(|entry| entry.uses.services.contains(&key));
        }
    }

    /// Takes in that a Service is gone.
    pub fn delete_service(&mut self, namespace: &str, name: &str) {
        let key = key(namespace, name);
        if self.natives.services.remove(&key).is_some() {
            self.natives.mark(|entry| entry.uses.services.contains(&key));
        }
    }

    /// Whether the Service is known.
    #[must_use]
    pub fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.natives.services.contains_key(&key(namespace, name))
    }

    /// Takes in the complete list of Services. Those of `kept` are in the list too and stay as they are known.
    pub fn reset_services<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a k8s::Service>,
        kept: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let mut listed: BTreeSet<Key> =
            kept.into_iter().map(|(namespace, name)| key(namespace, name)).collect();
        for service in services {
            self.apply_service(service);
            listed.insert(key(&service.namespace, &service.name));
        }
        for (namespace, name) in unlisted(&self.natives.services, false, &listed) {
            self.delete_service(&namespace, &name);
        }
    }

    // === policies ===

    /// Takes in a ClusterNetworkPolicy or NetworkPolicy of `crd.antrea.io` that was added or changed. It is computed
    /// with the next drain.
    pub fn apply_native(&mut self, policy: &crd::Policy) {
        self.write(key(&policy.namespace, &policy.name), Written::Antrea(policy.clone()));
    }

    /// The same of a ClusterNetworkPolicy of `policy.networking.k8s.io`. In place of a namespace it has
    /// [`crd::STANDARD`].
    pub fn apply_standard(&mut self, policy: &standard::Policy) {
        self.write(key(crd::STANDARD, &policy.name), Written::Standard(policy.clone()));
    }

    fn write(&mut self, key: Key, written: Written) {
        match self.natives.policies.get_mut(&key) {
            Some(entry) if entry.policy == written => return,
            Some(entry) => entry.policy = written,
            None => {
                let entry = Entry { policy: written, uses: Uses::default(), errors: Vec::new() };
                self.natives.policies.insert(key.clone(), entry);
            }
        }
        self.natives.dirty.insert(key);
    }

    /// Takes in that a ClusterNetworkPolicy (without a namespace) or NetworkPolicy of `crd.antrea.io` is gone.
    pub fn delete_native(&mut self, namespace: &str, name: &str) {
        let key = key(namespace, name);
        self.natives.dirty.remove(&key);
        self.natives.computed.remove(&key);
        if self.natives.policies.remove(&key).is_some() {
            self.delete_policy(crd::kind(namespace), crd::own(namespace), name);
        }
    }

    /// Whether the ClusterNetworkPolicy or NetworkPolicy of `crd.antrea.io` is known.
    #[must_use]
    pub fn has_native(&self, namespace: &str, name: &str) -> bool {
        self.natives.policies.contains_key(&key(namespace, name))
    }

    /// Takes in the complete list of ClusterNetworkPolicies, or of NetworkPolicies of `crd.antrea.io`. Those of `kept`
    /// are in the list too and stay as they are known.
    pub fn reset_natives<'a>(
        &mut self,
        cluster: bool,
        policies: impl IntoIterator<Item = &'a crd::Policy>,
        kept: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let mut listed: BTreeSet<Key> =
            kept.into_iter().map(|(namespace, name)| key(namespace, name)).collect();
        for policy in policies {
            self.apply_native(policy);
            listed.insert(key(&policy.namespace, &policy.name));
        }
        for (namespace, name) in unlisted(&self.natives.policies, cluster, &listed) {
            self.delete_native(&namespace, &name);
        }
    }

    /// Takes in the complete list of ClusterNetworkPolicies of `policy.networking.k8s.io`. Those of `kept` are in the list
    /// too and stay as they are known.
    pub fn reset_standard<'a>(
        &mut self,
        policies: impl IntoIterator<Item = &'a standard::Policy>,
        kept: impl IntoIterator<Item = &'a str>,
    ) {
        let mut listed: BTreeSet<Box<str>> = kept.into_iter().map(Into::into).collect();
        for policy in policies {
            self.apply_standard(policy);
            listed.insert(policy.name.clone());
        }
        let known = self.natives.policies.keys().filter(|key| &*key.0 == crd::STANDARD);
        let gone: Vec<Box<str>> =
            known.map(|key| key.1.clone()).filter(|name| !listed.contains(name)).collect();
        for name in gone {
            self.delete_native(crd::STANDARD, &name);
        }
    }

    /// A native policy as it was last computed. None if it is not known, or not computed yet.
    #[must_use]
    pub fn native(&self, namespace: &str, name: &str) -> Option<NativeView<'_>> {
        let entry = self.natives.policies.get(&key(namespace, name))?;
        let id = self.find_policy((crd::kind(namespace), crd::own(namespace), name))?;
        let policy = &self.policies[id];
        let span = (policy.set != NONE).then(|| self.node_names(self.set_nodes(policy.set)))?;
        Some(NativeView { policy: &policy.object, span, errors: &entry.errors })
    }

    /// Namespace (empty where there is none) and name of native policies that were computed since this was last asked.
    pub fn take_computed(&mut self) -> BTreeSet<(Box<str>, Box<str>)> {
        std::mem::take(&mut self.natives.computed)
    }

    /// Whether groups came since they were last asked for.
    #[must_use]
    pub fn has_new_groups(&self) -> bool {
        !self.natives.groups_computed.is_empty()
    }

    /// Groups that came since this was last asked: namespace (empty for a ClusterGroup), name and UID. Their members are
    /// known as soon as they are.
    pub fn take_new_groups(&mut self) -> Vec<(Box<str>, Box<str>, Box<str>)> {
        let new = std::mem::take(&mut self.natives.groups_computed).into_iter();
        new.filter_map(|key| {
            let uid = self.natives.groups.get(&key)?.uid.clone();
            Some((key.0, key.1, uid))
        })
        .collect()
    }

    /// What `work` makes of what policies may refer to.
    pub(super) fn in_context<T>(&self, work: impl FnOnce(&Context<'_>) -> T) -> T {
        let namespaces = || {
            let known = self.namespaces.iter().map(|(_, namespace)| namespace);
            let labels = |id| -> Labels { self.labels.texts(id) };
            known.filter_map(|namespace| Some((namespace.name.clone(), labels(namespace.labels?)))).collect()
        };
        let Natives { tiers, groups, services, .. } = &*self.natives;
        work(&Context { tiers, groups, services, namespaces: &namespaces })
    }

    /// Computes the native policies that have to be.
    pub(super) fn settle(&mut self) {
        if self.natives.dirty.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.natives.dirty) {
            let Some(entry) = self.natives.policies.get(&key) else { continue };
            let (draft, mut errors, uses) = match &entry.policy {
                Written::Antrea(policy) => self.in_context(|context| native::policy(policy, context)),
                Written::Standard(policy) => {
                    let (draft, errors) = standard::policy(policy);
                    (draft, errors, Uses::default())
                }
            };
            errors.extend(self.apply_policy(draft));
            if let Some(entry) = self.natives.policies.get_mut(&key) {
                (entry.uses, entry.errors) = (uses, errors);
            }
            self.natives.computed.insert(key);
        }
    }
}

/// What of the objects of the cluster, or of namespaces, is not listed.
fn unlisted<T>(known: &BTreeMap<Key, T>, cluster: bool, listed: &BTreeSet<Key>) -> Vec<Key> {
    let of_kind = |key: &&Key| key.0.is_empty() == cluster && &*key.0 != crd::STANDARD;
    let gone = known.keys().filter(of_kind).filter(|key| !listed.contains(*key));
    gone.cloned().collect()
}
