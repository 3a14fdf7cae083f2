//! What others change is put back, addresses that come later have node ports too, and the way back leaves nothing.

use std::net::{IpAddr, SocketAddr};

use antrea_tests::lab::{Lab, eventually, sh};
use netcfg::Family;
use serde_json::json;

use super::{LIMIT, PORT, cluster_ip, external_ip, lab, listen, put_endpoints, put_service, until};

/// What there is on a node because of the mode.
fn traces(lab: &Lab) -> Vec<String> {
    let netns = &lab.nodes[0].netns;
    let sources = [
        "ip route show table all",
        "ip -6 route show table all",
        "ip neigh show nud permanent",
        "ip -6 neigh show nud permanent",
        "ipset save",
        "iptables-save",
        "ip6tables-save",
    ];
    let ours =
        ["169.254.0.252", "169.254.0.253", "fc01::aabb", "ANTREA-NODEPORT", "ANTREA-EXTERNAL", "10.96.0.0"];
    let lines: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            sh(&format!("ip netns exec {netns} {source}")).lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    // The mark of what goes to the cluster's ranges is of the userspace datapath, whoever serves.
    let of_mode = |line: &String| {
        ours.iter().any(|ours| line.contains(ours)) && !line.contains("to Pods by their mark")
    };
    lines.into_iter().filter(of_mode).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_leaves_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(1).await;
    let b = lab.add_pod(0, "b");
    let (outside, netns) = (lab.outside(), lab.nodes[0].netns.clone());
    let external = external_ip(Family::V4, 1);
    put_service(
        &lab,
        "web",
        cluster_ip(Family::V4, 1),
        30_001,
        &json!({"externalIPs": [external]}),
        &json!({}),
    );
    put_endpoints(&lab, "web", &[(b.ip, "node1")]);
    let _listener = listen(&b.netns).await;
    let to = SocketAddr::new(lab.node_ip(0, Family::V4), 30_001);
    let cluster = SocketAddr::new(cluster_ip(Family::V4, 1), PORT);
    until(&outside, to, Ok(())).await;
    until(&netns, cluster, Ok(())).await;
    assert!(traces(&lab).len() > 10, "{:?}", traces(&lab));

    for damage in [
        "ip route del 10.96.0.0/16",
        "ip neigh del 169.254.0.253 dev antrea-gw0",
        "iptables -w -t nat -F ANTREA-PREROUTING",
        "ipset flush ANTREA-NODEPORT-IP",
    ] {
        sh(&format!("ip netns exec {netns} {damage}"));
        until(&outside, to, Ok(())).await;
        until(&netns, cluster, Ok(())).await;
    }
    // An address that the node gets, and one that it loses, of a Service too.
    let later: IpAddr = "172.31.255.9".parse().unwrap();
    sh(&format!("ip -n {outside} route add {later} via {}", lab.nodes[0].ip));
    sh(&format!("ip -n {outside} route add {external} via {}", lab.nodes[0].ip));
    for ip in [later, external] {
        sh(&format!("ip -n {netns} addr add {ip}/32 dev eth0"));
    }
    until(&outside, SocketAddr::new(later, 30_001), Ok(())).await;
    until(&outside, SocketAddr::new(external, PORT), Ok(())).await;
    until(&netns, SocketAddr::new(external, PORT), Ok(())).await;
    for ip in [later, external] {
        sh(&format!("ip -n {netns} addr del {ip}/32 dev eth0"));
    }
    eventually("the address has no node ports", LIMIT, || {
        !sh(&format!("ip netns exec {netns} ipset save")).contains(&later.to_string())
    })
    .await;
    until(&outside, SocketAddr::new(external, PORT), Ok(())).await;

    lab.nodes[0].stop_agent();
    lab.configure("antreaProxy", json!({"proxyAll": false}));
    lab.start_agent(0);
    lab.wait_ready(0).await;
    eventually("nothing is left of the mode", LIMIT, || traces(&lab).is_empty()).await;
    assert_eq!(traces(&lab), Vec::<String>::new());
}
