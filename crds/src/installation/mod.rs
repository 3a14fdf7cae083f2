//! `operator.antrea.io/v1alpha1 AntreaInstallation`.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

mod audit;
mod gates;
mod images;
mod monitoring;
mod network;
mod rollout;
mod status;
mod tls;
mod tracing;
mod ui;
mod workloads;

pub use audit::AuditLogging;
pub use gates::{IMPLEMENTED_GATES, KNOWN_GATES};
pub use images::{ImageOverride, Images, PullPolicy, PullSecret};
pub use monitoring::Monitoring;
pub use network::{Datapath, Ovs, PodCidrSource, PodCidrs, Proxy, ProxyMode, TrafficEncapMode, TunnelType};
pub use rollout::{Amount, Canary, Day, RolloutPolicy, Window};
pub use status::{
    AntreaInstallationStatus, ConditionType, FailingNode, FieldChange, HeldChange, InstallationCondition,
    NodeCounts, PROPOSAL, PendingChange, PlannedWave, Proposal, ProposalRequest, RolloutFailure,
    RolloutStatus, Turn,
};
pub use tls::{CipherSuite, TlsSettings, TlsVersion};
pub use tracing::Tracing;
pub use ui::{HeadlampPlugin, Ui};
pub use workloads::{
    LogFormat, LogLevel, ManagementState, Quantities, Resources, Toleration, TolerationEffect,
    TolerationOperator, Workload,
};

/// Keeps an installation from vanishing before what it installed is removed.
pub const FINALIZER: &str = "operator.antrea.io/uninstall";

/// Present for as long as Nodes are to be cleaned when the installation goes.
pub const CLEAN_FINALIZER: &str = "operator.antrea.io/clean-nodes";

/// Name of the AntreaInstallation's own definition.
pub const DEFINITION: &str = "antreainstallations.operator.antrea.io";

/// Whether an installation goes only because its definition does, and nobody asked for the network to be removed.
/// `asked` and `definition` are when the deletion of each was asked for. The API server deletes the objects of a
/// definition after it; whoever wants the network removed deletes the object first.
pub fn goes_with_its_definition(asked: Timestamp, definition: Option<Timestamp>) -> bool {
    definition.is_some_and(|definition| asked >= definition)
}

/// What a user asks of the operator. Every field is optional, and an empty spec installs Antrea with
/// defaults that suit most clusters; the values in effect are shown in `status.computed`, never written here.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "operator.antrea.io",
    version = "v1alpha1",
    kind = "AntreaInstallation",
    plural = "antreainstallations",
    status = "AntreaInstallationStatus",
    derive = "PartialEq",
    category = "antrea",
    doc = "AntreaInstallation is the Antrea network of this cluster. There is one, named \"default\".",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name: there is one AntreaInstallation per cluster and its name is \"default\""),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version that runs on every Node"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.targetVersion", description = "Version that is asked for"),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Progressing", type_ = "string", json_path = ".status.conditions[?(@.type=='Progressing')].status"),
    printcolumn(name = "Degraded", type_ = "string", json_path = ".status.conditions[?(@.type=='Degraded')].status"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes.summary", description = "Nodes whose agent is ready, of all that shall run one"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Encap", type_ = "string", json_path = ".status.computed.trafficEncapMode", priority = "1"),
    printcolumn(name = "Tunnel", type_ = "string", json_path = ".status.computed.tunnelType", priority = "1"),
    printcolumn(name = "MTU", type_ = "integer", json_path = ".status.computed.mtu", priority = "1"),
    printcolumn(name = "Operator", type_ = "string", json_path = ".status.operatorVersion", priority = "1")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.trafficEncapMode) && self.trafficEncapMode == 'NoEncap' && has(self.tunnelType))")
    .message("spec.tunnelType: there is no tunnel with trafficEncapMode NoEncap; remove it or use Encap or Hybrid"))]
#[x_kube(validation = Rule::new("!(has(self.trafficEncapMode) && self.trafficEncapMode == 'NoEncap' && has(self.tunnelPort))")
    .message("spec.tunnelPort: there is no tunnel with trafficEncapMode NoEncap; remove it or use Encap or Hybrid"))]
#[x_kube(validation = Rule::new("!(has(self.tunnelType) && self.tunnelType == 'GRE' && has(self.tunnelPort))")
    .message("spec.tunnelPort: GRE has no port"))]
#[x_kube(validation = Rule::new("!(has(self.ovs) && has(self.ovs.datapath) && self.ovs.datapath == 'Userspace' && has(self.tunnelType) && self.tunnelType != 'VXLAN')")
    .message("spec.tunnelType: ovs.datapath Userspace has a kernel VXLAN device as its tunnel; choose VXLAN or leave it out"))]
#[x_kube(validation = Rule::new("!(has(self.transportInterface) && has(self.transportInterfaceCIDRs) && self.transportInterfaceCIDRs.size() > 0)")
    .message("spec.transportInterfaceCIDRs: may not be set together with spec.transportInterface"))]
