//! What the host forwards to an isolated pod is not the host's own, whatever address it carries: NodePort, hostPort
//! and external addresses, by the rules that kube-proxy and the portmap plugin would write. kubelet's probes are.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::families::iptables;
use antrea_tests::lab::{Lab, eventually, sh};
use antrea_tests::station::{Arrived, Station, until_isolated};
use netcfg::Family;
use serde_json::json;

/// The probes' ports, kept by every translation.
const PORTS: &str = "7000:7001";
const LIMIT: Duration = Duration::from_secs(30);

/// Addresses of a Service, and one that only portmap's rules know.
struct Addresses {
    family: Family,
    service: IpAddr,
    external: IpAddr,
    host_port: IpAddr,
}

impl Addresses {
    fn of(family: Family) -> Self {
        let texts = match family {
            Family::V4 => ["10.96.0.10", "203.0.113.9", "192.0.2.77"],
            Family::V6 => ["fd00:10:96::10", "2001:db8::9", "2001:db8:77::77"],
        };
        let [service, external, host_port] = texts.map(|text| text.parse().unwrap());
        Self { family, service, external, host_port }
    }
}

/// What kube-proxy has on a node for a Service with one endpoint: NodePort, external address and ClusterIP, all but
/// the last masqueraded; and what portmap has for the endpoint's own hostPort, of which the node's pods are
/// masqueraded.
fn proxy(lab: &Lab, index: usize, endpoint: IpAddr, addresses: &Addresses) {
    let family = addresses.family;
    let (netns, node) = (&lab.nodes[index].netns, lab.node_ip(index, family));
    let mut rules = vec![
        "-N PROXY".to_owned(),
        "-A PREROUTING -j PROXY".to_owned(),
        "-A OUTPUT -j PROXY".to_owned(),
        "-N MASQ".to_owned(),
        "-A POSTROUTING -j MASQ".to_owned(),
        "-A MASQ -m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
        "-A MASQ -j MARK --xor-mark 0x4000".to_owned(),
        "-A MASQ -j MASQUERADE --random-fully".to_owned(),
    ];
    for protocol in ["tcp", "udp"] {
        for (address, masqueraded) in [(node, true), (addresses.external, true), (addresses.service, false)] {
            let to = format!("-A PROXY -d {address} -p {protocol} --dport {PORTS}");
            if masqueraded {
                rules.push(format!("{to} -j MARK --or-mark 0x4000"));
            } else {
                rules.push(format!("{to} -s {endpoint} -j MARK --or-mark 0x4000"));
            }
            rules.push(format!("{to} -j DNAT --to-destination {endpoint}"));
        }
        let host_port = format!("-A PROXY -m addrtype --dst-type LOCAL -p {protocol} --dport {PORTS}");
        rules.push(format!("{host_port} -s {} -j MARK --or-mark 0x4000", lab.pod_cidr(index, family)));
        rules.push(format!("{host_port} -j DNAT --to-destination {endpoint}"));
    }
    for rule in rules {
        sh(&format!("ip netns exec {netns} {} -w -t nat {rule}", iptables(family)));
    }
}

fn full(arrived: Arrived) -> bool {
    arrived.tcp > 2 && arrived.udp > 2
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_host_ports_and_external_addresses_meet_ingress_policy() {
    they_meet_ingress_policy(Family::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_ipv6_meet_it_too() {
    they_meet_ingress_policy(Family::V6).await;
}

async fn they_meet_ingress_policy(family: Family) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[("serviceCIDRv6", json!("fd00:10:96::/112"))]).await;
    if family == Family::V6 {
        lab.add_ipv6();
    }
    lab.start_agents().await;
    let server = lab.add_pod(0, "server");
    let (near, far) = (lab.add_pod(0, "near"), lab.add_pod(1, "far"));
    let endpoint = server.ip_of(family);
    let of_service = Addresses::of(family);
    for index in [0, 1] {
        proxy(&lab, index, endpoint, &of_service);
    }
    let addresses: [IpAddr; 2] = [0, 1].map(|index| lab.node_ip(index, family));
    let Addresses { service, external, host_port, .. } = of_service;
    sh(&format!("ip -n {} addr add {host_port} dev lo", lab.nodes[0].netns));
    let outside = lab.outside();
    for (to, via) in [(external, addresses[0]), (host_port, addresses[0])] {
        sh(&format!("ip -n {outside} route add {to} via {via}"));
    }

    let receiver = Station::start(&server.netns);
    let [near, far, outside, other] =
        [near.netns, far.netns, outside, lab.nodes[1].netns.clone()].map(|netns| Station::start(&netns));
    let ways = [
        ("a pod of the node, NodePort", &near, addresses[0]),
        ("a pod of the node, hostPort", &near, host_port),
        ("a pod of the node, external address", &near, external),
        ("a pod of the node, another node's NodePort", &near, addresses[1]),
        ("a pod of the node, ClusterIP", &near, service),
        ("a pod of another node, NodePort", &far, addresses[0]),
        ("a pod of another node, its own NodePort", &far, addresses[1]),
        ("a pod of another node, ClusterIP", &far, service),
        ("another node, NodePort", &other, addresses[0]),
        ("another node, its own NodePort", &other, addresses[1]),
        ("outside, NodePort", &outside, addresses[0]),
        ("outside, another node's NodePort", &outside, addresses[1]),
        ("outside, hostPort", &outside, host_port),
        ("outside, external address", &outside, external),
    ];
    for (what, from, to) in ways {
        receiver.forget();
        from.aim([to]);
        eventually(&format!("probes arrive: {what}"), LIMIT, || full(receiver.leaked(|_| true))).await;
        from.aim([]);
    }

    let spec = json!({"podSelector": {"matchLabels": {"name": "server"}}, "policyTypes": ["Ingress"]});
    lab.put_policy("isolate", &spec);
    near.aim([endpoint]);
    until_isolated(&[&near, &receiver], || receiver.leaked(|_| true) != Arrived::default()).await;
    let mut leaks = Vec::new();
    for (what, from, to) in ways {
        receiver.forget();
        let before = from.sent();
        from.aim([to]);
        tokio::time::sleep(Duration::from_millis(700)).await;
        eventually("20 probes are sent", LIMIT, || from.sent() - before > 20).await;
        from.aim([]);
        let sent = from.sent() - before;
        // What is under way ends.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let leaked = receiver.leaked(|_| true);
        println!("{what}: {sent} probes, leaked {leaked:?}");
        if leaked != Arrived::default() {
            leaks.push(format!("{what}: {leaked:?} of {sent}"));
        }
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));

    // A process of the node itself, as kubelet, also by the Service's address.
    let kubelet = Station::start(&lab.nodes[0].netns);
    for to in [endpoint, service] {
        receiver.forget();
        kubelet.aim([to]);
        eventually("a process of the node reaches the pod", LIMIT, || full(receiver.leaked(|_| true))).await;
    }
}
