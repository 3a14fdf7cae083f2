//! Looking things up. What is returned is the present state: ahead of what was handed out while there are changes
//! to drain.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Index,
    slab::{Id, NONE},
};
use crate::evaluate::Endpoint;
use crate::k8s::Uid;
use crate::model::{AddressMember, Direction, GroupName, NetworkPolicy, Nodes, PodMember};

/// An AddressGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressGroup {
    pub name: GroupName,
    /// Selected Pods that have an address, in no particular order.
    pub members: Vec<AddressMember>,
    /// Nodes that need the group.
    pub span: Nodes,
}

/// An AppliedToGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedToGroup {
    pub name: GroupName,
    /// Selected Pods that are scheduled, in no particular order.
    pub members: Vec<Arc<PodMember>>,
    /// Nodes that hold members.
    pub span: Nodes,
}

/// What a node needs: the set a watch of that node starts with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// Internal policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// Names of AddressGroups; their members come from [`Index::address_group`].
    pub address_groups: Vec<GroupName>,
    /// AppliedToGroups with the members on this node only.
    pub applied_to_groups: Vec<(GroupName, Vec<Arc<PodMember>>)>,
}

/// The policies that apply to a Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// Those with ingress rules for the Pod, by name.
    pub ingress: Vec<Arc<NetworkPolicy>>,
    /// Those with egress rules for the Pod, by name.
    pub egress: Vec<Arc<NetworkPolicy>>,
}

/// Everything that selects a Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Names of the policies that apply to it, in order.
    pub policies: Vec<Arc<str>>,
    /// Names of the AppliedToGroups that hold it, in order.
    pub applied_to_groups: Vec<GroupName>,
}

/// A rule that names a Pod on its other side.
#[derive(Clone, Debug, PartialEq)]
pub struct Peering {
    pub policy: Arc<NetworkPolicy>,
    /// The position of the rule in the policy.
    pub rule: usize,
}

/// How many objects there are, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Internal policies.
    pub network_policies: usize,
    pub address_groups: usize,
    pub applied_to_groups: usize,
}

impl Index {
    /// The internal policy of this name.
    #[must_use]
    pub fn network_policy(&self, name: &str) -> Option<Arc<NetworkPolicy>> {
        let policy = &self.policies[self.find_policy_name(name)?];
        (policy.set != NONE).then(|| policy.object.clone())
    }

    /// The nodes that need a policy.
    #[must_use]
    pub fn network_policy_span(&self, name: &str) -> Option<Nodes> {
        let set = self.policies[self.find_policy_name(name)?].set;
        (set != NONE).then(|| self.node_names(self.set_nodes(set)))
    }

