//! The task that serves the queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use antrea_flows::state::Undo;
use antrea_flows::{BridgeStore, Change, Diff, Entry, Network, Owner, Table};
use antrea_runtime::{trace, trace_span};
use futures::future::BoxFuture;
use ovs::of::{OfError, OfHandle, OfState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::packets::Packets;
use super::schedule::Schedule;
use super::sync::{InFlight, Refusal};
use super::{Batch, DataplaneError, Failures, Reply, Request};
use crate::facts::{Health, Reporter};
use crate::metrics::AgentMetrics;

/// Requests that one bundle takes together.
const TOGETHER: usize = 64;

/// How long a change waits for a lost session before its caller is told.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Pause before the next try of a comparison that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Runs a [`super::Dataplane`].
#[derive(Debug)]
pub struct Task {
    pub(super) session: OfHandle,
    pub(super) store: BridgeStore,
    pub(super) queue: mpsc::Receiver<Request>,
    /// Requests out of the queue, in order.
    pub(super) backlog: VecDeque<Request>,
    /// A large bundle is under way.
    pub(super) in_parts: bool,
    started: bool,
    /// Connection that the bridge was last brought up to date on; 0 is none.
    pub(super) generation: u64,
    retry_at: Instant,
    /// What the bridge refuses when everything is installed anew, by owner; it is offered again with each comparison.
    pub(super) refused: BTreeMap<Owner, Vec<Entry>>,
    pub(super) schedule: Schedule,
    /// Flow counts by table that were told last.
    counted: Vec<usize>,
    network: Arc<Network>,
    packets: Packets,
    pub(super) bridge: String,
    pub(super) reporter: Reporter,
    pub(super) metrics: AgentMetrics,
}

/// A batch on its way to the bridge.
#[derive(Debug)]
pub(super) struct Pending {
    batch: Batch,
    reply: Reply<Failures>,
    span: Span,
    /// Why nothing of it is installed.
    error: Option<DataplaneError>,
    failures: Failures,
}

impl Pending {
    pub(super) fn new(batch: Batch, reply: Reply<Failures>, span: Span) -> Self {
        Self { batch, reply, span, error: None, failures: Failures::new() }
    }

    fn answer(self) {
        let answer = match self.error {
            Some(error) => Err(error),
            None => Ok(self.failures),
        };
        // A caller that is gone has nobody to tell.
        let _ = self.reply.send(answer);
    }

    fn fail(&mut self, unit: Unit, error: DataplaneError) {
        match unit {
            Unit::Required => self.error = Some(error),
            Unit::Other(at) => {
                let others = self.batch.others.get(at);
                self.failures.extend(others.map(|(owner, _)| (owner.clone(), error)));
            }
        }
    }

    /// The units that may still be installed, each with its changes.
    fn units(&self) -> Vec<(Unit, &[(Owner, Change)])> {
        if self.error.is_some() {
            return Vec::new();
        }
        let required = (!self.batch.required.is_empty()).then_some((Unit::Required, &*self.batch.required));
        let others = self.batch.others.chunks(1).enumerate().map(|(at, one)| (Unit::Other(at), one));
        let failed = |owner: &Owner| self.failures.iter().any(|(failed, _)| failed == owner);
        let others = others.filter(|(_, one)| !one.iter().any(|(owner, _)| failed(owner)));
        required.into_iter().chain(others).collect()
    }
}

/// What is installed whole or not at all.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Required,
    Other(usize),
}

/// A unit that is in the store and not yet in the bridge.
#[derive(Debug)]
struct StagedUnit {
    pending: usize,
    unit: Unit,
    undo: Undo,
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
    pub(super) fn new(
        session: OfHandle,
        queue: mpsc::Receiver<Request>,
        (bridge, network): (String, Arc<Network>),
        packets: Packets,
        reporter: Reporter,
        metrics: AgentMetrics,
    ) -> Self {
        let store = match network.pipeline.number(Table::SessionAffinity) {
            Some(table) => BridgeStore::new().learning(table, antrea_flows::AFFINITY_COOKIE),
            None => BridgeStore::new(),
        };
        Self {
            session,
            store,
            queue,
            backlog: VecDeque::new(),
            in_parts: false,
            started: false,
            generation: 0,
            retry_at: Instant::now(),
            refused: BTreeMap::new(),
            schedule: Schedule::new(Instant::now()),
            counted: Vec::new(),
            network,
            packets,
            bridge,
            reporter,
            metrics,
        }
    }

