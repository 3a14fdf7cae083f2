//! Services, translated by kube-proxy in the host: first packets to a Service address go to the gateway,
//! come back with an endpoint's address, and only then meet egress policy, which is about endpoints.

use openflow::{Action, Flow, Match};

use super::priority::NORMAL;
use crate::{
    config::Network,
    cookie::Category,
    field::{Destination, Source, destination, output, source, target_port},
    table::Table,
};

/// Flows that hand pods' traffic to Service addresses to the host.
///
/// A Service whose endpoints are not pods (`kubernetes`, host-network pods) leaves the host without coming
/// back, so egress policy does not apply to it. Without a known Service CIDR egress policy applies to the
/// Service address itself.
pub fn service_cidrs(net: &Network) -> Vec<Flow> {
    let gw = &net.node.gateway;
    net.node
        .service_cidrs
        .iter()
        .map(|cidr| {
            let from_pod = Match::new().nw_dst(*cidr).bits(source(), Source::Pod as u128);
            net.flow(Category::Service, Table::DNAT, NORMAL, from_pod)
                .action(Action::set_eth_dst(gw.mac))
                .action(destination().load(Destination::Gateway as u128))
                .action(target_port().load(gw.ofport.into()))
                .action(output().load(1))
                .action(net.goto(Table::ConntrackCommit))
        })
        .collect()
}
