//! Random policies on a real switch, against an evaluator that reads the rules one by one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::net::IpAddr;

use antrea_flows::{
    HOST_PROCESS_MAC,
    config::{Datapath, TunnelKind},
    policy::{
        Action, Class, Direction, MemberChange, Peers, PortRange, Protocol, Realizer, Rule, RuleChange,
        Service,
    },
};
use anyhow::Result;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use support::{Frame, connectivity, ip, network, pod, switch, syn, udp};

/// Who can talk: (name, IPv4, IPv6).
const HOSTS: [(&str, &str, &str); 6] = [
    ("p1", "10.244.1.11", "fd00:1::11"),
    ("p2", "10.244.1.12", "fd00:1::12"),
    ("p3", "10.244.1.13", "fd00:1::13"),
    ("tun", "10.244.2.7", "fd00:2::7"),
    ("gw", "198.51.100.1", "2001:db8::1"),
    ("gw", "10.244.1.1", "fd00:1::1"),
];

const PEERS: [&str; 9] = [
    "10.244.1.11/32",
    "10.244.1.12/32",
    "10.244.2.7/32",
    "10.244.0.0/16",
    "198.51.100.0/25",
    "0.0.0.0/0",
    "fd00:1::12/128",
    "fd00:2::/64",
    "::/0",
];

const PROBES: [(Protocol, u16); 4] =
    [(Protocol::Tcp, 80), (Protocol::Tcp, 8081), (Protocol::Udp, 80), (Protocol::Udp, 53)];

