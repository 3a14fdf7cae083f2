//! From what is observed to what is told: conditions, counts and one line for people.
//!
//! Available, Progressing and Degraded are independent of each other. A trouble counts as failing only
//! once it has lasted for a grace period, so that a restart is not an incident; a Node that is lost is the
//! cluster's trouble, not ours.

use std::collections::BTreeSet;

use antrea_crds::installation::{
    AntreaInstallationSpec, AntreaInstallationStatus, ConditionType, FailingNode, InstallationCondition,
    NodeCounts, PendingChange, PlannedWave, Proposal, RolloutStatus,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    cluster::{AgentNode, ControllerState, Trouble, first_few, shorten},
    preflight::{Missing, Preflight},
    rollout::{
        Step,
        decide::Failure,
        gate::Hold,
        progress::{Waiting, whole_seconds},
    },
};

mod change;

use change::{failed, held, taken_back, waits};

/// Failing Nodes that are listed in the status.
const LISTED: usize = 10;
/// Failing Nodes that are named in a message.
const NAMED: usize = 3;

/// Everything that the status is made of.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// Generation of the spec that was read.
    pub generation: Option<i64>,
    /// Why that spec cannot be used: reason and message.
    pub refused: Option<Trouble>,
    /// Why it could not be applied.
    pub apply_error: Option<String>,
    /// Why objects for Prometheus and Grafana are not as they should be. The network does not depend on them.
    pub monitoring_error: Option<String>,
    /// Whether the installation is paused.
    pub paused: bool,
    /// Changes that are held back.
    pub pending: Vec<PendingChange>,
    /// Configuration in effect, if there ever was one.
    pub computed: Option<AntreaInstallationSpec>,
    pub operator_version: &'a str,
    /// The controller's Deployment, if it is there.
    pub controller: Option<&'a ControllerState>,
    /// Whether the controller's Pods are all of the wanted revision.
    pub controller_current: bool,
    /// Whether, besides, the controller is ready.
    pub controller_updated: bool,
    /// What is wrong with the controller's Pod, and since when.
    pub controller_trouble: Option<(Trouble, Timestamp)>,
    /// Nodes that shall run an agent.
    pub nodes: &'a [AgentNode],
    /// Revision that agents shall have.
    pub revision: Option<&'a str>,
    /// What the rollout does next; none if agents are not its concern now.
    pub rollout: Option<&'a Step>,
    /// Nodes whose working agent is away for a change.
    pub taken: &'a BTreeSet<String>,
    /// Why the API server would not admit another agent.
    pub not_admitted: Option<String>,
    /// What is known of the images of a change that is under way.
    pub preflight: Option<&'a Preflight>,
    /// The order of Nodes of a change that is only looked at.
    pub planned_waves: Vec<PlannedWave>,
    /// What a spec would change that is only asked about.
    pub proposal: Option<Proposal>,
    /// What is remembered of the change.
    pub record: RolloutStatus,
    /// Why the spec is not in effect yet.
    pub waiting: Option<&'a Waiting>,
    /// Why no other Node starts.
    pub hold: Option<&'a Hold>,
    /// A Node whose probes have failed so far, and how.
    pub probed: Option<&'a (String, Trouble)>,
    /// Node that does not come back while a change is taken back, and why.
    pub stuck: Option<Failure>,
    /// How long a trouble lasts before it counts.
    pub grace: SignedDuration,
    /// The time.
    pub now: Timestamp,
}

/// One verdict: status, reason, message.
struct Verdict(bool, String, String);

impl Verdict {
    fn new(status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self(status, reason.to_owned(), message.into())
    }
}

