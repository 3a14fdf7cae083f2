//! Feature gates that upstream's controller knows, and what they are here.

use serde::Serialize;

/// One gate as `/featuregates` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// Always `controller`.
    pub component: &'static str,
    /// Name.
    pub name: &'static str,
    /// `Enabled` or `Disabled`.
    pub status: &'static str,
    /// Upstream's maturity: `ALPHA`, `BETA` or empty for GA.
    pub version: &'static str,
}

const fn off(name: &'static str, version: &'static str) -> Gate {
    Gate { component: "controller", name, status: "Disabled", version }
}

/// Every gate. A feature that is not built reports as disabled, whatever the configuration asks for.
pub const GATES: [Gate; 17] = [
    off("AdminNetworkPolicy", "ALPHA"),
    off("AntreaIPAM", "ALPHA"),
    off("AntreaNodeConfig", "BETA"),
    off("AntreaPolicy", "BETA"),
    off("ClusterNetworkPolicy", "ALPHA"),
    off("Egress", "BETA"),
    off("ExternalNode", "ALPHA"),
    off("IPsecCertAuth", "ALPHA"),
    off("L7NetworkPolicy", "ALPHA"),
    off("Multicast", "BETA"),
    off("Multicluster", "ALPHA"),
    off("NetworkPolicyStats", "BETA"),
    off("NodeIPAM", "BETA"),
    off("PacketCapture", "ALPHA"),
    off("ServiceExternalIP", "BETA"),
    off("SupportBundleCollection", "ALPHA"),
    off("Traceflow", "BETA"),
];

/// Whether the feature is on, or `None` for a name that is no gate of the controller.
pub fn effective(name: &str) -> Option<bool> {
    GATES.iter().find(|gate| gate.name == name).map(|gate| gate.status == "Enabled")
}
