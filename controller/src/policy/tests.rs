use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use antrea_api::{
    controlplane::{self as wire, Event, GroupEvent, GroupMember},
    k8s::{EventType, FrameDecoder, Object as _},
};
use antrea_policy::k8s;
use antrea_runtime::health::Readiness;
use apiserver_kit::{
    hub::Subscription,
    metrics::ServerMetrics,
    object::{Encoding, Item},
    request::ResourceRequest,
    user::User,
};
use axum::{Router, body::Body};
use futures::channel::mpsc;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::runtime::watcher;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    feed::{Input, feed},
    mistakes::Mistaken,
    resources::{AddressGroups, AppliedToGroups},
    source::Watched,
    *,
};

mod addresses;
mod admission;
mod converted;
mod evaluation;
mod golden;
mod groups;
mod native;
mod refusals;
mod scope;
mod selection;
mod statistics;
mod traced;
mod undecoded;

const POLICY: usize = NetworkPolicies::NUMBER;
const ADDRESS: usize = AddressGroups::NUMBER;
const APPLIED_TO: usize = AppliedToGroups::NUMBER;
const NODES: [&str; 3] = ["n0", "n1", "n2"];

fn new_hub() -> Arc<PolicyHub> {
    hub(PolicyMetrics::new(&Metrics::empty()).unwrap(), Tracer::default())
}

fn router(hub: &Arc<PolicyHub>) -> Router {
    let metrics = ServerMetrics::new(&Metrics::empty(), PLURALS).unwrap();
    let api = api(apiserver_kit::api::Api::new("v0", metrics), hub, "kube-system").router();
    own_node(api.merge(lookup(hub)), "kube-system")
}

/// A request as it comes out of the gate.
async fn call(
    hub: &Arc<PolicyHub>,
    method: Method,
    path: &str,
    accept: &str,
    body: Vec<u8>,
) -> (StatusCode, Vec<u8>) {
    let url = format!("/apis/controlplane.antrea.io/v1beta2/{path}");
    call_as(hub, User::default(), method, &url, accept, body).await
}

async fn call_as(
    hub: &Arc<PolicyHub>,
    user: User,
    method: Method,
    url: &str,
    accept: &str,
    body: Vec<u8>,
) -> (StatusCode, Vec<u8>) {
    let mut request = Request::builder()
        .method(method.clone())
        .uri(url)
        .header("accept", accept)
        .body(Body::from(body))
        .unwrap();
    let meaning = ResourceRequest::parse(&method, request.uri().path(), request.uri().query()).unwrap();
    if let Some(meaning) = meaning {
        request.extensions_mut().insert(meaning);
    }
    request.extensions_mut().insert(user);
    let response = router(hub).oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn get(hub: &Arc<PolicyHub>, path: &str) -> (StatusCode, Value) {
    let (status, body) = call(hub, Method::GET, path, "application/json", Vec::new()).await;
    (status, serde_json::from_slice(&body).unwrap())
}

fn watched<T: Input>(object: Value) -> Watched<T> {
    serde_json::from_value(object).unwrap()
}

fn pod(name: &str, labels: Value, node: &str, ip: &str) -> Watched<k8s::Pod> {
    let ips = if ip.is_empty() { json!([]) } else { json!([{ "ip": ip }]) };
    watched(json!({
        "metadata": { "name": name, "namespace": "shop", "resourceVersion": "1", "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "ports": [{ "name": "http", "containerPort": 80 }] }] },
        "status": { "podIPs": ips },
    }))
}

fn namespace(name: &str) -> Watched<k8s::Namespace> {
    watched(json!({ "metadata": { "name": name, "resourceVersion": "1" } }))
}

fn policy(name: &str, generation: i64, to: Value, from: Value) -> Watched<k8s::NetworkPolicy> {
    watched(json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": generation,
            "resourceVersion": "1" },
        "spec": { "podSelector": { "matchLabels": to },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": from } }], "ports": [{ "port": "http" }] }] },
    }))
}

