//! Asking the Nodes of both ends what they do with the packet: their bridges first, then their own network stacks, for what
//! is asked of these follows from where bridges lead.

use std::sync::Arc;

use antrea_api::agent::HostPath;
use anyhow::Context;
use http::Method;
use serde_json::Value;
use tokio::task::JoinSet;

use super::bridge;
use super::facts::{Asked, Facts, Target, Way};
use super::gather::{Agents, answered};
use super::host;
use super::trace::{Hop, of_host, of_pod, of_tunnel, serves_services};
use crate::connect::Server;

/// Asks bridges what they do: first the source's, then those where it arrives.
pub(super) async fn bridges(facts: &mut Facts, agents: &Agents) {
    let Some(server) = agents.get(&facts.source.node).cloned() else { return };
    let sent: Vec<Option<String>> = facts.ways.iter().map(|way| first(facts, way)).collect();
    let answers = all(sent.into_iter().map(|path| Some((Arc::clone(&server), path?))).collect()).await;
    for (way, answer) in facts.ways.iter_mut().zip(answers) {
        way.sent = answer;
    }
    let to_service = match &facts.target {
        Target::Service(service) if !facts.source.host_network => service.address,
        _ => None,
    };
    if let Some(address) = to_service {
        let path = of_pod(&facts.source, address, None, facts.packet, facts.packet.port);
        let answer = answered(ask(&server, &path)).await;
        if let Target::Service(service) = &mut facts.target {
            service.sent = Some(answer);
        }
    }
    let received = facts.ways.iter().map(|way| {
        let (node, path) = second(facts, way)?;
        Some((Arc::clone(agents.get(node)?), path))
    });
    let answers = all(received.collect()).await;
    for (way, answer) in facts.ways.iter_mut().zip(answers) {
        way.received = answer;
    }
}

/// What the source's bridge is asked.
fn first(facts: &Facts, way: &Way) -> Option<String> {
    let (source, address) = (&facts.source, way.address?);
    let itself = way.pod.as_ref().is_some_and(|pod| pod.is(source));
    if source.host_network || itself {
        return None;
    }
    let from = source.address(address.is_ipv6())?;
    let pod = way.pod.as_ref().filter(|pod| !pod.host_network);
    let local = pod.filter(|pod| pod.node == source.node);
    let agent = facts.source_node()?.agent.as_ref().ok()?;
    match facts.target {
        Target::Service(_) if !serves_services(&agent.tables) => {
            // kube-proxy hands it back only if it is for a Pod.
            pod.map(|_| of_host(from, address, local, facts.packet, way.port))
        }
        _ => Some(of_pod(source, address, local, facts.packet, way.port)),
    }
}

/// Whom to ask what about the packet's arrival, if it gets to another Node.
fn second<'a>(facts: &'a Facts, way: &'a Way) -> Option<(&'a str, String)> {
    let pod = way.pod.as_ref().filter(|pod| !pod.host_network && pod.node != facts.source.node)?;
    let address = way.address?;
    let from = facts.source.address(address.is_ipv6())?;
    let path = match bridge::hop(facts, way)? {
        (Hop::Tunnel(peer), flow_based) => {
            let own = facts.source_node()?.addresses.iter().copied();
            let mut own = own.filter(|ip| ip.is_ipv6() == peer.is_ipv6());
            of_tunnel(from, pod, own.next().filter(|_| flow_based), facts.packet, way.port)
        }
        (Hop::Host, _) => of_host(from, address, Some(pod), facts.packet, way.port),
        _ => return None,
    };
    Some((&pod.node, path))
}

/// Answers in the order of the questions; there are [`ENDPOINTS`] at most.
async fn all(questions: Vec<Option<(Arc<Server>, String)>>) -> Vec<Option<Asked<String>>> {
    let mut answers: Vec<Option<Asked<String>>> = questions.iter().map(|_| None).collect();
    let mut tasks = JoinSet::new();
    for (at, question) in questions.into_iter().enumerate() {
        if let Some((server, path)) = question {
            tasks.spawn(async move { (at, answered(ask(&server, &path)).await) });
        }
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((at, answer)) = done {
            answers[at] = Some(answer);
        }
    }
    answers
}

async fn ask(server: &Server, path: &str) -> anyhow::Result<String> {
    let answer = server.ask(Method::GET, path).await?;
    let value: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {path}"))?;
    Ok(value["result"].as_str().unwrap_or_default().to_owned())
}

/// Asks the Nodes what their own network stacks do with it.
pub(super) async fn hosts(facts: &mut Facts, agents: &Agents) {
    let mut tasks = JoinSet::new();
    for (node, path) in host::questions(facts) {
        if let Some(server) = agents.get(&node).cloned() {
            tasks.spawn(async move {
                let asked = async {
                    let answer = server.ask(Method::GET, &path).await?;
                    serde_json::from_str::<HostPath>(&answer).with_context(|| format!("answer to {path}"))
                };
                (node, answered(asked).await)
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((node, path)) = done
            && let Some(node) = facts.nodes.get_mut(&node)
        {
            node.path = Some(path);
        }
    }
}
