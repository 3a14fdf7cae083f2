//! Addresses that a node's agent tells before the status of its Pods has them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use antrea_policy::{
    Index, Told,
    k8s::{NetworkPolicy, Pod, Uid},
    model::{GroupChange, IndexChange},
};
use serde_json::json;

const UIDS: [&str; 3] = [
    "00000000-0000-0000-0000-000000000001",
    "00000000-0000-0000-0000-000000000002",
    "00000000-0000-0000-0000-000000000003",
];

fn pod(name: &str, uid: &str, node: &str, ip: &str) -> Pod {
    let ips = if ip.is_empty() { json!([]) } else { json!([{"ip": ip}]) };
    serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "uid": uid, "labels": {"app": "web"}},
        "spec": {"nodeName": node},
        "status": {"podIPs": ips},
    }))
    .unwrap()
}

fn told(name: &str, uid: &str, ip: &str) -> Told {
    Told {
        namespace: "shop".into(),
        name: name.into(),
        uid: Uid::parse(uid).unwrap(),
        ips: [ip.parse().unwrap()].into_iter().collect(),
    }
}

/// An index with a policy whose peers are all Pods of app web, drained.
fn shop() -> Index {
    let mut index = Index::new();
    let policy: NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "db", "uid": "u"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]},
    }))
    .unwrap();
    index.apply_network_policy(&policy);
    index.apply_pod(&pod("a", UIDS[0], "n1", ""));
    index.drain();
    index
}

fn peers(index: &Index) -> BTreeSet<String> {
    let members = index.address_groups().flat_map(|group| group.members);
    members.flat_map(|member| member.ips.iter().map(|ip| ip.to_string()).collect::<Vec<_>>()).collect()
}

fn set(ips: &[&str]) -> BTreeSet<String> {
    ips.iter().map(|ip| (*ip).to_owned()).collect()
}

#[test]
fn counts_until_the_status_has_one() {
    let mut index = shop();
    let a = told("a", UIDS[0], "10.0.1.5");
    assert_eq!(index.without_status("n1", [&a]).count(), 1);
    assert!(index.tell_addresses("n1", std::slice::from_ref(&a)).is_empty());
    assert_eq!(peers(&index), set(&["10.0.1.5"]));
    let changes = index.drain();
    let added = |change: &IndexChange| matches!(change, IndexChange::AddressGroup(_, GroupChange::Updated { added, .. }) if added.len() == 1);
    assert!(changes.len() == 1 && added(&changes[0]), "{changes:?}");
    // The same again, and an event of the Pod that says nothing of addresses.
    index.tell_addresses("n1", std::slice::from_ref(&a));
    index.apply_pod(&pod("a", UIDS[0], "n1", ""));
    assert_eq!(index.drain(), vec![]);
    assert!(index.has_told("n1"));
    // kubelet has another opinion: its word counts, whatever the agent goes on telling.
    index.apply_pod(&pod("a", UIDS[0], "n1", "10.0.1.6"));
    assert_eq!(index.without_status("n1", [&a]).count(), 0);
    assert!(index.tell_addresses("n1", &[a]).is_empty());
    assert_eq!(peers(&index), set(&["10.0.1.6"]));
    assert!(!index.has_told("n1"));
}

#[test]
fn what_is_told_no_more_is_forgotten() {
    let mut index = shop();
    index.tell_addresses("n1", &[told("a", UIDS[0], "10.0.1.5")]);
    index.drain();
    index.tell_addresses("n1", &[]);
    assert_eq!(peers(&index), set(&[]));
    assert_eq!(index.drain().len(), 1);
    // So it is when the Pod is another one of the name, or gone.
    index.tell_addresses("n1", &[told("a", UIDS[0], "10.0.1.5")]);
    index.apply_pod(&pod("a", UIDS[1], "n1", ""));
    assert_eq!(peers(&index), set(&[]));
    index.tell_addresses("n1", &[told("a", UIDS[1], "10.0.1.5")]);
    index.delete_pod("shop", "a");
    index.apply_pod(&pod("a", UIDS[1], "n1", ""));
    assert_eq!(peers(&index), set(&[]));
    index.tell_addresses("n1", &[told("a", UIDS[1], "10.0.1.5")]);
    index.reset_pods([&pod("a", UIDS[1], "n1", "")], []);
    assert_eq!(peers(&index), set(&["10.0.1.5"]), "a new list says nothing new");
}

#[test]
fn only_pods_of_the_node_with_this_uid_are_meant() {
    let mut index = shop();
    for (node, pod) in [
        ("n2", told("a", UIDS[0], "10.0.1.5")),
        ("n1", told("a", UIDS[1], "10.0.1.5")),
        ("n1", told("b", UIDS[0], "10.0.1.5")),
    ] {
        assert_eq!(index.without_status(node, [&pod]).count(), 0);
        index.tell_addresses(node, &[pod]);
        assert_eq!(peers(&index), set(&[]));
    }
}

#[test]
fn an_address_that_another_pod_has_is_not_taken_over() {
    let mut index = shop();
    index.apply_pod(&pod("b", UIDS[1], "n1", "10.0.1.9"));
    index.apply_pod(&pod("c", UIDS[2], "n1", ""));
    let all =
        [told("a", UIDS[0], "10.0.1.9"), told("c", UIDS[2], "10.0.1.5"), told("a", UIDS[0], "10.0.1.5")];
    let taken: Vec<_> = index.tell_addresses("n1", &all).into_iter().cloned().collect();
    assert_eq!(taken, [all[0].clone(), all[2].clone()]);
    assert_eq!(peers(&index), set(&["10.0.1.5", "10.0.1.9"]));
    // A status that has the address takes it from whom it was told of.
    index.drain();
    index.apply_pod(&pod("a", UIDS[0], "n1", "10.0.1.5"));
    let members: Vec<_> = index.address_groups().flat_map(|group| group.members).collect();
    assert_eq!(members.len(), 2, "{members:?}");
    assert!(!index.has_told("n1"));
    assert!(!index.drain().is_empty());
}
