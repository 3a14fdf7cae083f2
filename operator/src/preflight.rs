//! Whether the images of a change are on the Nodes, before anything that works is taken away for them.
//!
//! A DaemonSet whose Pods hold the wanted images, and do nothing, exists while any component runs another
//! one. What it finds out gates the change: a reference that nobody can pull changes nothing, and an agent's
//! place is never empty for as long as a download takes.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use crate::{
    cluster::{Cluster, Pod, Trouble},
    effective::Effective,
};

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
    /// The Node.
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
    /// Node of the controller that runs another image.
    pub controller: Option<String>,
}

impl Preflight {
    /// What Pods of `revision` have found out.
    pub fn observe(revision: &str, config: &Effective, cluster: &Cluster) -> Self {
        let pods = || cluster.preflight_pods.values().filter(|pod| pod.revision == revision && !pod.deleting);
        let missing = |pod: &Pod| {
            // A download that takes its time is nothing wrong.
            let trouble = pod.trouble.clone().filter(|trouble| trouble.reason != "PodNotReady")?;
            Some(Missing { node: pod.node.clone(), trouble, since: pod.since })
        };
        let controller = outdated(cluster.controller_pods.values(), &config.controller_image).next();
        Self {
            ready_on: pods().filter(|pod| pod.ready).map(|pod| pod.node.clone()).collect(),
            missing: pods().filter_map(missing).collect(),
            controller: controller.map(|pod| pod.node.clone()),
        }
    }

    /// How many Nodes have the images.
    pub fn ready(&self) -> usize {
        self.ready_on.len()
    }

    /// Whether a Node has them.
    pub fn is_ready_on(&self, node: &str) -> bool {
        self.ready_on.contains(node)
    }

    /// Whether the controller may be replaced: on its Node, or on any if it has none.
    pub fn allows_controller(&self) -> bool {
        match &self.controller {
            Some(node) if !node.is_empty() => self.is_ready_on(node),
            _ => self.allows_agents(),
        }
    }

    /// Whether the agents' template may change: the images exist.
    pub fn allows_agents(&self) -> bool {
        !self.ready_on.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use antrea_crds::AntreaInstallationSpec;

    use super::*;
    use crate::effective::{Facts, effective};

    fn config() -> Effective {
        let facts = Facts { default_version: "v2".into(), ..Facts::default() };
        effective(&AntreaInstallationSpec::default(), &facts).unwrap()
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

    fn cluster(agents: &[Pod], controllers: &[Pod], preflight: &[Pod]) -> Cluster {
        let by_name = |pods: &[Pod]| pods.iter().map(|pod| (pod.name.clone(), pod.clone())).collect();
        Cluster {
            agent_pods: by_name(agents),
            controller_pods: by_name(controllers),
            preflight_pods: by_name(preflight),
            ..Cluster::default()
        }
    }

    #[test]
    fn only_another_image_needs_it() {
        let needed = |agent: &str, controller: &str| {
            is_needed(&config(), &cluster(&[pod("a", agent, None)], &[pod("a", controller, None)], &[]))
        };
        let (agent, controller) = ("antrea/antrea-agent:v2", "antrea/antrea-controller:v2");
        assert!(!needed(agent, controller));
        assert!(needed("antrea/antrea-agent:v1", controller));
        assert!(needed(agent, "antrea/antrea-controller:v1"));
        assert!(!is_needed(&config(), &Cluster::default()));
        let leaving = Pod { deleting: true, ..pod("a", "antrea/antrea-agent:v1", None) };
        assert!(!is_needed(&config(), &cluster(&[leaving], &[], &[])));
        // A Deployment keeps Pods that were evicted.
        let evicted = Pod { ended: true, ..pod("a", "antrea/antrea-controller:v1", Some("Evicted")) };
        assert!(!is_needed(&config(), &cluster(&[], &[evicted], &[])));
    }

    #[test]
    fn nothing_is_taken_away_for_an_image_that_is_not_there() {
        let old = pod("a", "old", None);
        let seen = |preflight: &[Pod]| {
            Preflight::observe("r", &config(), &cluster(&[], std::slice::from_ref(&old), preflight))
        };
        let none = seen(&[]);
        assert!(!none.allows_controller() && !none.allows_agents() && none.missing.is_empty());
        // Pulled on another Node than the controller's.
        let elsewhere = seen(&[pod("a", "new", Some("ErrImagePull")), pod("b", "new", None)]);
        assert!(!elsewhere.allows_controller() && elsewhere.allows_agents());
        assert!(elsewhere.is_ready_on("b") && !elsewhere.is_ready_on("a"));
        assert_eq!(elsewhere.missing.len(), 1);
        assert_eq!(elsewhere.missing[0].node, "a");
        let both = seen(&[pod("a", "new", None), pod("b", "new", None)]);
        assert!(both.allows_controller() && both.ready() == 2);
        let slow = seen(&[pod("a", "new", Some("PodNotReady"))]);
        assert!(slow.missing.is_empty() && !slow.allows_agents());
        let other = seen(&[Pod { revision: "q".into(), ..pod("a", "new", None) }]);
        assert!(!other.allows_controller());
    }

    #[test]
    fn a_controller_that_is_nowhere_waits_for_no_particular_node() {
        let seen = Preflight::observe("r", &config(), &cluster(&[], &[], &[pod("b", "new", None)]));
        assert!(seen.allows_controller());
    }
}
