//! From a plan to a changed cluster: what is whose turn, and the rollout of agents.

use std::collections::BTreeSet;

use antrea_crds::{AntreaInstallation, AntreaInstallationSpec, installation::PendingChange};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, PostParams, Preconditions},
    core::{ApiResource, DynamicObject},
};

use super::{Context, Error, api_error, course::Going};
use crate::{
    NAMESPACE,
    apply::{self, Applier, Planned},
    cluster::AgentNode,
    effective::Effective,
    events::Severity,
    object::{DEPLOYMENT, Key, Object},
    plan::{self, Class, Plan, Progress, class_of_config},
    preflight::Preflight,
    render::{self, AGENT, CONTROLLER, PREFLIGHT},
    rollout::{Step, decide::Decision},
};

/// What came of carrying out a plan.
pub(super) struct Outcome {
    /// Changes that wait for something.
    pub(super) held: Vec<PendingChange>,
    /// Whether the controller's Deployment is the wanted one, rolled out.
    pub(super) controller_updated: bool,
    pub(super) rolled: Option<Rolled>,
}

/// An agent that was refused is tried again after this long.
const ADMISSION_AGAIN: SignedDuration = SignedDuration::from_secs(15);

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
        applier: &mut Applier,
        going: &Going,
    ) -> Result<Outcome, Error> {
        let direction = going.direction(cr, config);
        let may_start = going.back || going.policy.opens_in(Timestamp::now()).is_none();
        let preflight = self.preflight(config, objects);
        let preflight = preflight.as_ref();
        let mut waiting = None;
        let mut held = Vec::new();
        for item in planned {
            let change = &item.change;
            let progress = Progress {
                direction,
                controller_done: self.controller_done(objects),
                agents_done: self.agents_done(cr, config, objects, preflight, going),
                preflight,
                may_start,
            };
            if plan::must_wait(change, &progress) || waiting == Some(change.stage) {
                waiting = Some(change.stage);
                held.extend(Plan { changes: vec![change.clone()] }.pending());
                continue;
            }
            tracing::info!(object = %change.key, action = %change.action, class = %change.class, drift = change.drift, "applying");
            let before = self.doubt_controller(&change.key);
            let repairs = applier.apply(&item).await.inspect_err(|_| {
                if let Some(before) = before {
                    self.set_controller_updated(before);
                }
            })?;
            self.metrics.changes.with_label_values(&[change.key.kind, &change.action.to_string()]).inc();
            self.record_repairs(cr, &change.key, &repairs).await;
        }
        let rolled = self.roll(cr, config, objects, preflight, going).await?;
        Ok(Outcome { held, controller_updated: self.controller_done(objects), rolled })
    }

    /// What the watches say of the controller's Deployment is out of date once that is written, and of it alone: no
    /// event would follow the write of another object to say that it is up to date. Tells what they said.
    fn doubt_controller(&self, written: &Key) -> Option<bool> {
        (written.kind == DEPLOYMENT.kind).then(|| self.set_controller_updated(false)).flatten()
    }

    fn set_controller_updated(&self, updated: bool) -> Option<bool> {
        self.shared.with(|state| {
            let controller = state.cluster.controller.as_mut()?;
            Some(std::mem::replace(&mut controller.updated, updated))
        })
    }

    /// Whether the wanted controller is the one that runs, and it alone; `ready`: and it is ready.
    pub(super) fn controller_is(&self, objects: &[Object], ready: bool) -> bool {
        let revision = revision_of(objects, CONTROLLER);
        self.shared.with(|state| {
            let controller = state.cluster.controller_state();
            controller
                .is_some_and(|c| c.updated && Some(c.revision.as_str()) == revision && (c.ready || !ready))
        })
    }

    fn controller_done(&self, objects: &[Object]) -> bool {
        self.controller_is(objects, true)
    }

    fn agents_done(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        preflight: Option<&Preflight>,
        going: &Going,
    ) -> bool {
        let Some(revision) = revision_of(objects, AGENT) else { return false };
        self.daemon_set_is(revision) && self.decide(cr, config, revision, preflight, going).step == Step::Done
    }

    fn daemon_set_is(&self, revision: &str) -> bool {
        self.shared.with(|state| state.cluster.agent_revision.as_deref() == Some(revision))
    }

    /// What is known of the images of a change; none if none is under way.
    pub(super) fn preflight(&self, config: &Effective, objects: &[Object]) -> Option<Preflight> {
        let revision = revision_of(objects, PREFLIGHT);
        let now = Timestamp::now();
        let began = self.memory(|memory| {
            if memory.preflight.as_ref().map(|(revision, _)| revision.as_str()) != revision {
                memory.preflight = revision.map(|revision| (revision.to_owned(), now));
            }
            memory.preflight.as_ref().map(|(_, began)| *began)
        });
        let observe = |revision, began| {
            self.shared.with(|state| Preflight::observe(revision, config, &state.cluster, began, now))
        };
        Some(observe(revision?, began?))
    }

    /// Replaces one agent if it is time to.
    async fn roll(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        preflight: Option<&Preflight>,
        going: &Going,
    ) -> Result<Option<Rolled>, Error> {
        // Agents follow the DaemonSet as it is, which may be behind what is wanted.
        let Some(revision) = self.shared.with(|state| state.cluster.agent_revision.clone()) else {
            return Ok(None);
        };
        let Some(daemon_set) =
            objects.iter().find(|object| render::revision(object) == Some(revision.as_str()))
        else {
            return Ok(None);
        };
        let mut decision = self.decide(cr, config, &revision, preflight, going);
        let mut refused = None;
        match &decision.step {
            Step::Announce { .. } => {}
            Step::Replace { node, pod, uid } => {
                refused = self.admission(daemon_set, node).await?;
                if refused.is_none() {
                    self.take_away(cr, node, pod, uid).await?;
                } else {
                    let node = node.clone();
                    decision.step = Step::Wait { node, again: Some(ADMISSION_AGAIN) };
                }
            }
            // Why is there no Pod?
            Step::Wait { .. } | Step::Done => {
                let now = Timestamp::now();
                let vacant = |node: &&AgentNode| {
                    node.pod.is_none() && node.failing(now, self.settings.grace).is_some()
                };
                if let Some(node) = self.agents(config).iter().find(vacant) {
                    refused = self.admission(daemon_set, &node.name).await?;
                }
            }
        }
        let again = self.ask_for_probes(config, &revision, &decision, going).await?;
        Ok(Some(Rolled { decision, refused, again }))
    }

    /// Why the API server would not admit another agent for a Node, asked of it without making one.
    async fn admission(&self, daemon_set: &Object, node: &str) -> Result<Option<String>, Error> {
        let Some(pod) = render::pod_of(daemon_set, node) else { return Ok(None) };
        let pods = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &ApiResource::erase::<Pod>(&()),
        );
        let pod: DynamicObject = serde_json::from_value(pod)
            .map_err(|error| Error::Unknown(format!("Pod of {}: {error}", daemon_set.key())))?;
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match pods.create(&params, &pod).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if is_refusal(status.code) => Ok(Some(status.message.clone())),
            Err(source) => Err(api_error(format!("try a Pod for Node {node}"))(source)),
        }
    }

    async fn take_away(
        &self,
        cr: &AntreaInstallation,
        node: &str,
        pod: &str,
        uid: &str,
    ) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
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
            if let Some(pod) = state.cluster.agent_pods.get_mut(pod).filter(|seen| seen.uid == uid) {
                pod.deleting = true;
            }
        });
        Ok(())
    }

    /// Compares, plans and, unless paused, carries out.
    pub(super) async fn converge(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        objects: &[Object],
        paused: bool,
        previous: Option<&AntreaInstallationSpec>,
        going: &Going,
    ) -> Result<Outcome, Error> {
        let mut owned = self.shared.with(|state| state.owned.clone());
        owned.retain(|key, _| !render::is_extra(key));
        let direction = going.direction(cr, config);
        let class = class_of_config(previous, &config.to_spec()).max(Class::Restart);
        let mut applier = self.applier.lock().await;
        let mut planned = applier.compare(objects, &owned, class).await?;
        let plan = Plan::new(planned.iter().map(|item| item.change.clone()).collect(), direction);
        if paused {
            let controller_updated = self.controller_done(objects);
            return Ok(Outcome { held: plan.pending(), controller_updated, rolled: None });
        }
        let order: Vec<Key> = plan.changes.iter().map(|change| change.key.clone()).collect();
        planned.sort_by_key(|item| order.iter().position(|key| *key == item.change.key));
        self.carry_out(cr, config, objects, planned, &mut applier, going).await
    }
}

