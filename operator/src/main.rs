//! Runs the whole life of one Antrea installation.

use std::{io::Write, path::PathBuf, sync::Arc, time::Duration};

use antrea_crds::{AntreaInstallation, AntreaInstallationSpec};
use antrea_operator::{
    VERSION, api,
    controller::{self, Context, Settings},
    effective::{Facts, RelatedImages, effective},
    metrics::{self, OperatorMetrics},
    render::{self, monitoring::Served},
    watches::{self, Shared},
};
use antrea_runtime::{
    client,
    health::Readiness,
    install_crypto_provider, lease, logging, signals,
    supervise::{self, Supervisor},
};
use anyhow::Context as _;
use apiserver_kit::tls::{ClientTrust, Tls};
use clap::{Parser, Subcommand};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio_util::sync::CancellationToken;

/// Antrea operator: installs, upgrades, watches over and removes Antrea.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    install: Install,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Run(Run),
    /// Print what an AntreaInstallation stands for, as YAML.
    PrintManifests {
        /// As in a cluster that serves monitoring.coreos.com/v1.
        #[arg(long)]
        monitoring_api: bool,
        /// File with an AntreaInstallation; an empty spec without it.
        file: Option<PathBuf>,
    },
    /// Container images.
    Images {
        #[command(subcommand)]
        command: ImagesCommand,
    },
}

#[derive(Subcommand)]
enum ImagesCommand {
    /// List every image that an AntreaInstallation makes Nodes pull, for a mirror.
    List {
        /// File with an AntreaInstallation; an empty spec without it.
        file: Option<PathBuf>,
    },
}

/// What is installed unless the AntreaInstallation says otherwise.
#[derive(clap::Args)]
struct Install {
    /// Version to install when spec.version is absent; the operator's own if empty.
    #[arg(long, global = true, env = "ANTREA_VERSION", default_value = "")]
    default_version: String,
    /// Complete reference of the agent's image for the default version.
    #[arg(long, global = true, env = "RELATED_IMAGE_ANTREA_AGENT", default_value = "")]
    agent_image: String,
    /// Complete reference of the controller's image for the default version.
    #[arg(long, global = true, env = "RELATED_IMAGE_ANTREA_CONTROLLER", default_value = "")]
    controller_image: String,
    /// URL of the API server that works without the Service "kubernetes"; used by the operator and passed
    /// on to agents and controller.
    #[arg(long, global = true, env = "KUBERNETES_API_SERVER", default_value = "")]
    kubernetes_api_server: String,
    /// Who brings definitions and the policy that checks AntreaInstallations.
    #[arg(long, global = true, env = "ANTREA_DELIVERY", value_enum, default_value_t)]
    delivery: render::Delivery,
    /// Namespace that the operator runs in.
    #[arg(long, global = true, env = "POD_NAMESPACE", default_value = "antrea-operator")]
    namespace: String,
}

#[derive(clap::Args)]
struct Run {
    /// Kubeconfig to use in place of the Pod's ServiceAccount.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Port for health and metrics, over TLS; metrics for those whom the API server lets read them.
    #[arg(long, default_value_t = 10352)]
    api_port: u16,
    /// Name of this process among those that compete for leadership.
    #[arg(long, env = "POD_NAME", default_value = "antrea-operator")]
    identity: String,
    /// Seconds that a trouble lasts before it counts as a failure.
    #[arg(long, default_value_t = 30)]
    failure_grace: i64,
    /// error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: logging::Format,
}

