//! Watches: they fold what happens in the cluster into a [`State`] and say that something changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use antrea_crds::{AgentCondition, AgentConditionType, AntreaAgentInfo, Capabilities};
use antrea_runtime::{
    backoff::Backoff,
    client::describe_watch,
    health::{BlockReady, Readiness},
    supervise::Supervisor,
};
use futures::TryStreamExt;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        networking::v1::ServiceCIDR,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::{
    NAMESPACE, OWNER_LABEL, REVISION_ANNOTATION,
    cluster::{Cluster, ControllerState, NodeObject, Pod, PodObject, Trouble},
    object::{KINDS, Key, Kind},
    render::{AGENT, CLEANUP, CONTROLLER, PREFLIGHT, monitoring::Served},
    rollout::probes::Told,
};

mod monitoring;

/// What the watches know.
#[derive(Debug, Default)]
pub struct State {
    /// Nodes, Pods and what agents say.
    pub cluster: Cluster,
    /// Managed objects and their fingerprints.
    pub owned: BTreeMap<Key, String>,
    /// Which monitoring kinds the cluster serves.
    pub served: Served,
    /// ServiceCIDR objects and their fingerprints: when these change, what was read of the objects is old.
    pub service_cidrs: BTreeMap<String, String>,
}

/// The shared state: one lock, held for no longer than a fold or a copy.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    state: Arc<std::sync::Mutex<State>>,
    changed: Arc<Notify>,
    infos: Readiness,
    monitoring: Readiness,
}

impl Shared {
    /// An empty state that began now.
    pub fn new(now: Timestamp) -> Self {
        let shared = Self::default();
        shared.with(|state| state.cluster.started = now);
        shared
    }

    /// Reads or changes the state.
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Completes when something changed since it completed last.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Why what agents say of themselves has not been listed yet, if so; empty as long as nothing failed.
    pub fn infos_pending(&self) -> Option<String> {
        self.infos.pending().into_iter().next().map(|(_, reason)| reason)
    }

    /// What of the objects for Prometheus and Grafana has not been listed: name, and why as far as known.
    pub fn monitoring_unlisted(&self) -> Vec<(String, String)> {
        self.monitoring.pending()
    }

    /// Says that something changed.
    pub fn notify(&self) {
        self.changed.notify_one();
    }
}

/// What of an object's metadata changes when somebody changes the object, and does not when its status
/// does: a cheap way to see that a look is needed.
pub fn fingerprint(metadata: &ObjectMeta) -> String {
    match metadata.generation {
        Some(generation) => {
            let maps = serde_json::json!([metadata.labels, metadata.annotations]);
            format!("{generation}/{}", crate::object::hash(&maps))
        }
        None => metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Takes an object into the state.
type Apply<K> = Box<dyn Fn(&mut State, &K) + Send>;
/// Forgets the object of a name.
type Remove = Box<dyn Fn(&mut State, &str) + Send>;
/// Names of the objects that the state knows.
type Names = Box<dyn Fn(&State) -> Vec<String> + Send>;

/// How one kind is folded into the state.
struct Fold<K> {
    /// Tells one object from another among those that are watched together.
    id: fn(&K) -> String,
    apply: Apply<K>,
    remove: Remove,
    names: Names,
}

/// Starts every watch. `ready` is held back until each has listed once, but for AntreaAgentInfos, whose
/// definition may not be there yet, and for ServiceCIDRs, which older API servers do not have.
pub fn spawn(tasks: &mut Supervisor, client: &Client, shared: &Shared, ready: &Readiness) {
    let labels =
        |component: &str| watcher::Config::default().labels(&format!("app=antrea,component={component}"));
    let owned =
        || watcher::Config::default().labels(&format!("{OWNER_LABEL}={}", antrea_crds::INSTALLATION_NAME));

    let api = Api::<NodeObject>::all(client.clone());
    let config = watcher::Config::default().page_size(200);
    tasks.spawn_abortable(
        "watch nodes",
        follow(api, config, shared.clone(), Some(ready.block("nodes")), nodes()),
    );
    for (name, component) in [
        ("watch agent pods", AGENT),
        ("watch controller pods", CONTROLLER),
        ("watch preflight pods", PREFLIGHT),
        ("watch cleanup pods", CLEANUP),
    ] {
        let api = Api::<PodObject>::namespaced(client.clone(), NAMESPACE);
        let config = labels(component).page_size(200);
        let guard = Some(ready.block(format!("pods of {component}")));
        tasks.spawn_abortable(name, follow(api, config, shared.clone(), guard, pods(component)));
    }
    let api = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    tasks.spawn_abortable(
        "watch deployment",
        follow(api, owned(), shared.clone(), Some(ready.block("deployment")), deployment()),
    );
    let api = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE);
    tasks.spawn_abortable(
        "watch daemonset",
        follow(api, owned(), shared.clone(), Some(ready.block("daemonset")), daemon_set()),
    );
    for kind in KINDS.iter().copied() {
        let resource = kind.api_resource();
        let api: Api<PartialObjectMeta<DynamicObject>> = if kind.namespaced {
            Api::namespaced_with(client.clone(), NAMESPACE, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let guard = Some(ready.block(kind.plural));
        tasks.spawn_abortable(kind.plural, follow(api, owned(), shared.clone(), guard, managed(kind)));
    }
    let api = Api::<AntreaAgentInfo>::all(client.clone());
    let config = watcher::Config::default().page_size(200);
    tasks.spawn_abortable(
        "watch agent infos",
        follow(api, config, shared.clone(), Some(shared.infos.block("agent infos")), infos()),
    );
    let api = Api::<PartialObjectMeta<ServiceCIDR>>::all(client.clone());
    let config = watcher::Config::default();
    tasks.spawn_abortable("watch ServiceCIDRs", follow(api, config, shared.clone(), None, service_cidrs()));
    monitoring::spawn(tasks, client, shared);
}

/// Reason of a watch whose kind the API server does not have.
pub const NOT_SERVED: &str = "the API server does not serve the kind";

fn is_not_served(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Never ends: errors are logged and the watch goes on.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    shared: Shared,
    mut guard: Option<BlockReady>,
    fold: Fold<K>,
) -> Result<(), std::convert::Infallible>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let mut events = std::pin::pin!(watcher(api, config));
    let mut listed = BTreeSet::new();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                backoff.reset();
                match event {
                    Event::Apply(object) => shared.with(|state| (fold.apply)(state, &object)),
                    Event::Delete(object) => shared.with(|state| (fold.remove)(state, &(fold.id)(&object))),
                    Event::Init => listed.clear(),
                    Event::InitApply(object) => {
                        listed.insert((fold.id)(&object));
                        shared.with(|state| (fold.apply)(state, &object));
                        continue;
                    }
                    Event::InitDone => {
                        shared.with(|state| {
                            for name in (fold.names)(state) {
                                if !listed.contains(&name) {
                                    (fold.remove)(state, &name);
                                }
                            }
                        });
                        listed.clear();
                        guard = None;
                    }
                }
                shared.notify();
            }
            Ok(None) => backoff.wait().await,
            Err(error) => {
                if let Some(guard) = &guard {
                    guard.set_reason(if is_not_served(&error) {
                        NOT_SERVED.to_owned()
                    } else {
                        describe_watch(&error)
                    });
                }
                tracing::debug!(%error, "watch");
                backoff.wait().await;
            }
        }
    }
}

