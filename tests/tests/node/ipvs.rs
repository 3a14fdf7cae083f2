//! Beside kube-proxy in its ipvs mode, which is played here: a link that has the addresses of all Services, the
//! kernel's load balancer, and masquerading of what no pod sends.

use std::net::IpAddr;

use antrea_tests::lab::{Lab, sh};
use antrea_tests::traffic::tcp;

use crate::services::{Proxy, native_egress_policy_holds};

const SERVICE: &str = "10.96.0.10";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel module ip_vs: runs in the virtual machine"]
async fn services_of_kube_proxy_in_ipvs_mode() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    for node in &lab.nodes {
        let netns = &node.netns;
        sh(&format!("ip -n {netns} link add kube-ipvs0 type dummy"));
        // The node's own address is there where a Service has it as externalIP.
        for address in [SERVICE, &node.ip.to_string()] {
            sh(&format!("ip -n {netns} addr add {address}/32 dev kube-ipvs0"));
        }
    }
    lab.start_agents().await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(1, "b"), lab.add_pod(1, "c"));
    let ports = 7500..7504;
    for node in &lab.nodes {
        let inside = format!("ip netns exec {}", node.netns);
        sh(&format!("{inside} sysctl -qw net.ipv4.vs.conntrack=1"));
        for port in ports.clone() {
            sh(&format!("{inside} ipvsadm -A -t {SERVICE}:{port} -s rr"));
            sh(&format!("{inside} ipvsadm -a -t {SERVICE}:{port} -r {}:{port} -m", c.ip));
        }
        for rule in [
            format!("OUTPUT -d {SERVICE} ! -s 10.244.0.0/16 -j MARK --or-mark 0x4000"),
            "POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE".to_owned(),
        ] {
            sh(&format!("{inside} iptables -w -t nat -A {rule}"));
        }
    }
    let service: IpAddr = SERVICE.parse().unwrap();
    // What, client, source that the endpoint shall see.
    let clients = [
        ("a pod of another node", &a.netns, Some(a.ip)),
        ("a pod of the same node", &b.netns, Some(b.ip)),
        ("another node", &lab.nodes[0].netns, None),
        ("the endpoint's node", &lab.nodes[1].netns, None),
    ];
    for ((what, client, source), port) in clients.into_iter().zip(ports) {
        let received = tcp(client, &c.netns, service, port, 100_000).await;
        let received = received.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(source.is_none_or(|source| received.from == source), "{what}: from {}", received.from);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel module ip_vs: runs in the virtual machine"]
async fn native_egress_policy_holds_beside_ipvs() {
    native_egress_policy_holds(Proxy::Ipvs, &[]).await;
}
