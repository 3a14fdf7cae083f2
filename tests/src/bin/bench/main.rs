//! All measurements of `make bench`: a table on standard output, a list of figures in `target/bench.json`.
//!
//! ```text
//! antrea-bench [--only SECTION[,SECTION]] [--json FILE]
//! antrea-bench --list
//! ```
//!
//! Every figure stands beside its peer: a floor (the same work without us) or a rival, measured in the same
//! run, in turns with it, on the same machine. So a busy machine slows both, and the ratio means something
//! where the time alone does not. Nothing is asserted about time: a missed goal is shown, not failed. A
//! section that cannot be measured is a row that says why, the others still run, and the exit status is 1.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a program of the test kit")]

mod cargo;
mod clusterip;
mod cni;
mod controller;
mod flows;
mod footprint;
mod latency;
mod native;
mod observe;
mod report;
mod restart;
mod rivals;
mod services;
mod throughput;
mod tracing;

use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context, bail};
use report::Report;
use tokio::task::JoinError;

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A part of the measurements that can be run alone.
struct Section {
    name: &'static str,
    about: &'static str,
    run: fn(Report) -> Running,
}

const SECTIONS: &[Section] = &[
    Section {
        name: "cni",
        about: "CNI ADD and DEL against veth + OVSDB port + host-local without us",
        run: |report| Box::pin(cni::run(report)),
    },
    Section {
        name: "tracing",
        about: "CNI ADD with tracing on against off",
        run: |report| Box::pin(tracing::run(report)),
    },
    Section {
        name: "throughput",
        about: "TCP and small packets between pods against a bridge that only learns addresses",
        run: |report| Box::pin(throughput::run(report)),
    },
    Section {
        name: "restart",
        about: "what an agent restart and an ovs-vswitchd crash cost",
        run: |report| Box::pin(restart::run(report)),
    },
    Section {
        name: "memory",
        about: "resident memory of idle agents, controller and operator",
        run: |report| Box::pin(footprint::memory(report)),
    },
    Section {
        name: "observe",
        about: "processor time of an idle agent, cost of a scrape",
        run: |report| Box::pin(observe::run(report)),
    },
    Section {
        name: "size",
        about: "sizes of binaries and images",
        run: |report| Box::pin(footprint::sizes(report)),
    },
    Section {
        name: "bundle",
        about: "100,000 flows by bundle against ovs-ofctl",
        run: |report| Box::pin(cargo::bundle(report)),
    },
    Section {
        name: "policy_latency",
        about: "from a policy's creation to its flows on two nodes beside a plain watch",
        run: |report| Box::pin(latency::run(report)),
    },
    Section {
        name: "newcomer",
        about: "from a new pod's ADD to its address in the policies of another node",
        run: |report| Box::pin(latency::newcomers(report)),
    },
    Section {
        name: "controller",
        about: "start, memory and latency of the controller's process in a cluster of 100,000 pods",
        run: |report| Box::pin(controller::run(report)),
    },
    Section {
        name: "policy-flows",
        about: "5,000 policies of 10 peers as flows of one node against ovs-ofctl",
        run: |report| Box::pin(flows::run(report)),
    },
    Section {
        name: "policy",
        about: "policy computation for clusters of six shapes",
        run: |report| Box::pin(cargo::shapes(report)),
    },
    Section {
        name: "native",
        about: "10,000 native rules on a node: memory, packets beside them, a flood of what they deny",
        run: |report| Box::pin(native::run(report)),
    },
    Section {
        name: "services",
        about: "10,000 Services of 10 endpoints in one agent: start, memory, what a change sends",
        run: |report| Box::pin(services::many(report)),
    },
    Section {
        name: "endpoints",
        about: "from an EndpointSlice to its flow beside a plain watch; 1,000 at once against ovs-ofctl",
        run: |report| Box::pin(services::slices(report)),
    },
    Section {
        name: "clusterip",
        about: "TCP and new connections from a pod to a ClusterIP against straight to the pod",
        run: |report| Box::pin(clusterip::run(report)),
    },
    Section {
        name: "rivals",
        about: "new connections to a ClusterIP among 10 to 10,000 Services, against kube-proxy in its modes",
        run: |report| Box::pin(rivals::run(report)),
    },
    Section {
        name: "native-order",
        about: "10,000 native policies of one node computed, and what one more sends",
        run: |report| Box::pin(cargo::native(report)),
    },
    Section {
        name: "watchers",
        about: "a thousand agents that watch the controller over TLS",
        run: |report| Box::pin(cargo::watchers(report)),
    },
];

struct Args {
    only: Vec<String>,
    json: PathBuf,
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Args> {
    let mut args = Args { only: Vec::new(), json: PathBuf::from("target/bench.json") };
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--only" => args.only.extend(value()?.split(',').map(str::to_owned)),
            "--json" => args.json = value()?.into(),
            _ => bail!("unknown argument {word}; known are --only SECTION[,SECTION], --json FILE, --list"),
        }
    }
    if let Some(unknown) = args.only.iter().find(|name| SECTIONS.iter().all(|section| section.name != *name))
    {
        let known: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
        bail!("no section {unknown}; there are {}", known.join(", "));
    }
    Ok(args)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--list"] {
        for section in SECTIONS {
            println!("{:<14}{}", section.name, section.about);
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = parse(words.into_iter())
        .and_then(|args| runtime.context("tokio runtime").map(|runtime| (args, runtime)))
        .and_then(|(args, runtime)| runtime.block_on(measure(&args)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("antrea-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the chosen sections. Returns whether every one could be measured.
async fn measure(args: &Args) -> anyhow::Result<bool> {
    let report = Report::default();
    report.machine("at the start")?;
    let mut complete = true;
    for section in SECTIONS {
        if !args.only.is_empty() && !args.only.iter().any(|name| name == section.name) {
            continue;
        }
        report.section(section.name, section.about);
        // A task of its own: a panic in the lab ends the section, and unwinding removes the lab.
        let mut task = tokio::spawn((section.run)(report.clone()));
        let outcome = tokio::select! {
            outcome = &mut task => outcome,
            () = interrupted() => {
                task.abort();
                let _ = task.await;
                bail!("interrupted in section {}", section.name);
            }
        };
        let failure = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => panic_text(panic),
        };
        complete = false;
        report.failed(section.name, &failure);
    }
    report.machine("at the end")?;
    report.write_json(&args.json)?;
    println!("{}", report.table());
    println!("figures: {}", args.json.display());
    Ok(complete)
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "cancelled".to_owned() };
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => {
            payload.downcast::<&str>().map_or_else(|_| "panicked".to_owned(), |text| (*text).to_owned())
        }
    }
}
