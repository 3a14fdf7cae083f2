//! Datapath probes, as an operator asks for them: what works passes whatever users' policies say, what is broken is named
//! with the other node, and nobody sees the ends as pods or finds anything of them afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use antrea_tests::https;
use antrea_tests::lab::{AGENT_INFOS, Lab, eventually, sh};
use antrea_tests::traces::Traces;
use antrea_tests::traffic::ping;
use serde_json::{Value, json};

use crate::native::put;

const REQUEST: &str = "antrea.io/datapath-probe-request";
const REPORT: &str = "antrea.io/datapath-probe-report";

/// A run with two silent ways to another node takes half a minute.
const LIMIT: Duration = Duration::from_secs(75);

const OWN: [&str; 3] = ["pod-to-pod-on-node", "policy-allows", "policy-denies"];
const ACROSS: [&str; 2] = ["pod-to-pod-across-nodes", "pod-from-pod-across-nodes"];

/// Writes a request, or takes it away.
fn ask(lab: &Lab, node: usize, request: &Value) {
    let mut info = lab.api.get(AGENT_INFOS, None, &lab.nodes[node].name).unwrap();
    let annotations = info["metadata"]["annotations"].as_object_mut().unwrap();
    if request.is_null() {
        annotations.remove(REQUEST);
    } else {
        annotations.insert(REQUEST.to_owned(), request.to_string().into());
    }
    lab.api.put(AGENT_INFOS, info);
}

fn report(lab: &Lab, node: usize) -> Value {
    let info = lab.api.get(AGENT_INFOS, None, &lab.nodes[node].name).unwrap();
    let text = info["metadata"]["annotations"][REPORT].as_str().unwrap_or("null");
    serde_json::from_str(text).unwrap()
}

async fn reports(lab: &Lab, node: usize, id: &str, stage: &str) -> Value {
    let told = || {
        let report = report(lab, node);
        report["id"] == id && report["stage"] == stage
    };
    let took = eventually(&format!("{stage} of {id} on node{}", node + 1), LIMIT, told).await;
    let report = report(lab, node);
    println!("{id}: {stage} after {took:.1?}: {report}");
    report
}

/// Has the first node probe with the second, as an operator asks; what came of it, with the other node.
async fn probe(lab: &Lab, id: &str) -> Vec<(String, String, String)> {
    ask(lab, 1, &json!({"id": id, "role": "answer"}));
    ask(lab, 0, &json!({"id": id, "role": {"probe": {"peers": ["node2"]}}}));
    let report = reports(lab, 0, id, "done").await;
    for node in [0, 1] {
        ask(lab, node, &Value::Null);
    }
    reports(lab, 1, id, "done").await;
    let text = |outcome: &Value, key: &str| outcome[key].as_str().unwrap_or_default().to_owned();
    let outcome = |outcome: &Value| {
        let what = format!("{} {}", text(outcome, "probe"), text(outcome, "peer"));
        (what.trim().to_owned(), text(outcome, "finding"), text(outcome, "message"))
    };
    report["outcomes"].as_array().unwrap().iter().map(outcome).collect()
}

/// What did not pass, with its finding, where the bridge serves no Services.
fn not_passed(outcomes: &[(String, String, String)]) -> Vec<(&str, &str)> {
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    let service = outcomes.iter().find(|(what, ..)| what == "pod-to-service");
    assert_eq!(
        service.map(|(_, finding, why)| (&**finding, &**why)),
        Some(("left-out", "the bridge serves no Services"))
    );
    let all = OWN.map(str::to_owned).into_iter().chain(ACROSS.map(|probe| format!("{probe} node2")));
    for probe in all {
        assert!(outcomes.iter().any(|(what, ..)| *what == probe), "no {probe}: {outcomes:?}");
    }
    let rest = outcomes.iter().filter(|(what, finding, _)| finding != "passed" && what != "pod-to-service");
    rest.map(|(what, finding, _)| (what.as_str(), finding.as_str())).collect()
}

/// What is there of nodes, until it is as it was: what the kernel and Open vSwitch take away goes a moment later.
async fn nothing_left(lab: &Lab, before: &[Traces; 2]) {
    let left = || {
        lab.nodes
            .iter()
            .zip(before)
            .flat_map(|(node, before)| Traces::of(node).since(before))
            .collect::<Vec<_>>()
    };
    let begin = Instant::now();
    while !left().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "left: {:#?}", left());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn traces(lab: &Lab) -> [Traces; 2] {
    [0, 1].map(|node| Traces::of(&lab.nodes[node]))
}

fn ends(lab: &Lab, node: usize) -> usize {
    let ports = lab.nodes[node].ovs.vsctl(&["list-ports", "br-int"]).unwrap();
    ports.lines().filter(|port| port.starts_with("antrea-probe-")).count()
}

