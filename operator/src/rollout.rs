//! Which agent is replaced next: a decision, made anew from what is observed each time.
//!
//! Agents that work are taken away [`MAX_UNAVAILABLE`] at a time: the next goes only when the last one's successor is
//! of the wanted revision, ready for a moment and well by its own account. Which those are is noted in the status
//! before anything is deleted, so that a restart of the operator forgets none.
//!
//! Agents that have not worked for a while have nothing to lose. They go first, [`SICK_AT_ONCE`] at a time, and the
//! others wait for none of them. A Node that is not reachable, or has not got the images, is passed over and taken
//! up when it can be.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::cluster::AgentNode;

/// An agent has to be ready for this long before the next one is replaced.
pub const MIN_READY: SignedDuration = SignedDuration::from_secs(3);

/// Agents that worked and are away at the same time for a change, at most.
pub const MAX_UNAVAILABLE: usize = 1;

/// An agent that has not worked for this long counts as sick.
const SICK_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Sick agents that are replaced at the same time, at most.
const SICK_AT_ONCE: usize = 10;

/// The successor of a sick agent has this long to be ready before the next sick one gets its place.
const CHANCE: SignedDuration = SignedDuration::from_secs(60);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: every agent that can be reached is of the wanted revision.
    Done,
    /// Note in the status that the agent on a Node is about to be taken away.
    Announce {
        /// Which Node.
        node: String,
    },
    /// Delete this Pod; its successor will be of the wanted revision.
    Replace {
        /// Node whose turn it is.
        node: String,
        /// Its agent's Pod.
        pod: String,
        /// The Pod's identity, so that no other is deleted.
        uid: String,
    },
    /// Wait for the agent on a Node.
    Wait {
        /// Which Node.
        node: String,
        /// When to look again, if nothing happens before.
        again: Option<SignedDuration>,
    },
}

/// Agents that have worked since they were made: the identity of the Pod by Node.
pub type Proven = BTreeMap<String, String>;

/// What decides.
pub struct Rollout<'a> {
    /// Nodes that shall run an agent.
    pub nodes: &'a [AgentNode],
    /// Revision that agents shall have.
    pub revision: &'a str,
    /// Nodes whose working agent was taken away, or is about to be, as the status has it.
    pub taken: &'a BTreeSet<String>,
    /// Agents that have worked.
    pub proven: &'a Proven,
    /// Whether a Node has the images of the wanted revision.
    pub has_images: &'a dyn Fn(&AgentNode) -> bool,
    /// Agents that worked and may be away at the same time.
    pub max_unavailable: usize,
    /// The time.
    pub now: Timestamp,
}

