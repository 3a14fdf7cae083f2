//! Policy never fails open: whatever is stopped, and in whatever order it comes back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod, eventually};
use antrea_tests::station::{Arrived, Station};
use serde_json::{Value, json};

use crate::native::{CLUSTER_POLICIES, put};

/// Restarts take what they take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(90);

/// How long each state is probed at least.
const DWELL: Duration = Duration::from_millis(120);

/// What is stopped and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Agent,
    Ovs,
    Controller,
    Api,
}

impl Part {
    const ALL: [Self; 4] = [Self::Agent, Self::Ovs, Self::Controller, Self::Api];
}

/// All orders of the four.
fn orders() -> Vec<[Part; 4]> {
    let mut all = Vec::new();
    for a in Part::ALL {
        for b in Part::ALL {
            for c in Part::ALL {
                for d in Part::ALL {
                    if BTreeSet::from([a, b, c, d]).len() == 4 {
                        all.push([a, b, c, d]);
                    }
                }
            }
        }
    }
    all
}

/// Whose policy isolates the pod.
#[derive(Clone, Copy)]
enum By {
    Kubernetes,
    /// A ClusterNetworkPolicy, which denies by rules of its own: nothing isolates where one is missing.
    Native,
}

/// `iso` may talk with `friend` and nobody else, either way.
fn isolate(lab: &Lab, by: By) {
    let friend = json!({"podSelector": {"matchLabels": {"app": "friend"}}});
    if let By::Native = by {
        let rules = |list: &str| json!([{"action": "Allow", list: [friend]}, {"action": "Drop"}]);
        let spec = json!({
            "tier": "securityops", "priority": 5, "appliedTo": [{"podSelector": {"matchLabels": {"app": "iso"}}}],
            "ingress": rules("from"), "egress": rules("to"),
        });
        return put(lab, CLUSTER_POLICIES, None, "isolate", &spec);
    }
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "iso"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [friend]}],
        "egress": [{"to": [friend]}],
    });
    lab.put_policy("isolate", &spec);
}

/// A lab with an isolated pod, and pods around it that try to reach it and that it tries to reach.
struct Scene {
    lab: Lab,
    near: (Pod, Station),
    far: (Pod, Station),
    friend: (Pod, Station),
    iso: Option<(Pod, Station)>,
    sandboxes: u32,
    down: BTreeSet<Part>,
    leaked: Arrived,
    sent: u64,
    refused: u32,
}

