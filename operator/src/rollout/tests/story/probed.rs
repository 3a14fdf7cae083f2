//! Changes that break what a Node forwards, and nothing that its agent says of itself.

use antrea_crds::probes::{Finding, Outcome, Probe, Report, Role, Stage};

use super::{super::at, *};
use crate::rollout::probes::{self, Told};

/// What becomes of a probe of a Node, to or from another, with a version.
type Broken = fn(usize, &str, Probe) -> bool;

/// Agents that take requests for probes, and report a second later.
#[derive(Default)]
pub(super) struct Agents {
    /// Versions that take requests.
    takers: &'static [&'static str],
    broken: Option<Broken>,
    pub(super) told: BTreeMap<String, Told>,
    since: BTreeMap<String, Timestamp>,
    /// Nodes that were asked to probe, and with whom.
    asked: Vec<(String, Vec<String>)>,
}

impl Agents {
    /// What the operator asks after a decision.
    pub(super) fn ask(&mut self, decision: &Decision, nodes: &[AgentNode], now: i64) {
        for node in nodes {
            let pod = node.pod.as_ref().unwrap();
            let takes = self.takers.contains(&pod.revision.as_str()) && pod.ready;
            let told = self.told.entry(node.name.clone()).or_default();
            if pod.ready && !self.takers.is_empty() {
                (told.pod, told.takes) = (pod.name.clone(), takes);
            }
        }
        let peers = self.told.iter().filter(|(_, told)| told.takes).map(|(name, _)| name.clone()).collect();
        let mut input = probes::Input {
            wanted: &decision.probing,
            told: &self.told,
            peers: &peers,
            since: &self.since,
            now: at(now),
        };
        let since = probes::waited_for(&input);
        input.since = &since;
        let plan = probes::plan(&input);
        self.since = since;
        for (node, request) in plan.writes {
            if let Some(Role::Probe { peers }) = request.as_ref().map(|request| &request.role) {
                self.asked.push((node.clone(), peers.clone()));
            }
            self.told.get_mut(&node).unwrap().request = request;
        }
    }

    /// What agents that were asked report.
    pub(super) fn answer(&mut self, nodes: &[AgentNode]) {
        for (index, node) in nodes.iter().enumerate() {
            let Some(told) = self.told.get_mut(&node.name) else { continue };
            let Some(request) = &told.request else { continue };
            let Role::Probe { peers } = &request.role else {
                told.report = Some(Report::new(&request.id, Stage::Answering, ""));
                continue;
            };
            let version = &node.pod.as_ref().unwrap().revision;
            let outcome = |probe, peer| {
                let broken = self.broken.is_some_and(|broken| broken(index, version, probe));
                let (finding, why) =
                    if broken { (Finding::Failed, "no answer in 1 s") } else { (Finding::Passed, "") };
                Outcome::new(probe, peer, finding, why)
            };
            let across = peers.iter().map(|peer| outcome(Probe::PodToPodAcrossNodes, Some(peer)));
            let own = [Probe::PodToPodOnNode, Probe::PolicyAllows, Probe::PolicyDenies];
            let outcomes = own.map(|probe| outcome(probe, None)).into_iter().chain(across).collect();
            told.report = Some(Report { outcomes, ..Report::new(&request.id, Stage::Done, "") });
        }
    }
}

fn probed(count: usize, policy: serde_json::Value, broken: Broken) -> Story {
    let mut story = Story::new(count, policy);
    story.agents.takers = &["v1.0.0", "v2.0.0"];
    story.agents.broken = Some(broken);
    story.act();
    story.ask(upgrade);
    story
}

