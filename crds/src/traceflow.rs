//! `crd.antrea.io/v1beta1` Traceflow: the way of one packet through the network. Fields are upstream's.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Seconds after which a trace without `timeout` has failed.
pub const DEFAULT_TIMEOUT: i64 = 20;

/// [`Status::reason`] of a trace that had its time.
pub const TIMED_OUT: &str = "traceflow timeout";

fn is_false(value: &bool) -> bool {
    !value
}

/// What is traced.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "crd.antrea.io",
    version = "v1beta1",
    kind = "Traceflow",
    plural = "traceflows",
    shortname = "tf",
    status = "Status",
    derive = "PartialEq",
    derive = "Default",
    doc = "Traceflow traces the way of one packet through the Pod network.",
    label("app", "antrea"),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "The phase of the Traceflow."
    ),
    printcolumn(
        name = "Source-Pod",
        type_ = "string",
        json_path = ".spec.source.pod",
        description = "The name of the source Pod.",
        priority = "10"
    ),
    printcolumn(
        name = "Destination-Pod",
        type_ = "string",
        json_path = ".spec.destination.pod",
        description = "The name of the destination Pod.",
        priority = "10"
    ),
    printcolumn(
        name = "Destination-IP",
        type_ = "string",
        json_path = ".spec.destination.ip",
        description = "The IP address of the destination.",
        priority = "10"
    ),
    printcolumn(
        name = "Live-Traffic",
        type_ = "boolean",
        json_path = ".spec.liveTraffic",
        description = "Trace live traffic.",
        priority = "10"
    ),
    printcolumn(
        name = "Dropped-Only",
        type_ = "boolean",
        json_path = ".spec.droppedOnly",
        description = "Capture only the dropped packet.",
        priority = "10"
    ),
    printcolumn(
        name = "Timeout",
        type_ = "integer",
        json_path = ".spec.timeout",
        description = "Timeout in seconds.",
        priority = "10"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.liveTraffic) && self.liveTraffic) || (has(self.source) && has(self.source.pod) && self.source.pod != '')")
        .message("spec.source.pod: a trace that does not watch live traffic sends its packet from a Pod: name it"),
    validation = Rule::new("(has(self.liveTraffic) && self.liveTraffic) || !(has(self.source) && has(self.source.ip) && self.source.ip != '')")
        .message("spec.source.ip: only a trace of live traffic has an address as its source"),
    validation = Rule::new("(has(self.liveTraffic) && self.liveTraffic) || (has(self.destination) && ((has(self.destination.pod) && self.destination.pod != '') || (has(self.destination.service) && self.destination.service != '') || (has(self.destination.ip) && self.destination.ip != '')))")
        .message("spec.destination: name a pod, a service or an ip, to which the packet is sent"),
    validation = Rule::new("(has(self.source) && has(self.source.pod) && self.source.pod != '') || (has(self.destination) && has(self.destination.pod) && self.destination.pod != '') || !(has(self.liveTraffic) && self.liveTraffic)")
        .message("spec: a trace of live traffic needs a Pod at one end: name spec.source.pod or spec.destination.pod"),
    validation = Rule::new("!(has(self.droppedOnly) && self.droppedOnly) || (has(self.liveTraffic) && self.liveTraffic)")
        .message("spec.droppedOnly: applies to live traffic only; set spec.liveTraffic too"),
    validation = Rule::new("!has(self.packet) || !(has(self.packet.ipHeader) && has(self.packet.ipv6Header))")
        .message("spec.packet: a packet has one of ipHeader and ipv6Header")
)]
pub struct TraceflowSpec {
    /// Where the packet comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// What it is; ICMP echo by default. With live traffic, which packet is meant: any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<Packet>,
    /// Trace the first packet of real traffic that is like this, instead of sending one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub live_traffic: bool,
    /// With live traffic: trace the first such packet that is dropped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dropped_only: bool,
    /// Seconds after which the trace has failed, 1 to 300. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout: Option<i64>,
}

/// Where a packet comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(has(self.pod) && self.pod != '' && has(self.ip) && self.ip != '')")
        .message("spec.source: name a pod or an ip, not both"),
    validation = Rule::new("!has(self.ip) || self.ip == '' || isIP(self.ip)").message("spec.source.ip: is no IP address")
)]
pub struct Source {
    /// Namespace of the Pod. Default: default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Address, for live traffic only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub ip: Option<String>,
}

