//! Brings the bridge from whatever it holds to the store, and carries differences out.

use std::collections::{BTreeSet, HashSet};

use antrea_flows::state::{Comparison, Found, Steps, Undo, key_of};
use antrea_flows::{BridgeStore, Change, Diff, Entry, Key, Owner};
use openflow::Message;
use openflow::multipart::FlowFilter;
use ovs::of::OfError;
use tokio::time::Instant;

use super::schedule::Finding;
use super::task::{CONNECT_WAIT, Pending, Task};
use super::{Batch, QUEUE, Request};

/// Messages that go without others being served in between; few in tests, so that small batches go in parts, too.
pub(super) const PART: usize = if cfg!(test) { 16 } else { 4096 };

/// What a large bundle that is under way is about.
#[derive(Debug)]
pub(super) struct InFlight {
    owners: BTreeSet<Owner>,
    /// What goes, and what somebody has given up or taken in the store only: refused, it is as it was.
    unsettled: HashSet<Key>,
}

impl InFlight {
    /// `None` if the difference is not large. `owners` are those that want it, as far as they are known, and `staged`
    /// what they changed.
    pub(super) fn of<'a>(
        store: &BridgeStore,
        diff: &Diff,
        owners: impl Iterator<Item = &'a Owner>,
        staged: impl Iterator<Item = &'a Undo>,
    ) -> Option<Self> {
        if diff.len() <= PART {
            return None;
        }
        let mut all: BTreeSet<Owner> = owners.cloned().collect();
        for entry in diff.puts() {
            for owner in store.owners_of(&entry.key()) {
                if !all.contains(owner) {
                    all.insert(owner.clone());
                }
            }
        }
        let gone = diff.deletes.iter().cloned();
        let unsettled = staged.flat_map(Undo::keys).cloned().chain(gone).collect();
        Some(Self { owners: all, unsettled })
    }

    /// Whether the batch has nothing to do with what is under way: it may be in the bridge before that, and either
    /// may be refused without the other.
    fn lets_pass(&self, store: &BridgeStore, batch: &Batch) -> bool {
        let free = |key: &Key| {
            !self.unsettled.contains(key)
                && !store.owners_of(key).iter().any(|owner| self.owners.contains(owner))
        };
        batch.changes().all(|(owner, change)| {
            let gone = match change {
                Change::Whole(_) => store.keys_of(owner).all(free),
                Change::Diff(diff) => diff.deletes.iter().all(free),
            };
            let puts =
                || change.puts().all(|entry| free(&entry.key()) && entry.references().iter().all(free));
            !self.owners.contains(owner) && gone && puts()
        })
    }
}

/// How many messages a batch may come to.
fn size(store: &BridgeStore, batch: &Batch) -> usize {
    let size = |(owner, change): (&Owner, &Change)| match change {
        Change::Whole(entries) => entries.len() + store.keys_of(owner).count(),
        Change::Diff(diff) => diff.len(),
    };
    batch.changes().map(size).sum()
}

/// A difference that was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Refusal {
    pub(super) error: OfError,
    /// The entry at fault, if it is known that nothing else is.
    pub(super) culprit: Option<Key>,
}

impl From<OfError> for Refusal {
    fn from(error: OfError) -> Self {
        let culprit = error.subject().and_then(key_of);
        Self { error, culprit }
    }
}

impl Task {
    /// Brings the bridge to the store. `expected` says that no difference should be found: one that is counts as
    /// drift.
    pub(super) async fn synchronise(&mut self, expected: bool) -> Result<(), OfError> {
        let begin = Instant::now();
        for (owner, entries) in std::mem::take(&mut self.refused) {
            // It may be taken now, by another version of Open vSwitch for instance.
            let change = Change::Whole(entries);
            if let Err(conflict) = self.store.stage([(&owner, &change)]) {
                tracing::error!(%owner, %conflict, "dropping what Open vSwitch had refused");
            }
        }
        let mut finding = Finding::Unknown;
        let result = self.compare(expected, &mut finding).await;
        let cost = begin.elapsed();
        self.metrics.verified(cost);
        self.schedule.compared(Instant::now(), cost, &finding);
        if let Some(health) = finding.health(&self.bridge) {
            self.reporter.update(|facts| facts.flows = health);
        }
        result
    }

    async fn compare(&mut self, mut expected: bool, finding: &mut Finding) -> Result<(), OfError> {
        let (mut differs, mut repaired) = (None, None);
        loop {
            let generation = self.session.wait_connected(CONNECT_WAIT).await?;
            expected &= generation == self.generation;
            let found = self.read().await?;
            let Comparison { diff, expired } = self.store.compare(&found);
            self.store.forget(&expired);
            self.count_tables();
            if diff.is_empty() {
                self.generation = generation;
                break;
            }
            let (flows, first) = (diff.len(), describe(&diff));
            if expected {
                tracing::warn!(flows, first, "the bridge differs from what was installed, repairing");
                self.metrics.drift(flows);
            } else {
                tracing::info!(flows, held = found.len(), "bringing the bridge up to date");
            }
            drop(found);
            // What is served meanwhile goes by the bridge as it will be.
            let before = std::mem::replace(&mut self.generation, generation);
            let in_flight = InFlight::of(&self.store, &diff, std::iter::empty(), std::iter::empty());
            let Err(refusal) = self.carry_out(diff, in_flight, Vec::new()).await else {
                if expected {
                    repaired = Some(Finding::Repaired { flows, first });
                }
                break;
            };
            let Refusal { error, culprit } = refusal;
            self.generation = if error.had_no_effect() { before } else { 0 };
            if !error.is_connection() {
                *finding = Finding::Differs { flows, first, error: error.to_string() };
            }
            if !culprit.is_some_and(|key| self.set_aside(&key, &error)) {
                return Err(error);
            }
            expected = false;
            differs = Some(std::mem::replace(finding, Finding::Unknown));
        }
        *finding = differs.or(repaired).unwrap_or(Finding::Same);
        Ok(())
    }

