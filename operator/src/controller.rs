//! The reconciler: reads, calls the pure functions, does what they say, writes the status.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use antrea_crds::{
    AntreaInstallation, AntreaInstallationSpec, AntreaInstallationStatus,
    installation::{ConditionType, ManagementState, PendingChange},
};
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod},
        networking::v1::ServiceCIDR,
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    runtime::{
        controller::{Action, Config, Controller},
        watcher,
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    FIELD_MANAGER, NAMESPACE,
    apply::{self, Applier, Planned},
    cluster::{AgentNode, Trouble},
    effective::{Effective, Facts, effective},
    events::{Recorder, Severity},
    metrics::OperatorMetrics,
    object::{Key, Object, Stage},
    plan::{self, Class, Direction, Plan, class_of_config},
    render::{self, AGENT, CONTROLLER},
    rollout::{self, Step},
    status::{self, Observation},
    watches::Shared,
};

mod uninstall;

/// Keeps an installation from vanishing before what it installed is removed.
pub const FINALIZER: &str = "operator.antrea.io/uninstall";

/// The API server's Service ranges are read again after this long.
const FACTS_TTL: Duration = Duration::from_secs(300);

/// Everything is looked at again after this long even if nothing seems to happen.
const RESYNC: Duration = Duration::from_secs(300);

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be compared, applied or removed.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// Something else that the API server refused.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
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
    /// Version of the operator.
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
    service_cidrs: Option<(Instant, Vec<IpNet>)>,
    failures: u32,
}

