//! What a pod may send is limited on the userspace datapath too, where ovs-vswitchd gets packets before the
//! queue of the chained bandwidth plugin does.

use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod, sh};
use antrea_tests::traffic::tcp;
use serde_json::{Value, json};

/// Bits per second.
const RATE: u64 = 20_000_000;

/// Octets that are sent: two seconds' worth.
const BYTES: usize = 5_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_may_send_is_limited_at_its_own_end() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[("ovsDatapathType", json!("netdev"))]).await;
    let peer = lab.add_pod(0, "peer");
    let netns = lab.pod_netns(0, "slow");
    // As containerd writes it.
    let limit = json!({"bandwidth": {"EgressRate": RATE, "EgressBurst": 800_000}});
    let (output, text) =
        lab.nodes[0].cni("ADD", "slow-0123456789abcdef", &netns, "1.0.0", Some(("runtimeConfig", limit)));
    assert!(output.status.success(), "{text}");
    let slow = Pod::of("slow", "slow-0123456789abcdef", netns, serde_json::from_str(&text).unwrap());

    let shown = sh(&format!("ip netns exec {} tc -j qdisc show dev eth0", slow.netns));
    let queues: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&queues[0]["kind"], &queues[0]["options"]["rate"]),
        (&json!("tbf"), &json!(RATE / 8)),
        "{shown}"
    );
    let free = sh(&format!("ip netns exec {} tc qdisc show dev eth0", peer.netns));
    assert!(!free.contains("tbf"), "{free}");

    // However fast the machine is, it cannot be faster than this; how slow it is does not matter.
    let begin = Instant::now();
    tcp(&slow.netns, &peer.netns, peer.ip, 7000, BYTES).await.unwrap();
    let took = begin.elapsed();
    println!("{BYTES} octets at {RATE} bit/s took {took:?}");
    assert!(took > Duration::from_millis(1500), "{took:?}");
    lab.delete_pod(0, &slow);
}
