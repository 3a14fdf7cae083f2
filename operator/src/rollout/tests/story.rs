//! Whole changes, second by second, with an operator that forgets all but the status now and then.

use antrea_crds::installation::{AntreaInstallationSpec, RolloutStatus};
use serde_json::json;

use super::*;
use crate::rollout::{
    decide::{Decision, Input, decide},
    policy::{Policy, Waves},
    progress::{self, Asked, Course},
};

mod probed;

use probed::Agents;

/// A random sequence that a seed determines (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

fn spec(value: serde_json::Value) -> AntreaInstallationSpec {
    serde_json::from_value(value).unwrap()
}

/// A cluster whose agents are ready `settle` seconds after they are made, unless their version is a bad one.
struct Story {
    spec: AntreaInstallationSpec,
    generation: i64,
    labels: Vec<BTreeMap<String, String>>,
    nodes: Vec<AgentNode>,
    /// Nodes on which a version does not work.
    bad: fn(usize, &str) -> bool,
    settle: i64,
    /// Nodes that got a new agent when theirs had failed for long, and that does not work yet.
    hopeless: BTreeSet<usize>,
    /// Until when an agent stays away by itself.
    down: Vec<i64>,
    // What the status has.
    last: AntreaInstallationSpec,
    record: RolloutStatus,
    taken: BTreeSet<String>,
    // What the operator remembers.
    proven: Proven,
    since: i64,
    now: i64,
    /// Every Node whose working agent was taken away, with the version that it got, in order.
    replaced: Vec<(usize, String)>,
    /// What was told, each once when it changed.
    told: Vec<String>,
    /// Why the change has failed.
    cause: Option<String>,
    /// What agents say of probes; none of versions that take none.
    agents: Agents,
}

impl Story {
    fn new(count: usize, policy: serde_json::Value) -> Self {
        let spec = spec(json!({"version": "v1.0.0", "rollout": policy}));
        let last = AntreaInstallationSpec { rollout: None, ..spec.clone() };
        Self {
            labels: vec![BTreeMap::new(); count],
            nodes: (0..count).map(|i| agent(&format!("n{i:03}"), "v1.0.0", true)).collect(),
            bad: |_, _| false,
            settle: 5,
            hopeless: BTreeSet::new(),
            down: vec![0; count],
            record: RolloutStatus {
                target: progress::target(&last, "o"),
                done: true,
                newest_version: "v1.0.0".into(),
                ..RolloutStatus::default()
            },
            generation: 1,
            spec,
            last,
            taken: BTreeSet::new(),
            proven: Proven::new(),
            since: -1000,
            now: 0,
            replaced: Vec::new(),
            told: Vec::new(),
            cause: None,
            agents: Agents::default(),
        }
    }

    fn ask(&mut self, change: impl FnOnce(&mut AntreaInstallationSpec)) {
        change(&mut self.spec);
        self.generation += 1;
    }

    fn missing(&self) -> usize {
        self.nodes.iter().filter(|node| !node.is_ready()).count()
    }

    fn versions(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for node in &self.nodes {
            *all.entry(node.pod.as_ref().unwrap().revision.clone()).or_default() += 1;
        }
        all
    }

