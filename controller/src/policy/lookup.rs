//! What selects a pod, for the agent that is about to connect it.

use std::sync::Arc;

use antrea_api::selection::{PATH, PodQuery, PodSelection};
use antrea_policy::k8s;
use apiserver_kit::status::Failure;
use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};

use super::{PolicyHub, storage::synced};

/// [`PATH`]. It goes behind [`apiserver_kit::gate::protect`].
pub fn router(hub: &Arc<PolicyHub>) -> Router {
    Router::new().route(PATH, get(selection)).with_state(Arc::clone(hub))
}

async fn selection(
    State(hub): State<Arc<PolicyHub>>,
    Query(query): Query<PodQuery>,
) -> Result<Json<PodSelection>, Failure> {
    let uid = k8s::Uid::parse(&query.uid);
    let (found, _) = hub.read(|state, _| {
        synced(state)?;
        Ok::<_, Failure>(state.index.selection(&query.namespace, &query.pod, &query.node, uid))
    });
    let found = found?.ok_or_else(|| Failure::not_found("pods", &query.pod))?;
    Ok(Json(PodSelection {
        policies: found.policies.iter().map(|name| name.as_ref().to_owned()).collect(),
        applied_to_groups: found.applied_to_groups.iter().map(ToString::to_string).collect(),
    }))
}
