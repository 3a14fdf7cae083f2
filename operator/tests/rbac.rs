//! The operator's own role allows what the operator does, and no more than it needs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::Path};

use antrea_operator::{
    api,
    effective::{Facts, effective},
    object::{CONFIG_MAP, CRD, KINDS, Kind, MONITORING_KINDS, Object},
    openshift,
    render::{self, Surroundings, monitoring::Served},
};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::{Value, json};

struct Rules {
    cluster: Vec<PolicyRule>,
    system: Vec<PolicyRule>,
    own: Vec<PolicyRule>,
}

fn rules() -> Rules {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/operator/rbac.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap();
    let mut rules = Rules { cluster: Vec::new(), system: Vec::new(), own: Vec::new() };
    for document in documents {
        match (document["kind"].as_str().unwrap(), document["metadata"]["namespace"].as_str()) {
            ("ClusterRole", _) => {
                let role: ClusterRole = serde_json::from_value(document).unwrap();
                rules.cluster.extend(role.rules.unwrap());
            }
            ("Role", Some("kube-system")) => {
                let role: Role = serde_json::from_value(document).unwrap();
                rules.system.extend(role.rules.unwrap());
            }
            ("Role", Some("antrea-operator")) => {
                let role: Role = serde_json::from_value(document).unwrap();
                rules.own.extend(role.rules.unwrap());
            }
            _ => {}
        }
    }
    rules
}

/// As the API server's authorizer would say; `name` is empty for a list.
fn allows(rules: &[PolicyRule], kind: &Kind, verb: &str, name: &str) -> bool {
    grants(rules, (kind.group, kind.plural), verb, name)
}

fn grants(rules: &[PolicyRule], (group, plural): (&str, &str), verb: &str, name: &str) -> bool {
    let has =
        |list: Option<&Vec<String>>, item: &str| list.is_some_and(|list| list.iter().any(|one| one == item));
    rules.iter().any(|rule| {
        has(rule.api_groups.as_ref(), group)
            && has(rule.resources.as_ref(), plural)
            && rule.verbs.iter().any(|one| one == verb)
            && rule.resource_names.as_ref().is_none_or(|names| names.iter().any(|one| one == name))
    })
}

fn objects() -> Vec<Object> {
    let facts = Facts { default_version: "v1".into(), ..Facts::default() };
    let spec = serde_json::from_value(json!({"featureGates": {"ClusterNetworkPolicy": true}})).unwrap();
    let config = effective(&spec, &facts).unwrap();
    [
        render::objects(&config, &Surroundings::default()),
        vec![render::preflight(&config), render::cleanup(&config, &Surroundings::default())],
    ]
    .concat()
}

#[test]
fn every_rendered_object_can_be_applied_and_removed() {
    let rules = rules();
    let applicable = |kind: &Kind| if kind.namespaced { &rules.system } else { &rules.cluster };
    for object in objects() {
        for verb in ["get", "create", "patch"] {
            assert!(
                allows(applicable(object.kind), object.kind, verb, &object.name),
                "{verb} {}",
                object.key()
            );
        }
        let removes = allows(applicable(object.kind), object.kind, "delete", &object.name);
        assert_eq!(removes, object.kind.kind != CRD.kind, "delete {}", object.key());
        if matches!(object.kind.kind, "ClusterRole" | "Role") {
            for verb in ["escalate", "bind"] {
                assert!(
                    allows(applicable(object.kind), object.kind, verb, &object.name),
                    "{verb} {}",
                    object.key()
                );
            }
        }
    }
    for kind in KINDS {
        for verb in ["list", "watch"] {
            assert!(allows(applicable(kind), kind, verb, ""), "{verb} {}", kind.plural);
        }
    }
}

/// They may be in any namespace, so the cluster-wide role allows them, by name; a Service is in kube-system.
#[test]
fn every_object_for_others_can_be_applied_and_removed() {
    let rules = rules();
    let facts = Facts { default_version: "v1".into(), ..Facts::default() };
    let ui = serde_json::from_value(serde_json::json!({"ui": {"headlamp": {"namespace": "tools"}}})).unwrap();
    let config = effective(&ui, &facts).unwrap();
    let served = Served { service_monitors: true, prometheus_rules: true };
    for object in render::extras(&config, served, "antrea-operator") {
        let applicable = if object.kind.kind == "Service" { &rules.system } else { &rules.cluster };
        for verb in ["get", "create", "patch", "delete"] {
            assert!(allows(applicable, object.kind, verb, &object.name), "{verb} {}", object.key());
        }
        // ConfigMaps of all namespaces are watched by name only.
        let watched = if object.kind == &CONFIG_MAP { object.name.as_str() } else { "" };
        let everything = allows(&rules.cluster, object.kind, "list", "");
        assert_eq!(everything, MONITORING_KINDS.contains(&object.kind), "list {}", object.kind.plural);
        if object.kind.kind != "Service" {
            for verb in ["list", "watch"] {
                assert!(allows(applicable, object.kind, verb, watched), "{verb} {}", object.key());
            }
        }
    }
}