impl Scene {
    async fn new(by: By) -> Self {
        let mut lab = Lab::start(2, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
        let mut pod = |index: usize, name: &str| {
            lab.put_pod(index, name, &[("app", name)], None);
            let pod = lab.add_pod(index, name);
            let station = Station::start(&pod.netns);
            (pod, station)
        };
        let (near, far, friend) = (pod(0, "near"), pod(1, "far"), pod(1, "friend"));
        lab.put_pod(0, "iso", &[("app", "iso")], None);
        let mut scene = Self {
            lab,
            near,
            far,
            friend,
            iso: None,
            sandboxes: 0,
            down: BTreeSet::new(),
            leaked: Arrived::default(),
            sent: 0,
            refused: 0,
        };
        scene.add_sandbox();
        // Without a policy everything arrives: the probes can see a leak.
        eventually("probes of every path arrive", LIMIT, || {
            let (iso, station) = scene.iso.as_ref().unwrap();
            let full = |station: &Station, from: &Pod| {
                station.arrived().get(&from.ip).is_some_and(|seen| seen.tcp > 0 && seen.udp > 0)
            };
            [&scene.near, &scene.far, &scene.friend]
                .iter()
                .all(|(pod, other)| full(station, pod) && full(other, iso))
        })
        .await;
        isolate(&scene.lab, by);
        let mut since = Instant::now();
        eventually("the policy is in force", LIMIT, || {
            if scene.take_leaks() != Arrived::default() {
                since = Instant::now();
            }
            since.elapsed() > Duration::from_millis(700)
        })
        .await;
        (scene.leaked, scene.sent) = (Arrived::default(), 0);
        scene
    }

    /// Everything that arrived where it must not since the last call.
    fn take_leaks(&mut self) -> Arrived {
        let mut sum = self.iso.as_ref().map(|(_, station)| self.leaks_of(station)).unwrap_or_default();
        for (_, station) in [&self.near, &self.far] {
            sum = add(sum, station.leaked(|_| true));
            station.forget();
        }
        self.leaked = add(self.leaked, sum);
        sum
    }

    /// What arrived at the isolated pod and must not, since the last call.
    fn leaks_of(&self, station: &Station) -> Arrived {
        let friend = self.friend.0.ip;
        let leaked = station.leaked(|from| from != friend);
        station.forget();
        leaked
    }

    /// A new sandbox for the isolated pod, as kubelet makes one; false: the agent refused to connect it. The
    /// station is there before the pod has an address, and the others try the addresses that it may get.
    fn add_sandbox(&mut self) -> bool {
        self.sandboxes += 1;
        let netns = self.lab.new_netns(0, &format!("iso{}", self.sandboxes));
        let station = Station::start(&netns);
        station.aim([&self.near, &self.far, &self.friend].map(|(pod, _)| pod.ip));
        let id = format!("iso-{}", self.sandboxes);
        let (output, text) = self.lab.nodes[0].cni("ADD", &id, &netns, "1.0.0", None);
        if !output.status.success() {
            let error: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(error["code"], 11, "try again later: {text}");
            self.refused += 1;
            let leaked = self.leaks_of(&station);
            self.leaked = add(self.leaked, leaked);
            self.sent += forbidden(&station);
            drop(station);
            self.lab.nodes[0].remove_netns(&netns);
            return false;
        }
        let pod = Pod::of("iso", &id, netns, serde_json::from_str(&text).unwrap());
        self.lab.report_pod_ips("iso", &pod.ips());
        self.aim_at(pod.ip);
        self.iso = Some((pod, station));
        true
    }

    /// The others try the pod's address and those that its next sandboxes may get.
    fn aim_at(&self, ip: IpAddr) {
        let IpAddr::V4(ip) = ip else { panic!("{ip} is not IPv4") };
        let next = (0..3).map(|n| IpAddr::from(Ipv4Addr::from(u32::from(ip) + n)));
        let targets: Vec<IpAddr> = next.collect();
        for (_, station) in [&self.near, &self.far, &self.friend] {
            station.aim(targets.iter().copied());
        }
    }

    /// Kubelet restarts the pod, if there is somebody to attach it. The API server that is away learns of the
    /// new address when it is back: the object is written all the same, for nobody can read it before.
    fn restart_pod(&mut self) {
        if self.down.contains(&Part::Agent) || self.down.contains(&Part::Ovs) {
            return;
        }
        // An agent that is not up yet refuses, which takes it 30 s.
        let (status, _) = self.lab.nodes[0].cni("STATUS", "", "", "1.1.0", None);
        if !status.status.success() {
            return;
        }
        self.delete_sandbox();
        self.add_sandbox();
    }

    fn delete_sandbox(&mut self) {
        if let Some((pod, _)) = &self.iso {
            let (output, text) = self.lab.nodes[0].cni("DEL", &pod.container_id, &pod.netns, "1.0.0", None);
            assert!(output.status.success(), "DEL: {text}");
        }
        self.take_leaks();
        if let Some((pod, station)) = self.iso.take() {
            self.sent += forbidden(&station);
            drop(station);
            self.lab.nodes[0].remove_netns(&pod.netns);
        }
    }

    fn stop(&mut self, part: Part) {
        match part {
            Part::Agent => self.lab.nodes[0].kill_agent(),
            Part::Ovs => {
                self.lab.nodes[0].ovs.kill_vswitchd().unwrap();
                self.lab.nodes[0].ovs.kill_db().unwrap();
            }
            Part::Controller => self.lab.kill_controller(),
            Part::Api => self.lab.stop_api(),
        }
        self.down.insert(part);
    }

    async fn start(&mut self, part: Part) {
        match part {
            Part::Agent => self.lab.start_agent(0),
            Part::Ovs => self.lab.nodes[0].restart_ovs(),
            Part::Controller => self.lab.start_controller(),
            Part::Api => self.lab.start_api().await,
        }
        self.down.remove(&part);
    }

    /// Everything runs: the pod is restarted once more, and who may talk with it does.
    async fn recover(&mut self) -> Duration {
        let start = Instant::now();
        self.lab.wait_controller().await;
        self.lab.wait_ready(0).await;
        self.delete_sandbox();
        while !self.add_sandbox() {
            assert!(start.elapsed() < LIMIT, "the pod is not connected");
        }
        let (iso, station) = self.iso.as_ref().unwrap();
        let (friend, other) = (&self.friend.0, &self.friend.1);
        let met = |station: &Station, from: &Pod| {
            station.arrived().get(&from.ip).is_some_and(|seen| seen.tcp > 2 && seen.udp > 2)
        };
        other.forget();
        eventually("who may talk does", LIMIT, || met(station, friend) && met(other, iso)).await;
        start.elapsed()
    }

    /// Recovers, tells what was counted, and fails if anything leaked.
    async fn finish(mut self) {
        self.recover().await;
        self.take_leaks();
        println!("{} forbidden probes, leaked: {:?}", self.probes(), self.leaked);
        assert_eq!(self.leaked, Arrived::default());
    }

    /// Probes so far that must not arrive.
    fn probes(&self) -> u64 {
        let iso = self.iso.as_ref().map_or(0, |(_, station)| forbidden(station));
        self.sent + iso + self.near.1.sent() + self.far.1.sent()
    }

    /// Gives an agent that has no controller the time to go by its record.
    async fn settle(&self) {
        for _ in 0..80 {
            if self.lab.nodes[0].cni("STATUS", "", "", "1.1.0", None).0.status.success() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Of the three that the isolated pod probes one may be reached.
fn forbidden(iso: &Station) -> u64 {
    iso.sent() / 3 * 2
}

fn add(a: Arrived, b: Arrived) -> Arrived {
    Arrived { tcp: a.tcp + b.tcp, udp: a.udp + b.udp }
}

/// How many of the runs are made: all, unless `ANTREA_TEST_ORDERS` says otherwise. Software emulation takes
/// several times as long for each.
fn runs() -> usize {
    std::env::var("ANTREA_TEST_ORDERS").map_or(usize::MAX, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stops_in_whatever_order() {
    stop_and_start(By::Kubernetes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stops_in_whatever_order_native() {
    stop_and_start(By::Native).await;
}

async fn stop_and_start(by: By) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::new(by).await;
    let all: Vec<([Part; 4], bool)> =
        orders().into_iter().flat_map(|order| [false, true].map(|reverse| (order, reverse))).collect();
    assert_eq!(all.len(), 48);
    // Spread evenly; an odd stride has both ways of coming back in it.
    let stride = (all.len().div_ceil(runs().clamp(1, all.len())) | 1).min(all.len());
    let orders = all.len().div_ceil(stride);
    let start = Instant::now();
    println!("stopped, in this order                 started  sandboxes refused  probes leaked  recovery");
    for (order, reverse) in all.into_iter().step_by(stride) {
        let before = (scene.sandboxes, scene.refused, scene.probes(), scene.leaked);
        for part in order {
            scene.stop(part);
            scene.restart_pod();
            tokio::time::sleep(DWELL).await;
        }
        let mut back = order;
        if reverse {
            back.reverse();
        }
        for part in back {
            scene.start(part).await;
            tokio::time::sleep(DWELL).await;
            // It takes its time, so half of the runs have to do.
            if reverse && scene.down == BTreeSet::from([Part::Controller]) {
                scene.settle().await;
            }
            scene.restart_pod();
        }
        let recovery = scene.recover().await;
        scene.take_leaks();
        println!(
            "{:<38} {:<8} {:>9} {:>7} {:>7} {:>6}  {recovery:.1?}",
            format!("{order:?}"),
            if reverse { "reverse" } else { "same" },
            scene.sandboxes - before.0,
            scene.refused - before.1,
            scene.probes() - before.2,
            scene.leaked.tcp + scene.leaked.udp - before.3.tcp - before.3.udp,
        );
    }
    println!(
        "{} sandboxes, {} refused, {} forbidden probes, leaked: {:?}; {:.0?}",
        scene.sandboxes,
        scene.refused,
        scene.probes(),
        scene.leaked,
        start.elapsed()
    );
    assert_eq!(scene.leaked, Arrived::default());
    // What was tried: nothing leaks where nobody knocks. Each order ends with a restart of the pod, and all of them
    // together have about as many while something is away. A quiet machine sends 5,000 probes in each.
    let (orders, sandboxes) = (u64::try_from(orders).unwrap(), u64::from(scene.sandboxes));
    let least = if orders == 48 { 84 } else { orders };
    assert!(sandboxes >= least, "{sandboxes} sandboxes in {orders} orders");
    assert!(scene.probes() >= 1_000 * orders, "{} probes in {orders} orders", scene.probes());
}

/// An agent that starts without a controller goes by what it knew, and a pod that the controller has told it
/// everything of can be restarted meanwhile. A pod that nobody knows of waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_without_a_controller() {
    start_cold(By::Kubernetes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_without_a_controller_native() {
    start_cold(By::Native).await;
}

async fn start_cold(by: By) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::new(by).await;
    scene.stop(Part::Controller);
    scene.stop(Part::Agent);
    scene.stop(Part::Ovs);
    scene.start(Part::Ovs).await;
    tokio::time::sleep(DWELL).await;
    scene.start(Part::Agent).await;
    let took = scene.lab.wait_ready(0).await;
    println!("without a controller: ready after {took:?}");
    scene.delete_sandbox();
    assert!(scene.add_sandbox(), "a pod that was confirmed before needs no controller");
    let (iso, station) = scene.iso.as_ref().unwrap();
    let friend = scene.friend.0.ip;
    eventually("who may talk does", LIMIT, || station.arrived().contains_key(&friend)).await;
    assert!(station.arrived().len() == 1, "{:?} at {}", station.arrived(), iso.ip);

    // The same name is another pod now: what it is labelled with is not known.
    scene.delete_sandbox();
    scene.lab.recreate_pod(0, "iso", &[("app", "iso")]);
    assert!(!scene.add_sandbox(), "nobody knows what selects this pod");
    scene.start(Part::Controller).await;
    scene.finish().await;
}

/// Neither a controller nor a record of what one said: pods that exist stay as they are.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_knowledge_nothing_opens() {
    forget_everything(By::Kubernetes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_knowledge_nothing_opens_native() {
    forget_everything(By::Native).await;
}

async fn forget_everything(by: By) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::new(by).await;
    scene.stop(Part::Controller);
    scene.stop(Part::Agent);
    std::fs::remove_dir_all(scene.lab.nodes[0].dir.join("networkpolicy")).unwrap();
    scene.start(Part::Agent).await;
    // Longer than an agent waits for the controller before it turns to its record.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (status, _) = scene.lab.nodes[0].cni("STATUS", "", "", "1.1.0", None);
    assert!(!status.status.success(), "an agent without any knowledge must not be ready");
    scene.take_leaks();
    assert_eq!(scene.leaked, Arrived::default());
    // Nor does a new bridge open anything.
    scene.stop(Part::Ovs);
    scene.start(Part::Ovs).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.start(Part::Controller).await;
    scene.finish().await;
}

/// A controller that is behind: the pod is connected when its policies have arrived, not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_controller_holds_a_new_pod_back() {
    hold_back(By::Kubernetes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_controller_holds_a_new_pod_back_native() {
    hold_back(By::Native).await;
}

async fn hold_back(by: By) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::new(by).await;
    scene.delete_sandbox();
    scene.lab.freeze_controller(true);
    scene.lab.recreate_pod(0, "iso", &[("app", "iso")]);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(scene.lab.controller_pid()).unwrap());
    let pause = Duration::from_secs(3);
    let wake = std::thread::spawn(move || {
        std::thread::sleep(pause);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    });
    let start = Instant::now();
    let added = scene.add_sandbox();
    println!("ADD with a controller that sleeps for {pause:?}: {added} after {:?}", start.elapsed());
    assert!(added && start.elapsed() >= pause, "connected before the controller could know of it");
    wake.join().unwrap();
    scene.finish().await;
}
