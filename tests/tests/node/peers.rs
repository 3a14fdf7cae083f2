//! Nodes come, change and go; the others follow.

use std::net::Ipv4Addr;
use std::time::Duration;

use antrea_tests::lab::{Lab, NODES, eventually, sh};
use antrea_tests::traffic::{ping, quick_ping};

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

    // The node gets another address: its agent ends, and is started again as kubelet does.
    let (old, mut octets) = (lab.nodes[index].ip, lab.nodes[index].ip.octets());
    octets[3] = 99;
    let new = Ipv4Addr::from(octets);
    let moved = &lab.nodes[index].netns;
    for line in [
        format!("addr del {old}/24 dev eth0"),
        format!("addr add {new}/24 dev eth0"),
        format!("route add default via {}", lab.outside_ip()),
    ] {
        sh(&format!("ip -n {moved} {line}"));
    }
    lab.nodes[index].ip = new;
    lab.publish_node(index);
    let tunnels = || {
        let fdb = sh(&format!("bridge -n {netns} fdb show"));
        format!("{fdb}{}", lab.nodes[0].ofctl("dump-flows", &["--no-stats"]))
    };
    let follows = || {
        let tunnels = tunnels();
        let has = |ip: Ipv4Addr| tunnels.split([' ', ':', ',', '-', '\n']).any(|word| word == ip.to_string());
        has(new) && !has(old)
    };
    let took = eventually("a tunnel to the new address", LIMIT, follows).await;
    println!("address changed: tunnel after {took:?}");
    lab.nodes[index].kill_agent();
    lab.start_agent(index);
    lab.wait_ready(index).await;
    eventually("traffic to the new address", LIMIT, || quick_ping(&a.netns, c.ip)).await;

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

/// An address that is not here yet stands first in the Node's list, as a virtual one does that moves. The agent looks at the
/// Node again for each try.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_comes_up_when_its_node_object_is_put_right() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    let (name, right) = (lab.nodes[0].name.clone(), lab.nodes[0].ip);
    lab.nodes[0].ip = Ipv4Addr::new(203, 0, 113, 77);
    lab.publish_node(0);
    lab.start_agent(0);
    let told = lab.wait_unhealthy(0, "TransportInterfaceMissing").await;
    println!("{name}: {told}");
    assert!(told.contains("203.0.113.77"), "{told}");
    lab.nodes[0].ip = right;
    lab.publish_node(0);
    let took = lab.wait_ready(0).await;
    println!("ready {took:.1?} after the Node was put right");
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    assert!(ping(&a.netns, b.ip, 56, true));
}
