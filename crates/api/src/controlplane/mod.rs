//! `controlplane.antrea.io/v1beta2`: computed NetworkPolicies and groups, as agents get them.
//!
//! Messages have the field numbers of upstream's package
//! `antrea_io.antrea.pkg.apis.controlplane.v1beta2`, and JSON names of the same types. In a watch a change
//! of a group travels as MODIFIED with a `*Patch` object.

pub mod evaluation;
mod event;
pub mod groups;
mod salvage;
mod table;
#[cfg(test)]
mod versions;

use prost::Message;
use serde::{Deserialize, Serialize};

pub use event::{Damaged, Event, GroupEvent};

use crate::k8s::{IntOrString, ListMeta, Object, ObjectMeta, base64};

/// API group.
pub const GROUP: &str = "controlplane.antrea.io";
/// API version.
pub const VERSION: &str = "v1beta2";
/// Group and version.
pub const API_VERSION: &str = "controlplane.antrea.io/v1beta2";

/// `NetworkPolicyReference.type` of a Kubernetes NetworkPolicy.
pub const K8S_NETWORK_POLICY: &str = "K8sNetworkPolicy";
/// Type of [`NetworkPolicyReference`]s to ClusterNetworkPolicies.
pub const ANTREA_CLUSTER_NETWORK_POLICY: &str = "AntreaClusterNetworkPolicy";
/// Type of the source of a policy: ClusterNetworkPolicy of `policy.networking.k8s.io`.
pub const CLUSTER_NETWORK_POLICY: &str = "ClusterNetworkPolicy";
/// Type of [`NetworkPolicyReference`]s to native NetworkPolicies.
pub const ANTREA_NETWORK_POLICY: &str = "AntreaNetworkPolicy";

macro_rules! objects {
    ($($kind:ident),* $(,)?) => {
        $(impl Object for $kind {
            const API_VERSION: &'static str = API_VERSION;
            const KIND: &'static str = stringify!($kind);
        })*
    };
}

objects!(
    AddressGroup,
    AddressGroupList,
    AddressGroupPatch,
    AppliedToGroup,
    AppliedToGroupList,
    AppliedToGroupPatch,
    NetworkPolicy,
    NetworkPolicyList,
    NetworkPolicyStatus,
    NodeStatsSummary,
);

macro_rules! group {
    ($(#[$doc:meta])* $group:ident, $list:ident, $patch:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $group {
            /// The name is the group's.
            #[prost(message, required, tag = "1")]
            pub metadata: ObjectMeta,
            #[prost(message, repeated, tag = "2")]
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub group_members: Vec<GroupMember>,
        }

        #[doc = concat!("A list of [`", stringify!($group), "`].")]
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $list {
            /// Metadata of the list.
            #[prost(message, required, tag = "1")]
            pub metadata: ListMeta,
            /// The groups.
            #[prost(message, repeated, tag = "2")]
            pub items: Vec<$group>,
        }

        #[doc = concat!("A change of an [`", stringify!($group), "`]: first take out what was removed, then put in what was added.")]
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $patch {
            /// The name is the group's.
            #[prost(message, required, tag = "1")]
            pub metadata: ObjectMeta,
            /// New members.
            #[prost(message, repeated, tag = "2")]
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub added_group_members: Vec<GroupMember>,
            /// Former members.
            #[prost(message, repeated, tag = "3")]
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub removed_group_members: Vec<GroupMember>,
        }
    };
}

group!(
    /// What rules name as their other side.
    AddressGroup, AddressGroupList, AddressGroupPatch
);
group!(
    /// What policies apply to.
    AppliedToGroup, AppliedToGroupList, AppliedToGroupPatch
);

/// A member of a group; one of `pod`, `external_entity`, `node` and `service` says which.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupMember {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectReference>,
    /// An ExternalEntity.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_entity: Option<ObjectReference>,
    /// Addresses, 4 or 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    #[serde(rename = "ips", with = "base64::list", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Vec<u8>>,
    /// Named ports.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeReference>,
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectReference>,
}

/// Name and namespace of an object; `PodReference`, `ExternalEntityReference` and `ServiceReference`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// A Node as member of a group.
#[derive(Clone, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeReference {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// A container port with a name.
#[derive(Clone, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamedPort {
    /// The number, 1 to 65535.
    #[prost(int32, tag = "1")]
    pub port: i32,
    #[prost(string, tag = "2")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    #[prost(string, tag = "3")]
    pub protocol: String,
}

/// A computed policy. Its name is the UID of the policy that it comes from.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    /// Name, UID and generation are the source's UID, UID and generation.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<NetworkPolicyRule>,
    /// Names of AppliedToGroups of rules that name none themselves.
    #[prost(string, repeated, tag = "3")]
    pub applied_to_groups: Vec<String>,
    /// Priority in the tier, lower first; none for Kubernetes policies.
    #[prost(double, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<f64>,
    /// Priority of the tier, lower first; none for Kubernetes policies.
    #[prost(int32, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier_priority: Option<i32>,
    #[prost(message, optional, tag = "6")]
    pub source_ref: Option<NetworkPolicyReference>,
    /// Connections that its rules deny end, also those that were there before. Not upstream's, whose readers skip it.
    #[prost(bool, tag = "1001")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resets_established: bool,
}

