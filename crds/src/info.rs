//! `crd.antrea.io/v1beta1`: what agents and the controller tell about themselves.
//!
//! Upstream keeps every field at the top level: no `spec`, no `status`, no status subresource. On the
//! Rust side the fields sit in `spec` and are flattened on the wire.

#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

fn bytes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "byte"})
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// Fields of an [`AntreaAgentInfo`]. The object is named like its Node; the controller creates and
/// deletes it, the agent of that Node updates it at least every 60 s.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.antrea.io",
    version = "v1beta1",
    kind = "AntreaAgentInfo",
    plural = "antreaagentinfos",
    shortname = "aai",
    no_spec,
    derive = "PartialEq",
    derive = "Default",
    doc = "AntreaAgentInfo is the state of the Antrea agent on the Node of the same name.",
    label("app", "antrea"),
    printcolumn(
        name = "Healthy",
        type_ = "string",
        json_path = ".agentConditions[?(@.type=='AgentHealthy')].status",
        description = "Health status of this agent"
    ),
    printcolumn(
        name = "Last Heartbeat",
        type_ = "date",
        json_path = ".agentConditions[?(@.type=='AgentHealthy')].lastHeartbeatTime",
        description = "Last time the health status of this agent was updated"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".version",
        description = "Version of this agent",
        priority = "1"
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".nodeRef.name",
        description = "Node on which this agent runs",
        priority = "1"
    ),
    printcolumn(
        name = "Num Pods",
        type_ = "integer",
        json_path = ".localPodNum",
        description = "Number of Pods that this agent has networked",
        priority = "1"
    ),
    printcolumn(
        name = "Subnets",
        type_ = "string",
        json_path = ".nodeSubnets",
        description = "Pod subnets of this Node",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Pod in which the agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ref: Option<ObjectReference>,
    /// Node on which the agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ref: Option<ObjectReference>,
    /// Pod subnets of the Node, in CIDR form.
    #[serde(rename = "nodeSubnets", default, skip_serializing_if = "Vec::is_empty")]
    pub node_subnets: Vec<String>,
    /// State of Open vSwitch on the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovs_info: Option<OvsInfo>,
    /// How much of the cluster's policy this agent holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy_controller_info: Option<NetworkPolicyControllerInfo>,
    /// Number of Pods that the agent has networked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub local_pod_num: i32,
    /// Conditions of the agent; a reader judges liveness by the age of `lastHeartbeatTime`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agent_conditions: Vec<AgentCondition>,
    /// TCP port of the agent's API on the Node, 10350 by default.
    #[serde(rename = "apiPort", default, skip_serializing_if = "is_zero")]
    pub api_port: i32,
    /// PEM certificates that verify the agent's API.
    #[serde(rename = "apiCABundle", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bytes")]
    pub api_ca_bundle: Option<ByteString>,
    /// Host ports used by NodePortLocal, "start-end".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_port_local_port_range: String,
    /// Links and MTUs that carry Pod traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_info: Option<NetworkInfo>,
}

/// Open vSwitch as an agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OvsInfo {
    /// Version of ovs-vswitchd.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Name of the bridge.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bridge_name: String,
    /// Number of flows by table name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flow_table: BTreeMap<String, i32>,
}

/// Counts of policy objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyControllerInfo {
    /// Number of internal NetworkPolicies.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub network_policy_num: i32,
    /// Number of AddressGroups.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub address_group_num: i32,
    /// Number of AppliedToGroups.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub applied_to_group_num: i32,
}

/// One condition of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentCondition {
    /// Which aspect this is.
    #[serde(rename = "type")]
    pub type_: AgentConditionType,
    /// "True", "False" or "Unknown".
    pub status: String,
    /// When the agent last said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,
    /// Cause in CamelCase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Cause for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What an [`AgentCondition`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum AgentConditionType {
    /// The agent does all of its work.
    AgentHealthy,
    /// All watches on the controller are connected.
    ControllerConnectionUp,
    /// The OVSDB session is up.
    #[serde(rename = "OVSDBConnectionUp")]
    OvsdbConnectionUp,
    /// The OpenFlow session is up.
    OpenflowConnectionUp,
}

