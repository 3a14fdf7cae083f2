//! What each verb asks for and how it is shown.

use antrea_crds::{
    AgentConditionType, AntreaAgentInfo, AntreaControllerInfo, CONTROLLER_INFO_NAME, ControllerConditionType,
    NetworkPolicyControllerInfo,
};
use anyhow::{Context, bail};
use http::Method;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, api::ListParams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    agents,
    cli::{Flows, Format, Packet, Resource},
    connect::{Clients, Place},
    output::Output,
    told,
};

mod computed;

/// A heartbeat that is older says nothing any more. Agents and the controller beat every 60 s.
const STALE_SECONDS: i64 = 180;

/// Shows `resource`.
pub(crate) async fn resource(
    clients: &Clients,
    resource: &Resource,
    on: Option<&str>,
) -> anyhow::Result<Output> {
    match resource {
        Resource::ControllerInfo if on.is_some() => bail!("controllerinfo has no Node: leave --node out"),
        Resource::ControllerInfo => controller_info(clients).await,
        Resource::AgentInfo { node: Some(_) } if on.is_some() => {
            bail!("agentinfo: NODE is what the API server has, --node asks the agent: give one of them")
        }
        Resource::AgentInfo { node } => agent_info(clients, node.as_deref(), on).await,
        Resource::PodInterface { name, namespace } => {
            pod_interfaces(clients, on, name.as_deref(), namespace.as_deref()).await
        }
        Resource::NetworkPolicy(wanted) => computed::network_policies(clients, on, wanted).await,
        Resource::AddressGroup { name } => computed::address_groups(clients, on, name.as_deref()).await,
        Resource::AppliedToGroup { name } => computed::applied_to_groups(clients, on, name.as_deref()).await,
        Resource::ClusterGroupMembers { .. } | Resource::GroupMembers { .. } if on.is_some() => {
            bail!("members of groups are what antrea-controller knows: leave --node out")
        }
        Resource::ClusterGroupMembers { name, page } => {
            computed::members(clients, &format!("clustergroupmembers/{}", escape(name)), page).await
        }
        Resource::GroupMembers { name, namespace, page } => {
            let path = format!("namespaces/{}/groupmembers/{}", escape(namespace), escape(name));
            computed::members(clients, &path, page).await
        }
        Resource::OvsFlows(wanted) => ovs_flows(clients, on, wanted).await,
        Resource::FeatureGates => feature_gates(clients, on).await,
    }
}

/// Versions. The component's is left out, with a word on stderr, where it cannot be had.
pub(crate) async fn version(clients: &Clients) -> anyhow::Result<Output> {
    let own = env!("CARGO_PKG_VERSION");
    let (component, found) = if clients.place() == Place::Agent {
        ("agent", own_agent(clients).await.map(|info| info.spec.version))
    } else {
        ("controller", the_controller(clients).await.map(|info| info.spec.version))
    };
    let mut rows = vec![vec!["antctl".to_owned(), own.to_owned()]];
    match found {
        Ok(version) => rows.push(vec![component.to_owned(), version.trim_start_matches('v').to_owned()]),
        Err(error) => eprintln!("antctl: the {component}'s version: {}", told(&error)),
    }
    let value = rows.iter().map(|row| (row[0].clone() + "Version", row[1].as_str().into()));
    Ok(Output { columns: &["COMPONENT", "VERSION"], value: Value::Object(value.collect()), rows })
}

async fn ovs_flows(clients: &Clients, on: Option<&str>, wanted: &Flows) -> anyhow::Result<Output> {
    let Flows { pod, namespace, table, groups, table_names_only } = wanted;
    let named = [("pod", pod), ("namespace", namespace), ("table", table), ("groups", groups)];
    let given = named.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape(value.as_deref()?))));
    let query: Vec<String> = given.chain(table_names_only.then(|| "table-names-only".to_owned())).collect();
    let value = agent(clients, on, "ovsflows", &format!("/ovsflows?{}", query.join("&"))).await?;
    let lines = value.as_array().into_iter().flatten().filter_map(|line| line["flow"].as_str());
    let rows = lines.map(|line| vec![line.to_owned()]).collect();
    let columns: &[&str] = match () {
        () if *table_names_only => &["TABLE"],
        () if groups.is_some() => &["GROUP"],
        () => &["FLOW"],
    };
    Ok(Output { columns, rows, value })
}

/// What an agent says.
async fn agent(clients: &Clients, on: Option<&str>, what: &str, path: &str) -> anyhow::Result<Value> {
    let answer = clients.agent(on, what).await?.ask(Method::GET, path).await?;
    serde_json::from_str(&answer).with_context(|| format!("answer to {path}"))
}

