//! What is observed of the cluster: Nodes, the components' Pods, what agents say of themselves. Kept small:
//! a Pod or Node is reduced to the few facts that decisions need.

mod objects;
mod trouble;

use std::{collections::BTreeMap, net::IpAddr};

use antrea_crds::{
    Capabilities,
    installation::{Toleration, TolerationEffect, TolerationOperator},
};
use ipnet::IpNet;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::trouble::diagnose;
pub use self::{
    objects::{NodeObject, PodObject},
    trouble::{Trouble, first_few, shorten},
};
use crate::{REVISION_ANNOTATION, rollout::probes::Told};

/// A Pod of a component.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub name: String,
    /// Its unique identity.
    pub uid: String,
    /// Node on which it runs; empty if none yet.
    pub node: String,
    /// Image of its first container.
    pub image: String,
    /// Revision of the template that it was made from.
    pub revision: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Since when it is ready, or not.
    pub since: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its containers have ended for good, as those of a Pod that was evicted.
    pub ended: bool,
    /// What keeps it from being ready, as far as its status says.
    pub trouble: Option<Trouble>,
}

impl From<&PodObject> for Pod {
    fn from(pod: &PodObject) -> Self {
        let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let condition = pod.status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let ready = condition.is_some_and(|condition| condition.status == "True");
        let since =
            condition.and_then(|condition| condition.last_transition_time.as_ref()).map_or(created, |t| t.0);
        let annotations = pod.metadata.annotations.as_ref();
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: pod.spec.node(),
            image: pod.spec.containers.first().map(|container| container.image.clone()).unwrap_or_default(),
            revision: annotations.and_then(|map| map.get(REVISION_ANNOTATION)).cloned().unwrap_or_default(),
            ready,
            since,
            deleting: pod.metadata.deletion_timestamp.is_some(),
            ended: matches!(pod.status.phase.as_str(), "Failed" | "Succeeded"),
            trouble: if ready { None } else { Some(diagnose(&pod.status)) },
        }
    }
}

/// An agent writes its AntreaAgentInfo at least once a minute; one that has not for this long has lost touch.
const STALE: SignedDuration = SignedDuration::from_secs(180);

/// A Node, as far as it is decided by whether Pods may run there.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Labels, for selection.
    pub labels: BTreeMap<String, String>,
    /// Taints that keep Pods away: key, value, effect.
    pub taints: Vec<(String, String, TolerationEffect)>,
    /// Whether its kubelet has been heard of lately.
    pub reachable: bool,
    pub pod_cidrs: Vec<IpNet>,
    pub addresses: Vec<IpAddr>,
    /// When it joined.
    pub created: Timestamp,
}

impl From<&NodeObject> for Node {
    fn from(node: &NodeObject) -> Self {
        let ready = node.status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let effect = |effect: &str| match effect {
            "NoSchedule" => Some(TolerationEffect::NoSchedule),
            "NoExecute" => Some(TolerationEffect::NoExecute),
            _ => None,
        };
        let taints = node.spec.taints.iter().filter_map(|taint| {
            Some((taint.key.clone(), taint.value.clone().unwrap_or_default(), effect(&taint.effect)?))
        });
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: taints.collect(),
            reachable: ready.is_none_or(|condition| condition.status != "Unknown"),
            pod_cidrs: node.spec.pod_cidrs.iter().filter_map(|text| text.parse().ok()).collect(),
            addresses: node.status.addresses.iter().filter_map(|one| one.address.parse().ok()).collect(),
            created: node.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        }
    }
}

impl Node {
    /// Whether a Pod with this selector and these tolerations belongs on the Node. Taints that Kubernetes
    /// itself puts on Nodes in trouble are tolerated by every DaemonSet.
    pub fn admits(&self, selector: &BTreeMap<String, String>, tolerations: &[Toleration]) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && self.taints.iter().all(|taint| {
                taint.0.starts_with("node.kubernetes.io/")
                    || tolerations.iter().any(|one| tolerates(one, taint))
            })
    }
}

fn tolerates(toleration: &Toleration, (key, value, effect): &(String, String, TolerationEffect)) -> bool {
    toleration.effect.is_none_or(|tolerated| tolerated == *effect)
        && toleration.key.as_ref().is_none_or(|tolerated| tolerated == key)
        && (toleration.operator == Some(TolerationOperator::Exists)
            || toleration.value.as_deref().unwrap_or_default() == value)
}

/// A Node that shall run an agent, with what is known of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentNode {
    pub name: String,
    /// Whether its kubelet has been heard of lately.
    pub reachable: bool,
    /// When it joined.
    pub created: Timestamp,
    /// Since when there is no agent's Pod on it, if there is none.
    pub vacant_since: Timestamp,
    /// The agent's Pod.
    pub pod: Option<Pod>,
    /// What the agent itself says is wrong, and since when it says so.
    pub unhealthy: Option<(Trouble, Timestamp)>,
}

