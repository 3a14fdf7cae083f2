//! Feeds the index from watches.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use antrea_policy::{Index, crd, error::PolicyError, k8s, standard};
use antrea_runtime::{
    client::{WATCH_PAUSE, WatchBackoff, describe_watch},
    health::{BlockReady, Readiness},
};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use super::{
    PolicyHub, State,
    mistakes::{Mistakes, Partial},
    native::{ClusterGroup, ClusterPolicy, NamespacedGroup, NamespacedPolicy},
    source::{Source, Watched},
    trace::Batch,
    undecoded::{self, Key, Undecoded},
    update,
};

mod kubernetes;

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
    Pods,
    Namespaces,
    /// Kubernetes NetworkPolicies.
    NetworkPolicies,
    Tiers,
    ClusterNetworkPolicies,
    /// NetworkPolicies of `crd.antrea.io`.
    AntreaNetworkPolicies,
    ClusterGroups,
    Groups,
    /// As peers of native policies.
    Nodes,
    /// For the Pods behind them, as groups.
    Services,
    /// ClusterNetworkPolicies of `policy.networking.k8s.io`.
    StandardPolicies,
}

impl Feed {
    /// Number of inputs.
    pub(super) const COUNT: usize = 11;

    /// Those that native policies need besides.
    pub(super) const NATIVE: [Self; 7] = [
        Self::Tiers,
        Self::ClusterNetworkPolicies,
        Self::AntreaNetworkPolicies,
        Self::ClusterGroups,
        Self::Groups,
        Self::Nodes,
        Self::Services,
    ];

    /// Those that Kubernetes policies need.
    pub(super) const KUBERNETES: [Self; 3] = [Self::Pods, Self::Namespaces, Self::NetworkPolicies];

    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::Pods,
        Self::Namespaces,
        Self::NetworkPolicies,
        Self::Tiers,
        Self::ClusterNetworkPolicies,
        Self::AntreaNetworkPolicies,
        Self::ClusterGroups,
        Self::Groups,
        Self::Nodes,
        Self::Services,
        Self::StandardPolicies,
    ];

    /// Feeds as a set, so that one comparison tells whether all are there.
    pub(super) fn bits(feeds: &[Self]) -> u16 {
        feeds.iter().fold(0, |bits, feed| bits | 1 << *feed as u8)
    }

    /// The resource's name in the Kubernetes API.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::NetworkPolicies => "networkpolicies",
            Self::Tiers => "tiers",
            Self::ClusterNetworkPolicies => "clusternetworkpolicies",
            Self::AntreaNetworkPolicies => "networkpolicies.crd.antrea.io",
            Self::ClusterGroups => "clustergroups",
            Self::Groups => "groups",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::StandardPolicies => "clusternetworkpolicies.policy.networking.k8s.io",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pods => "pod watch",
            Self::Namespaces => "namespace watch",
            Self::NetworkPolicies => "network policy watch",
            Self::Tiers => "tier watch",
            Self::ClusterNetworkPolicies => "cluster network policy watch",
            Self::AntreaNetworkPolicies => "Antrea network policy watch",
            Self::ClusterGroups => "cluster group watch",
            Self::Groups => "group watch",
            Self::Nodes => "node watch",
            Self::Services => "service watch",
            Self::StandardPolicies => "Kubernetes cluster network policy watch",
        }
    }
}

/// How the index takes in objects of a kind.
pub(super) trait Input: Source {
    const FEED: Feed;
    /// What cannot be honoured of the object is returned.
    fn apply(&self, index: &mut Index) -> Vec<PolicyError>;
    fn is_known(key: &Key, index: &Index) -> bool;
    fn delete(key: &Key, index: &mut Index);
    /// Takes in all that there are: `objects`, and those of `kept` as they are known.
    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError>;
    /// Notes and tells what cannot be honoured of these objects.
    fn tell(_: &[&Self], _: Vec<PolicyError>, _: &mut Partial, _: &Mistakes) {}
    /// Notes that an object is gone.
    fn gone(_: &Key, _: &mut Partial) {}
    /// Notes that a complete list came, in which of these alone nothing new is known.
    fn only(_: &[Key], _: &mut Partial) {}
}

