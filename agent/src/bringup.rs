//! From nothing to a node whose pods talk, in the order in which one thing needs the other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use antrea_api::features::{self, Component};
use antrea_flows::{Change, Entry, Gateway, Network, NodeConfig, Owner, Round, Tunnel, TunnelKind};
use antrea_runtime::supervise::Needed;
use ipnet::IpNet;
use netcfg::sysctl::Tree;
use netcfg::{NetcfgErrors, Netlink};
use ovs::Vswitch;
use ovs::of::{OfConfig, OfError, OfHandle, OfSession};
use tokio_util::sync::CancellationToken;

use crate::config::{AgentConfig, EncapMode, TunnelType};
use crate::dataplane::Dataplane;
use crate::facts::{NetworkFacts, Reporter};
use crate::host::egress::Egress;
use crate::host::files;
use crate::host::network::HostConfig;
use crate::host::transport;
use crate::host::tunnel_guard::Outer;
use crate::metrics::AgentMetrics;
use crate::ovs::bridge::{self, Bridge, BridgeInputs, BringUpError, Datapath};
use crate::ovs::connections::Connections;
use crate::ovs::links::{POD_LINK_GROUP, allow_ipv6};
use crate::ovs::settled::Settled;
use crate::peers::wiring::{Peer, Underlay};
use crate::pods::attach::{Call, is_gone};
use crate::pods::interfaces::{InterfaceStore, PodInterface};
use crate::pods::ipam::HostLocal;
use crate::pods::network::{NodeNetwork, NodeParts};
use crate::pods::rows;
use crate::policy::{PolicyHandle, Site};
use crate::services::access::Access;
use crate::subnet::{gateway_net, gateway_of};

/// ovsdb-server starts with the agent; past this it is worth a condition.
const OVSDB_WAIT: Duration = Duration::from_secs(10);

/// The same of ovs-vswitchd.
const OPENFLOW_WAIT: Duration = Duration::from_secs(10);

/// Folders and files that are no configuration of the cluster.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Folders with the reference plugins.
    pub cni_bin: Vec<PathBuf>,
    /// host-local's data; `None` = its default.
    pub cni_data: Option<PathBuf>,
    /// Where the kernel's parameters are written.
    pub sysctls: Tree,
    /// The node's CNI files, where they are kept.
    pub installed: Option<files::Sources>,
}

/// What bring-up needs.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub config: &'a AgentConfig,
    pub paths: &'a Paths,
    pub node: &'a Peer,
    /// Addresses of other nodes.
    pub peers: &'a [IpAddr],
    /// Netlink socket in the node's namespace.
    pub netlink: &'a Netlink,
    /// OVSDB.
    pub vswitch: &'a Vswitch,
    pub policy: &'a PolicyHandle,
    /// Where facts go.
    pub reporter: &'a Reporter,
    pub metrics: &'a AgentMetrics,
    /// Ends the OpenFlow session.
    pub shutdown: &'a CancellationToken,
}

/// A node that is wired; its flows are staged, not yet in the bridge.
#[derive(Debug)]
pub struct Wired {
    /// The network for the CNI server.
    pub network: Arc<NodeNetwork>,
    /// Its session with Open vSwitch and its dataplane.
    pub needed: Needed,
    pub bridge: Bridge,
    /// What peers' wiring depends on.
    pub underlay: Underlay,
    /// What the host's rules depend on, with this node's own subnets only.
    pub host: HostConfig,
    /// Facts for the status.
    pub facts: NetworkFacts,
}

