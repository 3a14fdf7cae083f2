//! The Antrea controller: watches the cluster, computes NetworkPolicy, serves it to agents.
//!
//! ```text
//!  Pods, Namespaces, NetworkPolicies ─► policy (index, hub)
//!  Tiers, native policies, groups ────► (gate AntreaPolicy) ─► their statuses
//!  Nodes ─────────► nodes ──► one AntreaAgentInfo per Node
//!  Traceflows ────► traceflow ► their turns and ends
//!  PacketCaptures ► capture ──► ends of those that no agent tells of
//!  AntreaInstallation ► release (only when its operator is gone)
//!  health, counts ► info  ──► AntreaControllerInfo
//!                   server ─► :10349  health · metrics · log level · aggregated API
//! ```
//!
//! Invariants:
//! - Fail static: a watch that fails or an API server that is away changes nothing that is computed.
//! - The controller reaches the API server without any Service network.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use antrea_api::{
    controlplane,
    features::{self, Component},
    stats, system as wire,
};
use antrea_runtime::{client, health::Readiness, logging::LogHandle, supervise::Supervisor, trace::Tracer};
use antrea_support::Bundles;
use anyhow::Context;
use apiserver_kit::{
    api::Api,
    auth::{Auth, local_token},
    gate,
    publish::{CertManager, Source, Webhooks},
    review::KubeReviewer,
    serve,
    tls::{ClientTrust, Offer, Tls},
    trust,
};
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod capture;
pub mod config;
mod identity;
pub mod info;
pub mod metrics;
pub mod nodes;
pub mod policy;
mod release;
pub mod server;
pub mod system;
mod traceflow;

use config::ControllerConfig;

/// Field manager of everything that the controller writes.
pub const MANAGER: &str = "antrea-controller";

/// Where antctl in the same Pod finds its token.
const LOCAL_TOKEN: &str = "/var/run/antrea/apiserver/loopback-client-token";

/// Upstream's names of the configurations by which the API server asks about policies.
const VALIDATOR: &str = "crdvalidator.antrea.io";
const MUTATOR: &str = "crdmutator.antrea.io";

/// Interval at which objects are counted.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Version of this build.
pub use antrea_api::VERSION;

/// Where this process runs.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Name of the Pod, empty outside of one.
    pub pod: String,
    /// Namespace of Antrea.
    pub namespace: String,
    /// Name of the Node, empty if unknown.
    pub node: String,
    /// The configuration file, if there is one.
    pub config: Option<PathBuf>,
}

impl Process {
    /// From `POD_NAME`, `POD_NAMESPACE` (default `kube-system`) and `NODE_NAME`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).unwrap_or_default();
        let namespace = Some(var("POD_NAMESPACE")).filter(|n| !n.is_empty());
        Self {
            pod: var("POD_NAME"),
            namespace: namespace.unwrap_or_else(|| "kube-system".to_owned()),
            node: var("NODE_NAME"),
            config: None,
        }
    }
}

