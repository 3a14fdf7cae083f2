//! Objects for Prometheus, Grafana and user interfaces: in whichever namespace they are, and from when the cluster knows their kinds.

use std::{collections::BTreeMap, time::Duration};

use antrea_runtime::{backoff::Backoff, health::BlockReady, supervise::Supervisor};
use futures::{StreamExt, stream::SelectAll};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, watcher},
};
use tokio::task::JoinHandle;

use super::{Fold, Shared, State, fingerprint, follow};
use crate::{
    OWNER_LABEL,
    object::{CONFIG_MAP, Key, Kind, MONITORING_KINDS, PROMETHEUS_RULE, SERVICE_MONITOR},
    render::{extra_config_maps, monitoring::Served},
};

/// Group and version of Prometheus's operator.
const API_VERSION: &str = "monitoring.coreos.com/v1";

/// A definition that was just made is served within seconds.
const SETTLE: Duration = Duration::from_secs(1);

/// How often one waits for that.
const SETTLE_TRIES: u32 = 10;

/// The cluster is asked again after this long even if no definition seems to change.
const LOOK: Duration = Duration::from_secs(600);

/// Starts the watches. Boards and plugins may be in any namespace; the role allows to watch those names only.
pub(super) fn spawn(tasks: &mut Supervisor, client: &Client, shared: &Shared) {
    for name in extra_config_maps() {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(client.clone(), &CONFIG_MAP.api_resource());
        let config = watcher::Config::default().labels(&owned()).fields(&format!("metadata.name={name}"));
        let guard = Some(shared.monitoring.block(format!("ConfigMap {name}")));
        let fold = managed(&CONFIG_MAP, Some(name));
        tasks.spawn_abortable("watch ConfigMap", follow(api, config, shared.clone(), guard, fold));
    }
    let guard = shared.monitoring.block(API_VERSION);
    tasks.spawn_abortable("watch monitoring API", follow_api(client.clone(), shared.clone(), guard));
}

fn owned() -> String {
    format!("{OWNER_LABEL}={}", antrea_crds::INSTALLATION_NAME)
}

/// Managed objects of one kind in all namespaces; only those called `only`, if given.
fn managed(kind: &'static Kind, only: Option<String>) -> Fold<PartialObjectMeta<DynamicObject>> {
    let key = move |id: &str| {
        let (namespace, name) = id.split_once('/').unwrap_or(("", id));
        Key { kind: kind.kind, namespace: namespace.to_owned(), name: name.to_owned() }
    };
    Fold {
        id: |object| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()),
        apply: Box::new(move |state, object| {
            let key = Key {
                kind: kind.kind,
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            };
            state.owned.insert(key, fingerprint(&object.metadata));
        }),
        remove: Box::new(move |state, id| {
            state.owned.remove(&key(id));
        }),
        names: Box::new(move |state| {
            let ours =
                |key: &&Key| key.kind == kind.kind && only.as_ref().is_none_or(|only| key.name == *only);
            state.owned.keys().filter(ours).map(|key| format!("{}/{}", key.namespace, key.name)).collect()
        }),
    }
}

/// Never ends: finds out which kinds are served, at the start and whenever their definitions change, and watches
/// our objects of those that are.
async fn follow_api(
    client: Client,
    shared: Shared,
    guard: BlockReady,
) -> Result<(), std::convert::Infallible> {
    let mut guard = Some(guard);
    let mut definitions = SelectAll::new();
    for kind in MONITORING_KINDS {
        let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
        let name = format!("{}.{}", kind.plural, kind.group);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        definitions.push(watcher(api, config).boxed());
    }
    let mut watches: BTreeMap<&'static str, Watch> = BTreeMap::new();
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut tries = SETTLE_TRIES;
    loop {
        let known = shared.with(|state| state.served);
        match served(&client).await {
            Ok(now) if now != known || guard.is_some() => {
                tracing::info!(?now, "monitoring API");
                for (kind, is_served) in
                    [(&SERVICE_MONITOR, now.service_monitors), (&PROMETHEUS_RULE, now.prometheus_rules)]
                {
                    if !is_served {
                        watches.remove(kind.kind);
                    } else if !watches.contains_key(kind.kind) {
                        watches.insert(kind.kind, Watch::start(&client, &shared, kind));
                    }
                }
                shared.with(|state| accept(state, now));
                guard = None;
                shared.notify();
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "which monitoring kinds are served is not known");
                if let Some(guard) = &guard {
                    guard.set_reason(error.to_string());
                }
            }
        }
        // After a change the API server takes a moment to serve, or to cease to.
        let pause = if tries > 0 { SETTLE } else { LOOK };
        tries = tries.saturating_sub(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            event = definitions.next() => match event {
                Some(Ok(_)) => {
                    backoff.reset();
                    tries = SETTLE_TRIES;
                }
                _ => backoff.wait().await,
            }
        }
    }
}