/// Wires the node.
///
/// # Errors
/// The first thing that failed. Everything done stays, for the next try finds it.
pub async fn wire(inputs: &Inputs<'_>) -> Result<Wired, BringUpError> {
    let Inputs { config, node, netlink, vswitch, .. } = inputs;
    let transport = transport::find(netlink, config, node, inputs.peers).await?;
    vswitch
        .wait_synced(OVSDB_WAIT)
        .await
        .map_err(|error| BringUpError::new("OVSDBDisconnected", format!("OVSDB: {error}")))?;
    let info = vswitch
        .open_vswitch_info()
        .ok_or_else(|| BringUpError::new("OVSDBUninitialised", "OVSDB holds no Open_vSwitch row"))?;
    let kernel = bridge::kernel_has_datapath().await;
    let kernel = kernel.map_err(|error| BringUpError::new("KernelDatapathUnknown", error.to_string()))?;
    let capabilities = bridge::capabilities(kernel, &info);
    inputs.reporter.update(|facts| facts.capabilities = Some(capabilities.clone()));
    let version = info.ovs_version.clone().unwrap_or_default();
    inputs.reporter.update(|facts| facts.ovs_version = version);
    crate::ovs::version::check(info.ovs_version.as_deref())?;
    let (datapath, tunnel_type) = bridge::choose(config, capabilities.kernel_datapath, &info)?;
    let mtu = config.pod_mtu(transport.mtu, transport.address.addr(), tunnel_type);

    // Table numbers follow from features alone, so they are known before the ports are.
    let mut flow_config = node_config(config, node, datapath);
    let tables: Vec<_> = Network::new(flow_config.clone(), Round::FIRST)
        .pipeline
        .names()
        .into_iter()
        .map(|(number, name)| (number, name.to_string()))
        .collect();
    let bridge_inputs = BridgeInputs {
        config,
        transport_ip: transport.address.addr(),
        mtu,
        gateway_mac: None,
        sysctls: &inputs.paths.sysctls,
        tables,
    };
    let bridge = bridge::ensure(vswitch, netlink, &bridge_inputs, datapath, tunnel_type).await?;
    configure_gateway(inputs, &bridge, node, mtu).await?;

    flow_config.gateway.ofport = bridge.gateway_ofport;
    flow_config.gateway.mac = bridge.gateway_mac.into();
    let kind = if datapath == Datapath::Userspace { TunnelKind::KernelVxlan } else { TunnelKind::FlowBased };
    flow_config.tunnel =
        bridge.tunnel_ofport.map(|ofport| Tunnel { ofport, kind, local: transport.address.addr() });

    let socket = PathBuf::from(&config.ovs_run_dir).join(format!("{}.mgmt", config.ovs_bridge));
    let mut needed = Needed::default();
    let (session, task) = OfSession::spawn(
        socket,
        OfConfig { flow_monitor: true, ..OfConfig::default() },
        inputs.shutdown.clone(),
    );
    needed.add("openflow session", task);
    flow_config.metered = has_meters(&session).await?;
    let connections =
        Connections::new(session.clone(), inputs.netlink.netns().clone()).with_services(flow_config.services);
    let flow_network = Arc::new(Network::new(flow_config, Round(bridge.round)));
    let settled = Settled::new(session.clone(), PathBuf::from(&config.ovs_run_dir), &flow_network);
    let (dataplane, task) = Dataplane::new(
        session,
        config.ovs_bridge.clone(),
        flow_network,
        inputs.reporter.clone(),
        inputs.metrics.clone(),
    );
    needed.spawn("dataplane", task.run(inputs.shutdown.clone()));

    let interfaces = remembered(inputs).await?;
    let gateways = node.pod_cidrs.iter().map(|subnet| gateway_net(subnet).addr());
    let held =
        interfaces.iter().flat_map(|interface| interface.ips.iter().copied()).chain(gateways).collect();
    if let Err(error) = connections.begin(&node.pod_cidrs, held).await {
        tracing::warn!(%error, "whoever gets an address waits until its connections are looked for");
    }
    let network = Arc::new(NodeNetwork::new(
        NodeParts {
            node_name: node.name.clone(),
            subnets: node.pod_cidrs.clone(),
            mtu,
            bridge: config.ovs_bridge.clone(),
            netlink: (*netlink).clone(),
            vswitch: (*vswitch).clone(),
            dataplane,
            connections,
            settled,
            host_local: HostLocal::new(inputs.paths.cni_bin.clone(), inputs.paths.cni_data.clone()),
            host_proc_path_prefix: config.host_proc_path_prefix.clone(),
            sysctls: inputs.paths.sysctls.clone(),
            userspace: datapath == Datapath::Userspace,
        },
        inputs.policy.clone(),
        interfaces,
    ));
    remove_leftovers(&network).await;

    Ok(Wired {
        needed,
        underlay: Underlay {
            mode: config.traffic_encap_mode,
            transport: transport.address,
            transport_link: transport.index,
            gateway_link: bridge.gateway.index,
            kernel_vxlan: datapath == Datapath::Userspace,
        },
        host: host_config(config, node, &bridge, (transport.address.addr(), tunnel_type)),
        facts: NetworkFacts {
            subnets: node.pod_cidrs.iter().map(IpNet::to_string).collect(),
            transport_interface: transport.name,
            transport_mtu: transport.mtu,
            pod_mtu: mtu,
            transport_ips: vec![transport.address.to_string()],
        },
        bridge,
        network,
    })
}

