//! The agent: one on every node.
//!
//! ```text
//!  API server ── Node objects ──► nodes ──► peering ──► routes, rules, tunnel forwarding
//!                                               │
//!  kubelet ─► antrea-cni ─► cni::server ─► attach ──► dataplane ──► OpenFlow ─┐
//!                                               └──► vswitch ─────► OVSDB ────┴─► ovs-vswitchd
//!  status ──► AntreaAgentInfo
//! ```
//!
//! Invariants:
//! - OVSDB's external_ids are the only memory of attachments; a restarted agent finds everything there.
//! - No flow is removed before its successor is in: flows of an earlier process go in the transaction
//!   that brings the new ones.
//! - A failure keeps what works: without API server, controller or agent, pods keep talking.

#![deny(unsafe_code)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antrea_agent::api::{self, ApiState, Renewal};
use antrea_agent::bridge::BringUpError;
use antrea_agent::bringup::{self, Inputs, Paths, Wired};
use antrea_agent::cleanup;
use antrea_agent::cni::server;
use antrea_agent::config::AgentConfig;
use antrea_agent::host::Host;
use antrea_agent::hostnet::HostNetwork;
use antrea_agent::metrics::{self, AgentMetrics, Registered};
use antrea_agent::node::NodeNetwork;
use antrea_agent::nodes::{Nodes, watch_nodes};
use antrea_agent::peering::Peering;
use antrea_agent::peers::Peer;
use antrea_agent::policy::{PolicyAgent, PolicyConfig, PolicyHandle};
use antrea_agent::restore;
use antrea_agent::status::{Health, Identity, Reporter};
use antrea_agent::{conntrack, publish, selftest};
use antrea_api::features::{self, Component};
use antrea_runtime::health::Readiness;
use antrea_runtime::level::{self, Follower};
use antrea_runtime::logging::{self, LogHandle};
use antrea_runtime::signals;
use antrea_runtime::supervise::Supervisor;
use antrea_runtime::trace::{self, Tracer, Tracing};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use netcfg::sysctl::Tree;
use netcfg::{Netlink, Netns};
use ovs::Vswitch;
use ovs::db::SessionState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause before bring-up is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// The Antrea agent.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// antrea-agent.conf
    #[arg(long)]
    config: PathBuf,
    /// Name of the Node object.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Name of the agent's pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod_name: String,
    /// Namespace of the agent's pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-system")]
    pod_namespace: String,
    /// Folder with the host-local plugin; CNI_PATH of each call comes after it.
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: Vec<PathBuf>,
    /// host-local's data, where it is not /var/lib/cni/networks.
    #[arg(long)]
    cni_data_dir: Option<PathBuf>,
    /// Where the kernel's parameters can be written: /proc/sys is read-only in a container without
    /// privileges.
    #[arg(long, default_value = "/proc/sys")]
    sysctl_dir: PathBuf,
    /// Folder that keeps what the controller said last, for a start without it.
    #[arg(long, default_value = "/var/run/antrea/networkpolicy")]
    policy_dir: PathBuf,
    /// File with the token that the agent shows to the controller.
    #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
    token_file: PathBuf,
    /// Where antctl in the same Pod finds a token for the agent's API.
    #[arg(long, default_value = "/var/run/antrea/apiserver/loopback-client-token")]
    api_token_file: PathBuf,
    /// error, warn, info, debug, trace, or a number as klog has it; before the configuration's.
    #[arg(long, short = 'v', alias = "v", env = "LOG_LEVEL")]
    log_level: Option<String>,
    /// text or json; before the configuration's.
    #[arg(long, env = "LOG_FORMAT")]
    log_format: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take off this node, for good, what agent and Open vSwitch have put there; they must have ended.
    Cleanup(cleanup::Folders),
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    antrea_runtime::install_crypto_provider();
    // Two threads: a node has its cores for pods. Blocking work runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    match args.command.take() {
        Some(Command::Cleanup(folders)) => runtime.block_on(clean(&args, folders)),
        None => runtime.block_on(run(args)),
    }
}

