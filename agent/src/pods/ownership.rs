//! What may be deleted: only what is proven to be the attachment's own.

use ovs::vswitch::VswitchError;

use super::attach::Call;
use crate::ovs::links::POD_LINK_GROUP;
use crate::pods::interfaces::attachment_of;
use crate::pods::network::NodeNetwork;

/// Whether the port of that name, if there is one, is another attachment's or none of the agent's.
pub(super) fn is_foreign_port(node: &NodeNetwork, call: &Call, name: &str) -> bool {
    node.vswitch
        .port(name)
        .is_some_and(|port| attachment_of(&port.external_ids) != Some(call.attachment_key()))
}

/// Deletes the call's port. A port that is another's stays.
///
/// # Errors
/// OVSDB's.
pub(super) async fn delete_port(node: &NodeNetwork, call: &Call, name: &str) -> Result<(), VswitchError> {
    if is_foreign_port(node, call, name) {
        tracing::warn!(port = name, container = call.container_id, "not the container's port, leaving it");
        return Ok(());
    }
    node.vswitch.delete_port(&node.bridge, name).await
}

/// Deletes the host's end of a pair that the agent made for the call, or that an earlier call left. The caller
/// holds the name, so no other call has the link; the device group says that an agent made it. Returns whether
/// the name is free now.
///
/// # Errors
/// The kernel's.
pub(super) async fn delete_link(node: &NodeNetwork, call: &Call, name: &str) -> netcfg::Result<bool> {
    let Some(link) = node.netlink.link(name).await? else { return Ok(true) };
    let ours = link.group == POD_LINK_GROUP && link.kind.as_deref() == Some("veth");
    if !ours || is_foreign_port(node, call, name) {
        tracing::warn!(link = name, container = call.container_id, "not the container's link, leaving it");
        return Ok(false);
    }
    node.netlink.delete_link(link.index).await?;
    Ok(true)
}