    /// The operator acts until it has to wait. Returns what it decided last.
    fn act(&mut self) -> Decision {
        loop {
            let policy = Policy::new(self.spec.rollout.as_ref());
            let wanted = AntreaInstallationSpec { rollout: None, ..self.spec.clone() };
            let asked = Asked {
                spec: &self.spec,
                generation: self.generation,
                wanted: &wanted,
                last: Some(&self.last),
                record: Some(&self.record),
                restarts: true,
                operator_version: "o",
                now: at(self.now),
            };
            let course = progress::course(&policy, &asked);
            let back = matches!(course, Course::Back(_));
            let config = match &course {
                Course::Make => wanted.clone(),
                Course::Wait(_) => self.last.clone(),
                Course::Back(stable) => (**stable).clone(),
            };
            let record = progress::begin(&asked, &config, Some("v1.0.0"), None);
            let version = config.version.clone().unwrap();
            let waves = Waves::new(&policy, self.nodes.iter().map(|node| &*node.name).zip(&self.labels));
            let decision = decide(&Input {
                policy: &policy,
                waves: &waves,
                nodes: &self.nodes,
                revision: &version,
                record: &record,
                taken: &self.taken,
                proven: &self.proven,
                since: at(self.since),
                has_images: &|_| true,
                probed: &|node| probes::verdict(node.pod.as_ref().unwrap(), self.agents.told.get(&node.name)),
                back,
                now: at(self.now),
            });
            self.agents.ask(&decision, &self.nodes, self.now);
            let in_effect = Asked { wanted: &config, ..asked };
            let (mut record, stuck) =
                progress::remember(&policy, &in_effect, record, Some(&decision), None, back);
            if decision.step == Step::Done && decision.taken.is_empty() && self.missing() == 0 {
                record.done = true;
                record.wave = None;
                record.wave_ended = None;
            }
            let failed =
                record.failed.as_ref().map(|failed| format!("{} failed on {}", failed.version, failed.node));
            self.cause = record.failed.as_ref().map(|failed| format!("{}: {}", failed.check, failed.message));
            let told = match (&failed, &stuck, record.done, back) {
                (_, Some(stuck), ..) => format!("stuck on {}", stuck.node),
                (Some(failed), None, true, true) => format!("{failed}, went back"),
                (Some(failed), None, false, true) => format!("{failed}, going back"),
                (Some(failed), None, ..) => failed.clone(),
                (None, None, true, _) => format!("{version} everywhere"),
                (None, None, false, _) => format!("{version} on its way"),
            };
            if self.told.last() != Some(&told) {
                self.told.push(told);
            }
            let unchanged = self.record == record && self.last == config && self.taken == decision.taken;
            (self.record, self.last) = (record, config);
            self.taken.clone_from(&decision.taken);
            self.proven.clone_from(&decision.proven);
            match &decision.step {
                Step::Replace { node, .. } => {
                    let index: usize = node[1..].parse().unwrap();
                    if self.nodes[index].is_ready() {
                        self.replaced.push((index, version.clone()));
                    } else if !decision.taken.contains(node) {
                        self.hopeless.insert(index);
                    }
                    self.nodes[index] = agent_since(node, &version, false, self.now);
                }
                Step::Announce { .. } => {}
                Step::Done | Step::Wait { .. } if unchanged => return decision,
                Step::Done | Step::Wait { .. } => {}
            }
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        self.agents.answer(&self.nodes);
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some(pod) = node.pod.as_ref().filter(|pod| !pod.ready) else { continue };
            let old = self.now + 1_000_000 - pod.since.as_second() >= self.settle;
            if old && self.down[index] <= self.now && !(self.bad)(index, &pod.revision) {
                *node = agent_since(&node.name, &pod.revision.clone(), true, self.now);
                self.hopeless.remove(&index);
            }
        }
    }

    fn run(&mut self, seconds: i64) -> Decision {
        let mut decision = self.act();
        for _ in 0..seconds {
            self.tick();
            decision = self.act();
        }
        decision
    }
}

fn upgrade(spec: &mut AntreaInstallationSpec) {
    spec.version = Some("v2.0.0".into());
}

