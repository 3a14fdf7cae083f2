//! Nothing is deleted that is not proven to be the deleter's own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::{Lab, eventually, sh, try_in};
use antrea_tests::traffic::{ping, quick_ping};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::health::{lab_with_status, told_since, turns_back};

/// The device group of links that agents make.
const POD_LINK_GROUP: u32 = 0xa27e;

/// The host's link of a container, as upstream names it.
fn host_interface(pod: &str, container_id: &str) -> String {
    let digest = Sha1::digest(container_id.as_bytes());
    format!("{pod}-{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
}

/// Ids of two containers of pod `twin` whose links would have one name. Of 2^24 names a pair is found among about
/// five thousand.
fn colliding() -> (String, String) {
    let mut seen = HashMap::new();
    for number in 0.. {
        let id = format!("twin-{number}");
        if let Some(first) = seen.insert(host_interface("twin", &id), id.clone()) {
            return (first, id);
        }
    }
    unreachable!("there are more ids than names")
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_whose_links_names_collide() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let probe = lab.add_pod(0, "probe");
    let (first, second) = colliding();
    let (one, two) = (lab.pod_netns(0, "twin"), lab.new_netns(0, "twin2"));
    let node = &lab.nodes[0];
    let (output, text) = node.cni("ADD", &first, &one, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    assert!(ping(&probe.netns, address, 56, true));

    let (output, text) = node.cni("ADD", &second, &two, "1.0.0", None);
    let refused: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(!output.status.success(), "{text}");
    assert_eq!(refused["code"], 11, "the runtime has to try again: {text}");
    assert!(ping(&probe.netns, address, 56, true), "the first is as it was after the second's ADD");
    let (output, text) = node.cni("DEL", &second, &two, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    assert!(ping(&probe.netns, address, 56, true), "nor does the second's DEL touch it");
    let alive = json!([
        {"containerID": first, "ifname": "eth0"}, {"containerID": probe.container_id, "ifname": "eth0"}
    ]);
    let (output, text) = node.cni("GC", "", "", "1.1.0", Some(("cni.dev/valid-attachments", alive)));
    assert!(output.status.success(), "{text}");
    assert!(ping(&probe.netns, address, 56, true), "nor a GC");

    // With the first gone the name is free.
    let (output, text) = node.cni("DEL", &first, &one, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    let (output, text) = node.cni("ADD", &second, &two, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    eventually("traffic to the second", Duration::from_secs(5), || quick_ping(&probe.netns, address)).await;
    // The first's DEL comes once more, as runtimes do.
    let (output, text) = node.cni("DEL", &first, &one, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    assert!(ping(&probe.netns, address, 56, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_link_of_that_name_stays() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let name = host_interface("owned", "owned-1");
    let netns = lab.pod_netns(0, "owned");
    let node = &lab.nodes[0];
    let there = || try_in(&node.netns, &["ip", "link", "show", &name]).status.success();
    sh(&format!("ip -n {} link add {name} type veth peer name {name}p", node.netns));
    let (output, text) = node.cni("ADD", "owned-1", &netns, "1.0.0", None);
    assert!(!output.status.success() && text.contains(&name), "{text}");
    assert!(there(), "ADD");
    let (output, text) = node.cni("DEL", "owned-1", &netns, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    assert!(there(), "DEL");
    // One that an agent left is taken away.
    sh(&format!("ip -n {} link set {name} group {}", node.netns, POD_LINK_GROUP));
    let (output, text) = node.cni("ADD", "owned-1", &netns, "1.0.0", None);
    assert!(output.status.success(), "{text}");
}

/// Somebody empties IPAM's folder: it would give addresses of running pods to others.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_record_gives_no_address_twice() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    let mut held: Vec<IpAddr> = ["a", "b"].map(|name| lab.add_pod(0, name).ip).into();
    let folder = lab.nodes[0].dir.join("ipam/antrea");
    let reserved = |held: &[IpAddr]| held.iter().all(|ip| folder.join(ip.to_string()).exists());
    let mut refused = 0;
    for round in 0..2 {
        assert!(reserved(&held), "{held:?}");
        let version = lab.api.version();
        let name = format!("next{round}");
        let netns = lab.pod_netns(0, &name);
        for file in std::fs::read_dir(&folder).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        let (output, text) =
            lab.nodes[0].cni("ADD", &format!("{name}-0123456789abcdef"), &netns, "1.0.0", None);
        let answer: Value = serde_json::from_str(&text).unwrap();
        if output.status.success() {
            let ip =
                answer["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
            assert!(!held.contains(&ip), "{ip} is given to a second pod");
            held.push(ip);
        } else {
            assert_eq!(answer["code"], 11, "try again later: {text}");
            assert!(text.contains("its record was lost"), "{text}");
            refused += 1;
            lab.nodes[0].remove_netns(&netns);
        }
        eventually("addresses are reserved again", Duration::from_secs(20), || reserved(&held)).await;
        told_since(version, &lab, "AgentHealthy", "HostNetworkRepaired", "was not reserved").await;
        turns_back(&lab, "AgentHealthy").await;
    }
    println!("{refused} of 2 new pods were refused");
    assert!(refused > 0, "no address was given twice by IPAM, so nothing was tried");
}
