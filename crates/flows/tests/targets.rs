//! Rules about Services, through a real switch with a real connection tracker, against an evaluator that reads them one
//! by one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::net::{IpAddr, SocketAddr};

use antrea_flows::{
    Entry, Network, Round, ServiceBackend, Table, Transport,
    config::{Datapath, TunnelKind},
    policy::{Action, Class, Direction, Frontend, Peers, Protocol, Realizer, Rule, Targets},
};
use anyhow::Result;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use support::{Frame, connectivity, ip, node, pod, switch, switch::Switch, syn, udp};

/// Service 0 and 1 have one endpoint, and it is the same; 1 keeps clients, and is reached from outside the cluster's range
/// too. 2 has none.
const GROUPS: [u32; 3] = [256, 512, 768];

struct Family {
    services: [IpAddr; 3],
    external: IpAddr,
    server: IpAddr,
    client: IpAddr,
}

fn families() -> [Family; 2] {
    [
        Family {
            services: [ip("10.96.0.10"), ip("10.96.0.11"), ip("10.96.0.12")],
            external: ip("192.0.2.10"),
            server: ip("10.244.1.12"),
            client: ip("10.244.1.11"),
        },
        Family {
            services: [ip("fd00:96::10"), ip("fd00:96::11"), ip("fd00:96::12")],
            external: ip("2001:db8::10"),
            server: ip("fd00:1::12"),
            client: ip("fd00:1::11"),
        },
    ]
}

fn net() -> Network {
    let mut config = node(Datapath::Userspace, TunnelKind::KernelVxlan);
    config.services = true;
    Network::new(config, Round(7))
}

fn frontends(of: &Family, service: usize) -> Vec<SocketAddr> {
    let outside = (service == 1).then_some(of.external);
    std::iter::once(of.services[service]).chain(outside).map(|ip| SocketAddr::new(ip, 80)).collect()
}

/// Groups of a family are its own.
fn group(service: usize, v6: bool) -> u32 {
    GROUPS[service] + if v6 { 4096 } else { 0 }
}

fn targets(services: &[usize]) -> Targets {
    let mut targets = Targets::new();
    for of in families() {
        for service in services {
            let at = targets.entry(group(*service, of.client.is_ipv6())).or_default();
            for address in frontends(&of, *service) {
                at.extend([Protocol::Tcp, Protocol::Udp].map(|protocol| Frontend { protocol, address }));
            }
        }
    }
    targets
}

/// TCP and UDP have groups of their own, which what marks does not depend on.
fn backends() -> Vec<ServiceBackend> {
    let mut all = Vec::new();
    for of in families() {
        for service in 0..2 {
            for (transport, more) in [(Transport::Tcp, 0), (Transport::Udp, 65536)] {
                all.push(ServiceBackend {
                    group: group(service, of.client.is_ipv6()) + more,
                    transport,
                    frontends: frontends(&of, service),
                    outside: Vec::new(),
                    endpoints: vec![SocketAddr::new(of.server, 8080)],
                    affinity: (service == 1).then_some(100),
                });
            }
        }
    }
    all
}

/// Groups and flows of Services.
fn serving(net: &Network) -> [Vec<String>; 2] {
    let entries: Vec<Entry> = backends().iter().flat_map(|b| antrea_flows::service_backend(net, b)).collect();
    let of = |groups: bool| {
        let found = entries.iter().filter(|entry| matches!(entry, Entry::Group(_)) == groups);
        found.map(ToString::to_string).collect()
    };
    [of(true), of(false)]
}

fn ready(net: &Network) -> Result<Switch> {
    let sw = switch()?;
    sw.add_entries(&serving(net)[0], &[])?;
    install(&sw, net, &[]);
    Ok(sw)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Service(usize),
    External,
    Endpoint,
}

const ALL: [To; 5] = [To::Service(0), To::Service(1), To::Service(2), To::External, To::Endpoint];

fn address(of: &Family, to: To) -> SocketAddr {
    match to {
        To::Service(service) => SocketAddr::new(of.services[service], 80),
        To::External => SocketAddr::new(of.external, 80),
        To::Endpoint => SocketAddr::new(of.server, 8080),
    }
}

/// Where a packet of the client comes out.
fn out(sw: &mut Switch, of: &Family, to: To, tcp: bool, sport: u16) -> Option<String> {
    let to = address(of, to);
    let l4 = if tcp { syn(sport, to.port()) } else { udp(sport, to.port()) };
    let found = sw.receive("p1", &Frame::from_pod(1, to.ip(), l4).text()).unwrap();
    assert!(found.len() <= 1, "{found:?}");
    found.into_iter().next().map(|(port, _)| port)
}

#[derive(Clone, Debug)]
enum About {
    Services(Vec<usize>),
    Endpoint,
    Everything,
}

fn rule(n: usize, action: Action, about: &About) -> Rule {
    let endpoints = || families().map(|of| of.server.into()).into();
    Rule {
        id: u32::try_from(n).unwrap() + 1,
        direction: Direction::Out,
        class: Class::Native { priority: 5000 - u16::try_from(n).unwrap() },
        action,
        pods: [(1, pod(1).ips.into())].into(),
        peers: match about {
            About::Services(services) => Peers::Services(targets(services)),
            About::Endpoint => Peers::Of(endpoints()),
            About::Everything => Peers::Any,
        },
        services: Vec::new(),
        logs: false,
    }
}

