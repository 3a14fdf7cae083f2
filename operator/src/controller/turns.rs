//! Whose turn it is, and what agents are asked before the next one's.

use std::collections::{BTreeMap, BTreeSet};

use antrea_crds::{
    AntreaAgentInfo, AntreaInstallation,
    probes::{REQUEST, Request},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Context, Error, api_error, converge::taken, course::Going};
use crate::{
    cluster::AgentNode,
    effective::Effective,
    plan::{Class, class_of_config},
    preflight::Preflight,
    rollout::{
        decide::{Decision, Input, decide},
        policy::{Policy, Waves},
        probes::{self, Told, Verdict},
    },
};

impl Context {
    /// What is next for the agents.
    pub(super) fn decide(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        revision: &str,
        preflight: Option<&Preflight>,
        going: &Going,
    ) -> Decision {
        let nodes = self.agents(config);
        let waves = self.waves(&nodes, &going.policy);
        let taken = taken(cr);
        let probes = self.probes(&nodes, &taken);
        self.memory(|memory| {
            let decision = decide(&Input {
                policy: &going.policy,
                waves: &waves,
                nodes: &nodes,
                revision,
                record: &going.record,
                taken: &taken,
                proven: &memory.proven,
                since: memory.since,
                has_images: &|node| has_images(node, &config.agent_image, preflight),
                probed: &|node| probes.get(&node.name).cloned().unwrap_or(Verdict::Unasked),
                back: going.back,
                now: Timestamp::now(),
            });
            memory.proven.clone_from(&decision.proven);
            decision
        })
    }

    /// The order in which Nodes are changed.
    pub(super) fn waves(&self, nodes: &[AgentNode], policy: &Policy) -> Waves {
        self.shared.with(|state| {
            let known = &state.cluster.nodes;
            let labels = nodes.iter().filter_map(|node| Some((&*node.name, &known.get(&node.name)?.labels)));
            Waves::new(policy, labels)
        })
    }

    pub(super) fn agents(&self, config: &Effective) -> Vec<AgentNode> {
        self.shared.with(|state| {
            state.cluster.agents(&config.agent.node_selector, &config.agent.tolerations, Timestamp::now())
        })
    }

    /// What probes say of Nodes whose working agent was taken away.
    fn probes(&self, nodes: &[AgentNode], taken: &BTreeSet<String>) -> BTreeMap<String, Verdict> {
        let judged = nodes.iter().filter(|node| taken.contains(&node.name));
        self.shared.with(|state| {
            let verdict = |node: &AgentNode| {
                let verdict = probes::verdict(node.pod.as_ref()?, state.cluster.probes.get(&node.name));
                Some((node.name.clone(), verdict))
            };
            judged.filter_map(verdict).collect()
        })
    }

    /// Asks agents for the probes that are due, and takes away requests that nobody waits for. Returns when to look again.
    pub(super) async fn ask_for_probes(
        &self,
        config: &Effective,
        revision: &str,
        decision: &Decision,
        going: &Going,
    ) -> Result<Option<SignedDuration>, Error> {
        let asked = |told: &Told| told.request.is_some();
        if decision.probing.is_empty() && !self.shared.with(|state| state.cluster.probes.values().any(asked))
        {
            return Ok(None);
        }
        let nodes = self.agents(config);
        // Between changed and unchanged Nodes such a change breaks traffic, as it was acknowledged to.
        let class = class_of_config(going.record.stable.as_deref(), &config.to_spec());
        let told = self.shared.with(|state| state.cluster.probes.clone());
        let can_answer = |node: &&AgentNode| {
            let pod = node.pod.as_ref().map(|pod| pod.name.as_str());
            let takes = told.get(&node.name).is_some_and(|told| told.takes && Some(told.pod.as_str()) == pod);
            let speaks = class != Class::Disruptive || node.is_updated(revision);
            takes && speaks && node.reachable && node.is_ready()
        };
        let peers = nodes.iter().filter(can_answer).map(|node| node.name.clone()).collect();
        let plan = self.memory(|memory| {
            let mut input = probes::Input {
                wanted: &decision.probing,
                told: &told,
                peers: &peers,
                since: &memory.probes,
                now: Timestamp::now(),
            };
            let since = probes::waited_for(&input);
            input.since = &since;
            let plan = probes::plan(&input);
            memory.probes = since;
            plan
        });
        for (node, request) in plan.writes {
            self.ask(&node, request).await?;
        }
        Ok(plan.again)
    }

    async fn ask(&self, node: &str, request: Option<Request>) -> Result<(), Error> {
        tracing::info!(node, request = ?request, "datapath probes");
        let text = request.as_ref().map(Request::to_annotation);
        let body = json!({"metadata": {"annotations": {REQUEST: text}}});
        // Not applied: an object that is gone must not be made.
        let patch = Patch::Merge(&body);
        match Api::<AntreaAgentInfo>::all(self.client.clone())
            .patch(node, &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(api_error(format!("ask the agent on {node} for probes"))(source)),
        }
        // Until the watch says so itself.
        self.shared.with(|state| {
            if let Some(told) = state.cluster.probes.get_mut(node) {
                told.request = request;
            }
        });
        Ok(())
    }
}

fn has_images(node: &AgentNode, image: &str, preflight: Option<&Preflight>) -> bool {
    let same = node.pod.as_ref().is_some_and(|pod| pod.image == image);
    same || preflight.is_none_or(|seen| seen.allows_node(&node.name))
}

