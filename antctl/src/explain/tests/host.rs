//! What the Nodes' own network stacks do: routes, neighbours, connections that are tracked, kube-proxy's rules.

use std::collections::BTreeSet;

use antrea_api::agent::{HostLink, HostNeighbour, HostPath, HostRoute, ServiceRules, TrackedConnection};

use super::super::host::questions;
use super::*;

fn link(name: &str) -> HostLink {
    HostLink { name: name.into(), up: true, mtu: 1500, is_gateway: name == "antrea-gw0" }
}

/// A route that is well.
fn route(to: &str, name: &str) -> HostRoute {
    let neighbour = HostNeighbour { ip: ip(to), mac: "0a:00:00:00:00:09".into(), state: "REACHABLE".into() };
    HostRoute {
        to: ip(to),
        link: Some(link(name)),
        via: None,
        source: None,
        local: false,
        neighbour: Some(neighbour).filter(|_| name != "antrea-gw0"),
    }
}

fn path_of<'a>(facts: &'a mut Facts, node: &str) -> &'a mut HostPath {
    facts.nodes.get_mut(node).unwrap().path.as_mut().unwrap().as_mut().unwrap()
}

fn asked(mut facts: Facts) -> Facts {
    let of_source = HostPath { routes: vec![route("192.0.2.2", "eth0")], ..HostPath::default() };
    let back = vec![route("10.10.2.7", "antrea-gw0"), route("192.0.2.1", "eth0")];
    for (name, path) in [("node1", of_source), ("node2", HostPath { routes: back, ..HostPath::default() })] {
        facts.nodes.get_mut(name).unwrap().path = Some(Ok(path));
    }
    facts
}

/// Both were asked, and all is well but for this.
fn but(node: &str, change: impl FnOnce(&mut HostPath)) -> Facts {
    let mut facts = asked(facts());
    change(path_of(&mut facts, node));
    facts
}

fn rules() -> ServiceRules {
    ServiceRules {
        by: "iptables".into(),
        found: true,
        endpoints: ["10.10.2.7:5432", "10.10.2.8:5432"].map(|text| text.parse().unwrap()).into(),
        ..ServiceRules::default()
    }
}

/// The Service, with what kube-proxy does on node1.
fn served(change: impl FnOnce(&mut HostPath)) -> Facts {
    let mut facts = service();
    let routes =
        vec![route("10.10.2.7", "antrea-gw0"), route("10.10.2.8", "antrea-gw0"), route("192.0.2.2", "eth0")];
    let mut path = HostPath { routes, service: Some(rules()), ..HostPath::default() };
    change(&mut path);
    facts.nodes.get_mut("node1").unwrap().path = Some(Ok(path));
    facts
}

fn tracked(by_bridge: bool, protocol: u8, to: &str, endpoint: Option<&str>) -> TrackedConnection {
    TrackedConnection {
        by_bridge,
        protocol,
        from: "10.10.1.6:41000".parse().unwrap(),
        to: to.parse().unwrap(),
        endpoint: endpoint.map(|text| text.parse().unwrap()),
        answered: Some(true),
    }
}

#[test]
fn routes_that_are_well_are_told_once_for_each_node() {
    let explained = says(
        &asked(facts()),
        Verdict::Allowed,
        "node1 has the routes that it needs: to node2 (192.0.2.2) by eth0",
    );
    let routes: Vec<_> = explained.findings.iter().filter(|finding| finding.check == "route").collect();
    assert_eq!(routes.len(), 2);
    assert_eq!(
        routes[1].detail,
        "node2 has the routes that it needs: to shop/db (10.10.2.7) by antrea-gw0, to node1 (192.0.2.1) by eth0"
    );
}

#[test]
fn a_missing_route() {
    let there = but("node1", |path| path.routes[0].link = None);
    says(&there, Verdict::Broken, "node1 has no route to node2 (192.0.2.2)");
    let back = but("node2", |path| path.routes[1].link = None);
    says(&back, Verdict::Broken, "node2 has no route to node1 (192.0.2.1)");
    let pod = but("node2", |path| path.routes[0].link = None);
    says(&pod, Verdict::Broken, "its agent puts routes to Pods back within a minute");
}

