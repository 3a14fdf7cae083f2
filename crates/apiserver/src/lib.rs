//! Kit for aggregated Kubernetes API servers: TLS, authentication, negotiation, watch fan-out.
//!
//! ```text
//!  client ─TLS─► serve ─► gate (who? may they?) ─► extra routes (metrics, log level, …)
//!                  ▲                             └► resources ─► Storage ─ list/get/create
//!   certs, CAs ────┘ swapped at run time                              └─── watch ◄── Hub ◄── publish
//! ```
//!
//! Invariants:
//! - Nothing but health is answered to a request that is not authenticated and authorized.
//! - What a stranger makes the API server do is bounded, and costs the answers of nobody else (`questions`, `budget`).
//! - Forwarded-user headers are read only on a connection whose certificate the front-proxy CA signed.
//! - Connections that prove nothing are few, short-lived and nobody else's loss (`seats`, `session`).
//! - A watcher sees a snapshot and then every later event, none twice, none missed; one that does not
//!   keep up is cut off and has to list again. Publishing never waits for a watcher.
//! - An event is encoded once per encoding, whatever the number of its watchers.
//!
//! The kit knows Kubernetes' wire forms (`antrea_api::k8s`) and no Antrea type.

pub mod api;
pub mod auth;
mod budget;
mod cache;
pub mod cert;
mod discovery;
pub mod gate;
pub mod hub;
mod impersonate;
pub mod loglevel;
pub mod metrics;
pub mod object;
mod openapi;
pub mod publish;
mod questions;
pub mod request;
pub mod review;
mod seats;
pub mod selector;
pub mod serve;
mod session;
pub mod status;
pub mod storage;
pub mod tls;
pub mod trust;
pub mod user;
pub mod version;
mod watch;

pub use seats::{Guests, Seat, share};