fn nodes() -> Fold<NodeObject> {
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(|state, node| {
            state.cluster.set_node(node.name_any(), node.into(), Timestamp::now());
        }),
        remove: Box::new(|state, name| state.cluster.remove_node(name, Timestamp::now())),
        names: Box::new(|state| state.cluster.nodes.keys().cloned().collect()),
    }
}

fn pods_of<'a>(cluster: &'a mut Cluster, component: &str) -> &'a mut BTreeMap<String, Pod> {
    match component {
        AGENT => &mut cluster.agent_pods,
        CONTROLLER => &mut cluster.controller_pods,
        CLEANUP => &mut cluster.cleanup_pods,
        _ => &mut cluster.preflight_pods,
    }
}

fn pods(component: &'static str) -> Fold<PodObject> {
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(move |state, pod| {
            pods_of(&mut state.cluster, component).insert(pod.name_any(), pod.into());
        }),
        remove: Box::new(move |state, name| {
            if component == AGENT {
                state.cluster.remove_agent_pod(name, Timestamp::now());
            } else {
                pods_of(&mut state.cluster, component).remove(name);
            }
        }),
        names: Box::new(move |state| {
            let cluster = &state.cluster;
            let pods = match component {
                AGENT => &cluster.agent_pods,
                CONTROLLER => &cluster.controller_pods,
                CLEANUP => &cluster.cleanup_pods,
                _ => &cluster.preflight_pods,
            };
            pods.keys().cloned().collect()
        }),
    }
}

/// What an agent says is wrong: any condition that is False, its own summary before the single connections.
fn said_trouble(conditions: &[AgentCondition]) -> Option<Trouble> {
    let wrong = conditions.iter().filter(|condition| condition.status == "False");
    let condition = wrong.min_by_key(|condition| condition.type_)?;
    let reason = match (condition.type_, condition.reason.as_str()) {
        (AgentConditionType::AgentHealthy, "") => "AgentUnhealthy",
        (type_, "") => type_.name(),
        (_, reason) => reason,
    };
    let message = match condition.message.as_str() {
        "" => format!("{} is False", condition.type_.name()),
        text => text.to_owned(),
    };
    Some(Trouble::new(reason, message))
}

