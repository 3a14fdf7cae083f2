//! Endpoints of a Service come and go fifty times a second while pods connect to it: nobody is led to one that is gone, and
//! no connection is lost. `ANTREA_TEST_ENDPOINT_SECONDS` (10) says how long.
//!
//! Endpoints have numbers and come and go in their order, a few at a time, so that the last that the bridge has tells how
//! far it is. What counts as wrong is a connection that begins when the datapath is known to go by flows without the endpoint
//! that it reaches: how long that takes is printed and not judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use antrea_tests::background::Background;
use antrea_tests::dial::{Dialed, Dialer, servers};
use antrea_tests::fake_api::FakeApi;
use antrea_tests::lab::{Lab, Pod};
use openflow::{Action, NatKind};
use ovs::of::{OfConfig, OfHandle, OfSession};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::proxy::{SERVICES, SLICES, at};

const SERVICE: &str = "10.96.0.61";
/// Changes and connections, per second.
const CHANGES: usize = 50;
const CONNECTIONS: usize = 200;
/// Connections at a time: a machine that cannot do as many in a second does them later.
const AT_ONCE: usize = 64;
/// Endpoints that are there at a time.
const LIVE: usize = 4;
/// Ports of endpoints, which pods have in turn; one comes again after twelve seconds.
const PORTS: std::ops::Range<u16> = 8_000..8_600;
const LIMIT: Duration = Duration::from_secs(60);

fn seconds() -> usize {
    std::env::var("ANTREA_TEST_ENDPOINT_SECONDS").map_or(10, |text| text.parse().unwrap())
}

fn port(number: usize) -> u16 {
    PORTS.start + (number % PORTS.len()) as u16
}

fn put(api: &FakeApi, number: usize, pods: &[Pod]) {
    let ip = pods[number % pods.len()].ip;
    api.put(
        SLICES,
        json!({
            "metadata": {"namespace": "default", "name": format!("churn-{number}"),
                         "labels": {"kubernetes.io/service-name": "churn"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [ip]}],
            "ports": [{"name": "tcp", "port": port(number)}],
        }),
    );
}

/// What is known of the bridge: from a moment on, its datapath had taken in all changes up to this endpoint's coming.
#[derive(Debug, Default)]
struct Seen(Vec<(Instant, usize)>);

impl Seen {
    /// The last endpoint that had come for certain by then.
    fn by(&self, moment: Instant) -> Option<usize> {
        let next = self.0.partition_point(|(settled, _)| *settled <= moment);
        Some(self.0[next.checked_sub(1)?].1)
    }

    /// When one had come for certain.
    fn when(&self, number: usize) -> Option<Instant> {
        self.0.get(self.0.partition_point(|(_, last)| *last < number)).map(|(settled, _)| *settled)
    }
}

/// Ports of the endpoints that the bridge has.
async fn endpoints(bridge: &OfHandle) -> BTreeSet<u16> {
    let groups = bridge.groups().await.unwrap();
    let actions = groups.iter().flat_map(|group| &group.buckets).flat_map(|bucket| bucket.actions.iter());
    let endpoint = |action: Action| {
        let Action::Ct(ct) = action else { return None };
        let nat = ct.nat.as_ref().filter(|nat| nat.kind == Some(NatKind::Dst))?;
        nat.ports.map(|(first, _)| first).filter(|port| PORTS.contains(port))
    };
    actions.filter_map(endpoint).collect()
}

/// Looks at the groups all the time, and asks Open vSwitch when the datapath has followed: one comparison follows the other,
/// so the second that ends began after the look.
async fn look(bridge: OfHandle, run_dir: PathBuf, told: Arc<AtomicUsize>, seen: Arc<Mutex<Seen>>) {
    loop {
        let found = endpoints(&bridge).await;
        let told = told.load(Ordering::SeqCst);
        // The endpoints' numbers, of which a port's last is meant.
        let number = |port: u16| {
            let first = usize::from(port - PORTS.start);
            first + (told - first) / PORTS.len() * PORTS.len()
        };
        let numbers: BTreeSet<usize> = found.into_iter().map(number).collect();
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
            // One has come and the one that goes for it is still there, or all is as it was told.
            assert!(last - first <= LIVE, "the bridge has what was never there together: {numbers:?}");
            for _ in 0..2 {
                ovs::ctl::call(&run_dir, "revalidator/wait", &[]).await.unwrap();
            }
            seen.lock().0.push((Instant::now(), *last));
        }
    }
}

/// Connections in this number, as many a second as can be, from the namespace of the thread.
async fn dial(count: usize, done: oneshot::Sender<Vec<Dialed>>) {
    let (dialer, gate) = (Dialer::default(), Arc::new(Semaphore::new(AT_ONCE)));
    let mut clock = tokio::time::interval(Duration::from_secs(1) / CONNECTIONS as u32);
    let mut running = Vec::with_capacity(count);
    for _ in 0..count {
        clock.tick().await;
        let permit = gate.clone().acquire_owned().await.unwrap();
        let dialer = dialer.clone();
        running.push(tokio::spawn(async move {
            let dialed = dialer.dial(at(SERVICE)).await;
            drop(permit);
            dialed
        }));
    }
    let mut all = Vec::with_capacity(count);
    for one in running {
        all.push(one.await.unwrap());
    }
    let _ = done.send(all);
}