pub(super) fn borrowed(keys: &[Key]) -> impl Iterator<Item = (&str, &str)> {
    keys.iter().map(|(namespace, name)| (&**namespace, &**name))
}

/// Which policies are watched beside Kubernetes NetworkPolicies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    None,
    Antrea,
    /// And the Kubernetes project's ClusterNetworkPolicies.
    AntreaAndStandard,
}

/// The watches as tasks that never end; with those of native policies if `native`. `ready` is held back until each has its
/// first list; `problems` shows those that fail now, and `mistakes` is told of policies that are wrong.
pub fn feeds(
    client: &Client,
    hub: &Arc<PolicyHub>,
    native: Native,
    ready: &Readiness,
    problems: &Readiness,
    mistakes: &Mistakes,
) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let inputs = Inputs { client, hub, ready, problems, mistakes };
    let mut feeds = vec![
        inputs.watch::<k8s::Namespace>(),
        inputs.watch::<k8s::Pod>(),
        inputs.watch::<k8s::NetworkPolicy>(),
    ];
    if native != Native::None {
        hub.update(|state, _| state.wanted |= Feed::bits(&Feed::NATIVE));
        feeds.extend([
            inputs.watch::<k8s::Node>(),
            inputs.watch::<k8s::Service>(),
            inputs.watch::<crd::Tier>(),
            inputs.watch::<ClusterGroup>(),
            inputs.watch::<NamespacedGroup>(),
            inputs.watch::<ClusterPolicy>(),
            inputs.watch::<NamespacedPolicy>(),
        ]);
    }
    if native == Native::AntreaAndStandard {
        hub.update(|state, _| state.wanted |= Feed::bits(&[Feed::StandardPolicies]));
        feeds.push(inputs.watch::<standard::Policy>());
    }
    feeds
}

/// What every watch needs.
struct Inputs<'a> {
    client: &'a Client,
    hub: &'a Arc<PolicyHub>,
    ready: &'a Readiness,
    problems: &'a Readiness,
    mistakes: &'a Mistakes,
}

impl Inputs<'_> {
    fn watch<T: Input>(&self) -> (&'static str, BoxFuture<'static, ()>) {
        let Self { client, hub, ready, problems, mistakes } = *self;
        let api = Api::<Watched<T>>::all(client.clone());
        let events = watcher(api, watcher::Config::default().page_size(500)).backoff(WatchBackoff::default());
        let starting = ready.block(T::FEED.name());
        (
            T::FEED.name(),
            feed::<T>(events, Arc::clone(hub), starting, problems.clone(), mistakes.clone()).boxed(),
        )
    }
}

/// Takes events in. Errors change nothing in the index: what is computed stays until a complete list says
/// otherwise.
pub(super) async fn feed<T: Input>(
    events: impl Stream<Item = watcher::Result<watcher::Event<Watched<T>>>> + Send,
    hub: Arc<PolicyHub>,
    starting: BlockReady,
    problems: Readiness,
    mistakes: Mistakes,
) {
    let name = T::FEED.name();
    let mut starting = Some(starting);
    let mut problem: Option<BlockReady> = None;
    let mut failures = 0;
    let mut received = Received { list: Vec::new(), undecoded: Undecoded::new(T::FEED.resource()) };
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
                // Every try to list begins with this, also one that the server refuses next: it is no success.
                Ok(event @ watcher::Event::Init) => changes.push(event),
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
        let complete = take_in(&hub, changes, &mut received, &mistakes);
        received.undecoded.show(&problems);
        if complete {
            starting = None;
            tracing::info!("{name}: complete list taken in");
        }
    }
}

/// What is kept between batches.
struct Received<T> {
    /// Objects of a list that is being received.
    list: Vec<Arrived<T>>,
    undecoded: Undecoded,
}

/// An object that came.
enum Arrived<T> {
    Decoded(Key, T),
    /// If nothing is known of it, what was salvaged is taken in.
    Undecoded(Key, Option<T>),
}

impl<T: Input> Arrived<T> {
    /// The object, and what is wrong with it.
    fn read(watched: Watched<T>) -> (Self, Option<String>) {
        let key = watched.key();
        match watched.object {
            Ok(object) => (Self::Decoded(key, object), None),
            Err(bad) => (Self::Undecoded(key, T::salvage(&bad.value)), Some(bad.error)),
        }
    }

