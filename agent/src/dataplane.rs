//! The bridge's flows: what is intended, and keeping Open vSwitch at it.
//!
//! ```text
//!  install_pod ─┐                       ┌─► one bundle ─► ovs-vswitchd
//!  set_peers   ─┼─► queue ─► FlowStore ─┤
//!  policy      ─┘                       └◄─ dump, compare, repair (on connect, after a change by others,
//!                                            every minute)
//! ```
//!
//! One task owns the store and the session. It takes whatever waits in its queue together, so that many
//! pods at once cost one bundle. Nothing is sent before [`Dataplane::start`]: then the first comparison
//! with what OVS holds replaces the flows of an earlier process in one transaction, and no packet meets
//! a half-filled pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use antrea_flows::{Conflict, Diff, FlowStore, Network, Owner};
use antrea_runtime::{trace, trace_span};
use openflow::multipart::FlowFilter;
use openflow::{Flow, FlowKey, Message};
use ovs::of::{OfError, OfHandle, OfState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::interfaces::PodInterface;
use crate::metrics::AgentMetrics;
use crate::status::{Health, Reporter};
use crate::verification::{Outcome, Schedule};

/// Callers that wait beyond this see back-pressure.
const QUEUE: usize = 256;

/// Requests that one bundle takes together.
const BATCH: usize = 64;

/// How long a change waits for a lost session before its caller is told.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Pause before the next try of a comparison that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Why flows were not installed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Two owners want different things.
    #[error(transparent)]
    Conflict(#[from] Box<Conflict>),
    /// The bridge refused them or is away.
    #[error("flows: {0}")]
    OpenFlow(#[from] Box<OfError>),
    /// The process ends.
    #[error("flows: the agent is shutting down")]
    Closed,
}

type Reply = oneshot::Sender<Result<(), DataplaneError>>;

#[derive(Debug)]
enum Change {
    Set(Owner, Vec<Flow>),
    Update(Owner, Vec<Flow>, Vec<FlowKey>),
    Start,
    Verify,
}

#[derive(Debug)]
struct Request {
    change: Change,
    reply: Reply,
    /// What it is part of.
    span: Span,
}

/// Handle to the bridge's flows; clones share the task.
#[derive(Clone, Debug)]
pub struct Dataplane {
    requests: mpsc::Sender<Request>,
    network: Arc<Network>,
}

impl Dataplane {
    /// Makes a dataplane and the task that has to be run for it. `bridge` is a name for people.
    pub fn new(
        session: OfHandle,
        bridge: String,
        network: Arc<Network>,
        reporter: Reporter,
        metrics: AgentMetrics,
    ) -> (Self, Task) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let task = Task {
            session,
            network: network.clone(),
            store: FlowStore::new(),
            queue,
            started: false,
            generation: 0,
            schedule: Schedule::new(Instant::now()),
            counted: Vec::new(),
            bridge,
            reporter,
            metrics,
        };
        (Self { requests, network }, task)
    }

    /// The pipeline.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Makes these flows all that `owner` has.
    ///
    /// # Errors
    /// The bridge refused them or is away; the owner then has what it had before.
    pub async fn set(&self, owner: Owner, flows: Vec<Flow>) -> Result<(), DataplaneError> {
        self.request(Change::Set(owner, flows)).await
    }

    /// Changes some of an owner's flows: `puts` are added or replaced, then `gone` are deleted.
    ///
    /// # Errors
    /// As for [`Self::set`].
    pub async fn update(
        &self,
        owner: Owner,
        puts: Vec<Flow>,
        gone: Vec<FlowKey>,
    ) -> Result<(), DataplaneError> {
        self.request(Change::Update(owner, puts, gone)).await
    }

    /// Installs a pod's flows.
    ///
    /// # Errors
    /// As for [`Self::set`].
    pub async fn install_pod(&self, pod: &PodInterface) -> Result<(), DataplaneError> {
        let flows = antrea_flows::pod(
            &self.network,
            &antrea_flows::PodInterface { ofport: pod.ofport, mac: pod.mac.into(), ips: pod.ips.clone() },
        );
        self.set(pod_owner(&pod.container_id, &pod.ifname), flows).await
    }

    /// Removes a pod's flows.
    ///
    /// # Errors
    /// As for [`Self::set`].
    pub async fn remove_pod(&self, container_id: &str, ifname: &str) -> Result<(), DataplaneError> {
        self.set(pod_owner(container_id, ifname), Vec::new()).await
    }

    /// Everything that was set so far is complete: install it and remove what is not of it.
    ///
    /// # Errors
    /// The bridge refused it or stayed away.
    pub async fn start(&self) -> Result<(), DataplaneError> {
        self.request(Change::Start).await
    }

    /// Compares installed flows with intended ones now, and repairs.
    ///
    /// # Errors
    /// The bridge is away or refused the repair.
    pub async fn verify(&self) -> Result<(), DataplaneError> {
        self.request(Change::Verify).await
    }

    async fn request(&self, change: Change) -> Result<(), DataplaneError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { change, reply, span: trace::current() };
        self.requests.send(request).await.map_err(|_| DataplaneError::Closed)?;
        answer.await.map_err(|_| DataplaneError::Closed)?
    }
}