/// The status after `previous`.
pub fn compose(previous: Option<&AntreaInstallationStatus>, seen: &Observation) -> AntreaInstallationStatus {
    let previous = previous.cloned().unwrap_or_default();
    let target = seen.computed.as_ref().and_then(|spec| spec.version.clone());
    let counts = counts(seen);
    let done = is_done(seen, &counts, previous.version.is_none());
    let version = if done { target.clone() } else { previous.version.clone() };
    let was_available = condition_is(&previous, ConditionType::Available);

    let degraded = degraded(seen, &counts);
    let progressing = progressing(seen, &counts, done, previous.version.as_deref(), target.as_deref());
    let available = available(seen, &counts, was_available);
    let message = match (&degraded, &progressing, &available) {
        (Verdict(true, _, message), ..) => message,
        (_, Verdict(_, _, message), _) if seen.paused => message,
        (_, Verdict(true, _, message), _) | (_, _, Verdict(_, _, message)) => message,
    }
    .clone();
    let verdicts = [
        (ConditionType::Available, available),
        (ConditionType::Progressing, progressing),
        (ConditionType::Degraded, degraded),
    ];
    let conditions =
        verdicts.into_iter().map(|(type_, verdict)| condition(&previous, seen, type_, verdict)).collect();
    // While a spec is refused, taken back or only looked at, the one that is applied is an earlier one.
    let applied = seen.refused.is_none()
        && seen.apply_error.is_none()
        && seen.waiting.is_none()
        && !taken_back(seen)
        && (!seen.paused || seen.pending.is_empty());
    let mut record = seen.record.clone();
    if done {
        record = RolloutStatus {
            done: true,
            newest_version: target.clone().unwrap_or_default(),
            wave: None,
            wave_ended: None,
            turns: Vec::new(),
            ..record
        };
    }
    AntreaInstallationStatus {
        observed_generation: if applied { seen.generation } else { previous.observed_generation },
        version,
        target_version: target,
        operator_version: Some(seen.operator_version.to_owned()),
        message: Some(message),
        conditions,
        nodes: Some(counts),
        computed: seen.computed.clone().map(Box::new),
        pending_changes: seen.pending.clone(),
        planned_waves: seen.planned_waves.clone(),
        rollout: Some(record),
        proposal: seen.proposal.clone(),
    }
}

fn condition_is(status: &AntreaInstallationStatus, type_: ConditionType) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn condition(
    previous: &AntreaInstallationStatus,
    seen: &Observation,
    type_: ConditionType,
    Verdict(status, reason, message): Verdict,
) -> InstallationCondition {
    let status = if status { "True" } else { "False" };
    let before = previous.conditions.iter().find(|condition| condition.type_ == type_);
    let since =
        before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    InstallationCondition {
        type_,
        status: status.to_owned(),
        observed_generation: seen.generation,
        // Kubernetes stores whole seconds; so do we, or the status would differ from itself.
        last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(seen.now))),
        reason,
        message,
    }
}

fn counts(seen: &Observation) -> NodeCounts {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let desired = seen.nodes.len();
    let ready = seen.nodes.iter().filter(|node| node.is_ready() && node.reachable).count();
    let updated = seen
        .nodes
        .iter()
        .filter(|node| seen.revision.is_some_and(|revision| node.is_updated(revision)))
        .count();
    let mut failing: Vec<FailingNode> = seen
        .nodes
        .iter()
        .filter_map(|node| {
            let trouble = node.failing(seen.now, seen.grace)?;
            Some(FailingNode {
                name: node.name.clone(),
                reason: trouble.reason,
                message: shorten(&trouble.message),
            })
        })
        .collect();
    failing.truncate(LISTED);
    let summary = if updated == desired {
        format!("{ready}/{desired}")
    } else {
        format!("{ready}/{desired} ({updated} updated)")
    };
    NodeCounts {
        desired: count(desired),
        updated: count(updated),
        ready: count(ready),
        summary,
        failing,
        replacing: seen.taken.iter().cloned().collect(),
    }
}

/// Whether the wanted version runs everywhere that can be reached. The first installation ends when every agent is
/// ready; later a change has ended when it is everywhere and no agent that worked is away for it.
fn is_done(seen: &Observation, counts: &NodeCounts, first: bool) -> bool {
    let reachable = || seen.nodes.iter().filter(|node| node.reachable);
    let settled = if first {
        reachable().all(AgentNode::is_ready)
    } else {
        seen.taken.is_empty() && matches!(seen.rollout, Some(Step::Done))
    };
    seen.refused.is_none()
        && seen.apply_error.is_none()
        && !seen.paused
        && seen.controller_updated
        && counts.desired > 0
        && settled
        && seen.revision.is_some_and(|revision| {
            reachable().all(|node| node.is_updated(revision) || !first && node.pod.is_none())
        })
}

fn failing_controller(seen: &Observation) -> Option<Trouble> {
    let (trouble, since) = seen.controller_trouble.clone()?;
    (seen.now.duration_since(since) >= seen.grace).then_some(trouble)
}