/// 500 Nodes, some of which lose their agent at random for a while, an operator that starts anew at random: no working
/// agent is ever taken away while as many as the budget allows are missing.
#[test]
fn the_budget_holds_with_nodes_that_flap() {
    for seed in [3] {
        let mut random = Random(seed);
        let mut story =
            Story::new(500, json!({"maxUnavailable": "4%", "orderByLabel": "zone", "pauseSeconds": 10}));
        for labels in &mut story.labels {
            labels.insert("zone".into(), format!("z{}", random.next() % 4));
        }
        story.act();
        story.ask(upgrade);
        let mut took = 0;
        for second in 0..1500 {
            let before = story.nodes.clone();
            story.act();
            let taken = (0..500).filter(|&i| before[i].is_ready() && !story.nodes[i].is_ready()).count();
            took += taken;
            if taken > 0 {
                // One that has been away for 30 s without the operator's doing has nothing to lose any more.
                let sick = |(index, node): &(usize, &AgentNode)| {
                    let long =
                        node.failing(at(story.now), SICK_AFTER).is_some() || story.hopeless.contains(index);
                    !node.is_ready() && !story.taken.contains(&node.name) && long
                };
                let sick = story.nodes.iter().enumerate().filter(sick).count();
                assert!(story.missing() - sick <= 20, "seed {seed}, {second} s: {} away", story.missing());
            }
            story.tick();
            if random.one_in(3) {
                let index = usize::try_from(random.next() % 500).unwrap();
                let revision = story.nodes[index].pod.as_ref().unwrap().revision.clone();
                story.down[index] = story.now + i64::try_from(random.next() % 60).unwrap();
                story.nodes[index] =
                    agent_since(&story.nodes[index].name.clone(), &revision, false, story.now);
            }
            if random.one_in(50) {
                story.proven.clear();
                story.since = story.now;
            }
        }
        assert_eq!(story.versions(), [("v2.0.0".to_owned(), 500)].into(), "seed {seed}");
        assert!(took >= 400, "seed {seed}: {took}");
    }
}

/// Nobody flaps: then it holds at every moment, and all of the budget is used.
#[test]
fn five_hundred_nodes_wave_by_wave() {
    let mut story = Story::new(
        500,
        json!({"maxUnavailable": "10%", "orderByLabel": "zone", "pauseSeconds": 60,
               "canary": {"nodeSelector": {"canary": "yes"}}}),
    );
    for (index, labels) in story.labels.iter_mut().enumerate() {
        labels.insert("zone".into(), ["c", "a", "b"][index % 3].into());
    }
    for canary in [7, 300] {
        story.labels[canary].insert("canary".into(), "yes".into());
    }
    story.ask(upgrade);
    let mut most = 0;
    let mut starts: Vec<(i64, usize)> = Vec::new();
    for _ in 0..600 {
        let known = story.replaced.len();
        story.act();
        starts.extend(story.replaced[known..].iter().map(|(node, _)| (story.now, *node)));
        let canaries = story.versions().get("v1.0.0").copied().unwrap_or_default() > 498;
        assert!(story.missing() <= if canaries { 1 } else { 50 });
        most = most.max(story.missing());
        story.tick();
    }
    assert_eq!(most, 50);
    assert_eq!(story.told, ["v2.0.0 on its way", "v2.0.0 everywhere"]);
    let wave = |node: usize| match node {
        7 | 300 => 0,
        _ => [3, 1, 2][node % 3],
    };
    let order: Vec<usize> = starts.iter().map(|(_, node)| wave(*node)).collect();
    assert!(order.is_sorted(), "canary, a, b, c");
    for next in 1..4 {
        let first = starts.iter().find(|(_, node)| wave(*node) == next).unwrap().0;
        let last = starts.iter().rfind(|(_, node)| wave(*node) == next - 1).unwrap().0;
        assert!(
            first - last >= 60,
            "wave {next} begins {} s after the last of the wave before",
            first - last
        );
    }
}

