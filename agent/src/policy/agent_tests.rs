use std::collections::HashMap;
use std::time::Instant;

use antrea_api::controlplane::{GroupEvent, NetworkPolicyPeer};
use antrea_api::k8s::Object;
use antrea_api::selection::PodSelection;
use antrea_flows::{BridgeStore, Change, Entry};
use antrea_packet::DnsAnswer;
use antrea_runtime::metrics::Metrics;
use futures::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::dataplane::{Batch, Dataplane, DataplaneError, Failures};
use antrea_enforce::dns::Receiver;
use antrea_enforce::isolation::Isolation;
use antrea_enforce::pods::LocalPod;

use super::super::client::Identity;
use super::super::confirm::PodName;
use super::super::fake::{Fake, eventually};
use super::super::handle::Sink;
use super::super::rule_ids::IdsBefore;
use super::*;
use antrea_enforce::testing::local_pod;
use antrea_enforce::testing::network;
use antrea_enforce::testing::{
    address_group, applied_to_group, applied_to_patch, member, native, native_rule, policy,
};

/// A bridge that can be away.
#[derive(Default)]
struct Bridge {
    store: Mutex<BridgeStore>,
    away: Mutex<bool>,
    calls: Mutex<usize>,
    /// What each batch was of.
    order: Mutex<Vec<Vec<Owner>>>,
}

struct BridgeSink(Arc<Bridge>);

impl Bridge {
    fn take(&self, batch: &Batch) -> Result<Failures, DataplaneError> {
        *self.calls.lock() += 1;
        if *self.away.lock() {
            return Err(DataplaneError::Closed);
        }
        self.order.lock().push(batch.changes().map(|(owner, _)| owner.clone()).collect());
        let staged = self.store.lock().stage(batch.changes());
        staged.map(|_| Failures::new()).map_err(|conflict| Box::new(conflict).into())
    }

    fn count(&self) -> usize {
        self.store.lock().len()
    }

    /// Whether packets to this port that no rule allows are dropped.
    fn isolates(&self, ofport: u32) -> bool {
        let store = self.store.lock();
        let network = network();
        let table = network.pipeline.number(antrea_flows::Table::IngressDefaultRule).unwrap();
        store.all().iter().any(|entry| {
            let Entry::Flow(flow) = entry else { return false };
            flow.table == table
                && flow.actions.iter().next().is_none()
                && flow.to_string().contains(&format!("reg1={ofport:#x}"))
        })
    }
}

impl Sink for BridgeSink {
    fn apply(&self, batch: Batch) -> BoxFuture<'_, Result<Failures, DataplaneError>> {
        Box::pin(async move { self.0.take(&batch) })
    }
}

/// A pod's own flows; that they are none does not matter here.
pub fn own_flows(pod: &LocalPod) -> (Owner, Change) {
    (Owner::Pod(pod.pod.name.as_str().into()), Change::nothing())
}

struct Node {
    handle: PolicyHandle,
    bridge: Arc<Bridge>,
    interfaces: Arc<Mutex<Vec<LocalPod>>>,
    changes: watch::Sender<usize>,
    reporter: Reporter,
    metrics: Metrics,
    target: watch::Sender<Target>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Ended>>,
}

impl Node {
    fn start(folder: &std::path::Path, target: Target, grace: Duration) -> Self {
        let identity =
            Identity { node: "n1".into(), namespace: "kube-system".into(), token: "/nonexistent".into() };
        let timing = Timing {
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(40),
            spread: Duration::from_millis(1),
            ..Timing::default()
        };
        let (reporter, metrics) = (Reporter::default(), Metrics::empty());
        let policy = PolicyMetrics::new(&metrics).unwrap();
        let files = Files::new(folder);
        let (handle, agent) = PolicyAgent::wire(identity, timing, reporter.clone(), files, grace, policy);
        agent.target.send_replace(target);
        let (shutdown, sender) = (CancellationToken::new(), agent.target.clone());
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Self {
            handle,
            bridge: Arc::default(),
            interfaces: Arc::default(),
            changes: watch::Sender::new(0),
            reporter,
            metrics,
            target: sender,
            shutdown,
            task,
        }
    }

    async fn attach(&self) -> Result<(), PolicyError> {
        let interfaces = self.interfaces.clone();
        let site = Site {
            pipeline: Arc::new(network()),
            sink: Box::new(BridgeSink(self.bridge.clone())),
            pods: Box::new(move || interfaces.lock().clone()),
            changes: self.changes.subscribe(),
            isolated: Isolation::default(),
            ids: IdsBefore::default(),
            dns: Vec::new(),
        };
        self.handle.attach(site).await
    }