fn available(seen: &Observation, counts: &NodeCounts, was_available: bool) -> Verdict {
    if seen.controller.is_none() || seen.revision.is_none() {
        return Verdict::new(false, "NotInstalled", "Antrea is not installed yet");
    }
    let controller_ready = seen.controller.is_some_and(|controller| controller.ready);
    let ready_everywhere = seen.nodes.iter().filter(|node| node.reachable).all(AgentNode::is_ready);
    if !was_available {
        if counts.desired == 0 {
            return Verdict::new(false, "NoNodes", "no Node is to run an agent");
        }
        if !controller_ready {
            return Verdict::new(false, "ControllerNotReady", "the controller is not ready yet");
        }
        if !ready_everywhere {
            return Verdict::new(
                false,
                "AgentsNotReady",
                format!("{} of {} agents are ready", counts.ready, counts.desired),
            );
        }
    } else {
        // It was available once: from here on short interruptions do not count.
        if let Some(trouble) = failing_controller(seen) {
            return Verdict::new(false, "ControllerFailing", format!("controller: {}", trouble.message));
        }
        let failing = seen.nodes.iter().filter(|node| node.failing(seen.now, seen.grace).is_some()).count();
        if failing > 0 && counts.ready == 0 {
            return Verdict::new(false, "NoAgentReady", "no agent is ready");
        }
    }
    let agents = format!("{} of {} agents are ready", counts.ready, counts.desired);
    let message = match (controller_ready, ready_everywhere) {
        (true, true) => format!("controller and {} agents are ready", counts.ready),
        (true, false) => agents,
        (false, _) => format!("the controller is not ready; {agents}"),
    };
    Verdict::new(true, "ComponentsReady", message)
}

fn progressing(
    seen: &Observation,
    counts: &NodeCounts,
    done: bool,
    version: Option<&str>,
    target: Option<&str>,
) -> Verdict {
    let target = target.unwrap_or("Antrea");
    if seen.paused {
        let message = match seen.pending.len() {
            0 => "paused; nothing would change".to_owned(),
            n => format!("paused; {n} objects would change, see status.pendingChanges"),
        };
        return Verdict::new(false, "Paused", message);
    }
    if seen.computed.is_none() || seen.apply_error.is_some() {
        return Verdict::new(false, "Blocked", "nothing can be applied");
    }
    // A refused spec does not stop what is under way from an earlier one.
    if version.is_none() && !done {
        let message = format!("installing {target}: {} of {} agents are ready", counts.ready, counts.desired);
        return Verdict::new(true, "Installing", message);
    }
    if let Some(waiting) = seen.waiting.filter(|_| done) {
        return waits(seen, waiting, target);
    }
    let (reason, what) = if taken_back(seen) {
        ("RollingBack", "going back")
    } else if version == Some(target) {
        ("Applying", "applying the configuration")
    } else {
        ("Upgrading", "changing version")
    };
    let what = if reason == "Applying" { what.to_owned() } else { format!("{what} to {target}") };
    let unfinished = version != Some(target) && !done;
    let outdated = seen.nodes.iter().any(|node| {
        let other = |revision| node.pod.as_ref().is_some_and(|pod| pod.revision != revision);
        node.reachable && seen.revision.is_some_and(other)
    });
    let on = format!("{what} ({}/{} Nodes", counts.updated, counts.desired);
    if let Some(hold) = seen.hold.filter(|_| seen.taken.is_empty() && (outdated || unfinished)) {
        let (going, reason, why) = held(hold, reason, seen.now);
        return Verdict::new(going, reason, format!("{on}): {why}"));
    }
    if let Some(preflight) = seen.preflight.filter(|preflight| waits_for_images(seen, preflight)) {
        let message = format!("{what}: fetching images ({}/{} Nodes)", preflight.ready(), counts.desired);
        return Verdict::new(true, reason, message);
    }
    match seen.rollout {
        Some(Step::Announce { node } | Step::Replace { node, .. } | Step::Wait { node, .. })
            if outdated || unfinished || !seen.taken.is_empty() =>
        {
            let probed = seen.probed.filter(|(probed, _)| probed == node);
            let why = probed.map(|(_, trouble)| format!(": {trouble}")).unwrap_or_default();
            Verdict::new(true, reason, format!("{on}, now {node}{why})"))
        }
        _ if !seen.controller_current || unfinished && !seen.controller_updated => {
            Verdict::new(true, reason, format!("{what}: waiting for the controller"))
        }
        // A Pod that restarts, or is made for a new Node, is no change of ours.
        Some(_) if !unfinished && (done || seen.record.done) && taken_back(seen) => {
            Verdict::new(false, "RolledBack", format!("{target} runs again"))
        }
        Some(_) if !unfinished => Verdict::new(false, "Done", format!("{target} is applied")),
        // The DaemonSet is not the wanted one yet, or the last agent is not ready yet.
        _ => Verdict::new(true, reason, format!("{on})")),
    }
}

