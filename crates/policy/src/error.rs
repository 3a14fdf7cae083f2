//! What can be wrong with a policy, with the object and the field named.

use std::fmt::Write;

use ipnet::IpNet;
use thiserror::Error;

use crate::{crd, k8s, limits::TooLarge};

/// A field of a policy that cannot be honoured. The policy stays in force without it; see [`crate::k8s`] for
/// what that means.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{object}: {path}: {problem}")]
pub struct PolicyError {
    /// Kind, namespace and name, such as `NetworkPolicy shop/allow-web`.
    pub object: Box<str>,
    /// The field, such as `spec.ingress[3].from[1].ipBlock.cidr`.
    pub path: Box<str>,
    /// What is wrong there.
    pub problem: Problem,
}

/// The kinds of mistakes.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Problem {
    /// Not a known operator.
    #[error("{0:?} is not one of In, NotIn, Exists, DoesNotExist")]
    Operator(Box<str>),
    /// A set operator without values.
    #[error("In and NotIn need at least one value")]
    ValuesRequired,
    /// An existence operator with values.
    #[error("Exists and DoesNotExist take no values")]
    ValuesForbidden,
    /// Not a qualified name.
    #[error("{0:?} is not a label key")]
    LabelKey(Box<str>),
    /// Not a label value.
    #[error("{0:?} is not a label value")]
    LabelValue(Box<str>),
    /// Not an address prefix.
    #[error("{0:?} is not a CIDR")]
    Cidr(Box<str>),
    /// An exception that is not part of the block.
    #[error("{except} is not a part of {cidr}")]
    Except {
        /// The exception.
        except: IpNet,
        /// The block.
        cidr: IpNet,
    },
    /// More than a node can be asked to hold.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A peer without a selector or a block.
    #[error("a peer needs podSelector, namespaceSelector or ipBlock")]
    EmptyPeer,
    /// A peer with a block and a selector.
    #[error("ipBlock excludes podSelector and namespaceSelector")]
    MixedPeer,
    /// Not a transport protocol that policies know.
    #[error("{0:?} is not one of TCP, UDP, SCTP")]
    Protocol(Box<str>),
    /// Not a port number.
    #[error("{0} is not a port: 1 to 65535")]
    Port(i64),
    /// Not a port name.
    #[error("{0:?} is not a port name: at most 15 of a-z, 0-9 and single inner '-', at least one letter")]
    PortName(Box<str>),
    /// A range that ends before it starts.
    #[error("{end} is below port {port}")]
    EndPort {
        /// The upper end.
        end: i64,
        /// The lower end.
        port: u16,
    },
    /// A range without a numeric start.
    #[error("endPort needs a numeric port")]
    EndPortAlone,
    /// Not a direction.
    #[error("{0:?} is not one of Ingress, Egress")]
    PolicyType(Box<str>),
    /// Not a choice of what becomes of connections.
    #[error("{0:?} is not one of Keep, Reset; connections are kept")]
    Established(Box<str>),
    /// A field that this version does not enforce.
    #[error("is not enforced by this version; what needs it is left out")]
    Unsupported,
    /// Not an action.
    #[error("{0:?} is not one of Allow, Drop, Reject, Pass")]
    Action(Box<str>),
    /// Pass in the baseline tier.
    #[error(
        "nothing comes after the Tier baseline to which Pass could leave the decision: what matches is dropped"
    )]
    NothingToPassTo,
    /// Not a tier of the Kubernetes project's policies.
    #[error("{0:?} is not one of Admin, Baseline: only Deny rules are in force")]
    StandardTier(Box<str>),
    /// Not an action of theirs.
    #[error("{0:?} is not one of Accept, Deny, Pass: taken for Deny")]
    StandardAction(Box<str>),
    /// Not one way to name Pods.
    #[error("needs one of namespaces and pods")]
    StandardPods,
    /// A part of a rule without a field that is known.
    #[error(
        "says nothing that is known: an Accept rule does not match it, a Deny or Pass rule denies everything"
    )]
    StandardPart,
    /// There is no such tier.
    #[error("there is no Tier {0:?}: only Drop and Reject rules are in force, in the Tier application")]
    NoTier(Box<str>),
    /// There is no such group.
    #[error("there is no group {0:?}: until there is it has no members")]
    NoGroup(Box<str>),
    /// There is no such Service.
    #[error("there is no Service {0:?}: until there is nobody is behind it")]
    UnknownService(Box<str>),
    /// A Service without a selector, or without endpoints.
    #[error("the Service {0:?} has no selector: nobody is behind it")]
    SelectsNothing(Box<str>),
    /// A group in a group has groups itself.
    #[error("{0:?} has childGroups and cannot be in childGroups itself")]
    NestedGroup(Box<str>),
    /// A group of addresses where Pods are needed.
    #[error("a policy applies to Pods, not to the ipBlocks of a group")]
    AddressesAppliedTo,
    /// An appliedTo that selects nothing.
    #[error("needs podSelector, namespaceSelector, serviceAccount, group or service")]
    EmptyAppliedTo,
    /// An appliedTo of several kinds.
    #[error("group, serviceAccount, service and selectors exclude each other")]
    MixedAppliedTo,
    /// Services beside what is no Service.
    #[error("is of Services or of Pods, not of both; the Services are left out")]
    MixedTargets,
    /// An egress rule of Services.
    #[error("applies to Services, which is for ingress rules; the rule is left out")]
    EgressOfServices,
    /// A rule of Services in the baseline tier.
    #[error("applies to Services, which have no place in the Tier baseline; the rule is left out")]
    ServicesAreNotLast,
    /// Ports of a rule of Services.
    #[error("a rule that applies to Services has none, for a Service says where it is; the rule is left out")]
    PortsOfServices,
    /// A peer of a rule of Services.
    #[error("a rule that applies to Services has peers by ipBlock alone; the rule is left out")]
    PeersOfServices,
    /// A ServiceAccount of which the name or the namespace is missing.
    #[error("needs name and namespace")]
    NoServiceAccount,
    /// A Service of which the name or the namespace is missing.
    #[error("needs name and namespace of a Service")]
    NoService,
    /// Services beside other destinations.
    #[error("excludes to, ports and protocols, for a Service says where it is; the rule is left out")]
    MixedToServices,
    /// A field that a policy of a namespace cannot have.
    #[error("is for ClusterNetworkPolicies only")]
    ClusterOnly,
    /// A field that a peer of ingress rules cannot have.
    #[error("belongs to egress rules")]
    EgressOnly,
    /// Not a domain name.
    #[error("{0:?} is not a domain name: at most 253 of a-z, 0-9, '-', '_', '.', and '*' for any part")]
    Fqdn(Box<str>),
    /// A native peer that names nothing.
    #[error(
        "a peer needs podSelector, namespaceSelector, namespaces, serviceAccount, group, ipBlock, fqdn or nodeSelector"
    )]
    EmptyNativePeer,
    /// A native peer of several kinds.
    #[error("ipBlock, group, serviceAccount, fqdn, nodeSelector and selectors exclude each other")]
    MixedNativePeer,
    /// A peer with namespaces in two ways.
    #[error("excludes namespaceSelector")]
    MixedNamespaces,
    /// A peer's namespaces by neither or both ways.
    #[error("needs either match: Self or sameLabels")]
    PeerNamespaces,
    /// A list of the other direction.
    #[error("belongs to rules of the other direction; the rule is left out")]
    Misplaced,
    /// Not an ICMP type or code.
    #[error("{0} is not 0 to 255")]
    Icmp(i64),
    /// A code without a type.
    #[error("needs an icmpType")]
    IcmpCodeAlone,
    /// Not one protocol.
    #[error("needs one of icmp and igmp")]
    ProtocolMatch,
    /// Two rules of a policy have one name.
    #[error("another rule has the name {0:?}")]
    RuleName(Box<str>),
    /// A group with groups in it is in other groups itself.
    #[error("a group that is in another ({0}) cannot have childGroups itself")]
    IsChild(Box<str>),
    /// Two Tiers have one priority.
    #[error("is that of Tier {0}")]
    TierPriority(Box<str>),
    /// No more Tiers are possible.
    #[error("there are {0} Tiers with those that always exist, and no more are possible")]
    Tiers(usize),
    /// A Tier that cannot be deleted.
    #[error("this Tier always exists")]
    StaticTier,
    /// A Tier that cannot be deleted now.
    #[error("policies are in this Tier: {0}")]
    TierInUse(Box<str>),
    /// The UID is missing, or another policy has it.
    #[error("UID {0:?} is missing or in use by another policy; a name of its own is derived")]
    Uid(Box<str>),
    /// There are more mistakes than are kept.
    #[error("{0} more mistakes")]
    More(usize),
}