impl AgentNode {
    /// Whether the agent is ready and says that it is well.
    pub fn is_ready(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| pod.ready && !pod.deleting) && self.unhealthy.is_none()
    }

    /// Whether the agent is of the wanted revision.
    pub fn is_updated(&self, revision: &str) -> bool {
        self.pod.as_ref().is_some_and(|pod| pod.revision == revision && !pod.deleting)
    }

    /// What is wrong with the agent, and since when. A Node that is not reachable has other troubles.
    pub fn trouble(&self) -> Option<(Trouble, Timestamp)> {
        if !self.reachable {
            return None;
        }
        // What the agent says is closer to the cause than "not ready".
        if let Some(unhealthy) = &self.unhealthy {
            return Some(unhealthy.clone());
        }
        match &self.pod {
            None => Some((Trouble::new("NoPod", "there is no agent Pod on the Node"), self.vacant_since)),
            Some(pod) if pod.ready => None,
            Some(pod) => pod.trouble.clone().map(|trouble| (trouble, pod.since)),
        }
    }

    /// As [`trouble`](Self::trouble), once it has lasted for `grace`.
    pub fn failing(&self, now: Timestamp, grace: SignedDuration) -> Option<Trouble> {
        self.trouble().filter(|(_, since)| now.duration_since(*since) >= grace).map(|(trouble, _)| trouble)
    }
}

/// State of the controller's Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControllerState {
    /// Revision of the Deployment's Pod template.
    pub revision: String,
    /// Whether all of its Pods are made from that template.
    pub updated: bool,
    /// Whether any Pod is ready.
    pub ready: bool,
}

/// Everything that is observed, folded from watches.
#[derive(Debug, Default)]
pub struct Cluster {
    /// When observing began: what happened before is not known.
    pub started: Timestamp,
    /// When the last agent's Pod of a Node went away.
    pub vacated: BTreeMap<String, Timestamp>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Agents' Pods by name.
    pub agent_pods: BTreeMap<String, Pod>,
    /// Controller's Pods by name.
    pub controller_pods: BTreeMap<String, Pod>,
    /// Pods that hold the images of a change, by name.
    pub preflight_pods: BTreeMap<String, Pod>,
    /// Pods that clean Nodes, by name.
    pub cleanup_pods: BTreeMap<String, Pod>,
    /// When such Pods were last asked for.
    pub cleaning_since: Option<Timestamp>,
    /// What Nodes can do, as their agents told.
    pub capabilities: BTreeMap<String, Capabilities>,
    /// MTU of Pods, as agents found it, by Node.
    pub pod_mtus: BTreeMap<String, i32>,
    /// What AntreaAgentInfos say of probes, by Node.
    pub probes: BTreeMap<String, Told>,
    /// What agents say is wrong, by Node, and since when we know.
    pub unhealthy: BTreeMap<String, (Trouble, Timestamp)>,
    /// When an agent last wrote its AntreaAgentInfo, by its own clock, and since when that is known, by Node.
    pub heard: BTreeMap<String, (Option<Timestamp>, Timestamp)>,
    /// Nodes that are gone or silent, and since when that is known.
    pub lost: BTreeMap<String, Timestamp>,
    /// The controller's Deployment, as it says.
    pub controller: Option<ControllerState>,
    /// Revision of the DaemonSet's Pod template.
    pub agent_revision: Option<String>,
}

impl Cluster {
    /// Forgets an agent's Pod.
    pub fn remove_agent_pod(&mut self, name: &str, now: Timestamp) {
        if let Some(pod) = self.agent_pods.remove(name) {
            self.vacated.insert(pod.node, now);
        }
    }

    /// Takes in a Node.
    pub fn set_node(&mut self, name: String, node: Node, now: Timestamp) {
        if node.reachable {
            self.lost.remove(&name);
        } else {
            self.lost.entry(name.clone()).or_insert(now);
        }
        self.nodes.insert(name, node);
    }

    /// Forgets a Node.
    pub fn remove_node(&mut self, name: &str, now: Timestamp) {
        self.nodes.remove(name);
        self.vacated.remove(name);
        self.unhealthy.remove(name);
        self.heard.remove(name);
        self.capabilities.remove(name);
        self.pod_mtus.remove(name);
        self.probes.remove(name);
        self.lost.entry(name.to_owned()).or_insert(now);
        let Self { lost, nodes, controller_pods, .. } = self;
        // Of a Node that is no more it matters only whether the controller was there.
        lost.retain(|name, _| {
            nodes.contains_key(name) || controller_pods.values().any(|pod| pod.node == *name)
        });
    }