impl Rollout<'_> {
    /// What to do next.
    pub fn next(&self) -> Step {
        let waiting: Vec<&AgentNode> = self.replaceable().collect();
        if let Some(step) =
            waiting.iter().find(|node| self.taken.contains(&node.name)).and_then(|n| replace(n))
        {
            return step;
        }
        let sick = waiting.iter().find(|node| self.is_sick(node));
        if let Some(step) = sick.filter(|_| self.has_place_for_sick()).and_then(|node| replace(node)) {
            return step;
        }
        let away = self.away();
        let next = waiting.iter().find(|node| node.is_ready());
        match (next, away.first()) {
            (Some(next), _) if away.len() < self.max_unavailable => {
                Step::Announce { node: next.name.clone() }
            }
            (_, Some(node)) => Step::Wait { node: node.name.clone(), again: self.settles_in(node) },
            (_, None) => self.rest(),
        }
    }

    /// Nodes whose working agent is away: those of `taken` whose next agent is not there yet.
    pub fn still_taken(&self) -> BTreeSet<String> {
        let open = |node: &&AgentNode| {
            let touched = !is_outdated(node, self.revision) || in_flight(node);
            // The turn of one that cannot be replaced now has not come.
            self.taken.contains(&node.name) && !self.is_back(node) && (touched || (self.has_images)(node))
        };
        self.nodes.iter().filter(open).map(|node| node.name.clone()).collect()
    }

    /// `proven` with the agents that work by now, and without Pods that are gone.
    pub fn now_proven(&self) -> Proven {
        let pods = self.nodes.iter().filter_map(|node| Some((node, node.pod.as_ref()?)));
        pods.filter(|(node, pod)| self.is_back(node) || self.proven.get(&node.name) == Some(&pod.uid))
            .map(|(node, pod)| (node.name.clone(), pod.uid.clone()))
            .collect()
    }

    fn reachable(&self) -> impl Iterator<Item = &AgentNode> {
        self.nodes.iter().filter(|node| node.reachable)
    }

    /// Nodes whose agent can be replaced now, by name.
    fn replaceable(&self) -> impl Iterator<Item = &AgentNode> {
        self.reachable()
            .filter(|node| is_outdated(node, self.revision) && !in_flight(node) && (self.has_images)(node))
    }

    /// Nodes that count against the budget. An agent that has worked at the wanted revision and ceased to may have
    /// ceased for the change's sake, however long it took; one that never did was not taken away from anybody.
    fn away(&self) -> Vec<&AgentNode> {
        let taken = self.still_taken();
        let ceased = |node: &AgentNode| {
            let proven = node.pod.as_ref().is_some_and(|pod| self.proven.get(&node.name) == Some(&pod.uid));
            node.reachable && proven && node.is_updated(self.revision) && !node.is_ready()
        };
        self.nodes.iter().filter(|node| taken.contains(&node.name) || ceased(node)).collect()
    }

    /// Whether the wanted agent is there and works.
    fn is_back(&self, node: &AgentNode) -> bool {
        node.is_updated(self.revision) && node.is_ready() && self.settles_in(node).is_none()
    }

    /// How long until a ready agent has been ready for long enough.
    fn settles_in(&self, node: &AgentNode) -> Option<SignedDuration> {
        let pod = node.pod.as_ref().filter(|_| node.is_updated(self.revision) && node.is_ready())?;
        Some(MIN_READY - self.now.duration_since(pod.since)).filter(SignedDuration::is_positive)
    }

    fn is_sick(&self, node: &AgentNode) -> bool {
        !node.is_ready() && node.failing(self.now, SICK_AFTER).is_some()
    }

    /// Whether another sick agent may go. Where most are sick, what is wrong may be none of theirs, such as a
    /// controller that was away: then they forward packets still, and go one by one.
    fn has_place_for_sick(&self) -> bool {
        let attempts = self.reachable().filter(|node| self.is_attempted(node)).count();
        let sick = self.reachable().filter(|node| self.is_sick(node)).count();
        let most = 2 * sick > self.reachable().count();
        attempts < if most { 1 } else { SICK_AT_ONCE }
    }

    /// Whether a Node whose agent did not work is being given another.
    fn is_attempted(&self, node: &AgentNode) -> bool {
        let recent = |since: Timestamp| self.now.duration_since(since) < CHANCE;
        !self.taken.contains(&node.name)
            && match &node.pod {
                None => recent(node.vacant_since),
                Some(pod) => {
                    pod.deleting || node.is_updated(self.revision) && !node.is_ready() && recent(pod.since)
                }
            }
    }

    /// What is left to wait for when nothing can be replaced and nothing is away.
    fn rest(&self) -> Step {
        let outdated = || self.reachable().filter(|node| is_outdated(node, self.revision));
        // It may recover, or turn out to be sick.
        let undecided = outdated().filter_map(|node| {
            let (_, since) = node.trouble().filter(|_| !self.is_sick(node) && !in_flight(node))?;
            Some(SICK_AFTER - self.now.duration_since(since))
        });
        let again = undecided.chain(self.sick_again()).min();
        match outdated().next() {
            Some(node) => Step::Wait { node: node.name.clone(), again },
            None => Step::Done,
        }
    }

    /// When a place among the sick ones is free, if one waits for it.
    fn sick_again(&self) -> Option<SignedDuration> {
        self.replaceable().any(|node| self.is_sick(node)).then_some(SignedDuration::from_secs(1))
    }
}

fn replace(node: &AgentNode) -> Option<Step> {
    let pod = node.pod.as_ref()?;
    Some(Step::Replace { node: node.name.clone(), pod: pod.name.clone(), uid: pod.uid.clone() })
}

/// Whether a Node runs another agent than the wanted one, be it on its way out.
fn is_outdated(node: &AgentNode, revision: &str) -> bool {
    node.pod.as_ref().is_some_and(|pod| pod.revision != revision)
}

/// Whether a Node is between two agents.
fn in_flight(node: &AgentNode) -> bool {
    node.pod.as_ref().is_none_or(|pod| pod.deleting)
}

#[cfg(test)]
mod tests;
