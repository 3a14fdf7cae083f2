//! What an API server refuses of Tiers, policies and groups, and by which words.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};

/// Messages of the CEL rules that an object breaks, joined; `old` is the object before it was changed.
fn broken(object: &Value, old: Option<&Value>) -> String {
    let kind = object["kind"].as_str().unwrap();
    let crd = antrea_crds::operand().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let schema = serde_json::to_value(&crd)
        .unwrap()
        .pointer("/spec/versions/0/schema/openAPIV3Schema")
        .unwrap()
        .clone();
    match kube_cel::Validator::new().validate(&schema, object, old) {
        Ok(()) => String::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; "),
    }
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn policy(applied_to: Value, rules: Value) -> Value {
    let mut spec = json!({"priority": 5, "appliedTo": applied_to});
    for (field, value) in rules.as_object().unwrap() {
        spec[field] = value.clone();
    }
    object("ClusterNetworkPolicy", "p", spec)
}

/// A policy with one egress rule, of this action and with these fields.
fn egress(action: &str, fields: Value) -> Value {
    let mut rule = fields;
    rule["action"] = action.into();
    policy(json!([{"podSelector": {}}]), json!({"egress": [rule]}))
}

#[test]
fn what_can_be_enforced_is_taken() {
    let pods = json!({"matchLabels": {"app": "web"}});
    let cases = [
        egress("Drop", json!({})),
        egress(
            "Reject",
            json!({"to": [{"podSelector": pods}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}),
        ),
        egress("Pass", json!({"to": [{"podSelector": pods, "namespaces": {"match": "Self"}}]})),
        egress("Allow", json!({"to": [{"namespaces": {"sameLabels": ["team"]}}, {"group": "g"}]})),
        egress(
            "Allow",
            json!({"ports": [{"protocol": "TCP", "port": 80, "endPort": 90, "sourcePort": 5, "sourceEndPort": 5}, {"port": "http"}]}),
        ),
        egress(
            "Drop",
            json!({"protocols": [{"icmp": {"icmpType": 8, "icmpCode": 0}}, {"icmp": {}}], "enableLogging": true, "logLabel": "a"}),
        ),
        egress("Drop", json!({"to": [{"serviceAccount": {"name": "a", "namespace": "n"}}]})),
        policy(json!([{"serviceAccount": {"name": "a", "namespace": "n"}}]), json!({})),
        egress("Allow", json!({"to": [{"fqdn": "*.example.com"}]})),
        egress("Drop", json!({"to": [{"podSelector": {}}, {"fqdn": "a.example.com"}]})),
        egress(
            "Drop",
            json!({"to": [{"nodeSelector": {"matchLabels": {"zone": "a"}}}, {"podSelector": {}}]}),
        ),
        egress("Drop", json!({"toServices": [{"name": "s", "namespace": "n", "scope": "Cluster"}]})),
        // What upstream's objects have and this version leaves out: an Allow less is stricter.
        egress("Allow", json!({"toServices": [{"name": "s", "namespace": "n", "scope": "ClusterSet"}]})),
        egress("Allow", json!({"l7Protocols": [{"http": {"path": "/x"}}]})),
        policy(json!([]), json!({"ingress": [{"action": "Allow", "appliedTo": [{"group": "g"}]}]})),
        policy(json!([{"group": "g"}]), json!({})),
        object("Tier", "mine", json!({"priority": 10, "description": "x"})),
        object("Tier", "baseline", json!({"priority": 253})),
        object("ClusterGroup", "g", json!({"podSelector": pods, "namespaceSelector": {}})),
        object("ClusterGroup", "g", json!({"childGroups": ["a", "b"]})),
        object("Group", "g", json!({"ipBlocks": [{"cidr": "fd00::/8"}]})),
    ];
    for case in cases {
        assert_eq!(broken(&case, None), "", "{case}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_a_message_that_names_the_field() {
    let deny = |peer: Value| egress("Drop", json!({"to": [{"podSelector": {}}, peer]}));
    let account = json!({"name": "a", "namespace": "n"});
    let cases = [
        (deny(json!({"fqdn": "a.example.com", "podSelector": {}})), "a peer of Pods"),
        (deny(json!({"fqdn": "a.example.com", "group": "g"})), "serviceAccount and fqdn exclude"),
        (deny(json!({"serviceAccount": account, "group": "g"})), "serviceAccount and fqdn exclude"),
        (policy(json!([{"serviceAccount": account, "group": "g"}]), json!({})), "appliedTo: name a group"),
        (deny(json!({"nodeSelector": {}, "podSelector": {}})), "a peer of Pods"),
        (
            deny(json!({"nodeSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            "nodeSelector: a peer of Nodes",
        ),
        (deny(json!({"externalEntitySelector": {}})), "to: this version"),
        (deny(json!({"podSelector": {}, "scope": "ClusterSet"})), "to: this version"),
        (
            egress("Reject", json!({"toServices": [{"name": "s"}, {"name": "s", "scope": "ClusterSet"}]})),
            "toServices: this version",
        ),
        (
            egress("Drop", json!({"toServices": [{"name": "s"}], "to": [{"podSelector": {}}]})),
            "toServices: excludes",
        ),
        (
            egress("Allow", json!({"toServices": [{"name": "s"}], "ports": [{"port": 1}]})),
            "toServices: excludes",
        ),
        (egress("Drop", json!({"l7Protocols": [{"tls": {}}]})), "l7Protocols: belongs"),
        (
            egress("Drop", json!({"protocols": [{"igmp": {}}]})),
            "protocols: this version does not enforce igmp",
        ),
        (egress("Allow", json!({"protocols": [{}]})), "protocols: each is one"),
        (egress("Allow", json!({"protocols": [{"icmp": {"icmpCode": 1}}]})), "icmpCode: needs"),
        (egress("Allow", json!({"to": [{"group": "g", "podSelector": {}}]})), "a peer of Pods"),
        (
            egress("Allow", json!({"to": [{"namespaces": {"match": "Self"}, "namespaceSelector": {}}]})),
            "namespaces: excludes",
        ),
        (egress("Allow", json!({"to": [{"namespaces": {}}]})), "namespaces: set match or sameLabels"),
        (egress("Allow", json!({"ports": [{"endPort": 90}]})), "endPort: needs"),
        (egress("Allow", json!({"ports": [{"sourceEndPort": 90}]})), "sourceEndPort: needs"),
        (egress("Allow", json!({"from": [{"podSelector": {}}]})), "spec.egress: from belongs to ingress"),
        (
            policy(
                json!([{"podSelector": {}}]),
                json!({"ingress": [{"action": "Allow", "to": [{"podSelector": {}}]}]}),
            ),
            "spec.ingress: to and toServices belong to egress",
        ),
        (
            policy(
                json!([{"podSelector": {}}]),
                json!({"ingress": [{"action": "Allow", "appliedTo": [{"podSelector": {}}]}]}),
            ),
            "spec.appliedTo: is for the whole policy or for each rule",
        ),
        (
            policy(
                json!([{"podSelector": {}}]),
                json!({"ingress": [{"action": "Drop", "from": [{"fqdn": "a.example.com"}]}]}),
            ),
            "from: fqdn belongs to egress rules",
        ),
        (policy(json!([]), json!({"ingress": [{"action": "Allow"}]})), "spec.appliedTo: say"),
        (policy(json!([{}]), json!({})), "appliedTo: name a group"),
        (
            policy(json!([{"nodeSelector": {}}]), json!({})),
            "appliedTo: nodeSelector would apply a policy to processes of Nodes (NodeNetworkPolicy)",
        ),
        (
            policy(json!([{"service": {"name": "s", "namespace": "n"}}]), json!({})),
            "appliedTo: this version applies policies to Pods only",
        ),
        (policy(json!([{"group": "g", "podSelector": {}}]), json!({})), "appliedTo: name a group"),
        (
            object("Tier", "emergency", json!({"priority": 51})),
            "spec.priority: that of a Tier which always exists",
        ),
        (object("Tier", "mine", json!({"priority": 253})), "spec.priority: belongs to a Tier"),
        (
            object("ClusterGroup", "g", json!({"podSelector": {}, "ipBlocks": [{"cidr": "::/0"}]})),
            "spec: a group is of one kind",
        ),
        (
            object("Group", "g", json!({"serviceReference": {"name": "s"}})),
            "spec: this version has no groups",
        ),
    ];
    for (case, words) in cases {
        let message = broken(&case, None);
        assert!(message.contains(words), "{case} gave {message:?}");
    }
    let [old, new] = [10, 11].map(|priority| object("Tier", "mine", json!({"priority": priority})));
    assert!(broken(&new, Some(&old)).contains("spec.priority: cannot be changed"));
    assert_eq!(broken(&old, Some(&old)), "");
}

#[test]
fn static_tiers_are_what_the_schema_takes() {
    for (name, priority, description) in antrea_crds::policy::STATIC_TIERS {
        let tier = object("Tier", name, json!({"priority": priority, "description": description}));
        assert_eq!(broken(&tier, None), "");
    }
}

/// The sample and the examples of docs/policies.md are accepted, and each of their fields exists.
#[test]
fn the_documented_policies_are_accepted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut texts = vec![std::fs::read_to_string(root.join("config/samples/policies.yaml")).unwrap()];
    let page = std::fs::read_to_string(root.join("docs/policies.md")).unwrap_or_default();
    texts.extend(page.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap().to_owned()));
    for text in texts {
        for document in text.split("---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            assert_eq!(broken(&object, None), "", "{document}");
            fn round<T: serde::Serialize + serde::de::DeserializeOwned>(spec: &Value) -> Value {
                serde_json::to_value(serde_json::from_value::<T>(spec.clone()).unwrap()).unwrap()
            }
            use antrea_crds::policy as p;
            let spec = &object["spec"];
            let known = match object["kind"].as_str().unwrap() {
                "Tier" => round::<p::TierSpec>(spec),
                "ClusterNetworkPolicy" => round::<p::ClusterNetworkPolicySpec>(spec),
                "NetworkPolicy" => round::<p::NetworkPolicySpec>(spec),
                "ClusterGroup" => round::<p::ClusterGroupSpec>(spec),
                "Group" => round::<p::GroupSpec>(spec),
                other => panic!("{other} is not tested"),
            };
            let mut spec = spec.clone();
            if let Some(priority) = spec.get_mut("priority").filter(|_| object["kind"] != "Tier") {
                *priority = priority.as_f64().into();
            }
            assert_eq!(known, spec);
        }
    }
}
