//! Another node: how to reach its pods.

use std::net::IpAddr;

use openflow::{Action, Field, Flow, Match, PortNo, SubField};

use super::{gateway::to_gateway, node_access::to_peer, priority::NORMAL, tunnel::from_peer};
use crate::{
    config::{Network, Peer, TunnelKind, VIRTUAL_MAC, Via, tunnel_mac},
    cookie::Category,
    field::{Destination, Source, destination, source},
    table::Table,
};

/// Flows of one peer. A peer that is to be reached through the tunnel has none while this node has no tunnel.
pub fn peer(net: &Network, peer: &Peer) -> Vec<Flow> {
    let flow = |table, matches| net.flow(Category::PodConnectivity, table, NORMAL, matches);
    let route = |cidr: &ipnet::IpNet| flow(Table::L3Forwarding, Match::new().nw_dst(*cidr));
    // Also of one that is reached by routing: it may see the way to this node otherwise.
    let accepted = net.node.tunnel.map(|tunnel| from_peer(net, tunnel, &peer.addresses)).unwrap_or_default();
    let mut flows: Vec<Flow> = match (peer.via, net.node.tunnel) {
        (Via::Direct, _) => peer
            .pod_cidrs
            .iter()
            .map(|cidr| {
                let from_pod = Match::new().nw_dst(*cidr).bits(source(), Source::Pod as u128);
                to_gateway(net, flow(Table::L3Forwarding, from_pod))
            })
            .collect(),
        (Via::Tunnel { .. }, None) => Vec::new(),
        (Via::Tunnel { transport_ip }, Some(tunnel)) => {
            let routes = peer.pod_cidrs.iter().map(|cidr| {
                let flow = route(cidr).action(Action::set_eth_src(net.node.gateway.mac));
                let flow = match tunnel.kind {
                    TunnelKind::FlowBased => flow
                        .action(Action::set_eth_dst(VIRTUAL_MAC))
                        .action(Action::set_tun_src(tunnel.local))
                        .action(Action::set_tun_dst(transport_ip)),
                    TunnelKind::KernelVxlan => flow.action(Action::set_eth_dst(tunnel_mac(transport_ip))),
                };
                flow.action(destination().load(Destination::Tunnel as u128)).action(net.goto(Table::L3DecTTL))
            });
            let arp = peer.gateway_ips.iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => {
                    let request = Match::new().arp().arp_op(1).arp_tpa(*ip);
                    Some(answer(flow(Table::ARPResponder, request), *ip))
                }
                // The host has a permanent neighbour entry for IPv6 peers.
                IpAddr::V6(_) => None,
            });
            let served = peer.pod_cidrs.iter().flat_map(|cidr| to_peer(net, *cidr));
            routes.chain(arp).chain(served).collect()
        }
    };
    flows.extend(accepted);
    flows
}

/// Turns an ARP request for `ip` into a reply that says [`VIRTUAL_MAC`], and sends it back.
fn answer(request: Flow, ip: std::net::Ipv4Addr) -> Flow {
    let copy = |src, dst| Action::Move { src: SubField::whole(src), dst: SubField::whole(dst) };
    let mac = SubField::whole(Field::ArpSha).load(mac_value(VIRTUAL_MAC));
    request
        .action(copy(Field::EthSrc, Field::EthDst))
        .action(Action::set_eth_src(VIRTUAL_MAC))
        .action(Action::set_field(Field::ArpOp, 2))
        .action(copy(Field::ArpSha, Field::ArpTha))
        .action(mac)
        .action(copy(Field::ArpSpa, Field::ArpTpa))
        .action(Action::set_field(Field::ArpSpa, ip.to_bits().into()))
        .action(Action::Output(PortNo::IN_PORT))
}

fn mac_value(mac: openflow::MacAddr) -> u128 {
    mac.0.iter().fold(0, |value, octet| value << 8 | u128::from(*octet))
}
