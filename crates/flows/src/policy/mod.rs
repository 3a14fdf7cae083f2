//! Policy rules as flows.
//!
//! A rule says: pods it applies to × peers × services → action. Multiplied out that would be a flow per
//! combination; OVS's conjunctive match needs a flow per member instead (ovs-fields(7), "Conjunctive Match
//! Fields"):
//!
//! ```text
//!  IngressRule 200  reg1=PORT          conjunction(ID,2/3)   one per pod
//!              200  nw_src=PEER        conjunction(ID,1/3)   one per peer, shared by all rules with that peer
//!              200  tcp_dst=80         conjunction(ID,3/3)
//!              190  conj_id=ID         reg6=ID, goto IngressMetric
//!  IngressDefaultRule 200 reg1=PORT    drop                  once per isolated pod
//!  IngressMetric 200 +new reg6=ID      next                  counts connections
//!                200 -new ct_label=ID  next                  counts the other packets
//! ```
//!
//! A rule may name Services instead of peers. What is sent to one is marked before it is translated, and the mark is the
//! rule's peer (`target`). It may apply to Services instead of pods: then it stands before translation, where what comes to
//! one from outside by the node's addresses is marked in the same way (`feature/proxy`).
//!
//! # Invariants
//! - The flows are a function of the set of rules; the order of changes does not matter.
//! - A change costs as much as the flows it touches, whatever else is installed.
//! - A rule never lets more through than its members say while a change is half done: a conjunction acts only
//!   when all its clauses are there, and isolation of a pod stays while any rule wants it, in one
//!   [`Realizer::apply`] as well as between them.

mod clause;
mod error;
mod named;
mod own;
mod place;
mod probe;
mod realizer;
mod sorted;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

pub use antrea_policy::{
    model::{Action, Direction, NamedPort, Protocol},
    ports::PortRange,
};
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::Table;

pub use error::RuleError;
pub use named::{NamedService, resolve_named_ports};
pub use probe::{PROBE_RULE, probe};
pub use realizer::Realizer;
pub use sorted::{SortedMap, SortedSet};

/// Where a rule stands in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Of a Kubernetes NetworkPolicy: isolates the pods it applies to; can only allow.
    K8s,
    /// Of an Antrea-native policy, before Kubernetes policies. Higher priorities (100–65000 but 64990) come
    /// first.
    Native {
        /// OpenFlow priority; different for rules of different rank.
        priority: u16,
    },
    /// Of an Antrea-native policy in the baseline tier, after Kubernetes policies.
    Baseline {
        /// OpenFlow priority, 10–180.
        priority: u16,
    },
    /// Of an Antrea-native policy that applies to Services: decides on what comes to them from outside by addresses of the
    /// node, before it is translated. Its pods are [`at_node`] of the groups of the Services, without addresses.
    Service {
        /// OpenFlow priority, as of native rules.
        priority: u16,
    },
}

impl Class {
    /// Whether the rule is about pods of the node.
    pub fn is_of_pods(self) -> bool {
        !matches!(self, Class::Service { .. })
    }
}

/// The number of a Service's group where it is reached by addresses of the node.
pub const fn at_node(group: u32) -> u32 {
    group | 1
}

/// Whether it is such a number.
pub const fn is_at_node(group: u32) -> bool {
    group & 1 == 1
}

/// Who is at the other end: sources of an ingress rule, destinations of an egress rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Everybody, of every family.
    Any,
    /// These addresses, without host bits ([`IpNet::trunc`]); what a policy excepts is already subtracted.
    /// Nobody if empty.
    Of(SortedSet<IpNet>),
    /// Whoever is behind these Services, for what is sent to the Service. Of egress rules without services of their own, and
    /// where the bridge serves Services. Nobody if empty.
    Services(Targets),
}

/// Frontends of Services by the number of their group, which is not 0.
pub type Targets = BTreeMap<u32, BTreeSet<Frontend>>;

/// Where a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    pub address: SocketAddr,
}

impl Peers {
    /// Whether no packet can come from or go to these peers.
    pub fn is_nobody(&self) -> bool {
        match self {
            Peers::Any => false,
            Peers::Of(nets) => nets.is_empty(),
            Peers::Services(targets) => targets.is_empty(),
        }
    }
}

/// One alternative of what a rule allows or denies. Named ports are resolved: see [`resolve_named_ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    pub protocol: Protocol,
    /// Destination ports; `None` is all.
    pub ports: Option<PortRange>,
    /// Source ports; `None` is all.
    pub src_ports: Option<PortRange>,
    /// ICMP type; `None` is all.
    pub icmp_type: Option<u8>,
    /// ICMP code; `None` is all.
    pub icmp_code: Option<u8>,
}

impl Service {
    /// All traffic of a protocol.
    pub fn all(protocol: Protocol) -> Self {
        Self { protocol, ports: None, src_ports: None, icmp_type: None, icmp_code: None }
    }

    /// Traffic to a range of ports.
    pub fn to(protocol: Protocol, ports: PortRange) -> Self {
        Self { ports: Some(ports), ..Self::all(protocol) }
    }
}

/// Addresses of a pod, one per family.
pub type PodIps = SmallVec<[IpAddr; 2]>;

/// A rule, as far as this node has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Id, not 0, unique among the rules of the node. It becomes the conjunction's id, is kept in the label of
    /// connections that the rule allowed and in the cookie of the rule's own flows. Small and dense ids share
    /// more flows.
    pub id: u32,
    /// Seen from the pods that the rule applies to.
    pub direction: Direction,
    /// Its place in the order.
    pub class: Class,
    /// What happens to matching packets.
    pub action: Action,
    /// Pods of this node that the rule applies to: OpenFlow port → addresses.
    pub pods: SortedMap<u32, PodIps>,
    /// The other end. A Kubernetes rule with nobody there only isolates its pods.
    pub peers: Peers,
    /// Alternatives; empty is all traffic.
    pub services: Vec<Service>,
    /// What it decides on is told: the first packet of each connection that it allows and each that it denies; of a
    /// Kubernetes rule each that its isolation denies, too.
    pub logs: bool,
}

impl Rule {
    /// The table that the rule stands in, and the priority of the flow that decides.
    pub fn place(&self) -> (Table, u16) {
        (place::rule_table(self), place::action_priority(self))
    }
}

/// A change of a rule's members. What is removed goes first, so a pod whose address changed can be in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberChange {
    /// Ports of pods that the rule no longer applies to. Unknown ones are ignored.
    pub removed_pods: Vec<u32>,
    /// Pods that the rule now applies to; replaces what was known of the port.
    pub added_pods: Vec<(u32, PodIps)>,
    /// Peers that are gone. Unknown ones are ignored, and all if the peers are [`Peers::Any`].
    pub removed_peers: Vec<IpNet>,
    /// New peers. Known ones are ignored, and all if the peers are [`Peers::Any`].
    pub added_peers: Vec<IpNet>,
}

/// One change of the set of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// Adds the rule, or replaces the one with its id.
    Upsert(Rule),
    /// Removes the rule, if it is there.
    Remove(u32),
    Members(u32, MemberChange),
    /// Moves a rule in the order of evaluation.
    Class(u32, Class),
}

impl RuleChange {
    /// The rule that changes.
    pub fn id(&self) -> u32 {
        match self {
            RuleChange::Upsert(rule) => rule.id,
            RuleChange::Remove(id) | RuleChange::Members(id, _) | RuleChange::Class(id, _) => *id,
        }
    }
}
