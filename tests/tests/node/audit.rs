//! A datapath that does something else than the bridge's flows say is found, told and put right within a minute; one
//! that is busy is not taken for one.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use antrea_tests::lab::{Datapath, Lab, NETWORK_POLICIES, eventually};
use antrea_tests::station::Station;
use antrea_tests::traffic::Sink;
use netcfg::Netns;
use serde_json::json;

const PORT: u16 = 7100;
const LIMIT: Duration = Duration::from_secs(20);

/// Within which a wrong flow is told.
const MINUTE: Duration = Duration::from_secs(60);

/// How long policies change all the time.
const BUSY: Duration = Duration::from_secs(30);

const WRONG: &str = "antrea_agent_datapath_flows_wrong_total";
const COMPARED: &str = "antrea_agent_datapath_flows_compared_total";

/// The datapath's number of a link's port.
fn port(lab: &Lab, link: &str) -> String {
    let shown = lab.nodes[0].ovs.appctl(&["dpif/show"]).unwrap();
    let start = format!("    {link} ");
    let line =
        shown.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{link}: {shown}"));
    line.split_once('/').unwrap().1.split_once(':').unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datapath_that_forwards_what_flows_forbid_is_found() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let [at_a, at_b, at_c] = [&a, &b, &c].map(|pod| Station::start(&pod.netns));
    at_a.aim([b.ip, c.ip]);
    at_c.aim([a.ip, b.ip]);
    let met = || at_b.arrived().get(&a.ip).copied().unwrap_or_default();
    eventually("a reaches b", LIMIT, || met().udp > 2 && met().tcp > 2).await;

    // Policies come and go under constant traffic, on this node and through the tunnel.
    let isolate = json!({"podSelector": {"matchLabels": {"name": "b"}}, "policyTypes": ["Ingress"]});
    let before = lab.agent_metric(0, COMPARED).await;
    let start = Instant::now();
    let mut changes = 0;
    while start.elapsed() < BUSY {
        lab.put_policy("isolate", &isolate);
        tokio::time::sleep(Duration::from_millis(300)).await;
        lab.api.delete(NETWORK_POLICIES, Some("default"), "isolate");
        tokio::time::sleep(Duration::from_millis(300)).await;
        changes += 2;
    }
    for node in [0, 1] {
        assert_eq!(lab.agent_metric(node, WRONG).await, 0.0, "a false alarm after {changes} changes");
    }
    let compared = lab.agent_metric(0, COMPARED).await - before;
    println!("{compared} flows compared in {BUSY:?} of {changes} changes");
    assert!(compared > 30.0, "{compared}");

    lab.put_policy("isolate", &isolate);
    // One sender that never changes its port: a flow of the datapath may be of that port alone.
    let sink = Sink::open(&b.netns, PORT).await;
    let (netns, from, to) = (Netns::open(format!("/run/netns/{}", a.netns)).unwrap(), a.ip, b.ip);
    let socket = netns.run(move || UdpSocket::bind((from, PORT))).await.unwrap().unwrap();
    let sender = tokio::spawn(async move {
        loop {
            let _ = socket.send_to(b"probe", (to, PORT));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let silent = || {
        let before = sink.count();
        std::thread::sleep(Duration::from_millis(500));
        sink.count() == before
    };
    eventually("b is isolated", LIMIT, silent).await;
    // The datapath's flow that drops a's packets sends them on, as a faulty Open vSwitch has it; its own memory of the
    // flow stays right.
    let datapath =
        if Datapath::here() == Datapath::System { "system@ovs-system" } else { "netdev@ovs-netdev" };
    let (from, to) = (
        format!("in_port({})", port(&lab, a.result["interfaces"][0]["name"].as_str().unwrap())),
        port(&lab, b.result["interfaces"][0]["name"].as_str().unwrap()),
    );
    let dump = lab.nodes[0].ovs.appctl(&["dpctl/dump-flows", "-m", "--no-names", datapath]).unwrap();
    let address = format!("dst={}", b.ip);
    let drops = |line: &&str| {
        let dropped = line.split("actions:").nth(1).is_some_and(|actions| actions.starts_with("drop"));
        dropped && line.contains(&from) && line.contains(&address)
    };
    let flows: Vec<_> = dump.lines().filter(drops).collect();
    assert!(!flows.is_empty(), "{dump}");
    println!("{} flows of {}", flows.len(), dump.lines().count());
    for flow in &flows {
        let key = flow.split(", packets:").next().unwrap();
        lab.nodes[0].ovs.appctl(&["dpctl/mod-flow", datapath, key, &to]).unwrap();
    }
    let begin = Instant::now();
    let before = sink.count();
    eventually("what is forbidden arrives", LIMIT, || sink.count() > before + 2).await;
    let healthy = || {
        let info = lab.api.get(antrea_tests::lab::AGENT_INFOS, None, &lab.nodes[0].name).unwrap();
        let conditions = info["agentConditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|condition| condition["type"] == "AgentHealthy").unwrap()
    };
    eventually("it is told", MINUTE, || healthy()["reason"] == "DatapathFlowsWrong").await;
    println!("told after {:?}: {}", begin.elapsed(), healthy()["message"]);
    eventually("it is put right", LIMIT, silent).await;
    sender.abort();
    assert!(lab.agent_metric(0, WRONG).await >= 1.0);
    eventually("it is over", Duration::from_secs(90), || healthy()["status"] == "True").await;
}
