//! The index: what is known of the cluster, and what follows from it.

mod drain;
mod groups;
mod matching;
mod native;
mod nodes;
mod policy;
mod query;
mod records;
mod review;
mod selectors;
mod slab;
mod span;
mod symbols;
mod table;
mod told;

use std::{collections::BTreeSet, hash::Hash, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashMap};
use smallvec::SmallVec;

pub use groups::{GroupMembers, GroupReference};
pub use native::NativeView;
pub use query::{AddressGroup, AppliedToGroup, Effective, NodeView, Peering, Selection, Sizes};
use records::{ApplySet, Class, Group, Namespace, Node, Pod, Policy};
pub use review::Findings;
use selectors::{CarrierIndex, SelectorIndex};
use slab::{Id, NONE, Slab};
use symbols::LabelSets;
use table::{Hashed, Table};
pub use told::Told;

use crate::{
    k8s,
    model::{AddressMember, NamedPort, PodMember},
};

/// The state of the engine. See the crate documentation for the picture.
///
/// Everything that is applied is taken in at once; [`Index::drain`] then tells what changed since it was last
/// called. Applying the same object twice changes nothing.
#[derive(Debug)]
pub struct Index {
    scan_limit: usize,
    hasher: DefaultHashBuilder,
    labels: LabelSets,
    /// Text of a selector being named.
    buffer: String,

    namespaces: Slab<Namespace>,
    namespace_table: Table,
    namespace_index: CarrierIndex,
    /// Namespaces whose Kubernetes policies are logged.
    logging: BTreeSet<Box<str>>,
    /// Namespaces that may be unused.
    idle_namespaces: Vec<Id>,

    pods: Slab<Pod>,
    pod_table: Table,
    /// Pods that went since the last drain.
    gone_pods: Vec<Id>,

    nodes: Slab<Node>,
    node_table: Table,
    /// Nodes that may hold no Pods.
    idle_nodes: Vec<Id>,

    classes: Slab<Class>,
    class_table: Table,
    /// All classes by label; made when the first group that is not tied to a namespace appears.
    class_index: Option<Box<CarrierIndex>>,
    /// Classes that may hold no Pods.
    idle_classes: Vec<Id>,

    groups: Slab<Group>,
    group_table: Table,
    /// Groups not tied to a namespace, by a label of the Pods.
    groups_by_pods: SelectorIndex,
    /// Groups not tied to a namespace, by a label of the namespace.
    groups_by_namespaces: SelectorIndex,
    dirty_groups: Vec<Id>,

    sets: Slab<ApplySet>,
    /// Sets of other than one group.
    set_table: HashMap<SmallVec<[Id; 1]>, Id>,
    dirty_sets: Vec<Id>,
    /// During a drain: sets whose whole span is kept to be shared.
    cached_spans: Vec<Id>,

    policies: Slab<Policy>,
    /// By kind, namespace and name.
    policy_table: Table,
    /// By the name of the internal policy.
    policy_names: Table,
    dirty_policies: Vec<Id>,
    natives: Box<native::Natives>,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_scan_limit(32)
    }
}

impl Index {
    /// An index that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Index::new`], but in namespaces with at most that many label sets (or groups) they are searched from
    /// end to end, and only in larger ones through an inverted index. It makes no difference to any result.
    #[must_use]
    pub fn with_scan_limit(scan_limit: usize) -> Self {
        Self {
            scan_limit,
            hasher: DefaultHashBuilder::default(),
            labels: LabelSets::default(),
            buffer: String::new(),
            namespaces: Slab::default(),
            namespace_table: Table::default(),
            namespace_index: CarrierIndex::default(),
            logging: BTreeSet::new(),
            idle_namespaces: Vec::new(),
            pods: Slab::default(),
            pod_table: Table::default(),
            gone_pods: Vec::new(),
            nodes: Slab::default(),
            node_table: Table::default(),
            idle_nodes: Vec::new(),
            classes: Slab::default(),
            class_table: Table::default(),
            class_index: None,
            idle_classes: Vec::new(),
            groups: Slab::default(),
            group_table: Table::default(),
            groups_by_pods: SelectorIndex::default(),
            groups_by_namespaces: SelectorIndex::default(),
            dirty_groups: Vec::new(),
            sets: Slab::default(),
            set_table: HashMap::new(),
            dirty_sets: Vec::new(),
            cached_spans: Vec::new(),
            policies: Slab::default(),
            policy_table: Table::default(),
            policy_names: Table::default(),
            dirty_policies: Vec::new(),
            natives: Box::default(),
        }
    }

