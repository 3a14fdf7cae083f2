//! Datapath probes: what the operator asks of agents and what they answer.
//!
//! Upstream's AntreaAgentInfo has no field for it, so it is in annotations. Request and report are names and short texts;
//! what is longer than [`LONGEST`] is not read.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Annotation by which an agent says that it takes requests: the name of its Pod, for what an earlier agent of the Node
/// has said stays.
pub const TAKER: &str = "antrea.io/datapath-probes";

/// Annotation of a [`Request`].
pub const REQUEST: &str = "antrea.io/datapath-probe-request";

/// Annotation of a [`Report`].
pub const REPORT: &str = "antrea.io/datapath-probe-report";

/// Octets of an annotation that are read, at most.
const LONGEST: usize = 4096;

/// Characters of a message, at most.
const MESSAGE: usize = 240;

/// Other Nodes of one request, at most.
const PEERS: usize = 4;

/// What an agent is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Tells it from others; the same for all Nodes that have to do with one run.
    pub id: String,
    pub role: Role,
}

/// Whose part an agent plays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Probe the datapath of the own Node, and the ways to and from these.
    Probe {
        /// Names of Nodes.
        peers: Vec<String>,
    },
    /// Be there for another Node's probes until the request is taken away.
    Answer,
}

/// What is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Whether the Node's probes can be made: namespaces, links, ports, flows.
    Setup,
    /// Between two of the Node's own.
    PodToPodOnNode,
    /// To another Node through the tunnel.
    PodToPodAcrossNodes,
    /// From another Node through the tunnel.
    PodFromPodAcrossNodes,
    /// Through a Service of the probe's own.
    PodToService,
    /// What a policy of the probe's own allows.
    PolicyAllows,
    /// What it denies.
    PolicyDenies,
}

impl Probe {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Setup,
        Self::PodToPodOnNode,
        Self::PodToPodAcrossNodes,
        Self::PodFromPodAcrossNodes,
        Self::PodToService,
        Self::PolicyAllows,
        Self::PolicyDenies,
    ];

    /// As in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::PodToPodOnNode => "pod-to-pod-on-node",
            Self::PodToPodAcrossNodes => "pod-to-pod-across-nodes",
            Self::PodFromPodAcrossNodes => "pod-from-pod-across-nodes",
            Self::PodToService => "pod-to-service",
            Self::PolicyAllows => "policy-allows",
            Self::PolicyDenies => "policy-denies",
        }
    }
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    Passed,
    Failed,
    /// It could not be made, for a reason that is not the datapath's.
    LeftOut,
}

impl Finding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::LeftOut];

    /// As in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::LeftOut => "left-out",
        }
    }
}

/// One probe and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub probe: Probe,
    /// The other Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    pub finding: Finding,
    /// Why, where it did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Outcome {
    /// What came of a probe; of a long message the begin.
    pub fn new(probe: Probe, peer: Option<&str>, finding: Finding, message: &str) -> Self {
        Self {
            probe,
            peer: peer.map(str::to_owned),
            finding,
            message: message.chars().take(MESSAGE).collect(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.probe.name())?;
        if let Some(peer) = &self.peer {
            let way = if self.probe == Probe::PodFromPodAcrossNodes { "from" } else { "to" };
            write!(f, " {way} {peer}")?;
        }
        write!(f, ": {}", if self.message.is_empty() { self.finding.name() } else { &self.message })
    }
}

/// How far an agent is with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// It is there for another Node's probes.
    Answering,
    /// It does not do what was asked.
    Refused,
    /// It has done it.
    Done,
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of the request.
    pub id: String,
    pub stage: Stage,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What came of the probes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// A report without outcomes; of a long message the begin.
    pub fn new(id: &str, stage: Stage, message: &str) -> Self {
        let message = message.chars().take(MESSAGE).collect();
        Self { id: id.to_owned(), stage, message, outcomes: Vec::new() }
    }

    /// As the value of an annotation.
    pub fn to_annotation(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From an object's annotations; none where there is none, or none that can be read.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        read(annotations, REPORT)?.ok()
    }
}

