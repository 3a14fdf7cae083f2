//! The accept loop: TLS handshake, peer judgement, HTTP/1.1 or HTTP/2, and how long a connection may stay.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, Request, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt};

use crate::{
    metrics::ServerMetrics,
    seats::{Bounds, Class, Seats},
    session::{Answer, Session, Verdict},
    status::Failure,
    tls::{Proven, Tls},
};

/// Connections get this time to finish after shutdown began, or after they were told to end. Watches end by themselves
/// at once.
const GRACE: Duration = Duration::from_secs(3);
/// HTTP/2 connections are probed, so that a watcher whose node died frees its queue.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// What a client may send ahead on a connection before it is read. Requests are small.
const WINDOW: u32 = 64 << 10;

/// How many connections a port holds, and for how long without use.
///
/// A TLS connection without a request costs about 27 KiB (bench `watchers`), and what it sends ahead at most 64 KiB
/// more: the strangers of a node's port come to 9 MiB, those of the controller's to 110 MiB and at the very worst to 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections with a request that was allowed.
    pub known: usize,
    /// Of these, per address (per /64 of IPv6).
    pub known_per_address: usize,
    /// Connections without such a request, those in the TLS handshake among them.
    pub strangers: usize,
    /// Of these, per address (per /64 of IPv6).
    pub strangers_per_address: usize,
    /// The same from the address that was connected to, so from this host; in addition to the others.
    pub own: usize,
    /// A client has to finish its handshake within this time.
    pub handshake: Duration,
    /// A connection without an allowed request takes no more of them after this time, and ends 3 seconds later, whatever
    /// is under way on it.
    pub first_request: Duration,
    /// A connection without an open request ends after this time.
    pub idle: Duration,
}

impl Limits {
    /// For a port that every node of a cluster of 5,000 watches.
    pub const CLUSTER: Self = Self {
        known: 12_288,
        known_per_address: 256,
        strangers: 4_096,
        strangers_per_address: 64,
        own: 256,
        handshake: Duration::from_secs(5),
        first_request: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    /// For a port that is asked by kubelet, Prometheus and a few people.
    pub const NODE: Self = Self {
        known: 256,
        known_per_address: 64,
        strangers: 256,
        strangers_per_address: 32,
        own: 64,
        ..Self::CLUSTER
    };

    /// The same where the process may have only so many descriptors: the port takes half of them.
    fn within(self, descriptors: usize) -> Self {
        let (wanted, have) = (self.known + self.strangers + self.own, descriptors / 2);
        if wanted <= have {
            return self;
        }
        let scale = |part: usize| (part.saturating_mul(have) / wanted).max(1);
        Self { known: scale(self.known), strangers: scale(self.strangers), own: scale(self.own), ..self }
    }

    fn seats(&self, metrics: ServerMetrics) -> Seats {
        let bounds = |total, per_address| Bounds { total, per_address };
        Seats::new(
            bounds(self.own, self.own),
            bounds(self.strangers, self.strangers_per_address),
            bounds(self.known, self.known_per_address),
            metrics,
        )
    }
}

/// A listener on every address of the host: of both families where it has IPv6, else of IPv4.
///
/// # Errors
/// The port is taken.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        return Ok(listener);
    }
    let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(any4)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("listen on {any4}: {error}")))
}

/// Raises the number of descriptors that this process may have to what it may raise it to: some runtimes begin
/// with 1,024. Returns what it is then.
fn raise_descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard);
    usize::try_from(raised.unwrap_or(soft)).unwrap_or(usize::MAX)
}