    fn hash(&self, value: impl Hash) -> Hashed {
        Hashed::new(&self.hasher, value)
    }

    // === namespaces ===

    /// Takes in a Namespace that was added or changed.
    pub fn apply_namespace(&mut self, namespace: &k8s::Namespace) {
        self.log_policies(&namespace.name, namespace.logs);
        let labels = self.labels.acquire(&namespace.labels);
        let id = self.namespace(&namespace.name);
        let before = self.namespaces[id].labels.replace(labels);
        if before == Some(labels) {
            self.labels.release(labels);
            return;
        }
        if let Some(before) = before {
            self.namespace_index.remove(id, self.labels.labels(before));
        }
        self.namespace_index.insert(id, self.labels.labels(labels));
        self.rematch_namespace(id);
        self.natives.namespaces_changed();
        if let Some(before) = before {
            self.labels.release(before);
        }
    }

    /// Takes in that a Namespace is gone. Its Pods and policies go by events of their own.
    pub fn delete_namespace(&mut self, name: &str) {
        let Some(id) = self.find_namespace(name) else { return };
        let Some(labels) = self.namespaces[id].labels.take() else { return };
        self.log_policies(name, false);
        self.namespace_index.remove(id, self.labels.labels(labels));
        self.rematch_namespace(id);
        self.natives.namespaces_changed();
        self.labels.release(labels);
        self.idle_namespaces.push(id);
    }

