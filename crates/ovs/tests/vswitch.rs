//! The facade against a real ovsdb-server and ovs-vswitchd (dummy datapath).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may stop")]

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use common::{LIMIT, dummy_bridge, start};
use ovs::vswitch::{InterfaceKind, PortSpec, VswitchError};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn dummy_port(name: &str) -> PortSpec {
    PortSpec {
        bridge: "br-int".to_owned(),
        name: name.to_owned(),
        kind: InterfaceKind::Other("dummy".to_owned()),
        ..PortSpec::default()
    }
}

#[tokio::test]
async fn bridge_life() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    let mut spec = dummy_bridge("br-int");
    spec.external_ids = map(&[("roundNum", "1")]);
    spec.flow_tables = vec![(0, "Root".to_owned()), (1, "Output".to_owned())];
    vswitch.ensure_bridge(&spec).await.unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    let info = vswitch.bridge_info("br-int").unwrap();
    assert_eq!(info.protocols, ["OpenFlow10", "OpenFlow15"]);
    assert_eq!(info.fail_mode.as_deref(), Some("secure"));
    assert_eq!(info.flow_tables, [(0, "Root".to_owned()), (1, "Output".to_owned())].into());
    assert_eq!(info.ports, ["br-int"]);
    assert!(info.datapath_id.is_some());
    let seen = fixture.ovs.vsctl(&["get", "bridge", "br-int", "fail_mode", "external_ids:roundNum"]).unwrap();
    assert_eq!(seen, "secure\n\"1\"\n");
    assert!(fixture.ovs.ofctl(&["dump-table-features"], "br-int", &[]).unwrap().contains("Root"));

    // Again: nothing is written.
    let mut changes = vswitch.subscribe();
    vswitch.ensure_bridge(&spec).await.unwrap();
    assert!(changes.try_recv().is_err());

    // Changed: given keys are set, those of others stay.
    fixture.ovs.vsctl(&["set", "bridge", "br-int", "external_ids:foreign=x"]).unwrap();
    spec.flow_tables.push((2, "Third".to_owned()));
    spec.external_ids = map(&[("roundNum", "2")]);
    spec.other_config = map(&[("hwaddr", "02:00:00:00:00:01")]);
    vswitch.ensure_bridge(&spec).await.unwrap();
    let info = vswitch.bridge_info("br-int").unwrap();
    assert_eq!(info.external_ids, map(&[("foreign", "x"), ("roundNum", "2")]));
    assert_eq!(info.flow_tables.len(), 3);
    vswitch.set_bridge_external_id("br-int", "foreign", None).await.unwrap();
    vswitch.set_bridge_external_id("br-int", "roundNum", Some("3")).await.unwrap();
    assert_eq!(vswitch.bridge_info("br-int").unwrap().external_ids, map(&[("roundNum", "3")]));
    assert!(matches!(
        vswitch.set_bridge_external_id("br-no", "k", None).await,
        Err(VswitchError::NoBridge(name)) if name == "br-no"
    ));
}