impl Request {
    /// As the value of an annotation.
    pub fn to_annotation(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From an object's annotations; none where there is none.
    ///
    /// # Errors
    /// It cannot be read, or asks for more than agents do.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Option<Result<Self, String>> {
        let checked = |request: Self| match &request.role {
            Role::Probe { peers } if peers.len() > PEERS => {
                Err(format!("{REQUEST}: more than {PEERS} peers"))
            }
            _ => Ok(request),
        };
        Some(read(annotations, REQUEST)?.and_then(checked))
    }
}

fn read<T: DeserializeOwned>(
    annotations: &BTreeMap<String, String>,
    name: &str,
) -> Option<Result<T, String>> {
    let text = annotations.get(name)?;
    if text.len() > LONGEST {
        return Some(Err(format!("{name}: longer than {LONGEST} octets")));
    }
    Some(serde_json::from_str(text).map_err(|error| format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(name: &str, text: String) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), text)])
    }

    #[test]
    fn annotations_say_the_same() {
        for role in [Role::Answer, Role::Probe { peers: vec!["n1".into(), "n2".into()] }] {
            let request = Request { id: "uid.1".into(), role };
            let read = Request::from_annotations(&annotated(REQUEST, request.to_annotation()));
            assert_eq!(read, Some(Ok(request)));
        }
        let outcomes = Probe::ALL.iter().zip(Finding::ALL.iter().cycle());
        let outcomes =
            outcomes.map(|(probe, finding)| Outcome::new(*probe, Some("n1"), *finding, "no answer"));
        let report = Report { outcomes: outcomes.collect(), ..Report::new("uid.1", Stage::Done, "") };
        assert_eq!(
            Report::from_annotations(&annotated(REPORT, report.to_annotation())),
            Some(report.clone())
        );
        for outcome in &report.outcomes {
            let text = serde_json::to_value(outcome).unwrap();
            assert_eq!(
                (text["probe"].as_str(), text["finding"].as_str()),
                (Some(outcome.probe.name()), Some(outcome.finding.name()))
            );
        }
        assert_eq!(Request::from_annotations(&BTreeMap::new()), None);
    }

    #[test]
    fn what_is_too_much_is_refused_with_its_reason() {
        let refused =
            |text: String| Request::from_annotations(&annotated(REQUEST, text)).unwrap().unwrap_err();
        let many = Role::Probe { peers: vec![String::new(); PEERS + 1] };
        let many = Request { id: "1".into(), role: many }.to_annotation();
        assert_eq!(refused(many), "antrea.io/datapath-probe-request: more than 4 peers");
        let long = Request { id: "x".repeat(LONGEST), role: Role::Answer }.to_annotation();
        assert_eq!(refused(long), "antrea.io/datapath-probe-request: longer than 4096 octets");
        assert!(refused("{}".into()).starts_with("antrea.io/datapath-probe-request: missing field"));
        let outcome = Outcome::new(Probe::Setup, None, Finding::Failed, &"ä".repeat(LONGEST));
        assert_eq!(outcome.message.chars().count(), MESSAGE);
    }

    #[test]
    fn an_outcome_names_probe_and_node() {
        let text = |probe, peer| Outcome::new(probe, peer, Finding::Failed, "no answer in 1 s").to_string();
        assert_eq!(
            text(Probe::PodToPodAcrossNodes, Some("n1")),
            "pod-to-pod-across-nodes to n1: no answer in 1 s"
        );
        assert_eq!(
            text(Probe::PodFromPodAcrossNodes, Some("n1")),
            "pod-from-pod-across-nodes from n1: no answer in 1 s"
        );
        assert_eq!(text(Probe::PolicyDenies, None), "policy-denies: no answer in 1 s");
    }
}