    /// Serves requests until all handles are gone or `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        // On its own, for a request may wait for a lost session.
        let connection = follow_connection(self.session.state(), self.reporter.clone());
        let packets = self.packets.clone().run(self.session.clone());
        let metered = self.packets.clone().count_metered(self.session.clone());
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = connection => {}
            () = packets => {}
            () = metered => {}
            () = self.serve_all() => {}
        }
    }

    async fn serve_all(mut self) {
        let mut state = self.session.state();
        let mut foreign = self.session.foreign_changes();
        let mut requests = Vec::new();
        loop {
            let connection = match &*state.borrow_and_update() {
                OfState::Connected { generation, .. } => Some(*generation),
                OfState::Disconnected { .. } => None,
            };
            // By its number: a connection that was lost and came back while requests were served is another.
            let new = connection.is_some_and(|generation| generation != self.generation);
            let due = if new { self.retry_at } else { self.schedule.due() };
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
                () = tokio::time::sleep_until(due), if self.started && connection.is_some() => {
                    // What became of it is in the status.
                    if let Err(error) = self.synchronise(!new).await {
                        tracing::warn!(%error, "cannot bring the bridge up to date");
                        self.retry_at = Instant::now() + RETRY;
                    }
                    // Requests that came while it went in parts, and had to wait for it.
                    self.serve().await;
                }
                count = self.queue.recv_many(&mut requests, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    self.backlog.extend(requests.drain(..));
                    self.serve().await;
                }
            }
        }
    }

    async fn serve(&mut self) {
        let mut pending = Vec::new();
        while let Some(request) = self.backlog.pop_front() {
            let request = match request {
                Request::Apply(batch, reply, span) => {
                    let large = self.is_large(&batch);
                    if large || pending.len() == TOGETHER {
                        self.flush(std::mem::take(&mut pending)).await;
                    }
                    pending.push(Pending::new(batch, reply, span));
                    if large {
                        self.flush(std::mem::take(&mut pending)).await;
                    }
                    continue;
                }
                other => other,
            };
            self.flush(std::mem::take(&mut pending)).await;
            // A caller that is gone has nobody to tell.
            match request {
                Request::Apply(..) => {}
                Request::Owners(reply) => {
                    let _ = reply.send(self.store.owners().chain(self.refused.keys()).cloned().collect());
                }
                Request::Start(reply) => {
                    self.started = true;
                    let _ = reply.send(self.synchronise(false).await.map_err(DataplaneError::from));
                }
                Request::Verify(reply) => {
                    let _ = reply.send(self.synchronise(true).await.map_err(DataplaneError::from));
                }
            }
        }
        self.flush(pending).await;
    }

    /// Installs what is pending in one bundle, and answers. What the bridge refuses is taken back, and the bundle
    /// goes again without it. Boxed, since others may be served while a large one is under way; no deeper, for these
    /// are not large.
    pub(super) fn flush(&mut self, pending: Vec<Pending>) -> BoxFuture<'_, ()> {
        Box::pin(self.install(pending))
    }

    async fn install(&mut self, mut pending: Vec<Pending>) {
        for (owner, _) in pending.iter().flat_map(|pending| pending.batch.changes()) {
            // Whatever becomes of it, this is what the owner wants now.
            self.refused.remove(owner);
        }
        let mut alone = Vec::new();
        loop {
            let staged = self.stage(&mut pending);
            if !self.started {
                break;
            }
            let diff = self.store.difference(staged.iter().map(|unit| &unit.undo));
            if diff.is_empty() {
                break;
            }
            if !self.in_step() {
                self.unstage(staged);
                // A bridge that may have lost everything gets that first.
                let Err(error) = self.catch_up().await else { continue };
                pending.iter_mut().for_each(|pending| pending.error = Some(error.clone().into()));
                break;
            }
            let owners = pending.iter().flat_map(|pending| pending.batch.changes()).map(|(owner, _)| owner);
            let undo = || staged.iter().map(|unit| &unit.undo);
            let in_flight = InFlight::of(&self.store, &diff, owners, undo());
            let back = Undo::meters(undo());
            let span = bundle_span(&pending, &diff);
            let carrying = trace::step(span, self.carry_out(diff, in_flight, back));
            let Err(Refusal { error, culprit }) = carrying.await else { break };
            let culprit = culprit.and_then(|key| staged.iter().rfind(|unit| unit.undo.touches(&key)));
            let culprit = culprit.map(|unit| (unit.pending, unit.unit));
            self.unstage(staged);
            match culprit {
                Some((at, unit)) => {
                    // Perhaps somebody has taken away what it builds upon.
                    self.schedule.suspect(Instant::now());
                    if let Some(pending) = pending.get_mut(at) {
                        pending.fail(unit, error.into());
                    }
                }
                // Refused, and the bridge does not say for what.
                None if error.had_no_effect() && !error.is_connection() && pending.len() > 1 => {
                    alone = std::mem::take(&mut pending);
                    break;
                }
                None => {
                    if !error.had_no_effect() {
                        self.generation = 0; // Nobody knows what the bridge has now.
                    }
                    pending.iter_mut().for_each(|pending| pending.error = Some(error.clone().into()));
                    break;
                }
            }
        }
        pending.into_iter().for_each(Pending::answer);
        for pending in alone {
            self.flush(vec![pending]).await;
        }
    }

    /// Takes what is pending into the store, and notes what conflicts.
    fn stage(&mut self, pending: &mut [Pending]) -> Vec<StagedUnit> {
        let mut all = Vec::new();
        for (at, pending) in pending.iter_mut().enumerate() {
            let mut conflicts = Vec::new();
            for (unit, changes) in pending.units() {
                match self.store.stage(changes.iter().map(|(owner, change)| (owner, change))) {
                    Ok(undo) => all.push(StagedUnit { pending: at, unit, undo }),
                    Err(conflict) => {
                        conflicts.push((unit, conflict));
                        if matches!(unit, Unit::Required) {
                            break;
                        }
                    }
                }
            }
            for (unit, conflict) in conflicts {
                pending.fail(unit, Box::new(conflict).into());
            }
        }
        all
    }

    fn unstage(&mut self, staged: Vec<StagedUnit>) {
        staged.into_iter().rev().for_each(|unit| self.store.undo(unit.undo));
    }

    /// Whether the bridge holds what the store had before the latest change.
    pub(super) fn in_step(&self) -> bool {
        let state = self.session.state();
        matches!(&*state.borrow(), OfState::Connected { generation, .. } if *generation == self.generation)
    }

    async fn catch_up(&mut self) -> Result<(), OfError> {
        if self.in_parts {
            // A large bundle has just been lost; its task will find out, and the next request waits for the bridge.
            return Err(OfError::NotConnected("the connection was lost".to_owned()));
        }
        let generation = self.session.wait_connected(CONNECT_WAIT).await?;
        if generation == self.generation { Ok(()) } else { self.synchronise(false).await }
    }

    /// Tells how many flows each table has, if that changed.
    pub(super) fn count_tables(&mut self) {
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
