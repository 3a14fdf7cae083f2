//! Native policies: how the index takes them in, and their status, from what was computed and what agents report.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use antrea_crds::{
    policy::{self as crds, Phase, PolicyCondition, PolicyStatus, STATIC_TIERS, Tier, TierSpec},
    standard as crds_standard,
};
use antrea_policy::{
    NativeView, crd,
    model::{IndexChange, PolicyChange, PolicyKind, PolicyReference},
};
use antrea_runtime::client::describe;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{PolicyHub, State, realization::Realization};

/// Pause before statuses are written, in which what else changes is gathered.
const GATHER: Duration = Duration::from_millis(500);
/// Writes at the same time.
const CONCURRENCY: usize = 4;
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Limit of one request to the API server.
const LIMIT: Duration = Duration::from_secs(5);
/// Interval at which the static Tiers are looked after.
const LOOK: Duration = Duration::from_secs(30);
/// Longest message of a condition, in octets.
const MAX_MESSAGE: usize = 2048;

mod inputs;

pub(super) use inputs::{ClusterGroup, ClusterPolicy, NamespacedGroup, NamespacedPolicy};

// === statuses ===

/// Namespace (empty where there is none, [`crd::STANDARD`] of the Kubernetes project's) and name.
type Object = (Box<str>, Box<str>);

/// Policies whose status may have to be written; at most one entry for each that there is.
#[derive(Default)]
pub(super) struct Stale {
    objects: BTreeSet<Object>,
    wake: Arc<Notify>,
}

impl Stale {
    fn add(&mut self, source: &PolicyReference) {
        if source.kind != PolicyKind::K8sNetworkPolicy {
            let standard = source.kind == PolicyKind::ClusterNetworkPolicy;
            let none = if standard { crd::STANDARD } else { "" };
            let namespace = source.namespace.as_deref().unwrap_or(none);
            self.objects.insert((namespace.into(), (*source.name).into()));
        }
    }

    /// A change of a policy is sent out.
    pub(super) fn follow(&mut self, change: &IndexChange) {
        if let IndexChange::Policy(_, change) = change {
            let (PolicyChange::Created { policy, .. }
            | PolicyChange::Updated { policy, .. }
            | PolicyChange::Deleted { policy }) = change;
            self.add(&policy.source);
        }
    }

    /// An agent reported of a policy.
    pub(super) fn reported(&mut self, source: &PolicyReference) {
        self.add(source);
        self.wake();
    }

    /// Takes in what was computed, and wakes the writer if there is something for it.
    pub(super) fn computed(&mut self, objects: BTreeSet<Object>) {
        self.objects.extend(objects);
        self.wake();
    }

    /// Names of the policies.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<String> {
        self.objects.iter().map(|(_, name)| name.to_string()).collect()
    }

    fn wake(&self) {
        if !self.objects.is_empty() {
            self.wake.notify_one();
        }
    }
}

/// What the status of a policy is to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    uid: Arc<str>,
    pub(super) phase: Phase,
    pub(super) generation: i64,
    pub(super) current: usize,
    pub(super) desired: usize,
    /// What of the spec is not in force.
    pub(super) errors: String,
    /// Nodes that failed, and why.
    pub(super) failures: String,
}

fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_MESSAGE));
    text
}

pub(super) fn told(view: &NativeView<'_>, realization: &Realization) -> Told {
    let policy = view.policy;
    let reports = realization.of(&policy.name);
    let of_this = reports.iter().filter(|report| report.generation == policy.generation);
    let (failed, realized): (Vec<_>, Vec<_>) = of_this.partition(|report| report.realization_failure);
    let (current, desired) = (realized.len(), view.span.len());
    let phase = if !view.errors.is_empty() || (!failed.is_empty() && current + failed.len() >= desired) {
        Phase::Failed
    } else if current >= desired {
        Phase::Realized
    } else {
        Phase::Realizing
    };
    let errors: Vec<String> =
        view.errors.iter().map(|error| format!("{}: {}", error.path, error.problem)).collect();
    let failures: Vec<String> =
        failed.iter().map(|report| format!("{}: {}", report.node_name, report.message)).collect();
    Told {
        uid: Arc::clone(&policy.source.uid),
        phase,
        generation: policy.generation,
        current,
        desired,
        errors: shorten(errors.join("; ")),
        failures: shorten(failures.join("; ")),
    }
}

