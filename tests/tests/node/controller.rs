//! What a restart of the controller costs its agents: one list each, and no flow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use antrea_tests::lab::{AGENT_INFOS, Lab, LabNode, eventually};
use antrea_tests::station::{Arrived, Station};
use serde_json::json;

const POLICIES: usize = 500;
const LIMIT: Duration = Duration::from_secs(90);
const OPERATIONS: &str = "antrea_agent_ovs_flow_ops_count";
const KNOWN: &str = "antrea_agent_networkpolicy_count";
/// Watches that the controller has answered.
const WATCHES: &[&str] = &["apiserver_request_total", "verb=\"watch\"", "code=\"200\""];

/// Flows with their ages in seconds.
fn flows(node: &LabNode) -> BTreeMap<String, f64> {
    let dump = node.ofctl("dump-flows", &[]);
    dump.lines()
        .filter(|line| line.contains("cookie="))
        .map(|line| {
            let (mut age, mut rest) = (None, Vec::new());
            for part in line.trim().split(", ") {
                match part.split_once('=') {
                    Some(("duration", value)) => age = value.trim_end_matches('s').parse().ok(),
                    Some(("n_packets" | "n_bytes" | "idle_age" | "hard_age", _)) => {}
                    _ => rest.push(part),
                }
            }
            (rest.join(", "), age.unwrap_or_else(|| panic!("no age: {line}")))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_500_policies_touches_no_flow() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    for name in ["node1", "node2"] {
        let told = || lab.api.get(AGENT_INFOS, None, name).is_some_and(|i| i["apiCABundle"].is_string());
        eventually("the agent tells its CA", LIMIT, told).await;
    }
    let mut pod = |index: usize, name: &str, app: &str| {
        lab.put_pod(index, name, &[("app", app)], None);
        let pod = lab.add_pod(index, name);
        let station = Station::start(&pod.netns);
        (pod, station)
    };
    let (iso, other) = (pod(0, "iso", "iso"), pod(1, "other", "iso"));
    let (near, friend) = (pod(0, "near", "near"), pod(1, "friend", "friend"));
    for (_, station) in [&near, &friend] {
        station.aim([iso.0.ip, other.0.ip]);
    }
    // Without a policy everything arrives: what is refused later could.
    let met_by = |station: &Station, from: std::net::IpAddr| {
        station.arrived().get(&from).is_some_and(|seen| seen.tcp > 2 && seen.udp > 2)
    };
    eventually("probes of every path arrive", LIMIT, || {
        [near.0.ip, friend.0.ip].iter().all(|from| met_by(&iso.1, *from) && met_by(&other.1, *from))
    })
    .await;
    for n in 0..POLICIES {
        let block = format!("198.18.{}.{}/32", n / 250, n % 250);
        lab.put_policy(
            &format!("p{n}"),
            &json!({
                "podSelector": {"matchLabels": {"app": "iso"}},
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [
                        {"ipBlock": {"cidr": block}},
                        {"podSelector": {"matchLabels": {"app": "friend"}}},
                    ],
                    "ports": [{"port": 7000}, {"port": 7001, "protocol": "UDP"}, {"port": 1000 + n}],
                }],
            }),
        );
    }
    let start = Instant::now();
    for index in 0..2 {
        while lab.agent_metric(index, KNOWN).await < POLICIES as f64 {
            assert!(start.elapsed() < LIMIT, "the policies are not in force");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("{POLICIES} policies: in force on both nodes after {:?}", start.elapsed());
    iso.1.forget();
    other.1.forget();
    let met = |station: &Station| met_by(station, friend.0.ip);
    eventually("who may talk does", LIMIT, || met(&iso.1) && met(&other.1)).await;
    let leaked = || {
        let may_not = |from| from != friend.0.ip;
        [&iso, &other].map(|(_, station)| station.leaked(may_not))
    };
    // What is under way ends: probes that were sent before the last flow, reports, counts.
    tokio::time::sleep(Duration::from_secs(2)).await;
    iso.1.forget();
    other.1.forget();
    let sent = near.1.sent();
    let before = [flows(&lab.nodes[0]), flows(&lab.nodes[1])];
    let operations = [lab.agent_metric(0, OPERATIONS).await, lab.agent_metric(1, OPERATIONS).await];
    let clock = Instant::now();

    for round in 1..=2 {
        lab.kill_controller();
        tokio::time::sleep(Duration::from_secs(1)).await;
        eventually("who may talk does without a controller", LIMIT, || met(&iso.1) && met(&other.1)).await;
        lab.start_controller();
        let up = Instant::now();
        lab.wait_controller().await;
        // A controller counts from 0, so these are the watches of its own life.
        let mut requests = 0.0;
        while requests < 6.0 {
            assert!(up.elapsed() < LIMIT, "the agents do not watch again");
            tokio::time::sleep(Duration::from_millis(50)).await;
            requests = lab.controller_metric(WATCHES).await;
        }
        let took = up.elapsed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let requests = lab.controller_metric(WATCHES).await;
        println!("round {round}: both agents watch {took:?} after the start; {requests} watches");
        assert!((requests - 6.0).abs() < 0.5, "each agent lists each of the three resources once");
    }

    let elapsed = clock.elapsed().as_secs_f64();
    for index in 0..2 {
        let now = flows(&lab.nodes[index]);
        let gone: Vec<_> = before[index].keys().filter(|flow| !now.contains_key(*flow)).take(3).collect();
        let new: Vec<_> = now.keys().filter(|flow| !before[index].contains_key(*flow)).take(3).collect();
        assert!(gone.is_empty() && new.is_empty(), "gone: {gone:?}, new: {new:?}");
        let youngest = now.values().copied().fold(f64::INFINITY, f64::min);
        assert!(youngest >= elapsed, "a flow was installed again: {youngest} s old after {elapsed} s");
        let done = lab.agent_metric(index, OPERATIONS).await - operations[index];
        println!(
            "node{}: {} flows, {done} flow operations, the youngest flow {youngest:.1} s old",
            index + 1,
            now.len()
        );
        assert!(done.abs() < 0.5, "flows were sent again");
    }
    let probes = near.1.sent() - sent;
    println!("{probes} forbidden probes, leaked: {:?}", leaked());
    assert_eq!(leaked(), [Arrived::default(); 2]);
    // Of 400 a second; a busy machine sends fewer.
    assert!(probes as f64 > 100.0 * elapsed, "{probes} probes in {elapsed} s");
}
