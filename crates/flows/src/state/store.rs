use std::{collections::BTreeMap, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use openflow::{Actions, Flow, FlowFlags, FlowKey, Group, Message, Meter, MeterCommand};
use smallvec::SmallVec;

use super::{Comparison, Diff, Entry, Found, Key, Owner, diff::delete_meter, foreign::Learned};

/// Two owners want different things under one key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} want different things of {key}")]
pub struct Conflict {
    /// The owner that is there.
    pub first: Owner,
    /// The owner that came later; it may be the same one.
    pub second: Owner,
    /// What they disagree about.
    pub key: Box<Key>,
}

/// What an owner wants from now on.
#[derive(Clone, Debug)]
pub enum Change {
    /// These entries and no others.
    Whole(Vec<Entry>),
    /// A difference to what it had, worked out elsewhere.
    Diff(Diff),
}

impl Change {
    /// These flows and nothing else.
    pub fn flows(flows: Vec<Flow>) -> Self {
        Change::Whole(flows.into_iter().map(Entry::Flow).collect())
    }

    /// Nothing any more.
    pub fn nothing() -> Self {
        Change::Whole(Vec::new())
    }

    /// The entries that are there afterwards, or that change.
    pub fn puts(&self) -> impl Iterator<Item = &Entry> {
        let (whole, diff) = match self {
            Change::Whole(entries) => (Some(entries), None),
            Change::Diff(diff) => (None, Some(diff)),
        };
        whole.into_iter().flatten().chain(diff.into_iter().flat_map(Diff::puts))
    }
}

/// A change that is in the store and not yet in the bridge.
#[derive(Debug, Default)]
pub struct Staged {
    /// What the bridge has to do.
    pub diff: Diff,
    /// How to take it back.
    pub undo: Undo,
}

/// What the store had before a change, in the order in which it changed.
#[derive(Debug, Default)]
pub struct Undo(Vec<(Arc<Key>, Option<Box<Held>>)>);

impl Undo {
    /// What changed in itself, or in who wants it.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.0.iter().map(|(key, _)| key)
    }

    /// Messages that take back what [`super::Steps::before`] did, where the rest of some changes, given in their order,
    /// was refused.
    pub fn meters<'a>(changes: impl Iterator<Item = &'a Undo>) -> Vec<Message> {
        let mut seen = HashSet::<&Key, RandomState>::default();
        let mut back = Vec::new();
        for (key, held) in changes.flat_map(|undo| &undo.0) {
            let Key::Meter(id) = &**key else { continue };
            // What there was in between never mattered: to delete a meter deletes the flows that name it.
            if !seen.insert(&**key) {
                continue;
            }
            back.push(match held.as_deref() {
                Some(Held { body: Body::Meter(meter), .. }) => {
                    Message::MeterMod { command: MeterCommand::Modify, meter: meter.clone() }
                }
                _ => delete_meter(*id),
            });
        }
        back
    }
}

/// All of an entry but its key: a flow's match is held once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Flow(FlowBody),
    /// Boxed, for it is large, and few are.
    Group(Box<Group>),
    Meter(Meter),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FlowBody {
    cookie: u64,
    idle_timeout: u16,
    hard_timeout: u16,
    importance: u16,
    flags: FlowFlags,
    actions: Actions,
}

impl FlowBody {
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

    /// Whether the bridge removes the flow by itself one day.
    fn expires(&self) -> bool {
        self.idle_timeout != 0 || self.hard_timeout != 0
    }
}

impl Body {
    fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Meter(meter) => Body::Meter(meter.clone()),
            Entry::Group(group) => Body::Group(Box::new(group.clone())),
            Entry::Flow(flow) => Body::Flow(FlowBody {
                cookie: flow.cookie,
                idle_timeout: flow.idle_timeout,
                hard_timeout: flow.hard_timeout,
                importance: flow.importance,
                flags: flow.flags,
                actions: flow.actions.clone(),
            }),
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (Body::Meter(meter), Entry::Meter(other)) => meter == other,
            (Body::Group(group), Entry::Group(other)) => **group == *other,
            (Body::Flow(body), Entry::Flow(flow)) => body.is(flow),
            _ => false,
        }
    }

    fn join(&self, key: &Key) -> Option<Entry> {
        Some(match (self, key) {
            (Body::Meter(meter), _) => Entry::Meter(meter.clone()),
            (Body::Group(group), _) => Entry::Group((**group).clone()),
            (Body::Flow(body), Key::Flow(key)) => Entry::Flow(body.join(key)),
            (Body::Flow(_), _) => return None,
        })
    }
}

