//! Rules: what the realizer comes to change by change is what it makes of the rules that are left.

use super::*;

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

/// Where Services are reached, in the cluster's range and out of it.
fn targets() -> impl Strategy<Value = Targets> {
    const FRONTENDS: [&str; 4] = ["10.96.0.1:80", "10.96.0.1:81", "192.0.2.1:80", "[fd00:96::1]:80"];
    let frontend = (any::<bool>(), 0..FRONTENDS.len()).prop_map(|(tcp, at)| Frontend {
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
        address: FRONTENDS[at].parse().unwrap(),
    });
    let frontends = proptest::collection::btree_set(frontend, 0..3);
    proptest::collection::btree_map(prop_oneof![Just(256u32), Just(512)], frontends, 0..3)
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
    let other = (proptest::option::of(peers()), proptest::option::weighted(0.3, targets()));
    (ids, any::<bool>(), class, 0usize..4, pods(), other, vec(service(), 0..3))
        .prop_map(|(id, ingress, class, action, pods, (peers, targets), services)| {
            let targets = targets.filter(|_| !ingress);
            let services = if targets.is_some() { vec![] } else { services };
            (id, ingress, class, action, pods, (peers, targets), services)
        })
        .prop_map(|(id, ingress, (class, priority), action, pods, (peers, targets), services)| Rule {
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
            logs: services.len() % 2 == 1,
            peers: match (targets, peers) {
                (Some(targets), _) => Peers::Services(targets),
                (None, Some(peers)) => Peers::Of(peers.into_iter().collect()),
                (None, None) => Peers::Any,
            },
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
    let mut config = node(Datapath::Userspace, TunnelKind::KernelVxlan);
    config.services = true;
    Network::new(config, Round(7))
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
                    let undo = store.stage([(&Owner::Policy, &change)]).expect("must not conflict");
                    prop_assert_eq!(store.difference([&undo]), diff);
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
        logs: false,
    }
}

#[test]
fn a_member_costs_one_flow() {
    let mut realizer = Realizer::new(&userspace());
    realizer.upsert_rule(k8s(1, 10_000)).unwrap();
    let change = MemberChange { added_peers: vec![ip("192.0.2.1").into()], ..MemberChange::default() };
    let diff = realizer.apply([RuleChange::Members(1, change)]).unwrap();
    assert_eq!((diff.adds.len(), diff.mods.len(), diff.deletes.len()), (1, 0, 0));
    let change = MemberChange { added_pods: vec![(2, pod(2).ips.into())], ..MemberChange::default() };
    let diff = realizer.apply([RuleChange::Members(1, change)]).unwrap();
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
    let longest = realizer.flows().iter().map(|f| f.actions.iter().count()).max().unwrap();
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
        realizer.apply([RuleChange::Members(7, MemberChange::default())]).unwrap_err().to_string(),
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
