//! What the pipeline is made from: facts about this node, its pods and its peers.

use std::net::IpAddr;

use ipnet::IpNet;
use openflow::MacAddr;

use crate::{
    cookie::{Category, Round, cookie},
    table::{Features, Pipeline},
};

/// The MAC address that stands for every peer's gateway on the gateway port, and for the next hop inside a
/// flow-based tunnel.
pub const VIRTUAL_MAC: MacAddr = MacAddr([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);

/// The destination MAC address by which the host tells the userspace datapath that one of its own processes sent a
/// packet to a pod of this node: the host's routing gives it to nothing else, and nobody else sends by the gateway.
pub const HOST_PROCESS_MAC: MacAddr = MacAddr([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xfe]);

/// Which datapath runs the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// The kernel module (`system`).
    Kernel,
    /// ovs-vswitchd itself (`netdev`).
    Userspace,
}

/// How traffic reaches other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncapMode {
    /// Always through the tunnel.
    Encap,
    /// Always routed by the host.
    NoEncap,
    /// Routed by the host to peers of the same subnet, else through the tunnel.
    Hybrid,
}

/// The gateway port, `antrea-gw0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// OpenFlow port number.
    pub ofport: u32,
    /// The device's MAC address.
    pub mac: MacAddr,
    /// One address per family: the first of the pod CIDR.
    pub ips: Vec<IpAddr>,
}

/// What kind of port the tunnel port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// An OVS tunnel port with `remote_ip=flow`: flows pick the remote by `tun_dst`.
    FlowBased,
    /// A kernel VXLAN device added as an ordinary port: its forwarding database picks the remote by
    /// destination MAC, so flows write the peer's [`tunnel_mac`].
    KernelVxlan,
}

/// The tunnel port, `antrea-tun0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// OpenFlow port number.
    pub ofport: u32,
    /// How the remote is chosen.
    pub kind: TunnelKind,
    /// The node's address that peers know, which packets into a flow-based tunnel carry.
    pub local: IpAddr,
}

/// What is true of this node as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The datapath that will run the flows.
    pub datapath: Datapath,
    /// How traffic reaches other nodes.
    pub encap_mode: EncapMode,
    /// The gateway port.
    pub gateway: Gateway,
    /// The tunnel port; `None` in [`EncapMode::NoEncap`].
    pub tunnel: Option<Tunnel>,
    /// The node's own pod CIDRs, one per family at most.
    pub pod_cidrs: Vec<IpNet>,
    /// The cluster's Service CIDRs, as far as known.
    pub service_cidrs: Vec<IpNet>,
    /// Antrea-native policies are enabled.
    pub antrea_policy: bool,
    /// The bridge serves Services to pods.
    pub services: bool,
    /// It serves them to everybody: there is no kube-proxy. Needs `services`.
    pub serves_all: bool,
    /// The datapath has meters.
    pub metered: bool,
}

impl NodeConfig {
    /// The optional parts of the pipeline that this node needs: a family exists if there is a pod CIDR of it.
    pub fn features(&self) -> Features {
        let has = |v6: bool| self.pod_cidrs.iter().any(|c| matches!(c, IpNet::V6(_)) == v6);
        Features {
            ipv4: has(false),
            ipv6: has(true),
            antrea_policy: self.antrea_policy,
            services: self.services,
        }
    }
}

/// The port of a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// OpenFlow port number.
    pub ofport: u32,
    /// MAC address of the pod's interface.
    pub mac: MacAddr,
    /// The pod's addresses, one per family.
    pub ips: Vec<IpAddr>,
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the tunnel port.
    Tunnel {
        /// Address of the peer's end of the tunnel.
        transport_ip: IpAddr,
    },
    /// Routed by the host.
    Direct,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of its gateway: the first of each pod CIDR.
    pub gateway_ips: Vec<IpAddr>,
    /// Addresses that its packets in a tunnel may come from.
    pub addresses: Vec<IpAddr>,
    /// How it is reached.
    pub via: Via,
}

/// The MAC address that stands for a peer in the forwarding database of a kernel VXLAN device. A function of
/// the peer's transport address, so that nodes need not tell each other: locally administered, and distinct
/// for distinct IPv4 addresses (IPv6 addresses are hashed to 40 bits).
pub fn tunnel_mac(transport_ip: IpAddr) -> MacAddr {
    match transport_ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            MacAddr([0x0e, 0x04, a, b, c, d])
        }
        IpAddr::V6(ip) => {
            // FNV-1a: tiny, and stable between versions, which std's hasher does not promise.
            let hash = ip.octets().iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
                (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            let [_, _, _, a, b, c, d, e] = (hash ^ hash >> 40).to_be_bytes();
            MacAddr([0x06, a, b, c, d, e])
        }
    }
}

/// The pipeline of one node in one round: what every feature's flows are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Facts about the node.
    pub node: NodeConfig,
    /// The tables and their numbers.
    pub pipeline: Pipeline,
    /// The run of the agent, part of every cookie.
    pub round: Round,
}

impl Network {
    /// The pipeline that this node needs.
    pub fn new(node: NodeConfig, round: Round) -> Self {
        let pipeline = Pipeline::new(node.features());
        Self { node, pipeline, round }
    }

    pub(crate) fn cookie(&self, category: Category, object: u32) -> u64 {
        cookie(self.round, category, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_macs_are_unicast_local_and_distinct() {
        let ips = ["172.30.0.11", "172.30.0.12", "fd00::11", "fd00::12", "fd00:1::11"];
        let macs: std::collections::HashSet<MacAddr> =
            ips.iter().map(|ip| tunnel_mac(ip.parse().unwrap())).collect();
        assert_eq!(macs.len(), ips.len());
        assert!(macs.iter().all(|m| m.0[0] & 0b11 == 0b10));
    }
}