#[test]
fn a_route_that_leads_elsewhere() {
    let out = but("node2", |path| path.routes[0] = route("10.10.2.7", "eth0"));
    says(
        &out,
        Verdict::Broken,
        "node2 routes what is for shop/db (10.10.2.7) out of eth0, and not into Antrea's bridge",
    );
    let into = but("node1", |path| path.routes[0] = route("192.0.2.2", "antrea-gw0"));
    says(&into, Verdict::Broken, "so that the tunnel leads into itself");
    let own = but("node1", |path| path.routes[0].local = true);
    says(&own, Verdict::Broken, "node1 takes the address of node2 (192.0.2.2) for its own");
    let down = but("node1", |path| path.routes[0].link.as_mut().unwrap().up = false);
    says(&down, Verdict::Broken, "eth0, by which node1 reaches node2 (192.0.2.2), is down");
}

#[test]
fn a_neighbour_that_does_not_answer() {
    for state in ["FAILED", "INCOMPLETE"] {
        let mute = but("node1", |path| path.routes[0].neighbour.as_mut().unwrap().state = state.into());
        let words = format!(
            "nobody answers for 192.0.2.2 on eth0 of node1, by which it reaches node2 (192.0.2.2) (neighbour {state})"
        );
        assert!(says(&mute, Verdict::Broken, &words).may_pass(), "one that is being asked may answer");
    }
    let router = but("node1", |path| {
        path.routes[0].via = Some(ip("192.0.2.254"));
        let neighbour = HostNeighbour { ip: ip("192.0.2.254"), mac: String::new(), state: "FAILED".into() };
        path.routes[0].neighbour = Some(neighbour);
    });
    says(&router, Verdict::Broken, "nobody answers for 192.0.2.254 on eth0");
    let former = but("node2", |path| {
        let neighbour = HostNeighbour { ip: ip("10.10.2.7"), mac: String::new(), state: "FAILED".into() };
        path.routes[0].neighbour = Some(neighbour);
    });
    says(&former, Verdict::Allowed, "node2 has the routes");
    let new = but("node1", |path| path.routes[0].neighbour = None);
    says(&new, Verdict::Allowed, "node1 has the routes");
}

#[test]
fn a_route_that_is_narrower_than_its_link() {
    let narrow = but("node1", |path| path.routes[0].link.as_mut().unwrap().mtu = 1400);
    says(
        &narrow,
        Verdict::Broken,
        "the route of node1 to node2 (192.0.2.2) has the MTU 1400, and Pods send packets of 1450 octets",
    );
    let fits = but("node1", |path| path.routes[0].link.as_mut().unwrap().mtu = 1490);
    says(&fits, Verdict::Allowed, "");
}

#[test]
fn without_a_tunnel_the_hosts_route_to_the_pods() {
    let mut routed = asked(sends(facts(), to_host()));
    path_of(&mut routed, "node1").routes = vec![route("10.10.2.7", "eth0")];
    path_of(&mut routed, "node2").routes = vec![route("10.10.2.7", "antrea-gw0"), route("10.10.1.6", "eth0")];
    says(&routed, Verdict::Allowed, "to shop/db (10.10.2.7) by eth0");
    path_of(&mut routed, "node2").routes[1].link = None;
    says(&routed, Verdict::Broken, "node2 has no route to shop/web (10.10.1.6)");
}

#[test]
fn connections_that_are_tracked() {
    let known = but("node2", |path| path.connections = vec![tracked(true, 6, "10.10.2.7:5432", None)]);
    says(&known, Verdict::Allowed, "the bridge of node2 tracks 1 connection of shop/web to it");
    let mute = but("node1", |path| {
        let connection = tracked(true, 6, "10.10.2.7:5432", None);
        path.connections = vec![TrackedConnection { answered: Some(false), ..connection }];
    });
    says(&mute, Verdict::Allowed, "1 connection that node1 tracks had no answer yet");
    let unread = but("node1", |path| path.connections_unknown = vec!["of the host: none".into()]);
    says(&unread, Verdict::Allowed, "not all connections that node1 tracks are known: of the host: none");
    let mut denied = with(known, &[policy_of("db", "deny", vec![rule("In", "", Vec::new())])]);
    denied = receives(denied, traced(Table::IngressDefaultRule, End::Drop));
    says(&denied, Verdict::Denied, "what was established before goes on, whatever policies say now");
}

