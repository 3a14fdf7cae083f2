//! ServiceAccounts, roles and bindings: what each component may do, by name where a name will do. Where the
//! name depends on who asks, [`super::admission`] adds what a role cannot say.

use antrea_crds::installation::{DEFINITION, ProxyMode};
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

/// Group of the Kubernetes project's policies.
const STANDARD: &str = "policy.networking.k8s.io";

const READ: &[&str] = &["get", "list", "watch"];

pub(super) fn objects(config: &Effective) -> Vec<Object> {
    let mut objects = Vec::new();
    for (component, cluster, local) in [
        (AGENT, agent_cluster_rules(config), agent_rules(config)),
        (CONTROLLER, controller_cluster_rules(config), controller_rules()),
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
    objects.push(managed(&object::ROLE, ANTCTL, json!({"rules": antctl_local_rules()})));
    objects.push(managed(&object::ROLE_BINDING, ANTCTL, binding("Role", ANTCTL, ANTCTL)));
    // Added to the roles that clusters give to their users. Policies of a namespace are its editors' to write; whoever
    // reads those sees the order that they are in too.
    const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];
    const ORDER: &[&str] = &["networkpolicies", "groups", "clusternetworkpolicies", "clustergroups", "tiers"];
    for (name, role, kinds, verbs) in [
        ("antrea-traceflow-view", "view", &["traceflows"][..], READ),
        ("antrea-traceflow-edit", "edit", &["traceflows"], WRITE),
        ("antrea-policies-view", "view", ORDER, READ),
        ("antrea-policies-edit", "edit", &["networkpolicies", "groups"], WRITE),
    ] {
        let mut rules = vec![rule("crd.antrea.io", kinds, verbs)];
        if kinds == ORDER {
            // What policies let through and what not.
            const STATISTICS: &[&str] =
                &["networkpolicystats", "antreanetworkpolicystats", "antreaclusternetworkpolicystats"];
            rules.push(rule("stats.antrea.io", STATISTICS, &["get", "list"]));
            if config.standard_policies() {
                rules.push(rule(STANDARD, &["clusternetworkpolicies"], verbs));
            }
        }
        let body = json!({"rules": rules});
        let role_of = |user: &str| format!("rbac.authorization.k8s.io/aggregate-to-{user}");
        let role_object = managed(&object::CLUSTER_ROLE, name, body).label(&role_of(role), "true");
        objects.push(if role == "edit" { role_object.label(&role_of("admin"), "true") } else { role_object });
    }
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

fn agent_cluster_rules(config: &Effective) -> Vec<Value> {
    let mut rules = vec![
        rule("", &["nodes"], READ),
        // The controller creates and deletes them, one per Node; which one an agent may change is for an
        // admission policy to say.
        rule("crd.antrea.io", &["antreaagentinfos"], &["get", "list", "watch", "update", "patch"]),
        rule("controlplane.antrea.io", &["networkpolicies", "appliedtogroups", "addressgroups"], READ),
        rule("controlplane.antrea.io", &["networkpolicies/status", "nodestatssummaries"], &["create"]),
    ];
    // What was put back on the node stays to be read when its condition has turned back.
    rules.push(rule("events.k8s.io", &["events"], &["create"]));
    if config.proxy.mode != ProxyMode::KubeProxy {
        rules.push(rule("", &["services"], READ));
        rules.push(rule("discovery.k8s.io", &["endpointslices"], READ));
    }
    if config.traceflow() {
        rules.push(rule("crd.antrea.io", &["traceflows"], READ));
        rules.push(rule("crd.antrea.io", &["traceflows/status"], &["update", "patch"]));
        // Where the packet of a trace goes.
        rules.push(rule("", &["pods", "services"], &["get"]));
    }
    if config.packet_capture() {
        rules.push(rule("crd.antrea.io", &["packetcaptures"], READ));
        rules.push(rule("crd.antrea.io", &["packetcaptures/status"], &["patch"]));
        // The other end of a flow.
        rules.push(rule("", &["pods"], &["get"]));
    }
    // Asked of the controller before a pod is connected.
    rules.push(json!({"nonResourceURLs": ["/podselection"], "verbs": ["get"]}));
    // Told to it before kubelet writes it.
    rules.push(json!({"nonResourceURLs": ["/podaddresses"], "verbs": ["put"]}));
    rules.extend(delegation());
    rules
}

fn antctl_rules() -> Vec<Value> {
    let read = &["get", "list"];
    vec![
        // The ends of what explain is asked about, by name or by address, and who serves a Service.
        rule("", &["nodes", "pods", "services"], read),
        rule("discovery.k8s.io", &["endpointslices"], &["list"]),
        rule("crd.antrea.io", &["antreaagentinfos", "antreacontrollerinfos"], read),
        rule("crd.antrea.io", &["traceflows"], &["get", "list", "watch", "create", "delete"]),
        rule("crd.antrea.io", &["packetcaptures"], &["get", "list", "watch", "create", "delete"]),
        rule("controlplane.antrea.io", &["networkpolicies", "appliedtogroups", "addressgroups"], read),
        rule("controlplane.antrea.io", &["networkpolicyevaluation"], &["create"]),
        rule(
            "stats.antrea.io",
            &["networkpolicystats", "antreanetworkpolicystats", "antreaclusternetworkpolicystats"],
            read,
        ),
        rule("system.antrea.io", &["controllerinfos"], read),
        rule("system.antrea.io", &["supportbundles"], &["get", "create", "delete"]),
        rule("system.antrea.io", &["supportbundles/download"], &["get"]),
        rule(
            "controlplane.antrea.io",
            &["clustergroupmembers", "groupmembers", "groupassociations", "ipgroupassociations"],
            &["get"],
        ),
        json!({
            "nonResourceURLs": [
                "/addressgroups", "/agentinfo", "/appliedtogroups", "/endpoint", "/featuregates", "/hostpath", "/loglevel",
                "/networkpolicies", "/ovsflows", "/ovstracing", "/packetcaptures", "/podinterfaces", "/traffic", "/version",
            ],
            "verbs": ["get"],
        }),
        json!({"nonResourceURLs": ["/loglevel"], "verbs": ["put"]}),
    ]
}

/// In Antrea's own namespace alone: an account of the same name in another one is somebody else's.
fn antctl_local_rules() -> Vec<Value> {
    vec![
        // What verifies the controller's own API.
        named("", &["configmaps"], &[CONTROLLER_CA], &["get"]),
        // What agents are shown in place of their callers' own credentials.
        named("", &["serviceaccounts/token"], &[ANTCTL], &["create"]),
    ]
}

fn agent_rules(config: &Effective) -> Vec<Value> {
    let mut rules = vec![
        // Where the controller is, and what vouches for it.
        rule("discovery.k8s.io", &["endpointslices"], READ),
        named("", &["configmaps"], &[CONTROLLER_CA], READ),
    ];
    if config.packet_capture() {
        // For the server that files go to.
        rules.push(named("", &["secrets"], &[antrea_crds::packet_capture::FILE_SERVER_SECRET], &["get"]));
    }
    rules
}

fn controller_cluster_rules(config: &Effective) -> Vec<Value> {
    let apis: Vec<String> =
        AGGREGATED_APIS.iter().map(|(group, version)| format!("{version}.{group}")).collect();
    let apis: Vec<&str> = apis.iter().map(String::as_str).collect();
    let mut rules = vec![
        rule("", &["nodes", "pods", "namespaces", "services"], READ),
        rule("networking.k8s.io", &["networkpolicies"], READ),
        // What of a policy cannot be honoured is told where its author looks.
        rule("events.k8s.io", &["events"], &["create"]),
        rule(
            "crd.antrea.io",
            &["antreaagentinfos", "antreacontrollerinfos"],
            &["get", "list", "watch", "create", "update", "patch", "delete"],
        ),
        rule("crd.antrea.io", &["traceflows"], READ),
        rule("crd.antrea.io", &["traceflows/status"], &["update", "patch"]),
        // Policies with an order; the Tiers that always exist are the controller's to make.
        rule(
            "crd.antrea.io",
            &["clusternetworkpolicies", "networkpolicies", "clustergroups", "groups"],
            READ,
        ),
        rule(
            "crd.antrea.io",
            &[
                "clusternetworkpolicies/status",
                "networkpolicies/status",
                "clustergroups/status",
                "groups/status",
            ],
            &["update", "patch"],
        ),
        rule("crd.antrea.io", &["tiers"], &["get", "list", "watch", "create", "update", "patch"]),
        // Whether the ends of a trace exist.
        rule("", &["services"], &["get"]),
        // Publishes the CA of its serving certificate.
        named(
            "apiregistration.k8s.io",
            &["apiservices"],
            &apis,
            &["get", "list", "watch", "update", "patch"],
        ),
        named(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations"],
            &["crdmutator.antrea.io"],
            &["get", "patch"],
        ),
        named(
            "admissionregistration.k8s.io",
            &["validatingwebhookconfigurations"],
            &["crdvalidator.antrea.io"],
            &["get", "patch"],
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
    if config.standard_policies() {
        rules.push(rule(STANDARD, &["clusternetworkpolicies"], READ));
        rules.push(rule(STANDARD, &["clusternetworkpolicies/status"], &["patch"]));
    }
    if config.packet_capture() {
        rules.push(rule("crd.antrea.io", &["packetcaptures"], READ));
        rules.push(rule("crd.antrea.io", &["packetcaptures/status"], &["patch"]));
    }
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