#[tokio::test]
async fn port_life() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    let missing = vswitch.add_port(&dummy_port("p1")).await;
    assert!(matches!(missing, Err(VswitchError::NoBridge(_))), "{missing:?}");
    vswitch.ensure_bridge(&dummy_bridge("br-int")).await.unwrap();

    let mut spec = PortSpec {
        ofport_request: Some(0x8001),
        external_ids: map(&[("antrea-type", "gateway")]),
        mac: Some([2, 0, 0, 0, 0, 9]),
        tag: Some(7),
        ..dummy_port("p1")
    };
    vswitch.add_port(&spec).await.unwrap();
    assert_eq!(vswitch.wait_ofport("p1", LIMIT).await.unwrap(), 0x8001);
    vswitch.wait_applied(LIMIT).await.unwrap();
    let port = vswitch.port("p1").unwrap();
    assert_eq!(port.ofport, Some(0x8001));
    // The dummy datapath keeps its own addresses, so the one asked for is only recorded.
    assert_eq!(port.mac, Some([2, 0, 0, 0, 0, 9]));
    assert!(port.mac_in_use.is_some());
    assert_eq!((port.tag, port.error.clone()), (Some(7), None));
    assert_eq!(port.external_ids, map(&[("antrea-type", "gateway")]));

    // Again: nothing is written. With other ids: the same rows, the same number.
    let mut changes = vswitch.subscribe();
    assert!(!vswitch.differs(&spec));
    vswitch.add_port(&spec).await.unwrap();
    assert!(changes.try_recv().is_err());
    spec.external_ids = map(&[("antrea-type", "host"), ("a\"b", "\\")]);
    spec.tag = None;
    assert!(vswitch.differs(&spec));
    vswitch.add_port(&spec).await.unwrap();
    let changed = vswitch.port("p1").unwrap();
    assert_eq!((changed.uuid, changed.ofport, changed.tag), (port.uuid, Some(0x8001), None));
    assert_eq!(changed.external_ids, spec.external_ids);
    let set = async |value: Option<&str>| {
        let value = value.map(str::to_owned);
        let values = [("p1".to_owned(), value.clone()), ("absent".to_owned(), value)].into();
        vswitch.set_ports_external_id("x", &values).await.unwrap();
        let mut ids = vswitch.port("p1").unwrap().external_ids;
        let found = ids.remove("x");
        assert_eq!(ids, spec.external_ids, "the others stay");
        found
    };
    assert_eq!(set(Some("y")).await.as_deref(), Some("y"));
    assert_eq!(set(Some("z")).await.as_deref(), Some("z"));
    assert_eq!(set(None).await, None);

    // Another number: the port is replaced.
    spec.ofport_request = Some(0x8002);
    vswitch.add_port(&spec).await.unwrap();
    assert_eq!(vswitch.wait_ofport("p1", LIMIT).await.unwrap(), 0x8002);
    assert_ne!(vswitch.port("p1").unwrap().uuid, port.uuid);

    // Another bridge: the port moves.
    vswitch.ensure_bridge(&dummy_bridge("br-two")).await.unwrap();
    spec.bridge = "br-two".to_owned();
    vswitch.add_port(&spec).await.unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    assert_eq!(vswitch.bridge_info("br-int").unwrap().ports, ["br-int"]);
    assert_eq!(
        vswitch.ports("br-two").iter().map(|port| port.name.as_str()).collect::<Vec<_>>(),
        ["br-two", "p1"]
    );

    // Deletion is of that bridge's port only, and may be repeated.
    vswitch.delete_port("br-int", "p1").await.unwrap();
    assert!(vswitch.port("p1").is_some());
    vswitch.delete_port("br-two", "p1").await.unwrap();
    vswitch.delete_port("br-two", "p1").await.unwrap();
    assert!(vswitch.port("p1").is_none());
    assert_eq!(fixture.ovs.vsctl(&["list-ports", "br-two"]).unwrap(), "");
    assert!(matches!(vswitch.wait_ofport("p1", LIMIT).await, Err(VswitchError::NoPort(_))));
}

/// Who adds a port may have looked at it before somebody noted something there.
#[tokio::test]
async fn what_others_note_at_a_port_stays() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.ensure_bridge(&dummy_bridge("br-int")).await.unwrap();
    let spec =
        PortSpec { ofport_request: Some(0x8001), external_ids: map(&[("pod", "a")]), ..dummy_port("p1") };
    vswitch.add_port(&spec).await.unwrap();
    vswitch.wait_ofport("p1", LIMIT).await.unwrap();
    let before = vswitch.port("p1").unwrap();
    let note = [("p1".to_owned(), Some("ingress".to_owned()))].into();
    vswitch.set_ports_external_id("isolated", &note).await.unwrap();
    assert!(!vswitch.differs(&spec));

    let changed = PortSpec { tag: Some(7), external_ids: map(&[("pod", "b")]), ..spec.clone() };
    let replaced = PortSpec { ofport_request: Some(0x8002), ..spec };
    for (spec, kept, pod) in [(changed, true, "b"), (replaced, false, "a")] {
        vswitch.add_port(&spec).await.unwrap();
        let after = vswitch.port("p1").unwrap();
        assert_eq!((after.tag, after.uuid == before.uuid), (spec.tag, kept));
        assert_eq!(after.external_ids, map(&[("isolated", "ingress"), ("pod", pod)]));
    }
}

