//! A pod that is isolated still reaches itself, also through a Service. kube-proxy is played by the rules that it
//! would write for one Service with one endpoint.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::{Lab, Pod, eventually, sh};
use antrea_tests::traffic::{ping, tcp};
use serde_json::json;

const SERVICE: &str = "10.96.0.10";
/// Of the Service, of the node and of the endpoint: one for each attempt, for a listener that nobody came to stays
/// for a while.
const PORTS: std::ops::RangeInclusive<u16> = 7400..=7402;

/// What kube-proxy has for a Service whose only endpoint is `pod`: translation, and masquerading of what the
/// endpoint sends to itself and of what comes by the node's port.
fn proxy(lab: &Lab, pod: &Pod) {
    let (netns, ip) = (&lab.nodes[0].netns, pod.ip);
    let node = lab.nodes[0].ip;
    let ports = format!("{}:{}", PORTS.start(), PORTS.end());
    let rules = [
        format!("-t nat -A PREROUTING -d {SERVICE} -p tcp --dport {ports} -s {ip} -j MARK --or-mark 0x4000"),
        format!("-t nat -A PREROUTING -d {node} -p tcp --dport {ports} -j MARK --or-mark 0x4000"),
        format!("-t nat -A PREROUTING -d {SERVICE} -p tcp --dport {ports} -j DNAT --to-destination {ip}"),
        format!("-t nat -A PREROUTING -d {node} -p tcp --dport {ports} -j DNAT --to-destination {ip}"),
        "-t nat -N PROXY".to_owned(),
        "-t nat -A POSTROUTING -j PROXY".to_owned(),
        "-t nat -A PROXY -m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
        "-t nat -A PROXY -j MARK --xor-mark 0x4000".to_owned(),
        "-t nat -A PROXY -j MASQUERADE --random-fully".to_owned(),
    ];
    for rule in rules {
        sh(&format!("ip netns exec {netns} iptables -w {rule}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_pod_reaches_itself_through_a_service() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    proxy(&lab, &a);
    let (service, node): (IpAddr, IpAddr) = (SERVICE.parse().unwrap(), lab.nodes[0].ip.into());
    for (client, to) in [(&a, service), (&b, service), (&b, node)] {
        tcp(&client.netns, &a.netns, to, *PORTS.start(), 10_000).await.unwrap();
    }

    let spec = json!({"podSelector": {"matchLabels": {"name": "a"}}, "policyTypes": ["Ingress"]});
    lab.put_policy("isolate-a", &spec);
    eventually("a is isolated", Duration::from_secs(30), || !ping(&b.netns, a.ip, 56, true)).await;
    let received = tcp(&a.netns, &a.netns, service, 7400, 10_000).await.unwrap();
    assert_eq!(received.from, "10.244.1.1".parse::<IpAddr>().unwrap(), "not masqueraded");
    let others = tcp(&b.netns, &a.netns, service, 7401, 10).await;
    assert!(others.is_err(), "another pod passed isolation through the Service");
    // Masqueraded to the gateway's address, as the pod's own.
    let others = tcp(&b.netns, &a.netns, node, 7402, 10).await;
    assert!(others.is_err(), "another pod through the node's port: {others:?}");
}