/// Shows what becomes of a packet.
pub(crate) async fn trace_packet(clients: &Clients, packet: &Packet) -> anyhow::Result<String> {
    let Packet { source, destination, port, flow, address_family, node, output } = packet;
    let all = [
        ("source", source),
        ("destination", destination),
        ("port", port),
        ("flow", flow),
        ("addressFamily", address_family),
    ];
    let given: Vec<String> = all
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    if given.is_empty() {
        bail!("trace-packet: at least one of --source, --destination, --port and --flow is needed");
    }
    let value =
        agent(clients, node.as_deref(), "trace-packet", &format!("/ovstracing?{}", given.join("&"))).await?;
    if *output == Format::Table {
        return Ok(format!("{}\n", value["result"].as_str().unwrap_or_default().trim_end()));
    }
    Output { columns: &[], rows: Vec::new(), value }.render(*output)
}

/// Percent-encodes what may not stand in a query's value.
pub(crate) fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The controller's object.
pub(crate) async fn the_controller(clients: &Clients) -> anyhow::Result<AntreaControllerInfo> {
    if clients.place() == Place::Agent {
        bail!("controllerinfo is not for agents: run antctl in antrea-controller's container or elsewhere");
    }
    let cluster = clients.cluster().await?;
    let found = Api::<AntreaControllerInfo>::all(cluster.client.clone()).get(CONTROLLER_INFO_NAME).await;
    found.map_err(|error| cluster.explain(&error, "AntreaControllerInfo antrea-controller"))
}

async fn own_agent(clients: &Clients) -> anyhow::Result<AntreaAgentInfo> {
    agent_of(clients, clients.node()?).await
}

pub(crate) async fn agent_of(clients: &Clients, node: &str) -> anyhow::Result<AntreaAgentInfo> {
    let cluster = clients.cluster().await?;
    let found = Api::<AntreaAgentInfo>::all(cluster.client.clone()).get(node).await;
    found.map_err(|error| cluster.explain(&error, &format!("AntreaAgentInfo {node}")))
}

async fn controller_info(clients: &Clients) -> anyhow::Result<Output> {
    let object = the_controller(clients).await?;
    let info = &object.spec;
    let condition =
        info.controller_conditions.iter().find(|c| c.type_ == ControllerConditionType::ControllerHealthy);
    let health = condition.map(|c| (c.status.as_str(), c.last_heartbeat_time.as_ref()));
    let mut row = vec![name(info.pod_ref.as_ref()), name(info.node_ref.as_ref())];
    row.extend(shown_health(health, Timestamp::now()));
    row.extend(policy_counts(info.network_policy_controller_info.as_ref()));
    row.extend([info.connected_agent_num.to_string(), info.version.clone()]);
    Ok(Output {
        columns: &[
            "POD",
            "NODE",
            "STATUS",
            "HEARTBEAT",
            "NETWORK-POLICIES",
            "ADDRESS-GROUPS",
            "APPLIED-TO-GROUPS",
            "CONNECTED-AGENTS",
            "VERSION",
        ],
        value: serde_json::to_value(&object)?,
        rows: vec![row],
    })
}

async fn agent_info(clients: &Clients, node: Option<&str>, on: Option<&str>) -> anyhow::Result<Output> {
    let (objects, value) = match node {
        None if on.is_some() => {
            let value = agent(clients, on, "agentinfo", "/agentinfo").await?;
            let info = serde_json::from_value(value.clone()).context("answer to /agentinfo")?;
            (vec![AntreaAgentInfo::new(on.unwrap_or_default(), info)], value)
        }
        None if clients.place() != Place::Agent => {
            let cluster = clients.cluster().await?;
            let found =
                Api::<AntreaAgentInfo>::all(cluster.client.clone()).list(&ListParams::default()).await;
            let mut items = found.map_err(|error| cluster.explain(&error, "AntreaAgentInfo"))?.items;
            items.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            let value = serde_json::to_value(&items)?;
            (items, value)
        }
        _ => {
            let object = match node {
                Some(node) => agent_of(clients, node).await?,
                None => own_agent(clients).await?,
            };
            let value = serde_json::to_value(&object)?;
            (vec![object], value)
        }
    };
    let now = Timestamp::now();
    Ok(Output {
        columns: &[
            "POD",
            "NODE",
            "STATUS",
            "HEARTBEAT",
            "NODE-SUBNET",
            "NETWORK-POLICIES",
            "ADDRESS-GROUPS",
            "APPLIED-TO-GROUPS",
            "LOCAL-PODS",
            "VERSION",
        ],
        rows: objects.iter().map(|object| agent_row(object, now)).collect(),
        value,
    })
}

