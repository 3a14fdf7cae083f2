//! Selectors over interned labels, and the two inverted indexes: from labels to the things that carry them, and
//! from labels to the selectors that could match them.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    slab::{Id, NONE, insert_sorted, remove_sorted},
    symbols::{Label, Symbols},
};
use crate::labels::{Operator, Selector};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Test {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Debug)]
struct Requirement {
    key: Id,
    test: Test,
    /// Pairs of this key, for `In` and `NotIn`, ascending.
    pairs: SmallVec<[Id; 2]>,
}

/// A selector whose keys and values are symbols; it holds references to them.
#[derive(Debug, Default)]
pub(super) struct Compiled(Box<[Requirement]>);

impl Compiled {
    pub(super) fn new(selector: &Selector, symbols: &mut Symbols) -> Self {
        let compile = |requirement: &crate::labels::Requirement| {
            let test = match requirement.operator() {
                Operator::Equals | Operator::In => Test::In,
                Operator::NotIn => Test::NotIn,
                Operator::Exists => Test::Exists,
                Operator::DoesNotExist => Test::DoesNotExist,
            };
            let key = symbols.acquire_key(requirement.key());
            let mut pairs: SmallVec<[Id; 2]> =
                requirement.values().map(|value| symbols.acquire(requirement.key(), value).1).collect();
            pairs.sort_unstable();
            pairs.dedup_by(|a, b| {
                let same = a == b;
                if same {
                    symbols.release(*a);
                }
                same
            });
            Requirement { key, test, pairs }
        };
        Self(selector.requirements().iter().map(compile).collect())
    }

    pub(super) fn release(self, symbols: &mut Symbols) {
        for requirement in self.0 {
            for pair in requirement.pairs {
                symbols.release(pair);
            }
            symbols.release_key(requirement.key);
        }
    }

    pub(super) fn matches(&self, labels: &[Label]) -> bool {
        self.0.iter().all(|requirement| {
            let pair = labels.iter().find(|(key, _)| *key == requirement.key).map(|(_, pair)| pair);
            match requirement.test {
                Test::In => pair.is_some_and(|p| requirement.pairs.binary_search(p).is_ok()),
                Test::NotIn => pair.is_none_or(|p| requirement.pairs.binary_search(p).is_err()),
                Test::Exists => pair.is_some(),
                Test::DoesNotExist => pair.is_none(),
            }
        })
    }
}

type Postings = HashMap<Id, Vec<Id>>;

fn post(postings: &mut Postings, symbol: Id, id: Id) {
    insert_sorted(postings.entry(symbol).or_default(), id);
}

fn unpost(postings: &mut Postings, symbol: Id, id: Id) {
    if let Some(list) = postings.get_mut(&symbol) {
        remove_sorted(list, id);
        if list.is_empty() {
            postings.remove(&symbol);
        }
    }
}

fn posted(postings: &Postings, symbol: Id) -> &[Id] {
    postings.get(&symbol).map_or(&[], Vec::as_slice)
}

/// From labels to the things that carry them.
#[derive(Debug, Default)]
pub(super) struct CarrierIndex {
    by_pair: Postings,
    by_key: Postings,
}

impl CarrierIndex {
    pub(super) fn insert(&mut self, id: Id, labels: &[Label]) {
        for (key, pair) in labels {
            post(&mut self.by_pair, *pair, id);
            post(&mut self.by_key, *key, id);
        }
    }

    pub(super) fn remove(&mut self, id: Id, labels: &[Label]) {
        for (key, pair) in labels {
            unpost(&mut self.by_pair, *pair, id);
            unpost(&mut self.by_key, *key, id);
        }
    }

    /// The shortest list of things among which are all that the selector matches; none if every thing might.
    pub(super) fn candidates(&self, selector: &Compiled) -> Option<Candidates<'_>> {
        let lists = selector.0.iter().filter_map(|requirement| match requirement.test {
            Test::In => Some(requirement.pairs.iter().map(|p| posted(&self.by_pair, *p)).collect()),
            Test::Exists => Some(Candidates::from_iter([posted(&self.by_key, requirement.key)])),
            Test::NotIn | Test::DoesNotExist => None,
        });
        lists.min_by_key(Candidates::len)
    }
}

/// Disjoint lists, as a thing has one value per key.
#[derive(Debug)]
pub(super) struct Candidates<'a>(SmallVec<[&'a [Id]; 1]>);

impl<'a> FromIterator<&'a [Id]> for Candidates<'a> {
    fn from_iter<I: IntoIterator<Item = &'a [Id]>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl Candidates<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|list| list.len()).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Id> {
        self.0.iter().flat_map(|list| list.iter().copied())
    }
}

/// Where a selector is listed in a [`SelectorIndex`]: the position of a requirement that anything it matches must
/// meet, or [`NONE`].
pub(super) type Anchor = u32;

/// From labels to the selectors that could match them. A selector is listed under one of its requirements.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex {
    by_pair: Postings,
    by_key: Postings,
    /// Selectors with nothing to list them under: they are always candidates.
    rest: Vec<Id>,
}

impl SelectorIndex {
    /// The requirement that has the fewest selectors listed under it so far, and how many those are. This
    /// keeps selectors apart that share a common label and differ in another.
    pub(super) fn best_anchor(&self, selector: &Compiled) -> (Anchor, usize) {
        let costs = (0..).zip(&selector.0).filter_map(|(i, requirement)| match requirement.test {
            Test::In => Some((i, requirement.pairs.iter().map(|p| posted(&self.by_pair, *p).len()).sum())),
            Test::Exists => Some((i, posted(&self.by_key, requirement.key).len())),
            Test::NotIn | Test::DoesNotExist => None,
        });
        costs.min_by_key(|(_, cost)| *cost).unwrap_or((NONE, self.rest.len()))
    }

    pub(super) fn insert(&mut self, id: Id, selector: &Compiled, anchor: Anchor) {
        match selector.0.get(anchor as usize) {
            Some(Requirement { test: Test::Exists, key, .. }) => post(&mut self.by_key, *key, id),
            Some(requirement) => requirement.pairs.iter().for_each(|p| post(&mut self.by_pair, *p, id)),
            None => {
                insert_sorted(&mut self.rest, id);
            }
        }
    }

    pub(super) fn remove(&mut self, id: Id, selector: &Compiled, anchor: Anchor) {
        match selector.0.get(anchor as usize) {
            Some(Requirement { test: Test::Exists, key, .. }) => unpost(&mut self.by_key, *key, id),
            Some(requirement) => requirement.pairs.iter().for_each(|p| unpost(&mut self.by_pair, *p, id)),
            None => {
                remove_sorted(&mut self.rest, id);
            }
        }
    }

    /// Every selector that could match the labels, each once.
    pub(super) fn candidates(&self, labels: &[Label]) -> impl Iterator<Item = Id> {
        let listed = labels
            .iter()
            .flat_map(|(key, pair)| [posted(&self.by_pair, *pair), posted(&self.by_key, *key)])
            .flatten();
        listed.chain(&self.rest).copied()
    }
}
