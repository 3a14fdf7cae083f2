//! What comes from load balancers: traffic policy, source ranges, and balancers that are no way to the Service.

use std::io::ErrorKind;
use std::net::SocketAddr;

use antrea_tests::lab::sh;
use antrea_tests::traffic::tcp_to;
use netcfg::Family;
use serde_json::{Value, json};

use super::{
    PORT, TARGET, cluster_ip, connect, external_ip, lab, listen, put_endpoints, put_service, route_by, until,
};

fn ingress(ip: std::net::IpAddr, mode: &str) -> Value {
    json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": mode}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_policy_keeps_the_client_and_its_node() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let (outside, family) = (lab.outside(), Family::V4);
    let balancer = external_ip(family, 1);
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    put_service(&lab, "local", cluster_ip(family, 1), 30_001, &local, &ingress(balancer, "VIP"));
    put_endpoints(&lab, "local", &[(b.ip, "node1"), (c.ip, "node2")]);
    let client = lab.outside_ip().into();
    let to_balancer = SocketAddr::new(balancer, PORT);
    for (index, server) in [(0, &b), (1, &c)] {
        route_by(&lab, balancer, index);
        let node_port = SocketAddr::new(lab.node_ip(index, family), 30_001);
        for to in [node_port, to_balancer] {
            let listener = listen(&server.netns).await;
            until(&outside, to, Ok(())).await;
            drop(listener);
        }
        for to in [node_port, to_balancer] {
            for _ in 0..4 {
                let received = tcp_to(&outside, &server.netns, to, TARGET, 10_000).await;
                assert_eq!(received.map(|received| received.from), Ok(client), "{to}");
            }
        }
    }
    // Only one of the other node is left: nothing for those outside, everything for those inside.
    put_endpoints(&lab, "local", &[(c.ip, "node2")]);
    route_by(&lab, balancer, 0);
    let node_port = SocketAddr::new(lab.node_ip(0, family), 30_001);
    let _listener = listen(&c.netns).await;
    for to in [node_port, to_balancer] {
        until(&outside, to, Err(ErrorKind::TimedOut)).await;
        for inside in [&a.netns, &lab.nodes[0].netns] {
            until(inside, to, Ok(())).await;
        }
    }
    let of_node2 = SocketAddr::new(lab.node_ip(1, family), 30_001);
    assert_eq!(connect(&outside, of_node2).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn source_ranges_keep_others_out_and_a_proxy_is_left_alone() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(1).await;
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    let (outside, node, family) = (lab.outside(), lab.nodes[0].netns.clone(), Family::V4);
    let (guarded, proxied) = (external_ip(family, 1), external_ip(family, 2));
    let put = |range: &str| {
        let more = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [range]});
        put_service(&lab, "guarded", cluster_ip(family, 1), 30_001, &more, &ingress(guarded, "VIP"));
    };
    put(&format!("{}/32", lab.outside_ip()));
    put_endpoints(&lab, "guarded", &[(b.ip, "node1")]);
    let more = json!({"type": "LoadBalancer"});
    put_service(&lab, "proxied", cluster_ip(family, 2), 30_002, &more, &ingress(proxied, "Proxy"));
    put_endpoints(&lab, "proxied", &[(b.ip, "node1")]);
    for ip in [guarded, proxied] {
        route_by(&lab, ip, 0);
    }
    let _listener = listen(&b.netns).await;
    let to = SocketAddr::new(guarded, PORT);
    until(&outside, to, Ok(())).await;
    for other in [&a.netns, &node] {
        assert_eq!(connect(other, to).await, Err(ErrorKind::TimedOut), "{other}");
        until(other, SocketAddr::new(cluster_ip(family, 1), PORT), Ok(())).await;
    }
    let node_port = SocketAddr::new(lab.node_ip(0, family), 30_001);
    until(&a.netns, node_port, Ok(())).await;
    // The node, which the gateway's address stands for.
    put(&format!("{}/32", lab.nodes[0].ip));
    until(&node, to, Ok(())).await;
    until(&outside, to, Err(ErrorKind::TimedOut)).await;

    until(&outside, SocketAddr::new(lab.node_ip(0, family), 30_002), Ok(())).await;
    let routes = sh(&format!("ip -n {node} route"));
    assert!(!routes.contains(&proxied.to_string()) && routes.contains(&guarded.to_string()), "{routes}");
}
