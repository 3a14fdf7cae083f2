//! What changed since the last drain, and cleaning up what was kept until then.

use std::sync::Arc;

use super::{
    Index,
    records::Pending,
    slab::{Id, NONE},
};
use crate::model::{
    AddressMember, GroupChange, GroupName, IndexChange, Nodes, PodMember, PolicyChange, SpanChange,
};

impl Index {
    /// The changes since the last drain, as a list; see [`Index::drain_with`].
    pub fn drain(&mut self) -> Vec<IndexChange> {
        let mut changes = Vec::new();
        self.drain_with(|change| changes.push(change));
        changes
    }

    /// Hands out the changes since the last drain, each object at most once: groups that are new or changed
    /// first, then policies, then groups that are gone, so that no policy ever refers to a group that has not
    /// been handed out. Nothing is handed out for what came and went, or changed and changed back.
    ///
    /// A large change (the first one) need not be held in memory as a whole that way.
    pub fn drain_with(&mut self, mut emit: impl FnMut(IndexChange)) {
        self.settle();
        let sets = std::mem::take(&mut self.dirty_sets);
        for set in &sets {
            if self.sets[*set].policies.is_empty() {
                self.remove_set(*set);
            }
        }
        let changed = self.spread_span_changes(&sets);

        let mut deleted = Vec::new();
        let groups = std::mem::take(&mut self.dirty_groups);
        for group in &groups {
            self.groups[*group].dirty = false;
            self.drain_applied_to(*group, &mut emit, &mut deleted);
            self.drain_address(*group, &mut emit, &mut deleted);
        }
        for policy in std::mem::take(&mut self.dirty_policies) {
            self.drain_policy(policy, &mut emit);
        }
        deleted.into_iter().for_each(emit);

        for set in changed {
            self.sets[set].change = None;
        }
        for set in std::mem::take(&mut self.cached_spans) {
            self.sets[set].span = None;
        }
        for group in groups {
            let record = &self.groups[group];
            if record.address.is_none() && record.applied_to.is_none() {
                self.remove_group(group);
            }
        }
        self.clean_up();
    }

    /// Computes how the spans of sets changed and marks what shares them. Returns the sets that got a change.
    fn spread_span_changes(&mut self, dirty: &[Id]) -> Vec<Id> {
        let mut changed = Vec::new();
        // First the sets of one group: they have the group's nodes and note no toggles of their own, so that the change of
        // nodes is worked out here, once, for all policies that apply to that group alone.
        for i in 0..self.dirty_groups.len() {
            let group = self.dirty_groups[i];
            let Some(applied_to) = &mut self.groups[group].applied_to else { continue };
            let Some(pending) = &mut applied_to.pending else { continue };
            // They stay for the group itself, which is looked at later.
            let toggles = pending.toggles.clone();
            if toggles.is_empty() {
                continue;
            }
            let Some(applied_to) = &self.groups[group].applied_to else { continue };
            let change = self.toggle_change(toggles, Some(&applied_to.nodes));
            let shared = applied_to.sets.iter().copied().find(|set| self.sets[*set].own.is_none());
            if let Some(set) = shared.filter(|_| !change.is_empty()) {
                self.sets[set].change = Some(Arc::new(change));
                changed.push(set);
            }
        }
        // Then the sets of several groups, which count for themselves: a node that one group lost another may still have.
        for set in dirty.iter().copied() {
            let Some(record) = self.sets.get(set) else { continue };
            if let Some(own) = &record.own {
                let change = self.toggle_change(record.toggles.clone(), Some(own));
                if !change.is_empty() {
                    self.sets[set].change = Some(Arc::new(change));
                    changed.push(set);
                }
            }
            let record = &mut self.sets[set];
            record.toggles = Vec::new();
            record.sent = true;
            record.dirty = false;
        }
        // Whoever shares a set's nodes shares the change, and has to be told of it. AddressGroups that count have heard of each
        // toggle when it came.
        for set in &changed {
            for i in 0..self.sets[*set].policies.len() {
                self.mark_policy(self.sets[*set].policies[i]);
            }
            for i in 0..self.sets[*set].addresses.len() {
                let group = self.sets[*set].addresses[i];
                if self.groups[group].address.as_ref().is_some_and(|address| address.own.is_none()) {
                    self.mark_group(group);
                }
            }
        }
        changed
    }

