use super::*;
use crate::cluster::{Node, Trouble};

fn key(kind: &'static str, name: &str) -> Key {
    Key { kind, namespace: String::new(), name: name.into() }
}

fn node(name: &str, left: Option<&str>) -> Cleaned {
    Cleaned { node: name.into(), reachable: true, left: left.map(str::to_owned) }
}

/// An installation as it is when the request comes.
fn world() -> Vec<Key> {
    vec![
        key("ClusterRole", "antrea-agent"),
        key("CustomResourceDefinition", "x"),
        key("DaemonSet", "antrea-agent"),
        key("Deployment", "antrea-controller"),
    ]
}

/// The whole removal, with Pods that do at once what they are there for.
#[test]
fn agents_go_first_then_nodes_are_cleaned_and_permissions_go_last() {
    let mut owned = world();
    let (mut agents, mut controllers, mut cleaners, mut cleaning) = (true, true, false, true);
    let mut nodes = vec![node("a", Some("no Pod cleans it yet"))];
    let mut log = Vec::new();
    for _ in 0..30 {
        let seen =
            Seen { owned: &owned, cleaning, agents, controllers, cleaners, nodes: &nodes, overdue: false };
        let step = next(&seen);
        match &step {
            Removal::Delete(keys) => {
                log.extend(keys.iter().map(|key| format!("delete {} {}", key.kind, key.name)));
                owned.retain(|key| !keys.contains(key));
            }
            Removal::Clean => {
                log.push("clean".into());
                owned.push(key("DaemonSet", CLEANUP));
                cleaners = true;
            }
            Removal::Cleaned(left) => {
                log.push(format!("cleaned, {} left", left.len()));
                cleaning = false;
            }
            Removal::Wait(what) => {
                log.push(format!("wait for {what}"));
                match what.as_str() {
                    "agents to end" => agents = false,
                    "the controller to end" => controllers = false,
                    "Pods that clean Nodes to end" => cleaners = false,
                    _ => nodes = vec![node("a", None)],
                }
            }
            Removal::Done => {
                log.push("done".into());
                break;
            }
        }
    }
    let expected = [
        "delete DaemonSet antrea-agent",
        "wait for agents to end",
        "clean",
        "wait for Nodes to be clean: 0 of 1 are; a: no Pod cleans it yet",
        "cleaned, 0 left",
        "delete DaemonSet antrea-cleanup",
        "wait for Pods that clean Nodes to end",
        "delete Deployment antrea-controller",
        "wait for the controller to end",
        "delete ClusterRole antrea-agent",
        "done",
    ];
    assert_eq!(log, expected);
    assert_eq!(owned, [key("CustomResourceDefinition", "x")], "definitions stay");
}

fn cleaning<'a>(owned: &'a [Key], nodes: &'a [Cleaned], overdue: bool) -> Seen<'a> {
    Seen { owned, cleaning: true, agents: false, controllers: true, cleaners: true, nodes, overdue }
}

#[test]
fn nobody_is_waited_for_for_ever() {
    let started = [key("DaemonSet", CLEANUP)];
    let nodes = [node("a", None), node("b", Some("ErrImagePull: no such image"))];
    let waits = next(&cleaning(&started, &nodes, false));
    assert_eq!(waits, Removal::Wait("Nodes to be clean: 1 of 2 are; b: ErrImagePull: no such image".into()));
    assert_eq!(next(&cleaning(&started, &nodes, true)), Removal::Cleaned(vec![nodes[1].clone()]));
    let over = Seen { cleaning: false, agents: true, ..cleaning(&[], &[], true) };
    assert_eq!(next(&over), Removal::Done);
}

/// Agents that took the whole time to end leave the clean-up its chance.
#[test]
fn cleaning_is_begun_however_late_it_is() {
    assert_eq!(next(&cleaning(&[], &[node("a", Some("no Pod cleans it yet"))], true)), Removal::Clean);
}

