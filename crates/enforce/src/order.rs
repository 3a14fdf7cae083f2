//! The order of native rules as OpenFlow priorities.
//!
//! A table evaluates rules by priority, and there are fewer priorities than ranks that policies may choose. So priorities
//! are given out as ranks come: a new one goes into the gap between its neighbours. Where that is closed, the ranks of
//! a window around it are spread evenly over it, and only those that thereby move are sent again.
//!
//! With `n` ranks (rounded up to a power of two) in 2ʰ places, a window of 2ⁱ places is spread when it holds no more than
//! rⁱ of them, where r = n^(1/h) < 2. Either half of it then has to take (1 − r/2)·rⁱ⁻¹ more before it is full in
//! turn. So an insertion moves at most h·2r/(2−r) ranks on average, whatever the order: 108 where there are 1,000 in the
//! 64,889 places of native rules. Where policies come in random order 99 in 100 move none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use antrea_flows::policy::{Action, Class, Direction, SortedSet};

/// Priorities of native rules. Those below, of the pipeline, and the bypass of established connections above are no rules'.
const NATIVE: RangeInclusive<u16> = 100..=64_988;
/// That of native rules that deny and for which there is no place: before all others.
const NATIVE_OVERFLOW: u16 = 64_989;
/// Priorities of rules of the baseline tier, below what isolates by Kubernetes policies.
const BASELINE: RangeInclusive<u16> = 10..=179;
/// As [`NATIVE_OVERFLOW`].
const BASELINE_OVERFLOW: u16 = 180;
/// A flow that rules of one priority share names each of them, and no message is longer than 64 KiB.
const IDS_PER_PRIORITY: u32 = 1024;

/// Where a native rule stands among others: less is evaluated first.
///
/// Rules of different policies may have one rank. They share a priority, where the switch evaluates them in any order, so
/// those that do different things are apart: what denies comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    tier: i32,
    /// Bits of the policy's priority, so that they compare as numbers.
    priority: u64,
    rule: i32,
    /// 0: denies, 1: passes, 2: allows.
    verdict: u8,
    /// Which of equal ones: no more than [`IDS_PER_PRIORITY`] rules share a priority.
    share: u32,
}

impl Rank {
    /// That of a rule by the priorities of its tier and policy and its index in this.
    pub fn new(tier: i32, priority: f64, rule: i32, action: Action) -> Self {
        // Zero has one form.
        let bits = (priority + 0.0).to_bits();
        let priority = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        let verdict = match action {
            Action::Drop | Action::Reject => 0,
            Action::Pass => 1,
            Action::Allow => 2,
        };
        Self { tier, priority, rule, verdict, share: 0 }
    }

    /// Before all others that are as strict: of a rule whose policy does not say where it stands.
    pub fn first(rule: i32) -> Self {
        Self { tier: i32::MIN, priority: 0, rule, verdict: 0, share: 0 }
    }

    /// The number that [`Self::new`] was given.
    fn priority(self) -> f64 {
        let bits = self.priority;
        f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
    }

    /// How far it is on the way between two others, if they say anything about it.
    fn between(self, before: Self, after: Self) -> Option<f64> {
        if before.tier != after.tier {
            return None;
        }
        let (from, to) = (before.priority(), after.priority());
        let way = if from == to {
            f64::from(self.rule - before.rule) / f64::from(after.rule - before.rule)
        } else {
            (self.priority() - from) / (to - from)
        };
        way.is_finite().then_some(way)
    }
}

#[derive(Debug)]
struct Place {
    slot: u32,
    rules: SortedSet<u32>,
}

/// Priorities of one table.
#[derive(Debug)]
struct Order {
    range: RangeInclusive<u16>,
    places: BTreeMap<Rank, Place>,
    /// Ranks by slot; slots count down from the range's end.
    taken: BTreeMap<u32, Rank>,
    ranks: HashMap<u32, Rank>,
    /// Rules whose priority is another one now.
    moved: BTreeSet<u32>,
}

impl Order {
    fn new(range: RangeInclusive<u16>) -> Self {
        let (places, taken) = (BTreeMap::new(), BTreeMap::new());
        Self { range, places, taken, ranks: HashMap::new(), moved: BTreeSet::new() }
    }

