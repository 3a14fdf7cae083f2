//! One step: from what has changed to flows in the bridge.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use antrea_flows::{Change, Diff, Owner};
use antrea_runtime::{trace, trace_child};
use openflow::Flow;
use tokio::sync::watch;
use tracing::Instrument;

use super::{Ended, State};
use crate::dataplane::{Batch, DataplaneError, Failures};
use crate::policy::handle::PolicyError;
use antrea_enforce::pods;
use antrea_enforce::reconciler::Reconciler;

impl State {
    pub(super) async fn step<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reconciler) -> T + Send + 'static,
    ) -> Result<(T, Result<(), PolicyError>), Ended> {
        let (done, result) = self.step_with(work, Vec::new()).await?;
        Ok((done, result.map(drop)))
    }

    /// Does `work`, brings rules up to date with what it changed and with the pods, and pushes the flows, together
    /// with those of `pods`. The work is done on a thread that may block: with many policies it takes its time.
    pub(super) async fn step_with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reconciler) -> T + Send + 'static,
        pods: Vec<(Owner, Change)>,
    ) -> Result<(T, Result<Failures, PolicyError>), Ended> {
        let interfaces = self.site.as_mut().map(|site| {
            site.changes.mark_unchanged();
            let connected = (site.pods)();
            pods::arrange(self.prepared.pods.lock().values().cloned().collect(), connected)
        });
        let all = self.behind;
        let (done, outcome, everything, told, also) = self
            .with_reconciler(move |reconciler| {
                let done = work(reconciler);
                if let Some(interfaces) = interfaces {
                    reconciler.set_pods(interfaces);
                }
                let outcome = reconciler.reconcile(Instant::now());
                let everything = all.then(|| reconciler.flows());
                let told = (all || !outcome.policies.is_empty() || !outcome.diff.is_empty()).then(|| {
                    (reconciler.host_egress(), reconciler.isolation(), Arc::new(reconciler.logged()))
                });
                let also = told.is_some().then(|| (reconciler.askers(), Arc::new(reconciler.resets())));
                (done, outcome, everything, told, also)
            })
            .instrument(trace_child!("policy.compute"))
            .await?;
        self.doubts.add(outcome.doubts);
        if let Some((egress, isolation, logged)) = told {
            set(&self.egress, egress);
            set(&self.isolation, Some(isolation));
            set(&self.logged, logged);
        }
        let (askers, resets) = also.unzip();
        // Without all of its rules no pod is connected.
        let pods = if outcome.error.is_none() { pods } else { Vec::new() };
        // Also those whose flows were not taken before: of one that has gone since nothing else tells any more.
        self.unreported.extend(outcome.policies);
        let failures = match self.push(outcome.diff, everything, askers, pods).await {
            Ok(failures) => failures,
            Err(error) => {
                if !self.behind {
                    tracing::warn!(%error, "policy flows not installed, trying again");
                }
                self.behind = true;
                trace::fail(&trace::current(), &error);
                return Ok((done, Err(error.into())));
            }
        };
        if let Some(resets) = resets {
            set(&self.resets, resets);
        }
        self.report(all);
        if let Some(error) = outcome.error {
            tracing::error!(%error, "not all policies can be realised");
            trace::fail(&trace::current(), &error);
            return Ok((done, Err(error.into())));
        }
        Ok((done, Ok(failures)))
    }

    async fn push(
        &mut self,
        diff: Diff,
        everything: Option<Vec<Flow>>,
        askers: Option<BTreeSet<u32>>,
        pods: Vec<(Owner, Change)>,
    ) -> Result<Failures, DataplaneError> {
        let Some(site) = &self.site else { return Ok(Failures::new()) };
        let whole = everything.is_some();
        let mut batch = Batch::default();
        if let Some(flows) = everything {
            batch = batch.require(Owner::Policy, Change::flows(flows));
        } else if !diff.is_empty() {
            batch = batch.require(Owner::Policy, Change::Diff(diff));
        }
        let askers = askers.filter(|askers| (whole && !askers.is_empty()) || *askers != self.askers);
        if let Some(askers) = &askers {
            batch = batch.require(Owner::Dns, Change::flows(antrea_flows::dns(&site.pipeline, askers)));
        }
        let batch = pods.into_iter().fold(batch, |batch, (owner, change)| batch.with(owner, change));
        if batch.is_empty() {
            return Ok(Failures::new());
        }
        let failures = site.sink.apply(batch).await?;
        self.behind &= !whole;
        self.askers = askers.unwrap_or_else(|| std::mem::take(&mut self.askers));
        Ok(failures)
    }

    /// Puts what is in force on the board. A push of everything tells of all policies.
    fn report(&mut self, all: bool) {
        let mut policies = std::mem::take(&mut self.unreported);
        let (Some(reconciler), Some(_)) = (&self.reconciler, &self.site) else { return };
        if all {
            policies.extend(reconciler.cache.policies().filter(|name| !reconciler.refuses(name)).cloned());
        }
        if policies.is_empty() {
            return;
        }
        let found = policies.into_iter().filter_map(|name| {
            match (reconciler.cache.policy(&name), reconciler.cache.realizable(&name)) {
                (_, Some(policy)) => {
                    let mut policy = policy.clone();
                    if let Some(problem) = reconciler.problem(&policy) {
                        Arc::make_mut(&mut policy).problems.push(problem.to_owned());
                    }
                    Some((name, Some(policy)))
                }
                (None, None) => Some((name, None)),
                // The last report stands until the new form is in force.
                (Some(_), None) => None,
            }
        });
        self.board.update(found);
    }
}

fn set<T: PartialEq>(told: &watch::Sender<T>, now: T) {
    told.send_if_modified(|known| {
        let differs = *known != now;
        *known = now;
        differs
    });
}