/// A condition, which keeps its time until it turns.
fn condition(
    known: &[PolicyCondition],
    now: Timestamp,
    (type_, status): (&str, bool),
    reason: &str,
    message: &str,
) -> PolicyCondition {
    let status = if status { "True" } else { "False" };
    let before = known.iter().find(|condition| condition.type_ == type_ && condition.status == status);
    PolicyCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

impl Told {
    fn status(&self, known: &[PolicyCondition], now: Timestamp) -> PolicyStatus {
        let realizable = self.errors.is_empty();
        let failing = !self.failures.is_empty();
        let reason = if realizable { "Valid" } else { "PartNotInForce" };
        let failure = if failing { "NodesFailed" } else { "NoFailure" };
        PolicyStatus {
            phase: Some(self.phase),
            observed_generation: self.generation,
            current_nodes_realized: i32::try_from(self.current).unwrap_or(i32::MAX),
            desired_nodes_realized: i32::try_from(self.desired).unwrap_or(i32::MAX),
            conditions: vec![
                condition(known, now, ("Realizable", realizable), reason, &self.errors),
                condition(known, now, ("RealizationFailure", failing), failure, &self.failures),
            ],
        }
    }

    /// What the Kubernetes project's policies have, whose status has conditions alone.
    fn standard_conditions(&self, known: &[PolicyCondition], now: Timestamp) -> Vec<PolicyCondition> {
        let mut conditions = self.status(known, now).conditions;
        let realized = self.phase == Phase::Realized;
        let message = format!("{} of {} Nodes", self.current, self.desired);
        let reason = format!("{:?}", self.phase);
        conditions.push(condition(known, now, ("Realized", realized), &reason, &message));
        conditions
    }

    /// Conditions in the form of metav1.
    fn standard(&self, conditions: &[PolicyCondition]) -> Vec<Condition> {
        let condition = |known: &PolicyCondition| Condition {
            type_: known.type_.clone(),
            status: known.status.clone(),
            observed_generation: Some(self.generation),
            last_transition_time: known.last_transition_time.clone(),
            reason: known.reason.clone(),
            message: known.message.clone(),
        };
        conditions.iter().map(condition).collect()
    }
}

/// Writes statuses as they change. Never ends.
pub async fn write_statuses(hub: Arc<PolicyHub>, client: Client) {
    let (wake, _) = hub.read(|state, _| Arc::clone(&state.stale.wake));
    let mut written: BTreeMap<Object, (Told, Vec<PolicyCondition>)> = BTreeMap::new();
    // When those are tried again that could not be written. Nobody else waits for them.
    let mut later: BTreeMap<Object, Instant> = BTreeMap::new();
    loop {
        let next = later.values().min().copied();
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        tokio::time::sleep(GATHER).await;
        let now = Instant::now();
        let again: Vec<Object> =
            later.iter().filter(|(_, at)| **at <= now).map(|(object, _)| object.clone()).collect();
        for object in &again {
            later.remove(object);
        }
        let stale: Vec<(Object, Option<Told>)> = hub.update(|state, _| {
            let State { index, realization, stale, .. } = state;
            stale.objects.extend(again);
            let objects = std::mem::take(&mut stale.objects).into_iter();
            objects
                .filter(|object| !later.contains_key(object))
                .map(|object| {
                    let told = index.native(&object.0, &object.1).map(|view| told(&view, realization));
                    (object, told)
                })
                .collect()
        });
        let mut due = Vec::new();
        for (object, told) in stale {
            let Some(told) = told else {
                written.remove(&object);
                continue;
            };
            let known = written.get(&object);
            if known.is_none_or(|(last, _)| *last != told) {
                due.push((object.clone(), told, known.map(|(_, conditions)| conditions.clone())));
            }
        }
        let mut answers = futures::stream::iter(due)
            .map(|(object, told, known)| {
                let client = client.clone();
                async move {
                    let answer = tokio::time::timeout(LIMIT, write(&client, &object, &told, known)).await;
                    (object, told, answer)
                }
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((object, told, answer)) = answers.next().await {
            let name = &*object.1;
            match answer {
                Ok(Ok(conditions)) => {
                    tracing::debug!(namespace = &*object.0, name, phase = ?told.phase, "status written");
                    written.insert(object, (told, conditions));
                }
                // It is gone, or another has its name: the watch will tell.
                Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => {}
                Ok(Err(error)) => {
                    tracing::warn!(
                        namespace = &*object.0,
                        name,
                        error = describe(&error),
                        "status not written"
                    );
                    later.insert(object, Instant::now() + RETRY);
                }
                Err(_) => {
                    tracing::warn!(namespace = &*object.0, name, "status not written within {LIMIT:?}");
                    later.insert(object, Instant::now() + RETRY);
                }
            }
        }
    }
}

/// Writes the status; the conditions that it has then. `known` are those of the last write of this process.
async fn write(
    client: &Client,
    (namespace, name): &Object,
    told: &Told,
    known: Option<Vec<PolicyCondition>>,
) -> kube::Result<Vec<PolicyCondition>> {
    if namespace.is_empty() {
        let api: Api<crds::ClusterNetworkPolicy> = Api::all(client.clone());
        let known = match known {
            Some(known) => known,
            None => conditions(api.get(name).await, |policy| policy.status)?,
        };
        let (patch, status) = patch(told, &known);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        return Ok(status.conditions);
    }
    if &**namespace == crd::STANDARD {
        let api: Api<crds_standard::ClusterNetworkPolicy> = Api::all(client.clone());
        let known = match known {
            Some(known) => known,
            None => standard_conditions(api.get(name).await)?,
        };
        let conditions = told.standard_conditions(&known, Timestamp::now());
        let patch =
            json!({"metadata": {"uid": &*told.uid}, "status": {"conditions": told.standard(&conditions)}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        return Ok(conditions);
    }
    let api: Api<crds::NetworkPolicy> = Api::namespaced(client.clone(), namespace);
    let known = match known {
        Some(known) => known,
        None => conditions(api.get(name).await, |policy| policy.status)?,
    };
    let (patch, status) = patch(told, &known);
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(status.conditions)
}

/// The conditions that the object has.
fn standard_conditions(
    object: kube::Result<crds_standard::ClusterNetworkPolicy>,
) -> kube::Result<Vec<PolicyCondition>> {
    let known = match object {
        Ok(object) => object.status.unwrap_or_default().conditions,
        Err(kube::Error::SerdeError(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let condition = |known: Condition| PolicyCondition {
        type_: known.type_,
        status: known.status,
        last_transition_time: known.last_transition_time,
        reason: known.reason,
        message: known.message,
    };
    Ok(known.into_iter().map(condition).collect())
}

/// An object that does not decode has none that could be kept.
fn conditions<T>(
    object: kube::Result<T>,
    status: impl FnOnce(T) -> Option<PolicyStatus>,
) -> kube::Result<Vec<PolicyCondition>> {
    match object {
        Ok(object) => Ok(status(object).map(|status| status.conditions).unwrap_or_default()),
        Err(kube::Error::SerdeError(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Of this object and no other that has its name.
fn patch(told: &Told, known: &[PolicyCondition]) -> (Value, PolicyStatus) {
    let status = told.status(known, Timestamp::now());
    (json!({"metadata": {"uid": &*told.uid}, "status": &status}), status)
}

// === tiers ===

/// Makes the static Tiers and puts them right. What is computed does not need their objects; people look at them. Never
/// ends.
pub async fn keep_tiers(client: Client) {
    let api: Api<Tier> = Api::all(client);
    loop {
        for (name, priority, description) in STATIC_TIERS {
            match tokio::time::timeout(LIMIT, keep_tier(&api, name, priority, description)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(tier = name, error = describe(&error), "static Tier not kept")
                }
                Err(_) => tracing::warn!(tier = name, "static Tier not kept within {LIMIT:?}"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn keep_tier(api: &Api<Tier>, name: &str, priority: i32, description: &str) -> kube::Result<()> {
    match api.get_opt(name).await? {
        Some(tier) if tier.spec.priority == priority => Ok(()),
        Some(mut tier) => {
            tier.spec.priority = priority;
            api.replace(name, &PostParams::default(), &tier).await.map(|_| ())
        }
        None => {
            let spec = TierSpec { priority, description: Some(description.to_owned()) };
            match api.create(&PostParams::default(), &Tier::new(name, spec)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                other => other.map(|_| ()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the index takes for granted is what people see.
    #[test]
    fn the_static_tiers_are_those_of_the_index() {
        let shown = STATIC_TIERS.map(|(name, priority, _)| (name, priority));
        assert_eq!(shown, crd::STATIC_TIERS);
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn conditions_keep_their_time_until_they_turn() {
        let mut told = Told {
            uid: "u".into(),
            phase: Phase::Realized,
            generation: 2,
            current: 3,
            desired: 3,
            errors: String::new(),
            failures: String::new(),
        };
        let first = told.status(&[], at(1));
        let second = told.status(&first.conditions, at(2));
        assert_eq!(first, second);
        told.errors = "spec.tier: x".to_owned();
        let third = told.status(&second.conditions, at(3));
        let times: Vec<_> = third.conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect();
        assert_eq!(times, [3, 1]);
        assert_eq!((&*third.conditions[0].status, &*third.conditions[0].message), ("False", "spec.tier: x"));
    }
}
