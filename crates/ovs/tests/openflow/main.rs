//! The OpenFlow session against a real ovs-vswitchd (dummy datapath), with ovs-ofctl as the second opinion.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may stop")]

#[path = "../common/mod.rs"]
mod common;

mod packets;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Fixture, LIMIT, dummy_bridge, start};
use openflow::{
    Action, Bucket, ControllerAction, Field, Flow, FlowFlags, FlowMod, Group, GroupMod, GroupType, Match,
    Message, Meter, MeterCommand, PacketOut, PortNo, SubField,
    multipart::{FlowEvent, FlowFilter, FlowMonitor, FlowUpdate, MultipartReply, MultipartRequest},
};
use ovs::{
    OfConfig, OfError, OfHandle, OfSession, OfState,
    backoff::BackoffConfig,
    vswitch::{InterfaceKind, PortSpec},
};

const BRIDGE: &str = "br-int";

struct Setup {
    fixture: Fixture,
    of: OfHandle,
}

fn config() -> OfConfig {
    OfConfig {
        backoff: BackoffConfig { first: Duration::from_millis(20), max: Duration::from_millis(200) },
        ..OfConfig::default()
    }
}

async fn setup_with(config: OfConfig) -> Setup {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.ensure_bridge(&dummy_bridge(BRIDGE)).await.unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    let (of, _) = OfSession::spawn(fixture.ovs.mgmt_sock(BRIDGE), config, fixture.cancel.clone());
    of.wait_connected(LIMIT).await.unwrap();
    Setup { fixture, of }
}

async fn setup() -> Setup {
    setup_with(config()).await
}

impl Setup {
    async fn add_port(&self, name: &str, number: u32) {
        let vswitch = self.fixture.vswitch().await;
        let spec = PortSpec {
            bridge: BRIDGE.to_owned(),
            name: name.to_owned(),
            kind: InterfaceKind::Other("dummy".to_owned()),
            ofport_request: Some(number),
            ..PortSpec::default()
        };
        vswitch.add_port(&spec).await.unwrap();
        assert_eq!(vswitch.wait_ofport(name, LIMIT).await.unwrap(), number);
        vswitch.wait_applied(LIMIT).await.unwrap();
    }

    /// Flows as ovs-ofctl prints them, without counters.
    fn ofctl_flows(&self) -> BTreeSet<String> {
        let text = self.fixture.ovs.ofctl(&["--no-names", "--no-stats", "dump-flows"], BRIDGE, &[]).unwrap();
        text.lines().filter(|line| line.contains("actions=")).map(|line| line.trim().to_owned()).collect()
    }
}

fn flow(n: u32) -> Flow {
    let ip = Ipv4Addr::from(0x0a00_0000 | n);
    let mut flow = Flow::new(u8::try_from(n % 4).unwrap(), u16::try_from(100 + n % 50).unwrap())
        .cookie(0x1_0000_0000 + u64::from(n))
        .matching(
            Match::new().tcp().nw_dst(IpAddr::V4(ip)).tcp_dst(u16::try_from(n % 60000).unwrap(), u16::MAX),
        );
    if n.is_multiple_of(3) {
        flow = flow.action(SubField::reg(0, 0, 15).load(u128::from(n % 65535 + 1)));
    }
    if n.is_multiple_of(7) { flow.action(Action::Output(PortNo::IN_PORT)) } else { flow.goto(10) }
}

fn adds(flows: impl IntoIterator<Item = Flow>) -> Vec<Message> {
    flows.into_iter().map(|flow| FlowMod::add(flow).into()).collect()
}

