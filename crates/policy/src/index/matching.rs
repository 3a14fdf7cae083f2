//! Which group selects which class. Each way round only looks at candidates from an inverted index, and at what is
//! listed in the same namespace.

use smallvec::SmallVec;

use super::{
    Index,
    records::{AppliedTo, Class, Group, Listing, Where},
    selectors::{CarrierIndex, Compiled, SelectorIndex},
    slab::{Id, NONE, insert_sorted, remove_sorted},
};
use crate::{
    draft::{GroupSelector, Scope},
    k8s::NODES,
    labels::Labels,
};

impl Index {
    // === classes ===

    /// The class of Pods with these labels in the namespace.
    pub(super) fn class(&mut self, namespace: Id, labels: &Labels) -> Id {
        let labels = self.labels.acquire(labels);
        let hash = self.hash((namespace, labels));
        let classes = &self.classes;
        let same = |id| classes[id].namespace == namespace && classes[id].labels == labels;
        if let Some(id) = self.class_table.find(hash, same) {
            self.labels.release(labels);
            return id;
        }
        let place = u32::try_from(self.namespaces[namespace].classes.len()).unwrap_or(NONE);
        let class = self.classes.insert(Class {
            namespace,
            labels,
            pods: Vec::new(),
            nodes: Default::default(),
            groups: Vec::new(),
            place_in_namespace: place,
        });
        self.class_table.insert(hash, class);
        self.list_class(class);
        let mut groups = self.groups_of(class);
        groups.sort_unstable();
        for group in &groups {
            insert_sorted(&mut self.groups[*group].classes, class);
        }
        self.classes[class].groups = groups.into_vec();
        class
    }

    fn list_class(&mut self, class: Id) {
        let record = &self.classes[class];
        let labels = self.labels.labels(record.labels);
        let namespace = &mut self.namespaces[record.namespace];
        namespace.classes.push(class);
        if let Some(index) = &mut namespace.class_index {
            index.insert(class, labels);
        } else if namespace.classes.len() > self.scan_limit {
            let mut index = CarrierIndex::default();
            for class in &namespace.classes {
                index.insert(*class, self.labels.labels(self.classes[*class].labels));
            }
            namespace.class_index = Some(Box::new(index));
        }
        if let Some(index) = &mut self.class_index {
            index.insert(class, labels);
        }
    }

    /// The groups that select a class.
    fn groups_of(&self, class: Id) -> SmallVec<[Id; 8]> {
        let record = &self.classes[class];
        let labels = self.labels.labels(record.labels);
        let namespace = &self.namespaces[record.namespace];
        let selects = |group: &Id| self.groups[*group].pods.matches(labels);
        let mut groups: SmallVec<[Id; 8]> = match &namespace.group_index {
            Some(index) => index.candidates(labels).filter(selects).collect(),
            None => namespace.groups.iter().copied().filter(selects).collect(),
        };
        groups.extend(self.cluster_groups_of(class));
        groups
    }

    /// The groups not tied to a namespace that select a class.
    fn cluster_groups_of(&self, class: Id) -> impl Iterator<Item = Id> {
        let record = &self.classes[class];
        let labels = self.labels.labels(record.labels);
        let namespace = self.namespaces[record.namespace].labels.map(|id| self.labels.labels(id));
        let by_pods = self.groups_by_pods.candidates(labels);
        let by_namespaces =
            namespace.into_iter().flat_map(|labels| self.groups_by_namespaces.candidates(labels));
        by_pods.chain(by_namespaces).filter(move |group| {
            let group = &self.groups[*group];
            let scoped = match &group.scope {
                Where::Namespace(id) => *id == record.namespace,
                Where::Selector(selector) => namespace.is_some_and(|labels| selector.matches(labels)),
                Where::All => *self.namespaces[record.namespace].name != *NODES,
            };
            scoped && group.pods.matches(labels)
        })
    }

    /// Removes a class without Pods.
    pub(super) fn remove_class(&mut self, class: Id) {
        let record = self.classes.remove(class);
        for group in &record.groups {
            remove_sorted(&mut self.groups[*group].classes, class);
        }
        let labels = self.labels.labels(record.labels);
        let namespace = &mut self.namespaces[record.namespace];
        namespace.classes.swap_remove(record.place_in_namespace as usize);
        if let Some(moved) = namespace.classes.get(record.place_in_namespace as usize) {
            self.classes[*moved].place_in_namespace = record.place_in_namespace;
        }
        if let Some(index) = &mut namespace.class_index {
            index.remove(class, labels);
        }
        if let Some(index) = &mut self.class_index {
            index.remove(class, labels);
        }
        let hash = self.hash((record.namespace, record.labels));
        self.class_table.remove(hash, class);
        self.labels.release(record.labels);
        self.idle_namespaces.push(record.namespace);
    }

