//! Policies: from drafts to internal policies and the groups they refer to.

use std::sync::Arc;

use smallvec::SmallVec;
use uuid::Uuid;

use super::{
    Index,
    records::{ApplySet, Policy},
    slab::{Id, NONE},
    span::Counts,
};
use crate::{
    draft::{GROUP_NAMESPACE, GroupSelector, PolicyDraft, RuleDraft},
    error::{PolicyError, Problem},
    k8s,
    labels::shorten,
    model::{GroupName, NetworkPolicy, Peer, PolicyKind, PolicyReference, Rule},
    translate,
};

/// What identifies a policy: kind, namespace and name.
type Key<'a> = (PolicyKind, Option<&'a str>, &'a str);

fn key(source: &PolicyReference) -> Key<'_> {
    (source.kind, source.namespace.as_deref(), &source.name)
}

fn log(policy: &mut NetworkPolicy, logs: bool) {
    policy.rules.iter_mut().for_each(|rule| rule.enable_logging = logs);
}

/// The groups a policy refers to, as they are found.
#[derive(Default)]
struct References {
    applied_to: SmallVec<[Id; 1]>,
    addresses: SmallVec<[Id; 2]>,
}

impl Index {
    /// Takes in a NetworkPolicy that was added or changed. What is returned are its mistakes; it is in force
    /// all the same, see [`crate::translate`].
    pub fn apply_network_policy(&mut self, policy: &k8s::NetworkPolicy) -> Vec<PolicyError> {
        let (draft, mut errors) = translate::network_policy(policy);
        errors.extend(self.apply_policy(draft));
        errors
    }

    /// Takes in that a NetworkPolicy is gone.
    pub fn delete_network_policy(&mut self, namespace: &str, name: &str) {
        self.delete_policy(PolicyKind::K8sNetworkPolicy, Some(namespace), name);
    }

    /// Whether the NetworkPolicy is known.
    #[must_use]
    pub fn has_network_policy(&self, namespace: &str, name: &str) -> bool {
        let found = self.find_policy((PolicyKind::K8sNetworkPolicy, Some(namespace), name));
        found.is_some_and(|id| self.policies[id].set != NONE)
    }

    /// Takes in the complete list of NetworkPolicies, as after a watch had to start over. Those of `kept`
    /// (namespace and name) are in the list too and stay as they are known.
    pub fn reset_network_policies<'a>(
        &mut self,
        policies: impl IntoIterator<Item = &'a k8s::NetworkPolicy>,
        kept: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<PolicyError> {
        let mut errors = Vec::new();
        let drafts = policies.into_iter().map(|policy| {
            let (draft, mistakes) = translate::network_policy(policy);
            errors.extend(mistakes);
            draft
        });
        let clashes = self.reset_policies(PolicyKind::K8sNetworkPolicy, drafts, kept);
        errors.extend(clashes);
        errors
    }

    /// Takes in the complete list of policies of a kind. Those of `kept` (namespace, empty for what has none, and
    /// name) are in the list too and stay as they are known.
    pub fn reset_policies<'a>(
        &mut self,
        kind: PolicyKind,
        drafts: impl IntoIterator<Item = PolicyDraft>,
        kept: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<PolicyError> {
        let mut errors = Vec::new();
        let mut seen = vec![false; self.policies.len()];
        for (namespace, name) in kept {
            let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
            super::mark_seen(&mut seen, self.find_policy((kind, namespace, name)));
        }
        for draft in drafts {
            let source = draft.source.clone();
            errors.extend(self.apply_policy(draft));
            super::mark_seen(&mut seen, self.find_policy(key(&source)));
        }
        let of_kind = self
            .policies
            .iter()
            .filter(|(_, policy)| policy.set != NONE && policy.object.source.kind == kind);
        for id in super::unseen(&seen, of_kind) {
            self.remove_policy(id);
        }
        errors
    }