#[tokio::test]
async fn ten_thousand_flows_by_bundle() {
    let setup = setup().await;
    let begin = Instant::now();
    setup.of.bundle(adds((0..10_000).map(flow))).await.unwrap();
    println!("bundle of 10000: {:?}", begin.elapsed());

    let begin = Instant::now();
    let entries = setup.of.flows(FlowFilter::all()).await.unwrap();
    println!("dump of {}: {:?}", entries.len(), begin.elapsed());
    let mut dumped: Vec<Flow> = entries.into_iter().map(|entry| entry.flow).collect();
    let mut wanted: Vec<Flow> = (0..10_000).map(flow).collect();
    dumped.sort();
    wanted.sort();
    assert!(dumped == wanted, "first difference: {:?}", dumped.iter().zip(&wanted).find(|(a, b)| a != b));

    // ovs-ofctl sees the same flows.
    let seen = setup.ofctl_flows();
    assert_eq!(seen.len(), 10_000);
    // Without counters ovs-ofctl leaves table 0 out.
    let wanted: BTreeSet<String> =
        wanted.iter().map(|flow| flow.to_string().replace("table=0, ", "")).collect();
    assert!(
        seen == wanted,
        "first difference: {:?}",
        seen.symmetric_difference(&wanted).take(2).collect::<Vec<_>>()
    );

    let aggregate = setup.of.aggregate(FlowFilter::all()).await.unwrap();
    assert_eq!(aggregate.flow_count, Some(10_000));
    let one = setup.of.flows(FlowFilter::cookie(0x1_0000_0005, u64::MAX)).await.unwrap();
    assert_eq!(one.into_iter().map(|entry| entry.flow).collect::<Vec<_>>(), [flow(5)]);
    assert_eq!(setup.of.flows(FlowFilter::table(2)).await.unwrap().len(), 2500);
    assert_eq!(setup.of.aggregate(FlowFilter::table(3)).await.unwrap().flow_count, Some(2500));

    // Deleted by a bundle that also adds: one transaction.
    let mut messages = vec![FlowMod::delete_by_cookie(0, 0).into()];
    messages.extend(adds([flow(1)]));
    setup.of.bundle(messages).await.unwrap();
    assert_eq!(setup.of.aggregate(FlowFilter::all()).await.unwrap().flow_count, Some(1));
}

#[tokio::test]
async fn an_invalid_flow_names_itself_and_leaves_the_tables_alone() {
    let setup = setup().await;
    setup.of.bundle(adds((0..10).map(flow))).await.unwrap();
    let before = setup.ofctl_flows();

    // Refused when it is added: the prerequisite of tcp_dst is missing.
    let mut messages = adds((100..600).map(flow));
    let bad = Flow::new(5, 77).matching(Match::new().exact(Field::TcpDst, 80));
    messages.insert(250, FlowMod::add(bad).into());
    let error = setup.of.bundle(messages).await.unwrap_err();
    println!("{error}");
    let OfError::Rejected(rejection) = &error else { panic!("{error}") };
    assert_eq!(rejection.index, Some(250));
    assert!(rejection.message.contains("table=5") && rejection.message.contains("priority=77"), "{error}");
    assert!(error.to_string().contains("OFPBMC_BAD_PREREQ"), "{error}");
    assert_eq!(setup.ofctl_flows(), before);

    // Refused at the commit: the group does not exist.
    let mut messages = adds((100..200).map(flow));
    messages.push(FlowMod::add(Flow::new(6, 78).action(Action::Group(4711))).into());
    messages.extend(adds((200..300).map(flow)));
    let error = setup.of.bundle(messages).await.unwrap_err();
    println!("{error}");
    let OfError::Rejected(rejection) = &error else { panic!("{error}") };
    assert_eq!(rejection.index, Some(100));
    assert!(rejection.message.contains("group:4711"), "{error}");
    assert_eq!(setup.ofctl_flows(), before);

    // Too long for OpenFlow: found before it is sent.
    let mut messages = adds((100..110).map(flow));
    messages
        .push(FlowMod::add(Flow::new(7, 1).actions(std::iter::repeat_n(Action::Group(1), 10_000))).into());
    let error = setup.of.bundle(messages).await.unwrap_err();
    assert!(matches!(error, OfError::Encode { index: 10, .. }), "{error}");
    assert_eq!(setup.ofctl_flows(), before);

    // The session is as good as before.
    setup.of.bundle(adds((10..20).map(flow))).await.unwrap();
    assert_eq!(setup.ofctl_flows().len(), 20);
    assert_eq!(setup.of.wait_connected(LIMIT).await.unwrap(), 1);
}

#[tokio::test]
async fn plain_batches_go_on_after_an_error() {
    let setup = setup().await;
    let messages = vec![
        FlowMod::add(flow(1)).into(),
        FlowMod::add(Flow::new(6, 78).action(Action::Group(4711))).into(),
        FlowMod::add(Flow::new(6, 79).action(Action::Group(4712))).into(),
        FlowMod::add(flow(2)).into(),
    ];
    let error = setup.of.send_barriered(messages).await.unwrap_err();
    let OfError::Rejected(rejection) = &error else { panic!("{error}") };
    assert_eq!((rejection.index, rejection.further), (Some(1), 1));
    assert_eq!(setup.ofctl_flows().len(), 2);
}

