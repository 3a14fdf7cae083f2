//! Memory of idle processes, and sizes of what is shipped.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, binary};
use anyhow::{Context, ensure};
use netcfg::Netns;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::report::{Figure, Goal, Report};

/// Time without work before memory is read.
const IDLE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(30);
const IMAGE_GOAL: Goal = Goal::AtMost(25.0);

/// A process that watches the lab's API server.
struct Daemon {
    name: &'static str,
    arguments: Vec<String>,
    /// Where it serves, in the namespace of the API server.
    port: u16,
}

/// Measures VmRSS of agents, controller and operator.
///
/// # Errors
/// An agent or the controller does not run; an operator that does not run has a row that says so.
pub(crate) async fn memory(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    lab.add_pod(0, "a");
    lab.add_pod(1, "c");
    let folder = tempfile::tempdir()?;
    let operator = operator(&lab, folder.path())?;
    let started = start(&lab, &operator, folder.path()).await;
    report.say(&format!("{} s of idling", IDLE.as_secs()));
    tokio::time::sleep(IDLE).await;

    let agents =
        lab.nodes.iter().map(|node| (format!("antrea-agent of {}", node.name), node.agent_pid(), 20.0));
    for (process, pid, goal) in agents.chain([("antrea-controller".to_owned(), lab.controller_pid(), 15.0)]) {
        let name = format!("resident memory, {process}, idle");
        let (value, note) = resident(pid).with_context(|| name.clone())?;
        report.add(Figure::new(name, "MB", value).goal(Goal::AtMost(goal)).note(note));
    }
    let name = format!("resident memory, {}, idle", operator.name);
    let value = started.and_then(|mut child| {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "ended: {ended:?}\n{}", log_end(folder.path(), operator.name));
        resident(child.id().context("no process id")?)
    });
    let goal = Goal::AtMost(20.0);
    report.add(match value {
        Ok((value, note)) => Figure::new(name, "MB", value).goal(goal).note(note),
        Err(error) => Figure::missing(name, "MB", format!("{error:#}")).goal(goal),
    });
    Ok(())
}

fn operator(lab: &Lab, folder: &Path) -> anyhow::Result<Daemon> {
    let kubeconfig = folder.join("kubeconfig");
    let content = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": {"server": format!("http://{}:6443", lab.outside_ip())}}],
        "users": [{"name": "lab", "user": {}}],
    });
    std::fs::write(&kubeconfig, content.to_string())?;
    Ok(Daemon {
        name: "antrea-operator",
        arguments: vec!["run".to_owned(), "--kubeconfig".to_owned(), kubeconfig.display().to_string()],
        port: 10_352,
    })
}

fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn log_end(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(log(folder, name)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

/// Starts a daemon beside the API server and waits until it serves.
async fn start(lab: &Lab, daemon: &Daemon, folder: &Path) -> anyhow::Result<Child> {
    let output = File::create(log(folder, daemon.name))?;
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.outside()])
        .arg(binary(daemon.name))
        .args(&daemon.arguments)
        .env("POD_NAME", daemon.name)
        .env("POD_NAMESPACE", "kube-system")
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()?;
    let netns = Netns::open(format!("/run/netns/{}", lab.outside()))?;
    let address = SocketAddr::from(([127, 0, 0, 1], daemon.port));
    let begin = Instant::now();
    loop {
        let connected = netns.run(move || TcpStream::connect(address).is_ok()).await?;
        if connected {
            return Ok(child);
        }
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "ended: {ended:?}\n{}", log_end(folder, daemon.name));
        ensure!(
            begin.elapsed() < LIMIT,
            "does not serve port {}\n{}",
            daemon.port,
            log_end(folder, daemon.name)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// VmRSS, and how much of it is the process's own rather than pages of its file, in MB (10⁶ octets).
pub(crate) fn resident(pid: u32) -> anyhow::Result<(f64, String)> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| -> anyhow::Result<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = value.with_context(|| format!("no {name} in {path}"))?;
        let kibibytes: f64 = value.trim().trim_end_matches(" kB").parse().with_context(|| path.clone())?;
        Ok(kibibytes * 1024.0 / 1e6)
    };
    let note = format!("RssAnon {:.1} MB, RssFile {:.1} MB", field("RssAnon")?, field("RssFile")?);
    Ok((field("VmRSS")?, note))
}

/// Measures files.
///
/// # Errors
/// An image cannot be read.
pub(crate) async fn sizes(report: Report) -> anyhow::Result<()> {
    let agent = binary("antrea-agent");
    let folder = agent.parent().context("the agent is in no folder")?;
    for name in ["antrea-agent", "antrea-cni", "antrea-controller", "antrea-operator", "antctl"] {
        let title = format!("size, binary {name}");
        report.add(match std::fs::metadata(folder.join(name)) {
            Ok(file) => Figure::new(title, "MB", megabytes(file.len())),
            Err(error) => Figure::missing(title, "MB", format!("{}: {error}", folder.join(name).display())),
        });
    }
    let cache = std::env::var_os("ANTREA_CACHE").map(PathBuf::from);
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/antrea-rs");
    let images = cache.unwrap_or_else(home).join("images");
    for (name, goal) in [("agent", None), ("controller", Some(IMAGE_GOAL)), ("operator", Some(IMAGE_GOAL))] {
        let path = images.join(format!("{name}.tar"));
        let title = format!("size, image antrea-{name} as an archive");
        let figure = match std::fs::metadata(&path) {
            Ok(file) => Figure::new(title, "MB", megabytes(file.len())),
            Err(error) => {
                Figure::missing(title, "MB", format!("{}: {error}; `make images` builds it", path.display()))
            }
        };
        report.add(match goal {
            Some(goal) => figure.goal(goal),
            None => figure,
        });
        if path.is_file() {
            let size = compressed(&path).await?;
            report.add(Figure::new(
                format!("size, image antrea-{name} compressed by gzip"),
                "MB",
                megabytes(size),
            ));
        }
    }
    Ok(())
}

fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}

/// What a registry would store and a node would pull.
async fn compressed(path: &Path) -> anyhow::Result<u64> {
    let file = File::open(path)?;
    let counting = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut gzip = std::process::Command::new("gzip")
            .arg("-c")
            .stdin(file)
            .stdout(Stdio::piped())
            .spawn()
            .context("gzip")?;
        let mut output = gzip.stdout.take().context("gzip's output")?;
        let size = std::io::copy(&mut output, &mut std::io::sink())?;
        ensure!(gzip.wait()?.success(), "gzip failed");
        Ok(size)
    });
    counting.await?
}
