//! Traceflows, `crd.antrea.io/v1beta1`: their list, and the path of one as a graph.
//!
//! The kind is read leniently, by the fields that are shown: whoever serves it may be of another version.

use std::fmt::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::graph::quoted;

/// Results and observations that are drawn at most.
const LIMIT: usize = 200;

/// A Traceflow as the API server has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Traceflow {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    creation_timestamp: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    source: End,
    destination: End,
    packet: Packet,
    live_traffic: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct End {
    namespace: String,
    pod: String,
    service: String,
    ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Packet {
    ip_header: Option<IpHeader>,
    ipv6_header: Option<Ipv6Header>,
    transport_header: TransportHeader,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct IpHeader {
    protocol: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipv6Header {
    next_header: Option<i32>,
}

/// Only which of them is there matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TransportHeader {
    tcp: Option<serde::de::IgnoredAny>,
    udp: Option<serde::de::IgnoredAny>,
    icmp: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    reason: String,
    results: Vec<NodeResult>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeResult {
    node: String,
    role: String,
    observations: Vec<Observation>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Observation {
    component: String,
    component_info: String,
    action: String,
    pod: String,
    network_policy: String,
    #[serde(rename = "translatedSrcIP")]
    translated_src_ip: String,
    #[serde(rename = "translatedDstIP")]
    translated_dst_ip: String,
    #[serde(rename = "tunnelDstIP")]
    tunnel_dst_ip: String,
    #[serde(rename = "egressIP")]
    egress_ip: String,
}

impl Traceflow {
    pub fn name(&self) -> &str {
        &self.metadata.name
    }
}

/// A Traceflow in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceRow {
    pub name: String,
    pub source_namespace: String,
    /// Source: a pod, or an address with live traffic.
    pub source: String,
    pub destination_namespace: String,
    /// "Pod", "Service", "IP", or nothing with live traffic to anywhere.
    pub destination_type: String,
    pub destination: String,
    /// "TCP", "UDP", "ICMP", "ICMPv6", a number, or nothing.
    pub protocol: String,
    pub phase: String,
    /// Why it failed.
    pub reason: String,
    /// Whether it watches traffic rather than sends a packet.
    pub live: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// The list, newest first.
pub fn rows(traces: &[Traceflow]) -> Vec<TraceRow> {
    let mut rows: Vec<TraceRow> = traces.iter().map(row).collect();
    rows.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
    rows
}

fn row(trace: &Traceflow) -> TraceRow {
    let Spec { source, destination, packet, live_traffic } = &trace.spec;
    let (type_, to) = match destination {
        End { pod, .. } if !pod.is_empty() => ("Pod", pod),
        End { service, .. } if !service.is_empty() => ("Service", service),
        End { ip, .. } if !ip.is_empty() => ("IP", ip),
        none => ("", &none.ip),
    };
    TraceRow {
        name: trace.metadata.name.clone(),
        source_namespace: source.namespace.clone(),
        source: if source.pod.is_empty() { source.ip.clone() } else { source.pod.clone() },
        destination_namespace: destination.namespace.clone(),
        destination_type: type_.to_owned(),
        destination: to.clone(),
        protocol: protocol(packet),
        phase: trace.status.phase.clone(),
        reason: trace.status.reason.clone(),
        live: *live_traffic,
        created: trace.metadata.creation_timestamp,
    }
}

fn protocol(packet: &Packet) -> String {
    let headers = &packet.transport_header;
    let v4 = packet.ip_header.as_ref().and_then(|header| header.protocol);
    let number = v4.or_else(|| packet.ipv6_header.as_ref().and_then(|header| header.next_header));
    let name = match number {
        Some(1) => "ICMP",
        Some(6) => "TCP",
        Some(17) => "UDP",
        Some(58) => "ICMPv6",
        Some(other) => return other.to_string(),
        None if headers.tcp.is_some() => "TCP",
        None if headers.udp.is_some() => "UDP",
        None if headers.icmp.is_some() => "ICMP",
        None => "",
    };
    name.to_owned()
}

/// The path of a Traceflow in the language of Graphviz: a box for each observation, those of a node in a frame, red where
/// the packet ended.
pub fn dot(trace: &Traceflow) -> String {
    let row = row(trace);
    let title = match (row.phase.as_str(), row.reason.as_str()) {
        ("Succeeded", _) => row.name.clone(),
        ("Failed", "") => format!("{} failed", row.name),
        ("Failed", reason) => format!("{} failed: {reason}", row.name),
        _ => format!("{} has not ended", row.name),
    };
    let mut dot = format!(
        "digraph trace {{\n\trankdir=LR;\n\tcompound=true;\n\tlabelloc=t;\n\tlabel={};\n\tnode [shape=box];\n",
        quoted(&[title])
    );
    let mut left = LIMIT;
    // Of the packet's way the sender's node is first, in whatever order the nodes answered.
    let mut results: Vec<&NodeResult> = trace.status.results.iter().collect();
    results.sort_by_key(|result| !is_sender(result));
    let mut last: Option<String> = None;
    for (number, result) in results.into_iter().enumerate() {
        if left == 0 {
            break;
        }
        let cluster = if is_sender(result) { "source" } else { "destination" };
        let label = quoted(&[&*result.node]);
        let _ = writeln!(dot, "\tsubgraph cluster_{cluster}_{number} {{\n\t\tlabel={label};");
        let mut edges = Vec::new();
        for (step, observation) in result.observations.iter().take(left).enumerate() {
            let id = format!("o{number}_{step}");
            let colour = if is_dropped(observation) { "red" } else { "black" };
            let _ = writeln!(dot, "\t\t{id} [color={colour}, label={}];", quoted(&texts(observation)));
            if let Some(last) = last.replace(id.clone()) {
                edges.push(format!("\t{last} -> {id};\n"));
            }
        }
        left -= result.observations.len().min(left);
        dot.push_str("\t}\n");
        dot.extend(edges);
    }
    dot.push_str("}\n");
    dot
}

/// Whether the packet was sent on this node.
fn is_sender(result: &NodeResult) -> bool {
    let first = result.observations.first();
    let forwarded = |one: &Observation| one.component == "SpoofGuard" && one.action == "Forwarded";
    result.role == "sender" || result.role.is_empty() && first.is_some_and(forwarded)
}

fn is_dropped(observation: &Observation) -> bool {
    matches!(observation.action.as_str(), "Dropped" | "Rejected")
}

fn texts(observation: &Observation) -> Vec<String> {
    let mut texts = Vec::new();
    let mut add = |head: &str, text: &str| {
        if !text.is_empty() {
            texts.push(format!("{head}{text}"));
        }
    };
    add("", &observation.component);
    add("", &observation.component_info);
    add("", &observation.action);
    add("Netpol: ", &observation.network_policy);
    add("To: ", &observation.pod);
    if !is_dropped(observation) {
        add("Translated source: ", &observation.translated_src_ip);
        add("Translated destination: ", &observation.translated_dst_ip);
        add("Tunnel to: ", &observation.tunnel_dst_ip);
        add("Egress: ", &observation.egress_ip);
    }
    texts
}
