use proptest::prelude::*;

use super::*;
use crate::cluster::{Pod, Trouble};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn agent(name: &str, revision: &str, ready: bool) -> AgentNode {
    agent_since(name, revision, ready, -60)
}

fn agent_since(name: &str, revision: &str, ready: bool, since: i64) -> AgentNode {
    let pod = Pod {
        name: format!("antrea-agent-{name}"),
        uid: format!("uid-{name}-{revision}"),
        node: name.into(),
        image: "agent:1".into(),
        revision: revision.into(),
        ready,
        since: at(since),
        deleting: false,
        ended: false,
        trouble: (!ready).then(|| Trouble::new("PodNotReady", "x")),
    };
    AgentNode {
        name: name.into(),
        reachable: true,
        created: Timestamp::UNIX_EPOCH,
        vacant_since: at(since),
        pod: Some(pod),
        unhealthy: None,
    }
}

/// A rollout to revision 2 of which nothing is known but the Nodes and what was taken away.
fn next(nodes: &[AgentNode], taken: &[&str]) -> Step {
    next_with(nodes, taken, &Proven::new(), &|_| true)
}

fn next_with(
    nodes: &[AgentNode],
    taken: &[&str],
    proven: &Proven,
    has_images: &dyn Fn(&AgentNode) -> bool,
) -> Step {
    let taken: BTreeSet<String> = taken.iter().map(|name| (*name).to_owned()).collect();
    rollout(nodes, &taken, proven, has_images, 0).next()
}

fn rollout<'a>(
    nodes: &'a [AgentNode],
    taken: &'a BTreeSet<String>,
    proven: &'a Proven,
    has_images: &'a dyn Fn(&AgentNode) -> bool,
    now: i64,
) -> Rollout<'a> {
    Rollout {
        nodes,
        revision: "2",
        taken,
        proven,
        failed_on: None,
        has_images,
        turn: &|_| Some(0),
        probed: &|_| Verdict::Unasked,
        max_unavailable: 1,
        min_ready: SignedDuration::from_secs(3),
        since: Timestamp::UNIX_EPOCH,
        now: at(now),
    }
}

fn wait(node: &str) -> Step {
    Step::Wait { node: node.into(), again: None }
}

fn announce(node: &str) -> Step {
    Step::Announce { node: node.into() }
}

fn replaces(step: &Step) -> Option<&str> {
    if let Step::Replace { node, .. } = step { Some(node) } else { None }
}

#[test]
fn nothing_to_do() {
    assert_eq!(next(&[], &[]), Step::Done);
    assert_eq!(next(&[agent("a", "2", true), agent("b", "2", true)], &[]), Step::Done);
}

#[test]
fn one_after_the_other_by_name_and_never_unannounced() {
    let mut nodes = [agent("a", "1", true), agent("b", "1", true)];
    assert_eq!(next(&nodes, &[]), announce("a"));
    assert_eq!(replaces(&next(&nodes, &["a"])), Some("a"));
    nodes[0].pod.as_mut().unwrap().deleting = true;
    assert_eq!(next(&nodes, &["a"]), wait("a"));
    nodes[0].pod = None;
    assert_eq!(next(&nodes, &["a"]), wait("a"));
    nodes[0] = agent("a", "2", false);
    assert_eq!(next(&nodes, &["a"]), wait("a"));
    nodes[0] = agent_since("a", "2", true, -1);
    let again = Some(SignedDuration::from_secs(2));
    assert_eq!(next(&nodes, &["a"]), Step::Wait { node: "a".into(), again });
    nodes[0] = agent("a", "2", true);
    assert_eq!(next(&nodes, &["a"]), announce("b"));
}

#[test]
fn a_new_agent_that_does_not_work_stops_the_rollout() {
    let mut nodes = [agent("a", "2", true), agent("b", "1", true)];
    nodes[0].unhealthy = Some((Trouble::new("OVSDown", "x"), at(-100)));
    assert_eq!(next(&nodes, &["a"]), wait("a"));
    nodes[0] = agent_since("a", "2", false, -1000);
    assert_eq!(next(&nodes, &["a"]), wait("a"));
    nodes[0].reachable = false;
    assert_eq!(next(&nodes, &["a"]), wait("a"), "the change may have cut it off");
}

