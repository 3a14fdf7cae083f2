//! The task that follows captures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use antrea_capture::filter::program;
use antrea_capture::request::{End, Name, Request};
use antrea_capture::status::{Outcome, Stage, Upload, is_uploading, status, uploaded};
use antrea_capture::upload::Target;
use antrea_crds::PacketCapture;
use antrea_crds::packet_capture::{COMPLETE, STARTED, Status};
use antrea_runtime::client::{describe, describe_watch};
use antrea_runtime::tolerant::watch_all;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use netcfg::{FilterInstruction, PacketSocket};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::record::{Limits, PATIENCE, record};
use super::upload::Uploader;
use crate::metrics::CaptureMetrics;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;

/// Captures at once.
const AT_ONCE: usize = 4;

/// How often it is written how many packets there are.
const TELL: Duration = Duration::from_secs(2);

/// Limit of one request to the API server, and how often it is made.
const LIMIT: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

const MANAGER: &str = "antrea-agent";

/// A capture that runs.
struct Running {
    /// Of this process's captures, which.
    number: u64,
    uid: String,
    stop: CancellationToken,
    count: Arc<AtomicU32>,
    path: PathBuf,
    /// Where the file is to go too.
    target: Option<Target>,
    /// What was written last.
    told: Status,
    told_count: u32,
}

/// What a thread leaves.
struct Ended {
    name: String,
    number: u64,
    outcome: Outcome,
}

/// What became of a file that was to be sent.
struct Sent {
    name: String,
    uid: String,
    /// What was written last.
    told: Status,
    upload: Upload,
}

/// Follows captures; see the module's description.
pub struct Capturer {
    network: Arc<NodeNetwork>,
    client: Client,
    api: Api<PacketCapture>,
    files: Files,
    metrics: CaptureMetrics,
    /// The agent's Pod, in whose container the files are.
    pod: String,
    running: BTreeMap<String, Running>,
    /// Those that wait for their turn, by when they were made and by name.
    waiting: BTreeMap<(Option<Timestamp>, String), PacketCapture>,
    threads: JoinSet<Ended>,
    uploader: Uploader,
    uploads: JoinSet<Sent>,
    /// How many were begun.
    begun: u64,
    /// UIDs of those that ended here: what the watch still tells of them is older than that.
    done: BTreeSet<String>,
    /// Of a list under way, the captures that it has shown: names and UIDs.
    listed: Option<BTreeMap<String, String>>,
}

impl Capturer {
    /// Nothing is followed yet. `pod` is the agent's own.
    pub fn new(
        network: Arc<NodeNetwork>,
        client: Client,
        files: Files,
        (namespace, pod): (String, String),
        metrics: CaptureMetrics,
    ) -> Self {
        let api = Api::all(client.clone());
        let uploader = Uploader::new(client.clone(), &namespace);
        Self {
            network,
            client,
            api,
            files,
            metrics,
            pod,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            threads: JoinSet::new(),
            uploader,
            uploads: JoinSet::new(),
            begun: 0,
            done: BTreeSet::new(),
            listed: None,
        }
    }

