use clap::Parser;
use serde_json::json;

use super::*;
use crate::cli::{Args, Verb};
use crate::connect::Place;
use crate::tests::{Cluster, Fixture};

fn asked(words: &str) -> Installation {
    let line = ["antctl", "check", "installation"].into_iter().chain(words.split_whitespace());
    match Args::try_parse_from(line).unwrap().verb {
        Verb::Check(check) => match check.what {
            super::super::What::Installation(asked) => asked,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn names(asks: &[Ask]) -> Vec<&'static str> {
    asks.iter().map(|ask| ask.check).collect()
}

#[test]
fn what_is_tried_follows_from_nodes_and_names() {
    let all = asked("").asks(2);
    assert_eq!(all.len(), ASKS.len() - 1, "nothing leaves the cluster unasked");
    assert!(asked("").asks(1).iter().all(|ask| !ask.far));
    assert_eq!(
        names(&asked("--internet 192.0.2.1:443 -r *internet,host-to-service").asks(2)),
        ["host-to-service", "pod-to-internet"]
    );
    assert!(asked("-r *internet").asks(2).is_empty());
    assert!(asked("-r egress-*").wants("egress-deny-policy"));
    assert!(!asked("-r egress-*").wants("ingress-deny-policy"));
}

/// What is seen after each step could not be seen before it, and in the end all is as it was.
#[test]
fn steps_of_policies_show() {
    for (check, steps) in policies() {
        let (mut left, mut last) = (Vec::new(), None);
        for step in steps {
            match &step.change {
                Change::Create(policy) => left.push(policy["metadata"]["name"].as_str().unwrap().to_owned()),
                Change::Delete(name) => left.retain(|left| left != name),
            }
            assert_ne!(last, Some(step.denied.to_vec()), "{check}");
            last = Some(step.denied.to_vec());
        }
        assert_eq!((left, last), (Vec::<String>::new(), Some(Vec::new())), "{check}");
    }
}

#[test]
fn a_round_is_held_against_what_has_to_be() {
    let round = Round {
        round: 1,
        answered: vec!["near".into()],
        unanswered: [("far".to_owned(), "no answer in 1s".to_owned())].into(),
    };
    assert_eq!(differs(&round, &["near"], &["far"]), None);
    for (these, those, why) in [
        (&["far"][..], &[][..], "far does not answer: no answer in 1s"),
        (&["other"], &[], "other does not answer: not asked yet"),
        (&[], &["near"], "near answers"),
        (&["near"], &["other"], "other was not asked yet"),
    ] {
        assert_eq!(differs(&round, these, those).as_deref(), Some(why));
    }
}

#[test]
fn nodes_without_taints_come_first() {
    let node = |name: &str, ready: &str, tainted: bool| -> Node {
        let taints = if tainted { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}], "nodeInfo": {
                "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux",
                "osImage": "", "systemUUID": ""}},
        }))
        .unwrap()
    };
    let nodes = vec![node("a", "True", true), node("c", "True", false), node("b", "False", false)];
    let found: Vec<String> = chosen(nodes).unwrap().iter().map(|node| name(node).to_owned()).collect();
    assert_eq!(found, ["c", "a"]);
    assert!(chosen(vec![node("b", "Unknown", false)]).is_err());
}

#[test]
fn states_of_pods_and_services() {
    let pod = |status| state(&serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap());
    assert_eq!(pod(json!({"phase": "Running", "podIP": "10.0.0.1"})), Ok("10.0.0.1".into()));
    let waiting = json!({"phase": "Pending", "containerStatuses": [{"name": "probe", "image": "", "imageID": "",
        "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]});
    assert_eq!(pod(waiting), Err("ErrImagePull: no such image".into()));
    assert_eq!(pod(json!({})), Err("no kubelet has taken it".into()));
    assert_eq!(pod(json!({"phase": "Failed", "reason": "Evicted"})), Err("Evicted".into()));
    let service = |spec| Served::of(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    let served = Served { ip: "10.96.0.9".into(), node_port: 30080 };
    assert_eq!(service(json!({"clusterIP": "10.96.0.9", "ports": ports})), Some(served));
    assert_eq!(service(json!({"ports": ports})), None);
    assert_eq!(socket("fd00::1", 80), "[fd00::1]:80");
}

#[test]
fn test_pods_may_do_little() {
    let pod = objects::pod(Role::Near, "n1", "image", &[("a".into(), "192.0.2.1:80".into())]);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let spec = pod.spec.unwrap();
    let command = spec.containers[0].command.clone().unwrap().join(" ");
    assert_eq!(command, "antctl check probe --listen 8080 --target a=192.0.2.1:80");
    Args::try_parse_from(command.split(' ')).unwrap();
    assert_eq!(spec.automount_service_account_token, Some(false));
    assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
    let container = spec.containers[0].security_context.clone().unwrap();
    assert_eq!(container.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(spec.host_network, Some(false));
}

#[tokio::test]
async fn nothing_is_made_where_it_cannot_be_said_what() {
    let fixture = Fixture::new(Cluster::default()).await;
    let error = fixture.fails(Place::Elsewhere, "antctl check installation -r nonsense").await;
    assert!(error.starts_with("--run: no check is named so; there are pod-to-pod-same-node, "), "{error}");
    let error = fixture.fails(Place::Elsewhere, "antctl check installation").await;
    assert!(error.starts_with("DaemonSet kube-system/antrea-agent: "), "{error}");
    let error = fixture.fails(Place::Agent, "antctl check installation").await;
    assert!(error.contains("kubeconfig"), "{error}");
}
