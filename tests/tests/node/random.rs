//! Random policies, random traffic, and an oracle. Policies, labels of pods and of namespaces change all the time. When a
//! change is in force every probe there is has to do what the oracle says; while it comes into force, and at any other
//! time, constant traffic may do what some state between before and after allows, and nothing else; each of two nodes
//! may be in another of these states. Connections that were established under one policy go on under any other.
//!
//! `ANTREA_TEST_RANDOM_SECONDS` (60) says how long, `ANTREA_TEST_RANDOM_SEED` which sequence of changes.

mod judge;
mod members;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::judge::{Judge, May};
use self::members::{Member, members, vocabulary};
use antrea_tests::lab::{Datapath, Lab, NETWORK_POLICIES};
use antrea_tests::oracle::{End, Service, World};
use antrea_tests::prober::{Outcome, Pace, Place, Probe, Prober};
use antrea_tests::random::{Dice, Vocabulary};
use netcfg::Family;
use serde_json::json;

/// What is probed beside ICMP. A policy may name other ports.
const SERVICES: [(&str, u16); 5] =
    [("TCP", 7000), ("TCP", 7001), ("TCP", 7100), ("UDP", 7000), ("UDP", 7001)];

/// After this long a change is in force, unless others took longer.
const SETTLED: Duration = Duration::from_millis(1500);

/// How long a change may take until everything does what the oracle says; loose, for the machine is busy.
const IN_FORCE: Duration = Duration::from_secs(10);

/// How long a probe is given that shall arrive, and one that shall not.
const ALLOWED: Duration = Duration::from_millis(4500);
const DENIED: Duration = Duration::from_millis(400);

/// At most so many policies, and so many changes that do not wait for each other.
const POLICIES: usize = 7;
const BURST: usize = 3;

/// How much this machine is asked to do.
#[derive(Clone, Copy)]
struct Load {
    pods: usize,
    constant: Pace,
    /// Everything takes so many times as long.
    slower: u32,
    /// Verdicts of each kind in ten seconds of the test: fewer prove nothing.
    floor: u64,
}

impl Load {
    /// The kernel's datapath is that of a virtual machine with one slow processor.
    fn here() -> Self {
        match Datapath::here() {
            Datapath::Userspace => Self { pods: 8, constant: Pace::default(), slower: 1, floor: 500 },
            Datapath::System => {
                let constant = Pace { every: Duration::from_millis(250), patience: Duration::from_secs(6) };
                Self { pods: 4, constant, slower: 4, floor: 20 }
            }
        }
    }
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Everything that can be sent: all pairs of which one at least is a pod, by all services and by ICMP.
fn probes(members: &[Member]) -> Vec<Probe> {
    let mut probes = Vec::new();
    let services: Vec<Service> = SERVICES.iter().map(|service| Some(*service)).chain([None]).collect();
    for (from, sender) in members.iter().enumerate() {
        for (to, receiver) in members.iter().enumerate() {
            if from != to && (sender.sender.pod.is_some() || receiver.receiver.pod.is_some()) {
                probes.extend(services.iter().map(|service| Probe { from, to, service: *service }));
            }
        }
    }
    probes
}

/// A node's own processes reach its pods whatever policy says, as kubelet's probes have to.
fn expected(world: &World, members: &[Member], probe: Probe) -> bool {
    let (from, to) = (&members[probe.from], &members[probe.to]);
    (from.is_node && to.sender.pod.is_some() && from.node == to.node)
        || world.allows(&from.sender, &to.receiver, probe.service)
}

/// What may become of a probe while the world goes from one of `states` to another. Where two nodes judge it, one at each
/// end, each has its own time: what the first already lets out the second may still let in.
fn between(states: &[World], members: &[Member], probe: Probe) -> May {
    let (from, to) = (&members[probe.from], &members[probe.to]);
    if from.node == to.node {
        let allowed = |state: &World| expected(state, members, probe);
        return May { pass: states.iter().any(allowed), fail: !states.iter().all(allowed) };
    }
    let ends = |state: &World| state.ends_allow(&from.sender, &to.receiver, probe.service);
    let said: Vec<[bool; 2]> = states.iter().map(ends).collect();
    let sometimes = |end: usize| said.iter().any(|said| said[end]);
    May { pass: sometimes(0) && sometimes(1), fail: said.iter().any(|said| *said != [true; 2]) }
}

/// A change, in the world and in the API.
#[derive(Clone, Debug)]
enum Change {
    Policy(String, String, Box<k8s_openapi::api::networking::v1::NetworkPolicySpec>),
    NoPolicy(String),
    Pod(String, antrea_tests::oracle::Labels),
    Namespace(String, antrea_tests::oracle::Labels),
}

impl Change {
    fn roll(world: &World, words: &Vocabulary, dice: &mut Dice) -> Self {
        let names: Vec<String> = world.pods.keys().cloned().collect();
        let namespaces: Vec<String> = world.namespaces.keys().cloned().collect();
        match dice.below(12) {
            0..=6 => {
                let name = format!("p{}", dice.below(POLICIES));
                // A policy that is there keeps its namespace.
                let namespace =
                    world.policies.get(&name).map_or_else(|| dice.pick(&namespaces), |known| known.0.clone());
                Self::Policy(name, namespace, Box::new(words.policy(dice)))
            }
            7 | 8 => Self::NoPolicy(format!("p{}", dice.below(POLICIES))),
            9 | 10 => Self::Pod(dice.pick(&names), words.labels(dice, &words.pods)),
            _ => {
                let name = dice.pick(&namespaces);
                let mut labels = words.labels(dice, &words.namespaces[..1]);
                labels.insert("kubernetes.io/metadata.name".into(), name.clone());
                Self::Namespace(name, labels)
            }
        }
    }

