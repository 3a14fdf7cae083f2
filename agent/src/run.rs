//! Starts what an agent consists of, and ends with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{Args, Errand};
use crate::bringup::Paths;
use crate::capture::Files;
use crate::cleanup;
use crate::config::AgentConfig;
use crate::facts::{Health, Identity, Reporter};
use crate::host::files;
use crate::life::Agent;
use crate::metrics::{self, Registered};
use crate::peers::watch::watch_nodes;
use crate::pods::server;
use crate::policy::{PolicyAgent, PolicyConfig, Record};
use crate::status::api::{self, ApiState, Renewal};
use crate::status::{events, publish};
use antrea_api::features::{self, Component};
use antrea_runtime::health::Readiness;
use antrea_runtime::level::{self, Follower};
use antrea_runtime::logging::{self, LogHandle};
use antrea_runtime::signals;
use antrea_runtime::supervise::Supervisor;
use antrea_runtime::trace::{self, Tracer, Tracing};
use anyhow::{Context, Result};
use apiserver_kit::tls::Offer;
use netcfg::Netns;
use netcfg::sysctl::Tree;
use ovs::Vswitch;
use ovs::db::SessionState;
use tokio::sync::watch;

/// Runs until a signal ends it, or one of its tasks does; or cleans the node, if the command line says so.
///
/// # Errors
/// The configuration is not usable, or a task ended with one.
pub async fn run(mut args: Args) -> Result<()> {
    match args.command.take() {
        Some(Errand::Cleanup(folders)) => clean(&args, folders).await,
        None => observed(args).await,
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

async fn observed(args: Args) -> Result<()> {
    let (config, unknown) = antrea_runtime::config::read::<AgentConfig>(&args.config)?;
    let metrics = metrics::register()?;
    let node =
        trace::Identity { service: "antrea-agent", version: crate::VERSION, node: args.node_name.clone() };
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
    let (vswitch, session) = Vswitch::spawn(socket, shutdown.clone());
    tasks.spawn("ovsdb session", session);
    tasks.spawn_abortable("ovsdb state", follow_ovsdb(vswitch.clone(), reporter.clone()));

    let (nodes, node_changes) = watch::channel(None);
    tasks.spawn_abortable("nodes", watch_nodes(client.clone(), nodes));

    let policy_config = PolicyConfig::new(
        client.clone(),
        args.node_name.clone(),
        args.pod_namespace.clone(),
        reporter.clone(),
    );
    let statistics = features::is_on(Component::Agent, "NetworkPolicyStats", &config.feature_gates)
        .then(|| (args.policy_dir.join("statistics.json"), Duration::from_secs(args.statistics_interval)));
    let record = Record::at(&args.policy_dir);
    let files = Files::new(args.packet_capture_dir);
    let policy_config = PolicyConfig { folder: args.policy_dir, token: args.token_file, ..policy_config };
    let dns_metrics = metrics.policy.dns.clone();
    let (policy, policy_agent) = PolicyAgent::new(policy_config, metrics.policy);
    tasks.spawn("policy", policy_agent.run(shutdown.clone()));

    let (network, network_state) = watch::channel(None);
    let cni_socket = PathBuf::from(&config.cni_socket);
    let cni_shutdown = shutdown.clone();
    let cni_network = network_state.clone();
    tasks.spawn("cni", async move { server::serve(&cni_socket, cni_network, tracer, cni_shutdown).await });

    let kube = client.clone();
    let renewal = Renewal::default();
    let offer = Offer::new(&config.tls_min_version, &config.tls_cipher_suites)?;
    let tls = api::tls(&reporter, &metrics.certificate, &renewal, offer)?;
    let pod = (args.pod_namespace.clone(), args.pod_name.clone());
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
        ovs_run_dir: PathBuf::from(&config.ovs_run_dir),
        record,
        captures: files.clone(),
        log,
        gates: features::report(Component::Agent, &config.feature_gates),
    };
    let exposed = config.enable_prometheus_metrics.then_some(metrics.registry);
    let routes = api::routes(state, &args.config, (ready, live), exposed, metrics.server.clone());
    let auth = api::authentication(client.clone(), &args.node_name, &args.api_token_file);
    let serving = api::serve(config.api_port, tls.clone(), auth, routes, metrics.server, shutdown.clone());
    tasks.spawn("api", serving);
    tasks.spawn_abortable("client trust", api::follow_trust(client.clone(), tls.clone()));
    tasks.spawn_abortable("certificate", api::renew(tls, reporter.clone(), metrics.certificate, renewal));
    let events = events::publish(client.clone(), identity.clone(), reporter.subscribe());
    tasks.spawn_abortable("events", events);
    tasks.spawn_abortable("status", publish::publish(client, identity, reporter.clone()));
    tasks.spawn_abortable("conditions", publish::measure(reporter.subscribe(), metrics.agent.clone()));

    let folders = args.host_cni_bin_dir.zip(args.host_cni_conf_dir);
    let installed = folders.map(|(plugins, configurations)| files::Sources {
        plugin: PathBuf::from("/usr/local/bin/antrea-cni"),
        chained: args.cni_bin_dir.first().cloned().unwrap_or_default(),
        configuration: args.config.with_file_name("antrea-cni.conflist"),
        plugins,
        configurations,
    });
    let services = features::is_on(Component::Agent, "AntreaProxy", &config.feature_gates);
    let traceflow = features::is_on(Component::Agent, "Traceflow", &config.feature_gates);
    let captures = features::is_on(Component::Agent, "PacketCapture", &config.feature_gates);
    let agent = Agent {
        config,
        paths: Paths {
            installed,
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
        dns_metrics,
        services: services.then(|| (kube.clone(), metrics.proxy)),
        captures: captures.then(|| (kube.clone(), files, pod)),
        traceflow: traceflow.then(|| kube.clone()),
        probes: kube,
        statistics,
        audit_log: args.audit_log,
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
