//! Routes, owned by protocol number.

mod wire;

pub(crate) use wire::route_of;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::route::RouteHeader;

/// The main routing table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Protocol number (`rtm_protocol`) of routes, rules and neighbours made by this project; in no registry
/// (`/etc/iproute2/rt_protos`) so far. Only what carries it is ever removed.
pub const ANTREA_PROTOCOL: u8 = 173;
/// The metric the kernel gives an IPv6 route that asks for 0 (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// How far away a destination is (`rtm_scope`, IPv4 only; the kernel ignores it for IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Behind a gateway.
    Universe,
    /// On the link itself.
    Link,
    /// On this host.
    Host,
    /// Any other, by number.
    Other(u8),
}

/// What happens to packets that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RouteKind {
    /// Forwarded.
    #[default]
    Unicast,
    /// Dropped in silence.
    Blackhole,
    /// Rejected as unreachable.
    Unreachable,
    /// For this host itself.
    Local,
    /// Any other, by its `RTN_*` number (broadcast, prohibit, …).
    Other(u8),
}

/// A route. [`fmt::Display`] follows `ip route`, with the device as `#INDEX`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destination; `0.0.0.0/0` or `::/0` is the default route.
    pub dst: IpNet,
    /// Metric (`RTA_PRIORITY`); IPv6 turns 0 into 1024.
    pub metric: u32,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Output link's index.
    pub dev: Option<u32>,
    /// The gateway is on the link even if no address of ours says so.
    pub onlink: bool,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Path MTU in octets.
    pub mtu: Option<u32>,
    /// Scope; `None` derives it as `ip route` does: link without a gateway, else universe.
    pub scope: Option<Scope>,
    /// Action.
    pub kind: RouteKind,
    /// Protocol number of the owner.
    pub proto: u8,
    /// Set by the kernel's listing on routes with several next hops, which this crate does not make: such a
    /// route never equals a desired one.
    pub multipath: bool,
}

impl Route {
    /// A unicast route in the main table, owned by this project.
    pub fn new(dst: IpNet) -> Self {
        Self {
            table: MAIN_TABLE,
            dst,
            metric: 0,
            via: None,
            dev: None,
            onlink: false,
            src: None,
            mtu: None,
            scope: None,
            kind: RouteKind::Unicast,
            proto: ANTREA_PROTOCOL,
            multipath: false,
        }
    }

    /// The default route of a family.
    pub fn default_v4() -> Self {
        Self::new(IpNet::V4(Ipv4Net::default()))
    }

    /// The IPv6 default route.
    pub fn default_v6() -> Self {
        Self::new(IpNet::V6(Ipv6Net::default()))
    }

    /// Through a gateway.
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self
    }

    /// Through a gateway that is taken to be on the link.
    pub fn via_onlink(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self.onlink = true;
        self
    }

    /// Out of a link.
    pub fn dev(mut self, index: u32) -> Self {
        self.dev = Some(index);
        self
    }

    /// Preferred source address.
    pub fn src(mut self, src: IpAddr) -> Self {
        self.src = Some(src);
        self
    }

    /// In a table other than main.
    pub fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    /// With a path MTU in octets.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// With this metric: of routes to one destination the lowest counts.
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = metric;
        self
    }

    /// With this scope; without one the kernel's usual one for such a route.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// With an action.
    pub fn kind(mut self, kind: RouteKind) -> Self {
        self.kind = kind;
        self
    }

    /// Owned by another protocol number.
    pub fn proto(mut self, proto: u8) -> Self {
        self.proto = proto;
        self
    }

    /// The form in which the kernel would report this route.
    pub fn normalized(&self) -> Self {
        let mut route = self.clone();
        route.dst = route.dst.trunc();
        match route.dst {
            IpNet::V4(_) => {
                let derived = match route.kind {
                    RouteKind::Unicast if route.via.is_none() => Scope::Link,
                    _ => Scope::Universe,
                };
                route.scope = Some(route.scope.unwrap_or(derived));
            }
            IpNet::V6(_) => {
                route.scope = Some(Scope::Universe);
                if route.metric == 0 {
                    route.metric = IPV6_DEFAULT_METRIC;
                }
            }
        }
        if route.kind != RouteKind::Unicast {
            // The kernel hangs IPv6 reject routes on lo and gives IPv4 ones no device.
            route.dev = None;
        }
        route
    }

    /// What makes two routes compete for one place in the kernel's table.
    fn key(&self) -> (u32, IpNet, u32) {
        (self.table, self.dst, self.metric)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Local => f.write_str("local ")?,
            RouteKind::Other(n) => write!(f, "type {n} ")?,
        }
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = self.dev {
            write!(f, " dev #{dev}")?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        match self.scope {
            Some(Scope::Link) => f.write_str(" scope link")?,
            Some(Scope::Host) => f.write_str(" scope host")?,
            Some(Scope::Other(n)) => write!(f, " scope {n}")?,
            Some(Scope::Universe) | None => {}
        }
        write!(f, " proto {}", self.proto)
    }
}

/// Which routes to read: all conditions given have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    pub table: Option<u32>,
    /// With this protocol number.
    pub proto: Option<u8>,
    /// Out of this link.
    pub dev: Option<u32>,
}

impl RouteFilter {
    /// All routes of this project, in every table.
    pub fn owned() -> Self {
        Self { proto: Some(ANTREA_PROTOCOL), ..Self::default() }
    }

