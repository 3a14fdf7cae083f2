//! Review H1: whoever reaches the port cannot keep probes, watches and metrics from being answered.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "a test from top to bottom")]

#[allow(dead_code, reason = "each suite uses a part")]
mod common;

use std::{sync::Arc, time::Duration};

use apiserver_kit::{hub::Delta, serve::Limits};
use bytes::Bytes;
use common::{Change, Connection, TOKEN, World, group};
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

/// Few and short, so that a test sees them.
const FEW: Limits = Limits {
    known: 16,
    known_per_address: 8,
    strangers: 8,
    strangers_per_address: 8,
    own: 4,
    handshake: Duration::from_secs(1),
    first_request: Duration::from_secs(2),
    idle: Duration::from_secs(2),
};

/// When hostile connections have to be gone: the deadline, and time for a busy machine.
const GONE: Duration = Duration::from_secs(6);

const ATTACKER: [u8; 4] = [127, 0, 0, 66];
const PEER: [u8; 4] = [127, 0, 0, 7];
const NODE: [u8; 4] = [127, 0, 0, 1];

type Raw = TlsStream<TcpStream>;

/// Resolves when the other side has closed.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

/// Whether `from` is answered on a connection of its own, as a probe would be.
async fn probe(world: &World, from: [u8; 4]) {
    let asked = async {
        let mut stream = world.tls_from(from, "http/1.1", None).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        assert!(text.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&text));
    };
    timeout(Duration::from_secs(2), asked).await.unwrap_or_else(|_| panic!("{from:?} is not answered"));
}

async fn all_are_closed(streams: Vec<impl AsyncRead + Unpin>) {
    let begin = Instant::now();
    for mut stream in streams {
        timeout(GONE.saturating_sub(begin.elapsed()), closed(&mut stream)).await.expect("held for ever");
    }
}

