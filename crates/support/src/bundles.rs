//! The one bundle of a component: how it is asked for, made, fetched and forgotten.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use antrea_api::k8s::{Cell, ObjectMeta};
use antrea_api::system::{API_VERSION, BundleStatus, GROUP, SupportBundle, VERSION};
use apiserver_kit::api::Api;
use apiserver_kit::object::{Column, Document, Object};
use apiserver_kit::status::Failure;
use apiserver_kit::storage::{Create, Resource, Storage};
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::archive::Archive;
use crate::since;

/// How long a bundle can be fetched.
const KEPT: Duration = Duration::from_secs(30 * 60);

/// How long the parts of one may take.
const LONGEST: Duration = Duration::from_secs(120);

const RESOURCE: Resource = Resource {
    group: GROUP,
    version: VERSION,
    api_version: API_VERSION,
    plural: "supportbundles",
    singular: "supportbundle",
    kind: "SupportBundle",
    description: "SupportBundle is what helps to find out what is wrong with a component, as an archive to be downloaded.",
    namespaced: false,
    short_names: &[],
    verbs: &["create", "get", "delete"],
    columns: &[
        Column::new("Status", "string", "None, Collecting or Collected."),
        Column::new("Size", "integer", "Octets of the archive."),
    ],
    fields: &[],
    subresources: &[("download", "SupportBundle", &["get"])],
};

/// A file of the archive: its text, or why there is none.
#[derive(Debug)]
pub struct Part {
    /// In the archive, relative.
    pub path: String,
    pub content: Result<Vec<u8>, String>,
}

impl Part {
    /// With this text.
    pub fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Ok(content.into()) }
    }

    /// With a reason in place of a text.
    pub fn failed(path: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self { path: path.into(), content: Err(error.to_string()) }
    }
}

/// Finds the parts of a bundle.
pub trait Collector: Send + Sync + 'static {
    /// Hands over one part after the other; log lines from `since` on. What takes more than two minutes is given up. When
    /// `parts` takes no more, nobody wants the bundle.
    fn collect(&self, since: Option<SystemTime>, parts: mpsc::Sender<Part>) -> BoxFuture<'_, ()>;
}

/// See the module's description; clones share it.
#[derive(Clone)]
pub struct Bundles(Arc<Shared>);

struct Shared {
    name: &'static str,
    collector: Arc<dyn Collector>,
    kept: Duration,
    longest: Duration,
    state: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    /// Counts bundles, so that the end of one is not that of another.
    round: u64,
    bundle: SupportBundle,
    archive: Option<Bytes>,
    task: Option<AbortHandle>,
}

impl Bundles {
    /// The bundle that is named `name` (`controller`, `agent`).
    pub fn new(name: &'static str, collector: impl Collector) -> Self {
        Self::with_limits(name, collector, KEPT, LONGEST)
    }

    fn with_limits(name: &'static str, collector: impl Collector, kept: Duration, longest: Duration) -> Self {
        let bundle = SupportBundle { metadata: ObjectMeta::named(name), ..SupportBundle::default() };
        let state = Mutex::new(Now { bundle, ..Now::default() });
        Self(Arc::new(Shared { name, collector: Arc::new(collector), kept, longest, state }))
    }

    /// Adds the resource to `api`.
    #[must_use]
    pub fn serve(&self, api: Api) -> Api {
        api.with(RESOURCE, Arc::new(self.clone()))
    }

    /// The path by which the archive is fetched.
    pub fn download(&self) -> Router {
        let path = format!("/apis/{API_VERSION}/supportbundles/{{name}}/download");
        Router::new().route(&path, get(download)).with_state(self.clone())
    }

    fn known(&self, name: &str) -> Result<(), Failure> {
        if name == self.0.name {
            return Ok(());
        }
        Err(Failure::not_found("supportbundles.system.antrea.io", name))
    }

    /// Begins with a bundle, unless one is being made.
    fn begin(&self, wanted: &str) -> Result<SupportBundle, Failure> {
        let since = since::read(wanted, SystemTime::now()).map_err(Failure::bad_request)?;
        let mut now = self.0.state.lock();
        if now.bundle.status != BundleStatus::Collecting {
            now.round += 1;
            now.archive = None;
            now.bundle = SupportBundle {
                metadata: ObjectMeta::named(self.0.name),
                status: BundleStatus::Collecting,
                since: wanted.to_owned(),
                ..SupportBundle::default()
            };
            let task = tokio::spawn(self.clone().make(now.round, since)).abort_handle();
            if let Some(last) = now.task.replace(task) {
                last.abort();
            }
        }
        Ok(now.bundle.clone())
    }

