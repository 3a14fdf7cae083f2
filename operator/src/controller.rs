//! The reconciler: reads, calls the pure functions, does what they say, writes the status.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use antrea_crds::{
    AntreaInstallation, AntreaInstallationSpec, AntreaInstallationStatus,
    installation::{ConditionType, ManagementState},
};
use antrea_runtime::client::{WatchBackoff, describe};
use futures::StreamExt;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        controller::{Action, Config, Controller},
        watcher,
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    FIELD_MANAGER,
    apply::{self, Applier},
    effective::{Effective, Facts},
    events::{Recorder, Severity},
    metrics::OperatorMetrics,
    openshift::Platform,
    plan::{Class, Direction},
    preflight,
    render::{self, AGENT, Delivery},
    rollout::{Proven, Step, gate::Hold},
    status::{self, Observation},
    watches::Shared,
};

mod converge;
mod course;
mod facts;
mod monitoring;
mod openshift;
mod proposal;
#[cfg(test)]
pub(crate) mod testing;
mod turns;
mod uninstall;

use converge::{Outcome, revision_of};
use facts::{Wanted, last_good};

/// Transient failures in a row that are not told in the status.
const TRANSIENT: u32 = 3;

/// Everything is looked at again after this long even if nothing seems to happen.
const RESYNC: Duration = Duration::from_secs(300);

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be compared, applied or removed.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// Something else that the API server refused.
    #[error("{what}: {}", describe(source))]
    Api {
        /// What was tried.
        what: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// Something that has to be known before anything can be decided is not.
    #[error("{0}")]
    Unknown(String),
}

impl Error {
    /// Whether trying again may help although nothing changes: no answer, a conflict, an overloaded or
    /// starting API server.
    fn is_transient(&self) -> bool {
        let source = match self {
            Self::Apply(error) => &error.source,
            Self::Api { source, .. } => source,
            Self::Unknown(_) => return false,
        };
        match source {
            kube::Error::Api(status) => status.code >= 500 || matches!(status.code, 404 | 409 | 429),
            _ => true,
        }
    }
}

fn api_error(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    |source| Error::Api { what, source }
}

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Facts that do not change while it runs; the rest is filled in from the cluster.
    pub facts: Facts,
    /// Who brings what is not the operator's to bring.
    pub delivery: Delivery,
    pub operator_version: String,
    /// How long a trouble lasts before it counts.
    pub grace: SignedDuration,
}

/// What reconciliations share.
pub struct Context {
    client: Client,
    shared: Shared,
    settings: Settings,
    metrics: OperatorMetrics,
    recorder: Recorder,
    applier: tokio::sync::Mutex<Applier>,
    memory: Mutex<Memory>,
}

/// What is remembered from one reconciliation to the next; after a restart it is found out again.
#[derive(Default)]
struct Memory {
    service_cidrs: Option<facts::KnownRanges>,
    failures: u32,
    monitoring_failures: u32,
    /// Agents that have worked.
    proven: Proven,
    /// Since when that is kept.
    since: Timestamp,
    /// Since when probes are waited for.
    probes: BTreeMap<String, Timestamp>,
    /// What the cluster was found to be, and when.
    platform: Option<(Instant, Option<Platform>)>,
    /// Revision of the images that are being fetched, and since when.
    preflight: Option<(String, Timestamp)>,
}

