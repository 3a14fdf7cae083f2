//! Roles and the bundle's other objects.

use serde_json::Value;

use super::{Bundle, Rule, error, holds, items, name, warning};

pub(super) const RULES: &[Rule<Bundle>] = &[
    error("disruption-budgets", budgets),
    error("priority-classes", |bundle| {
        let classes = bundle.of_kind("PriorityClass").into_iter();
        let global = classes.filter(|class| class["globalDefault"] == true);
        global.map(|class| format!("{}: would become every Pod's default", name(class))).collect()
    }),
    error("default-sccs", sccs),
    warning("rbac-budgets", |bundle| {
        let rules = may_create(bundle, "policy", "poddisruptionbudgets");
        let why = "a budget that it makes can block the drain of Nodes";
        rules.into_iter().map(|rule| format!("{rule}: {why}")).collect()
    }),
    warning("rbac-crds", |bundle| {
        // One that the bundle does not bring may be the operator's to bring, by name.
        let bundled = bundle.of_kind("CustomResourceDefinition");
        let is_bundled = |name: &Value| bundled.iter().any(|crd| crd["metadata"]["name"] == *name);
        let others = |rule: &Value| {
            let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
            names.is_some_and(|names| !names.iter().any(is_bundled))
        };
        let mut rules = may_create(bundle, "apiextensions.k8s.io", "customresourcedefinitions");
        rules.retain(|rule| !others(rule));
        rules.into_iter().map(|rule| format!("{rule}: the bundle's definitions are OLM's to bring")).collect()
    }),
    error("removed-apis", removed),
    error("roles-by-serviceaccount", |bundle| {
        let install = &bundle.spec()["install"]["spec"];
        let grants = ["permissions", "clusterPermissions"].into_iter().flat_map(|key| items(&install[key]));
        let nobody = grants.filter(|grant| grant["serviceAccountName"].as_str().is_none_or(str::is_empty));
        nobody.map(|_| "spec.install.spec: permissions of no ServiceAccount".to_owned()).collect()
    }),
];

/// Security context constraints that OpenShift brings.
const DEFAULT_SCCS: [&str; 12] = [
    "anyuid",
    "hostaccess",
    "hostmount-anyuid",
    "hostmount-anyuid-v2",
    "hostnetwork",
    "hostnetwork-v2",
    "nested-container",
    "nonroot",
    "nonroot-v2",
    "privileged",
    "restricted",
    "restricted-v2",
];

/// Verbs that change an object.
const CHANGING: [&str; 6] = ["*", "create", "update", "patch", "delete", "deletecollection"];

fn budgets(bundle: &Bundle) -> Vec<String> {
    let blocks = |budget: &Value| {
        let (least, most) = (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]);
        *most == 0 || *most == "0" || *most == "0%" || *least == "100%"
    };
    let budgets = bundle.of_kind("PodDisruptionBudget").into_iter().filter(|budget| blocks(budget));
    budgets.map(|budget| format!("{}: no Node could ever be drained", name(budget))).collect()
}

/// A rule without names covers those that OpenShift brings; whoever changes these takes them out of upgrades.
fn sccs(bundle: &Bundle) -> Vec<String> {
    let changes = |rule: &&Value| {
        let all = |key: &str, item: &str| holds(&rule[key], item) || holds(&rule[key], "*");
        all("apiGroups", "security.openshift.io")
            && all("resources", "securitycontextconstraints")
            && CHANGING.iter().any(|verb| *verb != "create" && holds(&rule["verbs"], verb))
            && (rule["resourceNames"].as_array().is_none_or(Vec::is_empty)
                || DEFAULT_SCCS.iter().any(|scc| holds(&rule["resourceNames"], scc)))
    };
    let rules = bundle.rules().into_iter().filter(changes);
    rules.map(|rule| format!("{rule}: may change SecurityContextConstraints that OpenShift brings")).collect()
}

fn may_create<'a>(bundle: &'a Bundle, group: &str, resource: &str) -> Vec<&'a Value> {
    let may = |rule: &&Value| {
        let all = |key: &str, item: &str| holds(&rule[key], item) || holds(&rule[key], "*");
        all("apiGroups", group) && all("resources", resource) && all("verbs", "create")
    };
    bundle.rules().into_iter().filter(may).collect()
}

/// API versions that Kubernetes does not serve any more, with the release that dropped them.
const REMOVED: [(&str, &str, &str); 14] = [
    ("apiextensions.k8s.io/v1beta1", "CustomResourceDefinition", "1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "Role", "1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "RoleBinding", "1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "ClusterRole", "1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "ClusterRoleBinding", "1.22"),
    ("scheduling.k8s.io/v1beta1", "PriorityClass", "1.22"),
    ("admissionregistration.k8s.io/v1beta1", "ValidatingWebhookConfiguration", "1.22"),
    ("admissionregistration.k8s.io/v1beta1", "MutatingWebhookConfiguration", "1.22"),
    ("networking.k8s.io/v1beta1", "Ingress", "1.22"),
    ("policy/v1beta1", "PodDisruptionBudget", "1.25"),
    ("policy/v1beta1", "PodSecurityPolicy", "1.25"),
    ("batch/v1beta1", "CronJob", "1.25"),
    ("discovery.k8s.io/v1beta1", "EndpointSlice", "1.25"),
    ("autoscaling/v2beta2", "HorizontalPodAutoscaler", "1.26"),
];

fn removed(bundle: &Bundle) -> Vec<String> {
    bundle
        .objects()
        .filter_map(|object| {
            let (_, _, release) = REMOVED
                .iter()
                .find(|(version, kind, _)| object["apiVersion"] == *version && object["kind"] == *kind)?;
            Some(format!("{}: {} is gone since Kubernetes {release}", name(object), object["apiVersion"]))
        })
        .collect()
}
