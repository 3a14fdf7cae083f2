//! The skeleton: sorting by protocol, what happens on a miss, switching of ARP and ND, the output.

use openflow::{Action, Flow, Match, PortNo};

use super::{
    Family, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_DISCOVERY, NEIGHBOUR_SOLICITATION, nd,
    priority::{HIGH, LOW, MISS, NORMAL},
};
use crate::{
    config::Network,
    cookie::Category,
    field::{Source, destination, output, source, source_destination, target_port},
    table::{Miss, Table},
};

/// Above the flow that lets a port's IP pass, below those that let its neighbour discovery pass.
const DROP_ND: u16 = 205;

/// Flows that depend on nothing but the set of tables.
pub fn base(net: &Network) -> Vec<Flow> {
    let flow = |table, priority, matches| net.flow(Category::Default, table, priority, matches);
    let mut flows: Vec<Flow> = net
        .pipeline
        .tables()
        .iter()
        .map(|&table| {
            let next = (table.miss() == Miss::Next).then(|| net.goto_next(table)).flatten();
            flow(table, MISS, Match::new()).actions(next)
        })
        .collect();

    // Pods and the host send untagged frames. A tag would take ARP into another VLAN of the switch.
    flows.push(flow(Table::PipelineRootClassifier, HIGH, Match::new().vlan_present()));
    for family in net.pipeline.families() {
        flows.push(
            flow(Table::PipelineRootClassifier, NORMAL, family.packets()).action(net.goto(Table::Classifier)),
        );
        let routed = |priority, matches: Match| flow(Table::L3DecTTL, priority, matches);
        // The host has decremented what it forwarded; pods of one node are neighbours.
        flows.push(
            routed(HIGH, family.packets().bits(source(), Source::Gateway as u128))
                .action(net.goto(Table::L2ForwardingCalc)),
        );
        flows.push(
            routed(HIGH, family.packets().bits(source_destination(), Source::Pod as u128))
                .action(net.goto(Table::L2ForwardingCalc)),
        );
        flows.push(
            routed(NORMAL, family.packets()).action(Action::DecTtl).action(net.goto(Table::L2ForwardingCalc)),
        );
        match family {
            Family::V4 => {
                flows.push(
                    flow(Table::PipelineRootClassifier, NORMAL, Match::new().arp())
                        .action(net.goto(Table::ARPSpoofGuard)),
                );
                flows.push(
                    flow(Table::ARPResponder, LOW, Match::new().arp()).action(Action::Output(PortNo::NORMAL)),
                );
            }
            Family::V6 => {
                for icmp_type in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
                    flows.push(
                        flow(Table::IPv6, NORMAL, nd(icmp_type)).action(Action::Output(PortNo::NORMAL)),
                    );
                }
                // What no port's own flows let pass: an advertisement addressed to a neighbour would
                // otherwise be forwarded like any IP packet and poison its cache.
                flows.extend(NEIGHBOUR_DISCOVERY.map(|icmp_type| {
                    flow(Table::SpoofGuard, DROP_ND, Match::new().icmp6().icmpv6_type(icmp_type))
                }));
            }
        }
    }
    flows.push(
        flow(Table::Output, NORMAL, Match::new().bits(output(), 1)).action(Action::output_reg(target_port())),
    );
    flows
}

/// Packets that go to a pod of this node.
pub(super) fn to_local(matches: Match) -> Match {
    matches.bits(destination(), 0)
}