#[derive(Clone, Debug)]
struct Held {
    owners: SmallVec<[Owner; 1]>,
    body: Body,
}

/// The entries that the bridge shall hold.
///
/// Owners may want the same entry; it goes when the last of them stops to.
#[derive(Debug, Default)]
pub struct BridgeStore {
    /// Boxed, for up to half of a table is empty.
    entries: HashMap<Arc<Key>, Box<Held>, RandomState>,
    owned: HashMap<Owner, HashSet<Arc<Key>, RandomState>, RandomState>,
    /// Flows by table.
    counts: BTreeMap<u8, usize>,
    /// Table and cookie of flows that the bridge may have learned at some time.
    learns: Vec<(u8, u64)>,
}

impl BridgeStore {
    /// A store without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves flows of this table and cookie alone also when no entry has the bridge learn them any more: they go by
    /// their own timeouts.
    #[must_use]
    pub fn learning(mut self, table: u8, cookie: u64) -> Self {
        self.learns.push((table, cookie));
        self
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of flows in a table.
    pub fn count_in(&self, table: u8) -> usize {
        self.counts.get(&table).copied().unwrap_or(0)
    }

    /// Takes changes of several owners over, in order. Entries that stay as they are are not in the difference.
    ///
    /// # Errors
    /// If another owner, or another entry of the same change, wants something else under the same key. The store
    /// is then as it was.
    pub fn stage<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a Owner, &'a Change)>,
    ) -> Result<Staged, Conflict> {
        let (mut diffs, mut undo) = (Vec::new(), Undo::default());
        for (owner, change) in changes {
            match self.stage_one(owner, change, &mut undo) {
                Ok(diff) => diffs.push(diff),
                Err(conflict) => {
                    self.undo(undo);
                    return Err(conflict);
                }
            }
        }
        Ok(Staged { diff: Diff::all(diffs), undo })
    }

    fn stage_one(&mut self, owner: &Owner, change: &Change, undo: &mut Undo) -> Result<Diff, Conflict> {
        let puts = self.check(owner, change)?;
        let gone: Vec<Arc<Key>> = match change {
            Change::Whole(_) => {
                let owned = self.owned.get(owner).into_iter().flatten();
                owned.filter(|key| !puts.contains_key(&***key)).cloned().collect()
            }
            Change::Diff(diff) => diff.deletes.iter().filter_map(|key| self.owned_key(owner, key)).collect(),
        };
        let mut diff = Diff::default();
        for entry in change.puts() {
            // Of an entry that the list has twice, the first is the one that counts.
            let key = entry.key();
            let before = self.entries.get_key_value(&key);
            let (shared, held) = match before {
                None => {
                    diff.adds.push(entry.clone());
                    (
                        Arc::new(key),
                        Held { owners: SmallVec::from_iter([owner.clone()]), body: Body::of(entry) },
                    )
                }
                Some((shared, held)) => {
                    let same = held.body.is(entry);
                    if same && held.owners.contains(owner) {
                        continue;
                    }
                    let mut owners = held.owners.clone();
                    if !owners.contains(owner) {
                        owners.push(owner.clone());
                    }
                    if !same {
                        diff.mods.push(entry.clone());
                    }
                    (shared.clone(), Held { owners, body: Body::of(entry) })
                }
            };
            let before = self.put(&shared, Some(Box::new(held)));
            undo.0.push((shared, before));
        }
        for shared in gone {
            let Some(mut held) = self.entries.get(&shared).cloned() else { continue };
            held.owners.retain(|o| o != owner);
            let left = (!held.owners.is_empty()).then_some(held);
            if left.is_none() {
                diff.deletes.push((*shared).clone());
            }
            let before = self.put(&shared, left);
            undo.0.push((shared, before));
        }
        Ok(diff)
    }

    fn owned_key(&self, owner: &Owner, key: &Key) -> Option<Arc<Key>> {
        self.owned.get(owner)?.get(key).cloned()
    }

