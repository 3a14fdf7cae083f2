//! What agents tell of traffic, and what is read of it.

use antrea_policy::crd;

use super::*;
use crate::policy::statistics::statistics;

/// Asks as a user; the status and the answer.
async fn ask(
    hub: &Arc<PolicyHub>,
    user: User,
    method: Method,
    url: &str,
    body: Value,
) -> (StatusCode, Value) {
    let metrics = ServerMetrics::new(&Metrics::empty(), PLURALS).unwrap();
    let app = statistics(apiserver_kit::api::Api::new("v0", metrics), hub, "kube-system", true).router();
    let mut request =
        Request::builder().method(method.clone()).uri(url).body(Body::from(body.to_string())).unwrap();
    let meaning = ResourceRequest::parse(&method, request.uri().path(), request.uri().query()).unwrap();
    request.extensions_mut().insert(meaning.unwrap());
    request.extensions_mut().insert(user);
    let response = app.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

fn agent_of(node: &str) -> User {
    User {
        name: "system:serviceaccount:kube-system:antrea-agent".to_owned(),
        extra: [("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()])].into(),
        ..User::default()
    }
}

async fn tell(hub: &Arc<PolicyHub>, node: &str, named: &str, lists: Value) -> StatusCode {
    let mut summary = lists;
    summary["metadata"] = json!({"name": named});
    let url = "/apis/controlplane.antrea.io/v1beta2/nodestatssummaries";
    ask(hub, agent_of(node), Method::POST, url, summary).await.0
}

async fn read(hub: &Arc<PolicyHub>, path: &str) -> (StatusCode, Value) {
    let url = format!("/apis/stats.antrea.io/v1alpha1/{path}");
    ask(hub, User::default(), Method::GET, &url, Value::Null).await
}

fn stats(packets: i64) -> Value {
    json!({"packets": packets, "bytes": packets * 100, "sessions": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_tell_is_summed_up_while_the_policy_is_there() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    let told = |uid: &str, packets| json!({"networkPolicies": [{"networkPolicy": {"name": "allow", "namespace": "shop", "uid": uid}, "trafficStats": stats(packets)}]});
    let nothing = read(hub, "namespaces/shop/networkpolicystats/allow").await;
    assert_eq!((nothing.0, &nothing.1["trafficStats"]["packets"]), (StatusCode::OK, &json!(0)));
    for (node, packets) in [("n0", 3), ("n1", 4), ("n0", 5)] {
        assert_eq!(tell(hub, node, node, told("uid-allow", packets)).await, StatusCode::CREATED);
    }
    // Of one that is gone, and of none.
    assert_eq!(tell(hub, "n0", "n0", told("uid-gone", 100)).await, StatusCode::CREATED);
    let (_, found) = read(hub, "namespaces/shop/networkpolicystats/allow").await;
    assert_eq!(found["kind"], "NetworkPolicyStats");
    assert_eq!(found["trafficStats"], json!({"packets": 12, "bytes": 1200, "sessions": 3}));
    let (_, all) = read(hub, "networkpolicystats").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    assert_eq!(read(hub, "namespaces/other/networkpolicystats/allow").await.0, StatusCode::NOT_FOUND);

    list(&inputs.policies, vec![]);
    until(|| hub.read(|state, _| state.index.network_policy("uid-allow").is_none()).0).await;
    list(&inputs.policies, vec![policy("allow", 1, json!({ "app": "db" }), json!({ "app": "web" }))]);
    until(|| hub.read(|state, _| state.index.network_policy("uid-allow").is_some()).0).await;
    let (_, found) = read(hub, "namespaces/shop/networkpolicystats/allow").await;
    assert_eq!(found["trafficStats"]["packets"], 0, "it is another policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn native_policies_are_told_by_rule() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    hub.update(|state, _| {
        let guard: crd::Policy = serde_json::from_value(json!({
            "metadata": {"name": "guard", "uid": "uid-guard"},
            "spec": {"priority": 1, "appliedTo": [{"podSelector": {}}], "ingress": [{"action": "Drop", "name": "all"}]},
        }))
        .unwrap();
        state.index.apply_native(&guard);
        state.index.drain();
    });
    let rules = |name: &str| json!([{"name": name, "trafficStats": stats(2)}]);
    let told = |list: &str, name: &str| json!({list: [{"networkPolicy": {"name": "guard", "uid": "uid-guard"}, "trafficStats": stats(2), "ruleTrafficStats": rules(name)}]});
    assert_eq!(tell(hub, "n0", "n0", told("antreaClusterNetworkPolicies", "all")).await, StatusCode::CREATED);
    // A rule that it does not have, and a policy of another kind.
    assert_eq!(
        tell(hub, "n0", "n0", told("antreaClusterNetworkPolicies", "made up")).await,
        StatusCode::CREATED
    );
    assert_eq!(tell(hub, "n0", "n0", told("antreaNetworkPolicies", "all")).await, StatusCode::CREATED);
    let (_, found) = read(hub, "antreaclusternetworkpolicystats/guard").await;
    assert_eq!(found["trafficStats"]["packets"], 4);
    assert_eq!(found["ruleTrafficStats"], json!([{"name": "all", "trafficStats": stats(2)}]));
    let (_, all) = read(hub, "antreanetworkpolicystats").await;
    assert_eq!(all["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_of_its_own_node_and_nothing_impossible() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    assert_eq!(tell(hub, "n0", "n1", json!({})).await, StatusCode::FORBIDDEN);
    let negative = json!({"networkPolicies": [{"networkPolicy": {"name": "allow", "uid": "uid-allow"}, "trafficStats": stats(-1)}]});
    assert_eq!(tell(hub, "n0", "n0", negative).await, StatusCode::BAD_REQUEST);
    let (_, found) = read(hub, "namespaces/shop/networkpolicystats/allow").await;
    assert_eq!(found["trafficStats"]["packets"], 0);
}
