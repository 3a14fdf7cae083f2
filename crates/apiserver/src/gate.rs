//! The check that every request passes before anything else looks at it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use antrea_runtime::http::ShowReasons;
use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{Extensions, HeaderMap};

use crate::{
    auth::{Auth, Origin},
    impersonate::impersonated,
    metrics::ServerMetrics,
    request::ResourceRequest,
    session::Session,
    status::Failure,
    tls::Proven,
    user::{Action, User},
};

/// Paths that probes read without credentials. Whether, not why: with `?verbose` the reasons are told to whoever may
/// get the path with `/verbose` after it, such as `/readyz/verbose`.
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
        Ok(Some(resource)) => (resource.verb, gate.metrics.resource(&resource.resource)),
        _ => ("path", ""),
    };
    let response = match admit(&gate.auth, &mut request, resource).await {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    gate.metrics.request(verb, name, response.status());
    response
}

/// Who asks; or whom he is to be taken for, if he may be.
async fn identify(auth: &Auth, extensions: &Extensions, headers: &HeaderMap) -> Result<User, Failure> {
    let peer = extensions.get::<Proven>().cloned().unwrap_or_default();
    let address = extensions.get::<SocketAddr>();
    let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::ip);
    let known = extensions.get::<Session>().is_some_and(Session::is_known);
    let user = auth.authenticate(&peer, Origin::new(address, known), headers).await?;
    impersonated(auth, user, headers).await
}

async fn admit(
    auth: &Auth,
    request: &mut Request,
    resource: Result<Option<ResourceRequest>, Failure>,
) -> Result<(), Failure> {
    // The exact path only: `/healthz/../metrics` is another path and matches no route.
    let path = request.uri().path();
    if PUBLIC.contains(&path) {
        if request.uri().query().is_some_and(|query| query.split('&').any(|key| key.starts_with("verbose"))) {
            // Health alone may be read by everybody, so that this asks for a path of its own. Who may not is
            // answered like everybody else: a probe with a wrong credential is a probe.
            let action = Action::Path { verb: "get".to_owned(), path: format!("{path}/verbose") };
            if let Ok(user) = identify(auth, request.extensions(), request.headers()).await
                && auth.authorize(&user, &action).await.is_ok()
            {
                request.extensions_mut().insert(ShowReasons);
            }
        }
        return Ok(());
    }
    let user = identify(auth, request.extensions(), request.headers()).await?;
    let resource = resource?;
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