pub struct AntreaInstallationSpec {
    /// Version of Antrea to run, which is the tag of its images, such as "v0.1.0". Default: the version
    /// of the operator. The controller is changed first, then the agents Node by Node; going back to an
    /// older version does it the other way round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"))]
    pub version: Option<String>,

    /// Whether the operator acts. "Managed" (default): it applies what this spec says and puts back what
    /// others change. "Paused": it touches nothing and shows in status what it would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ManagementState")]
    pub management_state: Option<ManagementState>,

    /// How changes that restart Pods reach the Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutPolicy>,

    /// Where container images come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,

    /// How Pod traffic travels between Nodes. "Encap" (default): always in a tunnel. "NoEncap": never, the
    /// underlay routes Pod addresses. "Hybrid": in a tunnel only between Nodes of different subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TrafficEncapMode")]
    pub traffic_encap_mode: Option<TrafficEncapMode>,

    /// Protocol of the tunnel between Nodes: "Geneve", "VXLAN", "GRE" or "STT". Default: Geneve on the System
    /// datapath, VXLAN on the Userspace datapath, whose only one it is; with Nodes of both kinds set VXLAN.
    /// May be set only if trafficEncapMode uses a tunnel. STT needs an Open vSwitch built with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TunnelType")]
    pub tunnel_type: Option<TunnelType>,

    /// Destination port of the tunnel. Default: the protocol's own (Geneve 6081, VXLAN 4789, STT 7471).
    /// GRE has no port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub tunnel_port: Option<u16>,

    /// Name of the interface that carries traffic between Nodes, at most 15 characters, the same on every Node.
    /// Default: the one with the Node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[^/:\s]{1,15}$"), length(max = 15))]
    pub transport_interface: Option<String>,

    /// Ranges in CIDR form, of which one holds an address of the interface that carries traffic between Nodes: for
    /// Nodes whose interfaces have different names. The first range that fits decides. Not together with
    /// transportInterface.
    #[serde(rename = "transportInterfaceCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("spec.transportInterfaceCIDRs: each entry must be a CIDR such as 192.0.2.0/24"))]
    pub transport_interface_cidrs: Vec<String>,

    /// MTU of Pod interfaces in bytes, 576 to 9216. 0 or absent (default): each agent takes the MTU of its
    /// Node's transport interface less the overhead of the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9216))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 576").message("spec.mtu: must be 0 (automatic) or from 576 to 9216"))]
    pub mtu: Option<i32>,

    /// Ranges from which the cluster takes the addresses of Services, in CIDR form; the first of each IP family is
    /// the primary one. None may contain a Node's address or meet a Pod range. Default: what the API server's
    /// ServiceCIDR objects say, that called "kubernetes" first; a change of them restarts the agents one by one.
    #[serde(rename = "serviceCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("spec.serviceCIDRs: each entry must be a CIDR such as 10.96.0.0/12"))]
    pub service_cidrs: Vec<String>,

    /// Where Pod addresses come from.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidrs: Option<PodCidrs>,

    /// Open vSwitch on each Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovs: Option<Ovs>,

    /// URL of the Kubernetes API server for agents and controller, such as "https://10.0.0.1:6443", for
    /// clusters in which the address of the Service "kubernetes" does not work before the network does.
    /// Default: the address that the operator itself was told to use.
    #[serde(rename = "kubeAPIServerOverride", default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/ ]+$"), length(max = 255))]
    pub kube_api_server_override: Option<String>,

    /// How much the components log: "Error", "Warn", "Info" (default), "Debug" or "Trace". A change takes effect
    /// within about a minute and restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogLevel")]
    pub log_level: Option<LogLevel>,

    /// How log lines look: "Text" (default) or "JSON".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogFormat")]
    pub log_format: Option<LogFormat>,

    /// Features to switch on or off, by name, such as "AntreaPolicy: true". Defaults depend on the version. What
    /// this version does not implement can only be off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(
        validation = Rule::new(gates::known()).message("spec.featureGates: there is no such feature gate"),
        validation = Rule::new(gates::implemented())
            .message("spec.featureGates: this version does not implement the feature; it can only be off"),
    )]
    pub feature_gates: BTreeMap<String, bool>,

    /// Who serves Services: kube-proxy or Open vSwitch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,

    /// The agent's Pods: one on every Node, which tolerate every taint unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Workload>,

    /// The controller's Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Workload>,

    /// Metrics of agents and controller, and the objects by which Prometheus and Grafana find them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,

    /// TLS on the ports of agents and controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSettings>,

    /// Limits of the audit log of policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_logging: Option<AuditLogging>,

    /// Seconds for which an address that DNS told Pods of a domain name in a policy counts as its, however short its time to
    /// live is, 0 to 604800; for applications that keep addresses longer than they may. Default: 0.
    #[serde(default, rename = "fqdnCacheMinTTL", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub fqdn_cache_min_ttl: Option<u32>,

    /// Export of traces; absent (default): none are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,

    /// Plugins for user interfaces of others; absent (default): none are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ui: Option<Ui>,
}
