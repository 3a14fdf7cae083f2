//! Whether boards and alerts are as they should be.

mod lint;
mod metrics;
mod promql;

pub use lint::{alert, board};
pub use metrics::{Metric, Metrics, Type};
pub use promql::{Variables, inputs};
