//! One AntreaAgentInfo per Node.
//!
//! Agents may not create or delete any, so that a stolen Node token cannot invent Nodes. That each updates only
//! its own is for the admission policy `antrea-agent-info` to see to, which the operator installs.

use std::{collections::BTreeSet, fmt::Debug, pin::Pin, time::Duration};

use antrea_crds::{AgentInfo, AntreaAgentInfo};
use antrea_runtime::{
    backoff::Backoff,
    client::{WatchBackoff, describe},
    health::BlockReady,
};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

/// Requests at the same time, for a cluster whose thousands of Nodes are seen for the first time.
const CONCURRENCY: usize = 8;

type Names = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<(String, String)>>> + Send>>;

/// Names and UIDs of all objects of a kind, as a watch tells them.
struct Known {
    current: BTreeSet<(String, String)>,
    /// Objects of a list that is being received. The current set stays until the list is complete, so
    /// that a broken watch never looks like an empty cluster.
    next: Option<BTreeSet<(String, String)>>,
    listed: bool,
}

impl Known {
    fn new() -> Self {
        Self { current: BTreeSet::new(), next: None, listed: false }
    }

    /// Whether the current set may have changed.
    fn apply(&mut self, event: watcher::Event<(String, String)>) -> bool {
        match event {
            watcher::Event::Init => {
                self.next = Some(BTreeSet::new());
                false
            }
            watcher::Event::InitApply(object) => {
                self.next.get_or_insert_default().insert(object);
                false
            }
            watcher::Event::InitDone => {
                self.current = self.next.take().unwrap_or_default();
                self.listed = true;
                true
            }
            watcher::Event::Apply(object) => {
                // A Node deleted and created again has another UID.
                self.current.retain(|(name, uid)| *name != object.0 || *uid == object.1);
                self.current.insert(object)
            }
            watcher::Event::Delete(object) => self.current.remove(&object),
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.current.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// What has to be done so that infos match Nodes.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    create: Vec<String>,
    delete: Vec<(String, String)>,
}

fn plan(nodes: &Known, infos: &Known) -> Plan {
    if !nodes.listed || !infos.listed {
        return Plan { create: Vec::new(), delete: Vec::new() };
    }
    let (node_names, info_names) = (nodes.names(), infos.names());
    Plan {
        create: node_names.difference(&info_names).map(|name| (*name).to_owned()).collect(),
        delete: infos
            .current
            .iter()
            .filter(|(name, _)| !node_names.contains(name.as_str()))
            .cloned()
            .collect(),
    }
}

/// Keeps infos in step with Nodes. Never ends. `starting` is dropped when both are known.
pub async fn run(client: Client, starting: BlockReady) {
    let infos_api = Api::<AntreaAgentInfo>::all(client.clone());
    let mut node_events = names::<Node>(client.clone());
    let mut info_events = names::<AntreaAgentInfo>(client);
    let (mut nodes, mut infos) = (Known::new(), Known::new());
    let mut starting = Some(starting);
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    let mut retry_at: Option<tokio::time::Instant> = None;
    loop {
        let changed = tokio::select! {
            Some(event) = node_events.next() => take(&mut nodes, event, "Nodes"),
            Some(event) = info_events.next() => take(&mut infos, event, "AntreaAgentInfos"),
            () = sleep_until(retry_at) => true,
        };
        if !changed {
            continue;
        }
        if nodes.listed && infos.listed {
            starting = None;
        } else if let Some(block) = &starting {
            block.set_reason("waits for the first list");
        }
        retry_at = match apply(&infos_api, plan(&nodes, &infos)).await {
            0 => {
                backoff.reset();
                None
            }
            failed => {
                let delay = backoff.next_delay();
                tracing::warn!(failed, ?delay, "AntreaAgentInfos could not be brought in step: trying again");
                Some(tokio::time::Instant::now() + delay)
            }
        };
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn take(known: &mut Known, event: watcher::Result<watcher::Event<(String, String)>>, what: &str) -> bool {
    match event {
        Ok(event) => known.apply(event),
        Err(error) => {
            tracing::debug!(%error, "watch of {what} failed");
            false
        }
    }
}

/// Metadata only: a Node is large, mostly its list of images.
fn names<K>(client: Client) -> Names
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let id = |object: PartialObjectMeta<K>| (object.name_any(), object.uid().unwrap_or_default());
    watcher(Api::<PartialObjectMeta<K>>::all(client), watcher::Config::default())
        .backoff(WatchBackoff::default())
        .map(move |event| {
            event.map(|event| match event {
                watcher::Event::Apply(object) => watcher::Event::Apply(id(object)),
                watcher::Event::Delete(object) => watcher::Event::Delete(id(object)),
                watcher::Event::InitApply(object) => watcher::Event::InitApply(id(object)),
                watcher::Event::Init => watcher::Event::Init,
                watcher::Event::InitDone => watcher::Event::InitDone,
            })
        })
        .boxed()
}

/// Carries `plan` out and returns how much of it failed. The watch tells when it took effect.
async fn apply(api: &Api<AntreaAgentInfo>, plan: Plan) -> usize {
    let created = futures::stream::iter(plan.create)
        .map(async |name| {
            let mut info = AntreaAgentInfo::new(&name, AgentInfo::default());
            info.labels_mut().insert("app".to_owned(), "antrea".to_owned());
            match api.create(&PostParams::default(), &info).await {
                Ok(_) => tracing::info!(node = name, "AntreaAgentInfo created"),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    tracing::warn!(node = name, error = describe(&error), "AntreaAgentInfo not created");
                    return 1;
                }
            }
            0
        })
        .buffer_unordered(CONCURRENCY)
        .fold(0, async |sum, failed| sum + failed)
        .await;
    let deleted = futures::stream::iter(plan.delete)
        .map(async |(name, uid)| {
            // Only the object that was seen: one created since belongs to a new Node.
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Ok(_) => tracing::info!(node = name, "AntreaAgentInfo deleted"),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => {
                    tracing::warn!(node = name, error = describe(&error), "AntreaAgentInfo not deleted");
                    return 1;
                }
            }
            0
        })
        .buffer_unordered(CONCURRENCY)
        .fold(0, async |sum, failed| sum + failed)
        .await;
    created + deleted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, uid: &str) -> (String, String) {
        (name.to_owned(), uid.to_owned())
    }

