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

mod lines;

/// Time for a whole call.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer of a command that answers with a line, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Time for the next part of a long answer, the first included, which ovs-vswitchd makes as a whole.
const PART_LIMIT: Duration = Duration::from_secs(30);
/// How much of a long answer is read at a time, in bytes.
const PART: usize = 256 << 10;

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
    #[error("{method}: no answer within {within:?}")]
    Timeout {
        /// The command.
        method: String,
        /// How long was waited.
        within: Duration,
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
    let answer = timeout(LIMIT, exchange).await.map_err(|_| timed_out(method, LIMIT))??;
    read_answer(method, &answer)
}

fn timed_out(method: &str, within: Duration) -> CtlError {
    CtlError::Timeout { method: method.to_owned(), within }
}

/// The lines that a command prints, of any number: they are read as they are asked for.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    method: String,
    stream: UnixStream,
    buffer: Vec<u8>,
    scanner: lines::Lines,
    over: bool,
}

/// [`call`] for a command whose answer is too long to be kept.
///
/// # Errors
/// ovs-vswitchd is away.
pub async fn lines(run_dir: &Path, method: &str, arguments: &[&str]) -> Result<Lines, CtlError> {
    let path = socket(run_dir)?;
    let stream = asked(&path, method, arguments)
        .await
        .map_err(|source| CtlError::Io { path: path.clone(), source })?;
    let (buffer, scanner) = (vec![0; PART], lines::Lines::new());
    Ok(Lines { path, method: method.to_owned(), stream, buffer, scanner, over: false })
}

async fn asked(path: &Path, method: &str, arguments: &[&str]) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path).await?;
    let request = json!({"id": 0, "method": method, "params": arguments});
    stream.write_all(request.to_string().as_bytes()).await?;
    Ok(stream)
}

impl Lines {
    /// The next lines, as many as there are in 256 KiB; none after the last.
    ///
    /// # Errors
    /// ovs-vswitchd went away, says nothing for 30 s, refuses, or a line is longer than 64 KiB.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, CtlError> {
        if self.over {
            return Ok(None);
        }
        let malformed = |cause: String| CtlError::Malformed { method: self.method.clone(), cause };
        let read = timeout(PART_LIMIT, self.stream.read(&mut self.buffer)).await;
        let read = read
            .map_err(|_| timed_out(&self.method, PART_LIMIT))?
            .map_err(|source| CtlError::Io { path: self.path.clone(), source })?;
        if read == 0 {
            return Err(malformed("the connection was closed".to_owned()));
        }
        let mut lines = Vec::new();
        let part = self.buffer.get(..read).unwrap_or_default();
        self.over = self.scanner.take(part, &mut lines).map_err(|error| malformed(error.to_string()))?;
        match self.scanner.refusal() {
            Some(message) => Err(CtlError::Refused { method: self.method.clone(), message }),
            None => Ok(Some(lines)),
        }
    }
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
    let mut stream = asked(path, method, arguments).await.map_err(failed)?;
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
