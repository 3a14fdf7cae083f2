//! Whether the images of a change are on the Nodes, before anything that works is taken away for them.
//!
//! A DaemonSet whose Pods hold the wanted images, and do nothing, exists while any component runs another
//! one. What it finds out gates the change: a reference that nobody can pull changes nothing, and an agent's
//! place is never empty for as long as a download takes.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{Cluster, Pod, Trouble},
    effective::Effective,
};

/// A Pod that is not made within this time is not going to be.
const UNKNOWN_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Whether a component runs another image than the wanted one.
pub fn is_needed(config: &Effective, cluster: &Cluster) -> bool {
    outdated(cluster.agent_pods.values(), &config.agent_image).next().is_some()
        || outdated(cluster.controller_pods.values(), &config.controller_image).next().is_some()
}

fn outdated<'a>(pods: impl Iterator<Item = &'a Pod>, image: &str) -> impl Iterator<Item = &'a Pod> {
    pods.filter(move |pod| pod.image != image && !pod.deleting && !pod.ended)
}

/// A Node that does not get the images, why, and since when.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    pub node: String,
    /// The cause.
    pub trouble: Trouble,
    /// Since when.
    pub since: Timestamp,
}

/// What is known of the images of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preflight {
    /// Nodes that have them.
    pub ready_on: BTreeSet<String>,
    /// Nodes that have not, because something is wrong.
    pub missing: Vec<Missing>,
    /// Nodes of which it cannot be known, because there is no room for a Pod that would find out, or none is made.
    pub unknown: BTreeSet<String>,
    /// Node of the controller that runs another image, if it is one that can be looked at.
    pub controller: Option<String>,
    /// Whether there is no Node that can be looked at.
    pub blind: bool,
}

impl Preflight {
    /// What Pods of `revision` have found out by `now`, having `began` at a time.
    pub fn observe(
        revision: &str,
        config: &Effective,
        cluster: &Cluster,
        began: Timestamp,
        now: Timestamp,
    ) -> Self {
        let pods: Vec<&Pod> =
            cluster.preflight_pods.values().filter(|pod| pod.revision == revision && !pod.deleting).collect();
        let agents = cluster.agents(&config.agent.node_selector, &config.agent.tolerations, now);
        let nodes: Vec<_> = agents.iter().filter(|node| node.reachable).collect();
        let failed = pods.iter().filter_map(|pod| {
            // A download that takes its time is nothing wrong.
            let trouble = pod.trouble.clone().filter(|trouble| trouble.reason != "PodNotReady")?;
            Some(Missing { node: pod.node.clone(), trouble, since: pod.since })
        });
        let nowhere = nodes.iter().filter(|node| pods.iter().all(|pod| pod.node != node.name)).map(|node| {
            let trouble = Trouble::new("NoPod", "no Pod that fetches the images is made for the Node");
            Missing { node: node.name.clone(), trouble, since: began.max(node.created) }
        });
        let missing: Vec<Missing> = failed.chain(nowhere).collect();
        let unknown = missing.iter().filter(|missing| match missing.trouble.reason.as_str() {
            "Unschedulable" => true,
            "NoPod" => now.duration_since(missing.since) >= UNKNOWN_AFTER,
            _ => false,
        });
        let controller = outdated(cluster.controller_pods.values(), &config.controller_image).next();
        Self {
            ready_on: pods.iter().filter(|pod| pod.ready).map(|pod| pod.node.clone()).collect(),
            unknown: unknown.map(|missing| missing.node.clone()).collect(),
            missing,
            controller: controller
                .map(|pod| pod.node.clone())
                .filter(|name| nodes.iter().any(|node| node.name == *name)),
            blind: nodes.is_empty(),
        }
    }

    /// How many Nodes have the images.
    pub fn ready(&self) -> usize {
        self.ready_on.len()
    }

    /// Whether a Pod of a Node may be replaced as far as images are concerned: they are there, or they exist and
    /// nobody can find out whether they are there.
    pub fn allows_node(&self, node: &str) -> bool {
        self.ready_on.contains(node) || self.unknown.contains(node) && self.allows_agents()
    }

    /// Whether the controller may be replaced: on its Node, or on any if its Node cannot be looked at.
    pub fn allows_controller(&self) -> bool {
        match &self.controller {
            Some(node) => self.allows_node(node),
            None => self.allows_agents(),
        }
    }

    /// Whether the agents' template may change: the images exist, or there is no agent to lose.
    pub fn allows_agents(&self) -> bool {
        !self.ready_on.is_empty() || self.blind
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cluster::Node,
        effective::{Facts, effective},
    };

    fn config(spec: &Value) -> Effective {
        let facts = Facts { default_version: "v2".into(), ..Facts::default() };
        effective(&serde_json::from_value(spec.clone()).unwrap(), &facts).unwrap()
    }

    fn pod(node: &str, image: &str, trouble: Option<&str>) -> Pod {
        Pod {
            name: format!("pod-{node}"),
            uid: String::new(),
            node: node.into(),
            image: image.into(),
            revision: "r".into(),
            ready: trouble.is_none(),
            since: Timestamp::UNIX_EPOCH,
            deleting: false,
            ended: false,
            trouble: trouble.map(|reason| Trouble::new(reason, "x")),
        }
    }

