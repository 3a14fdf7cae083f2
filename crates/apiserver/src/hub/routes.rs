//! Who gets an event. The cost is that of the watchers that get it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::mpsc;

use super::{Load, weight};
use crate::object::Item;

/// What a watcher selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Number of the resource.
    pub resource: usize,
    /// Only objects that this node needs; none selects all.
    pub node: Option<Arc<str>>,
    /// Only the object of this name.
    pub name: Option<String>,
}

/// How the set of nodes that need an object, or the object itself, changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    /// The object exists now.
    Created {
        /// Nodes that need it.
        span: &'a [Arc<str>],
    },
    /// The object or its nodes changed.
    Updated {
        /// Nodes that need it from now on.
        added: &'a [Arc<str>],
        /// Nodes that do not need it any more.
        removed: &'a [Arc<str>],
    },
    /// The object is gone.
    Deleted,
}

/// Makes the events of one change. An implementation keeps what it made, so that watchers share it.
pub trait Render {
    /// ADDED with the object as `node` sees it; none: as it is.
    fn added(&mut self, node: Option<&str>) -> Option<Arc<Item>>;
    /// MODIFIED for a watcher that has the object. None if nothing changed for it.
    fn modified(&mut self, node: Option<&str>) -> Option<Arc<Item>>;
    /// The event for a watcher that is to have the object no more; none if it never had it.
    fn deleted(&mut self) -> Option<Arc<Item>>;
}

type Id = u64;

/// The way to a watcher.
pub(super) struct Queue {
    pub(super) sender: mpsc::UnboundedSender<Arc<Item>>,
    pub(super) load: Load,
    pub(super) limit: usize,
}

enum Refusal {
    Full,
    Closed,
}

impl Queue {
    /// An event that is larger than the queue may be goes through an empty one.
    fn offer(&self, item: Arc<Item>) -> Result<(), Refusal> {
        let weight = weight(&item);
        let before = self.load.fetch_add(weight, Ordering::Relaxed);
        if before > 0 && before + weight > self.limit {
            return Err(Refusal::Full);
        }
        self.sender.send(item).map_err(|_| Refusal::Closed)
    }
}

struct Watcher {
    filter: Filter,
    queue: Queue,
    /// Objects that the watcher was sent and that were not taken back.
    held: HashSet<Arc<str>>,
}

#[derive(Default)]
struct Resource {
    by_node: HashMap<Arc<str>, Vec<Id>>,
    /// Watchers of everything: people and tools, never many.
    unfiltered: Vec<Id>,
    /// Who holds an object. The keys are shared with the watchers' sets.
    holders: HashMap<Arc<str>, Vec<Id>>,
}

/// The watchers, found by node and by what they hold.
pub struct Routes {
    watchers: HashMap<Id, Watcher>,
    resources: Vec<Resource>,
    next: Id,
    cut: u64,
}

impl Routes {
    pub(super) fn new(resources: usize) -> Self {
        Self {
            watchers: HashMap::new(),
            resources: std::iter::repeat_with(Resource::default).take(resources).collect(),
            next: 0,
            cut: 0,
        }
    }

    /// Whether nobody watches, so that nothing need be made.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Number of nodes with a watch on a resource.
    pub fn nodes(&self, resource: usize) -> usize {
        self.resources.get(resource).map_or(0, |resource| resource.by_node.len())
    }

    /// Watchers that were cut off since the start.
    pub fn cut_off(&self) -> u64 {
        self.cut
    }

    /// Sends a change of the object `name` to whom it concerns.
    pub fn publish(&mut self, resource: usize, name: &str, delta: Delta<'_>, render: &mut dyn Render) {
        if self.watchers.is_empty() {
            return;
        }
        match delta {
            Delta::Created { span } => {
                self.add(resource, name, span, render);
                for id in self.resources[resource].unfiltered.clone() {
                    self.add_to(id, name, None, render);
                }
            }
            Delta::Updated { added, removed } => {
                for node in removed {
                    for id in self.on_node(resource, node) {
                        if self.holds(id, name) {
                            self.release(id, name);
                            self.offer(id, render.deleted());
                        }
                    }
                }
                for id in self.resources[resource].holders.get(name).cloned().unwrap_or_default() {
                    let Some(watcher) = self.watchers.get(&id) else { continue };
                    let item = render.modified(watcher.filter.node.as_deref());
                    self.offer(id, item);
                }
                self.add(resource, name, added, render);
            }
            Delta::Deleted => {
                for id in self.resources[resource].holders.remove(name).unwrap_or_default() {
                    if let Some(watcher) = self.watchers.get_mut(&id) {
                        watcher.held.remove(name);
                    }
                    self.offer(id, render.deleted());
                }
            }
        }
    }

