//! The flows that the switch shall hold, by owner, and how to get from one set to another.

use std::{collections::BTreeMap, fmt, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet, hash_map};
use openflow::{Action, Flow, FlowCommand, FlowFlags, FlowKey, FlowMod};
use smallvec::SmallVec;

/// Who wants a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The node itself: see [`crate::node`].
    Node,
    /// A pod of this node, by interface name or whatever else the caller knows pods by.
    Pod(Arc<str>),
    /// Another node, by name.
    Peer(Arc<str>),
    /// Policy. Rules share flows, so [`crate::policy::Realizer`] keeps track within.
    Policy,
    /// Some other feature.
    Other(Arc<str>),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Node => f.write_str("the node"),
            Owner::Pod(name) => write!(f, "pod {name}"),
            Owner::Peer(name) => write!(f, "peer {name}"),
            Owner::Policy => f.write_str("policy"),
            Owner::Other(name) => f.write_str(name),
        }
    }
}

/// Two owners want different things of the packets of one match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} want different actions for one match in table {} at priority {}: {:?}", .key.table, .key.priority, .key.matches)]
pub struct Conflict {
    /// The owner that is there.
    pub first: Owner,
    /// The owner that came later; it may be the same one.
    pub second: Owner,
    /// What they disagree about.
    pub key: Box<FlowKey>,
}

/// The way from one set of flows to another. Every flow is in one of the lists at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Flows to add.
    pub adds: Vec<Flow>,
    /// Flows that exist and shall do something else. Adding a flow whose match exists replaces it and keeps
    /// its counters (unless it has `reset_counts`), so these are sent like additions; that also holds when
    /// the switch has lost the flow, where `modify_strict` would do nothing.
    pub mods: Vec<Flow>,
    /// Flows to delete, each with its exact priority and match (`delete_strict`).
    pub deletes: Vec<FlowKey>,
}

impl Diff {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.adds.is_empty() && self.mods.is_empty() && self.deletes.is_empty()
    }

    /// Number of flows touched.
    pub fn len(&self) -> usize {
        self.adds.len() + self.mods.len() + self.deletes.len()
    }

    /// The messages that carry the difference out, in an order that is safe even if each took effect alone:
    /// additions and replacements first, later tables before earlier ones, so that no packet is sent to a
    /// table that lacks the new flows; then deletions, earlier tables first.
    pub fn into_flow_mods(self) -> Vec<FlowMod> {
        let Self { mut adds, mods, mut deletes } = self;
        adds.extend(mods);
        adds.sort_by_key(|f| std::cmp::Reverse(f.table));
        deletes.sort_by_key(|k| k.table);
        let deletes = deletes.into_iter().map(|k| {
            FlowMod::new(FlowCommand::DeleteStrict, Flow::new(k.table, k.priority).matching(k.matches))
        });
        adds.into_iter().map(FlowMod::add).chain(deletes).collect()
    }

    /// Does `later` after this. Both must be differences of one store, in this order.
    pub fn append(&mut self, later: Diff) {
        if self.is_empty() {
            *self = later;
            return;
        }
        // State before this difference is not known, so a flow deleted here and added there stays a
        // replacement, and one added here and deleted there a (harmless) deletion.
        let mut puts: HashMap<FlowKey, Flow, RandomState> =
            self.adds.drain(..).chain(self.mods.drain(..)).map(|f| (f.key(), f)).collect();
        let mut deletes: HashSet<FlowKey, RandomState> = self.deletes.drain(..).collect();
        for flow in later.adds.into_iter().chain(later.mods) {
            let key = flow.key();
            deletes.remove(&key);
            puts.insert(key, flow);
        }
        for key in later.deletes {
            puts.remove(&key);
            deletes.insert(key);
        }
        self.adds = puts.into_values().collect();
        self.deletes = deletes.into_iter().collect();
    }
}

/// All of a flow but its key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Body {
    cookie: u64,
    idle_timeout: u16,
    hard_timeout: u16,
    importance: u16,
    flags: FlowFlags,
    actions: Vec<Action>,
}

