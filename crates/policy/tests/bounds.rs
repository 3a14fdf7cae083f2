//! What a native policy may become, whoever writes it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use antrea_policy::{Index, crd, k8s};
use serde_json::{Value, json};

/// A ClusterNetworkPolicy.
fn policy(spec: Value) -> crd::Policy {
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
}

fn namespaces(index: &mut Index, count: usize) {
    for number in 0..count {
        let labels = [("team", format!("t{}", number % 7))].into_iter().collect();
        index.apply_namespace(&k8s::Namespace {
            name: format!("ns{number}").into(),
            labels,
            ..Default::default()
        });
    }
}

/// Whoever reaches the webhook may ask about any policy: what it would be for each namespace is counted before it is
/// made. Uncounted, each of these is gigabytes.
#[test]
fn rules_by_namespace_that_are_too_much_are_not_made() {
    let mut index = Index::new();
    namespaces(&mut index, 200);
    let own = || json!({"namespaces": {"match": "Self"}});
    let everywhere = json!({"namespaceSelector": {}});
    let pods = |number: usize| json!({"podSelector": {"matchLabels": {"app": format!("a{number}")}}});
    let many: Vec<Value> = (0..20_000).map(pods).collect();
    let values: Vec<String> = (0..50_000).map(|number| format!("v{number}")).collect();
    let long =
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": values}]}});
    let text = "x".repeat(1 << 20);
    let drop = |from: Vec<Value>| json!({"action": "Drop", "from": from});
    let named = json!({"action": "Drop", "from": [own()], "name": text, "logLabel": text});
    let keys = vec!["team"; 20_000];
    let by_team = json!({"namespaces": {"sameLabels": keys}});
    for (applied_to, rule, expected) in [
        (vec![everywhere.clone()], drop(vec![own(); 20_000]), "more than 16384 matches"),
        (many.clone(), drop(vec![own()]), "too much for the namespaces"),
        (vec![long], drop(vec![own()]), "too much for the namespaces"),
        (vec![everywhere.clone()], named, "too much for the namespaces"),
        (
            many,
            drop(vec![json!({"namespaces": {"sameLabels": ["none"]}}); 1000]),
            "too much for the namespaces",
        ),
        (vec![everywhere], drop(vec![by_team; 20]), ""),
    ] {
        let policy = policy(json!({"priority": 1, "appliedTo": applied_to, "ingress": [rule]}));
        let found = index.review_native(&policy).errors;
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), usize::from(!expected.is_empty()), "{expected}: {}", texts.len());
        assert!(texts.iter().all(|text| text.contains(expected)), "{texts:?}");
    }
}

/// As many as a large cluster has.
#[test]
fn rules_by_namespace_of_large_clusters_are_made() {
    let mut index = Index::new();
    namespaces(&mut index, 5_000);
    let rule = json!({"action": "Drop", "from": [{"namespaces": {"match": "Self"}}]});
    let targets = json!([{"podSelector": {"matchLabels": {"app": "a"}}}, {"podSelector": {"matchLabels": {"app": "b"}}}]);
    let policy = policy(json!({"priority": 1, "appliedTo": targets, "ingress": [rule.clone(), rule]}));
    let found = index.review_native(&policy).errors;
    assert!(found.is_empty(), "{found:?}");
}

/// What a group holds is there once, however often a rule names the group.
#[test]
fn a_group_that_is_named_often_is_there_once() {
    let mut index = Index::new();
    let blocks: Vec<Value> = (0..100).map(|number| json!({"cidr": format!("10.0.{number}.0/24")})).collect();
    let group = json!({"metadata": {"name": "g", "uid": "u"}, "spec": {"ipBlocks": blocks}});
    index.apply_group(&serde_json::from_value(group).unwrap());
    let target = json!({"metadata": {"name": "t", "uid": "t"}, "spec": {"podSelector": {}}});
    index.apply_group(&serde_json::from_value(target).unwrap());
    let rule = json!({"action": "Drop", "to": vec![json!({"group": "g", "scope": "Cluster"}); 50]});
    let spec = json!({"priority": 1, "appliedTo": vec![json!({"group": "t"}); 50], "egress": [rule]});
    index.apply_native(&policy(spec));
    index.drain();
    let found = index.native("", "p").unwrap();
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    assert_eq!((found.policy.rules[0].peer.ip_blocks.len(), found.policy.applied_to.len()), (100, 1));
    let mixed = json!([{"action": "Drop", "to": [{"group": "g"}, {"group": "g", "podSelector": {}}]}]);
    let spec = json!({"priority": 1, "appliedTo": [{"podSelector": {}}], "egress": mixed});
    assert_eq!(index.review_native(&policy(spec)).errors.len(), 1, "a mistake stays one");
}