/// Runs the controller until `shutdown` or until a part of it fails.
///
/// # Errors
/// Unusable configuration, a port that is taken, or the part that failed.
pub async fn run(
    config: ControllerConfig,
    process: Process,
    log: LogHandle,
    metrics: metrics::Registered,
    tracer: Tracer,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tracing::info!(version = VERSION, ?process, "antrea-controller starts");
    config.check()?;
    let offer = Offer::new(&config.tls_min_version, &config.tls_cipher_suites)?;
    let client = client::connect(config.kubeconfig(), config.api_server()).await?;
    let ready = Readiness::new();
    // What is wrong now; shown as the condition ControllerHealthy.
    let problems = Readiness::new();

    let gate = |name| features::is_on(Component::Controller, name, &config.feature_gates);
    let native = gate("AntreaPolicy");
    let watched = match (native, gate("ClusterNetworkPolicy")) {
        (false, _) => policy::Native::None,
        (true, false) => policy::Native::Antrea,
        (true, true) => policy::Native::AntreaAndStandard,
    };
    let certificates = certificates(&config, &process, client.clone(), native);
    let cert = certificates.bootstrap().await.context("serving certificate")?;
    let tls = Tls::offering(cert, initial_trust(&client).await, offer)?;

    let mut tasks = Supervisor::new(shutdown.clone());
    let (counts, counts_seen) = watch::channel(info::Counts::default());

    let hub = policy::hub(metrics.policy, tracer);
    let (mistakes, told) = policy::mistakes();
    let writing = policy::write_events(told, client.clone(), process.pod.clone());
    tasks.spawn_abortable("policy events", never_ends(writing));
    for (name, feed) in policy::feeds(&client, &hub, watched, &ready, &problems, &mistakes) {
        tasks.spawn_abortable(name, never_ends(feed));
    }
    if native {
        let writing = policy::write_statuses(Arc::clone(&hub), client.clone());
        tasks.spawn_abortable("policy statuses", never_ends(writing));
        let writing = policy::write_group_statuses(Arc::clone(&hub), client.clone());
        tasks.spawn_abortable("group statuses", never_ends(writing));
        tasks.spawn_abortable("tiers", never_ends(policy::keep_tiers(client.clone())));
    }
    let seen = Arc::clone(&hub);
    tasks.spawn_abortable("counts", never_ends(count(seen, counts)));

    let status = metrics.status.follow(problems.clone(), counts_seen.clone());
    tasks.spawn_abortable("status metrics", never_ends(status));

    let nodes = nodes::run(client.clone(), ready.block("nodes"));
    tasks.spawn_abortable("agent infos", never_ends(nodes));
    tasks.spawn_abortable("release", never_ends(release::run(client.clone())));
    if features::is_on(Component::Controller, "Traceflow", &config.feature_gates) {
        tasks.spawn_abortable("traceflows", never_ends(traceflow::run(client.clone())));
    }
    if features::is_on(Component::Controller, "PacketCapture", &config.feature_gates) {
        tasks.spawn_abortable("packet captures", never_ends(capture::run(client.clone())));
    }
    let identity = identity::run(client.clone(), process.namespace.clone());
    tasks.spawn_abortable("cluster identity", never_ends(identity));
    let facts = info::Facts::new(&process, config.api_port, problems.clone(), counts_seen);
    let publisher = info::Publisher::new(client.clone(), facts.clone());
    tasks.spawn_abortable("controller info", never_ends(publisher.run()));
    tasks.spawn_abortable(
        "certificate expiry",
        never_ends(metrics::watch_expiry(tls.clone(), metrics.certificate)),
    );
    let stop = shutdown.clone();
    let serving = tls.clone();
    tasks.spawn_abortable("certificates", never_ends(async move { certificates.run(serving, stop).await }));
    tasks.spawn_abortable("client trust", never_ends(trust::follow(client.clone(), tls.clone())));

    let api = policy::api(Api::new(VERSION, metrics.server.clone()), &hub, &process.namespace);
    let counted = features::is_on(Component::Controller, "NetworkPolicyStats", &config.feature_gates);
    let api = policy::statistics(api, &hub, &process.namespace, counted);
    let exposed = config.enable_prometheus_metrics.then(|| metrics.registry.clone());
    let bundles = Bundles::new(
        "controller",
        system::Support {
            log: log.clone(),
            config: process.config.clone(),
            facts: facts.clone(),
            hub: Arc::clone(&hub),
            metrics: exposed,
        },
    );
    let api = bundles.serve(system::controller_infos(api, facts));
    let subnets = policy::Subnets::of_nodes(client.clone());
    let routes = server::routes(&config, metrics.registry, log, ready)
        .merge(api.router())
        .merge(bundles.download())
        .merge(policy::lookup(&hub))
        .merge(policy::endpoints(&hub))
        .merge(policy::addresses(&hub, &process.namespace, subnets));
    let routes = policy::own_node(routes, &process.namespace);
    let mut app = gate::protect(routes, authentication(client), metrics.server.clone());
    if native {
        app = app.merge(policy::admission(&hub, metrics.admission));
    }
    let listener = serve::listen(config.api_port).await?;
    tracing::info!(port = config.api_port, "serving");
    tasks.spawn(
        "api server",
        serve::serve(listener, tls, app, serve::Limits::CLUSTER, metrics.server, shutdown.clone()),
    );
    tasks.spawn("watches", async move {
        // Open watches would hold the server back at shutdown.
        shutdown.cancelled().await;
        hub.close();
        Ok::<_, std::convert::Infallible>(())
    });

    Ok(tasks.run().await?)
}

/// Keeps the published numbers up to date. They are for people: seconds are soon enough.
async fn count(hub: Arc<policy::PolicyHub>, counts: watch::Sender<info::Counts>) {
    loop {
        let now = policy::counts(&hub);
        counts.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Delegated to the API server; antctl in the same Pod uses a token of its own.
fn authentication(client: Client) -> Auth {
    let auth = Auth::new(Arc::new(KubeReviewer::new(client)));
    match local_token(Path::new(LOCAL_TOKEN)) {
        Ok(token) => auth.with_local_token(&token),
        Err(error) => {
            tracing::warn!(path = LOCAL_TOKEN, %error, "antctl in this Pod has no token");
            auth
        }
    }
}

/// For tasks that have no way to fail: they end only by being dropped.
async fn never_ends(task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    task.await;
    Ok(())
}

/// Without the ConfigMap only bearer tokens authenticate, until it can be read.
async fn initial_trust(client: &Client) -> ClientTrust {
    match tokio::time::timeout(Duration::from_secs(10), trust::fetch(client)).await {
        Ok(Ok(trust)) => trust,
        Ok(Err(error)) => {
            tracing::warn!(
                error = client::describe(&error),
                "client CAs cannot be read: only tokens authenticate for now"
            );
            ClientTrust::default()
        }
        Err(_) => {
            tracing::warn!("the API server does not answer: only tokens authenticate for now");
            ClientTrust::default()
        }
    }
}

fn certificates(config: &ControllerConfig, process: &Process, client: Client, native: bool) -> CertManager {
    let namespace = &process.namespace;
    let source = if config.self_signed_cert {
        Source::Issued {
            name: "antrea".to_owned(),
            names: vec![
                format!("antrea.{namespace}.svc"),
                format!("antrea.{namespace}.svc.cluster.local"),
                format!("antrea.{namespace}"),
                "antrea".to_owned(),
                "localhost".to_owned(),
                "127.0.0.1".to_owned(),
                "::1".to_owned(),
            ],
            secret: "antrea-controller-tls".to_owned(),
        }
    } else {
        Source::Files("/var/run/antrea/antrea-controller-tls".into())
    };
    CertManager {
        client,
        namespace: namespace.clone(),
        source,
        config_map: "antrea-ca".to_owned(),
        api_services: [
            (controlplane::VERSION, controlplane::GROUP),
            (stats::VERSION, stats::GROUP),
            (wire::VERSION, wire::GROUP),
        ]
        .map(|(version, group)| format!("{version}.{group}"))
        .into(),
        webhooks: if native {
            vec![Webhooks::Validating(VALIDATOR), Webhooks::Mutating(MUTATOR)]
        } else {
            Vec::new()
        },
        manager: MANAGER.to_owned(),
    }
}
