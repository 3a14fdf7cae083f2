//! What the agent does for the CNI plugin.

pub mod attach;
pub mod ipam;
pub mod leases;
pub mod naming;
mod ownership;
pub mod result;
pub mod server;
mod trace;