    /// Looks again which cluster-wide groups select the classes of a namespace whose labels changed.
    pub(super) fn rematch_namespace(&mut self, namespace: Id) {
        for i in 0..self.namespaces[namespace].classes.len() {
            let class = self.namespaces[namespace].classes[i];
            let mut now: Vec<Id> = self.cluster_groups_of(class).collect();
            now.sort_unstable();
            let groups = self.classes[class].groups.iter().copied();
            let before: Vec<Id> =
                groups.filter(|g| !matches!(self.groups[*g].listing, Listing::Namespace(..))).collect();
            for group in now.iter().filter(|g| before.binary_search(g).is_err()) {
                self.join(*group, class);
            }
            for group in before.iter().filter(|g| now.binary_search(g).is_err()) {
                self.part(*group, class);
            }
        }
    }

    /// The group starts to select the class.
    fn join(&mut self, group: Id, class: Id) {
        self.touch_all(group, class);
        insert_sorted(&mut self.groups[group].classes, class);
        insert_sorted(&mut self.classes[class].groups, group);
        let nodes: SmallVec<[Id; 8]> = self.classes[class].nodes.iter().collect();
        for node in nodes {
            self.applied_to_gains(group, node);
        }
    }

    /// The group stops to select the class.
    fn part(&mut self, group: Id, class: Id) {
        self.touch_all(group, class);
        remove_sorted(&mut self.groups[group].classes, class);
        remove_sorted(&mut self.classes[class].groups, group);
        let nodes: SmallVec<[Id; 8]> = self.classes[class].nodes.iter().collect();
        for node in nodes {
            self.applied_to_loses(group, node);
        }
    }

    /// Remembers what the Pods of the class were to the group.
    fn touch_all(&mut self, group: Id, class: Id) {
        for i in 0..self.classes[class].pods.len() {
            self.touch(self.classes[class].pods[i], group);
        }
    }

    // === groups ===

    /// The group of a selector. A new one has no role yet.
    pub(super) fn group(&mut self, selector: &GroupSelector) -> Id {
        let mut buffer = std::mem::take(&mut self.buffer);
        let name = selector.name_with(&mut buffer);
        self.buffer = buffer;
        let hash = self.hash(&name);
        let groups = &self.groups;
        if let Some(id) = self.group_table.find(hash, |id| groups[id].name == name) {
            return id;
        }
        let scope = match &selector.scope {
            Scope::Namespace(name) => Where::Namespace(self.namespace(name)),
            Scope::NamespaceSelector(selector) => {
                Where::Selector(Compiled::new(selector, &mut self.labels.symbols))
            }
            Scope::All => Where::All,
            Scope::Nodes => Where::Namespace(self.namespace(NODES)),
        };
        let pods = match &selector.pods {
            Some(selector) => Compiled::new(selector, &mut self.labels.symbols),
            None => Compiled::default(),
        };
        let group = self.groups.insert(Group {
            name,
            scope,
            pods,
            listing: Listing::Pods(NONE),
            classes: Vec::new(),
            address: None,
            applied_to: None,
            dirty: false,
        });
        self.group_table.insert(hash, group);
        self.list_group(group);
        let mut classes = self.classes_of(group);
        classes.sort_unstable();
        for class in &classes {
            insert_sorted(&mut self.classes[*class].groups, group);
        }
        self.groups[group].classes = classes;
        self.mark_group(group);
        group
    }

    fn list_group(&mut self, group: Id) {
        let record = &self.groups[group];
        let listing = match &record.scope {
            Where::Namespace(id) => {
                let namespace = &mut self.namespaces[*id];
                let place = u32::try_from(namespace.groups.len()).unwrap_or(NONE);
                namespace.groups.push(group);
                let mut anchor = NONE;
                if let Some(index) = &mut namespace.group_index {
                    anchor = index.best_anchor(&record.pods).0;
                    index.insert(group, &record.pods, anchor);
                } else if namespace.groups.len() > self.scan_limit {
                    let mut index = SelectorIndex::default();
                    let listed = namespace.groups.clone();
                    for other in listed {
                        let record = &mut self.groups[other];
                        let at = index.best_anchor(&record.pods).0;
                        index.insert(other, &record.pods, at);
                        if let Listing::Namespace(_, anchor) = &mut record.listing {
                            *anchor = at;
                        }
                        anchor = at;
                    }
                    namespace.group_index = Some(Box::new(index));
                }
                Listing::Namespace(place, anchor)
            }
            Where::Selector(selector) => {
                let (by_pods, pods_cost) = self.groups_by_pods.best_anchor(&record.pods);
                let (by_namespaces, namespaces_cost) = self.groups_by_namespaces.best_anchor(selector);
                // Without an anchor on the Pods the group would be a candidate for every class.
                if by_namespaces != NONE && (by_pods == NONE || namespaces_cost < pods_cost) {
                    self.groups_by_namespaces.insert(group, selector, by_namespaces);
                    Listing::Namespaces(by_namespaces)
                } else {
                    self.groups_by_pods.insert(group, &record.pods, by_pods);
                    Listing::Pods(by_pods)
                }
            }
            Where::All => {
                let anchor = self.groups_by_pods.best_anchor(&record.pods).0;
                self.groups_by_pods.insert(group, &record.pods, anchor);
                Listing::Pods(anchor)
            }
        };
        self.groups[group].listing = listing;
    }

