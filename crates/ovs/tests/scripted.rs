//! The session against a scripted server: what a real one does not do on demand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may stop")]

mod common;

use std::{io, time::Duration};

use common::LIMIT;
use ovs::{
    OvsdbError, Session, SessionConfig,
    backoff::BackoffConfig,
    db::{Connect, MonitorMethod, MonitoredTable, SessionState, Transaction, frame::Framer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// Hands the far end of each connection to the script.
struct Pipes(mpsc::UnboundedSender<Server>);

impl Connect for Pipes {
    type Io = DuplexStream;

    async fn connect(&mut self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(4096);
        self.0.send(Server { io: far, framer: Framer::default() }).map_err(io::Error::other)?;
        Ok(near)
    }
}

struct Server {
    io: DuplexStream,
    framer: Framer,
}

impl Server {
    async fn receive(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.framer.next_message().unwrap() {
                return Some(serde_json::from_slice(&message).unwrap());
            }
            if self.io.read_buf(self.framer.buffer()).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn expect(&mut self, method: &str) -> Value {
        let message = tokio::time::timeout(LIMIT, self.receive()).await.unwrap().unwrap();
        assert_eq!(message["method"], method, "{message}");
        message
    }

    async fn send(&mut self, message: Value) {
        self.io.write_all(message.to_string().as_bytes()).await.unwrap();
    }

    async fn reply(&mut self, request: &Value, result: Value) {
        self.send(json!({ "id": request["id"], "result": result, "error": null })).await;
    }

    async fn refuse(&mut self, request: &Value, error: Value) {
        self.send(json!({ "id": request["id"], "result": null, "error": error })).await;
    }

    async fn schema(&mut self) {
        let request = self.expect("get_schema").await;
        assert_eq!(request["params"], json!(["D"]));
        let schema = json!({ "name": "D", "version": "1.0.0", "cksum": "1 2",
            "tables": { "T": { "columns": { "name": { "type": "string" } } } } });
        self.reply(&request, schema).await;
    }

    async fn handshake(&mut self, rows: Value) {
        self.schema().await;
        let request = self.expect("monitor_cond_since").await;
        self.reply(&request, json!([false, uuid(1), rows])).await;
    }
}

fn uuid(n: u8) -> String {
    format!("00000000-0000-0000-0000-0000000000{n:02}")
}

fn spawn(
    change: impl FnOnce(&mut SessionConfig),
) -> (Session, mpsc::UnboundedReceiver<Server>, CancellationToken) {
    let mut config = SessionConfig::new(
        "D",
        vec![MonitoredTable { table: "T".to_owned(), columns: Vec::new(), optional: Vec::new() }],
    );
    config.backoff = BackoffConfig { first: Duration::from_millis(5), max: Duration::from_millis(20) };
    change(&mut config);
    let (pipes, servers) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let (session, _) = Session::spawn(Pipes(pipes), config, cancel.clone());
    (session, servers, cancel)
}

fn names(session: &Session) -> Vec<String> {
    let mut names: Vec<String> = session
        .read(|cache| cache.table("T").rows().map(|row| row.str("name").unwrap().to_owned()).collect());
    names.sort();
    names
}

async fn wait_names(session: &Session, expected: &[&str]) {
    let _ = session
        .wait_cache("rows", Duration::from_secs(5), |cache| {
            (cache.table("T").len() == expected.len()
                && expected.iter().all(|name| cache.table("T").named(name).is_some()))
            .then_some(())
        })
        .await;
    assert_eq!(names(session), expected);
}

#[tokio::test]
async fn falls_back_to_older_monitors() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    server.schema().await;
    for method in ["monitor_cond_since", "monitor_cond"] {
        let request = server.expect(method).await;
        server.refuse(&request, json!("unknown method")).await;
    }
    let request = server.expect("monitor").await;
    assert_eq!(request["params"], json!(["D", "cache", { "T": [{ "columns": ["name"] }] }]));
    server.reply(&request, json!({ "T": { uuid(2): { "new": { "name": "a" } } } })).await;
    session.wait_synced(LIMIT).await.unwrap();
    assert!(matches!(*session.state().borrow(), SessionState::Synced { monitor: MonitorMethod::Plain, .. }));
    let update = json!({ "T": { uuid(3): { "new": { "name": "b" } } } });
    server.send(json!({ "id": null, "method": "update", "params": ["cache", update] })).await;
    wait_names(&session, &["a", "b"]).await;
}

#[tokio::test]
async fn resumes_from_the_last_transaction() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    server.handshake(json!({ "T": { uuid(2): { "initial": { "name": "a" } } } })).await;
    wait_names(&session, &["a"]).await;
    // Two messages in one write, split at will by the pipe.
    let update = |txn: u8, rows: Value| {
        json!({ "id": null, "method": "update3", "params": ["cache", uuid(txn), { "T": rows }] }).to_string()
    };
    let both = update(10, json!({ uuid(3): { "insert": { "name": "b" } } }))
        + &update(11, json!({ uuid(3): { "modify": { "name": "b\"}" } } }));
    server.io.write_all(both.as_bytes()).await.unwrap();
    wait_names(&session, &["a", "b\"}"]).await;
    drop(server);

    let mut server = servers.recv().await.unwrap();
    server.schema().await;
    let request = server.expect("monitor_cond_since").await;
    assert_eq!(request["params"][3], uuid(11));
    server.reply(&request, json!([true, uuid(12), { "T": { uuid(2): { "delete": null } } }])).await;
    wait_names(&session, &["b\"}"]).await;
    assert!(matches!(*session.state().borrow(), SessionState::Synced { generation: 2, resumed: true, .. }));
    drop(server);

    // History lost: the full content replaces the cache, and subscribers hear of the difference only.
    let mut told = session.subscribe();
    let mut server = servers.recv().await.unwrap();
    server.schema().await;
    let request = server.expect("monitor_cond_since").await;
    assert_eq!(request["params"][3], uuid(12));
    let rows = json!({ uuid(3): { "initial": { "name": "b\"}" } }, uuid(4): { "initial": { "name": "c" } } });
    server.reply(&request, json!([false, uuid(20), { "T": rows }])).await;
    wait_names(&session, &["b\"}", "c"]).await;
    let changes = told.recv().await.unwrap();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].old.is_none());
}