/// Notes what is served; objects of a kind that is not served any more are gone with it.
fn accept(state: &mut State, now: Served) {
    state.served = now;
    state.owned.retain(|key, _| match key.kind {
        kind if kind == SERVICE_MONITOR.kind => now.service_monitors,
        kind if kind == PROMETHEUS_RULE.kind => now.prometheus_rules,
        _ => true,
    });
}

/// Which of the kinds are served.
async fn served(client: &Client) -> kube::Result<Served> {
    let resources = match client.list_api_group_resources(API_VERSION).await {
        Ok(list) => list.resources,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Served::default()),
        Err(error) => return Err(error),
    };
    let has = |kind: &Kind| resources.iter().any(|resource| resource.name == kind.plural);
    Ok(Served { service_monitors: has(&SERVICE_MONITOR), prometheus_rules: has(&PROMETHEUS_RULE) })
}

/// A watch that ends with its owner.
struct Watch(JoinHandle<()>);

impl Watch {
    fn start(client: &Client, shared: &Shared, kind: &'static Kind) -> Self {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &kind.api_resource());
        let config = watcher::Config::default().labels(&owned());
        let guard = Some(shared.monitoring.block(kind.plural));
        let watch = follow(api, config, shared.clone(), guard, managed(kind, None));
        Self(tokio::spawn(async move {
            let Ok(()) = watch.await;
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &'static str, namespace: &str, name: &str) -> Key {
        Key { kind, namespace: namespace.into(), name: name.into() }
    }

    fn object(namespace: &str, name: &str) -> PartialObjectMeta<DynamicObject> {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": "1"},
        }))
        .unwrap()
    }

    #[test]
    fn objects_of_one_name_in_two_namespaces_are_two() {
        let fold = managed(&CONFIG_MAP, Some("antrea-dashboard-agent".into()));
        let mut state = State::default();
        state.owned.insert(key("ConfigMap", "kube-system", "antrea-config"), String::new());
        for namespace in ["kube-system", "monitoring"] {
            (fold.apply)(&mut state, &object(namespace, "antrea-dashboard-agent"));
        }
        assert_eq!(
            (fold.names)(&state),
            ["kube-system/antrea-dashboard-agent", "monitoring/antrea-dashboard-agent"]
        );
        let gone = (fold.id)(&object("monitoring", "antrea-dashboard-agent"));
        (fold.remove)(&mut state, &gone);
        assert_eq!((fold.names)(&state), ["kube-system/antrea-dashboard-agent"]);
        assert_eq!(state.owned.len(), 2);
    }

    #[test]
    fn objects_go_with_their_kind() {
        let mut state = State::default();
        state.owned.insert(key("ServiceMonitor", "kube-system", "antrea-agent"), String::new());
        state.owned.insert(key("PrometheusRule", "kube-system", "antrea"), String::new());
        state.owned.insert(key("ConfigMap", "kube-system", "antrea-config"), String::new());
        accept(&mut state, Served { service_monitors: false, prometheus_rules: true });
        let kinds: Vec<&str> = state.owned.keys().map(|key| key.kind).collect();
        assert_eq!(kinds, ["ConfigMap", "PrometheusRule"]);
    }
}
