//! Attaching a container to the bridge, checking an attachment, and taking it away.
//!
//! ADD is a sequence of steps of which each has an inverse. Whatever fails, the inverses of what was
//! done run in reverse order, so that a failed ADD leaves nothing behind. DEL is all inverses, each of
//! which succeeds where there is nothing to undo.

mod announce;
mod check;
mod handover;
mod namespace;
mod probe;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use antrea_api::cni::ErrorCode;
use antrea_flows::Change;
use antrea_runtime::{trace, trace_child};
use ipnet::IpNet;
use netcfg::nl::link::VethSpec;
use netcfg::nl::route::Route;
use netcfg::tc::{self, Limit};
use netcfg::{MacAddr, Netlink, Netns};

pub use self::check::check;
use self::namespace::open_netns;
pub use self::namespace::{has_namespace, is_gone};
pub use self::probe::ProbePort;
use super::ipam::{Attachment, IpamError};
use super::naming::{self, PodArgs};
use super::ownership;
use super::result::{CniResult, Interface, IpConfig, Route as CniRoute};
use crate::ovs::links::{POD_LINK_GROUP, allow_ipv6, quiet_link};
use crate::pods::claims::Claim;
use crate::pods::interfaces::{self, AttachmentKey, PodInterface};
use crate::pods::network::NodeNetwork;
use crate::policy::{PodName, Prepared};
use crate::subnet::{gateway_net, gateway_of};

/// ovs-vswitchd answers an OVSDB change within milliseconds unless it is down or overloaded.
const OFPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the runtime passed, read.
#[derive(Clone, Debug)]
pub struct Call {
    pub container_id: String,
    /// Path of the network namespace, as the runtime sees it.
    pub netns: String,
    /// Link name in the container.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// CNI_PATH.
    pub path: String,
    /// How much may leave the container; `None` = no limit.
    pub egress: Option<Limit>,
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

/// A step of ADD that was done and can be undone.
#[derive(Debug, PartialEq, Eq)]
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

    /// Which attachment it is about.
    pub fn attachment_key(&self) -> AttachmentKey {
        (self.container_id.clone(), self.ifname.clone())
    }

    fn pod(&self) -> PodArgs {
        PodArgs::parse(&self.args)
    }

    fn host_ifname(&self) -> String {
        naming::host_interface(&self.pod().name, &self.container_id, &self.ifname)
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
    let _name = claim(node, call)?;
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
            let mut clean = true;
            while let Some(step) = done.pop() {
                if step == Done::Address && !clean {
                    continue; // Something may still use it, until the runtime's DEL.
                }
                if let Err(failure) = undo(node, call, &step).await {
                    tracing::error!(container = call.container_id, ?step, error = %failure, "cannot undo");
                    clean = false;
                }
            }
            Err(error)
        }
    }
}

fn claim(node: &NodeNetwork, call: &Call) -> Result<Claim, AttachError> {
    claim_as(node, call, &call.host_ifname())
}

/// Takes the name of the host's link. Whoever comes second with a name is told to come again: the next sandbox has
/// another id, and another name follows from it.
fn claim_as(node: &NodeNetwork, call: &Call, name: &str) -> Result<Claim, AttachError> {
    let taken = |whose: String| {
        AttachError::new(ErrorCode::TryAgainLater, format!("the name {name} of the host's link is {whose}"))
    };
    let claim = node.claim(name, &call.attachment_key());
    let claim = claim.map_err(|(container, _)| taken(format!("container {container}'s")))?;
    if ownership::is_foreign_port(node, call, name) {
        return Err(taken("that of a port of Open vSwitch which is not this container's".to_owned()));
    }
    Ok(claim)
}

