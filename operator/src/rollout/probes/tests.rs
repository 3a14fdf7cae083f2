use serde_json::json;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(node: &str) -> Pod {
    Pod {
        name: format!("agent-{node}"),
        uid: format!("uid-{node}"),
        node: node.into(),
        image: String::new(),
        revision: "2".into(),
        ready: true,
        since: at(0),
        deleting: false,
        ended: false,
        trouble: None,
    }
}

/// An agent that takes requests and has none.
fn taker(node: &str) -> Told {
    Told { pod: pod(node).name, takes: true, ..Told::default() }
}

fn report(node: &str, round: u32, outcomes: &[Outcome]) -> Report {
    let done = Report::new(&id(&pod(node).uid, round), Stage::Done, "");
    Report { outcomes: outcomes.to_vec(), ..done }
}

fn failed(probe: Probe, peer: Option<&str>) -> Outcome {
    Outcome::new(probe, peer, Finding::Failed, "no answer in 1 s")
}

fn asked(node: &str, round: u32, role: Role) -> Request {
    Request { id: id(&pod(node).uid, round), role }
}

#[test]
fn what_an_object_says_is_of_its_pod() {
    let info = |pod: &str, taker: &str| {
        let told: AntreaAgentInfo = serde_json::from_value(json!({
            "apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaAgentInfo",
            "metadata": {"name": "n1", "annotations": {TAKER: taker}}, "podRef": {"name": pod},
        }))
        .unwrap();
        Told::from(&told)
    };
    assert!(info("agent-n1", "agent-n1").takes);
    assert!(
        !info("agent-n1", "agent-old").takes,
        "an earlier agent said so, and this one is of another version"
    );
    assert!(!info("", "").takes);
}

#[test]
fn a_report_decides_and_silence_does_not() {
    let across = || failed(Probe::PodToPodAcrossNodes, Some("n1"));
    let passed = Outcome::new(Probe::PodToPodOnNode, None, Finding::Passed, "");
    let left_out = Outcome::new(Probe::PodToPodAcrossNodes, Some("n1"), Finding::LeftOut, "no tunnel");
    let told = |report: Option<Report>, request: Option<Request>| Told { report, request, ..taker("n2") };
    let verdict = |told: Told| verdict(&pod("n2"), Some(&told));
    let fails =
        |message: &str, settled| Verdict::Failed { trouble: Trouble::new("ProbeFailed", message), settled };
    let probe = |round| Some(asked("n2", round, Role::Probe { peers: Vec::new() }));

    assert_eq!(super::verdict(&pod("n2"), None), Verdict::Unasked, "there is no object");
    assert_eq!(verdict(Told::default()), Verdict::Unasked, "a version that does not say which Pod it is");
    assert_eq!(verdict(Told { takes: false, ..taker("n2") }), Verdict::Unasked, "a version without probes");
    assert_eq!(
        verdict(Told { pod: "agent-old".into(), ..taker("n2") }),
        Verdict::Pending,
        "its predecessor's"
    );
    assert_eq!(verdict(taker("n2")), Verdict::Pending);
    assert_eq!(verdict(told(None, probe(1))), Verdict::Pending);
    assert_eq!(verdict(told(Some(report("n2", 1, &[passed.clone(), left_out])), None)), Verdict::Passed);
    assert_eq!(
        verdict(told(Some(report("n1", 1, std::slice::from_ref(&passed))), None)),
        Verdict::Pending,
        "of another Pod"
    );
    let text = "pod-to-pod-across-nodes to n1: no answer in 1 s";
    for (round, settled) in [(1, false), (2, false), (3, true)] {
        let report = report("n2", round, &[passed.clone(), across()]);
        assert_eq!(verdict(told(Some(report), probe(round))), fails(text, settled), "{round}");
    }
    let late = told(Some(report("n2", 5, &[passed])), probe(6));
    assert_eq!(verdict(late), Verdict::Passed, "it works now");
    // A policy that leaks has leaked, however often it does not.
    let leak = told(Some(report("n2", 1, &[failed(Probe::PolicyDenies, None)])), None);
    assert_eq!(verdict(leak), fails("policy-denies: no answer in 1 s", true));
    for (round, settled) in [(2, false), (4, true)] {
        let text = "its agent did not report on probes within 90 s";
        assert_eq!(verdict(told(None, probe(round))), fails(text, settled), "{round}");
    }
    let refused = Report::new(&id("uid-n2", 1), Stage::Refused, "no room");
    assert_eq!(verdict(told(Some(refused), None)), fails("its agent makes no probes: no room", false));
    // That it is there for another's says nothing of its own.
    let answering = Report::new(&id("uid-n2", 1), Stage::Answering, "");
    assert_eq!(verdict(told(Some(answering), None)), Verdict::Pending);
}

/// A cluster of agents that take requests.
struct World {
    told: BTreeMap<String, Told>,
    wanted: Vec<(String, String)>,
    since: BTreeMap<String, Timestamp>,
    now: i64,
}