    fn imagine(&self, world: &mut World) {
        match self.clone() {
            Self::Policy(name, namespace, spec) => {
                world.policies.insert(name, (namespace, *spec));
            }
            Self::NoPolicy(name) => {
                world.policies.remove(&name);
            }
            Self::Pod(name, labels) => {
                world.pods.insert(name, labels);
            }
            Self::Namespace(name, labels) => {
                world.namespaces.insert(name, labels);
            }
        }
    }

    fn apply(&self, lab: &mut Lab, world: &World, members: &[Member]) {
        match self {
            Self::Policy(name, namespace, spec) => lab.put_policy_of(namespace, name, &json!(spec)),
            Self::NoPolicy(name) => {
                if let Some((namespace, _)) = world.policies.get(name) {
                    lab.api.delete(NETWORK_POLICIES, Some(namespace), name);
                }
            }
            Self::Pod(name, labels) => {
                let member =
                    |member: &&Member| member.sender.pod.as_ref().is_some_and(|pod| pod.name == *name);
                let member = members.iter().find(member).unwrap();
                lab.put_pod_of(member.node.unwrap(), member.sender.pod.as_ref().unwrap(), labels);
            }
            Self::Namespace(name, labels) => {
                let labels: Vec<(&str, &str)> =
                    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                lab.put_namespace(name, &labels);
            }
        }
    }
}

/// Datapath flows of connections' first packets, with what they do: those on which policy has decided.
fn decided(ovs: &ovs::testing::TestOvs, family: Family) -> BTreeMap<String, String> {
    let of_family = match family {
        Family::V4 => "eth_type(0x0800)",
        Family::V6 => "eth_type(0x86dd)",
    };
    let dump = ovs.appctl(&["dpctl/dump-flows"]).unwrap();
    let flow = |line: &str| {
        let (key, rest) = line.split_once(", packets:")?;
        let (_, actions) = rest.split_once("actions:")?;
        (key.contains("+new") && key.contains(of_family)).then(|| (key.to_owned(), actions.trim().to_owned()))
    };
    dump.lines().filter_map(flow).collect()
}

/// What the pipeline says of the packets of a datapath flow; none where the flow has gone meanwhile.
fn traced(ovs: &ovs::testing::TestOvs, key: &str) -> Option<String> {
    let trace = ovs.appctl(&["ofproto/trace", key]).ok()?;
    let actions = trace.lines().find_map(|line| line.strip_prefix("Datapath actions: "))?;
    Some(actions.trim().to_owned())
}

/// How many datapath flows of a node were compared with the pipeline, and those that do something else, also after
/// Open vSwitch has had the time to look at all of them.
async fn astray(lab: &Lab, index: usize, family: Family, dice: &mut Dice) -> (usize, Vec<String>) {
    let ovs = &lab.nodes[index].ovs;
    let flows: Vec<(String, String)> = decided(ovs, family).into_iter().collect();
    let (mut compared, mut differ) = (0, BTreeMap::new());
    for _ in 0..flows.len().min(6) {
        let (key, actions) = dice.pick(&flows);
        if let Some(expected) = traced(ovs, &key) {
            compared += 1;
            if expected != actions {
                differ.insert(key, actions);
            }
        }
    }
    if differ.is_empty() {
        return (compared, Vec::new());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A machine with more to do may need longer than that.
    ovs.appctl(&["revalidator/wait"]).unwrap();
    let now = decided(ovs, family);
    let still = |(key, actions): (String, String)| {
        let expected = traced(ovs, &key)?;
        (now.get(&key) == Some(&actions) && expected != actions)
            .then(|| format!("{key} does {actions}, the pipeline says {expected}"))
    };
    (compared, differ.into_iter().filter_map(still).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_policies_do_what_the_oracle_says() {
    let time = number("ANTREA_TEST_RANDOM_SECONDS").unwrap_or(60);
    random_policies(Family::V4, Duration::from_secs(time)).await;
}

/// Half as long: what policies select is the same, blocks and packets are others.
#[tokio::test(flavor = "multi_thread")]
async fn random_policies_do_so_with_ipv6() {
    let time: u64 = number("ANTREA_TEST_RANDOM_SECONDS").unwrap_or(60);
    random_policies(Family::V6, Duration::from_secs(time / 2)).await;
}

async fn random_policies(family: Family, time: Duration) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let seed = number("ANTREA_TEST_RANDOM_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("ANTREA_TEST_RANDOM_SEED={seed}");
    let load = Load::here();
    let (settled, in_force) = (SETTLED * load.slower, IN_FORCE * load.slower);
    let (for_allowed, for_denied) = (ALLOWED * load.slower, DENIED * load.slower);
    let mut dice = Dice::new(seed);

    let mut world = World::default();
    for (name, team) in [("n0", "red"), ("n1", "blue"), ("n2", "red")] {
        let labels =
            [("team".to_owned(), team.to_owned()), ("kubernetes.io/metadata.name".into(), name.into())];
        world.namespaces.insert(name.into(), labels.into());
    }
    let mut lab = Lab::without_agents(2, &[("logLevel", json!("info"))]).await;
    if family == Family::V6 {
        lab.add_ipv6();
    }
    lab.start_agents().await;
    for (name, labels) in &world.namespaces {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        lab.put_namespace(name, &labels);
    }
    for number in 0..load.pods {
        let app = ["a", "b", "c"][number % 3].to_owned();
        world.pods.insert(format!("pod{number}"), [("app".to_owned(), app)].into());
    }
    let mut members = members(&mut lab, &world, family);
    let words = vocabulary(&lab, &members, family);
    let all = probes(&members);
    for (number, member) in members.iter_mut().enumerate() {
        member.place.constant = all.iter().filter(|probe| probe.from == number).copied().collect();
    }
    let places: Vec<Place> = members.iter().map(|member| member.place.clone()).collect();
    let prober = Prober::start(&places, &SERVICES, load.constant, seed);
    let say = |probe: Probe| {
        let name =
            |end: &End| end.pod.as_ref().map_or_else(|| end.address.to_string(), |pod| pod.name.clone());
        let (from, to) = (&members[probe.from].sender, &members[probe.to].receiver);
        format!("{} -> {} {:?}", name(from), name(to), probe.service)
    };
    let verdicts =
        |world: &World| -> Vec<bool> { all.iter().map(|probe| expected(world, &members, *probe)).collect() };
    let patience = |allowed: bool| if allowed { for_allowed } else { for_denied };

    let mut judge = Judge {
        number: all.iter().enumerate().map(|(number, probe)| (*probe, number)).collect(),
        ..Judge::default()
    };
    let mut before = verdicts(&world);
    assert!(before.iter().all(|allowed| *allowed), "without a policy everything is allowed");
    let exactly = |verdicts: &[bool]| -> Vec<May> {
        verdicts.iter().map(|allowed| May { pass: *allowed, fail: !allowed }).collect()
    };
    // Neighbours are found and machines are warm before anything is judged.
    let first = prober.probe(all.iter().map(|probe| (*probe, for_allowed * 4))).await;
    let lost: Vec<String> = first.iter().filter(|o| !o.answered).map(|o| say(o.probe)).collect();
    assert!(lost.is_empty(), "without a policy these are lost: {lost:?}");
    judge.epoch(Instant::now(), exactly(&before));
    prober.begin();

    let (begin, mut changes, mut compared) = (Instant::now(), 0, 0);
    let (mut slowest, mut revalidated) = (Duration::ZERO, Duration::ZERO);
    while begin.elapsed() < time && judge.faults.is_empty() {
        let count = if dice.chance(60) { 1 } else { 1 + dice.below(BURST) };
        let mut burst = Vec::new();
        // Changes of different kinds reach the agents in any order: all states between are possible.
        let mut states = vec![world.clone()];
        let submitted = Instant::now();
        for _ in 0..count {
            let change = Change::roll(&world, &words, &mut dice);
            for mut state in states.clone() {
                change.imagine(&mut state);
                states.push(state);
            }
            burst.push((world.clone(), change.clone()));
            change.imagine(&mut world);
        }
        judge.epoch(submitted, all.iter().map(|probe| between(&states, &members, *probe)).collect());
        for (world, change) in &burst {
            change.apply(&mut lab, world, &members);
        }
        changes += count;

        // In force when all that shall be different is.
        let after = verdicts(&world);
        let mut open: Vec<usize> = (0..all.len()).filter(|at| before[*at] != after[*at]).collect();
        let submitted = Instant::now();
        while !open.is_empty() {
            let round = open.iter().map(|at| (all[*at], for_denied));
            let outcomes = prober.probe(round).await;
            let still = |(at, outcome): (&usize, &Outcome)| (outcome.answered != after[*at]).then_some(*at);
            open = open.iter().zip(&outcomes).filter_map(still).collect();
            assert!(
                submitted.elapsed() < in_force,
                "seed {seed}: not in force after {in_force:?}: {:?}\n{burst:#?}\n{world:#?}",
                open.iter().map(|at| (say(all[*at]), after[*at])).collect::<Vec<_>>()
            );
        }
        slowest = slowest.max(submitted.elapsed());
        // What is the same before and after may have been different meanwhile, and nothing tells when that is over: twice as
        // long as the slowest of those that do tell.
        tokio::time::sleep(settled.max(slowest * 2).saturating_sub(submitted.elapsed())).await;
        // Packets of before may have left flows of the datapath behind, which the machine's load may keep from being looked
        // at in that time.
        let looked = Instant::now();
        for node in &lab.nodes {
            node.ovs.appctl(&["revalidator/wait"]).unwrap();
        }
        revalidated = revalidated.max(looked.elapsed());
        judge.epoch(Instant::now(), exactly(&after));
        let pass = prober.probe(all.iter().zip(&after).map(|(probe, allowed)| (*probe, patience(*allowed))));
        for outcome in pass.await {
            judge.judge("after the change", &outcome, say);
        }
        for outcome in prober.constant() {
            judge.judge("constant traffic", &outcome, say);
        }
        let allowed: Vec<usize> = (0..all.len()).filter(|at| after[*at]).collect();
        for _ in 0..2 {
            let probe = all[dice.pick(&allowed)];
            if probe.service.is_some_and(|(protocol, _)| protocol == "TCP") {
                prober.hold(probe, Duration::from_secs(5 + dice.below(40) as u64));
            }
        }
        let index = dice.below(2);
        let (sample, wrong) = astray(&lab, index, family, &mut dice).await;
        compared += sample;
        judge.faults.extend(wrong.iter().map(|flow| format!("the datapath of node{}: {flow}", index + 1)));
        for broken in prober.broken() {
            judge.faults.push(format!(
                "held connection {} broke after {:?}: {}",
                say(broken.probe),
                broken.age,
                broken.error
            ));
        }
        if !judge.faults.is_empty() {
            println!(
                "last changes: {:#?}\nworld: {world:#?}",
                burst.iter().map(|(_, change)| change).collect::<Vec<_>>()
            );
        }
        before = after;
    }
    let elapsed = begin.elapsed().as_secs();
    let (held, lines) = prober.held();
    println!(
        "{changes} changes in {elapsed} s, the slowest in force after {slowest:?}, datapath flows looked at after another \
         {revalidated:?}; probes that had to arrive {}, had not to \
         {}, met a change {}; {held} connections held, {lines} lines; {compared} datapath flows compared with the pipeline",
        judge.arrived, judge.refused, judge.either
    );
    assert!(
        judge.faults.is_empty(),
        "seed {seed}: {} faults:\n{}",
        judge.faults.len(),
        judge.faults.join("\n")
    );
    let floor = load.floor * elapsed / 10;
    assert!(judge.arrived > floor && judge.refused > floor, "too few probes");
    assert!(compared as u64 > elapsed / u64::from(2 * load.slower), "{compared} datapath flows compared");
    assert!(held > 0 && lines > u64::from(held), "no connection was held");
}
