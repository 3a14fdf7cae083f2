//! The session against a real ovsdb-server: cache against `ovsdb-client dump`, errors, restarts.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may stop")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{LIMIT, start, whole};
use ovs::{
    OvsdbError, Session,
    db::{Atom, Cache, Changes, Datum, MonitorMethod, Mutator, RowId, SessionState, Transaction, Where},
    testing::TestOvs,
};
use serde_json::Value;
use uuid::Uuid;

const TABLES: [&str; 7] = ["Open_vSwitch", "Bridge", "Port", "Interface", "Flow_Table", "Mirror", "QoS"];

type Dump = BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>>;

/// Sets and maps compare by content.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(tag), Value::Array(elements)] if tag == "set" || tag == "map" => {
                let mut elements = elements.clone();
                elements.sort_by_key(Value::to_string);
                serde_json::json!([tag, elements])
            }
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

fn server_dump(ovs: &TestOvs) -> Dump {
    TABLES
        .iter()
        .map(|table| {
            let output = ovs
                .command("ovsdb-client")
                .args(["-f", "json", "-d", "json", "dump"])
                .arg(format!("unix:{}", ovs.db_sock().display()))
                .args(["Open_vSwitch", table])
                .output()
                .unwrap();
            let json: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
            let headings: Vec<&str> =
                json["headings"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
            let rows = json["data"].as_array().unwrap().iter().map(|row| {
                let mut columns: BTreeMap<String, Value> = headings
                    .iter()
                    .zip(row.as_array().unwrap())
                    .map(|(name, value)| ((*name).to_owned(), canonical(value)))
                    .collect();
                let uuid = columns.remove("_uuid").unwrap()[1].as_str().unwrap().to_owned();
                columns.remove("_version");
                (uuid, columns)
            });
            ((*table).to_owned(), rows.collect())
        })
        .collect()
}

fn cache_dump(cache: &Cache, like: &Dump) -> Dump {
    TABLES
        .iter()
        .map(|table| {
            let columns: Vec<String> =
                like[*table].values().next().map(|row| row.keys().cloned().collect()).unwrap_or_default();
            let rows = cache.table(table).rows().map(|row| {
                let values = columns
                    .iter()
                    .map(|column| (column.clone(), canonical(&row.get(column).unwrap().to_json())))
                    .collect();
                (row.uuid().to_string(), values)
            });
            ((*table).to_owned(), rows.collect())
        })
        .collect()
}

/// Waits for the cache to become what the server dumps; compares in the end so that a failure shows the difference.
async fn assert_same(session: &Session, ovs: &TestOvs) {
    let dump = server_dump(ovs);
    let _ = session
        .wait_cache("equality", Duration::from_secs(5), |cache| {
            (cache_dump(cache, &dump) == dump).then_some(())
        })
        .await;
    assert_eq!(session.read(|cache| cache_dump(cache, &dump)), dump);
}

/// Small deterministic generator (xorshift): the run can be repeated from its seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pairs(&mut self) -> Datum {
        let count = self.below(4);
        Datum::map((0..count).map(|_| {
            let key = format!("k{}", self.below(5));
            (key, ["", "v", "a\"b\\c", "\u{e9}\n{[", "w"][self.below(5)])
        }))
    }
}

fn root(session: &Session) -> Uuid {
    session.read(|cache| cache.table("Open_vSwitch").rows().next().unwrap().uuid())
}

fn insert_bridge(txn: &mut Transaction, root: Uuid, name: &str) -> RowId {
    let iface = txn.insert("Interface", [("name", name.into())]);
    let port = txn.insert("Port", [("name", name.into()), ("interfaces", Datum::set([&iface]))]);
    let bridge = txn.insert("Bridge", [("name", name.into()), ("ports", Datum::set([&port]))]);
    txn.mutate("Open_vSwitch", Where::row(root), [("bridges", Mutator::Insert, Datum::set([&bridge]))]);
    bridge
}

