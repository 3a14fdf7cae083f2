//! Grafana boards and Prometheus alerts of Antrea's metrics, as data. Nothing here opens a socket.
//!
//! ```text
//!  boards/*.rs ─► Panel, Board ─► JSON ─┬─► ConfigMaps (operator)
//!  alerts.rs ───► Alert ────────► JSON ─┼─► PrometheusRule (operator)
//!                                       ├─► config/monitoring/ (cargo xtask generate), for import by hand
//!                                       └─► tests: lint, promtool, Grafana's SDK, a real Prometheus
//! ```
//!
//! Invariants, each held by `tests/lint.rs`:
//! - Only metrics that the components publish are used, with labels that they have.
//! - Every query can be narrowed by data source, job and instance; every panel has title, description, unit.
//! - Counters are looked at by rate or increase only.
//! - Every alert has severity, summary, description and a runbook page in `docs/runbooks`.

pub mod alerts;
mod board;
mod boards;
#[cfg(feature = "check")]
pub mod check;
mod panel;

pub use alerts::{Alert, RUNBOOKS, Severity, alerts, rules};
pub use board::{Board, Variable};
pub use boards::boards;
pub use panel::{Kind, Panel, Target};

/// Value of the label `job` of the agents' series: what the shipped ServiceMonitor makes of them.
pub const AGENT_JOB: &str = "antrea-agent";

/// Value of the label `job` of the controller's series.
pub const CONTROLLER_JOB: &str = "antrea-controller";

/// Value of the label `job` of the operator's series.
pub const OPERATOR_JOB: &str = "antrea-operator";
