//! The bridge with its gateway and tunnel ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use antrea_crds::Capabilities;
use netcfg::nl::link::{Link, VxlanInfo, VxlanSpec};
use netcfg::sysctl::Tree;
use netcfg::{MacAddr, Netlink};
use ovs::Vswitch;
use ovs::vswitch::{BridgeSpec, FailMode, InterfaceKind, OpenVswitchInfo, PortSpec};

use crate::config::{AgentConfig, DatapathChoice, EncapMode, TunnelType};
use crate::ovs::ids::{TYPE_GATEWAY, TYPE_TUNNEL, key};
use crate::ovs::links::{POD_LINK_GROUP, quiet_link};

/// Name of the tunnel port.
pub const TUNNEL_PORT: &str = "antrea-tun0";

/// OpenFlow numbers that are asked for; pods get what OVS chooses from 1 up.
const TUNNEL_OFPORT: u32 = 0x8000;
const GATEWAY_OFPORT: u32 = 0x8001;

const OFPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the node's network is not up. `reason` is for machines, the text for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BringUpError {
    /// CamelCase, as conditions carry it.
    pub reason: &'static str,
    /// Names the object, the cause and where there is one the remedy.
    pub message: String,
}

impl BringUpError {
    /// An error with its reason.
    pub fn new(reason: &'static str, message: impl std::fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }
}

/// How OVS forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// Kernel module, `datapath_type=system`.
    System,
    /// `datapath_type=netdev`.
    Userspace,
}

impl Datapath {
    /// What OVSDB calls it.
    pub fn ovs_type(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Userspace => "netdev",
        }
    }

    /// What Open vSwitch calls the datapath that bridges of the type share.
    pub fn backer(self) -> &'static str {
        match self {
            Self::System => "ovs-system",
            Self::Userspace => "ovs-netdev",
        }
    }

    /// The same with its type, as commands about datapaths want it.
    pub fn dpif(self) -> &'static str {
        match self {
            Self::System => "system@ovs-system",
            Self::Userspace => "netdev@ovs-netdev",
        }
    }
}

/// The datapath's family of generic netlink (openvswitch.h): the same way in as ovs-vswitchd's.
const DATAPATH_FAMILY: &str = "ovs_datapath";

/// Whether the running kernel has OVS's datapath, as a module that is loaded or can be, or built in.
///
/// # Errors
/// The kernel does not say. That is no "no": the other datapath would be chosen, and connections end.
pub async fn kernel_has_datapath() -> netcfg::Result<bool> {
    // A module may be loaded for the answer.
    let asked = tokio::task::spawn_blocking(|| netcfg::kernel_has_family(DATAPATH_FAMILY)).await;
    asked.unwrap_or_else(|stopped| {
        Err(netcfg::Error::Io {
            what: format!("ask for {DATAPATH_FAMILY}"),
            error: std::io::Error::other(stopped),
        })
    })
}

/// Tunnels that this Open vSwitch knows, by its names.
fn tunnels_of(ovs: &OpenVswitchInfo) -> impl Iterator<Item = &'static str> {
    let known = |name: &&str| ovs.iface_types.iter().any(|known| known == name);
    TunnelType::ALL.iter().map(|tunnel| tunnel.ovs_type()).filter(known)
}

/// What this node can do, for the operator.
pub fn capabilities(kernel: bool, ovs: &OpenVswitchInfo) -> Capabilities {
    Capabilities { kernel_datapath: kernel, tunnels: tunnels_of(ovs).map(str::to_owned).collect() }
}

