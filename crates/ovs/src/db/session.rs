//! The session task and the handle through which everybody else uses it.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use serde_json::Value;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Cache, Changes, Connect, MonitorMethod, OvsdbError, Transaction, TxnReply, frame::MAX_MESSAGE};
use crate::{
    backoff::BackoffConfig,
    reconnect::{self, Attempts, End, Reconnect},
};

mod connection;

use connection::Connection;

/// Requests waiting for the session task.
const QUEUE: usize = 256;
/// Change sets a slow subscriber may be behind before it is told that it lagged.
const CHANGE_BACKLOG: usize = 1024;

/// A table of which the session keeps a copy.
#[derive(Clone, Debug)]
pub struct MonitoredTable {
    /// Table name.
    pub table: String,
    /// Columns; empty means all that the server's schema has.
    pub columns: Vec<String>,
    /// Columns that are monitored if the server's schema has them.
    pub optional: Vec<String>,
}

/// Settings of a session.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Database, e.g. `Open_vSwitch`.
    pub db: String,
    /// What to keep in the cache.
    pub tables: Vec<MonitoredTable>,
    /// Silence after which the server is probed; the connection is dropped after as much again.
    pub probe_interval: Duration,
    /// Time for schema and first monitor content after connecting.
    pub handshake_timeout: Duration,
    /// Time for the reply to a transaction.
    pub request_timeout: Duration,
    /// Longest message accepted, in bytes.
    pub max_message: usize,
    /// Delays between connection attempts.
    pub backoff: BackoffConfig,
    /// First monitor request to try; older ones follow if the server does not know it.
    pub newest_monitor: MonitorMethod,
}

impl SessionConfig {
    /// Usual settings for a database.
    #[must_use]
    pub fn new(db: &str, tables: Vec<MonitoredTable>) -> Self {
        Self {
            db: db.to_owned(),
            tables,
            probe_interval: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(15),
            max_message: MAX_MESSAGE,
            backoff: BackoffConfig::default(),
            newest_monitor: MonitorMethod::CondSince,
        }
    }
}

/// Connection state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// No connection; the cache is stale (or empty, before the first connection).
    Disconnected {
        /// Why, as text.
        error: Arc<str>,
    },
    /// Connected and the cache follows the server.
    Synced {
        /// Counts the connections, from 1.
        generation: u64,
        /// Monitor request in use.
        monitor: MonitorMethod,
        /// Whether this connection was resumed from the last transaction known, without a full dump.
        resumed: bool,
    },
}

impl SessionState {
    /// Whether the cache follows the server.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        matches!(self, Self::Synced { .. })
    }
}

struct Command {
    params: Value,
    reply: oneshot::Sender<Result<Value, OvsdbError>>,
}

struct Shared {
    cache: RwLock<Cache>,
    state: watch::Sender<SessionState>,
    connected: watch::Sender<bool>,
    /// Counts cache and state changes; waiters look at the cache again when it moves.
    version: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<Changes>>,
}

impl Shared {
    fn set_state(&self, state: SessionState) {
        self.connected.send_if_modified(|connected| {
            let now = state.is_synced();
            std::mem::replace(connected, now) != now
        });
        self.state.send_replace(state);
        self.version.send_modify(|version| *version += 1);
    }

    fn publish(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        self.version.send_modify(|version| *version += 1);
        // Fails only when nobody listens.
        let _ = self.changes.send(Arc::new(changes));
    }
}

/// Handle to a session; clones share it. The task ends with the token given to [`Session::spawn`] or with the last
/// handle.
#[derive(Clone)]
pub struct Session {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    config: Arc<SessionConfig>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("db", &self.config.db)
            .field("state", &*self.shared.state.borrow())
            .finish()
    }
}