#[tokio::test]
async fn bundles_of_many_callers_do_not_mix() {
    let setup = setup().await;
    let tasks: Vec<_> = (0..20u32)
        .map(|caller| {
            let of = setup.of.clone();
            tokio::spawn(async move {
                let mut messages = adds((caller * 100..caller * 100 + 100).map(flow));
                if caller % 4 == 3 {
                    messages.push(FlowMod::add(Flow::new(6, 78).action(Action::Group(4711))).into());
                }
                let queried = of.aggregate(FlowFilter::all()).await.unwrap().flow_count.unwrap();
                assert_eq!(queried % 100, 0, "a bundle was seen half done");
                of.bundle(messages).await.is_ok()
            })
        })
        .collect();
    let mut good = 0;
    for task in tasks {
        good += usize::from(task.await.unwrap());
    }
    assert_eq!(good, 15);
    assert_eq!(setup.of.aggregate(FlowFilter::all()).await.unwrap().flow_count, Some(1500));
}

#[tokio::test]
async fn groups_and_meters() {
    let setup = setup().await;
    let group = Group::new(7, GroupType::Select)
        .bucket(Bucket::new(0, 100).action(SubField::reg(1, 0, 31).load(1)))
        .bucket(Bucket::new(1, 50).action(SubField::reg(1, 0, 31).load(2)));
    setup
        .of
        .bundle(vec![
            GroupMod::set(group.clone()).into(),
            FlowMod::add(Flow::new(0, 10).action(Action::Group(7))).into(),
        ])
        .await
        .unwrap();
    assert_eq!(setup.of.groups().await.unwrap(), [group]);
    let stats = setup.of.multipart(MultipartRequest::GroupStats(None)).await.unwrap();
    let [MultipartReply::GroupStats(stats)] = &stats[..] else { panic!("{stats:?}") };
    assert_eq!((stats[0].id, stats[0].buckets.len()), (7, 2));
    assert!(
        setup.fixture.ovs.ofctl(&["dump-groups"], BRIDGE, &[]).unwrap().contains("group_id=7,type=select")
    );

    let meter = Meter::drop_pktps(256, 500, 1000);
    let add = Message::MeterMod { command: MeterCommand::Add, meter: meter.clone() };
    setup.of.send_barriered(vec![add.clone()]).await.unwrap();
    assert_eq!(setup.of.meters().await.unwrap(), [meter]);
    assert_eq!(setup.of.meter_stats().await.unwrap()[0].id, 256);
    assert!(setup.of.meter_features().await.unwrap().max_meters > 256);
    assert!(
        setup.fixture.ovs.ofctl(&["dump-meters"], BRIDGE, &[]).unwrap().contains("rate=500 burst_size=1000")
    );
    // A second time it exists.
    let error = setup.of.send_barriered(vec![add.clone()]).await.unwrap_err();
    println!("{error}");
    assert!(error.to_string().contains("OFPMMFC_METER_EXISTS"), "{error}");
    // Open vSwitch takes no meter-mod in a bundle, and says so of that message.
    let error = setup.of.bundle(vec![FlowMod::add(flow(1)).into(), add]).await.unwrap_err();
    println!("{error}");
    assert!(matches!(&error, OfError::Rejected(rejection) if rejection.index == Some(1)), "{error}");
}

/// Of a bundle in parts nothing is seen before its commit, a bundle of somebody else between the parts is, and a part
/// that is refused leaves nothing.
#[tokio::test]
async fn a_bundle_in_parts_takes_effect_at_once() {
    let setup = setup().await;
    let count = async || setup.of.aggregate(FlowFilter::all()).await.unwrap().flow_count;
    let mut parts = setup.of.bundle_in_parts().unwrap();
    parts.add(adds((0..4000).map(flow))).await.unwrap();
    assert_eq!(count().await, Some(0));
    setup.of.bundle(adds([flow(9000)])).await.unwrap();
    assert_eq!(count().await, Some(1));
    parts.add(adds((4000..8000).map(flow))).await.unwrap();
    parts.commit().await.unwrap();
    assert_eq!(count().await, Some(8001));

    let mut parts = setup.of.bundle_in_parts().unwrap();
    parts.add(adds([flow(9001)])).await.unwrap();
    let bad = Flow::new(6, 78).action(Action::Group(4711));
    parts.add(adds([flow(9002), bad])).await.unwrap();
    parts.add(adds([flow(9003)])).await.unwrap();
    // Open vSwitch looks for the group at the commit.
    let error = parts.commit().await.unwrap_err();
    assert!(error.had_no_effect(), "{error}");
    assert!(matches!(&error, OfError::Rejected(rejection) if rejection.index == Some(2)), "{error}");

    let mut parts = setup.of.bundle_in_parts().unwrap();
    parts.add(adds([flow(9001)])).await.unwrap();
    let meter = Message::MeterMod { command: MeterCommand::Add, meter: Meter::drop_pktps(1, 1, 1) };
    let error =
        parts.add(vec![flow(9002)].into_iter().map(|f| FlowMod::add(f).into()).chain([meter]).collect());
    let error = error.await.unwrap_err();
    assert!(matches!(&error, OfError::Rejected(rejection) if rejection.index == Some(2)), "{error}");
    assert!(
        matches!(error.subject(), Some(Message::BundleAdd { message, .. }) if matches!(**message, Message::MeterMod { .. }))
    );
    assert_eq!(count().await, Some(8001));
}

