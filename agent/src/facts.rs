//! What the agent says of itself in its AntreaAgentInfo.
//!
//! `AgentHealthy` is not "the process beats": it is derived from what the node's network needs, and its
//! message says what to do. A reader still has to judge the heartbeat's age, for a dead agent says
//! nothing at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use antrea_crds::probes::Report;
use antrea_crds::{
    AgentCondition, AgentConditionType, AgentInfo, Capabilities, NetworkInfo, NetworkPolicyControllerInfo,
    OvsInfo,
};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

/// Reason of a repair of the host's network: it is told for a while, and nothing is wrong any more.
pub const REPAIRED: &str = "HostNetworkRepaired";

/// Whether something works, and if not why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Good,
    /// It does not.
    Bad {
        /// CamelCase.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

impl Health {
    /// A failure.
    pub fn bad(reason: &'static str, message: impl std::fmt::Display) -> Self {
        Self::Bad { reason, message: message.to_string() }
    }

    /// Why it does not work.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::Bad { reason, .. } => Some(reason),
        }
    }

    /// Whether it works.
    pub fn is_good(&self) -> bool {
        *self == Self::Good
    }
}

/// Everything that conditions and counts are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Of bringing up bridge, ports and host network.
    pub network: Health,
    /// Of the OVSDB session.
    pub ovsdb: Health,
    /// Of the OpenFlow session.
    pub openflow: Health,
    /// Of the datapath's self-test.
    pub datapath: Health,
    /// Of the comparison of the datapath's flows with the bridge's.
    pub datapath_flows: Health,
    /// Of the last comparison of installed flows with intended ones.
    pub flows: Health,
    /// Of peers' flows.
    pub peers: Health,
    /// Of Services' flows.
    pub services: Health,
    /// Of the host's links, routes, rules and settings.
    pub host: Health,
    /// Of egress policies that the host cannot hold.
    pub egress: Health,
    /// Of the policy watches on the controller.
    pub controller: Health,
    /// Of the policies and groups that the controller sent.
    pub objects: Health,
    /// Of writing to the API server.
    pub api: Health,
    /// Open vSwitch's version.
    pub ovs_version: String,
    /// What kernel and Open vSwitch can do, once known.
    pub capabilities: Option<Capabilities>,
    /// Flows by table name.
    pub flow_table: BTreeMap<String, i32>,
    /// Pods attached.
    pub local_pods: i32,
    /// Policies, address groups and appliedTo groups held.
    pub policies: [i32; 3],
    /// Links and MTUs, once known.
    pub network_info: Option<NetworkFacts>,
    /// What came of datapath probes, once some were asked for.
    pub probes: Option<Report>,
    /// PEM that verifies the agent's API: of the certificate that is served, and of the next one when it is near.
    pub api_ca: String,
}

/// Links and MTUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFacts {
    /// This node's pod subnets.
    pub subnets: Vec<String>,
    /// Interface between nodes.
    pub transport_interface: String,
    pub transport_mtu: u32,
    pub pod_mtu: u32,
    /// Its addresses.
    pub transport_ips: Vec<String>,
}

impl Default for Facts {
    fn default() -> Self {
        let starting = || Health::bad("Starting", "not connected yet");
        Self {
            network: Health::bad("Starting", "the node's network is being set up"),
            ovsdb: starting(),
            openflow: starting(),
            datapath: Health::Good,
            datapath_flows: Health::Good,
            flows: Health::Good,
            peers: Health::Good,
            services: Health::Good,
            host: Health::Good,
            egress: Health::Good,
            controller: starting(),
            objects: Health::Good,
            api: Health::Good,
            ovs_version: String::new(),
            capabilities: None,
            flow_table: BTreeMap::new(),
            local_pods: 0,
            policies: [0; 3],
            network_info: None,
            probes: None,
            api_ca: String::new(),
        }
    }
}

/// Who the agent is; fixed.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Node name.
    pub node: String,
    /// Pod name.
    pub pod: String,
    /// Pod namespace.
    pub namespace: String,
    /// Bridge name.
    pub bridge: String,
    pub api_port: u16,
}

/// Facts that many tasks write and one publishes.
#[derive(Clone, Debug)]
pub struct Reporter(Arc<watch::Sender<Facts>>);

impl Default for Reporter {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Facts::default())))
    }
}

impl Reporter {
    /// Changes the facts; readers wake only if they really differ.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        self.0.send_if_modified(|facts| {
            let before = facts.clone();
            change(facts);
            *facts != before
        });
    }

    /// The facts as they change.
    pub fn subscribe(&self) -> watch::Receiver<Facts> {
        self.0.subscribe()
    }
}

