//! Which agent is replaced next: a decision, made anew from what is observed each time.
//!
//! Agents that work are taken away `maxUnavailable` at a time: the next goes only when the last one's successor is
//! of the wanted revision, ready for a moment and well by its own account. Which those are is noted in the status
//! before anything is deleted, so that a restart of the operator forgets none.
//!
//! Agents that have not worked for a while have nothing to lose. They go first, [`SICK_AT_ONCE`] at a time, and the
//! others wait for none of them. A Node that is not reachable, or has not got the images, is passed over and taken
//! up when it can be. An agent that ceases to work by itself counts against the budget until it is known to be sick.
//!
//! A Node whose working agent was taken away counts as done when probes of its datapath have passed besides ([`probes`]).
//!
//! Which Nodes may start at all follows from `spec.rollout` ([`policy`], [`gate`]); what is remembered of a change, and
//! when it has failed, is [`progress`]'s.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::cluster::{AgentNode, Trouble};

pub mod decide;
pub mod gate;
pub mod policy;
pub mod probes;
pub mod progress;

use probes::Verdict;

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
    Announce { node: String },
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
    /// The Node on which the change has failed, as the status has it: that outlasts `proven`.
    pub failed_on: Option<&'a str>,
    /// Whether a Node has the images of the wanted revision.
    pub has_images: &'a dyn Fn(&AgentNode) -> bool,
    /// Position of a Node in the order of waves, if its turn has come.
    pub turn: &'a dyn Fn(&AgentNode) -> Option<usize>,
    /// What probes say of a Node whose working agent was taken away.
    pub probed: &'a dyn Fn(&AgentNode) -> Verdict,
    /// Agents that worked and may be away at the same time.
    pub max_unavailable: usize,
    /// How long a new agent has to be ready.
    pub min_ready: SignedDuration,
    /// Since when `proven` has been kept: what was before is not known.
    pub since: Timestamp,
    /// The time.
    pub now: Timestamp,
}

