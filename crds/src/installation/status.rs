//! What the operator tells about an installation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AntreaInstallationSpec;

/// What the operator observed and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AntreaInstallationStatus {
    /// metadata.generation of the spec that is applied. It stays behind while a spec is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Version that runs on every Node; it changes when the last Node has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Version that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,

    /// Version of the operator that wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,

    /// One line: the most pressing of the conditions' messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Available: Pods get networked and policy is computed. Progressing: the operator is moving the
    /// cluster from one state to another. Degraded: something is wrong and needs a person. They are
    /// independent of each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<InstallationCondition>,

    /// Nodes and the agents on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// Configuration in effect: the last good spec with every default filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed: Option<Box<AntreaInstallationSpec>>,

    /// Changes that are not applied yet, at most 20, because the installation is paused or a change is
    /// refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_changes: Vec<PendingChange>,
}

/// One condition, of the shape of metav1.Condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstallationCondition {
    /// "Available", "Progressing" or "Degraded".
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// "True", "False" or "Unknown".
    pub status: String,
    /// metadata.generation that the condition is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status last changed.
    pub last_transition_time: Time,
    /// Cause in CamelCase.
    pub reason: String,
    /// Cause for people: what is wrong and where.
    pub message: String,
}

/// What an [`InstallationCondition`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ConditionType {
    /// Pods get networked and policy is computed.
    Available,
    /// The operator is moving the cluster from one state to another.
    Progressing,
    /// Something is wrong and needs a person.
    Degraded,
}

/// Nodes and the agents on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that shall run an agent.
    #[serde(default)]
    pub desired: i32,
    /// Nodes whose agent is of the wanted revision.
    #[serde(default)]
    pub updated: i32,
    /// Nodes whose agent is ready.
    #[serde(default)]
    pub ready: i32,
    /// "ready/desired", with the number of updated agents while they are being changed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// Nodes whose agent fails, at most 10, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub failing: Vec<FailingNode>,
    /// Nodes whose working agent was taken away for a change, or is about to be, and whose next one does not work
    /// yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replacing: Vec<String>,
}

/// A Node whose agent fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingNode {
    /// Name of the Node.
    pub name: String,
    /// Cause in CamelCase.
    pub reason: String,
    /// Cause for people.
    pub message: String,
}

/// A change that is not applied yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingChange {
    /// What would change, "Kind namespace/name".
    pub object: String,
    /// "Create", "Update" or "Delete".
    pub action: String,
    /// What it would do to traffic: "Live" (nothing restarts), "Restart" (Pods restart one by one) or
    /// "Disruptive" (traffic between changed and unchanged Nodes breaks for a while).
    pub class: String,
    /// Paths of the fields that would change, at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}