async fn churn(kill: bool) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab =
        Lab::start(2, &[("featureGates", json!({"AntreaProxy": true})), ("logLevel", json!("info"))]).await;
    let client = lab.add_pod(0, "client");
    let pods = vec![lab.add_pod(0, "b"), lab.add_pod(1, "c"), lab.add_pod(0, "d")];
    assert_eq!(PORTS.len() % pods.len(), 0, "a port is always the same pod's");
    let _servers: Vec<Background> =
        (0..pods.len()).map(|pod| servers(&pods[pod].netns, PORTS.skip(pod).step_by(pods.len()))).collect();
    let spec = json!({"type": "ClusterIP", "clusterIP": SERVICE, "clusterIPs": [SERVICE],
                      "ports": [{"name": "tcp", "protocol": "TCP", "port": 80}]});
    lab.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": "churn"}, "spec": spec}));
    (0..LIVE).for_each(|number| put(&lab.api, number, &pods));

    let cancel = CancellationToken::new();
    let _cancelled = cancel.clone().drop_guard();
    let (bridge, _) = OfSession::spawn(lab.nodes[0].ovs.mgmt_sock("br-int"), OfConfig::default(), cancel);
    bridge.wait_connected(LIMIT).await.unwrap();
    let begin = Instant::now();
    while endpoints(&bridge).await.len() < LIVE {
        assert!(begin.elapsed() < LIMIT, "the Service is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (told, seen) = (Arc::new(AtomicUsize::new(LIVE - 1)), Arc::new(Mutex::new(Seen::default())));
    let looking =
        tokio::spawn(look(bridge.clone(), lab.nodes[0].ovs.dir().to_owned(), told.clone(), seen.clone()));
    while seen.lock().0.is_empty() {
        assert!(begin.elapsed() < LIMIT, "Open vSwitch does not compare its flows");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begin = Instant::now();

    let count = seconds() * CHANGES;
    let (done, dialed) = oneshot::channel();
    let _dialing = Background::run_in(&client.netns, move || dial(seconds() * CONNECTIONS, done));
    let changing = {
        let (api, pods, told) = (lab.api.clone(), pods.clone(), told.clone());
        tokio::spawn(async move {
            let mut clock = tokio::time::interval(Duration::from_secs(1) / CHANGES as u32);
            // When each went.
            let mut gone = BTreeMap::new();
            for number in LIVE..LIVE + count {
                clock.tick().await;
                told.store(number, Ordering::SeqCst);
                put(&api, number, &pods);
                api.delete(SLICES, Some("default"), &format!("churn-{}", number - LIVE));
                gone.insert(number - LIVE, Instant::now());
            }
            gone
        })
    };
    if kill {
        tokio::time::sleep(Duration::from_secs(seconds() as u64) / 3).await;
        lab.nodes[0].kill_agent();
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.start_agent(0);
        lab.wait_ready(0).await;
    }
    let gone = changing.await.unwrap();
    let dialed = dialed.await.unwrap();
    let took = begin.elapsed();

    let last = LIVE + count - 1;
    let begin = Instant::now();
    let wanted: BTreeSet<u16> = (last + 1 - LIVE..=last).map(port).collect();
    while seen.lock().when(last).is_none() || endpoints(&bridge).await != wanted {
        assert!(!looking.is_finished(), "{:?}", looking.await);
        assert!(begin.elapsed() < LIMIT, "the bridge does not come to what was told last");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    looking.abort();

    let seen = seen.lock();
    judge(&dialed, &seen, last);
    // Another came when one went.
    let mut late: Vec<Duration> = gone
        .iter()
        .filter_map(|(number, gone)| Some(seen.when(number + LIVE)?.saturating_duration_since(*gone)))
        .collect();
    late.sort_unstable();
    println!(
        "{} connections and {count} changes in {took:.1?}, {} looks; the datapath follows a change within {:?} (median), {:?} (p99)",
        dialed.len(),
        seen.0.len(),
        late[late.len() / 2],
        late[late.len() * 99 / 100],
    );
}

/// Holds connections against what is known of the bridge.
fn judge(dialed: &[Dialed], seen: &Seen, last: usize) {
    let lost: Vec<String> = dialed.iter().filter_map(|one| one.reached.clone().err()).collect();
    assert!(
        lost.is_empty(),
        "{} of {} connections are lost: {:?}",
        lost.len(),
        dialed.len(),
        &lost[..lost.len().min(10)]
    );
    let (mut reached, mut judged, mut wrong) = (BTreeSet::new(), 0, Vec::new());
    for Dialed { begun, reached: port, .. } in dialed {
        let Ok(port) = port else { continue };
        let Some(newest) = seen.by(*begun) else { continue };
        judged += 1;
        // Of the numbers that a port had, the one of these days.
        let first = usize::from(port - PORTS.start);
        let number = (0..).map(|round| first + round * PORTS.len()).take_while(|number| *number <= last);
        let number = number.min_by_key(|number| number.abs_diff(newest)).unwrap_or(first);
        reached.insert(number);
        // Before the newest came, this one had gone.
        if number + LIVE < newest {
            wrong.push((number, newest));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} connections of {judged} to endpoints that are gone (endpoint, newest): {wrong:?}",
        wrong.len()
    );
    assert!(
        judged * 10 > dialed.len() * 9,
        "of {} connections only {judged} began when something was known",
        dialed.len()
    );
    // Each is there for as long as some sixteen connections take.
    assert!(reached.len() * 4 > last, "{} of {last} endpoints were reached", reached.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_follow_endpoints() {
    churn(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_follow_endpoints_over_the_death_of_the_agent() {
    churn(true).await;
}
