//! Ids of rules.
//!
//! Counters of flows and labels of connections name rules by these ids, and outlive the process. So a rule has in the next
//! life the id that it had in this one, and no other rule gets an id that may still be named.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_flows::policy::{Direction, PortRange, Service};
use serde::{Deserialize, Serialize};

use crate::reconciler::Reconciler;

/// How long an id rests after its rule is gone: packets and flow removals that name it may be under way.
const REST: Duration = Duration::from_secs(5);

/// Hands out ids from 1 on, the smallest free one first: dense ids share more flows.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// All ids up to this one have been handed out or are of the last life.
    last: u32,
    free: BTreeSet<u32>,
    resting: VecDeque<(Instant, u32)>,
    /// Ids of the last life, beyond `last` or not.
    before: BTreeSet<u32>,
    /// Rules of the last life that have not been seen yet in this one.
    recalled: RuleIds,
    /// Changes with whatever an id stands for.
    version: u64,
}

/// The ids of rules, by the policy's name and by what tells the rule from others of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleIds(BTreeMap<Arc<str>, BTreeMap<String, u32>>);

/// What tells a variant of a rule from others of its policy, as text.
fn mark(at: usize, direction: Direction, services: &[Service]) -> String {
    let mut text = format!("{at} {}", if direction == Direction::In { "in" } else { "out" });
    for Service { protocol, ports, src_ports, icmp_type, icmp_code } in services {
        let range = |range: &Option<PortRange>| {
            range.map_or_else(String::new, |range| format!("{}-{}", range.first(), range.last()))
        };
        let octet = |octet: &Option<u8>| octet.map_or_else(String::new, |octet| octet.to_string());
        let (ports, from) = (range(ports), range(src_ports));
        let (kind, code) = (octet(icmp_type), octet(icmp_code));
        // To text nothing can fail to be written.
        let _ = write!(text, " {protocol:?},{ports},{from},{kind},{code}");
    }
    text
}

impl Ids {
    /// The id that a variant of a rule had in the last life, else a new one; none when all 2³²−1 are taken.
    pub(crate) fn for_rule(
        &mut self,
        now: Instant,
        policy: &str,
        (at, direction): (usize, Direction),
        services: &[Service],
    ) -> Option<u32> {
        if let Some(rules) = self.recalled.0.get_mut(policy)
            && let Some(id) = rules.remove(&mark(at, direction, services))
        {
            if rules.is_empty() {
                self.recalled.0.remove(policy);
            }
            self.version += 1;
            return Some(id);
        }
        self.take(now)
    }

    /// A new id; none when all 2³²−1 are taken.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u32> {
        self.version += 1;
        while let Some((since, id)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.before.remove(&id);
            if id <= self.last {
                self.free.insert(id);
            }
        }
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        loop {
            self.last = self.last.checked_add(1)?;
            if !self.before.contains(&self.last) {
                return Some(self.last);
            }
        }
    }

    /// Gives an id back.
    pub(crate) fn release(&mut self, id: u32, now: Instant) {
        self.version += 1;
        self.resting.push_back((now, id));
    }

    /// An id stands for something else now.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
    }
}

impl Reconciler {
    /// The ids of rules, if they are others than at `version`, which becomes the present one.
    pub fn rule_ids(&self, version: &mut u64) -> Option<RuleIds> {
        if std::mem::replace(version, self.ids.version) == self.ids.version {
            return None;
        }
        let mut ids = RuleIds::default();
        for (name, realised) in self.policies.iter().filter(|(name, _)| !Self::is_last_life(name)) {
            let rules = realised.policy.rules.iter().zip(&realised.slots).enumerate();
            let marks = rules.flat_map(|(at, (rule, slot))| {
                slot.into_iter().map(move |(services, id)| (mark(at, rule.direction, services), *id))
            });
            ids.0.insert(name.clone(), marks.collect());
        }
        Some(ids)
    }

    /// These ids were in use in the last life, some of them by rules that are known. To come before the first
    /// [`Self::reconcile`] that makes rules; what has an id by then keeps it.
    pub fn recall_ids(&mut self, rules: RuleIds, mut used: BTreeSet<u32>) {
        let taken: BTreeSet<u32> = self
            .policies
            .values()
            .flat_map(|realised| &realised.slots)
            .flat_map(|slot| slot.values())
            .copied()
            .collect();
        let mut rules = rules;
        let mut seen = taken.clone();
        for marks in rules.0.values_mut() {
            // A file that was tampered with must not give one id to two rules. Ids begin at 1.
            marks.retain(|_, id| *id != 0 && seen.insert(*id));
            used.extend(marks.values());
        }
        self.ids.before = used.difference(&taken).copied().collect();
        self.ids.recalled = rules;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_flows::policy::Protocol;

    #[test]
    fn ids_are_dense_and_rest_before_they_come_again() {
        let (mut ids, start) = (Ids::default(), Instant::now());
        assert_eq!([1, 2, 3], [(); 3].map(|()| ids.take(start).unwrap()));
        ids.release(2, start);
        ids.release(1, start + Duration::from_secs(1));
        assert_eq!(ids.take(start + Duration::from_millis(4999)), Some(4));
        assert_eq!(ids.take(start + Duration::from_secs(5)), Some(2));
        assert_eq!(ids.take(start + Duration::from_secs(5)), Some(5));
        assert_eq!(ids.take(start + Duration::from_secs(6)), Some(1));
    }

    #[test]
    fn ids_of_the_last_life_are_their_rules_alone() {
        let start = Instant::now();
        let services = [Service::to(Protocol::Tcp, PortRange::new(80, 90).unwrap())];
        let rule =
            |policy: &str, id| (Arc::from(policy), BTreeMap::from([(mark(0, Direction::In, &services), id)]));
        let mut reconciler = Reconciler::default();
        // The bridge has a flow of a rule that nobody remembers, and two rules are said to have one id.
        reconciler
            .recall_ids(RuleIds([rule("P", 2), rule("Q", 2), rule("R", 0)].into()), [4, u32::MAX].into());
        let mut ids = std::mem::take(&mut reconciler.ids);
        let mut of = |policy, at, now| ids.for_rule(now, policy, (at, Direction::In), &services).unwrap();
        assert_eq!([of("Q", 0, start), of("P", 1, start), of("P", 0, start)], [1, 3, 2]);
        assert_eq!([of("P", 0, start), of("R", 0, start)], [5, 6], "it is asked for once");
        let later = start + REST;
        ids.release(2, start);
        ids.release(6, start);
        assert_eq!([ids.take(later), ids.take(later), ids.take(later)], [Some(2), Some(6), Some(7)]);
    }
}