impl Context {
    /// `instance` names this process in Events.
    pub fn new(
        client: Client,
        shared: Shared,
        settings: Settings,
        metrics: OperatorMetrics,
        instance: &str,
    ) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), instance),
            applier: tokio::sync::Mutex::new(Applier::new(client.clone())),
            memory: Mutex::new(Memory { since: Timestamp::now(), ..Memory::default() }),
            client,
            shared,
            settings,
            metrics,
        }
    }

    fn memory<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write_status(
        &self,
        cr: &AntreaInstallation,
        status: AntreaInstallationStatus,
    ) -> Result<(), Error> {
        self.metrics.show(&status);
        if cr.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.announce(cr, &status).await;
        let body = json!({
            "apiVersion": AntreaInstallation::api_version(&()),
            "kind": AntreaInstallation::kind(&()),
            "metadata": {"name": cr.name_any()},
            "status": status,
        });
        let api = Api::<AntreaInstallation>::all(self.client.clone());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(&cr.name_any(), &params, &Patch::Apply(&body))
            .await
            .map_err(api_error("write status"))?;
        Ok(())
    }

    /// Events for conditions that turned.
    async fn announce(&self, cr: &AntreaInstallation, status: &AntreaInstallationStatus) {
        let before = cr.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        for condition in &status.conditions {
            let old = before.iter().find(|old| old.type_ == condition.type_);
            let turned = old.is_none_or(|old| {
                old.status != condition.status || condition.status == "True" && old.reason != condition.reason
            });
            let (severity, worth_it) = match (condition.type_, condition.status.as_str()) {
                (ConditionType::Degraded, "True") => (Severity::Warning, true),
                (ConditionType::Degraded, _) | (ConditionType::Available, "True") => {
                    (Severity::Normal, old.is_some())
                }
                (ConditionType::Available, _) => {
                    (Severity::Warning, old.is_some_and(|old| old.status == "True"))
                }
                (ConditionType::Progressing, _) => (Severity::Normal, true),
            };
            if turned && worth_it {
                tracing::info!(condition = ?condition.type_, status = condition.status, reason = condition.reason, message = condition.message);
                self.recorder
                    .record(&cr.object_ref(&()), None, severity, &condition.reason, &condition.message)
                    .await;
            }
        }
    }

    /// Whether a failure is not told yet: an API server that restarts is no reason to call anybody.
    fn may_pass(&self, error: &Error) -> bool {
        error.is_transient() && self.memory(|memory| memory.failures) < TRANSIENT
    }

    async fn reconcile(&self, cr: &AntreaInstallation) -> Result<Action, Error> {
        if cr.metadata.deletion_timestamp.is_some() {
            return self.uninstall(cr).await;
        }
        self.ensure_finalizer(cr).await?;
        let mut apply_error = None;
        let mut failed = None;
        let mut wanted = match self.wanted(cr).await {
            Ok(Some(wanted)) => Some(wanted),
            Ok(None) => return Ok(Action::requeue(Duration::from_millis(200))),
            Err(error) if self.may_pass(&error) => return Err(error),
            // What runs goes on, and nothing is applied.
            Err(error) => {
                apply_error = Some(error.to_string());
                failed = Some(error);
                None
            }
        };
        let going = self.course(cr, &mut wanted);
        let Wanted { config, refused, around } = wanted.unwrap_or_else(|| Wanted {
            config: last_good(cr),
            refused: None,
            around: self.known_surroundings(),
        });
        let paused = cr.spec.management_state == Some(ManagementState::Paused);
        let computed = config.as_ref().map(Effective::to_spec);
        let previous = cr.status.as_ref().and_then(|status| status.computed.as_deref());

        let mut outcome = Outcome { held: Vec::new(), controller_updated: false, rolled: None };
        let mut objects = config.as_ref().map(|config| render::objects(config, &around)).unwrap_or_default();
        if let Some(config) = &config
            && self.shared.with(|state| preflight::is_needed(config, &state.cluster))
        {
            objects.push(render::preflight(config));
        }
        if let Some(config) = &config
            && failed.is_none()
        {
            self.prepare_openshift(config, &around, paused).await;
            match self.converge(cr, config, &objects, paused, previous, &going).await {
                Ok(done) => outcome = done,
                Err(error) if self.may_pass(&error) => return Err(error),
                Err(error) => {
                    apply_error = Some(error.to_string());
                    failed = Some(error);
                }
            }
        }
        if let Some(asked) = going.asked.as_ref().filter(|_| going.waiting.is_some() && failed.is_none()) {
            let objects = render::objects(asked, &around);
            match self.preview(asked, &objects, previous, Direction::Forward).await {
                Ok(held) => outcome.held = held,
                Err(error) if self.may_pass(&error) => return Err(error),
                Err(error) => {
                    apply_error = Some(error.to_string());
                    failed = Some(error);
                }
            }
        }
        let mut extras = monitoring::Unfinished::default();
        if let Some(config) = &config
            && failed.is_none()
        {
            extras = self.converge_monitoring(cr, config, paused).await;
            outcome.held.append(&mut extras.held);
        }
        let nodes = config.as_ref().map(|config| self.agents(config)).unwrap_or_default();
        let (controller, controller_trouble, revision) = self.shared.with(|state| {
            let cluster = &state.cluster;
            (cluster.controller_state(), cluster.controller_trouble(), cluster.agent_revision.clone())
        });
        let preflight = config.as_ref().and_then(|config| self.preflight(config, &objects));
        // While the DaemonSet is not the wanted one, no agent is.
        let wanted = revision_of(&objects, AGENT);
        let revision = revision.map(|live| wanted.map_or(live, str::to_owned));
        let rolled = outcome.rolled.as_ref();
        let step = rolled.map(|rolled| &rolled.decision.step);
        // What was noted stands for as long as nobody looks.
        let taken = rolled.map_or_else(|| converge::taken(cr), |rolled| rolled.decision.taken.clone());
        let not_admitted = rolled.and_then(|rolled| rolled.refused.clone());
        let new_controller = controller_trouble.clone().filter(|_| self.controller_is(&objects, false));
        let (record, stuck) = self.remember(cr, config.as_ref(), &going, rolled, new_controller);
        let back = record.failed.as_ref().is_some_and(|failed| failed.rolled_back);
        if back && !going.back {
            self.metrics.rollbacks.inc();
        }
        let closed = going.policy.opens_in(Timestamp::now()).map(Hold::Window);
        let closed = closed.filter(|_| !going.back && !outcome.held.is_empty());
        let idle = paused || going.waiting.is_some();
        let restarts = outcome.held.iter().any(|change| change.class != Class::Live.to_string());
        let planned_waves =
            if idle && restarts { self.waves(&nodes, &going.policy).planned() } else { Vec::new() };
        // Nothing has begun while nobody acts.
        let before = cr.status.as_ref().and_then(|status| status.rollout.clone()).unwrap_or_default();
        let seen = Observation {
            generation: cr.metadata.generation,
            refused,
            apply_error,
            monitoring_error: extras.error,
            paused,
            pending: outcome.held,
            computed: computed_in_effect(paused, computed, previous),
            operator_version: &self.settings.operator_version,
            controller: controller.as_ref(),
            controller_current: self.controller_is(&objects, false),
            controller_updated: outcome.controller_updated,
            controller_trouble,
            nodes: &nodes,
            revision: revision.as_deref(),
            rollout: step,
            taken: &taken,
            not_admitted,
            preflight: preflight.as_ref(),
            record: if paused { before } else { record },
            planned_waves,
            proposal: self.proposal(cr).await,
            waiting: going.waiting.as_ref(),
            hold: rolled.and_then(|rolled| rolled.decision.gate.hold.as_ref()).or(closed.as_ref()),
            probed: rolled.and_then(|rolled| rolled.decision.probed.as_ref()),
            stuck,
            grace: self.settings.grace,
            now: Timestamp::now(),
        };
        let stale = self.shared.with(|state| state.cluster.next_stale(seen.now));
        let gate = rolled.and_then(|rolled| rolled.decision.gate.again());
        let window = going.policy.opens_in(seen.now);
        let overdue = going.overdue(&seen);
        let probes = rolled.and_then(|rolled| rolled.again);
        let again = [status::look_again(&seen), wait_of(step), stale, gate, window, overdue, probes];
        let again = again.into_iter().flatten().min();
        let status = status::compose(cr.status.as_ref(), &seen);
        let report = self.report_openshift(&around, &status).await;
        self.write_status(cr, status).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let again =
            again.and_then(|wait| Duration::try_from(wait).ok()).map(|wait| wait + Duration::from_millis(50));
        let again = [again, extras.again, report].into_iter().flatten().min();
        Ok(Action::requeue(again.unwrap_or(RESYNC).min(RESYNC)))
    }
}