/// One that is ready for a moment between two crashes has been counted as done.
#[test]
fn a_new_agent_that_ceases_to_work_stops_the_rollout() {
    let nodes = [agent("a", "2", false), agent("b", "1", true)];
    let proven = Proven::from([("a".to_owned(), "uid-a-2".to_owned())]);
    assert_eq!(next_with(&nodes, &[], &proven, &|_| true), wait("a"));
    assert_eq!(next(&nodes, &[]), announce("b"), "it never worked");
}

#[test]
fn sick_agents_go_first_and_nobody_waits_for_them() {
    let mut nodes = [agent("a", "1", true), agent("b", "1", false), agent("c", "1", true)];
    assert_eq!(replaces(&next(&nodes, &[])), Some("b"));
    for state in [agent_since("b", "2", false, 0), agent("b", "2", false)] {
        nodes[1] = state;
        assert_eq!(next(&nodes, &[]), announce("a"));
    }
    nodes[1].pod = None;
    assert_eq!(next(&nodes, &[]), announce("a"), "nor for a Pod that is not made");
    let mut all = nodes.clone();
    for node in &mut all {
        *node = AgentNode { pod: None, ..node.clone() };
    }
    assert_eq!(next(&all, &[]), Step::Done, "what is made is of the wanted revision");
}

/// A hiccup of the API server makes every agent unready for a moment.
#[test]
fn an_agent_that_is_unready_for_a_moment_is_not_sick() {
    let mut nodes = [agent_since("a", "1", false, -10), agent("b", "1", true)];
    let again = Some(SignedDuration::from_secs(20));
    assert_eq!(next(&nodes, &[]), Step::Wait { node: "a".into(), again }, "two would be without an agent");
    assert_eq!(next(&nodes, &["b"]), Step::Wait { node: "a".into(), again }, "nor when its turn is noted");
    nodes[1] = agent_since("b", "1", false, -5);
    let again = Some(SignedDuration::from_secs(20));
    assert_eq!(next(&nodes, &[]), Step::Wait { node: "a".into(), again });
}

#[test]
fn not_all_sick_agents_go_at_once() {
    for (sick, all, at_once) in [(30, 80, SICK_AT_ONCE), (30, 30, 1), (1, 2, 1), (3, 6, 3)] {
        let mut nodes: Vec<AgentNode> =
            (0..all).map(|i| agent(&format!("n{i:02}"), "1", i >= sick)).collect();
        let mut replaced = 0;
        while let Step::Replace { node, .. } = next(&nodes, &[]) {
            let slot = nodes.iter_mut().find(|slot| slot.name == node).unwrap();
            *slot = agent_since(&node, "2", false, 0);
            replaced += 1;
        }
        assert_eq!(replaced, at_once, "{sick} of {all}");
    }
}

#[test]
fn a_node_without_the_images_is_skipped_until_it_has_them() {
    let nodes = [agent("a", "1", true), agent("b", "1", true)];
    let not_a = |node: &AgentNode| node.name != "a";
    assert_eq!(next_with(&nodes, &[], &Proven::new(), &not_a), announce("b"));
    assert_eq!(next_with(&nodes, &["a"], &Proven::new(), &not_a), announce("b"), "its turn is over");
    let nodes = [agent("a", "1", true), agent("b", "2", true)];
    assert_eq!(next_with(&nodes, &[], &Proven::new(), &not_a), wait("a"), "it is told");
    assert_eq!(next(&nodes, &[]), announce("a"));
}

