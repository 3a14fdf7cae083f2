//! A packet that was really sent: what the network between Nodes does with it shows in nothing else.

use antrea_crds::traceflow::{Observation, Status};
use antrea_policy::model::Protocol;

use super::facts::{Facts, Target};
use super::finding::{Finding, Mark};
use crate::cli::{Format, Trace};

/// What is to be sent.
///
/// # Errors
/// A Traceflow cannot send such a packet.
pub(super) fn asked(facts: &Facts) -> Result<Trace, String> {
    let way = facts.ways.first();
    let address = way.and_then(|way| way.address);
    let v6 = address.is_some_and(|address| address.is_ipv6());
    let destination = match (&facts.target, way.and_then(|way| way.pod.as_ref())) {
        (Target::Service(service), _) => service.full(),
        (_, Some(pod)) if !pod.host_network => pod.full(),
        _ => address.map(|address| address.to_string()).ok_or("there is no address to send it to")?,
    };
    let family = if v6 { "ipv6," } else { "" };
    let port = facts.packet.port;
    let flow = match facts.packet.protocol {
        Protocol::Tcp => format!("{family}tcp,tcp_dst={port},tcp_flags=2"),
        Protocol::Udp => format!("{family}udp,udp_dst={port}"),
        Protocol::Icmp if v6 => "icmp6".to_owned(),
        Protocol::Icmp => "icmp".to_owned(),
        other => return Err(format!("a Traceflow sends no {}", other.as_str())),
    };
    if facts.source.host_network {
        return Err("a Traceflow begins at a Pod's port, which the source does not have".to_owned());
    }
    Ok(Trace {
        source: facts.source.full(),
        destination,
        flow,
        live_traffic: false,
        dropped_only: false,
        nowait: false,
        output: Format::Raw,
    })
}

/// What became of it. `denied` is whether policies deny it.
pub(super) fn told(facts: &Facts, status: &Status, denied: bool) -> Finding {
    let finding = |mark, text: String| Finding::new("packet sent", mark, text);
    let seen = || {
        status.results.iter().flat_map(|result| result.observations.iter().map(|seen| (&result.node, seen)))
    };
    let end = seen().find(|(_, seen)| {
        matches!(seen.action.as_str(), "Delivered" | "Dropped" | "Rejected" | "ForwardedOutOfOverlay")
    });
    match end {
        Some((node, seen)) if seen.action == "Delivered" => {
            let mark = if denied { Mark::Broken } else { Mark::Ok };
            let although = if denied { ", although policy denies it" } else { "" };
            finding(mark, format!("it came to {} on {node}{although}", seen.pod))
        }
        Some((node, seen)) if seen.action == "ForwardedOutOfOverlay" => {
            finding(Mark::Ok, format!("it left the network of Pods on {node}"))
        }
        Some((node, seen)) => {
            let by = place(seen);
            let mark = if denied { Mark::Ok } else { Mark::Broken };
            let although = if denied { "" } else { ", although policy allows it" };
            finding(mark, format!("it was dropped on {node} {by}{although}"))
        }
        None => match seen().find(|(_, seen)| !seen.tunnel_dst_ip.is_empty()) {
            Some((node, seen)) => {
                let text = format!(
                    "it left {node} through the tunnel to {}, and did not come out there: the network between the Nodes, or \
                     a firewall of one of them, loses it",
                    seen.tunnel_dst_ip
                );
                finding(Mark::Broken, text).advise(
                    "let the tunnel's packets pass between the addresses of Nodes: UDP 6081 for Geneve, UDP 4789 for VXLAN, \
                     protocol 47 for GRE; and see whether the Node answers at all",
                )
            }
            None => {
                let why = if status.reason.is_empty() { "nobody says" } else { &status.reason };
                finding(
                    Mark::Unknown,
                    format!("what became of a packet from {} is not known: {why}", facts.source.full()),
                )
            }
        },
    }
}

fn place(seen: &Observation) -> String {
    if seen.network_policy.is_empty() {
        format!("in {}", seen.component_info)
    } else {
        format!("in {} by {}", seen.component_info, seen.network_policy)
    }
}
