//! `crd.antrea.io/v1beta1` policies with an order: ClusterNetworkPolicy and NetworkPolicy, the Tiers that they are in,
//! and groups that they name. Fields are upstream's.
//!
//! What the rules of CEL refuse names the field. A rule that denies is refused where it asks for what this version
//! cannot enforce, for leaving it out would let through what it denies; what the API server does not see (a Tier or a
//! group that does not exist, an object that an earlier version of the schema took) is told by the object's conditions.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

mod group;
mod peer;
mod tier;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use group::{ClusterGroup, ClusterGroupSpec, Group, GroupCondition, GroupSpec, GroupStatus};
pub use peer::{
    AppliedTo, Icmp, Igmp, IpBlock, L7Http, L7Protocol, L7Tls, NamespacedName, Peer, PeerNamespaces,
    PeerService, Port, Protocol, ServiceReference,
};
pub use tier::{STATIC_TIERS, Tier, TierSpec};

fn is_false(value: &bool) -> bool {
    !value
}

/// Fields of a peer that this version cannot enforce, as CEL asks for none of them.
const PEERS_KNOWN: &str = "!has(p.externalEntitySelector) && (!has(p.scope) || p.scope == 'Cluster')";

fn denies_by(list: &str) -> String {
    let names = if list == "from" { "!has(p.fqdn) && " } else { "" };
    format!("self.action == 'Allow' || !has(self.{list}) || self.{list}.all(p, {names}{PEERS_KNOWN})")
}

macro_rules! policy {
    ($(#[$attribute:meta])* $spec:ident) => {
        $(#[$attribute])*
        #[serde(rename_all = "camelCase")]
        #[x_kube(
            validation = Rule::new("!(has(self.appliedTo) && self.appliedTo.size() > 0) || ((!has(self.ingress) || self.ingress.all(r, !has(r.appliedTo) || r.appliedTo.size() == 0)) && (!has(self.egress) || self.egress.all(r, !has(r.appliedTo) || r.appliedTo.size() == 0)))")
                .message("spec.appliedTo: is for the whole policy or for each rule, not for both"),
            validation = Rule::new("(has(self.appliedTo) && self.appliedTo.size() > 0) || ((!has(self.ingress) || self.ingress.all(r, has(r.appliedTo) && r.appliedTo.size() > 0)) && (!has(self.egress) || self.egress.all(r, has(r.appliedTo) && r.appliedTo.size() > 0)))")
                .message("spec.appliedTo: say what the policy applies to, or say it in each rule"),
            validation = Rule::new("!has(self.ingress) || self.ingress.all(r, !has(r.to) && !has(r.toServices))")
                .message("spec.ingress: to and toServices belong to egress rules"),
            validation = Rule::new("!has(self.egress) || self.egress.all(r, !has(r.from))")
                .message("spec.egress: from belongs to ingress rules")
        )]
        pub struct $spec {
            /// The Tier that the policy is in, by name. Default: application.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(length(max = 253))]
            pub tier: Option<String>,
            /// Order among the policies of a Tier, 1 to 10000: the lower is evaluated first.
            #[schemars(range(min = 1.0, max = 10000.0))]
            pub priority: f64,
            /// What becomes of connections that are there when a rule begins to deny them. Keep: they go on until they
            /// end by themselves. Reset: they end. Default: Keep.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub established: Option<Established>,
            /// What the policy applies to; empty where each rule says it.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(max = 256))]
            pub applied_to: Vec<AppliedTo>,
            /// Rules for what comes in, evaluated in this order: the first that matches decides.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(max = 512))]
            pub ingress: Vec<PolicyRule>,
            /// Rules for what goes out, evaluated in this order: the first that matches decides.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(length(max = 512))]
            pub egress: Vec<PolicyRule>,
        }
    };
}

/// What becomes of connections that are there when a rule begins to deny them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Established {
    Keep,
    Reset,
}

policy! {
    /// What Pods of the whole cluster may do.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
    #[kube(
        group = "crd.antrea.io",
        version = "v1beta1",
        kind = "ClusterNetworkPolicy",
        plural = "clusternetworkpolicies",
        shortname = "acnp",
        status = "PolicyStatus",
        derive = "PartialEq",
        derive = "Default",
        doc = "ClusterNetworkPolicy allows and denies traffic of Pods of the whole cluster, in the order of Tiers and priorities.",
        label("app", "antrea"),
        printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier", description = "The Tier that the policy is in."),
        printcolumn(name = "Priority", type_ = "number", format = "float", json_path = ".spec.priority", description = "Order among the policies of its Tier."),
        printcolumn(name = "Desired Nodes", type_ = "number", format = "int32", json_path = ".status.desiredNodesRealized", description = "Number of Nodes that have to enforce the policy."),
        printcolumn(name = "Current Nodes", type_ = "number", format = "int32", json_path = ".status.currentNodesRealized", description = "Number of Nodes that enforce the policy."),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )]
    ClusterNetworkPolicySpec
}

