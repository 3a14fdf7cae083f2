//! The parts of Pods and Nodes that are decoded.

use k8s_openapi::{
    api::core::v1::{Affinity, ContainerStatus, NodeAddress, PodCondition, Taint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use serde::Deserialize;

/// The part of a Pod that is decoded.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "k8s_openapi::api::core::v1::Pod")]
pub struct PodObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PodSpecPart,
    #[serde(default)]
    pub status: PodStatusPart,
}

/// The part of a Pod's spec that is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpecPart {
    /// Node on which the Pod runs.
    #[serde(default)]
    pub node_name: String,
    /// Its containers, of which only the first one's image is looked at.
    #[serde(default)]
    pub containers: Vec<ContainerPart>,
    /// Where it may run.
    #[serde(default)]
    pub affinity: Option<Affinity>,
}

/// The part of a container that is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ContainerPart {
    /// Reference of its image.
    #[serde(default)]
    pub image: String,
}

impl PodSpecPart {
    /// Node on which the Pod runs or, while it is not scheduled, for which a DaemonSet made it.
    pub(super) fn node(&self) -> String {
        if !self.node_name.is_empty() {
            return self.node_name.clone();
        }
        let required = self.affinity.as_ref().and_then(|affinity| {
            affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
        });
        let field = required
            .and_then(|required| required.node_selector_terms.first()?.match_fields.as_ref()?.first());
        field
            .filter(|field| field.key == "metadata.name")
            .and_then(|field| field.values.as_ref()?.first().cloned())
            .unwrap_or_default()
    }
}

/// The part of a Pod's status that is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatusPart {
    /// Pending, Running, Succeeded, Failed.
    #[serde(default)]
    pub phase: String,
    /// Why it failed.
    #[serde(default)]
    pub reason: String,
    /// Why it failed, for people.
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub conditions: Vec<PodCondition>,
    #[serde(default)]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// The part of a Node that is decoded.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "k8s_openapi::api::core::v1::Node")]
pub struct NodeObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: NodeSpecPart,
    #[serde(default)]
    pub status: NodeStatusPart,
}

/// The part of a Node's spec that is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpecPart {
    #[serde(rename = "podCIDRs", default)]
    pub pod_cidrs: Vec<String>,
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// The part of a Node's status that is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatusPart {
    #[serde(default)]
    pub conditions: Vec<NodeConditionPart>,
    /// Addresses, names among them.
    #[serde(default)]
    pub addresses: Vec<NodeAddress>,
}

/// The part of a Node's condition that is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeConditionPart {
    /// What it is about.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
}
