//! A vector whose elements keep their index until removed.

use std::ops::{Index, IndexMut};

/// An index into a [`Slab`]. Which one is told by the name of the variable.
pub(super) type Id = u32;

/// No element.
pub(super) const NONE: Id = Id::MAX;

/// Entries per chunk. Growing by chunks copies nothing and leaves no half-empty double behind.
const CHUNK: usize = 1024;

#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All but the last have [`CHUNK`] entries.
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Id>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }
}

fn place(id: Id) -> (usize, usize) {
    (id as usize / CHUNK, id as usize % CHUNK)
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Id {
        self.len += 1;
        if let Some(id) = self.free.pop() {
            let (chunk, at) = place(id);
            self.chunks[chunk][at] = Some(value);
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first one grows as needed: a small index stays small.
            let first = self.chunks.is_empty();
            self.chunks.push(if first { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        self.chunks.last_mut().expect("must be a chunk: one was just made").push(Some(value));
        Id::try_from(self.len - 1).expect("must have fewer than 2^32 entries")
    }

    pub(super) fn remove(&mut self, id: Id) -> T {
        let (chunk, at) = place(id);
        let value = self.chunks[chunk][at].take().expect("must be a live id");
        self.free.push(id);
        self.len -= 1;
        value
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        let (chunk, at) = place(id);
        self.chunks.get(chunk)?.get(at)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        (0..).zip(self.chunks.iter().flatten()).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    /// Number of live entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<T> Index<Id> for Slab<T> {
    type Output = T;

    fn index(&self, id: Id) -> &T {
        let (chunk, at) = place(id);
        self.chunks[chunk][at].as_ref().expect("must be a live id")
    }
}

impl<T> IndexMut<Id> for Slab<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        let (chunk, at) = place(id);
        self.chunks[chunk][at].as_mut().expect("must be a live id")
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
