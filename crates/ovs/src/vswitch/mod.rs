//! What an agent wants of Open vSwitch's configuration database: bridges, ports and a few settings.
//!
//! Every write is desired state: the transaction is the difference between what is asked for and the cache, computed
//! anew after a conflict with another client or a lost connection, and done when no difference is left in the cache.
//! So all of them may be repeated freely.

mod bridge;
mod config;
mod port;
mod spec;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    config::OpenVswitchInfo,
    spec::{BridgeInfo, BridgeSpec, FailMode, InterfaceKind, Mac, PortInfo, PortSpec},
};
use crate::db::{
    Cache, Changes, MonitoredTable, OvsdbError, Session, SessionConfig, SessionState, Transaction,
    UnixConnector,
};

/// Time for one write including reconnects and retries.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// Lost races against other clients after which a refusal is final.
const MAX_CONFLICTS: u32 = 5;

/// Failure of a [`Vswitch`] operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VswitchError {
    /// The database session failed.
    #[error("{object}: {source}")]
    Ovsdb {
        /// Bridge, port or setting that the operation was about.
        object: String,
        /// What happened.
        source: OvsdbError,
    },
    /// There is no such bridge.
    #[error("no bridge {0}")]
    NoBridge(String),
    /// There is no such port.
    #[error("no port {0}")]
    NoPort(String),
    /// ovs-vswitchd could not make the interface.
    #[error("interface {name} unusable: {error}")]
    Interface {
        /// Interface name.
        name: String,
        /// Its `error` column.
        error: String,
    },
    /// The database holds no `Open_vSwitch` row: it was not initialised (`ovs-vsctl init`).
    #[error("database is not initialised")]
    NotInitialised,
}

/// Handle to the configuration of one Open vSwitch; clones share one session.
#[derive(Clone, Debug)]
pub struct Vswitch {
    session: Session,
}

impl Vswitch {
    /// Starts a session with the ovsdb-server at `socket`. It reconnects until `cancel` fires.
    #[must_use]
    pub fn spawn(socket: PathBuf, cancel: CancellationToken) -> (Self, JoinHandle<()>) {
        Self::spawn_with(socket, Self::session_config(), cancel)
    }

    /// As [`Vswitch::spawn`] with other timing than [`Vswitch::session_config`] has.
    #[must_use]
    pub fn spawn_with(
        socket: PathBuf,
        config: SessionConfig,
        cancel: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (session, task) = Session::spawn(UnixConnector(socket), config, cancel);
        (Self { session }, task)
    }

    /// Database, tables and default timing of the session.
    #[must_use]
    pub fn session_config() -> SessionConfig {
        let table = |table: &str, columns: &[&str], optional: &[&str]| MonitoredTable {
            table: table.to_owned(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            optional: optional.iter().map(|column| (*column).to_owned()).collect(),
        };
        SessionConfig::new(
            "Open_vSwitch",
            vec![
                table(
                    "Open_vSwitch",
                    &[
                        "bridges",
                        "next_cfg",
                        "cur_cfg",
                        "other_config",
                        "external_ids",
                        "ovs_version",
                        "db_version",
                    ],
                    &["datapath_types", "iface_types"],
                ),
                table(
                    "Bridge",
                    &[
                        "name",
                        "datapath_type",
                        "datapath_id",
                        "protocols",
                        "fail_mode",
                        "external_ids",
                        "other_config",
                        "flow_tables",
                        "ports",
                    ],
                    &["mcast_snooping_enable"],
                ),
                table("Port", &["name", "interfaces", "tag", "external_ids"], &[]),
                table(
                    "Interface",
                    &[
                        "name",
                        "type",
                        "options",
                        "ofport",
                        "ofport_request",
                        "mac",
                        "mac_in_use",
                        "mtu_request",
                        "error",
                    ],
                    &["mtu", "link_state"],
                ),
                table("Flow_Table", &["name"], &[]),
            ],
        )
    }

    /// The session underneath, for reading the cache directly or for own transactions.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the cache follows the database, and changes of that.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.session.connected()
    }

    /// State of the session with the reason of a disconnection.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.session.state()
    }

    /// Waits until the cache follows the database.
    ///
    /// # Errors
    /// [`VswitchError::Ovsdb`] with the last connection error.
    pub async fn wait_synced(&self, limit: Duration) -> Result<(), VswitchError> {
        self.session.wait_synced(limit).await.map_err(|source| about("Open_vSwitch", source))
    }

    /// Row changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.session.subscribe()
    }

    /// Brings the database to where `plan` finds nothing left to do. `plan` gets the number of the attempt.
    async fn reconcile(
        &self,
        object: &str,
        plan: impl Fn(&Cache, u32) -> Result<Transaction, VswitchError>,
    ) -> Result<(), VswitchError> {
        let end = Instant::now() + WRITE_LIMIT;
        let remaining = || end.saturating_duration_since(Instant::now());
        let mut conflicts = 0;
        for attempt in 0.. {
            self.session.wait_synced(remaining()).await.map_err(|source| about(object, source))?;
            let txn = self.session.read(|cache| plan(cache, attempt))?;
            if txn.is_empty() {
                return Ok(());
            }
            match self.session.transact(&txn).await {
                Ok(_) => {}
                Err(error) if error.is_connection() && !remaining().is_zero() => {
                    tracing::debug!(object, %error, "database write to be repeated");
                    // The state may not have changed yet when a request already failed.
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) if error.is_conflict() && conflicts < MAX_CONFLICTS => {
                    tracing::debug!(object, %error, "database write conflicts with another client's");
                    conflicts += 1;
                    sleep(Duration::from_millis(20) * conflicts).await;
                    continue;
                }
                Err(error) => return Err(about(object, error)),
            }
            // A plan that fails later (say, the bridge went away) ends the wait too; the next round reports it.
            let settled = self
                .session
                .wait_cache("effect of a write", remaining(), |cache| match plan(cache, attempt + 1) {
                    Ok(rest) if !rest.is_empty() => None,
                    _ => Some(()),
                })
                .await;
            match settled {
                Ok(()) => return Ok(()),
                Err(error) if error.is_connection() && !remaining().is_zero() => {}
                Err(error) => return Err(about(object, error)),
            }
        }
        Ok(())
    }
}

fn about(object: &str, source: OvsdbError) -> VswitchError {
    VswitchError::Ovsdb { object: object.to_owned(), source }
}