/// The three inputs as a test drives them.
struct Inputs {
    hub: Arc<PolicyHub>,
    ready: Readiness,
    problems: Readiness,
    namespaces: Events<k8s::Namespace>,
    pods: Events<k8s::Pod>,
    policies: Events<k8s::NetworkPolicy>,
    mistakes: tokio::sync::mpsc::Receiver<Mistaken>,
}

type Events<T> = mpsc::UnboundedSender<watcher::Result<watcher::Event<Watched<T>>>>;

fn start<T: Input>(
    hub: &Arc<PolicyHub>,
    ready: &Readiness,
    problems: &Readiness,
    mistakes: &Mistakes,
) -> Events<T> {
    let (sender, events) = mpsc::unbounded();
    tokio::spawn(feed(events, Arc::clone(hub), ready.block("list"), problems.clone(), mistakes.clone()));
    sender
}

fn list<T: Input>(events: &Events<T>, objects: Vec<Watched<T>>) {
    events.unbounded_send(Ok(watcher::Event::Init)).unwrap();
    for object in objects {
        events.unbounded_send(Ok(watcher::Event::InitApply(object))).unwrap();
    }
    events.unbounded_send(Ok(watcher::Event::InitDone)).unwrap();
}

fn apply<T: Input>(events: &Events<T>, object: Watched<T>) {
    events.unbounded_send(Ok(watcher::Event::Apply(object))).unwrap();
}

fn fail<T: Input>(events: &Events<T>) {
    events.unbounded_send(Err(watcher::Error::NoResourceVersion)).unwrap();
}

impl Inputs {
    fn new() -> Self {
        Self::on(new_hub())
    }

    fn on(hub: Arc<PolicyHub>) -> Self {
        let (ready, problems) = (Readiness::new(), Readiness::new());
        let (tell, mistakes) = mistakes();
        Self {
            namespaces: start(&hub, &ready, &problems, &tell),
            pods: start(&hub, &ready, &problems, &tell),
            policies: start(&hub, &ready, &problems, &tell),
            mistakes,
            hub,
            ready,
            problems,
        }
    }

    /// A shop: web on n0 and n1, db on n1; `allow` lets web reach db.
    async fn shop() -> Self {
        let inputs = Self::new();
        list(&inputs.namespaces, vec![namespace("shop")]);
        list(
            &inputs.pods,
            vec![
                pod("web-0", json!({ "app": "web" }), "n0", "10.0.0.5"),
                pod("web-1", json!({ "app": "web" }), "n1", "10.0.1.5"),
                pod("db", json!({ "app": "db" }), "n1", "10.0.1.6"),
            ],
        );
        list(&inputs.policies, vec![policy("allow", 1, json!({ "app": "db" }), json!({ "app": "web" }))]);
        until(|| inputs.ready.is_ready()).await;
        inputs
    }
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time");
}

/// What an agent knows, from the bytes that it would get.
#[derive(Debug, Default, Clone, PartialEq)]
struct Agent {
    policies: BTreeMap<String, wire::NetworkPolicy>,
    address: BTreeMap<String, BTreeSet<String>>,
    applied_to: BTreeMap<String, BTreeSet<String>>,
}

/// A member as text, so that members can be compared as sets.
fn text(member: &GroupMember) -> String {
    serde_json::to_string(member).unwrap()
}

fn set(members: &[GroupMember]) -> BTreeSet<String> {
    let set: BTreeSet<_> = members.iter().map(text).collect();
    assert_eq!(set.len(), members.len(), "doubled members");
    set
}

fn patch(group: &mut BTreeSet<String>, added: &[GroupMember], removed: &[GroupMember]) {
    for member in removed {
        assert!(group.remove(&text(member)), "removes what is not there: {member:?}");
    }
    for member in added {
        assert!(group.insert(text(member)), "adds what is there: {member:?}");
    }
}

