//! Sends out what changed in the index. A change becomes an event only if somebody watches.

use std::{collections::HashMap, sync::Arc, time::Instant};

use antrea_api::{controlplane as wire, k8s::EventType};
use antrea_policy::{
    Index,
    model::{AddressMember, Change, GroupChange, GroupName, NetworkPolicy, PodMember, PolicyChange},
};
use antrea_runtime::trace::Tracer;
use apiserver_kit::{
    hub::{Delta, Render, Routes},
    object::Item,
};

use super::{
    ADDRESS, APPLIED_TO, POLICY, PolicyMetrics, State, convert, resources,
    trace::{Spans, stamped},
};

/// Drains the index and sends out the changes, with the stamp of `spans` if there are any.
pub(super) fn publish(
    state: &mut State,
    routes: &mut Routes,
    begin: Instant,
    spans: impl FnOnce(&Tracer) -> Option<Spans>,
) {
    let State { index, whole, realization, stale, metrics, tracer, .. } = state;
    if routes.is_empty() {
        // Nothing need be kept of the changes; a watcher starts from the present state.
        index.drain_with(|change| {
            if let Change::Policy(name, policy) = &change {
                realization.follow(name, policy);
            }
            stale.follow(&change);
            count(&change, metrics, begin);
        });
        whole.clear();
        return;
    }
    let changes = index.drain();
    if changes.is_empty() {
        return;
    }
    let spans = spans(tracer);
    let stamp = spans.as_ref().and_then(Spans::stamp);
    let stamp = stamp.as_deref();
    for change in changes {
        stale.follow(&change);
        match &change {
            Change::AddressGroup(name, group) => {
                let text = name.to_string();
                whole.remove(&text);
                let mut render =
                    AddressRender { index, name, text: &text, group, stamp, items: Items::default() };
                routes.publish(ADDRESS, &text, delta(group), &mut render);
            }
            Change::AppliedToGroup(name, group) => {
                let text = name.to_string();
                let mut render = AppliedToRender::new(index, name, &text, group, stamp);
                routes.publish(APPLIED_TO, &text, delta(group), &mut render);
            }
            Change::Policy(name, policy) => {
                realization.follow(name, policy);
                let (delta, policy, modified) = match policy {
                    PolicyChange::Created { policy, span } => (Delta::Created { span }, policy, true),
                    PolicyChange::Updated { policy, modified, span } => {
                        let delta = Delta::Updated { added: &span.added, removed: &span.removed };
                        (delta, policy, *modified)
                    }
                    PolicyChange::Deleted { policy } => (Delta::Deleted, policy, false),
                };
                let mut render = PolicyRender { policy, modified, stamp, items: Items::default() };
                routes.publish(POLICY, name, delta, &mut render);
            }
        }
        count(&change, metrics, begin);
    }
}

fn count(change: &Change, metrics: &PolicyMetrics, begin: Instant) {
    let resource = match change {
        Change::Policy(..) => POLICY,
        Change::AddressGroup(..) => ADDRESS,
        Change::AppliedToGroup(..) => APPLIED_TO,
    };
    metrics.done(resource, begin);
}

fn delta<M>(change: &GroupChange<M>) -> Delta<'_> {
    match change {
        GroupChange::Created { span, .. } => Delta::Created { span },
        GroupChange::Updated { span, .. } => Delta::Updated { added: &span.added, removed: &span.removed },
        GroupChange::Deleted => Delta::Deleted,
    }
}

/// Events that were made, to be shared.
#[derive(Default)]
struct Items {
    added: Option<Arc<Item>>,
    modified: Option<Arc<Item>>,
    modified_whole: Option<Arc<Item>>,
    deleted: Option<Arc<Item>>,
}

fn shared(slot: &mut Option<Arc<Item>>, make: impl FnOnce() -> Arc<Item>) -> Option<Arc<Item>> {
    Some(Arc::clone(slot.get_or_insert_with(make)))
}

pub(super) fn policy_item(kind: EventType, policy: &NetworkPolicy, stamp: Option<&str>) -> Arc<Item> {
    let mut policy = convert::network_policy(policy);
    policy.metadata = stamped(policy.metadata, stamp);
    Item::new(kind, policy, resources::NETWORK_POLICIES.columns)
}

pub(super) fn address_item(
    kind: EventType,
    name: &str,
    members: &[AddressMember],
    stamp: Option<&str>,
) -> Arc<Item> {
    let mut group = convert::address_group(name, members);
    group.metadata = stamped(group.metadata, stamp);
    Item::new(kind, group, resources::ADDRESS_GROUPS.columns)
}

pub(super) fn applied_to_item<'a>(
    kind: EventType,
    name: &str,
    members: impl Iterator<Item = &'a Arc<PodMember>>,
    stamp: Option<&str>,
) -> Arc<Item> {
    let group = wire::AppliedToGroup {
        metadata: stamped(convert::group_meta(name), stamp),
        group_members: members.map(|member| convert::pod_member(member)).collect(),
    };
    Item::new(kind, group, resources::APPLIED_TO_GROUPS.columns)
}

struct PolicyRender<'a> {
    policy: &'a NetworkPolicy,
    modified: bool,
    stamp: Option<&'a str>,
    items: Items,
}

