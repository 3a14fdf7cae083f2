//! Sends a capture's file to a server, by OpenSSH's `sftp` as a process of its own: an SSH client in the agent would be 66
//! crates more on every node for what few ask for seldom. It ends within a minute, whatever the server does.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use antrea_capture::upload::{ALIAS, Target, complaint, is_user};
use antrea_crds::packet_capture::FILE_SERVER_SECRET;
use antrea_runtime::client::describe;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::files::Files;

/// Variable by which this program, started by `ssh` to ask for a password, learns which file has it.
const ASKPASS: &str = "ANTREA_ASKPASS_FILE";

/// Files that are sent at once.
const AT_ONCE: usize = 2;

/// How long a file may take, and a request to the API server.
const LIMIT: Duration = Duration::from_secs(60);
const REQUEST: Duration = Duration::from_secs(5);

/// Octets of what the program complains of.
const COMPLAINT: u64 = 16 << 10;

/// Sends files.
#[derive(Clone)]
pub(super) struct Uploader {
    secrets: Api<Secret>,
    room: Arc<Semaphore>,
}

/// What must not outlive an upload: password and key, in a folder for nobody but this process's user.
struct Private(PathBuf);

impl Drop for Private {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "what an upload needed stays");
        }
    }
}

impl Uploader {
    /// With the credentials in this namespace.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client, namespace), room: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Sends the file, and says where it is then.
    ///
    /// # Errors
    /// Why it is not there, for people.
    pub(super) async fn send(&self, target: &Target, file: &Path) -> Result<String, String> {
        let _turn = self.room.acquire().await.map_err(|error| error.to_string())?;
        let name = file.file_name().and_then(|name| name.to_str()).ok_or("the file has no name")?;
        let (user, password) = self.credentials().await?;
        let folder = Files::upload(file);
        let made = private(&folder, &[("password", &password), ("known_hosts", &target.known_hosts())]);
        let _private = made.map_err(|error| format!("{}: {error}", folder.display()))?;
        let batch = target.batch(&file.display().to_string(), name);
        match tokio::time::timeout(LIMIT, sftp(target, &user, &folder, &batch)).await {
            Ok(Ok(())) => Ok(target.url(name)),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("it was not sent within {LIMIT:?}")),
        }
    }

    async fn credentials(&self) -> Result<(String, String), String> {
        let secret = match tokio::time::timeout(REQUEST, self.secrets.get_opt(FILE_SERVER_SECRET)).await {
            Ok(Ok(Some(secret))) => secret,
            Ok(Ok(None)) => return Err(format!("there is no Secret {FILE_SERVER_SECRET}")),
            Ok(Err(error)) => {
                return Err(format!("Secret {FILE_SERVER_SECRET} cannot be read: {}", describe(&error)));
            }
            Err(_) => {
                return Err(format!("Secret {FILE_SERVER_SECRET} cannot be read: no answer in {REQUEST:?}"));
            }
        };
        let value = |key: &str| {
            let octets = secret.data.as_ref().and_then(|data| data.get(key));
            let text = octets.and_then(|octets| String::from_utf8(octets.0.clone()).ok());
            text.filter(|text| !text.is_empty() && !text.contains(['\n', '\0']))
                .ok_or_else(|| format!("Secret {FILE_SERVER_SECRET}: {key} is missing, or has several lines"))
        };
        let user = value("username")?;
        if !is_user(&user) {
            return Err(format!("Secret {FILE_SERVER_SECRET}: username has characters that no name has"));
        }
        Ok((user, value("password")?))
    }
}

/// A folder with these files, for nobody else.
fn private(folder: &Path, files: &[(&str, &str)]) -> io::Result<Private> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Of an agent that ended in the middle of it.
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(folder)?;
    let made = Private(folder.to_owned());
    for (name, text) in files {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(made)
}

async fn sftp(target: &Target, user: &str, folder: &Path, batch: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("sftp: {error}");
    let known = format!("UserKnownHostsFile={}", folder.join("known_hosts").display());
    let (alias, user, port) =
        (format!("HostKeyAlias={ALIAS}"), format!("User={user}"), target.port.to_string());
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let mut command = Command::new("sftp");
    command.args(["-F", "/dev/null", "-P", &port]);
    for option in [
        // Before -b, which would have nobody asked for a password.
        "BatchMode=no",
        "LogLevel=ERROR",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        "PubkeyAuthentication=no",
        "PreferredAuthentications=password,keyboard-interactive",
        "NumberOfPasswordPrompts=1",
        "ConnectTimeout=10",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=2",
        &known,
        &alias,
        &user,
    ] {
        command.args(["-o", option]);
    }
    let program = std::env::current_exe().map_err(failed)?;
    command
        .args(["-b", "-", "--", &host])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", folder)
        .env("SSH_ASKPASS", program)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env(ASKPASS, folder.join("password"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that stops reading says why.
        let _ = stdin.write_all(batch.as_bytes()).await;
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(COMPLAINT).read_to_end(&mut said).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(complaint(&String::from_utf8_lossy(&said))) }
}

/// The password, where this process was started to tell it.
///
/// # Errors
/// The file cannot be read.
pub fn password() -> Option<io::Result<String>> {
    std::env::var_os(ASKPASS).map(std::fs::read_to_string)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_private_is_so_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.upload");
        for _ in 0..2 {
            let made = private(&path, &[("password", "secret")]).unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&path.join("password"))), (0o700, 0o600));
            drop(made);
            assert!(!path.exists());
        }
        std::mem::forget(private(&path, &[("password", "old")]).unwrap());
        let made = private(&path, &[("password", "new")]).unwrap();
        assert_eq!(std::fs::read_to_string(path.join("password")).unwrap(), "new");
        drop(made);
    }
}
