//! `antctl explain` between two nodes: real agents, a real controller, real traces.

use std::process::Output;

use super::*;

const PODS: &str = "api/v1/pods";
const NODES: &str = "api/v1/nodes";

/// Says of an object that kubelet finds it ready.
fn is_ready(lab: &Lab, collection: &str, namespace: Option<&str>, name: &str) {
    let mut object = lab.api.get(collection, namespace, name).unwrap();
    object["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    lab.api.put(collection, object);
}

/// What the controller has computed, where the lab's API server has no aggregation and the real one asks the controller.
/// All of it concerns `node` here.
fn publish(lab: &Lab, controller: &Container<'_>, node: &str) {
    for (resource, plural) in [
        ("networkpolicy", "networkpolicies"),
        ("appliedtogroup", "appliedtogroups"),
        ("addressgroup", "addressgroups"),
    ] {
        let objects: Value = serde_json::from_str(&controller.run(&["get", resource, "-o", "raw"])).unwrap();
        for mut object in objects.as_array().unwrap().iter().cloned() {
            object["nodeName"] = node.into();
            lab.api.put(&format!("apis/controlplane.antrea.io/v1beta2/{plural}"), object);
        }
    }
}

fn ends(output: &Output, code: i32, words: &[&str]) -> bool {
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    output.status.code() == Some(code) && words.iter().all(|words| text.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn antctl_explains_what_two_bridges_do() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let (web, _near, db) = (lab.add_pod(0, "web"), lab.add_pod(0, "near"), lab.add_pod(1, "db"));
    for name in ["web", "near", "db"] {
        is_ready(&lab, PODS, Some("default"), name);
    }
    for name in ["node1", "node2"] {
        is_ready(&lab, NODES, None, name);
        let has_ca =
            || lab.api.get(AGENT_INFOS, None, name).is_some_and(|info| info["apiCABundle"].is_string());
        eventually("the agent's state", LIMIT, has_ca).await;
    }
    let kubeconfig = kubeconfig(&lab);
    let (outside, controller) = (outside(&lab, &kubeconfig), in_controller(&lab, &kubeconfig));
    let explain =
        |source: &str, destination: &str| outside.try_run(&["explain", source, destination, "--port", "80"]);

    let words = ["through the tunnel to node2", "the bridge of node2 gives it to default/db"];
    assert!(ends(&explain("default/web", "default/db"), 0, &words));
    let words = ["the bridge of node1 gives it to default/near"];
    assert!(ends(&explain("default/web", "default/near"), 0, &words));
    let words = ["from there on routes and masquerading of the Node decide"];
    assert!(ends(&explain("default/web", "198.51.100.1"), 0, &words));

    let words =
        ["node1 has the routes that it needs: to node2", "node2 has the routes that it needs: to default/db"];
    assert!(ends(&explain("default/web", "default/db"), 0, &words));
    let away = |verb: &str| {
        let (netns, peer) = (&lab.nodes[0].netns, lab.nodes[1].ip);
        sh(&format!("ip -n {netns} route {verb} blackhole {peer}/32"));
    };
    away("add");
    assert!(ends(&explain("default/web", "default/db"), 2, &["node1 has no route to node2"]));
    away("del");
    sh(&format!("ip netns exec {} ping -c1 -W2 {}", web.netns, db.ip));
    let echo = || outside.try_run(&["explain", "default/web", "default/db", "--protocol", "icmp"]);
    assert!(ends(&echo(), 0, &["the bridge of node1 tracks 1 connection of default/web to it"]));

    let send = || outside.try_run(&["explain", "default/web", "default/db", "--port", "80", "--send"]);
    assert!(ends(&send(), 0, &["it came to default/db on node2"]));
    let firewall = |verb: &str| {
        let (netns, peer) = (&lab.nodes[1].netns, lab.nodes[0].ip);
        sh(&format!("ip netns exec {netns} iptables -w -t raw -{verb} PREROUTING -p udp -s {peer} -j DROP"));
    };
    firewall("I");
    assert!(ends(&send(), 2, &["it left node1 through the tunnel to", "and did not come out there"]));
    firewall("D");

    lab.put_policy(
        "shut",
        &json!({
            "podSelector": {"matchLabels": {"name": "db"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": "near"}}}], "ports": [{"port": 80}]}],
        }),
    );
    let agent_has_it = || {
        let shown = outside.try_run(&["get", "networkpolicy", "shut", "-n", "default", "--node", "node2"]);
        shown.status.success()
    };
    eventually("the policy at the agent", LIMIT, agent_has_it).await;
    // The controller is not asked by way of this API server: what it says is not what it has.
    let words = ["it still has NetworkPolicy default/shut"];
    assert!(ends(&explain("default/web", "default/db"), 2, &words));
    publish(&lab, &controller, "node2");
    let denied = || {
        let words = [
            "NetworkPolicy default/shut isolates default/db",
            "the bridge of node2 drops it in table IngressDefaultRule, as policy says",
        ];
        ends(&explain("default/web", "default/db"), 1, &words)
    };
    eventually("the policy at the bridge", LIMIT, denied).await;
    let words = ["NetworkPolicy default/shut, ingress rule 0, allows it"];
    let allowed = || ends(&explain("default/near", "default/db"), 0, &words);
    eventually("the rule at the bridge", LIMIT, allowed).await;

    lab.nodes[1].kill_agent();
    let words = ["the agent of node2 does not say", "NetworkPolicy default/shut isolates default/db"];
    assert!(ends(&explain("default/web", "default/db"), 1, &words));
}
