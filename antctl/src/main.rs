//! antctl: looks at Antrea and at what its operator would change, traces packets, and sets log levels.
//!
//! ```text
//!  in the controller's container ─ local token ──────────► controller's API, 127.0.0.1:10349
//!  in an agent's container ─────── ServiceAccount token ─► that agent's API, 127.0.0.1:10350
//!  anywhere ────────────────────── kubeconfig or ServiceAccount ─► Kubernetes API server
//!                                    Info objects, controlplane.antrea.io, the AntreaInstallation
//!                                  the same credentials ─► the controller's API at its Node's address
//!                                  client certificate, or a token for that agent alone ─► an agent's API
//! ```
//!
//! Invariants:
//! - A token that is worth something elsewhere goes only to a server whose certificate was verified, and to no agent.
//! - What is asked for goes to stdout, all else to stderr. The exit code is 0 only if it was had, else 1; of
//!   `version` antctl's own is enough. That of `explain` is part of the answer ([`explain`]).

use std::{io::Write, process::ExitCode, time::Duration};

use antrea_runtime::{install_crypto_provider, logging};
use anyhow::bail;

mod adopt;
mod agents;
mod capture;
mod check;
mod cli;
mod connect;
mod explain;
mod get;
mod made;
mod output;
mod plan;
mod proxy;
mod query;
mod reach;
mod support;
#[cfg(test)]
mod tests;
mod top;
mod traceflow;

use cli::{Args, Verb};
use connect::{Clients, Environment};
use explain::NotAllowed;

fn main() -> ExitCode {
    let environment = Environment::detect();
    let args = match cli::parse(environment.place, std::env::args_os()) {
        Ok(args) => args,
        Err(ended) => return ended.tell(),
    };
    if args.verbose
        && let Err(error) = logging::init("antctl", "debug", logging::Format::Text)
    {
        eprintln!("antctl: {error}");
    }
    let (text, code) = match start(&args, environment) {
        Ok(text) => (text, 0),
        Err(error) => match error.downcast::<NotAllowed>() {
            Ok(answer) => (answer.text, answer.code),
            Err(error) => return failed(&args.verb, &error),
        },
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            failed(&args.verb, &anyhow::Error::new(error).context("write to stdout"))
        }
        _ => ExitCode::from(code),
    }
}

/// Says why there is no answer.
fn failed(verb: &Verb, error: &anyhow::Error) -> ExitCode {
    eprintln!("antctl: {}", told(error));
    ExitCode::from(if matches!(verb, Verb::Explain(_)) { explain::FAILED } else { 1 })
}

fn start(args: &Args, environment: Environment) -> anyhow::Result<String> {
    install_crypto_provider();
    let clients = Clients { environment, kubeconfig: args.kubeconfig.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let more = match &args.verb {
            // What it has sent is removed when its time is over.
            Verb::Explain(asked) if asked.sends() => Duration::from_secs(5),
            // Each of their requests has that time, or what they ask for has, once its turn has come.
            Verb::Proxy(_)
            | Verb::Supportbundle(_)
            | Verb::Packetcapture(_)
            | Verb::Traceflow(_)
            | Verb::Check(_)
            | Verb::Plan { .. }
            | Verb::Top(_) => {
                return run(args, &clients).await;
            }
            _ => Duration::ZERO,
        };
        within(args.timeout + more, run(args, &clients)).await
    })
}

/// The result of what has this time.
async fn within<T>(limit: Duration, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {limit:?}; --timeout allows more"),
    }
}

/// An error with its causes in one line, leaving out those that others quote already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match () {
        () if text.is_empty() => cause,
        () if text.contains(&cause) => text,
        () => format!("{text}: {cause}"),
    })
}

/// What to print.
async fn run(args: &Args, clients: &Clients) -> anyhow::Result<String> {
    match &args.verb {
        Verb::Version { output } => get::version(clients).await?.render(*output),
        Verb::Get { resource, on, output } => {
            get::resource(clients, resource, on.as_deref()).await?.render(*output)
        }
        Verb::Plan { filename: None } => plan::plan(clients, args.timeout).await,
        Verb::Plan { filename: Some(file) } => plan::of_file(clients, file, args.timeout).await,
        Verb::Adopt { dry_run } if *dry_run => adopt::adopt(clients).await,
        Verb::Adopt { .. } => bail!("adopt only tells what would be taken over: say --dry-run"),
        Verb::TracePacket(packet) => get::trace_packet(clients, packet).await,
        Verb::Explain(asked) => explain::run(clients, asked, args.timeout).await,
        Verb::Packetcapture(asked) => capture::run(clients, asked, args.timeout).await,
        Verb::Traceflow(trace) => traceflow::run(clients, trace, args.timeout).await,
        Verb::Top(asked) => top::run(clients, asked, args.timeout).await,
        Verb::Query(query) => query::run(clients, query).await,
        Verb::LogLevel { level, nodes } => agents::log_level(clients, level.as_deref(), nodes).await,
        Verb::Proxy(proxy) => proxy::run(clients, proxy).await,
        Verb::Check(check) => check::run(clients, check, args.timeout).await,
        Verb::Completion { shell } => cli::completion(clients.place(), *shell),
        Verb::Supportbundle(wanted) => support::run(clients, wanted, args.timeout).await,
    }
}
