//! Groups that policies name.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::peer::{IpBlock, ServiceReference};

macro_rules! group {
    ($(#[$attribute:meta])* $spec:ident) => {
        $(#[$attribute])*
        #[serde(rename_all = "camelCase")]
        #[x_kube(
            validation = Rule::new("[has(self.podSelector) || has(self.namespaceSelector), has(self.ipBlocks), has(self.serviceReference), has(self.externalEntitySelector), has(self.childGroups), has(self.nodeSelector)].filter(set, set).size() <= 1")
                .message("spec: a group is of one kind: podSelector with namespaceSelector, ipBlocks, childGroups, serviceReference, nodeSelector or externalEntitySelector"),
            validation = Rule::new("!has(self.externalEntitySelector) && !has(self.nodeSelector)")
                .message("spec: this version has no groups by nodeSelector and externalEntitySelector")
        )]
        pub struct $spec {
            /// Pods with these labels.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub pod_selector: Option<LabelSelector>,
            /// Namespaces that the Pods are in.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub namespace_selector: Option<LabelSelector>,
            /// Address blocks.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(max = 4096))]
            pub ip_blocks: Vec<IpBlock>,
            /// A Service, for the Pods that it selects, whether they are ready or not. In a Group it is one of the same
            /// namespace.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub service_reference: Option<ServiceReference>,
            /// ExternalEntities with these labels. This version does not have them.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub external_entity_selector: Option<LabelSelector>,
            /// Names of groups whose members are in this one too. Those may not have children.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(max = 256))]
            pub child_groups: Vec<String>,
            /// Nodes with these labels. This version does not have them.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub node_selector: Option<LabelSelector>,
        }
    };
}

group! {
    /// Who is in a group of the cluster.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
    #[kube(
        group = "crd.antrea.io",
        version = "v1beta1",
        kind = "ClusterGroup",
        plural = "clustergroups",
        shortname = "cg",
        status = "GroupStatus",
        derive = "PartialEq",
        derive = "Default",
        doc = "ClusterGroup is a set of Pods or addresses that ClusterNetworkPolicies name.",
        label("app", "antrea"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )]
    ClusterGroupSpec
}

group! {
    /// Who is in a group of a namespace.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
    #[kube(
        group = "crd.antrea.io",
        version = "v1beta1",
        kind = "Group",
        plural = "groups",
        shortname = "grp",
        namespaced,
        status = "GroupStatus",
        derive = "PartialEq",
        derive = "Default",
        doc = "Group is a set of Pods or addresses that NetworkPolicies of crd.antrea.io in its namespace name.",
        label("app", "antrea"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )]
    GroupSpec
}

/// Whether a group is computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupStatus {
    /// GroupMembersComputed: whether the members are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<GroupCondition>,
}

/// One thing that is so, or is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupCondition {
    /// GroupMembersComputed.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// When the status last changed.
    pub last_transition_time: Time,
}