/// What the rollout did.
pub(super) struct Rolled {
    pub(super) decision: Decision,
    /// Why the API server would not admit another agent.
    pub(super) refused: Option<String>,
    /// When to look after probes again.
    pub(super) again: Option<SignedDuration>,
}

/// Nodes whose working agent is away, as the status has it.
pub(super) fn taken(cr: &AntreaInstallation) -> BTreeSet<String> {
    let nodes = cr.status.as_ref().and_then(|status| status.nodes.as_ref());
    nodes.map(|nodes| nodes.replacing.iter().cloned().collect()).unwrap_or_default()
}

/// Whether an answer says that the object is not wanted, rather than that the server cannot say.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400 | 403 | 422)
}

/// Revision of the Pod template of a workload among `objects`.
pub(super) fn revision_of<'a>(objects: &'a [Object], name: &str) -> Option<&'a str> {
    objects.iter().filter(|object| object.name == name).find_map(render::revision)
}

#[cfg(test)]
mod tests {
    use antrea_crds::installation::RolloutStatus;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cluster::{ControllerState, Node, Pod as Seen},
        controller::testing::{Answer, Kube, context, installation},
        effective::{Facts, effective},
        rollout::policy::Policy,
    };

    const PODS: &str = "/api/v1/namespaces/kube-system/pods";

    fn world(
        kube: &Kube,
        taken: &[&str],
        revision: &str,
    ) -> (Context, AntreaInstallation, Effective, Vec<Object>) {
        let facts = Facts { default_version: "v1.0.0".into(), ..Facts::default() };
        let config = effective(&AntreaInstallationSpec::default(), &facts).unwrap();
        let objects = render::objects(&config, &render::Surroundings::default());
        let mut cr = installation(json!({}));
        cr.status = Some(serde_json::from_value(json!({"nodes": {"replacing": taken}})).unwrap());
        let context = context(kube);
        context.shared.with(|state| {
            let cluster = &mut state.cluster;
            cluster.agent_revision = revision_of(&objects, AGENT).map(str::to_owned);
            let node = Node {
                labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
                taints: Vec::new(),
                reachable: true,
                pod_cidrs: Vec::new(),
                addresses: Vec::new(),
                created: Timestamp::UNIX_EPOCH,
            };
            cluster.nodes.insert("node1".into(), node);
            let pod = Seen {
                name: "old".into(),
                uid: "1".into(),
                node: "node1".into(),
                image: config.agent_image.clone(),
                revision: revision.into(),
                ready: true,
                since: Timestamp::UNIX_EPOCH,
                deleting: false,
                ended: false,
                trouble: None,
            };
            cluster.agent_pods.insert("old".into(), pod);
        });
        (context, cr, config, objects)
    }

    fn going() -> Going {
        Going {
            policy: Policy::new(None),
            record: RolloutStatus::default(),
            back: false,
            waiting: None,
            asked: None,
        }
    }

    async fn roll(kube: &Kube, taken: &[&str]) -> (Rolled, Vec<String>) {
        let (context, cr, config, objects) = world(kube, taken, "old");
        let rolled = context.roll(&cr, &config, &objects, None, &going()).await.unwrap().unwrap();
        let written = kube.written().into_iter().map(|(what, _)| what);
        (rolled, written.filter(|what| !what.contains("/events")).collect())
    }

    /// An operator that starts anew must know what it took away.
    #[tokio::test]
    async fn whose_turn_it_is_is_noted_before_anything_is_deleted() {
        let kube = Kube::default();
        let (rolled, written) = roll(&kube, &[]).await;
        assert_eq!(rolled.decision.step, Step::Announce { node: "node1".into() });
        assert_eq!(rolled.decision.taken, ["node1".to_owned()].into());
        assert!(written.is_empty(), "{written:?}");
    }

    #[tokio::test]
    async fn no_agent_is_deleted_before_another_would_be_admitted() {
        let kube = Kube::default();
        let created = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "antrea-agent-x"}});
        kube.on(PODS, Answer::Ok(created));
        kube.on(
            &format!("{PODS}/old"),
            Answer::Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        );
        let (rolled, written) = roll(&kube, &["node1"]).await;
        assert_eq!(written, [format!("POST {PODS} (dry)"), format!("DELETE {PODS}/old")]);
        assert_eq!((rolled.refused, rolled.decision.taken), (None, ["node1".to_owned()].into()));
        let body: Value = kube.written().remove(0).1;
        assert_eq!(body["spec"]["containers"][0]["name"], "antrea-agent");
        let wanted = body.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0");
        assert_eq!(wanted, Some(&json!("node1")));
    }

    #[tokio::test]
    async fn what_is_not_admitted_keeps_the_agent_that_runs() {
        let kube = Kube::default();
        kube.on(PODS, Answer::Fail(403, "pods is forbidden: exceeded quota: q, requested: memory=96Mi"));
        let (rolled, written) = roll(&kube, &["node1"]).await;
        assert_eq!(written, [format!("POST {PODS} (dry)")]);
        assert!(rolled.refused.unwrap().contains("exceeded quota: q"));
        assert_eq!(rolled.decision.step, Step::Wait { node: "node1".into(), again: Some(ADMISSION_AGAIN) });
    }

    /// Whether the controller is known to be up to date after `path`, gone since, was written again with `answer`.
    async fn updated_after(path: &str, answer: Answer) -> bool {
        let kube = Kube::default();
        let (context, cr, config, objects) = world(&kube, &[], "old");
        let chosen =
            |object: &&Object| object.name == CONTROLLER && object.kind == &DEPLOYMENT || at(object) == path;
        let objects: Vec<Object> = objects.iter().filter(chosen).cloned().collect();
        assert_eq!(objects.iter().filter(|object| object.kind == &DEPLOYMENT).count(), 1);
        for object in &objects {
            kube.on(&at(object), Answer::Ok(object.body.clone()));
        }
        kube.on(&format!("GET {path}"), Answer::Fail(404, "not found"));
        kube.on(&format!("PATCH {path}"), answer);
        let revision = revision_of(&objects, CONTROLLER).unwrap().to_owned();
        let controller = ControllerState { revision, updated: true, ready: true };
        context.shared.with(|state| state.cluster.controller = Some(controller));
        let outcome = context.converge(&cr, &config, &objects, false, None, &going()).await;
        let written = kube.written().into_iter().filter(|(what, _)| *what == format!("PATCH {path}"));
        assert_eq!((written.count(), outcome.map_or(0, |outcome| outcome.held.len())), (1, 0));
        context.controller_is(&objects, false)
    }

    fn at(object: &Object) -> String {
        let kind = object.kind;
        let namespace = if kind.namespaced { "namespaces/kube-system/" } else { "" };
        format!("/apis/{}/{}/{namespace}{}/{}", kind.group, kind.version, kind.plural, object.name)
    }

    /// No event says of the Deployment what a write of something else made doubtful.
    #[tokio::test]
    async fn only_a_written_deployment_is_waited_for() {
        let webhooks =
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/crdmutator.antrea.io";
        let deployment = "/apis/apps/v1/namespaces/kube-system/deployments/antrea-controller";
        let written = |kind, name| {
            let version = if kind == "Deployment" { "apps/v1" } else { "admissionregistration.k8s.io/v1" };
            Answer::Ok(json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}}))
        };
        let repaired = written("MutatingWebhookConfiguration", "crdmutator.antrea.io");
        assert!(updated_after(webhooks, repaired).await);
        assert!(!updated_after(deployment, written("Deployment", "antrea-controller")).await);
        assert!(updated_after(deployment, Answer::Fail(422, "no")).await, "nothing was written");
    }

    /// A server that cannot say has not said yes.
    #[tokio::test]
    async fn no_answer_is_no_admission() {
        let kube = Kube::default();
        kube.on(PODS, Answer::Fail(503, "no"));
        let (context, cr, config, objects) = world(&kube, &["node1"], "old");
        assert!(
            context
                .roll(&cr, &config, &objects, None, &going())
                .await
                .is_err_and(|error| error.is_transient())
        );
        assert!(!kube.written().iter().any(|(what, _)| what.starts_with("DELETE")));
    }

    /// "NoPod" alone does not tell whom to ask.
    #[tokio::test]
    async fn a_pod_that_nobody_makes_has_a_cause() {
        let kube = Kube::default();
        kube.on(PODS, Answer::Fail(403, "exceeded quota: q"));
        let (context, cr, config, objects) = world(&kube, &[], "old");
        context.shared.with(|state| state.cluster.agent_pods.clear());
        let rolled = context.roll(&cr, &config, &objects, None, &going()).await.unwrap().unwrap();
        assert_eq!(rolled.refused, None, "not yet");
        context.shared.with(|state| state.cluster.started = Timestamp::UNIX_EPOCH);
        let rolled = context.roll(&cr, &config, &objects, None, &going()).await.unwrap().unwrap();
        assert_eq!(rolled.refused.as_deref(), Some("exceeded quota: q"));
    }
}
