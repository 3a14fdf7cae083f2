//! What an agent may ask for: what concerns its own node, as far as its token says which that is.
//!
//! Roles cannot say "only your own": they let every agent read everything. A token that is bound to a Pod carries the
//! node, and whoever stole it gets no further.

use std::sync::Arc;

use antrea_api::{
    addresses::{self, NodeQuery},
    controlplane::GROUP,
    selection::{PATH, PodQuery},
};
use apiserver_kit::{request::ResourceRequest, status::Failure, user::User};
use axum::{
    Router,
    extract::{Query, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

/// User name of the agents in `namespace`.
pub(crate) fn agents(namespace: &str) -> Arc<str> {
    format!("system:serviceaccount:{namespace}:antrea-agent").into()
}

/// Holds the agents in `namespace` to their own nodes. It goes behind [`apiserver_kit::gate::protect`].
pub fn own_node(router: Router, namespace: &str) -> Router {
    router.layer(middleware::from_fn_with_state(agents(namespace), check))
}

async fn check(State(agents): State<Arc<str>>, request: Request, next: Next) -> Response {
    let user = request.extensions().get::<User>();
    if let Some(node) = user.and_then(|user| user.node_of(&agents))
        && let Err(failure) = concerns(node, &request)
    {
        return failure.into_response();
    }
    next.run(request).await
}

/// Whether a request is about `node`. What a status says is looked at where it is read.
fn concerns(node: &str, request: &Request) -> Result<(), Failure> {
    let asked = match request.extensions().get::<ResourceRequest>() {
        Some(meaning) if meaning.group != GROUP || meaning.verb == "create" => return Ok(()),
        Some(meaning) => meaning.fields.get("nodeName").map(str::to_owned),
        None if request.uri().path() == PATH => {
            Query::<PodQuery>::try_from_uri(request.uri()).ok().map(|Query(query)| query.node)
        }
        None if request.uri().path() == addresses::PATH => {
            Query::<NodeQuery>::try_from_uri(request.uri()).ok().map(|Query(query)| query.node)
        }
        None => return Ok(()),
    };
    own(node, asked.as_deref())
}

/// # Errors
/// 403 if `asked` is not `node`.
pub(super) fn own(node: &str, asked: Option<&str>) -> Result<(), Failure> {
    match asked {
        Some(asked) if asked == node => Ok(()),
        Some(asked) => Err(Failure::forbidden(format_args!(
            "the agent of {node} has no access to what concerns {asked}"
        ))),
        None => Err(Failure::forbidden(format_args!(
            "the agent of {node} has access only to what concerns its node: fieldSelector=nodeName={node} is missing"
        ))),
    }
}
