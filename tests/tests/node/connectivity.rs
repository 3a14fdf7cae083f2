//! Who can talk to whom.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::{Datapath, Lab, eventually, sh};
use antrea_tests::traffic::{ping, quick_ping, tcp, udp};
use serde_json::{Value, json};

async fn matrix(config: &[(&str, Value)]) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, config).await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(0, "b");
    let c = lab.add_pod(1, "c");
    let (outside, outside_ip) = (lab.outside(), IpAddr::from(lab.outside_ip()));
    let nodes: Vec<(String, IpAddr)> = lab.nodes.iter().map(|n| (n.netns.clone(), n.ip.into())).collect();
    let mut failures = Vec::new();
    let mut check = |what: &str, result: Result<Option<IpAddr>, String>, source: Option<IpAddr>| match result
    {
        Err(error) => failures.push(format!("{what}: {error}")),
        Ok(from) if source.is_some() && from != source => {
            failures.push(format!("{what}: from {from:?}, expected {source:?}"));
        }
        Ok(_) => println!("{what}: good"),
    };
    // What, client, server, address, source that the server shall see.
    let paths = [
        ("pod to pod, same node", &a.netns, &b.netns, b.ip, Some(a.ip)),
        ("pod to pod, across nodes", &a.netns, &c.netns, c.ip, Some(a.ip)),
        ("pod to pod, across nodes, back", &c.netns, &a.netns, a.ip, Some(c.ip)),
        ("pod to outside", &a.netns, &outside, outside_ip, Some(nodes[0].1)),
        ("pod to its node", &a.netns, &nodes[0].0, nodes[0].1, None),
        ("pod to another node", &a.netns, &nodes[1].0, nodes[1].1, None),
        ("node to its pod", &nodes[0].0, &a.netns, a.ip, None),
        ("node to another node's pod", &nodes[0].0, &c.netns, c.ip, None),
    ];
    for (index, (what, client, server, to, source)) in paths.into_iter().enumerate() {
        let port = 7000 + u16::try_from(index).unwrap();
        let result = tcp(client, server, to, port, 100_000).await.map(|r| Some(r.from));
        check(&format!("{what}, TCP"), result, source);
        let result = udp(client, server, to, port, 512).await.map(|r| Some(r.from));
        check(&format!("{what}, UDP"), result, source);
        let result = if ping(client, to, 56, true) { Ok(None) } else { Err("no answer".to_owned()) };
        check(&format!("{what}, ICMP"), result, None);
    }
    // Full MTU without fragments; more than it with.
    let mtu = mtu_of(&a.netns);
    for (what, to, size, fragment) in [
        ("full MTU, same node", b.ip, mtu - 28, false),
        ("full MTU, across nodes", c.ip, mtu - 28, false),
        ("over MTU, same node", b.ip, mtu + 1000, true),
        ("over MTU, across nodes", c.ip, mtu + 1000, true),
    ] {
        let result =
            if ping(&a.netns, to, size, fragment) { Ok(None) } else { Err(format!("{size} octets lost")) };
        check(what, result, None);
    }
    let result = if ping(&a.netns, c.ip, mtu, false) { Err("passed".to_owned()) } else { Ok(None) };
    check("over MTU without fragments is refused", result, None);
    let result = tcp(&a.netns, &c.netns, c.ip, 7100, 100 << 20).await.map(|r| Some(r.from));
    check("100 MiB across nodes", result, Some(a.ip));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn mtu_of(netns: &str) -> usize {
    let text = sh(&format!("ip -n {netns} -j link show eth0"));
    let value: Value = serde_json::from_str(&text).unwrap();
    usize::try_from(value[0]["mtu"].as_u64().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn encap_with_the_default_tunnel() {
    matrix(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encap_with_vxlan() {
    matrix(&[("tunnelType", json!("vxlan"))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encap_with_gre() {
    if Datapath::here() == Datapath::System {
        return matrix(&[("tunnelType", json!("gre"))]).await;
    }
    refused("gre").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stt_is_refused_and_named() {
    refused("stt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_encap_routes_between_nodes() {
    matrix(&[("trafficEncapMode", json!("noEncap"))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hybrid_routes_to_neighbours_and_tunnels_to_others() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(3, &[("trafficEncapMode", json!("hybrid"))]).await;
    for node in &lab.nodes {
        let (netns, ip, [a, b, c, _]) = (&node.netns, node.ip, node.ip.octets());
        // The addresses end in 11, 12 and 13: the last two share a subnet.
        for line in [
            format!("addr del {ip}/24 dev eth0"),
            format!("addr add {ip}/31 dev eth0"),
            format!("route add {a}.{b}.{c}.0/24 dev eth0"),
            format!("route add default via {}", lab.outside_ip()),
        ] {
            sh(&format!("ip -n {netns} {line}"));
        }
    }
    lab.start_agents().await;
    let pods = [lab.add_pod(0, "a"), lab.add_pod(1, "b"), lab.add_pod(2, "c")];
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let (client, server) = (&pods[from], &pods[to]);
        let neighbours = from != 0 && to != 0;
        let route = sh(&format!("ip -n {} route get {}", lab.nodes[from].netns, server.ip));
        let link = if neighbours { "dev eth0" } else { "dev antrea-gw0" };
        assert!(route.contains(link), "node{} to node{}: {route}", from + 1, to + 1);
        let received = tcp(&client.netns, &server.netns, server.ip, 7200, 1 << 20).await.unwrap();
        assert_eq!(received.from, client.ip);
        assert!(ping(&client.netns, server.ip, mtu_of(&client.netns) - 28, false), "no packet of full MTU");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_at_once() {
    both_families(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_encap_routes_both_families() {
    both_families(&[("trafficEncapMode", json!("noEncap"))]).await;
}

async fn both_families(config: &[(&str, Value)]) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, config).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    // Of a runtime that switches the second family off in its sandboxes.
    let netns = lab.pod_netns(1, "c");
    for links in ["all", "default"] {
        sh(&format!("ip netns exec {netns} sysctl -qw net.ipv6.conf.{links}.disable_ipv6=1"));
    }
    let c = lab.attach_in(1, "c", netns);
    lab.report_pod_ips("c", &c.ips());
    let (node1, outside) = (&lab.nodes[0].netns, lab.outside());
    let (node1_address, outside_address): (IpAddr, IpAddr) =
        ("fd00:31::11".parse().unwrap(), lab.outside_ipv6());
    // What, client, server, address, source that the server shall see.
    let paths = [
        ("same node", &a.netns, &b.netns, b.ip, Some(a.ip)),
        ("across nodes", &a.netns, &c.netns, c.ip, Some(a.ip)),
        ("same node, IPv6", &a.netns, &b.netns, b.ipv6(), Some(a.ipv6())),
        ("across nodes, IPv6", &a.netns, &c.netns, c.ipv6(), Some(a.ipv6())),
        ("across nodes back, IPv6", &c.netns, &a.netns, a.ipv6(), Some(c.ipv6())),
        ("outside, IPv6", &a.netns, &outside, outside_address, Some(node1_address)),
        ("to its node, IPv6", &a.netns, node1, node1_address, None),
        ("node to its pod, IPv6", node1, &a.netns, a.ipv6(), None),
        ("node to another node's pod, IPv6", node1, &c.netns, c.ipv6(), None),
    ];
    let mut failures = Vec::new();
    for ((what, client, server, to, source), port) in paths.into_iter().zip(7300..) {
        match tcp(client, server, to, port, 1 << 20).await {
            Err(error) => failures.push(format!("{what}, TCP: {error}")),
            Ok(received) if source.is_some_and(|source| source != received.from) => {
                failures.push(format!("{what}: from {}, expected {source:?}", received.from));
            }
            Ok(_) => println!("{what}: good"),
        }
        if let Err(error) = udp(client, server, to, port, 512).await {
            failures.push(format!("{what}, UDP: {error}"));
        }
        if !ping(client, to, 56, true) {
            failures.push(format!("{what}, ICMP: no answer"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let spec = json!({"podSelector": {"matchLabels": {"name": "b"}}, "policyTypes": ["Ingress"]});
    lab.put_policy("isolate-b", &spec);
    for address in [b.ip, b.ipv6()] {
        let isolated = || !quick_ping(&a.netns, address);
        eventually(&format!("{address} is isolated"), Duration::from_secs(30), isolated).await;
    }
    assert!(ping(&b.netns, a.ipv6(), 56, true), "an isolated pod is answered");
}

/// A tunnel that the datapath lacks: the agent lives, says so, and attaches nothing.
async fn refused(tunnel: &str) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("tunnelType", json!(tunnel))]).await;
    lab.start_agent(0);
    let message = lab.wait_unhealthy(0, "UnsupportedTunnelType").await;
    assert!(message.contains(tunnel), "{message}");
    let (output, text) = lab.nodes[0].cni("STATUS", "", "", "1.1.0", None);
    assert!(!output.status.success(), "{text}");
}
