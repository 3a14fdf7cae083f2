//! Spans: which nodes need which object.
//!
//! A node needs an AppliedToGroup if it holds a member, a policy if it needs one of its AppliedToGroups, and an
//! AddressGroup if it needs a policy that refers to it. Each level counts the things below it per node and hears of
//! a node only when its count below becomes or stops being zero. Where there is just one thing below, nothing is
//! counted and its span is shared.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Index,
    slab::{Id, insert_sorted, remove_sorted},
};
use crate::model::{Nodes, SpanChange};

/// A number per node; nodes with zero are absent. Ascending by node.
#[derive(Debug, Default)]
pub(super) struct Counts(SmallVec<[(Id, u32); 2]>);

impl Counts {
    /// Counts a node; whether it is new.
    pub(super) fn add(&mut self, node: Id) -> bool {
        match self.0.binary_search_by_key(&node, |(n, _)| *n) {
            Ok(at) => {
                self.0[at].1 += 1;
                false
            }
            Err(at) => {
                self.0.insert(at, (node, 1));
                true
            }
        }
    }

    /// Takes a node back; whether it is gone.
    pub(super) fn sub(&mut self, node: Id) -> bool {
        let Ok(at) = self.0.binary_search_by_key(&node, |(n, _)| *n) else { return false };
        self.0[at].1 -= 1;
        let gone = self.0[at].1 == 0;
        if gone {
            self.0.remove(at);
        }
        gone
    }

    pub(super) fn contains(&self, node: Id) -> bool {
        self.0.binary_search_by_key(&node, |(n, _)| *n).is_ok()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Id> {
        self.0.iter().map(|(node, _)| *node)
    }
}

/// A node that came or went: the node, and whether it was there before.
pub(super) type Toggle = (Id, bool);

/// The nodes as they were before the toggles, ascending. The first toggle of a node counts.
fn rewind(now: Option<&Counts>, toggles: &[Toggle]) -> Vec<Id> {
    let mut nodes: Vec<Id> = now.into_iter().flat_map(Counts::iter).collect();
    for (node, was_there) in toggles.iter().rev() {
        if *was_there {
            insert_sorted(&mut nodes, *node);
        } else {
            remove_sorted(&mut nodes, *node);
        }
    }
    nodes
}

impl Index {
    // === counting ===

    /// A Pod of the class came to the node.
    pub(super) fn class_gains(&mut self, class: Id, node: Id) {
        if self.classes[class].nodes.add(node) {
            for i in 0..self.classes[class].groups.len() {
                self.applied_to_gains(self.classes[class].groups[i], node);
            }
        }
    }

    /// A Pod of the class left the node.
    pub(super) fn class_loses(&mut self, class: Id, node: Id) {
        if self.classes[class].nodes.sub(node) {
            for i in 0..self.classes[class].groups.len() {
                self.applied_to_loses(self.classes[class].groups[i], node);
            }
        }
    }

    /// A class of the group came to the node.
    pub(super) fn applied_to_gains(&mut self, group: Id, node: Id) {
        let Some(applied_to) = &mut self.groups[group].applied_to else { return };
        if applied_to.nodes.add(node) {
            self.applied_to_toggled(group, node, true);
        }
    }

    /// A class of the group left the node.
    pub(super) fn applied_to_loses(&mut self, group: Id, node: Id) {
        let Some(applied_to) = &mut self.groups[group].applied_to else { return };
        if applied_to.nodes.sub(node) {
            self.applied_to_toggled(group, node, false);
        }
    }

    fn applied_to_toggled(&mut self, group: Id, node: Id, there: bool) {
        let Some(applied_to) = &mut self.groups[group].applied_to else { return };
        if applied_to.sent {
            applied_to.pending.get_or_insert_default().toggles.push((node, !there));
            self.mark_group(group);
        }
        for i in 0..self.applied_to_sets(group).len() {
            let set = self.applied_to_sets(group)[i];
            let record = &mut self.sets[set];
            if let Some(own) = &mut record.own {
                if !(if there { own.add(node) } else { own.sub(node) }) {
                    continue;
                }
                if record.sent {
                    record.toggles.push((node, !there));
                    self.mark_set(set);
                }
            }
            self.set_toggled(set, node, there);
        }
    }

