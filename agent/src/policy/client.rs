//! The watch client: one HTTP/2 connection to the controller with three watch streams.
//!
//! kube's client speaks HTTP/1 and JSON and cannot carry MODIFIED events whose object is a patch, so this is
//! a client of its own. A session begins with a list of everything on each stream; whoever applies the
//! updates keeps what is known until the lists are complete.

mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antrea_api::controlplane::{API_VERSION, Event};
use antrea_api::k8s::{DecodeError, EventType, FrameDecoder};
use antrea_runtime::backoff::{Backoff, spread};
use bytes::Bytes;
use futures::future::try_join3;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use self::session::Session;
use self::session::refused;
use super::causes::Received;
use super::discovery::{SERVICE, Target};
use antrea_enforce::cache::Kind;

/// Updates that wait for the cache. A controller that is faster than the agent is held back by HTTP/2.
pub const QUEUE: usize = 256;

/// Waits; see the fields of [`Timing::default`].
#[derive(Clone, Debug)]
pub struct Timing {
    /// For a TCP connection with TLS.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// Between frames of a list.
    pub list: Duration,
    /// Pings, and how long each may take, so that a node that vanished is noticed.
    pub ping: Duration,
    /// First pause between attempts.
    pub retry_min: Duration,
    /// Longest pause between attempts.
    pub retry_max: Duration,
    /// Agents that see the same new endpoint connect within this time.
    pub spread: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            list: Duration::from_secs(30),
            ping: Duration::from_secs(10),
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(10),
            spread: Duration::from_millis(250),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: String,
    /// Namespace of controller and agent.
    pub namespace: String,
    /// File with the bearer token, read for each request because the kubelet renews it.
    pub token: PathBuf,
}

