//! Native policies from the API server's JSON: what is sent, and what is told of what cannot be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use antrea_policy::{
    Index, crd, k8s,
    model::{Action, Direction, NetworkPolicy, Port, Protocol},
};
use serde_json::{Value, json};

fn policy(namespace: &str, spec: Value) -> crd::Policy {
    let mut metadata = json!({"name": "p", "uid": "u", "generation": 3});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// The internal policy, and what is wrong with the policy.
fn computed(index: &mut Index, policy: &crd::Policy) -> (Arc<NetworkPolicy>, Vec<String>) {
    index.apply_native(policy);
    index.drain();
    let view = index.native(&policy.namespace, &policy.name).unwrap();
    (Arc::clone(view.policy), view.errors.iter().map(ToString::to_string).collect())
}

/// A ClusterNetworkPolicy with these egress rules, which applies to all Pods.
fn egress(rules: Value) -> crd::Policy {
    policy("", json!({"priority": 5, "appliedTo": [{"podSelector": {}}], "egress": rules}))
}

#[test]
fn order_actions_and_services_are_upstreams() {
    let rules = json!([
        {"action": "Allow", "name": "a", "enableLogging": true, "logLabel": "l",
         "ports": [{"port": 80, "endPort": 90, "sourcePort": 5, "sourceEndPort": 6}, {"protocol": "UDP", "port": "dns"}]},
        {"action": "Reject", "protocols": [{"icmp": {"icmpType": 8, "icmpCode": 0}}]},
        {"action": "Pass", "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]},
    ]);
    let (policy, errors) = computed(&mut Index::new(), &egress(rules));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((policy.priority, policy.tier_priority, policy.generation), (Some(5.0), Some(250), 3));
    let actions: Vec<_> =
        policy.rules.iter().map(|rule| (rule.action, rule.priority, rule.direction)).collect();
    let out = Direction::Out;
    assert_eq!(actions, [(Action::Allow, 0, out), (Action::Reject, 1, out), (Action::Pass, 2, out)]);
    let service = &policy.rules[0].services[0];
    assert_eq!((service.port.clone(), service.end_port), (Some(Port::Number(80)), Some(90)));
    assert_eq!((service.src_port, service.src_end_port), (Some(5), Some(6)));
    assert_eq!(policy.rules[0].services[1].protocol, Protocol::Udp);
    let icmp = &policy.rules[1].services[0];
    assert_eq!((icmp.protocol, icmp.icmp_type, icmp.icmp_code), (Protocol::Icmp, Some(8), Some(0)));
    assert_eq!(policy.rules[2].peer.ip_blocks[0].except.len(), 1);
    assert_eq!((policy.rules[0].enable_logging, policy.rules[0].log_label.as_deref()), (true, Some("l")));
}

#[test]
fn what_cannot_be_expressed_is_left_out_and_named() {
    let good = json!({"podSelector": {}});
    let cases = [
        (
            json!({"action": "Drop", "to": [{"fqdn": "a b"}]}),
            "spec.egress[0].to[0].fqdn: \"a b\" is not a domain",
        ),
        (
            json!({"action": "Allow", "to": [{"fqdn": "."}]}),
            "spec.egress[0].to[0].fqdn: \".\" is not a domain",
        ),
        (json!({"action": "Allow", "to": [{"fqdn": "x".repeat(254)}]}), "is not a domain name: at most 253"),
        (
            json!({"action": "Drop", "to": [{"fqdn": "x", "podSelector": {}}]}),
            "spec.egress[0].to[0]: ipBlock, group, serviceAccount, fqdn",
        ),
        (
            json!({"action": "Drop", "toServices": [{"name": "s"}]}),
            "spec.egress[0].toServices[0]: needs name and namespace",
        ),
        (
            json!({"action": "Drop", "toServices": [{"name": "s", "namespace": "n", "scope": "ClusterSet"}]}),
            "spec.egress[0].toServices[0].scope: is not enforced",
        ),
        (
            json!({"action": "Drop", "toServices": [{"name": "s", "namespace": "n"}], "ports": [{"port": 1}]}),
            "spec.egress[0].toServices: excludes to, ports",
        ),
        (
            json!({"action": "Allow", "toServices": [{"name": "s", "namespace": "n"}], "to": [good]}),
            "spec.egress[0].toServices: excludes to, ports",
        ),
        (
            json!({"action": "Allow", "to": [good], "l7Protocols": [{"http": {}}]}),
            "spec.egress[0].l7Protocols: is not",
        ),
        (
            json!({"action": "Drop", "protocols": [{"igmp": {}}]}),
            "spec.egress[0].protocols[0].igmp: is not enforced",
        ),
        (
            json!({"action": "Drop", "to": [{"nodeSelector": {}, "podSelector": {}}]}),
            "spec.egress[0].to[0]: ipBlock, group",
        ),
        (
            json!({"action": "Drop", "to": [{"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}),
            "spec.egress[0].to[0].nodeSelector.matchExpressions[0].operator",
        ),
        (
            json!({"action": "Drop", "to": [{"podSelector": {}, "scope": "ClusterSet"}]}),
            "spec.egress[0].to[0].scope",
        ),
        (
            json!({"action": "Drop", "to": [{"group": "none"}]}),
            "spec.egress[0].to[0].group: there is no group \"none\"",
        ),
        (
            json!({"action": "Drop", "to": [{"group": "g", "ipBlock": {"cidr": "::/0"}}]}),
            "spec.egress[0].to[0]: ipBlock, group",
        ),
        (json!({"action": "Drop", "to": [{}]}), "spec.egress[0].to[0]: a peer needs"),
        (
            json!({"action": "Drop", "to": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}),
            "spec.egress[0].to[0].ipBlock.cidr",
        ),
        (
            json!({"action": "Drop", "to": [{"namespaces": {}}]}),
            "spec.egress[0].to[0].namespaces: needs either",
        ),
        (
            json!({"action": "Allow", "ports": [{"port": 90, "endPort": 80}]}),
            "spec.egress[0].ports[0].endPort",
        ),
        (
            json!({"action": "Allow", "ports": [{"sourceEndPort": 80}]}),
            "spec.egress[0].ports[0].sourceEndPort",
        ),
        (json!({"action": "Allow", "ports": [{"sourcePort": 0}]}), "spec.egress[0].ports[0].sourcePort"),
        (
            json!({"action": "Allow", "protocols": [{"icmp": {"icmpType": 256}}]}),
            "spec.egress[0].protocols[0].icmp.icmpType",
        ),
        (json!({"action": "Halt"}), "spec.egress[0].action: \"Halt\""),
        (json!({"action": "Allow", "from": [good]}), "spec.egress[0].from: belongs"),
    ];
    for (rule, told) in cases {
        let (policy, errors) = computed(&mut Index::new(), &egress(json!([rule])));
        assert!(policy.rules.is_empty(), "{rule} became {:?}", policy.rules);
        assert!(errors.len() == 1 && errors[0].contains(told), "{rule} gave {errors:?}");
        assert!(errors[0].starts_with("ClusterNetworkPolicy p: "), "{errors:?}");
    }
    // What can be of a rule is sent: it is narrower than what was meant.
    let rule = json!({"action": "Drop", "to": [{"externalEntitySelector": {}}, {"podSelector": {}}]});
    let (policy, errors) = computed(&mut Index::new(), &egress(json!([rule])));
    assert_eq!((policy.rules.len(), policy.rules[0].peer.address_groups.len(), errors.len()), (1, 1, 1));
    assert!(policy.rules[0].peer.ip_blocks.is_empty());
}

#[test]
fn domain_names_are_told_in_the_form_in_which_they_are_compared_and_only_of_egress() {
    let rule = json!({"action": "Drop", "to": [{"fqdn": "*.Example.COM."}, {"fqdn": "_a-b.example.org"}]});
    let (computed_policy, errors) = computed(&mut Index::new(), &egress(json!([rule])));
    assert_eq!(errors, Vec::<String>::new());
    let peer = &computed_policy.rules[0].peer;
    let names: Vec<&str> = peer.fqdns.iter().map(|name| &**name).collect();
    assert_eq!(names, ["*.example.com", "_a-b.example.org"]);
    assert!(peer.address_groups.is_empty() && peer.ip_blocks.is_empty());

    let spec = json!({
        "priority": 1,
        "appliedTo": [{"podSelector": {}}],
        "ingress": [{"action": "Drop", "from": [{"fqdn": "x"}]}],
    });
    let (computed_policy, errors) = computed(&mut Index::new(), &policy("", spec));
    assert!(computed_policy.rules.is_empty());
    assert_eq!(errors, ["ClusterNetworkPolicy p: spec.ingress[0].from[0].fqdn: belongs to egress rules"]);
}

#[test]
fn nodes_are_peers_of_rules_of_the_cluster_and_nobody_else() {
    let node = |name: &str, zone: &str, ip: &str| k8s::Node {
        name: name.into(),
        labels: [("zone", zone)].into_iter().collect(),
        ips: vec![ip.parse().unwrap(), "10.244.9.1".parse().unwrap()],
    };
    let mut index = Index::new();
    index.apply_node(&node("n1", "a", "192.0.2.1"));
    index.apply_node(&node("n2", "b", "192.0.2.2"));
    let peer = json!({"nodeSelector": {"matchLabels": {"zone": "a"}}});
    let spec = json!({
        "priority": 1,
        "appliedTo": [{"podSelector": {}}],
        "ingress": [{"action": "Allow", "from": [peer]}],
        "egress": [{"action": "Drop", "to": [peer, {"podSelector": {}}]}],
    });
    let (computed_policy, errors) = computed(&mut index, &policy("", spec.clone()));
    assert_eq!(errors, Vec::<String>::new());
    let group = computed_policy.rules[0].peer.address_groups[0].clone();
    assert!(computed_policy.rules[1].peer.address_groups.contains(&group));
    let members = |index: &Index, group: &antrea_policy::model::GroupName| -> Vec<String> {
        let found = index.address_groups().find(|found| found.name == *group).unwrap();
        let text = |member: &antrea_policy::model::AddressMember| {
            let ips: Vec<String> = member.ips.iter().map(|ip| ip.to_string()).collect();
            format!("{:?} {}", member.pod.as_node().map(|(node, _)| node), ips.join(" "))
        };
        let mut texts: Vec<String> = found.members.iter().map(text).collect();
        texts.sort();
        texts
    };
    assert_eq!(members(&index, &group), [r#"Some("n1") 10.244.9.1"#, r#"Some("n1") 192.0.2.1"#]);
    // Nodes are no Pods.
    let pods = computed_policy.rules[1].peer.address_groups.iter().find(|name| **name != group).unwrap();
    assert_eq!(members(&index, pods), Vec::<String>::new());
    assert!(computed_policy.applied_to.iter().all(|name| *name == *pods));

    let (computed_policy, errors) = computed(&mut Index::new(), &policy("own", spec));
    assert!(computed_policy.rules.iter().all(|rule| !rule.peer.address_groups.contains(&group)));
    assert_eq!(
        errors[0],
        "NetworkPolicy own/p: spec.ingress[0].from[0].nodeSelector: is for ClusterNetworkPolicies only"
    );
}

#[test]
fn services_are_destinations_of_egress_rules_and_of_the_policys_namespace_where_none_is_named() {
    let services = json!([{"name": "a", "namespace": "n"}, {"name": "b", "scope": "Cluster"}]);
    let spec = json!({
        "priority": 1,
        "appliedTo": [{"podSelector": {}}],
        "egress": [{"action": "Drop", "toServices": services}],
    });
    let (computed_policy, errors) = computed(&mut Index::new(), &policy("own", spec.clone()));
    assert_eq!(errors, Vec::<String>::new());
    let [rule] = &*computed_policy.rules else { panic!("{computed_policy:?}") };
    let named: Vec<_> = rule.peer.to_services.iter().map(|s| format!("{}/{}", s.namespace, s.name)).collect();
    assert_eq!(named, ["n/a", "own/b"]);
    assert!(
        rule.peer.ip_blocks.is_empty() && rule.peer.address_groups.is_empty() && rule.services.is_empty()
    );

    // Without a namespace of its own, what names none is left out, and the rest stays what it says.
    let (computed_policy, errors) = computed(&mut Index::new(), &policy("", spec.clone()));
    assert_eq!(computed_policy.rules[0].peer.to_services.len(), 1);
    assert!(errors[0].contains("spec.egress[0].toServices[1]: needs name"), "{errors:?}");

    let mut turned = spec;
    turned["ingress"] = turned["egress"].take();
    turned["egress"] = json!([]);
    let (computed_policy, errors) = computed(&mut Index::new(), &policy("own", turned));
    assert!(computed_policy.rules.is_empty());
    assert!(errors[0].contains("spec.ingress[0].toServices: belongs to rules of the other"), "{errors:?}");
}

#[test]
fn a_rule_never_applies_to_more_than_it_says() {
    let rule = json!({"action": "Allow", "appliedTo": [{"group": "none"}]});
    let spec = json!({"priority": 1, "appliedTo": [{"podSelector": {}}], "ingress": [rule]});
    let (computed_policy, errors) = computed(&mut Index::new(), &policy("", spec));
    assert!(computed_policy.rules.is_empty(), "those of the policy are not meant");
    assert_eq!(
        errors,
        [
            "ClusterNetworkPolicy p: spec.ingress[0].appliedTo[0].group: there is no group \"none\": until there is it has no members"
        ]
    );
    let target = |target: Value| {
        let spec = json!({"priority": 1, "appliedTo": [target], "ingress": [{"action": "Drop"}]});
        computed(&mut Index::new(), &policy("shop", spec))
    };
    for bad in [
        json!({"namespaceSelector": {}}),
        json!({"nodeSelector": {}}),
        json!({}),
        json!({"serviceAccount": {}}),
    ] {
        let (policy, errors) = target(bad.clone());
        assert!(policy.applied_to.is_empty() && policy.rules.is_empty(), "{bad}");
        assert!(errors[0].starts_with("NetworkPolicy shop/p: spec.appliedTo[0]"), "{errors:?}");
    }
    // A malformed selector would select more without what is malformed.
    let bad =
        json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}});
    assert!(target(bad).0.applied_to.is_empty());
}

/// By what the API server says of a Pod, not by a label that anybody may write.
#[test]
fn a_service_account_stands_for_the_pods_that_run_as_it() {
    let mut index = Index::new();
    let pod = |namespace: &str, name: &str, account: &str, ip: &str, labels: Value| -> k8s::Pod {
        let metadata = json!({"namespace": namespace, "name": name, "labels": labels});
        let spec = json!({"serviceAccountName": account, "nodeName": "n1"});
        serde_json::from_value(
            json!({"metadata": metadata, "spec": spec, "status": {"podIPs": [{"ip": ip}]}}),
        )
        .unwrap()
    };
    let forged = json!({"internal.antrea.io/service-account": "web"});
    for pod in [
        pod("shop", "web", "web", "10.0.0.1", Value::Null),
        pod("shop", "other", "default", "10.0.0.2", forged),
        pod("blog", "web", "web", "10.0.0.3", Value::Null),
    ] {
        index.apply_namespace(&serde_json::from_value(json!({"metadata": {"name": pod.namespace}})).unwrap());
        index.apply_pod(&pod);
    }
    let account = |namespace: &str| json!({"serviceAccount": {"name": "web", "namespace": namespace}});
    let spec = json!({
        "priority": 5, "appliedTo": [account("shop")],
        "ingress": [{"action": "Drop", "from": [account("blog")]}],
    });
    let (found, errors) = computed(&mut index, &policy("", spec.clone()));
    assert_eq!(errors, Vec::<String>::new());
    let targets = index.applied_to_group(&found.applied_to[0]).unwrap().members;
    let names: Vec<_> = targets.iter().map(|pod| (&*pod.namespace, &*pod.name)).collect();
    assert_eq!(names, [("shop", "web")]);
    let peers = index.address_group(&found.rules[0].peer.address_groups[0]).unwrap().members;
    assert_eq!(peers.iter().map(|member| &*member.pod.namespace).collect::<Vec<_>>(), ["blog"]);

    let (found, errors) = computed(&mut index, &policy("blog", spec));
    assert!(found.applied_to.is_empty() && found.rules.is_empty());
    assert!(errors[0].contains("spec.appliedTo[0].serviceAccount.namespace: is for Cluster"), "{errors:?}");
    let bad = json!({"action": "Drop", "to": [{"serviceAccount": {"name": "web"}}]});
    let (found, errors) = computed(&mut index, &egress(json!([bad])));
    assert!(found.rules.is_empty() && errors[0].contains("serviceAccount: needs name and"), "{errors:?}");
}

#[test]
fn a_policy_whose_tier_is_away_keeps_denying_only() {
    let rules = json!([{"action": "Allow"}, {"action": "Pass"}, {"action": "Drop"}, {"action": "Reject"}]);
    let spec = json!({"tier": "mine", "priority": 1, "appliedTo": [{"podSelector": {}}], "ingress": rules});
    let mut index = Index::new();
    let (without, errors) = computed(&mut index, &policy("", spec.clone()));
    let actions = |policy: &NetworkPolicy| policy.rules.iter().map(|rule| rule.action).collect::<Vec<_>>();
    assert_eq!((actions(&without), without.tier_priority), (vec![Action::Drop, Action::Reject], Some(250)));
    assert!(errors[0].contains("spec.tier: there is no Tier \"mine\""), "{errors:?}");
    index.apply_tier(&crd::Tier { name: "mine".into(), priority: 20 });
    let (with, errors) = computed(&mut index, &policy("", spec.clone()));
    assert_eq!((actions(&with).len(), with.tier_priority, errors.len()), (4, Some(20), 0));
    // Not even an object of theirs moves the tiers that always exist.
    index.apply_tier(&crd::Tier { name: "baseline".into(), priority: 1 });
    let mut spec = spec;
    spec["tier"] = "baseline".into();
    assert_eq!(computed(&mut index, &policy("", spec)).0.tier_priority, Some(253));
}

#[test]
fn groups_are_what_they_hold() {
    let group = |name: &str, spec: Value| -> crd::Group {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    let mut index = Index::new();
    index.apply_group(&group("pods", json!({"podSelector": {"matchLabels": {"a": "b"}}})));
    index.apply_group(&group("blocks", json!({"ipBlocks": [{"cidr": "10.0.0.0/8"}, {"cidr": "bad"}]})));
    index.apply_group(&group("both", json!({"childGroups": ["pods", "blocks", "nested"]})));
    index.apply_group(&group("nested", json!({"childGroups": ["pods"]})));
    let rules = json!([{"action": "Drop", "to": [{"group": "both"}]}]);
    let (policy, errors) = computed(&mut index, &egress(rules.clone()));
    let peer = &policy.rules[0].peer;
    assert_eq!((peer.address_groups.len(), peer.ip_blocks.len()), (1, 1));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].contains("ipBlocks[1].cidr") && errors[1].contains("\"nested\" has childGroups"),
        "{errors:?}"
    );
    // Addresses cannot be applied to.
    let applied = crd::Policy {
        spec: serde_json::from_value(json!({"appliedTo": [{"group": "both"}]})).unwrap(),
        ..egress(rules)
    };
    let (policy, errors) = computed(&mut index, &applied);
    assert_eq!(policy.applied_to.len(), 1);
    assert!(errors.iter().any(|error| error.contains("a policy applies to Pods")), "{errors:?}");
}

#[test]
fn a_group_by_service_follows_its_selector() {
    let service = |spec: Value| -> k8s::Service {
        let metadata = json!({"namespace": "shop", "name": "db"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    };
    let group = |namespace: &str, reference: Value| -> crd::Group {
        let metadata = json!({"name": "g", "namespace": namespace});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"serviceReference": reference}}))
            .unwrap()
    };
    let mut index = Index::new();
    index.apply_group(&group("", json!({"name": "db", "namespace": "shop"})));
    let policy_of = |namespace: &str| {
        policy(
            namespace,
            json!({"priority": 5, "appliedTo": [{"group": "g"}], "ingress": [{"action": "Drop"}]}),
        )
    };
    let (found, errors) = computed(&mut index, &policy_of(""));
    let missing = "ClusterNetworkPolicy p: spec.appliedTo[0].group.serviceReference: there is no Service \"shop/db\": until there is nobody is behind it";
    assert_eq!((found.applied_to.len(), errors), (0, vec![missing.to_owned()]));
    index.apply_service(&service(json!({"selector": {"app": "db", "tier": "a"}})));
    index.drain();
    assert_eq!(index.take_computed().len(), 1, "the Service that it waited for");
    let (found, errors) = computed(&mut index, &policy_of(""));
    assert_eq!((found.applied_to.len(), errors), (1, vec![]));
    let both = found.applied_to[0].clone();
    index.apply_service(&service(json!({"selector": {"app": "db"}})));
    index.drain();
    assert_ne!(index.native("", "p").unwrap().policy.applied_to[0], both);
    for spec in [json!({}), json!({"selector": {"app": "db"}, "type": "ExternalName"})] {
        index.apply_service(&service(spec));
        let (found, errors) = computed(&mut index, &policy_of(""));
        assert!(found.applied_to.is_empty() && errors[0].ends_with("has no selector: nobody is behind it"));
    }
    // Whoever writes policies in a namespace decides nothing about the Pods of another.
    index.apply_service(&service(json!({"selector": {"app": "db"}})));
    index.apply_group(&group("blog", json!({"name": "db", "namespace": "shop"})));
    let (found, errors) = computed(&mut index, &policy_of("blog"));
    assert!(found.applied_to.is_empty());
    assert!(
        errors[0].ends_with("group.serviceReference.namespace: is for ClusterNetworkPolicies only"),
        "{errors:?}"
    );
    index.apply_group(&group("shop", json!({"name": "db"})));
    assert_eq!(computed(&mut index, &policy_of("shop")).0.applied_to.len(), 1);
}

#[test]
fn rules_by_namespace_follow_the_namespaces() {
    let mut index = Index::new();
    let rule = json!({"action": "Allow", "from": [{"namespaces": {"match": "Self"}}]});
    let policy = policy("", json!({"priority": 1, "appliedTo": [{"podSelector": {}}], "ingress": [rule]}));
    assert_eq!(computed(&mut index, &policy).0.rules.len(), 0);
    for name in ["b", "a"] {
        index.apply_namespace(&k8s::Namespace { name: name.into(), ..Default::default() });
    }
    let (two, errors) = computed(&mut index, &policy);
    assert_eq!((two.rules.len(), errors.len()), (2, 0));
    assert!(two.rules.iter().all(|rule| rule.priority == 0 && rule.applied_to.len() == 1));
    index.delete_namespace("a");
    assert_eq!(computed(&mut index, &policy).0.rules.len(), 1);
    index.take_computed();
    index.apply_namespace(&k8s::Namespace { name: "c".into(), ..Default::default() });
    index.drain();
    assert_eq!(index.take_computed().len(), 1);
}

#[test]
fn a_policy_of_a_namespace_cannot_look_by_namespaces() {
    let rule = json!({"action": "Drop", "from": [{"namespaces": {"match": "Self"}}]});
    let spec = json!({"priority": 1, "appliedTo": [{"podSelector": {}}], "ingress": [rule]});
    let (policy, errors) = computed(&mut Index::new(), &policy("shop", spec));
    assert!(policy.rules.is_empty());
    assert_eq!(
        errors,
        ["NetworkPolicy shop/p: spec.ingress[0].from[0].namespaces: is for ClusterNetworkPolicies only"]
    );
}

#[test]
fn too_much_for_a_node_is_left_out() {
    let except: Vec<String> = (0..200).map(|i| format!("10.{i}.77.1/32")).collect();
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": except}});
    let (policy, errors) =
        computed(&mut Index::new(), &egress(json!([{"action": "Drop", "to": vec![block; 9]}])));
    assert!(policy.rules.is_empty());
    assert!(errors[0].contains("more than"), "{errors:?}");
}

#[test]
fn a_policy_of_services_is_for_all_nodes() {
    let mut index = Index::new();
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name}, "status": {"addresses": [{"address": format!("192.0.2.{}", &name[1..])}]}});
        index.apply_node(&serde_json::from_value(node).unwrap());
    }
    let db = json!([{"service": {"name": "db", "namespace": "shop"}}]);
    let outside = json!({"ipBlock": {"cidr": "203.0.113.0/24"}});
    let spec = json!({
        "priority": 5, "appliedTo": db,
        "ingress": [{"action": "Allow", "from": [outside]}, {"action": "Drop"}],
    });
    let (found, errors) = computed(&mut index, &policy("", spec));
    assert_eq!((errors, found.rules.len(), found.applied_to.len()), (vec![], 2, 1));
    let named = |rule: &antrea_policy::model::Rule| {
        rule.on_services.iter().map(|s| format!("{}/{}", s.namespace, s.name)).collect::<Vec<_>>()
    };
    assert!(found.rules.iter().all(|rule| named(rule) == ["shop/db"] && rule.applied_to.is_empty()));
    let span = |index: &Index| {
        let mut span =
            index.native("", "p").unwrap().span.iter().map(ToString::to_string).collect::<Vec<_>>();
        span.sort();
        span
    };
    assert_eq!(span(&index), ["n1", "n2"]);
    index.delete_node("n1");
    index.drain();
    assert_eq!(span(&index), ["n2"]);
    // A rule may say it alone.
    let of_rule = json!({"priority": 5, "ingress": [{"action": "Drop", "appliedTo": db},
                         {"action": "Drop", "appliedTo": [{"podSelector": {}}]}]});
    let (found, _) = computed(&mut index, &policy("", of_rule));
    assert_eq!(found.rules.iter().map(|rule| rule.on_services.len()).collect::<Vec<_>>(), [1, 0]);
}
