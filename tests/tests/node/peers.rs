//! Nodes come, change and go; the others follow.

use std::time::Duration;

use antrea_tests::lab::{Lab, NODES, eventually, sh};
use antrea_tests::traffic::ping;

/// The goal is a second; a loaded machine gets more before the test fails, and the figure is printed.
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn peers_follow_node_objects() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let a = lab.add_pod(0, "a");

    let index = lab.add_node();
    lab.start_agent(index);
    let netns = lab.nodes[0].netns.clone();
    let route = |cidr: &str| sh(&format!("ip -n {netns} route show {cidr}")).contains("antrea-gw0");
    let took = eventually("route to the new node", LIMIT, || route("10.244.2.0/24")).await;
    println!("node added: route after {took:?}");
    lab.wait_ready(index).await;
    let c = lab.add_pod(index, "c");
    assert!(ping(&a.netns, c.ip, 56, true));

    lab.nodes[index].pod_cidr = "10.244.77.0/24".into();
    lab.publish_node(index);
    let took =
        eventually("route to the new subnet", LIMIT, || route("10.244.77.0/24") && !route("10.244.2.0/24"))
            .await;
    println!("subnet changed: route after {took:?}");
    let flows = lab.nodes[0].ofctl("dump-flows", &["--no-stats"]);
    assert!(flows.contains("10.244.77.0/24") && !flows.contains("10.244.2.0/24"), "{flows}");

    lab.api.delete(NODES, None, "node2");
    let took = eventually("no route to the node", LIMIT, || !route("10.244.77.0/24")).await;
    println!("node removed: route gone after {took:?}");
    let flows = lab.nodes[0].ofctl("dump-flows", &["--no-stats"]);
    assert!(!flows.contains("10.244.77.0/24"), "{flows}");
}