fn service() -> impl Strategy<Value = Service> {
    let ports = prop_oneof![Just((80, 80)), Just((53, 80)), Just((8000, 8999)), Just((1, 65535))];
    (any::<bool>(), proptest::option::of(ports)).prop_map(|(tcp, ports)| Service {
        ports: ports.map(|(a, b)| PortRange::new(a, b).unwrap()),
        ..Service::all(if tcp { Protocol::Tcp } else { Protocol::Udp })
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let pods = proptest::collection::btree_set(1u32..4, 0..3);
    let peers = proptest::option::weighted(0.7, proptest::collection::btree_set(0..PEERS.len(), 0..4));
    let one = (any::<bool>(), 0u8..4, 0u8..4, pods, peers, vec(service(), 0..3));
    vec(one, 1..7).prop_map(|rules| {
        let build = |(n, (ingress, class, action, pods, peers, services)): (usize, _)| {
            let pods: std::collections::BTreeSet<u32> = pods;
            let peers: Option<std::collections::BTreeSet<usize>> = peers;
            Rule {
                id: n as u32 + 1,
                direction: if ingress { Direction::In } else { Direction::Out },
                class: match class {
                    0 => Class::Native { priority: 5000 - n as u16 },
                    1 => Class::Baseline { priority: 150 - n as u16 },
                    _ => Class::K8s,
                },
                action: match (class, action) {
                    (2.., _) | (_, 0) => Action::Allow,
                    (0, 1) => Action::Pass,
                    (_, 2) => Action::Reject,
                    _ => Action::Drop,
                },
                pods: pods.into_iter().map(|p| (p, pod(p).ips.into())).collect(),
                peers: peers.map_or(Peers::Any, |p| {
                    Peers::Of(p.into_iter().map(|p| PEERS[p].parse().unwrap()).collect())
                }),
                services,
                logs: false,
            }
        };
        rules.into_iter().enumerate().map(build).collect()
    })
}

struct Probe {
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    port: u16,
}

fn matches(rule: &Rule, peer: IpAddr, probe: &Probe) -> bool {
    let peer_ok = match &rule.peers {
        Peers::Any => true,
        Peers::Of(nets) => nets.iter().any(|net| net.contains(&peer)),
        // tests/targets.rs
        Peers::Services(_) => false,
    };
    let service_ok = rule.services.is_empty()
        || rule
            .services
            .iter()
            .any(|s| s.protocol == probe.protocol && s.ports.is_none_or(|p| p.contains(probe.port)));
    peer_ok && service_ok
}

/// What the policies of one pod say in one direction.
fn allows(rules: &[Rule], direction: Direction, me: u32, peer: IpAddr, probe: &Probe) -> bool {
    let mine: Vec<&Rule> =
        rules.iter().filter(|r| r.direction == direction && r.pods.contains_key(&me)).collect();
    let ranked = |pick: fn(&Class) -> Option<u16>| {
        let mut ranked: Vec<(u16, &Rule)> = mine.iter().filter_map(|r| Some((pick(&r.class)?, *r))).collect();
        ranked.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        ranked.into_iter().map(|(_, r)| r).find(|r| matches(r, peer, probe)).map(|r| r.action)
    };
    match ranked(|c| if let Class::Native { priority } = c { Some(*priority) } else { None }) {
        Some(Action::Allow) => return true,
        Some(Action::Drop | Action::Reject) => return false,
        Some(Action::Pass) | None => {}
    }
    let k8s: Vec<&&Rule> = mine.iter().filter(|r| r.class == Class::K8s).collect();
    if !k8s.is_empty() {
        return k8s.iter().any(|r| matches(r, peer, probe));
    }
    let baseline = ranked(|c| if let Class::Baseline { priority } = c { Some(*priority) } else { None });
    !matches!(baseline, Some(Action::Drop | Action::Reject))
}

fn local(name: &str) -> Option<u32> {
    name.strip_prefix('p').map(|n| n.parse().unwrap())
}

#[test]
fn the_switch_decides_as_the_rules_say() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    let base: Vec<String> = {
        let mut flows = connectivity(&net);
        flows.extend(antrea_flows::pod(&net, &pod(3)));
        flows.iter().map(ToString::to_string).collect()
    };
    let sw = std::cell::RefCell::new(switch()?);
    let counts = std::cell::Cell::new((0u32, 0u32));
    let config = ProptestConfig {
        cases: 24,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let change = (0usize..7, vec(0..PEERS.len(), 0..2), vec(0..PEERS.len(), 0..2));
    runner.run(&(rules(), proptest::option::of(change)), |(mut rules, change)| {
        let mut sw = sw.borrow_mut();
        let mut realizer = Realizer::new(&net);
        realizer.apply(rules.iter().cloned().map(RuleChange::Upsert)).unwrap();
        if let Some((n, removed, added)) = change
            && let Some(rule) = rules.get_mut(n)
        {
            let nets = |ns: Vec<usize>| {
                ns.into_iter().map(|n| PEERS[n].parse().unwrap()).collect::<Vec<ipnet::IpNet>>()
            };
            let (removed_peers, added_peers) = (nets(removed), nets(added));
            if let Peers::Of(peers) = &mut rule.peers {
                peers.retain(|p| !removed_peers.contains(p));
                peers.extend(added_peers.iter().copied());
            }
            let change = MemberChange { removed_peers, added_peers, ..MemberChange::default() };
            realizer.apply([RuleChange::Members(rule.id, change)]).unwrap();
        }
        sw.install(base.iter().cloned().chain(realizer.flows().iter().map(ToString::to_string))).unwrap();
        sw.flush_connections().unwrap();
        for (from, from4, from6) in HOSTS {
            for (to, to4, to6) in HOSTS {
                // Within the host nothing reaches the bridge; the peer's address is not here.
                if from4 == to4 || (local(from).is_none() && local(to).is_none()) {
                    continue;
                }
                for (n, (protocol, port)) in PROBES.into_iter().enumerate() {
                    let (src, dst) = if n % 2 == 0 { (ip(from4), ip(to4)) } else { (ip(from6), ip(to6)) };
                    let probe = Probe { src, dst, protocol, port };
                    let l4 = if protocol == Protocol::Tcp { syn(40000, port) } else { udp(40000, port) };
                    // Every other time the gateway's address stands for what is forwarded and masqueraded.
                    let from_node = (src == ip("10.244.1.1") || src == ip("fd00:1::1")) && n < 2;
                    let frame = match from {
                        "tun" => Frame::from_tunnel(src, dst, l4),
                        "gw" if from_node => {
                            Frame { dst_mac: HOST_PROCESS_MAC, ..Frame::from_host(src, dst, l4) }
                        }
                        "gw" => Frame::from_host(src, dst, l4),
                        _ => Frame::from_pod(local(from).unwrap(), dst, l4),
                    };
                    let egress =
                        local(from).is_none_or(|me| allows(&rules, Direction::Out, me, probe.dst, &probe));
                    let ingress = from_node
                        || local(to).is_none_or(|me| allows(&rules, Direction::In, me, probe.src, &probe));
                    let out = sw.receive(from, &frame.text()).unwrap();
                    let arrived = out.iter().any(|(port, _)| port == to);
                    prop_assert_eq!(
                        arrived,
                        egress && ingress,
                        "{} > {} {:?} {}: {:?}\n{:#?}",
                        src,
                        dst,
                        protocol,
                        port,
                        out,
                        rules
                    );
                    prop_assert!(out.len() <= 1);
                    let (yes, no) = counts.get();
                    counts.set(if arrived { (yes + 1, no) } else { (yes, no + 1) });
                }
            }
        }
        Ok(())
    })?;
    let (yes, no) = counts.get();
    assert!(yes > 100 && no > 100, "the policies were one-sided: {yes} passed, {no} dropped");
    println!("{yes} packets passed, {no} were dropped");
    Ok(())
}

/// The policy of datapath probes judges its receiver and nobody else, beside whatever policies say of the same addresses and
/// ports, and none of its flows is one of theirs.
#[test]
fn the_policy_of_probes_touches_the_receiver_alone() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    let receiver = pod(2);
    let own = antrea_flows::policy::probe(&net, &receiver, &pod(1).ips, 7001).unwrap();
    let peers = Peers::Of(pod(1).ips.iter().map(|ip| (*ip).into()).collect());
    let like = |id| Rule {
        id,
        direction: Direction::In,
        class: Class::K8s,
        action: Action::Allow,
        pods: [(3, pod(3).ips.iter().copied().collect())].into(),
        peers: peers.clone(),
        services: vec![Service::to(Protocol::Tcp, PortRange::single(7001))],
        logs: false,
    };
    let mut realizer = Realizer::new(&net);
    realizer.apply((1..2000).map(|id| RuleChange::Upsert(like(id)))).unwrap();
    let policies = realizer.flows();
    let shared = own.iter().filter(|flow| policies.iter().any(|other| other.key() == flow.key()));
    assert_eq!(shared.count(), 0);

    let mut flows = connectivity(&net);
    flows.extend(antrea_flows::pod(&net, &pod(3)));
    flows.extend(own);
    let mut sw = switch()?;
    sw.install(flows.iter().map(ToString::to_string))?;
    for (from, to, port, passes) in [
        (1, 2, 7001, true),
        (1, 2, 7002, false),
        (3, 2, 7001, false),
        (1, 3, 7002, true),
        (3, 1, 7002, true),
        (2, 1, 7002, true),
    ] {
        for family in [0, 1] {
            let frame = Frame::from_pod(from, pod(to).ips[family], syn(40000, port));
            let out = sw.receive(&format!("p{from}"), &frame.text())?;
            let arrived = out.iter().any(|(port, _)| *port == format!("p{to}"));
            assert_eq!(arrived, passes, "{from} > {to}:{port}, {family}: {out:?}");
        }
    }
    Ok(())
}
