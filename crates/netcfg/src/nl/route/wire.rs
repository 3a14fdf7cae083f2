//! Routes as netlink messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use nix::errno::Errno;

use super::*;
use crate::{NetcfgErrors, Netlink, Result};

impl Netlink {
    /// The routes that meet the filter, both families. Cached exceptions are left out.
    pub async fn routes(&self, filter: &RouteFilter) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::from(filter.proto.unwrap_or(0));
            if let Some(table) = filter.table {
                set_table(&mut message, table);
            }
            if let Some(dev) = filter.dev {
                message.attributes.push(RouteAttribute::Oif(dev));
            }
            match self.dump(RouteNetlinkMessage::GetRoute(message), || "list routes".to_owned()).await {
                // A kernel without IPv6 answers with all families that it has.
                Ok(answers) => routes.extend(
                    answers
                        .into_iter()
                        .filter_map(as_route)
                        .filter(|route| route.dst.addr().is_ipv4() == (family == AddressFamily::Inet))
                        .filter(|route| filter.matches(route)),
                ),
                // A table that never held a route, or a link that is gone.
                Err(e) if matches!(e.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(routes)
    }

    /// The route that packets of this host to `target` take (`ip route get`); `None` if there is no way, or one that drops.
    ///
    /// # Errors
    /// The kernel cannot say.
    pub async fn route_towards(&self, target: IpAddr) -> Result<Option<Route>> {
        let mut message = RouteMessage::default();
        (message.header.address_family, message.header.destination_prefix_length) = match target {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.attributes.push(RouteAttribute::Destination(target.into()));
        let what = || format!("find the way to {target}");
        let found = |answer| match answer {
            RouteNetlinkMessage::NewRoute(mut route) => {
                // What it finds is made for the question.
                route.header.flags.remove(RouteFlags::Cloned);
                route_of(&route)
            }
            _ => None,
        };
        match self.request(RouteNetlinkMessage::GetRoute(message), 0, what).await {
            // IPv6 answers with a route that drops, where IPv4 says by its error what becomes of packets.
            Ok(answers) => Ok(answers.into_iter().find_map(found).filter(|route| {
                matches!(route.kind, RouteKind::Unicast | RouteKind::Local) && route.dev.is_some()
            })),
            Err(e)
                if matches!(
                    e.errno(),
                    Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EACCES)
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Adds a route, or puts it in place of the one with the same table, destination and metric.
    pub async fn set_route(&self, route: &Route) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        self.request(message, NLM_F_CREATE | NLM_F_REPLACE, || format!("set route {route}")).await.map(drop)
    }

    /// Removes a route. Returns whether it was there.
    pub async fn remove_route(&self, route: &Route) -> Result<bool> {
        let message = RouteNetlinkMessage::DelRoute(route_message(route));
        match self.request(message, 0, || format!("remove route {route}")).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes the routes that meet `owned` the desired ones. Goes on after a failure.
    ///
    /// `owned` should carry a protocol number; desired routes should meet it, or they would be set anew every
    /// time.
    pub async fn apply_routes(
        &self,
        owned: &RouteFilter,
        desired: &[Route],
    ) -> Result<RouteDiff, NetcfgErrors> {
        let diff = diff_routes(&self.routes(owned).await?, desired);
        let mut errors = NetcfgErrors::new();
        for route in &diff.set {
            errors.check(self.set_route(route).await);
        }
        for route in &diff.remove {
            errors.check(self.remove_route(route).await);
        }
        errors.finish(diff)
    }
}

fn set_table(message: &mut RouteMessage, table: u32) {
    // Tables above 255 do not fit the header; RTA_TABLE overrides it.
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(table));
}

pub(super) fn route_message(route: &Route) -> RouteMessage {
    let route = route.normalized();
    let mut message = RouteMessage::default();
    message.header.address_family = match route.dst {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.protocol = RouteProtocol::from(route.proto);
    message.header.scope = match route.scope {
        None | Some(Scope::Universe) => RouteScope::Universe,
        Some(Scope::Link) => RouteScope::Link,
        Some(Scope::Host) => RouteScope::Host,
        Some(Scope::Other(n)) => RouteScope::from(n),
    };
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Local => RouteType::Local,
        RouteKind::Other(n) => RouteType::from(n),
    };
    set_table(&mut message, route.table);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    if let Some(via) = route.via {
        attributes.push(match (route.dst, via) {
            (IpNet::V4(_), IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
            _ => RouteAttribute::Gateway(via.into()),
        });
    }
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    if let Some(dev) = route.dev {
        attributes.push(RouteAttribute::Oif(dev));
    }
    if let Some(src) = route.src {
        attributes.push(RouteAttribute::PrefSource(src.into()));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(mtu) = route.mtu {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    message
}

fn as_route(message: RouteNetlinkMessage) -> Option<Route> {
    match message {
        RouteNetlinkMessage::NewRoute(message) => route_of(&message),
        _ => None,
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

pub(crate) fn route_of(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let dst = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    let mut route = Route::new(IpNet::new(dst.unwrap_or(any), header.destination_prefix_length).ok()?);
    route.table = u32::from(header.table);
    route.proto = header.protocol.into();
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    route.scope = Some(match header.scope {
        RouteScope::Universe => Scope::Universe,
        RouteScope::Link => Scope::Link,
        RouteScope::Host => Scope::Host,
        other => Scope::Other(other.into()),
    });
    route.kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Local => RouteKind::Local,
        other => RouteKind::Other(other.into()),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Oif(dev) => route.dev = Some(*dev),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.src = ip_of(address),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => route.via = gateway_of(attribute),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => match hops.as_slice() {
                [hop] => {
                    route.dev = Some(hop.interface_index);
                    route.onlink |= hop.flags.contains(RouteNextHopFlags::Onlink);
                    route.via = hop.attributes.iter().find_map(gateway_of);
                }
                _ => route.multipath = true,
            },
            _ => {}
        }
    }
    Some(route)
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    }
}