#[tokio::test]
async fn ports_names_and_description() {
    let setup = setup().await;
    setup.add_port("p1", 11).await;
    let ports = setup.of.ports().await.unwrap();
    let port = ports.iter().find(|port| port.port_no == PortNo(11)).unwrap();
    assert_eq!(port.name, "p1");
    assert!(ports.iter().any(|port| port.port_no == PortNo::LOCAL && port.name == BRIDGE));
    assert_eq!(setup.of.port_stats().await.unwrap().len(), 2);
    assert!(setup.of.desc().await.unwrap().mfr.contains("Nicira"));
    let OfState::Connected { datapath_id, .. } = *setup.of.state().borrow() else { panic!("not connected") };
    assert_eq!(setup.fixture.vswitch().await.bridge_info(BRIDGE).unwrap().datapath_id, Some(datapath_id));
}

#[tokio::test]
async fn events_of_flows_and_ports() {
    let setup = setup().await;
    let mut events = setup.of.events();
    let short = Flow::new(0, 5).cookie(9).flags(FlowFlags::SEND_FLOW_REM).matching(Match::new().arp());
    setup.of.bundle(adds([short.clone()])).await.unwrap();
    setup.of.bundle(vec![FlowMod::delete_strict(&short).into()]).await.unwrap();
    let removed = loop {
        let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap();
        if let Message::FlowRemoved(removed) = &*event {
            break removed.clone();
        }
    };
    assert_eq!((removed.cookie, removed.priority), (9, 5));
    setup.add_port("p1", 21).await;
    loop {
        if let Message::PortStatus { port, .. } =
            &*tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap()
            && port.port_no == PortNo(21)
        {
            break;
        }
    }
}