    fn width(&self) -> u32 {
        u32::from(self.range.end() - self.range.start()) + 1
    }

    fn priority_of(&self, rule: u32) -> Option<u16> {
        let place = self.places.get(self.ranks.get(&rule)?)?;
        u16::try_from(u32::from(*self.range.end()) - place.slot).ok()
    }

    /// Gives a rule its place; none: all are taken.
    fn place(&mut self, rule: u32, rank: Rank) -> Option<u16> {
        if self.ranks.get(&rule) != Some(&rank) {
            self.remove(rule);
            if !self.places.contains_key(&rank) && !self.make_room(rank) {
                return None;
            }
            self.places.get_mut(&rank)?.rules.insert(rule);
            self.ranks.insert(rule, rank);
        }
        self.priority_of(rule)
    }

    fn remove(&mut self, rule: u32) {
        self.moved.remove(&rule);
        let Some(rank) = self.ranks.remove(&rule) else { return };
        if let Some(place) = self.places.get_mut(&rank) {
            place.rules.remove(&rule);
            if place.rules.is_empty() {
                self.taken.remove(&place.slot);
                self.places.remove(&rank);
            }
        }
    }

    fn make_room(&mut self, rank: Rank) -> bool {
        let width = self.width();
        if self.taken.len() >= width as usize {
            return false;
        }
        let of = |(rank, place): (&Rank, &Place)| (*rank, place.slot);
        let before = self.places.range(..rank).next_back().map(of);
        let after = self.places.range(rank..).next().map(of);
        let first = before.map_or(0, |(_, slot)| slot + 1);
        let gap = after.map_or(width, |(_, slot)| slot) - first;
        if gap == 0 {
            let at = before.or(after).map_or(0, |(_, slot)| slot);
            self.spread(rank, at);
            return true;
        }
        let way = match (before, after) {
            (Some((before, _)), Some((after, _))) => rank.between(before, after).unwrap_or(0.5),
            (None, None) => 0.5,
            // More are likely to come where the order ends.
            (Some(_), None) => 1.0 / 8.0,
            (None, Some(_)) => 7.0 / 8.0,
        };
        // Next to a neighbour there is still some room, for rules of one policy follow each other.
        let offset = f64::from(gap) * way.clamp(1.0 / 16.0, 15.0 / 16.0);
        self.put(rank, first + (offset as u32).min(gap - 1));
        true
    }

    fn put(&mut self, rank: Rank, slot: u32) {
        self.taken.insert(slot, rank);
        match self.places.get_mut(&rank) {
            Some(place) if place.slot != slot => {
                place.slot = slot;
                self.moved.extend(&place.rules);
            }
            Some(_) => {}
            None => {
                self.places.insert(rank, Place { slot, rules: SortedSet::new() });
            }
        }
    }

    /// Spreads a new rank and those around a slot over the smallest window that is not too full.
    fn spread(&mut self, rank: Rank, at: u32) {
        let width = self.width();
        let levels = width.next_power_of_two().trailing_zeros();
        let count = (self.taken.len() + 1).next_power_of_two() as f64;
        for level in 1..=levels {
            let start = at >> level << level;
            let end = (start + (1 << level)).min(width);
            let len = end - start;
            let mut ranks: Vec<Rank> = self.taken.range(start..end).map(|(_, rank)| *rank).collect();
            let room = count.powf(f64::from(level) / f64::from(levels)).min(f64::from(len));
            let number = ranks.len() as u32 + 1;
            if level < levels && f64::from(number) > room {
                continue;
            }
            ranks.insert(ranks.partition_point(|known| *known < rank), rank);
            for slot in start..end {
                self.taken.remove(&slot);
            }
            for (i, rank) in (0u32..).zip(ranks) {
                // In the middle of its share.
                self.put(rank, start + (2 * i + 1) * len / (2 * number));
            }
            return;
        }
    }
}

/// Priorities of all native rules of a node.
#[derive(Debug)]
pub(crate) struct Orders {
    /// Native rules and those of the baseline tier, ingress and egress.
    tables: [Order; 4],
}

impl Default for Orders {
    fn default() -> Self {
        Self { tables: [NATIVE, NATIVE, BASELINE, BASELINE].map(Order::new) }
    }
}