impl Session {
    /// Starts the session task, which connects, monitors and reconnects until `cancel` fires.
    pub fn spawn<C: Connect>(
        connector: C,
        config: SessionConfig,
        cancel: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            cache: RwLock::default(),
            state: watch::Sender::new(SessionState::Disconnected { error: "not yet connected".into() }),
            connected: watch::Sender::new(false),
            version: watch::Sender::new(0),
            changes: broadcast::Sender::new(CHANGE_BACKLOG),
        });
        let backoff = config.backoff;
        let config = Arc::new(config);
        let task =
            Task { connector, config: config.clone(), shared: shared.clone(), queue, last_txn: Uuid::nil() };
        let handle = tokio::spawn(reconnect::run(task, backoff, cancel));
        (Self { commands, shared, config }, handle)
    }

    /// The connection state and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared.state.subscribe()
    }

    /// Whether the cache follows the server, and changes of that.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// Changes of the cache from now on. A receiver that lags must read the cache anew.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.shared.changes.subscribe()
    }

    /// Looks at the cache. `look` must be quick: the session waits for it.
    pub fn read<T>(&self, look: impl FnOnce(&Cache) -> T) -> T {
        look(&self.shared.cache.read())
    }

    /// Waits until the cache follows the server.
    ///
    /// # Errors
    /// [`OvsdbError::NotConnected`] with the last connection error when `limit` passes, [`OvsdbError::Closed`].
    pub async fn wait_synced(&self, limit: Duration) -> Result<(), OvsdbError> {
        let mut state = self.state();
        let waited = timeout(limit, state.wait_for(SessionState::is_synced)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(OvsdbError::Closed),
            Err(_) => match &*self.shared.state.borrow() {
                SessionState::Disconnected { error } => Err(OvsdbError::NotConnected(error.to_string())),
                SessionState::Synced { .. } => Ok(()),
            },
        }
    }

    /// Waits until `look` finds something in the cache, which is asked again after each change. A stale cache is
    /// not asked.
    ///
    /// # Errors
    /// [`OvsdbError::Timeout`] naming `what`; [`OvsdbError::Closed`]; [`OvsdbError::NotConnected`] when the limit
    /// passes while disconnected.
    pub async fn wait_cache<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Cache) -> Option<T>,
    ) -> Result<T, OvsdbError> {
        let deadline = Instant::now() + limit;
        let mut version = self.shared.version.subscribe();
        loop {
            version.mark_unchanged();
            if self.shared.state.borrow().is_synced()
                && let Some(found) = self.read(&mut look)
            {
                return Ok(found);
            }
            if self.commands.is_closed() {
                return Err(OvsdbError::Closed);
            }
            match timeout_at(deadline, version.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(OvsdbError::Closed),
                Err(_) => {
                    return Err(match &*self.shared.state.borrow() {
                        SessionState::Disconnected { error } => OvsdbError::NotConnected(error.to_string()),
                        SessionState::Synced { .. } => {
                            OvsdbError::Timeout { what: what.to_owned(), after: limit }
                        }
                    });
                }
            }
        }
    }

    /// Runs a transaction. The cache may not show its effect yet when this returns.
    ///
    /// # Errors
    /// [`OvsdbError::Operation`] when the server refused it (nothing took effect), connection errors,
    /// [`OvsdbError::Timeout`].
    pub async fn transact(&self, txn: &Transaction) -> Result<TxnReply, OvsdbError> {
        if let SessionState::Disconnected { error } = &*self.shared.state.borrow() {
            return Err(OvsdbError::NotConnected(error.to_string()));
        }
        let (reply, answer) = oneshot::channel();
        let command = Command { params: txn.params(&self.config.db), reply };
        let limit = self.config.request_timeout;
        let exchange = async {
            self.commands.send(command).await.map_err(|_| OvsdbError::Closed)?;
            answer.await.map_err(|_| OvsdbError::Closed)?
        };
        match timeout(limit, exchange).await {
            Ok(result) => txn.read_reply(result?),
            Err(_) => Err(OvsdbError::Timeout { what: "reply to a transaction".to_owned(), after: limit }),
        }
    }
}

struct Task<C> {
    connector: C,
    config: Arc<SessionConfig>,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    last_txn: Uuid,
}

impl<C: Connect> Reconnect for Task<C> {
    type Error = OvsdbError;

    async fn serve(&mut self, attempts: &mut Attempts) -> End<OvsdbError> {
        let limit = self.config.handshake_timeout;
        let io = match timeout(limit, self.connector.connect()).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return End::Lost(OvsdbError::NotConnected(error.to_string())),
            Err(_) => {
                return End::Lost(OvsdbError::Timeout {
                    what: "database connection".to_owned(),
                    after: limit,
                });
            }
        };
        let mut connection = Connection::new(io, &self.config, &self.shared, &mut self.last_txn);
        let handshake = match timeout(limit, connection.handshake()).await {
            Ok(handshake) => handshake,
            Err(_) => {
                Err(OvsdbError::Timeout { what: "first content of the database".to_owned(), after: limit })
            }
        };
        let (monitor, resumed) = match handshake {
            Ok(done) => done,
            Err(error) => return End::Lost(error),
        };
        let generation = attempts.connected();
        tracing::info!(db = %self.config.db, monitor = monitor.name(), resumed, "database connected");
        self.shared.set_state(SessionState::Synced { generation, monitor, resumed });
        connection.serve(&mut self.queue).await
    }

    fn lost(&mut self, error: OvsdbError, delay: Duration) -> Arc<str> {
        tracing::warn!(db = %self.config.db, %error, ?delay, "database connection lost");
        let reason: Arc<str> = error.reason().into();
        self.shared.set_state(SessionState::Disconnected { error: reason.clone() });
        reason
    }

    async fn refuse(&mut self, reason: &str) -> bool {
        let Some(command) = self.queue.recv().await else { return false };
        // A caller that is gone has nobody to tell.
        let _ = command.reply.send(Err(OvsdbError::NotConnected(reason.to_owned())));
        true
    }

    fn end(&mut self) {
        self.queue.close();
        self.shared.set_state(SessionState::Disconnected { error: "session has ended".into() });
    }
}
