//! `antctl top`: who sends and receives most, which policies are busiest, and what is dropped why; again and again.
//!
//! ```text
//!  agents' /traffic, stats.antrea.io ─► Sample ─┐
//!                    an interval later, Sample ─┴─► View::between ─► tables, or JSON
//! ```

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_api::agent::Traffic;
use antrea_crds::AntreaAgentInfo;
use anyhow::{Context, bail};
use http::Method;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::connect::{Clients, Place, Server};
use crate::told;

mod view;

use view::{Counters, Sample, View};

/// Agents that are asked at the same time.
const AT_ONCE: usize = 16;

/// Kinds of statistics, with the kind of policy that they are of.
const STATISTICS: [(&str, &str); 3] = [
    ("networkpolicystats", "NetworkPolicy"),
    ("antreaclusternetworkpolicystats", "ClusterNetworkPolicy"),
    ("antreanetworkpolicystats", "Antrea NetworkPolicy"),
];

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What is shown how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Time between two looks: seconds, or with a unit such as 500ms, 10s, 1m.
    #[arg(long, short, default_value = "2s", value_name = "DURATION", value_parser = crate::cli::duration)]
    interval: Duration,
    /// How often something is shown; 0 is without end, which is so on a terminal by default. Elsewhere it is once.
    #[arg(long, short)]
    count: Option<u64>,
    /// Rows of each table.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rows: u16,
    /// Only Pods and drops of these Nodes.
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    nodes: Vec<String>,
    /// table, json: one object on a line for each look.
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// How it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Json,
}

/// Shows what passes, until it was shown as often as is wanted.
///
/// # Errors
/// No agent could be asked.
pub(crate) async fn run(clients: &Clients, asked: &Top, limit: Duration) -> anyhow::Result<String> {
    if clients.place() != Place::Elsewhere {
        bail!("top asks all agents: run antctl outside of Antrea's containers");
    }
    let terminal = std::io::stdout().is_terminal();
    let count = asked.count.unwrap_or(if terminal { 0 } else { 1 });
    let cluster = clients.cluster().await?;
    let nodes = if asked.nodes.is_empty() { agents(&cluster).await? } else { asked.nodes.clone() };
    let mut asking = Asking { cluster, agents: BTreeMap::new(), limit };
    let mut before = asking.sample(clients, &nodes).await?;
    let first = before.clone();
    for shown in 1.. {
        tokio::time::sleep(asked.interval).await;
        let now = asking.sample(clients, &nodes).await?;
        let view = View::between(&first, &before, &now);
        let text = match asked.output {
            Form::Json => format!("{}\n", view.json(asked.rows.into())),
            Form::Table => view.text(asked.rows.into())?,
        };
        let clear = terminal && asked.output == Form::Table && count != 1;
        let text = match (clear, shown) {
            (true, _) => format!("{CLEAR}{text}"),
            (false, 2..) if asked.output == Form::Table => format!("\n{text}"),
            _ => text,
        };
        if shown == count {
            return Ok(text);
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            written => written.context("write to stdout")?,
        }
        before = now;
    }
    Ok(String::new())
}

/// Nodes that have an agent.
async fn agents(cluster: &Server) -> anyhow::Result<Vec<String>> {
    let infos = Api::<AntreaAgentInfo>::all(cluster.client.clone()).list(&ListParams::default()).await;
    let infos = infos.map_err(|error| cluster.explain(&error, "list AntreaAgentInfos"))?;
    let nodes: Vec<String> = infos.items.into_iter().filter_map(|info| info.metadata.name).collect();
    if nodes.is_empty() {
        bail!("no Node has an agent");
    }
    Ok(nodes)
}

/// Who is asked.
struct Asking {
    cluster: Server,
    /// Those that have answered.
    agents: BTreeMap<String, Arc<Server>>,
    limit: Duration,
}

impl Asking {
    /// Asks all. Who does not answer is named in the sample, and asked again the next time.
    async fn sample(&mut self, clients: &Clients, nodes: &[String]) -> anyhow::Result<Sample> {
        let (room, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for node in nodes {
            let (clients, node, room) = (clients.clone(), node.clone(), Arc::clone(&room));
            let (known, limit) = (self.agents.get(&node).cloned(), self.limit);
            tasks.spawn(async move {
                let asking = async {
                    let _turn = room.acquire().await?;
                    traffic(&clients, &node, known).await
                };
                let answer = match tokio::time::timeout(limit, asking).await {
                    Ok(answer) => answer,
                    Err(_) => Err(anyhow::anyhow!("no answer within {limit:?}")),
                };
                (node, answer)
            });
        }
        let mut sample = Sample::default();
        let mut last = None;
        while let Some(answer) = tasks.join_next().await {
            let (node, answer) = answer?;
            match answer {
                Ok((server, traffic)) => {
                    self.agents.insert(node.clone(), server);
                    sample.take(&node, Instant::now(), &traffic);
                }
                Err(error) => {
                    self.agents.remove(&node);
                    sample.silent.insert(node, told(&error));
                    last = Some(error);
                }
            }
        }
        if sample.silent.len() == nodes.len()
            && let Some(error) = last
        {
            return Err(error.context("no agent answers"));
        }
        match tokio::time::timeout(self.limit, self.policies()).await {
            Ok(Ok(policies)) => sample.policies = policies,
            Ok(Err(error)) => drop(sample.silent.insert("stats.antrea.io".to_owned(), told(&error))),
            Err(_) => drop(sample.silent.insert("stats.antrea.io".to_owned(), "no answer".to_owned())),
        }
        sample.policies_at = Some(Instant::now());
        Ok(sample)
    }

    /// What the controller has counted of policies.
    async fn policies(&self) -> anyhow::Result<BTreeMap<String, Counters>> {
        let mut found = BTreeMap::new();
        for (plural, kind) in STATISTICS {
            let path = format!("/apis/stats.antrea.io/v1alpha1/{plural}");
            let answer = self.cluster.ask(Method::GET, &path).await?;
            let answer: Value = serde_json::from_str(&answer).with_context(|| format!("answer of {path}"))?;
            for item in answer["items"].as_array().into_iter().flatten() {
                let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default();
                let name = match text("namespace") {
                    "" => format!("{kind} {}", text("name")),
                    namespace => format!("{kind} {namespace}/{}", text("name")),
                };
                let number = |key: &str| item["trafficStats"][key].as_u64().unwrap_or_default();
                let counters = Counters {
                    packets: number("packets"),
                    bytes: number("bytes"),
                    sessions: number("sessions"),
                };
                found.insert(name, counters);
            }
        }
        Ok(found)
    }
}

/// What an agent counts. One that was asked before is looked up anew where it does not answer as it did: its token has
/// run out, or another process is in its place, with another certificate.
async fn traffic(
    clients: &Clients,
    node: &str,
    known: Option<Arc<Server>>,
) -> anyhow::Result<(Arc<Server>, Traffic)> {
    if let Some(server) = known
        && let Ok(traffic) = counted(&server, node).await
    {
        return Ok((server, traffic));
    }
    let server = Arc::new(clients.agent(Some(node), "what passes its Node").await?);
    let traffic = counted(&server, node).await?;
    Ok((server, traffic))
}

async fn counted(server: &Server, node: &str) -> anyhow::Result<Traffic> {
    let answer = server.ask(Method::GET, "/traffic").await?;
    serde_json::from_str(&answer).with_context(|| format!("answer of the agent of {node}"))
}

#[cfg(test)]
mod tests;
