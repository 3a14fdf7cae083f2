//! What the tests share: a node with two pods and two peers, and a switch to run its flows.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

pub mod packet;
pub mod switch;

use std::net::IpAddr;

use antrea_flows::{
    Network, Round, VIRTUAL_MAC,
    config::{
        Datapath, EncapMode, Gateway, NodeConfig, Peer, PodInterface, Tunnel, TunnelKind, Via, tunnel_mac,
    },
};
use anyhow::Result;
use openflow::{Flow, MacAddr};

use packet::{Body, Packet};
use switch::Switch;

pub const GW_PORT: u32 = 32769;
pub const TUN_PORT: u32 = 32768;

pub fn mac(s: &str) -> MacAddr {
    s.parse().unwrap()
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn node(datapath: Datapath, kind: TunnelKind) -> NodeConfig {
    NodeConfig {
        datapath,
        encap_mode: EncapMode::Encap,
        gateway: Gateway {
            ofport: GW_PORT,
            mac: mac("0a:00:00:00:01:01"),
            ips: vec![ip("10.244.1.1"), ip("fd00:1::1")],
        },
        tunnel: Some(Tunnel { ofport: TUN_PORT, kind, local: ip("172.30.0.11") }),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        antrea_policy: true,
        services: false,
        serves_all: false,
        metered: false,
    }
}

/// The pod on port `n`: 10.244.1.(10+n), fd00:1::(10+n in hex digits).
pub fn pod(n: u32) -> PodInterface {
    PodInterface {
        ofport: n,
        mac: MacAddr([0x0a, 0, 0, 0, 1, 0x10 + n as u8]),
        ips: vec![ip(&format!("10.244.1.{}", 10 + n)), ip(&format!("fd00:1::{}", 10 + n))],
    }
}

pub fn tunnel_peer() -> Peer {
    Peer {
        pod_cidrs: vec!["10.244.2.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()],
        gateway_ips: vec![ip("10.244.2.1"), ip("fd00:2::1")],
        addresses: vec![ip("172.30.0.12"), ip("fd30::12")],
        via: Via::Tunnel { transport_ip: ip("172.30.0.12") },
    }
}

pub fn direct_peer() -> Peer {
    Peer {
        pod_cidrs: vec!["10.244.3.0/24".parse().unwrap(), "fd00:3::/64".parse().unwrap()],
        gateway_ips: vec![ip("10.244.3.1"), ip("fd00:3::1")],
        addresses: vec![ip("172.30.0.13")],
        via: Via::Direct,
    }
}

pub fn network(datapath: Datapath, kind: TunnelKind) -> Network {
    Network::new(node(datapath, kind), Round(7))
}

/// Everything but policy, with two pods and two peers.
pub fn connectivity(net: &Network) -> Vec<Flow> {
    let mut flows = antrea_flows::node(net);
    for n in [1, 2] {
        flows.extend(antrea_flows::pod(net, &pod(n)));
    }
    flows.extend(antrea_flows::peer(net, &tunnel_peer()));
    flows.extend(antrea_flows::peer(net, &direct_peer()));
    flows
}

/// A switch with ports gw, tun, p1, p2, p3.
pub fn switch() -> Result<Switch> {
    let mut sw = Switch::start()?;
    sw.add_port("gw", GW_PORT, &[])?;
    sw.add_port("tun", TUN_PORT, &[])?;
    for n in 1..=3 {
        sw.add_port(&format!("p{n}"), n, &[])?;
    }
    Ok(sw)
}

/// A frame with an IP packet, in the datapath's flow syntax.
#[derive(Clone, Debug)]
pub struct Frame {
    pub src_mac: MacAddr,
    pub dst_mac: MacAddr,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub l4: String,
}

impl Frame {
    pub fn new(src_mac: MacAddr, dst_mac: MacAddr, src: IpAddr, dst: IpAddr, l4: String) -> Self {
        Self { src_mac, dst_mac, src, dst, l4 }
    }

    /// From a pod, to whatever its routing says: a neighbour's MAC address or the gateway's.
    pub fn from_pod(n: u32, dst: IpAddr, l4: String) -> Self {
        let me = pod(n);
        let neighbour = (1..=3).map(pod).find(|p| p.ips.contains(&dst)).map(|p| p.mac);
        let gw = node(Datapath::Userspace, TunnelKind::KernelVxlan).gateway.mac;
        Self::new(me.mac, neighbour.unwrap_or(gw), me.ips[usize::from(dst.is_ipv6())], dst, l4)
    }

    /// From the host, to whatever its neighbour table says.
    pub fn from_host(src: IpAddr, dst: IpAddr, l4: String) -> Self {
        let gw = node(Datapath::Userspace, TunnelKind::KernelVxlan).gateway.mac;
        let neighbour = (1..=3).map(pod).find(|p| p.ips.contains(&dst)).map(|p| p.mac);
        Self::new(gw, neighbour.unwrap_or(VIRTUAL_MAC), src, dst, l4)
    }

    /// From the tunnel, sent by the peer 172.30.0.12.
    pub fn from_tunnel(src: IpAddr, dst: IpAddr, l4: String) -> Self {
        Self::new(mac("0a:00:00:00:02:01"), tunnel_mac(ip("172.30.0.11")), src, dst, l4)
    }

    pub fn text(&self) -> String {
        let proto = match self.l4.split_once('(').map(|(name, _)| name) {
            Some("tcp") => 6,
            Some("udp") => 17,
            Some("icmp") => 1,
            Some("icmpv6") => 58,
            Some("sctp") => 132,
            other => panic!("protocol {other:?}"),
        };
        let (src_mac, dst_mac, src, dst, l4) = (self.src_mac, self.dst_mac, self.src, self.dst, &self.l4);
        let l3 = if src.is_ipv4() {
            format!("eth_type(0x0800),ipv4(src={src},dst={dst},proto={proto},tos=0,ttl=64,frag=no)")
        } else {
            format!(
                "eth_type(0x86dd),ipv6(src={src},dst={dst},label=0,proto={proto},tclass=0,hlimit=64,frag=no)"
            )
        };
        format!("eth(src={src_mac},dst={dst_mac}),{l3},{l4}")
    }
}

pub fn syn(sport: u16, dport: u16) -> String {
    format!("tcp(src={sport},dst={dport}),tcp_flags(syn)")
}

pub fn syn_ack(sport: u16, dport: u16) -> String {
    format!("tcp(src={sport},dst={dport}),tcp_flags(syn|ack)")
}

pub fn ack(sport: u16, dport: u16) -> String {
    format!("tcp(src={sport},dst={dport}),tcp_flags(ack)")
}

pub fn udp(sport: u16, dport: u16) -> String {
    format!("udp(src={sport},dst={dport})")
}

/// The only IP packet that went out, and where.
pub fn only(out: &[(String, Packet)]) -> Option<(&str, &Packet, u8)> {
    match out {
        [(port, packet)] => match packet.body {
            Body::Ip { ttl, .. } => Some((port, packet, ttl)),
            _ => None,
        },
        _ => None,
    }
}

/// Snapshot text of a table dump, with numbers as the switch prints them.
pub fn sorted(mut lines: Vec<String>) -> String {
    let table = |l: &String| {
        l.split("table=").nth(1).and_then(|t| t.split(',').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    lines.sort_by_key(|l| (table(l), l.clone()));
    lines.join("\n")
}
