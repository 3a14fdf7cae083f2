//! Peers that depend on the namespace of the Pod that a rule applies to.

use std::collections::BTreeMap;

use super::Native;
use crate::{
    draft::{GroupSelector, Scope},
    k8s,
    labels::Selector,
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
    ) -> Vec<(GroupSelector, Vec<GroupSelector>)> {
        let known = self.namespaces.get_or_insert_with(self.context.namespaces);
        // In order, so that the draft does not depend on that of events.
        let mut found: BTreeMap<Vec<Box<str>>, Vec<GroupSelector>> = BTreeMap::new();
        for target in applied_to {
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
                if !targets.contains(&selector) {
                    targets.push(selector);
                }
            }
        }
        let expanded = found.into_iter().map(|(class, targets)| {
            let scope = if peer.keys.is_empty() {
                Scope::Namespace(class.first().map_or_else(|| k8s::shared(""), |name| k8s::shared(name)))
            } else {
                let pairs = peer.keys.iter().zip(&class).map(|(key, value)| (&**key, &**value));
                Scope::NamespaceSelector(Selector::everything().and_equals(pairs))
            };
            (GroupSelector { scope, pods: peer.pods.clone() }, targets)
        });
        expanded.collect()
    }
}
