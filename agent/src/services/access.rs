//! What the host hands to the bridge where the bridge serves everybody, as it follows from what Services are reached by.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use antrea_flows::{NODE_PORT_V4, NODE_PORT_V6};
use antrea_proxy::{Frontend, Name, Own, Served};
use ipnet::IpNet;

/// What comes to the host and is the bridge's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Node ports, and ports of Services at addresses that the node itself has.
    pub ports: BTreeSet<Frontend>,
    /// Addresses of Services outside of the cluster's ranges, whoever else has them.
    pub addresses: BTreeSet<IpAddr>,
}

/// What stands for the node's addresses in these families.
pub(super) fn stand_ins(subnets: &[IpNet]) -> Vec<IpAddr> {
    let both = [IpAddr::V4(NODE_PORT_V4), IpAddr::V6(NODE_PORT_V6)];
    both.into_iter().filter(|ip| subnets.iter().any(|net| net.addr().is_ipv4() == ip.is_ipv4())).collect()
}

/// Whether it stands for the node's addresses.
pub(super) fn is_stand_in(ip: IpAddr) -> bool {
    ip == IpAddr::V4(NODE_PORT_V4) || ip == IpAddr::V6(NODE_PORT_V6)
}

/// The part of each Service.
#[derive(Debug, Default)]
pub(super) struct Parts {
    ranges: Vec<IpNet>,
    /// What the node itself cannot do without, whoever gives it to a Service.
    api_server: Option<IpAddr>,
    parts: HashMap<Name, Access>,
    whole: Access,
    dirty: bool,
}

impl Parts {
    /// Without any, in a cluster with these ranges of Services and this address of its API server, where the host hands on
    /// `before`.
    pub(super) fn new(ranges: Vec<IpNet>, api_server: Option<IpAddr>, before: Access) -> Self {
        Self { ranges, api_server, whole: before, dirty: true, ..Self::default() }
    }

    /// Takes in what a Service is served with now.
    pub(super) fn set(&mut self, name: &Name, served: &Served, own: &Own) {
        let mut part = Access::default();
        for frontend in served.reached.values().flatten() {
            if own.addresses.contains(&frontend.ip) {
                part.ports.insert(*frontend);
            } else if !is_stand_in(frontend.ip)
                && self.api_server != Some(frontend.ip)
                && !self.ranges.iter().any(|net| net.contains(&frontend.ip))
            {
                part.addresses.insert(frontend.ip);
            }
        }
        let before = if part == Access::default() {
            self.parts.remove(name).unwrap_or_default()
        } else {
            self.parts.insert(name.clone(), part.clone()).unwrap_or_default()
        };
        self.dirty |= before != part;
    }

    /// The whole, if it is another than the last time, or than before.
    pub(super) fn changed(&mut self) -> Option<Access> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut whole = Access::default();
        for part in self.parts.values() {
            whole.ports.extend(&part.ports);
            whole.addresses.extend(&part.addresses);
        }
        (whole != self.whole).then(|| {
            self.whole.clone_from(&whole);
            whole
        })
    }
}

#[cfg(test)]
mod tests {
    use antrea_proxy::Protocol;

    use super::*;

    fn served(ips: &[&str]) -> Served {
        let frontend = |ip: &&str| Frontend { ip: ip.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        let reached = [(256, ips.iter().map(frontend).collect())].into();
        Served { reached, ..Served::default() }
    }

    #[test]
    fn each_address_goes_where_the_host_can_hand_it_on() {
        let own = Own {
            addresses: vec!["192.0.2.11".parse().unwrap()],
            stand_ins: stand_ins(&["10.244.1.0/24".parse().unwrap()]),
        };
        assert_eq!(own.stand_ins, [IpAddr::V4(NODE_PORT_V4)]);
        let api_server = Some("203.0.113.8".parse().unwrap());
        let mut parts = Parts::new(vec!["10.96.0.0/12".parse().unwrap()], api_server, Access::default());
        let web: Name = "default/web".into();
        let ips = ["10.96.0.1", "192.0.2.11", "169.254.0.252", "203.0.113.7", "203.0.113.8"];
        parts.set(&web, &served(&ips), &own);
        let whole = parts.changed().unwrap();
        let at: Vec<IpAddr> = whole.ports.iter().map(|frontend| frontend.ip).collect();
        assert_eq!(at, own.addresses);
        assert_eq!(whole.addresses, BTreeSet::from(["203.0.113.7".parse().unwrap()]));
        assert_eq!(parts.changed(), None, "nothing new");
        parts.set(&web, &served(&ips[..1]), &own);
        assert_eq!(parts.changed(), Some(Access::default()), "the cluster's ranges are routed as a whole");
    }

    #[test]
    fn what_was_handed_on_before_and_is_nobodys_any_more_goes() {
        let ports =
            [Frontend { ip: "192.0.2.11".parse().unwrap(), protocol: Protocol::Tcp, port: 30_000 }].into();
        let before = Access { ports, ..Access::default() };
        let mut parts = Parts::new(Vec::new(), None, before);
        assert_eq!(parts.changed(), Some(Access::default()));
        assert_eq!(parts.changed(), None);
    }
}