/// What is read together with the monitor's reply came after it, and counts after it: with the whole content, and with the
/// difference to what is known.
#[tokio::test]
async fn an_update_behind_the_monitors_reply_is_kept() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    server.handshake(json!({ "T": { uuid(2): { "initial": { "name": "a" } } } })).await;
    wait_names(&session, &["a"]).await;
    drop(server);

    for (found, txn, before, rows) in [
        (false, 20, uuid(1), json!({ uuid(2): { "initial": { "name": "b" } } })),
        (true, 30, uuid(21), json!({ uuid(2): { "modify": { "name": "c" } } })),
    ] {
        let mut server = servers.recv().await.unwrap();
        server.schema().await;
        let request = server.expect("monitor_cond_since").await;
        assert_eq!(request["params"][3], before);
        let reply =
            json!({ "id": request["id"], "error": null, "result": [found, uuid(txn), { "T": rows }] });
        let rows = json!({ uuid(2): { "modify": { "name": format!("after {txn}") } } });
        let update =
            json!({ "id": null, "method": "update3", "params": ["cache", uuid(txn + 1), { "T": rows }] });
        server.io.write_all(format!("{reply}{update}").as_bytes()).await.unwrap();
        wait_names(&session, &[&format!("after {txn}")]).await;
    }
    let mut server = servers.recv().await.unwrap();
    server.schema().await;
    assert_eq!(server.expect("monitor_cond_since").await["params"][3], uuid(31));
}

