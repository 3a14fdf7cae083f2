//! From hashes to ids.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::slab::Id;

/// A hash table of ids. It keeps 32 bits of each hash, so that neither growing nor most misses look at the things
/// themselves, which are somewhere else in memory.
#[derive(Debug, Default)]
pub(super) struct Table(HashTable<(u32, Id)>);

/// A hash as a [`Table`] keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashed(u32);

impl Hashed {
    pub(super) fn new(hasher: &DefaultHashBuilder, value: impl Hash) -> Self {
        let hash = hasher.hash_one(value);
        #[expect(clippy::cast_possible_truncation)]
        Self((hash ^ (hash >> 32)) as u32)
    }
}

/// The table uses both ends of a 64-bit hash; an odd factor spreads the 32 bits over it.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    pub(super) fn find(&self, hash: Hashed, mut same: impl FnMut(Id) -> bool) -> Option<Id> {
        let found = self.0.find(spread(hash.0), |(h, id)| *h == hash.0 && same(*id));
        found.map(|(_, id)| *id)
    }

    /// Adds an id that is not there.
    pub(super) fn insert(&mut self, hash: Hashed, id: Id) {
        self.0.insert_unique(spread(hash.0), (hash.0, id), |(hash, _)| spread(*hash));
    }

    pub(super) fn remove(&mut self, hash: Hashed, id: Id) {
        if let Ok(entry) = self.0.find_entry(spread(hash.0), |(_, x)| *x == id) {
            entry.remove();
        }
    }
}