/// The first rule that is about it decides. What the bridge has no endpoint for is the host's, unless a rule denies the
/// Service, wherever that stands.
fn passes(rules: &[(Action, About)], to: To) -> bool {
    let service = match to {
        To::Service(service) => Some(service),
        To::External => Some(1),
        To::Endpoint => None,
    };
    let names =
        |about: &About| matches!((about, service), (About::Services(all), Some(one)) if all.contains(&one));
    let denies = |action: Action| matches!(action, Action::Drop | Action::Reject);
    if to == To::Service(2) {
        return !rules.iter().any(|(action, about)| denies(*action) && names(about));
    }
    let is_about = |about: &About| names(about) || !matches!(about, About::Services(_));
    let first = rules.iter().find(|(_, about)| is_about(about));
    first.is_none_or(|(action, _)| !denies(*action))
}

/// Has these rules in force and no others.
fn install(sw: &Switch, net: &Network, rules: &[(Action, About)]) {
    let mut realizer = Realizer::new(net);
    for (n, (action, about)) in rules.iter().enumerate() {
        realizer.upsert_rule(rule(n, *action, about)).unwrap();
    }
    let [_, services] = serving(net);
    let others = connectivity(net).into_iter().chain(realizer.flows()).map(|flow| flow.to_string());
    sw.install(others.chain(services)).unwrap();
}

#[test]
fn a_denied_service_is_denied_with_each_packet_and_its_endpoint_is_not() -> Result<()> {
    let net = net();
    let mut sw = ready(&net)?;
    install(&sw, &net, &[(Action::Drop, About::Services(vec![0, 2]))]);
    for of in families() {
        for tcp in [true, false] {
            // The second packet finds its translation known.
            for _ in 0..3 {
                assert_eq!(out(&mut sw, &of, To::Service(0), tcp, 1000), None);
                assert_eq!(out(&mut sw, &of, To::Service(2), tcp, 1000), None, "it does not go to the host");
            }
            assert_eq!(out(&mut sw, &of, To::Service(1), tcp, 1001).as_deref(), Some("p2"));
            assert_eq!(out(&mut sw, &of, To::Endpoint, tcp, 1002).as_deref(), Some("p2"));
            // Another port of its address is none of it.
            let other = Frame::from_pod(1, of.services[0], if tcp { syn(1003, 81) } else { udp(1003, 81) });
            assert_eq!(sw.receive("p1", &other.text())?[0].0, "gw");
        }
        // Nobody else is concerned.
        let other = sw.receive("p2", &Frame::from_pod(2, of.services[2], syn(1000, 80)).text())?;
        assert_eq!(other[0].0, "gw");
    }
    let table = net.pipeline.number(Table::EgressMetric).unwrap();
    let denied = sw.aggregate(&format!("table={table},reg3=1"))?;
    assert!(denied.contains("n_packets=24"), "each is counted: {denied}");
    Ok(())
}

#[test]
fn an_allowed_service_is_allowed_and_its_endpoint_is_not() -> Result<()> {
    let net = net();
    let mut sw = ready(&net)?;
    install(&sw, &net, &[(Action::Allow, About::Services(vec![1])), (Action::Drop, About::Everything)]);
    for of in families() {
        for tcp in [true, false] {
            for _ in 0..2 {
                assert_eq!(out(&mut sw, &of, To::Service(1), tcp, 1000).as_deref(), Some("p2"));
                assert_eq!(out(&mut sw, &of, To::External, tcp, 1001).as_deref(), Some("p2"));
                assert_eq!(out(&mut sw, &of, To::Service(0), tcp, 1002), None);
                assert_eq!(out(&mut sw, &of, To::Endpoint, tcp, 1003), None);
            }
        }
    }
    Ok(())
}

fn rules() -> impl Strategy<Value = Vec<(Action, About)>> {
    let about = prop_oneof![
        4 => vec(0usize..3, 1..3).prop_map(About::Services),
        1 => Just(About::Endpoint),
        1 => Just(About::Everything),
    ];
    let action =
        prop_oneof![Just(Action::Allow), Just(Action::Drop), Just(Action::Reject), Just(Action::Pass)];
    vec((action, about), 1..5)
}

#[test]
fn the_switch_decides_as_the_rules_say() -> Result<()> {
    let net = net();
    let sw = std::cell::RefCell::new(ready(&net)?);
    let config =
        ProptestConfig { cases: 24, max_shrink_iters: 40, failure_persistence: None, ..Default::default() };
    let counts = std::cell::Cell::new([0u32; 2]);
    TestRunner::new(config).run(&rules(), |rules| {
        let mut sw = sw.borrow_mut();
        install(&sw, &net, &rules);
        sw.flush_connections().unwrap();
        for of in families() {
            for (n, to) in ALL.into_iter().enumerate() {
                for tcp in [true, false] {
                    let right = passes(&rules, to);
                    let sport = 2000 + u16::try_from(n).unwrap();
                    for packet in 0..2 {
                        let found = out(&mut sw, &of, to, tcp, sport);
                        prop_assert_eq!(
                            found.is_some(),
                            right,
                            "{:?} tcp {} packet {}: {:?}",
                            to,
                            tcp,
                            packet,
                            rules
                        );
                    }
                    let mut seen = counts.get();
                    seen[usize::from(right)] += 1;
                    counts.set(seen);
                }
            }
        }
        Ok(())
    })?;
    let [no, yes] = counts.get();
    assert!(no > 50 && yes > 50, "the policies were one-sided: {yes} passed, {no} were dropped");
    Ok(())
}