    /// All internal policies.
    pub fn network_policies(&self) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        self.policies.iter().filter(|(_, policy)| policy.set != NONE).map(|(_, policy)| &policy.object)
    }

    /// The AddressGroup of this name.
    #[must_use]
    pub fn address_group(&self, name: &GroupName) -> Option<AddressGroup> {
        let group = self.group_by_name(name).filter(|group| self.is_address_group(*group))?;
        Some(self.whole_address_group(group))
    }

    /// All AddressGroups, each put together as the iterator gets to it.
    pub fn address_groups(&self) -> impl Iterator<Item = AddressGroup> {
        let groups = self.groups.iter().map(|(id, _)| id).filter(|group| self.is_address_group(*group));
        groups.map(|group| self.whole_address_group(group))
    }

    /// The AppliedToGroup of this name.
    #[must_use]
    pub fn applied_to_group(&self, name: &GroupName) -> Option<AppliedToGroup> {
        let group = self.group_by_name(name).filter(|group| self.is_applied_to_group(*group))?;
        Some(self.whole_applied_to_group(group))
    }

    /// All AppliedToGroups, each put together as the iterator gets to it.
    pub fn applied_to_groups(&self) -> impl Iterator<Item = AppliedToGroup> {
        let groups = self.groups.iter().map(|(id, _)| id).filter(|group| self.is_applied_to_group(*group));
        groups.map(|group| self.whole_applied_to_group(group))
    }

    /// What a node needs. The cost is that of the Pods on the node and what is returned.
    #[must_use]
    pub fn node_view(&self, name: &str) -> NodeView {
        let Some(node) = self.find_node(name) else { return NodeView::default() };
        let classes: BTreeSet<Id> = self.nodes[node].pods.iter().map(|pod| self.pods[*pod].class).collect();
        let groups: BTreeSet<Id> =
            classes.iter().flat_map(|class| self.classes[*class].groups.iter().copied()).collect();
        let mut sets = BTreeSet::new();
        let mut applied_to_groups = std::collections::BTreeMap::new();
        for group in groups {
            if let Some(applied_to) = &self.groups[group].applied_to {
                let in_use = applied_to.sets.iter().filter(|set| !self.sets[**set].policies.is_empty());
                sets.extend(in_use);
                if self.is_applied_to_group(group) {
                    applied_to_groups.insert(group, Vec::new());
                }
            }
        }
        for pod in &self.nodes[node].pods {
            for group in &self.classes[self.pods[*pod].class].groups {
                if let Some(members) = applied_to_groups.get_mut(group) {
                    members.push(self.pods[*pod].member.clone());
                }
            }
        }
        let policies = sets.iter().flat_map(|set| &self.sets[*set].policies);
        let address_groups: BTreeSet<Id> =
            sets.iter().flat_map(|set| self.sets[*set].addresses.iter().copied()).collect();
        NodeView {
            policies: policies.map(|policy| self.policies[*policy].object.clone()).collect(),
            address_groups: address_groups.iter().map(|group| self.groups[*group].name.clone()).collect(),
            applied_to_groups: applied_to_groups
                .into_iter()
                .map(|(group, members)| (self.groups[group].name.clone(), members))
                .collect(),
        }
    }

    /// The policies that apply to a Pod. None if the Pod is not known, or nothing can apply to it (it is on the
    /// host network or has ended).
    #[must_use]
    pub fn effective(&self, namespace: &str, pod: &str) -> Option<Effective> {
        let groups = self.groups_of_pod(namespace, pod)?;
        let sets = self.sets_applied_to(groups);
        let names: BTreeSet<&GroupName> = groups.iter().map(|group| &self.groups[*group].name).collect();
        let mut effective = Effective::default();
        for policy in sets.iter().flat_map(|set| &self.sets[*set].policies) {
            let policy = &self.policies[*policy].object;
            for (direction, list) in
                [(Direction::In, &mut effective.ingress), (Direction::Out, &mut effective.egress)]
            {
                let applies = |rule: &&crate::model::Rule| {
                    rule.direction == direction
                        && policy.applied_to_of(rule).iter().any(|group| names.contains(group))
                };
                if policy.rules.iter().any(|rule| applies(&rule)) {
                    list.push(policy.clone());
                }
            }
        }
        effective.ingress.sort_by(|a, b| a.name.cmp(&b.name));
        effective.egress.sort_by(|a, b| a.name.cmp(&b.name));
        Some(effective)
    }

    /// A Pod as policies see it, for [`crate::evaluate`]. None as of [`Self::effective`].
    #[must_use]
    pub fn endpoint(&self, namespace: &str, pod: &str) -> Option<Endpoint> {
        let groups = self.groups_of_pod(namespace, pod)?;
        let record = &self.pods[self.find_pod(self.find_namespace(namespace)?, pod)?];
        let names: BTreeSet<GroupName> =
            groups.iter().map(|group| self.groups[*group].name.clone()).collect();
        let Effective { mut ingress, egress } = self.effective(namespace, pod)?;
        ingress.extend(egress);
        ingress.sort_by(|a, b| a.name.cmp(&b.name));
        ingress.dedup_by(|a, b| a.name == b.name);
        Some(Endpoint {
            policies: ingress,
            // A Pod without an address is in no AddressGroup.
            address_groups: if record.ips.is_empty() { BTreeSet::new() } else { names.clone() },
            applied_to_groups: names,
            ips: record.ips.iter().collect(),
            ports: record.member.ports.to_vec(),
            services: BTreeSet::new(),
        })
    }

    /// What selects a Pod. None if the Pod is not known, is not on this node, or is another one of the same name:
    /// `uid`, where both are known, has to be the Pod's.
    #[must_use]
    pub fn selection(&self, namespace: &str, pod: &str, node: &str, uid: Option<Uid>) -> Option<Selection> {
        let groups = self.groups_of_pod(namespace, pod)?;
        let record = &self.pods[self.find_pod(self.find_namespace(namespace)?, pod)?];
        let other = uid.is_some_and(|uid| record.uid.is_some_and(|known| known != uid));
        if other || record.member.node.as_deref() != Some(node) {
            return None;
        }
        let applied_to = groups.iter().filter(|group| self.is_applied_to_group(**group));
        let mut applied_to_groups: Vec<_> =
            applied_to.map(|group| self.groups[*group].name.clone()).collect();
        applied_to_groups.sort_unstable();
        let sets = self.sets_applied_to(groups);
        let policies = sets.iter().flat_map(|set| &self.sets[*set].policies);
        let mut policies: Vec<_> = policies.map(|id| self.policies[*id].object.name.clone()).collect();
        policies.sort_unstable();
        policies.dedup();
        Some(Selection { policies, applied_to_groups })
    }

    /// The rules that have a Pod on their other side by selector, in order of the names of their policies. None
    /// if the Pod is not known.
    #[must_use]
    pub fn peerings(&self, namespace: &str, pod: &str) -> Option<Vec<Peering>> {
        let groups = self.groups_of_pod(namespace, pod)?;
        let groups = groups.iter().filter(|group| self.is_address_group(**group));
        let mut found = Vec::new();
        for group in groups {
            let name = &self.groups[*group].name;
            let links = self.groups[*group].address.iter().flat_map(|address| &address.links);
            for policy in links.flat_map(|(set, _)| &self.sets[*set].policies) {
                let policy = &self.policies[*policy].object;
                let rules = policy.rules.iter().enumerate();
                for (rule, _) in rules.filter(|(_, rule)| rule.peer.address_groups.contains(name)) {
                    found.push(Peering { policy: policy.clone(), rule });
                }
            }
        }
        found.sort_by(|a, b| (&a.policy.name, a.rule).cmp(&(&b.policy.name, b.rule)));
        found.dedup_by(|a, b| a.rule == b.rule && a.policy.name == b.policy.name);
        Some(found)
    }

    /// How many objects there are.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            network_policies: self.network_policies().count(),
            address_groups: self.groups.iter().filter(|(id, _)| self.is_address_group(*id)).count(),
            applied_to_groups: self.groups.iter().filter(|(id, _)| self.is_applied_to_group(*id)).count(),
        }
    }

    /// Whether nothing at all is kept. For tests: after everything is deleted and drained nothing may be left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
            && self.namespaces.len() == 0
            && self.pods.len() == 0
            && self.nodes.len() == 0
            && self.classes.len() == 0
            && self.groups.len() == 0
            && self.sets.len() == 0
            && self.policies.len() == 0
            && self.natives.is_empty()
    }

    fn groups_of_pod(&self, namespace: &str, pod: &str) -> Option<&[Id]> {
        let pod = self.find_pod(self.find_namespace(namespace)?, pod)?;
        let class = self.pods[pod].class;
        (class != NONE).then(|| &self.classes[class].groups[..])
    }

    /// The sets of policies that apply to members of these groups.
    fn sets_applied_to(&self, groups: &[Id]) -> BTreeSet<Id> {
        let applied_to = groups.iter().filter_map(|group| self.groups[*group].applied_to.as_ref());
        applied_to.flat_map(|applied_to| applied_to.sets.iter().copied()).collect()
    }

    fn is_address_group(&self, group: Id) -> bool {
        self.groups[group].address.as_ref().is_some_and(|address| !address.links.is_empty())
    }

    fn is_applied_to_group(&self, group: Id) -> bool {
        let applied_to = self.groups[group].applied_to.as_ref();
        applied_to.is_some_and(|a| a.sets.iter().any(|set| !self.sets[*set].policies.is_empty()))
    }

    fn whole_address_group(&self, group: Id) -> AddressGroup {
        AddressGroup {
            name: self.groups[group].name.clone(),
            members: self.address_members(group),
            span: self.node_names(self.address_nodes(group)),
        }
    }

    fn whole_applied_to_group(&self, group: Id) -> AppliedToGroup {
        let applied_to = self.groups[group].applied_to.as_ref();
        AppliedToGroup {
            name: self.groups[group].name.clone(),
            members: self.applied_to_members(group),
            span: self.node_names(applied_to.map(|applied_to| &applied_to.nodes)),
        }
    }
}
