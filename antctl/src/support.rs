//! `antctl supportbundle`: has controller and agents make their bundles, fetches them, and writes what the API server knows
//! of the installation beside them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use antrea_api::system::{API_VERSION, BundleStatus, SupportBundle};
use anyhow::{Context, bail};
use http::Method;
use http_body_util::BodyExt;
use k8s_openapi::{api::core::v1::Node, jiff};
use kube::{Api, api::ListParams, client::Body};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{fs::OpenOptions, io::AsyncWriteExt, sync::Semaphore, task::JoinSet};

use crate::{
    connect::{Clients, Place, Server},
    told,
};

mod cluster;
mod progress;
#[cfg(test)]
mod tests;

use progress::Progress;

/// Components that are asked at the same time.
const AT_ONCE: usize = 8;

/// How long a component may take: it gives up after two minutes.
const LONGEST: Duration = Duration::from_secs(150);

/// How often a component is asked how far it is.
const LOOK: Duration = Duration::from_millis(300);

/// Octets of an archive that are taken. Components stop at fewer.
const ARCHIVE: usize = 64 << 20;

/// Whose bundles are wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Only agents of these Nodes; a * stands for any part of a name.
    nodes: Vec<String>,
    /// Only agents of Nodes with these labels.
    #[arg(long, short, value_name = "SELECTOR")]
    label_selector: Option<String>,
    /// No agents.
    #[arg(long, conflicts_with_all = ["nodes", "label_selector"])]
    controller_only: bool,
    /// Folder for the archives, which is made; by default support-bundles_TIME here, in containers where they may write.
    #[arg(long, short, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only log lines that are not older, such as 1h30m.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
    since: String,
}

/// Whose bundle one is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    Cluster,
    Controller,
    Agent(String),
    /// The component in this container.
    Here,
}

impl Of {
    fn shown(&self) -> &str {
        match self {
            Self::Cluster => "cluster",
            Self::Controller => "controller",
            Self::Agent(node) => node,
            Self::Here => "this component",
        }
    }
}

/// Fetches all and returns where they are.
///
/// # Errors
/// One of them was not to be had; the others are there.
pub(crate) async fn run(clients: &Clients, wanted: &Wanted, limit: Duration) -> anyhow::Result<String> {
    let all = if clients.place() == Place::Elsewhere { found(clients, wanted).await? } else { here(wanted)? };
    let folder = wanted.dir.clone().unwrap_or_else(|| folder(clients.place(), &now()));
    make(&folder).await.with_context(|| format!("folder {}", folder.display()))?;
    let (room, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for of in all {
        let (clients, folder, since, room) =
            (clients.clone(), folder.clone(), wanted.since.clone(), Arc::clone(&room));
        tasks.spawn(async move {
            let result = async {
                let _turn = room.acquire().await?;
                one(&clients, &of, &folder, &since, limit).await
            };
            let result = result.await;
            (of, result)
        });
    }
    let mut progress = Progress::new(tasks.len());
    let mut failed = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (of, result) = ended?;
        match result {
            Ok(size) => progress.step(of.shown(), size),
            Err(error) => {
                progress.fail(of.shown(), &told(&error));
                failed.push(of.shown().to_owned());
            }
        }
    }
    progress.end();
    if failed.is_empty() {
        return Ok(format!("{}\n", folder.display()));
    }
    failed.sort();
    bail!("nothing of {}; what was had is in {}", failed.join(", "), folder.display())
}

fn here(wanted: &Wanted) -> anyhow::Result<Vec<Of>> {
    if !wanted.nodes.is_empty() || wanted.label_selector.is_some() || wanted.controller_only {
        bail!(
            "in a container the bundle is that of its component: leave Nodes, -l and --controller-only out"
        );
    }
    Ok(vec![Of::Here])
}

/// Who is to be asked.
async fn found(clients: &Clients, wanted: &Wanted) -> anyhow::Result<Vec<Of>> {
    let mut all = vec![Of::Cluster];
    let everything = wanted.nodes.is_empty() && wanted.label_selector.is_none();
    if everything {
        all.push(Of::Controller);
    }
    if wanted.controller_only {
        return Ok(all);
    }
    let cluster = clients.cluster().await?;
    let chosen = ListParams { label_selector: wanted.label_selector.clone(), ..ListParams::default() };
    let nodes = Api::<Node>::all(cluster.client.clone()).list_metadata(&chosen).await;
    let nodes = nodes.map_err(|error| cluster.explain(&error, "list Nodes"))?.items;
    let mut names: Vec<String> = nodes.into_iter().filter_map(|node| node.metadata.name).collect();
    names.sort();
    if let Some(none) = wanted.nodes.iter().find(|wanted| !names.iter().any(|name| fits(wanted, name))) {
        bail!("no Node is named {none:?}");
    }
    if names.is_empty() {
        bail!("no Node has these labels");
    }
    let named =
        |name: &String| everything || wanted.nodes.is_empty() || wanted.nodes.iter().any(|w| fits(w, name));
    all.extend(names.into_iter().filter(named).map(Of::Agent));
    Ok(all)
}

