//! Address management by executing the host-local plugin, as the specification delegates IPAM.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::result::{CniResult, MalformedResult};
use crate::subnet::{gateway_of, probes_of};

/// Name of the plugin's data folder under `/var/lib/cni/networks`.
const NETWORK: &str = "antrea";

/// host-local takes a lock file and writes one; anything near this means a hung file system.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Allocates pod addresses from the node's subnets; clones share the turns.
#[derive(Clone, Debug)]
pub struct HostLocal {
    folders: Vec<PathBuf>,
    data_dir: Option<PathBuf>,
    /// Who may run the plugin. It computes, and holds a lock of its own: of many at once, each would end only
    /// when nearly all do. In turns, the first pods go on while the last wait.
    turns: Arc<Semaphore>,
}

/// Why IPAM failed.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// No executable.
    #[error("host-local is in none of {0}")]
    NotFound(String),
    /// It could not be run.
    #[error("host-local: {0}")]
    Run(#[from] std::io::Error),
    /// It did not end.
    #[error("host-local {verb} did not end within {} s", TIMEOUT.as_secs())]
    Hung {
        /// CNI verb.
        verb: &'static str,
    },
    /// Its own error.
    #[error("host-local {verb}: {message}")]
    Failed {
        /// CNI verb.
        verb: &'static str,
        /// What it printed.
        message: String,
    },
    /// It printed something else than a result.
    #[error("host-local ADD: {0}")]
    Malformed(#[from] MalformedResult),
}

/// Whom an address is for.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    pub container_id: &'a str,
    /// Path of its network namespace.
    pub netns: &'a str,
    /// Name of its link.
    pub ifname: &'a str,
    /// CNI_ARGS.
    pub args: &'a str,
    /// CNI_PATH.
    pub path: &'a str,
}

impl HostLocal {
    /// `folders` are searched before `CNI_PATH`. Allocations are kept below `data_dir`; `None` = the plugin's own
    /// default (`/var/lib/cni/networks`).
    pub fn new(folders: Vec<PathBuf>, data_dir: Option<PathBuf>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { folders, data_dir, turns: Arc::new(Semaphore::new(processors)) }
    }

    /// Allocates one address of every subnet; the gateway of each is its first address.
    ///
    /// # Errors
    /// The plugin is missing, failed, hung or printed no result.
    pub async fn add(&self, of: Attachment<'_>, subnets: &[IpNet]) -> Result<CniResult, IpamError> {
        let output = self.run("ADD", of, self.configuration(subnets)).await?;
        let failed = |message| IpamError::Failed { verb: "ADD", message };
        let value: Value = serde_json::from_slice(&output).map_err(|error| failed(error.to_string()))?;
        let result = CniResult::parse(&value)?;
        if result.ips.is_empty() {
            return Err(failed("no address in the result".to_owned()));
        }
        Ok(result)
    }

    /// Frees the addresses of an attachment. Nothing allocated is no error.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub async fn del(&self, of: Attachment<'_>, subnets: &[IpNet]) -> Result<(), IpamError> {
        self.run("DEL", of, self.configuration(subnets)).await.map(drop)
    }

    /// Whether the attachment has an allocation.
    ///
    /// # Errors
    /// It has none, or as for [`Self::add`].
    pub async fn check(&self, of: Attachment<'_>, subnets: &[IpNet]) -> Result<(), IpamError> {
        self.run("CHECK", of, self.configuration(subnets)).await.map(drop)
    }

    /// Folder of the allocations, one file per address with the container's id and link in it.
    pub fn allocations(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/cni/networks")).join(NETWORK)
    }

    fn configuration(&self, subnets: &[IpNet]) -> Value {
        let ranges: Vec<Value> = subnets
            .iter()
            .map(|subnet| {
                let mut range =
                    json!({"subnet": subnet.to_string(), "gateway": gateway_of(subnet).to_string()});
                if let Some(probes) = probes_of(subnet) {
                    range["rangeEnd"] = probes.last_of_pods.to_string().into();
                }
                json!([range])
            })
            .collect();
        let mut ipam = json!({"type": "host-local", "ranges": ranges});
        if let Some(folder) = &self.data_dir {
            ipam["dataDir"] = folder.display().to_string().into();
        }
        json!({"cniVersion": "1.0.0", "name": NETWORK, "type": "antrea", "ipam": ipam})
    }

    fn find(&self, path: &str) -> Result<PathBuf, IpamError> {
        let given = path.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let folders: Vec<PathBuf> = self.folders.iter().cloned().chain(given).collect();
        folders.iter().map(|folder| folder.join("host-local")).find(|file| file.is_file()).ok_or_else(|| {
            let list: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            IpamError::NotFound(list.join(", "))
        })
    }

    async fn run(
        &self,
        verb: &'static str,
        of: Attachment<'_>,
        configuration: Value,
    ) -> Result<Vec<u8>, IpamError> {
        let file = self.find(of.path)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        // Never closed, so there is always a turn to get.
        let _turn = self.turns.acquire().await;
        let mut child = Command::new(&file)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", of.container_id)
            .env("CNI_NETNS", of.netns)
            .env("CNI_IFNAME", of.ifname)
            .env("CNI_ARGS", of.args)
            .env("CNI_PATH", folder)
            // Start-up of the Go runtime is most of its time. It never enters the namespace, so it need not make a
            // thread to find out whether that is its own.
            .env("GOMAXPROCS", "1")
            .env("CNI_NETNS_OVERRIDE", "TRUE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends early is judged by its status, not by the broken pipe.
            let _ = stdin.write_all(configuration.to_string().as_bytes()).await;
        }
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output())
            .await
            .map_err(|_| IpamError::Hung { verb })??;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(IpamError::Failed { verb, message: failure_text(&output.stdout, &output.stderr) })
    }
}