impl World {
    fn new(nodes: &[&str], wanted: &[&str]) -> Self {
        Self {
            told: nodes.iter().map(|node| ((*node).to_owned(), taker(node))).collect(),
            wanted: wanted.iter().map(|node| ((*node).to_owned(), pod(node).uid)).collect(),
            since: BTreeMap::new(),
            now: 0,
        }
    }

    /// Writes what is planned; returns it as text, and when to look again.
    fn act(&mut self) -> (Vec<String>, Option<i64>) {
        let peers = self.told.iter().filter(|(_, told)| told.takes).map(|(name, _)| name.clone()).collect();
        let mut input = Input {
            wanted: &self.wanted,
            told: &self.told,
            peers: &peers,
            since: &self.since,
            now: at(self.now),
        };
        let since = waited_for(&input);
        input.since = &since;
        let plan = plan(&input);
        self.since = since;
        let mut texts = Vec::new();
        for (node, request) in plan.writes {
            texts.push(match &request {
                None => format!("{node}: -"),
                Some(Request { id, role: Role::Answer }) => format!("{node}: answer {id}"),
                Some(Request { id, role: Role::Probe { peers } }) => {
                    format!("{node}: probe {id} {}", peers.join(" "))
                }
            });
            self.told.get_mut(&node).unwrap().request = request;
        }
        (texts, plan.again.map(|again| again.as_secs()))
    }

    fn report(&mut self, node: &str, round: u32, outcomes: &[Outcome]) {
        self.told.get_mut(node).unwrap().report = Some(report(node, round, outcomes));
    }
}

#[test]
fn a_node_is_probed_with_the_next_two_and_asked_again_after_a_failure() {
    let mut world = World::new(&["n1", "n2", "n3", "n4"], &["n3"]);
    let first = ["n1: answer uid-n3.1", "n3: probe uid-n3.1 n4 n1", "n4: answer uid-n3.1"];
    assert_eq!(world.act().0, first);
    assert_eq!(world.act(), (vec![], Some(90)));
    world.now = 10;
    // The operator starts anew.
    world.since.clear();
    assert_eq!(world.act(), (vec![], Some(90)));
    world.report("n3", 1, &[failed(Probe::PodToPodOnNode, None)]);
    assert_eq!(world.act(), (vec!["n1: -".to_owned(), "n3: -".into(), "n4: -".into()], Some(5)));
    world.now = 14;
    assert_eq!(world.act(), (vec![], Some(1)));
    world.now = 15;
    assert_eq!(world.act().0, ["n1: answer uid-n3.2", "n3: probe uid-n3.2 n4 n1", "n4: answer uid-n3.2"]);
    // No report: a new run takes the place of the old one.
    assert_eq!(world.act(), (vec![], Some(90)));
    world.now = 106;
    assert_eq!(world.act().0, ["n1: answer uid-n3.3", "n3: probe uid-n3.3 n4 n1", "n4: answer uid-n3.3"]);
    world.report("n3", 3, &[]);
    assert_eq!(world.act(), (vec!["n1: -".to_owned(), "n3: -".into(), "n4: -".into()], None));
    assert_eq!(world.act(), (vec![], None));
}

#[test]
fn nobody_takes_part_in_two_runs() {
    let mut world = World::new(&["n1", "n2", "n3", "n4", "n5"], &["n1", "n2", "n4"]);
    // n2 is n1's peer, and for n4 there are not enough others left.
    assert_eq!(world.act().0, ["n1: probe uid-n1.1 n2 n3", "n2: answer uid-n1.1", "n3: answer uid-n1.1"]);
    world.report("n1", 1, &[]);
    let second = world.act().0;
    assert_eq!(second, ["n1: -", "n2: probe uid-n2.1 n3 n4", "n3: answer uid-n2.1", "n4: answer uid-n2.1"]);
    world.report("n2", 1, &[]);
    assert_eq!(
        world.act().0,
        ["n1: answer uid-n4.1", "n2: -", "n3: -", "n4: probe uid-n4.1 n5 n1", "n5: answer uid-n4.1"]
    );
}

#[test]
fn there_may_be_fewer_others_or_none() {
    for (nodes, expected) in [
        (&["n1", "n2"][..], &["n1: answer uid-n2.1", "n2: probe uid-n2.1 n1"][..]),
        (&["n2"], &["n2: probe uid-n2.1 "]),
    ] {
        assert_eq!(World::new(nodes, &["n2"]).act().0, expected);
    }
    // One whose agent is of a version without probes is no peer.
    let mut world = World::new(&["n1", "n2", "n3"], &["n2"]);
    world.told.get_mut("n3").unwrap().takes = false;
    assert_eq!(world.act().0, ["n1: answer uid-n2.1", "n2: probe uid-n2.1 n1"]);
}

#[test]
fn what_nobody_waits_for_is_taken_away() {
    let mut world = World::new(&["n1", "n2"], &["n2"]);
    world.act();
    world.wanted.clear();
    assert_eq!(world.act(), (vec!["n1: -".to_owned(), "n2: -".into()], None));
}
