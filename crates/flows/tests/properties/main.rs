//! Whatever the order of changes, the differences lead to the flows that the final state asks for.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod rules;

use std::collections::BTreeMap;

use antrea_flows::{
    BridgeStore, Change, Diff, Entry, Key, Network, Owner, Round,
    config::{Datapath, TunnelKind},
    policy::{
        Action, Class, Direction, Frontend, MemberChange, Peers, PortRange, Protocol, Realizer, Rule,
        RuleChange, RuleError, Service, Targets,
    },
    state::{Found, Steps},
};
use openflow::{
    Action as OfAction, Bucket, Flow, FlowCommand, Group, GroupCommand, GroupType, Match, Message, Meter,
    MeterCommand,
};
use proptest::{collection::vec, prelude::*};
use support::{ip, node, pod};

/// What a bridge would hold.
#[derive(Default)]
struct Replica(BTreeMap<Key, Entry>);

impl Replica {
    /// Carries a difference out and checks that it says nothing needless.
    fn apply(&mut self, diff: &Diff) -> Result<(), TestCaseError> {
        for entry in &diff.adds {
            prop_assert!(self.0.insert(entry.key(), entry.clone()).is_none(), "added twice: {entry:?}");
        }
        for entry in &diff.mods {
            let old = self.0.insert(entry.key(), entry.clone());
            prop_assert!(old.as_ref().is_some_and(|old| old != entry), "{old:?} to {entry:?}");
        }
        for key in &diff.deletes {
            prop_assert!(self.0.remove(key).is_some(), "deleted, but not there: {key:?}");
        }
        Ok(())
    }

    fn entries(&self) -> Vec<Entry> {
        self.0.values().cloned().collect()
    }

    /// Does what one message says, as Open vSwitch would, and checks that no entry lacks what it names.
    fn receive(&mut self, message: Message) -> Result<(), TestCaseError> {
        match message {
            Message::FlowMod(change) => {
                let key = Key::Flow(change.flow.key());
                match change.command {
                    FlowCommand::Add => self.0.insert(key, Entry::Flow(change.flow)),
                    FlowCommand::DeleteStrict => self.0.remove(&key),
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                };
            }
            Message::GroupMod(change) => {
                let key = Key::Group(change.group.id);
                match change.command {
                    GroupCommand::AddOrModify => self.0.insert(key, Entry::Group(change.group)),
                    GroupCommand::Delete => self.0.remove(&key),
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                };
            }
            Message::MeterMod { command, meter } => {
                let key = Key::Meter(meter.id);
                let there = self.0.contains_key(&key);
                match command {
                    MeterCommand::Add => prop_assert!(!there, "Open vSwitch refuses to add {meter}"),
                    MeterCommand::Modify => prop_assert!(there, "Open vSwitch refuses to modify {meter}"),
                    MeterCommand::Delete => {}
                }
                match command {
                    MeterCommand::Delete => self.0.remove(&key),
                    _ => self.0.insert(key, Entry::Meter(meter)),
                };
            }
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
        for entry in self.0.values() {
            for key in entry.references() {
                prop_assert!(self.0.contains_key(&key), "{key} is missing: {entry}");
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, diff: Diff) -> Result<(), TestCaseError> {
        let Steps { before, bundle, after } = diff.steps();
        before.into_iter().chain(bundle).chain(after).try_for_each(|message| self.receive(message))
    }

    fn found(&self) -> Found {
        let mut found = Found::default();
        for entry in self.entries() {
            match entry {
                Entry::Flow(flow) => found.flows.push(flow),
                Entry::Group(group) => found.groups.push(group),
                Entry::Meter(meter) => found.meters.push(meter),
            }
        }
        found
    }
}

fn by_key(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(Entry::key);
    entries
}

fn entries(flows: Vec<Flow>) -> Vec<Entry> {
    by_key(flows.into_iter().map(Entry::Flow).collect())
}

fn set(store: &mut BridgeStore, owner: &Owner, entries: Vec<Entry>) -> Result<Diff, antrea_flows::Conflict> {
    let undo = store.stage([(owner, &Change::Whole(entries))])?;
    Ok(store.difference([&undo]))
}

/// One of few flows, groups and meters, so that owners meet.
fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        4 => (0u8..2, 0u16..2, 0u32..3, 0u64..2, 0u8..2).prop_map(|(table, priority, reg, cookie, to)| {
            let matches = Match::new().reg(0, reg);
            Entry::Flow(Flow::new(table, priority).matching(matches).cookie(cookie).goto(10 + to))
        }),
        1 => (1u32..3, 0u16..2).prop_map(|(id, weight)| Entry::Group(group(id, weight))),
        1 => (1u32..3, 0u32..2).prop_map(|(id, rate)| Entry::Meter(Meter::drop_pktps(id, 100 + rate, 10))),
    ]
}

fn group(id: u32, weight: u16) -> Group {
    Group::new(id, GroupType::Select).bucket(Bucket::new(1, 10 + weight))
}

/// Entries of one owner of which all that is named is there.
fn complete() -> impl Strategy<Value = Vec<Entry>> {
    vec((0u8..3, 0u32..3, 1u32..4, 0u32..2, any::<[bool; 2]>()), 0..4).prop_map(|wants| {
        let mut all = BTreeMap::new();
        for (table, reg, id, variant, [grouped, metered]) in wants {
            let mut flow = Flow::new(table, 5).matching(Match::new().reg(0, reg)).cookie(u64::from(variant));
            if metered {
                flow = flow.action(OfAction::Meter(id));
                all.entry(Key::Meter(id)).or_insert(Entry::Meter(Meter::drop_pktps(id, 100 + variant, 10)));
            }
            if grouped {
                flow = flow.action(OfAction::Group(id));
                let mut entry = group(id, variant as u16);
                if variant == 1 {
                    entry.buckets[0].actions.push(OfAction::Meter(7));
                    all.insert(Key::Meter(7), Entry::Meter(Meter::drop_pktps(7, 1, 1)));
                }
                all.entry(Key::Group(id)).or_insert(Entry::Group(entry));
            }
            all.insert(Key::Flow(flow.key()), Entry::Flow(flow));
        }
        // A group that was there first may not name the meter that a later one asked for; it stays, unused.
        all.into_values().collect()
    })
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        Just(Owner::Node),
        Just(Owner::Policy),
        (0..2).prop_map(|n| Owner::Pod(format!("pod{n}").into())),
        Just(Owner::Peer("node2".into())),
    ]
}

