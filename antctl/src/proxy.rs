//! `antctl proxy`: the API of the controller or of an agent on a port of this machine, for programs that know neither
//! its certificate nor credentials.
//!
//! Whoever reaches the port acts as the caller of antctl, so that only this machine may, and no web page that somebody
//! looks at here: requests name the machine as their host, and come from no page of another.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use kube::client::Body;
use tokio::{net::TcpListener, sync::Mutex};

use crate::{
    cli::Proxy,
    connect::{Clients, Server},
    told,
};

/// A connection's credentials, and where the server is, are looked up anew after this: a token lives for ten minutes.
const RENEW: Duration = Duration::from_secs(480);

/// Longest body of a request; longer than any that components take.
const LONGEST: usize = 4 << 20;

/// What concerns a connection and not what is said on it; and credentials, which are antctl's.
const OWN: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

struct Shared {
    clients: Clients,
    /// None is the controller.
    node: Option<String>,
    /// None after it did not answer, or not accept the credentials.
    server: Mutex<Option<(Arc<Server>, Instant)>>,
}

/// Serves until the process is ended.
pub(crate) async fn run(clients: &Clients, wanted: &Proxy) -> anyhow::Result<String> {
    let Proxy { agent_node, address, port, .. } = wanted;
    if !address.is_loopback() {
        bail!("--address {address}: only this machine may use it; 127.0.0.1 and ::1 are such addresses");
    }
    let server = open(clients, agent_node.as_deref()).await?;
    let listener = TcpListener::bind((*address, *port)).await;
    let listener = listener.with_context(|| format!("port {port} of {address}: --port takes another"))?;
    eprintln!("Starting to serve on {}", listener.local_addr()?);
    serve(clients.clone(), agent_node.clone(), server, listener).await?;
    Ok(String::new())
}

async fn open(clients: &Clients, node: Option<&str>) -> anyhow::Result<Server> {
    match node {
        Some(node) => clients.agent(Some(node), "its API").await,
        None => clients.controller().await,
    }
}

pub(crate) async fn serve(
    clients: Clients,
    node: Option<String>,
    server: Server,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let shared = Shared { clients, node, server: Mutex::new(Some((Arc::new(server), Instant::now()))) };
    let router = Router::new().fallback(forward).with_state(Arc::new(shared));
    axum::serve(listener, router).await.context("serve")
}

impl Shared {
    async fn server(&self) -> anyhow::Result<Arc<Server>> {
        let mut held = self.server.lock().await;
        if let Some((server, since)) = &*held
            && since.elapsed() <= RENEW
        {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(open(&self.clients, self.node.as_deref()).await?);
        *held = Some((Arc::clone(&server), Instant::now()));
        Ok(server)
    }

    /// Has the next request look it up anew: another process may be there now, with another certificate.
    async fn forget(&self, server: &Arc<Server>) {
        let mut held = self.server.lock().await;
        if held.as_ref().is_some_and(|(held, _)| Arc::ptr_eq(held, server)) {
            *held = None;
        }
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if let Err(why) = is_from_here(request.headers()) {
        return (StatusCode::FORBIDDEN, format!("antctl proxy: {why}\n")).into_response();
    }
    match pass_on(&shared, request).await {
        Ok(answer) => answer,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("antctl proxy: {}\n", told(&error))).into_response(),
    }
}

async fn pass_on(shared: &Shared, request: Request) -> anyhow::Result<Response> {
    let server = shared.server().await?;
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let what = format!("{} {path}", parts.method);
    parts.uri = Uri::try_from(path)?;
    strip(&mut parts.headers);
    let body = axum::body::to_bytes(body, LONGEST).await.context("the request's body")?;
    let request = http::Request::from_parts(parts, Body::from(body));
    let answer = server.client.send(request).await;
    if answer.as_ref().map_or(true, |answer| answer.status() == StatusCode::UNAUTHORIZED) {
        shared.forget(&server).await;
    }
    let answer = answer.map_err(|error| server.explain(&error, &what))?;
    let (mut parts, body) = answer.into_parts();
    strip(&mut parts.headers);
    Ok(Response::from_parts(parts, axum::body::Body::new(body)))
}

/// Takes off what is not to be passed on.
fn strip(headers: &mut HeaderMap) {
    for name in &OWN {
        headers.remove(name);
    }
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
}

/// A page that a browser has from elsewhere can make it send requests here; they say so.
fn is_from_here(headers: &HeaderMap) -> Result<(), &'static str> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_this_machine(host) {
        return Err("the request's Host is not this machine");
    }
    match headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        None => Ok(()),
        Some(origin) => match origin.split_once("://") {
            Some((_, host)) if is_this_machine(host) => Ok(()),
            _ => Err("the request comes from a page of another machine"),
        },
    }
}

/// Whether a name or address, with or without a port, is this machine's own.
fn is_this_machine(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| own.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn pages_of_other_machines_are_refused() {
        for host in ["localhost", "localhost:8001", "127.0.0.1:8001", "[::1]:8001", "[::1]"] {
            assert!(is_from_here(&headers(&[("host", host)])).is_ok(), "{host}");
            let page = format!("http://{host}");
            assert!(is_from_here(&headers(&[("host", host), ("origin", &page)])).is_ok(), "{page}");
        }
        for host in ["evil.example", "localhost.evil.example:8001", "127.0.0.1.nip.io", "10.0.0.1", ""] {
            assert!(is_from_here(&headers(&[("host", host)])).is_err(), "{host}");
            let page = format!("https://{host}");
            assert!(is_from_here(&headers(&[("host", "localhost"), ("origin", &page)])).is_err(), "{page}");
        }
        assert!(is_from_here(&headers(&[("host", "localhost"), ("origin", "null")])).is_err());
        assert!(is_from_here(&headers(&[])).is_err());
    }

    #[test]
    fn credentials_of_callers_go_no_further() {
        let mut sent = headers(&[
            ("authorization", "Bearer x"),
            ("impersonate-user", "root"),
            ("impersonate-extra-a", "b"),
            ("connection", "close"),
            ("accept", "text/plain"),
        ]);
        strip(&mut sent);
        assert_eq!(sent.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
