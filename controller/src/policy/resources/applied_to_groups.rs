//! Computed AppliedToGroups: what policies apply to, for each node its own pods.

use std::{collections::HashMap, sync::Arc};

use antrea_api::{controlplane as wire, k8s::EventType};
use antrea_policy::{
    Index,
    model::{GroupChange, GroupName, PodMember},
};
use apiserver_kit::{
    hub::{Delta, Filter, Render},
    object::Item,
    storage::Resource,
};

use super::{BASE, Items, Served, Whole, delta, parsed, selects, shared};
use crate::policy::{convert, trace::stamped};

pub(in crate::policy) struct AppliedToGroups;

impl Served for AppliedToGroups {
    const NUMBER: usize = 2;
    const RESOURCE: Resource = Resource {
        plural: "appliedtogroups",
        singular: "appliedtogroup",
        kind: "AppliedToGroup",
        description: "AppliedToGroup is what policies apply to.",
        ..BASE
    };
    type Name = GroupName;
    type Change = GroupChange<Arc<PodMember>>;
    type Events<'a> = AppliedToEvents<'a>;

    fn list(index: &Index, filter: &Filter, _: &mut Whole) -> Vec<Arc<Item>> {
        let item = |name: &GroupName, members: &[_]| {
            let text = name.to_string();
            selects(filter, &text).then(|| item(EventType::Added, &text, members.iter(), None))
        };
        match (&filter.node, &filter.name) {
            (Some(node), _) => {
                let groups = index.node_view(node).applied_to_groups;
                groups.iter().filter_map(|(name, members)| item(name, members)).collect()
            }
            (None, Some(name)) => {
                let group = parsed(name).and_then(|name| index.applied_to_group(&name));
                group.iter().filter_map(|group| item(&group.name, &group.members)).collect()
            }
            (None, None) => {
                index.applied_to_groups().filter_map(|group| item(&group.name, &group.members)).collect()
            }
        }
    }

    fn events<'a>(
        index: &'a Index,
        (name, text): (&'a GroupName, &'a str),
        group: &'a GroupChange<Arc<PodMember>>,
        stamp: Option<&'a str>,
    ) -> (Delta<'a>, AppliedToEvents<'a>) {
        (delta(group), AppliedToEvents::new(index, (name, text), group, stamp))
    }
}

fn item<'a>(
    kind: EventType,
    name: &str,
    members: impl Iterator<Item = &'a Arc<PodMember>>,
    stamp: Option<&str>,
) -> Arc<Item> {
    let group = wire::AppliedToGroup {
        metadata: stamped(convert::group_meta(name), stamp),
        group_members: members.map(|member| convert::pod_member(member)).collect(),
    };
    Item::new(kind, group, AppliedToGroups::RESOURCE.columns)
}

/// Members by node; those without one are told to nobody.
type ByNode<'a> = HashMap<&'a str, Vec<&'a Arc<PodMember>>>;

pub(in crate::policy) struct AppliedToEvents<'a> {
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

impl<'a> AppliedToEvents<'a> {
    fn new(
        index: &'a Index,
        (name, text): (&'a GroupName, &'a str),
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
        item(kind, self.text, group.iter().flat_map(|group| &group.members), self.stamp)
    }
}

impl Render for AppliedToEvents<'_> {
    fn added(&mut self, node: Option<&str>) -> Option<Arc<Item>> {
        let Some(node) = node else {
            if self.items.added.is_none() {
                self.items.added = Some(self.whole(EventType::Added));
            }
            return self.items.added.clone();
        };
        let members = self.added.get(node).into_iter().flatten().copied();
        Some(item(EventType::Added, self.text, members, self.stamp))
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
            item(EventType::Deleted, self.text, std::iter::empty(), self.stamp)
        })
    }
}