#[test]
fn a_lost_node_does_not_hold_up_the_others() {
    let mut nodes = [agent("a", "1", false), agent("b", "1", true)];
    nodes[0].reachable = false;
    assert_eq!(next(&nodes, &[]), announce("b"));
    nodes[1] = agent("b", "2", true);
    assert_eq!(next(&nodes, &[]), Step::Done);
    nodes[0].reachable = true;
    assert_eq!(replaces(&next(&nodes, &[])), Some("a"));
    assert_eq!(next(&nodes[1..], &["a"]), Step::Done, "a Node that is removed is waited for by nobody");
}

/// An operator that starts anew knows of no agent whether it has worked.
#[test]
fn what_is_not_known_counts_for_a_while() {
    let nodes = [agent("a", "2", false), agent("b", "1", true)];
    let (taken, proven) = (BTreeSet::new(), Proven::new());
    let mut rollout = rollout(&nodes, &taken, &proven, &|_| true, 0);
    rollout.since = at(-10);
    assert!(matches!(rollout.next(), Step::Wait { .. }));
    rollout.since = at(-30);
    assert_eq!(rollout.next(), announce("b"));
}

/// What goes back must not forget whom it made wait.
#[test]
fn an_agent_that_the_change_broke_counts_whatever_images_are_there() {
    let nodes = [agent("a", "1", false), agent("b", "1", true)];
    let (taken, proven) = (BTreeSet::from(["a".to_owned()]), Proven::new());
    assert!(rollout(&nodes, &taken, &proven, &|node| node.name != "a", 0).still_taken().contains("a"));
    assert_eq!(next_with(&nodes, &["a"], &proven, &|node| node.name != "a"), wait("a"));
}

#[test]
fn a_node_has_its_time_and_then_the_change_has_failed() {
    let deadline = SignedDuration::from_secs(300);
    let failed = |nodes: &[AgentNode], taken: &[&str], began: i64, proven: &Proven| {
        let taken: BTreeSet<String> = taken.iter().map(|name| (*name).to_owned()).collect();
        rollout(nodes, &taken, proven, &|_| true, 0)
            .failed(|_| Some(at(began)), deadline)
            .map(|(node, trouble)| (node.to_owned(), trouble.reason))
    };
    let none = Proven::new();
    let mut nodes = [agent("a", "2", false), agent("b", "1", true)];
    assert_eq!(failed(&nodes, &["a"], -299, &none), None);
    assert_eq!(failed(&nodes, &["a"], -300, &none), Some(("a".into(), "PodNotReady".into())));
    assert_eq!(failed(&nodes, &["b"], -300, &none), None, "its agent was never taken away");
    assert_eq!(failed(&nodes, &[], -300, &none), None, "it did not work before");
    let worked = Proven::from([("a".to_owned(), "uid-a-2".to_owned())]);
    assert_eq!(failed(&nodes, &[], 0, &worked), None);
    nodes[0] = agent_since("a", "2", false, -301);
    assert_eq!(failed(&nodes, &[], 0, &worked), Some(("a".into(), "PodNotReady".into())));
    nodes[0] = AgentNode { reachable: false, ..agent("a", "2", true) };
    nodes[0].pod.as_mut().unwrap().deleting = true;
    assert_eq!(failed(&nodes, &["a"], -300, &none), Some(("a".into(), "NodeLost".into())));
}

/// How a Node of the simulation behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Its agents work, so many seconds after they are made.
    Well(i64),
    /// No agent ever works on it, before or after.
    Sick,
    /// As `Sick`, and no Pod is made once one is gone.
    Vacant,
    /// It works and gets the images late.
    Late(i64),
    /// It works and never gets the images.
    Imageless,
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (1..20i64).prop_map(Kind::Well),
        1 => Just(Kind::Sick),
        1 => Just(Kind::Vacant),
        1 => (1..300i64).prop_map(Kind::Late),
        1 => Just(Kind::Imageless),
    ]
}

/// A cluster second by second, with an operator that forgets everything but the status now and then.
struct World {
    kinds: Vec<Kind>,
    nodes: Vec<AgentNode>,
    taken: BTreeSet<String>,
    proven: Proven,
    now: i64,
}

