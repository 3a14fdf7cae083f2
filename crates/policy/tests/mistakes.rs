//! Malformed and hostile policies: each mistake is named, and none opens anything.

use antrea_policy::{
    Index,
    draft::PolicyDraft,
    k8s::NetworkPolicy,
    model::{Action, Direction, PolicyKind, PolicyReference, Port, Protocol, Rule},
    translate,
};
use serde_json::{Value, json};

fn policy(spec: Value) -> NetworkPolicy {
    let metadata = json!({"namespace": "shop", "name": "p", "uid": "u", "generation": 1});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("must be a policy")
}

/// The rules of the internal policy in short form, and the mistakes.
fn compute(spec: Value) -> (Vec<String>, Vec<String>) {
    let mut index = Index::new();
    let errors = index.apply_network_policy(&policy(spec));
    let internal = index.network_policy("u").expect("must be in force whatever is wrong with it");
    assert_eq!(internal.applied_to.len(), 1);
    (internal.rules.iter().map(short).collect(), errors.iter().map(ToString::to_string).collect())
}

fn short(rule: &Rule) -> String {
    assert_eq!((rule.action, rule.priority), (Action::Allow, -1));
    let services = rule.services.iter().map(|service| {
        let port = match &service.port {
            None => String::new(),
            Some(Port::Number(number)) => format!(":{number}"),
            Some(Port::Name(name)) => format!(":{name}"),
        };
        let end = service.end_port.map(|end| format!("-{end}")).unwrap_or_default();
        format!("{}{port}{end}", service.protocol.as_str())
    });
    let blocks = rule.peer.ip_blocks.iter().map(|block| {
        let except: Vec<_> = block.except.iter().map(|net| format!("!{net}")).collect();
        format!("{}{}", block.cidr, except.concat())
    });
    let peers: Vec<_> = blocks.chain(rule.peer.address_groups.iter().map(|_| "group".to_owned())).collect();
    let direction = if rule.direction == Direction::In { "in" } else { "out" };
    format!("{direction} [{}] [{}]", peers.join(" "), services.collect::<Vec<_>>().join(" "))
}

const ANY: &str = "0.0.0.0/0 ::/0";

#[test]
fn policy_types() {
    let rules = |spec: Value| compute(spec).0;
    let web = json!([{"ports": [{"port": 80}]}]);
    assert_eq!(rules(json!({"podSelector": {}})), ["in [] []"]);
    assert_eq!(rules(json!({"podSelector": {}, "egress": []})), ["in [] []"]);
    assert_eq!(rules(json!({"egress": web})), ["in [] []".to_owned(), format!("out [{ANY}] [TCP:80]")]);
    assert_eq!(rules(json!({"ingress": [{}]})), [format!("in [{ANY}] []")]);
    assert_eq!(rules(json!({"policyTypes": ["Egress"]})), ["out [] []"]);
    // A section whose type is not listed does not count.
    assert_eq!(rules(json!({"policyTypes": ["Ingress"], "egress": [{}]})), ["in [] []"]);
    assert_eq!(rules(json!({"policyTypes": ["Egress"], "ingress": [{}]})), ["out [] []"]);
    assert_eq!(
        compute(json!({"policyTypes": ["Ingres"]})),
        (
            vec!["in [] []".to_owned(), "out [] []".into()],
            vec![
                "NetworkPolicy shop/p: spec.policyTypes[0]: \"Ingres\" is not one of Ingress, Egress".into()
            ],
        )
    );
}

