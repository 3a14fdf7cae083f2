//! A kernel that was started with `ipv6.disable=1`: it has no sockets, settings and routing rules of that family. `make
//! test-all` starts one, and runs some other modules there, too (`hack/test.sh`).

use std::path::Path;
use std::time::Duration;

use antrea_tests::lab::{eventually, sh};
use antrea_tests::station::{Arrived, Station, until_isolated};
use antrea_tests::traffic::{ping, quick_ping};
use serde_json::json;

use crate::health::{lab_with_status, told_since, turns_back};
use crate::hostnet::{limit, state};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kernel that was started with ipv6.disable=1: runs in the virtual machine"]
async fn a_kernel_without_ipv6_runs_pods_and_has_nothing_of_it_to_repair() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    if Path::new("/proc/sys/net/ipv6/conf").exists() {
        return;
    }
    let mut lab = lab_with_status(2).await;
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(1, "b"));
    assert!(ping(&a.netns, b.ip, 56, true));

    // Isolated, it has kubelet's probes and nobody else's; and it begins nothing itself.
    let [at_a, at_b, kubelet] = [&a.netns, &b.netns, &lab.nodes[0].netns].map(|netns| Station::start(netns));
    let arrived = |at: &Station, from: std::net::IpAddr| at.leaked(|ip| ip == from);
    at_b.aim([a.ip]);
    at_a.aim([b.ip]);
    kubelet.aim([a.ip]);
    for (what, at, from) in
        [("to a", &at_a, b.ip), ("to b", &at_b, a.ip), ("of kubelet", &at_a, "10.244.1.1".parse().unwrap())]
    {
        let come = || arrived(at, from).tcp > 2 && arrived(at, from).udp > 2;
        eventually(&format!("probes arrive {what}"), LIMIT, come).await;
    }
    let both = json!({"podSelector": {"matchLabels": {"name": "a"}}, "policyTypes": ["Ingress", "Egress"]});
    lab.put_policy("isolate", &both);
    let leaks = || [arrived(&at_a, b.ip), arrived(&at_b, a.ip)] != [Arrived::default(); 2];
    until_isolated(&[&at_a, &at_b, &kubelet], leaks).await;
    let before = at_a.sent() + at_b.sent();
    eventually("probes that could leak", LIMIT, || at_a.sent() + at_b.sent() > before + 400).await;
    assert!(!leaks(), "{:?} {:?}", at_a.arrived(), at_b.arrived());
    let probed = || at_a.leaked(|ip| ip != b.ip).tcp > 2;
    eventually("kubelet's probes arrive", LIMIT, probed).await;
    [&at_a, &at_b, &kubelet].iter().for_each(|station| station.aim([]));

    // What others change is put back, and what is not there is not missed.
    let netns = lab.nodes[0].netns.clone();
    let link = a.result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let good = state(&lab.nodes[0], &[&link]);
    for (damage, word) in [
        ("ip link set antrea-gw0 down", "antrea-gw0"),
        ("ip route del 10.244.2.0/24", "10.244.2.0/24"),
        ("iptables -w -t raw -F", "raw"),
        ("nft delete table ip ANTREA-EGRESS", "ANTREA-EGRESS"),
        ("sysctl -qw net.ipv4.ip_forward=0", "ip_forward"),
    ] {
        let version = lab.api.version();
        sh(&format!("ip netns exec {netns} {damage}"));
        let back = eventually(damage, limit(), || state(&lab.nodes[0], &[&link]) == good).await;
        println!("{damage}: put back after {back:.1?}");
        told_since(version, &lab, "AgentHealthy", "HostNetworkRepaired", word).await;
        eventually("traffic as before", limit(), || quick_ping(&netns, b.ip)).await;
        turns_back(&lab, "AgentHealthy").await;
    }
    let differed = || {
        let log = std::fs::read_to_string(lab.nodes[0].log()).unwrap();
        let failed: Vec<&str> = log.lines().filter(|line| line.contains("problem=")).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        log.matches("differed from what was made").count()
    };
    let before = differed();
    // Settings are looked at twice, rules once.
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!(differed(), before, "something is repaired again and again");
    turns_back(&lab, "AgentHealthy").await;
}