proptest! {
    #[test]
    fn store_is_the_union_of_its_owners(steps in vec((owner(), vec(entry(), 0..5)), 0..30)) {
        let mut store = BridgeStore::new();
        let mut replica = Replica::default();
        let mut wanted: BTreeMap<Owner, BTreeMap<Key, Entry>> = BTreeMap::new();
        for (owner, entries) in steps {
            let before = by_key(store.all());
            match set(&mut store, &owner, entries.clone()) {
                Ok(diff) => {
                    replica.apply(&diff)?;
                    wanted.insert(owner.clone(), entries.iter().map(|e| (e.key(), e.clone())).collect());
                    let again = set(&mut store, &owner, entries).expect("must not conflict with itself");
                    prop_assert!(again.is_empty());
                }
                Err(conflict) => {
                    prop_assert_eq!(&conflict.second, &owner);
                    let other = wanted.get(&conflict.first).and_then(|w| w.get(&conflict.key));
                    let mine = entries.iter().filter(|e| e.key() == *conflict.key);
                    prop_assert!(other.into_iter().chain(mine).collect::<std::collections::BTreeSet<_>>().len() > 1);
                    prop_assert_eq!(by_key(store.all()), before, "a conflict changes nothing");
                }
            }
            let union: BTreeMap<Key, Entry> = wanted.values().flatten().map(|(k, e)| (k.clone(), e.clone())).collect();
            prop_assert_eq!(by_key(store.all()), union.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(replica.entries(), by_key(store.all()));
            for (owner, entries) in &wanted {
                prop_assert_eq!(by_key(store.of(owner)), entries.values().cloned().collect::<Vec<_>>());
            }
        }
    }

    /// A conflict, or an undo, of some owners' changes leaves nothing of any of them.
    #[test]
    fn undo_restores_what_was_there(
        first in vec((owner(), vec(entry(), 0..5)), 0..8),
        then in vec((owner(), vec(entry(), 0..5)), 1..4),
    ) {
        let mut store = BridgeStore::new();
        for (owner, entries) in first {
            let _ = set(&mut store, &owner, entries);
        }
        let state = |store: &BridgeStore| {
            let mut owners: Vec<_> = store.owners().cloned().collect();
            owners.sort();
            let of: Vec<_> = owners.iter().map(|owner| by_key(store.of(owner))).collect();
            let counts = [0, 1].map(|table| store.count_in(table));
            (by_key(store.all()), owners, of, counts)
        };
        let before = state(&store);
        let changes: Vec<_> = then.into_iter().map(|(owner, e)| (owner, Change::Whole(e))).collect();
        if let Ok(undo) = store.stage(changes.iter().map(|(owner, change)| (owner, change))) {
            let mut replica = Replica(before.0.iter().map(|e| (e.key(), e.clone())).collect());
            replica.carry_out(store.difference([&undo]))?;
            prop_assert_eq!(replica.entries(), by_key(store.all()), "the difference of several is one");
            store.undo(undo);
        }
        prop_assert_eq!(state(&store), before);
    }

    #[test]
    fn repair_makes_any_bridge_right(wanted in vec(entry(), 0..8), installed in vec(entry(), 0..8)) {
        let mut store = BridgeStore::new();
        for entry in wanted {
            // Later ones win, as they would on a switch.
            let diff = Diff { adds: vec![entry], ..Diff::default() };
            store.stage([(&Owner::Node, &Change::Diff(diff))]).expect("must not conflict: one owner");
        }
        let mut replica = Replica(installed.into_iter().map(|e| (e.key(), e)).collect());
        let diff = store.compare(&replica.found()).diff;
        replica.apply(&diff)?;
        prop_assert_eq!(replica.entries(), by_key(store.all()));
        prop_assert!(store.compare(&replica.found()).diff.is_empty());
    }

    /// Whatever owners come, change and go, and from whatever an earlier life has left: after each single message
    /// everything has what it names.
    #[test]
    fn nothing_ever_lacks_its_group_or_meter(
        left in complete(),
        sets in vec((owner(), complete(), any::<bool>()), 1..8),
    ) {
        let mut store = BridgeStore::new();
        let mut replica = Replica(left.into_iter().map(|e| (e.key(), e)).collect());
        let mut sum = Vec::new();
        replica.carry_out(store.compare(&replica.found()).diff)?;
        for (owner, entries, send) in sets {
            sum.extend(store.stage([(&owner, &Change::Whole(entries))]));
            if send {
                replica.carry_out(store.difference(&std::mem::take(&mut sum)))?;
                prop_assert_eq!(replica.entries(), by_key(store.all()));
            }
        }
        replica.carry_out(store.difference(&sum))?;
        prop_assert_eq!(replica.entries(), by_key(store.all()));
    }
}

/// What a flow of the store has the bridge learn, and a flow that has had its time, are no drift.
#[test]
fn learned_and_expired_flows_are_no_difference() {
    let mut store = BridgeStore::new();
    let learn = openflow::Learn { cookie: 0xaff, ..openflow::Learn::new(9, 100) };
    let nested = OfAction::Clone(vec![learn.into()]);
    let expiring = Flow::new(3, 1).hard_timeout(10);
    let wanted = vec![Flow::new(2, 1).action(nested), expiring.clone()];
    store.stage([(&Owner::Node, &Change::flows(wanted.clone()))]).unwrap();
    let learned = Flow::new(9, 100).matching(Match::new().reg(0, 7)).cookie(0xaff).idle_timeout(60);
    let strange = [Flow { table: 8, ..learned.clone() }, Flow { cookie: 1, priority: 99, ..learned.clone() }];
    let flows = [wanted[0].clone(), learned].into_iter().chain(strange.clone()).collect();
    let found = Found { flows, groups: vec![group(5, 1)], meters: vec![Meter::drop_pktps(6, 1, 1)] };
    let comparison = store.compare(&found);
    assert!(comparison.diff.puts().next().is_none());
    let mut gone = vec![Key::Meter(6), Key::Group(5)];
    gone.extend(strange.iter().map(|flow| Key::Flow(flow.key())));
    let deletes: std::collections::BTreeSet<_> = comparison.diff.deletes.into_iter().collect();
    assert_eq!(deletes, gone.into_iter().collect());
    // Also when nothing has it learn any more, where that is known.
    let mut other = BridgeStore::new().learning(9, 0xaff);
    other.stage([(&Owner::Node, &Change::flows(vec![expiring.clone()]))]).unwrap();
    let left: std::collections::BTreeSet<_> = other.compare(&found).diff.deletes.into_iter().collect();
    assert!(
        !left.contains(&Key::Flow(found.flows[1].key())) && left.contains(&Key::Flow(strange[1].key())),
        "{left:?}"
    );
    assert_eq!(comparison.expired, [Key::Flow(expiring.key())]);
    store.forget(&comparison.expired);
    assert_eq!(store.of(&Owner::Node), [Entry::Flow(wanted[0].clone())]);
}