    fn add(&mut self, resource: usize, name: &str, nodes: &[Arc<str>], render: &mut dyn Render) {
        for node in nodes {
            for id in self.on_node(resource, node) {
                self.add_to(id, name, Some(node), render);
            }
        }
    }

    fn add_to(&mut self, id: Id, name: &str, node: Option<&str>, render: &mut dyn Render) {
        let wanted = self
            .watchers
            .get(&id)
            .is_some_and(|watcher| watcher.filter.name.as_deref().is_none_or(|wanted| wanted == name));
        if wanted {
            self.hold(id, name);
            self.offer(id, render.added(node));
        }
    }

    fn on_node(&self, resource: usize, node: &str) -> Vec<Id> {
        self.resources[resource].by_node.get(node).cloned().unwrap_or_default()
    }

    /// Puts an event into a watcher's queue. A full queue ends the watch: the client lists again and
    /// misses nothing, while everyone else goes on.
    fn offer(&mut self, id: Id, item: Option<Arc<Item>>) {
        let (Some(item), Some(watcher)) = (item, self.watchers.get(&id)) else { return };
        match watcher.queue.offer(item) {
            Ok(()) => {}
            Err(Refusal::Full) => {
                self.cut += 1;
                tracing::warn!(node = ?watcher.filter.node, "a watcher does not keep up and is cut off");
                self.leave(id);
            }
            Err(Refusal::Closed) => self.leave(id),
        }
    }

    fn holds(&self, id: Id, name: &str) -> bool {
        self.watchers.get(&id).is_some_and(|watcher| watcher.held.contains(name))
    }

    fn hold(&mut self, id: Id, name: &str) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let holders = &mut self.resources[watcher.filter.resource].holders;
        let key = holders.get_key_value(name).map_or_else(|| Arc::from(name), |(key, _)| Arc::clone(key));
        if watcher.held.insert(Arc::clone(&key)) {
            holders.entry(key).or_default().push(id);
        }
    }

    fn release(&mut self, id: Id, name: &str) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if watcher.held.remove(name) {
            unlink(&mut self.resources[watcher.filter.resource].holders, name, id);
        }
    }

    pub(super) fn enter<'a>(
        &mut self,
        filter: Filter,
        queue: Queue,
        names: impl Iterator<Item = &'a str>,
    ) -> Id {
        let id = self.next;
        self.next += 1;
        let resource = &mut self.resources[filter.resource];
        match &filter.node {
            Some(node) => resource.by_node.entry(Arc::clone(node)).or_default().push(id),
            None => resource.unfiltered.push(id),
        }
        self.watchers.insert(id, Watcher { filter, queue, held: HashSet::new() });
        for name in names {
            self.hold(id, name);
        }
        id
    }

    pub(super) fn leave(&mut self, id: Id) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        let resource = &mut self.resources[watcher.filter.resource];
        match &watcher.filter.node {
            Some(node) => unlink(&mut resource.by_node, node, id),
            None => resource.unfiltered.retain(|other| *other != id),
        }
        for name in &watcher.held {
            unlink(&mut resource.holders, name, id);
        }
    }

    pub(super) fn clear(&mut self) {
        self.watchers.clear();
        self.resources.iter_mut().for_each(|resource| *resource = Resource::default());
    }
}

/// Takes `id` out of the list under `key`, and the list away when it is empty.
fn unlink(map: &mut HashMap<Arc<str>, Vec<Id>>, key: &str, id: Id) {
    if let Some(list) = map.get_mut(key) {
        list.retain(|other| *other != id);
        if list.is_empty() {
            map.remove(key);
        }
    }
}
