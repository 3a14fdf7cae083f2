//! Routes of the API port beside the aggregated API.

use antrea_api::features::{self, Component};
use antrea_runtime::{
    health::Readiness,
    http::{health_router, metrics_router},
    logging::LogHandle,
    metrics::Metrics,
};
use apiserver_kit::loglevel;
use axum::{Json, Router, routing::get};

use crate::config::ControllerConfig;

/// Health, metrics, log level and feature gates. They go behind [`apiserver_kit::gate::protect`].
pub fn routes(config: &ControllerConfig, metrics: Metrics, log: LogHandle, ready: Readiness) -> Router {
    // What is wrong with the controller does not call for a restart, so livez stays true while it runs.
    // As upstream's controller: for the agents too, which have the same gates in their configuration.
    let gates = [Component::Agent, Component::Controller]
        .map(|component| features::report(component, &config.feature_gates))
        .concat();
    let mut router = health_router(ready, Readiness::new())
        .merge(loglevel::router(log))
        .route("/featuregates", get(async move || Json(gates)));
    if config.enable_prometheus_metrics {
        router = router.merge(metrics_router(metrics));
    }
    router
}
