//! Who is in a ClusterGroup or Group. Policies do not need it, since they go by what a group selects; people ask.

use std::net::IpAddr;

use super::{
    Index,
    slab::{Id, NONE},
};
use crate::{
    crd,
    draft::{GroupSelector, PeerDraft, Scope},
    k8s::NODES,
    labels::Labels,
    model::{AddressMember, IpBlock},
    native::{self, Key},
};

/// What a group holds at the moment, its children's members included.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMembers {
    /// Pods that have an address, by namespace and name.
    pub pods: Vec<AddressMember>,
    pub ip_blocks: Vec<IpBlock>,
}

/// A ClusterGroup (without a namespace) or Group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct GroupReference {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

impl Index {
    /// The members of a ClusterGroup (without a namespace) or Group; none if it is not known. The cost is that of the
    /// different labels that Pods of the cluster have.
    #[must_use]
    pub fn group_members(&self, namespace: &str, name: &str) -> Option<GroupMembers> {
        let group = self.natives.groups.get(&(namespace.into(), name.into()))?;
        let PeerDraft { groups, ip_blocks, .. } = self.in_context(|context| native::members(group, context));
        let classes = self.classes.iter().filter(|(class, _)| self.is_in(*class, &groups));
        let pods = classes.flat_map(|(_, class)| &class.pods);
        let mut pods: Vec<AddressMember> = pods.filter_map(|pod| self.address_member(*pod)).collect();
        pods.sort_by(|a, b| (&a.pod.namespace, &a.pod.name).cmp(&(&b.pod.namespace, &b.pod.name)));
        Some(GroupMembers { pods, ip_blocks })
    }

    /// The groups that a Pod is in; none if the Pod is not known.
    #[must_use]
    pub fn groups_with_pod(&self, namespace: &str, pod: &str) -> Option<Vec<GroupReference>> {
        let class = self.pods[self.find_pod(self.find_namespace(namespace)?, pod)?].class;
        (class != NONE).then(|| self.groups_with(|members| self.is_in(class, &members.groups)))
    }

    /// The groups that an address is in, as a block's or as that of a Pod.
    #[must_use]
    pub fn groups_with_address(&self, address: IpAddr) -> Vec<GroupReference> {
        let of_pods =
            self.pods.iter().filter(|(_, pod)| pod.class != NONE && pod.ips.iter().any(|ip| ip == address));
        let classes: Vec<Id> = of_pods.map(|(_, pod)| pod.class).collect();
        self.groups_with(|members| {
            members.ip_blocks.iter().any(|block| block.contains(address))
                || classes.iter().any(|class| self.is_in(*class, &members.groups))
        })
    }

    fn groups_with(&self, has: impl Fn(&PeerDraft) -> bool) -> Vec<GroupReference> {
        let has = |group: &crd::Group| has(&self.in_context(|context| native::members(group, context)));
        let found = self.natives.groups.iter().filter(|(_, group)| has(group));
        let reference = |((namespace, name), group): (&Key, &crd::Group)| GroupReference {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: group.uid.clone(),
        };
        found.map(reference).collect()
    }

    /// Whether one of the selectors selects the class.
    fn is_in(&self, class: Id, selectors: &[GroupSelector]) -> bool {
        let record = &self.classes[class];
        let namespace = &self.namespaces[record.namespace];
        let texts = |id| -> Labels { self.labels.texts(id) };
        let in_scope = |scope: &Scope| match scope {
            Scope::All => *namespace.name != *NODES,
            Scope::Nodes => *namespace.name == *NODES,
            Scope::Namespace(name) => *name == namespace.name,
            Scope::NamespaceSelector(selector) => {
                namespace.labels.is_some_and(|id| selector.matches(&texts(id)))
            }
        };
        let labels = texts(record.labels);
        selectors.iter().any(|selector| {
            in_scope(&selector.scope) && selector.pods.as_ref().is_none_or(|pods| pods.matches(&labels))
        })
    }
}
