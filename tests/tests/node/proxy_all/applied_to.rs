//! Policies that apply to Services: who from outside may come to them by node ports, wherever their endpoints are.

use std::io::ErrorKind;
use std::net::SocketAddr;

use antrea_tests::lab::Lab;
use netcfg::Family;
use serde_json::{Value, json};

use super::{cluster_ip, external_ip, gates_lab, listen, put_endpoints, put_service, route_by, until};
use crate::native::{CLUSTER_POLICIES, put};
use crate::to_services::{documented, realized};

const PORTS: [u16; 3] = [30_001, 30_002, 30_003];

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_from_outside_is_judged_before_translation() {
    judged(Family::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_who_comes_by_ipv6() {
    judged(Family::V6).await;
}

/// Applies one policy to the two Services.
fn acnp(lab: &Lab, rules: Value) {
    let services = ["s1", "s2"].map(|name| json!({"service": {"name": name, "namespace": "default"}}));
    let spec = json!({"priority": 5, "appliedTo": services, "ingress": rules});
    put(lab, CLUSTER_POLICIES, None, "gate", &spec);
}

async fn judged(family: Family) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = gates_lab(2, &json!({"AntreaProxy": true, "AntreaPolicy": true})).await;
    let [near, far, client] =
        [(0, "near"), (1, "far"), (0, "client")].map(|(index, name)| lab.add_pod(index, name));
    let _listeners = [listen(&near.netns).await, listen(&far.netns).await, listen(&lab.nodes[1].netns).await];
    // One with an endpoint here, one with its endpoint there, one that no policy names and whose endpoint is the other node.
    let endpoints =
        [(near.ip_of(family), "node1"), (far.ip_of(family), "node2"), (lab.node_ip(1, family), "node2")];
    for ((n, port), (ip, node)) in (1u8..).zip(PORTS).zip(endpoints) {
        let name = format!("s{n}");
        let more = json!({"externalIPs": [external_ip(family, n)]});
        put_service(&lab, &name, cluster_ip(family, n), port, &more, &json!({}));
        put_endpoints(&lab, &name, &[(ip, node)]);
        route_by(&lab, external_ip(family, n), 0);
    }
    let outside = lab.outside();
    let ips = [0, 1].map(|index| lab.node_ip(index, family));
    let node_port = |index: usize, n: usize| SocketAddr::new(ips[index], PORTS[n]);
    let external = |n: u8| SocketAddr::new(external_ip(family, n), 80);
    let all = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(index, n)| node_port(index, n));
    for to in all.into_iter().chain([node_port(0, 2), external(1)]) {
        until(&outside, to, Ok(())).await;
    }
    acnp(&lab, json!([{"name": "nobody", "action": "Drop", "enableLogging": true}]));
    realized(&lab, CLUSTER_POLICIES, None, "gate").await;
    let status = lab.api.get(CLUSTER_POLICIES, None, "gate").unwrap()["status"].clone();
    assert_eq!(status["desiredNodesRealized"], 2, "by any node: {status}");
    for to in all {
        until(&outside, to, Err(ErrorKind::TimedOut)).await;
    }
    // Another node is outside, too.
    until(&lab.nodes[1].netns, node_port(0, 0), Err(ErrorKind::TimedOut)).await;
    // Other Services, other addresses, Pods and the nodes themselves are not meant.
    let cluster = SocketAddr::new(cluster_ip(family, 1), 80);
    for (from, to) in [
        (&outside, node_port(0, 2)),
        (&outside, external(1)),
        (&client.netns, cluster),
        (&client.netns, node_port(0, 0)),
        (&lab.nodes[0].netns, node_port(0, 0)),
    ] {
        until(from, to, Ok(())).await;
    }
    let log = || std::fs::read_to_string(lab.nodes[0].dir.join("np.log")).unwrap_or_default();
    let line = "ServicePolicyRule AntreaClusterNetworkPolicy:gate nobody Ingress Drop";
    antrea_tests::lab::eventually("it is logged", super::LIMIT, || log().contains(line)).await;
    // Over a restart of the agent nothing opens, and what is served goes on.
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    let served = async {
        for _ in 0..100 {
            let found = super::connect(&outside, node_port(0, 2)).await;
            assert!(found.is_ok(), "{found:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::join!(lab.wait_ready(0), served);
    for _ in 0..5 {
        let found = super::connect(&outside, all[0]).await;
        assert!(matches!(found, Err(ErrorKind::TimedOut)), "{found:?}");
    }
    acnp(&lab, json!([{"action": "Reject"}]));
    for to in all {
        until(&outside, to, Err(ErrorKind::ConnectionRefused)).await;
    }
    let block = json!({"ipBlock": {"cidr": block_of(lab.outside_of(family))}});
    acnp(&lab, json!([{"action": "Allow", "from": [block]}, {"action": "Drop"}]));
    for to in all {
        until(&outside, to, Ok(())).await;
    }
    lab.api.delete(CLUSTER_POLICIES, None, "gate");

    // The example of the documentation.
    if family == Family::V4 {
        let example = documented("- service:");
        put_service(&lab, "shop", cluster_ip(family, 9), 30_009, &json!({}), &json!({}));
        put_endpoints(&lab, "shop", &[endpoints[0]]);
        let at = SocketAddr::new(lab.node_ip(0, family), 30_009);
        until(&outside, at, Ok(())).await;
        put(&lab, CLUSTER_POLICIES, None, "shop", &example["spec"]);
        until(&outside, at, Err(ErrorKind::TimedOut)).await;
        until(&outside, node_port(0, 0), Ok(())).await;
    }
}

/// The block of one address.
fn block_of(ip: std::net::IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}
