//! What policies have to do with a Pod, as upstream's `antctl query endpoint` asks the controller.
//!
//! `GET /endpoint?namespace=…&pod=…`: 200 with a [`Found`], 404 of a Pod that no policy can concern.

use serde::{Deserialize, Serialize};

use crate::controlplane::NetworkPolicyReference;

/// Path of the request.
pub const PATH: &str = "/endpoint";

/// The query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointQuery {
    /// The Pod's; empty is `default`.
    pub namespace: String,
    /// Name of the Pod.
    pub pod: String,
}

/// The body of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// One.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

/// A Pod, and where policies name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the Pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Policies that apply to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<NetworkPolicyReference>,
    /// Ingress rules that name it as a source.
    #[serde(rename = "ingresssrcrules", skip_serializing_if = "Vec::is_empty")]
    pub ingress_source_rules: Vec<Rule>,
    /// Egress rules that name it as a destination.
    #[serde(rename = "egressdstrules", skip_serializing_if = "Vec::is_empty")]
    pub egress_destination_rules: Vec<Rule>,
}

/// A rule of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    #[serde(rename = "policyref")]
    pub policy: NetworkPolicyReference,
    /// `In` or `Out`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub direction: String,
    /// Position among the policy's rules of that direction.
    #[serde(rename = "ruleindex", skip_serializing_if = "is_zero")]
    pub index: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_body_has_upstreams_names() {
        let policy = NetworkPolicyReference {
            type_: "K8sNetworkPolicy".into(),
            namespace: "shop".into(),
            name: "allow".into(),
            uid: "u".into(),
        };
        let rule = |index| Rule { policy: policy.clone(), direction: "Out".into(), index };
        let found = Found {
            endpoints: vec![Endpoint {
                namespace: "shop".into(),
                name: "db".into(),
                policies: vec![policy.clone()],
                ingress_source_rules: Vec::new(),
                egress_destination_rules: vec![rule(0), rule(2)],
            }],
        };
        let reference = json!({"type": "K8sNetworkPolicy", "namespace": "shop", "name": "allow", "uid": "u"});
        assert_eq!(
            serde_json::to_value(&found).unwrap(),
            json!({"endpoints": [{"namespace": "shop", "name": "db", "policies": [reference], "egressdstrules": [
                {"policyref": reference, "direction": "Out"}, {"policyref": reference, "direction": "Out", "ruleindex": 2},
            ]}]})
        );
    }
}