async fn attach(
    node: &Arc<NodeNetwork>,
    call: &Call,
    done: &mut Vec<Done>,
) -> Result<(PodInterface, Prepared), AttachError> {
    let pod = call.pod();
    let host_ifname = call.host_ifname();
    let netns = open_netns(node, &call.netns)?;
    let mac = MacAddr::random().0;

    // An address, a veth pair and the controller's word need nothing of each other.
    done.extend([Done::Address, Done::Veth]);
    let (allocated, container, confirmed) = tokio::join!(
        trace::step(trace_child!("ipam.add"), node.host_local.add(call.attachment(), &node.subnets)),
        trace::step(trace_child!("veth.create"), link(node, call, &host_ifname, &netns, mac)),
        trace::step(
            trace_child!("policy.confirm"),
            node.policy().confirm_pod(PodName { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid })
        )
    );
    confirmed.map_err(|error| AttachError::new(ErrorCode::TryAgainLater, error))?;
    let (allocated, container) = (allocated?, container?);
    let ips: Vec<_> = allocated.ips.iter().map(|ip| ip.address.addr()).collect();
    if let Some((ip, PodInterface { pod_namespace, pod_name, .. })) = node.holder(&ips, &call.container_id) {
        let message =
            format!("IPAM gave {ip}, which pod {pod_namespace}/{pod_name} has: its record was lost");
        return Err(AttachError::new(ErrorCode::TryAgainLater, message));
    }
    let reserved = node.reserve_ofport().ok_or_else(|| configure("no OpenFlow port number is free"))?;
    let mut interface = PodInterface {
        host_ifname,
        container_id: call.container_id.clone(),
        ifname: call.ifname.clone(),
        pod_name: pod.name,
        pod_namespace: pod.namespace,
        pod_uid: pod.uid,
        netns: call.netns.clone(),
        mac,
        ips,
        ofport: reserved.number(),
    };

    // Nor do the container's addresses, the port and its flows: the port asks for the number of the flows.
    done.extend([Done::Port, Done::Flows]);
    let (configured, ofport, prepared) = tokio::join!(
        trace::step(
            trace_child!("netns.configure"),
            configure_container(node, &container, &interface, &allocated)
        ),
        connect(node, &interface),
        async {
            // Nothing that the address's former owner was allowed is left before a packet can reach this one.
            handover::take_back(node, &interface.ips).await?;
            install(node, &interface).await
        }
    );
    configured?;
    limit_egress(node, call, &netns).await?;
    let (ofport, mut prepared) = (ofport?, prepared?);
    if ofport != interface.ofport {
        // Somebody else's port has the number.
        interface.ofport = ofport;
        drop(prepared);
        prepared = install(node, &interface).await?;
    }
    announce::announce(&interface, netns);
    Ok((interface, prepared))
}

/// Installs the flows of policies that select the pod and its own, in one transaction.
async fn install(node: &NodeNetwork, interface: &PodInterface) -> Result<Prepared, AttachError> {
    let installing =
        node.policy().install_pod(interface.local_pod(), interface.flows(node.dataplane.network()));
    trace::step(trace_child!("openflow.install"), installing).await.map_err(configure)
}

/// The container's end of a veth pair, up and without addresses.
#[derive(Debug)]
struct ContainerLink {
    netlink: Netlink,
    index: u32,
}

async fn link(
    node: &NodeNetwork,
    call: &Call,
    host_ifname: &str,
    netns: &Netns,
    mac: [u8; 6],
) -> Result<ContainerLink, AttachError> {
    let (index, netlink) =
        tokio::join!(create_veth(node, call, host_ifname, netns, mac), netns.spawn_netlink());
    let container = ContainerLink { index: index?, netlink: netlink.map_err(configure)? };
    container.netlink.set_up(container.index).await.map_err(configure)?;
    Ok(container)
}

/// Returns the index of the container's end.
async fn create_veth(
    node: &NodeNetwork,
    call: &Call,
    host_ifname: &str,
    netns: &Netns,
    mac: [u8; 6],
) -> Result<u32, AttachError> {
    let spec = VethSpec {
        host_name: host_ifname,
        host_mac: None,
        host_mtu: node.mtu,
        host_group: Some(POD_LINK_GROUP),
        peer_name: &call.ifname,
        peer_mac: Some(MacAddr(mac)),
        peer_mtu: node.mtu,
        peer_ns: netns,
    };
    let pair = match node.netlink.create_veth(&spec).await {
        Ok(pair) => pair,
        // Left over from an earlier try, or somebody else's; or the container has such a link.
        Err(error) if error.errno() == Some(nix::errno::Errno::EEXIST) => {
            if !ownership::delete_link(node, call, host_ifname).await.map_err(configure)? {
                let message = format!("there is a link {host_ifname} which antrea-agent did not make");
                return Err(AttachError::new(ErrorCode::TryAgainLater, message));
            }
            node.netlink.create_veth(&spec).await.map_err(configure)?
        }
        Err(error) => return Err(configure(error)),
    };
    quiet_link(&node.netlink, &node.sysctls, host_ifname).await.map_err(configure)?;
    node.netlink.set_up(pair.host.index).await.map_err(configure)?;
    Ok(pair.peer_index)
}

