//! The parts of the agent, as a library for its binary and its tests. See `main.rs` for the picture.

pub mod api;
pub mod bridge;
pub mod bringup;
pub mod claims;
pub mod cleanup;
pub mod cni;
pub mod config;
pub mod connections;
pub mod conntrack;
pub mod dataplane;
pub mod host;
pub mod hostnet;
pub mod interfaces;
pub mod local_traffic;
pub mod metrics;
pub mod node;
pub mod nodes;
pub mod ofports;
pub mod ovs_version;
pub mod peering;
pub mod peers;
pub mod policy;
pub mod publish;
pub mod restore;
pub mod selftest;
pub mod status;
pub mod subnet;
pub mod translated;
pub mod transport;

/// Version of this build.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
