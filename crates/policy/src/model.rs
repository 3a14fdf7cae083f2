//! What the index computes: internal policies, groups, and the changes to send out.
//!
//! The shapes are those of `controlplane.antrea.io/v1beta2`, so that encoding them is a plain walk.

use std::net::IpAddr;
use std::{fmt, sync::Arc};

use ipnet::IpNet;
use uuid::Uuid;

use crate::k8s::{NODES, PodIps, node_of};

/// The name of an AddressGroup or AppliedToGroup.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GroupName {
    /// A group that comes from a selector in a policy: UUIDv5 of the selector's normalised text.
    Selector(Uuid),
    /// A group that has an object of its own (ClusterGroup: its name; Group: namespace/name).
    Named(Arc<str>),
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selector(uuid) => uuid.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl std::str::FromStr for GroupName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match Uuid::try_parse(text) {
            Ok(uuid) => Self::Selector(uuid),
            Err(_) => Self::Named(text.into()),
        })
    }
}

/// The kind of the policy an internal policy comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyKind {
    /// networking.k8s.io NetworkPolicy
    K8sNetworkPolicy,
    /// crd.antrea.io ClusterNetworkPolicy
    AntreaClusterNetworkPolicy,
    /// crd.antrea.io NetworkPolicy
    AntreaNetworkPolicy,
    /// policy.networking.k8s.io ClusterNetworkPolicy
    ClusterNetworkPolicy,
}

impl PolicyKind {
    /// The text of `NetworkPolicyReference.type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K8sNetworkPolicy => "K8sNetworkPolicy",
            Self::AntreaClusterNetworkPolicy => "AntreaClusterNetworkPolicy",
            Self::AntreaNetworkPolicy => "AntreaNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

/// The policy an internal policy comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PolicyReference {
    pub kind: PolicyKind,
    /// Its namespace; none for cluster-scoped kinds.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

/// Which way a rule looks, seen from the Pods it applies to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// Ingress
    In,
    /// Egress
    Out,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// Let it through.
    Allow,
    /// Discard it in silence.
    Drop,
    /// Discard it and tell the sender.
    Reject,
    /// Leave the decision to Kubernetes policies.
    Pass,
}

/// An IP protocol of a service.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    /// ICMP and ICMPv6
    Icmp,
    Igmp,
}

impl Protocol {
    /// The transport protocol of that (upper-case) name.
    #[must_use]
    pub fn transport(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
            Self::Igmp => "IGMP",
        }
    }
}

/// A port of a [`Service`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Port {
    /// A number, 1 to 65535.
    Number(u16),
    /// The name of a container port, to be resolved on the Pods at the destination.
    Name(Box<str>),
}

/// A protocol and ports. Fields that are none match everything.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Service {
    pub protocol: Protocol,
    /// The destination port, or the start of the range.
    pub port: Option<Port>,
    /// The end of the destination range; at least `port`, which is then a number.
    pub end_port: Option<u16>,
    /// The source port, or the start of the range.
    pub src_port: Option<u16>,
    /// The end of the source range.
    pub src_end_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
}

impl Service {
    /// All traffic of a protocol.
    #[must_use]
    pub fn protocol(protocol: Protocol) -> Self {
        Self {
            protocol,
            port: None,
            end_port: None,
            src_port: None,
            src_end_port: None,
            icmp_type: None,
            icmp_code: None,
        }
    }
}

/// A block and the parts of it that are not meant: see [`crate::cidr::subtract`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct IpBlock {
    /// The block, without host bits.
    pub cidr: IpNet,
    /// Each is inside the block, without host bits.
    pub except: Box<[IpNet]>,
}

impl IpBlock {
    /// Whether an address is meant.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|except| except.contains(&address))
    }
}

/// The other side of a rule: the union of what is listed. A peer that lists nothing matches nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peer {
    pub address_groups: Box<[GroupName]>,
    pub ip_blocks: Box<[IpBlock]>,
    /// Domain names in lower case; `*` stands for any part. Of egress rules only.
    pub fqdns: Box<[Box<str>]>,
    /// Services by whose addresses and ports the other side is reached, whichever endpoint is chosen. Of egress rules only.
    pub to_services: Box<[ServiceName]>,
}

/// A Service that a rule is for (`toServices`).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceName {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

impl Peer {
    /// Every address of both families.
    #[must_use]
    pub fn anywhere() -> Self {
        let block = |cidr: IpNet| IpBlock { cidr, except: Box::default() };
        let v4 = ipnet::Ipv4Net::default().into();
        let v6 = ipnet::Ipv6Net::default().into();
        Self { ip_blocks: [block(v4), block(v6)].into(), ..Self::default() }
    }
}

/// The priority of rules of Kubernetes policies, which have no order among them.
pub const DEFAULT_RULE_PRIORITY: i32 = -1;

