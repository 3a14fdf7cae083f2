//! One look at the Nodes: what is done next, and what is to be remembered of it.

use std::collections::BTreeSet;

use antrea_crds::installation::{RolloutStatus, Turn};
use k8s_openapi::jiff::Timestamp;

use super::{
    Proven, Rollout, Step,
    gate::{Gate, Place, gate},
    policy::{CANARY, Policy, Waves},
    probes::Verdict,
    progress,
};
use crate::cluster::{AgentNode, Trouble};

/// What a decision is made of.
pub struct Input<'a> {
    /// What `spec.rollout` says.
    pub policy: &'a Policy,
    /// The order of Nodes that follows from it.
    pub waves: &'a Waves,
    /// Nodes that shall run an agent.
    pub nodes: &'a [AgentNode],
    /// Revision that agents shall have.
    pub revision: &'a str,
    /// What is remembered of the change.
    pub record: &'a RolloutStatus,
    /// Nodes whose working agent is away, as the status has it.
    pub taken: &'a BTreeSet<String>,
    /// Agents that have worked.
    pub proven: &'a Proven,
    /// Since when that is kept.
    pub since: Timestamp,
    /// Whether a Node has the images of the wanted revision.
    pub has_images: &'a dyn Fn(&AgentNode) -> bool,
    /// What probes say of a Node.
    pub probed: &'a dyn Fn(&AgentNode) -> Verdict,
    /// Whether a change that failed is taken back.
    pub back: bool,
    /// The time.
    pub now: Timestamp,
}

/// A Node on which a change has failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Its name.
    pub node: String,
    /// What is wrong there.
    pub trouble: Trouble,
    /// Whether it is one of those that go first.
    pub canary: bool,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// Nodes whose working agent is away, or is about to be.
    pub taken: BTreeSet<String>,
    /// The same, with the time since when.
    pub turns: Vec<Turn>,
    /// Agents that have worked.
    pub proven: Proven,
    /// What may start.
    pub gate: Gate,
    /// Where the change has failed.
    pub failure: Option<Failure>,
    /// Nodes whose datapath is to be probed, with the identities of their agents' Pods.
    pub probing: Vec<(String, String)>,
    /// The first of them whose probes have failed so far, and how.
    pub probed: Option<(String, Trouble)>,
}

/// Decides.
pub fn decide(input: &Input<'_>) -> Decision {
    let Input { policy, waves, nodes, record, now, .. } = *input;
    // What goes back is what ran before, and waits for nothing that it has not waited for then.
    let asked = policy.probes && !input.back;
    let probed = |node: &AgentNode| if asked { (input.probed)(node) } else { Verdict::Unasked };
    let mut rollout = Rollout {
        nodes,
        revision: input.revision,
        taken: input.taken,
        proven: input.proven,
        failed_on: record.failed.as_ref().filter(|_| !input.back).map(|failed| failed.node.as_str()),
        has_images: input.has_images,
        turn: &|_| None,
        probed: &probed,
        max_unavailable: policy.max_unavailable.of(nodes.len()),
        min_ready: policy.min_ready,
        since: input.since,
        now,
    };
    let seen: Vec<_> = nodes
        .iter()
        .map(|node| (&*node.name, rollout.seen(node, waves.is_canary(waves.of(&node.name)))))
        .collect();
    let place = Place { wave: record.wave.clone(), ended: record.wave_ended.as_ref().map(|time| time.0) };
    let gate = gate(policy, waves, &place, &seen, input.back, now);
    let began = |node: &str| record.turns.iter().find(|turn| turn.node == node).map(|turn| turn.since.0);
    let failure = rollout.failed(began, policy.deadline).map(|(node, trouble)| Failure {
        node: node.to_owned(),
        trouble,
        canary: gate.place.wave.as_deref() == Some(CANARY),
    });
    // While a Node has not come back in time, no other starts.
    let until = gate.until.filter(|_| failure.is_none());
    let turn = |node: &AgentNode| {
        let wave = waves.of(&node.name);
        until.filter(|until| wave <= *until).map(|_| wave)
    };
    rollout.turn = &turn;
    if until.is_some_and(|until| waves.is_canary(until)) && !input.back {
        rollout.max_unavailable = 1;
    }
    let (step, mut taken, proven) = (rollout.next(), rollout.still_taken(), rollout.now_proven());
    if let Step::Announce { node } = &step {
        taken.insert(node.clone());
    }
    let untouched = |name: &str| {
        nodes.iter().find(|node| node.name == name).is_some_and(|node| !rollout.is_touched(node))
    };
    let turns = progress::turns(record, taken.iter(), untouched, now);
    let probing = rollout.probing();
    let verdict = |(name, _): &(String, String)| {
        let node = nodes.iter().find(|node| node.name == *name)?;
        match probed(node) {
            Verdict::Failed { trouble, .. } => Some((name.clone(), trouble)),
            _ => None,
        }
    };
    let told = probing.iter().find_map(verdict);
    Decision { step, turns, taken, proven, gate, failure, probing, probed: told }
}
