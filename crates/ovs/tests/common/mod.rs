//! Shared by the suites that run against real daemons.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each suite uses a part")]

use std::{future::Future, time::Duration};

use ovs::{
    Session, SessionConfig, Vswitch,
    backoff::BackoffConfig,
    db::{MonitoredTable, UnixConnector},
    testing::TestOvs,
    vswitch::BridgeSpec,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub const LIMIT: Duration = Duration::from_secs(30);

/// A private Open vSwitch whose directory goes with it.
pub struct Fixture {
    pub ovs: TestOvs,
    _dir: tempfile::TempDir,
    pub cancel: CancellationToken,
    _guard: DropGuard,
}

pub fn start(vswitchd: bool) -> Fixture {
    let dir = tempfile::Builder::new().prefix("ovs-test-").tempdir_in("/tmp").unwrap();
    let ovs =
        if vswitchd { TestOvs::start(dir.path(), None) } else { TestOvs::start_db_only(dir.path(), None) };
    let cancel = CancellationToken::new();
    Fixture { ovs: ovs.unwrap(), _dir: dir, _guard: cancel.clone().drop_guard(), cancel }
}

impl Fixture {
    pub async fn vswitch(&self) -> Vswitch {
        let (vswitch, _) = Vswitch::spawn(self.ovs.db_sock(), self.cancel.clone());
        vswitch.wait_synced(LIMIT).await.unwrap();
        vswitch
    }

    pub async fn session(&self, config: SessionConfig) -> Session {
        let (session, _) = Session::spawn(UnixConnector(self.ovs.db_sock()), config, self.cancel.clone());
        session.wait_synced(LIMIT).await.unwrap();
        session
    }
}

pub fn whole(tables: &[&str]) -> SessionConfig {
    let tables = tables
        .iter()
        .map(|table| MonitoredTable { table: (*table).to_owned(), columns: Vec::new(), optional: Vec::new() })
        .collect();
    let mut config = SessionConfig::new("Open_vSwitch", tables);
    config.backoff = BackoffConfig { first: Duration::from_millis(20), max: Duration::from_millis(200) };
    config
}

pub fn dummy_bridge(name: &str) -> BridgeSpec {
    BridgeSpec {
        name: name.to_owned(),
        datapath_type: "dummy".to_owned(),
        protocols: vec!["OpenFlow10".to_owned(), "OpenFlow15".to_owned()],
        fail_mode: Some(ovs::vswitch::FailMode::Secure),
        ..BridgeSpec::default()
    }
}

/// Polls until the future's answer is true.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !check().await {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
