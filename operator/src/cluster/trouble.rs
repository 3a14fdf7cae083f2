//! Why something does not work, in the words that people are told.

use std::fmt;

use super::objects::PodStatusPart;

/// Why something does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Cause in CamelCase.
    pub reason: String,
    /// Cause for people.
    pub message: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, shorten(&self.message))
    }
}

impl Trouble {
    /// From its two parts.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// What keeps a Pod from being ready, the most telling cause first.
pub(super) fn diagnose(status: &PodStatusPart) -> Trouble {
    if status.phase == "Failed" {
        let reason = if status.reason.is_empty() { "PodFailed" } else { &status.reason };
        return Trouble::new(reason, format!("the Pod failed: {}", status.message));
    }
    for container in status.init_container_statuses.iter().chain(&status.container_statuses) {
        let Some(state) = &container.state else { continue };
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            if !matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
                let detail = match last {
                    Some(last) if reason == "CrashLoopBackOff" => {
                        ended(last.exit_code, last.reason.as_deref(), last.message.as_deref())
                    }
                    _ => waiting.message.clone().unwrap_or_default(),
                };
                return Trouble::new(reason, format!("container {}: {}", container.name, shorten(&detail)));
            }
        }
        if let Some(ended_state) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
            let detail =
                ended(ended_state.exit_code, ended_state.reason.as_deref(), ended_state.message.as_deref());
            return Trouble::new(
                "ContainerTerminated",
                format!("container {}: {}", container.name, shorten(&detail)),
            );
        }
    }
    let unscheduled = status.conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let message = condition.message.clone().unwrap_or_default();
        return Trouble::new("Unschedulable", format!("the Pod cannot be scheduled: {}", shorten(&message)));
    }
    let waiting: Vec<&str> = status
        .container_statuses
        .iter()
        .filter(|container| !container.ready)
        .map(|container| container.name.as_str())
        .collect();
    match waiting.as_slice() {
        [] => Trouble::new("PodNotReady", "the Pod has not started yet"),
        names => Trouble::new("PodNotReady", format!("container {} is not ready", names.join(", "))),
    }
}

fn ended(code: i32, reason: Option<&str>, message: Option<&str>) -> String {
    let mut text = format!("exited with code {code}");
    for part in [reason.filter(|reason| *reason != "Error"), message].into_iter().flatten() {
        text.push_str(": ");
        text.push_str(part.trim());
    }
    text
}

/// The first `limit` of `total` texts, and how many more there are.
pub fn first_few(texts: impl Iterator<Item = String>, total: usize, limit: usize) -> String {
    let first = texts.take(limit).collect::<Vec<_>>().join("; ");
    if total > limit { format!("{first} (and {} more)", total - limit) } else { first }
}

/// At most 200 characters on one line.
pub fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 200 { line } else { line.chars().take(199).chain(['…']).collect() }
}
