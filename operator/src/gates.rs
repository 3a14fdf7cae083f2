//! Feature gates: the names that exist and which of them this version can switch on.

/// A feature of Antrea.
#[derive(Debug, PartialEq, Eq)]
pub struct Gate {
    /// Upstream's name.
    pub name: &'static str,
    /// What this version can do with it.
    pub support: Support,
}

/// What this version can do with a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It may be on or off.
    Switchable,
    /// Always on.
    Locked,
    /// Not implemented: may only be off.
    Missing,
}

use Support::{Locked, Missing, Switchable};

macro_rules! gates {
    ($($name:literal $support:ident),* $(,)?) => {
        /// Every gate that upstream Antrea 2.8 has.
        pub static GATES: &[Gate] = &[$(Gate { name: $name, support: $support }),*];
    };
}

gates! {
    "AdminNetworkPolicy" Missing,
    "AntreaIPAM" Missing,
    "AntreaNodeConfig" Missing,
    "AntreaPolicy" Switchable,
    "AntreaProxy" Switchable,
    "BGPPolicy" Missing,
    "CleanupStaleUDPSvcConntrack" Missing,
    "ClusterNetworkPolicy" Missing,
    "Egress" Missing,
    "EgressSeparateSubnet" Missing,
    "EgressTrafficShaping" Missing,
    "EndpointSlice" Locked,
    "ExternalNode" Missing,
    "FlowExporter" Missing,
    "IPsecCertAuth" Missing,
    "L7NetworkPolicy" Missing,
    "LoadBalancerModeDSR" Missing,
    "Multicast" Missing,
    "Multicluster" Missing,
    "NFTablesHostNetworkMode" Missing,
    "NetworkPolicyStats" Switchable,
    "NodeIPAM" Missing,
    "NodeLatencyMonitor" Missing,
    "NodeNetworkPolicy" Missing,
    "NodePortLocal" Missing,
    "PacketCapture" Missing,
    "PreferSameTrafficDistribution" Missing,
    "SecondaryNetwork" Missing,
    "ServiceExternalIP" Missing,
    "ServiceTrafficDistribution" Missing,
    "SupportBundleCollection" Missing,
    "TopologyAwareHints" Missing,
    "Traceflow" Missing,
    "TrafficControl" Missing,
}

/// Why `name` may not be set to `on`, if it may not.
pub fn refuse(name: &str, on: bool) -> Option<String> {
    let Some(gate) = GATES.iter().find(|gate| gate.name == name) else {
        return Some(match GATES.iter().find(|gate| gate.name.eq_ignore_ascii_case(name)) {
            Some(gate) => format!("there is no such feature gate; did you mean {}?", gate.name),
            None => "there is no such feature gate".to_owned(),
        });
    };
    match (gate.support, on) {
        (Support::Missing, true) => {
            Some("this version does not implement the feature; it can only be off".into())
        }
        (Support::Locked, false) => Some("the feature is always on".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_unknown_missing_or_locked() {
        assert_eq!(refuse("AntreaPolicy", true), None);
        assert_eq!(refuse("AntreaPolicy", false), None);
        assert_eq!(refuse("Egress", false), None);
        assert!(refuse("Egress", true).unwrap().contains("does not implement"));
        assert!(refuse("EndpointSlice", false).unwrap().contains("always on"));
        assert!(refuse("antreapolicy", true).unwrap().contains("AntreaPolicy?"));
        assert!(refuse("Nonsense", true).unwrap().contains("no such"));
    }

    #[test]
    fn gates_are_sorted_and_unique() {
        assert!(GATES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
