use serde_json::{Value, json};

use super::*;

fn pod(status: Value) -> Pod {
    let object: PodObject = serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {REVISION_ANNOTATION: "r1"}},
        "spec": {"nodeName": "node1"},
        "status": status,
    }))
    .unwrap();
    Pod::from(&object)
}

#[test]
fn the_cause_is_told_rather_than_the_symptom() {
    let crash = json!({"phase": "Running", "containerStatuses": [
        {"name": "antrea-ovs", "image": "", "imageID": "", "restartCount": 0, "ready": true, "state": {"running": {}}},
        {"name": "antrea-agent", "image": "", "imageID": "", "restartCount": 4, "ready": false,
         "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
         "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "tunnel type stt:\n not offered"}}},
    ]});
    let trouble = pod(crash).trouble.unwrap();
    assert_eq!(trouble.reason, "CrashLoopBackOff");
    assert_eq!(trouble.message, "container antrea-agent: exited with code 1: tunnel type stt: not offered");

    let pull = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "install-cni", "image": "", "imageID": "", "restartCount": 0, "ready": false,
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}}},
    ]});
    assert_eq!(pod(pull).trouble.unwrap().message, "container install-cni: Back-off pulling image \"x\"");

    let oom = json!({"phase": "Running", "containerStatuses": [
        {"name": "antrea-ovs", "image": "", "imageID": "", "restartCount": 1, "ready": false,
         "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
    ]});
    assert_eq!(pod(oom).trouble.unwrap().message, "container antrea-ovs: exited with code 137: OOMKilled");

    let unschedulable = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"},
    ]});
    assert_eq!(pod(unschedulable).trouble.unwrap().reason, "Unschedulable");

    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
    let evicted = pod(evicted);
    assert!(evicted.ended);
    assert_eq!(evicted.trouble.unwrap().reason, "Evicted");
}

#[test]
fn a_ready_pod_has_no_trouble_and_its_time_is_the_transition() {
    let ready = pod(json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"},
    ]}));
    assert!(ready.ready && ready.trouble.is_none());
    assert_eq!(ready.since.to_string(), "2026-01-01T00:01:00Z");
    assert_eq!(ready.revision, "r1");
}

fn node(value: Value) -> Node {
    Node::from(&serde_json::from_value::<NodeObject>(value).unwrap())
}

#[test]
fn nodes_are_chosen_as_the_scheduler_would() {
    let plain = node(json!({"metadata": {"name": "n", "labels": {"os": "linux"}}}));
    let tainted = node(json!({
        "metadata": {"name": "n", "labels": {"os": "linux"}},
        "spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]},
    }));
    let selector = BTreeMap::from([("os".to_owned(), "linux".to_owned())]);
    let other = BTreeMap::from([("os".to_owned(), "windows".to_owned())]);
    assert!(plain.admits(&selector, &[]) && !plain.admits(&other, &[]));
    assert!(!tainted.admits(&selector, &[]));
    let all = Toleration { operator: Some(TolerationOperator::Exists), ..Toleration::default() };
    let equal = Toleration { key: Some("a".into()), value: Some("b".into()), ..Toleration::default() };
    let wrong = Toleration { key: Some("a".into()), value: Some("c".into()), ..Toleration::default() };
    assert!(tainted.admits(&selector, &[all]) && tainted.admits(&selector, &[equal]));
    assert!(!tainted.admits(&selector, &[wrong]));
}

