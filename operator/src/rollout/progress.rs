//! What is remembered of a change, in the status: what it comes from, how far it is, and whether it failed.
//!
//! ```text
//!  a new configuration ─► course ─┬─ Make: it is in effect from now on
//!                                 ├─ Wait: it is disruptive and not acknowledged, or its time has not come
//!                                 └─ Back: it failed with this very spec before; what ran before is in effect
//! ```
//!
//! Everything here is a function of the spec and the status, so that an operator that starts anew, or another one
//! that becomes leader, goes on where the last one was.

use std::collections::BTreeMap;

use antrea_crds::installation::{AntreaInstallationSpec, HeldChange, RolloutFailure, RolloutStatus, Turn};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::{
    decide::{Decision, Failure},
    policy::Policy,
};
use crate::{
    cluster::{Trouble, shorten},
    object,
    plan::{self, Class, Direction},
};

/// What decides whether a configuration takes effect.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The spec as the user wrote it.
    pub spec: &'a AntreaInstallationSpec,
    /// Its metadata.generation.
    pub generation: i64,
    /// The configuration that it comes to.
    pub wanted: &'a AntreaInstallationSpec,
    /// The configuration that was in effect until now.
    pub last: Option<&'a AntreaInstallationSpec>,
    /// What is remembered.
    pub record: Option<&'a RolloutStatus>,
    /// Whether Pods restart for it.
    pub restarts: bool,
    /// Version of the operator, which what it renders depends on.
    pub operator_version: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What is to be in effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Course {
    /// What is wanted.
    Make,
    /// What was in effect until now.
    Wait(Waiting),
    /// What ran on every Node before.
    Back(Box<AntreaInstallationSpec>),
}

/// Why a change waits.
#[derive(Clone, Debug, PartialEq)]
pub enum Waiting {
    /// It is disruptive and its generation is not acknowledged.
    Acknowledgement(HeldChange),
    /// The window opens after this.
    Window(SignedDuration),
}

/// Hash of what a configuration comes to.
pub fn target(config: &AntreaInstallationSpec, operator_version: &str) -> String {
    object::hash(&serde_json::json!([config, operator_version]))
}

/// Hash of what was asked for, and of whom. Whether the operator acts is no part of it.
fn asked(seen: &Asked<'_>) -> String {
    let spec = AntreaInstallationSpec { management_state: None, ..seen.spec.clone() };
    object::hash(&serde_json::json!([spec, seen.operator_version]))
}

/// What is to be in effect.
pub fn course(policy: &Policy, seen: &Asked<'_>) -> Course {
    let record = seen.record.cloned().unwrap_or_default();
    if let Some(failed) = &record.failed
        && failed.rolled_back
        && failed.spec == asked(seen)
        && let Some(stable) = record.stable.clone().or_else(|| seen.last.cloned().map(Box::new))
    {
        return Course::Back(stable);
    }
    let Some(last) = seen.last.filter(|last| *last != seen.wanted) else { return Course::Make };
    if plan::class_of_config(Some(last), seen.wanted) == Class::Disruptive {
        let target = target(seen.wanted, seen.operator_version);
        // Acknowledging makes a new generation, which must be of the same change.
        let generation =
            record.held.filter(|held| held.target == target).map_or(seen.generation, |held| held.generation);
        if !policy.acknowledge.is_some_and(|known| known == generation || known == seen.generation) {
            return Course::Wait(Waiting::Acknowledgement(HeldChange { generation, target }));
        }
    }
    match policy.opens_in(seen.now).filter(|_| seen.restarts) {
        Some(left) => Course::Wait(Waiting::Window(left)),
        None => Course::Make,
    }
}

/// What is remembered when `config` is in effect: `record` goes on, or a new change begins. `version` runs on every
/// Node.
pub fn begin(
    seen: &Asked<'_>,
    config: &AntreaInstallationSpec,
    version: Option<&str>,
    held: Option<HeldChange>,
) -> RolloutStatus {
    let mut record = seen.record.cloned().unwrap_or_default();
    record.held = held;
    record.failed = record.failed.filter(|failed| failed.spec == asked(seen));
    let target = target(config, seen.operator_version);
    if record.target == target {
        return record;
    }
    // What an operator without this memory has brought to an end counts as such.
    let settled = if record.target.is_empty() { version.is_some() } else { record.done };
    if settled {
        record.stable = seen.last.cloned().map(Box::new);
    }
    let of_version = config.version.clone().unwrap_or_default();
    let before = Some(record.newest_version.as_str()).filter(|newest| !newest.is_empty()).or(version);
    record.newest_version = match before {
        Some(before) if plan::direction(Some(before), &of_version) == Direction::Back => before.to_owned(),
        _ => of_version,
    };
    record.target = target;
    record.done = false;
    // For what comes now each of them has all of its time.
    for turn in &mut record.turns {
        turn.since = Time(whole_seconds(seen.now));
    }
    record.wave = None;
    record.wave_ended = None;
    record
}

