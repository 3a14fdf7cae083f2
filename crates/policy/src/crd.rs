//! The objects of `crd.antrea.io` that the index reads, with only the fields it reads. Values are kept as written;
//! [`crate::native`] checks them. A kind of the cluster and its twin of a namespace share a type: the namespace is
//! empty for the former.

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    k8s::{IntOrString, IpBlock, null_default},
    labels::LabelSelector,
    model::PolicyKind,
};

/// The tiers that always exist, whatever objects there are, and their priorities.
pub const STATIC_TIERS: [(&str, i32); 6] = [
    ("emergency", 50),
    ("securityops", 100),
    ("networkops", 150),
    ("platform", 200),
    (DEFAULT_TIER, 250),
    (BASELINE_TIER, 253),
];

/// The tier after Kubernetes policies.
pub(crate) const BASELINE_TIER: &str = "baseline";

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "application";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(deserialize_with = "null_default")]
    namespace: Box<str>,
    name: Box<str>,
    #[serde(deserialize_with = "null_default")]
    uid: Box<str>,
    generation: i64,
}

#[derive(Deserialize)]
struct Raw<T> {
    metadata: Metadata,
    spec: T,
}

/// A Tier as far as the order of policies depends on it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(from = "Raw<TierSpec>")]
pub struct Tier {
    /// `metadata.name`
    pub name: Box<str>,
    /// `spec.priority`
    pub priority: i64,
}

#[derive(Deserialize)]
struct TierSpec {
    priority: i64,
}

impl From<Raw<TierSpec>> for Tier {
    fn from(raw: Raw<TierSpec>) -> Self {
        Self { name: raw.metadata.name, priority: raw.spec.priority }
    }
}

