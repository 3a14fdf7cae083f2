//! The command line.

use std::path::PathBuf;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::connect::Place;

/// Looks at Antrea: computed policy, state of agents and controller, Pod interfaces. What it offers
/// depends on whether it runs in the controller's container, in an agent's, or elsewhere.
#[derive(Debug, Parser)]
#[command(name = "antctl", version)]
pub(crate) struct Args {
    /// Kubeconfig; otherwise KUBECONFIG, ~/.kube/config, or the Pod's ServiceAccount.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Time limit in seconds.
    #[arg(long, short, global = true, default_value_t = 30, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// Indented JSON with readable addresses.
    Json,
    /// The same in YAML.
    Yaml,
    /// One line of JSON as the API has it.
    Raw,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Versions of antctl and of the component that it talks to.
    Version {
        /// Output form.
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Shows a resource.
    Get {
        /// Which.
        #[command(subcommand)]
        resource: Resource,
        /// Output form.
        #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Shows the log level of this container's component, or sets it.
    #[command(name = "log-level")]
    LogLevel {
        /// error, warn, info, debug, trace, or a number as klog has it.
        level: Option<String>,
    },
}

/// What can be shown.
#[derive(Debug, Subcommand)]
#[command(rename_all = "lower")]
pub(crate) enum Resource {
    /// State of the controller.
    #[command(visible_alias = "ci")]
    ControllerInfo,
    /// State of agents; in an agent's container, of that agent.
    #[command(visible_alias = "ai")]
    AgentInfo {
        /// Only the agent of this Node.
        node: Option<String>,
    },
    /// Interfaces of this Node's Pods.
    #[command(visible_alias = "pi", alias = "podinterfaces")]
    PodInterface {
        /// Only of Pods of this name.
        name: Option<String>,
        /// Only of Pods of this Namespace.
        #[arg(long, short)]
        namespace: Option<String>,
    },
    /// Computed policies; in an agent's container, those of its Node.
    #[command(visible_alias = "np", aliases = ["networkpolicies", "netpol"])]
    NetworkPolicy {
        /// Only of this name: the computed policy's or its source's.
        name: Option<String>,
        /// Only policies that come from this Namespace.
        #[arg(long, short)]
        namespace: Option<String>,
    },
    /// Computed groups of sources and destinations; in an agent's container, those of its Node.
    #[command(visible_alias = "ag", alias = "addressgroups")]
    AddressGroup {
        /// Only of this name.
        name: Option<String>,
    },
    /// Computed groups that policies apply to; in an agent's container, those of its Node.
    #[command(visible_alias = "atg", alias = "appliedtogroups")]
    AppliedToGroup {
        /// Only of this name.
        name: Option<String>,
    },
    /// Feature gates of the controller, or of the agent in whose container antctl runs.
    FeatureGates,
}

/// The command line as offered in `place`: what does not work there is not listed.
pub(crate) fn command(place: Place) -> Command {
    let mut command = Args::command();
    if place == Place::Elsewhere {
        command = command.mut_subcommand("log-level", |verb| verb.hide(true));
    }
    command.mut_subcommand("get", |mut get| {
        let elsewhere = [
            ("podinterface", place != Place::Agent),
            ("featuregates", place == Place::Elsewhere),
            ("controllerinfo", place == Place::Agent),
        ];
        for (name, hidden) in elsewhere {
            get = get.mut_subcommand(name, |resource| resource.hide(hidden));
        }
        get
    })
}

/// The process's arguments; ends the process if they are wrong or ask for help.
pub(crate) fn parse(place: Place) -> Args {
    let matches = command(place).get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}
