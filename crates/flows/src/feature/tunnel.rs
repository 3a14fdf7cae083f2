//! The tunnel port: other nodes.
//!
//! A flow-based tunnel tells who sent a packet, and only what a peer sent passes ([`from_peer`]). A kernel VXLAN device
//! does not; there the host's firewall judges before the device does.

use std::net::IpAddr;

use openflow::{Action, Flow, Match};

use super::{
    Family,
    priority::{HIGH, LOW, NORMAL},
};
use crate::{
    config::{Network, Tunnel, TunnelKind},
    cookie::Category,
    field::{Destination, Source, destination, output, source, source_destination, target_port},
    table::Table,
};

/// Flows of the tunnel port as such; none without a tunnel. Peers are [`crate::peer`].
pub fn tunnel(net: &Network) -> Vec<Flow> {
    let Some(tunnel) = net.node.tunnel else { return Vec::new() };
    let flow = |table, priority, matches| net.flow(Category::PodConnectivity, table, priority, matches);
    net.pipeline
        .families()
        .flat_map(|family| {
            let from = family.packets().in_port(tunnel.ofport);
            let accepted = match tunnel.kind {
                // No more than the miss does, but with a counter of its own.
                TunnelKind::FlowBased => flow(Table::Classifier, LOW, from.clone()),
                TunnelKind::KernelVxlan => accept(net, from.clone()),
            };
            let back = Source::Tunnel as u128 | (Destination::Tunnel as u128) << 4;
            [
                // This node does not relay between its peers.
                flow(Table::L2ForwardingCalc, HIGH, family.packets().bits(source_destination(), back)),
                accepted,
                // The sending node has checked its pods.
                flow(Table::SpoofGuard, NORMAL, from).action(net.goto(Table::ConntrackZone)),
                flow(
                    Table::L2ForwardingCalc,
                    NORMAL,
                    family.packets().bits(destination(), Destination::Tunnel as u128),
                )
                .action(target_port().load(tunnel.ofport.into()))
                .action(output().load(1))
                .action(net.goto(Table::IngressSecurityClassifier)),
            ]
        })
        .collect()
}

/// Takes packets of the tunnel in. To pods their sender is the gateway, whatever the frame in the tunnel says.
fn accept(net: &Network, from: Match) -> Flow {
    net.flow(Category::PodConnectivity, Table::Classifier, NORMAL, from)
        .action(source().load(Source::Tunnel as u128))
        .action(Action::set_eth_src(net.node.gateway.mac))
        .action(net.goto(Table::SpoofGuard))
}

/// Takes in what a peer sends from one of these addresses, where the tunnel tells.
pub(super) fn from_peer(net: &Network, tunnel: Tunnel, addresses: &[IpAddr]) -> Vec<Flow> {
    if tunnel.kind != TunnelKind::FlowBased {
        return Vec::new();
    }
    let from = |family: Family, address: &IpAddr| {
        let port = family.packets().in_port(tunnel.ofport);
        match *address {
            IpAddr::V4(ip) => port.tun_src(ip),
            IpAddr::V6(ip) => port.tun_ipv6_src(ip),
        }
    };
    let of_family = |family| addresses.iter().map(move |address| accept(net, from(family, address)));
    net.pipeline.families().flat_map(of_family).collect()
}
