//! Services, translated by kube-proxy in the host: first packets to a Service address go to the gateway,
//! come back with an endpoint's address, and only then meet egress policy, which is about endpoints.

use openflow::{Action, Flow, Match};

use super::priority::NORMAL;
use crate::{
    config::{Datapath, Network},
    cookie::Category,
    field::{
        Destination, Source, client_port, destination, output, service_client, source, target_port,
        to_service,
    },
    table::Table,
};

/// Flows that hand pods' traffic to Service addresses to the host.
///
/// What the host translates to something that is no pod (`kubernetes`, host-network pods) leaves it without coming
/// back: there the host's rules judge it. Without a known Service CIDR egress policy applies to the Service address
/// itself.
///
/// On the kernel datapath the host passes a packet's mark on, so that a pod's connection to itself is known
/// when it comes back with the gateway's address (see [`super::pod`]).
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
                .actions(mark_client(net))
                .action(net.goto(Table::ConntrackCommit))
        })
        .collect()
}

fn mark_client(net: &Network) -> Vec<Action> {
    match net.node.datapath {
        Datapath::Kernel => {
            let client = Action::Move { src: client_port(), dst: service_client() };
            vec![to_service().load(1), client]
        }
        Datapath::Userspace => Vec::new(),
    }
}
