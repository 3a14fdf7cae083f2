//! Datapath probes of changed Nodes: who is asked, and what the answers come to.
//!
//! ```text
//!  a Node works with the change ─► its agent is asked to probe, agents of two others to answer it
//!    ─► report ─┬─ nothing failed ─► the Node counts as done
//!               └─ something failed ─► asked again; after three reports, or when a policy leaks, the change has failed
//! ```
//!
//! Requests and reports are annotations of AntreaAgentInfos, and tell of which Pod they are: so nothing has to be remembered
//! but since when an answer is waited for, and an operator that starts anew goes on. An agent takes part in one run at a
//! time. One that does not say that it takes requests is of a version without probes: it is not asked, and the Node counts
//! as done without.

use std::collections::{BTreeMap, BTreeSet};

use antrea_crds::{
    AntreaAgentInfo,
    probes::{Finding, Outcome, Probe, Report, Request, Role, Stage, TAKER},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::cluster::{Pod, Trouble};

/// Other Nodes that a Node is probed with, if there are as many.
const PEERS: usize = 2;

/// An agent that has not reported after this long is asked anew.
const LIMIT: SignedDuration = SignedDuration::from_secs(90);

/// Between a report of failure and the next request.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// After so many reports of failure, the change has failed.
const ROUNDS: u32 = 3;

/// What the AntreaAgentInfo of a Node says of probes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Name of the Pod whose agent wrote it.
    pub pod: String,
    /// Whether that agent takes requests.
    pub takes: bool,
    /// What it was asked last.
    pub request: Option<Request>,
    /// What it reported last.
    pub report: Option<Report>,
}

impl From<&AntreaAgentInfo> for Told {
    fn from(info: &AntreaAgentInfo) -> Self {
        let pod = info.spec.pod_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_default();
        Self {
            takes: !pod.is_empty() && info.annotations().get(TAKER) == Some(&pod),
            pod,
            request: Request::from_annotations(info.annotations()).and_then(Result::ok),
            report: Report::from_annotations(info.annotations()),
        }
    }
}

impl Told {
    /// The run of probes that the agent of a Pod has reported on, and how.
    fn reported(&self, uid: &str) -> Option<(u32, &Report)> {
        let report = self.report.as_ref().filter(|report| report.stage != Stage::Answering)?;
        Some((round(&report.id, uid)?, report))
    }

    /// The run of probes that it was asked for.
    fn asked(&self, uid: &str) -> Option<u32> {
        let request = self.request.as_ref().filter(|request| request.role != Role::Answer)?;
        round(&request.id, uid)
    }
}

/// What probes say of a Node.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// There are none to wait for.
    Unasked,
    /// Nothing is known yet.
    Pending,
    /// Nothing failed.
    Passed,
    Failed {
        trouble: Trouble,
        /// Whether it need not be seen once more to be believed.
        settled: bool,
    },
}

impl Verdict {
    /// Whether the Node may count as done.
    pub fn lets_pass(&self) -> bool {
        matches!(self, Self::Unasked | Self::Passed)
    }

    /// Why it may not, as far as that is known.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Failed { trouble, .. } => Some(trouble.clone()),
            Self::Pending => Some(Trouble::new("ProbeFailed", "its agent has not reported on probes yet")),
            Self::Unasked | Self::Passed => None,
        }
    }
}

/// Id of a run: the Pod whose agent probes, and how often it was asked.
fn id(uid: &str, round: u32) -> String {
    format!("{uid}.{round}")
}

fn round(id: &str, uid: &str) -> Option<u32> {
    id.strip_prefix(uid)?.strip_prefix('.')?.parse().ok()
}

/// What a Node's agent says of its probes, if it is that of `pod`.
pub fn verdict(pod: &Pod, told: Option<&Told>) -> Verdict {
    let Some(told) = told.filter(|told| !told.pod.is_empty()) else { return Verdict::Unasked };
    if told.pod != pod.name {
        // What stands there is its predecessor's.
        return Verdict::Pending;
    }
    if !told.takes {
        return Verdict::Unasked;
    }
    let reported = told.reported(&pod.uid);
    let failure = reported.map(|(_, report)| failure(report));
    if failure == Some(None) {
        return Verdict::Passed;
    }
    let unanswered = told.asked(&pod.uid).map_or(0, |asked| asked.saturating_sub(1));
    let rounds = reported.map_or(0, |(round, _)| round).max(unanswered);
    if rounds == 0 {
        return Verdict::Pending;
    }
    let (message, leaked) = failure.flatten().unwrap_or_else(|| {
        (format!("its agent did not report on probes within {} s", LIMIT.as_secs()), false)
    });
    Verdict::Failed { trouble: Trouble::new("ProbeFailed", message), settled: leaked || rounds >= ROUNDS }
}