    async fn read(&self) -> Result<Found, OfError> {
        let (flows, groups, meters) =
            tokio::join!(self.session.flows(FlowFilter::all()), self.session.groups(), self.session.meters());
        let flows = flows?.into_iter().map(|entry| entry.flow).collect();
        Ok(Found { flows, groups: groups?, meters: meters? })
    }

    /// Leaves the owner out of whose entry the bridge refused, so that the others get theirs. Not where the safety
    /// of others rests on it: then everything stays as it is. Returns whether there was such an owner.
    fn set_aside(&mut self, culprit: &Key, error: &OfError) -> bool {
        let owners = self.store.owners_of(culprit).to_vec();
        if owners.is_empty() || owners.iter().any(Owner::is_vital) {
            return false;
        }
        for owner in owners {
            tracing::error!(%owner, %error, "left out of the bridge");
            let entries = self.store.of(&owner);
            if self.store.stage([(&owner, &Change::nothing())]).is_ok() {
                self.refused.insert(owner, entries);
            }
        }
        true
    }

    /// Carries a difference out: meters by themselves, all else in one bundle. `back` takes the meters back if the
    /// bundle is refused.
    pub(super) async fn carry_out(
        &mut self,
        diff: Diff,
        in_flight: Option<InFlight>,
        back: Vec<Message>,
    ) -> Result<(), Refusal> {
        if diff.is_empty() {
            return Ok(());
        }
        let timer = self.metrics.flow_ops(diff.adds.len(), diff.mods.len(), diff.deletes.len());
        let Steps { before, bundle, after } = diff.steps();
        let has_meters = !before.is_empty();
        let mut result = self.session.send_barriered(before).await.map_err(Refusal::from);
        if result.is_ok() {
            result = match in_flight {
                None => self.session.bundle(bundle).await.map_err(Refusal::from),
                Some(in_flight) => self.in_parts(bundle, &in_flight).await,
            };
        }
        if result.as_ref().is_err_and(|refusal| refusal.error.had_no_effect()) && has_meters {
            self.meters(back).await;
        }
        if result.is_ok() {
            self.meters(after).await;
        }
        timer.done(result.is_ok());
        self.count_tables();
        result
    }

    /// Sends changes of meters that nothing depends on; what fails is found by the next comparison.
    async fn meters(&mut self, messages: Vec<Message>) {
        if let Err(error) = self.session.send_barriered(messages).await {
            tracing::warn!(%error, "meters are not as they should be");
            self.schedule.suspect(Instant::now());
        }
    }

    async fn in_parts(&mut self, messages: Vec<Message>, in_flight: &InFlight) -> Result<(), Refusal> {
        let mut bundle = self.session.bundle_in_parts()?;
        let keys: Vec<Option<Key>> = messages.iter().map(key_of).collect();
        let mut messages = messages.into_iter();
        self.in_parts = true;
        let result = loop {
            let part: Vec<Message> = messages.by_ref().take(PART).collect();
            if part.is_empty() {
                break Ok(());
            }
            if let Err(error) = bundle.add(part).await {
                break Err(error);
            }
            self.serve_meanwhile(in_flight).await;
        };
        self.in_parts = false;
        let result = match result {
            Ok(()) => bundle.commit().await,
            Err(error) => Err(error),
        };
        result.map_err(|error| {
            let index = if let OfError::Rejected(rejection) = &error { rejection.index } else { None };
            let key = index.and_then(|index| keys.get(index).cloned().flatten());
            let Refusal { error, culprit } = error.into();
            Refusal { error, culprit: culprit.or(key) }
        })
    }

    /// Whether the batch has to be sent in parts.
    pub(super) fn is_large(&self, batch: &Batch) -> bool {
        size(&self.store, batch) > PART
    }

    /// Serves the requests that may pass what is under way; the others wait for it.
    async fn serve_meanwhile(&mut self, in_flight: &InFlight) {
        while self.backlog.len() < QUEUE
            && let Ok(request) = self.queue.try_recv()
        {
            self.backlog.push_back(request);
        }
        let (mut pending, mut room) = (Vec::new(), PART);
        for request in std::mem::take(&mut self.backlog) {
            match request {
                Request::Apply(batch, reply, span)
                    if size(&self.store, &batch) <= room
                        && self.in_step()
                        && in_flight.lets_pass(&self.store, &batch)
                        && !self.backlog.iter().any(|earlier| earlier.is_before(&batch)) =>
                {
                    room -= size(&self.store, &batch);
                    pending.push(Pending::new(batch, reply, span));
                }
                request => self.backlog.push_back(request),
            }
        }
        if !pending.is_empty() {
            self.flush(pending).await;
        }
    }
}

impl Request {
    /// Whether this has to be done before a later batch.
    fn is_before(&self, later: &Batch) -> bool {
        match self {
            Request::Apply(batch, ..) => {
                batch.changes().any(|(owner, _)| later.changes().any(|(other, _)| owner == other))
            }
            Request::Owners(_) | Request::Start(_) | Request::Verify(_) => false,
        }
    }
}

fn describe(diff: &Diff) -> String {
    let entry = |what: &str, entry: &Entry| format!("{what}: {entry}");
    if let Some(added) = diff.adds.first() {
        return entry("missing", added);
    }
    if let Some(changed) = diff.mods.first() {
        return entry("changed", changed);
    }
    diff.deletes.first().map_or_else(String::new, |key| format!("foreign: {key}"))
}