/// Whether a name is what was given, in which a * stands for anything.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.split_once(part) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(end)
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Where archives go if nothing else is said. Containers cannot write where they are.
fn folder(place: Place, time: &str) -> PathBuf {
    let base = match place {
        Place::Elsewhere => "",
        Place::Agent => "/tmp",
        Place::Controller => "/var/run/antrea",
    };
    Path::new(base).join(format!("support-bundles_{time}"))
}

async fn make(folder: &Path) -> std::io::Result<()> {
    // For its owner alone: what is in it is of the whole cluster.
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await
}

/// Has one made and writes it; returns its size.
async fn one(
    clients: &Clients,
    of: &Of,
    folder: &Path,
    since: &str,
    limit: Duration,
) -> anyhow::Result<usize> {
    let (file, name, server) = match of {
        Of::Cluster => {
            let text = tokio::time::timeout(limit, cluster::text(clients)).await??;
            write(folder, "clusterinfo", text.as_bytes()).await?;
            return Ok(text.len());
        }
        Of::Controller => ("controller.tar.gz".to_owned(), "controller", clients.controller().await?),
        Of::Agent(node) => {
            (format!("agent_{node}.tar.gz"), "agent", clients.agent(Some(node), "its bundle").await?)
        }
        Of::Here => {
            let name = if clients.place() == Place::Agent { "agent" } else { "controller" };
            (format!("{name}.tar.gz"), name, clients.local().await?)
        }
    };
    let archive = fetch(&server, name, since, limit).await?;
    write(folder, &file, &archive).await?;
    Ok(archive.len())
}

async fn fetch(server: &Server, name: &str, since: &str, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let all = format!("/apis/{API_VERSION}/supportbundles");
    let own = format!("{all}/{name}");
    let timely = async |asked: &mut (dyn Future<Output = anyhow::Result<String>> + Send + Unpin)| {
        let answer = tokio::time::timeout(limit, asked).await;
        let answer =
            answer.with_context(|| format!("no answer within {limit:?}; --timeout allows more"))??;
        serde_json::from_str::<SupportBundle>(&answer).with_context(|| format!("answer to {own}"))
    };
    let wanted = json!({
        "apiVersion": API_VERSION, "kind": "SupportBundle", "metadata": {"name": name}, "since": since,
    });
    let begun = Instant::now();
    let mut bundle =
        timely(&mut Box::pin(server.send(Method::POST, &all, wanted.to_string().into_bytes()))).await?;
    while bundle.status == BundleStatus::Collecting {
        if begun.elapsed() > LONGEST {
            bail!("not made within {LONGEST:?}");
        }
        tokio::time::sleep(LOOK).await;
        bundle = timely(&mut Box::pin(server.ask(Method::GET, &own))).await?;
    }
    if bundle.status == BundleStatus::None {
        bail!("it was not made, or somebody deleted it: the component's log says more");
    }
    let archive = tokio::time::timeout(LONGEST, download(server, &format!("{own}/download"))).await??;
    let sum: String = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
    if sum != bundle.sum {
        bail!("what was downloaded is not what was made");
    }
    // It would be forgotten anyway; now it makes room.
    let _ = server.ask(Method::DELETE, &own).await;
    Ok(archive)
}

/// The octets of an answer, as many as an archive may have.
///
/// # Errors
/// Says who refused, or that there are more.
pub(crate) async fn download(server: &Server, path: &str) -> anyhow::Result<Vec<u8>> {
    let what = format!("GET {path}");
    let request = http::Request::get(path).body(Body::empty())?;
    let answer = server.client.send(request).await.map_err(|error| server.explain(&error, &what))?;
    if !answer.status().is_success() {
        bail!("{what}: {}", answer.status());
    }
    let (mut body, mut archive) = (answer.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| server.explain(&error, &what))?;
        archive.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        if archive.len() > ARCHIVE {
            bail!("{what}: more than {ARCHIVE} octets");
        }
    }
    Ok(archive)
}

/// Writes a file that nobody but its owner reads.
///
/// # Errors
/// Names the file.
pub(crate) async fn write(folder: &Path, name: &str, content: &[u8]) -> anyhow::Result<()> {
    let path = folder.join(name);
    let written = async {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).await?;
        file.write_all(content).await?;
        file.flush().await
    };
    written.await.with_context(|| path.display().to_string())
}
