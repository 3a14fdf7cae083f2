//! CHECK: whether an attachment still is what ADD made of it.

use std::sync::Arc;
use std::time::Duration;

use antrea_api::cni::ErrorCode;
use netcfg::MacAddr;
use netcfg::nl::route::{MAIN_TABLE, RouteFilter};

use super::{AttachError, Call, open_netns};
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;
use crate::pods::result::CniResult;
use crate::subnet::gateway_of;

fn check_failed(message: impl std::fmt::Display) -> AttachError {
    AttachError::new(ErrorCode::CheckInterfaceFailure, message)
}

/// Compares an attachment with what `previous`, the runtime's record of the ADD, says.
///
/// # Errors
/// The first difference, named.
pub async fn check(node: &Arc<NodeNetwork>, call: &Call, previous: &CniResult) -> Result<(), AttachError> {
    let interface = node.interface(&call.container_id, &call.ifname).ok_or_else(|| {
        AttachError::new(
            ErrorCode::UnknownContainer,
            format!("container {} has no link {}", call.container_id, call.ifname),
        )
    })?;
    node.host_local.check(call.attachment(), &node.subnets).await?;
    check_previous(&interface, previous)?;
    check_container(node, &interface).await?;
    let name = interface.host_ifname.as_str();
    let host = node.netlink.link(name).await.map_err(check_failed)?;
    let host = host.ok_or_else(|| check_failed(format!("host link {name} is gone")))?;
    if !host.up {
        return Err(check_failed(format!("host link {name} is down")));
    }
    let ofport = node.vswitch.wait_ofport(name, Duration::from_millis(200)).await.map_err(check_failed)?;
    if ofport != interface.ofport {
        let known = interface.ofport;
        return Err(check_failed(format!("port {name} has number {ofport}, its flows have {known}")));
    }
    Ok(())
}

fn check_previous(interface: &PodInterface, previous: &CniResult) -> Result<(), AttachError> {
    let ours = previous.interfaces.iter().find(|i| i.name == interface.ifname && !i.sandbox.is_empty());
    let Some(ours) = ours else {
        return Err(check_failed(format!("prevResult has no interface {}", interface.ifname)));
    };
    let known = MacAddr(interface.mac).to_string();
    if !ours.mac.is_empty() && !ours.mac.eq_ignore_ascii_case(&known) {
        return Err(check_failed(format!("prevResult has MAC {}, the pod's flows have {known}", ours.mac)));
    }
    for ip in &interface.ips {
        if !previous.ips.iter().any(|known| known.address.addr() == *ip) {
            return Err(check_failed(format!("prevResult lacks address {ip}")));
        }
    }
    Ok(())
}

async fn check_container(node: &NodeNetwork, interface: &PodInterface) -> Result<(), AttachError> {
    let name = interface.ifname.as_str();
    let netns = open_netns(node, &interface.netns)?;
    let netlink = netns.spawn_netlink().await.map_err(check_failed)?;
    let link = netlink.link(name).await.map_err(check_failed)?;
    let link = link.ok_or_else(|| check_failed(format!("link {name} is gone from the container")))?;
    if !link.up {
        return Err(check_failed(format!("link {name} is down in the container")));
    }
    if link.mac != Some(MacAddr(interface.mac)) {
        return Err(check_failed(format!("link {name} has another MAC than {}", MacAddr(interface.mac))));
    }
    let addresses = netlink.addresses(link.index).await.map_err(check_failed)?;
    for ip in &interface.ips {
        if !addresses.iter().any(|address| address.net.addr() == *ip) {
            return Err(check_failed(format!("link {name} lacks address {ip}")));
        }
    }
    let filter = RouteFilter::default().table(MAIN_TABLE).dev(link.index);
    let routes = netlink.routes(&filter).await.map_err(check_failed)?;
    for subnet in node.subnets_of(&interface.ips) {
        let gateway = gateway_of(&subnet);
        if !routes.iter().any(|route| route.dst.prefix_len() == 0 && route.via == Some(gateway)) {
            return Err(check_failed(format!("the container has no default route through {gateway}")));
        }
    }
    Ok(())
}
