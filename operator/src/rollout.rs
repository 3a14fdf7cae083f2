//! Which agent is replaced next: a decision, made anew from what is observed each time.
//!
//! One Node at a time, and the next only when the last one's agent is of the wanted revision, ready for
//! a moment and well by its own account. Agents that do not work anyway go first. Nodes that are not
//! reachable are passed over; their agents are replaced when they come back.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::cluster::AgentNode;

/// An agent has to be ready for this long before the next one is replaced.
pub const MIN_READY: SignedDuration = SignedDuration::from_secs(3);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: every agent that can be reached is of the wanted revision.
    Done,
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

/// What to do next to bring every agent to `revision`.
pub fn next(nodes: &[AgentNode], revision: &str, now: Timestamp) -> Step {
    let reachable = || nodes.iter().filter(|node| node.reachable);
    let outdated = || {
        reachable().filter_map(|node| {
            let pod = node.pod.as_ref()?;
            (pod.revision != revision && !pod.deleting).then_some((node, pod))
        })
    };
    if outdated().next().is_none() && reachable().all(|node| !in_flight(node)) {
        return Step::Done;
    }
    if let Some(node) =
        reachable().find(|node| in_flight(node) || node.is_updated(revision) && !node.is_ready())
    {
        return Step::Wait { node: node.name.clone(), again: None };
    }
    let settling = reachable().filter(|node| node.is_updated(revision)).find_map(|node| {
        let left = MIN_READY - now.duration_since(node.pod.as_ref()?.since);
        left.is_positive().then_some((node, left))
    });
    if let (Some((node, left)), Some(_)) = (settling, outdated().next()) {
        return Step::Wait { node: node.name.clone(), again: Some(left) };
    }
    match outdated().min_by_key(|(node, _)| (node.is_ready(), node.name.clone())) {
        Some((node, pod)) => {
            Step::Replace { node: node.name.clone(), pod: pod.name.clone(), uid: pod.uid.clone() }
        }
        None => Step::Done,
    }
}

/// Whether a Node is between two agents.
fn in_flight(node: &AgentNode) -> bool {
    node.pod.as_ref().is_none_or(|pod| pod.deleting)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{Pod, Trouble};

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn agent(name: &str, revision: &str, ready: bool) -> AgentNode {
        let pod = Pod {
            name: format!("antrea-agent-{name}"),
            uid: format!("uid-{name}"),
            node: name.into(),
            image: "agent:1".into(),
            revision: revision.into(),
            ready,
            since: now() - SignedDuration::from_secs(60),
            deleting: false,
            ended: false,
            trouble: (!ready).then(|| Trouble::new("PodNotReady", "x")),
        };
        AgentNode { name: name.into(), reachable: true, vacant_since: now(), pod: Some(pod), unhealthy: None }
    }

    fn replaces(step: &Step) -> Option<&str> {
        if let Step::Replace { node, .. } = step { Some(node) } else { None }
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(next(&[], "2", now()), Step::Done);
        assert_eq!(next(&[agent("a", "2", true), agent("b", "2", true)], "2", now()), Step::Done);
    }

    #[test]
    fn one_after_the_other_by_name() {
        let mut nodes = [agent("a", "1", true), agent("b", "1", true)];
        assert_eq!(replaces(&next(&nodes, "2", now())), Some("a"));
        nodes[0].pod = None;
        assert_eq!(next(&nodes, "2", now()), Step::Wait { node: "a".into(), again: None });
        nodes[0] = agent("a", "2", false);
        assert_eq!(next(&nodes, "2", now()), Step::Wait { node: "a".into(), again: None });
        nodes[0] = agent("a", "2", true);
        nodes[0].pod.as_mut().unwrap().since = now() - SignedDuration::from_secs(1);
        assert_eq!(
            next(&nodes, "2", now()),
            Step::Wait { node: "a".into(), again: Some(SignedDuration::from_secs(2)) }
        );
        nodes[0] = agent("a", "2", true);
        assert_eq!(replaces(&next(&nodes, "2", now())), Some("b"));
    }

    #[test]
    fn a_new_agent_that_says_it_is_unwell_stops_the_rollout() {
        let mut nodes = [agent("a", "2", true), agent("b", "1", true)];
        nodes[0].unhealthy = Some((Trouble::new("OVSDown", "x"), now()));
        assert_eq!(next(&nodes, "2", now()), Step::Wait { node: "a".into(), again: None });
    }

    #[test]
    fn broken_agents_go_first() {
        let nodes = [agent("a", "1", true), agent("b", "1", false)];
        assert_eq!(replaces(&next(&nodes, "2", now())), Some("b"));
    }

    #[test]
    fn a_lost_node_does_not_hold_up_the_others() {
        let mut nodes = [agent("a", "1", false), agent("b", "1", true)];
        nodes[0].reachable = false;
        assert_eq!(replaces(&next(&nodes, "2", now())), Some("b"));
        nodes[1] = agent("b", "2", true);
        assert_eq!(next(&nodes, "2", now()), Step::Done);
        nodes[0].reachable = true;
        assert_eq!(replaces(&next(&nodes, "2", now())), Some("a"));
    }

    fn any_agent(i: usize) -> impl Strategy<Value = AgentNode> {
        let name = format!("n{i}");
        (any::<bool>(), any::<bool>(), 0..4u8, any::<bool>()).prop_map(
            move |(new, ready, state, reachable)| {
                let mut node = agent(&name, if new { "2" } else { "1" }, ready);
                node.reachable = reachable;
                match state {
                    0 => node.pod = None,
                    1 => node.pod.as_mut().unwrap().deleting = true,
                    _ => {}
                }
                node
            },
        )
    }

    fn any_cluster() -> impl Strategy<Value = Vec<AgentNode>> {
        (1usize..7).prop_flat_map(|n| (0..n).map(any_agent).collect::<Vec<_>>())
    }

    proptest! {
        /// A replacement never takes away a second agent that works.
        #[test]
        fn never_two_at_a_time(nodes in any_cluster()) {
            if let Step::Replace { node, .. } = next(&nodes, "2", now()) {
                let away = nodes.iter().filter(|n| n.reachable && n.name != node && (in_flight(n) || n.is_updated("2") && !n.is_ready()));
                prop_assert_eq!(away.count(), 0);
                let chosen = nodes.iter().find(|n| n.name == node).unwrap();
                prop_assert!(chosen.reachable && !chosen.is_updated("2"));
            }
        }

        /// If every replaced agent comes up, each reachable Node is replaced once and the rollout ends.
        #[test]
        fn it_ends(nodes in any_cluster()) {
            let mut nodes = nodes;
            for node in &mut nodes {
                if in_flight(node) || node.is_updated("2") {
                    *node = AgentNode { reachable: node.reachable, ..agent(&node.name, "2", true) };
                }
            }
            let outdated = nodes.iter().filter(|n| n.reachable && !n.is_updated("2")).count();
            let mut replaced = 0;
            loop {
                match next(&nodes, "2", now()) {
                    Step::Done => break,
                    Step::Wait { .. } => prop_assert!(false, "waits for nothing"),
                    Step::Replace { node, .. } => {
                        replaced += 1;
                        prop_assert!(replaced <= nodes.len());
                        let slot = nodes.iter_mut().find(|n| n.name == node).unwrap();
                        *slot = agent(&node, "2", true);
                    }
                }
            }
            prop_assert_eq!(replaced, outdated);
        }
    }
}