async fn clean(args: &Args, folders: cleanup::Folders) -> Result<()> {
    let config: AgentConfig = antrea_runtime::config::load(&args.config)?;
    let level = args.log_level.as_ref().unwrap_or(&config.log_level);
    let format = args.log_format.as_ref().unwrap_or(&config.log_format);
    logging::init("antrea-agent", level, format.parse()?)?;
    let settings = cleanup::Settings {
        bridge: config.ovs_bridge,
        gateway: config.host_gateway,
        cni_socket: config.cni_socket.into(),
        ovsdb_socket: folders.ovs_run_dir.clone().unwrap_or(config.ovs_run_dir.into()).join("db.sock"),
        folders,
    };
    let done = cleanup::run(&settings).await.context("the node is not clean")?;
    tracing::info!(node = args.node_name, steps = done.len(), "the node is clean");
    Ok(())
}

async fn run(args: Args) -> Result<()> {
    let (config, unknown) = antrea_runtime::config::read::<AgentConfig>(&args.config)?;
    let metrics = metrics::register()?;
    let node = trace::Identity {
        service: "antrea-agent",
        version: antrea_agent::VERSION,
        node: args.node_name.clone(),
    };
    let counters = metrics.spans.clone();
    let (tracing, refused) = Tracing::start_or_off(&config.tracing, &node, Some("antrea-cni"), counters);
    let level = args.log_level.as_ref().unwrap_or(&config.log_level);
    let format = args.log_format.as_ref().unwrap_or(&config.log_format);
    let log = logging::init_with("antrea-agent", level, format.parse()?, tracing.layer())?;
    antrea_runtime::config::report(&args.config, &unknown);
    if let Some(error) = refused {
        tracing::error!(%error, file = %args.config.display(), "spans are not exported");
    }
    config.validate().with_context(|| args.config.display().to_string())?;
    let result = serve(args, config, metrics, log, tracing.tracer()).await;
    tracing.finish().await;
    result
}

async fn serve(
    args: Args,
    config: AgentConfig,
    metrics: Registered,
    log: LogHandle,
    tracer: Tracer,
) -> Result<()> {
    let kubeconfig =
        Some(Path::new(&config.client_connection.kubeconfig)).filter(|p| !p.as_os_str().is_empty());
    let server = Some(config.kube_api_server_override.as_str()).filter(|url| !url.is_empty());
    let client = antrea_runtime::client::connect(kubeconfig, server).await?;

    let shutdown = signals::shutdown()?;
    let mut tasks = Supervisor::new(shutdown.clone());
    let reporter = Reporter::default();
    if args.log_level.is_none() {
        let follower = Follower::new(log.clone(), &args.config, &config.log_level);
        tasks.spawn_abortable("log level", async move { Err::<(), _>(follower.run(level::EVERY).await) });
    }

    let (ready, live) = (Readiness::new(), Readiness::new());
    let not_up = ready.block("network");
    let socket = PathBuf::from(&config.ovs_run_dir).join("db.sock");
    let (vswitch, _) = Vswitch::spawn(socket, shutdown.clone());
    tasks.spawn_abortable("ovsdb state", follow_ovsdb(vswitch.clone(), reporter.clone()));

    let (nodes, node_changes) = watch::channel(None);
    tasks.spawn_abortable("nodes", watch_nodes(client.clone(), nodes));

    let policy_config = PolicyConfig::new(
        client.clone(),
        args.node_name.clone(),
        args.pod_namespace.clone(),
        reporter.clone(),
    );
    let policy_config = PolicyConfig { folder: args.policy_dir, token: args.token_file, ..policy_config };
    let (policy, policy_agent) = PolicyAgent::new(policy_config, metrics.policy);
    tasks.spawn("policy", policy_agent.run(shutdown.clone()));

    let (network, network_state) = watch::channel(None);
    let cni_socket = PathBuf::from(&config.cni_socket);
    let cni_shutdown = shutdown.clone();
    let cni_network = network_state.clone();
    tasks.spawn("cni", async move { server::serve(&cni_socket, cni_network, tracer, cni_shutdown).await });

    let renewal = Renewal::default();
    let tls = api::tls(&reporter, &metrics.certificate, &renewal)?;
    let identity = Identity {
        node: args.node_name.clone(),
        pod: args.pod_name,
        namespace: args.pod_namespace,
        bridge: config.ovs_bridge.clone(),
        api_port: config.api_port,
    };
    let state = ApiState {
        reporter: reporter.clone(),
        identity: identity.clone(),
        network: network_state,
        log,
        gates: features::report(Component::Agent, &config.feature_gates),
    };
    let exposed = config.enable_prometheus_metrics.then_some(metrics.registry);
    let routes = api::routes(state, ready, live, exposed);
    let auth = api::authentication(client.clone(), &args.api_token_file);
    let serving = api::serve(config.api_port, tls.clone(), auth, routes, metrics.server, shutdown.clone());
    tasks.spawn("api", serving);
    tasks.spawn_abortable("client trust", api::follow_trust(client.clone(), tls.clone()));
    tasks.spawn_abortable("certificate", api::renew(tls, reporter.clone(), metrics.certificate, renewal));
    tasks.spawn_abortable("status", publish::publish(client, identity, reporter.clone()));
    tasks.spawn_abortable("conditions", publish::measure(reporter.subscribe(), metrics.agent.clone()));

    let agent = Agent {
        config,
        paths: Paths {
            cni_bin: args.cni_bin_dir,
            cni_data: args.cni_data_dir,
            sysctls: Tree::new(args.sysctl_dir),
        },
        node_name: args.node_name,
        netlink: Netns::current()?.spawn_netlink().await?,
        vswitch,
        policy,
        reporter,
        metrics: metrics.agent,
        shutdown: shutdown.clone(),
    };
    tasks.spawn_abortable("network", async move { agent.run(node_changes, network, not_up).await });

    tasks.run().await?;
    Ok(())
}

