//! The Kubernetes project's ClusterNetworkPolicy, whose definition may be somebody else's to bring: it is there only for those
//! who ask for its policies.

#![allow(clippy::unwrap_used, reason = "tests")]

use antrea_operator::{
    effective::{Facts, effective},
    object::Object,
    render::{Delivery, Surroundings, objects},
};
use serde_json::{Value, json};

const NAME: &str = "clusternetworkpolicies.policy.networking.k8s.io";

fn rendered(gates: &Value, delivery: Delivery) -> Vec<Object> {
    let spec = serde_json::from_value(json!({"featureGates": gates})).unwrap();
    let config = effective(&spec, &Facts::default()).unwrap();
    objects(&config, &Surroundings::from(delivery))
}

#[test]
fn its_policies_are_defined_and_read_where_they_are_wanted() {
    for (gates, on) in [
        (json!({}), false),
        (json!({"ClusterNetworkPolicy": true}), true),
        (json!({"ClusterNetworkPolicy": true, "AntreaPolicy": false}), false),
    ] {
        for delivery in [Delivery::Manifests, Delivery::Olm] {
            let objects = rendered(&gates, delivery);
            let find = |kind: &str, name: &str| {
                objects.iter().find(|object| object.kind.kind == kind && object.name == name)
            };
            assert_eq!(find("CustomResourceDefinition", NAME).is_some(), on, "{gates}");
            for role in ["antrea-controller", "antrea-policies-view"] {
                let rules = find("ClusterRole", role).unwrap().body["rules"].to_string();
                assert_eq!(rules.contains("policy.networking.k8s.io"), on, "{role}");
            }
        }
    }
}

#[test]
fn the_definition() {
    let objects = rendered(&json!({"ClusterNetworkPolicy": true}), Delivery::Manifests);
    let definition = objects.iter().find(|object| object.name == NAME).unwrap();
    insta::assert_snapshot!(serde_saphyr::to_string(&definition.body).unwrap());
}