impl Agent {
    fn take(&mut self, item: &Item) {
        let mut decoder = FrameDecoder::default();
        decoder.push(&item.bytes(Encoding::Protobuf));
        let (kind, object) = decoder.next_event().unwrap().unwrap();
        match Event::decode(kind, &object).unwrap() {
            Event::Policy(policy) => {
                let before = self.policies.insert(policy.metadata.name.clone(), policy);
                assert_eq!(before.is_none(), kind == EventType::Added);
            }
            Event::PolicyDeleted(name) => assert!(self.policies.remove(&name).is_some(), "{name}"),
            Event::AddressGroup(GroupEvent::Added(group)) => {
                let before = self.address.insert(group.metadata.name.clone(), set(&group.group_members));
                assert!(before.is_none());
            }
            Event::AddressGroup(GroupEvent::Patched(change)) => {
                let group = self.address.get_mut(&change.metadata.name).unwrap();
                patch(group, &change.added_group_members, &change.removed_group_members);
            }
            Event::AddressGroup(GroupEvent::Deleted(name)) => assert!(self.address.remove(&name).is_some()),
            Event::AppliedToGroup(GroupEvent::Added(group)) => {
                let before = self.applied_to.insert(group.metadata.name.clone(), set(&group.group_members));
                assert!(before.is_none());
            }
            Event::AppliedToGroup(GroupEvent::Patched(change)) => {
                let group = self.applied_to.get_mut(&change.metadata.name).unwrap();
                patch(group, &change.added_group_members, &change.removed_group_members);
            }
            Event::AppliedToGroup(GroupEvent::Deleted(name)) => {
                assert!(self.applied_to.remove(&name).is_some())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The three watches of a node.
struct Node {
    watches: Vec<Subscription>,
    agent: Agent,
}

impl Node {
    fn join(hub: &Arc<PolicyHub>, node: &str) -> Self {
        let mut agent = Agent::default();
        let mut watches: Vec<_> = (0..3).map(|resource| storage::watch(hub, resource, Some(node))).collect();
        for watch in &mut watches {
            std::mem::take(&mut watch.snapshot).iter().for_each(|item| agent.take(item));
        }
        Self { watches, agent }
    }

    fn catch_up(&mut self) -> &Agent {
        for watch in &mut self.watches {
            while let Ok(item) = watch.try_next() {
                self.agent.take(&item);
            }
        }
        &self.agent
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_everything_is_known() {
    let inputs = Inputs::new();
    list(&inputs.namespaces, vec![namespace("shop")]);
    list(&inputs.policies, vec![]);
    until(|| inputs.ready.pending().len() == 1).await;
    for plural in PLURALS {
        for query in ["", "?watch=1", "?watch=1&fieldSelector=nodeName%3Dn0"] {
            assert_eq!(get(&inputs.hub, &format!("{plural}{query}")).await.0, 503);
        }
    }
    list(&inputs.pods, vec![]);
    until(|| inputs.ready.is_ready()).await;
    assert_eq!(get(&inputs.hub, "addressgroups").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_gets_what_it_needs() {
    let inputs = Inputs::shop().await;
    let mut nodes = NODES.map(|node| Node::join(&inputs.hub, node));
    assert_eq!(nodes[0].agent, Agent::default(), "no member of the policy on n0");
    let n1 = &nodes[1].agent;
    let rule = &n1.policies["uid-allow"].rules[0];
    assert_eq!(n1.address[&rule.from.address_groups[0]].len(), 2);
    assert_eq!(n1.applied_to.len(), 1);
    assert_eq!(counts(&inputs.hub).connected_agents, 3);

    // A db Pod on n0 brings n0 into the span; its watches get everything as ADDED.
    apply(&inputs.pods, pod("db-0", json!({ "app": "db" }), "n0", ""));
    until(|| inputs.hub.read(|state, _| state.index.node_view("n0").policies.len()).0 == 1).await;
    let n0 = nodes[0].catch_up().clone();
    assert_eq!(n0.policies.keys().collect::<Vec<_>>(), ["uid-allow"]);
    assert_eq!(n0.address, nodes[1].catch_up().address);
    assert!(n0.applied_to.values().all(|members| members.len() == 1), "its own member only");
    assert_eq!(*nodes[2].catch_up(), Agent::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_sees_whole_objects() {
    let inputs = Inputs::shop().await;
    let (_, list) = get(&inputs.hub, "networkpolicies").await;
    let policy = &list["items"][0];
    assert_eq!(policy["metadata"]["name"], "uid-allow");
    assert_eq!(
        policy["sourceRef"],
        json!({ "type": "K8sNetworkPolicy", "namespace": "shop", "name": "allow", "uid": "uid-allow" })
    );
    assert_eq!(policy["rules"][0]["services"], json!([{ "protocol": "TCP", "port": "http" }]));
    let group = policy["rules"][0]["from"]["addressGroups"][0].as_str().unwrap();
    let (_, one) = get(&inputs.hub, &format!("addressgroups/{group}")).await;
    let mut ips: Vec<_> =
        one["groupMembers"].as_array().unwrap().iter().map(|m| m["ips"][0].clone()).collect();
    ips.sort_by_key(ToString::to_string);
    assert_eq!(ips, ["CgAABQ==", "CgABBQ=="]);
    assert_eq!(get(&inputs.hub, "addressgroups/none").await.0, 404);
    let (_, of_node) = get(&inputs.hub, "networkpolicies?fieldSelector=nodeName%3Dn0").await;
    assert_eq!(of_node["items"], json!([]));

    let mut all = storage::watch(&inputs.hub, ADDRESS, None);
    apply(&inputs.pods, pod("web-2", json!({ "app": "web" }), "n2", "10.0.2.5"));
    let item = all.next().await.unwrap();
    let (kind, object) = (item.kind(), item.object().json().unwrap());
    assert_eq!((kind, object["kind"].as_str()), (EventType::Modified, Some("AddressGroup")));
    assert_eq!(object["groupMembers"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_watch_changes_nothing_and_is_reported() {
    let inputs = Inputs::shop().await;
    let mut n1 = Node::join(&inputs.hub, "n1");
    let before = n1.agent.clone();
    for _ in 0..2 {
        fail(&inputs.pods);
    }
    inputs.pods.unbounded_send(Ok(watcher::Event::Init)).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(inputs.problems.is_ready(), "two failures are nothing unusual");
    // As of a server that refuses every list: each begins before it fails.
    for _ in 0..3 {
        inputs.pods.unbounded_send(Ok(watcher::Event::Init)).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        fail(&inputs.pods);
    }
    until(|| !inputs.problems.is_ready()).await;
    assert_eq!(inputs.problems.pending()[0].0, "pod watch");
    assert_eq!(*n1.catch_up(), before, "half a list and failures are no deletion");

    list(&inputs.pods, vec![pod("db", json!({ "app": "db" }), "n1", "10.0.1.6")]);
    until(|| inputs.problems.is_ready()).await;
    until(|| inputs.hub.read(|state, _| state.index.address_groups().all(|g| g.members.is_empty())).0).await;
    let after = n1.catch_up().clone();
    assert!(after.address.values().all(BTreeSet::is_empty));
    assert_eq!(after.policies, before.policies);
}

#[tokio::test(flavor = "multi_thread")]
async fn realization_is_collected_per_node() {
    let inputs = Inputs::shop().await;
    let post = async |policy: &str, node: &str, generation: i64| {
        let node = wire::NetworkPolicyNodeStatus { node_name: node.into(), generation, ..Default::default() };
        let status = wire::NetworkPolicyStatus { nodes: vec![node], ..Default::default() };
        let body = serde_json::to_vec(&status).unwrap();
        call(&inputs.hub, Method::POST, &format!("networkpolicies/{policy}/status"), "*/*", body)
            .await
            .0
            .as_u16()
    };
    assert_eq!(post("uid-allow", "n1", 1).await, 201);
    assert_eq!(post("uid-allow", "not-in-the-span", 1).await, 201);
    assert_eq!(post("none", "n1", 1).await, 404);
    let (_, status) = get(&inputs.hub, "networkpolicies/uid-allow/status").await;
    assert_eq!(status["nodes"], json!([{ "nodeName": "n1", "generation": 1, "realizationFailure": false }]));
    let wrong = wire::NetworkPolicyStatus {
        metadata: antrea_api::k8s::ObjectMeta::named("other"),
        ..Default::default()
    };
    let path = "networkpolicies/uid-allow/status";
    assert_eq!(call(&inputs.hub, Method::POST, path, "*/*", wrong.seal()).await.0, 400);

    let delete = policy("allow", 1, json!({}), json!({}));
    inputs.policies.unbounded_send(Ok(watcher::Event::Delete(delete))).unwrap();
    until(|| inputs.hub.read(|state, _| state.index.network_policies().count()).0 == 0).await;
    assert!(inputs.hub.read(|state, _| state.realization.of("uid-allow").is_empty()).0, "nothing is kept");
}

#[derive(Debug, Clone)]
enum Step {
    Pod(u8, Option<(u8, usize, bool)>),
    Policy(u8, Option<(u8, u8)>),
    Rejoin(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_u8..5, proptest::option::weighted(0.8, (0_u8..3, 0_usize..3, any::<bool>())))
            .prop_map(|(name, pod)| Step::Pod(name, pod)),
        3 => (0_u8..3, proptest::option::weighted(0.8, (0_u8..3, 0_u8..3)))
            .prop_map(|(name, policy)| Step::Policy(name, policy)),
        1 => (0_usize..3).prop_map(Step::Rejoin),
    ]
}

proptest! {
    /// After any changes, an agent that followed them knows what one that connects now is told.
    #[test]
    fn agents_that_follow_know_what_new_ones_are_told(
        steps in proptest::collection::vec(step(), 1..40),
        batch in 1_usize..5,
    ) {
        let hub = new_hub();
        let mut nodes: Vec<Node> = NODES.iter().map(|node| Node::join(&hub, node)).collect();
        let of = |size| trace::Batch { size, received: SystemTime::now(), resource: "", object: &String::new };
        update(&hub, &of(1), |state| state.index.apply_namespace(&namespace("shop").object.unwrap()));
        for steps in steps.chunks(batch) {
            update(&hub, &of(steps.len()), |state| for step in steps {
                let app = |n: u8| json!({ "app": n.to_string() });
                match step {
                    Step::Pod(name, Some((label, node, ip))) => {
                        let ip = if *ip { format!("10.0.0.{}", name + 1) } else { String::new() };
                        pod(&format!("p{name}"), app(*label), NODES[*node], &ip).object.unwrap().apply(&mut state.index);
                    }
                    Step::Pod(name, None) => state.index.delete_pod("shop", &format!("p{name}")),
                    Step::Policy(name, Some((to, from))) => {
                        policy(&format!("np{name}"), 1, app(*to), app(*from)).object.unwrap().apply(&mut state.index);
                    }
                    Step::Policy(name, None) => state.index.delete_network_policy("shop", &format!("np{name}")),
                    Step::Rejoin(_) => {}
                }
            });
            for step in steps {
                if let Step::Rejoin(at) = step {
                    nodes[*at] = Node::join(&hub, NODES[*at]);
                }
            }
            for (name, node) in NODES.iter().zip(&mut nodes) {
                prop_assert_eq!(node.catch_up(), &Node::join(&hub, name).agent);
            }
        }
    }
}