/// What failed, and whether a policy let through what it denies.
fn failure(report: &Report) -> Option<(String, bool)> {
    if report.stage == Stage::Refused {
        return Some((format!("its agent makes no probes: {}", report.message), false));
    }
    let failed: Vec<&Outcome> =
        report.outcomes.iter().filter(|outcome| outcome.finding == Finding::Failed).collect();
    let texts: Vec<String> = failed.iter().map(ToString::to_string).collect();
    let leaked = failed.iter().any(|outcome| outcome.probe == Probe::PolicyDenies);
    (!texts.is_empty()).then(|| (texts.join("; "), leaked))
}

/// What is asked next follows from this.
pub struct Input<'a> {
    /// Nodes that are to be probed, with the identities of their agents' Pods.
    pub wanted: &'a [(String, String)],
    pub told: &'a BTreeMap<String, Told>,
    /// Nodes whose agents can answer others.
    pub peers: &'a BTreeSet<String>,
    /// Since when what is waited for is known.
    pub since: &'a BTreeMap<String, Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// What is asked next.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Requests to write, and to take away.
    pub writes: Vec<(String, Option<Request>)>,
    /// When to look again.
    pub again: Option<SignedDuration>,
}

/// How far the probes of a Node are.
enum Run<'a> {
    /// They have been asked for.
    Asked(&'a str),
    /// They have failed.
    Failed(u32, &'a str),
    /// Nobody has asked yet.
    New,
    Over,
}

fn run<'a>(told: Option<&'a Told>, uid: &str) -> Run<'a> {
    let Some(told) = told else { return Run::Over };
    let reported = told.reported(uid);
    match (told.asked(uid), reported) {
        (_, Some((_, report))) if failure(report).is_none() => Run::Over,
        (Some(asked), reported) if reported.is_none_or(|(round, _)| round < asked) => {
            told.request.as_ref().map_or(Run::New, |request| Run::Asked(&request.id))
        }
        (_, Some((round, report))) => Run::Failed(round, &report.id),
        _ => Run::New,
    }
}

/// `since` with what is waited for now, and without what is not any more.
pub fn waited_for(input: &Input<'_>) -> BTreeMap<String, Timestamp> {
    let ids = input.wanted.iter().filter_map(|(node, uid)| match run(input.told.get(node), uid) {
        Run::Asked(id) => Some(id.to_owned()),
        // A request and the report on it are waited for one after the other.
        Run::Failed(_, id) => Some(format!("{id} failed")),
        Run::New | Run::Over => None,
    });
    ids.map(|id| {
        let since = input.since.get(&id).copied().unwrap_or(input.now);
        (id, since)
    })
    .collect()
}

/// What is asked next.
pub fn plan(input: &Input<'_>) -> Plan {
    let Input { told, now, .. } = *input;
    let mut plan = Plan::default();
    let mut stay: BTreeSet<&str> = BTreeSet::new();
    let mut starts = Vec::new();
    let left = |limit: SignedDuration, id: &str| {
        let since = input.since.get(id).copied().unwrap_or(now);
        Some(limit - now.duration_since(since)).filter(SignedDuration::is_positive)
    };
    for (node, uid) in input.wanted {
        let (round, left) = match run(told.get(node), uid) {
            Run::Over => continue,
            Run::New => (0, None),
            Run::Failed(round, id) => (round, left(PAUSE, &format!("{id} failed"))),
            Run::Asked(id) => {
                let left = left(LIMIT, id);
                if left.is_some() {
                    let of_run =
                        told.iter().filter(|(_, told)| told.request.as_ref().is_some_and(|r| r.id == id));
                    stay.extend(of_run.map(|(name, _)| name.as_str()));
                }
                (round_of(id, uid), left)
            }
        };
        match left {
            Some(left) => plan.again = Some(plan.again.map_or(left, |again| again.min(left))),
            None => starts.push((node, uid, round + 1)),
        }
    }
    let mut writes: BTreeMap<&str, Option<Request>> = BTreeMap::new();
    for (node, uid, round) in starts {
        let others: BTreeSet<&str> =
            input.peers.iter().map(String::as_str).filter(|peer| peer != node).collect();
        let taken = |peer: &str| stay.contains(peer) || writes.contains_key(peer);
        // From the next by name on, so that not all are probed with the same.
        let after = others.range(node.as_str()..).chain(others.range(..node.as_str())).copied();
        let peers: Vec<&str> = after.filter(|peer| !taken(peer)).take(PEERS).collect();
        if taken(node) || peers.len() < others.len().min(PEERS) {
            // Those who are in another run are waited for; their reports are seen.
            continue;
        }
        let id = id(uid, round);
        for peer in &peers {
            writes.insert(peer, Some(Request { id: id.clone(), role: Role::Answer }));
        }
        let role = Role::Probe { peers: peers.into_iter().map(str::to_owned).collect() };
        writes.insert(node, Some(Request { id, role }));
    }
    for (node, told) in told {
        if told.request.is_some() && !stay.contains(node.as_str()) {
            writes.entry(node).or_insert(None);
        }
    }
    plan.writes = writes.into_iter().map(|(node, request)| (node.to_owned(), request)).collect();
    plan
}

fn round_of(id: &str, uid: &str) -> u32 {
    round(id, uid).unwrap_or_default()
}

#[cfg(test)]
mod tests;