/// Stages the flows of the node, of policy, of connections that it ended, and of the pods that the node remembers, in this order: no pod
/// is connected before what isolates it.
///
/// # Errors
/// Two owners that want different things, Open vSwitch is away, or the agent is shutting down.
pub async fn stage(network: &Arc<NodeNetwork>, policy: &PolicyHandle) -> Result<(), BringUpError> {
    let failed = |error: crate::dataplane::DataplaneError| BringUpError::new("FlowsFailed", error);
    let dataplane = &network.dataplane;
    let pipeline = dataplane.network();
    let flows = antrea_flows::node(pipeline).into_iter().map(Entry::from);
    let entries = antrea_flows::meters(pipeline).into_iter().map(Entry::from).chain(flows).collect();
    dataplane.set(Owner::Node, Change::Whole(entries)).await.map_err(failed)?;
    let remembered = network.clone();
    let ids = policy.ids_before(dataplane).await;
    let site = Site {
        pipeline: Arc::new(dataplane.network().clone()),
        sink: Box::new(dataplane.clone()),
        pods: Box::new(move || remembered.interfaces().iter().map(PodInterface::local_pod).collect()),
        changes: network.interface_count(),
        isolated: rows::isolated(&network.vswitch.ports(&network.bridge)),
        ids: ids.map_err(|error| BringUpError::new("FlowsFailed", error))?,
        dns: policy.dns_before().await,
    };
    let attached = policy.attach(site).await;
    attached.map_err(|error| BringUpError::new("PolicyFailed", error))?;
    policy.stage_ended(dataplane).await.map_err(failed)?;
    for pod in network.interfaces() {
        // One bad record must not keep the rest of the node off the network.
        let (owner, flows) = pod.flows(dataplane.network());
        if let Err(error) = dataplane.set(owner, flows).await {
            tracing::error!(pod = pod.pod_name, namespace = pod.pod_namespace, %error, "cannot install");
        }
    }
    Ok(())
}

/// Installs what was staged, and lets vswitchd forward by it.
///
/// # Errors
/// OVS is away or refuses.
pub async fn go_live(network: &NodeNetwork, bridge: &Bridge) -> Result<(), BringUpError> {
    let vswitch_failed = |error: ovs::vswitch::VswitchError| BringUpError::new("OVSDBFailed", error);
    network.dataplane.start().await.map_err(|error| BringUpError::new("FlowsFailed", error))?;
    network
        .vswitch
        .set_bridge_external_id(&network.bridge, "roundNum", Some(&bridge.round.to_string()))
        .await
        .map_err(vswitch_failed)?;
    network.vswitch.remove_other_config(crate::ovs::restore::FLOW_RESTORE_WAIT).await.map_err(vswitch_failed)
}

/// Whether the datapath has meters; the kernel's has since Linux 4.18.
async fn has_meters(session: &OfHandle) -> Result<bool, BringUpError> {
    let disconnected = |error: OfError| BringUpError::new("OpenflowDisconnected", error);
    session.wait_connected(OPENFLOW_WAIT).await.map_err(disconnected)?;
    let features = session.meter_features().await.map_err(disconnected)?;
    if features.max_meters == 0 {
        tracing::warn!("the datapath has no meters: queues alone bound the packets that it sends up");
    }
    Ok(features.max_meters > 0)
}

fn node_config(config: &AgentConfig, node: &Peer, datapath: Datapath) -> NodeConfig {
    NodeConfig {
        datapath: match datapath {
            Datapath::System => antrea_flows::Datapath::Kernel,
            Datapath::Userspace => antrea_flows::Datapath::Userspace,
        },
        encap_mode: match config.traffic_encap_mode {
            EncapMode::Encap => antrea_flows::EncapMode::Encap,
            EncapMode::NoEncap => antrea_flows::EncapMode::NoEncap,
            EncapMode::Hybrid => antrea_flows::EncapMode::Hybrid,
        },
        gateway: Gateway {
            ofport: 0,
            mac: [0; 6].into(),
            ips: node.pod_cidrs.iter().map(gateway_of).collect(),
        },
        tunnel: None,
        pod_cidrs: node.pod_cidrs.clone(),
        // Checked when the configuration was read.
        service_cidrs: config.service_cidrs().unwrap_or_default(),
        antrea_policy: features::is_on(Component::Agent, "AntreaPolicy", &config.feature_gates),
        services: features::is_on(Component::Agent, "AntreaProxy", &config.feature_gates),
        serves_all: config.serves_all(),
        metered: false,
    }
}

