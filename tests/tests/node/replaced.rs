//! A policy that is replaced: whatever is sent is judged by the old one or by the new one, at no moment by neither or by
//! both. What both allow always arrives, what both deny never does, and of what one of them allows it is always one.
//!
//! Rounds of datagrams say so, from one end, one to each of four ports, every few milliseconds. A round that a replacement
//! falls into may see it between two of its datagrams, so there is at most one of those for each. Open vSwitch makes a
//! datapath flow for each datagram meanwhile: how long its cache goes by flows that were, which it looks through one by
//! one after a change, is its own affair.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use antrea_tests::lab::{Lab, Pod, eventually};
use netcfg::Netns;
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::native::{CLUSTER_POLICIES, put};

const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two rounds.
const EVERY: Duration = Duration::from_millis(15);
/// What was sent so long ago has arrived, if it arrives.
const ARRIVAL: Duration = Duration::from_millis(300);
/// Rounds in which a version is seen before it is replaced.
const FLOOR: u64 = 25;
/// How often all replacements are gone through.
const TIMES: usize = 2;

/// Ports, in the order of a round: what the first version allows, what both do, what the second one does, what none does.
const PORTS: [u16; 4] = [7200, 7201, 7202, 7203];
/// Source ports. A connection that was allowed is allowed, so each has one round.
const SOURCES: std::ops::Range<u16> = 10_000..65_000;

/// What arrived of a round, by port.
type Round = [bool; 4];

/// What arrives by a version, the first (0) or the second (1).
fn arrives_by(version: usize) -> Round {
    [version == 0, true, version == 1, false]
}

struct Traffic {
    seen: Arc<Mutex<BTreeMap<u64, Round>>>,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    async fn start(from: &Pod, to: &Pod) -> Self {
        let (seen, sent) = (Arc::<Mutex<BTreeMap<u64, Round>>>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (at, port) in PORTS.into_iter().enumerate() {
            let bind = move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            let socket = Netns::open(format!("/run/netns/{}", to.netns)).unwrap().run(bind).await.unwrap();
            socket.set_read_timeout(Some(ARRIVAL)).unwrap();
            let (seen, stop) = (seen.clone(), stop.clone());
            threads.push(std::thread::spawn(move || {
                let mut datagram = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    if socket.recv(&mut datagram).is_ok_and(|length| length == 8) {
                        seen.lock().entry(u64::from_be_bytes(datagram)).or_default()[at] = true;
                    }
                }
            }));
        }
        let netns = File::open(format!("/run/netns/{}", from.netns)).unwrap();
        let (target, count, stopped) = (to.ip, sent.clone(), stop.clone());
        threads.push(std::thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            for (round, source) in (0u64..).zip(SOURCES.cycle()) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source)).unwrap();
                for port in PORTS {
                    socket.send_to(&round.to_be_bytes(), (target, port)).unwrap();
                }
                count.store(round + 1, Ordering::Relaxed);
                std::thread::sleep(EVERY);
            }
        }));
        Self { seen, sent, stop, threads }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// What arrived of the rounds from this one to the last that was sent.
    fn rounds(&self, first: u64) -> Vec<Round> {
        let end = self.sent();
        std::thread::sleep(ARRIVAL);
        let seen = self.seen.lock();
        (first..end).map(|round| seen.get(&round).copied().unwrap_or_default()).collect()
    }

    /// Waits for rounds that are all judged by this version.
    async fn shows(&self, what: &str, version: usize) {
        let mut last = Vec::new();
        let took = eventually(what, LIMIT, || {
            let first = self.sent();
            while self.sent() < first + FLOOR {
                assert!(!self.threads.iter().any(std::thread::JoinHandle::is_finished), "{last:?}");
                std::thread::sleep(EVERY);
            }
            last = self.rounds(first);
            last.iter().all(|round| *round == arrives_by(version))
        })
        .await;
        println!("{what}: after {took:.1?}");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Where a policy stands, and by which groups it names the same Pods.
#[derive(Clone, Copy)]
struct Place {
    tier: &'static str,
    priority: f64,
    other_groups: bool,
}

const FIRST: Place = Place { tier: "securityops", priority: 5.0, other_groups: false };
const ELSEWHERE: Place = Place { tier: "application", priority: 9.5, other_groups: true };
const BEFORE: Place = Place { tier: "emergency", priority: 5.0, other_groups: true };
const BEFORE_ALL: Place = Place { tier: "emergency", priority: 1.0, other_groups: false };

/// What is judged: what comes to the target, or what goes out of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ingress,
    Egress,
}

