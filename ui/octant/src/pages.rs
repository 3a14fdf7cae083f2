//! The four pages, and what belongs to a Node.

use antrea_ui_model::{AgentRow, Condition, InstallationView, ObjectName, View, trace};
use serde_json::{Value, json};

use crate::{
    NAME, actions,
    cluster::Fetched,
    components::{card, column, drawing, health, link, page, problem, summary, table, text, time},
    proto::dashboard::navigation_response::Navigation,
};

/// What the plugin's navigation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Overview,
    Controller,
    Agents,
    Traceflow,
}

impl Page {
    const ALL: [Self; 4] = [Self::Overview, Self::Controller, Self::Agents, Self::Traceflow];

    /// The page at a path without the plugin's name.
    pub(crate) fn at(path: &str) -> Option<Self> {
        let path = path.trim_matches('/');
        match path {
            "" => Some(Self::Overview),
            _ => Self::ALL.into_iter().find(|page| page.path() == path),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "components/overview",
            Self::Controller => "components/controller",
            Self::Agents => "components/agent",
            Self::Traceflow => "components/traceflow",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Controller => "Controller Info",
            Self::Agents => "Agent Info",
            Self::Traceflow => "Traceflow",
        }
    }
}

/// The menu.
pub(crate) fn navigation() -> Navigation {
    let children = Page::ALL.into_iter().map(|page| Navigation {
        title: page.title().to_owned(),
        path: format!("{NAME}/{}", page.path()),
        icon_name: "folder".to_owned(),
        ..Navigation::default()
    });
    Navigation {
        title: "Antrea".to_owned(),
        path: NAME.to_owned(),
        icon_name: "cloud".to_owned(),
        children: children.collect(),
        ..Navigation::default()
    }
}

/// All at one glance.
pub(crate) fn overview(view: &Fetched<View>, traces: &Fetched<Vec<trace::Traceflow>>) -> Value {
    let data = &view.data;
    let mut parts = vec![card("Antrea", health(&data.health), Vec::new())];
    parts.extend(problems(&view.problems));
    parts.extend(data.installation.as_ref().map(installation));
    parts.extend([controller_table(data), agent_table(data)]);
    if !data.graph.vertices.is_empty() {
        parts.push(drawing("Network", &data.graph.dot()));
    }
    parts.push(trace_table(traces));
    page(Page::Overview.title(), column("overview", parts))
}

/// The controller with its conditions.
pub(crate) fn controller(view: &Fetched<View>) -> Value {
    let mut parts = problems(&view.problems);
    parts.push(controller_table(&view.data));
    if let Some(row) = &view.data.controller {
        parts.push(conditions(&row.conditions));
    }
    page(Page::Controller.title(), column("controller", parts))
}

/// All agents in one table.
pub(crate) fn agents(view: &Fetched<View>) -> Value {
    let mut parts = problems(&view.problems);
    parts.push(agent_table(&view.data));
    page(Page::Agents.title(), column("agent", parts))
}

/// Traceflows, with the path of the one that this browser has chosen.
pub(crate) fn traceflow(traces: &Fetched<Vec<trace::Traceflow>>, chosen: Option<&str>) -> Value {
    let rows = trace::rows(&traces.data);
    let mut parts = problems(&traces.problems);
    let body = text("Send a packet, or watch for one, and see what each node does with it.");
    parts.push(card("Traces", body, actions::forms(&rows, chosen)));
    if let Some(name) = chosen {
        parts.push(match traces.data.iter().find(|trace| trace.name() == name) {
            Some(trace) => drawing(name, &trace::dot(trace)),
            None => {
                card(name, text("This trace is gone; traces are deleted after five minutes."), Vec::new())
            }
        });
    }
    parts.push(trace_table(traces));
    page(Page::Traceflow.title(), column("traceflow", parts))
}

