use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use apiserver_kit::tls::ClientTrust;
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use serde_json::json;

use crate::agents::tests::Lab;
use crate::tests::NARROW;

/// An agent on which each question finds a thousand octets more, and the controller's statistics.
async fn lab() -> Lab {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let routes = Router::new().route(
        "/traffic",
        get(async move || {
            let n = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Json(json!({
                "pods": [{"namespace": "shop", "name": "web", "sentPackets": n, "sentBytes": 1000 * n}],
                "flows": [{"id": "f", "from": "shop/web", "to": "192.0.2.1", "protocol": "TCP", "port": 443,
                           "packets": n, "bytes": 500 * n}],
                "drops": [{"table": "SpoofGuard", "packets": 5, "bytes": 300}],
            }))
        }),
    );
    Lab::beside(Some(NARROW), true, ClientTrust::default(), routes, |cluster| {
        let item = json!({"metadata": {"namespace": "shop", "name": "db"},
                          "trafficStats": {"packets": 2, "bytes": 120, "sessions": 1}});
        for (plural, items) in [
            ("networkpolicystats", json!([item])),
            ("antreaclusternetworkpolicystats", json!([])),
            ("antreanetworkpolicystats", json!([])),
        ] {
            cluster
                .answers
                .insert(format!("GET /apis/stats.antrea.io/v1alpha1/{plural}"), json!({"items": items}));
        }
    })
    .await
}

#[tokio::test]
async fn once_where_nobody_watches() {
    let lab = lab().await;
    let text = lab.run("top -i 200ms").await;
    let tables: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(tables.len(), 4, "{text}");
    assert!(
        tables[1].lines().nth(1).unwrap().starts_with("shop/web   192.0.2.1   TCP 443   n1     "),
        "{text}"
    );
    assert!(tables[0].lines().nth(1).unwrap().starts_with("shop/web   n1     "), "{text}");
    let row: Vec<&str> = tables[2].lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["NetworkPolicy", "shop/db", "0", "120", "2", "1"]);
    let row = tables[3].lines().nth(1).unwrap();
    assert!(row.starts_with("forged source   SpoofGuard   n1     0       5"), "{row}");
    let json: serde_json::Value =
        serde_json::from_str(&lab.run("top -i 200ms -o json --node n1").await).unwrap();
    assert!(json["pods"][0]["sent"]["bytesPerSecond"].as_f64().unwrap() > 1000.0, "{json}");
}

#[tokio::test]
async fn who_does_not_answer_is_named() {
    let lab = lab().await;
    let text = lab.run("top -i 100ms --node n1,n9").await;
    assert!(text.contains("NOT-ASKED   WHY\nn9          Node n9: "), "{text}");
    let error = lab.fails("top -i 100ms --node n9").await;
    assert!(error.starts_with("no agent answers: Node n9"), "{error}");
}

/// A token lives for ten minutes, and whoever watches may do so for longer.
#[tokio::test]
async fn a_token_that_has_run_out_is_replaced() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (of_api_server, questions) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
    let traffic = get(async move || {
        let tokens = of_api_server.lock().unwrap().iter().filter(|what| what.ends_with("/token")).count();
        // Each is good for two questions.
        if questions.fetch_add(1, Ordering::Relaxed) >= 2 * tokens {
            return Err(StatusCode::UNAUTHORIZED);
        }
        Ok(Json(json!({"pods": [], "flows": [], "drops": []})))
    });
    let routes = Router::new().route("/traffic", traffic);
    let lab = Lab::beside(Some(NARROW), true, ClientTrust::default(), routes, |cluster| {
        cluster.asked = Arc::clone(&asked);
    })
    .await;
    let text = lab.run("top -i 10ms --count 3 -o json").await;
    let last: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(last["notAsked"]["n1"].is_null(), "{last}");
}
