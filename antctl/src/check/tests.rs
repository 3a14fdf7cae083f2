//! Each finding in each of its ways.

use serde_json::from_value;

use super::*;
use crate::tests::{Cluster, Fixture};

fn node(name: &str, change: fn(&mut Value)) -> Node {
    let mut node = json!({
        "metadata": {"name": name}, "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"nodeInfo": {"operatingSystem": "linux", "kernelVersion": "6.12.1", "architecture": "amd64",
            "bootID": "", "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
            "machineID": "", "osImage": "", "systemUUID": ""},
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut node);
    from_value(node).unwrap()
}

fn daemon(namespace: &str, name: &str, managed: bool) -> DaemonSet {
    let labels = if managed { json!({"app.kubernetes.io/managed-by": "antrea-operator"}) } else { json!({}) };
    from_value(json!({"metadata": {"namespace": namespace, "name": name, "labels": labels}})).unwrap()
}

#[track_caller]
fn is(finding: Finding, verdict: Verdict, detail: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.detail.contains(detail), "{detail} in {finding:?}");
}

use Verdict::{Failed, Warning};

#[test]
fn versions_are_compared_as_numbers() {
    for (version, verdict) in [
        ("v1.30.0", Verdict::Ok),
        ("v1.34.4", Verdict::Ok),
        ("v1.30+", Warning),
        ("v1.100.0", Verdict::Ok),
        ("v2.0.0", Verdict::Ok),
        ("v1.29.9", Failed),
        ("v1.9.0", Failed),
        ("", Warning),
    ] {
        is(kubernetes(version), verdict, version);
    }
}

#[test]
fn nodes_are_looked_at_one_by_one() {
    let plain = |_: &mut Value| {};
    let (a, b) =
        (node("a", plain), node("b", |node| node["status"]["nodeInfo"]["kernelVersion"] = "6.1".into()));
    let both = [a.clone(), b];
    is(systems(&both), Verdict::Ok, "Linux 6.1, 6.12.1 on 2");
    is(readiness(&both), Verdict::Ok, "all are ready");
    is(pod_cidrs(&both), Verdict::Ok, "every");
    is(controller(&both), Verdict::Ok, "2 of 2");
    is(systems(&[]), Failed, "no Node");
    let windows = node("w", |node| node["status"]["nodeInfo"]["operatingSystem"] = "windows".into());
    is(systems(&[a.clone(), windows.clone()]), Warning, "no network for w");
    is(systems(std::slice::from_ref(&windows)), Failed, "no Node runs Linux");
    is(controller(&[windows]), Failed, "no Node takes");
    let waits = node("n", |node| {
        let message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady";
        node["status"]["conditions"][0] = json!({"type": "Ready", "status": "False", "message": message});
    });
    is(readiness(&[a.clone(), waits]), Verdict::Ok, "wait for a network: n");
    let ill = node("i", |node| {
        node["status"]["conditions"][0] =
            json!({"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."});
    });
    is(readiness(&[a.clone(), ill]), Warning, "not ready, and not for want of a network: i");
    let bare = node("bare", |node| drop(node["spec"].as_object_mut().unwrap().remove("podCIDR")));
    is(pod_cidrs(&[a, bare]), Failed, "none for bare: run kube-controller-manager");
}

#[test]
fn the_controller_needs_a_place() {
    let control = node("c", |node| {
        node["spec"]["taints"] = json!([
            {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            {"key": "other", "effect": "PreferNoSchedule"},
        ]);
    });
    is(controller(std::slice::from_ref(&control)), Verdict::Ok, "1 of 1");
    let kept = node("k", |node| node["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoSchedule"}]));
    is(controller(&[control, kept.clone()]), Verdict::Ok, "1 of 2");
    let cordoned = node("d", |node| node["spec"]["unschedulable"] = true.into());
    is(controller(&[kept, cordoned]), Failed, "spec.controller.tolerations");
}

#[test]
fn other_networks_are_named() {
    let proxy = daemon("kube-system", "kube-proxy", false);
    is(networks(std::slice::from_ref(&proxy)), Verdict::Ok, "none yet");
    is(services(&[proxy]), Verdict::Ok, "kube-proxy");
    is(services(&[]), Warning, "no DaemonSet kube-proxy");
    is(networks(&[daemon("calico-system", "calico-node", false)]), Failed, "calico-system/calico-node");
    is(networks(&[daemon("kube-system", "antrea-agent", true)]), Verdict::Ok, "this one already");
    is(networks(&[daemon("kube-system", "antrea-agent", false)]), Warning, "antctl adopt --dry-run");
}

#[test]
fn many_names_are_counted() {
    assert_eq!(named(&["a", "b", "c"]), "a, b, c");
    assert_eq!(named(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
}

fn fixture(version: &str) -> Cluster {
    let list = |kind: &str, items: Value| json!({"kind": kind, "metadata": {}, "items": items});
    let answers = [
        ("GET /version", json!({"gitVersion": version})),
        ("GET /api/v1/nodes?", list("NodeList", json!([node("n1", |_| {})]))),
        (
            "GET /apis/apps/v1/daemonsets?",
            list("DaemonSetList", json!([daemon("kube-system", "kube-proxy", false)])),
        ),
    ];
    let answers = answers.map(|(path, answer)| (path.to_owned(), answer)).into();
    Cluster { answers, ..Cluster::default() }
}

#[tokio::test]
async fn findings_are_a_table_and_a_failure_is_one() {
    let good = Fixture::new(fixture("v1.34.4")).await;
    let text = good.run(Place::Elsewhere, "antctl check cluster").await.unwrap();
    assert_eq!(
        text,
        "CHECK                      VERDICT   DETAIL\n\
         Kubernetes version         ok        v1.34.4\n\
         operating systems          ok        Linux 6.12.1 on 1\n\
         Nodes                      ok        all are ready\n\
         Pod CIDRs                  ok        every Node has one\n\
         place for the controller   ok        1 of 1 Nodes\n\
         other networks             ok        none yet\n\
         Services                   ok        kube-proxy\n"
    );
    let bad = Fixture::new(fixture("v1.20.0")).await;
    let error = bad.fails(Place::Elsewhere, "antctl check cluster -o raw").await;
    assert_eq!(error, "1 of 7 checks failed");
    assert!(bad.fails(Place::Agent, "antctl check cluster").await.contains("outside"));
}
