//! Holds the shipped monitoring objects against a real Prometheus.
//!
//! ```text
//! config  ServiceMonitors ─► prometheus.yml, as Prometheus's operator would write it
//! verify  every panel's query and every alert's input ─► Prometheus ─► must have data
//! plot    every panel's query ─► Prometheus ─► one picture per board
//! ```

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use client::Client;
use dashboards::{Board, check::Variables};

mod client;
mod config;
mod discover;
mod plot;
mod verify;

/// Checks Antrea's boards, alerts and ServiceMonitors against a real Prometheus.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the configuration that Prometheus's operator would make of ServiceMonitors.
    Config {
        /// `kubectl get servicemonitors -A -o json`.
        #[arg(long)]
        service_monitors: PathBuf,
        #[command(flatten)]
        setup: config::Setup,
    },
    /// Ask for everything that boards and alerts ask for; fail if anything has no data.
    Verify {
        #[command(flatten)]
        server: Server,
    },
    /// Draw every board.
    Plot {
        #[command(flatten)]
        server: Server,
        /// Folder for the pictures.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Which Prometheus, and what a reader of the boards would have chosen.
#[derive(clap::Args)]
struct Server {
    /// URL of Prometheus.
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    prometheus: String,
    /// Seconds between scrapes; Grafana's rate interval is four times that.
    #[arg(long, default_value_t = 5)]
    interval: u64,
    /// Seconds to look back.
    #[arg(long, default_value_t = 300)]
    range: u64,
}

impl Server {
    /// With everything chosen, as Grafana has it when a board is opened: all jobs are those that the board's
    /// variable finds.
    async fn variables(&self, client: &Client, board: &Board) -> anyhow::Result<Variables> {
        let mut variables = Variables {
            rate_interval: format!("{}s", self.interval * 4),
            range: format!("{}s", self.range),
            job: String::new(),
            instance: ".+".into(),
        };
        for variable in board.variables().iter().filter(|variable| variable.name == "job") {
            variables.job = client.label_values(selector(&variable.query), variable.name).await?.join("|");
        }
        Ok(variables)
    }
}

/// Of `label_values(SELECTOR, LABEL)`.
fn selector(query: &str) -> &str {
    let inner = query.trim_start_matches("label_values(").trim_end_matches(')');
    inner.rsplit_once(',').map_or(inner, |(selector, _)| selector).trim()
}

async fn run(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::Config { service_monitors, setup } => {
            let text = std::fs::read_to_string(&service_monitors)
                .with_context(|| format!("read {}", service_monitors.display()))?;
            let list = serde_json::from_str(&text)
                .with_context(|| format!("parse {}", service_monitors.display()))?;
            let made = config::prometheus(&list, &setup)?;
            writeln!(std::io::stdout(), "{made:#}")?;
            Ok(true)
        }
        Command::Verify { server } => verify::run(&server).await,
        Command::Plot { server, out } => {
            plot::run(&server, &out).await?;
            Ok(true)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_variables() {
        assert_eq!(selector("label_values(a, job)"), "a");
        let query = "label_values({__name__=~\"a|b\", job=~\"c\"}, instance)";
        assert_eq!(selector(query), "{__name__=~\"a|b\", job=~\"c\"}");
    }
}
