//! Feeds the index from watches.

use std::{pin::pin, sync::Arc, time::Duration};

use antrea_policy::{Index, k8s};
use antrea_runtime::{
    client::{WATCH_PAUSE, WatchBackoff, describe_watch},
    health::{BlockReady, Readiness},
};
use futures::{Stream, StreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};

use super::{
    PolicyHub,
    source::{Source, Watched},
    update,
};

/// Events taken in at once. Agents get one patch for a batch that touches a group often.
const BATCH: usize = 500;
/// Failures in a row after which the watch counts as broken.
const TOLERATED: u32 = 3;
/// A broken watch that has not failed again for this long has recovered, though nothing came through.
/// Longer than the longest pause between two attempts.
const QUIET: Duration = WATCH_PAUSE.saturating_mul(3);

/// An input of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Pods.
    Pods,
    /// Namespaces.
    Namespaces,
    /// Kubernetes NetworkPolicies.
    NetworkPolicies,
}

impl Feed {
    /// Number of inputs.
    pub const COUNT: u8 = 3;

    fn name(self) -> &'static str {
        match self {
            Self::Pods => "pod watch",
            Self::Namespaces => "namespace watch",
            Self::NetworkPolicies => "network policy watch",
        }
    }
}

/// How the index takes in objects of a kind.
pub(super) trait Input: Source {
    const FEED: Feed;
    fn apply(&self, index: &mut Index);
    fn delete(&self, index: &mut Index);
    fn reset(objects: &[Self], index: &mut Index);
}

impl Input for k8s::Pod {
    const FEED: Feed = Feed::Pods;

    fn apply(&self, index: &mut Index) {
        index.apply_pod(self);
    }

    fn delete(&self, index: &mut Index) {
        index.delete_pod(&self.namespace, &self.name);
    }

    fn reset(objects: &[Self], index: &mut Index) {
        index.reset_pods(objects);
    }
}

impl Input for k8s::Namespace {
    const FEED: Feed = Feed::Namespaces;

    fn apply(&self, index: &mut Index) {
        index.apply_namespace(self);
    }

    fn delete(&self, index: &mut Index) {
        index.delete_namespace(&self.name);
    }

    fn reset(objects: &[Self], index: &mut Index) {
        index.reset_namespaces(objects);
    }
}

impl Input for k8s::NetworkPolicy {
    const FEED: Feed = Feed::NetworkPolicies;

    fn apply(&self, index: &mut Index) {
        for error in index.apply_network_policy(self) {
            tracing::warn!(namespace = %self.namespace, name = %self.name, %error, "a part of the policy is unusable");
        }
    }

    fn delete(&self, index: &mut Index) {
        index.delete_network_policy(&self.namespace, &self.name);
    }

    fn reset(objects: &[Self], index: &mut Index) {
        for error in index.reset_network_policies(objects) {
            tracing::warn!(%error, "a part of a policy is unusable");
        }
    }
}

/// The three watches as tasks that never end. `ready` is held back until each has its first list;
/// `problems` shows those that fail now.
pub fn feeds(
    client: &Client,
    hub: &Arc<PolicyHub>,
    ready: &Readiness,
    problems: &Readiness,
) -> [(&'static str, futures::future::BoxFuture<'static, ()>); Feed::COUNT as usize] {
    [
        (Feed::Namespaces.name(), Box::pin(watch::<k8s::Namespace>(client, hub, ready, problems))),
        (Feed::Pods.name(), Box::pin(watch::<k8s::Pod>(client, hub, ready, problems))),
        (Feed::NetworkPolicies.name(), Box::pin(watch::<k8s::NetworkPolicy>(client, hub, ready, problems))),
    ]
}

fn watch<T: Input>(
    client: &Client,
    hub: &Arc<PolicyHub>,
    ready: &Readiness,
    problems: &Readiness,
) -> impl Future<Output = ()> + Send + use<T> {
    let api = Api::<Watched<T>>::all(client.clone());
    let events = watcher(api, watcher::Config::default().page_size(500)).backoff(WatchBackoff::default());
    feed::<T>(events, Arc::clone(hub), ready.block(T::FEED.name()), problems.clone())
}

/// Takes events in. Errors change nothing in the index: what is computed stays until a complete list says
/// otherwise.
pub(super) async fn feed<T: Input>(
    events: impl Stream<Item = watcher::Result<watcher::Event<Watched<T>>>> + Send,
    hub: Arc<PolicyHub>,
    starting: BlockReady,
    problems: Readiness,
) {
    let name = T::FEED.name();
    let mut starting = Some(starting);
    let mut problem: Option<BlockReady> = None;
    let mut failures = 0;
    // Objects of a list that is being received.
    let mut list: Vec<T> = Vec::new();
    let mut batches = pin!(events.ready_chunks(BATCH));
    loop {
        let batch = match tokio::time::timeout(QUIET, batches.next()).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(_) => {
                (problem, failures) = (None, 0);
                continue;
            }
        };
        let mut changes = Vec::with_capacity(batch.len());
        for event in batch {
            match event {
                Ok(event) => {
                    (problem, failures) = (None, 0);
                    changes.push(event);
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, failures, "{name} failed");
                    if failures >= TOLERATED {
                        let block = problem.get_or_insert_with(|| {
                            tracing::warn!(%error, "{name} keeps failing; what is computed stays");
                            problems.block(name)
                        });
                        block.set_reason(describe_watch(&error));
                    } else if let Some(block) = &starting {
                        block.set_reason(describe_watch(&error));
                    }
                }
            }
        }
        if take_in(&hub, changes, &mut list) {
            starting = None;
            tracing::info!("{name}: complete list taken in");
        }
    }
}

/// Whether a list was completed.
fn take_in<T: Input>(hub: &PolicyHub, events: Vec<watcher::Event<Watched<T>>>, list: &mut Vec<T>) -> bool {
    let mut changes = Vec::new();
    let mut complete = false;
    for event in events {
        match event {
            watcher::Event::Init => list.clear(),
            watcher::Event::InitApply(watched) => list.push(watched.object),
            watcher::Event::InitDone => {
                changes.push(Change::Reset(std::mem::take(list)));
                complete = true;
            }
            watcher::Event::Apply(watched) => changes.push(Change::Apply(watched.object)),
            watcher::Event::Delete(watched) => {
                tracing::trace!(name = watched.name_any(), "deleted");
                changes.push(Change::Delete(watched.object));
            }
        }
    }
    if changes.is_empty() {
        return complete;
    }
    let work = || {
        update(hub, changes.len(), |state| {
            for change in &changes {
                match change {
                    Change::Apply(object) => object.apply(&mut state.index),
                    Change::Delete(object) => object.delete(&mut state.index),
                    Change::Reset(objects) => {
                        T::reset(objects, &mut state.index);
                        state.synced |= 1 << T::FEED as u8;
                    }
                }
            }
        });
    };
    // A full list of a large cluster takes longer than a runtime thread may be kept.
    if complete {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
    complete
}

enum Change<T> {
    Apply(T),
    Delete(T),
    Reset(Vec<T>),
}