#[test]
fn peers() {
    let from = |peers: Value| compute(json!({"ingress": [{"from": peers}]}));
    assert_eq!(from(json!([])).0, [format!("in [{ANY}] []")]);
    assert_eq!(from(json!([{"podSelector": {}}, {"namespaceSelector": {}}])).0, ["in [group group] []"]);
    assert_eq!(
        from(json!([{"ipBlock": {"cidr": "10.0.0.7/8", "except": ["10.1.0.9/16"]}}])).0,
        ["in [10.0.0.0/8!10.1.0.0/16] []"]
    );
    // A bad one does not spoil the good one beside it, and all bad ones do not become "any".
    let at = "NetworkPolicy shop/p: spec.ingress[0].from";
    for (peer, error) in [
        (json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), "ipBlock.cidr: \"10.0.0.0/33\" is not a CIDR"),
        (json!({"ipBlock": {"cidr": ""}}), "ipBlock.cidr: \"\" is not a CIDR"),
        (json!({"ipBlock": {"cidr": "10.0.0.1"}}), "ipBlock.cidr: \"10.0.0.1\" is not a CIDR"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}}),
            "ipBlock.except[1]: 11.0.0.0/16 is not a part of 10.0.0.0/8",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["::/0"]}}),
            "ipBlock.except[0]: ::/0 is not a part of 10.0.0.0/8",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}),
            "ipBlock.except[0]: \"x\" is not a CIDR",
        ),
        (json!({}), ": a peer needs podSelector, namespaceSelector or ipBlock"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
            ": ipBlock excludes podSelector and namespaceSelector",
        ),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}),
            "namespaceSelector.matchExpressions[0].operator: \"Gt\" is not one of In, NotIn, Exists, DoesNotExist",
        ),
    ] {
        let dot = if error.starts_with(':') { "" } else { "." };
        let (rules, errors) = from(json!([peer]));
        assert_eq!(rules, ["in [] []"], "{peer}");
        assert_eq!(errors, [format!("{at}[0]{dot}{error}")]);
        let (rules, errors) = from(json!([{"podSelector": {}}, peer]));
        assert_eq!(rules, ["in [group] []"], "{peer}");
        assert_eq!(errors, [format!("{at}[1]{dot}{error}")]);
    }
}

#[test]
fn ports() {
    let ports = |ports: Value| compute(json!({"ingress": [{"ports": ports}]}));
    assert_eq!(
        ports(json!([{"port": 80}, {"protocol": "UDP", "port": 1, "endPort": 65535}, {"protocol": "SCTP"},
                     {"port": "http"}]))
        .0,
        [format!("in [{ANY}] [TCP:80 UDP:1-65535 SCTP TCP:http]")]
    );
    let at = "NetworkPolicy shop/p: spec.ingress[0].ports";
    for (port, error) in [
        (json!({"port": 0}), "port: 0 is not a port: 1 to 65535"),
        (json!({"port": 65536}), "port: 65536 is not a port: 1 to 65535"),
        (json!({"port": -1}), "port: -1 is not a port: 1 to 65535"),
        (json!({"port": 80, "endPort": 79}), "endPort: 79 is below port 80"),
        (json!({"port": 80, "endPort": 65536}), "endPort: 65536 is not a port: 1 to 65535"),
        (json!({"port": "http", "endPort": 81}), "endPort: endPort needs a numeric port"),
        (json!({"endPort": 81}), "endPort: endPort needs a numeric port"),
        (json!({"protocol": "ICMP"}), "protocol: \"ICMP\" is not one of TCP, UDP, SCTP"),
        (json!({"protocol": "tcp"}), "protocol: \"tcp\" is not one of TCP, UDP, SCTP"),
    ] {
        let (rules, errors) = ports(json!([port]));
        assert_eq!(rules, ["in [] []"], "{port}");
        assert_eq!(errors, [format!("{at}[0].{error}")]);
        let (rules, errors) = ports(json!([{"port": 443}, port]));
        assert_eq!(rules, [format!("in [{ANY}] [TCP:443]")], "{port}");
        assert_eq!(errors, [format!("{at}[1].{error}")]);
    }
    for name in ["", "-a", "a-", "a--b", "123", "UPPER", "sixteen-chars-ab", "ü"] {
        let (rules, errors) = ports(json!([{"port": name}]));
        assert_eq!((rules.len(), errors.len()), (1, 1), "{name}: {errors:?}");
        assert_eq!(rules[0], "in [] []");
    }
}

