//! Whatever the order of changes, the differences lead to the flows that the final state asks for.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;

use antrea_flows::{
    BridgeStore, Change, Diff, Entry, Key, Network, Owner,
    config::{Datapath, TunnelKind},
    policy::{
        Action, Class, Direction, MemberChange, Peers, PortRange, Protocol, Realizer, Rule, RuleChange,
        RuleError, Service,
    },
    state::{Found, Steps},
};
use openflow::{
    Action as OfAction, Bucket, Flow, FlowCommand, Group, GroupCommand, GroupType, Match, Message, Meter,
    MeterCommand,
};
use proptest::{collection::vec, prelude::*};
use support::{ip, network, pod};

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
    store.stage([(owner, &Change::Whole(entries))]).map(|staged| staged.diff)
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
        if let Ok(staged) = store.stage(changes.iter().map(|(owner, change)| (owner, change))) {
            let mut replica = Replica(before.0.iter().map(|e| (e.key(), e.clone())).collect());
            replica.carry_out(staged.diff)?;
            prop_assert_eq!(replica.entries(), by_key(store.all()), "the difference of several is one");
            store.undo(staged.undo);
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
        let mut sum = store.compare(&replica.found()).diff;
        replica.carry_out(std::mem::take(&mut sum))?;
        for (owner, entries, send) in sets {
            if let Ok(diff) = set(&mut store, &owner, entries) {
                sum.append(diff);
            }
            if send {
                replica.carry_out(std::mem::take(&mut sum))?;
                prop_assert_eq!(replica.entries(), by_key(store.all()));
            }
        }
        replica.carry_out(sum)?;
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

const PEERS: [&str; 6] =
    ["10.244.2.7/32", "10.244.2.0/24", "192.0.2.0/24", "fd00:2::7/128", "0.0.0.0/0", "fd00:2::/64"];

fn peers() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    vec(0..PEERS.len(), 0..4).prop_map(|ns| ns.into_iter().map(|n| PEERS[n].parse().unwrap()).collect())
}

fn pods() -> impl Strategy<Value = Vec<(u32, antrea_flows::policy::PodIps)>> {
    // A pod may come back on the same port with another address.
    vec((1u32..4, 0u32..2), 0..3)
        .prop_map(|ps| ps.into_iter().map(|(port, shift)| (port, pod(port + shift).ips.into())).collect())
}

fn service() -> impl Strategy<Value = Service> {
    prop_oneof![
        (0usize..3, 1u16..100, 0u16..9).prop_map(|(p, first, more)| Service::to(
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][p],
            PortRange::new(first, first + more).unwrap()
        )),
        Just(Service::all(Protocol::Tcp)),
        Just(Service { icmp_type: Some(8), ..Service::all(Protocol::Icmp) }),
    ]
}

