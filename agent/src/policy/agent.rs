//! The task that owns policy on this node.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_api::controlplane::Event;
use antrea_flows::Owner;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use self::doubts::{Doubts, Known};
use super::causes;
use super::client::{self, Client, ClientError, Session, Timing, Update};
use super::confirm::Confirmer;
use super::discovery::{self, Target};
use super::files::Files;
use super::handle::{InForce, PolicyError, PolicyHandle, PreparedPods, Reply, Request, Site};
use super::report::{self, Board};
use super::saver::Saver;
use crate::facts::{Health, Reporter};
use crate::metrics::PolicyMetrics;
use antrea_enforce::cache::{CacheError, Kind};
use antrea_enforce::egress::HostEgress;
use antrea_enforce::established::Resets;
use antrea_enforce::isolation::Isolation;
use antrea_enforce::logged::Logged;
use antrea_enforce::reconciler::Reconciler;

mod counts;
mod dns;
mod doubts;
mod record;
mod services;
mod step;

/// How long a starting agent waits for the controller before it takes what it knew in its last life.
const GRACE: Duration = Duration::from_secs(5);

/// How often counts are published, and what could not be written to disk is tried again.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Pause before flows that the bridge did not take are offered again.
const RETRY: Duration = Duration::from_millis(500);

/// Callers that wait beyond this see back-pressure.
const REQUESTS: usize = 256;

/// Upstream's folder.
const FOLDER: &str = "/var/run/antrea/networkpolicy";

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What the policy task needs.
#[derive(Clone)]
pub struct PolicyConfig {
    /// Finds the controller.
    pub client: kube::Client,
    /// Name of this node.
    pub node: String,
    /// Namespace of controller and agent.
    pub namespace: String,
    /// Where facts go.
    pub reporter: Reporter,
    /// Folder of what the controller said last.
    pub folder: PathBuf,
    /// File with the token that the agent shows to the controller.
    pub token: PathBuf,
}

impl PolicyConfig {
    /// A configuration with the usual paths.
    pub fn new(client: kube::Client, node: String, namespace: String, reporter: Reporter) -> Self {
        Self { client, node, namespace, reporter, folder: FOLDER.into(), token: TOKEN.into() }
    }
}

/// A part of the policy task ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("policy: {0}")]
pub struct Ended(String);

/// Policy on this node; [`Self::run`] has to be spawned.
pub struct PolicyAgent {
    discovery: Option<(kube::Client, String)>,
    target: watch::Sender<Target>,
    client: Client,
    board: Board,
    state: State,
}

/// What the main loop owns.
struct State {
    /// Away while a blocking thread works on it.
    reconciler: Option<Reconciler>,
    site: Option<Site>,
    /// Attachments that wait until something is known of policies.
    waiting: Vec<(Site, Reply)>,
    known: bool,
    /// The bridge has not got all flows: the next push is of everything.
    behind: bool,
    /// Policies that changed and that nothing has been told of since.
    unreported: BTreeSet<Arc<str>>,
    /// Ports whose answers of DNS the bridge sends up.
    askers: BTreeSet<u32>,
    /// The session's events do not fit; nothing is taken until the next one.
    lost: bool,
    prepared: Arc<PreparedPods>,
    egress: watch::Sender<HostEgress>,
    isolation: watch::Sender<Option<Isolation>>,
    logged: watch::Sender<Arc<HashMap<u32, Logged>>>,
    resets: watch::Sender<Arc<Resets>>,
    requests: mpsc::Receiver<Request>,
    updates: mpsc::Receiver<Update>,
    renew: Arc<Notify>,
    doubts: Doubts,
    saver: Saver,
    /// What is on disk has been asked for.
    recalled: bool,
    board: Board,
    reporter: Reporter,
    metrics: PolicyMetrics,
    grace: Duration,
}

impl PolicyAgent {
    /// Makes policy's handle and task.
    pub fn new(config: PolicyConfig, metrics: PolicyMetrics) -> (PolicyHandle, Self) {
        let PolicyConfig { client, node, namespace, reporter, folder, token } = config;
        let identity = client::Identity { node, namespace: namespace.clone(), token };
        let (handle, mut agent) =
            Self::wire(identity, Timing::default(), reporter, Files::new(folder), GRACE, metrics);
        agent.discovery = Some((client, namespace));
        (handle, agent)
    }

