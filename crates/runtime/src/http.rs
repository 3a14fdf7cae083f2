//! Plain HTTP for probes and metrics.
//!
//! The API ports of controller and agent are TLS with authentication; this is for loopback and for
//! daemons that have nothing else to serve.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    extract::{Extension, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{health::Readiness, metrics};

/// Marks a request (as an extension) whose sender may read why a check fails.
#[derive(Debug, Clone, Copy)]
pub struct ShowReasons;

/// `/healthz` and `/livez` (from `live`), `/readyz` (from `ready` and `live`), each 200 `ok` or 500. What is pending is
/// told only to requests that [`ShowReasons`]: the reasons name nodes, addresses and what the API server said.
pub fn health_router(ready: Readiness, live: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(check).with_state(vec![live.clone()]))
        .route("/livez", get(check).with_state(vec![live.clone()]))
        .route("/readyz", get(check).with_state(vec![live, ready]))
}

/// `/metrics` in the text exposition format.
pub fn metrics_router(metrics: metrics::Metrics) -> Router {
    Router::new().route("/metrics", get(encode).with_state(metrics))
}

/// Binds `address` and serves `router` until `shutdown` is cancelled.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("listen on {address}: {e}")))?;
    serve_on(listener, router, shutdown).await
}

/// Serves `router` on `listener` until `shutdown` is cancelled.
///
/// # Errors
/// None in practice: accept errors are retried.
pub async fn serve_on(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn check(State(checks): State<Vec<Readiness>>, reasons: Option<Extension<ShowReasons>>) -> Response {
    let pending: Vec<_> = checks.iter().flat_map(Readiness::pending).collect();
    let status = if pending.is_empty() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let mut text = String::new();
    if reasons.is_some() {
        for (name, reason) in &pending {
            let separator = if reason.is_empty() { "" } else { ": " };
            text.push_str(&format!("[-]{name} failed{separator}{reason}\n"));
        }
        text.push_str(if pending.is_empty() { "check passed\n" } else { "check failed\n" });
    } else {
        text.push_str(if pending.is_empty() { "ok" } else { "check failed" });
    }
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn encode(State(metrics): State<metrics::Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn serves_health_and_metrics_until_shutdown() {
        let (ready, live) = (Readiness::new(), Readiness::new());
        let told = health_router(ready.clone(), live.clone()).layer(Extension(ShowReasons));
        let router = health_router(ready.clone(), live)
            .nest("/told", told)
            .merge(metrics_router(metrics::Metrics::new("sample", "1").unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve_on(listener, router, shutdown.clone()));

        let block = ready.block("watch");
        block.set_reason("no list yet");
        let text = fetch(address, "/readyz").await;
        assert!(
            text.starts_with("HTTP/1.1 500") && !text.contains("watch") && !text.contains("list"),
            "{text}"
        );
        let text = fetch(address, "/told/readyz").await;
        assert!(text.starts_with("HTTP/1.1 500") && text.contains("[-]watch failed: no list yet"), "{text}");
        assert!(fetch(address, "/livez").await.ends_with("ok"));
        drop(block);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/told/readyz").await.contains("check passed"));
        assert!(fetch(address, "/metrics").await.contains("sample_build_info"));
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
