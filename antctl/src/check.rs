//! `antctl check cluster`: whether Antrea can be installed, as far as the API server tells; nothing is made for it.
//! `antctl check installation`: whether an installed one does what it is for ([`installation`]).

use std::{io::Write, time::Duration};

use anyhow::{Context, bail};
use http::Method;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, NodeCondition, NodeSystemInfo, Taint},
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::{
    cli::Format,
    connect::{Clients, Place, Server},
    output::Output,
};

mod installation;
mod objects;
mod plan;
mod probe;

/// The oldest Kubernetes that is supported: 1 and this.
const MINOR: u32 = 30;

/// Names that DaemonSets of other networks begin with.
const OTHERS: [&str; 9] = [
    "calico-node",
    "canal",
    "cilium",
    "kube-flannel",
    "kube-router",
    "kindnet",
    "ovnkube-node",
    "weave-net",
    "aws-node",
];

/// Taints that the controller's Pod tolerates unless the AntreaInstallation says otherwise.
const TOLERATED: [&str; 3] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "CriticalAddonsOnly"];

/// Taints that go when the network is there.
const PASSING: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/network-unavailable"];

/// What is checked.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    #[command(subcommand)]
    what: What,
    /// Output form.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Whether Antrea can be installed in this cluster. Reads, and makes nothing.
    Cluster,
    /// Whether Pods reach each other and policy holds in this cluster. Makes a Namespace with test Pods, and deletes it.
    Installation(installation::Installation),
    /// What runs in the Pods of `check installation`.
    #[command(hide = true)]
    Probe(probe::Probe),
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It may work, but somebody should look.
    Warning,
    Failed,
}

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
}

/// Checks, and returns what is to be printed.
///
/// # Errors
/// A check failed, after the findings were printed; or the API server was not to be asked.
pub(crate) async fn run(clients: &Clients, check: &Check, limit: Duration) -> anyhow::Result<String> {
    if let What::Probe(probe) = &check.what {
        return probe::run(probe).await;
    }
    if clients.place() != Place::Elsewhere {
        bail!("check is for a machine with a kubeconfig: run antctl outside of Antrea's containers");
    }
    let findings = match &check.what {
        What::Installation(asked) => installation::run(clients, asked, limit).await?,
        _ => match tokio::time::timeout(limit, cluster(clients)).await {
            Ok(findings) => findings?,
            Err(_) => bail!("no answer within {limit:?}; --timeout allows more"),
        },
    };
    let text = output(&findings).render(check.output)?;
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count();
    if failed == 0 {
        return Ok(text);
    }
    std::io::stdout().write_all(text.as_bytes()).context("write to stdout")?;
    bail!("{failed} of {} checks failed", findings.len())
}

async fn cluster(clients: &Clients) -> anyhow::Result<Vec<Finding>> {
    let cluster = clients.cluster().await?;
    let version: Value = serde_json::from_str(&cluster.ask(Method::GET, "/version").await?)?;
    let nodes: Vec<Node> = list(&cluster, "list Nodes").await?;
    let daemons: Vec<DaemonSet> = list(&cluster, "list DaemonSets").await?;
    Ok(vec![
        kubernetes(version["gitVersion"].as_str().unwrap_or_default()),
        systems(&nodes),
        readiness(&nodes),
        pod_cidrs(&nodes),
        controller(&nodes),
        networks(&daemons),
        services(&daemons),
    ])
}

async fn list<K>(cluster: &Server, what: &str) -> anyhow::Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let found = Api::<K>::all(cluster.client.clone()).list(&ListParams::default()).await;
    Ok(found.map_err(|error| cluster.explain(&error, what))?.items)
}

fn output(findings: &[Finding]) -> Output {
    let verdict = |finding: &Finding| match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Failed => "failed",
    };
    let row = |finding: &Finding| {
        vec![finding.check.to_owned(), verdict(finding).to_owned(), finding.detail.clone()]
    };
    let value = |finding: &Finding| json!({"check": finding.check, "verdict": verdict(finding), "detail": finding.detail});
    Output {
        columns: &["CHECK", "VERDICT", "DETAIL"],
        rows: findings.iter().map(row).collect(),
        value: findings.iter().map(value).collect(),
    }
}

fn kubernetes(version: &str) -> Finding {
    let mut parts = version.trim_start_matches('v').split('.');
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    let (verdict, detail) = match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= (1, MINOR) => (Verdict::Ok, version.to_owned()),
        (Some(_), Some(_)) => (Verdict::Failed, format!("{version}: 1.{MINOR} or later is needed")),
        _ => (Verdict::Warning, format!("the API server's version {version:?} is none that can be read")),
    };
    Finding { check: "Kubernetes version", verdict, detail }
}

fn systems(nodes: &[Node]) -> Finding {
    let check = "operating systems";
    let others: Vec<&str> = nodes.iter().filter(|node| !runs_linux(node)).map(name).collect();
    let (verdict, detail) = match () {
        () if nodes.is_empty() => (Verdict::Failed, "there is no Node".to_owned()),
        () if others.len() == nodes.len() => (Verdict::Failed, "no Node runs Linux".to_owned()),
        () if !others.is_empty() => {
            (Verdict::Warning, format!("no network for {}, which run no Linux", named(&others)))
        }
        () => {
            let mut kernels: Vec<String> = nodes.iter().map(|node| info(node).kernel_version).collect();
            kernels.sort();
            kernels.dedup();
            (Verdict::Ok, format!("Linux {} on {}", kernels.join(", "), nodes.len()))
        }
    };
    Finding { check, verdict, detail }
}

