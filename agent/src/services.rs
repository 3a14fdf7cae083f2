//! AntreaProxy: the cluster's Services and EndpointSlices become groups and flows of the bridge.
//!
//! What decides is `crates/proxy`; what the bridge holds for it makes [`antrea_flows::service_backend`]. Here are the
//! two watches, and the one task that takes their events in, hands what changed to the dataplane as one batch, an
//! owner for each Service, and has the bridge forget the connections of UDP that lost their endpoint.
//!
//! What this node does not serve, also while it does not know of a Service yet, leaves for the host, where kube-proxy
//! serves it. Where there is none ([`everybody`]), the host brings what is for a Service to the bridge in turn.

pub mod access;
pub mod everybody;
mod follow;
pub mod health;
mod objects;
mod wrong;

pub use follow::{Bridge, Follower};
