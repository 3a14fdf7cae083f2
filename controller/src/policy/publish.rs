//! Sends out what changed in the index. A change becomes an event only if somebody watches.

use std::time::Instant;

use antrea_policy::{Index, model::IndexChange};
use antrea_runtime::trace::Tracer;
use apiserver_kit::hub::Routes;

use super::{
    PolicyMetrics, State,
    resources::{AddressGroups, AppliedToGroups, NetworkPolicies, Served},
    trace::Spans,
};

/// Drains the index and sends out the changes, with the stamp of `spans` if there are any.
pub(super) fn publish(
    state: &mut State,
    routes: &mut Routes,
    begin: Instant,
    spans: impl FnOnce(&Tracer) -> Option<Spans>,
) {
    let State { index, whole, realization, stale, statistics, metrics, tracer, .. } = state;
    if routes.is_empty() {
        // Nothing need be kept of the changes; a watcher starts from the present state.
        index.drain_with(|change| {
            if let IndexChange::Policy(name, policy) = &change {
                realization.follow(name, policy);
                statistics.follow(name, policy);
            }
            stale.follow(&change);
            count(&change, metrics, begin);
        });
        whole.clear();
        return;
    }
    let changes = index.drain();
    if changes.is_empty() {
        return;
    }
    let spans = spans(tracer);
    let stamp = spans.as_ref().and_then(Spans::stamp);
    let stamp = stamp.as_deref();
    for change in changes {
        stale.follow(&change);
        match &change {
            IndexChange::AddressGroup(name, group) => {
                whole.remove(&name.to_string());
                send::<AddressGroups>(routes, index, name, group, stamp);
            }
            IndexChange::AppliedToGroup(name, group) => {
                send::<AppliedToGroups>(routes, index, name, group, stamp);
            }
            IndexChange::Policy(name, policy) => {
                realization.follow(name, policy);
                statistics.follow(name, policy);
                send::<NetworkPolicies>(routes, index, name, policy, stamp);
            }
        }
        count(&change, metrics, begin);
    }
}

fn send<R: Served>(
    routes: &mut Routes,
    index: &Index,
    name: &R::Name,
    change: &R::Change,
    stamp: Option<&str>,
) {
    let text = name.to_string();
    let (delta, mut events) = R::events(index, (name, &text), change, stamp);
    routes.publish(R::NUMBER, &text, delta, &mut events);
}

fn count(change: &IndexChange, metrics: &PolicyMetrics, begin: Instant) {
    let resource = match change {
        IndexChange::Policy(..) => NetworkPolicies::NUMBER,
        IndexChange::AddressGroup(..) => AddressGroups::NUMBER,
        IndexChange::AppliedToGroup(..) => AppliedToGroups::NUMBER,
    };
    metrics.done(resource, begin);
}