    fn node(reachable: bool, pool: &str) -> Node {
        let labels = [("kubernetes.io/os", "linux"), ("pool", pool)];
        Node {
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            taints: Vec::new(),
            reachable,
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    /// Nodes a and b of pool "agents" and cp of pool "control".
    fn cluster(agents: &[Pod], controllers: &[Pod], preflight: &[Pod]) -> Cluster {
        let by_name = |pods: &[Pod]| pods.iter().map(|pod| (pod.name.clone(), pod.clone())).collect();
        let nodes = [("a", "agents"), ("b", "agents"), ("cp", "control")];
        Cluster {
            nodes: nodes.map(|(name, pool)| (name.to_owned(), node(true, pool))).into(),
            agent_pods: by_name(agents),
            controller_pods: by_name(controllers),
            preflight_pods: by_name(preflight),
            ..Cluster::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn observe(config: &Effective, cluster: &Cluster, seconds: i64) -> Preflight {
        Preflight::observe("r", config, cluster, at(0), at(seconds))
    }

    #[test]
    fn only_another_image_needs_it() {
        let needed = |agent: &str, controller: &str| {
            is_needed(
                &config(&json!({})),
                &cluster(&[pod("a", agent, None)], &[pod("a", controller, None)], &[]),
            )
        };
        let (agent, controller) = ("antrea/antrea-agent:v2", "antrea/antrea-controller:v2");
        assert!(!needed(agent, controller));
        assert!(needed("antrea/antrea-agent:v1", controller));
        assert!(needed(agent, "antrea/antrea-controller:v1"));
        assert!(!is_needed(&config(&json!({})), &Cluster::default()));
        let leaving = Pod { deleting: true, ..pod("a", "antrea/antrea-agent:v1", None) };
        assert!(!is_needed(&config(&json!({})), &cluster(&[leaving], &[], &[])));
        // A Deployment keeps Pods that were evicted.
        let evicted = Pod { ended: true, ..pod("a", "antrea/antrea-controller:v1", Some("Evicted")) };
        assert!(!is_needed(&config(&json!({})), &cluster(&[], &[evicted], &[])));
    }

    #[test]
    fn nothing_is_taken_away_for_an_image_that_is_not_there() {
        let old = pod("a", "old", None);
        let seen = |preflight: &[Pod]| {
            observe(&config(&json!({})), &cluster(&[], std::slice::from_ref(&old), preflight), 1)
        };
        let none = seen(&[]);
        assert!(!none.allows_controller() && !none.allows_agents());
        // Pulled on another Node than the controller's.
        let elsewhere = seen(&[pod("a", "new", Some("ErrImagePull")), pod("b", "new", None)]);
        assert!(!elsewhere.allows_controller() && elsewhere.allows_agents());
        assert!(elsewhere.allows_node("b") && !elsewhere.allows_node("a"));
        assert_eq!(elsewhere.missing[0].node, "a");
        let both = seen(&[pod("a", "new", None), pod("b", "new", None)]);
        assert!(both.allows_controller() && both.ready() == 2);
        let slow = seen(&[pod("a", "new", Some("PodNotReady")), pod("b", "new", Some("PodNotReady"))]);
        assert!(slow.missing.iter().all(|missing| missing.node == "cp") && !slow.allows_agents());
        let other = seen(&[Pod { revision: "q".into(), ..pod("a", "new", None) }]);
        assert!(!other.allows_controller());
    }

    #[test]
    fn a_controller_that_is_nowhere_waits_for_no_particular_node() {
        let seen = observe(&config(&json!({})), &cluster(&[], &[], &[pod("b", "new", None)]), 1);
        assert!(seen.allows_controller());
    }

    /// Where no agent may be, no Pod of the preflight ever is.
    #[test]
    fn a_controller_where_no_agent_is_waits_for_no_pod_beside_it() {
        let agents = config(&json!({"agent": {"nodeSelector": {"pool": "agents"}}}));
        let controller = pod("cp", "old", None);
        let ready = [pod("a", "new", None)];
        let mut seen = cluster(&[], std::slice::from_ref(&controller), &ready);
        assert!(observe(&agents, &seen, 1).allows_controller());
        assert!(!observe(&config(&json!({})), &seen, 1).allows_controller(), "there it can be looked at");
        seen.nodes.insert("cp".into(), node(false, "control"));
        assert!(observe(&config(&json!({})), &seen, 1).allows_controller(), "a silent Node never answers");
        seen.preflight_pods.clear();
        assert!(!observe(&agents, &seen, 1).allows_controller(), "the images have to be somewhere");
        let nowhere = config(&json!({"agent": {"nodeSelector": {"pool": "none"}}}));
        assert!(observe(&nowhere, &seen, 1).allows_controller(), "there is nowhere to look");
    }

    /// A Node that is full must not keep its old agent for ever, nor one whose Pod nobody makes.
    #[test]
    fn what_cannot_be_known_is_told_and_holds_up_nothing() {
        let config = config(&json!({"agent": {"nodeSelector": {"pool": "agents"}}}));
        let full = pod("a", "new", Some("Unschedulable"));
        let alone = observe(&config, &cluster(&[], &[], std::slice::from_ref(&full)), 1);
        assert!(!alone.allows_node("a"), "the images may not exist");
        let seen = observe(&config, &cluster(&[], &[], &[full, pod("b", "new", None)]), 1);
        assert!(seen.allows_node("a") && seen.missing[0].trouble.reason == "Unschedulable");
        let absent = cluster(&[], &[], &[pod("b", "new", None)]);
        let early = observe(&config, &absent, 1);
        assert!(!early.allows_node("a") && early.missing[0].trouble.reason == "NoPod");
        assert!(observe(&config, &absent, 30).allows_node("a"));
    }
}
