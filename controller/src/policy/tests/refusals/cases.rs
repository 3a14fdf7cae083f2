//! Objects with one mistake each.

use serde_json::{Value, json};

use crate::policy::tests::admission::spec;

/// The kind (the last part of the webhook's path), the object's spec, and what is said of it.
pub(super) type Case = (&'static str, Value, &'static str);

fn ingress(fields: Value) -> Value {
    let mut rule = json!({"action": "Drop"});
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    spec(rule)
}

fn from(peer: Value) -> Value {
    ingress(json!({"from": [peer]}))
}

fn egress(fields: Value) -> Value {
    let mut policy = ingress(fields);
    policy["egress"] = policy["ingress"].take();
    policy.as_object_mut().unwrap().remove("ingress");
    policy
}

fn port(port: Value) -> Value {
    ingress(json!({"ports": [port]}))
}

fn applied_to(target: Value) -> Value {
    json!({"priority": 5, "tier": "gold", "appliedTo": [target], "ingress": [{"action": "Drop"}]})
}

fn targets() -> Vec<Case> {
    let other = json!({"serviceAccount": {"name": "a", "namespace": "blog"}});
    let expression =
        |expression: Value| applied_to(json!({"podSelector": {"matchExpressions": [expression]}}));
    vec![
        (
            "acnp",
            applied_to(json!({})),
            "spec.appliedTo[0]: needs podSelector, namespaceSelector, serviceAccount, group or service",
        ),
        (
            "acnp",
            applied_to(json!({"group": "blocks", "podSelector": {}})),
            "spec.appliedTo[0]: group, serviceAccount, service and selectors exclude each other",
        ),
        (
            "acnp",
            applied_to(json!({"group": "blocks"})),
            "spec.appliedTo[0].group: a policy applies to Pods, not to the ipBlocks of a group",
        ),
        (
            "acnp",
            applied_to(json!({"serviceAccount": {"name": "a"}})),
            "spec.appliedTo[0].serviceAccount: needs name and namespace",
        ),
        (
            "annp",
            applied_to(other),
            "spec.appliedTo[0].serviceAccount.namespace: is for ClusterNetworkPolicies only",
        ),
        (
            "annp",
            applied_to(json!({"namespaceSelector": {}})),
            "spec.appliedTo[0].namespaceSelector: is for ClusterNetworkPolicies only",
        ),
        (
            "acnp",
            expression(json!({"key": "a", "operator": "Is"})),
            "spec.appliedTo[0].podSelector.matchExpressions[0].operator: \"Is\" is not one of In, NotIn, Exists, DoesNotExist",
        ),
        (
            "acnp",
            expression(json!({"key": "a", "operator": "In"})),
            "spec.appliedTo[0].podSelector.matchExpressions[0].values: In and NotIn need at least one value",
        ),
        (
            "acnp",
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            "spec.appliedTo[0].podSelector.matchExpressions[0].values: Exists and DoesNotExist take no values",
        ),
    ]
}

/// Of what applies to Services.
fn services() -> Vec<Case> {
    let db = json!({"service": {"name": "db", "namespace": "shop"}});
    let of_db = |fields: Value| {
        let mut policy = ingress(fields);
        policy["appliedTo"] = json!([db]);
        policy
    };
    let both = |mut policy: Value| {
        policy["appliedTo"] = json!([db, {"podSelector": {}}]);
        policy
    };
    let last = |mut policy: Value| {
        policy["tier"] = "baseline".into();
        policy
    };
    let of_egress = |mut policy: Value| {
        policy["appliedTo"] = json!([db]);
        policy
    };
    vec![
        (
            "acnp",
            both(ingress(json!({}))),
            "spec.appliedTo: is of Services or of Pods, not of both; the Services are left out",
        ),
        (
            "acnp",
            of_egress(egress(json!({}))),
            "spec.egress[0]: applies to Services, which is for ingress rules; the rule is left out",
        ),
        (
            "acnp",
            last(of_db(json!({}))),
            "spec.ingress[0]: applies to Services, which have no place in the Tier baseline; the rule is left out",
        ),
        (
            "acnp",
            of_db(json!({"ports": [{"port": 80}]})),
            "spec.ingress[0].ports: a rule that applies to Services has none, for a Service says where it is; the rule is left out",
        ),
        (
            "acnp",
            of_db(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"podSelector": {}}]})),
            "spec.ingress[0].from[1]: a rule that applies to Services has peers by ipBlock alone; the rule is left out",
        ),
        (
            "acnp",
            applied_to(json!({"service": {"name": "db"}})),
            "spec.appliedTo[0].service: needs name and namespace of a Service",
        ),
        (
            "annp",
            applied_to(json!({"service": {"name": "db", "namespace": "blog"}})),
            "spec.appliedTo[0].service.namespace: is for ClusterNetworkPolicies only",
        ),
    ]
}