/// Before there is a network, Nodes are not ready for the want of it.
fn readiness(nodes: &[Node]) -> Finding {
    let condition = |node: &Node| -> Option<NodeCondition> {
        node.status
            .as_ref()?
            .conditions
            .as_ref()?
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .cloned()
    };
    let wants_network = |condition: &NodeCondition| {
        let message = condition.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        message.contains("network plugin")
            || message.contains("networkpluginnotready")
            || message.contains("cni")
    };
    let (mut waiting, mut ill) = (Vec::new(), Vec::new());
    for node in nodes {
        match condition(node) {
            Some(condition) if condition.status == "True" => {}
            Some(condition) if wants_network(&condition) => waiting.push(name(node)),
            _ => ill.push(name(node)),
        }
    }
    let (verdict, detail) = match () {
        () if !ill.is_empty() => {
            (Verdict::Warning, format!("not ready, and not for want of a network: {}", named(&ill)))
        }
        () if !waiting.is_empty() => (Verdict::Ok, format!("wait for a network: {}", named(&waiting))),
        () => (Verdict::Ok, "all are ready".to_owned()),
    };
    Finding { check: "Nodes", verdict, detail }
}

fn pod_cidrs(nodes: &[Node]) -> Finding {
    let has_none = |node: &&Node| node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none());
    let without: Vec<&str> = nodes.iter().filter(has_none).map(name).collect();
    let (verdict, detail) = if without.is_empty() {
        (Verdict::Ok, "every Node has one".to_owned())
    } else {
        let detail = format!(
            "none for {}: run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr",
            named(&without)
        );
        (Verdict::Failed, detail)
    };
    Finding { check: "Pod CIDRs", verdict, detail }
}

/// Whether there is a Node for the controller.
fn controller(nodes: &[Node]) -> Finding {
    let keeps_off = |taint: &Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !TOLERATED.contains(&taint.key.as_str())
            && !PASSING.contains(&taint.key.as_str())
    };
    let takes = |node: &&Node| {
        let spec = node.spec.clone().unwrap_or_default();
        runs_linux(node) && spec.unschedulable != Some(true) && !spec.taints.iter().flatten().any(keeps_off)
    };
    let (verdict, detail) = match nodes.iter().filter(takes).count() {
        0 => {
            let detail = "no Node takes antrea-controller: all are cordoned or have taints that it does not tolerate; \
                          spec.controller.tolerations adds some";
            (Verdict::Failed, detail.to_owned())
        }
        count => (Verdict::Ok, format!("{count} of {} Nodes", nodes.len())),
    };
    Finding { check: "place for the controller", verdict, detail }
}

fn networks(daemons: &[DaemonSet]) -> Finding {
    let full = |daemon: &DaemonSet| {
        format!(
            "{}/{}",
            daemon.metadata.namespace.as_deref().unwrap_or_default(),
            daemon.metadata.name.as_deref().unwrap_or_default()
        )
    };
    let daemon_name = |daemon: &DaemonSet| daemon.metadata.name.clone().unwrap_or_default();
    let others: Vec<String> = daemons
        .iter()
        .filter(|daemon| OTHERS.iter().any(|other| daemon_name(daemon).starts_with(other)))
        .map(full)
        .collect();
    let ours = daemons.iter().find(|daemon| daemon_name(daemon) == "antrea-agent");
    let managed = |daemon: &DaemonSet| {
        let labels = daemon.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get("app.kubernetes.io/managed-by"))
            .is_some_and(|by| by == "antrea-operator")
    };
    let (verdict, detail) = match ours {
        _ if !others.is_empty() => {
            (Verdict::Failed, format!("there is another network: {}", others.join(", ")))
        }
        Some(ours) if managed(ours) => (Verdict::Ok, format!("this one already: {}", full(ours))),
        Some(ours) => (
            Verdict::Warning,
            format!(
                "{} is of Antrea's manifest: antctl adopt --dry-run shows what becomes of it",
                full(ours)
            ),
        ),
        None => (Verdict::Ok, "none yet".to_owned()),
    };
    Finding { check: "other networks", verdict, detail }
}

fn services(daemons: &[DaemonSet]) -> Finding {
    let there = daemons.iter().any(|daemon| daemon.metadata.name.as_deref() == Some("kube-proxy"));
    let (verdict, detail) = if there {
        (Verdict::Ok, "kube-proxy".to_owned())
    } else {
        let detail =
            "no DaemonSet kube-proxy: unless it runs in another way, Services need spec.proxy.mode All";
        (Verdict::Warning, detail.to_owned())
    };
    Finding { check: "Services", verdict, detail }
}

fn info(node: &Node) -> NodeSystemInfo {
    node.status.as_ref().and_then(|status| status.node_info.clone()).unwrap_or_default()
}

fn runs_linux(node: &Node) -> bool {
    info(node).operating_system == "linux"
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// The first few of these names.
fn named(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests;
