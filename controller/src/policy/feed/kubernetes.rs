//! How the index takes in Kubernetes' own objects.

use std::collections::HashMap;

use antrea_policy::{Index, error::PolicyError, k8s};

use super::{Feed, Input, borrowed};
use crate::policy::{
    mistakes::{Mistakes, Partial},
    undecoded::Key,
};

impl Input for k8s::Pod {
    const FEED: Feed = Feed::Pods;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_pod(self);
        Vec::new()
    }

    fn is_known((namespace, name): &Key, index: &Index) -> bool {
        index.has_pod(namespace, name)
    }

    fn delete((namespace, name): &Key, index: &mut Index) {
        index.delete_pod(namespace, name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_pods(objects.iter().copied(), borrowed(kept));
        Vec::new()
    }
}

impl Input for k8s::Namespace {
    const FEED: Feed = Feed::Namespaces;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_namespace(self);
        Vec::new()
    }

    fn is_known((_, name): &Key, index: &Index) -> bool {
        index.has_namespace(name)
    }

    fn delete((_, name): &Key, index: &mut Index) {
        index.delete_namespace(name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_namespaces(objects.iter().copied(), borrowed(kept).map(|(_, name)| name));
        Vec::new()
    }
}

impl Input for k8s::Node {
    const FEED: Feed = Feed::Nodes;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_node(self);
        Vec::new()
    }

    fn is_known((_, name): &Key, index: &Index) -> bool {
        index.has_node(name)
    }

    fn delete((_, name): &Key, index: &mut Index) {
        index.delete_node(name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_nodes(objects.iter().copied(), borrowed(kept).map(|(_, name)| name));
        Vec::new()
    }
}

impl Input for k8s::Service {
    const FEED: Feed = Feed::Services;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_service(self);
        Vec::new()
    }

    fn is_known((namespace, name): &Key, index: &Index) -> bool {
        index.has_service(namespace, name)
    }

    fn delete((namespace, name): &Key, index: &mut Index) {
        index.delete_service(namespace, name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_services(objects.iter().copied(), borrowed(kept));
        Vec::new()
    }
}

impl Input for k8s::NetworkPolicy {
    const FEED: Feed = Feed::NetworkPolicies;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_network_policy(self)
    }

    fn is_known((namespace, name): &Key, index: &Index) -> bool {
        index.has_network_policy(namespace, name)
    }

    fn delete((namespace, name): &Key, index: &mut Index) {
        index.delete_network_policy(namespace, name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_network_policies(objects.iter().copied(), borrowed(kept))
    }

    fn gone(key: &Key, partial: &mut Partial) {
        partial.remove(key);
    }

    fn only(kept: &[Key], partial: &mut Partial) {
        partial.keep(kept);
    }

    fn tell(objects: &[&Self], errors: Vec<PolicyError>, partial: &mut Partial, mistakes: &Mistakes) {
        let mut of_object: HashMap<Box<str>, Vec<PolicyError>> = HashMap::new();
        for error in errors {
            of_object.entry(error.object.clone()).or_default().push(error);
        }
        if of_object.is_empty() && partial.len() == 0 {
            return;
        }
        for policy in objects {
            let errors = of_object.remove(&*PolicyError::object_of(policy)).unwrap_or_default();
            partial.set(policy, &errors);
            if !errors.is_empty() {
                mistakes.tell(policy, &errors);
            }
        }
    }
}
