//! Asking for the facts: the API server first, then for each Node the controller and the agent at once, then bridges.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_api::controlplane::API_VERSION;
use antrea_api::k8s::IntOrString;
use antrea_crds::traceflow::Status;
use antrea_crds::{AgentConditionType, AgentInfo};
use antrea_policy::model::Protocol;
use anyhow::{Context, bail};
use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::computed::Computed;
use super::facts::{Agent, Asked, Facts, Interface, Node, Packet, Pod, Service, Target, Way};
use super::objects::{self, EndpointSlice, List, Wanted, endpoints, ports};
use super::{Explain, asked, probe};
use crate::agents;
use crate::connect::{Clients, Server};
use crate::get::{agent_of, escape};
use crate::{told, traceflow};

/// Nodes that are asked at a time.
const AT_ONCE: usize = 4;

/// How long a Node's agent, or the controller about it, may take: one that is gone must not keep the others' answers.
const LIMIT: Duration = Duration::from_secs(4);

/// Objects that a list is asked for at a time.
const PAGE: usize = 500;

/// Endpoints of a Service that are looked at.
const ENDPOINTS: usize = 8;

/// Whom an argument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Pod(String, String),
    Service(String, String),
    /// A Pod, or where there is none a Service.
    Either(String, String),
    Address(IpAddr),
}

/// Reads a destination.
///
/// # Errors
/// It is nothing of the kind.
pub(super) fn destination(text: &str) -> anyhow::Result<Named> {
    if let Ok(ip) = text.parse() {
        return Ok(Named::Address(ip));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let named = match parts[..] {
        [name] => Named::Either("default".to_owned(), name.to_owned()),
        [namespace, name] => Named::Either(namespace.to_owned(), name.to_owned()),
        ["pod" | "pods" | "po", namespace, name] => Named::Pod(namespace.to_owned(), name.to_owned()),
        ["svc" | "service" | "services", namespace, name] => {
            Named::Service(namespace.to_owned(), name.to_owned())
        }
        _ => bail!("DST {text:?} is no namespace/name of a Pod, svc/namespace/name of a Service, or address"),
    };
    if parts.iter().any(|part| part.is_empty()) {
        bail!("DST {text:?}: a name is missing");
    }
    Ok(named)
}

/// Reads a source: Namespace and name of a Pod.
///
/// # Errors
/// It is no Pod's.
pub(super) fn source(text: &str) -> anyhow::Result<(String, String)> {
    match destination(text) {
        Ok(Named::Pod(namespace, name) | Named::Either(namespace, name)) => Ok((namespace, name)),
        _ => bail!("SRC {text:?} is no namespace/name of a Pod"),
    }
}

/// An object; none if there is none.
async fn object<T: DeserializeOwned>(server: &Server, path: &str) -> anyhow::Result<Option<T>> {
    match server.client.request(http::Request::get(path).body(Vec::new())?).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(server.explain(&error, &format!("GET {path}"))),
    }
}

/// The first object that is meant of those that a query lists, which may come in pages.
async fn first<T: DeserializeOwned + Default>(
    server: &Server,
    query: &str,
    is_meant: impl Fn(&T) -> bool,
) -> anyhow::Result<Option<T>> {
    let mut page = query.to_owned();
    loop {
        let list = object::<List<T>>(server, &page).await?.unwrap_or_default();
        page = format!("{query}&continue={}", escape(list.next()));
        let is_last = list.next().is_empty();
        let found = list.items.into_iter().find(&is_meant);
        if is_last || found.is_some() {
            return Ok(found);
        }
    }
}

/// The object of a collection that has an address. By `field` each is found by its first address alone, so that all have to be
/// looked at where there are second ones, which the source would have too.
async fn at<T: DeserializeOwned + Default>(
    server: &Server,
    (plural, field): (&str, &str),
    address: IpAddr,
    from: &Pod,
    has: impl Fn(&T) -> bool,
) -> anyhow::Result<Option<T>> {
    let selected = format!("/api/v1/{plural}?fieldSelector={field}%3D{}", escape(&address.to_string()));
    let found = first(server, &selected, &has).await?;
    if found.is_some() || from.ips.len() < 2 {
        return Ok(found);
    }
    first(server, &format!("/api/v1/{plural}?limit={PAGE}"), &has).await
}