/// A few random operations of all kinds on what the cache holds.
fn random_txn(rng: &mut Rng, cache: &Cache, root: Uuid, step: usize) -> Transaction {
    let mut txn = Transaction::new();
    let mut bridges: Vec<Uuid> = cache.table("Bridge").rows().map(|row| row.uuid()).collect();
    bridges.sort();
    if bridges.len() < 4 {
        insert_bridge(&mut txn, root, &format!("br{step}"));
        return txn;
    }
    let bridge = bridges[rng.below(bridges.len())];
    let ports: Vec<Uuid> = cache.table("Bridge").get(bridge).unwrap().uuids("ports").collect();
    match rng.below(9) {
        0 => drop(insert_bridge(&mut txn, root, &format!("br{step}"))),
        1 if bridges.len() > 5 => {
            txn.mutate("Open_vSwitch", Where::row(root), [("bridges", Mutator::Delete, Datum::from(bridge))])
        }
        2 | 3 => {
            for n in 0..=rng.below(3) {
                let name = format!("p{step}x{n}");
                let iface = txn.insert(
                    "Interface",
                    [("name", name.as_str().into()), ("options", rng.pairs()), ("external_ids", rng.pairs())],
                );
                let port = txn.insert(
                    "Port",
                    [
                        ("name", name.as_str().into()),
                        ("interfaces", Datum::set([&iface])),
                        (
                            "trunks",
                            Datum::set(
                                (0..rng.below(4))
                                    .map(|_| rng.below(9))
                                    .map(|n| i64::try_from(n).unwrap())
                                    .collect::<Vec<_>>(),
                            ),
                        ),
                    ],
                );
                txn.mutate("Bridge", Where::row(bridge), [("ports", Mutator::Insert, Datum::set([&port]))]);
            }
        }
        4 if ports.len() > 1 => txn.mutate(
            "Bridge",
            Where::row(bridge),
            [("ports", Mutator::Delete, Datum::from(ports[rng.below(ports.len())]))],
        ),
        5 => {
            let tag: Option<i64> = [None, Some(1), Some(4095)][rng.below(3)];
            let port = ports[rng.below(ports.len())];
            txn.update("Port", Where::row(port), [("tag", Datum::set(tag)), ("external_ids", rng.pairs())]);
            txn.mutate("Port", Where::row(port), [("trunks", Mutator::Insert, Datum::set([7, 8]))]);
        }
        6 => {
            let table = txn.insert("Flow_Table", [("name", format!("t{step}").into())]);
            let number = Atom::from(i64::try_from(rng.below(3)).unwrap());
            txn.mutate(
                "Bridge",
                Where::row(bridge),
                [("flow_tables", Mutator::Delete, Datum::Set(vec![number.clone()]))],
            );
            txn.mutate(
                "Bridge",
                Where::row(bridge),
                [("flow_tables", Mutator::Insert, Datum::Map(vec![(number, (&table).into())]))],
            );
        }
        7 => txn.update(
            "Bridge",
            Where::row(bridge),
            [("other_config", rng.pairs()), ("fail_mode", Datum::set([None, Some("secure")][rng.below(2)]))],
        ),
        _ => {
            txn.mutate(
                "Open_vSwitch",
                Where::row(root),
                [("next_cfg", Mutator::Add, 3.into()), ("external_ids", Mutator::Insert, rng.pairs())],
            );
            txn.insert("QoS", [("type", "x".into()), ("other_config", rng.pairs())]);
        }
    }
    txn
}