#[test]
fn nothing_that_is_not_rendered_can_be_changed() {
    let rules = rules();
    for kind in KINDS.iter().chain(MONITORING_KINDS) {
        if !KINDS.contains(kind) || **kind == CONFIG_MAP {
            for verb in ["create", "patch", "update", "delete"] {
                assert!(!allows(&rules.cluster, kind, verb, "anything-else"), "{verb} {}", kind.plural);
            }
        }
    }
    for kind in KINDS {
        let applicable = if kind.namespaced { &rules.system } else { &rules.cluster };
        for verb in ["create", "patch", "update", "delete", "escalate", "bind"] {
            assert!(!allows(applicable, kind, verb, "anything-else"), "{verb} {}", kind.plural);
        }
    }
}

/// In the operator's own namespace: its certificate, the CA of it, and nothing else of these kinds. Who reads its
/// metrics is asked of the API server.
#[test]
fn its_port_has_a_certificate_and_asks_who_may_read() {
    let Rules { cluster, own, .. } = rules();
    let (secrets, maps) = (("", "secrets"), ("", "configmaps"));
    for verb in ["get", "create", "patch"] {
        assert!(grants(&own, secrets, verb, api::CERT_SECRET), "{verb}");
        assert!(!grants(&own, secrets, verb, "anything-else"), "{verb}");
    }
    for verb in ["list", "watch", "delete"] {
        assert!(!grants(&own, secrets, verb, api::CERT_SECRET), "{verb}");
    }
    for verb in ["create", "patch"] {
        assert!(grants(&own, maps, verb, api::CA_CONFIG_MAP), "{verb}");
        assert!(!grants(&own, maps, verb, "anything-else"), "{verb}");
    }
    for review in
        [("authentication.k8s.io", "tokenreviews"), ("authorization.k8s.io", "subjectaccessreviews")]
    {
        assert!(grants(&cluster, review, "create", ""), "{review:?}");
    }
}

#[test]
fn there_are_no_wildcards_and_no_secrets() {
    let rules = rules();
    // Agents read one by its name, so who makes their Role has to.
    let uploads = json!({"apiGroups": [""], "resourceNames": ["antrea-packetcapture-fileserver-auth"],
                         "resources": ["secrets"], "verbs": ["get"]});
    for rule in rules.cluster.iter().chain(&rules.system).filter(|rule| json!(rule) != uploads) {
        let text = serde_json::to_string(rule).unwrap();
        assert!(
            !text.contains("\"*\"") && !text.contains("secrets") && !text.contains("impersonate"),
            "{text}"
        );
    }
}

/// What OpenShift waits for and what the operator leaves there, by name.
#[test]
fn openshift_objects_can_be_written_and_no_others() {
    let rules = rules().cluster;
    let network = (openshift::NETWORK_CONFIG.group, "networks");
    let status = |(group, plural): (&'static str, &str)| (group, format!("{plural}/status"));
    let operator = (openshift::CLUSTER_OPERATOR.group, openshift::CLUSTER_OPERATOR.plural);
    let constraints = (openshift::CONSTRAINTS.group, openshift::CONSTRAINTS.plural);
    let mut allowed = vec![
        (network, "get", openshift::CLUSTER),
        (network, "patch", openshift::CLUSTER),
        ((openshift::NETWORK_OPERATOR.group, "networks"), "get", openshift::CLUSTER),
    ];
    for verb in ["get", "create", "patch", "delete"] {
        allowed.push((operator, verb, openshift::CLUSTER_OPERATOR_NAME));
        allowed.extend(openshift::CONSTRAINT_NAMES.map(|name| (constraints, verb, name)));
    }
    for (resource, verb, name) in allowed {
        assert!(grants(&rules, resource, verb, name), "{verb} {resource:?} {name}");
        assert!(!grants(&rules, resource, verb, "anything-else"), "{verb} {resource:?}");
    }
    for (resource, name) in [(network, openshift::CLUSTER), (operator, openshift::CLUSTER_OPERATOR_NAME)] {
        let (group, plural) = status(resource);
        assert!(grants(&rules, (group, &plural), "patch", name), "{plural}");
    }
}