async fn pod(cluster: &Server, namespace: &str, name: &str) -> anyhow::Result<Option<Pod>> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", escape(namespace), escape(name));
    Ok(object::<objects::Pod>(cluster, &path).await?.map(objects::Pod::facts))
}

async fn service(cluster: &Server, namespace: &str, name: &str) -> anyhow::Result<Option<objects::Service>> {
    object(cluster, &format!("/api/v1/namespaces/{}/services/{}", escape(namespace), escape(name))).await
}

/// Whom the packet is for.
enum Found {
    Pod(Pod),
    /// With that of its addresses which was named.
    Service(objects::Service, Option<IpAddr>),
    /// Also the Pod whose address it is.
    Address(IpAddr, Option<Pod>),
}

async fn find(cluster: &Server, named: &Named, from: &Pod) -> anyhow::Result<Found> {
    match named {
        Named::Pod(namespace, name) => {
            let found = pod(cluster, namespace, name).await?;
            Ok(Found::Pod(found.with_context(|| format!("there is no Pod {namespace}/{name}"))?))
        }
        Named::Service(namespace, name) => {
            let found = service(cluster, namespace, name).await?;
            let found = found.with_context(|| format!("there is no Service {namespace}/{name}"))?;
            Ok(Found::Service(found, None))
        }
        Named::Either(namespace, name) => {
            if let Some(found) = pod(cluster, namespace, name).await? {
                return Ok(Found::Pod(found));
            }
            let found = service(cluster, namespace, name).await?;
            let found =
                found.with_context(|| format!("there is neither a Pod nor a Service {namespace}/{name}"))?;
            Ok(Found::Service(found, None))
        }
        Named::Address(ip) => {
            let is_its = |service: &objects::Service| service.addresses().contains(ip);
            if let Some(found) = at(cluster, ("services", "spec.clusterIP"), *ip, from, is_its).await? {
                return Ok(Found::Service(found, Some(*ip)));
            }
            let has = |pod: &objects::Pod| pod.has(*ip);
            let found = at(cluster, ("pods", "status.podIP"), *ip, from, has).await?;
            Ok(Found::Address(*ip, found.map(objects::Pod::facts)))
        }
    }
}

/// The packet for a Pod or an address.
fn packet(wanted: &Wanted, pod: Option<&Pod>, whom: &str) -> anyhow::Result<Packet> {
    let protocol = wanted.protocol.unwrap_or(Protocol::Tcp);
    if protocol == Protocol::Icmp {
        if wanted.port.is_some() {
            bail!("--port: ICMP has none");
        }
        return Ok(Packet { protocol, port: 0 });
    }
    let declared = pod.map(|pod| &pod.ports[..]).unwrap_or_default();
    let mut fitting = declared.iter().filter(|port| port.protocol == protocol);
    let port = match &wanted.port {
        Some(number) if number.kind == 0 => u16::try_from(number.int_val).ok(),
        Some(named) => fitting.find(|port| port.name == named.str_val).map(|port| port.port),
        None => match (fitting.next(), fitting.next()) {
            (Some(only), None) => Some(only.port),
            _ => None,
        },
    };
    let all = declared.iter().map(|port| (&port.name[..], port.port, port.protocol.as_str()));
    let port = port.with_context(|| {
        format!("--port: say for which port of {whom}, which declares {}; or --protocol icmp", ports(all))
    })?;
    Ok(Packet { protocol, port })
}

/// What `--port` and `--protocol` say.
fn wanted(asked: &Explain) -> Wanted {
    let port = asked.port.as_deref().map(|text| match text.parse::<u16>() {
        Ok(number) => IntOrString::int(i32::from(number)),
        Err(_) => IntOrString::string(text),
    });
    Wanted { port, protocol: asked.protocol.map(Into::into) }
}

