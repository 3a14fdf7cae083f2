//! What policies allowed and denied, from the packet to `stats.antrea.io`: each packet once, also across a restart.

use std::time::Duration;

use antrea_tests::https;
use antrea_tests::lab::{Lab, eventually};
use antrea_tests::station::Station;
use serde_json::{Value, json};

use crate::native::put;

const LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";

async fn read(lab: &Lab, path: &str) -> Value {
    let endpoint = lab.controller_endpoint(Some("lab-reader")).expect("the controller's CA");
    let path = format!("/apis/stats.antrea.io/v1alpha1/{path}");
    match https::get(&endpoint, &path).await {
        Ok((200, text)) => serde_json::from_str(&text).unwrap(),
        _ => Value::Null,
    }
}

/// Waits until what is told is what was sent, and that it stays so.
async fn adds_up(lab: &Lab, path: &str, wanted: impl Fn(&Value) -> bool) {
    let begin = std::time::Instant::now();
    let mut last = Value::Null;
    while begin.elapsed() < LIMIT {
        last = read(lab, path).await;
        if wanted(&last) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            last = read(lab, path).await;
            assert!(wanted(&last), "{path}: it went on counting: {last}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("{path}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_packet_counts_once_also_across_a_restart_of_the_agent() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    lab.agent_args = vec!["--statistics-interval=2"];
    lab.start_agents().await;
    let mut pod = |name: &str| {
        lab.put_pod(0, name, &[("name", name)], None);
        lab.add_pod(0, name)
    };
    let [target, near, friend] = ["target", "near", "friend"].map(&mut pod);
    let labelled = |name: &str| json!({"podSelector": {"matchLabels": {"name": name}}});
    let deny = json!({
        "priority": 5, "appliedTo": [labelled("target")],
        "ingress": [{"name": "others", "action": "Drop", "from": [labelled("near")]}],
    });
    put(&lab, CLUSTER_POLICIES, None, "deny", &deny);
    lab.put_policy(
        "allow",
        &json!({"podSelector": {"matchLabels": {"name": "target"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [labelled("friend")]}]}),
    );
    let realized = || {
        let deny = lab.api.get(CLUSTER_POLICIES, None, "deny").unwrap();
        deny["status"]["phase"] == "Realized" && deny["status"]["currentNodesRealized"] == 1
    };
    eventually("the policies are in force", LIMIT, realized).await;
    let (at_target, at_near, at_friend) =
        (Station::start(&target.netns), Station::start(&near.netns), Station::start(&friend.netns));
    // The Kubernetes policy has no status; it has two counting flows, the other one.
    let counting =
        || lab.nodes[0].ofctl("dump-flows", &["table=IngressMetric"]).matches("priority=200").count();
    eventually("the rules are counted", LIMIT, || counting() == 3).await;
    at_friend.aim([target.ip]);
    eventually("the friend is heard", LIMIT, || {
        at_target.arrived().get(&friend.ip).is_some_and(|met| met.tcp > 2 && met.udp > 2)
    })
    .await;
    at_near.aim([target.ip]);
    let before = at_near.sent();
    eventually("200 probes are sent", LIMIT, || at_near.sent() - before > 200).await;
    at_near.aim([]);
    at_friend.aim([]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    add_up(&lab, at_near.sent(), at_friend.sent()).await;
    // Between its last look and its end, while it is away, and while the next one takes over.
    at_near.aim([target.ip]);
    at_friend.aim([target.ip]);
    lab.nodes[0].kill_agent();
    let before = at_near.sent();
    eventually("100 probes are sent without an agent", LIMIT, || at_near.sent() - before > 100).await;
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let before = at_near.sent();
    eventually("100 probes are sent afterwards", LIMIT, || at_near.sent() - before > 100).await;
    at_near.aim([]);
    at_friend.aim([]);
    tokio::time::sleep(Duration::from_secs(1)).await;

    add_up(&lab, at_near.sent(), at_friend.sent()).await;
    assert_eq!(at_target.arrived().get(&near.ip), None, "it was denied");
}

/// Of the pods' probes each is told, and nothing else.
async fn add_up(lab: &Lab, denied: u64, allowed: u64) {
    println!("{denied} probes denied, {allowed} allowed");
    let all = |stats: &Value| stats["packets"] == denied && stats["sessions"] == denied;
    adds_up(lab, "antreaclusternetworkpolicystats/deny", |found| {
        all(&found["trafficStats"])
            && found["ruleTrafficStats"].as_array().is_some_and(|rules| rules.len() == 1)
            && found["ruleTrafficStats"][0]["name"] == "others"
            && all(&found["ruleTrafficStats"][0]["trafficStats"])
    })
    .await;
    adds_up(lab, "namespaces/default/networkpolicystats/allow", |found| {
        let stats = &found["trafficStats"];
        // A port that comes again goes on with what it had begun.
        let sessions = stats["sessions"].as_u64().unwrap_or_default();
        sessions <= allowed && sessions * 20 >= allowed * 19 && stats["packets"].as_u64() > Some(allowed)
    })
    .await;
}
