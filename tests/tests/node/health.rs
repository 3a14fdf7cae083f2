//! Conditions tell the truth within seconds, with a reason, and turn back; flows that others change are put
//! back; nobody reads metrics without a token.

use std::time::{Duration, Instant};

use antrea_tests::fake_api::NOBODY;
use antrea_tests::https;
use antrea_tests::lab::{AGENT_INFOS, Datapath, Lab, eventually, sh};
use antrea_tests::traffic::{ping, quick_ping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// README: a condition tells of a failure in 0.7 to 1.0 s. This is what a busy machine may take.
const TOLD: Duration = Duration::from_secs(5);

/// A test every two seconds, which waits for its frame.
const SELF_TEST: Duration = Duration::from_secs(10);

/// How long flows that somebody else changed may stay so.
const REPAIRED: Duration = Duration::from_secs(5);

/// A condition turns back when what it tells of works again: sessions that wait between attempts, a comparison that
/// confirms a repair.
const LIMIT: Duration = Duration::from_secs(30);

fn condition(lab: &Lab, index: usize, kind: &str) -> Option<(String, String, String)> {
    condition_of(&lab.api.get(AGENT_INFOS, None, &lab.nodes[index].name)?, kind)
}

fn condition_of(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let conditions = object["agentConditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits until a condition is False for `reason`; returns the message.
pub(crate) async fn turns(lab: &Lab, kind: &str, reason: &str) -> String {
    turns_within(TOLD, lab, kind, reason).await
}

async fn turns_within(limit: Duration, lab: &Lab, kind: &str, reason: &str) -> String {
    let told = || condition(lab, 0, kind).is_some_and(|(status, why, _)| status == "False" && why == reason);
    let took = eventually(&format!("{kind} is False for {reason}"), limit, told).await;
    println!("{kind}: {reason} after {took:.1?}");
    condition(lab, 0, kind).unwrap().2
}

/// Waits until a condition of the first node has been False for `reason` since `version`, with `word` in its message;
/// returns all such messages, for a condition may have turned back before anybody looks.
pub(crate) async fn told_since(version: u64, lab: &Lab, kind: &str, reason: &str, word: &str) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let history = lab.api.history(AGENT_INFOS, &lab.nodes[0].name, version).into_iter();
        let told = history.filter_map(|info| condition_of(&info, kind));
        let told = told.filter(|(status, why, _)| status == "False" && why == reason);
        let messages: Vec<_> = told.map(|(.., message)| message).collect();
        if messages.iter().any(|message| message.contains(word)) {
            return messages;
        }
        assert!(begin.elapsed() < LIMIT, "{kind}, {reason}: nothing of {word:?} in {messages:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn turns_back(lab: &Lab, kind: &str) {
    let good = || condition(lab, 0, kind).is_some_and(|(status, ..)| status == "True");
    let took = eventually(&format!("{kind} is True"), LIMIT, good).await;
    println!("{kind}: True again after {took:.1?}");
}

pub(crate) async fn lab_with_status(nodes: usize) -> Lab {
    configured_lab_with_status(nodes, &[]).await
}

pub(crate) async fn configured_lab_with_status(nodes: usize, config: &[(&str, Value)]) -> Lab {
    let lab = Lab::start(nodes, config).await;
    for kind in ["AgentHealthy", "ControllerConnectionUp", "OVSDBConnectionUp", "OpenflowConnectionUp"] {
        turns_back(&lab, kind).await;
    }
    lab
}

fn flows(lab: &Lab) -> Option<Vec<String>> {
    crate::restart::try_flows(&lab.nodes[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_others_change_are_put_back_and_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(0, "b");
    assert!(ping(&a.netns, b.ip, 56, true));
    let good = flows(&lab).unwrap();
    let mut repaired = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    // A foreign flow, a flow with other actions, a lost flow, all flows lost.
    let gateway = "table=0,priority=200,ip";
    for (verb, arguments) in [
        ("add-flow", vec!["table=0,priority=9999,ip,actions=drop"]),
        ("mod-flows", vec!["--strict", "table=0,priority=200,ip,actions=drop"]),
        ("del-flows", vec!["--strict", gateway]),
        ("del-flows", vec![]),
    ] {
        lab.nodes[0].ofctl(verb, &arguments);
        let took =
            eventually("flows as before", REPAIRED, || flows(&lab).is_some_and(|now| now == good)).await;
        println!("{verb} {arguments:?}: put back after {took:.1?}");
        let message = turns(&lab, "AgentHealthy", "FlowsRepaired").await;
        assert!(message.contains("br-int") && message.contains("put back"), "{message}");
        turns_back(&lab, "AgentHealthy").await;
        let now = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
        assert!(now > repaired, "{verb}: {now} repairs");
        repaired = now;
    }
    eventually("traffic as before", LIMIT, || quick_ping(&a.netns, b.ip)).await;
    // What the agent does itself is no drift.
    let c = lab.add_pod(0, "c");
    lab.delete_pod(0, &c);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await, repaired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_open_vswitch_is_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    lab.nodes[0].ovs.kill_vswitchd().unwrap();
    let message = turns(&lab, "OpenflowConnectionUp", "OpenflowDisconnected").await;
    assert!(message.contains("ovs-vswitchd"), "{message}");
    turns(&lab, "AgentHealthy", "OpenflowDisconnected").await;
    assert_eq!(lab.agent_metric(0, "antrea_agent_condition{type=\"AgentHealthy\"}").await, 0.0);
    lab.nodes[0].ovs.start_vswitchd().unwrap();
    turns_back(&lab, "OpenflowConnectionUp").await;
    turns_back(&lab, "AgentHealthy").await;

    lab.nodes[0].ovs.kill_db().unwrap();
    let message = turns(&lab, "OVSDBConnectionUp", "OVSDBDisconnected").await;
    assert!(message.contains("ovsdb-server"), "{message}");
    turns(&lab, "AgentHealthy", "OVSDBDisconnected").await;
    lab.nodes[0].ovs.start_db().unwrap();
    turns_back(&lab, "OVSDBConnectionUp").await;
    turns_back(&lab, "AgentHealthy").await;
    assert_eq!(lab.agent_metric(0, "antrea_agent_condition{type=\"AgentHealthy\"}").await, 1.0);
}

/// Somebody else has changed the object meanwhile: the failure is told all the same, though it is over soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_on_the_object_hides_no_failure() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    let mut labelled = lab.api.get(AGENT_INFOS, None, "node1").unwrap();
    labelled["metadata"]["labels"]["team"] = "net".into();
    lab.api.put(AGENT_INFOS, labelled);
    let version = lab.api.version();
    lab.nodes[0].ovs.kill_vswitchd().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    lab.nodes[0].ovs.start_vswitchd().unwrap();
    told_since(version, &lab, "OpenflowConnectionUp", "OpenflowDisconnected", "ovs-vswitchd").await;
    turns_back(&lab, "OpenflowConnectionUp").await;
    let kept = lab.api.get(AGENT_INFOS, None, "node1").unwrap();
    assert_eq!(kept["metadata"]["labels"]["team"], "net", "who labels it keeps the label");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datapath_that_does_not_forward_is_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = lab_with_status(1).await;
    let node = &lab.nodes[0];
    assert!(lab.agent_metric(0, "antrea_agent_datapath_self_test_duration_seconds_count").await > 0.0);
    // The kernel forwards without ovs-vswitchd what it has seen before. In userspace a stopped process
    // keeps its sockets and forwards nothing.
    if Datapath::here() == Datapath::Userspace {
        let pid = Pid::from_raw(i32::try_from(node.ovs.vswitchd_pid().unwrap()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let message = turns_within(SELF_TEST, &lab, "AgentHealthy", "DatapathSelfTestFailed").await;
        assert!(message.contains("antrea-gw0"), "{message}");
        kill(pid, Signal::SIGCONT).unwrap();
        turns_back(&lab, "AgentHealthy").await;
    }
    let failures = lab.agent_metric(0, "antrea_agent_datapath_self_test_failures_total").await;
    assert!(Datapath::here() == Datapath::System || failures >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_controller_is_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    lab.kill_controller();
    turns(&lab, "ControllerConnectionUp", "ControllerNotFound").await;
    assert_eq!(condition(&lab, 0, "AgentHealthy").unwrap().0, "True", "the node works without it");
    lab.start_controller();
    lab.wait_controller().await;
    turns_back(&lab, "ControllerConnectionUp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_api_server_is_told_when_it_is_back() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = lab_with_status(1).await;
    let node = &lab.nodes[0];
    let healthy = "antrea_agent_condition{type=\"AgentHealthy\"}";
    sh(&format!("ip -n {} link set to1 down", lab.outside()));
    // A condition that turns is what the agent writes at once; without one it would be the next heartbeat.
    lab.nodes[0].ofctl("add-flow", &["table=0,priority=9999,ip,actions=drop"]);
    tokio::time::sleep(Duration::from_secs(12)).await;
    sh(&format!("ip -n {} link set to1 up", lab.outside()));
    let message = turns_within(LIMIT, &lab, "AgentHealthy", "APIServerUnreachable").await;
    assert!(message.contains("since"), "{message}");
    turns_back(&lab, "AgentHealthy").await;
    assert_eq!(lab.agent_metric(0, healthy).await, 1.0);
    assert!(!node.ofctl("dump-flows", &["table=0"]).contains("priority=9999"), "repaired meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_need_a_token_and_tell_no_secrets() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    lab.add_pod(0, "somepod");
    let agent = lab.agent_endpoint(0, None);
    let controller = lab.controller_endpoint(None).unwrap();
    for endpoint in [agent, controller] {
        for (token, expected) in [
            (None, 401),
            (Some("unknown".to_owned()), 401),
            (Some(format!("lab-{NOBODY}")), 403),
            (Some("lab-scraper".to_owned()), 200),
        ] {
            let (status, text) =
                https::get(&https::Endpoint { token: token.clone(), ..endpoint.clone() }, "/metrics")
                    .await
                    .unwrap();
            assert_eq!(status, expected, "{token:?}: {text}");
            if status != 200 {
                assert!(!text.contains("antrea_"), "{text}");
                continue;
            }
            assert!(text.contains("_build_info{version="), "{text}");
            for secret in ["somepod", "lab-", "BEGIN", "10.244.1.", "node1"] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
        let (status, _) = https::get(&endpoint, "/readyz").await.unwrap();
        assert_eq!(status, 200, "probes carry no token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(0, "b");
    assert!(ping(&a.netns, b.ip, 56, true));
    assert!(lab.agent_metric(0, "antrea_agent_conntrack_max_connection_count").await > 0.0);
    let begin = Instant::now();
    while lab.agent_metric(0, "antrea_agent_conntrack_total_connection_count").await == 0.0 {
        assert!(begin.elapsed() < LIMIT, "the ping's connection is not counted");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The kernel does not count by zone.
    let text = https::get(&lab.agent_endpoint(0, Some("lab-scraper")), "/metrics").await.unwrap().1;
    let apart = text.contains("\nantrea_agent_conntrack_antrea_connection_count ");
    assert_eq!(apart, Datapath::here() == Datapath::Userspace, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_object_has_every_field() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(1).await;
    lab.add_pod(0, "a");
    // Counts wait for the heartbeat; a condition brings them along.
    lab.nodes[0].ofctl("add-flow", &["table=0,priority=9999,ip,actions=drop"]);
    turns(&lab, "AgentHealthy", "FlowsRepaired").await;
    let info = lab.api.get(AGENT_INFOS, None, "node1").unwrap();
    println!("AntreaAgentInfo has {} bytes", info.to_string().len());
    let text = |path: &str| info.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert!(text("/version").starts_with('v'));
    assert_eq!(
        (text("/podRef/kind"), text("/podRef/name")),
        ("Pod".to_owned(), "antrea-agent-node1".to_owned())
    );
    assert_eq!((text("/nodeRef/kind"), text("/nodeRef/name")), ("Node".to_owned(), "node1".to_owned()));
    assert_eq!(info["nodeSubnets"][0], "10.244.1.0/24");
    assert!(!text("/ovsInfo/version").is_empty());
    assert_eq!(text("/ovsInfo/bridgeName"), "br-int");
    let tables = info["ovsInfo"]["flowTable"].as_object().unwrap();
    let counted: i64 = tables.values().filter_map(Value::as_i64).sum();
    assert_eq!(counted, i64::try_from(flows(&lab).unwrap().len()).unwrap(), "{tables:?}");
    assert_eq!(counted as f64, lab.agent_metric(0, "antrea_agent_ovs_total_flow_count").await);
    assert_eq!(info["localPodNum"], 1);
    assert!(info["networkPolicyControllerInfo"].is_object());
    assert_eq!(info["apiPort"], 10_350);
    assert!(!text("/apiCABundle").is_empty());
    assert_eq!(text("/networkInfo/transportInterface"), "eth0");
    for condition in info["agentConditions"].as_array().unwrap() {
        assert!(condition["lastHeartbeatTime"].is_string(), "{condition}");
    }
}
