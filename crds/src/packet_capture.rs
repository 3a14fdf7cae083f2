//! `crd.antrea.io/v1alpha1` PacketCapture: the packets of one flow, as a file. Fields are upstream's.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Seconds after which a capture without `timeout` ends.
pub const DEFAULT_TIMEOUT: i64 = 60;

/// Type of the condition that says whether packets are taken down.
pub const STARTED: &str = "PacketCaptureStarted";

/// Type of the condition that says whether the capture is over, with its end as reason.
pub const COMPLETE: &str = "PacketCaptureComplete";

/// Type of the condition that says whether the file is at `spec.fileServer`; only of captures that have one.
pub const UPLOADED: &str = "PacketCaptureFileUploaded";

/// Secret in Antrea's namespace with `username` and `password` for file servers.
pub const FILE_SERVER_SECRET: &str = "antrea-packetcapture-fileserver-auth";

/// What is captured.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "crd.antrea.io",
    version = "v1alpha1",
    kind = "PacketCapture",
    plural = "packetcaptures",
    shortname = "pcap",
    status = "Status",
    derive = "PartialEq",
    derive = "Default",
    doc = "PacketCapture takes down the first packets of a flow at a Pod, and keeps them as a file.",
    label("app", "antrea"),
    printcolumn(
        name = "Source-Pod",
        type_ = "string",
        json_path = ".spec.source.pod.name",
        description = "The name of the source Pod.",
        priority = "10"
    ),
    printcolumn(
        name = "Destination-Pod",
        type_ = "string",
        json_path = ".spec.destination.pod.name",
        description = "The name of the destination Pod.",
        priority = "10"
    ),
    printcolumn(
        name = "Source-IP",
        type_ = "string",
        json_path = ".spec.source.ip",
        description = "The IP address of the source.",
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
        name = "Timeout",
        type_ = "integer",
        json_path = ".spec.timeout",
        description = "Timeout in seconds.",
        priority = "10"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Captured-Packets",
        type_ = "integer",
        json_path = ".status.numberCaptured",
        description = "Number of packets captured so far."
    ),
    printcolumn(
        name = "Started",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"PacketCaptureStarted\")].status",
        description = "Whether the capture has been started."
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"PacketCaptureComplete\")].status",
        description = "Whether the capture has completed."
    ),
    printcolumn(
        name = "End",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"PacketCaptureComplete\")].reason",
        description = "How the capture ended.",
        priority = "10"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.source) && has(self.source.pod)) || (has(self.destination) && has(self.destination.pod))")
        .message("spec: packets are captured at a Pod: name spec.source.pod or spec.destination.pod"),
    validation = Rule::new("!has(self.capturePoint) || self.capturePoint != 'Source' || (has(self.source) && has(self.source.pod))")
        .message("spec.capturePoint: Source needs a Pod there: name spec.source.pod"),
    validation = Rule::new("!has(self.capturePoint) || self.capturePoint != 'Destination' || (has(self.destination) && has(self.destination.pod))")
        .message("spec.capturePoint: Destination needs a Pod there: name spec.destination.pod"),
    validation = Rule::new("!has(self.fileServer) || self.fileServer.url.startsWith('sftp://')")
        .message("spec.fileServer.url: must begin with sftp://"),
    validation = Rule::new("!has(self.fileServer) || (has(self.fileServer.hostPublicKey) && self.fileServer.hostPublicKey != '')")
        .message("spec.fileServer.hostPublicKey: must be given, else the password would be shown to whoever answers; see ssh-keyscan")
)]
pub struct PacketCaptureSpec {
    /// Where the packets come from. One of source and destination may be left out: then it is anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<End>,
    /// Where they go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<End>,
    /// Which of the two ways. Default: SourceToDestination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// At which Pod packets are captured. Default: at the source's, where the source is no Pod at the destination's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_point: Option<CapturePoint>,
    /// Which packets; all of IPv4 by default, or of the family of an end that is an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<Packet>,
    /// How many packets.
    pub capture_config: CaptureConfig,
    /// Seconds after which the capture ends with what it has, 1 to 300. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout: Option<i64>,
    /// Server that the file is sent to by SFTP when the capture is over. Name and password are those of the Secret
    /// antrea-packetcapture-fileserver-auth in kube-system, keys "username" and "password".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_server: Option<FileServer>,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(has(self.pod) && has(self.ip))").message("source, destination: name a pod or an ip, not both"),
    validation = Rule::new("!has(self.ip) || isIP(self.ip)").message("ip: is no IP address")
)]
pub struct End {
    /// A Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodReference>,
    /// An address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub ip: Option<String>,
}