    /// Makes a bundle, keeps it for a while and forgets it.
    async fn make(self, round: u64, since: Option<SystemTime>) {
        let begun = std::time::Instant::now();
        let made = self.gather(since).await;
        {
            let mut now = self.0.state.lock();
            if now.round != round {
                return;
            }
            match made {
                Ok((archive, sum)) => {
                    tracing::info!(octets = archive.len(), took = ?begun.elapsed(), "a support bundle is made");
                    now.bundle.status = BundleStatus::Collected;
                    now.bundle.size = u32::try_from(archive.len()).unwrap_or(u32::MAX);
                    now.bundle.sum = sum;
                    now.archive = Some(archive);
                }
                Err(error) => {
                    tracing::error!(error, "no support bundle is made");
                    self.forget(&mut now);
                    return;
                }
            }
        }
        tokio::time::sleep(self.0.kept).await;
        let mut now = self.0.state.lock();
        if now.round == round {
            self.forget(&mut now);
        }
    }

    fn forget(&self, now: &mut Now) {
        now.round += 1;
        now.archive = None;
        now.bundle = SupportBundle { metadata: ObjectMeta::named(self.0.name), ..SupportBundle::default() };
    }

    async fn gather(&self, since: Option<SystemTime>) -> Result<(Bytes, String), String> {
        // One part waits while another is packed: no more of them are in memory.
        let (parts, mut packed) = mpsc::channel::<Part>(1);
        let packing = tokio::task::spawn_blocking(move || {
            let mut archive = Archive::new();
            while let Some(part) = packed.blocking_recv() {
                archive.add(part)?;
            }
            let archive = archive.finish()?;
            let sum = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
            Ok::<_, std::io::Error>((Bytes::from(archive), sum))
        });
        let collected = self.0.collector.collect(since, parts.clone());
        if tokio::time::timeout(self.0.longest, collected).await.is_err() {
            let text = format!("not everything was found within {:?}", self.0.longest);
            // Whoever packs has failed, and says so below.
            let _ = parts.send(Part::failed("incomplete", text)).await;
        }
        drop(parts);
        let packed = packing.await.map_err(|error| error.to_string())?;
        packed.map_err(|error| error.to_string())
    }
}

fn shown(bundle: SupportBundle) -> Result<Arc<dyn Object>, Failure> {
    let cells = vec![Cell::Text(format!("{:?}", bundle.status)), Cell::Number(bundle.size as usize)];
    Ok(Arc::new(Document {
        metadata: bundle.metadata.clone(),
        api_version: API_VERSION,
        kind: RESOURCE.kind,
        body: json!(bundle),
        cells,
    }))
}

impl Storage for Bundles {
    fn has_protobuf(&self) -> bool {
        false
    }

    fn get(&self, _: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        self.known(name)?;
        let bundle = self.0.state.lock().bundle.clone();
        shown(bundle)
    }

    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        Box::pin(async move {
            let wanted: SupportBundle = create.body.decode_json()?;
            let name = &wanted.metadata.name;
            if name != self.0.name {
                let only = self.0.name;
                return Err(Failure::forbidden(format!(
                    "supportbundle {name:?}: the only one here is {only:?}"
                )));
            }
            shown(self.begin(&wanted.since)?)
        })
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        self.known(name)?;
        let mut now = self.0.state.lock();
        if let Some(task) = now.task.take() {
            task.abort();
        }
        self.forget(&mut now);
        Ok(())
    }
}

async fn download(State(bundles): State<Bundles>, Path(name): Path<String>) -> Result<Response, Failure> {
    bundles.known(&name)?;
    let archive = bundles.0.state.lock().archive.clone();
    let archive = archive.ok_or_else(|| Failure::not_found("collected supportbundles", &name))?;
    let disposition = format!("attachment; filename=\"{name}.tar.gz\"");
    let headers =
        [(header::CONTENT_TYPE, "application/gzip".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, archive).into_response())
}

#[cfg(test)]
mod tests;