async fn configure_container(
    node: &NodeNetwork,
    container: &ContainerLink,
    interface: &PodInterface,
    allocated: &CniResult,
) -> Result<(), AttachError> {
    let ContainerLink { netlink, index } = container;
    let addresses: Vec<_> = allocated.ips.iter().map(|ip| ip.address).collect();
    // Runtimes switch the second family off in sandboxes that their own configuration gives no address of it.
    allow_ipv6(netlink, &node.sysctls, &interface.ifname, &addresses).await.map_err(configure)?;
    for ip in &allocated.ips {
        netlink.add_address(*index, ip.address).await.map_err(configure)?;
    }
    for subnet in node.subnets_of(&interface.ips) {
        netlink.set_route(&default_route(&subnet).dev(*index)).await.map_err(configure)?;
    }
    Ok(())
}

/// Limits what leaves the container, where the chained plugin cannot: ovs-vswitchd in userspace gets packets
/// from the host's end of the pair before that plugin's queue does.
async fn limit_egress(node: &NodeNetwork, call: &Call, netns: &Netns) -> Result<(), AttachError> {
    match call.egress {
        Some(limit) if node.userspace => {
            tc::limit_egress(netns, &call.ifname, limit).await.map_err(configure)
        }
        _ => Ok(()),
    }
}

async fn connect(node: &NodeNetwork, interface: &PodInterface) -> Result<u32, AttachError> {
    let port = interface.port(&node.bridge);
    let adding = trace::step(trace_child!("ovsdb.transact"), node.vswitch.add_port(&port));
    adding.await.map_err(configure)?;
    let number = node.vswitch.wait_ofport(&interface.host_ifname, OFPORT_TIMEOUT);
    trace::step(trace_child!("ovsdb.wait_ofport"), number).await.map_err(configure)
}

/// Takes an attachment away. What is absent is no error; failures are collected, not stopped at.
///
/// # Errors
/// Everything that could not be removed.
pub async fn del(node: &Arc<NodeNetwork>, call: &Call) -> Result<(), AttachError> {
    // No other pod gets the port's number before the attachment is forgotten, nor its address before port and
    // flows are gone. The link does not wait for the flows: the kernel takes links away one by one.
    // Who was refused for the name, or never came so far, has neither port nor link. It is held until the
    // attachment is forgotten: nobody shall miss the link meanwhile.
    let name = node.claim(&host_ifname(node, call), &call.attachment_key());
    let link = async {
        if name.is_err() {
            return (Ok(()), Ok(()));
        }
        let port = undo(node, call, &Done::Port).await;
        (port, undo(node, call, &Done::Veth).await)
    };
    let (flows, (port, veth)) = tokio::join!(undo(node, call, &Done::Flows), link);
    let mut failures: Vec<_> = [flows, port, veth].into_iter().filter_map(Result::err).collect();
    // Something may still use it otherwise; the runtime comes again.
    if failures.is_empty() {
        // With port and flows gone no packet makes an entry again.
        let forgetting = async {
            if let Some(interface) = node.interface(&call.container_id, &call.ifname)
                && let Err(error) = handover::left(node, &interface.ips).await
            {
                tracing::warn!(container = call.container_id, %error, "connections of the pod are not forgotten");
            }
        };
        let (address, ()) = tokio::join!(undo(node, call, &Done::Address), forgetting);
        failures.extend(address.err());
    }
    let Some(first) = failures.first() else {
        node.forget(&call.container_id, &call.ifname);
        return Ok(());
    };
    let messages: Vec<_> = failures.iter().map(|error| error.message.as_str()).collect();
    Err(AttachError::new(first.code, messages.join("; ")))
}

/// The name of the host's end: the one that is remembered, for a call may lack the pod's name.
fn host_ifname(node: &NodeNetwork, call: &Call) -> String {
    let interface = node.interface(&call.container_id, &call.ifname);
    interface.map_or_else(|| call.host_ifname(), |interface| interface.host_ifname)
}

async fn undo(node: &NodeNetwork, call: &Call, step: &Done) -> Result<(), AttachError> {
    let host_ifname = host_ifname(node, call);
    match step {
        Done::Flows => {
            let removing =
                node.dataplane.set(interfaces::owner(&call.container_id, &call.ifname), Change::nothing());
            trace::step(trace_child!("openflow.remove"), removing).await.map_err(configure)
        }
        Done::Port => {
            let deleting = ownership::delete_port(node, call, &host_ifname);
            trace::step(trace_child!("ovsdb.transact"), deleting).await.map_err(configure)
        }
        Done::Veth => {
            let deleting = ownership::delete_link(node, call, &host_ifname);
            trace::step(trace_child!("veth.delete"), deleting).await.map(drop).map_err(configure)
        }
        Done::Address => {
            let releasing = node.host_local.del(call.attachment(), &node.subnets);
            Ok(trace::step(trace_child!("ipam.del"), releasing).await?)
        }
    }
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
                mac: MacAddr(interface.mac).to_string(),
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
pub(crate) mod rollback_tests;
