//! What the agent tells: AntreaAgentInfo, Events, metrics, and its API.

pub mod api;
pub mod bridge;
pub mod events;
mod hostpath;
pub mod policies;
pub mod publish;
pub mod support;
mod traffic;
