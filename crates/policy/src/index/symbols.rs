//! Label keys and values as numbers, counted so that values which come and go (template hashes) leave nothing
//! behind.

use hashbrown::DefaultHashBuilder;

use super::{
    slab::{Id, Slab},
    table::{Hashed, Table},
};
use crate::labels::Labels;

#[derive(Debug)]
struct Key {
    text: Box<str>,
    references: u32,
}

#[derive(Debug)]
struct Pair {
    key: Id,
    value: Box<str>,
    references: u32,
}

/// The number of a label key and that of the pair of key and value.
pub(super) type Label = (Id, Id);

#[derive(Debug, Default)]
pub(super) struct Symbols {
    hasher: DefaultHashBuilder,
    keys: Slab<Key>,
    key_table: Table,
    pairs: Slab<Pair>,
    pair_table: Table,
}

impl Symbols {
    /// The number of a key, with one more reference.
    pub(super) fn acquire_key(&mut self, text: &str) -> Id {
        let hash = Hashed::new(&self.hasher, text);
        let keys = &mut self.keys;
        if let Some(id) = self.key_table.find(hash, |id| *keys[id].text == *text) {
            keys[id].references += 1;
            return id;
        }
        let id = keys.insert(Key { text: text.into(), references: 1 });
        self.key_table.insert(hash, id);
        id
    }

    /// Gives a reference to a key back.
    pub(super) fn release_key(&mut self, id: Id) {
        self.keys[id].references -= 1;
        if self.keys[id].references == 0 {
            let key = self.keys.remove(id);
            self.key_table.remove(Hashed::new(&self.hasher, &*key.text), id);
        }
    }

    /// The numbers of a label, with one more reference.
    pub(super) fn acquire(&mut self, key: &str, value: &str) -> Label {
        let key = self.acquire_key(key);
        let hash = Hashed::new(&self.hasher, (key, value));
        let pairs = &mut self.pairs;
        let found = self.pair_table.find(hash, |id| pairs[id].key == key && *pairs[id].value == *value);
        if let Some(id) = found {
            pairs[id].references += 1;
            // The pair holds the one reference to its key that all users of the pair share.
            self.release_key(key);
            return (key, id);
        }
        let id = pairs.insert(Pair { key, value: value.into(), references: 1 });
        self.pair_table.insert(hash, id);
        (key, id)
    }

    /// Gives a reference to a pair back.
    pub(super) fn release(&mut self, id: Id) {
        self.pairs[id].references -= 1;
        if self.pairs[id].references == 0 {
            let pair = self.pairs.remove(id);
            let hash = Hashed::new(&self.hasher, (pair.key, &*pair.value));
            self.pair_table.remove(hash, id);
            self.release_key(pair.key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.len() == 0 && self.pairs.len() == 0
    }

    fn text(&self, label: Label) -> (&str, &str) {
        (&self.keys[label.0].text, &self.pairs[label.1].value)
    }
}

#[derive(Debug)]
struct LabelSet {
    hash: Hashed,
    /// In the order of the keys' texts.
    labels: Box<[Label]>,
    references: u32,
}

/// The distinct label sets of Pods and Namespaces.
#[derive(Debug, Default)]
pub(super) struct LabelSets {
    pub(super) symbols: Symbols,
    hasher: DefaultHashBuilder,
    sets: Slab<LabelSet>,
    table: Table,
}

impl LabelSets {
    /// The number of a label set, with one more reference.
    pub(super) fn acquire(&mut self, labels: &Labels) -> Id {
        let hash = Hashed::new(&self.hasher, labels);
        let (sets, symbols) = (&mut self.sets, &mut self.symbols);
        let found = self.table.find(hash, |id| {
            let stored = &sets[id].labels;
            stored.len() == labels.len() && stored.iter().map(|l| symbols.text(*l)).eq(labels.iter())
        });
        if let Some(id) = found {
            sets[id].references += 1;
            return id;
        }
        let stored = labels.iter().map(|(key, value)| symbols.acquire(key, value)).collect();
        let id = sets.insert(LabelSet { hash, labels: stored, references: 1 });
        self.table.insert(hash, id);
        id
    }

    /// Gives a reference back.
    pub(super) fn release(&mut self, id: Id) {
        self.sets[id].references -= 1;
        if self.sets[id].references > 0 {
            return;
        }
        let set = self.sets.remove(id);
        self.table.remove(set.hash, id);
        for (_, pair) in set.labels {
            self.symbols.release(pair);
        }
    }

    pub(super) fn labels(&self, id: Id) -> &[Label] {
        &self.sets[id].labels
    }

    /// The label set in full.
    pub(super) fn texts(&self, id: Id) -> Labels {
        self.labels(id).iter().map(|label| self.symbols.text(*label)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.len() == 0 && self.symbols.is_empty()
    }
}
