//! Messages that the components exchange.

#[cfg(feature = "cni")]
pub mod cni;
