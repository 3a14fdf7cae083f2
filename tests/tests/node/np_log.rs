//! The log of what policies decide: one line for each decision, in upstream's words, and what repeats told once.

use std::collections::BTreeMap;
use std::time::Duration;

use antrea_tests::lab::{Lab, eventually, try_in};
use antrea_tests::station::Station;
use serde_json::{Value, json};

use crate::native::put;
use crate::reject::{By, Met, probe};

const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACES: &str = "api/v1/namespaces";
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";

/// Lines of a node's log, each in its fields: date, time, table, policy, rule, direction, action, priority, pod, sender and
/// port, receiver and port, protocol, length, label, and how many packets it is of.
fn lines(lab: &Lab) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(lab.nodes[0].dir.join("np.log")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// The packets that lines tell of, by what they have in common: all but times, ports, lengths.
fn told(lab: &Lab) -> BTreeMap<String, u64> {
    let mut told = BTreeMap::new();
    for line in lines(lab) {
        assert!(line.len() >= 16, "{line:?}");
        assert!(line[0].len() == 10 && line[1].len() == 15, "a date and a time with microseconds: {line:?}");
        let count = match line.get(16..) {
            Some([count, rest @ ..]) => {
                assert!(rest.len() == 3 && rest[0] == "packets" && rest[1] == "in", "{line:?}");
                count.trim_start_matches('[').parse().unwrap()
            }
            _ => 1,
        };
        let what = [2, 3, 4, 5, 6, 8, 9, 11, 13, 15].map(|at| line[at].as_str()).join(" ");
        *told.entry(what).or_default() += count;
    }
    told
}

fn labelled(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"name": name}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_told_once_each_and_repetitions_together() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    let mut pod = |name: &str| {
        lab.put_pod(0, name, &[("name", name)], None);
        lab.add_pod(0, name)
    };
    let [target, near, friend, other, refused] =
        ["target", "near", "friend", "other", "refused"].map(&mut pod);
    let rule = |name: &str, action: &str, from: &str| json!({"name": name, "action": action, "from": [labelled(from)], "enableLogging": true, "logLabel": "seen"});
    let mut quiet = rule("quiet", "Drop", "other");
    quiet["enableLogging"] = json!(false);
    let spec = json!({
        "priority": 5, "appliedTo": [labelled("target")],
        "ingress": [rule("others", "Drop", "near"), rule("friends", "Allow", "friend"), quiet,
                    rule("refusing", "Reject", "refused")],
    });
    put(&lab, CLUSTER_POLICIES, None, "gate", &spec);
    let realized = || lab.api.get(CLUSTER_POLICIES, None, "gate").unwrap()["status"]["phase"] == "Realized";
    eventually("the policy is in force", LIMIT, realized).await;
    let stations = [&target, &near, &friend, &other].map(|pod| Station::start(&pod.netns));
    let [at_target, at_near, at_friend, at_other] = &stations;
    for at in [at_near, at_friend, at_other] {
        at.aim([target.ip]);
    }
    eventually("all have sent", LIMIT, || [at_near, at_friend, at_other].iter().all(|at| at.sent() > 100))
        .await;
    for at in [at_near, at_friend, at_other] {
        at.aim([]);
    }
    let line = |rule: &str, action: &str, from: &antrea_tests::lab::Pod, protocol: &str| {
        format!(
            "AntreaPolicyIngressRule AntreaClusterNetworkPolicy:gate {rule} Ingress {action} default/target {} {} \
             {protocol} seen",
            from.ip, target.ip
        )
    };
    let (denied, allowed) = (at_near.sent(), at_friend.sent());
    let all = |told: &BTreeMap<String, u64>, rule: &str, action: &str, from| {
        ["TCP", "UDP"]
            .map(|protocol| told.get(&line(rule, action, from, protocol)).copied().unwrap_or_default())
    };
    let complete = || {
        let told = told(&lab);
        all(&told, "others", "Drop", &near).iter().sum::<u64>() == denied
            && all(&told, "friends", "Allow", &friend).iter().sum::<u64>() * 20 >= allowed * 19
    };
    eventually("every decision is told", LIMIT, complete).await;
    let found = told(&lab);
    assert_eq!(found.len(), 4, "of nothing else: {found:#?}");
    let arrived = at_target.arrived();
    assert!(!arrived.contains_key(&near.ip) && arrived.contains_key(&friend.ip), "{arrived:?}");

    // What is told to the log is told to its sender, too.
    assert_eq!(probe(&refused.netns, By::Tcp, target.ip).await.0, Met::Refusal);
    let refusing = line("refusing", "Reject", &refused, "TCP");
    eventually("a refusal is told", LIMIT, || told(&lab).get(&refusing) == Some(&1)).await;

    // The same packet again and again is one line.
    try_in(&near.netns, &["ping", "-c", "4", "-i", "0.1", "-W", "1", &target.ip.to_string()]);
    let together = || {
        lines(&lab).iter().any(|line| line[13] == "ICMP" && line.get(16).is_some_and(|count| count == "[4"))
    };
    eventually("repetitions are told together", LIMIT, together).await;

    // A namespace's annotation, for the policies of Kubernetes; what they do not allow is of no policy.
    lab.api.delete(CLUSTER_POLICIES, None, "gate");
    lab.put_policy(
        "k8s",
        &json!({"podSelector": {"matchLabels": {"name": "target"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [labelled("friend")]}]}),
    );
    let mut namespace = lab.api.get(NAMESPACES, None, "default").unwrap();
    namespace["metadata"]["annotations"] = json!({"networkpolicy.antrea.io/enable-logging": "true"});
    lab.api.put(NAMESPACES, namespace.clone());
    at_near.aim([target.ip]);
    at_friend.aim([target.ip]);
    let tells = |what: String| told(&lab).get(&what).is_some_and(|count| *count > 5);
    let k8s = |policy: &str, table: &str, action: &str, from: &antrea_tests::lab::Pod| {
        format!("{table} {policy} <nil> Ingress {action} default/target {} {} UDP <nil>", from.ip, target.ip)
    };
    eventually("what a policy of Kubernetes allows", LIMIT, || {
        tells(k8s("K8sNetworkPolicy:default/k8s", "IngressRule", "Allow", &friend))
    })
    .await;
    eventually("what none allows", LIMIT, || {
        tells(k8s("K8sNetworkPolicy", "IngressDefaultRule", "Drop", &near))
    })
    .await;
    namespace["metadata"]["annotations"] = json!({});
    lab.api.put(NAMESPACES, namespace);
    let mut last = 0;
    eventually("no more is told without the annotation", LIMIT, || {
        let now = lines(&lab).len();
        std::thread::sleep(Duration::from_secs(3));
        std::mem::replace(&mut last, lines(&lab).len()) == now && last == now
    })
    .await;

    let unlogged = lab.agent_metric(0, "antrea_agent_audit_log_dropped_total").await;
    assert_eq!(unlogged, 0.0);
}