#[cfg(test)]
mod tests {
    use antrea_crds::{
        AntreaInstallationSpec,
        installation::RolloutStatus,
        probes::{Report, Stage},
    };
    use serde_json::{Value, from_str};

    use super::*;
    use crate::{
        cluster::{Node, Pod},
        controller::testing::{Answer, Kube, context, installation},
        effective::{Facts, effective},
    };

    fn path(node: &str) -> String {
        format!("/apis/crd.antrea.io/v1beta1/antreaagentinfos/{node}")
    }

    fn answers(kube: &Kube) {
        for node in ["n1", "n2"] {
            let metadata = json!({"name": node});
            let info = json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaAgentInfo", "metadata": metadata});
            kube.on(&path(node), Answer::Ok(info));
        }
    }

    /// Two Nodes, the agent of the first of which was replaced and works.
    fn world(kube: &Kube) -> (Context, AntreaInstallation, Effective) {
        let facts = Facts { default_version: "v1.0.0".into(), ..Facts::default() };
        let config = effective(&AntreaInstallationSpec::default(), &facts).unwrap();
        let mut cr = installation(json!({}));
        cr.status = Some(serde_json::from_value(json!({"nodes": {"replacing": ["n1"]}})).unwrap());
        let context = context(kube);
        context.shared.with(|state| {
            for (name, revision) in [("n1", "new"), ("n2", "old")] {
                let node = Node {
                    labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
                    taints: Vec::new(),
                    reachable: true,
                    pod_cidrs: Vec::new(),
                    addresses: Vec::new(),
                    created: Timestamp::UNIX_EPOCH,
                };
                state.cluster.nodes.insert(name.to_owned(), node);
                let pod = Pod {
                    name: format!("agent-{name}"),
                    uid: format!("uid-{name}"),
                    node: name.into(),
                    image: config.agent_image.clone(),
                    revision: revision.into(),
                    ready: true,
                    since: Timestamp::UNIX_EPOCH,
                    deleting: false,
                    ended: false,
                    trouble: None,
                };
                let told = Told { pod: pod.name.clone(), takes: true, ..Told::default() };
                state.cluster.probes.insert(name.to_owned(), told);
                state.cluster.agent_pods.insert(pod.name.clone(), pod);
            }
        });
        (context, cr, config)
    }

    fn going() -> Going {
        let policy = Policy::new(None);
        Going { policy, record: RolloutStatus::default(), back: false, waiting: None, asked: None }
    }

    /// What was written since the last look: node, and the request.
    fn written(kube: &Kube, seen: &mut usize) -> Vec<(String, Value)> {
        let all = kube.written();
        let new = all[*seen..].iter().map(|(what, body)| {
            let node = what.strip_prefix("PATCH ").unwrap().rsplit('/').next().unwrap();
            let request = &body["metadata"]["annotations"][REQUEST];
            (node.to_owned(), request.as_str().map_or(Value::Null, |text| from_str(text).unwrap()))
        });
        let new = new.collect();
        *seen = all.len();
        new
    }

    #[tokio::test]
    async fn agents_are_asked_once_and_requests_go_with_the_report() {
        let (kube, mut seen) = (Kube::default(), 0);
        answers(&kube);
        let (context, cr, config) = world(&kube);
        let going = going();
        let decide = || context.decide(&cr, &config, "new", None, &going);
        let ask = async || {
            let again = context.ask_for_probes(&config, "new", &decide(), &going).await.unwrap();
            again.map(|again| again.as_secs())
        };
        assert_eq!(decide().probing, [("n1".to_owned(), "uid-n1".to_owned())]);
        assert_eq!(ask().await, None);
        let probe = json!({"id": "uid-n1.1", "role": {"probe": {"peers": ["n2"]}}});
        let answer = json!({"id": "uid-n1.1", "role": "answer"});
        assert_eq!(written(&kube, &mut seen), [("n1".to_owned(), probe), ("n2".to_owned(), answer)]);
        assert_eq!((ask().await.is_some(), written(&kube, &mut seen)), (true, Vec::new()));
        assert_eq!(decide().taken.len(), 1, "it is waited for");
        context.shared.with(|state| {
            let told = state.cluster.probes.get_mut("n1").unwrap();
            told.report = Some(Report::new("uid-n1.1", Stage::Done, ""));
        });
        assert!(decide().probing.is_empty());
        assert_eq!(decide().taken, ["n2".to_owned()].into(), "the next one's turn");
        ask().await;
        let gone = |node: &str| (node.to_owned(), Value::Null);
        assert_eq!(written(&kube, &mut seen), [gone("n1"), gone("n2")]);
    }

    /// A role that does not allow it must not look like a datapath that does not work.
    #[tokio::test]
    async fn what_may_not_be_asked_is_an_error() {
        let kube = Kube::default();
        let (context, cr, config) = world(&kube);
        let going = going();
        let decision = context.decide(&cr, &config, "new", None, &going);
        let asked = context.ask_for_probes(&config, "new", &decision, &going).await;
        assert!(asked.is_ok(), "the object is gone");
        kube.on(&path("n1"), Answer::Fail(403, "antreaagentinfos is forbidden"));
        let (context, ..) = world(&kube);
        let asked = context.ask_for_probes(&config, "new", &decision, &going).await;
        let error = asked.unwrap_err().to_string();
        assert_eq!(error, "ask the agent on n1 for probes: antreaagentinfos is forbidden");
    }
}
