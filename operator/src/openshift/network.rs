//! Status of `Network.config.openshift.io/cluster`. An installation of OpenShift hangs until somebody has filled it.

use serde::Deserialize;
use serde_json::{Value, json};

/// The part of its spec that a network has to follow.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// Pod ranges, each with the size of a Node's share.
    pub cluster_network: Vec<Value>,
    /// Service ranges.
    pub service_network: Vec<String>,
    /// Name of the network that the administrator chose.
    pub network_type: String,
}

/// Names of our network, whichever way they are written.
const TYPE: &str = "antrea";

/// What the status shall say; none if the cluster was told to have another network, whose operator says it.
///
/// `mtu` is the MTU of Pods as far as it is known: 0 is no MTU, and what was said before stands until it is known.
pub fn status(spec: &NetworkSpec, before: &Value, mtu: Option<i32>) -> Option<Value> {
    if !spec.network_type.eq_ignore_ascii_case(TYPE) {
        return None;
    }
    let mut status = json!({
        "clusterNetwork": spec.cluster_network,
        "serviceNetwork": spec.service_network,
        "networkType": spec.network_type,
    });
    let mtu = mtu.filter(|mtu| *mtu > 0).map(Value::from);
    if let Some(mtu) = mtu.or_else(|| before.get("clusterNetworkMTU").filter(|mtu| **mtu != 0).cloned()) {
        status["clusterNetworkMTU"] = mtu;
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(network_type: &str) -> NetworkSpec {
        let value = json!({
            "clusterNetwork": [{"cidr": "10.128.0.0/14", "hostPrefix": 23}],
            "serviceNetwork": ["172.30.0.0/16"],
            "networkType": network_type,
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn it_is_what_was_asked_for() {
        let early = status(&spec("antrea"), &Value::Null, None).unwrap();
        let expected = json!({
            "clusterNetwork": [{"cidr": "10.128.0.0/14", "hostPrefix": 23}],
            "serviceNetwork": ["172.30.0.0/16"],
            "networkType": "antrea",
        });
        assert_eq!(early, expected, "before any agent has found its MTU");
        assert_eq!(status(&spec("Antrea"), &Value::Null, Some(1400)).unwrap()["clusterNetworkMTU"], 1400);
    }

    /// An operator that has just started knows no MTU yet; others already rely on it.
    #[test]
    fn an_mtu_is_not_taken_back_and_is_never_zero() {
        let before = json!({"clusterNetworkMTU": 1400});
        for unknown in [None, Some(0)] {
            assert_eq!(status(&spec("antrea"), &before, unknown).unwrap()["clusterNetworkMTU"], 1400);
            let zero = json!({"clusterNetworkMTU": 0});
            assert_eq!(status(&spec("antrea"), &zero, unknown).unwrap().get("clusterNetworkMTU"), None);
        }
    }

    #[test]
    fn a_cluster_of_another_network_is_left_alone() {
        assert_eq!(status(&spec("OVNKubernetes"), &Value::Null, Some(1400)), None);
        assert_eq!(status(&NetworkSpec::default(), &Value::Null, None), None);
    }
}