    fn applied_to_sets(&self, group: Id) -> &[Id] {
        self.groups[group].applied_to.as_ref().map_or(&[], |applied_to| &applied_to.sets)
    }

    /// Tells the AddressGroups of a set that the set gained or lost a node.
    fn set_toggled(&mut self, set: Id, node: Id, there: bool) {
        for i in 0..self.sets[set].addresses.len() {
            let group = self.sets[set].addresses[i];
            let Some(address) = &mut self.groups[group].address else { continue };
            let Some(own) = &mut address.own else { continue };
            if !(if there { own.add(node) } else { own.sub(node) }) {
                continue;
            }
            if address.sent {
                let pending = address.pending.get_or_insert_default();
                if pending.span_before.is_none() {
                    pending.toggles.push((node, !there));
                }
                self.mark_group(group);
            }
        }
    }

    // === sets ===

    /// Where members of the set are, and how many; none before its group is computed.
    pub(super) fn set_nodes(&self, set: Id) -> Option<&Counts> {
        let record = &self.sets[set];
        match &record.own {
            Some(own) => Some(own),
            None => {
                let group = record.groups.first()?;
                self.groups[*group].applied_to.as_ref().map(|applied_to| &applied_to.nodes)
            }
        }
    }

    /// The nodes of a set as they were sent out.
    pub(super) fn set_nodes_sent(&self, set: Id) -> Vec<Id> {
        let record = &self.sets[set];
        let toggles = match &record.own {
            Some(_) => &record.toggles[..],
            None => {
                let applied_to = record.groups.first().and_then(|g| self.groups[*g].applied_to.as_ref());
                let pending = applied_to.and_then(|applied_to| applied_to.pending.as_ref());
                pending.map_or(&[][..], |pending| &pending.toggles)
            }
        };
        rewind(self.set_nodes(set), toggles)
    }

    // === links between AddressGroups and sets ===

    /// One more policy of the set refers to the AddressGroup.
    pub(super) fn link(&mut self, group: Id, set: Id) {
        let address = self.groups[group].address.get_or_insert_default();
        if let Ok(at) = address.links.binary_search_by_key(&set, |(s, _)| *s) {
            address.links[at].1 += 1;
            return;
        }
        // Before the link is there: what was sent follows from the links that there were.
        self.keep_address_span(group);
        let others = self.address_links(group).len();
        // A group of one set has that set's nodes, and counts none itself: most groups are of one. With the second
        // it begins to, from what the first has by now.
        if others == 1 {
            let other = self.address_links(group)[0].0;
            let mut own = Counts::default();
            for node in self.set_nodes(other).into_iter().flat_map(Counts::iter) {
                own.add(node);
            }
            if let Some(address) = &mut self.groups[group].address {
                address.own = Some(Box::new(own));
            }
        }
        self.count_link(group, set, Counts::add);
        let address = self.groups[group].address.get_or_insert_default();
        if let Err(at) = address.links.binary_search_by_key(&set, |(s, _)| *s) {
            address.links.insert(at, (set, 1));
        }
        insert_sorted(&mut self.sets[set].addresses, group);
        self.mark_group(group);
    }

    /// One policy of the set less refers to the AddressGroup.
    pub(super) fn unlink(&mut self, group: Id, set: Id) {
        let Some(address) = &mut self.groups[group].address else { return };
        let Ok(at) = address.links.binary_search_by_key(&set, |(s, _)| *s) else { return };
        if address.links[at].1 > 1 {
            address.links[at].1 -= 1;
            return;
        }
        self.keep_address_span(group);
        self.count_link(group, set, Counts::sub);
        if let Some(address) = &mut self.groups[group].address {
            address.links.remove(at);
            // Back to the nodes of the set that is left, which are the same.
            if address.links.len() < 2 {
                address.own = None;
            }
        }
        remove_sorted(&mut self.sets[set].addresses, group);
        self.mark_group(group);
    }

