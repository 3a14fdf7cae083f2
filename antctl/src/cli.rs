//! The command line.

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgGroup, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use clap_complete::Shell;

use crate::capture::Capture;
use crate::check::Check;
use crate::connect::Place;
use crate::explain::{self, Explain};
use crate::query::Query;
use crate::support::Wanted;
use crate::top::Top;

/// Looks at Antrea: computed policy, state of agents and controller, Pod interfaces. What it offers
/// depends on whether it runs in the controller's container, in an agent's, or elsewhere.
#[derive(Debug, Parser)]
#[command(name = "antctl", version)]
pub(crate) struct Args {
    /// Kubeconfig; otherwise KUBECONFIG, ~/.kube/config, or the Pod's ServiceAccount.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Time limit: seconds, or with a unit such as 500ms, 10s, 2m.
    #[arg(long, short, global = true, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Says on stderr what is asked of whom.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
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
        /// Of the agent of this Node, as it has it.
        #[arg(long = "node", global = true, value_name = "NODE")]
        on: Option<String>,
        /// Output form.
        #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Shows what the operator would change, like a diff: while the AntreaInstallation is paused, or waits for its
    /// window or for spec.rollout.acknowledge; or what it would change for a spec that is not applied.
    Plan {
        /// The AntreaInstallation to look at; - is the standard input. Nothing of it is applied.
        #[arg(short, long, value_name = "FILE")]
        filename: Option<PathBuf>,
    },
    /// Prints the AntreaInstallation that comes closest to this cluster's ConfigMap antrea-config, and what it cannot
    /// express.
    Adopt {
        /// Changes nothing, which is all that there is.
        #[arg(long)]
        dry_run: bool,
    },
    /// What the bridge of an agent's Node would do with a packet, flow by flow.
    #[command(name = "trace-packet", visible_alias = "tp")]
    TracePacket(Packet),
    /// Traces a packet through the network: sends one, or watches real traffic, and shows what each Node did with it.
    #[command(visible_alias = "tf")]
    Traceflow(Trace),
    /// Captures the first packets of a flow at a Pod, and fetches them as a file that Wireshark and tcpdump read.
    #[command(visible_alias = "pc", alias = "packetcaptures")]
    Packetcapture(Capture),
    /// Says why a Pod reaches another, a Service or an address, or does not: what policies decide at both ends, what the
    /// agents have of them, what the bridges do with such a packet, and what is wrong. Exit code: 0 allowed, 1 denied by
    /// policy, 2 broken or not known.
    Explain(Explain),
    /// Asks the controller what policies have to do with Pods.
    Query(Query),
    /// Shows the log level of this container's component, or of controller or agents, or sets it.
    #[command(name = "log-level")]
    LogLevel {
        /// error, warn, info, debug, trace, or a number as klog has it.
        level: Option<String>,
        /// Of the agents of these Nodes; without it the controller's.
        #[arg(long = "node", alias = "nodes", value_name = "NODE", value_delimiter = ',')]
        nodes: Vec<String>,
    },
    /// Shows again and again which Pods send and receive most, which policies are busiest, and what is dropped why.
    Top(Top),
    /// Serves the API of the controller or of an agent on this machine, without asking who calls, until it is ended.
    Proxy(Proxy),
    /// Fetches what helps to find out what is wrong: an archive of the controller, of each agent, and a file of the cluster.
    Supportbundle(Wanted),
    /// Checks whether all is as Antrea needs it.
    Check(Check),
    /// Prints a script by which a shell completes what is typed, such as: source <(antctl completion bash)
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Whose API is served where.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("whose").required(true).args(["controller", "agent_node"]))]
pub(crate) struct Proxy {
    /// The controller's.
    #[arg(long)]
    pub(crate) controller: bool,
    /// That of this Node's agent.
    #[arg(long, value_name = "NODE")]
    pub(crate) agent_node: Option<String>,
    /// Where to listen: an address of this machine that no other can reach.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// Port to listen on; 0 takes any that is free.
    #[arg(long, default_value_t = 8001)]
    pub(crate) port: u16,
}

/// A trace. How long it may take is for --timeout to say.
#[derive(Debug, clap::Args)]
pub(crate) struct Trace {
    /// Pod that sends the packet, namespace/name; with --live-traffic also an address or nothing.
    #[arg(long, short = 'S', default_value = "")]
    pub(crate) source: String,
    /// Pod or Service, namespace/name, or address that it is for; with --live-traffic also nothing.
    #[arg(long, short = 'D', default_value = "")]
    pub(crate) destination: String,
    /// What packet, such as tcp,tcp_dst=80 or ipv6,udp,udp_dst=53; ICMP echo by default.
    #[arg(long, short, default_value = "")]
    pub(crate) flow: String,
    /// Trace the first packet of real traffic that is like this, instead of sending one.
    #[arg(long, short = 'L')]
    pub(crate) live_traffic: bool,
    /// With --live-traffic: trace the first packet that is dropped.
    #[arg(long)]
    pub(crate) dropped_only: bool,
    /// Only start the trace and print its name; it is then for you to delete.
    #[arg(long)]
    pub(crate) nowait: bool,
    /// Output form.
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    pub(crate) output: Format,
}