impl Body {
    fn split(flow: Flow) -> (FlowKey, Body) {
        let Flow { table, priority, matches, cookie, idle_timeout, hard_timeout, importance, flags, actions } =
            flow;
        (
            FlowKey { table, priority, matches },
            Body { cookie, idle_timeout, hard_timeout, importance, flags, actions },
        )
    }

    fn join(&self, key: &FlowKey) -> Flow {
        Flow {
            table: key.table,
            priority: key.priority,
            matches: key.matches.clone(),
            cookie: self.cookie,
            idle_timeout: self.idle_timeout,
            hard_timeout: self.hard_timeout,
            importance: self.importance,
            flags: self.flags,
            actions: self.actions.clone(),
        }
    }

    fn is(&self, flow: &Flow) -> bool {
        self.cookie == flow.cookie
            && self.actions == flow.actions
            && (self.idle_timeout, self.hard_timeout, self.importance, self.flags)
                == (flow.idle_timeout, flow.hard_timeout, flow.importance, flow.flags)
    }
}

#[derive(Debug)]
struct Entry {
    owners: SmallVec<[Owner; 1]>,
    body: Body,
}

/// The flows that the switch shall hold.
///
/// Owners may want the same flow; it goes when the last of them stops to.
#[derive(Debug, Default)]
pub struct FlowStore {
    flows: HashMap<Arc<FlowKey>, Entry, RandomState>,
    owned: HashMap<Owner, HashSet<Arc<FlowKey>, RandomState>, RandomState>,
    /// Flows by table.
    counts: BTreeMap<u8, usize>,
}

impl FlowStore {
    /// A store without flows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are no flows.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Number of flows in a table.
    pub fn count_in(&self, table: u8) -> usize {
        self.counts.get(&table).copied().unwrap_or(0)
    }

    /// Makes `flows` all that `owner` wants. Flows that stay as they are are not in the difference.
    ///
    /// # Errors
    /// If another owner, or another flow of the list, wants different actions for the same match. The store
    /// is then as it was.
    pub fn set(&mut self, owner: &Owner, flows: Vec<Flow>) -> Result<Diff, Conflict> {
        let wanted: HashSet<FlowKey, RandomState> = flows.iter().map(Flow::key).collect();
        let gone = self.owned.get(owner).into_iter().flatten().filter(|k| !wanted.contains(&***k));
        let gone = gone.map(|k| (**k).clone()).collect();
        self.update(owner, flows, gone)
    }

    /// Changes some of the flows of `owner`: adds or replaces `puts`, then deletes `gone`.
    ///
    /// # Errors
    /// As for [`FlowStore::set`].
    pub fn update(&mut self, owner: &Owner, puts: Vec<Flow>, gone: Vec<FlowKey>) -> Result<Diff, Conflict> {
        let puts = self.check(owner, puts)?;
        let mut diff = Diff::default();
        for (key, body) in puts {
            match self.flows.entry_ref(&key) {
                hash_map::EntryRef::Occupied(mut entry) => {
                    let shared = Arc::clone(entry.key());
                    let entry = entry.get_mut();
                    if entry.body != body {
                        diff.mods.push(body.join(&shared));
                        entry.body = body;
                    }
                    if !entry.owners.contains(owner) {
                        entry.owners.push(owner.clone());
                        self.owned.entry_ref(owner).or_default().insert(shared);
                    }
                }
                hash_map::EntryRef::Vacant(_) => {
                    let shared = Arc::new(key);
                    diff.adds.push(body.join(&shared));
                    self.owned.entry_ref(owner).or_default().insert(Arc::clone(&shared));
                    *self.counts.entry(shared.table).or_default() += 1;
                    self.flows.insert(shared, Entry { owners: SmallVec::from_iter([owner.clone()]), body });
                }
            }
        }
        let mut empty = false;
        for key in gone {
            let Some(owned) = self.owned.get_mut(owner) else { break };
            if !owned.remove(&key) {
                continue;
            }
            empty = owned.is_empty();
            if let hash_map::EntryRef::Occupied(mut entry) = self.flows.entry_ref(&key) {
                entry.get_mut().owners.retain(|o| o != owner);
                if entry.get().owners.is_empty() {
                    entry.remove();
                    if let Some(count) = self.counts.get_mut(&key.table) {
                        *count -= 1;
                    }
                    diff.deletes.push(key);
                }
            }
        }
        if empty {
            self.owned.remove(owner);
        }
        Ok(diff)
    }