    /// Takes in a policy of any kind that was added or changed.
    pub fn apply_policy(&mut self, draft: PolicyDraft) -> Option<PolicyError> {
        let known = self.find_policy(key(&draft.source));
        let (name, error) = self.policy_name(&draft.source, known);
        let mut references = References::default();
        let mut object = self.internal_policy(name, draft, &mut references);
        if object.source.kind == PolicyKind::K8sNetworkPolicy
            && object.source.namespace.as_deref().is_some_and(|namespace| self.logging.contains(namespace))
        {
            log(&mut object, true);
        }
        references.applied_to.sort_unstable();
        references.applied_to.dedup();
        references.addresses.sort_unstable();
        references.addresses.dedup();

        if let Some(id) = known
            && self.policies[id].set != NONE
            && *self.policies[id].object == object
        {
            return error;
        }
        for group in &references.applied_to {
            self.take_applied_to(*group);
        }
        let set = self.apply_set(references.applied_to);
        for group in &references.addresses {
            self.link(*group, set);
        }
        match known {
            Some(id) => {
                self.detach_policy(id);
                if self.policies[id].object.name != object.name {
                    self.forget_policy_name(id);
                    self.policies[id].object = Arc::new(object);
                    self.learn_policy_name(id);
                } else {
                    self.policies[id].object = Arc::new(object);
                }
                self.policies[id].addresses = references.addresses;
                self.attach_policy(id, set);
            }
            None => {
                let id = self.policies.insert(Policy {
                    object: Arc::new(object),
                    set: NONE,
                    place_in_set: NONE,
                    addresses: references.addresses,
                    sent: None,
                    span_before: None,
                    dirty: false,
                });
                let hash = self.hash(key(&self.policies[id].object.source));
                self.policy_table.insert(hash, id);
                self.learn_policy_name(id);
                self.attach_policy(id, set);
            }
        }
        error
    }

    /// Has what the Kubernetes policies of a namespace decide be logged, or not.
    pub(super) fn log_policies(&mut self, namespace: &str, logs: bool) {
        let differs =
            if logs { self.logging.insert(namespace.into()) } else { self.logging.remove(namespace) };
        if !differs {
            return;
        }
        let of_namespace = |policy: &Policy| {
            let source = &policy.object.source;
            policy.set != NONE
                && source.kind == PolicyKind::K8sNetworkPolicy
                && source.namespace.as_deref() == Some(namespace)
        };
        let found = self.policies.iter().filter(|(_, policy)| of_namespace(policy));
        let ids: Vec<Id> = found.map(|(id, _)| id).collect();
        for id in ids {
            log(Arc::make_mut(&mut self.policies[id].object), logs);
            self.mark_policy(id);
        }
    }

    /// Takes in that a policy is gone.
    pub fn delete_policy(&mut self, kind: PolicyKind, namespace: Option<&str>, name: &str) {
        if let Some(id) = self.find_policy((kind, namespace, name)) {
            self.remove_policy(id);
        }
    }

    fn remove_policy(&mut self, id: Id) {
        if self.policies[id].set != NONE {
            self.detach_policy(id);
            self.mark_policy(id);
        }
    }

    pub(super) fn find_policy(&self, wanted: Key<'_>) -> Option<Id> {
        let policies = &self.policies;
        self.policy_table.find(self.hash(wanted), |id| key(&policies[id].object.source) == wanted)
    }

    // === names ===

    /// The name of the internal policy is the source's UID. Should that be missing or taken (two objects restored
    /// from different backups), the policy still has to be enforced, so it gets a name of its own.
    fn policy_name(&self, source: &PolicyReference, known: Option<Id>) -> (Arc<str>, Option<PolicyError>) {
        let holder = self.find_policy_name(&source.uid);
        if !source.uid.is_empty() && (holder.is_none() || holder == known) {
            return (source.uid.clone(), None);
        }
        let namespace = source.namespace.as_deref().unwrap_or_default();
        let text = format!("{}/{}/{}", source.kind.as_str(), namespace, source.name);
        let name = Uuid::new_v5(&GROUP_NAMESPACE, text.as_bytes()).to_string();
        let kind = match source.kind {
            PolicyKind::K8sNetworkPolicy | PolicyKind::AntreaNetworkPolicy => "NetworkPolicy",
            PolicyKind::AntreaClusterNetworkPolicy => "ClusterNetworkPolicy",
            PolicyKind::ClusterNetworkPolicy => crate::error::STANDARD,
        };
        let object = match &source.namespace {
            Some(namespace) => format!("{kind} {namespace}/{}", source.name),
            None => format!("{kind} {}", source.name),
        };
        let problem = Problem::Uid(shorten(&source.uid));
        (name.into(), Some(PolicyError { object: object.into(), path: "metadata.uid".into(), problem }))
    }

    pub(super) fn find_policy_name(&self, name: &str) -> Option<Id> {
        let policies = &self.policies;
        self.policy_names.find(self.hash(name), |id| *policies[id].object.name == *name)
    }

    fn learn_policy_name(&mut self, id: Id) {
        let hash = self.hash(&*self.policies[id].object.name);
        self.policy_names.insert(hash, id);
    }

    fn forget_policy_name(&mut self, id: Id) {
        let hash = self.hash(&*self.policies[id].object.name);
        self.policy_names.remove(hash, id);
    }

    /// Removes what is left of a policy that is gone.
    pub(super) fn bury_policy(&mut self, id: Id) {
        self.forget_policy_name(id);
        let policy = self.policies.remove(id);
        let hash = self.hash(key(&policy.object.source));
        self.policy_table.remove(hash, id);
    }

    // === contents ===

