//! The AntreaInstallation.

use antrea_crds::{AntreaInstallation, installation::ConditionType};
use serde::Serialize;

use crate::health::{Condition, Health, Verdict};

/// What is shown of an AntreaInstallation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallationView {
    pub name: String,
    /// Version that runs.
    pub version: String,
    /// Version that is asked for, where it is another one.
    pub target_version: Option<String>,
    /// The operator's summary.
    pub message: String,
    /// Verdict.
    pub health: Health,
    /// Whether the operator has not looked at the present spec, or refuses it.
    pub spec_pending: bool,
    /// Conditions in the object's order.
    pub conditions: Vec<Condition>,
    /// How far a change is.
    pub rollout: Rollout,
    /// Changes that are not applied.
    pub pending: Vec<Pending>,
}

/// Nodes and their agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// Nodes that shall run an agent.
    pub desired: i32,
    /// Nodes whose agent is of the wanted revision.
    pub updated: i32,
    /// Nodes whose agent is ready.
    pub ready: i32,
    /// Nodes whose agent is being replaced.
    pub replacing: Vec<String>,
    /// Nodes whose agent fails.
    pub failing: Vec<Trouble>,
}

/// A node whose agent fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    pub node: String,
    /// Cause in CamelCase.
    pub reason: String,
    /// Cause for people.
    pub message: String,
}

/// A change that is not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// "Kind namespace/name".
    pub object: String,
    /// "Create", "Update" or "Delete".
    pub action: String,
    /// "Live", "Restart" or "Disruptive".
    pub class: String,
    /// Fields that would change.
    pub fields: Vec<String>,
}

/// The view of an installation.
pub(crate) fn view(object: &AntreaInstallation) -> InstallationView {
    let status = object.status.clone().unwrap_or_default();
    let conditions: Vec<Condition> = status
        .conditions
        .iter()
        .map(|one| Condition {
            type_: name(one.type_).to_owned(),
            status: one.status.clone(),
            reason: one.reason.clone(),
            message: one.message.clone(),
        })
        .collect();
    let nodes = status.nodes.unwrap_or_default();
    let version = status.version.unwrap_or_default();
    InstallationView {
        name: object.metadata.name.clone().unwrap_or_default(),
        target_version: status.target_version.filter(|target| *target != version),
        version,
        message: status.message.unwrap_or_default(),
        health: judge(&conditions),
        spec_pending: status.observed_generation != object.metadata.generation,
        conditions,
        rollout: Rollout {
            desired: nodes.desired,
            updated: nodes.updated,
            ready: nodes.ready,
            replacing: nodes.replacing,
            failing: nodes
                .failing
                .into_iter()
                .map(|one| Trouble { node: one.name, reason: one.reason, message: one.message })
                .collect(),
        },
        pending: status
            .pending_changes
            .into_iter()
            .map(|one| Pending {
                object: one.object,
                action: one.action,
                class: one.class,
                fields: one.fields,
            })
            .collect(),
    }
}

fn name(type_: ConditionType) -> &'static str {
    match type_ {
        ConditionType::Available => "Available",
        ConditionType::Progressing => "Progressing",
        ConditionType::Degraded => "Degraded",
    }
}

/// Not available is worse than degraded. Progress is no fault, and is told.
fn judge(conditions: &[Condition]) -> Health {
    let find = |type_: &str| conditions.iter().find(|one| one.type_ == type_);
    let is = |type_: &str, status: &str| find(type_).filter(|one| one.status == status);
    match (is("Available", "False"), is("Degraded", "True"), is("Available", "True")) {
        (Some(condition), ..) => Health::new(Verdict::Unhealthy, &condition.cause()),
        (None, Some(condition), _) => Health::new(Verdict::Degraded, &condition.cause()),
        (None, None, Some(_)) => {
            let progress =
                is("Progressing", "True").map(|condition| format!("in progress: {}", condition.cause()));
            Health::new(Verdict::Healthy, &progress.unwrap_or_default())
        }
        (None, None, None) => {
            Health::new(Verdict::Unknown, "the operator has not said whether it is available")
        }
    }
}
