//! What the agent tells: AntreaAgentInfo, metrics, and its API.

pub mod api;
pub mod facts;
pub mod metrics;
pub mod publish;