/// The datapath and the tunnel that a node uses.
///
/// # Errors
/// A choice that the node's kernel or Open vSwitch cannot satisfy; the message says what it can.
pub fn choose(
    config: &AgentConfig,
    kernel: bool,
    ovs: &OpenVswitchInfo,
) -> Result<(Datapath, TunnelType), BringUpError> {
    let choice = config.datapath().map_err(|error| BringUpError::new("InvalidConfiguration", error))?;
    let datapath = match (choice, kernel) {
        (DatapathChoice::Userspace, _) | (DatapathChoice::Auto, false) => Datapath::Userspace,
        (DatapathChoice::System | DatapathChoice::Auto, true) => Datapath::System,
        (DatapathChoice::System, false) => {
            return Err(BringUpError::new(
                "KernelDatapathMissing",
                "ovsDatapathType is system, but this kernel has no openvswitch module; load it, or choose \
                 Auto or Userspace",
            ));
        }
    };
    let tunnel = match (config.tunnel_type, datapath) {
        (Some(tunnel), _) => tunnel,
        (None, Datapath::System) => TunnelType::Geneve,
        (None, Datapath::Userspace) => TunnelType::Vxlan,
    };
    if config.traffic_encap_mode == EncapMode::NoEncap {
        return Ok((datapath, tunnel));
    }
    if datapath == Datapath::Userspace && tunnel != TunnelType::Vxlan {
        return Err(BringUpError::new(
            "UnsupportedTunnelType",
            format!(
                "tunnelType {} is not available on the userspace datapath, whose tunnel is a kernel VXLAN \
                 device; choose vxlan or leave tunnelType out",
                tunnel.ovs_type()
            ),
        ));
    }
    if datapath == Datapath::System && !ovs.iface_types.iter().any(|known| known == tunnel.ovs_type()) {
        return Err(BringUpError::new(
            "UnsupportedTunnelType",
            format!(
                "tunnelType {} is not available: Open vSwitch {} offers {}",
                tunnel.ovs_type(),
                ovs.ovs_version.as_deref().unwrap_or("of unknown version"),
                tunnels_of(ovs).collect::<Vec<_>>().join(", ")
            ),
        ));
    }
    Ok((datapath, tunnel))
}

/// A bridge that is ready for flows.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// How it forwards.
    pub datapath: Datapath,
    /// Encapsulation of the tunnel port.
    pub tunnel_type: TunnelType,
    /// OpenFlow number of the gateway.
    pub gateway_ofport: u32,
    /// The gateway's link.
    pub gateway: Link,
    /// The gateway's address.
    pub gateway_mac: [u8; 6],
    /// OpenFlow number of the tunnel, where there is one.
    pub tunnel_ofport: Option<u32>,
    /// Round of this process's flows.
    pub round: u16,
}

/// What the bridge depends on.
#[derive(Debug)]
pub struct BridgeInputs<'a> {
    pub config: &'a AgentConfig,
    /// The node's address that carries tunnels.
    pub transport_ip: IpAddr,
    /// MTU of pods and gateway.
    pub mtu: u32,
    /// The gateway's MAC address, where it is known.
    pub gateway_mac: Option<[u8; 6]>,
    /// Where the kernel's parameters are written.
    pub sysctls: &'a Tree,
    /// Names of the pipeline's tables.
    pub tables: Vec<(u8, String)>,
}