    fn wire(
        identity: client::Identity,
        timing: Timing,
        reporter: Reporter,
        files: Files,
        grace: Duration,
        metrics: PolicyMetrics,
    ) -> (PolicyHandle, Self) {
        let (requests, requests_queue) = mpsc::channel(REQUESTS);
        let (updates, updates_queue) = mpsc::channel(client::QUEUE);
        let prepared = Arc::new(PreparedPods::default());
        let renew = Arc::new(Notify::new());
        let board = Board::default();
        let target = watch::Sender::new(Target::default());
        let session = watch::Sender::new(None);
        let confirmer = Arc::new(Confirmer::new(identity.node.clone(), session.subscribe()));
        let client = Client {
            identity: Arc::new(identity),
            timing: Arc::new(timing),
            target: target.subscribe(),
            updates,
            session,
            renew: renew.clone(),
        };
        let (egress, isolation) = (watch::Sender::new(HostEgress::default()), watch::Sender::new(None));
        let (logged, resets) = (watch::Sender::default(), watch::Sender::default());
        let in_force = InForce {
            egress: egress.subscribe(),
            isolation: isolation.subscribe(),
            logged: logged.subscribe(),
            resets: resets.subscribe(),
        };
        let told = metrics.clone();
        let state = State {
            reconciler: Some(Reconciler::default()),
            site: None,
            waiting: Vec::new(),
            known: false,
            behind: false,
            unreported: BTreeSet::new(),
            askers: BTreeSet::new(),
            lost: false,
            prepared: prepared.clone(),
            egress,
            isolation,
            logged,
            resets,
            requests: requests_queue,
            updates: updates_queue,
            renew,
            doubts: Doubts::new(confirmer.clone()),
            saver: Saver::new(files.clone()),
            recalled: false,
            board: board.clone(),
            reporter,
            metrics,
            grace,
        };
        let agent = Self { discovery: None, target, client, board, state };
        let handle = PolicyHandle::new(requests, prepared, confirmer, in_force, &told, &files);
        (handle, agent)
    }

    /// Runs until `shutdown`. The controller may be away for ever.
    ///
    /// # Errors
    /// A part of it ended or panicked.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Ended> {
        let Self { discovery, target, client, board, mut state } = self;
        let mut tasks = JoinSet::new();
        let node = client.identity.node.clone();
        let sessions: watch::Receiver<Option<Session>> = client.session.subscribe();
        tasks.spawn(async move {
            if let Some((client, namespace)) = discovery {
                let _ = discovery::follow(client, &namespace, &target).await;
            }
            std::future::pending::<()>().await;
            drop(target);
        });
        tasks.spawn(client.run());
        tasks.spawn(report::run(board, node, sessions));
        let main = async {
            match state.run().await {
                Ok(never) => match never {},
                Err(ended) => ended,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = main => Err(ended),
            ended = tasks.join_next() => Err(Ended(match ended {
                Some(Err(error)) => error.to_string(),
                _ => "a task ended".to_owned(),
            })),
        }
    }
}