    /// The classes a group selects.
    fn classes_of(&mut self, group: Id) -> Vec<Id> {
        let mut found = Vec::new();
        if let Where::Namespace(id) = self.groups[group].scope {
            self.classes_in(id, &self.groups[group].pods, &mut found);
            return found;
        }
        if self.class_index.is_none() {
            let mut index = CarrierIndex::default();
            for (class, record) in self.classes.iter() {
                index.insert(class, self.labels.labels(record.labels));
            }
            self.class_index = Some(Box::new(index));
        }
        let Some(index) = &self.class_index else { return found };
        let record = &self.groups[group];
        let everywhere = Compiled::default();
        let (selector, known_only) = match &record.scope {
            Where::Selector(selector) => (selector, true),
            _ => (&everywhere, false),
        };
        let in_scope = |namespace: Id| match self.namespaces[namespace].labels {
            Some(labels) => selector.matches(self.labels.labels(labels)),
            None => !known_only && *self.namespaces[namespace].name != *NODES,
        };
        let classes = index.candidates(&record.pods);
        let namespaces = self.namespace_index.candidates(selector);
        let class_count = classes.as_ref().map_or(self.classes.len(), |list| list.len());
        let namespace_count = namespaces.as_ref().map_or(self.namespaces.len(), |list| list.len());
        match (classes, namespaces) {
            // Walk the classes with the right labels, or the namespaces in scope, whichever are fewer.
            (Some(classes), _) if class_count <= namespace_count => {
                found.extend(classes.iter().filter(|class| {
                    let class = &self.classes[*class];
                    in_scope(class.namespace) && record.pods.matches(self.labels.labels(class.labels))
                }));
            }
            (_, Some(namespaces)) => {
                for namespace in namespaces.iter().filter(|namespace| in_scope(*namespace)) {
                    self.classes_in(namespace, &record.pods, &mut found);
                }
            }
            (_, None) => {
                for (namespace, _) in self.namespaces.iter().filter(|(id, _)| in_scope(*id)) {
                    self.classes_in(namespace, &record.pods, &mut found);
                }
            }
        }
        found
    }

    /// The classes of a namespace that a selector matches.
    fn classes_in(&self, namespace: Id, pods: &Compiled, found: &mut Vec<Id>) {
        let namespace = &self.namespaces[namespace];
        let selected = |class: &Id| pods.matches(self.labels.labels(self.classes[*class].labels));
        match namespace.class_index.as_ref().and_then(|index| index.candidates(pods)) {
            Some(candidates) => found.extend(candidates.iter().filter(selected)),
            None => found.extend(namespace.classes.iter().copied().filter(selected)),
        }
    }

    /// Gives the group the role of AppliedToGroup, if it does not have it.
    pub(super) fn take_applied_to(&mut self, group: Id) {
        if self.groups[group].applied_to.is_some() {
            return;
        }
        let mut applied_to = AppliedTo::default();
        for class in &self.groups[group].classes {
            for node in self.classes[*class].nodes.iter() {
                applied_to.nodes.add(node);
            }
        }
        self.groups[group].applied_to = Some(Box::new(applied_to));
        self.mark_group(group);
    }

    /// Removes a group without a role.
    pub(super) fn remove_group(&mut self, group: Id) {
        let record = self.groups.remove(group);
        for class in &record.classes {
            remove_sorted(&mut self.classes[*class].groups, group);
        }
        match (&record.scope, record.listing) {
            (Where::Namespace(id), Listing::Namespace(place, anchor)) => {
                let namespace = &mut self.namespaces[*id];
                namespace.groups.swap_remove(place as usize);
                if let Some(moved) = namespace.groups.get(place as usize)
                    && let Listing::Namespace(moved_place, _) = &mut self.groups[*moved].listing
                {
                    *moved_place = place;
                }
                if let Some(index) = &mut namespace.group_index {
                    index.remove(group, &record.pods, anchor);
                }
                self.idle_namespaces.push(*id);
            }
            (Where::Selector(selector), Listing::Namespaces(anchor)) => {
                self.groups_by_namespaces.remove(group, selector, anchor);
            }
            (_, Listing::Pods(anchor) | Listing::Namespaces(anchor) | Listing::Namespace(_, anchor)) => {
                self.groups_by_pods.remove(group, &record.pods, anchor);
            }
        }
        let hash = self.hash(&record.name);
        self.group_table.remove(hash, group);
        record.pods.release(&mut self.labels.symbols);
        if let Where::Selector(selector) = record.scope {
            selector.release(&mut self.labels.symbols);
        }
    }
}
