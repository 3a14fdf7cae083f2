//! What the controller tells of itself in `system.antrea.io/v1beta1`: `controllerinfos`, and its support bundle.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use antrea_api::{
    k8s::ObjectMeta,
    system::{API_VERSION, GROUP, VERSION},
};
use antrea_crds::CONTROLLER_INFO_NAME;
use antrea_runtime::{logging::LogHandle, metrics::Metrics};
use antrea_support::{Collector, Part, collect};
use apiserver_kit::{
    api::Api,
    object::{Document, Object},
    status::Failure,
    storage::{List, Resource, Selection, Storage},
};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use crate::{
    info,
    policy::{self, PolicyHub},
};

const RESOURCE: Resource = Resource {
    group: GROUP,
    version: VERSION,
    api_version: API_VERSION,
    plural: "controllerinfos",
    singular: "controllerinfo",
    // The body is that of the custom resource, as upstream's.
    kind: "AntreaControllerInfo",
    description: "AntreaControllerInfo is the state of antrea-controller as it is now.",
    namespaced: false,
    short_names: &[],
    verbs: &["get", "list"],
    columns: &[],
    fields: &[],
    subresources: &[],
};

/// Plurals of what is served in this group.
pub(crate) const PLURALS: [&str; 2] = ["controllerinfos", "supportbundles"];

/// Adds `controllerinfos` to `api`.
#[must_use]
pub fn controller_infos(api: Api, facts: info::Facts) -> Api {
    api.with(RESOURCE, Arc::new(ControllerInfos(facts)))
}

struct ControllerInfos(info::Facts);

impl ControllerInfos {
    fn now(&self) -> Result<Arc<dyn Object>, Failure> {
        Ok(Arc::new(Document {
            metadata: ObjectMeta::named(CONTROLLER_INFO_NAME),
            api_version: "crd.antrea.io/v1beta1",
            kind: RESOURCE.kind,
            body: self.0.now().map_err(Failure::internal)?,
            cells: Vec::new(),
        }))
    }
}

impl Storage for ControllerInfos {
    fn has_protobuf(&self) -> bool {
        false
    }

    fn get(&self, _: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        if name == CONTROLLER_INFO_NAME {
            return self.now();
        }
        Err(Failure::not_found("controllerinfos.system.antrea.io", name))
    }

    fn list(&self, selection: &Selection) -> Result<List, Failure> {
        let other = selection.name.as_ref().is_some_and(|name| name != CONTROLLER_INFO_NAME);
        Ok(List { resource_version: 0, objects: if other { Vec::new() } else { vec![self.now()?] } })
    }
}

/// Finds the parts of the controller's bundle, by upstream's names where it has the same.
pub struct Support {
    pub log: LogHandle,
    /// The configuration file, if there is one.
    pub config: Option<PathBuf>,
    /// What its Info object is made of.
    pub facts: info::Facts,
    /// What it has computed.
    pub hub: Arc<PolicyHub>,
    /// The metrics, if they are shown at all.
    pub metrics: Option<Metrics>,
}

/// Nobody wants the bundle any more.
struct Unwanted;

impl Collector for Support {
    fn collect(&self, since: Option<SystemTime>, parts: Sender<Part>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Then there is nobody to be told.
            let _ = self.all(since, &parts).await;
        })
    }
}

impl Support {
    async fn all(&self, since: Option<SystemTime>, parts: &Sender<Part>) -> Result<(), Unwanted> {
        let put = async |part: Part| parts.send(part).await.map_err(|_| Unwanted);
        put(Part::new("logs/controller/antrea-controller.log", self.log.recent(since))).await?;
        if let Some(config) = &self.config {
            put(collect::file("config/antrea-controller.conf", config).await).await?;
        }
        put(match self.facts.now() {
            Ok(info) => Part::new("controllerinfo", format!("{info:#}\n")),
            Err(error) => Part::failed("controllerinfo", error),
        })
        .await?;
        for (path, objects) in policy::dump(&self.hub) {
            // Made one by one on a thread of its own: a large cluster has many.
            let part = tokio::task::spawn_blocking(move || match objects {
                Ok(objects) => {
                    collect::lines(path, objects.iter().map(|object| object.json().unwrap_or(Value::Null)))
                }
                Err(error) => Part::failed(path, error),
            });
            put(part.await.unwrap_or_else(|error| Part::failed(path, error))).await?;
        }
        for part in collect::memory().await {
            put(part).await?;
        }
        if let Some(metrics) = &self.metrics {
            put(match metrics.encode() {
                Ok(text) => Part::new("metrics", text),
                Err(error) => Part::failed("metrics", error),
            })
            .await?;
        }
        Ok(())
    }
}