/// A rule that found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Orders {
    /// Gives a rule its place among those of its table; it may have had another one.
    pub(crate) fn place(
        &mut self,
        rule: u32,
        direction: Direction,
        baseline: bool,
        rank: Rank,
    ) -> Result<Class, Full> {
        let at = 2 * usize::from(baseline) + usize::from(direction == Direction::Out);
        for (table, order) in self.tables.iter_mut().enumerate() {
            if table != at {
                order.remove(rule);
            }
        }
        let rank = Rank { share: rule / IDS_PER_PRIORITY, ..rank };
        let priority = self.tables[at].place(rule, rank).ok_or(Full)?;
        Ok(class(baseline, priority))
    }

    /// Where rules that deny and have no place are.
    pub(crate) fn overflow(baseline: bool) -> Class {
        class(baseline, if baseline { BASELINE_OVERFLOW } else { NATIVE_OVERFLOW })
    }

    /// A rule is gone.
    pub(crate) fn remove(&mut self, rule: u32) {
        for order in &mut self.tables {
            order.remove(rule);
        }
    }

    /// Rules that have been moved since the last call, and where to.
    pub(crate) fn take_moved(&mut self) -> Vec<(u32, Class)> {
        let mut moved = Vec::new();
        for (at, order) in self.tables.iter_mut().enumerate() {
            for rule in std::mem::take(&mut order.moved) {
                moved.extend(order.priority_of(rule).map(|priority| (rule, class(at >= 2, priority))));
            }
        }
        moved
    }
}

