//! `/loglevel`: shows and changes the level of a running process, in the form that upstream's tools speak.

use std::collections::HashMap;

use antrea_runtime::logging::LogHandle;
use axum::{
    Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::status::Failure;

/// `GET /loglevel` answers the klog verbosity as a number. With `?level=` GET and PUT set the level and answer nothing:
/// a number from 0 to 10, or a level or filter by name. It goes behind [`crate::gate::protect`].
pub fn router(log: LogHandle) -> Router {
    Router::new().route("/loglevel", get(log_level).put(set_log_level).with_state(log))
}

async fn log_level(
    state: State<LogHandle>,
    query: Query<HashMap<String, String>>,
) -> Result<Response, Failure> {
    if query.contains_key("level") {
        return set_log_level(state, query).await.map(IntoResponse::into_response);
    }
    Ok(format!("{}\n", state.verbosity()).into_response())
}

async fn set_log_level(
    State(log): State<LogHandle>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<(), Failure> {
    let level = query.get("level").ok_or_else(|| Failure::bad_request("parameter level is missing"))?;
    log.set_level(level).map_err(Failure::bad_request)?;
    tracing::info!(level, "log level changed");
    Ok(())
}
