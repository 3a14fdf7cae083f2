//! What goes next when all is removed: agents first, then what they left on their Nodes, then the controller,
//! then what they needed. Definitions and their objects stay.
//!
//! It ends, also when a Node is gone and its Pods never go: a Node whose kubelet is silent is waited for by
//! nobody, any other for as long as Pods still make progress. What could not be cleaned is named.

use std::collections::BTreeMap;

use antrea_crds::installation::Toleration;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{Cluster, Pod, first_few},
    object::{self, CRD, DAEMON_SET, Key, Stage},
    render::CLEANUP,
};

/// Pods are waited for this long after the request to delete, after it was first seen, after they were asked for, or
/// after the last that got anywhere.
pub const LIMIT: SignedDuration = SignedDuration::from_secs(120);

/// Nodes that are named in a message.
const NAMED: usize = 5;

/// What decides.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Managed objects that are left.
    pub owned: &'a [Key],
    /// Whether Nodes are to be cleaned still.
    pub cleaning: bool,
    /// Whether agents' Pods are left on Nodes that can be reached.
    pub agents: bool,
    /// Whether controllers' Pods are.
    pub controllers: bool,
    /// Whether Pods that clean are.
    pub cleaners: bool,
    /// The Nodes to clean.
    pub nodes: &'a [Cleaned],
    /// Whether Pods have been waited for for long enough.
    pub overdue: bool,
}

/// A Node that an agent ran on, and how far its clean-up is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// Its name.
    pub node: String,
    /// Whether its kubelet has been heard of lately.
    pub reachable: bool,
    /// Why it is not clean; `None` once it is.
    pub left: Option<String>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    Delete(Vec<Key>),
    /// Start to clean Nodes.
    Clean,
    /// Note that Nodes are as clean as they get; these are not.
    Cleaned(Vec<Cleaned>),
    Wait(String),
    /// Nothing is left.
    Done,
}

/// What to do next.
pub fn next(seen: &Seen<'_>) -> Removal {
    let cleaner = |key: &&Key| key.kind == DAEMON_SET.kind && key.name == CLEANUP;
    let of = |stage: Stage| -> Vec<Key> {
        let of_stage = |key: &&Key| {
            let kind = object::kind(key.kind);
            kind.is_some_and(|kind| kind.stage == stage && kind.kind != CRD.kind) && !cleaner(key)
        };
        seen.owned.iter().filter(of_stage).cloned().collect()
    };
    let waits = |pods: bool| pods && !seen.overdue;

    let agents = of(Stage::Agents);
    if !agents.is_empty() {
        return Removal::Delete(agents);
    }
    if waits(seen.agents) {
        return Removal::Wait("agents to end".to_owned());
    }
    let cleaners: Vec<Key> = seen.owned.iter().filter(cleaner).cloned().collect();
    if seen.cleaning {
        return clean(seen, !cleaners.is_empty());
    }
    if !cleaners.is_empty() {
        return Removal::Delete(cleaners);
    }
    // One that came late would take away what the next installation brings.
    if waits(seen.cleaners) {
        return Removal::Wait("Pods that clean Nodes to end".to_owned());
    }
    let controller = of(Stage::Controller);
    if !controller.is_empty() {
        return Removal::Delete(controller);
    }
    if waits(seen.controllers) {
        return Removal::Wait("the controller to end".to_owned());
    }
    let base = of(Stage::Base);
    if base.is_empty() { Removal::Done } else { Removal::Delete(base) }
}

fn clean(seen: &Seen<'_>, started: bool) -> Removal {
    let left: Vec<Cleaned> = seen.nodes.iter().filter(|node| node.left.is_some()).cloned().collect();
    let pending = left.iter().any(|node| node.reachable);
    if !pending || started && seen.overdue {
        return Removal::Cleaned(left);
    }
    if !started {
        return Removal::Clean;
    }
    let clean = seen.nodes.len() - left.len();
    Removal::Wait(format!("Nodes to be clean: {clean} of {} are; {}", seen.nodes.len(), name(&left)))
}

/// The first Nodes that are not clean, each with the cause.
pub fn name(left: &[Cleaned]) -> String {
    let one = |node: &Cleaned| format!("{}: {}", node.node, node.left.as_deref().unwrap_or("clean"));
    first_few(left.iter().map(one), left.len(), NAMED)
}

/// How far the clean-up of the agents' Nodes is.
pub fn nodes(
    cluster: &Cluster,
    selector: &BTreeMap<String, String>,
    tolerations: &[Toleration],
) -> Vec<Cleaned> {
    let pods: BTreeMap<&str, &Pod> = cluster
        .cleanup_pods
        .values()
        .filter(|pod| !pod.deleting)
        .map(|pod| (pod.node.as_str(), pod))
        .collect();
    let left = |name: &str, reachable: bool| match pods.get(name) {
        Some(pod) if pod.ready => None,
        _ if !reachable => Some("its kubelet does not answer".to_owned()),
        None => Some("no Pod cleans it yet".to_owned()),
        Some(pod) => {
            Some(pod.trouble.as_ref().map_or_else(|| "being cleaned".to_owned(), ToString::to_string))
        }
    };
    let admitted = cluster.nodes.iter().filter(|(_, node)| node.admits(selector, tolerations));
    admitted
        .map(|(name, node)| Cleaned {
            node: name.clone(),
            reachable: node.reachable,
            left: left(name, node.reachable),
        })
        .collect()
}

/// Whether any of `pods` is on a Node that can be reached.
pub fn reachable<'a>(cluster: &Cluster, pods: impl IntoIterator<Item = &'a Pod>) -> bool {
    pods.into_iter().any(|pod| cluster.nodes.get(&pod.node).is_some_and(|node| node.reachable))
}

/// Whether Pods have been waited for for too long.
pub fn is_overdue(cluster: &Cluster, asked: Timestamp, now: Timestamp) -> bool {
    // What was asked for while nobody looked, or is asked for late, has its time all the same.
    let begun = asked.max(cluster.started).max(cluster.cleaning_since.unwrap_or(asked));
    let last = cluster.cleanup_pods.values().map(|pod| pod.since).fold(begun, Timestamp::max);
    now.duration_since(last) > LIMIT
}

#[cfg(test)]
mod tests;
