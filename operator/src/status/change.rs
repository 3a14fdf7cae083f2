//! What is told of a change that waits, is held, or has failed.

use k8s_openapi::jiff::Timestamp;

use super::{Observation, Verdict};
use crate::rollout::{
    decide::Failure,
    gate::Hold,
    progress::{Waiting, whole_seconds},
};

/// Whether the spec was tried, failed, and is not in effect any more.
pub(super) fn taken_back(seen: &Observation) -> bool {
    seen.record.failed.as_ref().is_some_and(|failed| failed.rolled_back)
}

/// A spec that is not in effect yet although nothing is wrong with it.
pub(super) fn waits(seen: &Observation, waiting: &Waiting, target: &str) -> Verdict {
    match waiting {
        Waiting::Acknowledgement(held) => Verdict::new(
            false,
            "AcknowledgementNeeded",
            format!(
                "the change breaks traffic between changed and unchanged Nodes until all are changed; it is made \
                 once spec.rollout.acknowledge is {}; {target} runs on unchanged",
                held.generation
            ),
        ),
        Waiting::Window(left) => Verdict::new(
            false,
            "WaitingForWindow",
            format!("the change begins when the window opens, at {}", clock(seen.now + *left)),
        ),
    }
}

/// Whether a rollout that is held goes on by itself soon, with what reason it is told, and why it is held.
pub(super) fn held<'a>(hold: &Hold, reason: &'a str, now: Timestamp) -> (bool, &'a str, String) {
    match hold {
        Hold::Window(left) => {
            let why = format!("goes on when the window opens, at {}", clock(now + *left));
            (false, "WaitingForWindow", why)
        }
        Hold::Pause(wave, left) => {
            (true, reason, format!("pausing after {wave} until {}", clock(now + *left)))
        }
        Hold::NoCanary => (false, "CanaryMissing", "no Node works that is to go first".to_owned()),
        Hold::Broken(node) => (true, reason, format!("waiting for {node}, which has ceased to work")),
    }
}

/// A time for people, to the second.
fn clock(time: Timestamp) -> String {
    whole_seconds(time).to_string()
}

/// What is told of a change that has failed.
pub(super) fn failed(seen: &Observation) -> Option<Verdict> {
    let failed = seen.record.failed.as_ref()?;
    let reason = if failed.canary { "CanaryFailed" } else { "RolloutFailed" };
    let what = format!("{} failed on {}: {}: {}", failed.version, failed.node, failed.check, failed.message);
    let before = seen.computed.as_ref().and_then(|spec| spec.version.as_deref()).unwrap_or("what ran before");
    let message = match &seen.stuck {
        _ if !failed.rolled_back => format!("{what}; no other agent is taken away until that works"),
        Some(Failure { node, trouble, .. }) => {
            let message = format!("{what}; going back to {before} waits for {node}: {trouble}");
            return Some(Verdict::new(true, "RollbackFailed", message));
        }
        None if seen.record.done => {
            format!("{what}; {before} runs again, and the change is not tried again until the spec changes")
        }
        None => format!("{what}; going back to {before}"),
    };
    Some(Verdict::new(true, reason, message))
}