/// What came of carrying out a plan.
struct Outcome {
    /// Changes that wait for something.
    held: Vec<PendingChange>,
    /// Whether the controller's Deployment is the wanted one, rolled out.
    controller_updated: bool,
    rollout: Option<Step>,
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
            memory: Mutex::default(),
            client,
            shared,
            settings,
            metrics,
        }
    }

    fn memory<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known besides the spec.
    async fn facts(&self) -> Facts {
        let known = self.memory(|memory| memory.service_cidrs.clone());
        let service_cidrs = match known {
            Some((at, cidrs)) if at.elapsed() < FACTS_TTL => cidrs,
            known => match Api::<ServiceCIDR>::all(self.client.clone()).list(&ListParams::default()).await {
                Ok(list) => {
                    let cidrs = list.items.into_iter().filter_map(|item| item.spec?.cidrs).flatten();
                    let cidrs: Vec<IpNet> = cidrs.filter_map(|text| text.parse().ok()).collect();
                    self.memory(|memory| memory.service_cidrs = Some((Instant::now(), cidrs.clone())));
                    cidrs
                }
                // Older API servers have no such objects.
                Err(error) => {
                    tracing::debug!(%error, "service ranges are not known");
                    known.map(|(_, cidrs)| cidrs).unwrap_or_default()
                }
            },
        };
        let node_pod_cidrs = self.shared.with(|state| state.cluster.pod_cidrs());
        Facts { service_cidrs, node_pod_cidrs, ..self.settings.facts.clone() }
    }

    /// The configuration to have in effect, and why it is not the one that the spec asks for.
    async fn configuration(&self, cr: &AntreaInstallation) -> (Option<Effective>, Option<Trouble>) {
        let facts = self.facts().await;
        let running = cr.status.as_ref().and_then(|status| status.version.as_deref());
        let refused = match effective(&cr.spec, &facts) {
            Err(error) => Trouble::new("InvalidConfiguration", error.to_string()),
            Ok(config) => match plan::refuse(running, &config.version) {
                None => return (Some(config), None),
                Some(message) => Trouble::new("UpgradeRefused", message),
            },
        };
        // The last good one is in the status, complete: it needs no facts.
        let last = cr.status.as_ref().and_then(|status| status.computed.as_deref());
        let last = last.and_then(|spec| effective(spec, &Facts::default()).ok());
        (last, Some(refused))
    }

    async fn record_repairs(&self, cr: &AntreaInstallation, key: &Key, repairs: &[apply::Repair]) {
        if repairs.is_empty() {
            return;
        }
        self.metrics.drift.with_label_values(&[key.kind]).inc();
        let related = ObjectReference {
            kind: Some(key.kind.to_owned()),
            name: Some(key.name.clone()),
            namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
            ..ObjectReference::default()
        };
        for repair in repairs.iter().take(5) {
            let note = repair.note();
            tracing::warn!(object = %key, note, "drift repaired");
            self.recorder
                .record(&cr.object_ref(&()), Some(related.clone()), Severity::Warning, "DriftRepaired", &note)
                .await;
        }
    }

    /// Makes the changes whose turn it is, and takes the next step of the rollout.
    async fn carry_out(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        planned: Vec<Planned<'_>>,
        direction: Direction,
        applier: &mut Applier,
    ) -> Result<Outcome, Error> {
        let mut waiting = None;
        let mut held = Vec::new();
        for item in planned {
            let change = &item.change;
            // The later of controller and agents waits for the earlier to be done everywhere.
            let must_wait = match (direction, change.stage) {
                (Direction::Forward, Stage::Agents) => !self.controller_done(objects),
                (Direction::Back, Stage::Controller) => !self.agents_done(config, objects),
                _ => false,
            };
            if must_wait || waiting == Some(change.stage) {
                waiting = Some(change.stage);
                held.extend(Plan { changes: vec![change.clone()] }.pending());
                continue;
            }
            tracing::info!(object = %change.key, action = %change.action, class = %change.class, drift = change.drift, "applying");
            let repairs = applier.apply(&item).await?;
            self.metrics.changes.with_label_values(&[change.key.kind, &change.action.to_string()]).inc();
            self.record_repairs(cr, &change.key, &repairs).await;
            // What the watches say of it is out of date from here on.
            if change.stage == Stage::Controller {
                self.shared.with(|state| {
                    if let Some(controller) = state.cluster.controller.as_mut() {
                        controller.updated = false;
                    }
                });
            }
        }
        let rollout = self.roll(cr, config, objects).await?;
        Ok(Outcome { held, controller_updated: self.controller_done(objects), rollout })
    }

    /// Whether the wanted controller is the one that runs, and it alone; `ready`: and it is ready.
    fn controller_is(&self, objects: &[Object], ready: bool) -> bool {
        let revision = revision_of(objects, CONTROLLER);
        self.shared.with(|state| {
            let controller = state.cluster.controller.as_ref();
            controller
                .is_some_and(|c| c.updated && Some(c.revision.as_str()) == revision && (c.ready || !ready))
        })
    }

    fn controller_done(&self, objects: &[Object]) -> bool {
        self.controller_is(objects, true)
    }

    fn agents_done(&self, config: &Effective, objects: &[Object]) -> bool {
        let Some(revision) = revision_of(objects, AGENT) else { return false };
        let nodes = self.agents(config);
        self.daemon_set_is(revision) && rollout::next(&nodes, revision, Timestamp::now()) == Step::Done
    }

    fn daemon_set_is(&self, revision: &str) -> bool {
        self.shared.with(|state| state.cluster.agent_revision.as_deref() == Some(revision))
    }

    fn agents(&self, config: &Effective) -> Vec<AgentNode> {
        self.shared.with(|state| state.cluster.agents(&config.agent.node_selector, &config.agent.tolerations))
    }

    /// Replaces one agent if it is time to.
    async fn roll(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
    ) -> Result<Option<Step>, Error> {
        // Agents follow the DaemonSet as it is, which may be behind what is wanted.
        let Some(revision) = self.shared.with(|state| state.cluster.agent_revision.clone()) else {
            return Ok(None);
        };
        if revision_of(objects, AGENT) != Some(revision.as_str()) {
            return Ok(None);
        }
        let step = rollout::next(&self.agents(config), &revision, Timestamp::now());
        if let Step::Replace { node, pod, uid } = &step {
            let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
            let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            match api.delete(pod, &params).await {
                Ok(_) => {
                    self.metrics.replaced.inc();
                    let note = format!("replacing the agent on {node} (Pod {pod})");
                    self.recorder
                        .record(&cr.object_ref(&()), None, Severity::Normal, "ReplacingAgent", &note)
                        .await;
                }
                // It is gone already, or is another Pod of the same name: the watch will say.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(api_error(format!("delete Pod {NAMESPACE}/{pod}"))(source)),
            }
            // Until the watch says so itself, the Pod counts as going away.
            self.shared.with(|state| {
                if let Some(pod) = state.cluster.agent_pods.get_mut(pod).filter(|seen| seen.uid == *uid) {
                    pod.deleting = true;
                }
            });
        }
        Ok(Some(step))
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

    async fn reconcile(&self, cr: &AntreaInstallation) -> Result<Action, Error> {
        if cr.metadata.deletion_timestamp.is_some() {
            return self.uninstall(cr).await;
        }
        self.ensure_finalizer(cr).await?;
        let (config, refused) = self.configuration(cr).await;
        let paused = cr.spec.management_state == Some(ManagementState::Paused);
        let running = cr.status.as_ref().and_then(|status| status.version.clone());
        let computed = config.as_ref().map(Effective::to_spec);
        let previous = cr.status.as_ref().and_then(|status| status.computed.as_deref());

        let mut apply_error = None;
        let mut failed = None;
        let mut outcome = Outcome { held: Vec::new(), controller_updated: false, rollout: None };
        let objects = config.as_ref().map(render::objects).unwrap_or_default();
        if let Some(config) = &config {
            match self.converge(cr, config, &objects, paused, running.as_deref(), previous).await {
                Ok(done) => outcome = done,
                Err(error) => {
                    apply_error = Some(error.to_string());
                    failed = Some(error);
                }
            }
        }
        let nodes = config.as_ref().map(|config| self.agents(config)).unwrap_or_default();
        let (controller, controller_trouble, revision) = self.shared.with(|state| {
            let cluster = &state.cluster;
            (cluster.controller.clone(), cluster.controller_trouble(), cluster.agent_revision.clone())
        });
        // While the DaemonSet is not the wanted one, no agent is.
        let wanted = revision_of(&objects, AGENT);
        let revision = revision.map(|live| wanted.map_or(live, str::to_owned));
        let seen = Observation {
            generation: cr.metadata.generation,
            refused,
            apply_error,
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
            rollout: outcome.rollout.as_ref(),
            grace: self.settings.grace,
            now: Timestamp::now(),
        };
        let again =
            [status::look_again(&seen), wait_of(outcome.rollout.as_ref())].into_iter().flatten().min();
        let status = status::compose(cr.status.as_ref(), &seen);
        self.write_status(cr, status).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let again =
            again.and_then(|wait| Duration::try_from(wait).ok()).map(|wait| wait + Duration::from_millis(50));
        Ok(Action::requeue(again.unwrap_or(RESYNC).min(RESYNC)))
    }

    /// Compares, plans and, unless paused, carries out.
    async fn converge(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        paused: bool,
        running: Option<&str>,
        previous: Option<&AntreaInstallationSpec>,
    ) -> Result<Outcome, Error> {
        let owned = self.shared.with(|state| state.owned.clone());
        let direction = plan::direction(running, &config.version);
        let class = class_of_config(previous, &config.to_spec()).max(Class::Restart);
        let mut applier = self.applier.lock().await;
        let mut planned = applier.compare(objects, &owned, class).await?;
        let plan = Plan::new(planned.iter().map(|item| item.change.clone()).collect(), direction);
        if paused {
            let controller_updated = self.controller_done(objects);
            return Ok(Outcome { held: plan.pending(), controller_updated, rollout: None });
        }
        let order: Vec<Key> = plan.changes.iter().map(|change| change.key.clone()).collect();
        planned.sort_by_key(|item| order.iter().position(|key| *key == item.change.key));
        self.carry_out(cr, config, objects, planned, direction, &mut applier).await
    }
}

/// While paused, what is in effect is what was before.
fn computed_in_effect(
    paused: bool,
    computed: Option<AntreaInstallationSpec>,
    previous: Option<&AntreaInstallationSpec>,
) -> Option<AntreaInstallationSpec> {
    if paused { previous.cloned().or(computed) } else { computed }
}

fn wait_of(step: Option<&Step>) -> Option<SignedDuration> {
    match step {
        Some(Step::Wait { again, .. }) => *again,
        _ => None,
    }
}

fn revision_of<'a>(objects: &'a [Object], name: &str) -> Option<&'a str> {
    objects.iter().filter(|object| object.name == name).find_map(render::revision)
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
    let backoff = watcher::DefaultBackoff::default();
    let controller = Controller::new(api, watcher::Config::default())
        .with_config(Config::default().debounce(Duration::from_millis(100)).concurrency(1))
        .trigger_backoff(backoff)
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
