//! What an address's former owner was allowed, and who gets the address next is not.

use std::net::IpAddr;
use std::time::Duration;

use antrea_api::cni::ErrorCode;
use antrea_runtime::{trace, trace_child};

use super::{AttachError, configure};
use crate::pods::network::NodeNetwork;

/// How long the host may take to follow pods that are gone. It takes milliseconds unless it is overloaded.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until the host's rules say nothing of addresses, and then forgets their connections: what the rules let through
/// is one.
///
/// # Errors
/// The host's rules cannot be changed, or connections cannot be forgotten.
pub(super) async fn take_back(node: &NodeNetwork, ips: &[IpAddr]) -> Result<(), AttachError> {
    tokio::time::timeout(TIMEOUT, node.judged().without(ips)).await.map_err(|_| {
        let message = format!(
            "the host's egress policy still speaks of the former owner of {ips:?} after {} s; the condition \
             AgentHealthy of node {} says why",
            TIMEOUT.as_secs(),
            node.node_name
        );
        AttachError::new(ErrorCode::TryAgainLater, message)
    })?;
    trace::step(trace_child!("conntrack.flush"), node.connections.take_back(ips)).await.map_err(configure)
}

/// Forgets the connections of an owner whose port and flows are gone, so that who gets the addresses next has not to wait
/// for it.
pub(super) async fn left(node: &NodeNetwork, ips: &[IpAddr]) -> Result<(), AttachError> {
    trace::step(trace_child!("conntrack.flush"), node.connections.left(ips)).await.map_err(configure)
}