#[test]
fn named_ports_to_anywhere_need_every_pod() {
    let spec = |port: Value| json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": port}]}]});
    assert_eq!(compute(spec(json!("http"))).0, [format!("out [{ANY} group] [TCP:http]")]);
    assert_eq!(compute(spec(json!(80))).0, [format!("out [{ANY}] [TCP:80]")]);
    let (draft, _) = translate::network_policy(&policy(spec(json!("http"))));
    assert_eq!(draft.rules[0].peer.groups[0].to_string(), "namespaceSelector=");
    assert_eq!(draft.rules[0].services[0].protocol, Protocol::Tcp);
}

#[test]
fn a_bad_pod_selector_selects_more_and_allows_nothing() {
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "web"},
                        "matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{}], "egress": [{}],
    });
    let (rules, errors) = compute(spec.clone());
    assert_eq!(rules, ["in [] []", "out [] []"]);
    assert_eq!(errors.len(), 1);
    let (draft, _) = translate::network_policy(&policy(spec));
    assert_eq!(draft.applied_to[0].to_string(), "namespace=shop And podSelector=app=web");
}

#[test]
fn ten_thousand_bad_rules_are_counted() {
    let rule = json!({"from": [{"ipBlock": {"cidr": "nonsense".repeat(1000)}}]});
    let (rules, errors) = compute(json!({"ingress": vec![rule; 10_000]}));
    assert_eq!(rules, ["in [] []"]);
    assert_eq!(errors.len(), 65);
    assert!(errors.iter().all(|error| error.len() < 200), "messages do not repeat hostile text");
    assert_eq!(errors[64], "NetworkPolicy shop/p: spec: 9936 more mistakes");
}

#[test]
fn ten_thousand_good_rules_are_kept() {
    let rules: Vec<_> = (0..10_000)
        .map(|i| json!({"from": [{"ipBlock": {"cidr": format!("10.{}.{}.0/24", i / 256, i % 256)}}]}))
        .collect();
    let (rules, errors) = compute(json!({"ingress": rules}));
    assert_eq!((rules.len(), errors.len()), (10_000, 0));
    assert_eq!(rules[257], "in [10.1.1.0/24] []");
}

#[test]
fn a_missing_or_borrowed_uid_gets_a_name_of_its_own() {
    let named = |name: &str, uid: &str| NetworkPolicy {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        ..NetworkPolicy::default()
    };
    let mut index = Index::new();
    assert_eq!(index.apply_network_policy(&named("a", "u")), []);
    let errors = index.apply_network_policy(&named("b", "u"));
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "NetworkPolicy shop/b: metadata.uid: UID \"u\" is missing or in use by another policy; a name of its own is derived"
    );
    assert_eq!(index.apply_network_policy(&named("c", "")).len(), 1);
    assert_eq!(index.sizes().network_policies, 3);
    index.drain();
    // Once the name is free it is taken.
    index.delete_network_policy("shop", "a");
    index.drain();
    assert_eq!(index.apply_network_policy(&named("b", "u")), []);
    assert_eq!(index.network_policy("u").map(|policy| policy.source.name.to_string()).as_deref(), Some("b"));
    assert_eq!(index.drain().len(), 2);
}

#[test]
fn equal_names_in_two_namespaces_are_two_policies() {
    let in_namespace = |namespace: &str| NetworkPolicy {
        namespace: namespace.into(),
        name: "p".into(),
        uid: format!("uid-{namespace}").into(),
        ..NetworkPolicy::default()
    };
    let mut index = Index::new();
    index.apply_network_policy(&in_namespace("a"));
    index.apply_network_policy(&in_namespace("b"));
    index.delete_network_policy("a", "p");
    let left: Vec<_> = index.network_policies().map(|policy| policy.name.to_string()).collect();
    assert_eq!(left, ["uid-b"]);
}