/// Why a session ended or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody to connect to.
    #[error("Service {SERVICE} has no ready endpoint")]
    NoEndpoint,
    /// Nobody to believe.
    #[error("the controller's CA is not published or malformed")]
    NoCa,
    /// The network, or TLS.
    #[error("{endpoint}: {message}")]
    Connect {
        /// Dialled address.
        endpoint: SocketAddr,
        /// What happened.
        message: String,
    },
    /// No answer in time.
    #[error("{0}: no answer")]
    Timeout(String),
    /// The connection broke.
    #[error("connection: {0}")]
    Http(#[from] hyper::Error),
    /// The controller said no.
    #[error("{path}: {code}: {message}")]
    Refused {
        /// Request path.
        path: String,
        code: StatusCode,
        /// What it said.
        message: String,
    },
    /// A watch stream that makes no sense.
    #[error("watch on {}: {error}", .kind.resource())]
    Malformed {
        /// The watch.
        kind: Kind,
        /// What is wrong.
        error: DecodeError,
    },
    /// A watch ended before its list was complete.
    #[error("watch on {}: ended while listing", .kind.resource())]
    Incomplete {
        /// The watch.
        kind: Kind,
    },
    /// An ERROR event.
    #[error("watch on {}: {message}", .kind.resource())]
    Failed {
        /// The watch.
        kind: Kind,
        /// What the controller said.
        message: String,
    },
    /// Other endpoints, another CA, or a cache that wants a new list.
    #[error("connecting anew: {0}")]
    Renew(&'static str),
    /// Nothing that can be sent.
    #[error("cannot be sent: {0}")]
    Unsent(String),
    /// Whoever applies updates is gone.
    #[error("the agent is shutting down")]
    Closed,
}

/// What happened.
#[derive(Debug)]
pub enum Update {
    /// A list begins.
    Begin(Kind),
    /// An event of a watch, and what it is part of.
    Event(Kind, Box<Event>, Option<Box<Received>>),
    /// All watches are open.
    Up,
    /// There is no session any more.
    Down(ClientError),
}

/// Connects and watches for ever.
#[derive(Debug)]
pub struct Client {
    /// Who asks.
    pub identity: Arc<Identity>,
    /// Waits.
    pub timing: Arc<Timing>,
    /// Whom to ask.
    pub target: watch::Receiver<Target>,
    /// Where updates go.
    pub updates: mpsc::Sender<Update>,
    /// Where the session goes while there is one.
    pub session: watch::Sender<Option<Session>>,
    /// Notified when the cache wants a new list.
    pub renew: Arc<Notify>,
}

impl Client {
    /// Runs until the receiver of updates is gone.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(self.timing.retry_min, self.timing.retry_max);
        let mut attempt = 0;
        loop {
            let synced = AtomicUsize::new(0);
            let error = match self.session(attempt, &synced).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.session.send_replace(None);
            attempt += 1;
            if matches!(error, ClientError::Closed) {
                return;
            }
            tracing::debug!(%error, "no session with the controller");
            if synced.load(Ordering::Relaxed) == Kind::ALL.len() {
                backoff.reset();
            }
            let renew = matches!(error, ClientError::Renew(_));
            if self.updates.send(Update::Down(error)).await.is_err() {
                return;
            }
            if renew {
                tokio::time::sleep(spread(self.timing.spread)).await;
                continue;
            }
            let delay = backoff.next_delay();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                changed = self.target.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(spread(self.timing.spread)).await;
                }
                () = self.updates.closed() => return,
            }
        }
    }

    async fn session(
        &mut self,
        attempt: usize,
        synced: &AtomicUsize,
    ) -> Result<std::convert::Infallible, ClientError> {
        let target = self.target.borrow_and_update().clone();
        let tls = tls(&target.ca)?;
        let endpoint =
            target.endpoints.get(attempt % target.endpoints.len().max(1)).ok_or(ClientError::NoEndpoint)?;
        let connecting = self.connect(*endpoint, tls);
        let (requests, connection) = timeout(self.timing.connect, connecting)
            .await
            .map_err(|_| ClientError::Timeout(endpoint.to_string()))??;
        let session = Session {
            requests,
            authority: self.server_name().into(),
            identity: self.identity.clone(),
            timing: self.timing.clone(),
        };
        let opened = AtomicUsize::new(0);
        let streams = async {
            for kind in Kind::ALL {
                self.send(Update::Begin(kind)).await?;
            }
            let [a, b, c] = Kind::ALL.map(|kind| self.follow(&session, kind, &opened, synced));
            try_join3(a, b, c).await.map(|(never, ..)| never)
        };
        let mut changes = self.target.clone();
        tokio::select! {
            closed = connection => match closed {
                Ok(()) => Err(ClientError::Connect {
                    endpoint: *endpoint,
                    message: "closed by the controller".to_owned(),
                }),
                Err(error) => Err(error.into()),
            },
            ended = streams => ended,
            reason = outdated(&mut changes, &target.ca, *endpoint) => Err(ClientError::Renew(reason)),
            () = self.renew.notified() => Err(ClientError::Renew("an event did not fit")),
            () = self.updates.closed() => Err(ClientError::Closed),
        }
    }

    fn server_name(&self) -> String {
        format!("{SERVICE}.{}.svc", self.identity.namespace)
    }

    async fn connect(
        &self,
        endpoint: SocketAddr,
        tls: TlsConnector,
    ) -> Result<(SendRequest<Full<Bytes>>, impl Future<Output = hyper::Result<()>> + use<>), ClientError>
    {
        let failed =
            |error: &dyn std::fmt::Display| ClientError::Connect { endpoint, message: error.to_string() };
        let name = ServerName::try_from(self.server_name()).map_err(|error| failed(&error))?;
        let stream = TcpStream::connect(endpoint).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let stream = tls.connect(name, stream).await.map_err(|error| failed(&error))?;
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.timing.ping)
            .keep_alive_timeout(self.timing.ping)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))
    }

    async fn send(&self, update: Update) -> Result<(), ClientError> {
        self.updates.send(update).await.map_err(|_| ClientError::Closed)
    }

    /// Follows one resource. A watch that ends after its list was complete is opened again on the same
    /// connection: servers end watches now and then.
    async fn follow(
        &self,
        session: &Session,
        kind: Kind,
        opened: &AtomicUsize,
        synced: &AtomicUsize,
    ) -> Result<std::convert::Infallible, ClientError> {
        let node = &self.identity.node;
        let path = format!(
            "/apis/{API_VERSION}/{}?watch=true&allowWatchBookmarks=true&fieldSelector=nodeName%3D{node}",
            kind.resource()
        );
        for round in 0.. {
            if round > 0 {
                let pause = Backoff::new(self.timing.retry_min, self.timing.retry_min).next_delay();
                tokio::time::sleep(pause).await;
                self.send(Update::Begin(kind)).await?;
            }
            let mut response = session.request(Method::GET, &path, None).await?;
            if response.status() != StatusCode::OK {
                return Err(refused(&path, response).await);
            }
            if round == 0 && opened.fetch_add(1, Ordering::Relaxed) + 1 == Kind::ALL.len() {
                self.session.send_replace(Some(session.clone()));
                self.send(Update::Up).await?;
            }
            if !self.read(kind, response.body_mut(), round == 0, synced).await? {
                return Err(ClientError::Incomplete { kind });
            }
            tracing::debug!(resource = kind.resource(), "the watch ended, opening it again");
        }
        Err(ClientError::Incomplete { kind })
    }

    /// Reads a watch to its end; returns whether its list was complete.
    async fn read(
        &self,
        kind: Kind,
        body: &mut Incoming,
        first: bool,
        synced: &AtomicUsize,
    ) -> Result<bool, ClientError> {
        let malformed = |error| ClientError::Malformed { kind, error };
        let mut decoder = FrameDecoder::default();
        let mut complete = false;
        loop {
            let frame = if complete {
                body.frame().await
            } else {
                let what = || ClientError::Timeout(format!("list of {}", kind.resource()));
                timeout(self.timing.list, body.frame()).await.map_err(|_| what())?
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(_)) if complete => return Ok(true),
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(complete),
            };
            let Ok(data) = data else { continue };
            decoder.push(&data);
            while let Some(read) = decoder.next_event().transpose() {
                let read = read.and_then(|(event_type, object)| {
                    let received = Received::of(kind, &object);
                    Event::read(event_type, &object).map(|event| (event_type, event, received))
                });
                let (event_type, mut event, received) = match read {
                    Ok(read) => read,
                    // It tells nothing of anything that could be known. A list goes on; after it the event may
                    // have changed something, so everything is listed.
                    Err(error) if !complete && !error.is_fatal() => {
                        tracing::error!(resource = kind.resource(), %error, "skipping an event");
                        continue;
                    }
                    Err(error) => return Err(malformed(error)),
                };
                if let Event::Error(status) = event {
                    return Err(ClientError::Failed { kind, message: status.message });
                }
                if let Event::Policy(policy) = &mut event {
                    // It is of the event; what is kept on disk is of the policy.
                    policy.metadata.annotations.remove(antrea_api::trace::ANNOTATION);
                }
                if event_type == EventType::Bookmark && !complete {
                    complete = true;
                    if first {
                        synced.fetch_add(1, Ordering::Relaxed);
                    }
                }
                self.send(Update::Event(kind, Box::new(event), received)).await?;
            }
        }
    }
}

/// Returns when a session to `endpoint` under `ca` should be replaced.
async fn outdated(target: &mut watch::Receiver<Target>, ca: &str, endpoint: SocketAddr) -> &'static str {
    let mut reason = "";
    let changed = target.wait_for(|now| {
        if *now.ca != *ca {
            reason = "the CA changed";
        } else if !now.endpoints.is_empty() && !now.endpoints.contains(&endpoint) {
            reason = "the controller moved";
        }
        !reason.is_empty()
    });
    let ended = changed.await.is_err();
    if ended {
        std::future::pending().await
    }
    reason
}

fn tls(ca: &str) -> Result<TlsConnector, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|_| ClientError::NoCa)?;
        roots.add(certificate).map_err(|_| ClientError::NoCa)?;
    }
    if roots.is_empty() {
        return Err(ClientError::NoCa);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ClientError::NoCa)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