/// A list of [`NetworkPolicy`].
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyList {
    /// Metadata of the list.
    #[prost(message, required, tag = "1")]
    pub metadata: ListMeta,
    /// The policies.
    #[prost(message, repeated, tag = "2")]
    pub items: Vec<NetworkPolicy>,
}

/// The policy that a computed policy comes from.
#[derive(Clone, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyReference {
    /// `K8sNetworkPolicy`, `AntreaClusterNetworkPolicy`, `AntreaNetworkPolicy`, `AdminNetworkPolicy`,
    /// `BaselineAdminNetworkPolicy` or `ClusterNetworkPolicy`.
    #[prost(string, tag = "1")]
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub type_: String,
    /// Namespace, empty for cluster-scoped kinds.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// A rule with its selectors resolved to groups.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyRule {
    /// `In` or `Out`, seen from the Pods that the policy applies to.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub direction: String,
    /// Sources, of a rule with direction `In`.
    #[prost(message, required, tag = "2")]
    pub from: NetworkPolicyPeer,
    /// Destinations, of a rule with direction `Out`.
    #[prost(message, required, tag = "3")]
    pub to: NetworkPolicyPeer,
    /// Destination services; empty matches all traffic.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Order in the policy, lower first; -1 for Kubernetes policies.
    #[prost(int32, tag = "5")]
    #[serde(skip_serializing_if = "zero")]
    pub priority: i32,
    /// `Allow`, `Drop`, `Reject` or `Pass`; none means Allow.
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Whether matches are logged.
    #[prost(bool, tag = "7")]
    pub enable_logging: bool,
    /// Names of AppliedToGroups of this rule alone.
    #[prost(string, repeated, tag = "8")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub applied_to_groups: Vec<String>,
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub log_label: String,
    /// Services that the rule applies to, in place of Pods: what comes to them from outside by addresses of Nodes. Not
    /// upstream's, which has groups of Services.
    #[prost(message, repeated, tag = "1001")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub applied_to_services: Vec<ObjectReference>,
}

fn zero(n: &i32) -> bool {
    *n == 0
}

/// The other side of a rule: the union of what is listed. A peer that lists nothing matches nothing.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPeer {
    /// Names of AddressGroups.
    #[prost(string, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address_groups: Vec<String>,
    /// Address blocks.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_blocks: Vec<IpBlock>,
    /// Domain names, egress only.
    #[prost(string, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fqdns: Vec<String>,
    /// Services, egress only.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_services: Vec<ObjectReference>,
    /// Label identities of other clusters.
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_identities: Vec<u32>,
}

/// A block and the parts of it that are not meant.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpBlock {
    /// The block.
    #[prost(message, required, tag = "1")]
    pub cidr: IpNet,
    /// Each is inside the block.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNet>,
}

/// An address prefix.
#[derive(Clone, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpNet {
    /// The address, 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "base64", skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<u8>,
    /// The length in bits.
    #[prost(int32, tag = "2")]
    #[serde(skip_serializing_if = "zero")]
    pub prefix_length: i32,
}

/// A protocol and ports. Fields that are none match everything.
#[derive(Clone, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// `TCP`, `UDP`, `SCTP`, `ICMP` or `IGMP`; none means TCP.
    #[prost(string, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The destination port, or the start of the range.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// The end of the destination range.
    #[prost(int32, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    #[serde(rename = "icmpType", skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    #[serde(rename = "icmpCode", skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<i32>,
    #[prost(int32, optional, tag = "6")]
    #[serde(rename = "igmpType", skip_serializing_if = "Option::is_none")]
    pub igmp_type: Option<i32>,
    /// Multicast group.
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group_address: String,
    /// The source port, or the start of the range.
    #[prost(int32, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_port: Option<i32>,
    /// The end of the source range.
    #[prost(int32, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_end_port: Option<i32>,
}

/// Which nodes have realized a policy; posted to `networkpolicies/{name}/status` by each agent.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyStatus {
    /// The name is the policy's.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// Agents report their own node only.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NetworkPolicyNodeStatus>,
}

/// What one node made of a policy.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyNodeStatus {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Generation of the policy that is realized.
    #[prost(int64, tag = "2")]
    pub generation: i64,
    /// Whether it could not be realized.
    #[prost(bool, tag = "3")]
    pub realization_failure: bool,
    /// Why.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Traffic counted by a node since its last report.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatsSummary {
    /// The name is the node's.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// Of Kubernetes NetworkPolicies.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_policies: Vec<NetworkPolicyStats>,
    /// Of Antrea ClusterNetworkPolicies.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub antrea_cluster_network_policies: Vec<NetworkPolicyStats>,
    /// Of Antrea NetworkPolicies.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub antrea_network_policies: Vec<NetworkPolicyStats>,
}

/// Traffic of one policy.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyStats {
    #[prost(message, required, tag = "1")]
    pub network_policy: NetworkPolicyReference,
    #[prost(message, required, tag = "2")]
    pub traffic_stats: crate::stats::TrafficStats,
    /// By rule, of Antrea policies.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule_traffic_stats: Vec<crate::stats::RuleTrafficStats>,
}