impl World {
    fn new(kinds: Vec<Kind>) -> Self {
        let well = |kind: &Kind| !matches!(kind, Kind::Sick | Kind::Vacant);
        let nodes =
            kinds.iter().enumerate().map(|(i, kind)| agent(&format!("n{i:02}"), "1", well(kind))).collect();
        Self { kinds, nodes, taken: BTreeSet::new(), proven: Proven::new(), now: 0 }
    }

    /// The operator acts until it has to wait.
    fn act(&mut self) -> Step {
        loop {
            let (kinds, now) = (self.kinds.clone(), self.now);
            let has_images = move |node: &AgentNode| {
                let index: usize = node.name[1..].parse().unwrap();
                match kinds[index] {
                    Kind::Late(after) => now >= after,
                    Kind::Imageless => false,
                    _ => true,
                }
            };
            let rollout = rollout(&self.nodes, &self.taken, &self.proven, &has_images, self.now);
            let (step, mut taken, proven) = (rollout.next(), rollout.still_taken(), rollout.now_proven());
            if let Step::Announce { node } = &step {
                taken.insert(node.clone());
            }
            (self.taken, self.proven) = (taken, proven);
            match &step {
                Step::Replace { node, .. } => {
                    let index: usize = node[1..].parse().unwrap();
                    let name = node.clone();
                    let mut new = agent_since(&name, "2", false, self.now);
                    if self.kinds[index] == Kind::Vacant {
                        new.pod = None;
                    }
                    self.nodes[index] = new;
                }
                Step::Announce { .. } => {}
                Step::Done | Step::Wait { .. } => return step,
            }
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        for (kind, node) in self.kinds.iter().zip(&mut self.nodes) {
            let after = match kind {
                Kind::Well(after) => *after,
                Kind::Late(_) => 1,
                _ => continue,
            };
            let Some(pod) = node.pod.as_ref().filter(|pod| !pod.ready) else { continue };
            if at(self.now).duration_since(pod.since).as_secs() >= after {
                *node = agent_since(&node.name, "2", true, self.now);
            }
        }
    }

    fn away(&self) -> usize {
        let works = |kind: &Kind| !matches!(kind, Kind::Sick | Kind::Vacant);
        self.kinds.iter().zip(&self.nodes).filter(|(kind, node)| works(kind) && !node.is_ready()).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is wrong with some Nodes, all others get the change, and at no time is more than one agent that
    /// worked away; also when the operator starts anew in between.
    #[test]
    fn sick_nodes_hold_up_nobody_and_the_budget_holds(
        kinds in proptest::collection::vec(any_kind(), 1..12),
        forgets in proptest::collection::btree_set(0..1000i64, 0..5),
    ) {
        let mut world = World::new(kinds);
        let mut step = Step::Done;
        for _ in 0..1000 {
            if forgets.contains(&world.now) {
                world.proven.clear();
            }
            step = world.act();
            prop_assert!(world.away() <= 1, "{} away: {step:?}", world.away());
            world.tick();
        }
        for (kind, node) in world.kinds.iter().zip(&world.nodes) {
            let old = node.pod.as_ref().is_some_and(|pod| pod.revision == "1");
            prop_assert_eq!(old, *kind == Kind::Imageless, "{:?} {}", kind, node.name);
        }
        let imageless = world.kinds.contains(&Kind::Imageless);
        prop_assert_eq!(step == Step::Done, !imageless, "{:?}", step);
        prop_assert!(world.taken.is_empty());
    }

    /// A change that no agent works with takes one Node and no more.
    #[test]
    fn a_bad_change_stops_at_the_first_node(count in 1usize..10, restart in 0..100i64) {
        let mut world = World::new(vec![Kind::Well(1_000_000); count]);
        for _ in 0..300 {
            if world.now == restart {
                world.proven.clear();
            }
            world.act();
            prop_assert!(world.away() <= 1);
            world.tick();
        }
        prop_assert_eq!(world.away(), 1);
    }
}

mod story;
