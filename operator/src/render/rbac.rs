//! ServiceAccounts, roles and bindings: what each component may do, by name where a name will do. Where the
//! name depends on who asks, [`super::admission`] adds what a role cannot say.

use antrea_crds::installation::DEFINITION;
use serde_json::{Value, json};

use super::{AGENT, AGGREGATED_APIS, CONTROLLER, managed};
use crate::{
    NAMESPACE,
    api::CONTROLLER_CA,
    effective::Effective,
    object::{self, Object},
};

/// Upstream's name of the account, its role and the binding.
const ANTCTL: &str = "antctl";

const READ: &[&str] = &["get", "list", "watch"];

pub(super) fn objects(_: &Effective) -> Vec<Object> {
    let mut objects = Vec::new();
    for (component, cluster, local) in [
        (AGENT, agent_cluster_rules(), agent_rules()),
        (CONTROLLER, controller_cluster_rules(), controller_rules()),
    ] {
        objects.push(managed(&object::SERVICE_ACCOUNT, component, json!({})));
        objects.push(managed(&object::CLUSTER_ROLE, component, json!({"rules": cluster})));
        objects.push(managed(
            &object::CLUSTER_ROLE_BINDING,
            component,
            binding("ClusterRole", component, component),
        ));
        objects.push(managed(&object::ROLE, component, json!({"rules": local})));
        objects.push(managed(&object::ROLE_BINDING, component, binding("Role", component, component)));
        // Both serve an API that authenticates callers as the API server does.
        objects.push(managed(
            &object::ROLE_BINDING,
            &format!("{component}-authentication-reader"),
            binding("Role", "extension-apiserver-authentication-reader", component),
        ));
    }
    // For whoever gets a token of this account: upstream's antctl, its proxy and the documents that bind to it.
    objects.push(managed(&object::SERVICE_ACCOUNT, ANTCTL, json!({})));
    objects.push(managed(&object::CLUSTER_ROLE, ANTCTL, json!({"rules": antctl_rules()})));
    objects.push(managed(&object::CLUSTER_ROLE_BINDING, ANTCTL, binding("ClusterRole", ANTCTL, ANTCTL)));
    objects
}

fn binding(kind: &str, role: &str, account: &str) -> Value {
    json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    })
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn named(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "resourceNames": names, "verbs": verbs})
}

/// Delegated authentication and authorization of API callers.
fn delegation() -> [Value; 2] {
    [
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
    ]
}

fn agent_cluster_rules() -> Vec<Value> {
    let mut rules = vec![
        rule("", &["nodes"], READ),
        // The controller creates and deletes them, one per Node; which one an agent may change is for an
        // admission policy to say.
        rule("crd.antrea.io", &["antreaagentinfos"], &["get", "list", "watch", "update", "patch"]),
        rule("controlplane.antrea.io", &["networkpolicies", "appliedtogroups", "addressgroups"], READ),
        rule("controlplane.antrea.io", &["networkpolicies/status", "nodestatssummaries"], &["create"]),
    ];
    // Asked of the controller before a pod is connected.
    rules.push(json!({"nonResourceURLs": ["/podselection"], "verbs": ["get"]}));
    rules.extend(delegation());
    rules
}

fn antctl_rules() -> Vec<Value> {
    let read = &["get", "list"];
    vec![
        rule("", &["nodes"], read),
        rule("crd.antrea.io", &["antreaagentinfos", "antreacontrollerinfos"], read),
        rule("controlplane.antrea.io", &["networkpolicies", "appliedtogroups", "addressgroups"], read),
        json!({
            "nonResourceURLs": ["/agentinfo", "/featuregates", "/loglevel", "/podinterfaces", "/version"],
            "verbs": ["get"],
        }),
    ]
}

fn agent_rules() -> Vec<Value> {
    vec![
        // Where the controller is, and what vouches for it.
        rule("discovery.k8s.io", &["endpointslices"], READ),
        named("", &["configmaps"], &[CONTROLLER_CA], READ),
    ]
}

fn controller_cluster_rules() -> Vec<Value> {
    let apis: Vec<String> =
        AGGREGATED_APIS.iter().map(|(group, version)| format!("{version}.{group}")).collect();
    let apis: Vec<&str> = apis.iter().map(String::as_str).collect();
    let mut rules = vec![
        rule("", &["nodes", "pods", "namespaces"], READ),
        rule("networking.k8s.io", &["networkpolicies"], READ),
        // What of a policy cannot be honoured is told where its author looks.
        rule("events.k8s.io", &["events"], &["create"]),
        rule(
            "crd.antrea.io",
            &["antreaagentinfos", "antreacontrollerinfos"],
            &["get", "list", "watch", "create", "update", "patch", "delete"],
        ),
        // Publishes the CA of its serving certificate.
        named(
            "apiregistration.k8s.io",
            &["apiservices"],
            &apis,
            &["get", "list", "watch", "update", "patch"],
        ),
        // Lets go of an installation whose definition is deleted while the operator is gone.
        named(
            "operator.antrea.io",
            &["antreainstallations"],
            &[antrea_crds::INSTALLATION_NAME],
            &["get", "patch"],
        ),
        named("apiextensions.k8s.io", &["customresourcedefinitions"], &[DEFINITION], &["get"]),
    ];
    rules.extend(delegation());
    rules
}

fn controller_rules() -> Vec<Value> {
    let verbs = &["get", "list", "watch", "update", "patch"];
    vec![
        // A create request cannot be limited to a name.
        rule("", &["configmaps", "secrets"], &["create"]),
        named("", &["configmaps"], &[CONTROLLER_CA], verbs),
        // Made once and never changed.
        named("", &["configmaps"], &["antrea-cluster-identity"], &["get"]),
        named("", &["secrets"], &["antrea-controller-tls"], verbs),
    ]
}