/// Where a packet goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("[has(self.pod) && self.pod != '', has(self.service) && self.service != '', has(self.ip) && self.ip != ''].filter(set, set).size() <= 1")
        .message("spec.destination: name one of pod, service and ip"),
    validation = Rule::new("!has(self.ip) || self.ip == '' || isIP(self.ip)").message("spec.destination.ip: is no IP address")
)]
pub struct Destination {
    /// Namespace of the Pod or Service. Default: default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Name of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub service: Option<String>,
    /// Address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub ip: Option<String>,
}

/// A packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Packet {
    /// Source address; told of captured packets only.
    #[serde(rename = "srcIP", default, skip_serializing_if = "Option::is_none")]
    pub src_ip: Option<String>,
    /// Destination address; told of captured packets only.
    #[serde(rename = "dstIP", default, skip_serializing_if = "Option::is_none")]
    pub dst_ip: Option<String>,
    /// Length of the IP packet; told of captured packets only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub length: Option<i64>,
    /// IPv4 header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_header: Option<IpHeader>,
    /// IPv6 header; an empty one asks for an IPv6 packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_header: Option<Ipv6Header>,
    /// Header of the transport protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_header: Option<TransportHeader>,
}

/// IPv4 header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpHeader {
    /// Protocol: 1 (ICMP), 6 (TCP), 17 (UDP) or another. Default: that of the transport header, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub protocol: Option<i64>,
    /// Time to live. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub ttl: Option<i64>,
    /// The three flags; 2 is "don't fragment".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 7))]
    pub flags: Option<i64>,
}

/// IPv6 header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ipv6Header {
    /// Next header: 58 (ICMPv6), 6 (TCP), 17 (UDP) or another. Default: that of the transport header, else 58.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub next_header: Option<i64>,
    /// Hop limit. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub hop_limit: Option<i64>,
}

/// Header of a transport protocol. If several are given, the first of `tcp`, `udp` and `icmp` counts, unless the IP
/// header names a protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TransportHeader {
    /// ICMP, or ICMPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
}

/// Echo request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Icmp {
    /// Identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub id: Option<i64>,
    /// Sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub sequence: Option<i64>,
}

/// UDP header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Udp {
    /// Source port. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub src_port: Option<i64>,
    /// Destination port. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub dst_port: Option<i64>,
}

/// TCP header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tcp {
    /// Source port. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub src_port: Option<i64>,
    /// Destination port. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub dst_port: Option<i64>,
    /// Flags; 2 is SYN. Default: 2, with live traffic any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub flags: Option<i64>,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Pending while it waits for its turn, Running, Succeeded or Failed. Succeeded says that the packet's fate is
    /// known, whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it began, as RFC 3339 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// The value of DSCP by which Nodes know the packet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dataplane_tag: i64,
    /// What each Node saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<NodeResult>,
    /// With live traffic: the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_packet: Option<Packet>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Where a trace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    /// It waits for its turn.
    Pending,
    /// Nodes look out for the packet.
    Running,
    /// The packet's fate is known.
    Succeeded,
    /// It is not, and will not be.
    Failed,
}

/// What a Node saw of the packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeResult {
    /// The Node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// "sender" or "receiver".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timestamp: i64,
    /// What happened to it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observations: Vec<Observation>,
}

/// One thing that happened to the packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// SpoofGuard, LB, Routing, NetworkPolicy, Forwarding or Egress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    /// The table.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component_info: String,
    /// Delivered, Received, Forwarded, Dropped, Rejected or ForwardedOutOfOverlay.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// The Pod that it is delivered to, "namespace/name".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Destination MAC address.
    #[serde(rename = "dstMAC", default, skip_serializing_if = "String::is_empty")]
    pub dst_mac: String,
    /// The policy that decided, "type:namespace/name"; several where they isolate a Pod together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network_policy: String,
    /// Its rule, where rules have names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network_policy_rule: String,
    /// Time to live, or hop limit, that the packet left with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub ttl: Option<i64>,
    /// Source address after translation.
    #[serde(rename = "translatedSrcIP", default, skip_serializing_if = "String::is_empty")]
    pub translated_src_ip: String,
    /// Destination address after translation: a Service's endpoint.
    #[serde(rename = "translatedDstIP", default, skip_serializing_if = "String::is_empty")]
    pub translated_dst_ip: String,
    /// The Node to which a tunnel takes it.
    #[serde(rename = "tunnelDstIP", default, skip_serializing_if = "String::is_empty")]
    pub tunnel_dst_ip: String,
    /// Address by which an Egress sends it out.
    #[serde(rename = "egressIP", default, skip_serializing_if = "String::is_empty")]
    pub egress_ip: String,
    /// The Egress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub egress: String,
    /// The Node that sends it out for an Egress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub egress_node: String,
}
