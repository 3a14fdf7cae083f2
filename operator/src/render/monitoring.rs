//! What makes Prometheus scrape Antrea, know its alerts, and Grafana show it.

use serde_json::{Value, json};

use super::{AGENT, AGENT_PORT, CONTROLLER, managed, selector};
use crate::{
    NAMESPACE, OWNER_LABEL,
    effective::Effective,
    object::{self, CONFIG_MAP, Key, Kind, Object, PROMETHEUS_RULE, SERVICE, SERVICE_MONITOR},
};

/// Component label of the operator, and name of its Service.
const OPERATOR: &str = "antrea-operator";

/// Service by which Prometheus finds the agents.
const AGENT_SERVICE: &str = "antrea-agent-metrics";

/// Name of the PrometheusRule.
const RULE: &str = "antrea";

/// Prefix of the names of the boards' ConfigMaps.
const BOARD_PREFIX: &str = "antrea-dashboard-";

/// Token of Prometheus's own ServiceAccount, in its Pod.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where the cluster serves monitoring.coreos.com/v1: which of its resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub service_monitors: bool,
    pub prometheus_rules: bool,
}

/// Names of the boards' ConfigMaps.
pub fn board_names() -> Vec<String> {
    dashboards::boards().iter().map(|board| board_name(board.uid)).collect()
}

/// `antrea-agent` becomes `antrea-dashboard-agent`.
fn board_name(uid: &str) -> String {
    format!("{BOARD_PREFIX}{}", uid.trim_start_matches("antrea-"))
}

/// Whether an object is one of those that [`objects`] makes: what goes wrong with it does not hold up the network.
pub fn is_monitoring(key: &Key) -> bool {
    object::MONITORING_KINDS.iter().any(|kind| kind.kind == key.kind)
        || key.kind == CONFIG_MAP.kind && key.name.starts_with(BOARD_PREFIX)
        || key.kind == SERVICE.kind && key.name == AGENT_SERVICE
}

/// The wanted ones, given what the cluster serves and in which namespace the operator is.
pub fn objects(config: &Effective, served: Served, operator_namespace: &str) -> Vec<Object> {
    let mut made = Vec::new();
    let wanted = &config.monitoring;
    if wanted.dashboards {
        made.extend(boards(config));
    }
    if wanted.service_monitors && served.service_monitors {
        made.push(agent_service());
        made.push(monitor(
            config,
            AGENT,
            &Watched { namespace: NAMESPACE, ca: None, server_name: "", owned: true },
        ));
        let controller = Watched {
            namespace: NAMESPACE,
            ca: Some(crate::api::CONTROLLER_CA),
            server_name: "antrea.kube-system.svc",
            owned: true,
        };
        made.push(monitor(config, CONTROLLER, &controller));
        if !operator_namespace.is_empty() {
            let server_name = format!("{OPERATOR}.{operator_namespace}.svc");
            let operator = Watched {
                namespace: operator_namespace,
                ca: Some(crate::api::CA_CONFIG_MAP),
                server_name: &server_name,
                owned: false,
            };
            made.push(monitor(config, OPERATOR, &operator));
        }
    }
    if wanted.alerts && served.prometheus_rules {
        let spec = dashboards::rules(&wanted.runbook_url);
        made.push(marked(config, &PROMETHEUS_RULE, RULE, NAMESPACE, json!({"spec": spec})));
    }
    made.into_iter().map(Object::stamped).collect()
}

/// An object in the wanted namespace, or in `home` if none is wanted, with the wanted labels and annotations.
fn marked(config: &Effective, kind: &'static Kind, name: &str, home: &str, content: Value) -> Object {
    let wanted = &config.monitoring;
    let mut object = managed(kind, name, content).in_namespace(wanted.namespace.as_deref().unwrap_or(home));
    for (key, value) in &wanted.labels {
        object = object.label(key, value);
    }
    for (key, value) in &wanted.annotations {
        object = object.annotation(key, value);
    }
    object
}

/// One ConfigMap per board, as Grafana's sidecar looks for them.
fn boards(config: &Effective) -> impl Iterator<Item = Object> {
    let wanted = &config.monitoring;
    dashboards::boards().into_iter().map(move |board| {
        let file = format!("{}.json", board.uid);
        let content = json!({"data": {file: board.json().to_string()}});
        let mut object = marked(config, &CONFIG_MAP, &board_name(board.uid), NAMESPACE, content);
        if !wanted.labels.contains_key("grafana_dashboard") {
            object = object.label("grafana_dashboard", "1");
        }
        if !wanted.annotations.contains_key("grafana_folder") {
            object = object.annotation("grafana_folder", "Antrea");
        }
        object
    })
}

fn agent_service() -> Object {
    let content = json!({"spec": {
        // Only for finding the agents: they are scraped by their own addresses, also when they are not ready.
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": selector(AGENT),
        "ports": [{"name": "api", "port": AGENT_PORT, "protocol": "TCP", "targetPort": AGENT_PORT}],
    }});
    managed(&SERVICE, AGENT_SERVICE, content).label("component", AGENT)
}

/// What a ServiceMonitor is for.
struct Watched<'a> {
    /// Namespace of the Service.
    namespace: &'a str,
    /// ConfigMap beside it with the CA of its certificate, if one CA vouches for all that are behind it.
    ca: Option<&'a str>,
    /// Name in the certificate.
    server_name: &'a str,
    /// Whether the Service is this installation's and not the operator's own.
    owned: bool,
}

fn monitor(config: &Effective, component: &str, watched: &Watched<'_>) -> Object {
    let mut labels = selector(component);
    if watched.owned {
        labels[OWNER_LABEL] = antrea_crds::INSTALLATION_NAME.into();
    }
    // A ServiceMonitor can name ConfigMaps of its own namespace only.
    let beside = config.monitoring.namespace.as_deref().is_none_or(|wanted| wanted == watched.namespace);
    let tls = match watched.ca.filter(|_| beside) {
        Some(ca) => json!({
            "ca": {"configMap": {"name": ca, "key": "ca.crt"}},
            "serverName": watched.server_name,
        }),
        None => json!({"insecureSkipVerify": true}),
    };
    // An agent is known by its Node: its series go on when its Pod is replaced.
    let instance =
        if component == AGENT { "__meta_kubernetes_pod_node_name" } else { "__meta_kubernetes_pod_name" };
    let relabel = |source: &str, target: &str| json!({"action": "replace", "sourceLabels": [source], "targetLabel": target});
    let content = json!({"spec": {
        "jobLabel": "component",
        "selector": {"matchLabels": labels},
        "namespaceSelector": {"matchNames": [watched.namespace]},
        "endpoints": [{
            "port": "api",
            "path": "/metrics",
            "scheme": "https",
            "bearerTokenFile": TOKEN,
            "tlsConfig": tls,
            "relabelings": [
                relabel("__meta_kubernetes_pod_node_name", "node"),
                relabel(instance, "instance"),
            ],
        }],
    }});
    marked(config, &SERVICE_MONITOR, component, watched.namespace, content)
}