    /// The entries by key, or a conflict.
    fn check<'a>(
        &self,
        owner: &Owner,
        change: &'a Change,
    ) -> Result<HashMap<Key, &'a Entry, RandomState>, Conflict> {
        let mut seen: HashMap<Key, &Entry, RandomState> = HashMap::default();
        for entry in change.puts() {
            let key = entry.key();
            let conflict = |first: &Owner, key: Key| Conflict {
                first: first.clone(),
                second: owner.clone(),
                key: Box::new(key),
            };
            if let Some(held) = self.entries.get(&key)
                && !held.body.is(entry)
                && let Some(other) = held.owners.iter().find(|o| *o != owner)
            {
                return Err(conflict(other, key));
            }
            if seen.get(&key).is_some_and(|first| *first != entry) {
                return Err(conflict(owner, key));
            }
            seen.insert(key, entry);
        }
        Ok(seen)
    }

    /// Sets or removes an entry with its owners, keeps the indices, and returns what was there.
    fn put(&mut self, key: &Arc<Key>, held: Option<Box<Held>>) -> Option<Box<Held>> {
        let owners = held.as_ref().map(|held| held.owners.clone()).unwrap_or_default();
        let there = held.is_some();
        let before = match held {
            Some(held) => self.entries.insert(key.clone(), held),
            None => self.entries.remove(key),
        };
        let old = before.as_ref().map(|held| held.owners.as_slice()).unwrap_or_default();
        for owner in old.iter().filter(|owner| !owners.contains(owner)) {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.remove(key);
                if owned.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
        for owner in owners.iter().filter(|owner| !old.contains(owner)) {
            self.owned.entry_ref(owner).or_default().insert(key.clone());
        }
        if let Key::Flow(flow) = &**key {
            let count = self.counts.entry(flow.table).or_default();
            match (before.is_some(), there) {
                (false, true) => *count += 1,
                (true, false) => *count -= 1,
                _ => {}
            }
        }
        before
    }

    /// Takes a change back. Of several, the latest has to go first, unless they have no entry in common.
    pub fn undo(&mut self, undo: Undo) {
        for (key, held) in undo.0.into_iter().rev() {
            self.put(&key, held);
        }
    }

    /// The owners that want at least one entry.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owned.keys()
    }

    /// The keys of the entries that `owner` wants.
    pub fn keys_of(&self, owner: &Owner) -> impl Iterator<Item = &Key> {
        self.owned.get(owner).into_iter().flatten().map(|key| &**key)
    }

    /// The entries that `owner` wants.
    pub fn of(&self, owner: &Owner) -> Vec<Entry> {
        self.keys_of(owner).filter_map(|key| self.entries.get(key)?.body.join(key)).collect()
    }

    /// The owners of the entry with this key.
    pub fn owners_of(&self, key: &Key) -> &[Owner] {
        self.entries.get(key).map_or(&[], |held| &held.owners)
    }

    /// All entries.
    pub fn all(&self) -> Vec<Entry> {
        self.entries.iter().filter_map(|(key, held)| held.body.join(key)).collect()
    }

    /// What has to be done to a bridge that holds `found` so that it holds exactly this store's entries: missing
    /// ones are added, differing ones (cookie included) replaced, foreign ones deleted, but for those that the
    /// bridge makes and removes by itself.
    pub fn compare(&self, found: &Found) -> Comparison {
        let mut comparison = Comparison::default();
        let learned = self.learned();
        let mut present: HashSet<Key, RandomState> = HashSet::default();
        let diff = &mut comparison.diff;
        let mut see = |key: Key, is: &dyn Fn(&Body) -> bool, tolerated: bool| match self.entries.get(&key) {
            None if tolerated => {}
            None => diff.deletes.push(key),
            Some(held) => {
                if !is(&held.body) {
                    diff.mods.extend(held.body.join(&key));
                }
                present.insert(key);
            }
        };
        for flow in &found.flows {
            let is = |body: &Body| matches!(body, Body::Flow(body) if body.is(flow));
            see(Key::Flow(flow.key()), &is, learned.has(flow));
        }
        for group in &found.groups {
            see(Key::Group(group.id), &|body| matches!(body, Body::Group(other) if **other == *group), false);
        }
        for meter in &found.meters {
            see(Key::Meter(meter.id), &|body| matches!(body, Body::Meter(other) if other == meter), false);
        }
        for (key, held) in self.entries.iter().filter(|(key, _)| !present.contains(&***key)) {
            match &held.body {
                Body::Flow(body) if body.expires() => comparison.expired.push((**key).clone()),
                body => comparison.diff.adds.extend(body.join(key)),
            }
        }
        comparison
    }

    /// Forgets entries that the bridge has removed by itself.
    pub fn forget(&mut self, expired: &[Key]) {
        for key in expired {
            if let Some((key, _)) = self.entries.get_key_value(key) {
                let key = key.clone();
                self.put(&key, None);
            }
        }
    }

    /// What the bridge makes by itself on behalf of these entries.
    fn learned(&self) -> Learned {
        let mut learned = Learned::of(&self.learns);
        for held in self.entries.values() {
            match &held.body {
                Body::Flow(body) => learned.note(&body.actions),
                Body::Group(group) => group.buckets.iter().for_each(|bucket| learned.note(&bucket.actions)),
                Body::Meter(_) => {}
            }
        }
        learned
    }
}