    fn drain_applied_to(
        &mut self,
        group: Id,
        emit: &mut impl FnMut(IndexChange),
        deleted: &mut Vec<IndexChange>,
    ) {
        let Some(applied_to) = &mut self.groups[group].applied_to else { return };
        let pending = applied_to.pending.take().map(|pending| *pending).unwrap_or_default();
        let sent = std::mem::replace(&mut applied_to.sent, true);
        let wanted = !applied_to.sets.is_empty();
        let name = self.groups[group].name.clone();
        match (sent, wanted) {
            (false, true) => {
                let members = self.applied_to_members(group);
                let span = self.applied_to_span(group);
                emit(IndexChange::AppliedToGroup(name, GroupChange::Created { members, span }));
            }
            (true, true) => {
                let now = self.groups[group].applied_to.as_ref().map(|applied_to| &applied_to.nodes);
                let span = Arc::new(self.toggle_change(pending.toggles, now));
                // Addresses are not part of a member here.
                let same = |a: &Arc<PodMember>, b: &Arc<PodMember>| a.node == b.node && a.ports == b.ports;
                let (added, removed) = self.member_change(group, pending.pods, Self::applied_to_member, same);
                if !(added.is_empty() && removed.is_empty() && span.is_empty()) {
                    emit(IndexChange::AppliedToGroup(name, GroupChange::Updated { added, removed, span }));
                }
            }
            (_, false) => {
                self.groups[group].applied_to = None;
                if sent {
                    deleted.push(IndexChange::AppliedToGroup(name, GroupChange::Deleted));
                }
            }
        }
    }

    fn drain_address(
        &mut self,
        group: Id,
        emit: &mut impl FnMut(IndexChange),
        deleted: &mut Vec<IndexChange>,
    ) {
        let Some(address) = &mut self.groups[group].address else { return };
        let pending = address.pending.take().map(|pending| *pending).unwrap_or_default();
        let sent = std::mem::replace(&mut address.sent, true);
        let wanted = !address.links.is_empty();
        let name = self.groups[group].name.clone();
        match (sent, wanted) {
            (false, true) => {
                let members = self.address_members(group);
                let span = self.address_span(group);
                emit(IndexChange::AddressGroup(name, GroupChange::Created { members, span }));
            }
            (true, true) => {
                let Pending { pods, toggles, span_before } = pending;
                let span = self.address_span_change(group, toggles, span_before);
                let same =
                    |a: &AddressMember, b: &AddressMember| a.ips == b.ips && a.pod.ports == b.pod.ports;
                let (added, removed) = self.member_change(group, pods, Self::address_member, same);
                if !(added.is_empty() && removed.is_empty() && span.is_empty()) {
                    emit(IndexChange::AddressGroup(name, GroupChange::Updated { added, removed, span }));
                }
            }
            (_, false) => {
                self.groups[group].address = None;
                if sent {
                    deleted.push(IndexChange::AddressGroup(name, GroupChange::Deleted));
                }
            }
        }
    }

    fn address_span_change(
        &self,
        group: Id,
        toggles: Vec<(Id, bool)>,
        before: Option<Vec<Id>>,
    ) -> Arc<SpanChange> {
        if let Some(before) = before {
            return Arc::new(self.span_change(&before, self.address_nodes(group)));
        }
        let Some(address) = &self.groups[group].address else { return Arc::default() };
        match (&address.own, address.links.first()) {
            (Some(own), _) => Arc::new(self.toggle_change(toggles, Some(own))),
            (None, Some((set, _))) => self.sets[*set].change.clone().unwrap_or_default(),
            (None, None) => Arc::default(),
        }
    }

    /// The net effect of what happened to Pods on the members of a group.
    fn member_change<M>(
        &self,
        group: Id,
        mut touched: Vec<(Id, Option<M>)>,
        member: fn(&Self, Id) -> Option<M>,
        same: fn(&M, &M) -> bool,
    ) -> (Vec<M>, Vec<M>) {
        touched.sort_by_key(|(pod, _)| *pod);
        touched.dedup_by_key(|(pod, _)| *pod);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (pod, before) in touched {
            let now = member(self, pod).filter(|_| self.selected(pod, group));
            match (before, now) {
                (Some(before), Some(now)) if same(&before, &now) => {}
                (before, now) => {
                    removed.extend(before);
                    added.extend(now);
                }
            }
        }
        (added, removed)
    }

