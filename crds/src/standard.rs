//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, the Kubernetes project's own. Fields and limits are those of its
//! definition (network-policy-api v0.2.0), so that objects of either are taken by both.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What Pods of the cluster may do, before or after what their namespaces' NetworkPolicies say.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "policy.networking.k8s.io",
    version = "v1alpha2",
    kind = "ClusterNetworkPolicy",
    plural = "clusternetworkpolicies",
    shortname = "cnp",
    status = "ClusterNetworkPolicyStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ClusterNetworkPolicy allows and denies traffic of Pods of the whole cluster, before NetworkPolicies (tier Admin) or after them (tier Baseline).",
    annotation(
        "api-approved.kubernetes.io",
        "https://github.com/kubernetes-sigs/network-policy-api/pull/300"
    ),
    label("app", "antrea"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "Priority", type_ = "string", json_path = ".spec.priority"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ClusterNetworkPolicySpec {
    /// Admin: before NetworkPolicies, whatever they say. Baseline: for what no NetworkPolicy isolates.
    pub tier: Tier,
    /// Order in the tier: the lower is evaluated first.
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// The Pods that the policy applies to.
    pub subject: Subject,
    /// Rules for what comes in: the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 25))]
    pub ingress: Vec<IngressRule>,
    /// Rules for what goes out: the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 25))]
    pub egress: Vec<EgressRule>,
}

/// A place in the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Tier {
    /// Before NetworkPolicies.
    #[default]
    Admin,
    /// After them.
    Baseline,
}

/// Pods by one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Subject {
    /// All Pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods of namespaces, both by labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Pods by labels, of namespaces by labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// The namespaces; all if it is empty.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// The Pods; all if it is empty.
    pub pod_selector: LabelSelector,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Action {
    /// Let it through.
    #[default]
    Accept,
    /// Discard it.
    Deny,
    /// Leave the decision to what comes after the tier.
    Pass,
}

/// A rule for what comes in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IngressRule {
    /// Name, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub name: Option<String>,
    /// What is done with what matches.
    pub action: Action,
    /// Sources.
    #[schemars(length(min = 1, max = 25))]
    pub from: Vec<Subject>,
    /// Protocols and ports; none means all traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Vec<Protocol>,
}

/// A rule for what goes out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(self.to.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) && has(self.protocols) && self.protocols.exists(protocol, has(protocol.destinationNamedPort)))")
        .message("protocols: destinationNamedPort means nothing at networks, nodes and domainNames")
)]
pub struct EgressRule {
    /// Name, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub name: Option<String>,
    /// What is done with what matches.
    pub action: Action,
    /// Destinations.
    #[schemars(length(min = 1, max = 25))]
    pub to: Vec<EgressPeer>,
    /// Protocols and ports; none means all traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Vec<Protocol>,
}

/// A destination: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct EgressPeer {
    /// All Pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods of namespaces, both by labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
    /// Nodes with these labels, by their addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Address blocks, those of Pods included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "networks")]
    pub networks: Vec<String>,
    /// Names, exact or with * for what stands before a domain. For rules with action Accept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "domain_names")]
    pub domain_names: Vec<String>,
}

fn networks(_: &mut SchemaGenerator) -> Schema {
    let network = json_schema!({ "type": "string", "format": "cidr", "maxLength": 43 });
    json_schema!({ "type": "array", "minItems": 1, "maxItems": 25, "items": network, "x-kubernetes-list-type": "set" })
}

fn domain_names(_: &mut SchemaGenerator) -> Schema {
    let pattern =
        r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$";
    let name = json_schema!({ "type": "string", "pattern": pattern });
    json_schema!({ "type": "array", "minItems": 1, "maxItems": 25, "items": name, "x-kubernetes-list-type": "set" })
}

/// A protocol: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Protocol {
    /// TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Transport>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Transport>,
    /// SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sctp: Option<Transport>,
    /// The name of a port of the destination's containers, of whatever protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
}

/// Ports of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct Transport {
    /// The destination's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<Port>,
}

/// A port or a range of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Port {
    /// One port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub number: Option<i32>,
    /// Several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// A range of ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.start < self.end").message("range: start must be less than end"))]
pub struct PortRange {
    /// The first.
    #[schemars(range(min = 1, max = 65535))]
    pub start: i32,
    /// The last.
    #[schemars(range(min = 1, max = 65535))]
    pub end: i32,
}

/// How far a policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterNetworkPolicyStatus {
    /// Realizable: False with what of the spec cannot be enforced. RealizationFailure: True with the Nodes that could not
    /// enforce it. Realized: whether all Nodes that it concerns enforce it.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let condition = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array", "items": condition,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}