async fn follow_random_transactions(newest: MonitorMethod) {
    let fixture = start(false);
    let mut config = whole(&TABLES);
    config.newest_monitor = newest;
    let session = fixture.session(config.clone()).await;
    // A second session reads what the first one writes and the other way round.
    let other = fixture.session(config).await;
    let SessionState::Synced { monitor, .. } = session.state().borrow().clone() else { panic!("not synced") };
    assert_eq!(monitor, newest);

    // The changes told to a subscriber add up to the cache.
    let mut told = session.subscribe();
    let mut replica: BTreeMap<Uuid, Arc<ovs::db::Row>> = session.read(|cache| {
        TABLES.iter().flat_map(|t| cache.table(t).rows()).map(|row| (row.uuid(), row.clone())).collect()
    });
    let root = root(&session);
    let mut rng = Rng(0x5eed + newest as u64);
    let mut committed = 0;
    for step in 0..150 {
        let writer = if step % 2 == 0 { &session } else { &other };
        let txn = writer.read(|cache| random_txn(&mut rng, cache, root, step));
        match writer.transact(&txn).await {
            Ok(_) => committed += 1,
            // The writer's cache may be behind the other session's writes.
            Err(OvsdbError::Operation(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if step % 30 == 29 {
            assert_same(&session, &fixture.ovs).await;
            assert_same(&other, &fixture.ovs).await;
        }
    }
    assert!(committed > 100, "only {committed} transactions were accepted");
    while let Ok(changes) = told.try_recv() {
        for change in changes.iter() {
            match &change.new {
                Some(row) => replica.insert(row.uuid(), row.clone()),
                None => replica.remove(&change.old.as_ref().unwrap().uuid()),
            };
        }
    }
    session.read(|cache| {
        let rows: BTreeMap<Uuid, Arc<ovs::db::Row>> =
            TABLES.iter().flat_map(|t| cache.table(t).rows()).map(|row| (row.uuid(), row.clone())).collect();
        assert_eq!(replica, rows);
    });
}

#[tokio::test]
async fn cache_equals_dump_with_monitor_cond_since() {
    follow_random_transactions(MonitorMethod::CondSince).await;
}

#[tokio::test]
async fn cache_equals_dump_with_monitor_cond() {
    follow_random_transactions(MonitorMethod::Cond).await;
}

#[tokio::test]
async fn cache_equals_dump_with_monitor() {
    follow_random_transactions(MonitorMethod::Plain).await;
}

#[tokio::test]
async fn big_strings_with_escapes_survive() {
    let fixture = start(false);
    let session = fixture.session(whole(&TABLES)).await;
    let root = root(&session);
    let big = "\"}\\{[\u{1f600}\u{e9}\n\t]".repeat(200_000);
    let mut txn = Transaction::new();
    txn.mutate(
        "Open_vSwitch",
        Where::row(root),
        [("external_ids", Mutator::Insert, Datum::map([("big", big.as_str()), ("tail\\", "\\\"")]))],
    );
    session.transact(&txn).await.unwrap();
    let found = session
        .wait_cache("big string", LIMIT, |cache| {
            let map = cache.table("Open_vSwitch").get(root)?.string_map("external_ids");
            map.contains_key("big").then_some(map)
        })
        .await
        .unwrap();
    assert!(found["big"] == big, "{} bytes came back of {}", found["big"].len(), big.len());
    assert_eq!(found["tail\\"], "\\\"");
    // A select brings it back in a reply, and the connection still works.
    let mut txn = Transaction::new();
    let at = txn.select("Open_vSwitch", Where::row(root), &["external_ids"]);
    let reply = session.transact(&txn).await.unwrap();
    assert!(reply.rows(at)[0].to_string().len() > big.len());
}

fn op_error(error: OvsdbError) -> ovs::db::OpError {
    match error {
        OvsdbError::Operation(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn errors_name_the_operation_at_fault() {
    let fixture = start(false);
    let session = fixture.session(whole(&TABLES)).await;
    let root = root(&session);

    // Unknown column, in the second operation.
    let mut txn = Transaction::new();
    txn.comment("first");
    txn.update("Open_vSwitch", Where::row(root), [("nonsense", 1.into())]);
    txn.comment("third");
    let error = op_error(session.transact(&txn).await.unwrap_err());
    assert_eq!((error.index, error.op), (Some(1), format!("update Open_vSwitch {root}")));
    assert!(error.details.contains("nonsense"), "{}", error.details);

    // A value outside of the column's range.
    let mut txn = Transaction::new();
    txn.insert("Port", [("name", "p".into()), ("tag", Datum::from(5000))]);
    let error = op_error(session.transact(&txn).await.unwrap_err());
    assert_eq!(
        (error.index, error.op.as_str(), error.error.as_str()),
        (Some(0), "insert Port p", "constraint violation")
    );

    // Two rows of one name: found at commit only.
    let mut txn = Transaction::new();
    insert_bridge(&mut txn, root, "twice");
    session.transact(&txn).await.unwrap();
    let mut txn = Transaction::new();
    txn.comment("shift the positions");
    insert_bridge(&mut txn, root, "twice");
    let error = op_error(session.transact(&txn).await.unwrap_err());
    assert_eq!(error.error, "constraint violation");
    assert!(error.index.is_some_and(|index| (1..=3).contains(&index)), "{error}");
    assert!(error.op.ends_with(" twice"), "{error}");

    // A reference to a row that does not exist.
    let mut txn = Transaction::new();
    let absent = Uuid::new_v4();
    txn.mutate("Open_vSwitch", Where::row(root), [("bridges", Mutator::Insert, Datum::from(absent))]);
    let error = op_error(session.transact(&txn).await.unwrap_err());
    assert_eq!(error.error, "referential integrity violation");
    assert_eq!(error.op, format!("mutate Open_vSwitch {root}"), "{error}");

    // A wait that fails, and one that holds.
    let mut txn = Transaction::new();
    txn.wait_exists("Open_vSwitch", root);
    session.transact(&txn).await.unwrap();
    let mut txn = Transaction::new();
    txn.wait_exists("Open_vSwitch", absent);
    let error = session.transact(&txn).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(op_error(error).op, format!("wait Open_vSwitch {absent}"));
}

#[tokio::test]
async fn survives_kill_and_restart_of_the_server() {
    let mut fixture = start(false);
    let session = fixture.session(whole(&TABLES)).await;
    let root = root(&session);
    let mut txn = Transaction::new();
    insert_bridge(&mut txn, root, "before");
    session.transact(&txn).await.unwrap();
    assert_same(&session, &fixture.ovs).await;
    let mut told = session.subscribe();
    let mut state = session.state();

    for round in 0..3 {
        fixture.ovs.kill_db().unwrap();
        tokio::time::timeout(LIMIT, state.wait_for(|state| !state.is_synced())).await.unwrap().unwrap();
        assert!(!*session.connected().borrow());
        // Nothing is queued for later.
        assert!(matches!(session.transact(&txn).await, Err(OvsdbError::NotConnected(_))));
        // The stale cache can still be read.
        assert!(session.read(|cache| cache.table("Bridge").named("before").is_some()));

        // Another client changes the database while we are away.
        fixture.ovs.start_db().unwrap();
        fixture.ovs.vsctl(&["--no-wait", "add-br", &format!("during{round}")]).unwrap();
        session.wait_synced(LIMIT).await.unwrap();
        assert_same(&session, &fixture.ovs).await;
    }
    let SessionState::Synced { generation, .. } = *session.state().borrow() else { panic!("not synced") };
    assert!(generation >= 4);

    // Only the differences were told: nothing about the bridge that did not change.
    let mut inserted = Vec::new();
    while let Ok(changes) = told.try_recv() {
        let changes: &Changes = &changes;
        for change in changes.iter().filter(|change| &*change.table == "Bridge") {
            assert!(change.old.is_none());
            inserted.push(change.new.as_ref().unwrap().str("name").unwrap().to_owned());
        }
    }
    inserted.sort();
    assert_eq!(inserted, ["during0", "during1", "during2"]);
}

#[tokio::test]
async fn many_transactions_at_once() {
    let fixture = start(false);
    let session = fixture.session(whole(&["Open_vSwitch"])).await;
    let root = root(&session);
    let tasks: Vec<_> = (0..2000)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                let mut txn = Transaction::new();
                txn.mutate("Open_vSwitch", Where::row(root), [("next_cfg", Mutator::Add, 1.into())]);
                session.transact(&txn).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    session
        .wait_cache("sum", LIMIT, |cache| {
            (cache.table("Open_vSwitch").get(root)?.int("next_cfg") == Some(2000)).then_some(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_task_ends_with_its_token() {
    let fixture = start(false);
    let (session, task) =
        Session::spawn(ovs::db::UnixConnector(fixture.ovs.db_sock()), whole(&TABLES), fixture.cancel.clone());
    session.wait_synced(LIMIT).await.unwrap();
    fixture.cancel.cancel();
    tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();
    assert!(matches!(
        session.transact(&Transaction::new()).await,
        Err(OvsdbError::NotConnected(_) | OvsdbError::Closed)
    ));
    assert!(matches!(session.wait_cache("x", LIMIT, |_| None::<()>).await, Err(OvsdbError::Closed)));
}