/// Everything of the agent on a node, as a tab of that Node.
pub(crate) fn agent_tab(row: &AgentRow) -> Value {
    let flows = row.flow_tables.iter().map(|table| [text(&table.name), text(&table.flows.to_string())]);
    column(
        "Antrea",
        vec![
            summary("Agent", agent_summary(row)),
            conditions(&row.conditions),
            table("Flow tables", "Open vSwitch has told of none.", ["Table", "Flows"], flows.collect()),
        ],
    )
}

/// The agent's verdict beside a Node's own status.
pub(crate) fn node_status(row: &AgentRow) -> (&'static str, Value) {
    ("Antrea agent", health(&row.health))
}

/// The same for Octant's map of objects.
pub(crate) fn object_status(row: &AgentRow) -> Value {
    use antrea_ui_model::Verdict::{Degraded, Healthy, Stale, Unhealthy, Unknown};
    let status = match row.health.verdict {
        Healthy => "ok",
        Degraded | Unknown => "warning",
        Stale | Unhealthy => "error",
    };
    json!({"details": [health(&row.health)], "status": status})
}

fn problems(problems: &[String]) -> Vec<Value> {
    problems.iter().map(|text| problem(text)).collect()
}

fn installation(view: &InstallationView) -> Value {
    let rollout = &view.rollout;
    let version = match &view.target_version {
        Some(target) => format!("{} → {target}", view.version),
        None => view.version.clone(),
    };
    let nodes = format!("{} of {} ready, {} updated", rollout.ready, rollout.desired, rollout.updated);
    let mut sections =
        vec![("Health", health(&view.health)), ("Version", text(&version)), ("Nodes", text(&nodes))];
    if view.spec_pending {
        sections.push(("Specification", problem("the present one is not applied")));
    }
    if !rollout.replacing.is_empty() {
        sections.push(("Being replaced", text(&rollout.replacing.join(", "))));
    }
    for failing in &rollout.failing {
        let told = format!("{}: {}: {}", failing.node, failing.reason, failing.message);
        sections.push(("Failing", problem(&told)));
    }
    summary("Installation", sections)
}

fn conditions(list: &[Condition]) -> Value {
    let rows =
        list.iter().map(|one| [text(&one.type_), text(&one.status), text(&one.reason), text(&one.message)]);
    table("Conditions", "Nothing has been told yet.", ["Type", "Status", "Reason", "Message"], rows.collect())
}

fn controller_table(view: &View) -> Value {
    let rows = view.controller.iter().map(|row| {
        [
            text(&row.version),
            pod(row.pod.as_ref()),
            node(&row.node),
            service(row.service.as_ref()),
            text(&row.connected_agents.to_string()),
            resource("antreacontrollerinfos", &row.name),
            health(&row.health),
            time(row.heartbeat),
        ]
    });
    let columns = [
        "Version",
        "Pod",
        "Node",
        "Service",
        "Connected Agents",
        "Monitoring CRD",
        "Health",
        "Last Heartbeat Time",
    ];
    table("Antrea Controller Info", "There is no antrea-controller.", columns, rows.collect())
}

fn agent_table(view: &View) -> Value {
    let rows = view.agents.iter().map(|row| {
        [
            text(&row.version),
            pod(row.pod.as_ref()),
            node(if row.node.is_empty() { &row.name } else { &row.node }),
            text(&row.subnets.join(", ")),
            text(&row.bridge),
            text(&row.local_pods.to_string()),
            resource("antreaagentinfos", &row.name),
            health(&row.health),
            time(row.heartbeat),
        ]
    });
    let columns = [
        "Version",
        "Pod",
        "Node",
        "NodeSubnets",
        "OVS Bridge",
        "Local Pod Num",
        "Monitoring CRD",
        "Health",
        "Last Heartbeat Time",
    ];
    table("Antrea Agent Info", "There is no antrea-agent.", columns, rows.collect())
}

