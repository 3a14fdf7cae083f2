//! A pod of this node: what it may send, and how to reach it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use openflow::{Action, CtState, Flow, MacAddr, Match};

use super::{
    NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION,
    base::to_local,
    nd,
    priority::{HIGH, LOW, NORMAL},
    proxy::to_itself,
};
use crate::{
    config::{Datapath, Network, PodInterface},
    cookie::Category,
    field::{HIGHEST_POD_PORT, Source, destination, output, service_client, source, target_port, to_service},
    table::{Stage, Table},
};

/// Flows of one pod.
pub fn pod(net: &Network, pod: &PodInterface) -> Vec<Flow> {
    let flow = |table, priority, matches| net.flow(Category::PodConnectivity, table, priority, matches);
    let from = || Match::new().in_port(pod.ofport).eth_src(pod.mac);
    let mut flows = vec![
        flow(Table::Classifier, LOW, Match::new().in_port(pod.ofport))
            .action(source().load(Source::Pod as u128))
            .action(net.goto(Table::SpoofGuard)),
        flow(Table::L2ForwardingCalc, NORMAL, to_local(Match::new().eth_dst(pod.mac)))
            .action(target_port().load(pod.ofport.into()))
            .action(output().load(1))
            .action(net.goto(Table::IngressSecurityClassifier)),
    ];
    let validated = net.pipeline.entry(Stage::Translation).unwrap_or(Table::ConntrackZone);
    for &ip in &pod.ips {
        flows.push(flow(Table::SpoofGuard, NORMAL, from().nw_src(ip)).action(net.goto(validated)));
        flows.extend(to_itself(net, pod, ip));
        flows.push(
            flow(Table::L3Forwarding, NORMAL, Match::new().nw_dst(ip))
                .action(Action::set_eth_dst(pod.mac))
                .action(net.goto(Table::L3DecTTL)),
        );
        flows.extend(own_service(net, pod, ip).map(|matches| {
            flow(Table::IngressSecurityClassifier, HIGH, matches).action(net.goto(Table::ConntrackCommit))
        }));
        match ip {
            IpAddr::V4(ip) => flows.push(
                flow(Table::ARPSpoofGuard, NORMAL, from().arp().arp_sha(pod.mac).arp_spa(ip))
                    .action(net.goto(Table::ARPResponder)),
            ),
            IpAddr::V6(ip) => {
                flows.extend(own_nd(pod.mac, ip).into_iter().map(|m| {
                    flow(Table::SpoofGuard, HIGH, m.in_port(pod.ofport)).action(net.goto(Table::IPv6))
                }))
            }
        }
    }
    flows
}

/// What the pod sent to itself through a Service: a pod can't be isolated from itself. The host's kube-proxy has
/// put the gateway's address in as the source; the mark says who sent it, and nobody else's packet has it. The
/// userspace datapath has no marks, and there the host's routing tells, as it does of processes of the host.
fn own_service(net: &Network, pod: &PodInterface, ip: IpAddr) -> Option<Match> {
    if net.node.datapath == Datapath::Userspace || pod.ofport > HIGHEST_POD_PORT {
        return None;
    }
    let gateway = net.node.gateway.ips.iter().find(|gateway| gateway.is_ipv4() == ip.is_ipv4())?;
    let from = Match::new().nw_src(*gateway).bits(source(), Source::Gateway as u128);
    Some(
        from.bits(destination(), 0)
            .bits(to_service(), 1)
            .bits(service_client(), pod.ofport.into())
            .bits(target_port(), pod.ofport.into())
            .ct_state(CtState::new().unset(CtState::RPL).set(CtState::TRK)),
    )
}

/// The neighbour discovery that an interface with this MAC address and global address may send: from and
/// about its own addresses, with its own or no link-layer address in it.
fn own_nd(mac: MacAddr, ip: Ipv6Addr) -> Vec<Match> {
    let link_local = link_local(mac);
    let mut matches = Vec::new();
    let lladdrs = [mac, MacAddr::default()];
    for src in [ip, link_local] {
        let from = |icmp_type| nd(icmp_type).eth_src(mac).nw_src(IpNet::from(IpAddr::from(src)));
        for ll in lladdrs {
            matches.push(from(NEIGHBOUR_SOLICITATION).nd_sll(ll));
            for target in [ip, link_local] {
                matches.push(from(NEIGHBOUR_ADVERTISEMENT).nd_target(target).nd_tll(ll));
            }
        }
    }
    // Duplicate address detection: no source yet, hence no link-layer option either (RFC 4861 §4.3).
    for target in [ip, link_local] {
        matches.push(
            nd(NEIGHBOUR_SOLICITATION)
                .eth_src(mac)
                .nw_src(IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED)))
                .nd_target(target)
                .nd_sll(MacAddr::default()),
        );
    }
    matches
}

/// The link-local address that the kernel forms from a MAC address (modified EUI-64, RFC 4291 app. A).
pub(crate) fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_is_eui64() {
        let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(link_local(mac), "fe80::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    }
}