fn pod_owner(container_id: &str, ifname: &str) -> Owner {
    Owner::Pod(format!("{container_id}/{ifname}").into())
}

/// Runs a [`Dataplane`].
#[derive(Debug)]
pub struct Task {
    session: OfHandle,
    network: Arc<Network>,
    store: FlowStore,
    queue: mpsc::Receiver<Request>,
    started: bool,
    /// Connection that the bridge was last brought up to date on.
    generation: u64,
    schedule: Schedule,
    /// Flow counts by table that were told last.
    counted: Vec<usize>,
    bridge: String,
    reporter: Reporter,
    metrics: AgentMetrics,
}

/// How to return an owner to what it had: of a large owner only what was touched is kept.
#[derive(Debug)]
struct Back {
    puts: Vec<Flow>,
    gone: Vec<FlowKey>,
}

impl Back {
    fn of(store: &FlowStore, owner: &Owner, touched: impl IntoIterator<Item = FlowKey>) -> Self {
        let mut back = Self { puts: Vec::new(), gone: Vec::new() };
        for key in touched {
            match store.get(owner, &key) {
                Some(flow) => back.puts.push(flow),
                None => back.gone.push(key),
            }
        }
        back
    }
}

/// A request whose difference is in the store and not yet in the bridge.
#[derive(Debug)]
struct Pending {
    owner: Owner,
    back: Back,
    diff: Diff,
    reply: Reply,
    span: Span,
}

/// The bundle as a part of whatever waits for it.
fn bundle_span(pending: &[Pending], diff: &Diff) -> Span {
    let mut causes = pending.iter().map(|request| &request.span).filter(|span| !span.is_disabled());
    let Some(first) = causes.next() else { return Span::none() };
    let span = trace_span!(
        parent: first,
        "openflow.bundle",
        otel.kind = "client",
        requests = pending.len(),
        flows.added = diff.adds.len(),
        flows.modified = diff.mods.len(),
        flows.deleted = diff.deletes.len(),
    );
    causes.for_each(|cause| {
        span.follows_from(cause);
    });
    span
}