fn trace_table(traces: &Fetched<Vec<trace::Traceflow>>) -> Value {
    let rows = trace::rows(&traces.data);
    let rows = rows.iter().map(|row| {
        let phase = match (row.phase.as_str(), row.reason.as_str()) {
            (phase, "") => phase.to_owned(),
            (phase, reason) => format!("{phase}: {reason}"),
        };
        [
            resource("traceflows", &row.name),
            text(&row.source_namespace),
            text(&row.source),
            text(&row.destination_namespace),
            text(&row.destination_type),
            text(&row.destination),
            text(&row.protocol),
            text(&phase),
            time(row.created),
        ]
    });
    let columns = [
        "Trace",
        "Source Namespace",
        "Source Pod",
        "Destination Namespace",
        "Destination Type",
        "Destination",
        "Protocol",
        "Phase",
        "Age",
    ];
    let empty = match traces.problems.as_slice() {
        [] => "There are no traces.",
        [first, ..] => first,
    };
    table("Traceflow Info", empty, columns, rows.collect())
}

fn agent_summary(row: &AgentRow) -> Vec<(&'static str, Value)> {
    let mut sections = vec![
        ("Health", health(&row.health)),
        ("Last Heartbeat Time", time(row.heartbeat)),
        ("Version", text(&row.version)),
        ("Pod", pod(row.pod.as_ref())),
        ("NodeSubnets", text(&row.subnets.join(", "))),
        ("Pods", text(&row.local_pods.to_string())),
        ("NetworkPolicies", text(&row.policies.network_policies.to_string())),
        ("Open vSwitch", text(&format!("{} {}", row.bridge, row.ovs_version))),
        ("Flows", text(&row.flows.to_string())),
    ];
    if let Some(network) = &row.network {
        let link = format!("{}, MTU {} ({} for pods)", network.interface, network.mtu, network.pod_mtu);
        sections.extend([("Transport", text(&link)), ("Addresses", text(&network.addresses.join(", ")))]);
    }
    sections
}

// ---- links within Octant; what names contain cannot lead elsewhere ---------------------------------------------------

fn pod(name: Option<&ObjectName>) -> Value {
    linked(name, "workloads/pods")
}

fn service(name: Option<&ObjectName>) -> Value {
    linked(name, "discovery-and-load-balancing/services")
}

fn linked(name: Option<&ObjectName>, section: &str) -> Value {
    match name {
        Some(ObjectName { namespace, name }) if is_name(namespace) && is_name(name) => {
            link(name, &format!("/overview/namespace/{namespace}/{section}/{name}"))
        }
        Some(ObjectName { name, .. }) => text(name),
        None => text("–"),
    }
}

fn node(name: &str) -> Value {
    if is_name(name) { link(name, &format!("/cluster-overview/nodes/{name}")) } else { text(name) }
}

fn resource(plural: &str, name: &str) -> Value {
    if is_name(name) {
        link(name, &format!("/cluster-overview/custom-resources/{plural}.crd.antrea.io/v1beta1/{name}"))
    } else {
        text(name)
    }
}

/// Whether it is what Kubernetes takes for an object's name.
pub(crate) fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = name.bytes().all(|byte| letter(byte) || matches!(byte, b'-' | b'.'));
    inner
        && name.len() <= 253
        && name.bytes().next().is_some_and(letter)
        && name.bytes().last().is_some_and(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_one_path_each() {
        assert_eq!(Page::at(""), Some(Page::Overview));
        for page in Page::ALL {
            for path in [page.path().to_owned(), format!("/{}", page.path()), format!("{}/", page.path())] {
                assert_eq!(Page::at(&path), Some(page));
            }
        }
        for path in ["components", "overview", "components/overview/x", "../components/agent"] {
            assert_eq!(Page::at(path), None, "{path}");
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["node1", "a.b-c", "0"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "../x", "a/b", "A", "a b", "-a", "a.", "<a>", &long] {
            assert!(!is_name(bad), "{bad}");
            assert_eq!(node(bad)["metadata"]["type"], "text");
        }
    }
}
