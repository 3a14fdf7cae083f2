//! Computes NetworkPolicy and distributes it.

use std::path::PathBuf;

use antrea_controller::{Process, VERSION, config::ControllerConfig, metrics, run};
use antrea_runtime::{
    config, install_crypto_provider,
    level::{self, Follower},
    logging, signals,
    trace::{self, Tracing},
};
use anyhow::Context;
use clap::Parser;

/// Antrea controller: computes NetworkPolicies and serves them to the agents.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file in YAML.
    #[arg(long)]
    config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a number as klog has it; before the configuration's.
    #[arg(long, short = 'v', alias = "v", env = "LOG_LEVEL")]
    log_level: Option<String>,
    /// text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: logging::Format,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    install_crypto_provider();
    // Two workers keep a blocked one from stalling health; more only cost memory here.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("tokio runtime")?
        .block_on(start(args))
}

async fn start(args: Args) -> anyhow::Result<()> {
    let (config, unknown) = match &args.config {
        Some(path) => config::read::<ControllerConfig>(path)?,
        None => Default::default(),
    };
    let (process, metrics) = (Process::from_env(), metrics::register()?);
    let process = Process { config: args.config.clone(), ..process };
    let identity =
        trace::Identity { service: "antrea-controller", version: VERSION, node: process.node.clone() };
    let (tracing, refused) = Tracing::start_or_off(&config.tracing, &identity, None, metrics.spans.clone());
    let level = args.log_level.as_ref().unwrap_or(&config.log_level);
    let log = logging::init_with("antrea-controller", level, args.log_format, tracing.layer())?;
    if let Some(error) = refused {
        tracing::error!(%error, "spans are not exported");
    }
    let shutdown = signals::shutdown()?;
    let mut follower = None;
    if let Some(path) = &args.config {
        config::report(path, &unknown);
        if args.log_level.is_none() {
            follower = Some(Follower::new(log.clone(), path, &config.log_level));
        }
    }
    let follow = async {
        match follower {
            Some(follower) => follower.run(level::EVERY).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = run(config, process, log, metrics, tracing.tracer(), shutdown) => result,
        never = follow => match never {},
    };
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    tracing.finish().await;
    result
}
