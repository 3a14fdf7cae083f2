//! Services and slices in any order of events against a computation from all objects at once.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use antrea_proxy::{
    Address, Backend, Endpoint, Frontend, MOST_ENDPOINTS, Port, Protocol, Served, Service, Services, Slice,
    SlicePort,
};
use proptest::{collection::vec, prelude::*};

type Objects = (BTreeMap<String, Service>, BTreeMap<(String, String), Slice>);

#[derive(Clone, Debug)]
enum Event {
    Service(String, Option<Service>),
    Slice(String, String, Option<Slice>),
}

fn address() -> impl Strategy<Value = Address> {
    (0u8..4, any::<bool>(), any::<bool>()).prop_map(|(n, v6, external)| {
        let ip: IpAddr = if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into() } else { [10, 96, 0, n].into() };
        if external { Address::External(ip) } else { Address::Cluster(ip) }
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

/// Addresses and ports of a Service differ, which reading it sees to.
fn service() -> impl Strategy<Value = Service> {
    let ports = vec((0u8..2, protocol(), 80u16..82), 1..3);
    (0i64..3, vec(address(), 1..3), ports, any::<bool>(), proptest::option::of(1u32..3)).prop_map(
        |(created, mut addresses, ports, internal_local, affinity)| {
            addresses.sort_by_key(|address| address.ip());
            addresses.dedup_by_key(|address| address.ip());
            let mut seen = BTreeSet::new();
            let ports = ports.into_iter().filter(|(_, protocol, port)| seen.insert((*protocol, *port)));
            let ports = ports.map(|(n, protocol, port)| Port {
                name: format!("{n}-{port}").into(),
                protocol,
                port,
                node_port: 0,
            });
            let (addresses, ports) = (addresses.into(), ports.collect());
            Service { created, addresses, ports, internal_local, affinity, ..Service::default() }
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (0u8..4, any::<[bool; 5]>(), 0u8..3).prop_map(|(n, [v6, ready, serving, terminating, local], hint)| {
        let ip: IpAddr =
            if v6 { [0xfd01, 0, 0, 0, 0, 0, 0, n.into()].into() } else { [10, 244, 0, n].into() };
        let zone = match hint {
            0 => Default::default(),
            1 => antrea_proxy::Hint::Here,
            _ => antrea_proxy::Hint::Elsewhere,
        };
        Endpoint { ip, ready, serving, terminating, local, node_hint: Default::default(), zone_hint: zone }
    })
}

fn slice() -> impl Strategy<Value = Slice> {
    let port = (0u8..2, 80u16..82, protocol(), 8080u16..8082).prop_map(|(n, port, protocol, number)| {
        SlicePort { name: format!("{n}-{port}").into(), protocol, port: number }
    });
    (vec(port, 0..4), vec(endpoint(), 0..5))
        .prop_map(|(ports, endpoints)| Slice { ports: ports.into(), endpoints: endpoints.into() })
}

fn event() -> impl Strategy<Value = Event> {
    let name = || (0u8..4).prop_map(|n| format!("default/s{n}"));
    prop_oneof![
        (name(), proptest::option::weighted(0.8, service())).prop_map(|(n, s)| Event::Service(n, s)),
        (name(), 0u8..2, proptest::option::weighted(0.8, slice())).prop_map(|(n, k, s)| Event::Slice(
            n,
            format!("slice{k}"),
            s
        )),
    ]
}

/// What each Service should be served with, by frontend: nothing but definitions.
fn expected((services, slices): &Objects) -> BTreeMap<Frontend, (String, BTreeSet<SocketAddr>, Option<u32>)> {
    let mut claimed: BTreeMap<Frontend, Vec<(i64, &String, bool, &Port)>> = BTreeMap::new();
    for (name, service) in services {
        for port in &service.ports {
            for address in &service.addresses {
                let frontend = Frontend { ip: address.ip(), protocol: port.protocol, port: port.port };
                let local = service.internal_local && matches!(address, Address::Cluster(_));
                claimed.entry(frontend).or_default().push((service.created, name, local, port));
            }
        }
    }
    let mut all = BTreeMap::new();
    for (frontend, claims) in claimed {
        let (_, name, local, port) =
            claims.into_iter().min_by_key(|(created, name, ..)| (*created, *name)).unwrap();
        let mut told: HashMap<SocketAddr, Vec<Endpoint>> = HashMap::new();
        for ((_, slice), number) in slices.iter().filter(|((service, _), _)| service == name).flat_map(|s| {
            s.1.ports
                .iter()
                .filter(|p| p.name == port.name && p.protocol == port.protocol)
                .map(move |p| (s, p.port))
        }) {
            for endpoint in slice.endpoints.iter().filter(|e| e.ip.is_ipv6() == frontend.ip.is_ipv6()) {
                told.entry(SocketAddr::new(endpoint.ip, number)).or_default().push(*endpoint);
            }
        }
        // The best of what is told of one: ready, then ending, then in the order of the slices.
        let best = |es: &Vec<Endpoint>| {
            *es.iter().min_by_key(|e| (!e.ready, !(e.serving && e.terminating))).unwrap()
        };
        let mut every: Vec<(SocketAddr, Endpoint)> = told.iter().map(|(a, es)| (*a, best(es))).collect();
        if local {
            every.retain(|(_, e)| e.local);
        }
        let ready: Vec<_> = every.iter().filter(|(_, e)| e.ready).collect();
        let zoned: Vec<_> =
            ready.iter().filter(|(_, e)| e.zone_hint == antrea_proxy::Hint::Here).copied().collect();
        let chosen: BTreeSet<SocketAddr> = if ready.is_empty() {
            every.iter().filter(|(_, e)| e.serving && e.terminating).map(|(a, _)| *a).collect()
        } else if !local
            && !zoned.is_empty()
            && ready.iter().all(|(_, e)| e.zone_hint != antrea_proxy::Hint::Absent)
        {
            zoned.into_iter().map(|(a, _)| *a).collect()
        } else {
            ready.into_iter().map(|(a, _)| *a).collect()
        };
        if !chosen.is_empty() {
            all.insert(frontend, (name.clone(), chosen, services[name].affinity));
        }
    }
    all
}

/// Who has each frontend, with or without an endpoint.
fn held((services, _): &Objects) -> BTreeMap<Frontend, String> {
    let mut oldest: BTreeMap<Frontend, (i64, &String)> = BTreeMap::new();
    for (name, service) in services {
        for (port, address) in
            service.ports.iter().flat_map(|port| service.addresses.iter().map(move |a| (port, a)))
        {
            let frontend = Frontend { ip: address.ip(), protocol: port.protocol, port: port.port };
            let claim = (service.created, name);
            let first = oldest.entry(frontend).or_insert(claim);
            *first = claim.min(*first);
        }
    }
    oldest.into_iter().map(|(frontend, (_, name))| (frontend, name.clone())).collect()
}

fn reached(served: &BTreeMap<String, Served>) -> BTreeMap<Frontend, String> {
    let mut all = BTreeMap::new();
    for (name, served) in served {
        for frontend in served.reached.values().flatten() {
            assert!(all.insert(*frontend, name.clone()).is_none(), "{frontend} is two Services'");
        }
        assert!(served.backends.iter().all(|backend| served.reached.contains_key(&backend.group)));
    }
    all
}

fn by_frontend(
    served: &BTreeMap<String, Served>,
) -> BTreeMap<Frontend, (String, BTreeSet<SocketAddr>, Option<u32>)> {
    let mut all = BTreeMap::new();
    for (name, served) in served {
        for Backend { frontends, endpoints, affinity, .. } in &served.backends {
            assert!(endpoints.is_sorted() && !endpoints.is_empty() && !frontends.is_empty());
            for frontend in frontends {
                let was =
                    all.insert(*frontend, (name.clone(), endpoints.iter().copied().collect(), *affinity));
                assert!(was.is_none(), "{frontend} is served twice");
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn an_event_tells_all_that_changed(batches in vec(vec(event(), 1..4), 1..12)) {
        let mut services = Services::new();
        let mut objects = Objects::default();
        let mut served: BTreeMap<String, Served> = BTreeMap::new();
        for batch in batches {
            for event in batch {
                match event {
                    Event::Service(name, service) => {
                        services.set_service(&name, service.clone());
                        match service {
                            Some(service) => objects.0.insert(name, service),
                            None => objects.0.remove(&name),
                        };
                    }
                    Event::Slice(name, slice, content) => {
                        services.set_slice(&name, &slice, content.clone());
                        match content {
                            Some(content) => objects.1.insert((name, slice), content),
                            None => objects.1.remove(&(name, slice)),
                        };
                    }
                }
            }
            let drained = services.drain();
            for (name, now) in drained.services {
                served.insert(name.to_string(), now);
            }
            drained.stale.iter().for_each(|(name, ways)| services.forgotten(name, ways));
            prop_assert_eq!(by_frontend(&served), expected(&objects));
            prop_assert_eq!(reached(&served), held(&objects));
            for (name, reached) in services.reached() {
                let last = served.get(&**name).map(|served| served.reached.clone()).unwrap_or_default();
                prop_assert_eq!(reached, &last, "as it was drained");
            }
            let groups: Vec<u32> = served.values().flat_map(|s| s.reached.keys().copied()).collect();
            let distinct: BTreeSet<u32> = groups.iter().copied().collect();
            prop_assert_eq!(distinct.len(), groups.len(), "a group has one purpose");
            prop_assert!(services.drain().services.is_empty());
        }
        // Nothing stays of what is gone.
        for name in objects.0.keys() {
            services.set_service(name, None);
        }
        for (name, slice) in objects.1.keys() {
            services.set_slice(name, slice, None);
        }
        let drained = services.drain();
        prop_assert!(drained.services.iter().all(|(_, served)| served.backends.is_empty()));
        drained.stale.iter().for_each(|(name, ways)| services.forgotten(name, ways));
        prop_assert_eq!(services.names().count(), 0);
    }
}

fn web(created: i64, addresses: &[&str]) -> Service {
    Service {
        created,
        addresses: addresses.iter().map(|ip| Address::Cluster(ip.parse().unwrap())).collect(),
        ports: [Port { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }].into(),
        ..Service::default()
    }
}

fn pods(count: u32) -> Slice {
    let endpoint = |n: u32| Endpoint {
        ip: IpAddr::from((0x0af4_0000 + n).to_be_bytes()),
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        node_hint: Default::default(),
        zone_hint: Default::default(),
    };
    Slice {
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: (0..count).map(endpoint).collect(),
    }
}

/// The younger Service keeps what is its own, and gets the rest when the older one goes.
#[test]
fn a_frontend_that_two_services_claim_is_the_older_ones() {
    let mut services = Services::new();
    services.set_service("b/young", Some(web(2, &["10.96.0.1", "10.96.0.2"])));
    services.set_service("c/old", Some(web(1, &["10.96.0.1"])));
    for name in ["b/young", "c/old"] {
        services.set_slice(name, "s", Some(pods(1)));
    }
    let frontends = |drained: &antrea_proxy::Drained, name: &str| -> Vec<String> {
        let (_, served) = drained.services.iter().find(|(n, _)| &**n == name).unwrap();
        served.backends.iter().flat_map(|b| &b.frontends).map(|f| f.ip.to_string()).collect()
    };
    let drained = services.drain();
    assert_eq!(frontends(&drained, "c/old"), ["10.96.0.1"]);
    assert_eq!(frontends(&drained, "b/young"), ["10.96.0.2"]);
    let problems: Vec<String> = drained.problems.iter().map(ToString::to_string).collect();
    let clash = "Service b/young: spec: 10.96.0.1 TCP port 80 is already served for the older Service c/old";
    assert_eq!(problems, [clash]);
    services.set_service("c/old", None);
    let drained = services.drain();
    assert_eq!(frontends(&drained, "b/young"), ["10.96.0.1", "10.96.0.2"]);
    assert!(drained.problems.is_empty());
}

/// Whoever translates may not be able to, and is told again until he has.
#[test]
fn ways_of_datagrams_are_told_until_they_are_forgotten() {
    let mut services = Services::new();
    let mut dns = web(0, &["10.96.0.1"]);
    dns.ports = [Port { name: "".into(), protocol: Protocol::Udp, port: 53, node_port: 0 }].into();
    let of = |count| {
        let mut pods = pods(count);
        pods.ports = [SlicePort { name: "".into(), protocol: Protocol::Udp, port: 53 }].into();
        Some(pods)
    };
    let name: Arc<str> = "default/dns".into();
    let stale = |services: &mut Services| -> Vec<String> {
        let drained = services.drain();
        assert!(drained.stale.iter().all(|(of, _)| *of == name));
        drained
            .stale
            .iter()
            .flat_map(|(_, ways)| ways)
            .map(|(_, endpoint)| endpoint.ip().to_string())
            .collect()
    };
    services.set_service(&name, Some(dns));
    services.set_slice(&name, "s", of(3));
    assert!(stale(&mut services).is_empty());
    services.set_slice(&name, "s", of(1));
    assert_eq!(stale(&mut services), ["10.244.0.1", "10.244.0.2"]);
    services.again(&name);
    assert_eq!(stale(&mut services), ["10.244.0.1", "10.244.0.2"]);
    // One is served again, and the other is forgotten.
    services.set_slice(&name, "s", of(2));
    let left = services.drain().stale;
    assert_eq!(left[0].1.len(), 1);
    services.forgotten(&name, &left[0].1);
    services.again(&name);
    assert!(stale(&mut services).is_empty());
    // So it is with all of a Service that is gone.
    services.set_service(&name, None);
    services.set_slice(&name, "s", None);
    let gone = services.drain().stale;
    assert_eq!((gone[0].1.len(), services.names().count()), (2, 1));
    services.forgotten(&name, &gone[0].1);
    assert_eq!(services.names().count(), 0);
}

#[test]
fn an_event_touches_its_service_alone() {
    let mut services = Services::new();
    for n in 0..100u8 {
        services.set_service(&format!("default/s{n}"), Some(web(0, &[&format!("10.96.1.{n}")])));
        services.set_slice(&format!("default/s{n}"), "s", Some(pods(3)));
    }
    assert_eq!(services.drain().services.len(), 100);
    services.set_slice("default/s7", "s", Some(pods(4)));
    services.set_slice("default/s8", "s", Some(pods(3)));
    let drained = services.drain();
    assert_eq!(drained.services.len(), 1, "{drained:?}");
    assert_eq!(drained.services[0].1.backends[0].endpoints.len(), 4);
}

#[test]
fn more_endpoints_than_a_node_takes_are_cut_and_told() {
    let mut services = Services::new();
    services.set_service("default/large", Some(web(0, &["10.96.0.1"])));
    services.set_slice("default/large", "s", Some(pods(MOST_ENDPOINTS as u32 + 1)));
    let drained = services.drain();
    assert_eq!(drained.services[0].1.backends[0].endpoints.len(), MOST_ENDPOINTS);
    assert!(drained.problems[0].message.starts_with("20001 endpoints"), "{:?}", drained.problems);
}