#[tokio::test]
async fn an_update_that_does_not_fit_leads_to_a_full_load() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    server.handshake(json!({ "T": { uuid(2): { "initial": { "name": "a" } } } })).await;
    session.wait_synced(LIMIT).await.unwrap();
    let update = json!({ "T": { uuid(9): { "modify": { "name": "x" } } } });
    server.send(json!({ "id": null, "method": "update3", "params": ["cache", uuid(5), update] })).await;
    assert!(server.receive().await.is_none(), "the connection must be dropped");

    let mut server = servers.recv().await.unwrap();
    server.schema().await;
    let request = server.expect("monitor_cond_since").await;
    assert_eq!(request["params"][3], uuid(0));
    server
        .reply(&request, json!([false, uuid(6), { "T": { uuid(9): { "initial": { "name": "x" } } } }]))
        .await;
    wait_names(&session, &["x"]).await;
}

#[tokio::test]
async fn answers_echo_and_unknown_requests() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    server.handshake(json!({})).await;
    session.wait_synced(LIMIT).await.unwrap();
    server.send(json!({ "id": "echo", "method": "echo", "params": [] })).await;
    assert_eq!(server.receive().await.unwrap(), json!({ "id": "echo", "result": [], "error": null }));
    server.send(json!({ "id": 5, "method": "steal", "params": [] })).await;
    assert_eq!(
        server.receive().await.unwrap(),
        json!({ "id": 5, "result": null, "error": "unknown method" })
    );
}

#[tokio::test]
async fn a_silent_server_is_probed_and_left() {
    let (session, mut servers, _cancel) = spawn(|config| config.probe_interval = Duration::from_millis(100));
    let mut server = servers.recv().await.unwrap();
    server.handshake(json!({})).await;
    session.wait_synced(LIMIT).await.unwrap();
    // An answered probe keeps the connection, an unanswered one does not.
    for _ in 0..3 {
        let probe = server.expect("echo").await;
        server.reply(&probe, json!([])).await;
    }
    server.expect("echo").await;
    assert!(tokio::time::timeout(LIMIT, server.receive()).await.unwrap().is_none());
    servers.recv().await.unwrap();
}

#[tokio::test]
async fn a_lost_request_is_said_to_be_of_unknown_outcome() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    server.handshake(json!({})).await;
    session.wait_synced(LIMIT).await.unwrap();
    let mut txn = Transaction::new();
    txn.comment("x");
    let (outcome, ()) = tokio::join!(session.transact(&txn), async {
        server.expect("transact").await;
        drop(server);
    });
    assert!(matches!(outcome, Err(OvsdbError::ConnectionLost(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_times_out() {
    let (session, mut servers, _cancel) = spawn(|config| {
        config.handshake_timeout = Duration::from_millis(100);
        config.request_timeout = Duration::from_millis(100);
    });
    let silent = servers.recv().await.unwrap();
    let mut server = servers.recv().await.unwrap();
    drop(silent);
    server.handshake(json!({})).await;
    session.wait_synced(LIMIT).await.unwrap();
    assert!(matches!(session.transact(&Transaction::new()).await, Err(OvsdbError::Timeout { .. })));
}

#[tokio::test]
async fn garbage_and_oversize_messages_drop_the_connection() {
    for garbage in [&b"hello"[..], b"{\"id\":}", br#"{"id":"nobody","result":1}"#, &[b'{'; 5000]] {
        let (session, mut servers, _cancel) = spawn(|config| config.max_message = 4000);
        let mut server = servers.recv().await.unwrap();
        server.handshake(json!({})).await;
        session.wait_synced(LIMIT).await.unwrap();
        let _ = server.io.write_all(garbage).await;
        let mut state = session.state();
        tokio::time::timeout(LIMIT, state.wait_for(|state| !state.is_synced())).await.unwrap().unwrap();
        let mut server = servers.recv().await.unwrap();
        server.handshake(json!({})).await;
        session.wait_synced(LIMIT).await.unwrap();
    }
}

#[tokio::test]
async fn a_schema_without_the_table_is_reported() {
    let (session, mut servers, _cancel) = spawn(|_| {});
    let mut server = servers.recv().await.unwrap();
    let request = server.expect("get_schema").await;
    server.reply(&request, json!({ "name": "D", "version": "1", "cksum": "", "tables": {} })).await;
    let _next = servers.recv().await.unwrap();
    let error = session.wait_synced(Duration::from_millis(1)).await.unwrap_err();
    assert!(error.to_string().contains("no table T"), "{error}");
}
