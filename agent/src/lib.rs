//! The parts of the agent, as a library for its binary and its tests. See `main.rs` for the picture.

pub mod api;
pub mod bridge;
pub mod bringup;
pub mod cni;
pub mod config;
pub mod dataplane;
pub mod hostnet;
pub mod interfaces;
pub mod metrics;
pub mod node;
pub mod nodes;
pub mod peering;
pub mod peers;
pub mod policy;
pub mod status;
pub mod subnet;
