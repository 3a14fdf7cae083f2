mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antrea_flows::{Entry, Key};
use futures::future::join_all;
use openflow::multipart::FlowFilter;
use openflow::{Action, Flow, FlowMod, Learn, Match, Message, PortNo};
use ovs::Vswitch;
use ovs::of::{OfConfig, OfHandle, OfSession};
use ovs::testing::TestOvs;
use ovs::vswitch::{BridgeSpec, FailMode};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fake::{CURSE, Rig, dataplane, flow, group, is_cursed, meter, soon};
use super::*;
use crate::facts::Health;
use antrea_enforce::testing::network;

const LIMIT: Duration = Duration::from_secs(30);

fn pod(name: &str) -> Owner {
    Owner::Pod(name.into())
}

fn peer(name: &str) -> Owner {
    Owner::Peer(name.into())
}

fn flows(flows: impl IntoIterator<Item = Flow>) -> Change {
    Change::flows(flows.into_iter().collect())
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !check() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A bundle that is refused goes again without the owner at fault, and the store does not keep what was refused.
#[tokio::test]
async fn a_refused_owner_holds_up_nobody_and_leaves_nothing() {
    let rig = Rig::started().await;
    rig.dataplane.set(pod("b"), flows([flow(50)])).await.unwrap();
    rig.switch.refuse(is_cursed);
    // All at once: they share a bundle.
    let requests = (0..20).map(|n| {
        let bad = n % 7 == 3;
        let change = flows([flow(n), flow(100 + n).cookie(if bad { CURSE } else { 0 })]);
        let owner = if n == 3 { pod("b") } else { pod(&format!("p{n}")) };
        let dataplane = rig.dataplane.clone();
        async move { (bad, soon(dataplane.set(owner, change)).await) }
    });
    for (bad, result) in join_all(requests).await {
        assert_eq!(result.is_err(), bad, "{result:?}");
    }
    assert_eq!(rig.switch.committed().len(), 2, "one for b, one for all the others");
    let expected = (0..20).filter(|n| n % 7 != 3).flat_map(|n| [flow(n), flow(100 + n)]).chain([flow(50)]);
    let expected: BTreeSet<Flow> = expected.collect();
    assert_eq!(rig.switch.flows().into_iter().collect::<BTreeSet<_>>(), expected);
    // Nothing is sent again with a comparison: the store says what the bridge has.
    rig.switch.refuse(|_| false);
    soon(rig.dataplane.verify()).await.unwrap();
    assert_eq!(rig.switch.committed().len(), 2);
}

/// Policy's flows and the pod's are one transaction, and without the former there is not the latter.
#[tokio::test]
async fn a_pod_is_not_connected_without_its_policy() {
    let rig = Rig::started().await;
    rig.switch.refuse(is_cursed);
    let batch = |policy: u64, pod_cookie: u64| {
        Batch::default()
            .require(Owner::Policy, flows([flow(1).cookie(policy)]))
            .with(pod("a"), flows([flow(2).cookie(pod_cookie)]))
            .with(pod("b"), flows([flow(3)]))
    };
    soon(rig.dataplane.apply(batch(CURSE, 0))).await.unwrap_err();
    assert!(rig.switch.flows().is_empty());

    let failures = soon(rig.dataplane.apply(batch(0, CURSE))).await.unwrap();
    assert_eq!(failures.into_iter().map(|(owner, _)| owner).collect::<Vec<_>>(), [pod("a")]);
    assert_eq!(rig.switch.flows(), [flow(1), flow(3)]);
    assert_eq!(rig.switch.committed(), [2]);

    let failures = soon(rig.dataplane.apply(batch(5, 0))).await.unwrap();
    assert!(failures.is_empty());
    assert_eq!(rig.switch.committed(), [2, 2], "one bundle for both");
}

/// After a reconnection an owner that is refused is left out and offered again later. Others are served meanwhile.
#[tokio::test]
async fn a_refused_replay_holds_up_nobody() {
    let rig = Rig::started().await;
    rig.dataplane.set(Owner::Node, flows([flow(1)])).await.unwrap();
    rig.dataplane.set(peer("bad"), flows([flow(2).cookie(CURSE), flow(3)])).await.unwrap();
    rig.switch.refuse(is_cursed);
    rig.restart_switch().await;
    soon(rig.dataplane.set(pod("a"), flows([flow(4)]))).await.unwrap();
    eventually("replayed", || rig.switch.flows() == [flow(1), flow(4)]).await;
    let Health::Bad { reason, message } = rig.reporter.subscribe().borrow().flows.clone() else {
        panic!("nobody is told")
    };
    assert_eq!(reason, "FlowsDiffer");
    assert!(message.contains("refused"), "{message}");
    assert!(soon(rig.dataplane.owners()).await.unwrap().contains(&peer("bad")));
    rig.switch.refuse(|_| false);
    soon(rig.dataplane.verify()).await.unwrap();
    assert_eq!(rig.switch.flows(), [flow(1), flow(2).cookie(CURSE), flow(3), flow(4)]);
}

/// Where policy is refused nothing is installed; others are told so and do not wait.
#[tokio::test]
async fn nothing_is_installed_without_policy() {
    let rig = Rig::started().await;
    rig.dataplane.set(Owner::Policy, flows([flow(1).cookie(CURSE)])).await.unwrap();
    rig.switch.refuse(is_cursed);
    rig.restart_switch().await;
    for _ in 0..3 {
        let error = soon(rig.dataplane.set(pod("a"), flows([flow(4)]))).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
    assert!(rig.switch.flows().is_empty());
    rig.switch.refuse(|_| false);
    soon(rig.dataplane.set(pod("a"), flows([flow(4)]))).await.unwrap();
    assert_eq!(rig.switch.flows(), [flow(1).cookie(CURSE), flow(4)]);
}

/// 100,000 flows of one owner go in parts and take effect at once; another owner's request is done before, one that
/// has to do with them after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_change_lets_others_pass() {
    const MANY: u32 = 100_000;
    let rig = Rig::started().await;
    rig.dataplane.set(pod("first"), flows([flow(MANY + 1)])).await.unwrap();
    // In the queue when it returns; the answer comes later.
    #[expect(clippy::async_yields_async, reason = "that is what it is for")]
    let ask = async |owner: Owner, change: Change| {
        let dataplane = rig.dataplane.clone();
        let mut answer = Box::pin(async move { soon(dataplane.set(owner, change)).await });
        assert!(futures::poll!(&mut answer).is_pending());
        answer
    };
    rig.switch.hold(true);
    let large = ask(peer("large"), flows((0..MANY).map(flow))).await;
    rig.switch.a_barrier_waits().await;
    let more = Change::Diff(antrea_flows::Diff {
        adds: vec![Entry::Flow(flow(MANY + 9))],
        ..antrea_flows::Diff::default()
    });
    let same_owner = ask(peer("large"), more).await;
    let shares_a_flow = ask(pod("shares"), flows([flow(7)])).await;
    let other = ask(pod("other"), flows([flow(MANY + 2)])).await;
    let removed = ask(pod("first"), Change::nothing()).await;
    rig.switch.hold(false);
    other.await.unwrap();
    removed.await.unwrap();
    assert!(rig.switch.flows().len() < 10, "it takes effect at once");
    for later in [large, same_owner, shares_a_flow] {
        later.await.unwrap();
    }
    let large = MANY as usize;
    assert_eq!(rig.switch.committed(), [1, 2, large, 1]);
    assert_eq!(rig.switch.flows().len(), large + 2);

    // So does a replay.
    rig.switch.clear();
    rig.switch.hold(true);
    rig.switch.disconnect();
    rig.switch.a_barrier_waits().await;
    let other = ask(pod("new"), flows([flow(MANY + 3)])).await;
    rig.switch.hold(false);
    other.await.unwrap();
    soon(rig.dataplane.verify()).await.unwrap();
    assert_eq!(rig.switch.flows().len(), large + 3);
    let last = rig.switch.committed()[4..].to_vec();
    assert!(last == [1, large + 2] || last == [large + 2, 1] || last == [large + 3], "{last:?}");
}

/// What has to wait for a replay in parts is done after it, also if nobody asks for anything else.
#[tokio::test]
async fn what_waits_for_a_replay_is_not_forgotten() {
    let rig = Rig::started().await;
    rig.dataplane.set(peer("large"), flows((0..9000).map(flow))).await.unwrap();
    rig.switch.clear();
    rig.switch.hold(true);
    rig.switch.disconnect();
    rig.switch.a_barrier_waits().await;
    let mut waits = Box::pin(soon(rig.dataplane.set(pod("shares"), flows([flow(7)]))));
    assert!(futures::poll!(&mut waits).is_pending());
    rig.switch.hold(false);
    waits.await.unwrap();
    assert_eq!(rig.switch.flows().len(), 9000);
}

/// Of a large change that is refused nothing is left, and who was served meanwhile keeps what he got.
#[tokio::test]
async fn a_large_change_that_is_refused_is_taken_back() {
    let rig = Rig::started().await;
    rig.dataplane.set(peer("large"), flows([flow(7).cookie(1), flow(70_000)])).await.unwrap();
    rig.switch.refuse(is_cursed);
    let change = flows((0..9000).map(flow).chain([flow(9000).cookie(CURSE)]));
    let large = rig.dataplane.set(peer("large"), change);
    let other = rig.dataplane.set(pod("other"), flows([flow(80_000)]));
    let (large, other) = tokio::join!(soon(large), soon(other));
    large.unwrap_err();
    other.unwrap();
    assert_eq!(rig.switch.flows(), [flow(7).cookie(1), flow(70_000), flow(80_000)]);
    let before = rig.switch.committed();
    soon(rig.dataplane.verify()).await.unwrap();
    assert_eq!(rig.switch.committed(), before);
}

/// What a large change gives up is not gone before it is taken: somebody else who gives it up, too, waits.
#[tokio::test]
async fn what_is_given_up_together_stays_if_one_is_refused() {
    let rig = Rig::started().await;
    let before = [flow(7), flow(70_000)];
    rig.dataplane.set(peer("large"), flows(before.clone())).await.unwrap();
    rig.dataplane.set(pod("shares"), flows([flow(7)])).await.unwrap();
    rig.switch.refuse(is_cursed);
    let change = flows((100..9000).map(flow).chain([flow(9000).cookie(CURSE)]));
    let large = rig.dataplane.set(peer("large"), change);
    let shares = rig.dataplane.set(pod("shares"), Change::nothing());
    let (large, shares) = tokio::join!(soon(large), soon(shares));
    large.unwrap_err();
    shares.unwrap();
    assert_eq!(rig.switch.flows(), before);
    soon(rig.dataplane.set(peer("large"), Change::nothing())).await.unwrap();
    assert_eq!(rig.switch.flows(), []);
}

/// Groups and meters are compared and repaired like flows, foreign ones go, and what was done to meters before a
/// bundle was refused is taken back.
#[tokio::test]
async fn groups_and_meters_are_kept() {
    let rig = Rig::started().await;
    let through = Flow { actions: vec![Action::Group(5), Action::GotoTable(1)].into(), ..flow(1) };
    let metered = Flow { actions: vec![Action::Meter(6), Action::GotoTable(1)].into(), ..flow(2) };
    let wanted = vec![
        Entry::Flow(through),
        Entry::Group(group(5, 1)),
        Entry::Flow(metered),
        Entry::Meter(meter(6, 10)),
    ];
    let whole = Change::Whole(wanted.clone());
    rig.dataplane.set(Owner::Node, whole).await.unwrap();
    let sorted = |mut entries: Vec<Entry>| {
        entries.sort_by_key(Entry::key);
        entries
    };
    let wanted = sorted(wanted);
    assert_eq!(rig.switch.entries(), wanted);
    rig.switch.put(group(5, 2));
    rig.switch.put(group(77, 1));
    rig.switch.put(meter(6, 99));
    rig.switch.put(meter(78, 1));
    soon(rig.dataplane.verify()).await.unwrap();
    assert_eq!(rig.switch.entries(), wanted);
    let Health::Bad { reason, message } = rig.reporter.subscribe().borrow().flows.clone() else {
        panic!("nobody is told")
    };
    assert_eq!(reason, "FlowsRepaired");
    assert!(message.contains("4 flows, groups or meters"), "{message}");

    rig.switch.refuse(is_cursed);
    let mut changed = wanted.clone();
    changed.retain(|entry| !matches!(entry, Entry::Meter(_)));
    changed.extend([meter(6, 11), meter(7, 1)].map(Entry::Meter));
    changed.push(Entry::Flow(flow(3).cookie(CURSE)));
    soon(rig.dataplane.set(Owner::Node, Change::Whole(changed))).await.unwrap_err();
    assert_eq!(rig.switch.entries(), wanted);
    soon(rig.dataplane.set(Owner::Node, Change::nothing())).await.unwrap();
    assert!(rig.switch.entries().is_empty());
    assert!(rig.switch.violations().is_empty(), "{:?}", rig.switch.violations());
}

/// A real Open vSwitch with a bridge.
struct Real {
    session: OfHandle,
    dataplane: Dataplane,
    _guard: DropGuard,
    _ovs: TestOvs,
    _dir: tempfile::TempDir,
}

impl Real {
    async fn started() -> Self {
        let dir = tempfile::Builder::new().prefix("dataplane-ovs-").tempdir_in("/tmp").unwrap();
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
        let config = OfConfig { flow_monitor: true, ..OfConfig::default() };
        let (session, _) = OfSession::spawn(ovs.mgmt_sock("br0"), config, cancel.clone());
        session.wait_connected(LIMIT).await.unwrap();
        let (dataplane, _) = dataplane(session.clone(), Arc::new(network()), &cancel);
        dataplane.start().await.unwrap();
        Self { session, dataplane, _guard: cancel.drop_guard(), _ovs: ovs, _dir: dir }
    }

    async fn entries(&self) -> Vec<Entry> {
        let flows = self.session.flows(FlowFilter::all()).await.unwrap();
        let flows = flows.into_iter().map(|entry| Entry::Flow(entry.flow));
        let groups = self.session.groups().await.unwrap().into_iter().map(Entry::Group);
        let meters = self.session.meters().await.unwrap().into_iter().map(Entry::Meter);
        let mut all: Vec<Entry> = flows.chain(groups).chain(meters).collect();
        all.sort_by_key(Entry::key);
        all
    }
}

/// What a flow has Open vSwitch learn, and a flow with a timeout, survive repair; the latter is not missed when its
/// time is over. Groups and meters of others go.
#[tokio::test(flavor = "multi_thread")]
async fn learned_and_expiring_flows_survive_repair() {
    let real = Real::started().await;
    let learn = Learn {
        cookie: 0xaff,
        hard_timeout: 100,
        ..Learn::new(9, 10).match_value(openflow::Field::reg(1).unwrap(), 7)
    };
    let learning = Flow::new(0, 10).matching(Match::new().udp()).action(Action::from(learn));
    let expiring = flow(5).hard_timeout(1);
    soon(real.dataplane.set(Owner::Node, flows([learning.clone(), expiring.clone()]))).await.unwrap();
    let mut frame =
        vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf];
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 5, 0, 53, 0, 8, 0, 0]);
    let packet = openflow::PacketOut {
        buffer_id: None,
        matches: Match::new().in_port(PortNo::LOCAL.0),
        actions: vec![Action::Output(PortNo::TABLE)],
        packet: frame.into(),
    };
    real.session.packet_out(packet).await.unwrap();
    let learned = async || {
        let all = real.entries().await;
        all.iter().any(|entry| matches!(entry, Entry::Flow(flow) if flow.table == 9 && flow.cookie == 0xaff))
    };
    let end = tokio::time::Instant::now() + LIMIT;
    while !learned().await {
        assert!(tokio::time::Instant::now() < end, "not learned");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let add = Message::from(FlowMod::add(Flow::new(9, 11)));
    let foreign = vec![openflow::GroupMod::set(group(8, 1)).into(), add];
    real.session.bundle(foreign).await.unwrap();
    let add = Message::MeterMod { command: openflow::MeterCommand::Add, meter: meter(8, 1) };
    real.session.send_barriered(vec![add]).await.unwrap();
    soon(real.dataplane.verify()).await.unwrap();
    let now = real.entries().await;
    assert!(learned().await, "{now:?}");
    assert!(!now.iter().any(|entry| matches!(entry, Entry::Group(_) | Entry::Meter(_))), "{now:?}");
    assert!(!now.contains(&Entry::Flow(Flow::new(9, 11))), "{now:?}");

    let end = tokio::time::Instant::now() + LIMIT;
    while real.entries().await.contains(&Entry::Flow(expiring.clone())) {
        assert!(tokio::time::Instant::now() < end, "does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    soon(real.dataplane.verify()).await.unwrap();
    assert!(!real.entries().await.contains(&Entry::Flow(expiring)), "its time is over");
    assert!(learned().await);
}