impl State {
    async fn run(&mut self) -> Result<std::convert::Infallible, Ended> {
        let grace = tokio::time::sleep(self.grace);
        tokio::pin!(grace);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut requests, mut updates) = (Vec::new(), Vec::new());
        let prepared = self.prepared.clone();
        loop {
            tokio::select! {
                count = self.requests.recv_many(&mut requests, REQUESTS), if !self.requests.is_closed() || !self.requests.is_empty() => {
                    if count > 0 {
                        self.serve(std::mem::take(&mut requests)).await?;
                    }
                }
                () = interfaces_changed(&mut self.site, &prepared) => {
                    let _ = self.step(|_| ()).await?;
                }
                count = self.updates.recv_many(&mut updates, client::QUEUE) => {
                    if count == 0 {
                        return Err(Ended("the watch client ended".to_owned()));
                    }
                    self.take(std::mem::take(&mut updates)).await?;
                }
                () = &mut grace, if !self.known && !self.recalled => self.load().await?,
                _ = retry.tick(), if self.behind || self.doubts.are_open() => {
                    self.doubts.ask();
                    if self.behind {
                        let _ = self.step(|_| ()).await?;
                    }
                }
                answer = self.doubts.answer() => self.settle(answer).await?,
                failure = self.saver.finished() => self.saved(failure.map_err(|e| Ended(e.to_string()))?).await?,
                _ = housekeeping.tick() => {
                    self.expire_dns().await?;
                    self.count();
                    self.save().await?;
                }
            }
        }
    }

    async fn serve(&mut self, requests: Vec<Request>) -> Result<(), Ended> {
        let (mut pods, mut told, mut reached, mut shown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut cause = Span::none();
        for request in requests {
            match request {
                Request::Attach(site, reply) => self.waiting.push((site, reply)),
                Request::Install(flows, reply, span) => {
                    pods.push((flows, reply));
                    if cause.is_disabled() {
                        cause = span;
                    }
                }
                Request::Holds(pod, selection, reply) => {
                    let holds = self.reconciler.as_ref().is_some_and(|r| r.cache.holds(&pod, &selection));
                    // A caller that is gone has nobody to tell.
                    let _ = reply.send(holds);
                }
                Request::Explain(question, reply) => {
                    let explanation = self.reconciler.as_ref().map(|r| question.answer(r));
                    let _ = reply.send(explanation.unwrap_or_default());
                }
                Request::Owners(reply) => {
                    let _ = reply.send(self.reconciler.as_ref().map(Reconciler::owners).unwrap_or_default());
                }
                Request::RuleIds(mut version, reply) => {
                    let ids = self.reconciler.as_ref().and_then(|r| r.rule_ids(&mut version));
                    let _ = reply.send(ids.map(|ids| (version, ids)));
                }
                Request::Learn(receiver, answers, shortest, reply) => {
                    told.push((receiver, answers, shortest, reply));
                }
                Request::Services(services, reply) => reached.push((services, reply)),
                Request::DnsDue(under_way, reply) => {
                    let due = self.reconciler.as_mut().map(|r| r.cache.dns_due(Instant::now(), &under_way));
                    let _ = reply.send(due.unwrap_or_default());
                }
                Request::Dns(version, reply) => {
                    shown.push((version, reply));
                }
            }
        }
        self.attach_waiting().await?;
        self.reach(reached).await?;
        self.learn(told).await?;
        self.show_dns(shown).await?;
        if pods.is_empty() {
            return Ok(());
        }
        let (flows, replies): (Vec<_>, Vec<_>) = pods.into_iter().unzip();
        let owners: Vec<Owner> = flows.iter().map(|(owner, _)| owner.clone()).collect();
        let result = match self.site {
            Some(_) => self.step_with(|_| (), flows).instrument(cause).await?.1,
            None => Err(PolicyError::NotAttached),
        };
        for (owner, reply) in owners.iter().zip(replies) {
            let result = result.as_ref().map_err(Clone::clone).and_then(|failures| {
                let failure = failures.iter().find(|(failed, _)| failed == owner);
                failure.map_or(Ok(()), |(_, error)| Err(error.clone().into()))
            });
            // A caller that is gone has nobody to tell.
            let _ = reply.send(result);
        }
        Ok(())
    }

    /// A pod that lost policies has not ended: it was meant.
    async fn settle(&mut self, answer: Option<Known>) -> Result<(), Ended> {
        let Some(Known { doubt, at, selection }) = answer else { return Ok(()) };
        let question = doubt.clone();
        let (settled, _) = self.step(move |reconciler| reconciler.release(&doubt, at, &selection)).await?;
        if !settled {
            self.doubts.reopen(question, at);
        }
        Ok(())
    }

    async fn attach_waiting(&mut self) -> Result<(), Ended> {
        if !self.known {
            return Ok(());
        }
        for (mut site, reply) in std::mem::take(&mut self.waiting) {
            let (pipeline, isolated) = (site.pipeline.clone(), std::mem::take(&mut site.isolated));
            let (ids, dns) = (std::mem::take(&mut site.ids), std::mem::take(&mut site.dns));
            self.askers.clear();
            self.site = Some(site);
            self.behind = true;
            let begin = move |reconciler: &mut Reconciler| {
                reconciler.attach(&pipeline);
                reconciler.recall(isolated);
                reconciler.recall_ids(ids.rules, ids.used);
                reconciler.cache.change_dns(|cache| cache.recall(dns, Instant::now()));
            };
            let ((), result) = self.step(begin).await?;
            let _ = reply.send(result);
        }
        Ok(())
    }

    async fn take(&mut self, updates: Vec<Update>) -> Result<(), Ended> {
        let mut events = Vec::with_capacity(updates.len());
        let mut received = Vec::new();
        for update in updates {
            match update {
                Update::Up => {
                    tracing::info!("watching the controller");
                    self.reporter.update(|facts| facts.controller = Health::Good);
                }
                Update::Down(error) => {
                    self.lost = false;
                    events.push(CacheEvent::Abandon);
                    if let Some(reason) = reason(&error) {
                        let health = Health::bad(reason, &error);
                        self.reporter.update(|facts| facts.controller = health);
                    }
                }
                _ if self.lost => {}
                Update::Begin(kind) => events.push(CacheEvent::Begin(kind)),
                Update::Event(kind, event, cause) => {
                    received.extend(cause);
                    events.push(CacheEvent::Event(kind, event));
                }
            }
        }
        let commits = self.commits();
        let doubted = self.doubted_with(&events);
        let work = move |reconciler: &mut Reconciler| {
            doubted.iter().for_each(|record| record.changing());
            events.into_iter().try_for_each(|event| event.apply(reconciler))
        };
        // Flows that were not taken are offered again.
        let span = causes::realize(received);
        if let (Err(error), _) = self.step(work).instrument(span).await? {
            tracing::error!(%error, "listing everything again");
            self.lost = true;
            self.renew.notify_one();
            self.with_reconciler(|reconciler| reconciler.cache.abandon()).await?;
        }
        if self.commits() > commits && !self.known {
            let counts = self.reconciler.as_ref().map(|reconciler| reconciler.cache.counts());
            tracing::info!(?counts, "policies, address groups and applied-to groups received");
            self.known = true;
            self.attach_waiting().await?;
        }
        self.save().await
    }

    fn commits(&self) -> u64 {
        self.reconciler.as_ref().map_or(0, |reconciler| reconciler.cache.commits())
    }

    async fn with_reconciler<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reconciler) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let mut reconciler = self.reconciler.take().ok_or_else(|| Ended("a step panicked".to_owned()))?;
        let work = move || {
            let done = work(&mut reconciler);
            (reconciler, done)
        };
        let (reconciler, done) =
            tokio::task::spawn_blocking(work).await.map_err(|error| Ended(error.to_string()))?;
        self.reconciler = Some(reconciler);
        Ok(done)
    }
}