#[test]
fn a_connection_to_an_endpoint_that_is_gone() {
    let gone = |protocol| {
        served(|path| {
            path.connections = vec![tracked(false, protocol, "10.96.0.10:80", Some("10.10.2.99:5432"))]
        })
    };
    says(&gone(17), Verdict::Broken, "conntrack -D -p udp --orig-src 10.10.1.6 --orig-dst 10.96.0.10");
    says(&gone(6), Verdict::Allowed, "which is no ready endpoint: that connection will end");
    let ready =
        served(|path| path.connections = vec![tracked(false, 17, "10.96.0.10:80", Some("10.10.2.8:5432"))]);
    says(&ready, Verdict::Allowed, "");
}

#[test]
fn kube_proxys_rules_are_held_against_the_endpoints() {
    let rule = |change: fn(&mut ServiceRules)| served(|path| change(path.service.as_mut().unwrap()));
    says(
        &rule(|_| {}),
        Verdict::Allowed,
        "kube-proxy (iptables) of node1 gives 10.96.0.10:80 one of 2 endpoints",
    );
    says(
        &rule(|rules| *rules = ServiceRules::default()),
        Verdict::Broken,
        "kube-proxy has no rules on node1",
    );
    says(
        &rule(|rules| rules.found = false),
        Verdict::Broken,
        "kube-proxy (iptables) has nothing for 10.96.0.10:80 on node1",
    );
    let refused = rule(|rules| {
        rules.refused = true;
        rules.endpoints.clear();
    });
    says(
        &refused,
        Verdict::Broken,
        "refuses 10.96.0.10:80, although 10.10.2.7:5432, 10.10.2.8:5432 is ready",
    );
    let old = rule(|rules| rules.endpoints[0] = "10.10.2.99:5432".parse().unwrap());
    says(
        &old,
        Verdict::Broken,
        "to 10.10.2.99:5432, which is no ready endpoint: connections fail now and then",
    );
    says(
        &rule(|rules| rules.endpoints.truncate(1)),
        Verdict::Allowed,
        "one of 1 endpoint; 1 that are ready get nothing",
    );
    let mut none = served(|path| {
        let refuses = ServiceRules { endpoints: Vec::new(), refused: true, ..rules() };
        path.service = Some(refuses);
    });
    none.ways.clear();
    (the_service(&mut none).ready, the_service(&mut none).endpoints) = (0, BTreeSet::new());
    says(&none, Verdict::Broken, "of node1 refuses 10.96.0.10:80, which has no ready endpoint");
}

#[test]
fn a_host_that_does_not_say() {
    let mut silent = facts();
    silent.nodes.get_mut("node2").unwrap().path = Some(Err("no answer within 4s".into()));
    says(&silent, Verdict::Unknown, "what the network stack of node2 does is not known: no answer within 4s");
    let part = but("node1", |path| path.unknown = vec!["the rules for 10.96.0.10:80: nft: slow".into()]);
    says(&part, Verdict::Unknown, "not known of node1: the rules for 10.96.0.10:80: nft: slow");
}

#[test]
fn hosts_are_asked_about_what_bridges_hand_them() {
    let of = |facts: &Facts| {
        questions(facts).into_iter().map(|(node, path)| format!("{node}: {path}")).collect::<Vec<_>>()
    };
    assert_eq!(
        of(&facts()),
        [
            "node1: /hostpath?protocol=tcp&routes=192.0.2.2&to=10.10.2.7&from=10.10.1.6",
            "node2: /hostpath?protocol=tcp&routes=10.10.2.7%2C192.0.2.1&to=10.10.2.7&from=10.10.1.6",
        ]
    );
    assert_eq!(
        of(&sends(facts(), to_host())),
        [
            "node1: /hostpath?protocol=tcp&routes=10.10.2.7&to=10.10.2.7&from=10.10.1.6",
            "node2: /hostpath?protocol=tcp&routes=10.10.1.6%2C10.10.2.7&to=10.10.2.7&from=10.10.1.6",
        ]
    );
    assert_eq!(
        of(&service())[0],
        "node1: /hostpath?protocol=tcp&routes=10.10.2.7%2C10.10.2.8%2C192.0.2.2&to=10.10.2.7%2C10.10.2.8&from=10.10.1.6\
         &service=10.96.0.10&port=80"
    );
    assert_eq!(of(&on_one_node()), ["node1: /hostpath?protocol=tcp&routes=&to=10.10.2.7&from=10.10.1.6"]);
}