    fn address_links(&self, group: Id) -> &[(Id, u32)] {
        self.groups[group].address.as_ref().map_or(&[], |address| &address.links)
    }

    /// Adds or subtracts the nodes of a set in the counts of an AddressGroup, if it counts.
    fn count_link(&mut self, group: Id, set: Id, count: fn(&mut Counts, Id) -> bool) {
        let Some(mut own) = self.groups[group].address.as_mut().and_then(|address| address.own.take()) else {
            return;
        };
        for node in self.set_nodes(set).into_iter().flat_map(Counts::iter) {
            count(&mut own, node);
        }
        if let Some(address) = &mut self.groups[group].address {
            address.own = Some(own);
        }
    }

    /// The nodes of an AddressGroup.
    pub(super) fn address_nodes(&self, group: Id) -> Option<&Counts> {
        let address = self.groups[group].address.as_ref()?;
        match &address.own {
            Some(own) => Some(own),
            None => self.set_nodes(address.links.first()?.0),
        }
    }

    /// Remembers the nodes that were sent before links change, as later toggles will not tell them any more.
    fn keep_address_span(&mut self, group: Id) {
        let Some(address) = self.groups[group].address.as_deref() else { return };
        if !address.sent || address.pending.as_ref().is_some_and(|p| p.span_before.is_some()) {
            return;
        }
        let before = match (&address.own, address.links.first()) {
            (Some(own), _) => {
                let toggles = address.pending.as_ref().map_or(&[][..], |p| &p.toggles);
                rewind(Some(own), toggles)
            }
            (None, Some((set, _))) => self.set_nodes_sent(*set),
            (None, None) => Vec::new(),
        };
        if let Some(address) = &mut self.groups[group].address {
            address.pending.get_or_insert_default().span_before = Some(before);
        }
    }

    // === for draining ===

    pub(super) fn span_change(&self, before: &[Id], now: Option<&Counts>) -> SpanChange {
        let names = |nodes: &mut dyn Iterator<Item = Id>| nodes.map(|n| self.nodes[n].name.clone()).collect();
        let is_now = |node: &Id| now.is_some_and(|now| now.contains(*node));
        let now_nodes = || now.into_iter().flat_map(Counts::iter);
        SpanChange {
            added: names(&mut now_nodes().filter(|node| before.binary_search(node).is_err())),
            removed: names(&mut before.iter().copied().filter(|node| !is_now(node))),
        }
    }

    /// The net effect of toggles.
    pub(super) fn toggle_change(&self, mut toggles: Vec<Toggle>, now: Option<&Counts>) -> SpanChange {
        toggles.sort_by_key(|(node, _)| *node);
        toggles.dedup_by_key(|(node, _)| *node);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (node, was_there) in toggles {
            let is_there = now.is_some_and(|now| now.contains(node));
            if is_there != was_there {
                let list = if is_there { &mut added } else { &mut removed };
                list.push(self.nodes[node].name.clone());
            }
        }
        SpanChange { added: added.into(), removed: removed.into() }
    }

    pub(super) fn node_names(&self, nodes: Option<&Counts>) -> Nodes {
        match nodes {
            Some(nodes) => nodes.iter().map(|node| self.nodes[node].name.clone()).collect(),
            None => Arc::default(),
        }
    }

    // === marking ===

    pub(super) fn mark_group(&mut self, group: Id) {
        if !std::mem::replace(&mut self.groups[group].dirty, true) {
            self.dirty_groups.push(group);
        }
    }

    pub(super) fn mark_set(&mut self, set: Id) {
        if !std::mem::replace(&mut self.sets[set].dirty, true) {
            self.dirty_sets.push(set);
        }
    }

    pub(super) fn mark_policy(&mut self, policy: Id) {
        if !std::mem::replace(&mut self.policies[policy].dirty, true) {
            self.dirty_policies.push(policy);
        }
    }
}
