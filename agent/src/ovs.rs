//! Open vSwitch on this node, but for its flows: the bridge, what is looked at, and what is put right after a restart.

pub mod audit;
pub mod bridge;
pub mod connections;
pub mod conntrack;
pub mod ids;
pub mod links;
pub mod restore;
pub mod selftest;
pub mod settled;
pub mod tracked;
pub mod version;
