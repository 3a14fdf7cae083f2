//! OVSDB (RFC 7047 with Open vSwitch's monitor extensions, ovsdb-server(7)): framing, values, transactions, row
//! cache and the session that keeps the cache in step with a server.

mod cache;
mod error;
pub mod frame;
mod monitor;
mod rpc;
mod schema;
mod session;
mod txn;
mod value;

pub use crate::connect::{Connect, UnixConnector};
pub use cache::{Cache, Changes, Row, RowChange, TableView};
pub use error::{OpError, OvsdbError};
pub use monitor::MonitorMethod;
pub use schema::{AtomType, ColumnType, DbSchema, SchemaError, TableSchema};
pub use session::{MonitoredTable, Session, SessionConfig, SessionState};
pub use txn::{Mutator, RowId, Transaction, TxnReply, Where};
pub use value::{Atom, Datum, ValueError};
