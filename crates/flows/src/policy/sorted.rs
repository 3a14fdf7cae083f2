//! Sets and maps that take no more room than what is in them.
//!
//! Most rules have one pod here and one peer, and a B-tree's first node has room for eleven. An insertion into a large one
//! moves what comes after it, which costs less than a hundredth of the flow that follows from it.

/// A set in a vector, in order: as small as its elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortedSet<T>(Vec<T>);

/// A map in a vector, in the order of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> SortedSet<T> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is there.
    pub fn contains(&self, value: &T) -> bool {
        self.0.binary_search(value).is_ok()
    }

    /// All of it, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// Puts one in; false if it was there.
    pub fn insert(&mut self, value: T) -> bool {
        let Err(at) = self.0.binary_search(&value) else { return false };
        make_room(&mut self.0);
        self.0.insert(at, value);
        true
    }

    /// Takes one out; false if it was not there.
    pub fn remove(&mut self, value: &T) -> bool {
        let Ok(at) = self.0.binary_search(value) else { return false };
        self.0.remove(at);
        true
    }

    /// Leaves those that are such.
    pub fn retain(&mut self, is_such: impl FnMut(&T) -> bool) {
        self.0.retain(is_such);
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    /// What stands under a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(self.find(key).ok()?).map(|(_, value)| value)
    }

    /// Whether something stands under a key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// All values, in the order of their keys.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.0.into_iter().map(|(_, value)| value)
    }

    /// Puts one in, and returns what stood there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                make_room(&mut self.0);
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Leaves those that are such.
    pub fn retain(&mut self, mut is_such: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|(key, value)| is_such(key, value));
    }
}

/// The first takes room for itself alone.
fn make_room<T>(values: &mut Vec<T>) {
    if values.is_empty() {
        values.reserve_exact(1);
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut values: Vec<T> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        values.shrink_to_fit();
        Self(values)
    }
}

impl<T: Ord> Extend<T> for SortedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        let before = self.0.len();
        self.0.extend(values);
        if self.0.len() > before {
            self.0.sort_unstable();
            self.0.dedup();
        }
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for SortedSet<T> {
    fn from(values: [T; N]) -> Self {
        values.into_iter().collect()
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> IntoIterator for SortedSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    /// Of several under one key the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        // Stable, and then from behind.
        entries.sort_by(|(a, _), (b, _)| b.cmp(a));
        entries.reverse();
        entries.dedup_by(|(a, _), (b, _)| a == b);
        entries.shrink_to_fit();
        Self(entries)
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SortedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

/// A pair as maps give it.
type Apart<'a, K, V> = fn(&'a (K, V)) -> (&'a K, &'a V);

impl<'a, K, V> IntoIterator for &'a SortedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (K, V)>, Apart<'a, K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_the_standard_librarys_are(steps in prop::collection::vec((0u8..6, 0u8..8, 0u8..4), 0..60)) {
            let (mut set, mut map) = (SortedSet::new(), SortedMap::new());
            let (mut same_set, mut same_map) = (BTreeSet::new(), BTreeMap::new());
            for (what, key, value) in steps {
                match what {
                    0 | 1 => {
                        prop_assert_eq!(set.insert(key), same_set.insert(key));
                        prop_assert_eq!(map.insert(key, value), same_map.insert(key, value));
                    }
                    2 => {
                        prop_assert_eq!(set.remove(&key), same_set.remove(&key));
                        prop_assert_eq!(map.remove(&key), same_map.remove(&key));
                    }
                    3 => {
                        set.extend([key, value, key]);
                        same_set.extend([key, value, key]);
                        map.extend([(key, value), (value, key), (key, 9)]);
                        same_map.extend([(key, value), (value, key), (key, 9)]);
                    }
                    4 => {
                        set.retain(|known| known % 4 != value);
                        same_set.retain(|known| known % 4 != value);
                        map.retain(|known, stood| known ^ stood != value);
                        same_map.retain(|known, stood| *known ^ *stood != value);
                    }
                    _ => {
                        let all = [(key, 1), (value, 2), (key, 3)];
                        map = all.into();
                        same_map = all.into();
                        set = [key, value, key].into();
                        same_set = [key, value, key].into();
                    }
                }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), same_set.iter().collect::<Vec<_>>());
                prop_assert_eq!((&map).into_iter().collect::<Vec<_>>(), same_map.iter().collect::<Vec<_>>());
                prop_assert_eq!((set.len(), set.is_empty(), map.is_empty()), (same_set.len(), same_set.is_empty(), same_map.is_empty()));
                prop_assert_eq!((set.contains(&key), map.get(&key)), (same_set.contains(&key), same_map.get(&key)));
            }
        }
    }
}