    /// Takes in the complete list of Namespaces, as after a watch had to start over. Those of `kept` are in the
    /// list too and stay as they are known.
    pub fn reset_namespaces<'a>(
        &mut self,
        namespaces: impl IntoIterator<Item = &'a k8s::Namespace>,
        kept: impl IntoIterator<Item = &'a str>,
    ) {
        let mut seen = vec![false; self.namespaces.len()];
        for name in kept {
            mark_seen(&mut seen, self.find_namespace(name));
        }
        for namespace in namespaces {
            self.apply_namespace(namespace);
            mark_seen(&mut seen, self.find_namespace(&namespace.name));
        }
        let missing = unseen(&seen, self.namespaces.iter().filter(|(_, n)| n.labels.is_some()));
        for id in missing {
            let name = self.namespaces[id].name.clone();
            self.delete_namespace(&name);
        }
    }

    /// Whether the Namespace is known.
    #[must_use]
    pub fn has_namespace(&self, name: &str) -> bool {
        self.find_namespace(name).is_some_and(|id| self.namespaces[id].labels.is_some())
    }

    fn find_namespace(&self, name: &str) -> Option<Id> {
        let namespaces = &self.namespaces;
        self.namespace_table.find(self.hash(name), |id| *namespaces[id].name == *name)
    }

    fn namespace(&mut self, name: &str) -> Id {
        if let Some(id) = self.find_namespace(name) {
            return id;
        }
        let id = self.namespaces.insert(Namespace {
            name: name.into(),
            labels: None,
            classes: Vec::new(),
            class_index: None,
            groups: Vec::new(),
            group_index: None,
        });
        self.namespace_table.insert(self.hash(name), id);
        id
    }

    fn remove_namespace_if_idle(&mut self, id: Id) {
        let idle = self.namespaces.get(id).is_some_and(|namespace| {
            namespace.labels.is_none() && namespace.classes.is_empty() && namespace.groups.is_empty()
        });
        if idle {
            let namespace = self.namespaces.remove(id);
            self.namespace_table.remove(self.hash(&*namespace.name), id);
        }
    }

    // === pods ===

    /// Takes in a Pod that was added or changed.
    pub fn apply_pod(&mut self, pod: &k8s::Pod) {
        if pod.host_network || pod.terminated {
            return self.delete_pod(&pod.namespace, &pod.name);
        }
        let namespace = self.namespace(&pod.namespace);
        let class = self.class(namespace, &pod.labels);
        let node = pod.node.as_deref().map_or(NONE, |name| self.node(name));
        let known = self.find_pod(namespace, &pod.name);

        let Some(id) = known else {
            let member = self.member(pod, namespace, class, node);
            let id = self.pods.insert(Pod {
                uid: pod.uid,
                member,
                ips: pod.ips,
                told: false,
                namespace,
                class: NONE,
                node: NONE,
                place_in_class: NONE,
                place_on_node: NONE,
            });
            self.pod_table.insert(self.hash((namespace, &*pod.name)), id);
            self.touch_groups(id, class);
            self.place_pod(id, class, node);
            self.take_from_told(id);
            return;
        };

        let record = &mut self.pods[id];
        let same = record.uid == pod.uid && record.node == node && record.class != NONE;
        record.uid = pod.uid;
        let told = record.told && same && pod.ips.is_empty();
        let ips = if told { record.ips } else { pod.ips };
        let ports_same = *record.member.ports == *pod.ports;
        if record.class == class && record.node == node && record.ips == ips && ports_same {
            record.told = told;
            return;
        }
        let before = record.class;
        if before != NONE {
            self.touch_groups(id, before);
        }
        self.touch_groups(id, class);
        self.displace_pod(id);
        if !ports_same || self.pods[id].member.node.as_deref() != pod.node.as_deref() {
            self.pods[id].member = self.member(pod, namespace, class, node);
        }
        self.pods[id].ips = ips;
        self.pods[id].told = told;
        self.place_pod(id, class, node);
        self.take_from_told(id);
    }

    /// Takes in that a Pod is gone.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) {
        let Some(namespace) = self.find_namespace(namespace) else { return };
        let Some(id) = self.find_pod(namespace, name) else { return };
        let class = self.pods[id].class;
        if class != NONE {
            self.touch_groups(id, class);
            self.displace_pod(id);
            self.gone_pods.push(id);
        }
    }

    /// Takes in the complete list of Pods, as after a watch had to start over. Those of `kept` (namespace and
    /// name) are in the list too and stay as they are known.
    pub fn reset_pods<'a>(
        &mut self,
        pods: impl IntoIterator<Item = &'a k8s::Pod>,
        kept: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let mut seen = vec![false; self.pods.len()];
        for (namespace, name) in kept {
            let namespace = self.find_namespace(namespace);
            mark_seen(&mut seen, namespace.and_then(|namespace| self.find_pod(namespace, name)));
        }
        for pod in pods {
            self.apply_pod(pod);
            let namespace = self.find_namespace(&pod.namespace);
            mark_seen(&mut seen, namespace.and_then(|namespace| self.find_pod(namespace, &pod.name)));
        }
        let pods = |(_, pod): &(Id, &Pod)| pod.class != NONE && *pod.member.namespace != *k8s::NODES;
        let missing = unseen(&seen, self.pods.iter().filter(pods));
        for id in missing {
            let member = self.pods[id].member.clone();
            self.delete_pod(&member.namespace, &member.name);
        }
    }

    /// Whether the Pod is known.
    #[must_use]
    pub fn has_pod(&self, namespace: &str, name: &str) -> bool {
        let found = self.find_namespace(namespace).and_then(|namespace| self.find_pod(namespace, name));
        found.is_some_and(|id| self.pods[id].class != NONE)
    }

    fn find_pod(&self, namespace: Id, name: &str) -> Option<Id> {
        let pods = &self.pods;
        let same = |id| pods[id].namespace == namespace && *pods[id].member.name == *name;
        self.pod_table.find(self.hash((namespace, name)), same)
    }

    /// The member that a Pod is to groups. Pods of a class are often replicas with the same ports, so those are
    /// shared with a neighbour if possible.
    fn member(&self, pod: &k8s::Pod, namespace: Id, class: Id, node: Id) -> Arc<PodMember> {
        let neighbour = self.classes[class].pods.last().map(|id| &self.pods[*id].member.ports);
        let ports: Arc<[NamedPort]> = match neighbour {
            Some(ports) if **ports == *pod.ports => ports.clone(),
            _ if pod.ports.is_empty() => Arc::default(),
            _ => pod.ports.as_slice().into(),
        };
        Arc::new(PodMember {
            namespace: self.namespaces[namespace].name.clone(),
            name: pod.name.clone(),
            node: (node != NONE).then(|| self.nodes[node].name.clone()),
            ports,
        })
    }

    fn place_pod(&mut self, id: Id, class: Id, node: Id) {
        let pods = &mut self.classes[class].pods;
        pods.push(id);
        let pod = &mut self.pods[id];
        pod.class = class;
        pod.place_in_class = place_of_last(pods);
        pod.node = node;
        if node != NONE {
            let pods = &mut self.nodes[node].pods;
            pods.push(id);
            pod.place_on_node = place_of_last(pods);
            self.class_gains(class, node);
        }
    }

    fn displace_pod(&mut self, id: Id) {
        let pod = &mut self.pods[id];
        let (class, node) = (std::mem::replace(&mut pod.class, NONE), std::mem::replace(&mut pod.node, NONE));
        let (place_in_class, place_on_node) = (pod.place_in_class as usize, pod.place_on_node as usize);
        if class == NONE {
            return;
        }
        let pods = &mut self.classes[class].pods;
        pods.swap_remove(place_in_class);
        if let Some(moved) = pods.get(place_in_class) {
            self.pods[*moved].place_in_class = u32::try_from(place_in_class).unwrap_or(NONE);
        }
        if pods.is_empty() {
            self.idle_classes.push(class);
        }
        if node != NONE {
            let pods = &mut self.nodes[node].pods;
            pods.swap_remove(place_on_node);
            if let Some(moved) = pods.get(place_on_node) {
                self.pods[*moved].place_on_node = u32::try_from(place_on_node).unwrap_or(NONE);
            }
            if pods.is_empty() {
                self.idle_nodes.push(node);
            }
            self.class_loses(class, node);
        }
    }

    /// Remembers for every group of a class what the Pod was to it.
    fn touch_groups(&mut self, pod: Id, class: Id) {
        for i in 0..self.classes[class].groups.len() {
            self.touch(pod, self.classes[class].groups[i]);
        }
    }

    /// Remembers what the Pod was to the group, if the group has been sent out.
    fn touch(&mut self, pod: Id, group: Id) {
        let record = &self.groups[group];
        let sent_address = record.address.as_ref().is_some_and(|address| address.sent);
        let sent_applied_to = record.applied_to.as_ref().is_some_and(|applied_to| applied_to.sent);
        if !sent_address && !sent_applied_to {
            return;
        }
        let selected = self.selected(pod, group);
        let address_member = self.address_member(pod).filter(|_| selected);
        let applied_to_member = self.applied_to_member(pod).filter(|_| selected);
        let record = &mut self.groups[group];
        if let Some(address) = record.address.as_mut().filter(|_| sent_address) {
            address.pending.get_or_insert_default().pods.push((pod, address_member));
        }
        if let Some(applied_to) = record.applied_to.as_mut().filter(|_| sent_applied_to) {
            applied_to.pending.get_or_insert_default().pods.push((pod, applied_to_member));
        }
        self.mark_group(group);
    }

    /// Whether the group selects the Pod now.
    fn selected(&self, pod: Id, group: Id) -> bool {
        let class = self.pods[pod].class;
        class != NONE && self.classes[class].groups.binary_search(&group).is_ok()
    }

    /// What the Pod is to an AddressGroup that selects it: nothing without an address.
    fn address_member(&self, pod: Id) -> Option<AddressMember> {
        let pod = &self.pods[pod];
        (!pod.ips.is_empty()).then(|| AddressMember { pod: pod.member.clone(), ips: pod.ips })
    }

    /// What the Pod is to an AppliedToGroup that selects it: nothing without a node.
    fn applied_to_member(&self, pod: Id) -> Option<Arc<PodMember>> {
        let pod = &self.pods[pod];
        (pod.node != NONE).then(|| pod.member.clone())
    }

    // === nodes ===

    fn find_node(&self, name: &str) -> Option<Id> {
        let nodes = &self.nodes;
        self.node_table.find(self.hash(name), |id| *nodes[id].name == *name)
    }

    fn node(&mut self, name: &str) -> Id {
        if let Some(id) = self.find_node(name) {
            return id;
        }
        let id = self.nodes.insert(Node { name: name.into(), pods: Vec::new() });
        self.node_table.insert(self.hash(name), id);
        id
    }
}

fn place_of_last(list: &[Id]) -> u32 {
    u32::try_from(list.len() - 1).unwrap_or(NONE)
}

fn mark_seen(seen: &mut Vec<bool>, id: Option<Id>) {
    if let Some(id) = id {
        let at = id as usize;
        if at >= seen.len() {
            seen.resize(at + 1, false);
        }
        seen[at] = true;
    }
}

fn unseen<'a, T: 'a>(seen: &[bool], all: impl Iterator<Item = (Id, &'a T)>) -> Vec<Id> {
    all.map(|(id, _)| id).filter(|id| !seen.get(*id as usize).copied().unwrap_or(false)).collect()
}