impl AgentConditionType {
    /// As in the object.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentHealthy => "AgentHealthy",
            Self::ControllerConnectionUp => "ControllerConnectionUp",
            Self::OvsdbConnectionUp => "OVSDBConnectionUp",
            Self::OpenflowConnectionUp => "OpenflowConnectionUp",
        }
    }
}

/// Links and MTUs that carry Pod traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInfo {
    /// Interface that carries traffic between Nodes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transport_interface: String,
    /// MTU of that interface in bytes.
    #[serde(rename = "transportInterfaceMTU", default, skip_serializing_if = "is_zero")]
    pub transport_interface_mtu: i32,
    /// MTU of Pod interfaces in bytes.
    #[serde(rename = "podMTU", default, skip_serializing_if = "is_zero")]
    pub pod_mtu: i32,
    /// Addresses of that interface in CIDR form, at most one per IP family.
    #[serde(rename = "transportInterfaceIPs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub transport_interface_ips: Vec<String>,
}

/// Fields of the [`AntreaControllerInfo`] named [`crate::CONTROLLER_INFO_NAME`].
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.antrea.io",
    version = "v1beta1",
    kind = "AntreaControllerInfo",
    plural = "antreacontrollerinfos",
    shortname = "aci",
    no_spec,
    derive = "PartialEq",
    derive = "Default",
    doc = "AntreaControllerInfo is the state of the Antrea controller.",
    label("app", "antrea"),
    printcolumn(
        name = "Healthy",
        type_ = "string",
        json_path = ".controllerConditions[?(@.type=='ControllerHealthy')].status",
        description = "Health status of the controller"
    ),
    printcolumn(
        name = "Last Heartbeat",
        type_ = "date",
        json_path = ".controllerConditions[?(@.type=='ControllerHealthy')].lastHeartbeatTime",
        description = "Last time the health status of the controller was updated"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".version",
        description = "Version of the controller",
        priority = "1"
    ),
    printcolumn(
        name = "Connected Agents",
        type_ = "integer",
        json_path = ".connectedAgentNum",
        description = "Number of agents that watch the controller",
        priority = "1"
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".nodeRef.name",
        description = "Node on which the controller runs",
        priority = "1"
    ),
    printcolumn(
        name = "Num Network Policies",
        type_ = "integer",
        json_path = ".networkPolicyControllerInfo.networkPolicyNum",
        description = "Number of computed NetworkPolicies",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ControllerInfo {
    /// Version of the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Pod in which the controller runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ref: Option<ObjectReference>,
    /// Node on which the controller runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ref: Option<ObjectReference>,
    /// Service that leads to the controller's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ObjectReference>,
    /// How much policy is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy_controller_info: Option<NetworkPolicyControllerInfo>,
    /// Number of agents that watch the controller.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub connected_agent_num: i32,
    /// Conditions of the controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controller_conditions: Vec<ControllerCondition>,
    /// TCP port of the controller's API, 10349 by default.
    #[serde(rename = "apiPort", default, skip_serializing_if = "is_zero")]
    pub api_port: i32,
}

/// One condition of the controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerCondition {
    /// Which aspect this is.
    #[serde(rename = "type")]
    pub type_: ControllerConditionType,
    /// "True", "False" or "Unknown".
    pub status: String,
    /// When the controller last said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,
    /// Cause in CamelCase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Cause for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a [`ControllerCondition`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ControllerConditionType {
    /// The controller does all of its work.
    ControllerHealthy,
    /// Every NetworkPolicy is in force whole. The message names those that are not; who wrote one finds an Event of it.
    NetworkPoliciesValid,
}

impl ControllerConditionType {
    /// As in the object.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControllerHealthy => "ControllerHealthy",
            Self::NetworkPoliciesValid => "NetworkPoliciesValid",
        }
    }
}