/// Serves `app` on `listener` over TLS until `shutdown` is cancelled. Each request carries a [`Proven`] and
/// the client's [`SocketAddr`](std::net::SocketAddr) as extensions.
///
/// # Errors
/// None in practice: accept errors are logged and retried.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Tls,
    app: S,
    limits: Limits,
    metrics: ServerMetrics,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let limits = limits.within(raise_descriptors());
    let seats = Arc::new(Mutex::new(limits.seats(metrics.clone())));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: somebody has to go.
                tracing::warn!(%error, connections = seats.lock().count(), "accept failed");
                seats.lock().relieve();
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let class = match stream.local_addr() {
            Ok(local) if local.ip() == address.ip() => Class::Own,
            _ => Class::Stranger,
        };
        let seat = seats.lock().enter(class, address.ip());
        let session = Session::new(&seats, class, seat);
        let (tls, app, stop, metrics) = (tls.clone(), app.clone(), shutdown.clone(), metrics.clone());
        tasks.spawn(async move {
            let handshake = tokio::time::timeout(limits.handshake, handshake(stream, &tls));
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return,
                () = session.evicted() => return tracing::debug!(%address, "makes room in its handshake"),
                done = handshake => match done {
                    Ok(Ok(done)) => done,
                    failed => {
                        metrics.ended("handshake");
                        let why = match failed {
                            Ok(Err(error)) => error.to_string(),
                            _ => "took too long".to_owned(),
                        };
                        return tracing::debug!(%address, why, "TLS handshake failed");
                    }
                },
            };
            // By ALPN, not by what comes first: there is no time limit for reading that.
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            let asked = session.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(address);
                request.extensions_mut().insert(asked.clone());
                answer(app.clone(), request, asked.clone())
            });
            let ended = if h2 {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(Duration::from_secs(10))
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW)
                    .max_concurrent_streams(250);
                drive(builder.serve_connection(stream, service), &session, &limits, &metrics, &stop).await
            } else {
                let mut builder = http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.first_request)
                    .max_buf_size(WINDOW as usize);
                drive(builder.serve_connection(stream, service), &session, &limits, &metrics, &stop).await
            };
            if let Err(why) = ended {
                tracing::debug!(%address, why, "connection ended");
            }
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(GRACE, tasks.wait()).await;
    Ok(())
}

/// Lets a connection work until it ends, or until it has to.
async fn drive<C>(
    connection: C,
    session: &Session,
    limits: &Limits,
    metrics: &ServerMetrics,
    stop: &CancellationToken,
) -> Result<(), String>
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let mut look = Instant::now();
    let mut last = None;
    loop {
        if last.is_none() {
            match session.judge(limits) {
                Verdict::Stays(until) => look = until,
                Verdict::NeverAsked => {
                    metrics.ended("no_request");
                    // What the API server asks a webhook is answered; it asks again on another connection.
                    connection.as_mut().graceful_shutdown();
                    look = Instant::now() + GRACE;
                    last = Some("no request was allowed in time");
                }
                Verdict::Idle => {
                    metrics.ended("idle");
                    connection.as_mut().graceful_shutdown();
                    look = Instant::now() + GRACE;
                    last = Some("idle");
                }
            }
        }
        tokio::select! {
            done = connection.as_mut() => return done.map_err(|error| error.to_string()),
            () = session.evicted() => return Err("makes room".to_owned()),
            () = stop.cancelled(), if last.is_none() => {
                connection.as_mut().graceful_shutdown();
                look = Instant::now() + GRACE;
                last = Some("shutdown");
            }
            () = tokio::time::sleep_until(look) => if let Some(why) = last {
                return Err(why.to_owned());
            },
        }
    }
}

/// The answer of `app`; while it is being read the connection is in use.
async fn answer<S>(app: S, request: Request<Body>, session: Session) -> Result<Response, Infallible>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Send,
    S::Future: Send,
{
    let Some(answering) = session.request() else {
        return Ok(Failure::too_many_requests("too many requests at the same time").into_response());
    };
    let head = request.method() == Method::HEAD;
    let mut response = app.oneshot(request).await?;
    if head {
        // HTTP/2 takes a body here for a violation of the protocol.
        let size = response.body().size_hint().exact();
        if let (Some(size), false) = (size, response.headers().contains_key(header::CONTENT_LENGTH)) {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        }
        *response.body_mut() = Body::empty();
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(Answer { body, _answering: answering })))
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake(stream: TcpStream, tls: &Tls) -> io::Result<(Stream, Proven)> {
    stream.set_nodelay(true)?;
    let (config, judge) = tls.accept();
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let peer = judge(stream.get_ref().1.peer_certificates());
    Ok((stream, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_takes_at_most_half_of_the_descriptors() {
        assert_eq!(Limits::CLUSTER.within(1 << 20), Limits::CLUSTER);
        let few = Limits::CLUSTER.within(1024);
        assert!(few.known + few.strangers + few.own <= 512, "{few:?}");
        assert!(few.known > 300 && few.strangers > 100 && few.own > 0, "{few:?}");
    }
}