impl Install {
    fn facts(&self) -> Facts {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Facts {
            api_server: given(&self.kubernetes_api_server),
            default_version: given(&self.default_version).unwrap_or_else(|| VERSION.to_owned()),
            related: RelatedImages {
                agent: given(&self.agent_image),
                controller: given(&self.controller_image),
            },
            operator_namespace: self.namespace.clone(),
            ..Facts::default()
        }
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let facts = cli.install.facts();
    match cli.command {
        Command::Run(run) => {
            install_crypto_provider();
            logging::init("antrea-operator", &run.log_level, run.log_format)?;
            // One installation is reconciled at a time: a second thread would only cost memory.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(operate(run, facts, cli.install.delivery))
        }
        Command::PrintManifests { monitoring_api, file } => {
            let config = effective(&spec(file)?, &facts)?;
            let served = Served { service_monitors: monitoring_api, prometheus_rules: monitoring_api };
            let extras = render::extras(&config, served, &facts.operator_namespace);
            let mut out = std::io::stdout().lock();
            for object in render::objects(&config, &cli.install.delivery.into()).into_iter().chain(extras) {
                writeln!(out, "---\n{}", serde_saphyr::to_string(&object.body)?.trim_end())?;
            }
            Ok(())
        }
        Command::Images { command: ImagesCommand::List { file } } => {
            let mut out = std::io::stdout().lock();
            for image in render::images(&effective(&spec(file)?, &facts)?) {
                writeln!(out, "{image}")?;
            }
            Ok(())
        }
    }
}

fn spec(file: Option<PathBuf>) -> anyhow::Result<AntreaInstallationSpec> {
    let Some(path) = file else { return Ok(AntreaInstallationSpec::default()) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let cr: AntreaInstallation =
        serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    Ok(cr.spec)
}

async fn operate(run: Run, facts: Facts, delivery: render::Delivery) -> anyhow::Result<()> {
    let namespace = facts.operator_namespace.clone();
    let shutdown = signals::shutdown()?;
    let client = client::connect(run.kubeconfig.as_deref(), facts.api_server.as_deref()).await?;
    let metrics = metrics::register()?;
    let ready = Readiness::new();

    let mut tasks = Supervisor::new(shutdown.clone());
    let certificates = api::certificates(client.clone(), &namespace);
    let tls = Tls::new(certificates.bootstrap().await?, ClientTrust::default())?;
    let app =
        api::app(api::delegated(client.clone()), metrics.registry, metrics.server.clone(), ready.clone());
    tasks.spawn("api", api::serve(run.api_port, tls.clone(), app, metrics.server, shutdown.clone()));
    tasks.spawn_abortable(
        "certificate expiry",
        api::watch_expiry(client.clone(), tls.clone(), metrics.certificates),
    );
    let stop = shutdown.clone();
    tasks.spawn_abortable("certificates", async move {
        certificates.run(tls, stop).await;
        Ok::<_, std::convert::Infallible>(())
    });

    let operator = Operator {
        client,
        ready,
        metrics: metrics.operator,
        lease: lease::Config::new(&namespace, "antrea-operator", &run.identity),
        settings: Settings {
            facts,
            delivery,
            operator_version: VERSION.to_owned(),
            grace: SignedDuration::from_secs(run.failure_grace),
        },
    };
    tasks.spawn("leader", async move {
        while !shutdown.is_cancelled() {
            match operator.lead(&shutdown).await {
                // An API server that was away takes leadership with it; everything begins anew.
                Err(supervise::Error::Failed { name: LEASE, cause }) => {
                    tracing::warn!(cause, "no longer leading")
                }
                other => return other,
            }
        }
        Ok(())
    });
    tasks.run().await?;
    Ok(())
}

/// Task that holds the Lease.
const LEASE: &str = "lease";

/// What it takes to lead.
struct Operator {
    client: Client,
    ready: Readiness,
    metrics: OperatorMetrics,
    lease: lease::Config,
    settings: Settings,
}

impl Operator {
    /// Waits for leadership and leads until `shutdown` or until leadership is lost. A process that waits is
    /// ready: it does what it is there for.
    async fn lead(&self, shutdown: &CancellationToken) -> Result<(), supervise::Error> {
        let mut elector = lease::Elector::new(self.client.clone(), self.lease.clone());
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = elector.acquire() => {}
        }
        self.metrics.leader.set(1);
        let mut tasks = Supervisor::new(shutdown.child_token());
        tasks.spawn(LEASE, elector.hold(shutdown.clone()));
        let shared = Shared::new(Timestamp::now());
        watches::spawn(&mut tasks, &self.client, &shared, &self.ready);
        let context = Arc::new(Context::new(
            self.client.clone(),
            shared,
            self.settings.clone(),
            self.metrics.clone(),
            &self.lease.identity,
        ));
        let (stop, ready) = (tasks.token().clone(), self.ready.clone());
        tasks.spawn("controller", async move {
            // Decisions on half a view of the cluster could replace what is healthy.
            while !ready.is_ready() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
            controller::run(context, stop).await
        });
        let result = tasks.run().await;
        self.metrics.leader.set(0);
        result
    }
}