impl Rollout<'_> {
    /// What to do next.
    pub fn next(&self) -> Step {
        let mut waiting: Vec<&AgentNode> = self.replaceable().collect();
        waiting.sort_by_key(|node| (self.turn)(node));
        let taken = |node: &&&AgentNode| {
            // Others may have ceased to work since its turn was noted.
            self.taken.contains(&node.name) && (!node.is_ready() || self.missing() < self.max_unavailable)
        };
        if let Some(step) = waiting.iter().find(taken).and_then(|node| replace(node)) {
            return step;
        }
        waiting.retain(|node| !self.taken.contains(&node.name));
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
            (_, Some(first)) => {
                let changes = |node: &&AgentNode| self.settles_in(node).or_else(|| self.sick_in(node));
                Step::Wait { node: first.name.clone(), again: away.iter().filter_map(changes).min() }
            }
            (_, None) => self.rest(),
        }
    }

    /// Nodes whose working agent is away: those of `taken` whose next agent is not there yet.
    pub fn still_taken(&self) -> BTreeSet<String> {
        let open = |node: &&AgentNode| {
            // The turn of one that works and cannot be replaced now has not come.
            let open = self.is_touched(node) || (self.has_images)(node);
            self.taken.contains(&node.name) && !self.is_back(node) && open
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

    /// Nodes whose new agent works and whose probes have not passed, with the identity of the agent's Pod.
    pub fn probing(&self) -> Vec<(String, String)> {
        let taken = self.nodes.iter().filter(|node| self.taken.contains(&node.name));
        let working = taken.filter(|node| self.works(node) && !self.passes(node));
        working.filter_map(|node| Some((node.name.clone(), node.pod.as_ref()?.uid.clone()))).collect()
    }

    /// A Node on which the change has failed: one whose successor does not work in time, or does not any more, or whose
    /// probes fail.
    /// `since` tells when a Node's turn began.
    pub fn failed(
        &self,
        since: impl Fn(&str) -> Option<Timestamp>,
        deadline: SignedDuration,
    ) -> Option<(&str, Trouble)> {
        let taken = self.still_taken();
        let overdue = |node: &&AgentNode| {
            let began = since(&node.name).filter(|_| taken.contains(&node.name) && self.is_touched(node));
            began.is_some_and(|began| self.now.duration_since(began) >= deadline)
        };
        let for_long = |node: &AgentNode| node.failing(self.now, deadline).is_some();
        let ceased = |node: &&AgentNode| self.has_ceased(node) && (for_long(node) || self.has_failed(node));
        let probed = |node: &&AgentNode| {
            let judged = taken.contains(&node.name) && self.works(node);
            judged && matches!((self.probed)(node), Verdict::Failed { settled: true, .. })
        };
        let node = self.nodes.iter().find(|node| overdue(node) || ceased(node) || probed(node))?;
        let unknown = || match (node.reachable, (self.probed)(node).trouble().filter(|_| self.works(node))) {
            (false, _) => Trouble::new("NodeLost", "the Node does not answer"),
            (true, Some(trouble)) => trouble,
            (true, None) => Trouble::new("AgentNotReady", "its new agent was not ready for long enough"),
        };
        Some((&node.name, node.trouble().map_or_else(unknown, |(trouble, _)| trouble)))
    }

    /// What of a Node matters to whose turn it is. Of the `canary` all have to work that can be reached.
    pub fn seen(&self, node: &AgentNode, canary: bool) -> gate::Seen {
        let outdated = is_outdated(node, self.revision);
        let (taken, works) = (self.taken.contains(&node.name), self.is_back(node));
        let open = node.reachable && (outdated && (self.has_images)(node) || canary && !outdated && !works);
        gate::Seen { open: open || taken && !works, works, broken: self.has_ceased(node) }
    }

    /// Whether a Node's agent has been taken away already, rather than only its turn noted.
    pub fn is_touched(&self, node: &AgentNode) -> bool {
        !is_outdated(node, self.revision) || in_flight(node) || !node.is_ready()
    }

    fn reachable(&self) -> impl Iterator<Item = &AgentNode> {
        self.nodes.iter().filter(|node| node.reachable)
    }

    /// Nodes whose agent can be replaced now, by name.
    fn replaceable(&self) -> impl Iterator<Item = &AgentNode> {
        self.reachable().filter(|node| {
            let turn = self.taken.contains(&node.name) || (self.turn)(node).is_some();
            is_outdated(node, self.revision) && !in_flight(node) && turn && (self.has_images)(node)
        })
    }

    /// Nodes that count against the budget. An agent that has worked at the wanted revision and ceased to may have
    /// ceased for the change's sake, however long it took; one that never did was not taken away from anybody.
    fn away(&self) -> Vec<&AgentNode> {
        let taken = self.still_taken();
        // Nobody waits for these when there is nothing left to be taken away.
        let more = self.reachable().any(|node| is_outdated(node, self.revision));
        let counts = |node: &&AgentNode| {
            taken.contains(&node.name) || self.has_ceased(node) || more && self.is_undecided(node)
        };
        self.nodes.iter().filter(counts).collect()
    }

    /// How many of those that count against the budget are without a ready agent now.
    fn missing(&self) -> usize {
        self.away().into_iter().filter(|node| !node.is_ready()).count()
    }

    /// Whether an agent has worked at the wanted revision and does not any more.
    fn has_ceased(&self, node: &AgentNode) -> bool {
        let proven = node.pod.as_ref().is_some_and(|pod| self.proven.get(&node.name) == Some(&pod.uid));
        let worked = proven || self.has_failed(node);
        node.reachable && worked && node.is_updated(self.revision) && !node.is_ready()
    }

    /// Whether the change is known to have failed on a Node.
    fn has_failed(&self, node: &AgentNode) -> bool {
        self.failed_on == Some(node.name.as_str())
    }

    /// Whether an agent does not work that may have worked a moment ago.
    fn is_undecided(&self, node: &AgentNode) -> bool {
        let unknown = || {
            let before = node.pod.as_ref().is_some_and(|pod| pod.since <= self.since);
            before && self.now.duration_since(self.since) < SICK_AFTER
        };
        let may_have = !node.is_updated(self.revision) && !self.is_sick(node) || unknown();
        node.reachable && !node.is_ready() && may_have
    }

    /// When an agent that does not work is known to be sick.
    fn sick_in(&self, node: &AgentNode) -> Option<SignedDuration> {
        let (_, since) = node.trouble().filter(|_| !self.taken.contains(&node.name))?;
        Some(SICK_AFTER - self.now.duration_since(since)).filter(SignedDuration::is_positive)
    }

    /// Whether the wanted agent is there and works, and so does what it forwards.
    fn is_back(&self, node: &AgentNode) -> bool {
        self.works(node) && self.passes(node)
    }

    /// Whether the wanted agent is there and works by its own account.
    fn works(&self, node: &AgentNode) -> bool {
        node.is_updated(self.revision) && node.is_ready() && self.settles_in(node).is_none()
    }

    /// Whether no probes are waited for. Nobody had a working agent of a Node that was not taken away.
    fn passes(&self, node: &AgentNode) -> bool {
        !self.taken.contains(&node.name) || (self.probed)(node).lets_pass()
    }

    /// How long until a ready agent has been ready for long enough.
    fn settles_in(&self, node: &AgentNode) -> Option<SignedDuration> {
        let pod = node.pod.as_ref().filter(|_| node.is_updated(self.revision) && node.is_ready())?;
        Some(self.min_ready - self.now.duration_since(pod.since)).filter(SignedDuration::is_positive)
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
