//! Bundles of an agent and a cluster in this process.

use axum::{
    Json, Router,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::*;
use crate::{agents::tests::Lab, tests::NARROW};

#[test]
fn names_are_given_whole_or_with_stars() {
    for (pattern, name, expected) in [
        ("n1", "n1", true),
        ("n1", "n10", false),
        ("*", "anything", true),
        ("*worker*", "a-worker-1", true),
        ("*worker*", "a-master-1", false),
        ("n*1", "n1", true),
        ("n*1", "node-11", true),
        ("n*1*2", "n-1-1-2", true),
        ("n*1*2", "n-2-1", false),
        ("n1*n1", "n1", false),
    ] {
        assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn folders_are_where_they_can_be_made() {
    let path = |place| folder(place, "T").display().to_string();
    assert_eq!(path(Place::Elsewhere), "support-bundles_T");
    assert_eq!(path(Place::Agent), "/tmp/support-bundles_T");
    assert_eq!(path(Place::Controller), "/var/run/antrea/support-bundles_T");
}

#[test]
fn what_may_be_secret_is_pruned() {
    let mut value = json!({"items": [{
        "metadata": {"managedFields": [{"manager": "x"}], "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "S3CRET", "a": "b"}},
        "spec": {"containers": [{"env": [
            {"name": "PLAIN", "value": "S3CRET"}, {"name": "NODE", "valueFrom": {"fieldRef": {}}}]}]},
    }]});
    cluster::prune(&mut value);
    let text = value.to_string();
    assert!(!text.contains("S3CRET") && !text.contains("managedFields"), "{text}");
    assert!(text.contains("\"a\":\"b\"") && text.contains("fieldRef"), "{text}");
}

/// An agent whose bundle is made by the second look.
fn agent(sum: &'static str) -> Router {
    let bundle = |status: &str, sum: &str| {
        let metadata = json!({"name": "agent"});
        json!({"kind": "SupportBundle", "metadata": metadata, "status": status, "sum": sum, "size": 7})
    };
    let begun = bundle("Collecting", "");
    let made = bundle("Collected", sum);
    let all = "/apis/system.antrea.io/v1beta1/supportbundles";
    let begin = post(async move |Json(wanted): Json<Value>| {
        assert_eq!((&wanted["metadata"]["name"], &wanted["since"]), (&json!("agent"), &json!("1h")));
        (http::StatusCode::CREATED, Json(begun))
    });
    let own = get(async move || Json(made)).delete(async || Json(json!({"kind": "Status"})));
    Router::new()
        .route(all, begin)
        .route(&format!("{all}/agent"), own)
        .route(&format!("{all}/agent/download"), get(async || "archive"))
}

fn sum() -> &'static str {
    let sum: String = Sha256::digest(b"archive").iter().map(|byte| format!("{byte:02x}")).collect();
    sum.leak()
}

#[tokio::test]
async fn archives_are_fetched_checked_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("made/here");
    let lab = Lab::serving(Some(NARROW), true, Default::default(), agent(sum())).await;
    let line = format!("supportbundle n1 --since 1h -d {}", dir.display());
    assert_eq!(lab.run(&line).await, format!("{}\n", dir.display()));
    assert_eq!(std::fs::read_to_string(dir.join("agent_n1.tar.gz")).unwrap(), "archive");
    let cluster = std::fs::read_to_string(dir.join("clusterinfo")).unwrap();
    assert!(cluster.contains("# nodes: /api/v1/nodes\n") && cluster.contains("n1"), "{cluster}");
    // What is not to be had says so, and the rest goes on.
    assert!(cluster.contains("# pods: ") && cluster.contains("\nerror: GET "), "{cluster}");
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!([mode("."), mode("agent_n1.tar.gz"), mode("clusterinfo")], [0o700, 0o600, 0o600]);
    let error = lab.fails("supportbundle n9").await;
    assert_eq!(error, "no Node is named \"n9\"");
}

#[tokio::test]
async fn what_fails_is_named_and_the_rest_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("d");
    let lab = Lab::serving(Some(NARROW), true, Default::default(), agent("of another")).await;
    let error = lab.fails(&format!("supportbundle n* --since 1h -d {}", dir.display())).await;
    assert_eq!(error, format!("nothing of n1; what was had is in {}", dir.display()));
    assert!(dir.join("clusterinfo").exists() && !dir.join("agent_n1.tar.gz").exists());
}
