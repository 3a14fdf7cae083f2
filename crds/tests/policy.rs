//! What an API server refuses of Tiers, policies and groups, and by which words.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

const STANDARD: &str = "policy.networking.k8s.io/v1alpha2";

/// Of a kind of `crd.antrea.io`, or of the Kubernetes project's that has this version.
fn schema(version: &str, kind: &str) -> Value {
    let group = version.split('/').next().unwrap();
    let is = |crd: &CustomResourceDefinition| crd.spec.names.kind == kind && crd.spec.group == group;
    let mut crds = antrea_crds::operand().into_iter().chain([antrea_crds::standard_crd()]);
    let crd = crds.find(is).unwrap();
    let crd = serde_json::to_value(&crd).unwrap();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

/// Fields and messages of the CEL rules that an object breaks; `old` is the object before it was changed.
fn errors(object: &Value, old: Option<&Value>) -> Vec<(String, String)> {
    let schema = schema(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    match kube_cel::Validator::new().validate(&schema, object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|e| (e.field_path.clone(), e.message.clone())).collect(),
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
        policy(
            json!([{"service": {"name": "a", "namespace": "n"}}]),
            json!({"ingress": [{"action": "Drop"}]}),
        ),
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
        object("Group", "g", json!({"serviceReference": {"name": "s"}})),
        object("ClusterGroup", "g", json!({"serviceReference": {"name": "s", "namespace": "n"}})),
    ];
    for case in cases {
        assert_eq!(errors(&case, None), [], "{case}");
    }
}

/// What is refused: the object, the field, and what is said of it.
#[allow(clippy::too_many_lines, reason = "a table")]
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    let deny = |peer: Value| egress("Drop", json!({"to": [{"podSelector": {}}, peer]}));
    let to = |peer: Value| egress("Allow", json!({"to": [peer]}));
    let port = |port: Value| egress("Allow", json!({"ports": [port]}));
    let account = json!({"name": "a", "namespace": "n"});
    let pods = json!([{"podSelector": {}}]);
    let applied_to = |target: Value| policy(json!([target]), json!({}));
    const ONE_OF_FOUR: &str = "ipBlock, group, serviceAccount and fqdn exclude each other";
    const OF_PODS: &str =
        "a peer of Pods, by podSelector with namespaceSelector or namespaces, has no other field";
    const ONE_TARGET: &str =
        "appliedTo: name a group, a ServiceAccount, a Service, or Pods by podSelector and namespaceSelector";
    const TO: &str = "to: this version does not enforce externalEntitySelector and scope, and a rule that denies would let through what it denies";
    const TO_SERVICES: &str = "toServices: excludes to, ports and protocols, for a Service says where it is";
    const NO_GROUPS_BY: &str = "spec: this version has no groups by nodeSelector and externalEntitySelector";
    vec![
        // Peers.
        (deny(json!({"fqdn": "a.example.com", "podSelector": {}})), "spec.egress[0].to[1]", OF_PODS),
        (deny(json!({"nodeSelector": {}, "podSelector": {}})), "spec.egress[0].to[1]", OF_PODS),
        (to(json!({"group": "g", "podSelector": {}})), "spec.egress[0].to[0]", OF_PODS),
        (deny(json!({"fqdn": "a.example.com", "group": "g"})), "spec.egress[0].to[1]", ONE_OF_FOUR),
        (deny(json!({"serviceAccount": account, "group": "g"})), "spec.egress[0].to[1]", ONE_OF_FOUR),
        (
            deny(json!({"nodeSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            "spec.egress[0].to[1]",
            "nodeSelector: a peer of Nodes has no other field",
        ),
        (
            to(json!({"namespaces": {"match": "Self"}, "namespaceSelector": {}})),
            "spec.egress[0].to[0]",
            "namespaces: excludes namespaceSelector",
        ),
        (
            to(json!({"namespaces": {}})),
            "spec.egress[0].to[0].namespaces",
            "namespaces: set match or sameLabels",
        ),
        (
            to(json!({"namespaces": {"match": "Self", "sameLabels": ["team"]}})),
            "spec.egress[0].to[0].namespaces",
            "namespaces: set match or sameLabels",
        ),
        // What a rule that denies cannot ask for.
        (deny(json!({"externalEntitySelector": {}})), "spec.egress[0]", TO),
        (deny(json!({"podSelector": {}, "scope": "ClusterSet"})), "spec.egress[0]", TO),
        (
            policy(
                pods.clone(),
                json!({"ingress": [{"action": "Drop", "from": [{"fqdn": "a.example.com"}]}]}),
            ),
            "spec.ingress[0]",
            "from: fqdn belongs to egress rules; this version does not enforce externalEntitySelector and scope, and a rule that denies would let through what it denies",
        ),
        (
            egress("Reject", json!({"toServices": [{"name": "s"}, {"name": "s", "scope": "ClusterSet"}]})),
            "spec.egress[0]",
            "toServices: this version does not enforce scope ClusterSet, and a rule that denies would let through what it denies",
        ),
        (
            egress("Drop", json!({"protocols": [{"igmp": {}}]})),
            "spec.egress[0]",
            "protocols: this version does not enforce igmp, and a rule that denies would let through what it denies",
        ),
        (
            egress("Drop", json!({"l7Protocols": [{"tls": {}}]})),
            "spec.egress[0]",
            "l7Protocols: belongs to rules with action Allow",
        ),
        // Rules.
        (
            egress("Drop", json!({"toServices": [{"name": "s"}], "to": [{"podSelector": {}}]})),
            "spec.egress[0]",
            TO_SERVICES,
        ),
        (
            egress("Allow", json!({"toServices": [{"name": "s"}], "ports": [{"port": 1}]})),
            "spec.egress[0]",
            TO_SERVICES,
        ),
        (
            egress("Allow", json!({"protocols": [{}]})),
            "spec.egress[0].protocols[0]",
            "protocols: each is one of icmp and igmp",
        ),
        (
            egress("Allow", json!({"protocols": [{"icmp": {"icmpCode": 1}}]})),
            "spec.egress[0].protocols[0].icmp",
            "icmpCode: needs an icmpType",
        ),
        (port(json!({"endPort": 90})), "spec.egress[0].ports[0]", "endPort: needs a port"),
        (
            port(json!({"sourceEndPort": 90})),
            "spec.egress[0].ports[0]",
            "sourceEndPort: needs a sourcePort that is not higher",
        ),
        (
            port(json!({"sourcePort": 91, "sourceEndPort": 90})),
            "spec.egress[0].ports[0]",
            "sourceEndPort: needs a sourcePort that is not higher",
        ),
        (
            egress("Allow", json!({"from": [{"podSelector": {}}]})),
            "spec",
            "spec.egress: from belongs to ingress rules",
        ),
        (
            policy(pods.clone(), json!({"ingress": [{"action": "Allow", "to": [{"podSelector": {}}]}]})),
            "spec",
            "spec.ingress: to and toServices belong to egress rules",
        ),
        // What a policy applies to.
        (
            policy(
                pods.clone(),
                json!({"ingress": [{"action": "Allow", "appliedTo": [{"podSelector": {}}]}]}),
            ),
            "spec",
            "spec.appliedTo: is for the whole policy or for each rule, not for both",
        ),
        (
            policy(json!([]), json!({"ingress": [{"action": "Allow"}]})),
            "spec",
            "spec.appliedTo: say what the policy applies to, or say it in each rule",
        ),
        (applied_to(json!({})), "spec.appliedTo[0]", ONE_TARGET),
        (applied_to(json!({"group": "g", "podSelector": {}})), "spec.appliedTo[0]", ONE_TARGET),
        (applied_to(json!({"serviceAccount": account, "group": "g"})), "spec.appliedTo[0]", ONE_TARGET),
        (
            applied_to(json!({"podSelector": {}, "nodeSelector": {}})),
            "spec.appliedTo[0]",
            "appliedTo: nodeSelector would apply a policy to processes of Nodes (NodeNetworkPolicy), which this version does not do; as a peer of a rule it is possible",
        ),
        (
            applied_to(json!({"podSelector": {}, "service": {"name": "s", "namespace": "n"}})),
            "spec.appliedTo[0]",
            ONE_TARGET,
        ),
        (
            applied_to(json!({"podSelector": {}, "externalEntitySelector": {}})),
            "spec.appliedTo[0]",
            "appliedTo: this version has no ExternalEntities",
        ),
        // Tiers and groups.
        (
            object("Tier", "emergency", json!({"priority": 51})),
            "",
            "spec.priority: that of a Tier which always exists cannot be changed",
        ),
        (
            object("Tier", "mine", json!({"priority": 253})),
            "",
            "spec.priority: belongs to a Tier which always exists, or is reserved",
        ),
        (
            object("ClusterGroup", "g", json!({"podSelector": {}, "ipBlocks": [{"cidr": "::/0"}]})),
            "spec",
            "spec: a group is of one kind: podSelector with namespaceSelector, ipBlocks, childGroups, serviceReference, nodeSelector or externalEntitySelector",
        ),
        (object("ClusterGroup", "g", json!({"nodeSelector": {}})), "spec", NO_GROUPS_BY),
        (object("ClusterGroup", "g", json!({"externalEntitySelector": {}})), "spec", NO_GROUPS_BY),
    ]
}

/// Messages of all rules of these kinds, wherever they stand.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let rules = value.as_array().filter(|_| name == "x-kubernetes-validations");
            found
                .extend(rules.into_iter().flatten().map(|rule| rule["message"].as_str().unwrap().to_owned()));
            messages(value, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

#[test]
fn each_rule_refuses_by_its_message_and_names_the_field() {
    let mut hit = BTreeSet::new();
    for (case, path, message) in refused() {
        assert_eq!(errors(&case, None), [(path.to_owned(), message.to_owned())], "{case}");
        hit.insert(message.to_owned());
    }
    let everybody = json!({"namespaces": {}});
    for (rule, path, message) in [
        (
            json!({"action": "Deny", "to": [{"networks": ["192.0.2.0/24"]}], "protocols": [{"destinationNamedPort": "http"}]}),
            "spec.egress[0]",
            "protocols: destinationNamedPort means nothing at networks, nodes and domainNames",
        ),
        (
            json!({"action": "Deny", "to": [everybody], "protocols": [{"tcp": {"destinationPort": {"range": {"start": 5, "end": 5}}}}]}),
            "spec.egress[0].protocols[0].tcp.destinationPort.range",
            "range: start must be less than end",
        ),
    ] {
        let spec = json!({"tier": "Admin", "priority": 5, "subject": everybody, "egress": [rule]});
        let case = json!({"apiVersion": STANDARD, "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec});
        assert_eq!(errors(&case, None), [(path.to_owned(), message.to_owned())], "{case}");
        hit.insert(message.to_owned());
    }
    let [old, new] = [10, 11].map(|priority| object("Tier", "mine", json!({"priority": priority})));
    let unchangeable = "spec.priority: cannot be changed; make another Tier";
    assert_eq!(errors(&new, Some(&old)), [("spec".to_owned(), unchangeable.to_owned())]);
    assert_eq!(errors(&old, Some(&old)), []);
    hit.insert(unchangeable.to_owned());

    let mut all = BTreeSet::new();
    for kind in ["Tier", "ClusterNetworkPolicy", "NetworkPolicy", "ClusterGroup", "Group"] {
        messages(&schema("crd.antrea.io/v1beta1", kind), &mut all);
    }
    messages(&schema(STANDARD, "ClusterNetworkPolicy"), &mut all);
    assert_eq!(hit, all, "each rule has a case");
}

#[test]
fn static_tiers_are_what_the_schema_takes() {
    for (name, priority, description) in antrea_crds::policy::STATIC_TIERS {
        let tier = object("Tier", name, json!({"priority": priority, "description": description}));
        assert_eq!(errors(&tier, None), []);
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
            assert_eq!(errors(&object, None), [], "{document}");
            fn round<T: serde::Serialize + serde::de::DeserializeOwned>(spec: &Value) -> Value {
                serde_json::to_value(serde_json::from_value::<T>(spec.clone()).unwrap()).unwrap()
            }
            use antrea_crds::policy as p;
            let spec = &object["spec"];
            let known = match object["kind"].as_str().unwrap() {
                "Tier" => round::<p::TierSpec>(spec),
                "ClusterNetworkPolicy" if object["apiVersion"] == STANDARD => {
                    round::<antrea_crds::standard::ClusterNetworkPolicySpec>(spec)
                }
                "ClusterNetworkPolicy" => round::<p::ClusterNetworkPolicySpec>(spec),
                "NetworkPolicy" => round::<p::NetworkPolicySpec>(spec),
                "ClusterGroup" => round::<p::ClusterGroupSpec>(spec),
                "Group" => round::<p::GroupSpec>(spec),
                other => panic!("{other} is not tested"),
            };
            let mut spec = spec.clone();
            let whole = object["kind"] == "Tier" || object["apiVersion"] == STANDARD;
            if let Some(priority) = spec.get_mut("priority").filter(|_| !whole) {
                *priority = priority.as_f64().into();
            }
            assert_eq!(known, spec);
        }
    }
}
