//! The agent's command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cleanup;

/// The Antrea agent.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// antrea-agent.conf
    #[arg(long)]
    pub config: PathBuf,
    /// Name of the Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Name of the agent's pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// Namespace of the agent's pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-system")]
    pub pod_namespace: String,
    /// Folder with the host-local plugin; CNI_PATH of each call comes after it.
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// The node's folder of CNI plugins; those that were installed there are kept as they are.
    #[arg(long, requires = "host_cni_conf_dir")]
    pub host_cni_bin_dir: Option<PathBuf>,
    /// The node's folder of CNI configurations; that of antrea is kept as it was installed.
    #[arg(long, requires = "host_cni_bin_dir")]
    pub host_cni_conf_dir: Option<PathBuf>,
    /// host-local's data, where it is not /var/lib/cni/networks.
    #[arg(long)]
    pub cni_data_dir: Option<PathBuf>,
    /// Where the kernel's parameters can be written: /proc/sys is read-only in a container without
    /// privileges.
    #[arg(long, default_value = "/proc/sys")]
    pub sysctl_dir: PathBuf,
    /// Folder that keeps what the controller said last, for a start without it.
    #[arg(long, default_value = "/var/run/antrea/networkpolicy")]
    pub policy_dir: PathBuf,
    /// The log of what policies decide.
    #[arg(long, default_value = "/var/log/antrea/networkpolicy/np.log")]
    pub audit_log: PathBuf,
    /// Folder for the files of PacketCaptures.
    #[arg(long, default_value = "/tmp/antrea/packetcapture/packets")]
    pub packet_capture_dir: PathBuf,
    /// Seconds between two looks at what policies let through and what not, with the gate NetworkPolicyStats.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub statistics_interval: u64,
    /// File with the token that the agent shows to the controller.
    #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
    pub token_file: PathBuf,
    /// Where antctl in the same Pod finds a token for the agent's API.
    #[arg(long, default_value = "/var/run/antrea/apiserver/loopback-client-token")]
    pub api_token_file: PathBuf,
    /// error, warn, info, debug, trace, or a number as klog has it; before the configuration's.
    #[arg(long, short = 'v', alias = "v", env = "LOG_LEVEL")]
    pub log_level: Option<String>,
    /// text or json; before the configuration's.
    #[arg(long, env = "LOG_FORMAT")]
    pub log_format: Option<String>,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Errand>,
}

/// What the binary does besides running as the agent.
#[derive(Debug, Subcommand)]
pub enum Errand {
    /// Take off this node, for good, what agent and Open vSwitch have put there; they must have ended.
    Cleanup(cleanup::Folders),
}