#[tokio::test]
async fn unusable_interfaces_say_why() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.ensure_bridge(&dummy_bridge("br-int")).await.unwrap();

    // A type that this Open vSwitch does not have (as STT in newer ones), and a tunnel without its other end.
    for (name, kind, text) in [
        ("odd0", InterfaceKind::Other("nosuch".to_owned()), "could not open network device odd0"),
        ("gnv0", InterfaceKind::Geneve, "requires valid 'remote_ip'"),
    ] {
        vswitch.add_port(&PortSpec { kind, ..dummy_port(name) }).await.unwrap();
        let error = vswitch.wait_ofport(name, LIMIT).await.unwrap_err();
        assert!(
            matches!(&error, VswitchError::Interface { name: found, error } if found == name && error.contains(text)),
            "{error}"
        );
    }
    // A device that does not exist; trying again gets a fresh row and the same answer.
    let mut absent = dummy_port("ovs-none0");
    absent.kind = InterfaceKind::System;
    for _ in 0..2 {
        vswitch.add_port(&absent).await.unwrap();
        let error = vswitch.wait_ofport("ovs-none0", LIMIT).await.unwrap_err();
        assert!(
            matches!(&error, VswitchError::Interface { error, .. } if error.contains("ovs-none0")),
            "{error}"
        );
    }
    assert_eq!(vswitch.port("ovs-none0").unwrap().ofport, None);
    // Turned into a usable one, it is.
    vswitch.add_port(&dummy_port("ovs-none0")).await.unwrap();
    vswitch.wait_ofport("ovs-none0", LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_hundred_ports_at_once() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.ensure_bridge(&dummy_bridge("br-int")).await.unwrap();
    let begin = std::time::Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let vswitch = vswitch.clone();
            tokio::spawn(async move {
                let name = format!("p{n}");
                // Two callers ask for each port.
                let spec = dummy_port(&name);
                let (a, b) = tokio::join!(vswitch.add_port(&spec), vswitch.add_port(&spec));
                a.unwrap();
                b.unwrap();
                vswitch.wait_ofport(&name, LIMIT).await.unwrap()
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    println!("100 ports in {:?}", begin.elapsed());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 100);
    assert_eq!(vswitch.ports("br-int").len(), 101);
}

#[tokio::test]
async fn settings() {
    let fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.wait_applied(LIMIT).await.unwrap();
    fixture.ovs.vsctl(&["--no-wait", "set", "open", ".", "ovs_version=3.1.0", "db_version=8.3.1"]).unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    let info = vswitch.open_vswitch_info().unwrap();
    assert_eq!((info.ovs_version.as_deref(), info.db_version.as_deref()), (Some("3.1.0"), Some("8.3.1")));
    assert!(info.datapath_types.contains(&"netdev".to_owned()));
    assert!(info.iface_types.contains(&"geneve".to_owned()));
    let both = ["other_config:flow-restore-wait=true", "other_config:hw-offload=false"];
    fixture.ovs.vsctl(&["--no-wait", "set", "open", ".", both[0], both[1]]).unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    assert_eq!(
        fixture.ovs.vsctl(&["get", "open", ".", "other_config:flow-restore-wait"]).unwrap(),
        "\"true\"\n"
    );
    vswitch.remove_other_config("flow-restore-wait").await.unwrap();
    vswitch.remove_other_config("flow-restore-wait").await.unwrap();
    assert_eq!(vswitch.open_vswitch_info().unwrap().other_config, map(&[("hw-offload", "false")]));
}

#[tokio::test]
async fn writes_outlast_a_restart_of_the_database() {
    let mut fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.ensure_bridge(&dummy_bridge("br-int")).await.unwrap();
    fixture.ovs.kill_db().unwrap();
    let mut connected = vswitch.connected();
    connected.wait_for(|connected| !connected).await.unwrap();
    // Asked for while the database is away.
    let adding = {
        let vswitch = vswitch.clone();
        tokio::spawn(async move {
            vswitch.add_port(&dummy_port("p1")).await?;
            vswitch.wait_ofport("p1", LIMIT).await
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!adding.is_finished());
    fixture.ovs.start_db().unwrap();
    adding.await.unwrap().unwrap();

    // And once more in the middle of many writes.
    let adding: Vec<_> = (2..40)
        .map(|n| {
            let vswitch = vswitch.clone();
            tokio::spawn(async move { vswitch.add_port(&dummy_port(&format!("p{n}"))).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    fixture.ovs.kill_db().unwrap();
    fixture.ovs.start_db().unwrap();
    for task in adding {
        task.await.unwrap().unwrap();
    }
    // The cache may not show the last transaction's effect yet.
    let begin = Instant::now();
    while vswitch.ports("br-int").len() < 40 {
        assert!(begin.elapsed() < LIMIT, "{} ports", vswitch.ports("br-int").len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let listed = fixture.ovs.vsctl(&["list-ports", "br-int"]).unwrap();
    assert_eq!(listed.lines().count(), 39);
}

#[tokio::test]
async fn ofport_wait_sees_a_switch_that_comes_late() {
    let mut fixture = start(true);
    let vswitch = fixture.vswitch().await;
    vswitch.ensure_bridge(&dummy_bridge("br-int")).await.unwrap();
    vswitch.wait_applied(LIMIT).await.unwrap();
    fixture.ovs.kill_vswitchd().unwrap();
    vswitch.add_port(&dummy_port("p1")).await.unwrap();
    let short = vswitch.wait_ofport("p1", Duration::from_millis(100)).await;
    assert!(matches!(short, Err(VswitchError::Ovsdb { .. })), "{short:?}");
    let short = vswitch.wait_applied(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(short.to_string(), "ovs-vswitchd: no reaction of ovs-vswitchd within 100ms");
    fixture.ovs.start_vswitchd().unwrap();
    vswitch.wait_ofport("p1", LIMIT).await.unwrap();
}
