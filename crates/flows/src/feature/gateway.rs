//! The gateway port: the host's network stack.

use std::net::IpAddr;

use openflow::{Action, CtState, Flow, Match, PortNo};

use super::{
    Family, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, nd,
    priority::{HIGH, LOW, NORMAL},
};
use crate::{
    config::{Datapath, HOST_PROCESS_MAC, Network},
    cookie::Category,
    field::{
        Destination, Source, ct_source, destination, from_outside, host_process_frame, output, source,
        target_port,
    },
    table::{Stage, Table},
};

/// Below the flows of this node's pods and peers, above the default route.
const UNKNOWN_POD: u16 = 195;

/// Above what comes by the gateway, below what is known to be of a process of the node.
const OWN: u16 = NORMAL + 5;

/// EtherType of the agent's self-test frames: IEEE 802 local experimental 1.
pub const SELF_TEST_ETHERTYPE: u16 = 0x88b5;

/// Flows between the bridge and the host.
pub fn gateway(net: &Network) -> Vec<Flow> {
    let gw = &net.node.gateway;
    let flow = |table, priority, matches| net.flow(Category::PodConnectivity, table, priority, matches);
    let mut flows = Vec::new();
    // A frame of the agent's self-test goes back to where it came from.
    flows.push(
        flow(
            Table::PipelineRootClassifier,
            NORMAL,
            Match::new().in_port(gw.ofport).eth_type(SELF_TEST_ETHERTYPE),
        )
        .action(Action::Output(PortNo::IN_PORT)),
    );
    for ip in &gw.ips {
        if let IpAddr::V4(v4) = ip {
            flows.push(
                flow(
                    Table::ARPSpoofGuard,
                    NORMAL,
                    Match::new().arp().in_port(gw.ofport).eth_src(gw.mac).arp_sha(gw.mac).arp_spa(*v4),
                )
                .action(net.goto(Table::ARPResponder)),
            );
        }
        flows.push(to_gateway(net, flow(Table::L3Forwarding, HIGH, Match::new().nw_dst(*ip))));
    }
    for family in net.pipeline.families() {
        let from = family.packets().in_port(gw.ofport);
        let serves_all = net.node.serves_all;
        flows.push(
            flow(Table::Classifier, NORMAL, from.clone())
                .action(source().load(Source::Gateway as u128))
                .actions(serves_all.then(|| from_outside().load(1)))
                .action(net.goto(Table::SpoofGuard)),
        );
        // What the node itself sends has the gateway's address, by its routes or by its masquerading.
        let own = gw.ips.iter().filter(|ip| serves_all && ip.is_ipv4() == (family == Family::V4));
        flows.extend(own.map(|ip| {
            flow(Table::Classifier, OWN, from.clone().nw_src(*ip))
                .action(source().load(Source::Gateway as u128))
                .action(net.goto(Table::SpoofGuard))
        }));
        if net.node.datapath == Datapath::Userspace {
            flows.push(
                flow(Table::Classifier, HIGH, from.clone().eth_dst(HOST_PROCESS_MAC))
                    .action(source().load(Source::Gateway as u128))
                    .action(host_process_frame().load(1))
                    .action(net.goto(Table::SpoofGuard)),
            );
        }
        // The host is a router: any source may come from it.
        let services = net.pipeline.entry(Stage::Translation).filter(|_| serves_all);
        let next = services.unwrap_or(Table::ConntrackZone);
        flows.push(flow(Table::SpoofGuard, NORMAL, from).action(net.goto(next)));
        if family == Family::V6 {
            for icmp_type in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
                flows.push(
                    flow(Table::SpoofGuard, HIGH, nd(icmp_type).in_port(gw.ofport).eth_src(gw.mac))
                        .action(net.goto(Table::IPv6)),
                );
            }
        }
        // Replies go back the way the request came: the host may have translated it (Services, host
        // ports), and the peer of the connection can even be a pod of this node.
        let reply = CtState::new().set(CtState::RPL | CtState::TRK);
        flows.push(to_gateway(
            net,
            flow(
                Table::L3Forwarding,
                HIGH,
                family.packets().ct_state(reply).bits(ct_source(), Source::Gateway as u128),
            ),
        ));
        // The default route, for what pods really sent to their gateway. A frame that carries a foreign
        // destination IP to a neighbour's MAC address or to a group address ends here.
        flows.push(to_gateway(
            net,
            flow(
                Table::L3Forwarding,
                LOW,
                family.packets().eth_dst(gw.mac).bits(source(), Source::Pod as u128),
            ),
        ));
        flows.push(
            flow(
                Table::L2ForwardingCalc,
                NORMAL,
                family.packets().bits(destination(), Destination::Gateway as u128),
            )
            .action(target_port().load(gw.ofport.into()))
            .action(output().load(1))
            .action(net.goto(Table::IngressSecurityClassifier)),
        );
    }
    flows.extend(
        net.node
            .pod_cidrs
            .iter()
            .map(|cidr| flow(Table::L3Forwarding, UNKNOWN_POD, Match::new().nw_dst(*cidr))),
    );
    flows
}

/// Ends a routing flow that hands packets to the host. The host decrements the hop limit itself.
pub(super) fn to_gateway(net: &Network, flow: Flow) -> Flow {
    flow.action(Action::set_eth_dst(net.node.gateway.mac))
        .action(destination().load(Destination::Gateway as u128))
        .action(net.goto(Table::L2ForwardingCalc))
}
