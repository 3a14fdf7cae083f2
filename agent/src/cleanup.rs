//! Takes off a node what the agent, Open vSwitch and `install_cni` have put there, when Antrea is removed for
//! good. It runs after agent and Open vSwitch have ended, for they would make it all again.
//!
//! ```text
//!  facts ──► plan (pure) ──► steps, each tried whatever became of the one before ──► facts again
//! ```
//!
//! What a second plan would still remove is an error, and so is what could not be looked at, so success means that the
//! node is clean. Doing it again does no harm, and nor does doing it on a node that never had an agent.
//!
//! What stays: the reference CNI plugins, which others may use by now; `net.ipv4.ip_forward` and its like,
//! whose value before nobody knows; and folders that are mount points of a container.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netcfg::ipset::Ipsets;
use netcfg::iptables::{self, CHAIN_PREFIX};
use netcfg::nft::Nft;
use netcfg::nl::route::RouteFilter;
use netcfg::{ANTREA_PROTOCOL, Family, Link, Netlink, Netns, Part, Route, RoutingRule, kernel_has};
use tokio::time::Instant;

use crate::host::egress;
use crate::host::files;
use crate::ovs::bridge::TUNNEL_PORT;

mod steps;

pub use steps::{Step, plan};

/// How long agent and Open vSwitch may take to end.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Longest that `ovs-dpctl` may run.
const TOOL_LIMIT: Duration = Duration::from_secs(10);

/// Folders of the node, as the process sees them.
#[derive(Clone, Debug, clap::Args)]
pub struct Folders {
    /// Folder of CNI configurations.
    #[arg(long, default_value = "/host/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Folder of CNI plugins that the container runtime executes.
    #[arg(long, default_value = "/host/opt/cni/bin")]
    pub cni_plugin_dir: PathBuf,
    /// Folder of host-local's data; the allocations of this network are in a folder of it.
    #[arg(long, default_value = "/var/lib/cni/networks")]
    pub ipam_dir: PathBuf,
    /// Folder that is emptied; repeat for more.
    #[arg(long, default_values = ["/var/run/antrea", "/var/lib/antrea"])]
    pub state_dir: Vec<PathBuf>,
    /// Folder of ovsdb-server's socket, where it is not the configuration's.
    #[arg(long)]
    pub ovs_run_dir: Option<PathBuf>,
}

/// What to clean, and what must not run meanwhile.
#[derive(Clone, Debug)]
pub struct Settings {
    /// OVS bridge.
    pub bridge: String,
    /// Gateway link.
    pub gateway: String,
    /// The agent's socket.
    pub cni_socket: PathBuf,
    /// ovsdb-server's socket.
    pub ovsdb_socket: PathBuf,
    pub folders: Folders,
}

/// What there is on a node that may have to go.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// Files that make the container runtime execute the plugin, those that exist.
    pub installed: Vec<PathBuf>,
    /// Files and folders that tell of what was, those that exist.
    pub state: Vec<PathBuf>,
    pub links: Vec<Link>,
    /// Routes with our protocol number.
    pub routes: Vec<Route>,
    /// Routing rules with our protocol number.
    pub rules: Vec<RoutingRule>,
    /// Whether any iptables backend has a chain of ours.
    pub chains: bool,
    /// Families in which nftables has a table of ours.
    pub tables: Vec<Family>,
    /// Names of our address sets.
    pub sets: Vec<String>,
}

/// Why a node is not clean.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// It was not begun.
    #[error("{socket} is served still: {who} runs on this node, and would make again what is removed", socket = socket.display())]
    Running {
        /// What runs.
        who: &'static str,
        socket: PathBuf,
    },
    /// The network could not be looked at.
    #[error("{0}")]
    Network(#[from] netcfg::Error),
    /// Something is left, or may be.
    #[error("{}", show(left, unknown, failures))]
    Left {
        /// What would still have to be done.
        left: Vec<Step>,
        /// What could not be looked at.
        unknown: Vec<String>,
        /// What failed.
        failures: Vec<String>,
    },
}

fn show(left: &[Step], unknown: &[String], failures: &[String]) -> String {
    let mut parts = Vec::new();
    if !left.is_empty() {
        let steps = left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        parts.push(format!("{} left: {steps}", left.len()));
    }
    if !unknown.is_empty() {
        parts.push(format!("what else is left is not known: {}", unknown.join("; ")));
    }
    parts.extend_from_slice(failures);
    parts.join("; ")
}