async fn h2(stream: Raw) -> (Connection, tokio::task::JoinHandle<()>) {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(100))
        .keep_alive_while_idle(true)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    (Connection { sender }, tokio::spawn(async move { drop(connection.await) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_after_tcp_or_tls_holds_nobody_up() {
    let world = World::limited(FEW).await;
    let mut silent = Vec::new();
    for _ in 0..4 * FEW.strangers {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((ATTACKER, 0).into()).unwrap();
        silent.push(socket.connect((NODE, world.port).into()).await.unwrap());
    }
    probe(&world, NODE).await;
    probe(&world, PEER).await;
    all_are_closed(silent).await;

    // Fewer than there may be, so that nobody has to make room: only time ends them.
    let mut silent = Vec::new();
    for protocol in ["h2", "http/1.1"] {
        for _ in 0..FEW.strangers / 2 - 1 {
            silent.push(world.tls_from(ATTACKER, protocol, None).await.unwrap());
        }
    }
    probe(&world, NODE).await;
    probe(&world, PEER).await;
    all_are_closed(silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_that_only_answers_pings_ends() {
    let world = World::limited(FEW).await;
    let mut held = Vec::new();
    for _ in 0..FEW.strangers {
        held.push(h2(world.tls_from(ATTACKER, "h2", None).await.unwrap()).await);
    }
    // Nor does asking what everybody may ask, or being refused, make somebody of a stranger.
    for (connection, _) in &mut held {
        assert_eq!(connection.get("/healthz", &[]).await.0, 200);
        assert_eq!(connection.get("/version", &[("authorization", "Bearer x")]).await.0, 401);
        assert_eq!(connection.get("/version", &[("authorization", "Bearer nobody-token")]).await.0, 403);
    }
    probe(&world, NODE).await;
    probe(&world, PEER).await;
    for (_, task) in held {
        timeout(GONE, task).await.expect("held for ever").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_end() {
    let world = World::limited(FEW).await;
    let mut slow = Vec::new();
    for _ in 0..FEW.strangers {
        let (read, mut write) = tokio::io::split(world.tls_from(ATTACKER, "http/1.1", None).await.unwrap());
        tokio::spawn(async move {
            let mut text = b"GET /livez HTTP/1.1\r\nx: ".to_vec();
            while write.write_all(&text).await.is_ok() && write.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                text = b"a".to_vec();
            }
        });
        slow.push(read);
    }
    probe(&world, NODE).await;
    probe(&world, PEER).await;
    all_are_closed(slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_stays_and_idleness_ends() {
    let world = World::limited(FEW).await;
    let (mut watcher, watching) = h2(world.tls_from(PEER, "h2", None).await.unwrap()).await;
    let path = "/apis/controlplane.antrea.io/v1beta2/addressgroups?watch=true";
    let mut events = watcher.send(Method::GET, path, &[TOKEN], "").await.unwrap().into_body();
    events.frame().await.unwrap().unwrap();
    let (mut idle, idling) = h2(world.tls_from(PEER, "h2", None).await.unwrap()).await;
    assert_eq!(idle.get("/version", &[TOKEN]).await.0, 200);
    timeout(FEW.idle + GONE, idling).await.expect("held for ever").unwrap();
    tokio::time::sleep(FEW.idle).await;
    assert!(!watching.is_finished());
    world.hub.update(|groups, routes| {
        groups.push(group("late", 1));
        let delta = Delta::Created { span: &[] };
        routes.publish(0, "late", delta, &mut Change(group("late", 1)));
    });
    let event = timeout(GONE, events.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&event).contains("late"));
}

/// Requests that wait for an answer about a token pile up on no connection.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_strangers_wait_in_a_short_queue() {
    let world = World::new().await;
    let (connection, _task) = h2(world.tls_from(ATTACKER, "h2", None).await.unwrap()).await;
    let all = (0..200).map(|_| {
        let mut connection = connection.clone();
        async move { connection.get("/version", &[("authorization", "Bearer slow-token")]).await.0.as_u16() }
    });
    let mut answers: futures::stream::FuturesUnordered<_> = all.collect();
    let mut refused = 0;
    while let Ok(Some(code)) = timeout(Duration::from_secs(1), futures::StreamExt::next(&mut answers)).await {
        assert_eq!(code, 429);
        refused += 1;
    }
    assert_eq!(refused, 184);
    let (mut agent, _task) = h2(world.tls_from(PEER, "h2", None).await.unwrap()).await;
    assert_eq!(agent.get("/version", &[TOKEN]).await.0, 200);
}

/// Thousands of connections, from one address and from many, against the controller's limits.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_costs_nobody_else_his_turn() {
    let world = Arc::new(World::new().await);
    let (mut watcher, watching) = h2(world.tls_from(PEER, "h2", None).await.unwrap()).await;
    let path = "/apis/controlplane.antrea.io/v1beta2/addressgroups?watch=true";
    let mut events = watcher.send(Method::GET, path, &[TOKEN], "").await.unwrap().into_body();
    events.frame().await.unwrap().unwrap();

    let mut crowd = tokio::task::JoinSet::new();
    for host in 0..24_u8 {
        let world = Arc::clone(&world);
        crowd.spawn(async move {
            let mut held = Vec::new();
            for _ in 0..if host == 0 { 600 } else { 60 } {
                held.extend(world.tls_from([127, 0, 1, host], "h2", None).await);
            }
            held
        });
    }
    for _ in 0..10 {
        probe(&world, NODE).await;
        probe(&world, PEER).await;
    }
    let mut held = crowd.join_all().await;
    assert!(held.iter().map(Vec::len).sum::<usize>() >= 1900);
    // Of the greediest address only its share is still there.
    held.sort_by_key(Vec::len);
    let mut open = 0;
    for stream in held.last_mut().unwrap() {
        let closed = timeout(Duration::from_millis(20), closed(stream)).await.is_ok();
        open += usize::from(!closed);
    }
    let share = Limits::CLUSTER.strangers_per_address;
    assert!((1..=share).contains(&open), "{open} of 600 connections of one address");
    let (mut agent, _task) = h2(world.tls_from([127, 0, 0, 8], "h2", None).await.unwrap()).await;
    assert_eq!(agent.get("/metrics", &[TOKEN]).await.0, 200);
    probe(&world, NODE).await;
    world.hub.update(|groups, routes| {
        groups.push(group("late", 1));
        let delta = Delta::Created { span: &[] };
        routes.publish(0, "late", delta, &mut Change(group("late", 1)));
    });
    assert!(timeout(GONE, events.frame()).await.unwrap().unwrap().is_ok() && !watching.is_finished());
}