/// Whether what comes next in a change is held back for want of images.
fn waits_for_images(seen: &Observation, preflight: &Preflight) -> bool {
    match seen.rollout {
        Some(Step::Wait { node, .. }) => !seen.taken.contains(node) && !preflight.allows_node(node),
        Some(_) => false,
        None => !preflight.allows_controller() || !preflight.allows_agents(),
    }
}

/// Nodes that do not get the images of a change, once that has lasted.
fn without_images<'a>(seen: &Observation<'a>) -> Vec<&'a Missing> {
    let missing = seen.preflight.map(|preflight| preflight.missing.as_slice()).unwrap_or_default();
    missing.iter().filter(|missing| seen.now.duration_since(missing.since) >= seen.grace).collect()
}

fn degraded(seen: &Observation, counts: &NodeCounts) -> Verdict {
    if let Some(refused) = &seen.refused {
        let message = if seen.computed.is_some() {
            format!("{}; the last good configuration stays in effect", refused.message)
        } else {
            refused.message.clone()
        };
        return Verdict(true, refused.reason.clone(), message);
    }
    if let Some(error) = &seen.apply_error {
        return Verdict::new(true, "ApplyFailed", error.clone());
    }
    if let Some(verdict) = failed(seen) {
        return verdict;
    }
    if let Some(trouble) = failing_controller(seen) {
        return Verdict::new(true, "ControllerFailing", format!("controller: {trouble}"));
    }
    if let Some(why) = &seen.not_admitted {
        let message =
            format!("the API server would not admit another agent: {}; no agent is taken away", shorten(why));
        return Verdict::new(true, "AgentNotAdmitted", message);
    }
    let total = seen.nodes.iter().filter(|node| node.failing(seen.now, seen.grace).is_some()).count();
    if total > 0 {
        let failing =
            counts.failing.iter().map(|node| format!("{}: {}: {}", node.name, node.reason, node.message));
        let named = first_few(failing, total, NAMED);
        let message = format!("{total} of {} agents fail: {named}", counts.desired);
        return Verdict::new(true, "AgentsFailing", message);
    }
    let missing = without_images(seen);
    if !missing.is_empty() {
        let named: Vec<String> =
            missing.iter().take(NAMED).map(|one| format!("{}: {}", one.node, one.trouble)).collect();
        let message = format!(
            "{} of {} Nodes cannot get the images of the change: {}; what runs goes on",
            missing.len(),
            counts.desired,
            named.join("; ")
        );
        return Verdict::new(true, "ImagesMissing", message);
    }
    if seen.hold == Some(&Hold::NoCanary) {
        let message =
            "no Node that spec.rollout.canary selects works with the change; no other Node is changed";
        return Verdict::new(true, "CanaryMissing", message);
    }
    if let Some(error) = &seen.monitoring_error {
        return Verdict::new(true, "MonitoringFailed", format!("objects for others: {}", shorten(error)));
    }
    Verdict::new(false, "AsExpected", "nothing fails")
}

/// When the status may change without anything happening: the next grace period that runs out.
pub fn look_again(seen: &Observation) -> Option<SignedDuration> {
    let controller = seen.controller_trouble.as_ref().map(|(_, since)| *since);
    let agents = seen.nodes.iter().filter_map(|node| node.trouble().map(|(_, since)| since));
    let images = seen.preflight.into_iter().flat_map(|preflight| &preflight.missing);
    agents
        .chain(controller)
        .chain(images.map(|missing| missing.since))
        .map(|since| seen.grace - seen.now.duration_since(since))
        .filter(SignedDuration::is_positive)
        .min()
}

#[cfg(test)]
mod tests;
