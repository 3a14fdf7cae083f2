//! Addresses of new pods, told by the agents of their nodes.
//!
//! kubelet writes a pod's address into its status up to a second after the pod has it, and until then nobody's policy
//! knows it. The agent knows it at ADD. What it says is believed only of pods that are bound to its own node and are
//! the ones that the API server has (by UID), for addresses of the node's subnets that no other pod of the node has, and
//! only as long as the status has none.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use antrea_api::addresses::{Answer, MAX_BODY, MAX_PODS, NodeQuery, PATH, PodAddress, PodAddresses};
use antrea_policy::{Told, k8s};
use antrea_runtime::client::describe;
use apiserver_kit::{status::Failure, user::User};
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    routing::put,
};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::{Mutex, Semaphore};

use super::{PolicyHub, scope, storage::synced, trace::Batch, update};

/// How long a node's subnets are believed. They hardly ever change, but another node may get the name.
const FRESH: Duration = Duration::from_secs(60);

/// Wait for the API server when it is asked for a Node.
const LIMIT: Duration = Duration::from_secs(3);

/// Questions to the API server at once.
const QUESTIONS: usize = 8;

/// Refusals that an answer names.
const NAMED: usize = 10;

type Fetched = Result<Vec<IpNet>, String>;
type Fetch = dyn Fn(&str) -> BoxFuture<'static, Fetched> + Send + Sync;

/// Where nodes' subnets come from.
pub struct Subnets {
    fetch: Box<Fetch>,
    known: Mutex<HashMap<String, (Instant, Vec<IpNet>)>>,
    /// To ask with: nodes tell at their own pace, and the API server is not to be asked by all at once.
    questions: Semaphore,
}

impl Subnets {
    /// Those of the Node objects.
    #[must_use]
    pub fn of_nodes(client: Client) -> Self {
        let api = Api::<Node>::all(client);
        Self::new(move |name| {
            let (api, name) = (api.clone(), name.to_owned());
            Box::pin(async move {
                match tokio::time::timeout(LIMIT, api.get_opt(&name)).await {
                    Ok(Ok(node)) => Ok(node.map(|node| subnets(&node)).unwrap_or_default()),
                    Ok(Err(error)) => Err(describe(&error)),
                    Err(_) => Err(format!("no answer within {LIMIT:?}")),
                }
            })
        })
    }

    pub(super) fn new(fetch: impl Fn(&str) -> BoxFuture<'static, Fetched> + Send + Sync + 'static) -> Self {
        Self { fetch: Box::new(fetch), known: Mutex::default(), questions: Semaphore::new(QUESTIONS) }
    }

    async fn of(&self, node: &str) -> Result<Vec<IpNet>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::unavailable(format_args!("Node {node} cannot be read: {error}"))
        };
        {
            let mut known = self.known.lock().await;
            known.retain(|_, (since, _)| since.elapsed() < FRESH);
            if let Some((_, subnets)) = known.get(node) {
                return Ok(subnets.clone());
            }
        }
        let _permit = self.questions.acquire().await.map_err(|error| failed(&error))?;
        let subnets = (self.fetch)(node).await.map_err(|error| failed(&error))?;
        let mut known = self.known.lock().await;
        known.insert(node.to_owned(), (Instant::now(), subnets.clone()));
        Ok(subnets)
    }
}

fn subnets(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|text| text.parse().ok()).collect()
}

/// What requests need.
struct Teller {
    hub: Arc<PolicyHub>,
    /// User name of agents.
    agents: Arc<str>,
    subnets: Subnets,
}

/// [`PATH`]. It goes behind [`apiserver_kit::gate::protect`].
pub fn router(hub: &Arc<PolicyHub>, namespace: &str, subnets: Subnets) -> Router {
    let teller = Teller { hub: Arc::clone(hub), agents: scope::agents(namespace), subnets };
    Router::new().route(PATH, put(tell)).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(Arc::new(teller))
}

async fn tell(
    State(teller): State<Arc<Teller>>,
    user: Option<Extension<User>>,
    Query(NodeQuery { node }): Query<NodeQuery>,
    body: Bytes,
) -> Result<Json<Answer>, Failure> {
    // Not even a token that says of no node which it is good for: what is told here opens policies.
    let own = user.as_ref().and_then(|Extension(user)| user.node_of(&teller.agents));
    if own != Some(&node) {
        return Err(Failure::forbidden(format_args!(
            "only the agent of {node:?}, with a token that is bound to its Pod there, tells of its addresses"
        )));
    }
    let said: PodAddresses = serde_json::from_slice(&body).map_err(Failure::bad_request)?;
    if said.pods.len() > MAX_PODS {
        let count = said.pods.len();
        return Err(Failure::bad_request(format_args!("pods: {count} are told of, {MAX_PODS} at most")));
    }
    let told: Vec<_> = said.pods.iter().filter_map(read).collect();
    let hub = &teller.hub;
    let (found, _) = hub.read(|state, _| {
        synced(state)?;
        let news: Vec<_> = state.index.without_status(&node, &told).cloned().collect();
        Ok::<_, Failure>((news, state.index.has_told(&node)))
    });
    let (mut news, before) = found?;
    let mut refused = Vec::new();
    if !news.is_empty() {
        let subnets = teller.subnets.of(&node).await?;
        let inside = |ip: IpAddr| subnets.iter().any(|subnet| subnet.contains(&ip));
        news.retain(|told| match told.ips.iter().find(|ip| !inside(*ip)) {
            Some(ip) => {
                refused.push(format!("{}: {ip} is not in the subnets of {node}", name(told)));
                false
            }
            None => true,
        });
    }
    if !news.is_empty() || before {
        let object = || news.first().map(name).unwrap_or_default();
        let batch =
            Batch { size: news.len(), received: SystemTime::now(), resource: "pods", object: &object };
        update(hub, &batch, |state| {
            let taken = state.index.tell_addresses(&node, &news);
            state.metrics.addresses[0].inc_by(count(news.len() - taken.len()));
            refused.extend(taken.into_iter().map(|told| format!("{}: another pod has it", name(told))));
            state.metrics.addresses[1].inc_by(count(refused.len()));
        });
    } else if !refused.is_empty() {
        hub.read(|state, _| state.metrics.addresses[1].inc_by(count(refused.len())));
    }
    if let Some(first) = refused.first() {
        tracing::warn!(node, refused = refused.len(), first, "addresses of pods that are not believed");
    }
    refused.truncate(NAMED);
    Ok(Json(Answer { refused }))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn name(told: &Told) -> String {
    format!("{}/{}", told.namespace, told.name)
}

/// None of what cannot be a pod with an address.
fn read(said: &PodAddress) -> Option<Told> {
    let PodAddress { namespace, name, uid, ips } = said;
    let ips: k8s::PodIps = ips.iter().copied().collect();
    let uid = k8s::Uid::parse(uid)?;
    (!ips.is_empty()).then(|| Told { namespace: (&**namespace).into(), name: (&**name).into(), uid, ips })
}