#[tokio::test]
async fn survives_kill_and_restart_of_the_switch() {
    let mut setup = setup().await;
    setup.of.bundle(adds((0..100).map(flow))).await.unwrap();
    let mut state = setup.of.state();
    for round in 2..4 {
        // Killed in the middle of a large bundle: held up before it, so that it cannot have answered.
        let pid = setup.fixture.ovs.vswitchd_pid().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        let of = setup.of.clone();
        let bundle = tokio::spawn(async move { of.bundle(adds((0..50_000).map(flow))).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        setup.fixture.ovs.kill_vswitchd().unwrap();
        let outcome = bundle.await.unwrap();
        assert!(matches!(outcome, Err(OfError::ConnectionLost(_))), "{outcome:?}");
        tokio::time::timeout(LIMIT, state.wait_for(|state| !state.is_connected())).await.unwrap().unwrap();
        assert!(matches!(setup.of.bundle(adds([flow(1)])).await, Err(OfError::NotConnected(_))));
        assert!(matches!(setup.of.flows(FlowFilter::all()).await, Err(OfError::NotConnected(_))));

        setup.fixture.ovs.start_vswitchd().unwrap();
        assert_eq!(setup.of.wait_connected(LIMIT).await.unwrap(), round);
        // The flows are gone: the new generation says that they have to be replayed.
        assert_eq!(setup.of.aggregate(FlowFilter::all()).await.unwrap().flow_count, Some(0));
        setup.of.bundle(adds((0..100).map(flow))).await.unwrap();
        assert_eq!(setup.ofctl_flows().len(), 100);
    }
}

/// Waits until the bridge has handled everything sent so far, and has told what it had to tell.
async fn settled(of: &OfHandle) {
    of.desc().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    of.desc().await.unwrap();
}

#[tokio::test]
async fn only_flows_that_others_change_are_told_of() {
    let mut setup = setup_with(OfConfig { flow_monitor: true, ..config() }).await;
    let mut changes = setup.of.foreign_changes();
    setup.of.bundle(adds((0..20_000).map(flow))).await.unwrap();
    setup.of.send_barriered(vec![FlowMod::delete_strict(&flow(7)).into()]).await.unwrap();
    settled(&setup.of).await;
    assert_eq!(*changes.borrow_and_update(), 0, "own changes");

    for (command, args) in [
        ("add-flow", ["table=9,priority=9,ip,actions=drop"]),
        ("mod-flows", ["table=9,actions=NORMAL"]),
        ("del-flows", ["table=9"]),
    ] {
        setup.fixture.ovs.ofctl(&[command], BRIDGE, &args).unwrap();
        tokio::time::timeout(LIMIT, changes.changed()).await.expect(command).unwrap();
        changes.mark_unchanged();
    }
    // More than what the bridge keeps for a receiver that does not read: nothing is lost, or it says so.
    setup.fixture.ovs.ofctl(&["del-flows"], BRIDGE, &[]).unwrap();
    tokio::time::timeout(LIMIT, changes.changed()).await.unwrap().unwrap();
    settled(&setup.of).await;
    println!("20,000 flows deleted by another: {} updates", *changes.borrow_and_update());

    // What a monitor tells of a flow is that flow.
    let sent =
        Flow::new(3, 77).cookie(0x99).idle_timeout(500).matching(Match::new().tcp()).action(Action::DecTtl);
    setup.of.bundle(adds([sent.clone()])).await.unwrap();
    let existing = FlowMonitor {
        flags: FlowMonitor::INITIAL | FlowMonitor::INSTRUCTIONS | FlowMonitor::ADD,
        table: Some(3),
        ..FlowMonitor::all(2)
    };
    let parts = setup.of.multipart(MultipartRequest::FlowMonitor(existing)).await.unwrap();
    let told = FlowUpdate::Flow { event: FlowEvent::Initial, reason: 0, flow: sent };
    assert_eq!(parts, [MultipartReply::FlowMonitor(vec![told])]);

    let mut state = setup.of.state();
    setup.fixture.ovs.kill_vswitchd().unwrap();
    tokio::time::timeout(LIMIT, state.wait_for(|state| !state.is_connected())).await.unwrap().unwrap();
    setup.fixture.ovs.start_vswitchd().unwrap();
    setup.of.wait_connected(LIMIT).await.unwrap();
    settled(&setup.of).await;
    changes.mark_unchanged();
    setup.fixture.ovs.ofctl(&["add-flow"], BRIDGE, &["table=9,priority=9,ip,actions=drop"]).unwrap();
    tokio::time::timeout(LIMIT, changes.changed()).await.expect("monitored again after a reconnect").unwrap();
}

#[tokio::test]
async fn a_bridge_without_openflow_15_is_reported() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    let mut spec = dummy_bridge(BRIDGE);
    spec.protocols = vec!["OpenFlow13".to_owned()];
    vswitch.ensure_bridge(&spec).await.unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    let (of, _) = OfSession::spawn(fixture.ovs.mgmt_sock(BRIDGE), config(), fixture.cancel.clone());
    let mut state = of.state();
    let reason = |state: &OfState| match state {
        OfState::Disconnected { error } => error.to_string(),
        OfState::Connected { .. } => panic!("connected"),
    };
    let wrong = |state: &OfState| {
        reason(state).contains("not 1.5")
            || reason(state).contains("VERSION")
            || reason(state).contains("INCOMPATIBLE")
    };
    let found = tokio::time::timeout(LIMIT, state.wait_for(wrong)).await.map(|found| reason(&found.unwrap()));
    println!("{}", found.unwrap_or_else(|_| panic!("{:?}", of.state().borrow())));
    // It is found once the bridge speaks it.
    spec.protocols = vec!["OpenFlow15".to_owned()];
    vswitch.ensure_bridge(&spec).await.unwrap();
    of.wait_connected(LIMIT).await.unwrap();
}

#[tokio::test]
async fn the_task_ends_with_its_token() {
    let fixture = start(true);
    let (of, task) = OfSession::spawn(fixture.ovs.mgmt_sock("none"), config(), fixture.cancel.clone());
    assert!(matches!(of.wait_connected(Duration::from_millis(50)).await, Err(OfError::NotConnected(_))));
    fixture.cancel.cancel();
    tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();
    assert!(of.bundle(adds([flow(1)])).await.is_err());
}
