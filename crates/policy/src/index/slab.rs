//! A vector whose elements keep their index until removed.

use std::ops::{Index, IndexMut};

/// An index into a [`Slab`]. Which one is told by the name of the variable.
pub(super) type Id = u32;

/// No element.
pub(super) const NONE: Id = Id::MAX;

#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<Id>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Id {
        if let Some(id) = self.free.pop() {
            self.entries[id as usize] = Some(value);
            return id;
        }
        let id = Id::try_from(self.entries.len()).expect("must have fewer than 2^32 entries");
        self.entries.push(Some(value));
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> T {
        let value = self.entries[id as usize].take().expect("must be a live id");
        self.free.push(id);
        value
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.entries.get(id as usize)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        (0..).zip(&self.entries).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

impl<T> Index<Id> for Slab<T> {
    type Output = T;

    fn index(&self, id: Id) -> &T {
        self.entries[id as usize].as_ref().expect("must be a live id")
    }
}

impl<T> IndexMut<Id> for Slab<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        self.entries[id as usize].as_mut().expect("must be a live id")
    }
}

/// Inserts into an ascending list; whether it was not there yet.
pub(super) fn insert_sorted(list: &mut Vec<Id>, id: Id) -> bool {
    match list.last() {
        Some(last) if *last >= id => match list.binary_search(&id) {
            Ok(_) => false,
            Err(at) => {
                list.insert(at, id);
                true
            }
        },
        _ => {
            list.push(id);
            true
        }
    }
}

/// Removes from an ascending list; whether it was there.
pub(super) fn remove_sorted(list: &mut Vec<Id>, id: Id) -> bool {
    match list.binary_search(&id) {
        Ok(at) => {
            list.remove(at);
            true
        }
        Err(_) => false,
    }
}
