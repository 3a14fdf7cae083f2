//! The three generations of OVSDB monitors, newest first.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::OvsdbError;

/// Monitor request that a server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorMethod {
    /// `monitor_cond_since` with `update3` (Open vSwitch ≥ 2.12).
    CondSince,
    /// `monitor_cond` with `update2` (Open vSwitch ≥ 2.6).
    Cond,
    /// `monitor` with `update` (RFC 7047).
    Plain,
}

impl MonitorMethod {
    pub(super) const NEWEST_FIRST: [Self; 3] = [Self::CondSince, Self::Cond, Self::Plain];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CondSince => "monitor_cond_since",
            Self::Cond => "monitor_cond",
            Self::Plain => "monitor",
        }
    }

    /// Whether rows arrive as `<table-updates2>`.
    pub(super) fn is_v2(self) -> bool {
        self != Self::Plain
    }

    pub(super) fn params(self, db: &str, id: &str, tables: &[(String, Vec<String>)], since: Uuid) -> Value {
        let requests: Map<String, Value> =
            tables.iter().map(|(table, columns)| (table.clone(), json!([{ "columns": columns }]))).collect();
        match self {
            Self::CondSince => json!([db, id, requests, since]),
            Self::Cond | Self::Plain => json!([db, id, requests]),
        }
    }

    /// Takes apart the reply to the request.
    pub(super) fn read_reply(self, result: Value) -> Result<Initial, OvsdbError> {
        match (self, result) {
            (Self::CondSince, Value::Array(parts)) => match <[Value; 3]>::try_from(parts) {
                Ok([Value::Bool(found), Value::String(txn), rows]) => {
                    Ok(Initial { incremental: found, txn: parse_txn(&txn)?, rows })
                }
                _ => Err(OvsdbError::Protocol("malformed reply to monitor_cond_since".to_owned())),
            },
            (Self::CondSince, other) => {
                Err(OvsdbError::Protocol(format!("malformed reply to monitor_cond_since: {other}")))
            }
            (Self::Cond | Self::Plain, rows) => Ok(Initial { incremental: false, txn: Uuid::nil(), rows }),
        }
    }
}

/// First content of a monitor.
pub(super) struct Initial {
    /// `rows` are the changes since the transaction asked for, rather than everything.
    pub(super) incremental: bool,
    pub(super) txn: Uuid,
    pub(super) rows: Value,
}

/// An `update`, `update2` or `update3` notification.
pub(super) struct Update {
    pub(super) txn: Uuid,
    pub(super) rows: Value,
    pub(super) v2: bool,
}

impl Update {
    /// `None` when the notification is none of these.
    pub(super) fn read(method: &str, params: Vec<Value>) -> Result<Option<Self>, OvsdbError> {
        let mut params = params.into_iter().skip(1);
        let (txn, v2) = match method {
            "update" => (Uuid::nil(), false),
            "update2" => (Uuid::nil(), true),
            "update3" => match params.next() {
                Some(Value::String(txn)) => (parse_txn(&txn)?, true),
                _ => return Err(OvsdbError::Protocol("update3 without transaction id".to_owned())),
            },
            _ => return Ok(None),
        };
        match params.next() {
            Some(rows) => Ok(Some(Self { txn, rows, v2 })),
            None => Err(OvsdbError::Protocol(format!("{method} without rows"))),
        }
    }
}

fn parse_txn(text: &str) -> Result<Uuid, OvsdbError> {
    Uuid::parse_str(text).map_err(|error| OvsdbError::Protocol(format!("transaction id {text}: {error}")))
}