fn class(baseline: bool, priority: u16) -> Class {
    if baseline { Class::Baseline { priority } } else { Class::Native { priority } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rank(tier: i32, priority: f64, rule: i32) -> Rank {
        Rank::new(tier, priority, rule, Action::Drop)
    }

    /// Rules by their ranks come by their priorities, and no two ranks have one.
    fn check(order: &Order) {
        let priorities: Vec<u16> = order
            .places
            .values()
            .map(|p| order.priority_of(*p.rules.iter().next().unwrap()).unwrap())
            .collect();
        assert!(priorities.windows(2).all(|pair| pair[0] > pair[1]), "{priorities:?}");
        assert!(priorities.iter().all(|priority| order.range.contains(priority)));
        assert_eq!(order.taken.len(), order.places.len());
        assert!(order.taken.iter().all(|(slot, rank)| order.places[rank].slot == *slot));
    }

    /// What inserting these comes to: rules that moved, by insertion.
    fn moves(order: &mut Order, ranks: impl IntoIterator<Item = Rank>) -> Vec<usize> {
        let mut moved = Vec::new();
        for (rule, rank) in (0..).zip(ranks) {
            assert!(order.place(rule, rank).is_some());
            moved.push(std::mem::take(&mut order.moved).len());
        }
        check(order);
        moved
    }

    /// The bound of the module's description.
    fn bound(order: &Order) -> f64 {
        let levels = f64::from(order.width().next_power_of_two().trailing_zeros());
        let r = (order.taken.len().next_power_of_two() as f64).powf(1.0 / levels);
        levels * 2.0 * r / (2.0 - r)
    }

    fn shuffled(count: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count).collect();
        let mut state = 0x9e37_79b9_u64;
        for at in (1..numbers.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            numbers.swap(at, (state >> 33) as usize % (at + 1));
        }
        numbers
    }

    #[test]
    fn policies_in_random_order_move_next_to_nothing() {
        let mut order = Order::new(NATIVE);
        let mut moved = moves(
            &mut order,
            shuffled(1000).into_iter().map(|n| rank(50 * (n as i32 % 5), f64::from(n / 5), 0)),
        );
        moved.sort_unstable();
        assert_eq!(moved[989], 0, "the 99th of a hundred");
        assert!(moved.iter().sum::<usize>() <= 1000, "one on average: {:?}", &moved[990..]);
        assert!(bound(&order) < 108.0, "as the description says: {}", bound(&order));
    }

    /// Orders that close the same gap again and again.
    #[test]
    fn no_order_moves_more_than_the_bound_on_average() {
        type Priority = fn(u32) -> f64;
        let all: [(&str, Priority); 4] = [
            ("ascending", f64::from),
            ("descending", |n| -f64::from(n)),
            ("inwards", |n| if n % 2 == 0 { f64::from(n) } else { 10_000.0 - f64::from(n) }),
            ("halving", |n| 1.0 / f64::from(n + 1)),
        ];
        for (name, priority) in all {
            let mut order = Order::new(NATIVE);
            let moved = moves(&mut order, (0..1000).map(|n| rank(250, priority(n), 0)));
            let mean = moved.iter().sum::<usize>() as f64 / 1000.0;
            assert!(mean <= bound(&order), "{name}: {mean} > {}", bound(&order));
            assert!(mean <= 20.0, "{name}: in fact it is far less than the bound: {mean}");
        }
    }

    #[test]
    fn a_range_takes_as_many_ranks_as_it_has_priorities() {
        let mut order = Order::new(BASELINE);
        moves(&mut order, shuffled(170).into_iter().map(|n| rank(253, f64::from(n), 0)));
        assert_eq!(order.place(1000, rank(253, 0.5, 0)), None);
        check(&order);
        // One that is there already has room for more rules, and one that goes makes room.
        assert_eq!(
            order.place(1001, rank(253, 7.0, 0)),
            order.priority_of(order.places[&rank(253, 7.0, 0)].rules.iter().next().copied().unwrap())
        );
        let first = *order.places[&rank(253, 3.0, 0)].rules.iter().next().unwrap();
        order.remove(first);
        assert!(order.place(1000, rank(253, 0.5, 0)).is_some());
        check(&order);
    }

    #[test]
    fn ranks_compare_as_what_they_are_made_of() {
        let numbers = [f64::NEG_INFINITY, -5.5, -0.0, 0.0, 1.0, 1.5, 10_000.0, f64::INFINITY];
        let ranks = numbers.map(|priority| rank(250, priority, 0));
        assert!(ranks.is_sorted());
        assert_eq!(ranks.map(Rank::priority), numbers);
        assert!(rank(100, 9.0, 9) < rank(250, 1.0, 0));
        let of = |action| Rank::new(250, 1.0, 0, action);
        assert!(of(Action::Reject) < of(Action::Pass) && of(Action::Pass) < of(Action::Allow));
        assert_eq!(of(Action::Reject), of(Action::Drop));
        assert!(Rank::first(0) < rank(i32::MIN, -1.0, 0));
    }

    /// A flow that they share would not fit into a message.
    #[test]
    fn no_more_rules_share_a_priority_than_a_flow_can_name() {
        let mut orders = Orders::default();
        let mut sharing: HashMap<u16, u32> = HashMap::new();
        for rule in 1..5000 {
            match orders.place(rule, Direction::In, false, rank(250, 5.0, 0)) {
                Ok(Class::Native { priority }) => *sharing.entry(priority).or_default() += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(sharing.len() < 10 && sharing.values().all(|rules| *rules <= 1024), "{sharing:?}");
    }

    proptest! {
        /// Whatever comes and goes, the priorities are in the order of the ranks, and a rule moves only if that is told.
        #[test]
        fn priorities_are_in_the_order_of_ranks(
            baseline: bool,
            ops in proptest::collection::vec((0u32..200, proptest::option::weighted(0.8, (0i32..3, 0i32..12, 0i32..3))), 1..400),
        ) {
            let mut order = Order::new(if baseline { BASELINE } else { 100..=300 });
            let mut known: BTreeMap<u32, u16> = BTreeMap::new();
            for (rule, op) in ops {
                match op {
                    Some((tier, priority, index)) => {
                        let placed = order.place(rule, rank(tier, f64::from(priority), index));
                        known.remove(&rule);
                        known.extend(placed.map(|priority| (rule, priority)));
                    }
                    None => {
                        order.remove(rule);
                        known.remove(&rule);
                    }
                }
                for rule in std::mem::take(&mut order.moved) {
                    known.insert(rule, order.priority_of(rule).unwrap());
                }
                check(&order);
                let now: BTreeMap<u32, u16> =
                    order.ranks.keys().map(|rule| (*rule, order.priority_of(*rule).unwrap())).collect();
                prop_assert_eq!(&known, &now);
            }
        }
    }
}
