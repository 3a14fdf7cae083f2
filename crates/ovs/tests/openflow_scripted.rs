//! The OpenFlow session against a scripted bridge: what a real one does not do on demand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may stop")]

mod common;

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use common::LIMIT;
use openflow::{
    BundleControl, BundleCtrlType, BundleFlags, Features, Flow, FlowMod, Message, Xid,
    multipart::{FlowFilter, FlowStats, MultipartReply, MultipartRequest, TableStats},
};
use ovs::{OfConfig, OfError, OfHandle, OfSession, OfState, backoff::BackoffConfig, connect::Connect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// Bytes the pipe holds: far fewer than a bundle.
const PIPE: usize = 4096;

struct Pipes(mpsc::UnboundedSender<Bridge>);

impl Connect for Pipes {
    type Io = DuplexStream;

    async fn connect(&mut self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(PIPE);
        self.0.send(Bridge { io: far, input: BytesMut::new() }).map_err(io::Error::other)?;
        Ok(near)
    }
}

struct Bridge {
    io: DuplexStream,
    input: BytesMut,
}

impl Bridge {
    async fn receive(&mut self) -> Option<(Xid, Message)> {
        loop {
            if let Some(message) = Message::decode(&mut self.input).unwrap() {
                return Some(message);
            }
            if self.io.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn expect(&mut self) -> (Xid, Message) {
        tokio::time::timeout(LIMIT, self.receive()).await.unwrap().unwrap()
    }

    async fn send(&mut self, xid: Xid, message: Message) {
        let mut out = BytesMut::new();
        message.encode(xid, &mut out).unwrap();
        self.io.write_all(&out).await.unwrap();
    }

    async fn greet(&mut self) {
        let (xid, hello) = self.expect().await;
        assert_eq!(hello, Message::Hello { versions: 1 << 6 });
        self.send(xid, Message::Hello { versions: 1 << 6 }).await;
        loop {
            match self.expect().await {
                (xid, Message::FeaturesRequest) => {
                    let features = Features {
                        datapath_id: 42,
                        n_buffers: 0,
                        n_tables: 254,
                        auxiliary_id: 0,
                        capabilities: 0,
                    };
                    self.send(xid, Message::FeaturesReply(features)).await;
                }
                (xid, Message::BarrierRequest) => return self.send(xid, Message::BarrierReply).await,
                _ => {}
            }
        }
    }

    async fn control(&mut self, xid: Xid, request: BundleControl, kind: BundleCtrlType) {
        self.send(xid, Message::BundleControl(BundleControl { kind, ..request })).await;
    }
}

fn spawn(
    change: impl FnOnce(&mut OfConfig),
) -> (OfHandle, mpsc::UnboundedReceiver<Bridge>, CancellationToken) {
    let mut config = OfConfig {
        backoff: BackoffConfig { first: Duration::from_millis(5), max: Duration::from_millis(20) },
        ..OfConfig::default()
    };
    change(&mut config);
    let (pipes, bridges) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let (of, _) = OfSession::spawn_with(Pipes(pipes), config, cancel.clone());
    (of, bridges, cancel)
}

async fn connected(
    change: impl FnOnce(&mut OfConfig),
) -> (OfHandle, Bridge, mpsc::UnboundedReceiver<Bridge>, CancellationToken) {
    let (of, mut bridges, cancel) = spawn(change);
    let mut bridge = bridges.recv().await.unwrap();
    bridge.greet().await;
    of.wait_connected(LIMIT).await.unwrap();
    (of, bridge, bridges, cancel)
}

fn adds(count: u16) -> Vec<Message> {
    (0..count).map(|n| FlowMod::add(Flow::new(0, n).goto(1)).into()).collect()
}

#[tokio::test]
async fn a_bundle_is_ordered_and_committed_after_its_close() {
    let (of, mut bridge, _bridges, _cancel) = connected(|_| {}).await;
    assert!(matches!(*of.state().borrow(), OfState::Connected { generation: 1, datapath_id: 42 }));
    let bundle = tokio::spawn(async move { of.bundle(adds(2000)).await });
    let (open_xid, Message::BundleControl(open)) = bridge.expect().await else { panic!("no open") };
    assert_eq!(open.kind, BundleCtrlType::OpenRequest);
    assert_eq!(open.flags, BundleFlags::ATOMIC | BundleFlags::ORDERED);
    bridge.control(open_xid, open, BundleCtrlType::OpenReply).await;
    for n in 0..2000 {
        let (_, Message::BundleAdd { bundle_id, message, .. }) = bridge.expect().await else {
            panic!("no add")
        };
        let Message::FlowMod(flow_mod) = *message else { panic!("no flow-mod") };
        assert_eq!((bundle_id, flow_mod.flow.priority), (open.bundle_id, n));
    }
    let (xid, Message::BundleControl(close)) = bridge.expect().await else { panic!("no close") };
    assert_eq!(close.kind, BundleCtrlType::CloseRequest);
    // Nothing comes before the close is answered.
    assert!(tokio::time::timeout(Duration::from_millis(50), bridge.receive()).await.is_err());
    bridge.control(xid, close, BundleCtrlType::CloseReply).await;
    let (xid, Message::BundleControl(commit)) = bridge.expect().await else { panic!("no commit") };
    assert_eq!(commit.kind, BundleCtrlType::CommitRequest);
    bridge.control(xid, commit, BundleCtrlType::CommitReply).await;
    let (xid, barrier) = bridge.expect().await;
    assert_eq!(barrier, Message::BarrierRequest);
    assert!(!bundle.is_finished());
    bridge.send(xid, Message::BarrierReply).await;
    bundle.await.unwrap().unwrap();
}

#[tokio::test]
async fn echo_and_queries_go_on_beside_a_bundle() {
    let (of, mut bridge, _bridges, _cancel) = connected(|_| {}).await;
    let bundling = of.clone();
    let bundle = tokio::spawn(async move { bundling.bundle(adds(1)).await });
    for _ in 0..3 {
        bridge.expect().await;
    }
    // The bridge sits on the close.
    bridge.send(Xid(99), Message::EchoRequest(Bytes::from_static(b"ping"))).await;
    assert_eq!(bridge.expect().await, (Xid(99), Message::EchoReply(Bytes::from_static(b"ping"))));
    let asking = of.clone();
    let query = tokio::spawn(async move { asking.multipart(MultipartRequest::TableStats).await });
    let (xid, request) = bridge.expect().await;
    assert_eq!(request, Message::MultipartRequest(MultipartRequest::TableStats));
    let part =
        |table| MultipartReply::TableStats(vec![TableStats { table, active: 1, lookups: 2, matched: 3 }]);
    bridge.send(xid, Message::MultipartReply { more: true, body: part(0) }).await;
    bridge.send(xid, Message::MultipartReply { more: false, body: part(1) }).await;
    assert_eq!(query.await.unwrap().unwrap(), [part(0), part(1)]);
    assert!(!bundle.is_finished());
    drop(bridge);
    let outcome = bundle.await.unwrap();
    assert!(matches!(outcome, Err(OfError::ConnectionLost(_))), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_fails_its_query_only() {
    let (of, mut bridge, _bridges, _cancel) = connected(|_| {}).await;
    let asking = of.clone();
    let query = tokio::spawn(async move { asking.flows(FlowFilter::all()).await });
    let (xid, _) = bridge.expect().await;
    // A multipart reply that is cut short within its header.
    let mut bad = vec![6, 19, 0, 10];
    bad.extend(xid.0.to_be_bytes());
    bad.extend([0, 1]);
    bridge.io.write_all(&bad).await.unwrap();
    let error = query.await.unwrap().unwrap_err();
    assert!(matches!(error, OfError::Protocol(_)), "{error}");
    let asking = of.clone();
    let query = tokio::spawn(async move { asking.aggregate(FlowFilter::all()).await });
    let (xid, _) = bridge.expect().await;
    let stats = FlowStats { flow_count: Some(3), packets: Some(1), bytes: Some(2), ..FlowStats::default() };
    bridge.send(xid, Message::MultipartReply { more: false, body: MultipartReply::Aggregate(stats) }).await;
    assert_eq!(query.await.unwrap().unwrap().flow_count, Some(3));
}

#[tokio::test]
async fn a_broken_header_drops_the_connection() {
    for bad in [[6u8, 19, 0, 4, 0, 0, 0, 0], [1, 19, 0, 8, 0, 0, 0, 0]] {
        let (of, mut bridge, mut bridges, _cancel) = connected(|_| {}).await;
        bridge.io.write_all(&bad).await.unwrap();
        let mut next = bridges.recv().await.unwrap();
        next.greet().await;
        assert_eq!(of.wait_connected(LIMIT).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn a_silent_bridge_is_probed_and_left() {
    let (_of, mut bridge, mut bridges, _cancel) =
        connected(|config| config.probe_interval = Duration::from_millis(100)).await;
    for _ in 0..3 {
        let (xid, Message::EchoRequest(data)) = bridge.expect().await else { panic!("no probe") };
        bridge.send(xid, Message::EchoReply(data)).await;
    }
    assert!(matches!(bridge.expect().await, (_, Message::EchoRequest(_))));
    assert!(tokio::time::timeout(LIMIT, bridge.receive()).await.unwrap().is_none());
    bridges.recv().await.unwrap();
}

#[tokio::test]
async fn a_bridge_that_owes_an_answer_to_a_batch_is_left() {
    let (of, mut bridge, mut bridges, _cancel) =
        connected(|config| config.request_timeout = Duration::from_millis(200)).await;
    let outcome = of.send_barriered(adds(1)).await;
    assert!(matches!(outcome, Err(OfError::Timeout { .. } | OfError::ConnectionLost(_))), "{outcome:?}");
    bridge.expect().await;
    bridge.expect().await;
    assert!(tokio::time::timeout(LIMIT, bridge.receive()).await.unwrap().is_none());
    let mut next = bridges.recv().await.unwrap();
    next.greet().await;
    of.wait_connected(LIMIT).await.unwrap();
}

/// A bundle in parts lets others pass between its parts, takes effect at its commit only, and is not gone on with on
/// another connection, where the bridge would commit what is left of it.
#[tokio::test]
async fn a_bundle_in_parts_lets_others_pass() {
    let (of, mut bridge, mut bridges, _cancel) = connected(|_| {}).await;
    let mut parts = of.bundle_in_parts().unwrap();
    let first = tokio::spawn(async move {
        let result = parts.add(adds(2)).await;
        (parts, result)
    });
    let (xid, Message::BundleControl(open)) = bridge.expect().await else { panic!("no open") };
    bridge.control(xid, open, BundleCtrlType::OpenReply).await;
    for _ in 0..2 {
        let (_, Message::BundleAdd { bundle_id, .. }) = bridge.expect().await else { panic!("no add") };
        assert_eq!(bundle_id, open.bundle_id);
    }
    let (xid, Message::BarrierRequest) = bridge.expect().await else { panic!("no barrier") };
    bridge.send(xid, Message::BarrierReply).await;
    let (mut parts, result) = first.await.unwrap();
    result.unwrap();

    let other = of.clone();
    let other = tokio::spawn(async move { other.bundle(adds(1)).await });
    let (xid, Message::BundleControl(between)) = bridge.expect().await else { panic!("no open") };
    assert_ne!(between.bundle_id, open.bundle_id);
    bridge.control(xid, between, BundleCtrlType::OpenReply).await;
    bridge.expect().await;
    for (kind, reply) in [
        (BundleCtrlType::CloseRequest, BundleCtrlType::CloseReply),
        (BundleCtrlType::CommitRequest, BundleCtrlType::CommitReply),
    ] {
        let (xid, Message::BundleControl(control)) = bridge.expect().await else { panic!("no control") };
        assert_eq!(control.kind, kind);
        bridge.control(xid, control, reply).await;
    }
    let (xid, _) = bridge.expect().await;
    bridge.send(xid, Message::BarrierReply).await;
    other.await.unwrap().unwrap();

    drop(bridge);
    let mut bridge = bridges.recv().await.unwrap();
    bridge.greet().await;
    of.state().wait_for(|state| matches!(state, OfState::Connected { generation: 2, .. })).await.unwrap();
    let error = parts.add(adds(1)).await.unwrap_err();
    assert!(error.is_connection(), "{error}");
    // Only the discard comes.
    let (_, Message::BundleControl(control)) = bridge.expect().await else { panic!("not a discard") };
    assert_eq!(control.kind, BundleCtrlType::DiscardRequest);
    let error = parts.commit().await.unwrap_err();
    assert!(error.is_connection(), "{error}");
}