/// The AgentHealthy condition: the first thing that is wrong, in the order in which one depends on another.
pub fn overall(facts: &Facts) -> &Health {
    // A bring-up that waits for OVSDB says less than OVSDB's own error.
    let Facts {
        ovsdb,
        network,
        openflow,
        datapath,
        datapath_flows,
        flows,
        peers,
        services,
        host,
        egress,
        objects,
        api,
        ..
    } = facts;
    let chain = [
        ovsdb,
        network,
        openflow,
        datapath,
        datapath_flows,
        flows,
        peers,
        services,
        host,
        egress,
        objects,
        api,
    ];
    chain.into_iter().find(|health| !health.is_good()).unwrap_or(&Health::Good)
}

/// The conditions for these facts.
pub fn conditions(facts: &Facts, now: Timestamp) -> Vec<AgentCondition> {
    let condition = |type_, health: &Health| {
        let (status, reason, message) = match health {
            Health::Good => ("True", String::new(), String::new()),
            Health::Bad { reason, message } => ("False", (*reason).to_owned(), message.clone()),
        };
        AgentCondition { type_, status: status.into(), last_heartbeat_time: Some(Time(now)), reason, message }
    };
    vec![
        condition(AgentConditionType::AgentHealthy, overall(facts)),
        condition(AgentConditionType::ControllerConnectionUp, &facts.controller),
        condition(AgentConditionType::OvsdbConnectionUp, &facts.ovsdb),
        condition(AgentConditionType::OpenflowConnectionUp, &facts.openflow),
    ]
}

/// The object's fields for these facts.
pub fn compose(identity: &Identity, facts: &Facts, now: Timestamp) -> AgentInfo {
    let reference = |kind: &str, name: &str, namespace: Option<&str>| ObjectReference {
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ObjectReference::default()
    };
    let [network_policy_num, address_group_num, applied_to_group_num] = facts.policies;
    AgentInfo {
        version: crate::VERSION.to_owned(),
        pod_ref: Some(reference("Pod", &identity.pod, Some(&identity.namespace))),
        node_ref: Some(reference("Node", &identity.node, None)),
        node_subnets: facts.network_info.iter().flat_map(|info| info.subnets.clone()).collect(),
        ovs_info: Some(OvsInfo {
            version: facts.ovs_version.clone(),
            bridge_name: identity.bridge.clone(),
            flow_table: facts.flow_table.clone(),
        }),
        network_policy_controller_info: Some(NetworkPolicyControllerInfo {
            network_policy_num,
            address_group_num,
            applied_to_group_num,
        }),
        local_pod_num: facts.local_pods,
        agent_conditions: conditions(facts, now),
        api_port: identity.api_port.into(),
        api_ca_bundle: Some(k8s_openapi::ByteString(facts.api_ca.clone().into_bytes())),
        node_port_local_port_range: String::new(),
        network_info: facts.network_info.as_ref().map(|info| NetworkInfo {
            transport_interface: info.transport_interface.clone(),
            transport_interface_mtu: i32::try_from(info.transport_mtu).unwrap_or(i32::MAX),
            pod_mtu: i32::try_from(info.pod_mtu).unwrap_or(i32::MAX),
            transport_interface_ips: info.transport_ips.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            node: "node1".into(),
            pod: "antrea-agent-x".into(),
            namespace: "kube-system".into(),
            bridge: "br-int".into(),
            api_port: 10_350,
        }
    }

    fn healthy() -> Facts {
        Facts {
            network: Health::Good,
            ovsdb: Health::Good,
            openflow: Health::Good,
            controller: Health::Good,
            ..Facts::default()
        }
    }

    fn condition(info: &AgentInfo, type_: AgentConditionType) -> &AgentCondition {
        info.agent_conditions.iter().find(|c| c.type_ == type_).unwrap()
    }

    #[test]
    fn healthy_means_that_everything_works() {
        let info = compose(&identity(), &healthy(), Timestamp::UNIX_EPOCH);
        for condition in &info.agent_conditions {
            assert_eq!(condition.status, "True", "{:?}", condition.type_);
        }
        let mut facts = healthy();
        facts.openflow = Health::bad("Disconnected", "br-int.mgmt: connection refused");
        let info = compose(&identity(), &facts, Timestamp::UNIX_EPOCH);
        let agent = condition(&info, AgentConditionType::AgentHealthy);
        assert_eq!((agent.status.as_str(), agent.reason.as_str()), ("False", "Disconnected"));
        assert!(agent.message.contains("refused"));
        assert_eq!(condition(&info, AgentConditionType::OvsdbConnectionUp).status, "True");
    }

    #[test]
    fn a_lost_controller_is_shown_but_the_node_works() {
        let mut facts = healthy();
        facts.controller = Health::bad("Disconnected", "no endpoint");
        let info = compose(&identity(), &facts, Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&info, AgentConditionType::AgentHealthy).status, "True");
        assert_eq!(condition(&info, AgentConditionType::ControllerConnectionUp).status, "False");
    }
}
