//! The network's own settings.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How Pod traffic travels between Nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TrafficEncapMode {
    /// Always in a tunnel.
    Encap,
    /// Never in a tunnel.
    NoEncap,
    /// In a tunnel between Nodes of different subnets.
    Hybrid,
}

/// Protocol of the tunnel between Nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TunnelType {
    /// RFC 8926.
    Geneve,
    /// RFC 7348.
    #[serde(rename = "VXLAN")]
    Vxlan,
    /// RFC 2784, with key.
    #[serde(rename = "GRE")]
    Gre,
    /// draft-davie-stt.
    #[serde(rename = "STT")]
    Stt,
}

/// Where Pod addresses come from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCidrs {
    /// Who gives each Node its range. "NodeSpec" (default): the cluster writes it into the Node's
    /// spec.podCIDRs, as kube-controller-manager does with --allocate-node-cidrs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodCidrSource")]
    pub source: Option<PodCidrSource>,

    /// Ranges that hold the ranges of all Nodes, in CIDR form. If set, a Node whose range lies outside
    /// makes the installation Degraded, and traffic to these ranges is never masqueraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("spec.podCIDRs.cluster: each entry must be a CIDR such as 10.244.0.0/16"))]
    pub cluster: Vec<String>,
}

/// Who gives each Node its Pod range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum PodCidrSource {
    /// The Node's spec.podCIDRs.
    NodeSpec,
}

/// Who serves Services.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.mode) && self.mode == 'All') || !(has(self.nodePortAddresses) || has(self.healthAddress))")
    .message("spec.proxy: nodePortAddresses and healthAddress need mode All"))]
pub struct Proxy {
    /// "Services" (default): Open vSwitch gives what Pods send to cluster, load balancer and external IPs an endpoint;
    /// kube-proxy has to run for Nodes, node ports and whatever has no endpoint. "All": Open vSwitch, for everybody; there
    /// is no kube-proxy. "KubeProxy": kube-proxy, for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProxyMode")]
    pub mode: Option<ProxyMode>,

    /// Ranges in CIDR form of the Nodes' addresses that have node ports, with mode "All". Default: all but loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("spec.proxy.nodePortAddresses: each entry must be a CIDR such as 192.0.2.0/24"))]
    pub node_port_addresses: Vec<String>,

    /// Where each Node tells load balancers, with mode "All", whether its proxy works (/healthz, /livez), as IP address and
    /// port. Default: "0.0.0.0:10256". Empty: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub health_address: Option<String>,
}

/// What Open vSwitch serves of Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ProxyMode {
    /// Nothing.
    KubeProxy,
    /// What Pods send to Services.
    #[default]
    Services,
    /// Everything.
    All,
}

/// Open vSwitch on each Node.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.bridge) ? self.bridge : 'br-int') != (has(self.gateway) ? self.gateway : 'antrea-gw0')")
    .message("spec.ovs.gateway: must differ from spec.ovs.bridge"))]
pub struct Ovs {
    /// Which datapath forwards packets. "Auto" (default): the kernel's where its module is there, else
    /// userspace. "System": the kernel's, and the agent fails without it. "Userspace": never the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Datapath")]
    pub datapath: Option<Datapath>,

    /// Name of the bridge, at most 15 characters; "br-int" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$"), length(max = 15))]
    #[x_kube(validation = Rule::new("self != 'antrea-tun0'").message("spec.ovs.bridge: antrea-tun0 is the tunnel's name"))]
    pub bridge: Option<String>,

    /// Name of each Node's interface on the Pod network, at most 15 characters; "antrea-gw0" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$"), length(max = 15))]
    #[x_kube(validation = Rule::new("self != 'antrea-tun0'").message("spec.ovs.gateway: antrea-tun0 is the tunnel's name"))]
    pub gateway: Option<String>,

    /// Resources of the antrea-ovs container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<super::Resources>,
}

/// Which datapath forwards packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Datapath {
    /// The kernel's where its module is there, else userspace.
    Auto,
    /// The kernel module.
    System,
    /// ovs-vswitchd itself.
    Userspace,
}