/// Cleans the node whose network namespace this process is in. Returns what was done.
///
/// # Errors
/// An agent or Open vSwitch runs, or something could not be removed or looked at; what could be is removed.
pub async fn run(settings: &Settings) -> Result<Vec<Step>, CleanupError> {
    for (who, socket) in [("an agent", &settings.cni_socket), ("Open vSwitch", &settings.ovsdb_socket)] {
        wait_until_ended(who, socket).await?;
    }
    let netlink = Netns::current()?.spawn_netlink().await?;
    let names = steps::Names { bridge: &settings.bridge, gateway: &settings.gateway, tunnel: TUNNEL_PORT };
    let mut done = Vec::new();
    let mut failures = Vec::new();
    // Removing a datapath uncovers links that were its ports, so the second plan may be a new one.
    for _ in 0..2 {
        let (remains, _) = facts(settings, &netlink).await;
        for step in plan(&remains, names) {
            match perform(&step, &netlink).await {
                Ok(()) => tracing::info!(%step, "done"),
                Err(error) => {
                    tracing::error!(%step, %error, "failed");
                    failures.push(format!("{step}: {error}"));
                }
            }
            done.push(step);
        }
    }
    let (remains, unknown) = facts(settings, &netlink).await;
    let left = plan(&remains, names);
    if left.is_empty() && unknown.is_empty() {
        return Ok(done);
    }
    Err(CleanupError::Left { left, unknown, failures })
}

