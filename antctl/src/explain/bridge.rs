//! What the bridges do with the packet, beside what policy says and where it should go.

use std::net::IpAddr;

use antrea_flows::{Stage, Table};
use antrea_policy::evaluate::Decision;

use super::facts::{Agent, Asked, Facts, Pod, Way};
use super::finding::{Finding, Mark};
use super::trace::{Hop, Trace};

/// What policy decides at both ends, as far as it is known.
#[derive(Default)]
pub(super) struct Decided {
    pub(super) egress: Option<Decision>,
    pub(super) ingress: Option<Decision>,
}

/// What to do where flows are not what the agent wants.
const DRIFT: &str = "flows are not as they should be, and an agent repairs within a second what others change: see its log, and \
                     antctl get ovsflows --node";

/// The trace of a bridge, read, with who was asked.
fn traced<'a>(
    facts: &'a Facts,
    node: &str,
    check: &str,
    asked: &Asked<String>,
) -> Result<(Trace, &'a Agent), Finding> {
    let unknown = |why: &str| {
        let text = format!("what the bridge of {node} does with it is not known: {why}");
        Finding::new(check, Mark::Unknown, text)
    };
    let text = asked.as_ref().map_err(|why| unknown(why))?;
    let trace = Trace::read(text).map_err(|said| unknown(&format!("Open vSwitch says {said:?}")))?;
    let agent = facts.nodes.get(node).and_then(|node| node.agent.as_ref().ok());
    Ok((trace, agent.ok_or_else(|| unknown("its agent does not say"))?))
}

/// Addresses by which the Node of whoever it is for may be known in a tunnel.
fn peers(facts: &Facts, way: &Way) -> Vec<IpAddr> {
    let Some(node) = way.pod.as_ref().and_then(|pod| facts.nodes.get(&pod.node)) else { return Vec::new() };
    let info = node.agent.as_ref().ok().map(|agent| &agent.info);
    let info = info.or_else(|| node.told.as_ref().ok().map(|(info, _)| info));
    let transport = info.and_then(|info| info.network_info.as_ref());
    let transport = transport.into_iter().flat_map(|info| &info.transport_interface_ips);
    let transport = transport.filter_map(|cidr| cidr.split('/').next()?.parse().ok());
    node.addresses.iter().copied().chain(transport).collect()
}

/// Where the packet goes from the source's bridge, if that is known.
pub(super) fn hop(facts: &Facts, way: &Way) -> Option<(Hop, bool)> {
    let asked = way.sent.as_ref()?;
    let (trace, agent) = traced(facts, &facts.source.node, "", asked).ok()?;
    Some((trace.hop(agent, &peers(facts, way)), trace.is_flow_based()))
}

/// What the source's bridge does.
pub(super) fn sent(facts: &Facts, way: &Way, check: &str, decided: &Decided) -> Option<Finding> {
    let node = &facts.source.node;
    let (trace, agent) = match traced(facts, node, check, way.sent.as_ref()?) {
        Ok(traced) => traced,
        Err(unknown) => return Some(unknown),
    };
    let hop = trace.hop(agent, &peers(facts, way));
    let local = way.pod.as_ref().filter(|pod| &pod.node == node && !pod.host_network);
    if let Some(finding) = by_policy(check, node, &hop, Stage::EgressSecurity, decided.egress.as_ref()) {
        return Some(finding);
    }
    if local.is_some()
        && let Some(finding) = by_policy(check, node, &hop, Stage::IngressSecurity, decided.ingress.as_ref())
    {
        return Some(finding);
    }
    Some(arrives(facts, way, check, &hop, local))
}

/// What the bridge of the destination's Node does with what comes from another.
pub(super) fn received(facts: &Facts, way: &Way, check: &str, decided: &Decided) -> Option<Finding> {
    let pod = way.pod.as_ref()?;
    let (trace, agent) = match traced(facts, &pod.node, check, way.received.as_ref()?) {
        Ok(traced) => traced,
        Err(unknown) => return Some(unknown),
    };
    let hop = trace.hop(agent, &[]);
    let denied = by_policy(check, &pod.node, &hop, Stage::IngressSecurity, decided.ingress.as_ref());
    Some(denied.unwrap_or_else(|| match &hop {
        Hop::Pod(namespace, name) if (namespace, name) == (&pod.namespace, &pod.name) => {
            Finding::new(check, Mark::Ok, format!("the bridge of {} gives it to {}", pod.node, pod.full()))
        }
        Hop::Dropped(table) => dropped(check, &pod.node, *table, way),
        other => astray(check, &pod.node, other, way),
    }))
}

