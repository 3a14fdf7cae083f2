//! ClusterNetworkPolicies of the Kubernetes project: what they become, and that nothing opens by what cannot be read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use antrea_policy::{
    Index, crd,
    model::{Action, Direction, NetworkPolicy, PolicyKind, Port, Rule},
    standard::Policy,
};
use serde_json::{Value, json};

fn policy(tier: &str, subject: Value, rules: Value) -> Policy {
    let mut spec = json!({"tier": tier, "priority": 7, "subject": subject});
    spec.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
    let metadata = json!({"name": "p", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn computed(policy: &Policy) -> (NetworkPolicy, Vec<String>) {
    let mut index = Index::new();
    index.apply_standard(policy);
    index.drain();
    let view = index.native(crd::STANDARD, "p").unwrap();
    ((**view.policy).clone(), view.errors.iter().map(ToString::to_string).collect())
}

fn everybody() -> Value {
    json!({"namespaces": {}})
}

/// The rules of what such a rule of egress comes to.
fn egress(tier: &str, rule: Value) -> (Vec<Rule>, Vec<String>) {
    let (policy, errors) = computed(&policy(tier, everybody(), json!({"egress": [rule]})));
    (policy.rules.into(), errors)
}

fn is_everywhere(rule: &Rule) -> bool {
    rule.services.is_empty()
        && rule.peer.ip_blocks.iter().all(|block| block.cidr.prefix_len() == 0)
        && rule.peer.ip_blocks.len() == 2
}

#[test]
fn tiers_actions_and_rules() {
    let shop = json!({"namespaces": {"matchLabels": {"shop": "yes"}}});
    let web = json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}});
    let rules = json!({
        "ingress": [{"name": "in", "action": "Accept", "from": [shop, web]}, {"action": "Deny", "from": [everybody()]}],
        "egress": [{"action": "Pass", "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::/8"]}],
                    "protocols": [{"tcp": {"destinationPort": {"number": 80}}},
                                  {"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}}, {"sctp": {}}]}],
    });
    let (found, errors) = computed(&policy("Admin", web, rules));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((found.source.kind, &*found.source.name), (PolicyKind::ClusterNetworkPolicy, "p"));
    assert_eq!((found.generation, found.tier_priority, found.priority), (3, Some(251), Some(7.0)));
    let told: Vec<_> = found
        .rules
        .iter()
        .map(|rule| (rule.direction, rule.action, rule.priority, rule.name.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (Direction::In, Action::Allow, 0, Some("in")),
            (Direction::In, Action::Drop, 1, None),
            (Direction::Out, Action::Pass, 0, None),
        ]
    );
    assert_eq!(found.rules[0].peer.address_groups.len(), 2);
    let out = &found.rules[2];
    assert_eq!((out.peer.address_groups.len(), out.peer.ip_blocks.len()), (1, 2));
    let ports: Vec<_> =
        out.services.iter().map(|s| (s.protocol.as_str(), s.port.clone(), s.end_port)).collect();
    let expected = [
        ("TCP", Some(Port::Number(80)), None),
        ("UDP", Some(Port::Number(5)), Some(9)),
        ("SCTP", None, None),
    ];
    assert_eq!(ports, expected);
    // What comes after everything leaves nothing to anybody.
    let (rules, _) = egress("Baseline", json!({"action": "Pass", "to": [everybody()]}));
    assert_eq!(rules[0].action, Action::Allow);
    let (last, _) = computed(&policy("Baseline", everybody(), json!({})));
    assert_eq!(last.tier_priority, Some(254));
}

#[test]
fn names_of_ports_and_domains() {
    let rule =
        json!({"action": "Accept", "to": [everybody()], "protocols": [{"destinationNamedPort": "http"}]});
    let (rules, errors) = egress("Admin", rule);
    assert_eq!(errors, Vec::<String>::new());
    let named = |rule: &Rule| rule.services.iter().all(|s| s.port == Some(Port::Name("http".into())));
    assert!(rules[0].services.len() == 3 && named(&rules[0]), "of any protocol");
    let names = json!({"domainNames": ["*.example.com", "Example.org."]});
    let (rules, _) = egress("Admin", json!({"action": "Accept", "to": [names]}));
    assert_eq!(
        rules[0].peer.fqdns.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["*.example.com", "example.org"]
    );
}

/// An Accept rule does not match what cannot be read of it; a Deny or Pass rule denies everything.
#[test]
fn what_cannot_be_read_fails_closed() {
    let bad = json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "Near"}]}});
    let kind = "clusternetworkpolicy.policy.networking.k8s.io p: spec.egress[0]";
    let nothing =
        "says nothing that is known: an Accept rule does not match it, a Deny or Pass rule denies everything";
    for (to, protocols, error) in [
        (json!([{"later": {}}]), json!([]), format!("{kind}.to[0]: {nothing}")),
        (
            json!([bad]),
            json!([]),
            format!(
                "{kind}.to[0].namespaces.matchExpressions[0].operator: \"Near\" is not one of In, NotIn, Exists, DoesNotExist"
            ),
        ),
        (
            json!([{"networks": ["10.0.0.0/33"]}]),
            json!([]),
            format!("{kind}.to[0].networks[0]: \"10.0.0.0/33\" is not a CIDR"),
        ),
        (json!([]), json!([]), format!("{kind}.to: {nothing}")),
        (json!([everybody()]), json!([{"later": {}}]), format!("{kind}.protocols[0]: {nothing}")),
        (
            json!([everybody()]),
            json!([{"tcp": {"destinationPort": {"number": 0}}}]),
            format!("{kind}.protocols[0].tcp.port: 0 is not a port: 1 to 65535"),
        ),
    ] {
        let rule = |action: &str| json!({"action": action, "to": to, "protocols": protocols});
        let (rules, errors) = egress("Admin", rule("Accept"));
        assert!(rules.is_empty(), "{to} {protocols}");
        assert_eq!(errors, std::slice::from_ref(&error));
        for action in ["Deny", "Pass"] {
            let (rules, errors) = egress("Admin", rule(action));
            assert!(rules[0].action == Action::Drop && is_everywhere(&rules[0]), "{action} {to} {protocols}");
            assert_eq!(errors, std::slice::from_ref(&error));
        }
    }
    // A part that can be read is accepted beside one that cannot.
    let (rules, errors) = egress("Admin", json!({"action": "Accept", "to": [everybody(), bad]}));
    assert_eq!((rules[0].peer.address_groups.len(), errors.len()), (1, 1));
    // Neither an action nor a tier that nobody knows opens anything.
    let (rules, errors) = egress("Admin", json!({"action": "Log", "to": [everybody()]}));
    assert_eq!((rules[0].action, errors.len()), (Action::Drop, 1));
    let both = json!({"egress": [{"action": "Accept", "to": [everybody()]}, {"action": "Deny", "to": [everybody()]}]});
    let (found, errors) = computed(&policy("Middle", everybody(), both));
    assert_eq!((found.rules.len(), found.rules[0].action, errors.len()), (1, Action::Drop, 1));
    let (found, errors) = computed(&policy("Admin", json!({}), json!({})));
    assert!(found.applied_to.is_empty());
    assert_eq!(
        errors,
        ["clusternetworkpolicy.policy.networking.k8s.io p: spec.subject: needs one of namespaces and pods"]
    );
}

