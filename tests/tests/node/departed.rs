//! Policy ends with a pod's sandbox, not with its object: a pod that was deleted by force, or that the API says has
//! ended, is as isolated as before for as long as it can send.

use std::time::Duration;

use antrea_tests::lab::{Lab, NETWORK_POLICIES, PODS, Pod, eventually};
use antrea_tests::station::{Arrived, Station, until_isolated};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

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
    eventually("all are open", LIMIT, || {
        let both = |pod: &Pod, at: &Station, other: &Pod, at_other: &Station| {
            full(met(at, other)) && full(met(at_other, pod))
        };
        quiet.iter().zip(&at_quiet).all(|(pod, at)| {
            loud.iter().zip(&at_loud).all(|(other, at_other)| both(pod, at, other, at_other))
        })
    })
    .await;
    lab.put_policy(
        "quiet",
        &json!({
            "podSelector": {"matchLabels": {"role": "quiet"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": "friend"}}}]}],
        }),
    );
    let stations: Vec<&Station> = at_quiet.iter().chain(&at_loud).collect();
    until_isolated(&stations, || !leaks(&[0, 1, 2]).is_empty()).await;

    let sent = || -> u64 { at_loud.iter().chain(&at_quiet).map(Station::sent).sum() };
    let before = sent();
    lab.api.delete(PODS, Some("default"), "deleted");
    let mut failed = lab.api.get(PODS, Some("default"), "failed").unwrap();
    failed["status"]["phase"] = json!("Failed");
    lab.api.put(PODS, failed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    eventually("2,000 probes are sent", LIMIT, || sent() - before > 2000).await;
    assert_eq!(leaks(&[0, 1, 2]), Vec::<String>::new());
    println!("{} probes, none arrived", sent() - before);

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

/// The memory of that outlives the agent, whether the object went before or while no agent ran.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_a_restart_of_the_agent_free_it() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let names = ["before", "meanwhile", "failed", "alive"];
    for name in names {
        lab.put_pod(0, name, &[("role", "quiet")], None);
    }
    let quiet = names.map(|name| lab.add_pod(0, name));
    let other = lab.add_pod(0, "other");
    let at_quiet: Vec<_> = quiet.iter().map(|pod| Station::start(&pod.netns)).collect();
    let at_other = Station::start(&other.netns);
    at_other.aim(quiet.iter().map(|pod| pod.ip));
    at_quiet.iter().for_each(|station| station.aim([other.ip]));
    let leaks = |which: &[usize]| -> Vec<String> {
        let met = |index: usize| [met(&at_quiet[index], &other), met(&at_other, &quiet[index])];
        let leak = |index: &usize| {
            let arrived = met(*index);
            (arrived != [Arrived::default(); 2]).then(|| format!("{}: {arrived:?}", quiet[*index].name))
        };
        which.iter().filter_map(leak).collect()
    };
    eventually("all are open", LIMIT, || {
        quiet.iter().zip(&at_quiet).all(|(pod, at)| full(met(at, &other)) && full(met(&at_other, pod)))
    })
    .await;
    lab.put_policy(
        "quiet",
        &json!({"podSelector": {"matchLabels": {"role": "quiet"}}, "policyTypes": ["Ingress", "Egress"]}),
    );
    let stations: Vec<&Station> = at_quiet.iter().chain([&at_other]).collect();
    until_isolated(&stations, || !leaks(&[0, 1, 2, 3]).is_empty()).await;
    let sent = || at_quiet.iter().map(Station::sent).sum::<u64>() + at_other.sent();
    let begin = sent();

    lab.api.delete(PODS, Some("default"), "before");
    tokio::time::sleep(Duration::from_secs(1)).await;
    lab.nodes[0].stop_agent();
    lab.api.delete(PODS, Some("default"), "meanwhile");
    let mut failed = lab.api.get(PODS, Some("default"), "failed").unwrap();
    failed["status"]["phase"] = json!("Failed");
    lab.api.put(PODS, failed);
    // Nobody isolates who is alive any more.
    lab.put_pod(0, "alive", &[], None);
    for again in 0..2 {
        lab.start_agent(0);
        lab.wait_ready(0).await;
        eventually("who is alive is open", LIMIT, || {
            full(met(&at_quiet[3], &other)) && full(met(&at_other, &quiet[3]))
        })
        .await;
        // What the controller is asked has been answered.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(leaks(&[0, 1, 2]), Vec::<String>::new(), "after restart {again}");
        if again == 0 {
            lab.nodes[0].kill_agent();
        }
    }
    println!("{} probes, none arrived", sent() - begin);
    assert!(sent() - begin > 2000, "only {} probes", sent() - begin);

    // With the sandbox that ends too.
    drop(at_quiet);
    for pod in &quiet[..3] {
        lab.delete_pod(0, pod);
    }
    let next = lab.add_pod(0, "next");
    let at_next = Station::start(&next.netns);
    at_other.aim([next.ip]);
    eventually("the next pod is open", LIMIT, || full(met(&at_next, &other))).await;
    let ports = lab.nodes[0].ovs.vsctl(&["--columns=external_ids", "list", "Port"]).unwrap();
    assert!(!ports.contains("antrea-isolated"), "nobody is isolated: {ports}");
}