    /// Restricts to a table.
    pub fn table(mut self, table: u32) -> Self {
        self.table = Some(table);
        self
    }

    /// Restricts to a link.
    pub fn dev(mut self, index: u32) -> Self {
        self.dev = Some(index);
        self
    }

    /// Whether the route meets the conditions.
    pub fn matches(&self, route: &Route) -> bool {
        self.table.is_none_or(|t| t == route.table)
            && self.proto.is_none_or(|p| p == route.proto)
            && self.dev.is_none_or(|d| route.dev == Some(d))
    }
}

/// What has to change for the owned routes to be the desired ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteDiff {
    /// To be added, or put in place of the route with the same table, destination and metric; directly
    /// connected ones first, since gateways are looked up through them.
    pub set: Vec<Route>,
    /// To be removed.
    pub remove: Vec<Route>,
}

impl RouteDiff {
    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// Compares the owned routes that exist with the desired ones. Of several desired routes for one table,
/// destination and metric the last counts.
pub fn diff_routes(existing: &[Route], desired: &[Route]) -> RouteDiff {
    let mut want: BTreeMap<_, _> =
        desired.iter().map(Route::normalized).map(|route| (route.key(), route)).collect();
    let mut have: BTreeMap<_, Vec<Route>> = BTreeMap::new();
    for route in existing.iter().map(Route::normalized) {
        have.entry(route.key()).or_default().push(route);
    }
    let mut remove = Vec::new();
    for (key, mut routes) in have {
        if let Some(wanted) = want.get(&key) {
            match routes.iter().position(|route| route == wanted) {
                Some(in_place) => {
                    routes.remove(in_place);
                    want.remove(&key);
                }
                // The wanted route takes the place of the first; further ones (`ip route append`) have to go.
                None => {
                    routes.remove(0);
                }
            }
        }
        remove.append(&mut routes);
    }
    let mut set: Vec<_> = want.into_values().collect();
    set.sort_by_key(|route| (route.via.is_some(), route.key()));
    RouteDiff { set, remove }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{wire::route_message, *};

    fn route() -> impl Strategy<Value = Route> {
        let dst = prop_oneof![
            (0u8..4).prop_map(|i| IpNet::new(IpAddr::from([10, 0, i, 0]), 24).unwrap()),
            (0u16..4).prop_map(|i| IpNet::new(IpAddr::from([0xfd00, i, 0, 0, 0, 0, 0, 0]), 64).unwrap()),
        ];
        (dst, 0u8..3, 1u32..3, any::<bool>(), prop::option::of(1400u32..1402), 253u32..255).prop_map(
            |(dst, gateway, dev, onlink, mtu, table)| {
                let mut route = Route::new(dst).dev(dev).table(table);
                if gateway > 0 {
                    route.via = Some(match dst {
                        IpNet::V4(_) => IpAddr::from([10, 9, 9, gateway]),
                        IpNet::V6(_) => IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, u16::from(gateway)]),
                    });
                    route.onlink = onlink;
                }
                route.mtu = mtu;
                route
            },
        )
    }

    /// The kernel's behaviour: replace takes the first route of the key, or adds.
    fn apply(table: &mut Vec<Route>, diff: &RouteDiff) {
        for route in &diff.set {
            match table.iter_mut().find(|r| r.key() == route.key()) {
                Some(slot) => *slot = route.clone(),
                None => table.push(route.clone()),
            }
        }
        for route in &diff.remove {
            let at = table.iter().position(|r| r == route).expect("must be there to be removed");
            table.remove(at);
        }
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_desired_state(
            have in prop::collection::vec(route(), 0..10),
            want in prop::collection::vec(route(), 0..10),
        ) {
            let mut table: Vec<Route> = have.iter().map(Route::normalized).collect();
            apply(&mut table, &diff_routes(&have, &want));
            let mut expected: BTreeMap<_, Route> = BTreeMap::new();
            for route in want.iter().map(Route::normalized) {
                expected.insert(route.key(), route);
            }
            table.sort();
            let mut expected: Vec<_> = expected.into_values().collect();
            expected.sort();
            prop_assert_eq!(&table, &expected);
            prop_assert!(diff_routes(&table, &want).is_empty());
        }

        #[test]
        fn messages_carry_the_whole_route(route in route()) {
            prop_assert_eq!(route_of(&route_message(&route)), Some(route.normalized()));
        }
    }

    #[test]
    fn connected_routes_come_before_those_that_need_them() {
        let net: IpNet = "10.1.0.0/24".parse().unwrap();
        let hop: IpNet = "10.9.0.1/32".parse().unwrap();
        let through = Route::new(net).via(hop.addr()).dev(2);
        let connected = Route::new(hop).dev(2);
        let diff = diff_routes(&[], &[through.clone(), connected.clone()]);
        assert_eq!(diff.set, vec![connected.normalized(), through.normalized()]);
    }

    #[test]
    fn text_is_that_of_ip_route() {
        let mut route = Route::new("10.1.0.0/24".parse().unwrap())
            .via_onlink("10.1.0.1".parse().unwrap())
            .dev(7)
            .mtu(1400)
            .table(101);
        assert_eq!(route.to_string(), "10.1.0.0/24 via 10.1.0.1 dev #7 onlink table 101 mtu 1400 proto 173");
        route = Route::default_v6().kind(RouteKind::Unreachable);
        assert_eq!(route.normalized().to_string(), "unreachable ::/0 metric 1024 proto 173");
    }
}