/// Gathers all facts. A packet is sent only if there is time for it.
///
/// # Errors
/// An argument names nothing, or the API server does not answer. What others do not answer is among the facts.
pub(super) async fn gather(clients: &Clients, asked: &Explain, until: Instant) -> anyhow::Result<Facts> {
    let (namespace, name) = source(&asked.source)?;
    let named = destination(&asked.destination)?;
    let cluster = Arc::new(clients.cluster().await?);
    let from = pod(&cluster, &namespace, &name).await?;
    let from = from.with_context(|| format!("there is no Pod {namespace}/{name}"))?;
    let to = find(&cluster, &named, &from).await?;
    let wanted = wanted(asked);
    let (target, packet, ways) = match to {
        Found::Pod(to) => {
            let packet = packet(&wanted, Some(&to), &to.full())?;
            // The family that both have, as far as there is one.
            let shared = to.ips.iter().copied().find(|ip| from.address(ip.is_ipv6()).is_some());
            let address = shared.or(to.ips.first().copied());
            (Target::Pod, packet, vec![Way { address, port: packet.port, pod: Some(to), ..Way::default() }])
        }
        Found::Address(address, pod) => {
            let packet = packet(&wanted, pod.as_ref(), &address.to_string())?;
            let way = Way { address: Some(address), port: packet.port, pod, ..Way::default() };
            (Target::Address, packet, vec![way])
        }
        Found::Service(found, address) => {
            let (port, protocol) = found.port(&wanted)?;
            let packet = Packet { protocol, port: port.port };
            let (service, ways) = of_service(&cluster, (&found, address), &port, packet, &from).await?;
            (Target::Service(service), packet, ways)
        }
    };
    let mut names: Vec<String> =
        ways.iter().filter_map(|way| way.pod.as_ref()).map(|pod| pod.node.clone()).collect();
    names.push(from.node.clone());
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    let (nodes, agents) = nodes(clients, &cluster, names).await?;
    let mut facts = Facts { source: from, target, packet, nodes, ways, probe: None };
    asked::bridges(&mut facts, &agents).await;
    asked::hosts(&mut facts, &agents).await;
    if asked.send {
        facts.probe = Some(send(&cluster, &facts, until).await);
    }
    Ok(facts)
}

/// What there is to be known of a Service, asked by `address`, or by the one that fits the source.
async fn of_service(
    cluster: &Server,
    (found, address): (&objects::Service, Option<IpAddr>),
    port: &objects::ServicePort,
    packet: Packet,
    from: &Pod,
) -> anyhow::Result<(Service, Vec<Way>)> {
    let (namespace, name) = found.full();
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{}",
        escape(namespace),
        escape(name)
    );
    let slices = object::<List<EndpointSlice>>(cluster, &path).await?.unwrap_or_default().items;
    let addresses = found.addresses();
    let fits = || addresses.iter().copied().find(|ip| from.address(ip.is_ipv6()).is_some());
    let address = address.or_else(fits).or(addresses.first().copied());
    let v6 = match address {
        Some(address) => address.is_ipv6(),
        None => from.ips.first().is_some_and(IpAddr::is_ipv6),
    };
    let all = endpoints(&slices, port, packet.protocol, v6);
    let ready = all.iter().filter(|endpoint| endpoint.ready).count();
    let of_ready = |endpoint: &objects::Endpoint| SocketAddr::new(endpoint.address, endpoint.port);
    let service = Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        address,
        has_selector: found.has_selector(),
        ready,
        unready: all.len() - ready,
        endpoints: all.iter().filter(|endpoint| endpoint.ready).map(of_ready).collect(),
        sent: None,
    };
    let mut ways = Vec::new();
    for endpoint in all.into_iter().filter(|endpoint| endpoint.ready).take(ENDPOINTS) {
        let pod = match &endpoint.pod {
            Some((namespace, name)) => pod(cluster, namespace, name).await?,
            None => None,
        };
        ways.push(Way { address: Some(endpoint.address), port: endpoint.port, pod, ..Way::default() });
    }
    Ok((service, ways))
}

/// The answer, within the limit.
pub(super) async fn answered<T>(question: impl Future<Output = anyhow::Result<T>>) -> Asked<T> {
    match tokio::time::timeout(LIMIT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(format!("no answer within {LIMIT:?}")),
    }
}

/// Agents that answer, by Node.
pub(super) type Agents = BTreeMap<String, Arc<Server>>;

