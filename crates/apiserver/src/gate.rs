//! The check that every request passes before anything else looks at it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use crate::{
    auth::Auth, metrics::ServerMetrics, request::ResourceRequest, session::Session, status::Failure,
    tls::Peer, user::Action,
};

/// Paths that probes read without credentials. Nothing about the cluster is told there.
pub const PUBLIC: [&str; 3] = ["/healthz", "/livez", "/readyz"];

struct Gate {
    auth: Auth,
    metrics: ServerMetrics,
}

/// Puts `router` behind authentication and authorization. Handlers find the
/// [`User`](crate::user::User) and, for paths under `/apis`, the [`ResourceRequest`] in the request's
/// extensions.
pub fn protect(router: Router, auth: Auth, metrics: ServerMetrics) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(Gate { auth, metrics }), check))
}

async fn check(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let resource = ResourceRequest::parse(request.method(), request.uri().path(), request.uri().query());
    let (verb, name) = match &resource {
        Some(resource) => (resource.verb, gate.metrics.resource(&resource.resource)),
        None => ("path", ""),
    };
    let response = match admit(&gate.auth, &mut request, resource).await {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    gate.metrics.request(verb, name, response.status());
    response
}

async fn admit(auth: &Auth, request: &mut Request, resource: Option<ResourceRequest>) -> Result<(), Failure> {
    // The exact path only: `/healthz/../metrics` is another path and matches no route.
    if PUBLIC.contains(&request.uri().path()) {
        return Ok(());
    }
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let user = auth.authenticate(&peer, request.headers()).await?;
    let action = match &resource {
        Some(resource) => resource.action(),
        None => Action::Path {
            verb: request.method().as_str().to_ascii_lowercase(),
            path: request.uri().path().to_owned(),
        },
    };
    auth.authorize(&user, &action).await?;
    if let Some(session) = request.extensions().get::<Session>() {
        session.known();
    }
    request.extensions_mut().insert(user);
    if let Some(resource) = resource {
        request.extensions_mut().insert(resource);
    }
    Ok(())
}