/// A Pod by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodReference {
    /// Namespace of the Pod. Default: default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the Pod.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Direction {
    /// From source to destination.
    SourceToDestination,
    /// The answers.
    DestinationToSource,
    /// Both.
    Both,
}

/// Where packets are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum CapturePoint {
    /// At the source's Pod.
    Source,
    /// At the destination's Pod.
    Destination,
}

/// Which packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.protocol) || string(self.protocol).matches('^(?i:tcp|udp|icmp|[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])$')")
        .message("spec.packet.protocol: is TCP, UDP, ICMP, or a number up to 255"),
    validation = Rule::new("!has(self.transportHeader) || [has(self.transportHeader.tcp), has(self.transportHeader.udp), has(self.transportHeader.icmp)].filter(given, given).size() <= 1")
        .message("spec.packet.transportHeader: a packet has one of tcp, udp and icmp"),
    validation = Rule::new("!has(self.protocol) || !has(self.transportHeader) || !has(self.transportHeader.tcp) || string(self.protocol).matches('^(?i:tcp|6)$')")
        .message("spec.packet.transportHeader.tcp: spec.packet.protocol is another"),
    validation = Rule::new("!has(self.protocol) || !has(self.transportHeader) || !has(self.transportHeader.udp) || string(self.protocol).matches('^(?i:udp|17)$')")
        .message("spec.packet.transportHeader.udp: spec.packet.protocol is another"),
    validation = Rule::new("!has(self.protocol) || !has(self.transportHeader) || !has(self.transportHeader.icmp) || string(self.protocol).matches('^(?i:icmp|1|58)$')")
        .message("spec.packet.transportHeader.icmp: spec.packet.protocol is another")
)]
pub struct Packet {
    /// IPv4 or IPv6. Default: that of an end that is an address, else IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family: Option<IpFamily>,
    /// TCP, UDP, ICMP (with IPv6: ICMPv6), or a protocol's number. Default: that of the transport header, else any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<IntOrString>,
    /// What the transport protocol's header has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_header: Option<TransportHeader>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// Header of a transport protocol. Ports are those of packets from source to destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TransportHeader {
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// ICMP, or ICMPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
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
    /// Flags: a packet has to be like one of these. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub flags: Vec<TcpFlags>,
}

/// Which flags a packet has to have: of those in mask exactly value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TcpFlags {
    /// Flags that are set: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128.
    #[schemars(range(min = 0, max = 255))]
    pub value: i64,
    /// Flags that are looked at. Default: value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub mask: Option<i64>,
}

/// ICMP header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Icmp {
    /// Messages: a packet has to be one of these. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub messages: Vec<IcmpMessage>,
}

/// A kind of ICMP message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IcmpMessage {
    /// icmp-echo, icmp-echoreply, icmp-unreach, icmp-timxceed, or a number up to 255. What is none of these is told by
    /// the status of the capture: a rule about so many strings of any length costs the API server too much.
    #[serde(rename = "type")]
    pub type_: IntOrString,
    /// Code. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub code: Option<i64>,
}

/// How much is captured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaptureConfig {
    /// The first packets that are like what is asked for.
    pub first_n: FirstN,
}

/// The first packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FirstN {
    /// How many. With as many the capture is complete.
    #[schemars(range(min = 1))]
    pub number: i32,
}

/// A server that takes files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileServer {
    /// Folder that it goes to: sftp://host:port/path.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// Its public key as SSH sends it, in base64: the last word of a line of ssh-keyscan. Must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub host_public_key: Option<String>,
}

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// How many packets are in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_captured: Option<i64>,
    /// The file, in pcapng's format: "name of the antrea-agent Pod:path in its container". It goes with the PacketCapture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_path: Option<String>,
    /// PacketCaptureStarted and PacketCaptureComplete; the latter's reason is Succeed, Timeout, Full or Failed. With
    /// fileServer also PacketCaptureFileUploaded, whose reason is Uploading, Succeed or Failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One aspect of a capture's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// Since when, as RFC 3339 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// Why, in a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Status {
    /// The condition of a type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether the condition of a type is True.
    pub fn is(&self, type_: &str) -> bool {
        self.condition(type_).is_some_and(|condition| condition.status == "True")
    }
}