fn version(side: Side, version: usize, place: Place) -> Value {
    let pods = |name: &str| match place.other_groups {
        true => {
            json!({"podSelector": {"matchExpressions": [{"key": "name", "operator": "In", "values": [name, "nobody"]}]}})
        }
        false => json!({"podSelector": {"matchLabels": {"name": name}}}),
    };
    let (rules, list, on, peer) = match side {
        Side::Ingress => ("ingress", "from", "target", "sender"),
        Side::Egress => ("egress", "to", "sender", "target"),
    };
    let allow = |port: u16| json!({"action": "Allow", list: [pods(peer)], "ports": [{"protocol": "UDP", "port": port}]});
    let drop = json!({"action": "Drop"});
    let rules_of = match version {
        0 => json!([allow(PORTS[0]), allow(PORTS[1]), drop]),
        _ => json!([allow(PORTS[1]), allow(PORTS[2]), drop]),
    };
    json!({"tier": place.tier, "priority": place.priority, "appliedTo": [pods(on)], rules: rules_of})
}

/// Each replacement with what is in force afterwards; begins and ends with the first version as policy p.
async fn replace(lab: &Lab, traffic: &Traffic, side: Side) {
    let p =
        |number: usize, place: Place| put(lab, CLUSTER_POLICIES, None, "p", &version(side, number, place));
    let q =
        |number: usize, place: Place| put(lab, CLUSTER_POLICIES, None, "q", &version(side, number, place));
    let gone = |name: &str| lab.api.delete(CLUSTER_POLICIES, None, name);
    p(1, FIRST);
    traffic.shows("it gets other rules", 1).await;
    p(0, FIRST);
    traffic.shows("and its own again", 0).await;
    p(1, ELSEWHERE);
    traffic.shows("it gets other rules, groups and another place in the order", 1).await;
    p(0, FIRST);
    traffic.shows("and its own again", 0).await;
    p(0, ELSEWHERE);
    traffic.shows("it keeps its rules at another place", 0).await;
    p(0, FIRST);
    traffic.shows("and comes back", 0).await;
    q(1, BEFORE);
    traffic.shows("another comes before it", 1).await;
    gone("q");
    traffic.shows("and goes", 0).await;
    q(1, BEFORE);
    traffic.shows("another comes before it", 1).await;
    gone("p");
    traffic.shows("and takes its place", 1).await;
    p(0, BEFORE_ALL);
    traffic.shows("it comes before the other", 0).await;
    gone("q");
    traffic.shows("and takes its place", 0).await;
    p(0, FIRST);
    traffic.shows("where it was", 0).await;
}

/// How often the version in force changes by [`replace`].
const TURNS: usize = 8;

fn judge(rounds: &[Round], turns: usize) {
    let count = |is: &dyn Fn(&Round) -> bool| rounds.iter().filter(|round| is(round)).count();
    let opened = count(&|round| round[3]);
    let lost = count(&|round| !round[1]);
    let [neither, both] =
        [false, true].map(|arrived| count(&|round| round[0] == arrived && round[2] == arrived));
    let by_one: Vec<bool> =
        rounds.iter().filter(|round| round[0] != round[2]).map(|round| round[2]).collect();
    let turned = by_one.windows(2).filter(|pair| pair[0] != pair[1]).count();
    println!(
        "{} rounds: {opened} of what both versions deny arrived, {lost} of what both allow did not; {turned} turns, \
         {neither} rounds with neither's and {both} with both's",
        rounds.len()
    );
    assert_eq!((opened, lost, turned), (0, 0, turns));
    assert!(neither + both <= turns, "a round sees at most one replacement");
    assert!(rounds.len() >= turns * usize::try_from(FLOOR).unwrap(), "{} rounds", rounds.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_policy_judges_until_the_new_one_does() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    let mut pod = |index: usize, name: &str| {
        lab.put_pod(index, name, &[("name", name)], None);
        lab.add_pod(index, name)
    };
    let (target, near) = (pod(0, "target"), pod(0, "sender"));
    lab.nodes[0].ovs.appctl(&["upcall/disable-megaflows"]).unwrap();
    let traffic = Traffic::start(&near, &target).await;
    for side in [Side::Ingress, Side::Egress] {
        put(&lab, CLUSTER_POLICIES, None, "p", &version(side, 0, FIRST));
        traffic.shows(&format!("{side:?}: the first version"), 0).await;
        // With some of that version.
        let first = traffic.sent() - FLOOR / 2;
        for _ in 0..TIMES {
            replace(&lab, &traffic, side).await;
        }
        judge(&traffic.rounds(first), TURNS * TIMES);
        lab.api.delete(CLUSTER_POLICIES, None, "p");
        eventually("nothing is denied", LIMIT, || {
            let first = traffic.sent();
            std::thread::sleep(EVERY * 10);
            let rounds = traffic.rounds(first);
            rounds.len() > 5 && rounds.iter().all(|round| *round == [true; 4])
        })
        .await;
    }
}