#[test]
fn a_node_that_does_not_answer_holds_up_nothing() {
    let silent = Cleaned { reachable: false, ..node("b", Some("its kubelet does not answer")) };
    let nodes = [node("a", None), silent.clone()];
    let started = [key("DaemonSet", CLEANUP)];
    assert_eq!(next(&cleaning(&started, &nodes, false)), Removal::Cleaned(vec![silent.clone()]));
    assert_eq!(next(&cleaning(&[], std::slice::from_ref(&silent), false)), Removal::Cleaned(vec![silent]));
    assert_eq!(next(&cleaning(&[], &[], false)), Removal::Cleaned(Vec::new()), "no Node at all");
}

fn pod(node: &str, ready: bool, since: i64, trouble: Option<&str>) -> Pod {
    Pod {
        name: format!("antrea-cleanup-{node}"),
        uid: String::new(),
        node: node.into(),
        image: String::new(),
        revision: String::new(),
        ready,
        since: Timestamp::from_second(since).unwrap(),
        deleting: false,
        ended: false,
        trouble: trouble.map(|message| Trouble::new("CrashLoopBackOff", message)),
    }
}

fn cluster(nodes: &[(&str, bool)], pods: &[Pod]) -> Cluster {
    let node = |reachable| Node {
        labels: BTreeMap::new(),
        taints: Vec::new(),
        reachable,
        pod_cidrs: Vec::new(),
        addresses: Vec::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    Cluster {
        nodes: nodes.iter().map(|(name, reachable)| ((*name).to_owned(), node(*reachable))).collect(),
        cleanup_pods: pods.iter().map(|pod| (pod.name.clone(), pod.clone())).collect(),
        ..Cluster::default()
    }
}

#[test]
fn each_node_says_why_it_is_not_clean() {
    let pods = [
        pod("a", true, 0, None),
        pod("b", false, 0, Some("container cleanup: exited with code 1: 1 left: ipset ANTREA-POD-IP")),
        Pod { deleting: true, ..pod("e", true, 0, None) },
    ];
    let cluster = cluster(&[("a", true), ("b", true), ("c", true), ("d", false), ("e", true)], &pods);
    let seen = nodes(&cluster, &BTreeMap::new(), &[]);
    let left: Vec<_> = seen.iter().map(|node| node.left.as_deref().unwrap_or("clean")).collect();
    let expected = [
        "clean",
        "CrashLoopBackOff: container cleanup: exited with code 1: 1 left: ipset ANTREA-POD-IP",
        "no Pod cleans it yet",
        "its kubelet does not answer",
        "no Pod cleans it yet",
    ];
    assert_eq!(left, expected);
    let elsewhere = BTreeMap::from([("pool".to_owned(), "a".to_owned())]);
    assert!(nodes(&cluster, &elsewhere, &[]).is_empty(), "no agent ran there");
}

#[test]
fn time_counts_from_the_last_that_got_anywhere() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let none = cluster(&[], &[]);
    assert!(!is_overdue(&none, at(0), at(120)) && is_overdue(&none, at(0), at(121)));
    let some = cluster(&[], &[pod("a", true, 100, None)]);
    assert!(!is_overdue(&some, at(0), at(220)) && is_overdue(&some, at(0), at(221)));
    let late = Cluster { started: at(100), ..cluster(&[], &[]) };
    assert!(!is_overdue(&late, at(0), at(220)) && is_overdue(&late, at(0), at(221)), "nobody looked");
    let begun = Cluster { cleaning_since: Some(at(100)), ..cluster(&[], &[]) };
    assert!(!is_overdue(&begun, at(0), at(220)) && is_overdue(&begun, at(0), at(221)));
}

#[test]
fn pods_of_silent_nodes_are_not_waited_for() {
    let pods = [pod("a", true, 0, None)];
    assert!(reachable(&cluster(&[("a", true)], &[]), &pods));
    assert!(!reachable(&cluster(&[("a", false)], &[]), &pods));
    assert!(!reachable(&cluster(&[], &[]), &pods), "the Node is gone");
}

#[test]
fn long_lists_are_cut() {
    let left: Vec<_> = (0..7).map(|n| node(&format!("n{n}"), Some("x"))).collect();
    assert!(name(&left).ends_with("n4: x (and 2 more)"), "{}", name(&left));
}