policy! {
    /// What Pods of a namespace may do.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
    #[kube(
        group = "crd.antrea.io",
        version = "v1beta1",
        kind = "NetworkPolicy",
        plural = "networkpolicies",
        shortname = "annp",
        shortname = "anp",
        namespaced,
        status = "PolicyStatus",
        derive = "PartialEq",
        derive = "Default",
        doc = "NetworkPolicy allows and denies traffic of Pods of a namespace, in the order of Tiers and priorities.",
        label("app", "antrea"),
        printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier", description = "The Tier that the policy is in."),
        printcolumn(name = "Priority", type_ = "number", format = "float", json_path = ".spec.priority", description = "Order among the policies of its Tier."),
        printcolumn(name = "Desired Nodes", type_ = "number", format = "int32", json_path = ".status.desiredNodesRealized", description = "Number of Nodes that have to enforce the policy."),
        printcolumn(name = "Current Nodes", type_ = "number", format = "int32", json_path = ".status.currentNodesRealized", description = "Number of Nodes that enforce the policy."),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )]
    NetworkPolicySpec
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.toServices) || !(has(self.to) || has(self.ports) || has(self.protocols))")
        .message("toServices: excludes to, ports and protocols, for a Service says where it is"),
    validation = Rule::new("self.action == 'Allow' || !has(self.toServices) || self.toServices.all(s, !has(s.scope) || s.scope == 'Cluster')")
        .message("toServices: this version does not enforce scope ClusterSet, and a rule that denies would let through what it denies"),
    validation = Rule::new("!has(self.l7Protocols) || self.action == 'Allow'")
        .message("l7Protocols: belongs to rules with action Allow"),
    validation = Rule::new("self.action == 'Allow' || !has(self.protocols) || self.protocols.all(p, !has(p.igmp))")
        .message("protocols: this version does not enforce igmp, and a rule that denies would let through what it denies"),
    validation = Rule::new(denies_by("from"))
        .message("from: fqdn belongs to egress rules; this version does not enforce externalEntitySelector and scope, and a rule that denies would let through what it denies"),
    validation = Rule::new(denies_by("to"))
        .message("to: this version does not enforce externalEntitySelector and scope, and a rule that denies would let through what it denies")
)]
pub struct PolicyRule {
    /// What is done with what matches. Pass leaves the decision to Kubernetes NetworkPolicies.
    pub action: Action,
    /// Ports of the destination; none, together with `protocols`, means all traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub ports: Vec<Port>,
    /// Protocols without ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub protocols: Vec<Protocol>,
    /// Protocols of the application layer. This version does not enforce them: a rule that has them is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub l7_protocols: Vec<L7Protocol>,
    /// Sources, of an ingress rule; none means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub from: Vec<Peer>,
    /// Destinations, of an egress rule; none means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub to: Vec<Peer>,
    /// Services as destinations, of an egress rule, in place of `to` and ports: what is sent to any of their addresses and
    /// ports, whichever endpoint is chosen. It needs AntreaProxy (`spec.proxy.mode: Services` of the AntreaInstallation).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub to_services: Vec<PeerService>,
    /// Name, for statistics and logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Whether what matches is logged by the Nodes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enable_logging: bool,
    /// What the rule applies to, where the policy does not say it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub applied_to: Vec<AppliedTo>,
    /// Text that is logged with what matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"))]
    pub log_label: Option<String>,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Action {
    /// Let it through.
    #[default]
    Allow,
    /// Discard it in silence.
    Drop,
    /// Discard it and tell the sender.
    Reject,
    /// Leave the decision to Kubernetes NetworkPolicies.
    Pass,
}

/// How far a policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Pending before it is computed, Realizing until all Nodes that it concerns enforce it, Realized, or Failed: a
    /// part of it cannot be enforced, which `conditions` tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Generation that this status tells of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Number of Nodes that enforce this generation.
    #[serde(default)]
    pub current_nodes_realized: i32,
    /// Number of Nodes that have to.
    #[serde(default)]
    pub desired_nodes_realized: i32,
    /// Realizable: False with what of the spec cannot be enforced. RealizationFailure: True with the Nodes that could
    /// not enforce it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PolicyCondition>,
}

/// Where a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    /// It is not computed yet.
    Pending,
    /// Not all Nodes enforce it yet.
    Realizing,
    /// All Nodes that it concerns enforce it.
    Realized,
    /// A part of it is not enforced.
    Failed,
}

/// One thing that is so, or is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCondition {
    /// Realizable or RealizationFailure.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// When the status last changed.
    pub last_transition_time: Time,
    /// A word for the cause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The cause, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
