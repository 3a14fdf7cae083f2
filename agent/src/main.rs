//! The agent: one on every node.

#![deny(unsafe_code)]

use std::io::Write;

use antrea_agent::{args::Args, run::run};
use anyhow::{Context, Result};
use clap::Parser;

fn main() -> Result<()> {
    // Started by ssh to tell a password, and nothing else.
    if let Some(password) = antrea_agent::password() {
        std::io::stdout().write_all(password.context("read the password")?.as_bytes())?;
        return Ok(());
    }
    let args = Args::parse();
    antrea_runtime::install_crypto_provider();
    // Two threads: a node has its cores for pods. Blocking work runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(run(args))
}
