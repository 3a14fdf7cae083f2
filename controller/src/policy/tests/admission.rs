//! Webhooks: what is refused, what is only warned of, and what a policy gets.

use std::net::SocketAddr;

use antrea_runtime::metrics::Metrics;
use futures::StreamExt as _;

use super::*;
use crate::policy::admission::{AdmissionMetrics, router as hooks};

/// Asks as the API server does; the status of the answer, and its `response`.
async fn ask(app: &Router, path: &str, review: &Value, from: [u8; 4]) -> (StatusCode, Value) {
    let body = serde_json::to_vec(review).unwrap();
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(Body::from(body))
        .unwrap();
    request.extensions_mut().insert(SocketAddr::from((from, 4000)));
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    (status, answer["response"].clone())
}

pub(super) fn review(operation: &str, name: &str, namespace: Option<&str>, new: Value, old: Value) -> Value {
    let object = |spec: Value| match spec {
        Value::Null => Value::Null,
        spec => json!({
            "apiVersion": "crd.antrea.io/v1beta1", "kind": "Any",
            "metadata": {"name": name, "namespace": namespace, "uid": "u"}, "spec": spec,
        }),
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "question", "operation": operation, "name": name, "namespace": namespace,
        "kind": {"group": "crd.antrea.io", "version": "v1beta1", "kind": "Any"},
        "resource": {"group": "crd.antrea.io", "version": "v1beta1", "resource": "any"},
        "userInfo": {"username": "somebody"}, "object": object(new), "oldObject": object(old),
    }})
}

pub(super) struct Cluster {
    app: Router,
    pub(super) inputs: Inputs,
}

impl Cluster {
    pub(super) async fn new() -> Self {
        let inputs = Inputs::shop().await;
        inputs.hub.update(|state, _| {
            for (name, priority) in [("emergency", 50), ("gold", 60)] {
                let tier = json!({"metadata": {"name": name}, "spec": {"priority": priority}});
                state.index.apply_tier(&serde_json::from_value(tier).unwrap());
            }
            for (name, spec) in [
                ("parent", json!({"childGroups": ["child"]})),
                ("blocks", json!({"ipBlocks": [{"cidr": "192.0.2.0/24"}]})),
            ] {
                let group = json!({"metadata": {"name": name}, "spec": spec});
                state.index.apply_group(&serde_json::from_value(group).unwrap());
            }
            let bare = json!({"metadata": {"name": "bare", "namespace": "shop"}, "spec": {}});
            state.index.apply_service(&serde_json::from_value(bare).unwrap());
            let policy =
                json!({"metadata": {"name": "used", "uid": "x"}, "spec": {"tier": "gold", "priority": 1}});
            state.index.apply_native(&serde_json::from_value(policy).unwrap());
        });
        let app = hooks(&inputs.hub, AdmissionMetrics::new(&Metrics::empty()).unwrap());
        Self { app, inputs }
    }

    pub(super) async fn answer(&self, path: &str, review: &Value) -> Value {
        let (status, answer) = ask(&self.app, path, review, [192, 0, 2, 1]).await;
        assert_eq!(status, 200);
        assert_eq!(answer["uid"], "question");
        answer
    }

    /// Why it is refused, empty if it is not; and the warnings.
    pub(super) async fn made(&self, kind: &str, name: &str, spec: Value) -> (String, Vec<String>) {
        let namespace = matches!(kind, "annp" | "group").then_some("shop");
        let review = review("CREATE", name, namespace, spec, Value::Null);
        let answer = self.answer(&format!("/validate/{kind}"), &review).await;
        let why = answer["status"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer["allowed"] == json!(true), why.is_empty(), "{answer}");
        let warnings = answer["warnings"].as_array().into_iter().flatten();
        (why, warnings.map(|text| text.as_str().unwrap().to_owned()).collect())
    }
}

