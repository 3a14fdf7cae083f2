//! What parts are made of: files, what programs print, lists of objects.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::archive::PART;
use crate::bundles::Part;

/// Longest that a program may take.
const PROGRAM: Duration = Duration::from_secs(20);

/// Octets of an error that a program prints.
const COMPLAINT: u64 = 16 << 10;

/// A file, to the length that is taken.
pub async fn file(path: impl Into<String>, file: &Path) -> Part {
    let read = async {
        let file = tokio::fs::File::open(file).await?;
        let mut content = Vec::new();
        file.take(taken()).read_to_end(&mut content).await?;
        Ok::<_, std::io::Error>(content)
    };
    let content = read.await.map_err(|error| format!("{}: {error}", file.display()));
    Part { path: path.into(), content }
}

/// What a program prints; what it complains of comes after that.
pub async fn program(path: impl Into<String>, line: &[&str]) -> Part {
    Part { path: path.into(), content: run(line, PROGRAM).await }
}

async fn run(line: &[&str], limit: Duration) -> Result<Vec<u8>, String> {
    let shown = line.join(" ");
    let (program, arguments) = line.split_first().ok_or("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut printed = Vec::new();
    let ended = tokio::time::timeout(limit, async {
        let mut complaint = Vec::new();
        // One that prints on and on is ended, and not waited for.
        let (read, _) =
            tokio::join!(take(stdout, &mut printed, taken()), take(stderr, &mut complaint, COMPLAINT));
        if read >= taken() {
            return Ok(String::new());
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Ok(if status.success() { String::new() } else { format!("{status}: {complaint}") })
    });
    let problem = match ended.await {
        Ok(Ok(problem)) => problem,
        Ok(Err(error)) => error,
        Err(_) => format!("did not end within {limit:?}"),
    };
    if problem.is_empty() {
        return Ok(printed);
    }
    if printed.is_empty() {
        return Err(format!("{shown}: {problem}"));
    }
    printed.extend_from_slice(format!("\nerror: {shown}: {problem}\n").as_bytes());
    Ok(printed)
}

/// One more than a part may have, so that the archive says that it was cut off.
fn taken() -> u64 {
    PART as u64 + 1
}

async fn take(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, limit: u64) -> u64 {
    let Some(from) = from else { return 0 };
    // What was read before an error is read.
    let _ = from.take(limit).read_to_end(into).await;
    into.len() as u64
}

/// Objects, each on a line of its own.
pub fn lines(path: impl Into<String>, objects: impl IntoIterator<Item = Value>) -> Part {
    let mut content = Vec::new();
    for object in objects {
        content.extend_from_slice(object.to_string().as_bytes());
        content.push(b'\n');
        if content.len() > PART {
            break;
        }
    }
    Part { path: path.into(), content: Ok(content) }
}

/// What this process takes of the machine, and what there is: for heap profiles there is no counterpart here.
pub async fn memory() -> Vec<Part> {
    let files =
        ["/proc/self/status", "/proc/self/smaps_rollup", "/proc/meminfo", "/sys/fs/cgroup/memory.current"];
    let mut parts = Vec::new();
    for path in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        parts.push(file(format!("memory/{name}"), Path::new(path)).await);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(line: &[&str]) -> Result<String, String> {
        let content = run(line, Duration::from_millis(700)).await?;
        Ok(String::from_utf8(content).unwrap())
    }

    #[tokio::test]
    async fn programs_that_fail_say_why() {
        assert_eq!(of(&["echo", "hello"]).await.unwrap(), "hello\n");
        assert!(of(&["antrea-no-such-program"]).await.unwrap_err().starts_with("antrea-no-such-program: "));
        let error = of(&["sh", "-c", "echo broken >&2; exit 3"]).await.unwrap_err();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
        let both = of(&["sh", "-c", "echo half; echo broken >&2; exit 3"]).await.unwrap();
        assert!(both.starts_with("half\n\nerror: ") && both.contains("broken"), "{both}");
        let error = of(&["sleep", "30"]).await.unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        let endless = of(&["sh", "-c", "echo begun; sleep 30"]).await.unwrap();
        assert!(endless.starts_with("begun\n") && endless.contains("did not end"), "{endless}");
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read_to_its_end() {
        let Part { content, .. } = program("zero", &["cat", "/dev/zero"]).await;
        assert_eq!(content.unwrap().len(), PART + 1);
        let Part { content, .. } = file("zero", Path::new("/dev/zero")).await;
        assert_eq!(content.unwrap().len(), PART + 1);
        let Part { content, .. } = file("none", Path::new("/no/such/file")).await;
        assert!(content.unwrap_err().starts_with("/no/such/file: "));
        let Part { content, .. } = lines("lines", std::iter::repeat(Value::from("x".repeat(1000))));
        assert!(content.unwrap().len() < PART + 2000);
    }
}