    /// Notes that the agent on `node` has written its AntreaAgentInfo, when its own clock was at `heartbeat`.
    pub fn set_heard(&mut self, node: &str, heartbeat: Option<Timestamp>, now: Timestamp) {
        match self.heard.get_mut(node) {
            Some((last, _)) if *last == heartbeat => {}
            _ => {
                self.heard.insert(node.to_owned(), (heartbeat, now));
            }
        }
    }

    /// When the next silent agent becomes one of which nothing is known.
    pub fn next_stale(&self, now: Timestamp) -> Option<SignedDuration> {
        let left = self.heard.values().map(|(_, since)| STALE - now.duration_since(*since));
        left.filter(SignedDuration::is_positive).min()
    }

    /// What is wrong with an agent that says nothing any more although its Pod is ready.
    fn stale(&self, node: &str, now: Timestamp) -> Option<(Trouble, Timestamp)> {
        let (_, since) = self.heard.get(node)?;
        let minutes = STALE.as_secs() / 60;
        let message = format!("its AntreaAgentInfo has not been written for more than {minutes} minutes");
        (now.duration_since(*since) >= STALE)
            .then(|| (Trouble::new("HeartbeatStale", message), *since + STALE))
    }

    /// Notes what the agent on `node` says of itself; `None` when it is well.
    pub fn set_health(&mut self, node: &str, trouble: Option<Trouble>, now: Timestamp) {
        match trouble {
            None => {
                self.unhealthy.remove(node);
            }
            Some(trouble) => {
                let since = self.unhealthy.get(node).map_or(now, |(_, since)| *since);
                self.unhealthy.insert(node.to_owned(), (trouble, since));
            }
        }
    }

    /// Nodes that shall run an agent, by name.
    pub fn agents(
        &self,
        selector: &BTreeMap<String, String>,
        tolerations: &[Toleration],
        now: Timestamp,
    ) -> Vec<AgentNode> {
        let mut pods: BTreeMap<&str, &Pod> = BTreeMap::new();
        for pod in self.agent_pods.values() {
            // While a Pod is replaced there are two; the one that stays counts.
            let entry = pods.entry(&pod.node).or_insert(pod);
            if entry.deleting {
                *entry = pod;
            }
        }
        let agent = |name: &String, node: &Node| AgentNode {
            name: name.clone(),
            reachable: node.reachable,
            created: node.created,
            vacant_since: self
                .vacated
                .get(name)
                .copied()
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .max(node.created)
                .max(self.started),
            pod: pods.get(name.as_str()).map(|pod| (*pod).clone()),
            unhealthy: self.unhealthy.get(name).cloned().or_else(|| {
                let ready = pods.get(name.as_str()).is_some_and(|pod| pod.ready);
                self.stale(name, now).filter(|_| ready)
            }),
        };
        self.nodes
            .iter()
            .filter(|(_, node)| node.admits(selector, tolerations))
            .map(|(name, node)| agent(name, node))
            .collect()
    }

    /// The controller's Deployment. Long after a Node is lost it calls the Pod there ready; here it is not.
    pub fn controller_state(&self) -> Option<ControllerState> {
        let mut state = self.controller.clone()?;
        state.ready &= self.controller_pods.values().any(|pod| self.works(pod));
        Some(state)
    }

    fn works(&self, pod: &Pod) -> bool {
        pod.ready && !pod.deleting && !self.lost.contains_key(&pod.node)
    }

    /// What is wrong with the controller's Pod, and since when.
    pub fn controller_trouble(&self) -> Option<(Trouble, Timestamp)> {
        let pods = || self.controller_pods.values().filter(|pod| !pod.deleting);
        if pods().any(|pod| self.works(pod)) {
            return None;
        }
        let lost = |pod: &Pod| {
            let since = self.lost.get(&pod.node).filter(|_| pod.ready)?;
            let message = format!("the Pod's Node {} is gone or does not answer", pod.node);
            Some((Trouble::new("NodeLost", message), *since))
        };
        pods().find_map(|pod| pod.trouble.clone().map(|trouble| (trouble, pod.since)).or_else(|| lost(pod)))
    }

    /// MTU that Pods of all Nodes can have, as far as agents have told.
    pub fn pod_mtu(&self) -> Option<i32> {
        self.pod_mtus.values().copied().min()
    }

    /// Addresses of all Nodes.
    pub fn addresses(&self) -> Vec<(String, IpAddr)> {
        let addresses =
            self.nodes.iter().flat_map(|(name, node)| node.addresses.iter().map(move |ip| (name, ip)));
        addresses.map(|(name, ip)| (name.clone(), *ip)).collect()
    }

    /// Pod ranges of all Nodes.
    pub fn pod_cidrs(&self) -> Vec<(String, IpNet)> {
        let ranges =
            self.nodes.iter().flat_map(|(name, node)| node.pod_cidrs.iter().map(move |cidr| (name, cidr)));
        ranges.map(|(name, cidr)| (name.clone(), *cidr)).collect()
    }
}

#[cfg(test)]
mod tests;
