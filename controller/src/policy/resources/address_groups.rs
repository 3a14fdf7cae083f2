//! Computed AddressGroups: the other side of rules.

use std::sync::{Arc, Weak};

use antrea_api::{controlplane as wire, k8s::EventType};
use antrea_policy::{
    Index,
    model::{AddressMember, GroupChange, GroupName},
};
use apiserver_kit::{
    hub::{Delta, Filter, Render},
    object::Item,
    storage::Resource,
};

use super::{BASE, Items, Served, Whole, delta, parsed, selects, shared};
use crate::policy::{convert, trace::stamped};

pub(in crate::policy) struct AddressGroups;

impl Served for AddressGroups {
    const NUMBER: usize = 1;
    const RESOURCE: Resource = Resource {
        plural: "addressgroups",
        singular: "addressgroup",
        kind: "AddressGroup",
        description: "AddressGroup is what rules name as their other side: Pods with their addresses.",
        ..BASE
    };
    type Name = GroupName;
    type Change = GroupChange<AddressMember>;
    type Events<'a> = AddressEvents<'a>;

    fn list(index: &Index, filter: &Filter, whole: &mut Whole) -> Vec<Arc<Item>> {
        let names: Vec<GroupName> = match (&filter.node, &filter.name) {
            (Some(node), _) => index.node_view(node).address_groups,
            (None, Some(name)) => parsed(name).into_iter().collect(),
            (None, None) => {
                let groups = index.address_groups();
                return groups
                    .map(|group| item(EventType::Added, &group.name.to_string(), &group.members, None))
                    .collect();
            }
        };
        let one = |name: &GroupName| {
            let text = name.to_string();
            if !selects(filter, &text) {
                return None;
            }
            if let Some(item) = whole.get(&text).and_then(Weak::upgrade) {
                return Some(item);
            }
            let item = item(EventType::Added, &text, &index.address_group(name)?.members, None);
            if whole.len() >= 2 * names.len().max(1024) {
                whole.retain(|_, item| item.strong_count() > 0);
            }
            whole.insert(text, Arc::downgrade(&item));
            Some(item)
        };
        names.iter().filter_map(one).collect()
    }

    fn events<'a>(
        index: &'a Index,
        (name, text): (&'a GroupName, &'a str),
        group: &'a GroupChange<AddressMember>,
        stamp: Option<&'a str>,
    ) -> (Delta<'a>, AddressEvents<'a>) {
        (delta(group), AddressEvents { index, name, text, group, stamp, items: Items::default() })
    }
}

fn item(kind: EventType, name: &str, members: &[AddressMember], stamp: Option<&str>) -> Arc<Item> {
    let mut group = convert::address_group(name, members);
    group.metadata = stamped(group.metadata, stamp);
    Item::new(kind, group, AddressGroups::RESOURCE.columns)
}

pub(in crate::policy) struct AddressEvents<'a> {
    index: &'a Index,
    name: &'a GroupName,
    text: &'a str,
    group: &'a GroupChange<AddressMember>,
    stamp: Option<&'a str>,
    items: Items,
}

impl AddressEvents<'_> {
    fn whole(&self, kind: EventType) -> Arc<Item> {
        if let GroupChange::Created { members, .. } = self.group {
            return item(kind, self.text, members, self.stamp);
        }
        let group = self.index.address_group(self.name);
        item(kind, self.text, group.as_ref().map_or(&[], |group| &group.members), self.stamp)
    }
}

impl Render for AddressEvents<'_> {
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
        shared(&mut self.items.deleted, || item(EventType::Deleted, self.text, &[], self.stamp))
    }
}