/// Makes OVSDB say what the bridge should be, and waits until ovs-vswitchd has made it.
///
/// # Errors
/// The port that could not be made, with ovs-vswitchd's reason.
pub async fn ensure(
    vswitch: &Vswitch,
    netlink: &Netlink,
    inputs: &BridgeInputs<'_>,
    datapath: Datapath,
    tunnel_type: TunnelType,
) -> Result<Bridge, BringUpError> {
    let config = inputs.config;
    let failed = |error: ovs::vswitch::VswitchError| BringUpError::new("OVSDBFailed", error);
    let port_failed = |error: ovs::vswitch::VswitchError| BringUpError::new("PortFailed", error);
    let name = &config.ovs_bridge;
    let spec = BridgeSpec {
        name: name.clone(),
        datapath_type: datapath.ovs_type().to_owned(),
        protocols: vec!["OpenFlow10".to_owned(), "OpenFlow15".to_owned()],
        fail_mode: Some(FailMode::Secure),
        flow_tables: inputs.tables.clone(),
        ..BridgeSpec::default()
    };
    vswitch.ensure_bridge(&spec).await.map_err(failed)?;

    let existing = vswitch.port(&config.host_gateway);
    // Kept over restarts: pods have it in their neighbour tables.
    let mac = inputs
        .gateway_mac
        .or_else(|| existing.as_ref().and_then(|port| port.mac.or(port.mac_in_use)))
        .unwrap_or_else(|| MacAddr::random().0);
    let link = netlink.link(config.host_gateway.as_str()).await;
    if existing.is_some() && link.map_err(|error| BringUpError::new("GatewayFailed", error))?.is_none() {
        // ovs-vswitchd does not make a link again that somebody else deleted.
        vswitch.delete_port(name, &config.host_gateway).await.map_err(failed)?;
        vswitch.wait_applied(OFPORT_TIMEOUT).await.map_err(failed)?;
    }
    vswitch.add_port(&gateway_port(config, mac, inputs.mtu)).await.map_err(failed)?;

    let with_tunnel = config.traffic_encap_mode != EncapMode::NoEncap;
    if with_tunnel {
        if datapath == Datapath::Userspace {
            ensure_vxlan(vswitch, netlink, inputs).await?;
        }
        if let Some(device) = tunnel_device(config, datapath, tunnel_type)
            && vswitch.port(TUNNEL_PORT).is_some()
            && netlink.link(device.as_str()).await.map_err(device_failed)?.is_none()
        {
            // Nor that of a tunnel.
            vswitch.delete_port(name, TUNNEL_PORT).await.map_err(failed)?;
            vswitch.wait_applied(OFPORT_TIMEOUT).await.map_err(failed)?;
        }
        let spec = tunnel_port(config, datapath, tunnel_type);
        vswitch.add_port(&spec).await.map_err(failed)?;
    } else if vswitch.port(TUNNEL_PORT).is_some() {
        vswitch.delete_port(name, TUNNEL_PORT).await.map_err(failed)?;
    }

    let gateway_ofport =
        vswitch.wait_ofport(&config.host_gateway, OFPORT_TIMEOUT).await.map_err(port_failed)?;
    let tunnel_ofport = if with_tunnel {
        let ofport = vswitch.wait_ofport(TUNNEL_PORT, OFPORT_TIMEOUT).await;
        // ovs-vswitchd lists types that its kernel may still lack, such as STT.
        Some(ofport.map_err(|error| {
            let name = tunnel_type.ovs_type();
            BringUpError::new(
                "UnsupportedTunnelType",
                format!("tunnelType {name} cannot be used here: {error}"),
            )
        })?)
    } else {
        None
    };
    let link = netlink
        .require_link(config.host_gateway.as_str())
        .await
        .map_err(|error| BringUpError::new("GatewayFailed", error))?;
    let previous_round = vswitch
        .bridge_info(name)
        .and_then(|bridge| bridge.external_ids.get("roundNum").and_then(|text| text.parse().ok()));
    Ok(Bridge {
        datapath,
        tunnel_type,
        gateway_ofport,
        gateway: link,
        gateway_mac: mac,
        tunnel_ofport,
        round: next_round(previous_round),
    })
}

/// Rounds go from 1 to 65535 and around, so that 0 never marks a flow of ours.
fn next_round(previous: Option<u16>) -> u16 {
    previous.map_or(1, |round| round.checked_add(1).unwrap_or(1))
}

fn role(role: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key::TYPE.to_owned(), role.to_owned())])
}

/// The device that Open vSwitch makes in the kernel for the tunnel, as it names it (lib/dpif-netlink-rtnl.c,
/// lib/netdev-vport.c); `None` where the tunnel is no device of its.
pub fn tunnel_device(config: &AgentConfig, datapath: Datapath, tunnel_type: TunnelType) -> Option<String> {
    if datapath == Datapath::Userspace || config.traffic_encap_mode == EncapMode::NoEncap {
        return None;
    }
    let port = config.tunnel_port(tunnel_type);
    match tunnel_type {
        TunnelType::Geneve => Some(format!("genev_sys_{port}")),
        TunnelType::Vxlan => Some(format!("vxlan_sys_{port}")),
        TunnelType::Gre => Some("gre_sys".to_owned()),
        TunnelType::Stt => None,
    }
}

