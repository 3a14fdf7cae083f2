//! Services where the node's proxy serves everybody.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use antrea_proxy::{
    Address, Endpoint, Frontend, Health, Own, Port, Protocol, Served, Service, Services, Slice, SlicePort,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(addresses: &[&str]) -> Own {
    Own {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        stand_ins: vec![ip("169.254.0.252"), ip("fc01::2")],
    }
}

fn service(created: i64, cluster: &str, node_port: u16) -> Service {
    Service {
        created,
        addresses: [Address::Cluster(ip(cluster))].into(),
        ports: [Port { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port }].into(),
        ..Service::default()
    }
}

fn slice(endpoints: &[(&str, bool)]) -> Slice {
    let endpoint = |(text, local): &(&str, bool)| Endpoint {
        ip: ip(text),
        ready: true,
        serving: true,
        terminating: false,
        local: *local,
        node_hint: Default::default(),
        zone_hint: Default::default(),
    };
    Slice {
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

fn texts<'a>(frontends: impl IntoIterator<Item = &'a Frontend>) -> BTreeSet<String> {
    frontends.into_iter().map(|frontend| format!("{} {}", frontend.ip, frontend.port)).collect()
}

fn set(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(ToString::to_string).collect()
}

fn drained(services: &mut Services, name: &str) -> Served {
    let drained = services.drain();
    drained.services.into_iter().find(|(n, _)| &**n == name).unwrap().1
}

#[test]
fn node_ports_follow_the_nodes_addresses_and_the_services_families() {
    let mut services = Services::new();
    services.set_service("default/web", Some(service(0, "10.96.0.1", 30_080)));
    services.set_slice("default/web", "s", Some(slice(&[("10.244.1.7", true)])));
    let served = drained(&mut services, "default/web");
    assert_eq!(texts(&served.backends[0].frontends), set(&["10.96.0.1 80"]), "kube-proxy serves the rest");
    services.set_own(own(&["192.0.2.11", "2001:db8::11"]));
    let served = drained(&mut services, "default/web");
    let all = set(&["10.96.0.1 80", "192.0.2.11 30080", "169.254.0.252 30080"]);
    assert_eq!(texts(&served.backends[0].frontends), all, "the Service has no address of IPv6");
    services.set_own(own(&["192.0.2.11", "198.51.100.11"]));
    let served = drained(&mut services, "default/web");
    assert!(texts(&served.backends[0].frontends).contains("198.51.100.11 30080"));
    services.set_own(own(&["192.0.2.11", "198.51.100.11"]));
    assert!(services.drain().services.is_empty(), "nothing changed");
    services.set_service("default/web", None);
    assert_eq!(drained(&mut services, "default/web"), Served::default());
}

#[test]
fn an_external_address_of_the_node_itself_is_handed_on_as_a_node_port_is() {
    let mut services = Services::new();
    services.set_own(own(&["192.0.2.11"]));
    let mut web = service(0, "10.96.0.1", 0);
    web.addresses = ["192.0.2.11", "203.0.113.7"]
        .map(|text| Address::External(ip(text)))
        .into_iter()
        .chain([Address::Cluster(ip("10.96.0.1"))])
        .collect();
    services.set_service("default/web", Some(web));
    // A younger one that has a node port there stands back.
    services.set_service("default/young", Some(service(1, "10.96.0.2", 80)));
    for name in ["default/web", "default/young"] {
        services.set_slice(name, "s", Some(slice(&[("10.244.1.7", true)])));
    }
    let drained = services.drain();
    let of = |name: &str| drained.services.iter().find(|(n, _)| &**n == name).unwrap().1.clone();
    let all = set(&["10.96.0.1 80", "192.0.2.11 80", "169.254.0.252 80", "203.0.113.7 80"]);
    assert_eq!(texts(&of("default/web").backends[0].frontends), all);
    assert_eq!(texts(&of("default/young").backends[0].frontends), set(&["10.96.0.2 80"]));
    assert_eq!(drained.problems.len(), 2, "{:?}", drained.problems);
}

#[test]
fn the_local_policy_is_for_those_outside_and_none_is_told_apart_from_elsewhere() {
    let mut services = Services::new();
    services.set_own(own(&["192.0.2.11"]));
    let local = Service { external_local: true, health_port: 32_000, ..service(0, "10.96.0.1", 30_080) };
    services.set_service("default/web", Some(local.clone()));
    services.set_slice("default/web", "s", Some(slice(&[("10.244.1.7", true), ("10.244.2.7", false)])));
    let served = drained(&mut services, "default/web");
    let [everybody, outside] = &served.backends[..] else { panic!("{served:?}") };
    let node_ports = set(&["192.0.2.11 30080", "169.254.0.252 30080"]);
    assert_eq!((everybody.endpoints.len(), everybody.outside.len()), (2, 0));
    assert_eq!(texts(&outside.outside), node_ports);
    assert_eq!(outside.endpoints, ["10.244.1.7:8080".parse().unwrap()]);
    assert!(outside.frontends.is_empty() && served.unserved.is_empty());
    assert_eq!(served.health, Some(Health { port: 32_000, endpoints: 1 }));

    services.set_slice("default/web", "s", Some(slice(&[("10.244.2.7", false)])));
    let served = drained(&mut services, "default/web");
    assert_eq!(texts(served.unserved.iter().map(|unserved| &unserved.frontend)), node_ports);
    assert!(served.unserved.iter().all(|unserved| unserved.is_outside && !unserved.is_refused));
    assert_eq!(served.health.map(|health| health.endpoints), Some(0));

    services.set_slice("default/web", "s", Some(slice(&[])));
    let served = drained(&mut services, "default/web");
    assert!(served.backends.is_empty());
    assert!(served.unserved.iter().all(|unserved| !unserved.is_outside && unserved.is_refused));
    assert_eq!(served.unserved.len(), 3);

    services.set_service("default/web", Some(Service { internal_local: true, ..local }));
    services.set_slice("default/web", "s", Some(slice(&[("10.244.2.7", false)])));
    let served = drained(&mut services, "default/web");
    let silent = served.unserved.iter().filter(|unserved| !unserved.is_outside);
    assert_eq!(texts(silent.map(|unserved| &unserved.frontend)), set(&["10.96.0.1 80"]));
}

#[test]
fn guarded_addresses_are_served_with_their_sources_alone_where_everybody_is() {
    let web = Service {
        addresses: [Address::Cluster(ip("10.96.0.1")), Address::Guarded(ip("203.0.113.7"))].into(),
        sources: ["198.51.100.0/24".parse().unwrap()].into(),
        ..service(0, "10.96.0.1", 0)
    };
    let mut services = Services::new();
    services.set_service("default/web", Some(web));
    services.set_slice("default/web", "s", Some(slice(&[("10.244.1.7", true)])));
    let served = drained(&mut services, "default/web");
    assert_eq!(texts(&served.backends[0].frontends), set(&["10.96.0.1 80"]));
    services.set_own(own(&["192.0.2.11"]));
    let served = drained(&mut services, "default/web");
    assert_eq!(texts(&served.guarded), set(&["203.0.113.7 80"]));
    assert_eq!(*served.sources, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(texts(&served.backends[0].frontends), set(&["10.96.0.1 80", "203.0.113.7 80"]));
}

#[test]
fn one_service_has_a_port_where_load_balancers_are_told() {
    let mut services = Services::new();
    services.set_own(own(&["192.0.2.11"]));
    let told = |created, ip| Service { external_local: true, health_port: 32_000, ..service(created, ip, 0) };
    services.set_service("default/young", Some(told(2, "10.96.0.2")));
    services.set_slice("default/young", "s", Some(slice(&[("10.244.1.7", true)])));
    assert_eq!(drained(&mut services, "default/young").health, Some(Health { port: 32_000, endpoints: 1 }));
    services.set_service("default/old", Some(told(1, "10.96.0.1")));
    let drained = services.drain();
    let health: BTreeMap<&str, _> =
        drained.services.iter().map(|(name, served)| (&**name, served.health)).collect();
    let old = Health { port: 32_000, endpoints: 0 };
    assert_eq!(health, [("default/old", Some(old)), ("default/young", None)].into());
    let clash = "Service default/young: spec: 0.0.0.0 TCP port 32000 is already served for the older Service default/old";
    assert_eq!(drained.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [clash]);
    services.set_service("default/old", None);
    let young = services.drain().services.into_iter().find(|(name, _)| &**name == "default/young").unwrap().1;
    assert_eq!(young.health, Some(Health { port: 32_000, endpoints: 1 }), "it is free again");
}