impl PolicyError {
    /// How mistakes name this policy in [`Self::object`].
    #[must_use]
    pub fn object_of(policy: &k8s::NetworkPolicy) -> Box<str> {
        format!("NetworkPolicy {}/{}", policy.namespace, policy.name).into()
    }

    /// As [`Self::object_of`].
    #[must_use]
    pub fn object_of_native(policy: &crd::Policy) -> Box<str> {
        if policy.namespace.is_empty() {
            return format!("ClusterNetworkPolicy {}", policy.name).into();
        }
        format!("NetworkPolicy {}/{}", policy.namespace, policy.name).into()
    }

    /// As [`Self::object_of`].
    pub(crate) fn object_of_standard(name: &str) -> Box<str> {
        format!("{STANDARD} {name}").into()
    }

    /// As [`Self::object_of`].
    pub(crate) fn object_of_group(group: &crd::Group) -> Box<str> {
        if group.namespace.is_empty() {
            return format!("ClusterGroup {}", group.name).into();
        }
        format!("Group {}/{}", group.namespace, group.name).into()
    }

    /// As [`Self::object_of`].
    pub(crate) fn object_of_tier(name: &str) -> Box<str> {
        format!("Tier {name}").into()
    }
}

/// The kind of the Kubernetes project's policies, by its full name: Antrea's has the same short one.
pub(crate) const STANDARD: &str = "clusternetworkpolicy.policy.networking.k8s.io";