/// The internal port through which the host talks with pods, at its fixed number.
pub fn gateway_port(config: &AgentConfig, mac: [u8; 6], mtu: u32) -> PortSpec {
    PortSpec {
        bridge: config.ovs_bridge.clone(),
        name: config.host_gateway.clone(),
        kind: InterfaceKind::Internal,
        ofport_request: Some(GATEWAY_OFPORT),
        external_ids: role(TYPE_GATEWAY),
        mac: Some(mac),
        mtu_request: Some(mtu),
        ..PortSpec::default()
    }
}

/// The port to other nodes, at its fixed number: of OVS in the kernel's datapath, the host's link in userspace.
pub fn tunnel_port(config: &AgentConfig, datapath: Datapath, tunnel_type: TunnelType) -> PortSpec {
    let spec = PortSpec {
        bridge: config.ovs_bridge.clone(),
        name: TUNNEL_PORT.to_owned(),
        ofport_request: Some(TUNNEL_OFPORT),
        external_ids: role(TYPE_TUNNEL),
        ..PortSpec::default()
    };
    if datapath == Datapath::Userspace {
        return spec;
    }
    let mut options =
        BTreeMap::from([("key".to_owned(), "flow".to_owned()), ("remote_ip".to_owned(), "flow".to_owned())]);
    if config.tunnel_port != 0 && tunnel_type != TunnelType::Gre {
        options.insert("dst_port".to_owned(), config.tunnel_port.to_string());
    }
    if config.tunnel_csum {
        options.insert("csum".to_owned(), "true".to_owned());
    }
    let kind = match tunnel_type {
        TunnelType::Geneve => InterfaceKind::Geneve,
        TunnelType::Vxlan => InterfaceKind::Vxlan,
        TunnelType::Gre => InterfaceKind::Gre,
        TunnelType::Stt => InterfaceKind::Stt,
    };
    PortSpec { kind, options, ..spec }
}

/// The kernel device that is the userspace datapath's tunnel. Its forwarding table, not a flow, knows
/// the peers, and with VNI 0 it meets what OVS itself sends when no tunnel id is set.
async fn ensure_vxlan(
    vswitch: &Vswitch,
    netlink: &Netlink,
    inputs: &BridgeInputs<'_>,
) -> Result<(), BringUpError> {
    let port = inputs.config.tunnel_port(TunnelType::Vxlan);
    let wanted = |vxlan: &VxlanInfo| {
        vxlan.vni == 0 && vxlan.port == port && vxlan.local == Some(inputs.transport_ip) && !vxlan.learning
    };
    match netlink.link(TUNNEL_PORT).await.map_err(device_failed)? {
        Some(link) if link.vxlan.as_ref().is_some_and(wanted) => {
            if link.mtu != inputs.mtu {
                netlink.set_mtu(TUNNEL_PORT, inputs.mtu).await.map_err(device_failed)?;
            }
        }
        _ => replace_vxlan(vswitch, netlink, inputs, port).await?,
    }
    quiet_link(netlink, inputs.sysctls, TUNNEL_PORT).await.map_err(device_failed)?;
    netlink.set_up(TUNNEL_PORT).await.map_err(device_failed)
}

fn device_failed(error: impl std::fmt::Display) -> BringUpError {
    BringUpError::new("TunnelDeviceFailed", error)
}

