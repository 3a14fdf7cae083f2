//! Pods by their ServiceAccount.

use crate::{
    crd,
    draft::{GroupSelector, Scope},
    error::{Place, Problem},
    k8s,
    labels::Selector,
};

/// The Pods that run as a ServiceAccount.
pub(super) fn service_account(account: &crd::NamespacedName, place: &mut Place<'_>) -> Option<GroupSelector> {
    if account.name.is_empty() || account.namespace.is_empty() {
        place.add(Problem::NoServiceAccount);
        return None;
    }
    let pods = Selector::everything().and_equals([(k8s::SERVICE_ACCOUNT, &*account.name)].into_iter());
    Some(GroupSelector { scope: Scope::Namespace(k8s::shared(&account.namespace)), pods: Some(pods) })
}