async fn wait_until_ended(who: &'static str, socket: &Path) -> Result<(), CleanupError> {
    let end = Instant::now() + END_LIMIT;
    while tokio::net::UnixStream::connect(socket).await.is_ok() {
        if Instant::now() >= end {
            return Err(CleanupError::Running { who, socket: socket.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// What there is, and what could not be looked at.
async fn facts(settings: &Settings, netlink: &Netlink) -> (Remains, Vec<String>) {
    let (netns, mut unknown) = (netlink.netns(), Unknown::default());
    let (chains, errors) = iptables::in_use(netns).await;
    unknown.0.extend(errors.errors().iter().map(ToString::to_string));
    let mut tables = Vec::new();
    for family in Family::BOTH {
        let exists = table(family, netlink).exists().await;
        if unknown.note(unless_absent(exists, Part::Nftables, netns).await) {
            tables.push(family);
        }
    }
    let sets = unless_absent(Ipsets::new(netns.clone()).save().await, Part::Ipsets, netns).await;
    let sets = unknown.note(sets).into_keys().filter(|name| name.starts_with(CHAIN_PREFIX));
    let remains = Remains {
        sets: sets.collect(),
        installed: installed(&settings.folders, &mut unknown),
        state: state(&settings.folders, &mut unknown),
        links: unknown.note(netlink.links().await),
        routes: unknown.note(netlink.routes(&RouteFilter::owned()).await),
        rules: unknown.note(netlink.rules(ANTREA_PROTOCOL).await),
        chains: !chains.is_empty(),
        tables,
    };
    (remains, unknown.0)
}

/// What could not be looked at.
#[derive(Debug, Default)]
struct Unknown(Vec<String>);

impl Unknown {
    /// What was found; nothing, which is noted, if it is not known.
    fn note<T: Default>(&mut self, found: Result<T, impl fmt::Display>) -> T {
        found.unwrap_or_else(|error| {
            self.0.push(error.to_string());
            T::default()
        })
    }

    /// Whether there is something at a path, be it a link that leads nowhere.
    fn exists(&mut self, path: &Path) -> bool {
        self.note(unless_missing(path, path.symlink_metadata().map(|_| true)))
    }
}

/// What a tool found; nothing where the tool is not installed, or the kernel lacks what it is for.
async fn unless_absent<T: Default>(found: netcfg::Result<T>, part: Part, netns: &Netns) -> netcfg::Result<T> {
    match found {
        Err(error) if error.is_missing_program() || !kernel_has(netns, part).await? => Ok(T::default()),
        other => other,
    }
}

/// What was found at a path; nothing where there is no such path.
fn unless_missing<T: Default>(path: &Path, found: io::Result<T>) -> Result<T, String> {
    match found {
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            Ok(T::default())
        }
        other => other.map_err(|error| format!("{}: {error}", path.display())),
    }
}

/// The configuration is first: from then on the runtime does not execute the plugin.
fn installed(folders: &Folders, unknown: &mut Unknown) -> Vec<PathBuf> {
    let mut files =
        vec![folders.cni_conf_dir.join(files::CONFIGURATION), folders.cni_plugin_dir.join(files::PLUGIN)];
    files.retain(|path| unknown.exists(path));
    files
}

fn state(folders: &Folders, unknown: &mut Unknown) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for folder in &folders.state_dir {
        let entries = std::fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let entries = unknown.note(unless_missing(folder, entries));
        paths.extend(entries.into_iter().map(|entry| entry.path()));
    }
    paths.extend(Some(folders.ipam_dir.join("antrea")).filter(|path| unknown.exists(path)));
    paths.sort();
    paths
}

fn table(family: Family, netlink: &Netlink) -> Nft {
    Nft::new(netlink.netns().clone(), family, egress::TABLE)
}

async fn perform(step: &Step, netlink: &Netlink) -> Result<(), StepError> {
    match step {
        Step::File(path) => remove(path.clone()).await?,
        Step::Link { name, .. } => drop(netlink.delete_link(name.as_str()).await?),
        Step::Datapath(name) => dpctl(&["del-dp", name]).await?,
        Step::DatapathPort { datapath, port } => dpctl(&["del-if", datapath, port]).await?,
        Step::Route(route) => drop(netlink.remove_route(route).await?),
        Step::Rule(rule) => drop(netlink.remove_rule(rule).await?),
        Step::Table(family) => table(*family, netlink).delete().await?,
        Step::Chains => iptables::cleanup_all(netlink.netns()).await?,
        Step::Set(name) => {
            drop(Ipsets::new(netlink.netns().clone()).destroy(|other| other == name.as_str()).await?);
        }
    }
    Ok(())
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Network(#[from] netcfg::Error),
    #[error(transparent)]
    Firewall(#[from] netcfg::NetcfgErrors),
    #[error("ovs-dpctl: {0}")]
    Datapath(String),
}

async fn remove(path: PathBuf) -> io::Result<()> {
    let removed = tokio::task::spawn_blocking(move || {
        if path.symlink_metadata()?.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        }
    });
    match removed.await.map_err(io::Error::other)? {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Open vSwitch's own tool for the kernel's datapath, which needs no daemon.
async fn dpctl(args: &[&str]) -> Result<(), StepError> {
    let failed = |what: &dyn fmt::Display| StepError::Datapath(what.to_string());
    let mut command = tokio::process::Command::new("ovs-dpctl");
    let output = command.args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(TOOL_LIMIT, output).await.map_err(|_| failed(&"did not end"))?;
    let output = output.map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(&String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_goes_first_and_only_what_exists_goes() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders {
            cni_conf_dir: root.path().join("conf"),
            cni_plugin_dir: root.path().join("bin"),
            ipam_dir: root.path().join("ipam"),
            state_dir: vec![root.path().join("run"), root.path().join("missing")],
            ovs_run_dir: None,
        };
        for file in [
            "conf/10-antrea.conflist",
            "conf/99-other.conf",
            "bin/antrea",
            "bin/loopback",
            "run/b",
            "run/a/x",
        ] {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let relative = |paths: Vec<PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path.strip_prefix(root.path()).unwrap().display().to_string()).collect()
        };
        let mut unknown = Unknown::default();
        assert_eq!(relative(installed(&folders, &mut unknown)), ["conf/10-antrea.conflist", "bin/antrea"]);
        assert_eq!(relative(state(&folders, &mut unknown)), ["run/a", "run/b"]);
        assert_eq!(unknown.0, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_looked_at_is_told() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        let folders = Folders {
            cni_conf_dir: path("loop"),
            cni_plugin_dir: path("file"),
            ipam_dir: path("loop"),
            state_dir: vec![path("loop"), path("file")],
            ovs_run_dir: None,
        };
        let mut unknown = Unknown::default();
        assert_eq!(installed(&folders, &mut unknown), Vec::<PathBuf>::new());
        assert_eq!(state(&folders, &mut unknown), Vec::<PathBuf>::new());
        assert_eq!(unknown.0.len(), 3, "{unknown:?}");
    }

    #[tokio::test]
    async fn removing_what_is_gone_succeeds() {
        let root = tempfile::tempdir().unwrap();
        remove(root.path().join("nothing")).await.unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        remove(root.path().join("a")).await.unwrap();
        assert!(!root.path().join("a").exists());
    }

    #[test]
    fn says_what_is_left_and_why() {
        let error = CleanupError::Left {
            left: vec![Step::Set("ANTREA-POD-IP".into())],
            unknown: Vec::new(),
            failures: vec!["ipset ANTREA-POD-IP: in use".into()],
        };
        assert_eq!(error.to_string(), "1 left: ipset ANTREA-POD-IP; ipset ANTREA-POD-IP: in use");
        let unknown = vec!["nft: a".into(), "ipset: b".into()];
        let error = CleanupError::Left { left: Vec::new(), unknown, failures: Vec::new() };
        assert_eq!(error.to_string(), "what else is left is not known: nft: a; ipset: b");
    }
}