/// A plugin reports its error as JSON on stdout; a crash is found on stderr.
fn failure_text(stdout: &[u8], stderr: &[u8]) -> String {
    if let Ok(value) = serde_json::from_slice::<Value>(stdout)
        && let Some(message) = value.get("msg").and_then(Value::as_str)
    {
        return match value.get("details").and_then(Value::as_str) {
            Some(details) if !details.is_empty() => format!("{message}: {details}"),
            _ => message.to_owned(),
        };
    }
    let text = String::from_utf8_lossy(if stderr.is_empty() { stdout } else { stderr });
    text.trim().chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plugin that runs `script`. The file that is executed is one of the repository's and never written here: a
    /// process that another test forks at that moment would hold it open for writing, and a file that somebody writes
    /// cannot be executed (ETXTBSY).
    fn plugin(script: &str) -> (tempfile::TempDir, HostLocal) {
        let folder = tempfile::tempdir().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pods/testdata/run-script");
        std::os::unix::fs::symlink(file, folder.path().join("host-local")).unwrap();
        std::fs::write(folder.path().join("script"), script).unwrap();
        let host_local = HostLocal::new(vec![folder.path().into()], Some("/data".into()));
        (folder, host_local)
    }

    const OF: Attachment<'static> =
        Attachment { container_id: "c1", netns: "/run/netns/x", ifname: "eth0", args: "", path: "" };

    #[tokio::test]
    async fn passes_subnet_gateway_and_environment() {
        let (folder, host_local) = plugin(
            r#"cat > "$CNI_PATH/stdin"; env > "$CNI_PATH/env"
            echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24","gateway":"10.1.0.1"}]}'"#,
        );
        // The script names binaries, so it needs a PATH that env_clear took; sh has a default one.
        let result = host_local.add(OF, &["10.1.0.0/24".parse().unwrap()]).await.unwrap();
        assert_eq!(result.ips[0].address.to_string(), "10.1.0.2/24");
        let stdin: Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("stdin")).unwrap()).unwrap();
        let range = json!({"subnet": "10.1.0.0/24", "gateway": "10.1.0.1", "rangeEnd": "10.1.0.252"});
        assert_eq!(stdin["ipam"]["ranges"][0][0], range);
        assert_eq!(stdin["ipam"]["dataDir"], "/data");
        let environment = std::fs::read_to_string(folder.path().join("env")).unwrap();
        assert!(environment.contains("CNI_CONTAINERID=c1\n"), "{environment}");
    }

    #[tokio::test]
    async fn reports_the_plugins_error() {
        let (_folder, host_local) =
            plugin(r#"echo '{"code":11,"msg":"no addresses left","details":"range full"}'; exit 1"#);
        let error = host_local.add(OF, &["10.1.0.0/24".parse().unwrap()]).await.unwrap_err();
        assert_eq!(error.to_string(), "host-local ADD: no addresses left: range full");
        let (_folder, host_local) = plugin("echo boom >&2; exit 2");
        let error = host_local.del(OF, &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "host-local DEL: boom");
    }

    #[tokio::test]
    async fn runs_no_more_at_once_than_there_are_processors() {
        let (folder, host_local) = plugin(
            r#"mkdir "$CNI_PATH/run.$CNI_CONTAINERID"; set -- "$CNI_PATH"/run.*; echo $# >> "$CNI_PATH/counts"
            sleep 0.05; rmdir "$CNI_PATH/run.$CNI_CONTAINERID""#,
        );
        let processors = std::thread::available_parallelism().unwrap().get();
        let ids: Vec<_> = (0..3 * processors).map(|n| n.to_string()).collect();
        let calls = ids.iter().map(|id| host_local.del(Attachment { container_id: id, ..OF }, &[]));
        futures::future::try_join_all(calls).await.unwrap();
        let counts = std::fs::read_to_string(folder.path().join("counts")).unwrap();
        let counts: Vec<usize> = counts.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(counts.len(), ids.len());
        assert!(counts.iter().all(|count| *count <= processors), "{counts:?}");
    }

    #[tokio::test]
    async fn an_absent_plugin_names_the_folders() {
        let host_local = HostLocal::new(vec!["/nonexistent".into()], None);
        let error = host_local.check(Attachment { path: "/neither:/nor", ..OF }, &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "host-local is in none of /nonexistent, /neither, /nor");
    }
}