    fn remember(&self, pod: LocalPod) {
        let mut interfaces = self.interfaces.lock();
        interfaces.push(pod);
        self.changes.send_replace(interfaces.len());
    }

    fn forget(&self) {
        self.interfaces.lock().clear();
        self.changes.send_replace(0);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn objects() -> Vec<Event> {
    vec![
        applied_to_group("a", &["web-0"]),
        address_group("g", vec![member("x", &["10.0.1.1"])]),
        Event::Policy(policy("P", 3, "a", &["g"])),
    ]
}

/// An agent that goes by the controller alone; it ends with the test.
pub fn start(folder: &std::path::Path, target: Target) -> PolicyHandle {
    Node::start(folder, target, LONG).handle
}

/// Policy in force in front of a dataplane, with a controller that has said everything and goes away.
pub async fn attached_for_tests(folder: &std::path::Path, dataplane: &Dataplane) -> PolicyHandle {
    let fake = Fake::start(objects()).await;
    let handle = start(folder, fake.target());
    let site = Site {
        pipeline: Arc::new(network()),
        sink: Box::new(dataplane.clone()),
        pods: Box::new(Vec::new),
        changes: watch::Sender::new(0).subscribe(),
        isolated: Isolation::default(),
        ids: IdsBefore::default(),
        dns: Vec::new(),
    };
    handle.request(|reply| Request::Attach(site, reply)).await.unwrap();
    handle
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bridge_no_pod_is_connected() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(objects()).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    let pod = local_pod("web-0", 21, "10.0.0.21");
    let refused = node.handle.install_pod(pod.clone(), own_flows(&pod)).await;
    assert!(matches!(refused, Err(PolicyError::NotAttached)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_isolated_before_it_is_connected() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(objects()).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    let pod = local_pod("web-0", 21, "10.0.0.21");
    node.attach().await.unwrap();
    assert_eq!(node.bridge.count(), 0);

    let prepared = node.handle.install_pod(pod.clone(), own_flows(&pod)).await.unwrap();
    assert!(node.bridge.isolates(21));
    // In one transaction, without which the pod gets nothing.
    let own = own_flows(&pod).0;
    let order: Vec<_> = node.bridge.order.lock().iter().filter(|b| b.contains(&own)).cloned().collect();
    assert_eq!(order, [[Owner::Policy, own]]);
    // Others come and go meanwhile.
    node.remember(local_pod("other", 22, "10.0.0.22"));
    let third = local_pod("third", 23, "10.0.0.23");
    let second = node.handle.install_pod(third.clone(), own_flows(&third)).await.unwrap();
    assert!(node.bridge.isolates(21) && !node.bridge.isolates(23));
    drop(second);
    node.remember(pod.clone());
    drop(prepared);
    let fourth = local_pod("fourth", 24, "10.0.0.24");
    let _ = node.handle.install_pod(fourth.clone(), own_flows(&fourth)).await.unwrap();
    assert!(node.bridge.isolates(21));
    node.forget();
    eventually("flows of a pod that is gone go", || node.bridge.count() == 0).await;

    // An ADD that fails.
    let prepared = node.handle.install_pod(pod.clone(), own_flows(&pod)).await.unwrap();
    assert!(node.bridge.isolates(21));
    drop(prepared);
    eventually("flows of a failed ADD go", || node.bridge.count() == 0).await;

    // A bridge that is away.
    *node.bridge.away.lock() = true;
    assert!(
        node.handle.install_pod(pod.clone(), own_flows(&pod)).await.is_err(),
        "the pod must not be connected"
    );
    node.remember(pod.clone());
    fake.send(&applied_to_patch("a", vec![], vec![member("other", &[])]));
    node.remember(local_pod("other", 22, "10.0.0.22"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    *node.bridge.away.lock() = false;
    eventually("what the bridge missed comes", || node.bridge.isolates(21) && node.bridge.isolates(22)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_until_what_selects_it_is_here() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(objects()).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    node.attach().await.unwrap();
    let confirm = |uid: &'static str| {
        let handle = node.handle.clone();
        tokio::spawn(async move { handle.confirm_pod(PodName { namespace: "ns", name: "web-0", uid }).await })
    };
    let pause = || tokio::time::sleep(Duration::from_millis(100));
    let first = confirm("u1");
    pause().await;
    assert!(!first.is_finished(), "the controller does not know the pod");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let selection = PodSelection { policies: names(&["P", "Q"]), applied_to_groups: names(&["a", "b"]) };
    fake.script.lock().selections.insert("web-0".to_owned(), selection);
    fake.send(&Event::Policy(policy("Q", 1, "b", &[])));
    pause().await;
    assert!(!first.is_finished(), "a group is not here");
    fake.send(&applied_to_group("b", &["web-0"]));
    tokio::time::timeout(Duration::from_secs(10), first).await.unwrap().unwrap().unwrap();

    // Nobody answers: the pod that is known goes by what was told, another of its name does not.
    fake.script.lock().refuse = Some(StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::timeout(Duration::from_secs(10), confirm("u1")).await.unwrap().unwrap().unwrap();
    let (other, nameless) = (confirm("u2"), confirm(""));
    pause().await;
    assert!(!other.is_finished() && !nameless.is_finished());
    // An answer counts even for a pod that is known.
    {
        let mut script = fake.script.lock();
        (script.refuse, script.selections) = (None, HashMap::new());
    }
    let known = confirm("u1");
    pause().await;
    assert!(!known.is_finished());
    for task in [other, nameless, known] {
        task.abort();
    }
    let malformed = PodName { namespace: "ns", name: "a&b", uid: "" };
    assert!(matches!(node.handle.confirm_pod(malformed).await, Err(PolicyError::Unconfirmed { .. })));
    node.handle.confirm_pod(PodName { namespace: "", name: "", uid: "" }).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_knows_nothing_waits_for_the_controller() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), Target::default(), Duration::from_millis(50));
    node.remember(local_pod("web-0", 21, "10.0.0.21"));
    let mut attached = Box::pin(node.attach());
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut attached).await.is_err());
    let fake = Fake::start(objects()).await;
    node.target.send_replace(fake.target());
    tokio::time::timeout(Duration::from_secs(10), attached).await.unwrap().unwrap();
    assert!(node.bridge.isolates(21));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_controller_changes_only_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(objects()).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    node.remember(local_pod("web-0", 21, "10.0.0.21"));
    node.attach().await.unwrap();
    assert!(node.bridge.isolates(21));
    eventually("reported", || !fake.script.lock().posts.is_empty()).await;
    {
        let posts = &fake.script.lock().posts;
        assert_eq!(posts[0].metadata.name, "P");
        let status = &posts[0].nodes[0];
        assert_eq!(
            (status.node_name.as_str(), status.generation, status.realization_failure),
            ("n1", 3, false)
        );
    }
    let facts = node.reporter.subscribe();
    eventually("counted", || facts.borrow().policies == [1, 1, 1]).await;
    assert_eq!(facts.borrow().controller, Health::Good);
    let text = node.metrics.encode().unwrap();
    assert!(text.contains("antrea_agent_networkpolicy_count 1"), "{text}");
    assert!(text.contains("antrea_agent_ingress_networkpolicy_rule_count 1"), "{text}");
    assert!(text.contains("antrea_agent_egress_networkpolicy_rule_count 0"), "{text}");

    let calls = *node.bridge.calls.lock();
    fake.script.lock().refuse = Some(StatusCode::SERVICE_UNAVAILABLE);
    fake.cut();
    eventually("noticed", || facts.borrow().controller != Health::Good).await;
    assert!(node.bridge.isolates(21), "enforced without a controller");
    fake.script.lock().posts.clear();
    fake.script.lock().refuse = None;
    eventually("back", || facts.borrow().controller == Health::Good).await;
    eventually("reported again", || fake.script.lock().posts.len() == 1).await;
    assert_eq!(*node.bridge.calls.lock(), calls, "no flow was touched");

    let mut changed = objects();
    changed.push(Event::Policy(policy("Q", 1, "a", &[])));
    changed.remove(1);
    changed[1] = Event::Policy(policy("P", 4, "a", &[]));
    fake.script.lock().set(changed);
    fake.cut();
    eventually("the new list is in force", || facts.borrow().policies == [2, 0, 1]).await;
    assert!(node.bridge.isolates(21));
    eventually("reported", || fake.script.lock().posts.iter().any(|post| post.nodes[0].generation == 4))
        .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_not_fit_brings_a_new_list() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(objects()).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    node.remember(local_pod("web-0", 21, "10.0.0.21"));
    node.attach().await.unwrap();
    let mut now = objects();
    now.push(applied_to_group("unheard-of", &["p"]));
    fake.script.lock().set(now);
    fake.send(&applied_to_patch("unheard-of", vec![], vec![member("p", &[])]));
    let facts = node.reporter.subscribe();
    eventually("listed again", || facts.borrow().policies == [1, 1, 2]).await;
    assert!(node.bridge.isolates(21));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_controller_goes_by_its_last_life() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(objects()).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    node.attach().await.unwrap();
    let path = |name: &str| folder.path().join(name);
    eventually("saved", || path("network-policies/P").exists() && path("address-groups/g").exists()).await;
    fake.send(&Event::Policy(policy("Q", 1, "a", &[])));
    eventually("saved", || path("network-policies/Q").exists()).await;
    fake.send(&Event::PolicyDeleted("Q".into()));
    eventually("removed", || !path("network-policies/Q").exists()).await;
    let stale = antrea_api::controlplane::NetworkPolicy::default().seal();
    node.stop().await;
    drop(fake);

    // The next life: nobody is there.
    std::fs::write(path("network-policies/stale"), &stale).unwrap();
    let grace = Duration::from_millis(300);
    let node = Node::start(folder.path(), Target::default(), grace);
    node.remember(local_pod("web-0", 21, "10.0.0.21"));
    let start = Instant::now();
    node.attach().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200), "waits for the controller first");
    assert!(node.bridge.isolates(21));
    let facts = node.reporter.subscribe();
    assert!(matches!(&facts.borrow().controller, Health::Bad { reason, .. } if *reason == "CANotPublished"));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(path("network-policies/P").exists() && path("network-policies/stale").exists());

    // It comes, and what it does not know of goes, from the disk too.
    let fake = Fake::start(objects()).await;
    node.target.send_replace(fake.target());
    eventually("connected", || facts.borrow().controller == Health::Good).await;
    eventually("removed", || !path("network-policies/stale").exists()).await;
    assert!(node.bridge.isolates(21) && path("network-policies/P").exists());
    // The pod is alive: it was meant.
    fake.script.lock().selections.insert("web-0".to_owned(), PodSelection::default());
    fake.send(&Event::AppliedToGroup(GroupEvent::Deleted("a".into())));
    fake.send(&Event::PolicyDeleted("P".into()));
    eventually("gone", || node.bridge.count() == 0).await;
    node.stop().await;
}

/// An answer may go on when the bridge has its addresses, and not before. The next life knows them.
#[tokio::test(flavor = "multi_thread")]
async fn what_dns_tells_is_known_when_the_bridge_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut rule = native_rule("Drop", &[]);
    (rule.direction, rule.from) = ("Out".into(), NetworkPolicyPeer::default());
    rule.to.fqdns = vec!["*.example.com".into()];
    let mut all = objects();
    all.push(Event::Policy(native("N", (250, 5.0), "a", vec![rule])));
    let fake = Fake::start(all).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    node.remember(local_pod("web-0", 21, "10.0.0.21"));
    node.attach().await.unwrap();
    let flows = |part: &str| {
        let store = node.bridge.store.lock();
        store.all().iter().filter(|entry| entry.to_string().contains(part)).count()
    };
    assert_eq!(flows("userdata=02"), 2, "UDP and TCP of one family");
    let learn = |address: &str| {
        let addresses = vec![(address.parse().unwrap(), 300)];
        let answers =
            vec![DnsAnswer { names: vec!["www.example.com".into()], addresses, ..DnsAnswer::default() }];
        let pod = Receiver::Port(21);
        node.handle.request(|reply| Request::Learn(pod, answers, Duration::ZERO, reply))
    };
    learn("192.0.2.1").await.unwrap();
    assert_eq!(flows("nw_dst=192.0.2.1"), 1);
    *node.bridge.away.lock() = true;
    assert!(learn("192.0.2.2").await.is_err(), "the bridge has not got it");
    *node.bridge.away.lock() = false;
    eventually("offered again", || flows("nw_dst=192.0.2.2") == 1).await;
    assert_eq!(flows("userdata=02"), 2);

    let handle = node.handle.clone();
    let keeping = tokio::spawn(async move { handle.keep_dns().await });
    eventually("kept", || folder.path().join("dns.json").exists()).await;
    keeping.abort();
    let known = node.handle.dns_before().await;
    assert_eq!((known.len(), &*known[0].name, known[0].addresses.len()), (1, "www.example.com", 2));
    assert_eq!(known[0].pod.as_deref(), Some(&local_pod("web-0", 21, "10.0.0.21").attachment));
    let mut left = known[0].addresses.iter().map(|(_, left)| left.as_secs());
    assert!(left.all(|left| (290..=302).contains(&left)), "{known:?}");

    // The pod is alive: it was meant.
    fake.script.lock().selections.insert("web-0".to_owned(), PodSelection::default());
    fake.send(&Event::PolicyDeleted("N".into()));
    eventually("nothing is sent up for nobody", || flows("userdata=02") == 0).await;
    node.stop().await;
}

#[path = "agent_tests/behind.rs"]
mod behind;
