//! Routes of the API port beside the aggregated API.

use std::collections::HashMap;

use antrea_runtime::{
    health::Readiness,
    http::{health_router, metrics_router},
    logging::LogHandle,
    metrics::Metrics,
};
use apiserver_kit::status::Failure;
use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};

use crate::{config::ControllerConfig, features};

/// Health, metrics, log level and feature gates. They go behind [`apiserver_kit::gate::protect`].
pub fn routes(config: &ControllerConfig, metrics: Metrics, log: LogHandle, ready: Readiness) -> Router {
    // What is wrong with the controller does not call for a restart, so livez stays true while it runs.
    let mut router = health_router(ready, Readiness::new())
        .route("/loglevel", get(log_level).put(set_log_level).with_state(log))
        .route("/featuregates", get(async || Json(features::GATES)));
    if config.enable_prometheus_metrics {
        router = router.merge(metrics_router(metrics));
    }
    router
}

async fn log_level(State(log): State<LogHandle>) -> String {
    log.level()
}

async fn set_log_level(
    State(log): State<LogHandle>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<String, Failure> {
    let level = query.get("level").ok_or_else(|| Failure::bad_request("parameter level is missing"))?;
    log.set_level(level).map_err(Failure::bad_request)?;
    tracing::info!(level, "log level changed");
    Ok(log.level())
}
