//! Objects that do not decode: the rest goes on, what is known stays, what is not known fails closed.

use super::*;

/// The policy `name` with a selector of `db` and rules that are no list.
fn malformed_policy(name: &str) -> Watched<k8s::NetworkPolicy> {
    watched(json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 2,
            "resourceVersion": "2" },
        "spec": { "podSelector": { "matchLabels": { "app": "db" } }, "ingress": "everybody" },
    }))
}

fn undecodable(hub: &PolicyHub, feed: Feed) -> i64 {
    hub.read(|state, _| state.metrics.undecodable[feed as usize].get()).0
}

/// Whether the policy isolates, and whether it allows anything; none if n1 has not got it.
fn on_n1(hub: &Arc<PolicyHub>, name: &str) -> Option<(bool, bool)> {
    let agent = Node::join(hub, "n1").agent;
    let policy = agent.policies.get(&format!("uid-{name}"))?;
    let isolates = policy.rules.iter().any(|rule| rule.direction == "In");
    let allows = policy.rules.iter().any(|rule| rule.from != wire::NetworkPolicyPeer::default());
    Some((isolates, allows))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_never_decoded_isolates_and_stalls_nothing() {
    let inputs = Inputs::shop().await;
    let (db, web) = (json!({ "app": "db" }), json!({ "app": "web" }));
    list(
        &inputs.policies,
        vec![
            malformed_policy("bad"),
            watched(json!({ "metadata": { "name": 5 } })),
            watched(json!(null)),
            policy("more", 1, db.clone(), web.clone()),
        ],
    );
    until(|| on_n1(&inputs.hub, "more") == Some((true, true))).await;
    assert_eq!(on_n1(&inputs.hub, "bad"), Some((true, false)), "isolated and allowed nothing");
    assert_eq!(on_n1(&inputs.hub, "allow"), None, "the list did not have it any more");
    until(|| !inputs.problems.is_ready()).await;
    let (name, reason) = inputs.problems.pending().remove(0);
    assert_eq!(name, "undecodable networkpolicies");
    assert!(reason.contains("shop/bad: invalid type: string \"everybody\""), "{reason}");
    assert_eq!(undecodable(&inputs.hub, Feed::NetworkPolicies), 2, "two had no name at all");

    apply(&inputs.policies, policy("bad", 3, db, web));
    until(|| on_n1(&inputs.hub, "bad") == Some((true, true))).await;
    list(&inputs.policies, vec![]);
    until(|| inputs.problems.is_ready()).await;
    assert_eq!(undecodable(&inputs.hub, Feed::NetworkPolicies), 0);
    assert_eq!(on_n1(&inputs.hub, "bad"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_version_that_decoded_stays() {
    let inputs = Inputs::shop().await;
    let before = Node::join(&inputs.hub, "n1").agent;
    apply(&inputs.policies, malformed_policy("allow"));
    until(|| undecodable(&inputs.hub, Feed::NetworkPolicies) == 1).await;
    assert_eq!(Node::join(&inputs.hub, "n1").agent, before);
    // Also when everything is listed anew.
    let mut pods = vec![pod("web-0", json!({ "app": "web" }), "n0", "10.0.0.5")];
    for name in ["web-1", "db"] {
        pods.push(watched(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": 1 })));
    }
    list(&inputs.policies, vec![malformed_policy("allow")]);
    list(&inputs.pods, pods);
    list(&inputs.namespaces, vec![watched(json!({ "metadata": { "name": "shop", "labels": 5 } }))]);
    until(|| undecodable(&inputs.hub, Feed::Pods) == 2 && undecodable(&inputs.hub, Feed::Namespaces) == 1)
        .await;
    assert_eq!(Node::join(&inputs.hub, "n1").agent, before);
    until(|| inputs.problems.pending().len() == 3).await;

    inputs.policies.unbounded_send(Ok(watcher::Event::Delete(malformed_policy("allow")))).unwrap();
    until(|| on_n1(&inputs.hub, "allow").is_none()).await;
    until(|| inputs.problems.pending().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_never_decoded_is_isolated_and_no_peer() {
    let inputs = Inputs::shop().await;
    let (db, web) = (json!({ "app": "db" }), json!({ "app": "web" }));
    apply(&inputs.policies, policy("both", 1, json!({}), web));
    until(|| on_n1(&inputs.hub, "both").is_some()).await;
    let bad = |name: &str, labels: &Value| {
        let metadata = json!({ "name": name, "namespace": "shop", "labels": labels });
        let status = json!({ "podIPs": [{ "ip": "10.0.2.9" }] });
        watched(
            json!({ "metadata": metadata, "spec": { "nodeName": "n2", "containers": 7 }, "status": status }),
        )
    };
    apply(&inputs.pods, bad("web-9", &json!({ "app": "web" })));
    apply(&inputs.pods, bad("db-9", &db));
    until(|| Node::join(&inputs.hub, "n2").agent.policies.len() == 2).await;
    let agent = Node::join(&inputs.hub, "n2").agent;
    assert_eq!(
        agent.applied_to.values().map(BTreeSet::len).sum::<usize>(),
        3,
        "both by one, db-9 by the other"
    );
    let address = serde_json::to_string(&agent.address).unwrap();
    assert!(!address.contains(r#""ips":["CgACCQ=="]"#) && !address.contains("CgACCQ"), "{address}");
}
