//! Nodes and their agents: who is well, who could be asked, and whether both ends' MTUs fit.

use antrea_crds::{AgentConditionType, AgentInfo};

use super::facts::{Facts, Node, Pod};
use super::finding::{Finding, Mark};

/// Octets that any tunnel takes of a packet at least: GRE over IPv4.
pub(super) const OVERHEAD: i32 = 38;

/// A heartbeat that is older, in seconds, is one of an agent that is gone; agents beat every 60 s.
const STALE: i64 = 180;

/// What is to be said of a Node.
pub(super) fn health(name: &str, node: &Node) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(why) = &node.unready {
        let text = format!("Node {name} is not ready: {why}");
        found.push(Finding::new("node", Mark::Broken, text).advise(format!("kubectl describe node {name}")));
    }
    let silent = silent(node);
    if let Some(age) = silent {
        let text = match age {
            Some(age) => format!("the agent of {name} has been silent for {age} s"),
            None => format!("the agent of {name} has never said how it is"),
        };
        let advice = format!(
            "kubectl get pods -A -o wide -l component=antrea-agent --field-selector spec.nodeName={name}; see the log of that Pod"
        );
        found.push(Finding::new("agent", Mark::Broken, text).advise(advice));
    }
    if let Err(why) = &node.told {
        let text = format!("how the agent of {name} is, is not known: {why}");
        found.push(Finding::new("agent", Mark::Unknown, text));
    }
    if let Err(why) = &node.agent {
        let text = format!("the agent of {name} does not say: {why}; so what it enforces is not known");
        found.push(Finding::new("agent", Mark::Unknown, text));
    }
    if let Err(why) = &node.computed {
        let text = format!("what the controller has computed for {name} is not known: {why}");
        found.push(Finding::new("controller", Mark::Unknown, text));
    }
    let info = match (&node.agent, &node.told) {
        (Ok(agent), _) => Some(&agent.info),
        (Err(_), Ok((info, _))) if silent.is_none() => Some(info),
        _ => None,
    };
    if let Some(info) = info {
        found.extend(conditions(name, info));
        if found.is_empty() {
            found.push(Finding::new("agent", Mark::Ok, format!("the agent of {name} is healthy")));
        }
    }
    found
}

/// Seconds since an agent that is gone spoke last.
fn silent(node: &Node) -> Option<Option<i64>> {
    match &node.told {
        // Whoever answers is there.
        Ok((_, age)) if node.agent.is_err() && age.is_none_or(|age| age > STALE) => Some(*age),
        _ => None,
    }
}

fn conditions(name: &str, info: &AgentInfo) -> Vec<Finding> {
    let mut found = Vec::new();
    for condition in info.agent_conditions.iter().filter(|condition| condition.status != "True") {
        let why = format!("{} {}", condition.reason, condition.message);
        let why = why.trim();
        found.extend(match condition.type_ {
            AgentConditionType::AgentHealthy => Some(
                Finding::new("agent", Mark::Broken, format!("the agent of {name} is not healthy: {why}"))
                    .advise(format!("antctl get agentinfo {name} -o yaml; see the log of that agent")),
            ),
            AgentConditionType::ControllerConnectionUp => {
                let text = format!(
                    "the agent of {name} has no connection to the controller ({why}): it holds to what it was told before"
                );
                Some(Finding::new("agent", Mark::Note, text))
            }
            // AgentHealthy says so, with what follows from it.
            AgentConditionType::OvsdbConnectionUp | AgentConditionType::OpenflowConnectionUp => None,
        });
    }
    found
}

/// Whether the agent of its Node has attached the Pod, with its addresses.
pub(super) fn interface(check: &str, pod: &Pod, node: &Node) -> Option<Finding> {
    let agent = node.agent.as_ref().ok().filter(|_| !pod.host_network && !pod.ips.is_empty())?;
    let advice =
        format!("kubectl -n {} delete pod {}: its successor gets a new one", pod.namespace, pod.name);
    let found = agent.interfaces.iter().find(|i| i.namespace == pod.namespace && i.pod == pod.name);
    let Some(found) = found else {
        let text = format!("the agent of {} has no interface of {}", pod.node, pod.full());
        return Some(Finding::new(check, Mark::Broken, text).advise(advice));
    };
    if pod.ips.iter().any(|ip| !found.ips.contains(ip)) {
        let shown =
            |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let text = format!(
            "{} has the address {} by its status, and {} by the agent of {}",
            pod.full(),
            shown(&pod.ips),
            shown(&found.ips),
            pod.node
        );
        return Some(Finding::new(check, Mark::Broken, text).advise(advice));
    }
    None
}

/// Whether what fits the source's interface fits the tunnel to the destination's Node.
pub(super) fn mtu(facts: &Facts, to: &str) -> Option<Finding> {
    let info = |node: &str| {
        let node = facts.nodes.get(node)?;
        let told = node.told.as_ref().ok().map(|(info, _)| info);
        node.agent.as_ref().ok().map(|agent| &agent.info).or(told)?.network_info.clone()
    };
    let (from, to_info) = (info(&facts.source.node)?, info(to)?);
    let (node, narrow) = [(&facts.source.node[..], &from), (to, &to_info)]
        .into_iter()
        .filter(|(_, info)| info.transport_interface_mtu > 0)
        .min_by_key(|(_, info)| info.transport_interface_mtu)?;
    if from.pod_mtu > 0 && from.pod_mtu + OVERHEAD > narrow.transport_interface_mtu {
        let text = format!(
            "Pods of {} send packets of {} octets, which with the tunnel's headers do not fit the MTU {} of {} on {node}: \
             small packets arrive, large ones are lost",
            facts.source.node, from.pod_mtu, narrow.transport_interface_mtu, narrow.transport_interface
        );
        let advice = "set spec.mtu of the AntreaInstallation to what fits the narrowest link, or raise that link's MTU";
        return Some(Finding::new("mtu", Mark::Broken, text).advise(advice));
    }
    if from.pod_mtu != to_info.pod_mtu && from.pod_mtu > 0 && to_info.pod_mtu > 0 {
        let text = format!(
            "Pods of {} have the MTU {}, those of {to} {}: large datagrams of the former may be lost",
            facts.source.node, from.pod_mtu, to_info.pod_mtu
        );
        return Some(Finding::new("mtu", Mark::Note, text));
    }
    None
}
