//! The CNI contract: verbs, versions, concurrency, and nothing left behind.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use antrea_tests::lab::{Lab, Pod, sh};
use antrea_tests::traces::Traces;
use antrea_tests::traffic::ping;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_and_version() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let before = Traces::of(&lab.nodes[0]);
    let pod = lab.add_pod(0, "a");
    let node = &lab.nodes[0];

    // The same ADD again answers the same, in every version's form.
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let (output, text) = node.cni("ADD", &pod.container_id, &pod.netns, version, None);
        assert!(output.status.success(), "{version}: {text}");
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["address"], pod.result["ips"][0]["address"]);
        assert_eq!(result["ips"][0].get("version").is_some(), version.starts_with("0."));
        let (output, text) = node.cni("VERSION", "", "", version, None);
        assert!(output.status.success() && text.contains(version), "{text}");
    }
    let previous = |pod: &Pod| Some(("prevResult", pod.result.clone()));
    let (output, text) = node.cni("CHECK", &pod.container_id, &pod.netns, "1.0.0", previous(&pod));
    assert!(output.status.success(), "{text}");
    sh(&format!("ip -n {} route del default", pod.netns));
    let (output, text) = node.cni("CHECK", &pod.container_id, &pod.netns, "1.0.0", previous(&pod));
    assert!(!output.status.success() && text.contains("default route"), "{text}");
    let (output, text) = node.cni("STATUS", "", "", "1.1.0", None);
    assert!(output.status.success(), "{text}");

    // DEL twice, and for a container that never was.
    for _ in 0..2 {
        let (output, text) = node.cni("DEL", &pod.container_id, &pod.netns, "1.0.0", None);
        assert!(output.status.success(), "{text}");
    }
    let (output, text) = node.cni("DEL", "never-was", "", "1.0.0", None);
    assert!(output.status.success(), "{text}");
    assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0]);

    // GC takes what the runtime does not list.
    let kept = lab.add_pod(0, "kept");
    let after_kept = Traces::of(&lab.nodes[0]);
    let _lost = lab.add_pod(0, "lost");
    let valid = json!([{"containerID": kept.container_id, "ifname": "eth0"}]);
    let (output, text) = lab.nodes[0].cni("GC", "", "", "1.1.0", Some(("cni.dev/valid-attachments", valid)));
    assert!(output.status.success(), "{text}");
    assert_eq!(Traces::of(&lab.nodes[0]).since(&after_kept), [""; 0]);

    // A wrong request is named, and leaves nothing.
    let (output, text) = lab.nodes[0].cni("ADD", "x-1", "no-such-namespace", "1.0.0", None);
    assert!(!output.status.success() && text.contains("no-such-namespace"), "{text}");
    assert_eq!(Traces::of(&lab.nodes[0]).since(&after_kept), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let before = Traces::of(&lab.nodes[0]);
    let spaces: Vec<String> = (0..50).map(|n| lab.pod_netns(0, &format!("m{n}"))).collect();
    let node = &lab.nodes[0];
    let results: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = spaces
            .iter()
            .enumerate()
            .map(|(n, netns)| {
                scope.spawn(move || {
                    let (output, text) = node.cni("ADD", &format!("m{n}-id"), netns, "1.0.0", None);
                    assert!(output.status.success(), "{text}");
                    serde_json::from_str::<Value>(&text).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: BTreeSet<String> =
        results.iter().map(|r| r["ips"][0]["address"].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 50, "an address was given twice");
    let first: std::net::IpAddr =
        results[0]["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    assert!(ping(&spaces[49], first, 56, true));
    std::thread::scope(|scope| {
        for (n, netns) in spaces.iter().enumerate() {
            scope.spawn(move || {
                let (output, text) = node.cni("DEL", &format!("m{n}-id"), netns, "1.0.0", None);
                assert!(output.status.success(), "{text}");
            });
        }
    });
    assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_and_deletes_leave_the_host_as_it_was() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let before = Traces::of(&lab.nodes[0]);
    let netns = lab.pod_netns(0, "churn");
    let node = &lab.nodes[0];
    let rounds = rounds();
    let start = std::time::Instant::now();
    for round in 0..rounds {
        let id = format!("churn-{round}");
        let (output, text) = node.cni("ADD", &id, &netns, "1.0.0", None);
        assert!(output.status.success(), "round {round}: {text}");
        let (output, text) = node.cni("DEL", &id, &netns, "1.0.0", None);
        assert!(output.status.success(), "round {round}: {text}");
    }
    println!("{rounds} ADD and DEL in {:?}", start.elapsed());
    assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0]);
}

/// How often, 1000 unless `ANTREA_TEST_CHURN` says fewer: a machine in software takes its time.
fn rounds() -> u32 {
    std::env::var("ANTREA_TEST_CHURN").map_or(1000, |text| text.parse().unwrap())
}

/// A power cut leaves files of host-local's empty or full of NULs. Nobody has these addresses, and they are freed.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_of_addresses_are_freed_and_stop_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let kept = lab.add_pod(0, "kept");
    let folder = lab.nodes[0].ipam_dir();
    let damage = |address: &str, record: &[u8]| {
        let file = folder.join(address);
        std::fs::write(&file, record).unwrap();
        // What was written just now may be under way.
        let opened = std::fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(SystemTime::now() - Duration::from_secs(300)).unwrap();
        file
    };
    let files = [damage("10.244.1.200", b""), damage("10.244.1.201", &[0; 70])];
    // Also the record of an attachment that is here: its address must not go to another.
    let own = damage(&kept.ip.to_string(), b"");
    let gc = |lab: &Lab| {
        let valid = json!([{"containerID": kept.container_id, "ifname": "eth0"}]);
        let (output, text) =
            lab.nodes[0].cni("GC", "", "", "1.1.0", Some(("cni.dev/valid-attachments", valid)));
        assert!(output.status.success(), "{text}");
    };
    gc(&lab);
    let there = |file: &std::path::PathBuf| file.exists();
    assert!(!files.iter().any(there) && own.exists(), "by GC: {files:?}");
    damage("10.244.1.202", &[0; 70]);
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    assert!(!folder.join("10.244.1.202").exists() && own.exists(), "by the next agent");
    let other = lab.add_pod(0, "other");
    assert!(ping(&kept.netns, other.ip, 56, true));
}