/// Makes the device, in the place of another of its name. ovs-vswitchd's sockets are bound to the other one and
/// would stay so: it has to let go of the port first.
async fn replace_vxlan(
    vswitch: &Vswitch,
    netlink: &Netlink,
    inputs: &BridgeInputs<'_>,
    port: u16,
) -> Result<(), BringUpError> {
    if vswitch.port(TUNNEL_PORT).is_some() {
        vswitch.delete_port(&inputs.config.ovs_bridge, TUNNEL_PORT).await.map_err(device_failed)?;
        vswitch.wait_applied(OFPORT_TIMEOUT).await.map_err(device_failed)?;
    }
    netlink.delete_link(TUNNEL_PORT).await.map_err(device_failed)?;
    let spec = VxlanSpec {
        port,
        mac: Some(MacAddr::random()),
        mtu: inputs.mtu,
        group: Some(POD_LINK_GROUP),
        ..VxlanSpec::new(TUNNEL_PORT, 0, inputs.transport_ip)
    };
    netlink.create_vxlan(&spec).await.map(drop).map_err(device_failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ovs() -> OpenVswitchInfo {
        OpenVswitchInfo {
            ovs_version: Some("3.1.0".into()),
            iface_types: ["geneve", "vxlan", "gre", "internal"].map(str::to_owned).to_vec(),
            ..OpenVswitchInfo::default()
        }
    }

    fn config(datapath: &str, tunnel: Option<TunnelType>) -> AgentConfig {
        AgentConfig { ovs_datapath_type: datapath.into(), tunnel_type: tunnel, ..AgentConfig::default() }
    }

    #[test]
    fn auto_takes_the_kernel_where_it_can() {
        let chosen = |kernel| choose(&config("", None), kernel, &ovs()).unwrap();
        assert_eq!(chosen(true), (Datapath::System, TunnelType::Geneve));
        assert_eq!(chosen(false), (Datapath::Userspace, TunnelType::Vxlan));
    }

    #[test]
    fn what_the_node_lacks_is_named() {
        let refuse = |config: AgentConfig, kernel| choose(&config, kernel, &ovs()).unwrap_err();
        let error = refuse(config("system", None), false);
        assert_eq!(error.reason, "KernelDatapathMissing");
        let error = refuse(config("system", Some(TunnelType::Stt)), true);
        assert_eq!(error.reason, "UnsupportedTunnelType");
        assert_eq!(
            error.message,
            "tunnelType stt is not available: Open vSwitch 3.1.0 offers geneve, vxlan, gre"
        );
        let error = refuse(config("netdev", Some(TunnelType::Geneve)), true);
        assert!(error.message.contains("geneve"), "{error}");
    }

    #[test]
    fn the_operator_hears_what_the_node_has() {
        let told = capabilities(false, &ovs());
        assert!(!told.kernel_datapath);
        assert_eq!(told.tunnels, ["geneve", "vxlan", "gre"]);
    }

    #[test]
    fn no_encapsulation_needs_no_tunnel_type() {
        let mut routed = config("netdev", Some(TunnelType::Stt));
        routed.traffic_encap_mode = EncapMode::NoEncap;
        assert!(choose(&routed, false, &ovs()).is_ok());
    }

    #[test]
    fn rounds_never_are_zero() {
        assert_eq!(next_round(None), 1);
        assert_eq!(next_round(Some(1)), 2);
        assert_eq!(next_round(Some(65_535)), 1);
    }

    #[test]
    fn tunnel_options_follow_the_type() {
        let mut settings = config("system", Some(TunnelType::Geneve));
        settings.tunnel_csum = true;
        settings.tunnel_port = 6082;
        let port = tunnel_port(&settings, Datapath::System, TunnelType::Geneve);
        assert_eq!(port.options.get("dst_port").map(String::as_str), Some("6082"));
        assert_eq!(port.options.get("csum").map(String::as_str), Some("true"));
        let port = tunnel_port(&settings, Datapath::System, TunnelType::Gre);
        assert!(!port.options.contains_key("dst_port"));
        let port = tunnel_port(&settings, Datapath::Userspace, TunnelType::Vxlan);
        assert_eq!((port.kind, port.options.len()), (InterfaceKind::System, 0));
    }
}