fn infos() -> Fold<AntreaAgentInfo> {
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(|state, info| {
            let (name, now) = (info.name_any(), Timestamp::now());
            let conditions = &info.spec.agent_conditions;
            let heartbeat =
                conditions.iter().filter_map(|one| Some(one.last_heartbeat_time.as_ref()?.0)).max();
            state.cluster.set_heard(&name, heartbeat, now);
            state.cluster.set_health(&name, said_trouble(conditions), now);
            match info.spec.network_info.as_ref().map(|network| network.pod_mtu).filter(|mtu| *mtu > 0) {
                Some(mtu) => state.cluster.pod_mtus.insert(name.clone(), mtu),
                None => state.cluster.pod_mtus.remove(&name),
            };
            state.cluster.probes.insert(name.clone(), Told::from(info));
            match Capabilities::from_annotations(info.annotations()) {
                Some(capabilities) => state.cluster.capabilities.insert(name, capabilities),
                None => state.cluster.capabilities.remove(&name),
            };
        }),
        remove: Box::new(|state, name| {
            state.cluster.set_health(name, None, Timestamp::now());
            state.cluster.heard.remove(name);
            state.cluster.capabilities.remove(name);
            state.cluster.pod_mtus.remove(name);
            state.cluster.probes.remove(name);
        }),
        names: Box::new(|state| {
            let Cluster { unhealthy, heard, capabilities, pod_mtus, .. } = &state.cluster;
            let told = unhealthy.keys().chain(heard.keys()).chain(capabilities.keys()).chain(pod_mtus.keys());
            told.cloned().collect()
        }),
    }
}

fn managed(kind: &'static Kind) -> Fold<PartialObjectMeta<DynamicObject>> {
    let key = move |name: &str| Key {
        kind: kind.kind,
        namespace: if kind.namespaced { NAMESPACE.to_owned() } else { String::new() },
        name: name.to_owned(),
    };
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(move |state, object| {
            state.owned.insert(key(&object.name_any()), fingerprint(&object.metadata));
        }),
        remove: Box::new(move |state, name| {
            state.owned.remove(&key(name));
        }),
        names: Box::new(move |state| {
            let here = |key: &&Key| key.kind == kind.kind && (!kind.namespaced || key.namespace == NAMESPACE);
            state.owned.keys().filter(here).map(|key| key.name.clone()).collect()
        }),
    }
}

fn service_cidrs() -> Fold<PartialObjectMeta<ServiceCIDR>> {
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(|state, object| {
            state.service_cidrs.insert(object.name_any(), fingerprint(&object.metadata));
        }),
        remove: Box::new(|state, name| drop(state.service_cidrs.remove(name))),
        names: Box::new(|state| state.service_cidrs.keys().cloned().collect()),
    }
}

fn revision_of(metadata: Option<&ObjectMeta>) -> String {
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    annotations.and_then(|map| map.get(REVISION_ANNOTATION)).cloned().unwrap_or_default()
}

fn deployment() -> Fold<Deployment> {
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(|state, deployment| {
            let spec = deployment.spec.as_ref();
            let status = deployment.status.clone().unwrap_or_default();
            let observed = status.observed_generation >= deployment.metadata.generation;
            let (replicas, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
            let ready = status.ready_replicas.unwrap_or(0) > 0;
            state.cluster.controller = Some(ControllerState {
                revision: revision_of(spec.and_then(|spec| spec.template.metadata.as_ref())),
                updated: observed && updated > 0 && updated == replicas,
                ready,
            });
        }),
        remove: Box::new(|state, _| state.cluster.controller = None),
        names: Box::new(|state| state.cluster.controller.iter().map(|_| CONTROLLER.to_owned()).collect()),
    }
}

fn daemon_set() -> Fold<DaemonSet> {
    Fold {
        id: ResourceExt::name_any,
        apply: Box::new(|state, daemon_set| {
            if daemon_set.name_any() != AGENT {
                return;
            }
            let spec = daemon_set.spec.as_ref();
            state.cluster.agent_revision =
                Some(revision_of(spec.and_then(|spec| spec.template.metadata.as_ref())));
        }),
        remove: Box::new(|state, name| {
            if name == AGENT {
                state.cluster.agent_revision = None;
            }
        }),
        names: Box::new(|state| state.cluster.agent_revision.iter().map(|_| AGENT.to_owned()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(type_: AgentConditionType, status: &str, reason: &str) -> AgentCondition {
        AgentCondition {
            type_,
            status: status.into(),
            last_heartbeat_time: None,
            reason: reason.into(),
            message: String::new(),
        }
    }

    #[test]
    fn whatever_an_agent_says_is_wrong_counts() {
        use AgentConditionType::{AgentHealthy, ControllerConnectionUp, OvsdbConnectionUp};
        let said =
            |conditions: &[AgentCondition]| said_trouble(conditions).map(|trouble| trouble.to_string());
        let well = condition(AgentHealthy, "True", "");
        assert_eq!(said(std::slice::from_ref(&well)), None);
        let cut_off = condition(ControllerConnectionUp, "False", "");
        assert_eq!(
            said(&[well, cut_off.clone()]).as_deref(),
            Some("ControllerConnectionUp: ControllerConnectionUp is False")
        );
        let unwell = condition(AgentHealthy, "False", "OVSDown");
        let all = [cut_off, condition(OvsdbConnectionUp, "False", ""), unwell];
        assert_eq!(said(&all).as_deref(), Some("OVSDown: AgentHealthy is False"));
        assert_eq!(said(&[condition(OvsdbConnectionUp, "Unknown", "")]), None);
    }
}
