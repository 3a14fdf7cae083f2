//! Datapath probes: what the operator asks for before a changed node counts as done.
//!
//! ```text
//!  AntreaAgentInfo: request ─► this node probes: two namespaces, each wired as a pod is ─► report
//!                              it answers another: one namespace, until the request goes or its time is over
//! ```
//!
//! Namespaces have no name, so they and their links end with this process, however that ends; the port that is then left in
//! OVSDB is removed by the next agent as that of any container that is gone. Ends are no attachments: they have addresses
//! that IPAM never gives ([`crate::subnet::probes_of`]), are in no group of any policy, and nobody counts or checks
//! them as pods. Policies of users judge none of what they send to each other, nor does their own policy judge a pod.
//!
//! One run at a time; what comes meanwhile replaces it.

use std::sync::Arc;
use std::time::Duration;

use antrea_crds::AntreaAgentInfo;
use antrea_crds::probes::{Report, Request, Role, Stage};
use antrea_runtime::client::{WatchBackoff, describe, describe_watch};
use futures::StreamExt;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::facts::Reporter;
use crate::metrics::ProbeMetrics;
use crate::peers::watch::Nodes;
use crate::peers::wiring::Underlay;
use crate::pods::network::NodeNetwork;

mod round;
mod traffic;

use round::{End, Round};

/// A run that takes longer ends with what came by then.
const RUN: Duration = Duration::from_secs(60);

/// Who is there for others' probes is so for no longer than this, whatever becomes of the request.
const ANSWERING: Duration = Duration::from_secs(90);

/// A question to the API server.
const LIMIT: Duration = Duration::from_secs(4);

type Own = PartialObjectMeta<AntreaAgentInfo>;

/// What runs take part in.
#[derive(Clone)]
struct Site {
    network: Arc<NodeNetwork>,
    underlay: Underlay,
    nodes: watch::Receiver<Option<Nodes>>,
    api: Api<Own>,
    reporter: Reporter,
    metrics: ProbeMetrics,
}

/// A run that is under way.
struct Running {
    id: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Follows requests for probes.
pub struct Prober {
    site: Site,
    running: Option<Running>,
}

impl Prober {
    /// Takes part in nothing yet.
    pub fn new(
        network: Arc<NodeNetwork>,
        underlay: Underlay,
        nodes: watch::Receiver<Option<Nodes>>,
        client: Client,
        reporter: Reporter,
        metrics: ProbeMetrics,
    ) -> Self {
        let api = Api::all(client);
        Self { site: Site { network, underlay, nodes, api, reporter, metrics }, running: None }
    }

    /// Does what is asked until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let config =
            watcher::Config::default().fields(&format!("metadata.name={}", self.site.network.node_name));
        let mut events = Box::pin(watcher(self.site.api.clone(), config).backoff(WatchBackoff::default()));
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => break,
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Apply(info) | Event::InitApply(info))) => self.follow(&info).await,
                Some(Ok(Event::Delete(_))) => self.end().await,
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => {
                    tracing::debug!(error = describe_watch(&error), "watch on the own AntreaAgentInfo");
                }
                None => break,
            }
        }
        self.end().await;
    }

    /// Begins what is asked, and ends what is not any more.
    async fn follow(&mut self, info: &Own) {
        let request = match Request::from_annotations(info.annotations()) {
            Some(Ok(request)) => request,
            Some(Err(error)) => {
                tracing::warn!(error, "not a request for probes");
                return self.end().await;
            }
            None => return self.end().await,
        };
        if self.running.as_ref().is_some_and(|running| running.id == request.id) {
            return;
        }
        // One that answers is there as often as it is asked: a run that was broken off may begin again.
        let ended = request.role != Role::Answer
            && Report::from_annotations(info.annotations())
                .is_some_and(|report| report.id == request.id && report.stage != Stage::Answering);
        self.end().await;
        if ended {
            return;
        }
        tracing::info!(id = request.id, role = ?request.role, "datapath probes");
        let stop = CancellationToken::new();
        let task = tokio::spawn(self.site.clone().run(request.clone(), stop.clone()));
        self.running = Some(Running { id: request.id, stop, task });
    }

    /// Ends the run that is under way and waits until everything of it is gone.
    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            if let Err(error) = running.task.await {
                tracing::error!(%error, "datapath probes");
            }
        }
    }
}

impl Site {
    async fn run(self, request: Request, stop: CancellationToken) {
        match request.role {
            Role::Answer => self.answer(&request.id, stop).await,
            Role::Probe { peers } => self.probe(&request.id, &peers, stop).await,
        }
    }

    fn tell(&self, report: Report) {
        tracing::info!(report = report.to_annotation(), "datapath probes");
        self.reporter.update(|facts| facts.probes = Some(report));
    }

    async fn answer(&self, id: &str, stop: CancellationToken) {
        let mut end = match End::receiver(&self.network).await {
            Ok(end) => end,
            Err(error) => return self.tell(Report::new(id, Stage::Refused, &error)),
        };
        let answering = async {
            end.begin().await?;
            self.tell(Report::new(id, Stage::Answering, ""));
            sleep(ANSWERING).await;
            Ok::<(), String>(())
        };
        let answered = tokio::select! {
            answered = answering => answered,
            () = stop.cancelled() => Ok(()),
        };
        end.remove().await;
        self.tell(match answered {
            Ok(()) => Report::new(id, Stage::Done, ""),
            Err(error) => Report::new(id, Stage::Refused, &error),
        });
    }

    async fn probe(&self, id: &str, peers: &[String], stop: CancellationToken) {
        let known = self.nodes.borrow().clone().unwrap_or_default();
        let round = Round {
            node: &self.network,
            underlay: &self.underlay,
            peers: peers.iter().map(|name| (name.clone(), known.get(name).cloned())).collect(),
            id,
            api: &self.api,
        };
        let over = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(RUN) => {}
            }
        };
        let outcomes = round.run(over).await;
        if stop.is_cancelled() {
            return; // Nobody wants to know.
        }
        self.metrics.count(&outcomes);
        self.tell(Report { outcomes, ..Report::new(id, Stage::Done, "") });
    }
}

/// Whether another node's agent says that it is there for this run.
///
/// # Errors
/// Why nothing can be said of it.
async fn is_answering(api: &Api<Own>, name: &str, id: &str) -> Result<(), String> {
    let info = match timeout(LIMIT, api.get(name)).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => return Err(format!("what its agent says is not known: {}", describe(&error))),
        Err(_) => return Err("what its agent says is not known: the API server does not answer".to_owned()),
    };
    match Report::from_annotations(info.annotations()).filter(|report| report.id == id) {
        Some(report) if report.stage == Stage::Answering => Ok(()),
        Some(report) => Err(format!("its agent does not answer probes: {}", report.message)),
        None => Err("its agent does not say that it answers probes".to_owned()),
    }
}
