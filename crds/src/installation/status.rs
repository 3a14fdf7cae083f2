//! What the operator tells about an installation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
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

    /// Waves in which Nodes would be changed, at most 20, if pending changes restart Pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned_waves: Vec<PlannedWave>,

    /// How far the last change that was asked for is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,

    /// Answer to the annotation operator.antrea.io/proposal: what a spec that is not applied would change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
}

/// Annotation of the AntreaInstallation with a [`ProposalRequest`] as JSON.
pub const PROPOSAL: &str = "operator.antrea.io/proposal";

/// A question: what would this spec change?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalRequest {
    /// What the answer is known by, at most 64 characters.
    pub id: String,
    /// The spec.
    pub spec: AntreaInstallationSpec,
}

/// What a spec would change that is not applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// That of the question; empty if the annotation cannot be read.
    pub id: String,
    /// Why the spec would not come into effect, or cannot be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What would change, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_changes: Vec<PendingChange>,
    /// Waves in which Nodes would be changed, at most 20, if that restarts Pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned_waves: Vec<PlannedWave>,
    /// What it would wait for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
}

/// How far a change is. The operator goes by it after a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Hash of the configuration that is being brought to the Nodes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,

    /// Whether that configuration is everywhere.
    #[serde(default)]
    pub done: bool,

    /// Newest version that an agent may run. Until a change to an older version is done, it is still the newer one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub newest_version: String,

    /// Wave that is being changed: "canary", "<label>=<value>", or "others".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,

    /// When every Node of that wave was changed, if others are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave_ended: Option<Time>,

    /// Since when Nodes have been without the agent that worked, by Node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub turns: Vec<Turn>,

    /// What ran on every Node before that configuration, which the operator goes back to if it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub stable: Option<Box<AntreaInstallationSpec>>,

    /// A change that failed. It is kept until the spec changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<RolloutFailure>,

    /// A disruptive change that waits for spec.rollout.acknowledge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldChange>,
}

/// A copy of a spec that was checked when it was new.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A Node whose agent was taken away, or is about to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Turn {
    /// Name of the Node.
    pub node: String,
    /// Since when.
    pub since: Time,
}

/// A change that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutFailure {
    /// Hash of the spec that asked for it.
    pub spec: String,
    /// Version that it was to bring.
    pub version: String,
    /// Whether it failed among the Nodes that are changed first.
    #[serde(default)]
    pub canary: bool,
    /// Name of the Node, or "antrea-controller".
    pub node: String,
    /// What did not hold there: a cause in CamelCase.
    pub check: String,
    /// The same for people.
    pub message: String,
    /// When that was found.
    pub at: Time,
    /// Whether the Nodes go back to what they had.
    pub rolled_back: bool,
}

/// A disruptive change that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldChange {
    /// metadata.generation to acknowledge.
    pub generation: i64,
    /// Hash of the configuration.
    pub target: String,
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
    /// Fields that would change, with their values, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
}

/// Nodes that would be changed one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedWave {
    /// "canary", "<label>=<value>", or "others".
    pub name: String,
    /// How many Nodes there are.
    pub nodes: i32,
    /// The first of them, at most 5, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
    /// Why they are here in the order.
    pub reason: String,
}

/// A field that would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Where it is.
    pub path: String,
    /// Its value as JSON, or those lines of a longer text that differ; at most 512 characters. Absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The value that it would have, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}
