//! Peers that depend on the namespace of the Pod that a rule applies to.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use super::Native;
use crate::{
    draft::{GroupSelector, Scope},
    k8s,
    labels::Selector,
    limits::TooLarge,
};

/// A peer that means other Pods for each namespace, or for each combination of labels of namespaces.
pub(super) struct PerNamespace {
    /// Keys of labels; empty for the same namespace.
    pub(super) keys: Vec<Box<str>>,
    pub(super) pods: Option<Selector>,
}

impl Native<'_> {
    /// For each namespace, or combination of labels, that `applied_to` reaches: the peer, and what the rule applies to
    /// there.
    pub(super) fn expand(
        &mut self,
        peer: &PerNamespace,
        applied_to: &[GroupSelector],
    ) -> Result<Vec<(GroupSelector, Vec<GroupSelector>)>, TooLarge> {
        let known = self.namespaces.get_or_insert_with(self.context.namespaces);
        let keys = 1 + 2 * peer.keys.len();
        // In order, so that the draft does not depend on that of events; what is written twice is there once.
        let mut found: BTreeMap<Vec<Box<str>>, HashMap<GroupSelector, usize>> = BTreeMap::new();
        for target in applied_to {
            let parts = target.parts() + keys;
            self.spread.compare(parts, known.len())?;
            for (name, labels) in known.iter() {
                let reached = match &target.scope {
                    Scope::All => true,
                    Scope::Namespace(namespace) => namespace == name,
                    Scope::NamespaceSelector(selector) => selector.matches(labels),
                    // Policies apply to Pods.
                    Scope::Nodes => false,
                };
                if !reached {
                    continue;
                }
                let values: Option<Vec<Box<str>>> =
                    peer.keys.iter().map(|key| labels.get(key).map(Into::into)).collect();
                let Some(values) = values else { continue };
                let (class, scope) = if peer.keys.is_empty() {
                    (vec![(**name).into()], Scope::Namespace(name.clone()))
                } else {
                    let pairs = peer.keys.iter().zip(&values).map(|(key, value)| (&**key, &**value));
                    let narrowed = match &target.scope {
                        Scope::Namespace(_) => target.scope.clone(),
                        Scope::NamespaceSelector(selector) => {
                            Scope::NamespaceSelector(selector.and_equals(pairs))
                        }
                        _ => Scope::NamespaceSelector(Selector::everything().and_equals(pairs)),
                    };
                    (values, narrowed)
                };
                let selector = GroupSelector { scope, pods: target.pods.clone() };
                let targets = found.entry(class).or_default();
                let at = targets.len();
                if let Entry::Vacant(entry) = targets.entry(selector) {
                    self.spread.copy(parts)?;
                    entry.insert(at);
                }
            }
        }
        let peer_parts = peer.pods.as_ref().map_or(0, Selector::parts) + keys;
        self.spread.copy(peer_parts.saturating_mul(found.len()))?;
        let expanded = found.into_iter().map(|(class, targets)| {
            let scope = if peer.keys.is_empty() {
                Scope::Namespace(class.first().map_or_else(|| k8s::shared(""), |name| k8s::shared(name)))
            } else {
                let pairs = peer.keys.iter().zip(&class).map(|(key, value)| (&**key, &**value));
                Scope::NamespaceSelector(Selector::everything().and_equals(pairs))
            };
            let mut targets: Vec<(GroupSelector, usize)> = targets.into_iter().collect();
            targets.sort_unstable_by_key(|(_, at)| *at);
            let targets = targets.into_iter().map(|(selector, _)| selector).collect();
            (GroupSelector { scope, pods: peer.pods.clone() }, targets)
        });
        Ok(expanded.collect())
    }
}
