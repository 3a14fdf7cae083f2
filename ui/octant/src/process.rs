//! The process: socket, handshake, what it serves beside the pages, and its end.

use std::{io::Write, pin::Pin, task, time::Duration};

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use nix::unistd::{Pid, getppid};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};

use crate::{
    handshake::{Environment, HandshakeError, line},
    proto::{
        dashboard::plugin_server::PluginServer,
        health::{
            HealthCheckRequest, HealthCheckResponse,
            health_check_response::ServingStatus,
            health_server::{Health, HealthServer},
        },
        plugin::{
            ConnInfo, Empty, StdioData,
            grpc_broker_server::{GrpcBroker, GrpcBrokerServer},
            grpc_controller_server::{GrpcController, GrpcControllerServer},
            grpc_stdio_server::{GrpcStdio, GrpcStdioServer},
        },
    },
    service::Pages,
    tls,
};

/// The service that Octant asks about every five seconds.
const HEALTH_SERVICE: &str = "plugin";

/// An object with all of its fields, in a request.
const MAX_REQUEST: usize = 4 << 20;

/// A call; those to Octant within it end sooner.
const CALL: Duration = Duration::from_secs(60);

/// What is open may end by itself for so long. Octant kills after two seconds.
const GRACE: Duration = Duration::from_millis(500);

/// A TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How often the host is looked for.
const PARENT: Duration = Duration::from_secs(1);

/// Writes a line that go-plugin's host takes over into its own log. `level` is "error", "warn", "info" or "debug".
pub fn log(level: &str, message: &str) {
    let line = serde_json::json!({"@level": level, "@message": message, "@timestamp": Timestamp::now()});
    // Nobody may read it any more.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Why the plugin ended.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("cannot {0}: {1}")]
    Io(&'static str, #[source] std::io::Error),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves Octant until it asks for the end, is gone, or SIGTERM comes.
///
/// # Errors
/// The socket, TLS or the handshake fail.
pub fn run(environment: Environment) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(serve(environment));
    // A call that is stuck shall not hold up the end.
    runtime.shutdown_timeout(GRACE);
    ended.map_err(Into::into)
}

async fn serve(environment: Environment) -> Result<(), RunError> {
    // Only the user may enter this folder, which goes when the function ends.
    let folder = tempfile::Builder::new()
        .prefix("antrea-octant-")
        .tempdir()
        .map_err(|error| RunError::Io("make a folder for the socket", error))?;
    let socket = folder.path().join("plugin");
    let listener = UnixListener::bind(&socket).map_err(|error| RunError::Io("listen", error))?;
    let tls = environment.client_certificate.as_deref().map(tls::for_host).transpose()?;
    let certificate = tls.as_ref().map(|tls| tls.certificate.clone()).unwrap_or_default();

    let end = CancellationToken::new();
    // Before the handshake: from then on the host may think that it ends by Shutdown alone.
    let listen = |kind| signal(kind).map_err(|error| RunError::Io("listen to signals", error));
    let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let watch = tokio::spawn(watch_for_the_end(getppid(), terminate, interrupt, end.clone()));
    let (accepted, connections) = mpsc::channel(1);
    let acceptor = tls.map(|tls| TlsAcceptor::from(tls.config));
    let accept = tokio::spawn(accept(listener, acceptor, accepted));

    let mut stdout = std::io::stdout();
    stdout
        .write_all(line(&socket, &certificate).as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| RunError::Io("write the handshake", error))?;

    let pages = Pages::new(end.clone());
    let own = Own { end: end.clone() };
    let served = Server::builder()
        .timeout(CALL)
        .concurrency_limit_per_connection(32)
        .max_concurrent_streams(64)
        .add_service(PluginServer::new(pages).max_decoding_message_size(MAX_REQUEST))
        .add_service(HealthServer::new(own.clone()))
        .add_service(GrpcControllerServer::new(own.clone()))
        .add_service(GrpcBrokerServer::new(own.clone()))
        .add_service(GrpcStdioServer::new(own))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), end.clone().cancelled_owned());
    let mut served = std::pin::pin!(served);
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = end.cancelled() => timeout(GRACE, served).await.unwrap_or(Ok(())),
    };
    accept.abort();
    watch.abort();
    outcome.map_err(Into::into)
}

/// Ends the plugin with SIGTERM, and with its host. SIGINT goes to all processes of a terminal; the host decides.
async fn watch_for_the_end(host: Pid, mut terminate: Signal, mut interrupt: Signal, end: CancellationToken) {
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => {}
            () = sleep(PARENT) => if getppid() != host { break },
        }
    }
    end.cancel();
}

async fn accept(
    listener: UnixListener,
    acceptor: Option<TlsAcceptor>,
    to: mpsc::Sender<Result<Connection, std::io::Error>>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log("warn", &format!("cannot accept a connection: {error}"));
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // One at a time: there is one host, and who fails does not hold it up for long.
        let connection = match &acceptor {
            None => Connection(Box::new(stream)),
            Some(acceptor) => match secured(acceptor, stream).await {
                Ok(connection) => connection,
                Err(error) => {
                    log("warn", &format!("a connection was refused: {error}"));
                    continue;
                }
            },
        };
        if to.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

async fn secured(acceptor: &TlsAcceptor, stream: UnixStream) -> std::io::Result<Connection> {
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(accepted) => accepted.map(|stream| Connection(Box::new(stream))),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// With TLS or without.
struct Connection(Box<dyn Io>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// What go-plugin's host expects of every plugin.
#[derive(Clone)]
struct Own {
    end: CancellationToken,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Own {
    /// `first`, and then nothing until the end.
    fn until_the_end<T: Send + 'static>(&self, first: Vec<T>) -> Messages<T> {
        let end = self.end.clone().cancelled_owned();
        Box::pin(stream::iter(first.into_iter().map(Ok)).chain(stream::pending()).take_until(end))
    }
}

fn serving(request: &HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
    match request.service.as_str() {
        "" | HEALTH_SERVICE => Ok(HealthCheckResponse { status: ServingStatus::Serving.into() }),
        other => Err(Status::not_found(format!("there is no service {other:?}"))),
    }
}

#[tonic::async_trait]
impl Health for Own {
    type WatchStream = Messages<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        serving(request.get_ref()).map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(self.until_the_end(vec![serving(request.get_ref())?])))
    }
}

#[tonic::async_trait]
impl GrpcController for Own {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.end.cancel();
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl GrpcBroker for Own {
    type StartStreamStream = Messages<ConnInfo>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        // There are no further connections; what the host says is read so that it is not kept anywhere.
        let said = request.into_inner().filter_map(|message| async { message.err().map(Err) });
        Ok(Response::new(Box::pin(said.take_until(self.end.clone().cancelled_owned()))))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Own {
    type StreamStdioStream = Messages<StdioData>;

    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        // Nothing is written to stdout after the handshake, and stderr goes its own way.
        Ok(Response::new(self.until_the_end(Vec::new())))
    }
}
