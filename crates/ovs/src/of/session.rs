//! The task that keeps a connection.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};

use openflow::{AsyncConfig, Message, PacketIn2, RoleMsg};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    OfError, OfHandle,
    batch::Batch,
    connection::{Connection, Query},
};
use crate::{
    backoff::BackoffConfig,
    connect::{Connect, UnixConnector},
    reconnect::{self, Attempts, End, Reconnect},
};

/// Bundles and batches waiting for the session task.
const BATCH_QUEUE: usize = 16;
/// Other requests waiting for the session task.
const COMMAND_QUEUE: usize = 256;
/// Flow-removed and port-status messages a slow subscriber may be behind.
const EVENT_BACKLOG: usize = 1024;

/// Settings of a session.
#[derive(Clone, Debug)]
pub struct OfConfig {
    /// Silence after which the bridge is probed; the connection is dropped after as much again. A bridge is silent
    /// while ovs-vswitchd's main thread works, for instance on a large bundle.
    pub probe_interval: Duration,
    /// Time for connecting and greeting.
    pub handshake_timeout: Duration,
    /// Time for the answer to a request.
    pub request_timeout: Duration,
    /// Delays between connection attempts.
    pub backoff: BackoffConfig,
    /// Role to take.
    pub role: Option<RoleMsg>,
    /// Number by which controller actions name this connection (`NXT_SET_CONTROLLER_ID`).
    pub controller_id: Option<u16>,
    /// Asynchronous messages to ask for; `None` leaves the bridge's default.
    pub asynchronous: Option<AsyncConfig>,
    /// Packet-ins kept for a slow receiver; further ones are dropped and counted.
    pub packet_in_queue: usize,
    /// Have the bridge tell of flows that others change ([`OfHandle::foreign_changes`]). Open vSwitch can since 2.17;
    /// an older one's refusal is logged and nothing is told.
    pub flow_monitor: bool,
}

impl Default for OfConfig {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(15),
            handshake_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            backoff: BackoffConfig::default(),
            role: None,
            controller_id: None,
            asynchronous: None,
            packet_in_queue: 1024,
            flow_monitor: false,
        }
    }
}

/// Connection state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfState {
    /// No connection.
    Disconnected {
        /// Why, as text.
        error: Arc<str>,
    },
    /// Connected and greeted.
    Connected {
        /// Counts the connections, from 1. The bridge may have lost its flows between two of them.
        generation: u64,
        /// Datapath id of the bridge.
        datapath_id: u64,
    },
}

impl OfState {
    /// Whether requests can be made.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// A request to the session task.
pub(super) enum Command {
    /// Fire and forget.
    Send(Box<Message>),
    Query(Query),
}

pub(super) struct Shared {
    pub(super) state: watch::Sender<OfState>,
    pub(super) packet_ins: mpsc::Sender<PacketIn2>,
    pub(super) packet_in_receiver: Mutex<Option<mpsc::Receiver<PacketIn2>>>,
    pub(super) packet_ins_dropped: AtomicU64,
    pub(super) events: broadcast::Sender<Arc<Message>>,
    pub(super) foreign_changes: watch::Sender<u64>,
    pub(super) next_stream: AtomicU32,
}

/// Starts sessions.
#[derive(Debug)]
pub struct OfSession;

impl OfSession {
    /// Starts a session with the bridge whose management socket is at `path`. It reconnects until `cancel` fires or
    /// no handle is left.
    #[must_use]
    pub fn spawn(path: PathBuf, config: OfConfig, cancel: CancellationToken) -> (OfHandle, JoinHandle<()>) {
        Self::spawn_with(UnixConnector(path), config, cancel)
    }

    /// As [`OfSession::spawn`] over another byte stream.
    pub fn spawn_with<C: Connect>(
        connector: C,
        config: OfConfig,
        cancel: CancellationToken,
    ) -> (OfHandle, JoinHandle<()>) {
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let (batches, batch_queue) = mpsc::channel(BATCH_QUEUE);
        let (packet_ins, packet_in_receiver) = mpsc::channel(config.packet_in_queue.max(1));
        let shared = Arc::new(Shared {
            state: watch::Sender::new(OfState::Disconnected { error: "not yet connected".into() }),
            packet_ins,
            packet_in_receiver: Mutex::new(Some(packet_in_receiver)),
            packet_ins_dropped: AtomicU64::new(0),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            foreign_changes: watch::Sender::new(0),
            next_stream: AtomicU32::new(0),
        });
        let backoff = config.backoff;
        let config = Arc::new(config);
        let queues = Queues { commands: command_queue, batches: batch_queue };
        let task = Task { connector, config: config.clone(), shared: shared.clone(), queues };
        let join = tokio::spawn(reconnect::run(task, backoff, cancel));
        (OfHandle::new(commands, batches, shared, config.request_timeout), join)
    }
}

pub(super) struct Queues {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) batches: mpsc::Receiver<Batch>,
}

struct Task<C> {
    connector: C,
    config: Arc<OfConfig>,
    shared: Arc<Shared>,
    queues: Queues,
}

impl<C: Connect> Reconnect for Task<C> {
    type Error = OfError;

    async fn serve(&mut self, attempts: &mut Attempts) -> End<OfError> {
        let limit = self.config.handshake_timeout;
        let late = |what: &str| OfError::Timeout { what: what.to_owned(), after: limit };
        let io = match timeout(limit, self.connector.connect()).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return End::Lost(OfError::NotConnected(error.to_string())),
            Err(_) => return End::Lost(late("connecting")),
        };
        let mut connection = Connection::new(io, &self.config, &self.shared);
        let features = match timeout(limit, connection.handshake()).await {
            Ok(Ok(features)) => features,
            Ok(Err(error)) => return End::Lost(error),
            Err(_) => return End::Lost(late("greeting")),
        };
        let generation = attempts.connected();
        let datapath_id = features.datapath_id;
        tracing::info!(datapath_id, generation, "OpenFlow connected");
        self.shared.state.send_replace(OfState::Connected { generation, datapath_id });
        connection.serve(generation, &mut self.queues).await
    }

    fn lost(&mut self, error: OfError, delay: Duration) -> Arc<str> {
        let reason = error.reason();
        tracing::warn!(error = %reason, ?delay, "OpenFlow connection lost");
        self.shared.state.send_replace(OfState::Disconnected { error: reason.clone() });
        reason
    }

    async fn refuse(&mut self, reason: &str) -> bool {
        let error = || OfError::NotConnected(reason.to_owned());
        tokio::select! {
            command = self.queues.commands.recv() => match command {
                Some(Command::Query(query)) => query.fail(error()),
                Some(Command::Send(_)) => {}
                None => return false,
            },
            batch = self.queues.batches.recv() => match batch {
                Some(batch) => batch.fail(error()),
                None => return false,
            },
        }
        true
    }

    fn end(&mut self) {
        self.queues.commands.close();
        self.queues.batches.close();
        self.shared.state.send_replace(OfState::Disconnected { error: "session has ended".into() });
    }
}