/// A packet, by as much of it as matters.
#[derive(Debug, clap::Args)]
pub(crate) struct Packet {
    /// Who sends it: namespace/name of a Pod of this Node, a port of the bridge, or an address.
    #[arg(long, short = 'S', default_value = "")]
    pub(crate) source: String,
    /// Whom it is for, named in the same way.
    #[arg(long, short = 'D', default_value = "")]
    pub(crate) destination: String,
    /// Where it enters, if not by its sender's port: namespace/name of a Pod of this Node, or a port of the bridge.
    #[arg(long, short, default_value = "")]
    pub(crate) port: String,
    /// More of it, in the words of ofproto/trace, such as tcp,tcp_dst=80.
    #[arg(long, short, default_value = "")]
    pub(crate) flow: String,
    /// 4 or 6, where flow and addresses do not tell.
    #[arg(long = "addressFamily", short = 'F', default_value = "", value_name = "FAMILY", value_parser = ["4", "6", ""])]
    pub(crate) address_family: String,
    /// The Node whose bridge is meant, where antctl is not in an agent's container.
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Output form; by default the trace itself.
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Which flows; all where nothing is given.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Flows {
    /// Of a Pod of this Node.
    #[arg(long, short, requires = "namespace", group = "of")]
    pub(crate) pod: Option<String>,
    /// The Pod's Namespace.
    #[arg(long, short, requires = "pod")]
    pub(crate) namespace: Option<String>,
    /// Of these tables, by names or numbers with commas between them.
    #[arg(long, short = 'T', group = "of")]
    pub(crate) table: Option<String>,
    /// Groups in place of flows: their ids with commas between them, or all.
    #[arg(long, short = 'G', group = "of")]
    pub(crate) groups: Option<String>,
    /// Only the names of the tables.
    #[arg(long, group = "of")]
    pub(crate) table_names_only: bool,
}

/// Which computed policies, and in what order; all by the names of their sources where nothing is given.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Policies {
    /// Only of this name: the computed policy's or its source's.
    pub(crate) name: Option<String>,
    /// Only policies that come from this Namespace.
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
    /// Only policies whose source has this name.
    #[arg(long, short = 'S', conflicts_with = "name")]
    pub(crate) source: Option<String>,
    /// Only policies that come from this kind of policy.
    #[arg(long = "type", short = 'T', value_enum, ignore_case = true, value_name = "TYPE")]
    pub(crate) kind: Option<PolicyKind>,
    /// Only policies that apply to this Pod, namespace/name.
    #[arg(long, short, value_parser = pod)]
    pub(crate) pod: Option<(String, String)>,
    /// The order: effectivePriority is that in which they are evaluated.
    #[arg(long, value_enum, value_name = "ORDER")]
    pub(crate) sort_by: Option<Order>,
}

/// What a computed policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyKind {
    /// NetworkPolicy of Kubernetes.
    #[value(name = "K8sNP")]
    Kubernetes,
    /// ClusterNetworkPolicy of crd.antrea.io.
    #[value(name = "ACNP")]
    Cluster,
    /// NetworkPolicy of crd.antrea.io.
    #[value(name = "ANNP")]
    Namespace,
    /// ClusterNetworkPolicy of policy.networking.k8s.io.
    #[value(name = "CNP")]
    Standard,
}

/// An order of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// That of evaluation: by Tier, then by priority.
    #[value(name = "effectivePriority")]
    EffectivePriority,
}

/// A part of a group's members.
#[derive(Debug, clap::Args)]
pub(crate) struct Page {
    /// Members of a page; without it all members are shown.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Number of the page, from 1 on.
    #[arg(long, requires = "limit", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) page: Option<u32>,
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
    /// Interfaces of a Node's Pods.
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
    NetworkPolicy(Policies),
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
    /// Pods and address blocks that are in a ClusterGroup.
    ClusterGroupMembers {
        /// The group's name.
        name: String,
        /// Which part of the members.
        #[command(flatten)]
        page: Page,
    },
    /// Pods and address blocks that are in a Group.
    GroupMembers {
        /// The group's name.
        name: String,
        /// The group's Namespace.
        #[arg(long, short, default_value = "default")]
        namespace: String,
        /// Which part of the members.
        #[command(flatten)]
        page: Page,
    },
    /// Flows of a Node's bridge, with their counters.
    #[command(visible_alias = "of")]
    OvsFlows(Flows),
    /// Feature gates, as the controller or an agent has them.
    FeatureGates,
}