fn peers() -> Vec<Case> {
    const MIXED: &str = "spec.ingress[0].from[0]: ipBlock, group, serviceAccount, fqdn, nodeSelector and selectors exclude each other";
    let block = json!({"cidr": "10.0.0.0/8"});
    vec![
        (
            "acnp",
            from(json!({})),
            "spec.ingress[0].from[0]: a peer needs podSelector, namespaceSelector, namespaces, serviceAccount, group, ipBlock, fqdn or nodeSelector",
        ),
        ("acnp", from(json!({"ipBlock": block, "group": "blocks"})), MIXED),
        ("acnp", from(json!({"nodeSelector": {}, "podSelector": {}})), MIXED),
        ("acnp", from(json!({"fqdn": "a.example.com", "podSelector": {}})), MIXED),
        (
            "annp",
            from(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
            "spec.ingress[0].from[0].ipBlock.cidr: \"10.0.0.0/33\" is not a CIDR",
        ),
        (
            "annp",
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 is not a part of 10.0.0.0/8",
        ),
        (
            "annp",
            from(json!({"namespaces": {"match": "Self"}})),
            "spec.ingress[0].from[0].namespaces: is for ClusterNetworkPolicies only",
        ),
        (
            "annp",
            from(json!({"nodeSelector": {}})),
            "spec.ingress[0].from[0].nodeSelector: is for ClusterNetworkPolicies only",
        ),
        (
            "acnp",
            from(json!({"namespaces": {"match": "Self"}, "namespaceSelector": {}})),
            "spec.ingress[0].from[0].namespaces: excludes namespaceSelector",
        ),
        (
            "acnp",
            from(json!({"namespaces": {"match": "Self", "sameLabels": ["team"]}})),
            "spec.ingress[0].from[0].namespaces: needs either match: Self or sameLabels",
        ),
        (
            "acnp",
            from(json!({"serviceAccount": {"namespace": "shop"}})),
            "spec.ingress[0].from[0].serviceAccount: needs name and namespace",
        ),
        (
            "acnp",
            from(json!({"fqdn": "a.example.com"})),
            "spec.ingress[0].from[0].fqdn: belongs to egress rules",
        ),
        (
            "acnp",
            egress(json!({"to": [{"fqdn": "a b"}]})),
            "spec.egress[0].to[0].fqdn: \"a b\" is not a domain name: at most 253 of a-z, 0-9, '-', '_', '.', and '*' for any part",
        ),
    ]
}

fn rules_and_ports() -> Vec<Case> {
    let all = json!({"podSelector": {}});
    let protocol = |protocol: Value| ingress(json!({"protocols": [protocol]}));
    let db = json!([{"name": "db", "namespace": "shop"}]);
    vec![
        (
            "acnp",
            spec(json!({"action": "Deny"})),
            "spec.ingress[0].action: \"Deny\" is not one of Allow, Drop, Reject, Pass",
        ),
        (
            "acnp",
            ingress(json!({"to": [all]})),
            "spec.ingress[0].to: belongs to rules of the other direction; the rule is left out",
        ),
        (
            "acnp",
            egress(json!({"from": [all]})),
            "spec.egress[0].from: belongs to rules of the other direction; the rule is left out",
        ),
        (
            "acnp",
            ingress(json!({"toServices": db})),
            "spec.ingress[0].toServices: belongs to rules of the other direction; the rule is left out",
        ),
        (
            "acnp",
            egress(json!({"toServices": db, "to": [all]})),
            "spec.egress[0].toServices: excludes to, ports and protocols, for a Service says where it is; the rule is left out",
        ),
        (
            "acnp",
            egress(json!({"toServices": [{"name": "db"}]})),
            "spec.egress[0].toServices[0]: needs name and namespace of a Service",
        ),
        (
            "acnp",
            port(json!({"protocol": "ICMP"})),
            "spec.ingress[0].ports[0].protocol: \"ICMP\" is not one of TCP, UDP, SCTP",
        ),
        ("acnp", port(json!({"port": 0})), "spec.ingress[0].ports[0].port: 0 is not a port: 1 to 65535"),
        (
            "acnp",
            port(json!({"sourcePort": 65536})),
            "spec.ingress[0].ports[0].sourcePort: 65536 is not a port: 1 to 65535",
        ),
        (
            "acnp",
            port(json!({"port": "UPPER"})),
            "spec.ingress[0].ports[0].port: \"UPPER\" is not a port name: at most 15 of a-z, 0-9 and single inner '-', at least one letter",
        ),
        (
            "acnp",
            port(json!({"port": 80, "endPort": 79})),
            "spec.ingress[0].ports[0].endPort: 79 is below port 80",
        ),
        (
            "acnp",
            port(json!({"sourcePort": 5, "sourceEndPort": 4})),
            "spec.ingress[0].ports[0].sourceEndPort: 4 is below port 5",
        ),
        (
            "acnp",
            port(json!({"endPort": 81})),
            "spec.ingress[0].ports[0].endPort: endPort needs a numeric port",
        ),
        (
            "acnp",
            port(json!({"sourceEndPort": 9})),
            "spec.ingress[0].ports[0].sourceEndPort: endPort needs a numeric port",
        ),
        ("acnp", protocol(json!({})), "spec.ingress[0].protocols[0]: needs one of icmp and igmp"),
        (
            "acnp",
            protocol(json!({"icmp": {"icmpType": 256}})),
            "spec.ingress[0].protocols[0].icmp.icmpType: 256 is not 0 to 255",
        ),
        (
            "acnp",
            protocol(json!({"icmp": {"icmpCode": 0}})),
            "spec.ingress[0].protocols[0].icmp.icmpCode: needs an icmpType",
        ),
        (
            "acnp",
            ingress(json!({"from": vec![all.clone(); 4097]})),
            "spec.ingress[0]: the rule needs more than 4096 matches of addresses and ports and allows nothing",
        ),
        (
            "acnp",
            json!({"priority": 5, "appliedTo": [all], "ingress": vec![json!({"action": "Drop", "from": vec![all.clone(); 4000]}); 5]}),
            "spec.ingress[4]: the policy needs more than 16384 matches of addresses and ports; this rule allows nothing",
        ),
    ]
}

fn objects() -> Vec<Case> {
    let all = json!([{"podSelector": {}}]);
    vec![
        (
            "acnp",
            json!({"priority": 5, "tier": "none", "appliedTo": all}),
            "spec.tier: there is no Tier \"none\": only Drop and Reject rules are in force, in the Tier application",
        ),
        (
            "annp",
            json!({"priority": 5, "established": "Later", "appliedTo": all}),
            "spec.established: \"Later\" is not one of Keep, Reset; connections are kept",
        ),
        (
            "acnp",
            json!({"priority": 5, "appliedTo": all,
                "ingress": [{"action": "Drop", "name": "a"}], "egress": [{"action": "Drop", "name": "a"}]}),
            "spec.egress[0].name: another rule has the name \"a\"",
        ),
        (
            "acnp",
            json!({"priority": 5, "tier": "baseline", "appliedTo": all, "ingress": [{"action": "Pass"}]}),
            "spec.ingress[0].action: nothing comes after the Tier baseline to which Pass could leave the decision: what matches is dropped",
        ),
        ("tier", json!({"priority": 60}), "spec.priority: is that of Tier gold"),
        (
            "clustergroup",
            json!({"ipBlocks": [{"cidr": "::/129"}]}),
            "spec.ipBlocks[0].cidr: \"::/129\" is not a CIDR",
        ),
        (
            "clustergroup",
            json!({"serviceReference": {"name": "db"}}),
            "spec.serviceReference: needs name and namespace of a Service",
        ),
        (
            "group",
            json!({"serviceReference": {"name": "db", "namespace": "blog"}}),
            "spec.serviceReference.namespace: is for ClusterNetworkPolicies only",
        ),
        (
            "clustergroup",
            json!({"childGroups": ["parent"]}),
            "spec.childGroups[0]: \"parent\" has childGroups and cannot be in childGroups itself",
        ),
        (
            "group",
            json!({"podSelector": {"matchLabels": {"a b": "c"}}}),
            "spec.podSelector.matchLabels[a b]: \"a b\" is not a label key",
        ),
        (
            "group",
            json!({"podSelector": {"matchLabels": {"a": "-"}}}),
            "spec.podSelector.matchLabels[a]: \"-\" is not a label value",
        ),
    ]
}

/// A case or more for each rule, with the words of the refusal.
pub(super) fn refused() -> Vec<Case> {
    [targets(), services(), peers(), rules_and_ports(), objects()].concat()
}

/// What is let in, with a warning.
pub(super) fn warned() -> Vec<Case> {
    let allow = |mut policy: Value| {
        policy["egress"][0]["action"] = "Allow".into();
        policy
    };
    let mut cases = vec![
        (
            "acnp",
            from(json!({"group": "later"})),
            "spec.ingress[0].from[0].group: there is no group \"later\": until there is it has no members",
        ),
        (
            "annp",
            applied_to(json!({"group": "parent"})),
            "spec.appliedTo[0].group: there is no group \"parent\": until there is it has no members",
        ),
        (
            "clustergroup",
            json!({"serviceReference": {"name": "later", "namespace": "shop"}}),
            "spec.serviceReference: there is no Service \"shop/later\": until there is nobody is behind it",
        ),
        (
            "group",
            json!({"serviceReference": {"name": "bare"}}),
            "spec.serviceReference: the Service \"shop/bare\" has no selector: nobody is behind it",
        ),
        (
            "group",
            json!({"childGroups": ["later"]}),
            "spec.childGroups[0]: there is no group \"later\": until there is it has no members",
        ),
    ];
    let unsupported = [
        (
            "acnp",
            applied_to(json!({"externalEntitySelector": {}})),
            "spec.appliedTo[0].externalEntitySelector",
        ),
        ("acnp", applied_to(json!({"nodeSelector": {}})), "spec.appliedTo[0].nodeSelector"),
        ("acnp", ingress(json!({"l7Protocols": [{"http": {}}]})), "spec.ingress[0].l7Protocols"),
        ("acnp", ingress(json!({"protocols": [{"igmp": {}}]})), "spec.ingress[0].protocols[0].igmp"),
        (
            "acnp",
            from(json!({"externalEntitySelector": {}})),
            "spec.ingress[0].from[0].externalEntitySelector",
        ),
        ("acnp", from(json!({"podSelector": {}, "scope": "ClusterSet"})), "spec.ingress[0].from[0].scope"),
        (
            "acnp",
            allow(egress(json!({"toServices": [{"name": "s", "namespace": "shop", "scope": "ClusterSet"}]}))),
            "spec.egress[0].toServices[0].scope",
        ),
        ("clustergroup", json!({"externalEntitySelector": {}}), "spec.externalEntitySelector"),
        ("clustergroup", json!({"nodeSelector": {}}), "spec.nodeSelector"),
    ];
    for (kind, spec, path) in unsupported {
        let text = format!("{path}: is not enforced by this version; what needs it is left out");
        cases.push((kind, spec, text.leak()));
    }
    cases
}
