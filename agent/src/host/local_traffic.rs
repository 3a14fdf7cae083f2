//! How the host tells the userspace datapath which packets its own processes sent to this node's pods.
//!
//! No mark of the host gets into that datapath, but a MAC address does. mangle's OUTPUT marks what local processes
//! send ([`crate::host::network`]); a routing rule sends what is marked to a table of ours, whose routes lead to this
//! node's pods through a next hop with a MAC address of its own. The bridge exempts what comes to that address from
//! ingress policy, so nothing that the host merely forwards may get there: NodePort, hostPort and external addresses
//! are translated on the way in and routed by the main table.
//!
//! A pod's connection to itself through a Service is known by routing too: translated, it has the pod's address as
//! source and destination.
//!
//! Without mark, rule or route, packets take the main table: probes of isolated pods fail, and nothing else changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use antrea_flows::HOST_PROCESS_MAC;
use ipnet::IpNet;
use netcfg::nl::neigh::Neighbour;
use netcfg::{Family, MacAddr, Route, RoutingRule};

use crate::host::network::HOST_PROCESS_MARK;

/// Routing table, and place of the rules in the list: before the main table's at 32,766.
const TABLE: u32 = 21_730;

/// Next hop of each family; link-local, and no interface has it.
const NEXT_HOPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 250)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xa27e, 0xfe, 0x00fe)),
];

/// What has to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTraffic {
    /// Routing rules.
    pub rules: Vec<RoutingRule>,
    pub routes: Vec<Route>,
    /// Neighbours on the gateway link.
    pub neighbours: Vec<Neighbour>,
}

/// What tells of local processes and of pods that reach themselves, for these subnets of this node's pods, or ranges that
/// the bridge leads to pods, and addresses of pods.
pub fn desired(gateway: &str, gateway_link: u32, subnets: &[IpNet], pods: &[IpAddr]) -> LocalTraffic {
    let mut wanted = LocalTraffic::default();
    for (family, next_hop) in Family::BOTH.into_iter().zip(NEXT_HOPS) {
        let mut subnets = subnets.iter().filter(|net| Family::from(**net) == family).peekable();
        if subnets.peek().is_none() {
            continue;
        }
        wanted.neighbours.push(Neighbour { ip: next_hop, mac: MacAddr(HOST_PROCESS_MAC.0) });
        wanted
            .routes
            .extend(subnets.map(|net| Route::new(*net).via_onlink(next_hop).dev(gateway_link).table(TABLE)));
        wanted.rules.push(RoutingRule::new(family, TABLE, TABLE).mark(HOST_PROCESS_MARK, HOST_PROCESS_MARK));
        wanted.rules.extend(
            pods.iter()
                .map(|ip| IpNet::from(*ip))
                .filter(|ip| Family::from(*ip) == family)
                .map(|ip| RoutingRule::new(family, TABLE, TABLE).src(ip).dst(ip).in_iface(gateway)),
        );
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_a_rule_a_route_and_a_neighbour_and_each_pod_a_rule() {
        let subnets = ["10.244.1.0/24", "fd00:1::/64"].map(|net| net.parse().unwrap());
        let pods = ["10.244.1.7", "fd00:1::7"].map(|ip| ip.parse().unwrap());
        let LocalTraffic { rules, routes, neighbours } = desired("antrea-gw0", 7, &subnets, &pods);
        let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            [
                "21730: from all fwmark 0x80000000/0x80000000 lookup 21730 proto 173 (IPv4)",
                "21730: from 10.244.1.7/32 to 10.244.1.7/32 iif antrea-gw0 lookup 21730 proto 173 (IPv4)",
                "21730: from all fwmark 0x80000000/0x80000000 lookup 21730 proto 173 (IPv6)",
                "21730: from fd00:1::7/128 to fd00:1::7/128 iif antrea-gw0 lookup 21730 proto 173 (IPv6)",
            ]
        );
        assert_eq!(routes.len(), 2);
        assert!(routes.iter().all(|route| route.table == TABLE && route.onlink && route.dev == Some(7)));
        assert!(neighbours.iter().all(|neighbour| neighbour.mac == MacAddr(HOST_PROCESS_MAC.0)));
        assert_eq!(desired("antrea-gw0", 7, &subnets[..1], &[]).rules.len(), 1, "a family without pods");
    }
}
