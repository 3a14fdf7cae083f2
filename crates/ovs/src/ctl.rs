//! Commands to ovs-vswitchd over its control socket, as `ovs-appctl` sends them: JSON-RPC, one call per connection.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::db::frame::{FrameError, Framer};

/// Time for a whole call.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer of a command that answers with a line, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// ovs-vswitchd's process id is not known: it does not run, or not with `--pidfile`.
    #[error("{path}: {source}")]
    Pid {
        /// The file.
        path: PathBuf,
        /// Why it was not read.
        source: io::Error,
    },
    /// The socket failed.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{method}: no answer within {LIMIT:?}")]
    Timeout {
        /// The command.
        method: String,
    },
    /// The answer is longer than the caller takes.
    #[error("{method}: the answer is longer than {limit} bytes")]
    TooLong {
        /// The command.
        method: String,
        /// How much is taken.
        limit: usize,
    },
    /// The answer is no answer.
    #[error("{method}: malformed answer: {cause}")]
    Malformed {
        /// The command.
        method: String,
        /// What is wrong with it.
        cause: String,
    },
    /// ovs-vswitchd said no.
    #[error("{method}: {message}")]
    Refused {
        /// The command.
        method: String,
        /// What it said.
        message: String,
    },
}

/// Has ovs-vswitchd with the run directory `run_dir` carry out a command; returns what it prints.
///
/// # Errors
/// ovs-vswitchd is away, does not answer within 5 s, answers with more than 64 KiB, or refuses.
pub async fn call(run_dir: &Path, method: &str, arguments: &[&str]) -> Result<String, CtlError> {
    call_with_limit(run_dir, method, arguments, MAX_ANSWER).await
}

/// [`call`] for a command that answers with up to `limit` bytes.
///
/// # Errors
/// As there.
pub async fn call_with_limit(
    run_dir: &Path,
    method: &str,
    arguments: &[&str],
    limit: usize,
) -> Result<String, CtlError> {
    let path = socket(run_dir)?;
    let exchange = exchange(&path, method, arguments, limit);
    let answer =
        timeout(LIMIT, exchange).await.map_err(|_| CtlError::Timeout { method: method.to_owned() })??;
    read_answer(method, &answer)
}

/// `ovs-vswitchd.<pid>.ctl`.
fn socket(run_dir: &Path) -> Result<PathBuf, CtlError> {
    let file = run_dir.join("ovs-vswitchd.pid");
    let error = |source| CtlError::Pid { path: file.clone(), source };
    let text = std::fs::read_to_string(&file).map_err(error)?;
    let pid: u32 = text.trim().parse().map_err(|_| error(io::Error::other("no process id")))?;
    Ok(run_dir.join(format!("ovs-vswitchd.{pid}.ctl")))
}

async fn exchange(path: &Path, method: &str, arguments: &[&str], limit: usize) -> Result<Value, CtlError> {
    let failed = |source| CtlError::Io { path: path.to_owned(), source };
    let malformed = |cause: String| CtlError::Malformed { method: method.to_owned(), cause };
    let mut stream = UnixStream::connect(path).await.map_err(failed)?;
    let request = json!({"id": 0, "method": method, "params": arguments});
    stream.write_all(request.to_string().as_bytes()).await.map_err(failed)?;
    let mut framer = Framer::new(limit);
    loop {
        let answer = framer.next_message().map_err(|error| match error {
            FrameError::TooLong(limit) => CtlError::TooLong { method: method.to_owned(), limit },
            FrameError::Start(_) => malformed(error.to_string()),
        })?;
        if let Some(answer) = answer {
            return serde_json::from_slice(&answer).map_err(|error| malformed(error.to_string()));
        }
        if stream.read_buf(framer.buffer()).await.map_err(failed)? == 0 {
            return Err(malformed("the connection was closed".to_owned()));
        }
    }
}

fn read_answer(method: &str, answer: &Value) -> Result<String, CtlError> {
    match (&answer["result"], &answer["error"]) {
        (Value::String(text), Value::Null) => Ok(text.clone()),
        (_, Value::String(message)) => {
            Err(CtlError::Refused { method: method.to_owned(), message: message.trim().to_owned() })
        }
        _ => Err(CtlError::Malformed { method: method.to_owned(), cause: answer.to_string() }),
    }
}
