//! Which feature gates a spec may name. The list with their stages is `antrea_api::features`, on which this crate
//! cannot depend; a test of the operator holds the two against each other.

/// Every gate.
pub const KNOWN_GATES: &[&str] = &[
    "AdminNetworkPolicy",
    "AntreaIPAM",
    "AntreaNodeConfig",
    "AntreaPolicy",
    "AntreaProxy",
    "BGPPolicy",
    "CleanupStaleUDPSvcConntrack",
    "ClusterNetworkPolicy",
    "Egress",
    "EgressSeparateSubnet",
    "EgressTrafficShaping",
    "EndpointSlice",
    "ExternalNode",
    "FlowExporter",
    "IPsecCertAuth",
    "L7NetworkPolicy",
    "LoadBalancerModeDSR",
    "Multicast",
    "Multicluster",
    "NFTablesHostNetworkMode",
    "NetworkPolicyStats",
    "NodeIPAM",
    "NodeLatencyMonitor",
    "NodeNetworkPolicy",
    "NodePortLocal",
    "PacketCapture",
    "PreferSameTrafficDistribution",
    "SecondaryNetwork",
    "ServiceExternalIP",
    "ServiceTrafficDistribution",
    "SupportBundleCollection",
    "TopologyAwareHints",
    "Traceflow",
    "TrafficControl",
];

/// Gates that can be switched on.
pub const IMPLEMENTED_GATES: &[&str] = &[
    "AntreaPolicy",
    "AntreaProxy",
    "ClusterNetworkPolicy",
    "NetworkPolicyStats",
    "PacketCapture",
    "Traceflow",
];

/// Rule for a map of gates: each has a name that exists.
pub(super) fn known() -> String {
    format!("self.all(name, name in {})", list(KNOWN_GATES))
}

/// Rule for a map of gates: what is on can be on. A name that does not exist is the other rule's.
pub(super) fn implemented() -> String {
    format!(
        "self.all(name, !self[name] || name in {} || !(name in {}))",
        list(IMPLEMENTED_GATES),
        list(KNOWN_GATES)
    )
}

fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}
