//! What the index keeps of each thing.
//!
//! ```text
//!  Pod ──n:1── Class ──n:m── Group ──┬─ AppliedTo ──n:m── ApplySet ──1:n── Policy
//!              (namespace,           │                       │
//!               label set)           └─ Address ─────n:m─────┘
//! ```

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    selectors::{Anchor, CarrierIndex, Compiled, SelectorIndex},
    slab::Id,
    span::{Counts, Toggle},
};
use crate::{
    k8s::{PodIps, Uid},
    model::{AddressMember, GroupName, NetworkPolicy, Nodes, PodMember, SpanChange},
};

#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) name: Arc<str>,
    /// None while the namespace itself has not been seen (or is gone) and only its Pods or policies are known.
    pub(super) labels: Option<Id>,
    pub(super) classes: Vec<Id>,
    /// Made when there are many classes.
    pub(super) class_index: Option<Box<CarrierIndex>>,
    /// Groups scoped to this namespace.
    pub(super) groups: Vec<Id>,
    /// Made when there are many groups.
    pub(super) group_index: Option<Box<SelectorIndex>>,
}

/// The Pods of one namespace with one label set: no selector can tell them apart.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) namespace: Id,
    pub(super) labels: Id,
    pub(super) pods: Vec<Id>,
    /// How many of the Pods are on each node.
    pub(super) nodes: Counts,
    /// The groups that select the class, ascending.
    pub(super) groups: Vec<Id>,
    pub(super) place_in_namespace: u32,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) uid: Option<Uid>,
    pub(super) member: Arc<PodMember>,
    pub(super) ips: PodIps,
    /// Whether the addresses are not the API server's but what the agent of the Pod's node told.
    pub(super) told: bool,
    pub(super) namespace: Id,
    /// None if the Pod is gone; it then keeps its id until the changes are drained.
    pub(super) class: Id,
    /// None until scheduled.
    pub(super) node: Id,
    pub(super) place_in_class: u32,
    pub(super) place_on_node: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Arc<str>,
    pub(super) pods: Vec<Id>,
}

#[derive(Debug)]
pub(super) enum Where {
    Namespace(Id),
    Selector(Compiled),
    All,
}

/// How a group is listed for the classes that appear later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listing {
    /// In its namespace: place in the list, and anchor if the namespace has an index.
    Namespace(u32, Anchor),
    /// Cluster-wide, by a requirement on the Pods.
    Pods(Anchor),
    /// Cluster-wide, by a requirement on the namespace.
    Namespaces(Anchor),
}

/// A selector that some policy uses, with the classes it selects. It can be an AddressGroup, an AppliedToGroup,
/// or both.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: GroupName,
    pub(super) scope: Where,
    pub(super) pods: Compiled,
    pub(super) listing: Listing,
    /// Ascending.
    pub(super) classes: Vec<Id>,
    pub(super) address: Option<Box<Address>>,
    pub(super) applied_to: Option<Box<AppliedTo>>,
    pub(super) dirty: bool,
}

/// A group in its role of AddressGroup.
#[derive(Debug, Default)]
pub(super) struct Address {
    /// The apply sets of the policies that refer to the group, with how many do; ascending.
    pub(super) links: SmallVec<[(Id, u32); 1]>,
    /// How many of the linked sets are on each node, if there is more than one link. With one link the span is
    /// that of the set.
    pub(super) own: Option<Box<Counts>>,
    /// Whether the group has been sent out.
    pub(super) sent: bool,
    pub(super) pending: Option<Box<Pending<AddressMember>>>,
}

/// A group in its role of AppliedToGroup.
#[derive(Debug, Default)]
pub(super) struct AppliedTo {
    /// How many of the classes are on each node.
    pub(super) nodes: Counts,
    pub(super) sets: SmallVec<[Id; 2]>,
    pub(super) sent: bool,
    pub(super) pending: Option<Box<Pending<Arc<PodMember>>>>,
}

/// What happened to something that has been sent out, since then.
#[derive(Debug)]
pub(super) struct Pending<M> {
    /// Pods that were touched, with the member they were before. The first entry of a Pod counts.
    pub(super) pods: Vec<(Id, Option<M>)>,
    /// Nodes that came or went in the group's own counts. The first entry of a node counts.
    pub(super) toggles: Vec<Toggle>,
    /// The nodes that were sent, if links changed; makes the toggles void.
    pub(super) span_before: Option<Vec<Id>>,
}

impl<M> Default for Pending<M> {
    fn default() -> Self {
        Self { pods: Vec::new(), toggles: Vec::new(), span_before: None }
    }
}

/// A set of AppliedToGroups. Policies that apply to the same groups share their span.
#[derive(Debug)]
pub(super) struct ApplySet {
    /// Ascending.
    pub(super) groups: SmallVec<[Id; 1]>,
    /// How many of the groups are on each node, unless there is exactly one: the span is then the group's.
    pub(super) own: Option<Box<Counts>>,
    /// As for groups; only with `own`.
    pub(super) toggles: Vec<Toggle>,
    /// Whether the set was there at the last drain.
    pub(super) sent: bool,
    pub(super) dirty: bool,
    pub(super) policies: Vec<Id>,
    /// AddressGroups linked to the set, ascending.
    pub(super) addresses: Vec<Id>,
    /// During a drain: what changed.
    pub(super) change: Option<Arc<SpanChange>>,
    /// During a drain: the whole span, made when first needed.
    pub(super) span: Option<Nodes>,
}

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) object: Arc<NetworkPolicy>,
    /// None if the policy is gone; it then keeps its id until the changes are drained.
    pub(super) set: Id,
    pub(super) place_in_set: u32,
    /// AddressGroups of its peers, ascending.
    pub(super) addresses: SmallVec<[Id; 2]>,
    /// What was sent out.
    pub(super) sent: Option<Arc<NetworkPolicy>>,
    /// The nodes that were sent, if the set changed.
    pub(super) span_before: Option<Vec<Id>>,
    pub(super) dirty: bool,
}
