//! Messages that the components exchange.

/// Version of this build.
pub const VERSION: &str = if cfg!(feature = "future") {
    concat!("v", env!("CARGO_PKG_VERSION"), "-future")
} else {
    concat!("v", env!("CARGO_PKG_VERSION"))
};

#[cfg(feature = "apis")]
pub mod addresses;
#[cfg(feature = "apis")]
pub mod agent;
#[cfg(feature = "cni")]
pub mod cni;

#[cfg(feature = "apis")]
pub mod controlplane;
#[cfg(feature = "apis")]
pub mod endpoint;
#[cfg(feature = "apis")]
pub mod features;
#[cfg(feature = "apis")]
pub mod k8s;
#[cfg(feature = "apis")]
pub mod selection;
#[cfg(feature = "apis")]
pub mod stats;
#[cfg(feature = "apis")]
pub mod system;
pub mod trace;