impl Task {
    /// Serves requests until all handles are gone or `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        // On its own, for a request may wait for a lost session.
        let connection = follow_connection(self.session.state(), self.reporter.clone());
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = connection => {}
            () = self.serve_all() => {}
        }
    }

    async fn serve_all(mut self) {
        let mut state = self.session.state();
        let mut foreign = self.session.foreign_changes();
        let mut batch = Vec::new();
        loop {
            let connection = match &*state.borrow_and_update() {
                OfState::Connected { generation, .. } => Some(*generation),
                OfState::Disconnected { .. } => None,
            };
            // By its number: a connection that was lost and came back while requests were served is another.
            if self.started && connection.is_some_and(|generation| generation != self.generation) {
                self.reconnected().await;
                continue;
            }
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                changed = foreign.changed(), if self.started => {
                    if changed.is_err() {
                        return;
                    }
                    self.schedule.suspect(Instant::now());
                }
                () = tokio::time::sleep_until(self.schedule.due()), if self.started && connection.is_some() => {
                    // What it came to is in the status.
                    let _ = self.synchronise(true).await;
                }
                count = self.queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.serve(std::mem::take(&mut batch)).await;
                }
            }
        }
    }

    async fn serve(&mut self, requests: Vec<Request>) {
        let mut pending = Vec::new();
        for Request { change, reply, span } in requests {
            let (owner, result) = match change {
                Change::Set(owner, flows) => {
                    let held = self.store.of(&owner);
                    let keys = held.iter().chain(&flows).map(Flow::key);
                    let back = Back::of(&self.store, &owner, keys);
                    let result = self.store.set(&owner, flows).map(|diff| (back, diff));
                    (owner, result)
                }
                Change::Update(owner, puts, gone) => {
                    let keys = puts.iter().map(Flow::key).chain(gone.iter().cloned());
                    let back = Back::of(&self.store, &owner, keys);
                    let result = self.store.update(&owner, puts, gone).map(|diff| (back, diff));
                    (owner, result)
                }
                Change::Start => {
                    self.flush(&mut pending).await;
                    self.started = true;
                    let result = self.connect_and_synchronise().await;
                    // A caller that is gone has nobody to tell.
                    let _ = reply.send(result);
                    continue;
                }
                Change::Verify => {
                    self.flush(&mut pending).await;
                    let result = self.synchronise(true).await.map_err(|error| Box::new(error).into());
                    let _ = reply.send(result);
                    continue;
                }
            };
            match result {
                Ok((back, diff)) => pending.push(Pending { owner, back, diff, reply, span }),
                Err(conflict) => {
                    let _ = reply.send(Err(Box::new(conflict).into()));
                }
            }
        }
        self.flush(&mut pending).await;
    }

    /// Sends what is pending as one bundle. If the bridge refuses it, each request on its own, so that one
    /// bad request spoils no other.
    async fn flush(&mut self, pending: &mut Vec<Pending>) {
        let pending = std::mem::take(pending);
        if pending.is_empty() {
            return;
        }
        if !self.started {
            for request in pending {
                let _ = request.reply.send(Ok(()));
            }
            return;
        }
        let mut all = Diff::default();
        for request in &pending {
            all.append(request.diff.clone());
        }
        match trace::step(bundle_span(&pending, &all), self.send(all)).await {
            Ok(()) => {
                for request in pending {
                    let _ = request.reply.send(Ok(()));
                }
            }
            Err(error) if pending.len() == 1 || error.is_connection() => {
                for request in pending.into_iter().rev() {
                    self.back(request, error.clone());
                }
            }
            Err(_) => {
                for request in pending {
                    let alone = std::slice::from_ref(&request);
                    let span = bundle_span(alone, &request.diff);
                    match trace::step(span, self.send(request.diff.clone())).await {
                        Ok(()) => {
                            let _ = request.reply.send(Ok(()));
                        }
                        Err(error) => self.back(request, error),
                    }
                }
            }
        }
    }

    /// Returns the store to what the bridge still has, and tells the caller.
    fn back(&mut self, request: Pending, error: OfError) {
        let Back { puts, gone } = request.back;
        if let Err(conflict) = self.store.update(&request.owner, puts, gone) {
            tracing::error!(%conflict, "cannot go back");
        }
        let _ = request.reply.send(Err(Box::new(error).into()));
    }

    async fn send(&mut self, diff: Diff) -> Result<(), OfError> {
        if diff.is_empty() {
            return Ok(());
        }
        let generation = self.session.wait_connected(CONNECT_WAIT).await?;
        if generation != self.generation {
            // The bridge may have lost everything: this brings the difference along.
            return self.synchronise(false).await;
        }
        self.commit(diff).await
    }

    /// Sends a difference as one bundle, and counts it.
    async fn commit(&mut self, diff: Diff) -> Result<(), OfError> {
        let (adds, mods, deletes) = (diff.adds.len(), diff.mods.len(), diff.deletes.len());
        let messages: Vec<_> = diff.into_flow_mods().into_iter().map(Message::from).collect();
        let timer = self.metrics.flow_ops(adds, mods, deletes);
        let result = self.session.bundle(messages).await;
        timer.done(result.is_ok());
        self.count_tables();
        result
    }

    async fn connect_and_synchronise(&mut self) -> Result<(), DataplaneError> {
        let wait = self.session.wait_connected(CONNECT_WAIT).await;
        match wait {
            Ok(_) => self.synchronise(false).await.map_err(|error| Box::new(error).into()),
            Err(error) => Err(Box::new(error).into()),
        }
    }

    async fn reconnected(&mut self) {
        while let Err(error) = self.synchronise(false).await {
            tracing::warn!(%error, "cannot replay flows");
            tokio::time::sleep(RETRY).await;
            if error.is_connection() {
                return; // The next connection brings us back here.
            }
        }
    }

    /// Brings the bridge from whatever it holds to the store. `expected` says that no difference should
    /// be found: one that is counts as drift.
    async fn synchronise(&mut self, expected: bool) -> Result<(), OfError> {
        let begin = Instant::now();
        let mut outcome = Outcome::Unknown;
        let result = self.compare(expected, &mut outcome).await;
        let cost = begin.elapsed();
        self.metrics.verified(cost);
        self.schedule.compared(Instant::now(), cost, &outcome);
        if let Some(health) = outcome.health(&self.bridge) {
            self.reporter.update(|facts| facts.flows = health);
        }
        result
    }

    async fn compare(&mut self, expected: bool, outcome: &mut Outcome) -> Result<(), OfError> {
        let generation = self.session.wait_connected(CONNECT_WAIT).await?;
        let installed = self.session.flows(FlowFilter::all()).await?;
        let diff = self.store.diff_against(installed.iter().map(|entry| &entry.flow));
        let expected = expected && generation == self.generation;
        self.generation = generation;
        self.count_tables();
        *outcome = Outcome::Same;
        if diff.is_empty() {
            return Ok(());
        }
        let (flows, first) = (diff.len(), describe(&diff));
        if expected {
            tracing::warn!(flows, first, "flows differ from what was installed, repairing");
            self.metrics.drift(flows);
        } else {
            tracing::info!(flows, held = installed.len(), "bringing the bridge up to date");
        }
        drop(installed);
        let result = self.commit(diff).await;
        match &result {
            Ok(()) if expected => *outcome = Outcome::Repaired { flows, first },
            Ok(()) => {}
            Err(error) => *outcome = Outcome::Differs { flows, first, error: error.to_string() },
        }
        result
    }

    /// Tells how many flows each table has, if that changed.
    fn count_tables(&mut self) {
        let names = self.network.pipeline.names();
        let counts: Vec<usize> = names.iter().map(|(number, _)| self.store.count_in(*number)).collect();
        if counts == self.counted {
            return;
        }
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let named = names.iter().zip(&counts).map(|((_, name), count)| ((*name).to_owned(), number(*count)));
        let named: BTreeMap<String, i32> = named.collect();
        self.metrics.flow_counts(names.into_iter().zip(counts.iter().copied()));
        self.reporter.update(|facts| facts.flow_table = named);
        self.counted = counts;
    }
}

/// Passes the OpenFlow session's state on.
async fn follow_connection(mut state: watch::Receiver<OfState>, reporter: Reporter) {
    loop {
        let health = match &*state.borrow_and_update() {
            OfState::Connected { .. } => Health::Good,
            OfState::Disconnected { error } => Health::bad(
                "OpenflowDisconnected",
                format!(
                    "{error}; flows cannot be changed, so new pods and policies wait: see whether ovs-vswitchd runs in \
                     the container antrea-ovs"
                ),
            ),
        };
        reporter.update(|facts| facts.openflow = health);
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn describe(diff: &Diff) -> String {
    if let Some(flow) = diff.adds.first() {
        return format!("missing: {flow}");
    }
    if let Some(flow) = diff.mods.first() {
        return format!("changed: {flow}");
    }
    diff.deletes.first().map_or_else(String::new, |key| format!("foreign: {key:?}"))
}

/// Owners of peers that are no longer wanted.
pub fn stale_peers(known: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Vec<Owner> {
    known.difference(wanted).map(|name| Owner::Peer(name.as_str().into())).collect()
}