fn agent_row(object: &AntreaAgentInfo, now: Timestamp) -> Vec<String> {
    let info = &object.spec;
    let condition = info.agent_conditions.iter().find(|c| c.type_ == AgentConditionType::AgentHealthy);
    let health = condition.map(|c| (c.status.as_str(), c.last_heartbeat_time.as_ref()));
    let mut row = vec![name(info.pod_ref.as_ref()), object.metadata.name.clone().unwrap_or_default()];
    row.extend(shown_health(health, now));
    row.push(info.node_subnets.join(","));
    row.extend(policy_counts(info.network_policy_controller_info.as_ref()));
    row.extend([info.local_pod_num.to_string(), info.version.clone()]);
    row
}

fn name(reference: Option<&ObjectReference>) -> String {
    reference.and_then(|reference| reference.name.clone()).unwrap_or_default()
}

/// Status and age of the heartbeat. A component that is gone cannot say so, only its heart stops.
pub(crate) fn shown_health(condition: Option<(&str, Option<&Time>)>, now: Timestamp) -> [String; 2] {
    let Some((status, Some(heartbeat))) = condition else { return ["Unknown".to_owned(), String::new()] };
    let seconds = now.duration_since(heartbeat.0).as_secs().max(0);
    let status = match status {
        _ if seconds > STALE_SECONDS => "Unknown",
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    let age = match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    };
    [status.to_owned(), age]
}

fn policy_counts(counts: Option<&NetworkPolicyControllerInfo>) -> [String; 3] {
    let counts = counts.cloned().unwrap_or_default();
    [counts.network_policy_num, counts.address_group_num, counts.applied_to_group_num].map(|n| n.to_string())
}

/// An entry of the agent's `/podinterfaces`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PodInterface {
    #[serde(rename = "name")]
    pod_name: String,
    pod_namespace: String,
    interface_name: String,
    ips: Vec<String>,
    mac: String,
    of_port: u32,
    #[serde(rename = "containerID")]
    container_id: String,
}

async fn pod_interfaces(
    clients: &Clients,
    on: Option<&str>,
    name: Option<&str>,
    namespace: Option<&str>,
) -> anyhow::Result<Output> {
    let server = clients.agent(on, "podinterface").await?;
    let mut interfaces: Vec<PodInterface> = agents::list(&server, "/podinterfaces").await?;
    interfaces.retain(|interface| {
        name.is_none_or(|name| name == interface.pod_name)
            && namespace.is_none_or(|namespace| namespace == interface.pod_namespace)
    });
    found(&interfaces, "Pod on this Node", name, namespace)?;
    interfaces.sort_by(|a, b| (&a.pod_namespace, &a.pod_name).cmp(&(&b.pod_namespace, &b.pod_name)));
    let row = |interface: &PodInterface| {
        vec![
            interface.pod_namespace.clone(),
            interface.pod_name.clone(),
            interface.interface_name.clone(),
            interface.ips.join(","),
            interface.mac.clone(),
            interface.of_port.to_string(),
            interface.container_id.chars().take(12).collect(),
        ]
    };
    Ok(Output {
        columns: &["NAMESPACE", "NAME", "INTERFACE-NAME", "IP", "MAC", "OF-PORT", "CONTAINER-ID"],
        rows: interfaces.iter().map(row).collect(),
        value: json!(interfaces),
    })
}

/// Without a Node those of the component in this container, or elsewhere of the controller, which knows the agents' too.
async fn feature_gates(clients: &Clients, on: Option<&str>) -> anyhow::Result<Output> {
    let server = match clients.place() {
        _ if on.is_some() => clients.agent(on, "featuregates").await?,
        Place::Elsewhere => clients.controller().await?,
        _ => clients.local().await?,
    };
    let gates: Vec<Value> = agents::list(&server, "/featuregates").await?;
    let cell = |gate: &Value, key: &str| gate[key].as_str().unwrap_or_default().to_owned();
    Ok(Output {
        columns: &["COMPONENT", "FEATUREGATE", "STATUS", "VERSION"],
        rows: gates
            .iter()
            .map(|gate| ["component", "name", "status", "version"].map(|key| cell(gate, key)).to_vec())
            .collect(),
        value: gates.into(),
    })
}

/// An error if something was asked for by name and is not there.
fn found<T>(items: &[T], kind: &str, name: Option<&str>, namespace: Option<&str>) -> anyhow::Result<()> {
    match (name, namespace) {
        (Some(name), Some(namespace)) if items.is_empty() => {
            bail!("no {kind} is named {name:?} in the Namespace {namespace:?}")
        }
        (Some(name), None) if items.is_empty() => bail!("no {kind} is named {name:?}"),
        _ => Ok(()),
    }
}