#[test]
fn an_unreachable_node_is_one_whose_kubelet_is_silent() {
    let with = |status: &str| {
        node(json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": status}]}})).reachable
    };
    // Not ready for want of a network is what the agent is there to mend.
    assert!(with("True") && with("False") && !with("Unknown"));
}

#[test]
fn what_the_agent_says_counts_from_when_it_was_first_heard() {
    let mut cluster = Cluster::default();
    cluster.set_health("n", Some(Trouble::new("A", "a")), at(10));
    cluster.set_health("n", Some(Trouble::new("B", "b")), at(20));
    assert_eq!(cluster.unhealthy["n"], (Trouble::new("B", "b"), at(10)));
    cluster.set_health("n", None, at(30));
    assert!(cluster.unhealthy.is_empty());
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Its Pod may be ready for kubelet, which asks on the loopback.
#[test]
fn an_agent_that_says_nothing_any_more_is_not_ready() {
    let mut cluster = Cluster::default();
    cluster.nodes.insert("node1".into(), node(json!({"metadata": {"name": "node1"}})));
    let ready = Pod { node: "node1".into(), ready: true, trouble: None, ..pod(json!({})) };
    cluster.agent_pods.insert("p".into(), ready);
    let is_ready = |cluster: &Cluster, now| cluster.agents(&BTreeMap::new(), &[], at(now))[0].is_ready();
    assert!(is_ready(&cluster, 10_000), "nobody made the object yet");
    // Whatever its clock says: what counts is when it moved.
    cluster.set_heard("node1", Some(at(5_000_000)), at(10));
    cluster.set_heard("node1", Some(at(5_000_000)), at(100));
    assert_eq!(cluster.next_stale(at(100)), Some(SignedDuration::from_secs(90)));
    assert!(is_ready(&cluster, 189) && !is_ready(&cluster, 190));
    let trouble = cluster.agents(&BTreeMap::new(), &[], at(200))[0].trouble();
    assert!(
        matches!(trouble, Some((trouble, since)) if trouble.reason == "HeartbeatStale" && since == at(190))
    );
    cluster.set_heard("node1", Some(at(5_000_060)), at(200));
    assert!(is_ready(&cluster, 210));
}

/// The Deployment goes on counting the Pod as ready for as long as nobody evicts it.
#[test]
fn a_controller_on_a_lost_node_is_not_ready() {
    let state = |status: &str| {
        node(
            json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": status}]}}),
        )
    };
    let deployment = ControllerState { revision: "c".into(), updated: true, ready: true };
    let mut cluster = Cluster { controller: Some(deployment), ..Cluster::default() };
    let ready = |cluster: &Cluster| cluster.controller_state().unwrap().ready;
    assert!(!ready(&cluster), "there is no Pod");
    let there = Pod { node: "n".into(), ready: true, trouble: None, ..pod(json!({})) };
    cluster.controller_pods.insert("p".into(), there);
    cluster.set_node("n".into(), state("True"), at(1));
    assert!(ready(&cluster) && cluster.controller_trouble().is_none());
    cluster.set_node("n".into(), state("Unknown"), at(5));
    cluster.set_node("n".into(), state("Unknown"), at(6));
    let (trouble, since) = cluster.controller_trouble().unwrap();
    assert_eq!((ready(&cluster), trouble.reason.as_str(), since), (false, "NodeLost", at(5)));
    cluster.set_node("n".into(), state("True"), at(7));
    assert!(ready(&cluster));
    cluster.remove_node("n", at(8));
    let (trouble, since) = cluster.controller_trouble().unwrap();
    assert_eq!((ready(&cluster), trouble.reason.as_str(), since), (false, "NodeLost", at(8)));
    cluster.controller_pods.clear();
    cluster.remove_node("other", at(9));
    assert!(cluster.lost.is_empty(), "nobody asks any more");
}

#[test]
fn of_two_pods_on_a_node_the_one_that_stays_counts() {
    let mut cluster = Cluster::default();
    cluster.nodes.insert("node1".into(), node(json!({"metadata": {"name": "node1"}})));
    let old = Pod { name: "a".into(), deleting: true, ..pod(json!({})) };
    let new = Pod { name: "b".into(), ..pod(json!({})) };
    for (first, second) in [(&old, &new), (&new, &old)] {
        cluster.agent_pods.clear();
        cluster.agent_pods.insert("1".into(), first.clone());
        cluster.agent_pods.insert("2".into(), second.clone());
        assert_eq!(cluster.agents(&BTreeMap::new(), &[], at(0))[0].pod.as_ref().unwrap().name, "b");
    }
}

#[test]
fn a_node_is_vacant_from_when_its_pod_went_away() {
    let mut cluster = Cluster { started: at(5), ..Cluster::default() };
    cluster.nodes.insert("node1".into(), node(json!({"metadata": {"name": "node1"}})));
    let vacant = |cluster: &Cluster| cluster.agents(&BTreeMap::new(), &[], at(0))[0].vacant_since;
    assert_eq!(vacant(&cluster), at(5));
    cluster.agent_pods.insert("p".into(), pod(json!({})));
    cluster.remove_agent_pod("p", at(9));
    assert_eq!(vacant(&cluster), at(9));
}

#[test]
fn a_pod_that_is_not_scheduled_belongs_to_the_node_that_it_is_for() {
    let object: PodObject = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node7"]}]},
        ]}}}},
    }))
    .unwrap();
    assert_eq!(Pod::from(&object).node, "node7");
}