fn class_of(class: u8, priority: u16) -> Class {
    match class {
        0 => Class::K8s,
        1 => Class::Native { priority: 1000 + priority },
        _ => Class::Baseline { priority: 100 + priority },
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let ids = prop_oneof![1u32..6, Just(1500)];
    let class = (0u8..3, 0u16..3);
    (ids, any::<bool>(), class, 0usize..4, pods(), proptest::option::of(peers()), vec(service(), 0..3))
        .prop_map(|(id, ingress, (class, priority), action, pods, peers, services)| Rule {
            id,
            direction: if ingress { Direction::In } else { Direction::Out },
            class: class_of(class, priority),
            action: match (class, action) {
                (0, _) | (_, 0) => Action::Allow,
                (_, 1) => Action::Drop,
                (1, 2) => Action::Pass,
                _ => Action::Reject,
            },
            pods: pods.into_iter().collect(),
            peers: peers.map_or(Peers::Any, |p| Peers::Of(p.into_iter().collect())),
            services,
        })
}

fn change() -> impl Strategy<Value = RuleChange> {
    let ids = || prop_oneof![1u32..6, Just(1500)];
    prop_oneof![
        4 => rule().prop_map(RuleChange::Upsert),
        1 => ids().prop_map(RuleChange::Remove),
        2 => (ids(), 0u8..3, 0u16..3).prop_map(|(id, class, priority)| RuleChange::Class(id, class_of(class, priority))),
        4 => (ids(), vec(1u32..4, 0..2), pods(), peers(), peers()).prop_map(
            |(id, removed_pods, added_pods, removed_peers, added_peers)| RuleChange::Members(
                id,
                MemberChange { removed_pods, added_pods, removed_peers, added_peers }
            )
        ),
    ]
}

fn userspace() -> Network {
    network(Datapath::Userspace, TunnelKind::KernelVxlan)
}

/// The set of rules after a change, worked out without flows.
fn model(rules: &mut BTreeMap<u32, Rule>, change: &RuleChange) {
    match change.clone() {
        RuleChange::Upsert(rule) => {
            rules.insert(rule.id, rule);
        }
        RuleChange::Remove(id) => {
            rules.remove(&id);
        }
        RuleChange::Class(id, class) => {
            if let Some(rule) = rules.get_mut(&id) {
                rule.class = class;
            }
        }
        RuleChange::Members(id, change) => {
            if let Some(rule) = rules.get_mut(&id) {
                rule.pods.retain(|port, _| !change.removed_pods.contains(port));
                rule.pods.extend(change.added_pods);
                if let Peers::Of(nets) = &mut rule.peers {
                    nets.retain(|n| !change.removed_peers.contains(n));
                    nets.extend(change.added_peers);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn incremental_equals_from_scratch(batches in vec(vec(change(), 1..4), 1..12)) {
        let net = userspace();
        let mut realizer = Realizer::new(&net);
        let mut store = BridgeStore::new();
        let mut replica = Replica::default();
        let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
        for batch in batches {
            let before = realizer.flows();
            match realizer.apply(batch.clone()) {
                Ok(diff) => {
                    replica.apply(&diff)?;
                    batch.iter().for_each(|change| model(&mut rules, change));
                    let change = Change::Diff(diff.clone());
                    let staged = store.stage([(&Owner::Policy, &change)]).expect("must not conflict");
                    prop_assert_eq!(staged.diff, diff);
                }
                Err(
                    RuleError::Unknown { .. }
                    | RuleError::NotAllow { .. }
                    | RuleError::NothingToPassTo { .. },
                ) => prop_assert_eq!(realizer.flows(), before, "an error changes nothing"),
                Err(error) => prop_assert!(false, "{}", error),
            }
            let mut scratch = Realizer::new(&net);
            scratch.apply(rules.values().cloned().map(RuleChange::Upsert)).expect("must be valid rules");
            prop_assert_eq!(entries(realizer.flows()), entries(scratch.flows()));
            prop_assert_eq!(replica.entries(), entries(scratch.flows()));
            prop_assert_eq!(by_key(store.of(&Owner::Policy)), entries(scratch.flows()));
            prop_assert_eq!(realizer.flow_count(), scratch.flows().len());
        }
        let all: Vec<RuleChange> = rules.keys().map(|id| RuleChange::Remove(*id)).collect();
        realizer.apply(all).expect("must remove");
        prop_assert_eq!(realizer.flow_count(), 0);
    }
}

fn k8s(id: u32, n_peers: u32) -> Rule {
    Rule {
        id,
        direction: Direction::In,
        class: Class::K8s,
        action: Action::Allow,
        pods: [(1, pod(1).ips.into())].into(),
        peers: Peers::Of(
            (0..n_peers)
                .map(|n| std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n)).into())
                .collect(),
        ),
        services: vec![],
    }
}

#[test]
fn a_member_costs_one_flow() {
    let mut realizer = Realizer::new(&userspace());
    realizer.upsert_rule(k8s(1, 10_000)).unwrap();
    let change = MemberChange { added_peers: vec![ip("192.0.2.1").into()], ..MemberChange::default() };
    let diff = realizer.update_members(1, change).unwrap();
    assert_eq!((diff.adds.len(), diff.mods.len(), diff.deletes.len()), (1, 0, 0));
    let change = MemberChange { added_pods: vec![(2, pod(2).ips.into())], ..MemberChange::default() };
    let diff = realizer.update_members(1, change).unwrap();
    assert_eq!(
        (diff.adds.len(), diff.mods.len(), diff.deletes.len()),
        (2, 0, 0),
        "its clause and its isolation"
    );
}

/// No flow grows beyond what fits an OpenFlow message, however many rules select one pod.
#[test]
fn shared_flows_stay_small() {
    let mut realizer = Realizer::new(&userspace());
    realizer.apply((1..=10_000).map(|id| RuleChange::Upsert(k8s(id, 1)))).unwrap();
    let longest = realizer.flows().iter().map(|f| f.actions.len()).max().unwrap();
    assert!(longest <= 1024, "{longest}");
}

/// Replacing all rules of a pod in one step never takes its isolation away.
#[test]
fn isolation_survives_replacement() {
    let mut realizer = Realizer::new(&userspace());
    realizer.upsert_rule(k8s(1, 3)).unwrap();
    let diff = realizer.apply([RuleChange::Remove(1), RuleChange::Upsert(k8s(2, 3))]).unwrap();
    let default = userspace().pipeline.number(antrea_flows::Table::IngressDefaultRule).unwrap();
    let elsewhere = |key: &Key| matches!(key, Key::Flow(key) if key.table != default);
    assert!(diff.deletes.iter().all(elsewhere) && diff.puts().all(|entry| elsewhere(&entry.key())));
}

#[test]
fn impossible_rules_are_refused() {
    let mut realizer = Realizer::new(&userspace());
    let rule = |class, action| Rule { class, action, ..k8s(9, 1) };
    for (bad, message) in [
        (Rule { id: 0, ..k8s(1, 1) }, "rule id 0 is reserved"),
        (rule(Class::K8s, Action::Drop), "rule 9 of a Kubernetes policy does not allow"),
        (
            rule(Class::Native { priority: 64990 }, Action::Drop),
            "rule 9 has OpenFlow priority 64990, which its class does not have",
        ),
        (
            rule(Class::Baseline { priority: 200 }, Action::Drop),
            "rule 9 has OpenFlow priority 200, which its class does not have",
        ),
        (
            rule(Class::Baseline { priority: 100 }, Action::Pass),
            "rule 9 of the baseline tier passes, but nothing comes after it",
        ),
    ] {
        assert_eq!(realizer.upsert_rule(bad).unwrap_err().to_string(), message);
    }
    assert_eq!(
        realizer.update_members(7, MemberChange::default()).unwrap_err().to_string(),
        "rule 7 is not known"
    );
    let mut config = support::node(Datapath::Kernel, TunnelKind::FlowBased);
    config.antrea_policy = false;
    let mut realizer = Realizer::new(&Network::new(config, antrea_flows::Round::FIRST));
    assert_eq!(
        realizer.upsert_rule(rule(Class::Native { priority: 500 }, Action::Drop)).unwrap_err().to_string(),
        "rule 9 needs table AntreaPolicyIngressRule, which is not enabled"
    );
    assert_eq!(realizer.flow_count(), 0);
}
