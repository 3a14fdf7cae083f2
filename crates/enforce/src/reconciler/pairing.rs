//! Which rule of a policy's new form goes on with the ids of which rule of the old.

use std::collections::{BTreeMap, BTreeSet};

use antrea_flows::policy::SortedMap;

use super::{Realised, Slot};
use crate::spec::Policy;

/// Slots for a policy's rules with the ids that they have, and ids of rules that are gone. What begins and
/// ends alike keeps its slots, so that a rule put into the middle changes no other.
pub(super) fn pair(old: Option<Realised>, policy: &Policy) -> (Vec<Slot>, BTreeSet<u32>) {
    let count = policy.rules.len();
    let Some(old) = old else { return (vec![Slot::new(); count], BTreeSet::new()) };
    let before = &old.policy.rules;
    let alike = |(a, b): &(&_, &_)| a == b;
    let head = before.iter().zip(&policy.rules).take_while(alike).count();
    let rest = before.len().min(count) - head;
    let tail = before.iter().rev().zip(policy.rules.iter().rev()).take(rest).take_while(alike).count();

    let mut slots: Vec<Option<Slot>> = old.slots.into_iter().map(Some).collect();
    let mut paired: BTreeMap<usize, Slot> = BTreeMap::new();
    let mut give = |from: usize, to: usize, slots: &mut Vec<Option<Slot>>| {
        if let Some(slot) = slots.get_mut(from).and_then(Option::take) {
            paired.insert(to, slot);
        }
    };
    for at in 0..head {
        give(at, at, &mut slots);
    }
    for at in 1..=tail {
        give(before.len() - at, count - at, &mut slots);
    }
    // In between, in order; an id keeps its direction.
    let mut from = head;
    for to in head..count - tail {
        if from < before.len() - tail && before[from].direction == policy.rules[to].direction {
            give(from, to, &mut slots);
            from += 1;
        }
    }
    let slots_now = (0..count).map(|at| paired.remove(&at).unwrap_or_default()).collect();
    (slots_now, slots.into_iter().flatten().flat_map(SortedMap::into_values).collect())
}
