//! Which endpoints a node's pods reach through which Service address. Nothing here opens a socket.
//!
//! ```text
//!  Service ────────┐                                              ┌► Served: frontends ─► endpoints, affinity, group
//!  EndpointSlice ──┴─► Services::{set_service, set_slice} ─► drain ┤
//!  (read by the node: `Here`)                                     └► Problem: object, field, cause
//! ```
//!
//! # Invariants
//! - [`Services::drain`] tells of exactly the Services that an event may have changed; what it tells is what a
//!   computation from all objects would say (`tests/convergence.rs`).
//! - A frontend belongs to one Service. Of several that claim it the oldest has it, then the first by name,
//!   whatever the order in which they were told; the others keep the rest of what they have.
//! - A frontend without a usable endpoint is not served: whoever serves Services behind the bridge refuses it. Where
//!   nobody does ([`Services::set_own`]), it is told of.
//! - An object that cannot be read in part is served in the other parts, and the part is named.

mod choose;
mod ids;
mod index;
pub mod k8s;
mod model;
mod serve;

pub use index::{Drained, Services, Way};
pub use model::{
    Address, Endpoint, Frontend, Here, Hint, Name, Own, Port, Problem, Protocol, Service, Slice, SlicePort,
};
pub use serve::{Backend, Health, Reached, Served, Unserved};

/// The most endpoints of one Service port and family that are served.
pub const MOST_ENDPOINTS: usize = 20_000;