/// While paused, what is in effect is what was before; so it is when nothing can be computed.
fn computed_in_effect(
    paused: bool,
    computed: Option<AntreaInstallationSpec>,
    previous: Option<&AntreaInstallationSpec>,
) -> Option<AntreaInstallationSpec> {
    let previous = || previous.cloned();
    if paused { previous().or(computed) } else { computed.or_else(previous) }
}

fn wait_of(step: Option<&Step>) -> Option<SignedDuration> {
    match step {
        Some(Step::Wait { again, .. }) => *again,
        // The change of the status brings it back; this is for when that is lost.
        Some(Step::Announce { .. }) => Some(SignedDuration::from_secs(1)),
        _ => None,
    }
}

/// Reconciles until `shutdown`.
///
/// # Errors
/// Never, but its caller's tasks all may.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
    let api = Api::<AntreaInstallation>::all(context.client.clone());
    let shared = context.shared.clone();
    let changes = futures::stream::unfold(shared, |shared| async move {
        shared.changed().await;
        Some(((), shared))
    });
    let controller = Controller::new(api, watcher::Config::default())
        .with_config(Config::default().debounce(Duration::from_millis(100)).concurrency(1))
        // A definition that is made anew is looked at within seconds.
        .trigger_backoff(WatchBackoff::default())
        .reconcile_all_on(changes)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, retry, context);
    controller
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "reconciliation");
            }
        })
        .await;
    Ok(())
}

