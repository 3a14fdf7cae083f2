//! Ingress policy and what the nodes translate: nobody gets by it in the gateway's name.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::eventually;
use antrea_tests::station::{Arrived, Station, until_isolated};
use netcfg::Family;
use serde_json::json;

use super::{cluster_ip, external_ip, lab, route_by};
use crate::proxy::{SERVICES, SLICES};

const LIMIT: Duration = Duration::from_secs(30);

fn full(arrived: Arrived) -> bool {
    arrived.tcp > 2 && arrived.udp > 2
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_translate_meets_ingress_policy() {
    it_meets_policy(Family::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_what_they_translate_of_ipv6() {
    it_meets_policy(Family::V6).await;
}

async fn it_meets_policy(family: Family) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let server = lab.add_pod(0, "server");
    let (near, far) = (lab.add_pod(0, "near"), lab.add_pod(1, "far"));
    let endpoint = server.ip_of(family);
    let (service, external) = (cluster_ip(family, 1), external_ip(family, 1));
    // The probes' ports, kept by every translation.
    let ports = json!([
        {"name": "tcp", "protocol": "TCP", "port": 7000, "nodePort": 7000},
        {"name": "udp", "protocol": "UDP", "port": 7001, "nodePort": 7001},
    ]);
    // A Service of the other's node port: the host masquerades what it sends there with the gateway's address.
    let node_port = lab.node_ip(0, family);
    let chained = external_ip(family, 2);
    for (name, ip, external) in [("server", service, external), ("chained", cluster_ip(family, 2), chained)] {
        let mut ports = ports.clone();
        if name == "chained" {
            ports.as_array_mut().into_iter().flatten().for_each(|port| port["nodePort"] = json!(0));
        }
        lab.api.put(
            SERVICES,
            json!({"metadata": {"namespace": "default", "name": name},
                   "spec": {"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
                            "externalIPs": [external], "ports": ports}}),
        );
    }
    for (name, endpoint) in [("server", endpoint), ("chained", node_port)] {
        lab.api.put(
            SLICES,
            json!({"metadata": {"namespace": "default", "name": format!("{name}-1"),
                                "labels": {"kubernetes.io/service-name": name}},
               "addressType": if family == Family::V6 { "IPv6" } else { "IPv4" },
               "endpoints": [{"addresses": [endpoint], "nodeName": "node1"}],
               "ports": [{"name": "tcp", "protocol": "TCP", "port": 7000}, {"name": "udp", "protocol": "UDP", "port": 7001}]}),
    );
    }
    for ip in [external, chained] {
        route_by(&lab, ip, 0);
    }
    let addresses: [IpAddr; 2] = [0, 1].map(|index| lab.node_ip(index, family));
    let receiver = Station::start(&server.netns);
    let [near, far, outside, other] = [near.netns, far.netns, lab.outside(), lab.nodes[1].netns.clone()]
        .map(|netns| Station::start(&netns));
    let ways = [
        ("a pod of the node, node port", &near, addresses[0]),
        ("a pod of the node, another node's", &near, addresses[1]),
        ("a pod of the node, external address", &near, external),
        ("a pod of the node, ClusterIP", &near, service),
        ("a pod of another node, node port", &far, addresses[0]),
        ("a pod of another node, its own", &far, addresses[1]),
        ("a pod of another node, ClusterIP", &far, service),
        ("another node, node port", &other, addresses[0]),
        ("another node, its own", &other, addresses[1]),
        ("another node, ClusterIP", &other, service),
        ("another node, external address", &other, external),
        ("outside, node port", &outside, addresses[0]),
        ("outside, another node's", &outside, addresses[1]),
        ("outside, external address", &outside, external),
        ("outside, another Service of the node port", &outside, chained),
    ];
    for (what, from, to) in ways {
        receiver.forget();
        from.aim([to]);
        eventually(&format!("probes arrive: {what}"), LIMIT, || full(receiver.leaked(|_| true))).await;
        from.aim([]);
    }

    lab.put_policy(
        "isolate",
        &json!({"podSelector": {"matchLabels": {"name": "server"}}, "policyTypes": ["Ingress"]}),
    );
    near.aim([endpoint]);
    until_isolated(&[&near, &receiver], || receiver.leaked(|_| true) != Arrived::default()).await;
    near.aim([]);
    let mut leaks = Vec::new();
    let mut probe = async |ways: &[(&str, &Station, IpAddr)]| {
        for (what, from, to) in ways {
            receiver.forget();
            let before = from.sent();
            from.aim([*to]);
            tokio::time::sleep(Duration::from_millis(700)).await;
            from.aim([]);
            let sent = from.sent() - before;
            assert!(sent > 20, "{what}: only {sent} probes");
            // What is under way ends.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let leaked = receiver.leaked(|_| true);
            if leaked != Arrived::default() {
                leaks.push(format!("{what}: {leaked:?} of {sent}"));
            }
        }
    };
    probe(&ways).await;

    // The node itself may, by whatever address: kubelet's probes.
    let kubelet = Station::start(&lab.nodes[0].netns);
    for to in [endpoint, service, external, addresses[0]] {
        receiver.forget();
        kubelet.aim([to]);
        eventually(&format!("a process of the node, {to}"), LIMIT, || full(receiver.leaked(|_| true))).await;
        kubelet.aim([]);
    }

    // One client alone, who is known for who it is at the node of the pod.
    let one = lab.outside_of(family);
    let cidr = format!("{one}/{}", if family == Family::V4 { 32 } else { 128 });
    lab.put_policy(
        "isolate",
        &json!({"podSelector": {"matchLabels": {"name": "server"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}),
    );
    for to in [addresses[0], external] {
        receiver.forget();
        outside.aim([to]);
        eventually("the client who may", LIMIT, || full(receiver.leaked(|from| from == one))).await;
        assert_eq!(receiver.leaked(|from| from != one), Arrived::default(), "{to}");
        outside.aim([]);
    }
    let others: Vec<_> = ways
        .iter()
        .filter(|(what, ..)| !what.starts_with("outside") || what.contains("another"))
        .copied()
        .collect();
    probe(&others).await;
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}
