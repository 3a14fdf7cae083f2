//! Policy against a real Open vSwitch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_api::controlplane::Event;
use antrea_api::selection::PodSelection;
use antrea_runtime::metrics::Metrics;
use futures::future::BoxFuture;
use openflow::multipart::FlowFilter;
use ovs::Vswitch;
use ovs::of::{OfConfig, OfHandle, OfSession};
use ovs::testing::TestOvs;
use ovs::vswitch::{BridgeSpec, FailMode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::agent::tests::{own_flows, start};
use super::fake::{Fake, eventually};
use super::handle::{PolicyHandle, Sink, Site};
use super::rule_ids::IdsBefore;
use crate::dataplane::{Batch, Dataplane, DataplaneError, Failures};
use crate::facts::Reporter;
use crate::metrics::AgentMetrics;
use antrea_enforce::isolation::Isolation;
use antrea_enforce::pods::LocalPod;
use antrea_enforce::testing::local_pod;
use antrea_enforce::testing::network;
use antrea_enforce::testing::{address_group, address_patch, applied_to_group, member, policy};

const LIMIT: Duration = Duration::from_secs(30);

/// A bridge with a dataplane that has not started.
struct Rig {
    session: OfHandle,
    dataplane: Dataplane,
    /// Times that the dataplane took for changes.
    updates: Arc<Mutex<Vec<Duration>>>,
    changes: watch::Sender<usize>,
    interfaces: Arc<Mutex<Vec<LocalPod>>>,
    cancel: CancellationToken,
    _guard: DropGuard,
    _ovs: TestOvs,
    _dir: tempfile::TempDir,
}

struct Timed(Dataplane, Arc<Mutex<Vec<Duration>>>);

impl Sink for Timed {
    fn apply(&self, batch: Batch) -> BoxFuture<'_, Result<Failures, DataplaneError>> {
        Box::pin(async move {
            let begin = Instant::now();
            let result = Sink::apply(&self.0, batch).await;
            self.1.lock().push(begin.elapsed());
            result
        })
    }
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("policy-ovs-").tempdir_in("/tmp").unwrap();
        let ovs = TestOvs::start(dir.path(), None).unwrap();
        let cancel = CancellationToken::new();
        let (vswitch, _) = Vswitch::spawn(ovs.db_sock(), cancel.clone());
        vswitch.wait_synced(LIMIT).await.unwrap();
        let bridge = BridgeSpec {
            name: "br0".to_owned(),
            datapath_type: "dummy".to_owned(),
            protocols: vec!["OpenFlow15".to_owned()],
            fail_mode: Some(FailMode::Secure),
            ..BridgeSpec::default()
        };
        vswitch.ensure_bridge(&bridge).await.unwrap();
        vswitch.wait_applied(LIMIT).await.unwrap();
        let (session, _) = OfSession::spawn(ovs.mgmt_sock("br0"), OfConfig::default(), cancel.clone());
        session.wait_connected(LIMIT).await.unwrap();
        let metrics = AgentMetrics::new(&Metrics::empty()).unwrap();
        let (dataplane, task) = Dataplane::new(
            session.clone(),
            "br-int".to_owned(),
            Arc::new(network()),
            Reporter::default(),
            metrics,
        );
        tokio::spawn(task.run(cancel.clone()));
        Self {
            session,
            dataplane,
            updates: Arc::default(),
            changes: watch::Sender::new(0),
            interfaces: Arc::default(),
            _guard: cancel.clone().drop_guard(),
            cancel,
            _ovs: ovs,
            _dir: dir,
        }
    }

    async fn attach(&self, policy: &PolicyHandle) {
        let interfaces = self.interfaces.clone();
        let site = Site {
            pipeline: Arc::new(network()),
            sink: Box::new(Timed(self.dataplane.clone(), self.updates.clone())),
            pods: Box::new(move || interfaces.lock().clone()),
            changes: self.changes.subscribe(),
            isolated: Isolation::default(),
            ids: IdsBefore::default(),
            dns: Vec::new(),
        };
        policy.attach(site).await.unwrap();
    }

    async fn count(&self) -> usize {
        self.session.flows(FlowFilter::all()).await.unwrap().len()
    }

    async fn wait_for(&self, count: usize) {
        let end = Instant::now() + LIMIT;
        loop {
            let found = self.count().await;
            if found == count {
                return;
            }
            assert!(Instant::now() < end, "{found} flows instead of {count}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn policies(count: usize, peers: usize) -> Vec<Event> {
    let mut events = vec![applied_to_group("a", &["web-0"])];
    for n in 0..count {
        let members =
            (0..peers).map(|m| member(&format!("x{m}"), &[&format!("10.{m}.{}.{}", n / 250, n % 250)]));
        events.push(address_group(&format!("g{n}"), members.collect()));
        events.push(Event::Policy(policy(&format!("P{n}"), 1, "a", &[&format!("g{n}")])));
    }
    events
}

/// Flows of `policies`: one for each peer, a conjunction and two metric flows for each rule; the pod's own
/// matches are shared by 1024 rules.
fn expected(count: usize, peers: usize) -> usize {
    1 + (count + 1).div_ceil(1024) + count * (peers + 3)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_holds_what_policy_wants_and_not_before_it_goes_live() {
    let (rig, folder) = (Rig::new().await, tempfile::tempdir().unwrap());
    let fake = Fake::start(policies(100, 10)).await;
    fake.script.lock().selections.insert("web-0".to_owned(), PodSelection::default());
    let agent = start(folder.path(), fake.target());
    rig.interfaces.lock().push(local_pod("web-0", 21, "10.0.0.21"));
    let before = rig.count().await;
    rig.attach(&agent).await;
    assert_eq!(rig.count().await, before, "staged only");
    rig.dataplane.start().await.unwrap();
    assert_eq!(rig.count().await, expected(100, 10));

    fake.send(&address_patch("g5", vec![], vec![member("new", &["10.99.0.1"])]));
    rig.wait_for(expected(100, 10) + 1).await;
    fake.send(&address_patch("g5", vec![member("new", &[])], vec![]));
    rig.wait_for(expected(100, 10)).await;
    let second = local_pod("web-0", 22, "10.0.0.22");
    let prepared = agent.install_pod(second.clone(), own_flows(&second)).await.unwrap();
    assert_eq!(rig.count().await, expected(100, 10) + 2, "isolation and a share in every rule");
    drop(prepared);
    rig.wait_for(expected(100, 10)).await;
    fake.send(&Event::PolicyDeleted("P7".into()));
    rig.wait_for(expected(99, 10)).await;
    rig.dataplane.verify().await.unwrap();
    assert_eq!(rig.count().await, expected(99, 10));
    rig.cancel.cancel();
}

/// Figures, not a test: `cargo test --release -p antrea-agent --lib -- --ignored --nocapture measure`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn measure_5000_policies_of_10_peers() {
    let (rig, folder) = (Rig::new().await, tempfile::tempdir().unwrap());
    let fake = Fake::start(policies(5000, 10)).await;
    rig.interfaces.lock().push(local_pod("web-0", 21, "10.0.0.21"));
    let begin = Instant::now();
    let agent = start(folder.path(), fake.target());
    rig.attach(&agent).await;
    let received = begin.elapsed();
    rig.dataplane.start().await.unwrap();
    let installed = begin.elapsed();
    let flows = rig.count().await;
    assert_eq!(flows, expected(5000, 10));
    eprintln!("{flows} flows: received and computed {received:?}, installed {installed:?}");
    // The reports of 5000 policies are under way; let them end.
    eventually("reported", || fake.script.lock().posts.len() == 5000).await;
    let mut times = Vec::new();
    for n in 0..100 {
        let member = member(&format!("n{n}"), &[&format!("10.99.0.{n}")]);
        let done = rig.updates.lock().len();
        let begin = Instant::now();
        fake.send(&address_patch("g5", vec![], vec![member]));
        while rig.updates.lock().len() == done {
            tokio::task::yield_now().await;
        }
        times.push(begin.elapsed());
    }
    assert_eq!(rig.count().await, expected(5000, 10) + 100);
    times.sort();
    let mut updates = rig.updates.lock().clone();
    updates.sort();
    let (dataplane, last) = (updates[updates.len() / 2], times[times.len() - 1]);
    eprintln!("event to flow: p50 {:?}, of it in the dataplane {dataplane:?}; max {last:?}", times[50]);
    let rss = std::fs::read_to_string("/proc/self/status").unwrap();
    eprintln!("{}", rss.lines().find(|line| line.starts_with("VmHWM")).unwrap());
    rig.cancel.cancel();
}