/// Asks for all of these Nodes.
async fn nodes(
    clients: &Clients,
    cluster: &Arc<Server>,
    names: Vec<String>,
) -> anyhow::Result<(BTreeMap<String, Node>, Agents)> {
    let (room, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for name in names {
        let (clients, cluster, room) = (clients.clone(), Arc::clone(cluster), Arc::clone(&room));
        tasks.spawn(async move {
            let _turn = room.acquire().await?;
            let (node, server) = node(&clients, &cluster, &name).await;
            anyhow::Ok((name, node, server))
        });
    }
    let (mut nodes, mut agents) = (BTreeMap::new(), Agents::new());
    while let Some(done) = tasks.join_next().await {
        let (name, node, server) = done??;
        agents.extend(server.map(|server| (name.clone(), server)));
        nodes.insert(name, node);
    }
    Ok((nodes, agents))
}

async fn node(clients: &Clients, cluster: &Server, name: &str) -> (Node, Option<Arc<Server>>) {
    let path = format!("/api/v1/nodes/{}", escape(name));
    let told = async {
        let info = agent_of(clients, name).await?.spec;
        let healthy = info.agent_conditions.iter().find(|c| c.type_ == AgentConditionType::AgentHealthy);
        let heartbeat = healthy.and_then(|condition| condition.last_heartbeat_time.as_ref());
        let age = heartbeat.map(|time| Timestamp::now().duration_since(time.0).as_secs().max(0));
        anyhow::Ok((info, age))
    };
    let (object, told, computed, agent) = tokio::join!(
        answered(object::<objects::Node>(cluster, &path)),
        answered(told),
        answered(computed(cluster, name)),
        answered(agent(clients, name))
    );
    let (unready, addresses) = match &object {
        Ok(Some(node)) => node.facts(),
        Ok(None) => (Some("it is not there any more".to_owned()), Vec::new()),
        // Why not is told with the agent, which cannot be found without it either.
        Err(_) => (None, Vec::new()),
    };
    let (agent, server) = match agent {
        Ok((agent, server)) => (Ok(agent), Some(Arc::new(server))),
        Err(why) => (Err(why), None),
    };
    (Node { unready, addresses, told, computed, agent, path: None }, server)
}

/// What the controller has computed for a Node.
async fn computed(cluster: &Server, node: &str) -> anyhow::Result<Computed> {
    let of = |plural: &str| format!("/apis/{API_VERSION}/{plural}?fieldSelector=nodeName%3D{}", escape(node));
    let paths = [of("networkpolicies"), of("appliedtogroups"), of("addressgroups")];
    lists(cluster, &paths).await
}

async fn lists(server: &Server, [policies, applied_to, addresses]: &[String; 3]) -> anyhow::Result<Computed> {
    let (policies, applied_to, addresses) = tokio::try_join!(
        agents::list(server, policies),
        agents::list(server, applied_to),
        agents::list(server, addresses)
    )?;
    Ok(Computed { policies, applied_to, addresses })
}

/// An entry of `/podinterfaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Attached {
    name: String,
    pod_namespace: String,
    ips: Vec<IpAddr>,
    of_port: u32,
}

/// An entry of `/ovsflows`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    flow: String,
}

async fn agent(clients: &Clients, name: &str) -> anyhow::Result<(Agent, Server)> {
    let server = clients.agent(Some(name), "explain").await?;
    let info = async {
        let text = server.ask(Method::GET, "/agentinfo").await?;
        serde_json::from_str::<AgentInfo>(&text).context("answer to /agentinfo")
    };
    let paths = ["/networkpolicies", "/appliedtogroups", "/addressgroups"].map(str::to_owned);
    let (info, attached, computed, tables) = tokio::try_join!(
        info,
        agents::list::<Attached>(&server, "/podinterfaces"),
        lists(&server, &paths),
        agents::list::<Line>(&server, "/ovsflows?table-names-only")
    )?;
    let interface = |attached: Attached| Interface {
        namespace: attached.pod_namespace,
        pod: attached.name,
        ips: attached.ips,
        ofport: attached.of_port,
    };
    let agent = Agent {
        info,
        interfaces: attached.into_iter().map(interface).collect(),
        computed,
        tables: tables.into_iter().map(|line| line.flow).collect(),
    };
    Ok((agent, server))
}

/// Sends a packet, and says what became of it.
async fn send(cluster: &Server, facts: &Facts, until: Instant) -> Asked<Status> {
    let asked = probe::asked(facts)?;
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("there was no time left for it; --timeout allows more".to_owned());
    }
    let is_service = matches!(facts.target, Target::Service(_));
    let fate = traceflow::fate(cluster, &asked, is_service, LIMIT.min(left / 2)).await;
    fate.map_err(|error| told(&error))
}