/// A rule of an internal policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    pub direction: Direction,
    /// Sources if the direction is in, destinations if it is out.
    pub peer: Peer,
    /// Destination services; empty matches all traffic.
    pub services: Box<[Service]>,
    /// The order in the policy, lower first; [`DEFAULT_RULE_PRIORITY`] for Kubernetes policies.
    pub priority: i32,
    /// What to do.
    pub action: Action,
    /// Whether matches are logged.
    pub enable_logging: bool,
    /// AppliedToGroups of this rule alone; empty means those of the policy.
    pub applied_to: Box<[GroupName]>,
    /// Services that it applies to in place of Pods: what comes to them from outside by addresses of Nodes. Its
    /// AppliedToGroups say which Nodes are told of it.
    pub on_services: Box<[ServiceName]>,
    /// Name, for statistics and logs.
    pub name: Option<Box<str>>,
    pub log_label: Option<Box<str>>,
}

/// An internal policy.
///
/// Kubernetes semantics are expressed by the rules: a Pod in an AppliedToGroup of a policy of kind
/// [`PolicyKind::K8sNetworkPolicy`] is isolated in each direction that has at least one rule, even if that rule
/// has an empty peer (which allows nothing).
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPolicy {
    /// The name: the UID of the source.
    pub name: Arc<str>,
    pub source: PolicyReference,
    /// The source's generation, for reporting what has been realized.
    pub generation: i64,
    /// Priority in the tier, lower first; none for Kubernetes policies.
    pub priority: Option<f64>,
    /// Priority of the tier, lower first; none for Kubernetes policies.
    pub tier_priority: Option<i32>,
    /// Whether connections that its rules deny end, also those that were there before.
    pub resets_established: bool,
    /// AppliedToGroups of rules that name none themselves.
    pub applied_to: Box<[GroupName]>,
    pub rules: Box<[Rule]>,
}

impl NetworkPolicy {
    /// The groups a rule of this policy applies to.
    #[must_use]
    pub fn applied_to_of<'a>(&'a self, rule: &'a Rule) -> &'a [GroupName] {
        if rule.applied_to.is_empty() { &self.applied_to } else { &rule.applied_to }
    }
}

/// A container port with a name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NamedPort {
    pub name: Box<str>,
    /// The number, 1 to 65535.
    pub port: u16,
    pub protocol: Protocol,
}

/// A Pod as a member of groups. All groups share one allocation per Pod.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodMember {
    pub namespace: Arc<str>,
    pub name: Box<str>,
    /// The node; none until the Pod is scheduled. Members of AppliedToGroups always have one. On the wire it is
    /// not part of a member but decides which node is told of it.
    pub node: Option<Arc<str>>,
    /// Named container ports.
    pub ports: Arc<[NamedPort]>,
}

impl PodMember {
    /// The Node that it stands for, of which a group has a member for each address, and the address.
    #[must_use]
    pub fn as_node(&self) -> Option<(&str, Option<IpAddr>)> {
        (*self.namespace == *NODES).then(|| node_of(&self.name))
    }
}

/// A member of an AddressGroup.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AddressMember {
    /// The Pod, or what stands for a Node; see [`PodMember::as_node`].
    pub pod: Arc<PodMember>,
    /// Its addresses, at least one.
    pub ips: PodIps,
}

/// Names of nodes, in no particular order.
pub type Nodes = Arc<[Arc<str>]>;

/// A change of the set of nodes that need an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SpanChange {
    /// Nodes that need it now and did not before: they are sent the whole object as ADDED.
    pub added: Box<[Arc<str>]>,
    /// Nodes that do not need it any more: they are sent DELETED.
    pub removed: Box<[Arc<str>]>,
}

impl SpanChange {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// A change of a group with members of type `M`, in no particular order.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupChange<M> {
    /// The group exists now.
    Created {
        members: Vec<M>,
        /// All nodes that need it.
        span: Nodes,
    },
    /// Members or nodes changed. To apply: first take out what was removed, then put in what was added; a
    /// member whose content changed (address, ports, node) is in both lists with its old and new content.
    Updated {
        /// New members.
        added: Vec<M>,
        /// Former members with the content they had.
        removed: Vec<M>,
        /// Nodes that came and went. Nodes in neither list get the members as a patch, unless there are none.
        span: Arc<SpanChange>,
    },
    /// No policy refers to the group any more.
    Deleted,
}

/// A change of an internal policy.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyChange {
    /// The policy exists now.
    Created {
        policy: Arc<NetworkPolicy>,
        /// All nodes that need it.
        span: Nodes,
    },
    /// The policy or its nodes changed.
    Updated {
        /// The policy as it is now.
        policy: Arc<NetworkPolicy>,
        /// Whether the policy itself changed; if not, only nodes that came or went are told.
        modified: bool,
        /// Nodes that came and went.
        span: Arc<SpanChange>,
    },
    /// The policy is gone.
    Deleted {
        /// The policy as it was told last.
        policy: Arc<NetworkPolicy>,
    },
}

/// A change to send out.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexChange {
    AddressGroup(GroupName, GroupChange<AddressMember>),
    /// Of an AppliedToGroup. A node is only told of the members it holds.
    AppliedToGroup(GroupName, GroupChange<Arc<PodMember>>),
    /// Of the internal policy of this name.
    Policy(Arc<str>, PolicyChange),
}
