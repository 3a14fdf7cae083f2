//! Policies of crd.antrea.io, from the object to the packet: Tiers, actions, groups, and what Kubernetes' policies have to
//! say between them.

use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, NETWORK_POLICIES, Pod, eventually};
use antrea_tests::station::{Arrived, Station};
use serde_json::{Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Probes of each station that an answer rests on.
const FLOOR: u64 = 40;
pub(crate) const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
const POLICIES: &str = "apis/crd.antrea.io/v1beta1/networkpolicies";
const GROUPS: &str = "apis/crd.antrea.io/v1beta1/clustergroups";
const SERVICES: &str = "api/v1/services";
const TIERS: &str = "apis/crd.antrea.io/v1beta1/tiers";

pub(crate) fn labelled(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"name": name}}})
}

/// A pod that others try to reach, and that tries to reach them.
pub(crate) struct Scene {
    pub(crate) at: [Station; 3],
    pub(crate) pods: [Pod; 3],
}

impl Scene {
    /// Which of these pass: from the near pod, from the far one, to the near one, to the far one. `None` is neither all
    /// nor nothing.
    fn passes(&self) -> [Option<bool>; 4] {
        let [target, near, far] = &self.at;
        let before = self.at.each_ref().map(|at| {
            at.forget();
            at.sent()
        });
        let begin = Instant::now();
        while self.at.iter().zip(before).any(|(at, before)| at.sent() < before + FLOOR) {
            assert!(begin.elapsed() < LIMIT, "stations do not send");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let met = |at: &Station, from: usize| {
            let arrived = at.arrived().get(&self.pods[from].ip).copied().unwrap_or_default();
            match arrived {
                Arrived { tcp: 0, udp: 0 } => Some(false),
                Arrived { tcp: 3.., udp: 3.. } => Some(true),
                _ => None,
            }
        };
        [met(target, 1), met(target, 2), met(near, 0), met(far, 0)]
    }

    /// Waits until that is so, and looks once more.
    pub(crate) async fn becomes(&self, what: &str, wanted: [bool; 4]) {
        let wanted = wanted.map(Some);
        let mut last = [None; 4];
        let took = eventually(what, LIMIT, || {
            last = self.passes();
            last == wanted
        })
        .await;
        println!("{what}: after {took:.1?}");
        assert_eq!(self.passes(), wanted, "{what}");
    }
}

/// Writes an object whose generation is a new one.
pub(crate) fn put(lab: &Lab, collection: &str, namespace: Option<&str>, name: &str, spec: &Value) {
    let old = lab.api.get(collection, namespace, name);
    let generation = old.as_ref().and_then(|old| old["metadata"]["generation"].as_i64()).unwrap_or(0) + 1;
    let mut object = json!({"metadata": {"name": name, "generation": generation}, "spec": spec});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    lab.api.put(collection, object);
}

async fn realized(lab: &Lab, collection: &str, namespace: Option<&str>, name: &str) {
    let mut last = Value::Null;
    let done = || {
        let object = lab.api.get(collection, namespace, name).unwrap();
        last = object["status"].clone();
        last["phase"] == "Realized"
            && last["observedGeneration"] == object["metadata"]["generation"]
            && last["desiredNodesRealized"] == 1
            && last["currentNodesRealized"] == 1
    };
    eventually(&format!("{name} is told to be realized"), LIMIT, done).await;
    println!("{name}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_actions_and_groups_decide_in_their_order() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    let mut pod = |index: usize, name: &str| {
        lab.put_pod(index, name, &[("name", name)], None);
        lab.add_pod(index, name)
    };
    let pods = [pod(0, "target"), pod(0, "near"), pod(1, "far")];
    let at = pods.each_ref().map(|pod| Station::start(&pod.netns));
    at[0].aim([pods[1].ip, pods[2].ip]);
    at[1..].iter().for_each(|at| at.aim([pods[0].ip]));
    let scene = Scene { at, pods };
    scene.becomes("no policy", [true; 4]).await;
    let tiers = || lab.api.all(TIERS).len();
    eventually("the static Tiers are made", LIMIT, || tiers() == 6).await;

    let ingress = |tier: &str, action: &str, from: &str| {
        json!({
            "tier": tier, "priority": 5, "appliedTo": [labelled("target")],
            "ingress": [{"name": "only", "action": action, "from": [labelled(from)]}],
        })
    };
    let acnp = |name: &str, spec: &Value| put(&lab, CLUSTER_POLICIES, None, name, spec);
    acnp("deny-near", &ingress("application", "Drop", "near"));
    scene.becomes("Drop of the near pod", [false, true, true, true]).await;
    realized(&lab, CLUSTER_POLICIES, None, "deny-near").await;

    acnp("first", &ingress("emergency", "Allow", "near"));
    scene.becomes("an earlier Tier allows it", [true; 4]).await;

    let mut later = ingress("emergency", "Drop", "near");
    later["priority"] = json!(4.5);
    acnp("before-first", &later);
    scene.becomes("a policy before that in its Tier drops", [false, true, true, true]).await;
    lab.api.delete(CLUSTER_POLICIES, None, "before-first");
    scene.becomes("it goes", [true; 4]).await;

    // Pass: the application Tier is not asked, Kubernetes' policies are.
    acnp("first", &ingress("emergency", "Pass", "near"));
    lab.put_policy(
        "near",
        &json!({"podSelector": {"matchLabels": {"name": "target"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [labelled("near")]}]}),
    );
    scene.becomes("Pass leaves it to Kubernetes", [true, false, true, true]).await;

    // The baseline comes after them: what they allow is allowed, and who they do not isolate is its business.
    acnp("base", &ingress("baseline", "Drop", "near"));
    scene.becomes("Kubernetes comes before the baseline", [true, false, true, true]).await;
    lab.api.delete(NETWORK_POLICIES, Some("default"), "near");
    scene.becomes("the baseline decides", [false, true, true, true]).await;
    lab.api.delete(CLUSTER_POLICIES, None, "base");
    scene.becomes("nobody decides", [true; 4]).await;

    // Egress of a namespace's own policy, to whom a group has.
    put(&lab, GROUPS, None, "bad", &labelled("far"));
    put(
        &lab,
        POLICIES,
        Some("default"),
        "egress",
        &json!({
            "priority": 1, "appliedTo": [labelled("target")],
            "egress": [{"action": "Allow", "to": [labelled("far")], "ports": [{"protocol": "TCP", "port": 1}]},
                       {"action": "Drop", "to": [{"group": "bad"}]}],
        }),
    );
    // A namespace's policy has groups of its own namespace only; nobody is in one that is not there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.passes(), [Some(true); 4], "a ClusterGroup is not a namespace's");
    put(
        &lab,
        CLUSTER_POLICIES,
        None,
        "egress",
        &json!({"priority": 1, "appliedTo": [labelled("target")], "egress": [{"action": "Drop", "to": [{"group": "bad"}]}]}),
    );
    scene.becomes("egress to a group", [true, true, true, false]).await;
    put(&lab, GROUPS, None, "bad", &labelled("near"));
    scene.becomes("the group has another", [true, true, false, true]).await;
    put(&lab, GROUPS, None, "bad", &json!({"serviceReference": {"name": "behind", "namespace": "default"}}));
    scene.becomes("the group's Service is not there", [true; 4]).await;
    let service = |name: &str| json!({"selector": {"name": name}, "ports": [{"port": 80}]});
    put(&lab, SERVICES, Some("default"), "behind", &service("far"));
    scene.becomes("the group has whom a Service selects", [true, true, true, false]).await;
    put(&lab, SERVICES, Some("default"), "behind", &service("near"));
    scene.becomes("the Service selects another", [true, true, false, true]).await;

    // Over an agent's restart nothing opens.
    acnp("first", &ingress("emergency", "Drop", "near"));
    scene.becomes("both directions", [false, true, false, true]).await;
    scene.at.iter().for_each(Station::forget);
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let arrived = |at: usize, from: usize| scene.at[at].arrived().get(&scene.pods[from].ip).copied();
    assert_eq!((arrived(0, 1), arrived(1, 0)), (None, None), "over the agent's restart");
    assert!(arrived(0, 2).is_some_and(|arrived| arrived.tcp > 20), "{:?}", arrived(0, 2));

    for name in ["first", "deny-near", "egress"] {
        lab.api.delete(CLUSTER_POLICIES, None, name);
    }
    lab.api.delete(POLICIES, Some("default"), "egress");
    scene.becomes("no policy is left", [true; 4]).await;
}