/// What follows from policy and bridge being of one mind, or not. None if policy has no part in it.
fn by_policy(
    check: &str,
    node: &str,
    hop: &Hop,
    stage: Stage,
    decision: Option<&Decision>,
) -> Option<Finding> {
    let denied = decision.map(|decision| !decision.is_allowed());
    let direction = if stage == Stage::EgressSecurity { "egress" } else { "ingress" };
    let table = match hop {
        Hop::Dropped(Some(table)) => format!(" in table {}", table.name()),
        _ => String::new(),
    };
    match (hop.is_denied(stage), denied) {
        (true, Some(true)) => {
            let text = format!("the bridge of {node} drops it{table}, as policy says");
            Some(Finding::new(check, Mark::Ok, text))
        }
        (true, Some(false)) => {
            let text = format!("the bridge of {node} drops it{table}, although {direction} policy allows it");
            Some(Finding::new(check, Mark::Broken, text).differs(DRIFT))
        }
        (true, None) => {
            let text = format!("the bridge of {node} drops it{table}: {direction} policy denies it");
            Some(Finding::new(check, Mark::Denied, text))
        }
        // An earlier step has ended it.
        (false, Some(true)) if !matches!(hop, Hop::Dropped(_)) => {
            let text = format!("the bridge of {node} lets it through, although {direction} policy denies it");
            Some(Finding::new(check, Mark::Broken, text).differs(DRIFT))
        }
        (false, _) => None,
    }
}

/// Whether it goes where it should.
fn arrives(facts: &Facts, way: &Way, check: &str, hop: &Hop, local: Option<&Pod>) -> Finding {
    let node = &facts.source.node;
    let ok = |text: String| Finding::new(check, Mark::Ok, text);
    match (hop, &way.pod) {
        (Hop::Dropped(table), _) => dropped(check, node, *table, way),
        (Hop::Pod(namespace, name), Some(pod)) if (namespace, name) == (&pod.namespace, &pod.name) => {
            ok(format!("the bridge of {node} gives it to {}", pod.full()))
        }
        (_, Some(_)) if local.is_some() => astray(check, node, hop, way),
        (Hop::Tunnel(peer), Some(pod)) if !pod.host_network => {
            if peers(facts, way).contains(peer) {
                return ok(format!(
                    "the bridge of {node} sends it through the tunnel to {} ({peer})",
                    pod.node
                ));
            }
            let text =
                format!("the bridge of {node} sends it to {peer}, which is not an address of {}", pod.node);
            Finding::new(check, Mark::Broken, text).differs(DRIFT)
        }
        (Hop::Host, Some(pod)) if !pod.host_network => ok(format!(
            "the bridge of {node} hands it to the Node's network stack, which routes it to {}",
            pod.node
        )),
        (Hop::Host, _) => ok(format!(
            "the bridge of {node} hands it to the Node's network stack: from there on routes and masquerading of the Node decide"
        )),
        (Hop::Tunnel(peer), None) => {
            let text = format!(
                "{} is in the range of Pods of the Node with the address {peer}, and no Pod has it",
                way.shown()
            );
            Finding::new(check, Mark::Broken, text).advise("look up the address again: its Pod is gone")
        }
        (Hop::Elsewhere, None) => {
            let text = format!("{} is in the range of Pods of another Node, and no Pod has it", way.shown());
            Finding::new(check, Mark::Broken, text).advise("look up the address again: its Pod is gone")
        }
        _ => astray(check, node, hop, way),
    }
}

fn astray(check: &str, node: &str, hop: &Hop, way: &Way) -> Finding {
    let to = match hop {
        Hop::Pod(namespace, name) => format!("to {namespace}/{name}"),
        Hop::Tunnel(peer) => format!("through the tunnel to {peer}"),
        Hop::Elsewhere => "through the tunnel to a Node that is not known here".to_owned(),
        Hop::Host => "to the Node's network stack".to_owned(),
        Hop::Dropped(_) => "nowhere".to_owned(),
    };
    let text = format!("the bridge of {node} sends what is for {} {to}", way.shown());
    Finding::new(check, Mark::Broken, text).differs(DRIFT)
}

/// What it means that a packet ends in a table that is not of policy.
fn dropped(check: &str, node: &str, table: Option<Table>, way: &Way) -> Finding {
    let whom = way.shown();
    let why = match table {
        None => "in a table that is not known here".to_owned(),
        Some(table) => {
            let what = match table {
                Table::Classifier => "it knows nobody at the port that it comes from",
                Table::SpoofGuard => "it takes the source address or the MAC address for forged",
                Table::L3Forwarding if way.pod.is_none() => {
                    "no Pod of this Node has the address, and it is of no other Node"
                }
                Table::L3Forwarding => "it has no route to the address",
                Table::L2ForwardingCalc => "it knows no port with the MAC address",
                _ if table.stage() == Stage::EgressSecurity || table.stage() == Stage::IngressSecurity => {
                    "its flows of policy end it"
                }
                _ => "no flow takes it further",
            };
            format!("in table {}: {what}", table.name())
        }
    };
    let text = format!("the bridge of {node} drops what is for {whom} {why}");
    let finding = Finding::new(check, Mark::Broken, text);
    match table {
        Some(Table::L3Forwarding) if way.pod.is_none() => {
            finding.advise("look up the address again: its Pod is gone")
        }
        Some(Table::L3Forwarding) => finding.differs(format!(
            "{DRIFT}; and whether {node} knows the other Node: kubectl get nodes -o custom-columns=NAME:.metadata.name,CIDR:.spec.podCIDRs"
        )),
        _ => finding.differs(DRIFT),
    }
}
