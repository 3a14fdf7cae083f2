//! The controller and the agents.

use antrea_crds::{AntreaAgentInfo, AntreaControllerInfo, NetworkPolicyControllerInfo};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};
use serde::Serialize;

use crate::health::{Condition, Health};

/// A namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

/// Counts of policy objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCounts {
    /// Internal NetworkPolicies.
    pub network_policies: i32,
    pub address_groups: i32,
    pub applied_to_groups: i32,
}

/// What is shown of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerRow {
    /// Name of the AntreaControllerInfo.
    pub name: String,
    pub version: String,
    pub pod: Option<ObjectName>,
    pub node: String,
    /// The service that leads to it.
    pub service: Option<ObjectName>,
    /// Agents that watch it.
    pub connected_agents: i32,
    /// What it computed.
    pub policies: PolicyCounts,
    /// When it last said anything.
    pub heartbeat: Option<Timestamp>,
    /// Verdict.
    pub health: Health,
    /// Conditions in the object's order.
    pub conditions: Vec<Condition>,
}

/// What is shown of a Node's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRow {
    /// Name of the AntreaAgentInfo, which is the node's.
    pub name: String,
    pub version: String,
    /// Whether the controller's version is another one: normal only during an upgrade.
    pub version_differs: bool,
    pub pod: Option<ObjectName>,
    pub node: String,
    /// Pod subnets of the node.
    pub subnets: Vec<String>,
    pub bridge: String,
    /// Version of Open vSwitch.
    pub ovs_version: String,
    /// Pods that it has networked.
    pub local_pods: i32,
    /// What it holds of policy.
    pub policies: PolicyCounts,
    /// Flows by table, by the table's name.
    pub flow_tables: Vec<FlowTable>,
    /// Flows of all tables.
    pub flows: i64,
    /// Links and MTUs.
    pub network: Option<Network>,
    /// When it last said anything.
    pub heartbeat: Option<Timestamp>,
    /// Verdict.
    pub health: Health,
    /// Conditions in the object's order.
    pub conditions: Vec<Condition>,
}

/// How full a table of a bridge is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowTable {
    pub name: String,
    /// Number of its flows.
    pub flows: i32,
}

/// Links and MTUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Interface to the other nodes.
    pub interface: String,
    /// Its MTU in bytes.
    pub mtu: i32,
    /// MTU of pods in bytes.
    #[serde(rename = "podMTU")]
    pub pod_mtu: i32,
    /// Addresses of the interface with their prefixes.
    pub addresses: Vec<String>,
}

/// The row of the controller.
pub(crate) fn controller(info: &AntreaControllerInfo, now: Timestamp) -> ControllerRow {
    let spec = &info.spec;
    let conditions: Vec<Condition> = spec
        .controller_conditions
        .iter()
        .map(|one| condition(one.type_.name(), &one.status, &one.reason, &one.message))
        .collect();
    let heartbeat = latest(spec.controller_conditions.iter().map(|one| &one.last_heartbeat_time));
    ControllerRow {
        name: info.metadata.name.clone().unwrap_or_default(),
        version: spec.version.clone(),
        pod: object(spec.pod_ref.as_ref()),
        node: node(spec.node_ref.as_ref()),
        service: object(spec.service_ref.as_ref()),
        connected_agents: spec.connected_agent_num,
        policies: policies(spec.network_policy_controller_info.as_ref()),
        heartbeat,
        health: Health::judge("ControllerHealthy", &conditions, heartbeat, now),
        conditions,
    }
}

/// The row of an agent, beside a controller of the version `controller`.
pub(crate) fn agent(info: &AntreaAgentInfo, controller: Option<&str>, now: Timestamp) -> AgentRow {
    let spec = &info.spec;
    let conditions: Vec<Condition> = spec
        .agent_conditions
        .iter()
        .map(|one| condition(one.type_.name(), &one.status, &one.reason, &one.message))
        .collect();
    let heartbeat = latest(spec.agent_conditions.iter().map(|one| &one.last_heartbeat_time));
    let ovs = spec.ovs_info.clone().unwrap_or_default();
    let differs = controller.is_some_and(|version| !version.is_empty() && version != spec.version);
    AgentRow {
        name: info.metadata.name.clone().unwrap_or_default(),
        version: spec.version.clone(),
        version_differs: differs && !spec.version.is_empty(),
        pod: object(spec.pod_ref.as_ref()),
        node: node(spec.node_ref.as_ref()),
        subnets: spec.node_subnets.clone(),
        bridge: ovs.bridge_name,
        ovs_version: ovs.version,
        local_pods: spec.local_pod_num,
        policies: policies(spec.network_policy_controller_info.as_ref()),
        flows: ovs.flow_table.values().map(|flows| i64::from(*flows)).sum(),
        flow_tables: ovs.flow_table.into_iter().map(|(name, flows)| FlowTable { name, flows }).collect(),
        network: spec.network_info.as_ref().map(|info| Network {
            interface: info.transport_interface.clone(),
            mtu: info.transport_interface_mtu,
            pod_mtu: info.pod_mtu,
            addresses: info.transport_interface_ips.clone(),
        }),
        heartbeat,
        health: Health::judge("AgentHealthy", &conditions, heartbeat, now),
        conditions,
    }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
    let [type_, status, reason, message] = [type_, status, reason, message].map(str::to_owned);
    Condition { type_, status, reason, message }
}

/// The newest heartbeat: a component writes all of its conditions at once.
fn latest<'a>(times: impl Iterator<Item = &'a Option<Time>>) -> Option<Timestamp> {
    times.flatten().map(|time| time.0).max()
}

fn object(reference: Option<&ObjectReference>) -> Option<ObjectName> {
    let reference = reference?;
    let name = reference.name.clone().filter(|name| !name.is_empty())?;
    Some(ObjectName { namespace: reference.namespace.clone().unwrap_or_default(), name })
}

fn node(reference: Option<&ObjectReference>) -> String {
    reference.and_then(|reference| reference.name.clone()).unwrap_or_default()
}

fn policies(info: Option<&NetworkPolicyControllerInfo>) -> PolicyCounts {
    info.map_or_else(PolicyCounts::default, |info| PolicyCounts {
        network_policies: info.network_policy_num,
        address_groups: info.address_group_num,
        applied_to_groups: info.applied_to_group_num,
    })
}
