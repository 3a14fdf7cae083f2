//! The agent's API: health for kubelet, metrics for Prometheus, and what antctl shows. Everything but
//! health is behind authentication and authorization by the API server.

use std::sync::Arc;

use antrea_api::features;
use antrea_runtime::health::Readiness;
use antrea_runtime::http::{health_router, metrics_router};
use antrea_runtime::logging::LogHandle;
use antrea_runtime::metrics::Metrics;
use apiserver_kit::auth::Auth;
use apiserver_kit::cert::ServingCert;
use apiserver_kit::metrics::ServerMetrics;
use apiserver_kit::review::KubeReviewer;
use apiserver_kit::tls::{ClientTrust, Tls};
use apiserver_kit::{gate, loglevel, serve};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::jiff::Timestamp;
use netcfg::MacAddr;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cni::server::NetworkState;
use crate::status::{Identity, Reporter, compose};

/// What the handlers show.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Facts of the status.
    pub reporter: Reporter,
    /// Who the agent is.
    pub identity: Identity,
    /// The node's network, once it is up.
    pub network: NetworkState,
    /// The log level's handle.
    pub log: LogHandle,
    /// Feature gates as they are.
    pub gates: Vec<features::Status>,
}

/// Routes under upstream's paths.
pub fn routes(state: ApiState, ready: Readiness, live: Readiness, metrics: Option<Metrics>) -> Router {
    let gates = state.gates.clone();
    let mut router = health_router(ready, live)
        .merge(loglevel::router(state.log.clone()))
        .route("/featuregates", get(async move || Json(gates)))
        .route("/agentinfo", get(agent_info).with_state(state.clone()))
        .route("/podinterfaces", get(pod_interfaces).with_state(state));
    if let Some(metrics) = metrics {
        router = router.merge(metrics_router(metrics));
    }
    router
}

/// A certificate of this process, for `localhost` as upstream's; its CA goes into AntreaAgentInfo.
///
/// # Errors
/// None in practice: the names are constants.
pub fn certificate() -> Result<ServingCert, apiserver_kit::cert::Error> {
    ServingCert::issue("antrea-agent", &["localhost".into(), "127.0.0.1".into(), "::1".into()])
}

/// Serves `routes` on `port` until `shutdown`.
///
/// # Errors
/// The port is taken, or the TLS stack refused the certificate.
pub async fn serve(
    port: u16,
    cert: ServingCert,
    client: kube::Client,
    routes: Router,
    metrics: ServerMetrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let tls = Tls::new(cert, ClientTrust::default())?;
    let app = gate::protect(routes, Auth::new(Arc::new(KubeReviewer::new(client))), metrics);
    let listener = serve::listen(port).await?;
    serve::serve(listener, tls, app, serve::Limits::NODE, shutdown).await?;
    Ok(())
}

async fn agent_info(State(state): State<ApiState>) -> Json<Value> {
    let facts = state.reporter.subscribe().borrow().clone();
    Json(json!(compose(&state.identity, &facts, Timestamp::now())))
}

async fn pod_interfaces(State(state): State<ApiState>) -> Json<Value> {
    let network = state.network.borrow().clone();
    let interfaces = network.map(|network| network.interfaces()).unwrap_or_default();
    let rows = interfaces.into_iter().map(|interface| {
        json!({
            "podName": interface.pod_name,
            "podNamespace": interface.pod_namespace,
            "interfaceName": interface.host_ifname,
            "ips": interface.ips,
            "mac": MacAddr(interface.mac).to_string(),
            "ofPort": interface.ofport,
            "containerID": interface.container_id,
        })
    });
    Json(rows.collect())
}
