//! Who can talk to whom.

use std::net::IpAddr;

use antrea_tests::lab::{Datapath, Lab};
use antrea_tests::traffic::{ping, tcp, udp};
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
    let text = antrea_tests::lab::sh(&format!("ip -n {netns} -j link show eth0"));
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

/// A tunnel that the datapath lacks: the agent lives, says so, and attaches nothing.
async fn refused(tunnel: &str) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("tunnelType", json!(tunnel))]).await;
    lab.expect_agent_info(0);
    lab.start_agent(0);
    let message = lab.wait_unhealthy(0, "UnsupportedTunnelType").await;
    assert!(message.contains(tunnel), "{message}");
    let (output, text) = lab.nodes[0].cni("STATUS", "", "", "1.1.0", None);
    assert!(!output.status.success(), "{text}");
}
