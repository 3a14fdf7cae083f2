//! The tunnel port: other nodes.

use openflow::{Action, Flow};

use super::priority::{HIGH, NORMAL};
use crate::{
    config::Network,
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
            let back = Source::Tunnel as u128 | (Destination::Tunnel as u128) << 4;
            [
                // This node does not relay between its peers.
                flow(Table::L2ForwardingCalc, HIGH, family.packets().bits(source_destination(), back)),
                // To pods the sender is their gateway, whatever the frame in the tunnel says.
                flow(Table::Classifier, NORMAL, from.clone())
                    .action(source().load(Source::Tunnel as u128))
                    .action(Action::set_eth_src(net.node.gateway.mac))
                    .action(net.goto(Table::SpoofGuard)),
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