/// The canary does not work: nobody else is touched, it gets back what it had, and the version is not tried again.
#[test]
fn a_canary_that_fails_is_taken_back_and_not_tried_again() {
    for restart in [None, Some(10), Some(305), Some(312)] {
        let mut story =
            Story::new(20, json!({"canary": {"nodeSelector": {"canary": "yes"}}, "maxUnavailable": 5}));
        story.labels[13].insert("canary".into(), "yes".into());
        story.bad = |_, version| version == "v2.0.0";
        story.act();
        story.ask(upgrade);
        for second in 0..2000 {
            if restart == Some(second) {
                story.proven.clear();
                story.since = story.now;
            }
            story.act();
            assert!(story.missing() <= 1);
            story.tick();
        }
        assert_eq!(story.replaced, [(13, "v2.0.0".to_owned())], "{restart:?}");
        assert_eq!(story.versions(), [("v1.0.0".to_owned(), 20)].into());
        let failed = "v2.0.0 failed on n013";
        let told = [
            "v1.0.0 everywhere",
            "v2.0.0 on its way",
            &format!("{failed}, going back"),
            &format!("{failed}, went back"),
        ];
        // The moment between noting it and going by it.
        story.told.retain(|told| told != failed);
        assert_eq!(story.told, told, "{restart:?}");
        // The same version is tried again when the spec changes, and another one at once.
        story.ask(|spec| spec.rollout.as_mut().unwrap().deadline_seconds = Some(100));
        story.act();
        assert_eq!(story.replaced.len(), 2);
        story.bad = |_, version| version == "v2.0.0" || version == "v1.0.0";
        story.ask(|spec| spec.version = Some("v2.0.1".into()));
        story.run(200);
        assert_eq!(story.versions(), [("v2.0.1".to_owned(), 20)].into());
        assert_eq!(story.told.last().map(String::as_str), Some("v2.0.1 everywhere"));
    }
}

/// It fails late, and what ran before does not work on one Node either: the others wait for that one, and go back
/// when it works.
#[test]
fn a_rollback_that_fails_stops_and_goes_on() {
    let mut story = Story::new(6, json!({}));
    story.bad = |node, _| node == 3;
    story.nodes[3] = agent("n003", "v1.0.0", true);
    story.act();
    story.ask(upgrade);
    story.run(700);
    assert_eq!(story.versions()["v2.0.0"], 3, "those before it wait: {:?}", story.versions());
    assert_eq!(story.told.last().map(String::as_str), Some("stuck on n003"));
    assert_eq!(story.missing(), 1);
    story.bad = |_, _| false;
    story.run(200);
    assert_eq!(story.versions(), [("v1.0.0".to_owned(), 6)].into());
    assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 failed on n003, went back"));
}

/// A change that brings no other image stops, and goes on when the Node works.
#[test]
fn without_a_rollback_it_stops_until_the_node_works() {
    let mut story = Story::new(4, json!({"autoRollback": false, "maxUnavailable": 2}));
    story.bad = |node, version| node == 1 && version == "v2.0.0";
    story.act();
    story.ask(upgrade);
    story.run(4);
    story.nodes[2] = agent("n002", "v1.0.0", true);
    story.run(400);
    assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 failed on n001"));
    let before = story.replaced.len();
    story.run(1000);
    assert_eq!(story.replaced.len(), before, "nobody starts");
    story.bad = |_, _| false;
    story.run(60);
    assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 everywhere"));
}

