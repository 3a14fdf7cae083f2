//! The operator's port: health is public, metrics are for those whom the API server knows and allows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use antrea_operator::{api, metrics};
use antrea_runtime::health::Readiness;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Knows the tokens `reader` and `nobody`, and lets the user `reader` get `/metrics`.
async fn review(Json(mut review): Json<Value>) -> (StatusCode, Json<Value>) {
    let spec = &review["spec"];
    review["status"] = match spec["token"].as_str() {
        Some(token @ ("reader" | "nobody")) => json!({"authenticated": true, "user": {"username": token}}),
        Some(_) => json!({"authenticated": false}),
        None => {
            let asked = &spec["nonResourceAttributes"];
            let metrics = asked["path"] == "/metrics" && asked["verb"] == "get";
            json!({"allowed": metrics && spec["user"] == "reader"})
        }
    };
    (StatusCode::CREATED, Json(review))
}

async fn app(ready: Readiness) -> Router {
    antrea_runtime::install_crypto_provider();
    let kube = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, kube).await.unwrap() });
    let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    let metrics = metrics::register().unwrap();
    metrics.certificates.set("controller-ca", 4_102_444_800);
    api::app(api::delegated(client), metrics.registry, metrics.server, ready)
}

async fn get(app: &Router, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_are_for_those_who_may_read_them() {
    let app = app(Readiness::new()).await;
    for (token, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("forged"), StatusCode::UNAUTHORIZED),
        (Some("nobody"), StatusCode::FORBIDDEN),
        (Some("reader"), StatusCode::OK),
    ] {
        let (status, text) = get(&app, "/metrics", token).await;
        assert_eq!(status, expected, "{token:?}: {text}");
        assert_eq!(status == StatusCode::OK, text.contains("antrea_operator_build_info"), "{text}");
    }
    let (_, text) = get(&app, "/metrics", Some("reader")).await;
    let expiry =
        "antrea_operator_certificate_expiration_timestamp_seconds{certificate=\"controller-ca\"} 4102444800";
    assert!(text.contains(expiry), "{text}");
    for secret in ["reader", "forged", "BEGIN"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn health_is_public() {
    let ready = Readiness::new();
    let app = app(ready.clone()).await;
    assert_eq!(get(&app, "/readyz", None).await.0, StatusCode::OK);
    let _block = ready.block("watch");
    assert_eq!(get(&app, "/readyz", None).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(get(&app, "/livez", None).await.0, StatusCode::OK);
}
