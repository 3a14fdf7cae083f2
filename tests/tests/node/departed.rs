//! Policy ends with a pod's sandbox, not with its object: a pod that was deleted by force, or that the API says has
//! ended, is as isolated as before for as long as it can send.

use std::time::Duration;

use antrea_tests::lab::{Lab, NETWORK_POLICIES, PODS, Pod, eventually};
use antrea_tests::station::{Arrived, Station};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

fn met(at: &Station, from: &Pod) -> Arrived {
    at.arrived().get(&from.ip).copied().unwrap_or_default()
}

fn full(arrived: Arrived) -> bool {
    arrived.tcp > 2 && arrived.udp > 2
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_an_object_stays_isolated() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let quiet = ["deleted", "failed", "alive"];
    for name in quiet {
        lab.put_pod(0, name, &[("role", "quiet")], None);
    }
    let quiet = quiet.map(|name| lab.add_pod(0, name));
    let loud = [("near", 0), ("far", 1)].map(|(name, node)| lab.add_pod(node, name));
    let friend = lab.add_pod(1, "friend");
    lab.put_policy(
        "quiet",
        &json!({
            "podSelector": {"matchLabels": {"role": "quiet"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": "friend"}}}]}],
        }),
    );
    let stations = |pods: &[Pod]| pods.iter().map(|pod| Station::start(&pod.netns)).collect::<Vec<_>>();
    let (at_quiet, at_loud, at_friend) = (stations(&quiet), stations(&loud), Station::start(&friend.netns));
    for station in at_loud.iter().chain([&at_friend]) {
        station.aim(quiet.iter().map(|pod| pod.ip));
    }
    for station in &at_quiet {
        station.aim(loud.iter().map(|pod| pod.ip));
    }
    let leaks = |which: &[usize]| -> Vec<String> {
        let mut found = Vec::new();
        for (other, at_other) in loud.iter().zip(&at_loud) {
            for index in which {
                let (pod, at_pod) = (&quiet[*index], &at_quiet[*index]);
                for (to, arrived) in [(pod, met(at_pod, other)), (other, met(at_other, pod))] {
                    if arrived != Arrived::default() {
                        found.push(format!("{} and {}, at {}: {arrived:?}", pod.name, other.name, to.name));
                    }
                }
            }
        }
        found
    };
    let forget = || at_quiet.iter().chain(&at_loud).for_each(Station::forget);
    eventually("they are isolated", LIMIT, || {
        forget();
        std::thread::sleep(Duration::from_millis(300));
        leaks(&[0, 1, 2]).is_empty()
    })
    .await;

    let sent = || -> u64 { at_loud.iter().chain(&at_quiet).map(Station::sent).sum() };
    let before = sent();
    lab.api.delete(PODS, Some("default"), "deleted");
    let mut failed = lab.api.get(PODS, Some("default"), "failed").unwrap();
    failed["status"]["phase"] = json!("Failed");
    lab.api.put(PODS, failed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(leaks(&[0, 1, 2]), Vec::<String>::new());
    println!("{} probes, none arrived", sent() - before);
    assert!(sent() - before > 2000, "only {} probes", sent() - before);

    // The policy goes, and who is alive is heard: those that are gone keep it.
    lab.api.delete(NETWORK_POLICIES, Some("default"), "quiet");
    eventually("who is alive is open", LIMIT, || {
        loud.iter()
            .zip(&at_loud)
            .all(|(other, at)| full(met(&at_quiet[2], other)) && full(met(at, &quiet[2])))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(leaks(&[0, 1]), Vec::<String>::new(), "after the policy");
    // It is the same policy, not another that is stricter.
    at_quiet[0].forget();
    eventually("who was allowed still is", LIMIT, || full(met(&at_quiet[0], &friend))).await;

    // With the sandbox policy goes too, also for who gets the port or the address next.
    drop(at_quiet);
    for pod in &quiet[..2] {
        lab.delete_pod(0, pod);
    }
    let next = lab.add_pod(0, "next");
    let at_next = Station::start(&next.netns);
    at_loud.iter().for_each(|station| station.aim([next.ip]));
    eventually("the next pod is open", LIMIT, || loud.iter().all(|pod| full(met(&at_next, pod)))).await;
}