/// Ready, and well by its own account: only probes tell. Nobody else is touched, and it goes back within a minute, also
/// when the operator forgets everything but the status and what agents say.
#[test]
fn a_version_that_breaks_only_forwarding_or_only_policy_is_taken_back() {
    let cases: [(Broken, &str, i64); 2] = [
        (
            |_, version, probe| version == "v2.0.0" && probe == Probe::PodToPodAcrossNodes,
            "ProbeFailed: pod-to-pod-across-nodes to n001: no answer in 1 s; \
             pod-to-pod-across-nodes to n002: no answer in 1 s",
            40,
        ),
        // What leaks once is not asked again.
        (
            |_, version, probe| version == "v2.0.0" && probe == Probe::PolicyDenies,
            "ProbeFailed: policy-denies: no answer in 1 s",
            15,
        ),
    ];
    for (broken, cause, within) in cases {
        for forgets in [false, true] {
            let mut story = probed(5, json!({}), broken);
            for _ in 0..within {
                if forgets {
                    story.proven.clear();
                    story.since = story.now;
                }
                story.act();
                assert!(story.missing() <= 1);
                story.tick();
            }
            story.run(30);
            assert_eq!(story.replaced.first(), Some(&(0, "v2.0.0".to_owned())));
            assert_eq!(story.versions(), [("v1.0.0".to_owned(), 5)].into(), "{cause}");
            assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 failed on n000, went back"));
            assert_eq!(story.cause.as_deref(), Some(cause));
            assert!(story.agents.told.values().all(|told| told.request.is_none()), "requests are left");
            story.run(1000);
            assert_eq!(story.replaced.len(), 2, "it is not tried again");
        }
    }
}

/// It stops at the canary, and without a rollback goes on when its probes pass.
#[test]
fn without_a_rollback_it_goes_on_when_probes_pass() {
    let policy = json!({"autoRollback": false, "canary": {"nodeSelector": {"canary": "yes"}}});
    let mut story =
        probed(4, policy, |_, version, probe| version == "v2.0.0" && probe == Probe::PodToPodAcrossNodes);
    story.labels[2].insert("canary".into(), "yes".into());
    story.run(2000);
    assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 failed on n002"));
    assert_eq!(story.replaced, [(2, "v2.0.0".to_owned())]);
    story.agents.broken = None;
    story.run(120);
    assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 everywhere"));
}

/// Each changed Node is probed once, with two others, and never before it works; ten at a time wait for each other.
#[test]
fn every_node_is_probed_once_with_two_others() {
    let mut story = probed(60, json!({"maxUnavailable": 10}), |_, _, _| false);
    story.run(400);
    assert_eq!(story.versions(), [("v2.0.0".to_owned(), 60)].into());
    let asked: BTreeSet<&String> = story.agents.asked.iter().map(|(node, _)| node).collect();
    assert_eq!((asked.len(), story.agents.asked.len()), (60, 60));
    assert!(story.agents.asked.iter().all(|(node, peers)| peers.len() == 2 && !peers.contains(node)));
}

/// To and from a version without probes: such agents are not asked, and nobody waits for them.
#[test]
fn versions_without_probes_block_nothing() {
    for takers in [&["v1.0.0"][..], &["v2.0.0"]] {
        let mut story = probed(4, json!({}), |_, _, _| false);
        story.agents = Agents { takers, ..Agents::default() };
        story.run(120);
        assert_eq!(story.versions(), [("v2.0.0".to_owned(), 4)].into());
        assert_eq!(story.told.last().map(String::as_str), Some("v2.0.0 everywhere"));
        // Peers are those who can answer: none for the first, then those who were changed before.
        let peers: Vec<usize> = story.agents.asked.iter().map(|(_, peers)| peers.len()).collect();
        assert_eq!(peers, if takers == ["v2.0.0"] { vec![0, 1, 2, 2] } else { vec![] });
    }
}

/// `spec.rollout.probes: false`.
#[test]
fn nobody_is_asked_where_probes_are_off() {
    let mut story = probed(3, json!({"probes": false}), |_, _, _| true);
    story.run(120);
    assert_eq!(story.versions(), [("v2.0.0".to_owned(), 3)].into());
    assert!(story.agents.asked.is_empty());
}