/// Which way a change goes. Agents are never newer than the controller, whichever of them are changed already; on the
/// way back from versions that cannot be compared, what was changed last is changed first.
pub fn direction(
    record: &RolloutStatus,
    version: Option<&str>,
    config: &AntreaInstallationSpec,
) -> Direction {
    let wanted = config.version.as_deref().unwrap_or_default();
    let back = record.failed.as_ref().filter(|failed| failed.rolled_back);
    if let Some(failed) = back.filter(|_| !record.done)
        && !plan::comparable(&failed.version, wanted)
    {
        return Direction::Back;
    }
    let newest = Some(record.newest_version.as_str()).filter(|newest| !newest.is_empty());
    plan::direction(version.map(|version| newest.unwrap_or(version)), wanted)
}

/// Since when each Node's turn has been, for those that it is the turn of: `waits` tells whose agent is there still.
pub fn turns<'a>(
    record: &RolloutStatus,
    taken: impl Iterator<Item = &'a String>,
    waits: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Vec<Turn> {
    let before: BTreeMap<&str, Timestamp> =
        record.turns.iter().map(|turn| (turn.node.as_str(), turn.since.0)).collect();
    let since = |node: &str| before.get(node).copied().filter(|_| !waits(node)).unwrap_or(now);
    taken.map(|node| Turn { node: node.clone(), since: Time(whole_seconds(since(node))) }).collect()
}

/// Kubernetes stores whole seconds; so do we, or the status would differ from itself.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// What a failure comes to: noted for good if the change is taken back, else for as long as it lasts.
fn failure(policy: &Policy, seen: &Asked<'_>, record: &RolloutStatus, found: &Failure) -> RolloutFailure {
    let images = |spec: &AntreaInstallationSpec| (spec.version.clone(), spec.images.clone());
    let back = record.stable.as_deref().filter(|stable| *stable != seen.wanted);
    let by_default = back.is_some_and(|stable| images(stable) != images(seen.wanted));
    RolloutFailure {
        spec: asked(seen),
        version: seen.wanted.version.clone().unwrap_or_default(),
        canary: found.canary,
        node: found.node.clone(),
        check: found.trouble.reason.clone(),
        message: shorten(&found.trouble.message),
        at: Time(whole_seconds(seen.now)),
        rolled_back: back.is_some() && policy.auto_rollback.unwrap_or(by_default),
    }
}

/// What to remember after `decision`, if agents are the change's concern by now, and which Node does not come back
/// while a change is taken back. `controller` is what is wrong with the new controller, and since when.
pub fn remember(
    policy: &Policy,
    seen: &Asked<'_>,
    mut record: RolloutStatus,
    decision: Option<&Decision>,
    controller: Option<(Trouble, Timestamp)>,
    back: bool,
) -> (RolloutStatus, Option<Failure>) {
    let overdue = |since: Timestamp| seen.now.duration_since(since) >= policy.deadline;
    let controller = controller.filter(|(_, since)| overdue(*since));
    let mut found = controller.map(|(trouble, _)| Failure {
        node: "antrea-controller".to_owned(),
        trouble,
        canary: false,
    });
    if let Some(decision) = decision {
        record.wave = decision.gate.place.wave.clone();
        record.wave_ended = decision.gate.place.ended.map(|time| Time(whole_seconds(time)));
        record.turns = decision.turns.clone();
        found = found.or_else(|| decision.failure.clone());
    }
    // What breaks after a change is done is no failure of the change, nor is there one before anything ran.
    let found = found.filter(|_| !record.done && record.stable.is_some());
    if back {
        return (record, found);
    }
    let before = record.failed.take();
    record.failed = found.map(|found| {
        let new = failure(policy, seen, &record, &found);
        match before.filter(|before| before.node == new.node) {
            Some(before) => RolloutFailure { at: before.at, ..new },
            None => new,
        }
    });
    (record, None)
}