/// What is left out of a Deny rule because it is too much would be let through.
#[test]
fn what_is_too_much_for_a_node_fails_closed() {
    let range = json!({"tcp": {"destinationPort": {"range": {"start": 1, "end": 65534}}}});
    let protocols = vec![range; 200];
    for action in ["Accept", "Deny", "Pass"] {
        let rule = json!({"action": action, "to": [everybody()], "protocols": protocols});
        let (rules, errors) = egress("Admin", rule);
        match &rules[..] {
            [] => assert_eq!(action, "Accept"),
            [rule] => assert!(action != "Accept" && rule.action == Action::Drop && is_everywhere(rule)),
            _ => panic!("{action}: {rules:?}"),
        }
        assert!(errors[0].contains("spec.egress[0]: the rule needs more than 4096 matches"), "{errors:?}");
    }
}

#[test]
fn they_come_and_go_beside_those_of_antrea_of_the_same_name() {
    let mut index = Index::new();
    let subject = everybody();
    let native = json!({"metadata": {"name": "p", "uid": "n"}, "spec": {"priority": 1, "appliedTo": [{"podSelector": {}}]}});
    index.apply_native(&serde_json::from_value(native.clone()).unwrap());
    index.apply_standard(&policy("Admin", subject.clone(), json!({})));
    index.drain();
    assert_eq!(index.sizes().network_policies, 2);
    assert!(index.has_native("", "p") && index.has_native(crd::STANDARD, "p"));
    // A complete list of the one kind says nothing of the others.
    index.reset_natives(true, [], []);
    index.reset_natives(false, [], []);
    assert!(!index.has_native("", "p") && index.has_native(crd::STANDARD, "p"));
    index.apply_native(&serde_json::from_value(native).unwrap());
    index.reset_standard([], ["p"]);
    assert!(index.has_native(crd::STANDARD, "p"), "kept");
    index.reset_standard([], []);
    index.drain();
    assert!(index.has_native("", "p") && !index.has_native(crd::STANDARD, "p"));
    assert_eq!(index.sizes().network_policies, 1);
    index.apply_standard(&policy("Admin", subject, json!({})));
    index.delete_native(crd::STANDARD, "p");
    index.delete_native("", "p");
    index.drain();
    assert!(index.is_empty());
}
