//! From a plan to a changed cluster: what is whose turn, and the rollout of agents.

use antrea_crds::{AntreaInstallation, AntreaInstallationSpec, installation::PendingChange};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, Preconditions},
};

use super::{Context, Error, api_error};
use crate::{
    NAMESPACE,
    apply::{self, Applier, Planned},
    cluster::AgentNode,
    effective::Effective,
    events::Severity,
    object::{Key, Object, Stage},
    plan::{self, Action, Change, Class, Direction, Plan, class_of_config},
    preflight::Preflight,
    render::{self, AGENT, CONTROLLER, PREFLIGHT},
    rollout::{self, Step},
};

/// What came of carrying out a plan.
pub(super) struct Outcome {
    /// Changes that wait for something.
    pub(super) held: Vec<PendingChange>,
    /// Whether the controller's Deployment is the wanted one, rolled out.
    pub(super) controller_updated: bool,
    pub(super) rollout: Option<Step>,
}

impl Context {
    pub(super) async fn record_repairs(&self, cr: &AntreaInstallation, key: &Key, repairs: &[apply::Repair]) {
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
        let preflight = self.preflight(config, objects);
        let preflight = preflight.as_ref();
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
            let must_wait = must_wait || preflight.is_some_and(|seen| !may_replace(change, seen));
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
        let rollout = self.roll(cr, config, objects, preflight).await?;
        Ok(Outcome { held, controller_updated: self.controller_done(objects), rollout })
    }

    /// Whether the wanted controller is the one that runs, and it alone; `ready`: and it is ready.
    pub(super) fn controller_is(&self, objects: &[Object], ready: bool) -> bool {
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

    pub(super) fn agents(&self, config: &Effective) -> Vec<AgentNode> {
        self.shared.with(|state| state.cluster.agents(&config.agent.node_selector, &config.agent.tolerations))
    }

    /// What is known of the images of a change; none if none is under way.
    pub(super) fn preflight(&self, config: &Effective, objects: &[Object]) -> Option<Preflight> {
        let revision = revision_of(objects, PREFLIGHT)?;
        Some(self.shared.with(|state| Preflight::observe(revision, config, &state.cluster)))
    }

    /// Replaces one agent if it is time to.
    async fn roll(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        preflight: Option<&Preflight>,
    ) -> Result<Option<Step>, Error> {
        // Agents follow the DaemonSet as it is, which may be behind what is wanted.
        let Some(revision) = self.shared.with(|state| state.cluster.agent_revision.clone()) else {
            return Ok(None);
        };
        if revision_of(objects, AGENT) != Some(revision.as_str()) {
            return Ok(None);
        }
        let agents = self.agents(config);
        let mut step = rollout::next(&agents, &revision, Timestamp::now());
        if let Step::Replace { node, .. } = &step {
            let pod = agents.iter().find(|agent| agent.name == *node).and_then(|agent| agent.pod.as_ref());
            let other_image = pod.is_some_and(|pod| pod.image != config.agent_image);
            if other_image && preflight.is_some_and(|seen| !seen.is_ready_on(node)) {
                step = Step::Wait { node: node.clone(), again: None };
            }
        }
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

    /// Compares, plans and, unless paused, carries out.
    pub(super) async fn converge(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        paused: bool,
        running: Option<&str>,
        previous: Option<&AntreaInstallationSpec>,
    ) -> Result<Outcome, Error> {
        let mut owned = self.shared.with(|state| state.owned.clone());
        owned.retain(|key, _| !render::monitoring::is_monitoring(key));
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

/// Whether a change may be made as far as images are concerned. Where there is nothing yet, or nothing
/// restarts, there is nothing to lose.
fn may_replace(change: &Change, preflight: &Preflight) -> bool {
    match change.stage {
        _ if change.action != Action::Update || change.class == Class::Live => true,
        Stage::Controller => preflight.allows_controller(),
        Stage::Agents => preflight.allows_agents(),
        Stage::Crds | Stage::Base => true,
    }
}

/// Revision of the Pod template of a workload among `objects`.
pub(super) fn revision_of<'a>(objects: &'a [Object], name: &str) -> Option<&'a str> {
    objects.iter().filter(|object| object.name == name).find_map(render::revision)
}