/// Passes the OVSDB session's state on.
async fn follow_ovsdb(vswitch: Vswitch, reporter: Reporter) -> Result<(), std::convert::Infallible> {
    let mut connected = vswitch.connected();
    loop {
        let health = if *connected.borrow_and_update() {
            Health::Good
        } else {
            let cause = match &*vswitch.state().borrow() {
                SessionState::Disconnected { error } => error.to_string(),
                SessionState::Synced { .. } => "not synchronised yet".to_owned(),
            };
            Health::bad(
                "OVSDBDisconnected",
                format!(
                    "{cause}; ports cannot be changed, so new pods wait: see whether ovsdb-server runs in the \
                         container antrea-ovs"
                ),
            )
        };
        reporter.update(|facts| facts.ovsdb = health);
        if connected.changed().await.is_err() {
            return Ok(());
        }
    }
}

struct Agent {
    config: AgentConfig,
    paths: Paths,
    node_name: String,
    netlink: Netlink,
    vswitch: Vswitch,
    policy: PolicyHandle,
    reporter: Reporter,
    metrics: AgentMetrics,
    shutdown: CancellationToken,
}

impl Agent {
    async fn run(
        self,
        mut nodes: watch::Receiver<Option<Nodes>>,
        network: watch::Sender<Option<Arc<NodeNetwork>>>,
        not_up: antrea_runtime::health::BlockReady,
    ) -> Result<()> {
        let (own, (wired, peering, host)) = loop {
            // Read again for each try: what failed may be mended there.
            let own = self.own_node(&mut nodes).await?;
            match self.bring_up(&own, &nodes).await {
                Ok(up) => break (own, up),
                Err(error) => {
                    tracing::error!(reason = error.reason, %error, "the node's network is not up");
                    not_up.set_reason(error.message.clone());
                    self.reporter.update(|facts| facts.network = Health::bad(error.reason, &error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.reporter.update(|facts| {
            facts.network = Health::Good;
            facts.network_info = Some(wired.facts.clone());
        });
        network.send_replace(Some(wired.network.clone()));
        drop(not_up);
        tracing::info!(
            datapath = wired.bridge.datapath.ovs_type(),
            tunnel = wired.bridge.tunnel_type.ovs_type(),
            mtu = wired.network.mtu,
            pods = wired.network.interfaces().len(),
            round = wired.bridge.round,
            "the node's network is up"
        );
        let counts = self.follow_counts(&wired.network);
        let moved = self.moved(nodes.clone(), &own);
        let self_test = selftest::run(&self.config.host_gateway, &self.reporter, &self.metrics.self_test);
        let run_dir = PathBuf::from(&self.config.ovs_run_dir);
        let conntrack = conntrack::run(wired.bridge.datapath, run_dir, &self.metrics.conntrack);
        tokio::select! {
            () = peering.run(nodes.clone(), self.shutdown.clone()) => Ok(()),
            moved = host.run(nodes, self.shutdown.clone()) => moved.map_err(Into::into),
            () = counts => Ok(()),
            () = restore::follow(&wired.network) => Ok(()),
            change = moved => change,
            never = self_test => match never {},
            never = conntrack => match never {},
        }
    }

    /// Waits until the Node object of this node has what is needed.
    async fn own_node(&self, nodes: &mut watch::Receiver<Option<Nodes>>) -> Result<Arc<Peer>> {
        let known = self.own(&nodes.borrow());
        if let Some(known) = known {
            return Ok(known);
        }
        self.reporter.update(|facts| {
            let message = format!("Node {} has no pod subnet or no address yet", self.node_name);
            facts.network = Health::bad("NodeIncomplete", message);
        });
        loop {
            nodes.changed().await.context("watch on nodes ended")?;
            let known = self.own(&nodes.borrow_and_update());
            if let Some(known) = known {
                return Ok(known);
            }
        }
    }

    fn own(&self, nodes: &Option<Nodes>) -> Option<Arc<Peer>> {
        nodes.as_ref().and_then(|nodes| nodes.get(&self.node_name).cloned())
    }

    /// Where the other nodes are, as far as they are known.
    fn peers(&self, nodes: &Nodes) -> Vec<IpAddr> {
        let others = nodes.values().filter(|peer| peer.name != self.node_name);
        others.flat_map(|peer| peer.transport_ips.clone()).collect()
    }

    async fn bring_up(
        &self,
        own: &Arc<Peer>,
        nodes: &watch::Receiver<Option<Nodes>>,
    ) -> Result<(Box<Wired>, Peering, Host), BringUpError> {
        let peers = self.peers(&nodes.borrow().clone().unwrap_or_default());
        let inputs = Inputs {
            config: &self.config,
            paths: &self.paths,
            node: own,
            peers: &peers,
            netlink: &self.netlink,
            vswitch: &self.vswitch,
            policy: &self.policy,
            reporter: &self.reporter,
            metrics: &self.metrics,
            shutdown: &self.shutdown,
        };
        let mut wired = bringup::wire(&inputs).await?;
        if let Some(task) = wired.take_dataplane() {
            tokio::spawn(task.run(self.shutdown.clone()));
        }
        bringup::stage(&wired.network).await?;
        let host_network = HostNetwork::new(
            self.netlink.clone(),
            &bringup::families(&own.pod_cidrs),
            self.paths.sysctls.clone(),
        )
        .await
        .map_err(|error| BringUpError::new("HostNetworkFailed", error))?;
        let mut peering = Peering {
            network: wired.network.clone(),
            underlay: wired.underlay.clone(),
            reporter: self.reporter.clone(),
        };
        let mut host = Host::new(
            wired.network.clone(),
            self.config.clone(),
            wired.bridge.clone(),
            (wired.underlay.clone(), wired.facts.transport_interface.clone()),
            (wired.host.clone(), host_network),
            self.reporter.clone(),
        );
        let current = nodes.borrow().clone().unwrap_or_default();
        // What fails here is in the AgentHealthy condition and tried again; pods need not wait for it.
        peering.apply(&current).await;
        host.apply(&current).await.map_err(|error| BringUpError::new("TransportChanged", error))?;
        bringup::go_live(&wired.network, &wired.bridge).await?;
        Ok((Box::new(wired), peering, host))
    }

    async fn follow_counts(&self, network: &NodeNetwork) {
        let mut count = network.interface_count();
        loop {
            let pods = i32::try_from(*count.borrow_and_update()).unwrap_or(i32::MAX);
            self.metrics.local_pods.set(pods.into());
            self.reporter.update(|facts| facts.local_pods = pods);
            if count.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends when this node's own subnet or address changes: everything depends on them, and a fresh
    /// process is the one path that is always tested.
    async fn moved(&self, mut nodes: watch::Receiver<Option<Nodes>>, own: &Peer) -> Result<()> {
        loop {
            nodes.changed().await.context("watch on nodes ended")?;
            let now = self.own(&nodes.borrow_and_update());
            if let Some(now) = now
                && now.has_moved_from(own)
            {
                anyhow::bail!("Node {} changed from {own:?} to {now:?}, starting again", self.node_name);
            }
        }
    }
}