/// Policies that the API server takes, and that would be millions of flows on a node.
#[test]
fn too_large_for_a_node() {
    let excepts =
        |n: u32| (0..n).map(|i| format!("fd00:{:x}::{:x}/128", i >> 8, i & 0xff)).collect::<Vec<_>>();
    let block = |n| json!({"ipBlock": {"cidr": "fd00::/16", "except": excepts(n)}});
    let group = json!({"podSelector": {}});
    let at = "NetworkPolicy shop/p: spec";
    let rule_error = "the rule needs more than 4096 matches of addresses and ports and allows nothing";

    let begin = std::time::Instant::now();
    let (rules, errors) = compute(json!({"ingress": [{"from": [group, block(30_000)]}, {"from": [group]}]}));
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    assert_eq!(rules, ["in [group] []"], "nothing by the one rule, and the other as it is");
    assert_eq!(errors, [format!("{at}.ingress[0].from[1]: {rule_error}")]);
    let (rules, errors) = compute(json!({"policyTypes": ["Egress"], "egress": [{"to": [block(30_000)]}]}));
    assert_eq!((&*rules[0], rules.len()), ("out [] []", 1), "it isolates");
    assert_eq!(errors, [format!("{at}.egress[0].to[0]: {rule_error}")]);
    // An ordinary one.
    assert_eq!(compute(json!({"ingress": [{"from": [block(30)]}]})).1, [""; 0]);

    let ranges: Vec<_> = (1..200).map(|i| json!({"port": i, "endPort": 65_535 - i})).collect();
    let (rules, errors) = compute(json!({"ingress": [{"ports": ranges}]}));
    assert_eq!(rules, ["in [] []"]);
    assert!(
        errors[0].starts_with(&format!("{at}.ingress[0].ports[")) && errors[0].ends_with(rule_error),
        "{errors:?}"
    );
    let blocks =
        |n: u32| (0..n).map(|i| json!({"ipBlock": {"cidr": format!("10.{}.{}.1/32", i >> 8, i & 255)}}));
    let (rules, errors) = compute(json!({"ingress": [{"from": blocks(5_000).collect::<Vec<_>>()}]}));
    assert_eq!((&*rules[0], errors), ("in [] []", vec![format!("{at}.ingress[0].from[4096]: {rule_error}")]));

    // Rules that are not too large each, and rules without end.
    let four = blocks(4_000).collect::<Vec<_>>();
    let (rules, errors) = compute(json!({"ingress": vec![json!({"from": four}); 5]}));
    let policy_error =
        "the policy needs more than 16384 matches of addresses and ports; this rule allows nothing";
    assert_eq!((rules.len(), errors), (4, vec![format!("{at}.ingress[4].from[384]: {policy_error}")]));
    let (rules, errors) = compute(json!({"ingress": vec![json!({}); 20_000]}));
    assert_eq!((rules.len(), errors.len()), (8_192, 65));
    assert_eq!(errors[64], format!("{at}: {} more mistakes", 20_000 - 8_192 - 64));
}

/// What the API server accepts with a warning means what it means there.
#[test]
fn blocks_in_legacy_notation() {
    let from = |block: Value| compute(json!({"ingress": [{"from": [{"ipBlock": block}]}]}));
    let none: Vec<String> = vec![];
    let mapped =
        json!({"cidr": "::ffff:10.244.1.0/120", "except": ["10.244.1.64/26", "::ffff:10.244.1.1/128"]});
    assert_eq!(
        from(mapped),
        (vec!["in [10.244.1.0/24!10.244.1.64/26!10.244.1.1/32] []".into()], none.clone())
    );
    assert_eq!(from(json!({"cidr": "010.0.0.0/08"})), (vec!["in [10.0.0.0/8] []".into()], none));
}

/// What is of no namespace is kept by its name alone when a list holds it in a form that cannot be read.
#[test]
fn an_unreadable_cluster_policy_stays_as_it_is_known() {
    let kind = PolicyKind::AntreaClusterNetworkPolicy;
    let source = |name: &str| PolicyReference { kind, namespace: None, name: name.into(), uid: name.into() };
    let draft = |name| PolicyDraft {
        source: source(name),
        generation: 1,
        priority: Some(5.0),
        tier_priority: Some(250),
        resets_established: false,
        applied_to: vec![],
        rules: vec![],
    };
    let mut index = Index::new();
    for name in ["kept", "gone"] {
        assert_eq!(index.apply_policy(draft(name)), None);
    }
    assert_eq!(index.reset_policies(kind, [], [("", "kept")]), []);
    assert!(index.network_policy("kept").is_some() && index.network_policy("gone").is_none());
}