    fn listed(objects: &[(&str, &str)]) -> Known {
        let mut known = Known::new();
        known.apply(watcher::Event::Init);
        for (name, uid) in objects {
            known.apply(watcher::Event::InitApply(object(name, uid)));
        }
        known.apply(watcher::Event::InitDone);
        known
    }

    #[test]
    fn nothing_is_deleted_before_both_lists_are_known() {
        let infos = listed(&[("n1", "a")]);
        let mut nodes = Known::new();
        nodes.apply(watcher::Event::Init);
        assert_eq!(plan(&nodes, &infos), Plan { create: vec![], delete: vec![] });
    }

    #[test]
    fn creates_missing_and_deletes_stale() {
        let mut nodes = listed(&[("n1", "1"), ("n2", "2")]);
        let infos = listed(&[("n2", "b"), ("n3", "c")]);
        let wanted = Plan { create: vec!["n1".into()], delete: vec![object("n3", "c")] };
        assert_eq!(plan(&nodes, &infos), wanted);
        nodes.apply(watcher::Event::Delete(object("n2", "2")));
        assert_eq!(plan(&nodes, &infos).delete, [object("n2", "b"), object("n3", "c")]);
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut nodes = listed(&[("n1", "1"), ("n2", "2")]);
        let infos = listed(&[("n1", "a"), ("n2", "b")]);
        nodes.apply(watcher::Event::Init);
        nodes.apply(watcher::Event::InitApply(object("n1", "1")));
        assert_eq!(plan(&nodes, &infos), Plan { create: vec![], delete: vec![] });
        nodes.apply(watcher::Event::Init);
        nodes.apply(watcher::Event::InitApply(object("n2", "2")));
        nodes.apply(watcher::Event::InitDone);
        assert_eq!(plan(&nodes, &infos).delete, [object("n1", "a")]);
    }

    #[test]
    fn a_node_created_again_is_known_once() {
        let mut nodes = listed(&[("n1", "1")]);
        assert!(nodes.apply(watcher::Event::Apply(object("n1", "9"))));
        assert!(!nodes.apply(watcher::Event::Apply(object("n1", "9"))));
        assert!(!nodes.apply(watcher::Event::Delete(object("n1", "1"))));
        assert_eq!(nodes.names(), BTreeSet::from(["n1"]));
    }
}