    fn key(&self) -> &Key {
        match self {
            Self::Decoded(key, _) | Self::Undecoded(key, _) => key,
        }
    }

    fn apply(&self, index: &mut Index) -> Option<(&T, Vec<PolicyError>)> {
        match self {
            Self::Decoded(_, object) => Some((object, object.apply(index))),
            Self::Undecoded(key, Some(object)) if !T::is_known(key, index) => {
                Some((object, object.apply(index)))
            }
            Self::Undecoded(..) => None,
        }
    }
}

/// Whether a list was completed.
fn take_in<T: Input>(
    hub: &PolicyHub,
    events: Vec<watcher::Event<Watched<T>>>,
    received: &mut Received<T>,
    mistakes: &Mistakes,
) -> bool {
    let Received { list, undecoded } = received;
    let mut changes = Vec::new();
    let mut complete = false;
    for event in events {
        match event {
            watcher::Event::Init => {
                list.clear();
                undecoded.begin();
            }
            watcher::Event::InitApply(watched) => {
                let (arrived, error) = Arrived::read(watched);
                undecoded.list(arrived.key(), error.as_deref());
                list.push(arrived);
            }
            watcher::Event::InitDone => {
                changes.push(Change::Reset(std::mem::take(list)));
                undecoded.end();
                complete = true;
            }
            watcher::Event::Apply(watched) => {
                let (arrived, error) = Arrived::read(watched);
                undecoded.set(arrived.key(), error.as_deref());
                changes.push(Change::Apply(arrived));
            }
            watcher::Event::Delete(watched) => {
                let key = watched.key();
                tracing::trace!(name = undecoded::text(&key), "deleted");
                undecoded.set(&key, None);
                changes.push(Change::Delete(key));
            }
        }
    }
    if changes.is_empty() {
        return complete;
    }
    let object = || changes.first().and_then(Change::key).map(undecoded::text).unwrap_or_default();
    let (size, received) = (changes.len(), SystemTime::now());
    let batch = Batch { size, received, resource: T::FEED.resource(), object: &object };
    let bad = i64::try_from(undecoded.len()).unwrap_or(i64::MAX);
    let work = || {
        update(hub, &batch, |state| {
            state.metrics.undecodable[T::FEED as usize].set(bad);
            for change in &changes {
                match change {
                    Change::Apply(arrived) => {
                        if let Some((object, errors)) = arrived.apply(&mut state.index) {
                            T::tell(&[object], errors, &mut state.partial, mistakes);
                        }
                    }
                    Change::Delete(key) => {
                        T::delete(key, &mut state.index);
                        T::gone(key, &mut state.partial);
                    }
                    Change::Reset(all) => {
                        reset(all, state, mistakes);
                        state.synced |= 1 << T::FEED as u8;
                    }
                }
            }
            state.metrics.invalid.set(i64::try_from(state.partial.len()).unwrap_or(i64::MAX));
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

fn reset<T: Input>(all: &[Arrived<T>], state: &mut State, mistakes: &Mistakes) {
    let (mut objects, mut kept) = (Vec::with_capacity(all.len()), Vec::new());
    for arrived in all {
        match arrived {
            Arrived::Decoded(_, object) => objects.push(object),
            Arrived::Undecoded(key, _) if T::is_known(key, &state.index) => kept.push(key.clone()),
            Arrived::Undecoded(_, salvaged) => objects.extend(salvaged),
        }
    }
    let errors = T::reset(&objects, &kept, &mut state.index);
    T::only(&kept, &mut state.partial);
    T::tell(&objects, errors, &mut state.partial, mistakes);
}

enum Change<T> {
    Apply(Arrived<T>),
    Delete(Key),
    Reset(Vec<Arrived<T>>),
}

impl<T: Input> Change<T> {
    /// Of what it is; none for a list.
    fn key(&self) -> Option<&Key> {
        match self {
            Self::Apply(arrived) => Some(arrived.key()),
            Self::Delete(key) => Some(key),
            Self::Reset(_) => None,
        }
    }
}
