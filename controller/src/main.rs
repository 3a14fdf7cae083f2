//! Computes NetworkPolicy and distributes it.

use std::{path::PathBuf, process::ExitCode};

use antrea_controller::{Process, config::ControllerConfig, run};
use antrea_runtime::{config, install_crypto_provider, logging, signals};
use anyhow::Context;
use clap::Parser;

/// Antrea controller: computes NetworkPolicies and serves them to the agents.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file in YAML.
    #[arg(long)]
    config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a number as klog has it.
    #[arg(long, short = 'v', alias = "v", env = "LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: logging::Format,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    install_crypto_provider();
    let log = logging::init("antrea-controller", &args.log_level, args.log_format)?;
    let config: ControllerConfig = match &args.config {
        Some(path) => config::load(path)?,
        None => ControllerConfig::default(),
    };
    let process = Process::from_env();
    // Two workers keep a blocked one from stalling health; more only cost memory here.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("tokio runtime")?
        .block_on(async move { run(config, process, log, signals::shutdown()?).await })
}