    /// Follows captures until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.files.forget_uploads();
        let mut stream = watch_all(&self.client);
        let mut tell = tokio::time::interval(TELL);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = stream.next() => match event {
                    Some(Ok(event)) => self.event(event).await,
                    Some(Err(error)) => {
                        tracing::debug!(error = describe_watch(&error), "watch on PacketCaptures");
                    }
                    None => stream = watch_all(&self.client),
                },
                Some(ended) = self.threads.join_next() => match ended {
                    Ok(ended) => self.ended(ended).await,
                    Err(error) => tracing::error!(%error, "a capture's thread"),
                },
                Some(sent) = self.uploads.join_next() => match sent {
                    Ok(sent) => self.sent(sent).await,
                    Err(error) => tracing::error!(%error, "an upload"),
                },
                _ = tell.tick(), if !self.running.is_empty() => self.tell().await,
            }
            self.metrics.running(self.running.len());
        }
        // Threads end when they are asked to; nobody waits longer than they do for a packet.
        self.running.values().for_each(|running| running.stop.cancel());
    }

    async fn event(&mut self, event: Event<PacketCapture>) {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(capture) => {
                let uid = capture.uid().unwrap_or_default();
                self.listed.get_or_insert_default().insert(capture.name_any(), uid);
                self.follow(capture).await;
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> =
                    self.running.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
                gone.iter().for_each(|name| self.forget(name));
                self.waiting.retain(|(_, name), _| listed.contains_key(name));
                self.done.retain(|uid| listed.values().any(|listed| listed == uid));
                self.files.keep(&listed.into_keys().collect());
            }
            Event::Apply(capture) => self.follow(capture).await,
            Event::Delete(capture) => {
                let name = capture.name_any();
                self.forget(&name);
                self.done.remove(&capture.uid().unwrap_or_default());
                self.files.remove(&name);
            }
        }
        self.start().await;
    }

    /// Ends what is done for a capture.
    fn forget(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.stop.cancel();
            tracing::info!(capture = name, "no longer captured");
        }
        self.waiting.retain(|(_, waiting), _| waiting != name);
    }

    async fn follow(&mut self, capture: PacketCapture) {
        let (name, uid) = (capture.name_any(), capture.uid().unwrap_or_default());
        let known = capture.status.clone().unwrap_or_default();
        let another = self.running.get(&name).is_some_and(|running| running.uid != uid);
        let over = capture.metadata.deletion_timestamp.is_some() || known.is(COMPLETE);
        if another || over {
            self.forget(&name);
        }
        if another {
            self.files.remove(&name);
        }
        // The controller has told what is wrong with one that cannot be read.
        let Ok(request) = Request::read(&capture.spec) else { return };
        let known_here = self.running.contains_key(&name) || self.done.contains(&uid);
        if over && !known_here && is_uploading(&known) && self.local(&request.pod).is_some() {
            self.done.insert(uid.clone());
            let lost = Upload::Failed("the agent was started anew while it sent the file".to_owned());
            self.apply(&name, &uid, &uploaded(&known, &lost, Timestamp::now())).await;
            return;
        }
        if over || known_here || self.local(&request.pod).is_none() {
            return;
        }
        if known.is(STARTED) {
            let reason = "the agent was started anew while it captured, and packets are missing";
            self.fail(&capture, reason.to_owned()).await;
            return;
        }
        let created = capture.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let turn = (created, name);
        if self.waiting.insert(turn.clone(), capture).is_some() || self.running.len() < AT_ONCE {
            return;
        }
        let Some(capture) = self.waiting.get(&turn) else { return };
        let message = format!("{AT_ONCE} captures run on Node {}", self.network.node_name);
        if known.condition(STARTED).is_none() {
            self.write(capture, &Stage::Waiting(message)).await;
        }
    }

    fn local(&self, name: &Name) -> Option<PodInterface> {
        let pods = self.network.interfaces();
        pods.into_iter().find(|pod| pod.pod_name == name.name && pod.pod_namespace == name.namespace)
    }

    /// Begins those whose turn it is.
    async fn start(&mut self) {
        while self.running.len() < AT_ONCE {
            let Some((_, capture)) = self.waiting.pop_first() else { return };
            if let Err(reason) = self.begin(&capture).await {
                tracing::warn!(capture = capture.name_any(), reason, "not captured");
                self.fail(&capture, reason).await;
            }
        }
    }

    async fn begin(&mut self, capture: &PacketCapture) -> Result<(), String> {
        let (name, uid) = (capture.name_any(), capture.uid().unwrap_or_default());
        let request = Request::read(&capture.spec).map_err(|problem| problem.to_string())?;
        let here = self.local(&request.pod);
        let here = here.ok_or_else(|| format!("{}: {} is gone", request.pod_field, request.pod))?;
        let there = match &request.other {
            End::Any => Vec::new(),
            End::Ip(ip) => vec![*ip],
            End::Pod(pod) => match self.local(pod) {
                Some(pod) => pod.ips,
                None => addresses(&self.client, request.other_field, pod).await?,
            },
        };
        let patterns = request.patterns(&here.ips, &there).map_err(|problem| problem.to_string())?;
        let filter = program(&patterns).into_iter().map(|i| (i.code, i.yes, i.no, i.operand));
        let filter: Vec<FilterInstruction> = filter.collect();
        let link = here.host_ifname;
        let socket = PacketSocket::open(&link, &filter, PATIENCE).map_err(|error| error.to_string())?;
        let (path, file) = self.files.make(&name, self.running.len() as u64)?;
        let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let limits = Limits { number: request.number, time: request.timeout };
        self.begun += 1;
        let number = self.begun;
        let thread = (name.clone(), stop.clone(), Arc::clone(&count));
        self.threads.spawn_blocking(move || {
            let (name, stop, count) = thread;
            let outcome = record(&socket, (&link, file), &limits, &count, &stop);
            Ended { name, number, outcome }
        });
        tracing::info!(capture = name, pod = %request.pod, "capturing");
        let told = Status::default();
        let target = request.upload;
        let mut running = Running { number, uid, stop, count, path, target, told, told_count: 0 };
        if let Some(told) = self.write(capture, &Stage::Running(0)).await {
            running.told = told;
        }
        self.running.insert(name, running);
        Ok(())
    }

    async fn ended(&mut self, ended: Ended) {
        let Ended { name, number, outcome } = ended;
        // Another of the name runs, or nobody wants this one.
        if self.running.get(&name).is_none_or(|running| running.number != number) {
            return;
        }
        let Some(running) = self.running.remove(&name) else { return };
        self.done.insert(running.uid.clone());
        let number = running.count.load(Ordering::Relaxed);
        tracing::info!(capture = name, number, outcome = outcome.reason(), "captured");
        self.metrics.ended(outcome.reason(), number);
        let file = Some(format!("{}:{}", self.pod, running.path.display()));
        let has_file = !matches!(outcome, Outcome::Failed(_));
        let stage = Stage::Ended { number, file, outcome };
        let mut told = status(Some(&running.told), &stage, Timestamp::now());
        if let Some(target) = running.target {
            let upload =
                if has_file { Upload::Running } else { Upload::Failed("there is no file".to_owned()) };
            told = uploaded(&told, &upload, Timestamp::now());
            if has_file {
                let (uploader, name, uid) = (self.uploader.clone(), name.clone(), running.uid.clone());
                let (told, path) = (told.clone(), running.path);
                self.uploads.spawn(async move {
                    let upload = match uploader.send(&target, &path).await {
                        Ok(url) => Upload::Succeeded(url),
                        Err(why) => Upload::Failed(why),
                    };
                    Sent { name, uid, told, upload }
                });
            }
        }
        self.apply(&name, &running.uid, &told).await;
        self.start().await;
    }

    async fn sent(&self, sent: Sent) {
        let Sent { name, uid, told, upload } = sent;
        match &upload {
            Upload::Failed(why) => tracing::warn!(capture = name, why, "its file was not sent"),
            _ => tracing::info!(capture = name, "its file was sent"),
        }
        self.metrics.uploaded(matches!(upload, Upload::Succeeded(_)));
        self.apply(&name, &uid, &uploaded(&told, &upload, Timestamp::now())).await;
    }

    /// Writes how many packets running captures have.
    async fn tell(&mut self) {
        let mut writes = Vec::new();
        for (name, running) in &mut self.running {
            let count = running.count.load(Ordering::Relaxed);
            if count != running.told_count {
                running.told_count = count;
                running.told = status(Some(&running.told), &Stage::Running(count), Timestamp::now());
                writes.push((name.clone(), running.uid.clone(), running.told.clone()));
            }
        }
        for (name, uid, told) in writes {
            self.apply(&name, &uid, &told).await;
        }
    }

    async fn fail(&mut self, capture: &PacketCapture, reason: String) {
        self.metrics.ended("Failed", 0);
        self.done.insert(capture.uid().unwrap_or_default());
        let outcome = Outcome::Failed(reason);
        self.write(capture, &Stage::Ended { number: 0, file: None, outcome }).await;
    }

    async fn write(&self, capture: &PacketCapture, stage: &Stage) -> Option<Status> {
        let told = status(capture.status.as_ref(), stage, Timestamp::now());
        let uid = capture.uid().unwrap_or_default();
        self.apply(&capture.name_any(), &uid, &told).await.then_some(told)
    }

    /// Whether it was written. What could not be is told by the controller in the end.
    async fn apply(&self, name: &str, uid: &str, told: &Status) -> bool {
        let body = json!({
            "apiVersion": "crd.antrea.io/v1alpha1", "kind": "PacketCapture",
            // Of no other capture of the name.
            "metadata": {"name": name, "uid": uid}, "status": told,
        });
        let params = PatchParams::apply(MANAGER).force();
        let mut pause = Duration::from_millis(200);
        for _ in 0..TRIES {
            let patch = Patch::Apply(&body);
            let written = tokio::time::timeout(LIMIT, self.api.patch_status(name, &params, &patch));
            match written.await {
                Ok(Ok(_)) => return true,
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
                    tracing::debug!(capture = name, code = status.code, "the capture is gone");
                    return false;
                }
                Ok(Err(error)) => {
                    tracing::warn!(capture = name, error = describe(&error), "status not written");
                }
                Err(_) => tracing::warn!(capture = name, "status not written within {LIMIT:?}"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        false
    }
}

/// The addresses of a pod of another node.
async fn addresses(client: &Client, field: &str, name: &Name) -> Result<Vec<IpAddr>, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    let pod = match tokio::time::timeout(LIMIT, api.get_opt(&name.name)).await {
        Ok(Ok(Some(pod))) => pod,
        Ok(Ok(None)) => return Err(format!("{field}.pod: there is no Pod {name}")),
        Ok(Err(error)) => return Err(format!("{field}.pod: {name} cannot be read: {}", describe(&error))),
        Err(_) => return Err(format!("{field}.pod: {name} cannot be read: no answer in {LIMIT:?}")),
    };
    let ips = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    if ips.is_empty() { Err(format!("{field}.pod: Pod {name} has no address yet")) } else { Ok(ips) }
}
