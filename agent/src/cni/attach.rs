//! Attaching a container to the bridge, checking an attachment, and taking it away.
//!
//! ADD is a sequence of steps of which each has an inverse. Whatever fails, the inverses of what was
//! done run in reverse order, so that a failed ADD leaves nothing behind. DEL is all inverses, each of
//! which succeeds where there is nothing to undo.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antrea_api::cni::ErrorCode;
use ipnet::IpNet;
use netcfg::nl::link::VethSpec;
use netcfg::nl::route::{MAIN_TABLE, Route, RouteFilter};
use netcfg::{MacAddr, Netns};
use ovs::vswitch::PortSpec;

use super::ipam::{Attachment, IpamError};
use super::naming::{self, PodArgs, format_mac};
use super::result::{CniResult, Interface, IpConfig, Route as CniRoute};
use crate::interfaces::PodInterface;
use crate::node::{NodeNetwork, POD_LINK_GROUP};
use crate::policy::{PodName, Prepared};
use crate::subnet::{gateway_net, gateway_of};

/// ovs-vswitchd answers an OVSDB change within milliseconds unless it is down or overloaded.
const OFPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the runtime passed, read.
#[derive(Clone, Debug)]
pub struct Call {
    /// Container id.
    pub container_id: String,
    /// Path of the network namespace, as the runtime sees it.
    pub netns: String,
    /// Link name in the container.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// CNI_PATH.
    pub path: String,
}

/// A failure with the code that the specification or upstream gives it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AttachError {
    /// CNI error code.
    pub code: ErrorCode,
    /// Names the object and the cause.
    pub message: String,
}