    fn drain_policy(&mut self, id: Id, emit: &mut impl FnMut(IndexChange)) {
        let policy = &mut self.policies[id];
        policy.dirty = false;
        let before = policy.span_before.take();
        let sent = policy.sent.take();
        let set = policy.set;
        if set == NONE {
            if let Some(sent) = sent {
                emit(IndexChange::Policy(sent.name.clone(), PolicyChange::Deleted { policy: sent }));
            }
            self.bury_policy(id);
            return;
        }
        let object = policy.object.clone();
        policy.sent = Some(object.clone());
        let name = object.name.clone();
        match sent {
            Some(sent) if sent.name == name => {
                let span = match before {
                    Some(before) => Arc::new(self.span_change(&before, self.set_nodes(set))),
                    None => self.sets[set].change.clone().unwrap_or_default(),
                };
                let modified = *sent != *object;
                if modified || !span.is_empty() {
                    emit(IndexChange::Policy(name, PolicyChange::Updated { policy: object, modified, span }));
                }
            }
            other => {
                // The new one first: no moment in which neither is in force.
                let span = self.set_span(set);
                emit(IndexChange::Policy(name, PolicyChange::Created { policy: object, span }));
                if let Some(sent) = other {
                    emit(IndexChange::Policy(sent.name.clone(), PolicyChange::Deleted { policy: sent }));
                }
            }
        }
    }

    /// Frees what was kept until the drain, or is found to be of no use any more.
    fn clean_up(&mut self) {
        for pod in std::mem::take(&mut self.gone_pods) {
            if self.pods.get(pod).is_some_and(|record| record.class == NONE) {
                let record = self.pods.remove(pod);
                let hash = self.hash((record.namespace, &*record.member.name));
                self.pod_table.remove(hash, pod);
            }
        }
        for class in std::mem::take(&mut self.idle_classes) {
            if self.classes.get(class).is_some_and(|record| record.pods.is_empty()) {
                self.remove_class(class);
            }
        }
        for namespace in std::mem::take(&mut self.idle_namespaces) {
            self.remove_namespace_if_idle(namespace);
        }
        for node in std::mem::take(&mut self.idle_nodes) {
            if self.nodes.get(node).is_some_and(|record| record.pods.is_empty()) {
                let record = self.nodes.remove(node);
                self.node_table.remove(self.hash(&*record.name), node);
            }
        }
    }

    // === whole objects ===

    pub(super) fn applied_to_members(&self, group: Id) -> Vec<Arc<PodMember>> {
        let pods = self.group_pods(group);
        pods.filter_map(|pod| self.applied_to_member(pod)).collect()
    }

    pub(super) fn address_members(&self, group: Id) -> Vec<AddressMember> {
        let pods = self.group_pods(group);
        pods.filter_map(|pod| self.address_member(pod)).collect()
    }

    /// The Pods a group selects.
    pub(super) fn group_pods(&self, group: Id) -> impl Iterator<Item = Id> {
        let classes = self.groups[group].classes.iter();
        classes.flat_map(|class| self.classes[*class].pods.iter().copied())
    }

    /// The whole span of a set; one allocation for all that is new in it.
    fn set_span(&mut self, set: Id) -> Nodes {
        if let Some(span) = &self.sets[set].span {
            return span.clone();
        }
        let span = self.node_names(self.set_nodes(set));
        self.sets[set].span = Some(span.clone());
        self.cached_spans.push(set);
        span
    }

    fn applied_to_span(&mut self, group: Id) -> Nodes {
        let applied_to = self.groups[group].applied_to.as_ref();
        let sets = applied_to.into_iter().flat_map(|applied_to| &applied_to.sets);
        match sets.copied().find(|set| self.sets[*set].own.is_none()) {
            Some(set) => self.set_span(set),
            None => self.node_names(applied_to.map(|applied_to| &applied_to.nodes)),
        }
    }

    fn address_span(&mut self, group: Id) -> Nodes {
        let address = self.groups[group].address.as_ref();
        match address.map(|address| (&address.own, address.links.first())) {
            Some((None, Some((set, _)))) => {
                let set = *set;
                self.set_span(set)
            }
            _ => self.node_names(self.address_nodes(group)),
        }
    }

    pub(super) fn group_by_name(&self, name: &GroupName) -> Option<Id> {
        let groups = &self.groups;
        self.group_table.find(self.hash(name), |id| groups[id].name == *name)
    }
}
