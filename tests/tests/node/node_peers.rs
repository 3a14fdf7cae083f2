//! Nodes as peers of rules: all of their addresses, as their labels say by now.

use std::net::{IpAddr, SocketAddr};

use antrea_tests::lab::Lab;
use serde_json::{Value, json};

use crate::native::put;
use crate::proxy::{TARGET, listen};
use crate::to_services::{CLUSTER_POLICIES, becomes, documented, realized};

const NODES: &str = "api/v1/nodes";

/// Gives a Node these labels and no others.
fn label(lab: &Lab, index: usize, labels: &Value) {
    let mut node = lab.api.get(NODES, None, &lab.nodes[index].name).unwrap();
    node["metadata"]["labels"] = labels.clone();
    lab.api.put(NODES, node);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_peers_by_their_labels_and_with_all_their_addresses() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    label(&lab, 0, &json!({"zone": "near"}));
    label(&lab, 1, &json!({"zone": "far"}));
    lab.put_pod(0, "pod", &[("name", "pod")], None);
    let pod = lab.add_pod(0, "pod");
    let netns = [0, 1].map(|index| lab.nodes[index].netns.clone());
    let _listeners = (listen(&netns[0]).await, listen(&netns[1]).await, listen(&pod.netns).await);
    let at = |ip: IpAddr| SocketAddr::new(ip, TARGET);
    let [near, far] = [0, 1].map(|index| at(lab.nodes[index].ip.into()));
    let far_gateway = at("10.244.2.1".parse().unwrap());
    becomes(&pod.netns, "without a rule", &[(near, true), (far, true), (far_gateway, true)]).await;

    let zone = |zone: &str| json!([{"nodeSelector": {"matchLabels": {"zone": zone}}}]);
    let applied = json!([{"podSelector": {"matchLabels": {"name": "pod"}}}]);
    let acnp = |rules: Value| {
        let mut spec = json!({"priority": 5, "appliedTo": applied});
        rules.as_object().unwrap().iter().for_each(|(key, rules)| spec[key] = rules.clone());
        put(&lab, CLUSTER_POLICIES, None, "gate", &spec);
    };
    acnp(json!({"egress": [{"action": "Drop", "to": zone("far")}]}));
    realized(&lab, CLUSTER_POLICIES, None, "gate").await;
    becomes(&pod.netns, "to a Node", &[(near, true), (far, false), (far_gateway, false)]).await;
    // Labels change, and the group with them.
    label(&lab, 1, &json!({"zone": "near"}));
    becomes(&pod.netns, "it has another label", &[(near, true), (far, true), (far_gateway, true)]).await;
    label(&lab, 0, &json!({"zone": "far"}));
    becomes(&pod.netns, "and the own one", &[(near, false), (far, true)]).await;

    // From a Node; its processes come with its gateway's address. The own Node's are exempt, as always.
    label(&lab, 0, &json!({"zone": "near"}));
    label(&lab, 1, &json!({"zone": "far"}));
    acnp(json!({"ingress": [{"action": "Drop", "from": zone("far")}]}));
    realized(&lab, CLUSTER_POLICIES, None, "gate").await;
    let to_pod = [(at(pod.ip), false)];
    becomes(&netns[1], "from a Node", &to_pod).await;
    becomes(&netns[0], "from the own Node", &[(at(pod.ip), true)]).await;
    acnp(json!({"ingress": [{"action": "Drop", "from": zone("near")}]}));
    becomes(&netns[1], "from another than that", &[(at(pod.ip), true)]).await;
    lab.api.delete(CLUSTER_POLICIES, None, "gate");

    // The example of the documentation.
    let example = documented("nodeSelector:");
    lab.put_pod(0, "pod", &[("name", "pod"), ("app", "report")], None);
    label(&lab, 1, &json!({"node-role.kubernetes.io/control-plane": ""}));
    put(&lab, CLUSTER_POLICIES, None, example["metadata"]["name"].as_str().unwrap(), &example["spec"]);
    becomes(&pod.netns, "as documented", &[(near, true), (far, false), (far_gateway, false)]).await;
}