impl AttachError {
    /// An error with a code.
    pub fn new(code: ErrorCode, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<IpamError> for AttachError {
    fn from(error: IpamError) -> Self {
        Self::new(ErrorCode::IpamFailure, error)
    }
}

fn configure(error: impl std::fmt::Display) -> AttachError {
    AttachError::new(ErrorCode::ConfigInterfaceFailure, error)
}

fn check_failed(message: impl std::fmt::Display) -> AttachError {
    AttachError::new(ErrorCode::CheckInterfaceFailure, message)
}

/// A step of ADD that was done and can be undone.
#[derive(Debug)]
enum Done {
    Address,
    Veth,
    Port,
    Flows,
}

impl Call {
    /// As IPAM takes it.
    pub fn attachment(&self) -> Attachment<'_> {
        Attachment {
            container_id: &self.container_id,
            netns: &self.netns,
            ifname: &self.ifname,
            args: &self.args,
            path: &self.path,
        }
    }

    fn pod(&self) -> PodArgs {
        PodArgs::parse(&self.args)
    }

    fn host_ifname(&self) -> String {
        naming::host_interface(&self.pod().name, &self.container_id, &self.ifname)
    }
}

/// Where the agent finds a namespace that the runtime named: below the host's mount of /proc where the
/// runtime uses process paths and the agent runs in a container.
pub fn netns_path(prefix: &str, path: &str) -> PathBuf {
    match path.strip_prefix("/proc/") {
        Some(rest) if !prefix.is_empty() => Path::new(prefix).join("proc").join(rest),
        _ => PathBuf::from(path),
    }
}

/// Attaches a container.
///
/// # Errors
/// What failed; everything done before is undone.
pub async fn add(node: &Arc<NodeNetwork>, call: &Call) -> Result<CniResult, AttachError> {
    if let Some(interface) = node.interface(&call.container_id, &call.ifname) {
        return Ok(result_of(node, &interface));
    }
    let mut done = Vec::new();
    match attach(node, call, &mut done).await {
        Ok((interface, prepared)) => {
            let result = result_of(node, &interface);
            node.remember(interface);
            drop(prepared);
            Ok(result)
        }
        Err(error) => {
            tracing::warn!(container = call.container_id, %error, ?done, "ADD failed, undoing");
            while let Some(step) = done.pop() {
                if let Err(failure) = undo(node, call, &step).await {
                    tracing::error!(container = call.container_id, ?step, error = %failure, "cannot undo");
                }
            }
            Err(error)
        }
    }
}

async fn attach(
    node: &Arc<NodeNetwork>,
    call: &Call,
    done: &mut Vec<Done>,
) -> Result<(PodInterface, Prepared), AttachError> {
    let pod = call.pod();
    let host_ifname = call.host_ifname();
    let netns = open_netns(node, &call.netns)?;
    let mac = naming::random_mac();

    // An address, a veth pair and the controller's word need nothing of each other.
    done.extend([Done::Address, Done::Veth]);
    let (allocated, pair, confirmed) = tokio::join!(
        node.host_local.add(call.attachment(), &node.subnets),
        create_veth(node, &host_ifname, &netns, &call.ifname, mac),
        node.policy.confirm_pod(PodName { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid })
    );
    confirmed.map_err(|error| AttachError::new(ErrorCode::TryAgainLater, error))?;
    let (allocated, ()) = (allocated?, pair?);
    let interface = PodInterface {
        host_ifname,
        container_id: call.container_id.clone(),
        ifname: call.ifname.clone(),
        pod_name: pod.name,
        pod_namespace: pod.namespace,
        pod_uid: pod.uid,
        netns: call.netns.clone(),
        mac,
        ips: allocated.ips.iter().map(|ip| ip.address.addr()).collect(),
        ofport: 0,
    };

    // Nor do the container's side and the bridge's.
    done.push(Done::Port);
    let (container, ofport) =
        tokio::join!(configure_container(node, &interface, &netns, &allocated), connect(node, &interface));
    let interface = PodInterface { ofport: ofport?, ..interface };
    container?;

    // What isolates the pod goes in before what connects it.
    let prepared = node.policy.prepare_pod(&interface).await.map_err(configure)?;
    done.push(Done::Flows);
    node.dataplane.install_pod(&interface).await.map_err(configure)?;
    announce(&interface, netns);
    Ok((interface, prepared))
}

async fn create_veth(
    node: &NodeNetwork,
    host_ifname: &str,
    netns: &Netns,
    ifname: &str,
    mac: [u8; 6],
) -> Result<(), AttachError> {
    let spec = VethSpec {
        host_name: host_ifname,
        host_mac: None,
        host_mtu: node.mtu,
        host_group: Some(POD_LINK_GROUP),
        peer_name: ifname,
        peer_mac: Some(MacAddr(mac)),
        peer_mtu: node.mtu,
        peer_ns: netns,
    };
    match node.netlink.create_veth(&spec).await {
        Ok(_) => {}
        // The name follows from the container: what has it is left over from an earlier try.
        Err(error) if error.errno() == Some(nix::errno::Errno::EEXIST) => {
            node.netlink.delete_link(host_ifname).await.map_err(configure)?;
            node.netlink.create_veth(&spec).await.map_err(configure)?;
        }
        Err(error) => return Err(configure(error)),
    }
    node.quiet_host_link(host_ifname).await.map_err(configure)?;
    node.netlink.set_up(host_ifname).await.map_err(configure)
}

async fn configure_container(
    node: &NodeNetwork,
    interface: &PodInterface,
    netns: &Netns,
    allocated: &CniResult,
) -> Result<(), AttachError> {
    let netlink = netns.spawn_netlink().await.map_err(configure)?;
    let link = netlink.require_link(interface.ifname.as_str()).await.map_err(configure)?.index;
    for ip in &allocated.ips {
        netlink.add_address(link, ip.address).await.map_err(configure)?;
    }
    netlink.set_up(link).await.map_err(configure)?;
    for subnet in node.subnets_of(&interface.ips) {
        netlink.set_route(&default_route(&subnet).dev(link)).await.map_err(configure)?;
    }
    Ok(())
}

async fn connect(node: &NodeNetwork, interface: &PodInterface) -> Result<u32, AttachError> {
    let port = PortSpec {
        bridge: node.bridge.clone(),
        name: interface.host_ifname.clone(),
        external_ids: interface.external_ids(),
        ..PortSpec::default()
    };
    node.vswitch.add_port(&port).await.map_err(configure)?;
    node.vswitch.wait_ofport(&interface.host_ifname, OFPORT_TIMEOUT).await.map_err(configure)
}

/// Tells neighbours of an earlier owner's address, in the background: a pod is ready without it, and
/// the bridge's flows need no learning.
fn announce(interface: &PodInterface, netns: Netns) {
    let (ifname, ips) = (interface.ifname.clone(), interface.ips.clone());
    tokio::spawn(async move {
        if let Err(error) = netcfg::garp::announce(&netns, &ifname, &ips).await {
            tracing::debug!(%error, ifname, "cannot announce");
        }
    });
}

/// Takes an attachment away. What is absent is no error; failures are collected, not stopped at.
///
/// # Errors
/// Everything that could not be removed.
pub async fn del(node: &Arc<NodeNetwork>, call: &Call) -> Result<(), AttachError> {
    let mut failures = Vec::new();
    // Flows go before the port: OVS may give the port's number to the next pod at once.
    for step in [Done::Flows, Done::Port, Done::Veth, Done::Address] {
        if let Err(error) = undo(node, call, &step).await {
            failures.push(error);
        }
    }
    let Some(first) = failures.first() else {
        node.forget(&call.container_id, &call.ifname);
        return Ok(());
    };
    let messages: Vec<_> = failures.iter().map(|error| error.message.as_str()).collect();
    Err(AttachError::new(first.code, messages.join("; ")))
}

async fn undo(node: &NodeNetwork, call: &Call, step: &Done) -> Result<(), AttachError> {
    let host_ifname = node
        .interface(&call.container_id, &call.ifname)
        .map_or_else(|| call.host_ifname(), |interface| interface.host_ifname);
    match step {
        Done::Flows => node.dataplane.remove_pod(&call.container_id, &call.ifname).await.map_err(configure),
        Done::Port => node.vswitch.delete_port(&node.bridge, &host_ifname).await.map_err(configure),
        Done::Veth => node.netlink.delete_link(host_ifname.as_str()).await.map(drop).map_err(configure),
        Done::Address => Ok(node.host_local.del(call.attachment(), &node.subnets).await?),
    }
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
    if !ours.mac.is_empty() && !ours.mac.eq_ignore_ascii_case(&format_mac(interface.mac)) {
        let known = format_mac(interface.mac);
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
        return Err(check_failed(format!("link {name} has another MAC than {}", format_mac(interface.mac))));
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

fn open_netns(node: &NodeNetwork, path: &str) -> Result<Netns, AttachError> {
    Netns::open(netns_path(&node.host_proc_path_prefix, path))
        .map_err(|error| AttachError::new(ErrorCode::InvalidEnvironmentVariables, error))
}

fn default_route(subnet: &IpNet) -> Route {
    let route = if subnet.addr().is_ipv4() { Route::default_v4() } else { Route::default_v6() };
    route.via(gateway_of(subnet))
}

fn result_of(node: &NodeNetwork, interface: &PodInterface) -> CniResult {
    let prefix_of = |ip: &IpAddr| {
        let subnet = node.subnets.iter().find(|subnet| subnet.contains(ip));
        subnet.map_or(if ip.is_ipv4() { 32 } else { 128 }, IpNet::prefix_len)
    };
    CniResult {
        interfaces: vec![
            Interface { name: interface.host_ifname.clone(), ..Interface::default() },
            Interface {
                name: interface.ifname.clone(),
                mac: format_mac(interface.mac),
                sandbox: interface.netns.clone(),
            },
        ],
        ips: interface
            .ips
            .iter()
            .map(|ip| IpConfig {
                address: IpNet::new(*ip, prefix_of(ip)).expect("prefix comes from a valid subnet"),
                gateway: node.subnets.iter().find(|s| s.contains(ip)).map(gateway_of),
                interface: Some(1),
            })
            .collect(),
        routes: node
            .subnets_of(&interface.ips)
            .iter()
            .map(|subnet| {
                let gateway = gateway_net(subnet).addr();
                let any = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                CniRoute { dst: any.parse().expect("a literal CIDR must parse"), gw: Some(gateway) }
            })
            .collect(),
        dns: serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_paths_go_through_the_hosts_proc() {
        assert_eq!(netns_path("/host", "/proc/42/ns/net"), Path::new("/host/proc/42/ns/net"));
        assert_eq!(netns_path("", "/proc/42/ns/net"), Path::new("/proc/42/ns/net"));
        assert_eq!(netns_path("/host", "/var/run/netns/cni-1"), Path::new("/var/run/netns/cni-1"));
    }
}