pub(super) fn spec(rule: Value) -> Value {
    json!({"priority": 5, "tier": "gold", "appliedTo": [{"podSelector": {}}], "ingress": [rule]})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_come_right_is_a_warning() {
    let cluster = Cluster::new().await;
    let group = json!({"action": "Drop", "from": [{"group": "later"}]});
    let (why, warnings) = cluster.made("acnp", "new", spec(group)).await;
    assert_eq!(why, "");
    assert!(
        warnings[0].starts_with("spec.ingress[0].from[0].group: there is no group \"later\""),
        "{warnings:?}"
    );
    let long: Vec<Value> = (0..40).map(|i| json!({"group": format!("{i:0250}")})).collect();
    let (why, warnings) = cluster.made("acnp", "new", spec(json!({"action": "Drop", "from": long}))).await;
    assert_eq!((why.as_str(), warnings.len()), ("", 11));
    assert!(warnings.iter().all(|text| text.len() <= 256));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_in_before_can_still_be_let_go() {
    let cluster = Cluster::new().await;
    let bad = json!({"priority": 5, "tier": "none", "appliedTo": [{"podSelector": {}}]});
    let same = review("UPDATE", "old", None, bad.clone(), bad.clone());
    assert_eq!(cluster.answer("/validate/acnp", &same).await["allowed"], true);
    let worse = review("UPDATE", "old", None, bad.clone(), spec(json!({"action": "Drop"})));
    assert_eq!(cluster.answer("/validate/acnp", &worse).await["allowed"], false);
    let gone = review("DELETE", "old", None, Value::Null, bad);
    assert_eq!(cluster.answer("/validate/acnp", &gone).await["allowed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_gets_its_tier_and_names_for_its_rules() {
    let cluster = Cluster::new().await;
    let rules = json!([{"action": "Drop"}, {"action": "Drop"}, {"action": "Allow", "name": "mine"}, {"action": "Drop", "ports": []}]);
    let policy = |rules: &Value| json!({"priority": 5, "egress": rules});
    let changes = async |spec: Value| -> Vec<Value> {
        let answer = cluster.answer("/mutate/acnp", &review("CREATE", "p", None, spec, Value::Null)).await;
        assert_eq!(answer["allowed"], true);
        let patch: Option<Vec<u8>> = serde_json::from_value(answer["patch"].clone()).unwrap();
        patch.map(|patch| serde_json::from_slice(&patch).unwrap()).unwrap_or_default()
    };
    let found = changes(policy(&rules)).await;
    let values: Vec<(&str, &str)> = found
        .iter()
        .map(|change| (change["path"].as_str().unwrap(), change["value"].as_str().unwrap()))
        .collect();
    assert_eq!(values[0], ("/spec/tier", "application"));
    assert_eq!(values[1].0, "/spec/egress/0/name");
    assert!(values[1].1.starts_with("egress-drop-") && values[1].1.len() == "egress-drop-".len() + 7);
    assert_eq!(values[2].1, format!("{}-2", values[1].1));
    assert_eq!((values[3].0, values.len()), ("/spec/egress/3/name", 4));
    assert_ne!(values[3].1, values[1].1);
    // A rule that comes before changes no name.
    let shifted = changes(policy(&json!([{"action": "Pass"}, {"action": "Drop"}]))).await;
    assert_eq!(shifted[2]["value"], values[1].1);
    // What is refused anyway is not made longer.
    let many = changes(policy(&json!(vec![json!({}); 20_000]))).await;
    assert_eq!((many.len(), &many[0]["path"]), (1, &json!("/spec/tier")));
    assert_eq!(
        changes(json!({"tier": "gold", "ingress": [{"action": "Drop", "name": "a"}]})).await,
        Vec::<Value>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_before_the_cluster_is_known_or_beyond_bounds() {
    let hub = new_hub();
    let app = hooks(&hub, AdmissionMetrics::new(&Metrics::empty()).unwrap());
    let good = review("CREATE", "p", None, spec(json!({"action": "Drop"})), Value::Null);
    assert_eq!(ask(&app, "/validate/acnp", &good, [192, 0, 2, 1]).await.0, 503);
    let cluster = Cluster::new().await;
    assert_eq!(ask(&cluster.app, "/validate/pods", &good, [192, 0, 2, 1]).await.0, 404);
    assert_eq!(ask(&cluster.app, "/mutate/tier", &good, [192, 0, 2, 1]).await.0, 404);
    assert_eq!(ask(&cluster.app, "/validate/acnp", &json!({"request": null}), [192, 0, 2, 1]).await.0, 400);
    let huge = json!({"padding": "x".repeat(4 << 20)});
    assert_eq!(ask(&cluster.app, "/validate/acnp", &huge, [192, 0, 2, 1]).await.0, 400);
    // Bodies that do not come hold places of their sender alone.
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/validate/acnp")
            .header("content-length", 100)
            .body(Body::from_stream(
                futures::stream::pending::<std::result::Result<Vec<u8>, std::io::Error>>(),
            ))
            .unwrap();
        request.extensions_mut().insert(SocketAddr::from(([192, 0, 2, 66], 4000)));
        waiting.push(tokio::spawn(cluster.app.clone().oneshot(request)));
    }
    // They are waited for 3 s, which is little for a busy machine: one refusal is enough. There are more than there are
    // places, for this question may have one of them when the last comes.
    let mut refused = false;
    for _ in 0..500 {
        refused = ask(&cluster.app, "/validate/acnp", &good, [192, 0, 2, 66]).await.0 == 503;
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused, "a question of an address that has all its places");
    assert_eq!(ask(&cluster.app, "/validate/acnp", &good, [192, 0, 2, 1]).await.0, 200);
    let mut held = 0;
    for task in waiting {
        match task.await.unwrap().unwrap().status().as_u16() {
            400 => held += 1,
            status => assert_eq!(status, 503),
        }
    }
    assert!((1..=16).contains(&held), "{held} of one address");
    assert_eq!(ask(&cluster.app, "/validate/acnp", &good, [192, 0, 2, 66]).await.0, 200);
}

/// A question from an address whose body begins with so many octets, of as many as may be, and never ends.
fn endless(app: &Router, octets: usize, from: [u8; 4]) -> tokio::task::JoinHandle<StatusCode> {
    let first = futures::stream::iter([Ok::<_, std::io::Error>(vec![b' '; octets])]);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/validate/acnp")
        .header("content-length", 4 << 20)
        .body(Body::from_stream(first.chain(futures::stream::pending())))
        .unwrap();
    request.extensions_mut().insert(SocketAddr::from((from, 4000)));
    let app = app.clone();
    tokio::spawn(async move { app.oneshot(request).await.unwrap().status() })
}

/// Neither what an address says that it will send keeps others waiting, nor what it has sent.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_one_address_keep_nobody_waiting() {
    let cluster = Cluster::new().await;
    let mut question = review("CREATE", "p", None, spec(json!({"action": "Drop"})), Value::Null);
    question["padding"] = "x".repeat(100 << 10).into();
    for octets in [1, (4 << 20) - 1] {
        let slow: Vec<_> = (0..8).map(|_| endless(&cluster.app, octets, [192, 0, 2, 66])).collect();
        // Again and again, while they come as far as they get.
        for _ in 0..50 {
            let (status, answer) = ask(&cluster.app, "/validate/acnp", &question, [192, 0, 2, 1]).await;
            assert_eq!((status.as_u16(), &answer["allowed"]), (200, &json!(true)), "{octets}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut codes: Vec<u16> = Vec::new();
        for task in slow {
            codes.push(task.await.unwrap().as_u16());
        }
        let refused = codes.iter().filter(|code| **code == 503).count();
        assert_eq!(refused, if octets == 1 { 0 } else { 6 }, "{codes:?}");
    }
}
