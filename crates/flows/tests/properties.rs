//! Whatever the order of changes, the differences lead to the flows that the final state asks for.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;

use antrea_flows::{
    Diff, FlowStore, Network, Owner,
    config::{Datapath, TunnelKind},
    policy::{
        Action, Class, Direction, MemberChange, Peers, PortRange, Protocol, Realizer, Rule, RuleChange,
        RuleError, Service,
    },
};
use openflow::{Flow, FlowCommand, FlowKey, Match};
use proptest::{collection::vec, prelude::*};
use support::{ip, network, pod};

/// What a switch would hold.
#[derive(Default)]
struct Replica(BTreeMap<FlowKey, Flow>);

impl Replica {
    /// Carries a difference out and checks that it says nothing needless.
    fn apply(&mut self, diff: &Diff) -> Result<(), TestCaseError> {
        for flow in &diff.adds {
            prop_assert!(self.0.insert(flow.key(), flow.clone()).is_none(), "added twice: {flow:?}");
        }
        for flow in &diff.mods {
            let old = self.0.insert(flow.key(), flow.clone());
            prop_assert!(old.as_ref().is_some_and(|old| old != flow), "{old:?} to {flow:?}");
        }
        for key in &diff.deletes {
            prop_assert!(self.0.remove(key).is_some(), "deleted, but not there: {key:?}");
        }
        Ok(())
    }

    fn flows(&self) -> Vec<Flow> {
        self.0.values().cloned().collect()
    }
}

fn by_key(mut flows: Vec<Flow>) -> Vec<Flow> {
    flows.sort_by_key(Flow::key);
    flows
}

fn flow() -> impl Strategy<Value = Flow> {
    (0u8..2, 0u16..2, 0u32..3, 0u64..2, 0u8..2).prop_map(|(table, priority, reg, cookie, to)| {
        Flow::new(table, priority).matching(Match::new().reg(0, reg)).cookie(cookie).goto(10 + to)
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
    fn store_is_the_union_of_its_owners(steps in vec((owner(), vec(flow(), 0..5)), 0..30)) {
        let mut store = FlowStore::new();
        let mut replica = Replica::default();
        let mut wanted: BTreeMap<Owner, BTreeMap<FlowKey, Flow>> = BTreeMap::new();
        for (owner, flows) in steps {
            let before = by_key(store.all());
            match store.set(&owner, flows.clone()) {
                Ok(diff) => {
                    replica.apply(&diff)?;
                    wanted.insert(owner.clone(), flows.iter().map(|f| (f.key(), f.clone())).collect());
                    let again = store.set(&owner, flows).expect("must not conflict with itself");
                    prop_assert!(again.is_empty());
                }
                Err(conflict) => {
                    prop_assert_eq!(&conflict.second, &owner);
                    let other = wanted.get(&conflict.first).and_then(|w| w.get(&conflict.key));
                    let mine = flows.iter().filter(|f| f.key() == *conflict.key);
                    prop_assert!(other.into_iter().chain(mine).collect::<std::collections::BTreeSet<_>>().len() > 1);
                    prop_assert_eq!(by_key(store.all()), before, "a conflict changes nothing");
                }
            }
            let union: BTreeMap<FlowKey, Flow> = wanted.values().flatten().map(|(k, f)| (k.clone(), f.clone())).collect();
            prop_assert_eq!(by_key(store.all()), union.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(replica.flows(), by_key(store.all()));
            for (owner, flows) in &wanted {
                prop_assert_eq!(by_key(store.of(owner)), flows.values().cloned().collect::<Vec<_>>());
                prop_assert_eq!(store.count_of(owner), flows.len());
            }
        }
    }

    #[test]
    fn repair_makes_any_switch_right(wanted in vec(flow(), 0..8), installed in vec(flow(), 0..8)) {
        let mut store = FlowStore::new();
        for flow in wanted {
            // Later ones win, as they would on a switch.
            let gone = vec![];
            store.update(&Owner::Node, vec![flow], gone).expect("must not conflict: one owner");
        }
        let mut replica = Replica(installed.into_iter().map(|f| (f.key(), f)).collect());
        let diff = store.diff_against(&replica.flows());
        replica.apply(&diff)?;
        prop_assert_eq!(replica.flows(), by_key(store.all()));
        prop_assert!(store.diff_against(&replica.flows()).is_empty());
    }

    #[test]
    fn appended_differences_end_the_same(sets in vec(vec(flow(), 0..5), 1..6)) {
        let mut store = FlowStore::new();
        let mut sum = Diff::default();
        for flows in sets {
            let mut unique: BTreeMap<FlowKey, Flow> = BTreeMap::new();
            unique.extend(flows.into_iter().map(|f| (f.key(), f)));
            sum.append(store.set(&Owner::Node, unique.into_values().collect()).expect("must not conflict"));
        }
        let mut switch: BTreeMap<FlowKey, Flow> = BTreeMap::new();
        let mut deleting = false;
        for change in sum.into_flow_mods() {
            match change.command {
                FlowCommand::Add => {
                    prop_assert!(!deleting, "deletions come last");
                    switch.insert(change.flow.key(), change.flow);
                }
                FlowCommand::DeleteStrict => {
                    deleting = true;
                    switch.remove(&change.flow.key());
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert_eq!(switch.into_values().collect::<Vec<_>>(), by_key(store.all()));
    }
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

fn rule() -> impl Strategy<Value = Rule> {
    let ids = prop_oneof![1u32..6, Just(1500)];
    let class = (0u8..3, 0u16..3);
    (ids, any::<bool>(), class, 0usize..4, pods(), proptest::option::of(peers()), vec(service(), 0..3))
        .prop_map(|(id, ingress, (class, priority), action, pods, peers, services)| Rule {
            id,
            direction: if ingress { Direction::In } else { Direction::Out },
            class: match class {
                0 => Class::K8s,
                1 => Class::Native { priority: 1000 + priority },
                _ => Class::Baseline { priority: 100 + priority },
            },
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
        let mut store = FlowStore::new();
        let mut replica = Replica::default();
        let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
        for batch in batches {
            let before = realizer.flows();
            match realizer.apply(batch.clone()) {
                Ok(diff) => {
                    replica.apply(&diff)?;
                    batch.iter().for_each(|change| model(&mut rules, change));
                    prop_assert_eq!(&store.apply(&Owner::Policy, diff.clone()).expect("must not conflict").len(), &diff.len());
                }
                Err(RuleError::Unknown { .. }) => prop_assert_eq!(realizer.flows(), before, "an error changes nothing"),
                Err(error) => prop_assert!(false, "{}", error),
            }
            let mut scratch = Realizer::new(&net);
            scratch.apply(rules.values().cloned().map(RuleChange::Upsert)).expect("must be valid rules");
            prop_assert_eq!(by_key(realizer.flows()), by_key(scratch.flows()));
            prop_assert_eq!(replica.flows(), by_key(scratch.flows()));
            prop_assert_eq!(by_key(store.of(&Owner::Policy)), by_key(scratch.flows()));
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
    assert!(diff.deletes.iter().all(|k| k.table != default));
    assert!(diff.mods.iter().chain(&diff.adds).all(|f| f.table != default));
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
