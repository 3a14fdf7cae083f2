//! What each verb asks for and how it is shown.

use antrea_api::{
    controlplane::{API_VERSION, AddressGroup, AppliedToGroup, GroupMember, NetworkPolicy},
    k8s::{Cell, Resource as _},
};
use antrea_crds::{
    AgentConditionType, AntreaAgentInfo, AntreaControllerInfo, CONTROLLER_INFO_NAME, ControllerConditionType,
    NetworkPolicyControllerInfo,
};
use anyhow::{Context, bail};
use http::Method;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, api::ListParams};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    agents,
    cli::{Flows, Format, Packet, Resource},
    connect::{Clients, Place},
    output::{Output, address},
    told,
};

/// A heartbeat that is older says nothing any more. Agents and the controller beat every 60 s.
const STALE_SECONDS: i64 = 180;

/// Addresses that a cell names before it only counts.
const SHOWN: usize = 3;

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
        Resource::NetworkPolicy { name, namespace } => {
            network_policies(clients, on, name.as_deref(), namespace.as_deref()).await
        }
        Resource::AddressGroup { name } => address_groups(clients, on, name.as_deref()).await,
        Resource::AppliedToGroup { name } => applied_to_groups(clients, on, name.as_deref()).await,
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

/// All objects of a resource of the controlplane API; of an agent, those that it has of the controller.
async fn computed<T: DeserializeOwned>(
    clients: &Clients,
    on: Option<&str>,
    plural: &str,
) -> anyhow::Result<Vec<T>> {
    if on.is_some() || clients.place() == Place::Agent {
        return agents::list(&clients.agent(on, plural).await?, &format!("/{plural}")).await;
    }
    let server =
        if clients.place() == Place::Controller { clients.local().await? } else { clients.cluster().await? };
    agents::list(&server, &format!("/apis/{API_VERSION}/{plural}")).await
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

async fn network_policies(
    clients: &Clients,
    on: Option<&str>,
    name: Option<&str>,
    namespace: Option<&str>,
) -> anyhow::Result<Output> {
    let mut policies: Vec<NetworkPolicy> = computed(clients, on, "networkpolicies").await?;
    let source = |policy: &NetworkPolicy| policy.source_ref.clone().unwrap_or_default();
    policies.retain(|policy| {
        name.is_none_or(|name| name == policy.metadata.name || name == source(policy).name)
            && namespace.is_none_or(|namespace| namespace == source(policy).namespace)
    });
    found(&policies, "computed NetworkPolicy", name, namespace)?;
    policies.sort_by_cached_key(|policy| (source(policy).namespace, source(policy).name));
    Ok(Output {
        columns: &["NAME", "SOURCE", "APPLIED-TO", "RULES"],
        rows: policies.iter().map(|policy| row(&policy.metadata.name, policy.cells())).collect(),
        value: json!(policies),
    })
}

async fn address_groups(clients: &Clients, on: Option<&str>, name: Option<&str>) -> anyhow::Result<Output> {
    let mut groups: Vec<AddressGroup> = computed(clients, on, "addressgroups").await?;
    groups.retain(|group| name.is_none_or(|name| name == group.metadata.name));
    found(&groups, "AddressGroup", name, None)?;
    groups.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let shown = |group: &AddressGroup| {
        let mut row = row(&group.metadata.name, group.cells());
        row.push(addresses(&group.group_members));
        row
    };
    Ok(Output {
        columns: &["NAME", "MEMBERS", "PODS", "ADDRESSES"],
        rows: groups.iter().map(shown).collect(),
        value: json!(groups),
    })
}

async fn applied_to_groups(
    clients: &Clients,
    on: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<Output> {
    let mut groups: Vec<AppliedToGroup> = computed(clients, on, "appliedtogroups").await?;
    groups.retain(|group| name.is_none_or(|name| name == group.metadata.name));
    found(&groups, "AppliedToGroup", name, None)?;
    groups.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(Output {
        columns: &["NAME", "MEMBERS", "PODS"],
        rows: groups.iter().map(|group| row(&group.metadata.name, group.cells())).collect(),
        value: json!(groups),
    })
}

fn row(name: &str, cells: Vec<Cell>) -> Vec<String> {
    let cells = cells.into_iter().map(|cell| match cell {
        Cell::Text(text) => text,
        Cell::Number(number) => number.to_string(),
    });
    [name.to_owned()].into_iter().chain(cells).collect()
}

fn addresses(members: &[GroupMember]) -> String {
    let all: Vec<String> =
        members.iter().flat_map(|m| &m.ips).filter_map(|ip| address(ip)).map(|ip| ip.to_string()).collect();
    let mut text = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN {
        text.push_str(&format!(",+{}", all.len() - SHOWN));
    }
    text
}
