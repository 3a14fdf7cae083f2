//! What policies apply to, the other sides of their rules, and ports.

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a policy or a rule applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodeSelector)")
        .message("appliedTo: nodeSelector would apply a policy to processes of Nodes (NodeNetworkPolicy), which this version does not do; as a peer of a rule it is possible"),
    validation = Rule::new("!has(self.externalEntitySelector)")
        .message("appliedTo: this version has no ExternalEntities"),
    validation = Rule::new("has(self.group) || has(self.serviceAccount) ? has(self.group) != has(self.serviceAccount) && !has(self.service) && !has(self.podSelector) && !has(self.namespaceSelector) : has(self.service) != (has(self.podSelector) || has(self.namespaceSelector))")
        .message("appliedTo: name a group, a ServiceAccount, a Service, or Pods by podSelector and namespaceSelector")
)]
pub struct AppliedTo {
    /// Pods with these labels: of the policy's namespace, or of all namespaces if the policy has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces that the Pods are in. For ClusterNetworkPolicies only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// ExternalEntities with these labels. This version does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_entity_selector: Option<LabelSelector>,
    /// Name of a ClusterGroup, or of a Group in the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// Pods that run as this ServiceAccount. In a policy of a namespace it is one of that namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<NamespacedName>,
    /// A Service with node ports, for what comes to it from outside of the cluster by addresses of Nodes. For ingress rules
    /// with peers by ipBlock; in a policy of a namespace it is one of that namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<NamespacedName>,
    /// Nodes with these labels. This version does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// The other side of a rule: one of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.podSelector) || has(self.namespaceSelector) || has(self.namespaces)) || !(has(self.ipBlock) || has(self.group) || has(self.fqdn) || has(self.serviceAccount) || has(self.nodeSelector) || has(self.externalEntitySelector))")
        .message("a peer of Pods, by podSelector with namespaceSelector or namespaces, has no other field"),
    validation = Rule::new("has(self.fqdn) ? !has(self.serviceAccount) && !has(self.ipBlock) && !has(self.group) : has(self.serviceAccount) ? !has(self.ipBlock) && !has(self.group) : !(has(self.ipBlock) && has(self.group))")
        .message("ipBlock, group, serviceAccount and fqdn exclude each other"),
    validation = Rule::new("!has(self.nodeSelector) || !(has(self.ipBlock) || has(self.group) || has(self.fqdn) || has(self.serviceAccount) || has(self.externalEntitySelector))")
        .message("nodeSelector: a peer of Nodes has no other field"),
    validation = Rule::new("!(has(self.namespaces) && has(self.namespaceSelector))")
        .message("namespaces: excludes namespaceSelector")
)]
#[schemars(extend("minProperties" = 1))]
pub struct Peer {
    /// Addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
    /// Pods with these labels: of the policy's namespace, or of all namespaces if the policy has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces that the Pods are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Namespaces by how they are like the one of the Pod that the rule applies to. For ClusterNetworkPolicies only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<PeerNamespaces>,
    /// ExternalEntities with these labels. This version does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_entity_selector: Option<LabelSelector>,
    /// Name of a ClusterGroup, or of a Group in the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// Domain name; * stands for any part, dots included. Its addresses are those that Pods with the rule are told by
    /// DNS. For egress rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 254), regex(pattern = r"^[-_0-9a-zA-Z.*]+$"))]
    pub fqdn: Option<String>,
    /// Pods that run as this ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<NamespacedName>,
    /// Nodes with these labels, by all of their addresses and those of their gateways. For ClusterNetworkPolicies only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Cluster (the default), or ClusterSet for all clusters of one; the latter this version does not enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// How far a selector looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Scope {
    /// In this cluster.
    Cluster,
    /// In all clusters of the set.
    ClusterSet,
}

/// Namespaces by how they are like that of the Pod that the rule applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.match) != (has(self.sameLabels) && self.sameLabels.size() > 0)")
        .message("namespaces: set match or sameLabels")
)]
pub struct PeerNamespaces {
    /// Self: the same namespace.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub match_: Option<Match>,
    /// Keys of labels: namespaces with the same values of all of them. What is in a namespace that lacks one, the rule
    /// does not apply to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub same_labels: Vec<String>,
}

/// How namespaces are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Match {
    /// The same.
    #[serde(rename = "Self")]
    Same,
}

/// Name and namespace of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamespacedName {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceReference {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A Service as a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerService {
    /// Name.
    pub name: String,
    /// Namespace; that of the policy where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Cluster (the default), or ClusterSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

fn cidr(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "cidr" })
}

fn cidrs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 4096, "items": { "type": "string", "format": "cidr" } })
}

/// Addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IpBlock {
    /// The block, such as 192.0.2.0/24.
    #[schemars(schema_with = "cidr")]
    pub cidr: String,
    /// Parts of it that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "cidrs")]
    pub except: Vec<String>,
}

/// Ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.endPort) || has(self.port)")
        .message("endPort: needs a port"),
    validation = Rule::new("!has(self.sourceEndPort) || (has(self.sourcePort) && self.sourceEndPort >= self.sourcePort)")
        .message("sourceEndPort: needs a sourcePort that is not higher")
)]
pub struct Port {
    /// TCP (the default), UDP or SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Transport>,
    /// Destination port: a number, or the name of a port of the destination's containers. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// Last of a range of destination ports that begins with `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
    /// Source port. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub source_port: Option<i32>,
    /// Last of a range of source ports that begins with `sourcePort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub source_end_port: Option<i32>,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Transport {
    /// TCP
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP
    #[serde(rename = "SCTP")]
    Sctp,
}

/// A protocol without ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.icmp) != has(self.igmp)").message("protocols: each is one of icmp and igmp")
)]
pub struct Protocol {
    /// ICMP, of both IP versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// IGMP. This version does not enforce it: a rule that has it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub igmp: Option<Igmp>,
}

/// ICMP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.icmpCode) || has(self.icmpType)").message("icmpCode: needs an icmpType")
)]
pub struct Icmp {
    /// Type. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_type: Option<i32>,
    /// Code. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_code: Option<i32>,
}

/// IGMP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Igmp {
    /// Type. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub igmp_type: Option<i32>,
    /// Multicast group. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub group_address: Option<String>,
}

/// A protocol of the application layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct L7Protocol {
    /// HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<L7Http>,
    /// TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<L7Tls>,
}

/// HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct L7Http {
    /// Host; * stands for any part. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Method. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path; * stands for any part. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// TLS handshakes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct L7Tls {
    /// Server name; * stands for any part. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}
