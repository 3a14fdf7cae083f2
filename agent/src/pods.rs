//! The pods of this node: what kubelet asks for through the CNI plugin, and what is kept of each attachment.

pub mod attach;
pub mod claims;
pub mod interfaces;
pub mod ipam;
pub mod judged;
pub mod leases;
pub mod naming;
pub mod network;
pub mod ofports;
mod ownership;
pub mod result;
pub mod rows;
pub mod server;
mod trace;