async fn reconcile(cr: Arc<AntreaInstallation>, context: Arc<Context>) -> Result<Action, Error> {
    let start = Instant::now();
    let result = context.reconcile(&cr).await;
    let outcome = if result.is_ok() { "ok" } else { "error" };
    context.metrics.reconcile_seconds.with_label_values(&[outcome]).observe(start.elapsed().as_secs_f64());
    context.memory(|memory| memory.failures = if result.is_ok() { 0 } else { memory.failures + 1 });
    result
}

/// One second after the first failure, twice as long after each further one, at most a minute.
#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn retry(cr: Arc<AntreaInstallation>, error: &Error, context: Arc<Context>) -> Action {
    let failures = context.memory(|memory| memory.failures);
    let delay = Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(60));
    tracing::warn!(name = cr.name_any(), error = %error, ?delay, "reconciliation failed");
    Action::requeue(delay)
}

#[cfg(test)]
mod tests {
    use antrea_crds::installation::{CLEAN_FINALIZER, FINALIZER};
    use kube::core::Status;

    use super::*;
    use crate::controller::testing::{Answer, Kube, context, installation};

    /// Somebody's first three failures are nobody's concern; then they are told, and still nothing is planned.
    #[tokio::test]
    async fn a_list_that_fails_changes_nothing_and_is_told() {
        const CR: &str = "/apis/operator.antrea.io/v1alpha1/antreainstallations/default/status";
        let kube = Kube::default();
        kube.on("/apis/networking.k8s.io/v1/servicecidrs", Answer::Fail(500, "etcd is away"));
        let mut cr = installation(json!({}));
        cr.metadata.finalizers = Some([FINALIZER, CLEAN_FINALIZER].map(str::to_owned).to_vec());
        cr.status = Some(serde_json::from_value(json!({"computed": {"version": "v1.0.0"}})).unwrap());
        kube.on(CR, Answer::Ok(serde_json::to_value(&cr).unwrap()));
        let context = Arc::new(context(&kube));
        for _ in 0..TRANSIENT {
            assert!(reconcile(Arc::new(cr.clone()), Arc::clone(&context)).await.is_err());
        }
        assert!(kube.written().is_empty(), "{:?}", kube.written());
        assert!(reconcile(Arc::new(cr.clone()), Arc::clone(&context)).await.is_err());
        let mut written = kube.written();
        written.retain(|(what, _)| !what.contains("/events"));
        assert_eq!(written.len(), 1, "{written:?}");
        assert_eq!(written[0].0, format!("PATCH {CR}"));
        let status = &written[0].1["status"];
        assert_eq!(status["message"], "list ServiceCIDRs: etcd is away");
        assert_eq!(status["computed"]["version"], "v1.0.0", "what was in effect is");
    }

    #[test]
    fn what_was_in_effect_is_not_forgotten() {
        let spec = |version: &str| AntreaInstallationSpec {
            version: Some(version.to_owned()),
            ..AntreaInstallationSpec::default()
        };
        let (old, new) = (spec("v1.0.0"), spec("v2.0.0"));
        assert_eq!(computed_in_effect(false, Some(new.clone()), Some(&old)), Some(new.clone()));
        assert_eq!(computed_in_effect(false, None, Some(&old)), Some(old.clone()), "it cannot be told");
        assert_eq!(computed_in_effect(true, Some(new), Some(&old)), Some(old));
        assert_eq!(computed_in_effect(false, None, None), None);
    }

    #[test]
    fn only_what_may_pass_by_itself_is_transient() {
        let error = |code| {
            let status = Status { code, ..Status::failure("x", "y") };
            api_error("x")(kube::Error::Api(Box::new(status)))
        };
        for (code, transient) in
            [(500, true), (503, true), (409, true), (429, true), (400, false), (403, false), (422, false)]
        {
            assert_eq!(error(code).is_transient(), transient, "{code}");
        }
    }
}