/// A disruptive change waits for its generation; an acknowledgement of another one is none.
#[test]
fn a_disruptive_change_waits_to_be_acknowledged() {
    let mut story = Story::new(2, json!({}));
    let policy = |acknowledge| Policy { acknowledge, ..Policy::new(None) };
    story.ask(|spec| spec.tunnel_port = Some(6082));
    let wanted = AntreaInstallationSpec { rollout: None, ..story.spec.clone() };
    let asked = |generation, record| Asked {
        spec: &story.spec,
        generation,
        wanted: &wanted,
        last: Some(&story.last),
        record,
        restarts: true,
        operator_version: "o",
        now: at(0),
    };
    let Course::Wait(progress::Waiting::Acknowledgement(held)) =
        progress::course(&policy(None), &asked(7, Some(&story.record)))
    else {
        panic!("it does not wait")
    };
    assert_eq!(held.generation, 7);
    let record = RolloutStatus { held: Some(held), ..story.record.clone() };
    for (acknowledge, generation, made) in
        [(None, 8, false), (Some(6), 8, false), (Some(7), 8, true), (Some(8), 8, true)]
    {
        let course = progress::course(&policy(acknowledge), &asked(generation, Some(&record)));
        assert_eq!(course == Course::Make, made, "{acknowledge:?}");
    }
    // It was acknowledged for another change.
    let other = antrea_crds::installation::HeldChange { generation: 7, target: "other".into() };
    let record = RolloutStatus { held: Some(other), ..story.record.clone() };
    assert_ne!(progress::course(&policy(Some(7)), &asked(8, Some(&record))), Course::Make);
}

/// Agents are never newer than the controller, whoever is how far.
#[test]
fn who_goes_first_follows_from_what_may_run() {
    use crate::plan::Direction::{Back, Forward, Fresh};
    let of = |version: &str| spec(json!({"version": version}));
    let record = |newest: &str| RolloutStatus { newest_version: newest.into(), ..RolloutStatus::default() };
    for (newest, running, wanted, expected) in [
        ("", None, "v1.0.0", Fresh),
        ("v2.0.0", Some("v1.0.0"), "v2.0.0", Forward),
        ("v2.0.0", Some("v1.0.0"), "v1.0.0", Back),
        ("v1.0.0", Some("v1.0.0"), "v1.0.0", Forward),
        ("v3.0.0", Some("v1.0.0"), "v2.0.0", Back),
    ] {
        assert_eq!(progress::direction(&record(newest), running, &of(wanted)), expected, "{newest} {wanted}");
    }
    let failed = json!({"newestVersion": "b", "failed": {"spec": "", "version": "b", "node": "n", "check": "c",
        "message": "m", "at": "2026-01-01T00:00:00Z", "rolledBack": true}});
    let record: RolloutStatus = serde_json::from_value(failed).unwrap();
    assert_eq!(progress::direction(&record, Some("a"), &of("a")), Back, "versions without numbers");
}

/// Outside of its window nothing begins; what goes back does.
#[test]
fn nothing_begins_outside_of_the_window() {
    // The story begins 1970-01-12T13:46:40Z.
    let mut story =
        Story::new(3, json!({"window": {"start": "14:00", "end": "14:01"}, "minReadySeconds": 30}));
    story.act();
    story.ask(upgrade);
    story.run(790);
    assert!(story.replaced.is_empty() && story.told == ["v1.0.0 everywhere"], "{:?}", story.told);
    story.run(600);
    assert_eq!(story.replaced.len(), 2, "one at a time, 35 s each");
    story.run(86_400);
    assert_eq!(story.versions(), [("v2.0.0".to_owned(), 3)].into(), "the next day");
}

/// An operator that starts anew does not know that the agent has worked, but that the change has failed.
#[test]
fn a_failure_that_came_late_outlasts_the_operator() {
    let mut story = Story::new(10, json!({"autoRollback": false, "deadlineSeconds": 60}));
    story.act();
    story.ask(upgrade);
    while story.replaced.len() < 3 {
        story.run(1);
    }
    let (first, _) = story.replaced[0];
    let name = story.nodes[first].name.clone();
    story.down[first] = i64::MAX;
    story.nodes[first] = agent_since(&name, "v2.0.0", false, story.now);
    story.run(100);
    let failed = format!("v2.0.0 failed on {name}");
    assert_eq!(story.told.last(), Some(&failed));
    let replaced = story.replaced.len();
    story.proven.clear();
    story.since = story.now;
    story.run(600);
    assert_eq!((story.replaced.len(), story.told.last()), (replaced, Some(&failed)));
    story.down[first] = 0;
    story.run(200);
    assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 everywhere"), "it works again");
}
