//! The gRPC call to the agent.

use std::time::Duration;

use antrea_api::cni::cni_client::CniClient;
use antrea_api::cni::span::PluginSpan;
use antrea_api::cni::{CniCmdRequest, CniCmdResponse, ErrorCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::request::{CniError, Command, Request};

/// The agent holds an ADD back for at most 30 s until its network is up. Past this the runtime is
/// told to try again, so that a hung agent never holds a sandbox for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends the request, with what is known of the plugin's span, and returns what to print.
///
/// # Errors
/// The agent's own error, or TRY_AGAIN_LATER (11) where the agent could not be reached.
pub(crate) fn call(request: &Request, span: Option<PluginSpan>) -> Result<Vec<u8>, CniError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CniError::io(format!("cannot start the runtime: {error}")))?
        .block_on(send(request, span))
}

async fn send(request: &Request, span: Option<PluginSpan>) -> Result<Vec<u8>, CniError> {
    let mut client = CniClient::new(connect(&request.socket).await?);
    let mut message = tonic::Request::new(CniCmdRequest { cni_args: Some(request.args.clone()) });
    if let Some(span) = span {
        span.write(message.metadata_mut());
    }
    let answer = match request.command {
        Command::Add => client.cmd_add(message).await,
        Command::Check => client.cmd_check(message).await,
        Command::Del => client.cmd_del(message).await,
        Command::Gc => client.cmd_gc(message).await,
        Command::Status => client.cmd_status(message).await,
        Command::Version => return Ok(Vec::new()),
    };
    read(answer, &request.socket)
}

async fn connect(socket: &str) -> Result<Channel, CniError> {
    let path = socket.to_owned();
    // The address is a placeholder: the connector below goes to the socket whatever it says.
    Endpoint::from_static("http://agent")
        .timeout(TIMEOUT)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| unavailable(socket, &error_chain(&error)))
}

fn read(answer: Result<Response<CniCmdResponse>, Status>, socket: &str) -> Result<Vec<u8>, CniError> {
    match answer {
        Ok(response) => {
            let response = response.into_inner();
            match response.error {
                None => Ok(response.cni_result),
                Some(error) => {
                    Err(CniError { code: error.code, message: error.message, details: String::new() })
                }
            }
        }
        Err(status) => Err(match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                unavailable(socket, status.message())
            }
            _ if has_lost_connection(&status) => unavailable(socket, &error_chain(&status)),
            Code::Unimplemented => CniError::new(
                ErrorCode::IncompatibleApiVersion,
                format!("the agent at {socket} does not know this call: {}", status.message()),
            ),
            code => CniError::new(
                ErrorCode::UnknownRpcError,
                format!("the agent at {socket} failed: {code:?}: {}", status.message()),
            ),
        }),
    }
}

/// Whether the status is not the agent's own: it was killed during the call.
fn has_lost_connection(status: &Status) -> bool {
    let source = std::error::Error::source(status);
    source.is_some_and(|source| source.is::<tonic::transport::Error>())
}

fn unavailable(socket: &str, cause: &str) -> CniError {
    CniError::new(
        ErrorCode::TryAgainLater,
        format!("antrea-agent is not available at {socket}, try again later: {cause}"),
    )
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
