//! Running a program inside a namespace, with text in and text out.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::{Error, Netns, Result};

/// Longest a tool may run. It includes waiting for the xtables lock.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `program` inside `netns` and returns its standard output; a failing exit status is an error that
/// carries its standard error.
pub(crate) async fn run(
    netns: &Netns,
    program: &str,
    args: &[&str],
    input: Option<String>,
) -> Result<String> {
    let shown = || std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A child is born in the namespace of the thread that starts it.
    let mut child = netns.run(move || command.spawn()).await?.map_err(|e| Error::io(shown(), e))?;
    let stdin = child.stdin.take();
    let feed = async {
        if let (Some(mut stdin), Some(text)) = (stdin, input) {
            // A program that stops reading says why by its exit status.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
    };
    let (_, output) = tokio::time::timeout(TIMEOUT, async { tokio::join!(feed, child.wait_with_output()) })
        .await
        .map_err(|_| Error::Timeout(shown()))?;
    let output = output.map_err(|e| Error::io(shown(), e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command {
        command: shown(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Adds the line that a `restore` tool complained about (`line N …` in its message) to the error.
pub(crate) fn show_line(error: Error, input: &str) -> Error {
    match error {
        Error::Command { command, status, stderr } => {
            let number = stderr
                .split("line ")
                .skip(1)
                .find_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok());
            let line = number.and_then(|n| input.lines().nth(n.checked_sub(1)?));
            let stderr = match line {
                Some(line) => format!("{stderr} [{line}]"),
                None => stderr,
            };
            Error::Command { command, status, stderr }
        }
        other => other,
    }
}