/// How many pods a node has by all who count them.
async fn pods(lab: &Lab, node: usize) -> [usize; 3] {
    let endpoint = lab.agent_endpoint(node, Some("lab-reader"));
    let read = async |path: &str| -> Value {
        let (status, text) = https::get(&endpoint, path).await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let info = read("/agentinfo").await["localPodNum"].as_u64().unwrap_or_default();
    let interfaces = read("/podinterfaces").await.as_array().unwrap().len();
    let metric = lab.agent_metric(node, "antrea_agent_local_pod_count").await;
    [usize::try_from(info).unwrap(), interfaces, metric as usize]
}

async fn lab() -> Lab {
    lab_with(&json!({"AntreaPolicy": true})).await
}

async fn lab_with(gates: &Value) -> Lab {
    let mut lab = Lab::without_agents(2, &[("featureGates", gates.clone())]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let told = || {
        let annotation = |info: Value| info["metadata"]["annotations"]["antrea.io/datapath-probes"].clone();
        let taker = |name: &str| lab.api.get(AGENT_INFOS, None, name).map(annotation);
        ["node1", "node2"].iter().all(|name| taker(name) == Some(format!("antrea-agent-{name}").into()))
    };
    eventually("agents say that they take requests", LIMIT, told).await;
    lab
}

/// Policies of users select everybody and deny everything.
fn deny_all(lab: &Lab) {
    let everybody = json!([{"namespaceSelector": {}}]);
    let drop = json!([{"action": "Drop"}]);
    let spec = json!({"priority": 1, "appliedTo": everybody, "ingress": drop, "egress": drop});
    put(lab, "apis/crd.antrea.io/v1beta1/clusternetworkpolicies", None, "nothing", &spec);
    lab.put_policy("nothing", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_passes_and_nobody_takes_the_ends_for_pods() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab().await;
    lab.put_pod(0, "a", &[], None);
    lab.put_pod(1, "c", &[], None);
    let (a, c) = (lab.add_pod(0, "a"), lab.add_pod(1, "c"));
    eventually("they talk", LIMIT, || ping(&a.netns, c.ip, 56, true)).await;
    deny_all(&lab);
    // Their own node reaches pods whatever policies say, and they reach nobody.
    eventually("nobody talks", LIMIT, || !ping(&a.netns, c.ip, 56, true)).await;
    let before = traces(&lab);

    let outcomes = probe(&lab, "1").await;
    assert_eq!(not_passed(&outcomes), [], "{outcomes:?}");
    for probe in OWN.iter().chain(&ACROSS) {
        let sample = format!("antrea_agent_datapath_probes_total{{probe=\"{probe}\",result=\"passed\"}}");
        assert_eq!(lab.agent_metric(0, &sample).await, 1.0, "{sample}");
    }
    nothing_left(&lab, &before).await;

    // An end that is there to be looked at.
    ask(&lab, 1, &json!({"id": "2", "role": "answer"}));
    reports(&lab, 1, "2", "answering").await;
    assert_eq!((ends(&lab, 1), pods(&lab, 1).await), (1, [1, 1, 1]));
    let valid = json!([{"containerID": c.container_id, "ifname": "eth0"}]);
    let (output, text) = lab.nodes[1].cni("GC", "", "", "1.1.0", Some(("cni.dev/valid-attachments", valid)));
    assert!(output.status.success(), "{text}");
    assert_eq!(Traces::of(&lab.nodes[1]).addresses, before[1].addresses, "no address of the pods' is taken");
    // Longer than whatever puts the node in order takes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((ends(&lab, 1), pods(&lab, 1).await), (1, [1, 1, 1]));
    let begin = Instant::now();
    let d = lab.add_pod(1, "d");
    println!("ADD beside an end of probes: {:.0?}", begin.elapsed());
    assert_eq!(pods(&lab, 1).await, [2, 2, 2]);
    lab.delete_pod(1, &d);
    ask(&lab, 1, &Value::Null);
    reports(&lab, 1, "2", "done").await;
    nothing_left(&lab, &before).await;
    // The same run is asked for once more.
    ask(&lab, 1, &json!({"id": "2", "role": "answer"}));
    reports(&lab, 1, "2", "answering").await;
    ask(&lab, 1, &Value::Null);
    reports(&lab, 1, "2", "done").await;
    nothing_left(&lab, &before).await;
}

/// The tunnel's packets do not come in: everything on the node works, and the agent says so of itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_tunnel_is_told_with_the_other_node() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = lab().await;
    let before = traces(&lab);
    let rule = |verb: &str| {
        let netns = &lab.nodes[1].netns;
        let ports = "-p udp -m multiport --dports 4789,6081 -j DROP";
        sh(&format!("ip netns exec {netns} iptables -w -t raw {verb} PREROUTING {ports}"));
    };
    rule("-I");
    let outcomes = probe(&lab, "1").await;
    rule("-D");
    let broken = [("pod-to-pod-across-nodes node2", "failed"), ("pod-from-pod-across-nodes node2", "failed")];
    assert_eq!(not_passed(&outcomes), broken, "{outcomes:?}");
    assert!(outcomes.iter().any(|(.., message)| message.starts_with("no answer in 1 s")), "{outcomes:?}");
    let outcomes = probe(&lab, "2").await;
    assert_eq!(not_passed(&outcomes), [], "{outcomes:?}");

    // One that is not there to answer is no proof of anything.
    ask(&lab, 0, &json!({"id": "3", "role": {"probe": {"peers": ["node2", "node9"]}}}));
    let report = reports(&lab, 0, "3", "done").await;
    let across: Vec<&Value> =
        report["outcomes"].as_array().unwrap().iter().filter(|outcome| !outcome["peer"].is_null()).collect();
    assert!(across.len() == 4 && across.iter().all(|outcome| outcome["finding"] == "left-out"), "{report}");
    ask(&lab, 0, &Value::Null);
    nothing_left(&lab, &before).await;
}

/// Somebody's flow lets by what the probe's policy denies, as often as the agent takes it away.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_leaks_is_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = lab().await;
    let over = AtomicBool::new(false);
    let node = &lab.nodes[0];
    let outcomes = std::thread::scope(|scope| {
        scope.spawn(|| {
            let flow = "table=IngressRule,priority=60000,tcp,tp_dst=7102,actions=goto_table:IngressMetric";
            while !over.load(Ordering::Relaxed) {
                let _ = node.try_ofctl("add-flow", &["--names", flow]);
            }
        });
        let handle = tokio::runtime::Handle::current();
        let outcomes = tokio::task::block_in_place(|| handle.block_on(probe(&lab, "1")));
        over.store(true, Ordering::Relaxed);
        outcomes
    });
    assert_eq!(not_passed(&outcomes), [("policy-denies", "failed")], "{outcomes:?}");
    assert!(outcomes.iter().any(|(.., message)| message.contains("of 10 connections")), "{outcomes:?}");
    let flows = || node.ofctl("dump-flows", &["--names", "table=IngressRule"]);
    eventually("the last of them is taken away", LIMIT, || !flows().contains("priority=60000")).await;
    let outcomes = probe(&lab, "2").await;
    assert_eq!(not_passed(&outcomes), [], "{outcomes:?}");
}

/// Killed while its ends are there, the agent leaves what its successor takes away; a request that stands is done anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_leaves_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab().await;
    let a = lab.add_pod(0, "a");
    let before = traces(&lab);
    for again in [false, true] {
        let id = if again { "2" } else { "1" };
        ask(&lab, 1, &json!({"id": id, "role": "answer"}));
        ask(&lab, 0, &json!({"id": id, "role": {"probe": {"peers": ["node2"]}}}));
        eventually("the ends are there", LIMIT, || ends(&lab, 0) == 2).await;
        lab.nodes[0].kill_agent();
        if !again {
            ask(&lab, 0, &Value::Null);
            ask(&lab, 1, &Value::Null);
        }
        let links = || sh(&format!("ip -n {} -o link show", lab.nodes[0].netns));
        eventually("links end with the process", LIMIT, || !links().contains("antrea-probe-")).await;
        lab.start_agent(0);
        lab.wait_ready(0).await;
        if again {
            let report = reports(&lab, 0, id, "done").await;
            assert!(!report.to_string().contains("failed"), "{report}");
            ask(&lab, 0, &Value::Null);
            ask(&lab, 1, &Value::Null);
        }
        nothing_left(&lab, &before).await;
        let b = lab.add_pod(0, "b");
        assert!(ping(&b.netns, a.ip, 56, true));
        lab.delete_pod(0, &b);
    }
}

/// Where the bridge serves Services, it serves the probe's too.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_passes_where_the_bridge_serves_them() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = lab_with(&json!({"AntreaPolicy": true, "AntreaProxy": true})).await;
    let before = traces(&lab);
    let groups = || lab.nodes[0].ofctl("dump-groups", &[]);
    let known = groups();
    let outcomes = probe(&lab, "1").await;
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    assert!(outcomes.iter().all(|(_, finding, _)| finding == "passed"), "{outcomes:?}");
    nothing_left(&lab, &before).await;
    assert_eq!(groups().lines().count(), known.lines().count(), "{}", groups());
}