/// The command line as offered in `place`: what does not work there is not listed.
pub(crate) fn command(place: Place) -> Command {
    let mut command = Args::command();
    let (agent, controller, elsewhere) =
        (place == Place::Agent, place == Place::Controller, place == Place::Elsewhere);
    for (name, hidden) in [
        ("query", agent),
        ("trace-packet", controller),
        ("proxy", !elsewhere),
        ("check", !elsewhere),
        ("explain", !elsewhere),
        ("packetcapture", !elsewhere),
        ("top", !elsewhere),
    ] {
        command = command.mut_subcommand(name, |verb| verb.hide(hidden));
    }
    for name in ["trace-packet", "log-level"] {
        let id = if name == "log-level" { "nodes" } else { "node" };
        command = command.mut_subcommand(name, |verb| verb.mut_arg(id, |node| node.hide(!elsewhere)));
    }
    command.mut_subcommand("get", |mut get| {
        for (name, hidden) in [
            ("podinterface", controller),
            ("ovsflows", controller),
            ("controllerinfo", agent),
            ("clustergroupmembers", agent),
            ("groupmembers", agent),
        ] {
            get = get.mut_subcommand(name, |resource| resource.hide(hidden));
        }
        get.mut_arg("on", |node| node.hide(!elsewhere))
    })
}

/// What completes the commands that `place` has.
pub(crate) fn completion(place: Place, shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(place), "antctl", &mut script);
    Ok(String::from_utf8(script)?)
}

/// Namespace and name of a Pod.
fn pod(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("namespace/name of a Pod is needed".to_owned()),
    }
}

/// A number of seconds, or a number with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("units are ms, s, m and h".to_owned()),
    };
    let number = number.parse::<u64>().map_err(|_| "a whole number is needed".to_owned())?;
    match number.checked_mul(milliseconds) {
        Some(0) => Err("must be more than 0".to_owned()),
        Some(all) => Ok(Duration::from_millis(all)),
        None => Err("is too long".to_owned()),
    }
}

/// Arguments of a process. The error is how it ends without any: what help is asked for, or offered where a command is
/// incomplete, goes to stdout and is success; all else goes to stderr and ends as any other failure does, by 1, or by 2
/// where 1 means something else.
pub(crate) fn parse(place: Place, line: impl IntoIterator<Item = OsString>) -> Result<Args, Ended> {
    let line: Vec<OsString> = line.into_iter().collect();
    let parsed =
        command(place).try_get_matches_from(&line).and_then(|matches| Args::from_arg_matches(&matches));
    parsed.map_err(|error| {
        let helps = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        let explains = line.iter().any(|word| word == "explain");
        let code = match () {
            () if helps => 0,
            () if explains => explain::FAILED,
            () => 1,
        };
        Ended { text: error.render().to_string(), code }
    })
}

/// How a process ends that was not told what to do.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What it says.
    pub(crate) text: String,
    /// Its exit code: 0 if that is what was asked for.
    pub(crate) code: u8,
}

impl Ended {
    /// Says it.
    pub(crate) fn tell(&self) -> ExitCode {
        if self.code == 0 {
            // Who asked for help may have seen enough of it.
            let _ = std::io::stdout().write_all(self.text.as_bytes());
        } else {
            eprint!("{}", self.text);
        }
        ExitCode::from(self.code)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use super::*;

    /// In the shell itself, as far as it is on every machine that builds this.
    #[test]
    fn bash_completes_what_works_here() {
        let script = completion(Place::Elsewhere, Shell::Bash).unwrap();
        let completed = |words: &str| {
            let count = words.split(' ').count();
            let last = words.rsplit(' ').next().unwrap();
            let ask = format!(
                "{script}\nCOMP_WORDS=({words}); COMP_CWORD={}; _antctl antctl '{last}' ''; echo ${{COMPREPLY[@]}}",
                count - 1
            );
            let output = Process::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(completed("antctl supp"), "supportbundle");
        assert_eq!(completed("antctl get podi"), "podinterface");
        assert_eq!(completed("antctl get podinterface --nod"), "--node");
        assert_eq!(completed("antctl completion z"), "zsh");
        for (shell, holds) in [(Shell::Zsh, "#compdef antctl"), (Shell::Fish, "complete -c antctl")] {
            assert!(completion(Place::Elsewhere, shell).unwrap().contains(holds));
        }
    }
}