    /// Takes over a difference that was worked out elsewhere, as by [`crate::policy::Realizer`].
    ///
    /// # Errors
    /// As for [`FlowStore::set`].
    pub fn apply(&mut self, owner: &Owner, diff: Diff) -> Result<Diff, Conflict> {
        let Diff { mut adds, mods, deletes } = diff;
        adds.extend(mods);
        self.update(owner, adds, deletes)
    }

    /// Splits the flows, without duplicates, or finds a conflict.
    fn check(&self, owner: &Owner, puts: Vec<Flow>) -> Result<Vec<(FlowKey, Body)>, Conflict> {
        let mut seen: HashMap<FlowKey, Body, RandomState> =
            HashMap::with_capacity_and_hasher(puts.len(), RandomState::default());
        let mut order = Vec::with_capacity(puts.len());
        for flow in puts {
            let (key, body) = Body::split(flow);
            let conflict = |first: &Owner, key: &FlowKey| Conflict {
                first: first.clone(),
                second: owner.clone(),
                key: Box::new(key.clone()),
            };
            if let Some(entry) = self.flows.get(&key)
                && entry.body != body
                && let Some(other) = entry.owners.iter().find(|o| *o != owner)
            {
                return Err(conflict(other, &key));
            }
            match seen.get(&key) {
                Some(same) if *same == body => continue,
                Some(_) => return Err(conflict(owner, &key)),
                None => {
                    order.push(key.clone());
                    seen.insert(key, body);
                }
            }
        }
        Ok(order.into_iter().filter_map(|key| seen.remove_entry(&key)).collect())
    }

    /// Drops all that `owner` wants.
    pub fn remove(&mut self, owner: &Owner) -> Diff {
        self.set(owner, Vec::new()).unwrap_or_default()
    }

    /// The owners that want at least one flow.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owned.keys()
    }

    /// The flows that `owner` wants.
    pub fn of(&self, owner: &Owner) -> Vec<Flow> {
        self.owned
            .get(owner)
            .into_iter()
            .flatten()
            .filter_map(|k| Some(self.flows.get(k)?.body.join(k)))
            .collect()
    }

    /// The flow with this key, if `owner` wants it.
    pub fn get(&self, owner: &Owner, key: &FlowKey) -> Option<Flow> {
        let entry = self.flows.get(key)?;
        entry.owners.contains(owner).then(|| entry.body.join(key))
    }

    /// Number of flows that `owner` wants.
    pub fn count_of(&self, owner: &Owner) -> usize {
        self.owned.get(owner).map_or(0, HashSet::len)
    }

    /// The owners of the flow with this key.
    pub fn owners_of(&self, key: &FlowKey) -> &[Owner] {
        self.flows.get(key).map_or(&[], |e| &e.owners)
    }

    /// All flows, later tables first: the order in which a replay is safe (see [`Diff::into_flow_mods`]).
    pub fn all(&self) -> Vec<Flow> {
        let mut all: Vec<Flow> = self.flows.iter().map(|(k, e)| e.body.join(k)).collect();
        all.sort_by_key(|f| std::cmp::Reverse(f.table));
        all
    }

    /// What has to be done to a switch that holds `installed` so that it holds exactly this store's flows:
    /// missing flows are added, differing ones (cookie included) replaced, foreign ones deleted.
    pub fn diff_against<'a>(&self, installed: impl IntoIterator<Item = &'a Flow>) -> Diff {
        let mut diff = Diff::default();
        let mut present: HashSet<FlowKey, RandomState> = HashSet::default();
        for flow in installed {
            let key = flow.key();
            match self.flows.get(&key) {
                None => diff.deletes.push(key),
                Some(entry) => {
                    if !entry.body.is(flow) {
                        diff.mods.push(entry.body.join(&key));
                    }
                    present.insert(key);
                }
            }
        }
        diff.adds
            .extend(self.flows.iter().filter(|(k, _)| !present.contains(&***k)).map(|(k, e)| e.body.join(k)));
        diff
    }
}