    fn internal_policy(&mut self, name: Arc<str>, draft: PolicyDraft, to: &mut References) -> NetworkPolicy {
        let PolicyDraft {
            mut source,
            generation,
            priority,
            tier_priority,
            resets_established,
            applied_to,
            rules,
        } = draft;
        let applied_to = self.refer(&applied_to, &mut to.applied_to);
        if let Some(namespace) = &mut source.namespace
            && let Some(known) = self.find_namespace(namespace)
        {
            *namespace = self.namespaces[known].name.clone();
        }
        let rules = rules.into_iter().map(|rule| self.internal_rule(rule, to)).collect();
        NetworkPolicy {
            name,
            source,
            generation,
            priority,
            tier_priority,
            resets_established,
            applied_to,
            rules,
        }
    }

    fn internal_rule(&mut self, rule: RuleDraft, to: &mut References) -> Rule {
        Rule {
            direction: rule.direction,
            peer: Peer {
                address_groups: self.refer(&rule.peer.groups, &mut to.addresses),
                ip_blocks: rule.peer.ip_blocks.into(),
                fqdns: rule.peer.fqdns.into(),
                to_services: rule.peer.to_services.into(),
            },
            services: rule.services.into(),
            priority: rule.priority,
            action: rule.action,
            enable_logging: rule.enable_logging,
            applied_to: self.refer(&rule.applied_to, &mut to.applied_to),
            on_services: rule.on_services.into(),
            name: rule.name,
            log_label: rule.log_label,
        }
    }

    fn refer<A: smallvec::Array<Item = Id>>(
        &mut self,
        selectors: &[GroupSelector],
        to: &mut SmallVec<A>,
    ) -> Box<[GroupName]> {
        let mut names = Vec::with_capacity(selectors.len());
        for selector in selectors {
            let group = self.group(selector);
            to.push(group);
            names.push(self.groups[group].name.clone());
        }
        names.into()
    }

    // === sets ===

    /// The set of these groups, which are ascending and all have the role of AppliedToGroup.
    fn apply_set(&mut self, groups: SmallVec<[Id; 1]>) -> Id {
        let known = match groups[..] {
            [group] => {
                let applied_to = self.groups[group].applied_to.as_ref();
                let mut sets = applied_to.into_iter().flat_map(|applied_to| &applied_to.sets);
                sets.find(|set| self.sets[**set].groups.len() == 1).copied()
            }
            _ => self.set_table.get(&groups).copied(),
        };
        if let Some(set) = known {
            return set;
        }
        let own = (groups.len() != 1).then(|| {
            let mut counts = Counts::default();
            for group in &groups {
                let applied_to = self.groups[*group].applied_to.as_ref();
                for node in applied_to.into_iter().flat_map(|applied_to| applied_to.nodes.iter()) {
                    counts.add(node);
                }
            }
            Box::new(counts)
        });
        let set = self.sets.insert(ApplySet {
            groups: groups.clone(),
            own,
            toggles: Vec::new(),
            sent: false,
            dirty: false,
            policies: Vec::new(),
            addresses: Vec::new(),
            change: None,
            span: None,
        });
        for group in &groups {
            if let Some(applied_to) = &mut self.groups[*group].applied_to {
                applied_to.sets.push(set);
                self.mark_group(*group);
            }
        }
        if groups.len() != 1 {
            self.set_table.insert(groups, set);
        }
        self.mark_set(set);
        set
    }

    /// Removes a set without policies.
    pub(super) fn remove_set(&mut self, set: Id) {
        let record = self.sets.remove(set);
        for group in &record.groups {
            if let Some(applied_to) = &mut self.groups[*group].applied_to {
                applied_to.sets.retain(|s| *s != set);
                self.mark_group(*group);
            }
        }
        if record.groups.len() != 1 {
            self.set_table.remove(&record.groups);
        }
    }

    fn attach_policy(&mut self, id: Id, set: Id) {
        let policies = &mut self.sets[set].policies;
        policies.push(id);
        self.policies[id].place_in_set = super::place_of_last(policies);
        self.policies[id].set = set;
        self.mark_policy(id);
    }

    fn detach_policy(&mut self, id: Id) {
        let set = std::mem::replace(&mut self.policies[id].set, NONE);
        if set == NONE {
            return;
        }
        if self.policies[id].sent.is_some() && self.policies[id].span_before.is_none() {
            self.policies[id].span_before = Some(self.set_nodes_sent(set));
        }
        for group in std::mem::take(&mut self.policies[id].addresses) {
            self.unlink(group, set);
        }
        let place = self.policies[id].place_in_set;
        let policies = &mut self.sets[set].policies;
        policies.swap_remove(place as usize);
        if let Some(moved) = policies.get(place as usize) {
            self.policies[*moved].place_in_set = place;
        }
        if policies.is_empty() {
            self.mark_set(set);
        }
    }
}
