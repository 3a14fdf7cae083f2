//! Pods by the Service that they are behind.

use super::Native;
use crate::{
    crd,
    draft::{GroupSelector, Scope},
    error::{Place, Problem},
    k8s,
    labels::{Selector, shorten},
};

impl Native<'_> {
    /// The Pods that a Service selects, whether they are ready or not, as upstream has it.
    pub(super) fn endpoints(
        &mut self,
        service: &crd::NamespacedName,
        place: &mut Place<'_>,
    ) -> Option<GroupSelector> {
        let own = self.own.as_deref().unwrap_or_default();
        let namespace = if service.namespace.is_empty() { own } else { &service.namespace };
        if service.name.is_empty() || namespace.is_empty() {
            place.add(Problem::NoService);
            return None;
        }
        // Whoever may write groups in a namespace decides nothing about the Pods of others.
        if !own.is_empty() && namespace != own {
            place.field("namespace").add(Problem::ClusterOnly);
            return None;
        }
        let key = (namespace.into(), service.name.clone());
        let selector = self.context.services.get(&key);
        let text = || shorten(&format!("{}/{}", key.0, key.1));
        let problem = match selector {
            None => Some(Problem::UnknownService(text())),
            Some(selector) if selector.is_empty() => Some(Problem::SelectsNothing(text())),
            Some(_) => None,
        };
        let found = match problem {
            Some(problem) => {
                place.add(problem);
                None
            }
            None => selector.map(|selector| GroupSelector {
                scope: Scope::Namespace(k8s::shared(namespace)),
                pods: Some(Selector::everything().and_equals(selector.iter())),
            }),
        };
        self.uses.services.insert(key);
        found
    }
}