impl Render for PolicyRender<'_> {
    fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        shared(&mut self.items.added, || policy_item(EventType::Added, self.policy, self.stamp))
    }

    fn modified(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        if !self.modified {
            return None;
        }
        shared(&mut self.items.modified, || policy_item(EventType::Modified, self.policy, self.stamp))
    }

    fn deleted(&mut self) -> Option<Arc<Item>> {
        shared(&mut self.items.deleted, || {
            // Without what it did, but with what it came from: upstream's agent looks there.
            let mut policy = convert::policy_head(self.policy);
            policy.metadata = stamped(policy.metadata, self.stamp);
            Item::new(EventType::Deleted, policy, resources::NETWORK_POLICIES.columns)
        })
    }
}

struct AddressRender<'a> {
    index: &'a Index,
    name: &'a GroupName,
    text: &'a str,
    group: &'a GroupChange<AddressMember>,
    stamp: Option<&'a str>,
    items: Items,
}

impl AddressRender<'_> {
    fn whole(&self, kind: EventType) -> Arc<Item> {
        if let GroupChange::Created { members, .. } = self.group {
            return address_item(kind, self.text, members, self.stamp);
        }
        let group = self.index.address_group(self.name);
        address_item(kind, self.text, group.as_ref().map_or(&[], |group| &group.members), self.stamp)
    }
}

impl Render for AddressRender<'_> {
    fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        if self.items.added.is_none() {
            self.items.added = Some(self.whole(EventType::Added));
        }
        self.items.added.clone()
    }

    fn modified(&mut self, node: Option<&str>) -> Option<Arc<Item>> {
        let GroupChange::Updated { added, removed, .. } = self.group else { return None };
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        if node.is_none() {
            // People and tools want to see the group, not what an agent needs to update its own.
            if self.items.modified_whole.is_none() {
                self.items.modified_whole = Some(self.whole(EventType::Modified));
            }
            return self.items.modified_whole.clone();
        }
        shared(&mut self.items.modified, || {
            let patch = wire::AddressGroupPatch {
                metadata: stamped(convert::group_meta(self.text), self.stamp),
                added_group_members: added.iter().map(convert::address_member).collect(),
                removed_group_members: removed.iter().map(convert::address_member).collect(),
            };
            Item::new(EventType::Modified, patch, &[])
        })
    }

    fn deleted(&mut self) -> Option<Arc<Item>> {
        shared(&mut self.items.deleted, || address_item(EventType::Deleted, self.text, &[], self.stamp))
    }
}

/// Members by node; those without one are told to nobody.
type ByNode<'a> = HashMap<&'a str, Vec<&'a Arc<PodMember>>>;

struct AppliedToRender<'a> {
    index: &'a Index,
    name: &'a GroupName,
    text: &'a str,
    group: &'a GroupChange<Arc<PodMember>>,
    /// New members. A node that enters the span had none before, so these are all that it has.
    added: ByNode<'a>,
    removed: ByNode<'a>,
    stamp: Option<&'a str>,
    items: Items,
}

fn by_node(members: &[Arc<PodMember>]) -> ByNode<'_> {
    let mut nodes = ByNode::new();
    for member in members {
        if let Some(node) = member.node.as_deref() {
            nodes.entry(node).or_default().push(member);
        }
    }
    nodes
}

impl<'a> AppliedToRender<'a> {
    fn new(
        index: &'a Index,
        name: &'a GroupName,
        text: &'a str,
        group: &'a GroupChange<Arc<PodMember>>,
        stamp: Option<&'a str>,
    ) -> Self {
        let (added, removed) = match group {
            GroupChange::Created { members, .. } => (by_node(members), ByNode::new()),
            GroupChange::Updated { added, removed, .. } => (by_node(added), by_node(removed)),
            GroupChange::Deleted => (ByNode::new(), ByNode::new()),
        };
        Self { index, name, text, group, added, removed, stamp, items: Items::default() }
    }

    fn whole(&self, kind: EventType) -> Arc<Item> {
        let group = self.index.applied_to_group(self.name);
        applied_to_item(kind, self.text, group.iter().flat_map(|group| &group.members), self.stamp)
    }
}

impl Render for AppliedToRender<'_> {
    fn added(&mut self, node: Option<&str>) -> Option<Arc<Item>> {
        let Some(node) = node else {
            if self.items.added.is_none() {
                self.items.added = Some(self.whole(EventType::Added));
            }
            return self.items.added.clone();
        };
        let members = self.added.get(node).into_iter().flatten().copied();
        Some(applied_to_item(EventType::Added, self.text, members, self.stamp))
    }

    fn modified(&mut self, node: Option<&str>) -> Option<Arc<Item>> {
        let GroupChange::Updated { added, removed, .. } = self.group else { return None };
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        let Some(node) = node else {
            if self.items.modified_whole.is_none() {
                self.items.modified_whole = Some(self.whole(EventType::Modified));
            }
            return self.items.modified_whole.clone();
        };
        let members = |nodes: &ByNode<'_>| -> Vec<wire::GroupMember> {
            nodes.get(node).into_iter().flatten().map(|member| convert::pod_member(member)).collect()
        };
        let (added_group_members, removed_group_members) = (members(&self.added), members(&self.removed));
        if added_group_members.is_empty() && removed_group_members.is_empty() {
            return None;
        }
        let metadata = stamped(convert::group_meta(self.text), self.stamp);
        let patch = wire::AppliedToGroupPatch { metadata, added_group_members, removed_group_members };
        Some(Item::new(EventType::Modified, patch, &[]))
    }

    fn deleted(&mut self) -> Option<Arc<Item>> {
        shared(&mut self.items.deleted, || {
            applied_to_item(EventType::Deleted, self.text, std::iter::empty(), self.stamp)
        })
    }
}
