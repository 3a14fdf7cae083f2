//! What people ask about Pods and policies.

use super::*;

async fn ask(hub: &Arc<PolicyHub>, query: &str) -> (StatusCode, Value) {
    let request = Request::get(format!("/endpoint?{query}")).body(Body::empty()).unwrap();
    let response = endpoints(hub).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

fn reference() -> Value {
    json!({ "type": "K8sNetworkPolicy", "namespace": "shop", "name": "allow", "uid": "uid-allow" })
}

#[tokio::test(flavor = "multi_thread")]
async fn where_policies_name_a_pod() {
    let inputs = Inputs::shop().await;
    let (status, db) = ask(&inputs.hub, "namespace=shop&pod=db").await;
    let policies = json!([{ "namespace": "shop", "name": "db", "policies": [reference()] }]);
    assert_eq!((status, db), (StatusCode::OK, json!({ "endpoints": policies })));
    let (status, web) = ask(&inputs.hub, "namespace=shop&pod=web-0").await;
    let rules = json!([{ "policyref": reference(), "direction": "In" }]);
    let expected =
        json!({ "endpoints": [{ "namespace": "shop", "name": "web-0", "ingresssrcrules": rules }] });
    assert_eq!((status, web), (StatusCode::OK, expected));
    assert_eq!(ask(&inputs.hub, "namespace=shop").await.0, StatusCode::BAD_REQUEST);
    let (status, failure) = ask(&inputs.hub, "pod=db").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "in the Namespace default");
    assert!(failure["message"].as_str().unwrap().contains("default/db"), "{failure}");
    assert_eq!(ask(&new_hub(), "namespace=shop&pod=db").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

async fn evaluate(hub: &Arc<PolicyHub>, source: &str, destination: &str) -> (StatusCode, Value) {
    let pod = |name: &str| json!({ "pod": { "namespace": "shop", "name": name } });
    let body = json!({ "request": { "source": pod(source), "destination": pod(destination) } });
    let body = body.to_string().into_bytes();
    let (status, body) = call(hub, Method::POST, "networkpolicyevaluation", "application/json", body).await;
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_that_decides_comes_back_with_the_question() {
    let inputs = Inputs::shop().await;
    let (status, answer) = evaluate(&inputs.hub, "web-0", "db").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(answer["kind"], "NetworkPolicyEvaluation");
    assert_eq!(answer["request"]["source"]["pod"], json!({ "namespace": "shop", "name": "web-0" }));
    let expected = json!({ "networkPolicy": reference(), "ruleIndex": 0, "rule": { "direction": "In" } });
    assert_eq!(answer["response"], expected);
    // Nobody isolates it, so that no rule decides.
    let (_, answer) = evaluate(&inputs.hub, "db", "web-0").await;
    assert_eq!(answer.get("response"), None);
    let (_, answer) = evaluate(&inputs.hub, "db", "db").await;
    assert_eq!(answer.get("response"), None, "what a Pod sends to itself does not leave it");

    let other = policy("deny", 1, json!({ "app": "web" }), json!({ "app": "none" }));
    apply(&inputs.policies, other);
    until(|| counts(&inputs.hub).network_policies == 2).await;
    let (_, answer) = evaluate(&inputs.hub, "db", "web-0").await;
    assert_eq!(answer["response"]["networkPolicy"]["name"], "deny");
    assert_eq!(answer["response"]["ruleIndex"], -1, "no rule allows it");

    assert_eq!(evaluate(&inputs.hub, "web-0", "nobody").await.0, StatusCode::NOT_FOUND);
    let (status, failure) = evaluate(&inputs.hub, "", "db").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(failure["message"].as_str().unwrap().starts_with("request.source.pod"), "{failure}");
    let (status, _) =
        call(&inputs.hub, Method::GET, "networkpolicyevaluation", "application/json", Vec::new()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}