/// Mistakes kept per policy; more are only counted.
const MAX_ERRORS: usize = 64;

/// One step from an object into a field.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Field(&'static str),
    /// `.field[index]`
    Index(&'static str, usize),
    /// `.field[key]`
    Key(&'static str, Box<str>),
}

/// Collects the mistakes of one object.
#[derive(Debug)]
pub(crate) struct Issues {
    object: Box<str>,
    path: Vec<Step>,
    errors: Vec<PolicyError>,
    more: usize,
}

impl Issues {
    /// For the object with this kind, namespace and name.
    pub(crate) fn new(object: impl Into<Box<str>>) -> Self {
        Self { object: object.into(), path: Vec::new(), errors: Vec::new(), more: 0 }
    }

    /// The top of the object.
    pub(crate) fn top(&mut self) -> Place<'_> {
        Place { issues: self, step: false }
    }

    /// Everything that was found, in order; at most 64 and a last entry that counts the rest.
    pub(crate) fn into_errors(mut self) -> Vec<PolicyError> {
        if self.more > 0 {
            let problem = Problem::More(self.more);
            self.errors.push(PolicyError { object: self.object, path: "spec".into(), problem });
        }
        self.errors
    }
}

/// A place in an object to report mistakes at. The path is only put together when there is one.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    issues: &'a mut Issues,
    step: bool,
}

impl Place<'_> {
    /// One step further in.
    pub(crate) fn at(&mut self, step: Step) -> Place<'_> {
        self.issues.path.push(step);
        Place { issues: self.issues, step: true }
    }

    /// A field of this place.
    pub(crate) fn field(&mut self, name: &'static str) -> Place<'_> {
        self.at(Step::Field(name))
    }

    /// An element of a list in this place.
    pub(crate) fn index(&mut self, name: &'static str, index: usize) -> Place<'_> {
        self.at(Step::Index(name, index))
    }

    /// Reports a mistake here.
    pub(crate) fn add(&mut self, problem: Problem) {
        if self.issues.errors.len() >= MAX_ERRORS {
            self.issues.more += 1;
            return;
        }
        let mut path = String::new();
        for step in &self.issues.path {
            if !path.is_empty() {
                path.push('.');
            }
            let _ = match step {
                Step::Field(name) => path.write_str(name),
                Step::Index(name, index) => write!(path, "{name}[{index}]"),
                Step::Key(name, key) => write!(path, "{name}[{key}]"),
            };
        }
        let object = self.issues.object.clone();
        self.issues.errors.push(PolicyError { object, path: path.into(), problem });
    }

    /// The value, or a mistake reported here.
    pub(crate) fn check<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.step {
            self.issues.path.pop();
        }
    }
}
