//! ClusterNetworkPolicies of the Kubernetes project, from the object to the packet: tier Admin before NetworkPolicies, tier
//! Baseline after them, and Antrea's own Tiers before both.

use antrea_tests::lab::{Lab, NETWORK_POLICIES, eventually};
use antrea_tests::station::Station;
use serde_json::{Value, json};

use crate::native::{CLUSTER_POLICIES, LIMIT, Scene, labelled, put};
use crate::to_services::documented;

const STANDARD: &str = "apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

fn pods(name: &str) -> Value {
    json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": name}}}})
}

/// What the near pod may do at the target.
fn near(tier: &str, action: &str) -> Value {
    json!({"tier": tier, "priority": 5, "subject": pods("target"),
           "ingress": [{"name": "near", "action": action, "from": [pods("near")]}]})
}

async fn realized(lab: &Lab, name: &str) {
    let mut last = Value::Null;
    let done = || {
        let object = lab.api.get(STANDARD, None, name).unwrap();
        last = object["status"]["conditions"].clone();
        let find = |type_: &str| last.as_array()?.iter().find(|condition| condition["type"] == type_);
        find("Realized").is_some_and(|condition| {
            condition["status"] == "True"
                && condition["observedGeneration"] == object["metadata"]["generation"]
        }) && find("Realizable").is_some_and(|condition| condition["status"] == "True")
    };
    eventually(&format!("{name} is told to be realized"), LIMIT, done).await;
    println!("{name}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_comes_before_network_policies_and_baseline_after() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let gates = json!({"AntreaPolicy": true, "ClusterNetworkPolicy": true});
    let mut lab = Lab::start(2, &[("featureGates", gates)]).await;
    let mut pod = |index: usize, name: &str| {
        let app = if name == "target" { "report" } else { "other" };
        lab.put_pod(index, name, &[("name", name), ("app", app)], None);
        lab.add_pod(index, name)
    };
    let pods_of = [pod(0, "target"), pod(0, "near"), pod(1, "far")];
    let at = pods_of.each_ref().map(|pod| Station::start(&pod.netns));
    at[0].aim([pods_of[1].ip, pods_of[2].ip]);
    at[1..].iter().for_each(|at| at.aim([pods_of[0].ip]));
    let scene = Scene { at, pods: pods_of };
    scene.becomes("no policy", [true; 4]).await;

    let standard = |name: &str, spec: &Value| put(&lab, STANDARD, None, name, spec);
    standard("deny", &near("Admin", "Deny"));
    scene.becomes("Deny of the near pod", [false, true, true, true]).await;
    realized(&lab, "deny").await;
    // A NetworkPolicy that allows it changes nothing, and one that isolates nothing that is accepted.
    let only = |name: &str| {
        json!({"podSelector": {"matchLabels": {"name": "target"}}, "policyTypes": ["Ingress"],
               "ingress": [{"from": [labelled(name)]}]})
    };
    lab.put_policy("only", &only("near"));
    scene.becomes("a NetworkPolicy allows what is denied", [false, false, true, true]).await;
    lab.put_policy("only", &only("far"));
    standard("deny", &near("Admin", "Accept"));
    scene.becomes("and not what is accepted", [true, true, true, true]).await;
    standard("deny", &near("Admin", "Pass"));
    scene.becomes("Pass leaves it to the NetworkPolicy", [false, true, true, true]).await;
    lab.api.delete(NETWORK_POLICIES, Some("default"), "only");
    scene.becomes("which goes", [true; 4]).await;

    // The last tier decides on what is left.
    standard("base", &near("Baseline", "Deny"));
    scene.becomes("the Baseline decides", [false, true, true, true]).await;
    lab.put_policy("only", &only("near"));
    scene.becomes("after the NetworkPolicy", [true, false, true, true]).await;
    lab.api.delete(NETWORK_POLICIES, Some("default"), "only");
    standard("deny", &near("Admin", "Accept"));
    scene.becomes("after the Admin tier", [true; 4]).await;

    // Antrea's Tiers come before it.
    let native = json!({"tier": "application", "priority": 5, "appliedTo": [labelled("target")],
                        "ingress": [{"action": "Drop", "from": [labelled("near")]}]});
    put(&lab, CLUSTER_POLICIES, None, "deny", &native);
    scene.becomes("one of Antrea's of the same name", [false, true, true, true]).await;
    lab.api.delete(CLUSTER_POLICIES, None, "deny");
    scene.becomes("goes alone", [true; 4]).await;

    // The example of the documentation, with a network that is here.
    let mut example = documented("policy.networking.k8s.io/v1alpha2")["spec"].clone();
    example["egress"][0]["to"][0]["networks"][0] = format!("{}/32", scene.pods[2].ip).into();
    standard("metrics", &example);
    scene.becomes("egress to a network", [true, true, true, false]).await;
    realized(&lab, "metrics").await;
    for name in ["metrics", "deny", "base"] {
        lab.api.delete(STANDARD, None, name);
    }
    scene.becomes("no policy is left", [true; 4]).await;
}
