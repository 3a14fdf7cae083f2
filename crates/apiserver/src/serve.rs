//! The accept loop: TLS handshake, peer judgement, HTTP/1.1 or HTTP/2.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::{body::Body, response::Response};
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use crate::tls::{Peer, Tls};

/// A client has to finish its handshake within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections get this time to finish after shutdown began. Watches end by themselves at once.
const GRACE: Duration = Duration::from_secs(3);
/// Idle HTTP/2 connections are probed, so that a watcher whose node died frees its queue.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Handshakes and connections at the same time.
const MAX_CONNECTIONS: usize = 16_384;

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

/// Serves `app` on `listener` over TLS until `shutdown` is cancelled. Each request carries a [`Peer`] and
/// the client's [`SocketAddr`](std::net::SocketAddr) as extensions.
///
/// # Errors
/// None in practice: accept errors are logged and retried.
pub async fn serve<S>(listener: TcpListener, tls: Tls, app: S, shutdown: CancellationToken) -> io::Result<()>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let graceful = GracefulShutdown::new();
    let limit = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let tasks = tokio_util::task::TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = std::sync::Arc::clone(&limit).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others have to close first.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let watcher = graceful.watcher();
        let (tls, app) = (tls.clone(), app.clone());
        let stop = shutdown.clone();
        tasks.spawn(async move {
            let _permit = permit;
            let handshake = tokio::time::timeout(HANDSHAKE, handshake(stream, &tls));
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return,
                done = handshake => match done {
                    Ok(Ok(done)) => done,
                    Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
                    Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
                },
            };
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(address);
                app.clone().oneshot(request)
            });
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(Duration::from_secs(10))
                .max_concurrent_streams(250);
            let connection = builder.serve_connection(stream, service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%address, %error, "connection ended");
            }
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(GRACE, async {
        graceful.shutdown().await;
        tasks.wait().await;
    })
    .await;
    Ok(())
}

type Stream = TokioIo<tokio_rustls::server::TlsStream<TcpStream>>;

async fn handshake(stream: TcpStream, tls: &Tls) -> io::Result<(Stream, Peer)> {
    stream.set_nodelay(true)?;
    let (config, judge) = tls.accept();
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let peer = judge(stream.get_ref().1.peer_certificates());
    Ok((TokioIo::new(stream), peer))
}
