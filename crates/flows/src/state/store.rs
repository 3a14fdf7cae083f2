use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use openflow::{Flow, Message, MeterCommand};

use super::{
    Comparison, Diff, Entry, Found, Key, Owner,
    diff::delete_meter,
    foreign::Learned,
    held::{Body, Held, Owners},
};

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

/// What the store had before a change, in the order in which it changed.
#[derive(Debug, Default)]
pub struct Undo(Vec<Step>);

#[derive(Debug)]
struct Step {
    key: Key,
    before: Option<Box<Held>>,
    /// The entry itself changed, and not only who wants it.
    is_told: bool,
}

impl Undo {
    /// What changed in itself, or in who wants it.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(|step| &step.key)
    }

    /// Whether the entry with this key changed in itself.
    pub fn touches(&self, key: &Key) -> bool {
        self.0.iter().any(|step| step.is_told && step.key == *key)
    }

    /// Messages that take back what [`super::Steps::before`] did, where the rest of some changes, given in their order,
    /// was refused.
    pub fn meters<'a>(changes: impl Iterator<Item = &'a Undo>) -> Vec<Message> {
        let mut seen = HashSet::<&Key, RandomState>::default();
        let mut back = Vec::new();
        for Step { key, before, .. } in changes.flat_map(|undo| &undo.0) {
            let Key::Meter(id) = key else { continue };
            // What there was in between never mattered: to delete a meter deletes the flows that name it.
            if !seen.insert(key) {
                continue;
            }
            back.push(match before.as_deref() {
                Some(Held { body: Body::Meter(meter), .. }) => {
                    Message::MeterMod { command: MeterCommand::Modify, meter: meter.clone() }
                }
                _ => delete_meter(*id),
            });
        }
        back
    }
}

/// The entries that the bridge shall hold.
///
/// Owners may want the same entry; it goes when the last of them stops to.
#[derive(Debug, Default)]
pub struct BridgeStore {
    /// Boxed, for up to half of a table is empty.
    entries: HashMap<Key, Box<Held>, RandomState>,
    owned: HashMap<Owner, HashSet<Key, RandomState>, RandomState>,
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

    /// Takes changes of several owners over, in order. Returns how to take them back.
    ///
    /// # Errors
    /// If another owner, or another entry of the same change, wants something else under the same key. The store
    /// is then as it was.
    pub fn stage<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a Owner, &'a Change)>,
    ) -> Result<Undo, Conflict> {
        let mut undo = Undo::default();
        for (owner, change) in changes {
            if let Err(conflict) = self.stage_one(owner, change, &mut undo) {
                self.undo(undo);
                return Err(conflict);
            }
        }
        Ok(undo)
    }

    fn stage_one(&mut self, owner: &Owner, change: &Change, undo: &mut Undo) -> Result<(), Conflict> {
        let puts = self.check(owner, change)?;
        let gone: Vec<Key> = match change {
            Change::Whole(_) => self.keys_of(owner).filter(|key| !puts.contains_key(*key)).cloned().collect(),
            Change::Diff(diff) => {
                let owned = self.owned.get(owner);
                let is_owned = |key: &&Key| owned.is_some_and(|owned| owned.contains(*key));
                diff.deletes.iter().filter(is_owned).cloned().collect()
            }
        };
        drop(puts);
        for entry in change.puts() {
            // Of an entry that the list has twice, the first is the one that counts.
            let key = entry.key();
            let (owners, is_told) = match self.entries.get(&key) {
                None => (Owners::One(owner.clone()), true),
                Some(held) => {
                    let (same, wanted) = (held.body.is(entry), held.owners.all().contains(owner));
                    if same && wanted {
                        continue;
                    }
                    (if wanted { held.owners.clone() } else { held.owners.with(owner) }, !same)
                }
            };
            let held = Box::new(Held { owners, body: Body::of(entry) });
            let before = self.put(&key, Some(held));
            undo.0.push(Step { key, before, is_told });
        }
        for key in gone {
            let Some(held) = self.entries.get(&key) else { continue };
            let left = held.owners.without(owner);
            let left = left.map(|owners| Box::new(Held { owners, body: held.body.clone() }));
            let is_told = left.is_none();
            let before = self.put(&key, left);
            undo.0.push(Step { key, before, is_told });
        }
        Ok(())
    }

    /// What a bridge has to do that is as the store was before these changes. They are given in their order, and nothing
    /// came after them. Entries that stay as they are are not in it.
    pub fn difference<'a>(&self, changes: impl IntoIterator<Item = &'a Undo>) -> Diff {
        let mut seen = HashSet::<&Key, RandomState>::default();
        let mut diff = Diff::default();
        for Step { key, before, .. } in changes.into_iter().flat_map(|undo| &undo.0) {
            // Of what changed several times, only the first thing and the last one matter.
            if !seen.insert(key) {
                continue;
            }
            match (before, self.entries.get(key)) {
                (None, Some(now)) => diff.adds.extend(now.body.join(key)),
                (Some(before), Some(now)) if before.body != now.body => diff.mods.extend(now.body.join(key)),
                (Some(_), None) => diff.deletes.push(key.clone()),
                _ => {}
            }
        }
        diff
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
                && let Some(other) = held.owners.all().iter().find(|o| *o != owner)
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
    fn put(&mut self, key: &Key, held: Option<Box<Held>>) -> Option<Box<Held>> {
        let new = held.as_ref().map(|held| held.owners.clone());
        let before = match held {
            Some(held) => self.entries.insert(key.clone(), held),
            None => self.entries.remove(key),
        };
        let there = new.is_some();
        let new = new.as_ref().map_or(&[][..], Owners::all);
        let old = before.as_ref().map_or(&[][..], |held| held.owners.all());
        for owner in old.iter().filter(|owner| !new.contains(owner)) {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.remove(key);
                if owned.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
        for owner in new.iter().filter(|owner| !old.contains(owner)) {
            self.owned.entry_ref(owner).or_default().insert(key.clone());
        }
        if let Key::Flow(flow) = key {
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
        for Step { key, before, .. } in undo.0.into_iter().rev() {
            self.put(&key, before);
        }
    }

    /// The owners that want at least one entry.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owned.keys()
    }

    /// The keys of the entries that `owner` wants.
    pub fn keys_of(&self, owner: &Owner) -> impl Iterator<Item = &Key> {
        self.owned.get(owner).into_iter().flatten()
    }

    /// The entries that `owner` wants.
    pub fn of(&self, owner: &Owner) -> Vec<Entry> {
        self.keys_of(owner).filter_map(|key| self.entries.get(key)?.body.join(key)).collect()
    }

    /// The owners of the entry with this key.
    pub fn owners_of(&self, key: &Key) -> &[Owner] {
        self.entries.get(key).map_or(&[], |held| held.owners.all())
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
        for (key, held) in self.entries.iter().filter(|(key, _)| !present.contains(*key)) {
            match &held.body {
                Body::Flow(body) if body.expires() => comparison.expired.push(key.clone()),
                body => comparison.diff.adds.extend(body.join(key)),
            }
        }
        comparison
    }

    /// Forgets entries that the bridge has removed by itself.
    pub fn forget(&mut self, expired: &[Key]) {
        for key in expired {
            self.put(key, None);
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