enum CacheEvent {
    Begin(Kind),
    Event(Kind, Box<Event>),
    Abandon,
}

impl CacheEvent {
    fn apply(self, reconciler: &mut Reconciler) -> Result<(), CacheError> {
        match self {
            Self::Begin(kind) => reconciler.cache.begin(kind),
            Self::Event(kind, event) => reconciler.cache.apply(kind, *event)?,
            Self::Abandon => reconciler.cache.abandon(),
        }
        Ok(())
    }
}

async fn interfaces_changed(site: &mut Option<Site>, prepared: &PreparedPods) {
    let Some(site) = site else { return std::future::pending().await };
    tokio::select! {
        changed = site.changes.changed() => if changed.is_err() {
            prepared.changed.notified().await;
        },
        () = prepared.changed.notified() => {}
    }
}

/// The condition's reason; none where a new session follows at once.
fn reason(error: &ClientError) -> Option<&'static str> {
    Some(match error {
        ClientError::NoEndpoint => "ControllerNotFound",
        ClientError::NoCa => "CANotPublished",
        ClientError::Connect { .. } | ClientError::Timeout(_) | ClientError::Http(_) => "Disconnected",
        ClientError::Refused { .. } => "Refused",
        ClientError::Malformed { .. } | ClientError::Incomplete { .. } | ClientError::Failed { .. } => {
            "WatchFailed"
        }
        ClientError::Renew(_) | ClientError::Unsent(_) | ClientError::Closed => return None,
    })
}

#[cfg(test)]
#[path = "agent_tests.rs"]
pub mod tests;
