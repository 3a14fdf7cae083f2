//! What every daemon needs around its work: logs, spans, signals, readiness, metrics, tasks, configuration.
//!
//! ```text
//! main ─► init crypto, logging ─► Supervisor ─┬─ task "node watch"
//!            │                      │         ├─ task "api server"  ◄─ Readiness, Metrics
//!            └─ LogHandle           │         └─ …
//!               (/loglevel)         └─ first task to end, or SIGTERM ─► token cancelled ─► all end
//! ```
//!
//! Invariants:
//! - No global state but the two that the ecosystem forces on us: the rustls provider and the tracing
//!   subscriber. Metrics registries, tokens and readiness are values that are passed in.
//! - A task that ends while the process should run ends the process: no half-dead daemons.
//! - A component that is not wired cannot be ready by accident: readiness is withheld by a guard that
//!   the component drops when it works.
//!
//! This crate knows no Antrea type.

pub mod backoff;
pub mod client;
pub mod config;
pub mod health;
pub mod http;
pub mod lease;
pub mod level;
pub mod logging;
pub mod metrics;
mod process;
mod recent;
pub mod redact;
pub mod signals;
pub mod supervise;
pub mod tolerant;
#[cfg(feature = "otlp")]
pub mod trace;

/// For [`trace_span!`].
#[doc(hidden)]
pub mod reexport {
    pub use tracing;
}

/// Installs `ring` as the process's rustls provider. Further calls do nothing.
pub fn install_crypto_provider() {
    // An error only says that a provider is there already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