fn host_config(
    config: &AgentConfig,
    node: &Peer,
    bridge: &Bridge,
    (transport, tunnel): (IpAddr, TunnelType),
) -> HostConfig {
    HostConfig {
        gateway: config.host_gateway.clone(),
        subnets: node.pod_cidrs.clone(),
        cluster_subnets: node.pod_cidrs.clone(),
        // Checked when the configuration was read.
        service_cidrs: config.service_cidrs().unwrap_or_default(),
        userspace: bridge.datapath == Datapath::Userspace,
        egress: Egress::default(),
        refused: Vec::new(),
        own: Vec::new(),
        transport,
        tunnel: bridge.tunnel_ofport.map(|_| Outer::of(tunnel, config.tunnel_port(tunnel))),
        nodes: node.addresses.clone(),
        no_snat: config.no_snat,
        random_fully: config.snat_fully_random_ports,
        services: config.serves_all().then(Access::default),
    }
}

async fn configure_gateway(
    inputs: &Inputs<'_>,
    bridge: &Bridge,
    node: &Peer,
    mtu: u32,
) -> Result<(), BringUpError> {
    let netlink = inputs.netlink;
    let failed = |error: netcfg::Error| BringUpError::new("GatewayFailed", error);
    let all_failed = |errors: NetcfgErrors| BringUpError::new("GatewayFailed", errors);
    let index = bridge.gateway.index;
    if bridge.gateway.mac.map(|mac| mac.0) != Some(bridge.gateway_mac) {
        netlink.set_mac(index, bridge.gateway_mac.into()).await.map_err(failed)?;
    }
    netlink.set_mtu(index, mtu).await.map_err(failed)?;
    netlink.set_up(index).await.map_err(failed)?;
    let addresses: Vec<IpNet> = node.pod_cidrs.iter().map(gateway_net).collect();
    let name = &inputs.config.host_gateway;
    allow_ipv6(netlink, &inputs.paths.sysctls, name, &addresses).await.map_err(all_failed)?;
    netlink.apply_addresses(index, &addresses).await.map(drop).map_err(all_failed)
}

/// The attachments that OVSDB remembers and that still have a container. Ports without one go.
async fn remembered(inputs: &Inputs<'_>) -> Result<InterfaceStore, BringUpError> {
    let bridge = &inputs.config.ovs_bridge;
    let mut store = InterfaceStore::default();
    for port in inputs.vswitch.ports(bridge) {
        let found = PodInterface::from_port(&port.name, port.ofport.unwrap_or(0), &port.external_ids);
        let reason = match found {
            Ok(None) => continue,
            Ok(Some(interface)) => {
                // Also of a container that is gone: its pod may come back in another.
                inputs.policy.remember_confirmed([interface.pod_uid.as_str()]);
                if is_gone(&inputs.config.host_proc_path_prefix, &interface) {
                    "its container is gone".to_owned()
                } else if port.ofport.is_none() {
                    port.error.unwrap_or_else(|| "it has no OpenFlow number".to_owned())
                } else {
                    store.insert(interface);
                    continue;
                }
            }
            Err(error) => error.to_string(),
        };
        tracing::warn!(port = port.name, reason, "removing a stale port");
        inputs
            .vswitch
            .delete_port(bridge, &port.name)
            .await
            .map_err(|error| BringUpError::new("OVSDBFailed", error))?;
    }
    Ok(store)
}

/// Removes what an agent that died during an ADD left: links that are no port, allocations of no
/// attachment.
async fn remove_leftovers(network: &NodeNetwork) {
    let ports: BTreeSet<String> =
        network.vswitch.ports(&network.bridge).into_iter().map(|port| port.name).collect();
    match network.netlink.links().await {
        Ok(links) => {
            for link in links {
                if link.group != POD_LINK_GROUP || ports.contains(&link.name) {
                    continue;
                }
                tracing::warn!(link = link.name, "removing a link that is no port");
                if let Err(error) = network.netlink.delete_link(link.index).await {
                    tracing::error!(link = link.name, %error, "cannot remove");
                }
            }
        }
        Err(error) => tracing::error!(%error, "cannot list links"),
    }
    network.free_damaged_leases().await;
    for (ip, (container_id, ifname)) in network.leases().await.held {
        if network.interface(&container_id, &ifname).is_some() {
            continue;
        }
        tracing::warn!(%ip, container = container_id, "freeing an address of no attachment");
        let call = Call {
            container_id,
            netns: String::new(),
            ifname,
            args: String::new(),
            path: String::new(),
            egress: None,
        };
        if let Err(error) = network.host_local.del(call.attachment(), &network.subnets).await {
            tracing::error!(%ip, %error, "cannot free");
        }
    }
}