/// A ClusterNetworkPolicy, or a NetworkPolicy of `crd.antrea.io`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "Raw<PolicySpec>")]
pub struct Policy {
    /// `metadata.namespace`; empty for a ClusterNetworkPolicy.
    pub namespace: Box<str>,
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.uid`: the name of the internal policy.
    pub uid: Box<str>,
    /// `metadata.generation`
    pub generation: i64,
    pub spec: PolicySpec,
}

impl Policy {
    /// Of the two kinds, the one with or the one without a Namespace.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        kind(&self.namespace)
    }
}

/// What stands for the namespace of the Kubernetes project's ClusterNetworkPolicies where policies are told apart by
/// namespace and name: no namespace has such a name.
pub const STANDARD: &str = "/policy.networking.k8s.io";

/// The namespace, of what is in one.
pub(crate) fn own(namespace: &str) -> Option<&str> {
    Some(namespace).filter(|namespace| !namespace.is_empty() && *namespace != STANDARD)
}

/// The kind of policies in this namespace, or without one.
pub(crate) fn kind(namespace: &str) -> PolicyKind {
    match namespace {
        "" => PolicyKind::AntreaClusterNetworkPolicy,
        STANDARD => PolicyKind::ClusterNetworkPolicy,
        _ => PolicyKind::AntreaNetworkPolicy,
    }
}

impl From<Raw<PolicySpec>> for Policy {
    fn from(raw: Raw<PolicySpec>) -> Self {
        let Metadata { namespace, name, uid, generation } = raw.metadata;
        Self { namespace, name, uid, generation, spec: raw.spec }
    }
}

/// `spec` of a NetworkPolicy or ClusterNetworkPolicy, unchecked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySpec {
    /// The tier; none or empty: [`DEFAULT_TIER`].
    #[serde(deserialize_with = "null_default")]
    pub tier: Box<str>,
    /// Order in the tier.
    pub priority: f64,
    /// `Keep`, also if empty, or `Reset`.
    #[serde(deserialize_with = "null_default")]
    pub established: Box<str>,
    /// What rules that do not say it themselves apply to.
    #[serde(deserialize_with = "null_default")]
    pub applied_to: Vec<AppliedTo>,
    /// Rules for what comes in.
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<Rule>,
    /// Rules for what goes out.
    #[serde(deserialize_with = "null_default")]
    pub egress: Vec<Rule>,
}

/// `appliedTo`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AppliedTo {
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces of the Pods.
    pub namespace_selector: Option<LabelSelector>,
    pub group: Option<Box<str>>,
    /// Not supported.
    pub external_entity_selector: Option<IgnoredAny>,
    pub service_account: Option<NamespacedName>,
    /// A Service, for what comes to it from outside by addresses of Nodes.
    pub service: Option<NamespacedName>,
    /// Not supported.
    pub node_selector: Option<IgnoredAny>,
}

/// An object of a namespace.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct NamespacedName {
    #[serde(deserialize_with = "null_default")]
    pub name: Box<str>,
    #[serde(deserialize_with = "null_default")]
    pub namespace: Box<str>,
}

/// A rule of either direction, unchecked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// `Allow`, `Drop`, `Reject` or `Pass`.
    #[serde(deserialize_with = "null_default")]
    pub action: Box<str>,
    /// Ports of the destination.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
    /// Protocols without ports.
    #[serde(deserialize_with = "null_default")]
    pub protocols: Vec<ProtocolMatch>,
    /// Not supported.
    #[serde(deserialize_with = "null_default")]
    pub l7_protocols: Vec<IgnoredAny>,
    /// Sources of an ingress rule; empty means any.
    #[serde(deserialize_with = "null_default")]
    pub from: Vec<Peer>,
    /// Destinations of an egress rule; empty means any.
    #[serde(deserialize_with = "null_default")]
    pub to: Vec<Peer>,
    /// Services as destinations of an egress rule, in place of `to` and ports.
    #[serde(deserialize_with = "null_default")]
    pub to_services: Vec<PeerService>,
    #[serde(deserialize_with = "null_default")]
    pub name: Box<str>,
    /// Whether matches are logged.
    #[serde(deserialize_with = "null_default")]
    pub enable_logging: bool,
    /// What the rule applies to, where the policy does not say it.
    #[serde(deserialize_with = "null_default")]
    pub applied_to: Vec<AppliedTo>,
    #[serde(deserialize_with = "null_default")]
    pub log_label: Box<str>,
}

/// The other side of a rule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    pub ip_block: Option<IpBlock>,
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces of the Pods.
    pub namespace_selector: Option<LabelSelector>,
    /// Namespaces by how they are like that of the Pod that the rule applies to.
    pub namespaces: Option<PeerNamespaces>,
    pub group: Option<Box<str>>,
    /// Domain name; `*` stands for any part.
    pub fqdn: Option<Box<str>>,
    pub service_account: Option<NamespacedName>,
    /// Nodes; in policies of the cluster only.
    pub node_selector: Option<LabelSelector>,
    /// Not supported.
    pub external_entity_selector: Option<IgnoredAny>,
    /// `Cluster`, the default, or `ClusterSet`, which is not supported.
    #[serde(deserialize_with = "null_default")]
    pub scope: Box<str>,
}

/// A Service as a destination.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct PeerService {
    #[serde(deserialize_with = "null_default")]
    pub name: Box<str>,
    /// Empty in a policy of a namespace: that one.
    #[serde(deserialize_with = "null_default")]
    pub namespace: Box<str>,
    /// `Cluster`, the default, or `ClusterSet`, which is not supported.
    #[serde(deserialize_with = "null_default")]
    pub scope: Box<str>,
}

/// `namespaces` of a peer: those that are like that of the Pod itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerNamespaces {
    /// `Self`, or empty.
    #[serde(rename = "match", deserialize_with = "null_default")]
    pub match_: Box<str>,
    /// Keys of labels.
    #[serde(deserialize_with = "null_default")]
    pub same_labels: Vec<Box<str>>,
}

/// One port or a range of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// `TCP` (the default), `UDP` or `SCTP`.
    pub protocol: Option<Box<str>>,
    /// Destination port; none means any.
    pub port: Option<IntOrString>,
    /// The upper end of the range.
    pub end_port: Option<i64>,
    /// Source port; none means any.
    pub source_port: Option<i64>,
    /// The upper end of the range.
    pub source_end_port: Option<i64>,
}

/// A protocol without ports.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ProtocolMatch {
    pub icmp: Option<Icmp>,
    /// Not supported.
    pub igmp: Option<IgnoredAny>,
}

/// Messages of ICMP, by the numbers of RFC 792; without any, all.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Icmp {
    pub icmp_type: Option<i64>,
    pub icmp_code: Option<i64>,
}

/// A ClusterGroup, or a Group.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "Raw<GroupSpec>")]
pub struct Group {
    /// `metadata.namespace`; empty for a ClusterGroup.
    pub namespace: Box<str>,
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.uid`
    pub uid: Box<str>,
    pub spec: GroupSpec,
}

impl From<Raw<GroupSpec>> for Group {
    fn from(raw: Raw<GroupSpec>) -> Self {
        let Metadata { namespace, name, uid, .. } = raw.metadata;
        Self { namespace, name, uid, spec: raw.spec }
    }
}

/// `spec` of a Group or ClusterGroup, unchecked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupSpec {
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces of the Pods.
    pub namespace_selector: Option<LabelSelector>,
    #[serde(deserialize_with = "null_default")]
    pub ip_blocks: Vec<IpBlock>,
    /// Names of groups that are in this one.
    #[serde(deserialize_with = "null_default")]
    pub child_groups: Vec<Box<str>>,
    /// A Service, for the Pods behind it. In a Group without a namespace it is one of its own.
    pub service_reference: Option<NamespacedName>,
    /// Not supported.
    pub external_entity_selector: Option<IgnoredAny>,
    /// Not supported.
    pub node_selector: Option<IgnoredAny>,
}
