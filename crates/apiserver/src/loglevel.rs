//! `/loglevel`: shows and changes the level of a running process.

use std::collections::HashMap;

use antrea_runtime::logging::LogHandle;
use axum::{
    Router,
    extract::{Query, State},
    routing::get,
};

use crate::status::Failure;

/// `GET /loglevel` and `PUT /loglevel?level=LEVEL`. It goes behind [`crate::gate::protect`].
pub fn router(log: LogHandle) -> Router {
    Router::new().route("/loglevel", get(log_level).put(set_log_level).with_state(log))
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
