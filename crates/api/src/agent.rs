//! The agent's own API, as far as its clients have to know of it.

/// Audience of tokens that are good for the agent of `node` and for nobody else: an agent that is shown one can use it
/// neither with the API server nor with another agent.
pub fn audience(node: &str) -> String {
    format!("antrea-agent/{node}")
}

/// What passes the bridge of a node, as `/traffic` tells it: counters since Open vSwitch has the ports and flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// The node's pods.
    pub pods: Vec<PodTraffic>,
    /// What tables of the bridge drop.
    pub drops: Vec<TableDrops>,
}

/// Counters of a pod's port, as the pod sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTraffic {
    pub namespace: String,
    pub name: String,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// Packets that its link dropped, either way.
    pub dropped_packets: u64,
}

/// Counters of a table's flows that drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TableDrops {
    /// Name of the table.
    pub table: String,
    pub packets: u64,
    pub bytes: u64,
}
