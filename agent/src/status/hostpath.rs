//! `/hostpath`: what the node's own network stack does with packets between two ends, for `antctl explain`: routes with the
//! neighbours that they lead to, connections that are tracked, and what kube-proxy's rules do with a Service. It only reads.
//!
//! `?from=IP&protocol=tcp` with `to=IP,…` for the ends whose connections are looked for, `routes=IP,…` for the addresses
//! whose ways are, `service=IP` and `port=N` for a Service. One question is answered at a time, in seconds at most.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antrea_api::agent::{HostLink, HostNeighbour, HostPath, HostRoute, TrackedConnection};
use antrea_flows::Family;
use antrea_flows::policy::Protocol;
use apiserver_kit::status::Failure;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use netcfg::{MacAddr, RouteKind, conntrack};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::ovs::bridge::Datapath;
use crate::ovs::tracked::TrackedIn;
use crate::pods::network::NodeNetwork;
use crate::pods::server::NetworkState;

mod kube_proxy;

/// Addresses that a question may be about.
const ADDRESSES: usize = 16;

/// Connections that are told.
const CONNECTIONS: usize = 16;

/// Connections of the userspace datapath that are looked through: while it tells, ovs-vswitchd does nothing else.
const TRACKED: u64 = 50_000;

/// How long a question waits for others to be answered.
const TURN: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Shared {
    network: NetworkState,
    ovs_run_dir: Arc<Path>,
    turn: Arc<Semaphore>,
}

/// The route.
pub(super) fn routes(network: NetworkState, ovs_run_dir: &Path) -> Router {
    let turn = Arc::new(Semaphore::new(1));
    let shared = Shared { network, ovs_run_dir: ovs_run_dir.into(), turn };
    Router::new().route("/hostpath", get(host_path)).with_state(shared)
}

/// The query.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    from: String,
    to: String,
    routes: String,
    protocol: String,
    service: String,
    port: String,
}

/// The same, read.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    from: Option<IpAddr>,
    to: BTreeSet<IpAddr>,
    routes: BTreeSet<IpAddr>,
    protocol: Protocol,
    service: Option<SocketAddr>,
}

impl Wanted {
    fn read(asked: &Asked) -> Result<Self, Failure> {
        let protocol = match asked.protocol.as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            "icmp" => Protocol::Icmp,
            other => {
                return Err(Failure::bad_request(format!("protocol {other}: tcp, udp, sctp or icmp")));
            }
        };
        let address = |field: &str, text: &str| {
            text.parse::<IpAddr>().map_err(|_| Failure::bad_request(format!("{field} {text}: no address")))
        };
        let one = |field: &str, text: &str| match text {
            "" => Ok(None),
            text => address(field, text).map(Some),
        };
        let many = |field: &str, text: &str| -> Result<BTreeSet<IpAddr>, Failure> {
            let words = || text.split(',').filter(|word| !word.is_empty());
            if words().count() > ADDRESSES {
                return Err(Failure::bad_request(format!("{field}: more than {ADDRESSES} addresses")));
            }
            words().map(|word| address(field, word)).collect()
        };
        let service = one("service", &asked.service)?;
        let port = || match asked.port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(Failure::bad_request(format!("port {}: 1 to 65535", asked.port))),
        };
        Ok(Self {
            from: one("from", &asked.from)?,
            to: many("to", &asked.to)?,
            routes: many("routes", &asked.routes)?,
            protocol,
            service: match service {
                Some(ip) => Some(SocketAddr::new(ip, port()?)),
                None => None,
            },
        })
    }
}

async fn host_path(
    State(shared): State<Shared>,
    Query(asked): Query<Asked>,
) -> Result<Json<HostPath>, Failure> {
    let wanted = Wanted::read(&asked)?;
    let network = shared.network.borrow().clone();
    let network = network.ok_or_else(|| Failure::unavailable("the node's network is not up yet"))?;
    let busy = || Failure::unavailable("others ask for paths: try again");
    let _turn = tokio::time::timeout(TURN, shared.turn.acquire()).await.map_err(|_| busy())?;
    let mut path = HostPath::default();
    for to in &wanted.routes {
        match route(&network, *to).await {
            Ok(route) => path.routes.push(route),
            Err(error) => path.unknown.push(format!("the route to {to}: {error}")),
        }
    }
    connections(&network, &shared.ovs_run_dir, &wanted, &mut path).await;
    if let Some(service) = wanted.service {
        match kube_proxy::rules(wanted.protocol, service).await {
            Ok(rules) => path.service = Some(rules),
            Err(why) => path.unknown.push(format!("the rules for {service}: {why}")),
        }
    }
    Ok(Json(path))
}

async fn route(network: &NodeNetwork, to: IpAddr) -> netcfg::Result<HostRoute> {
    let netlink = &network.netlink;
    let mut told = HostRoute { to, link: None, via: None, source: None, local: false, neighbour: None };
    let Some(route) = netlink.route_towards(to).await? else { return Ok(told) };
    let Some(index) = route.dev else { return Ok(told) };
    // It may have gone just now.
    let Some(link) = netlink.link(index).await? else { return Ok(told) };
    let gateway = MacAddr(network.dataplane.network().node.gateway.mac.0);
    told.via = route.via;
    told.source = route.src;
    told.local = route.kind == RouteKind::Local;
    if !told.local {
        let next = route.via.unwrap_or(to);
        told.neighbour = netlink.neighbour(index, next).await?.map(|known| HostNeighbour {
            ip: next,
            mac: known.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            state: known.state.to_owned(),
        });
    }
    told.link = Some(HostLink {
        is_gateway: link.mac == Some(gateway),
        name: link.name,
        up: link.up,
        mtu: route.mtu.unwrap_or(link.mtu),
    });
    Ok(told)
}

/// The kernel tells of its own table and of that of its datapath, by zone; the userspace datapath has its own.
async fn connections(network: &NodeNetwork, run_dir: &Path, wanted: &Wanted, path: &mut HostPath) {
    let Some(from) = wanted.from else { return };
    let mut to = wanted.to.clone();
    to.extend(wanted.service.map(|service| service.ip()));
    let mut found = BTreeSet::new();
    match conntrack::begun_by(network.netlink.netns(), from, to.clone(), CONNECTIONS).await {
        Ok((seen, more)) => {
            path.more_connections |= more;
            found.extend(seen.iter().filter(|seen| is(seen.protocol, wanted.protocol)).map(of_kernel));
        }
        Err(error) => path.connections_unknown.push(format!("of the host: {error}")),
    }
    if network.userspace {
        let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
        let all = of_userspace(run_dir, family, wanted.protocol, |connection| {
            connection.from.ip() == from && to.contains(&connection.to.ip())
        });
        match all.await {
            Ok(connections) => found.extend(connections),
            Err(why) => path.connections_unknown.push(format!("of the bridge: {why}")),
        }
    }
    path.more_connections |= found.len() > CONNECTIONS;
    path.connections = found.into_iter().take(CONNECTIONS).collect();
}

fn of_kernel(seen: &conntrack::Seen) -> TrackedConnection {
    TrackedConnection {
        by_bridge: seen.zone.is_some(),
        protocol: seen.protocol,
        from: seen.original.0,
        to: seen.original.1,
        endpoint: translated(seen.original.1, seen.reply.0),
        answered: Some(seen.answered),
    }
}

fn translated(to: SocketAddr, answers: SocketAddr) -> Option<SocketAddr> {
    (to != answers).then_some(answers)
}

async fn of_userspace(
    run_dir: &Path,
    family: Family,
    protocol: Protocol,
    fits: impl Fn(&TrackedConnection) -> bool,
) -> Result<Vec<TrackedConnection>, String> {
    let datapath = Datapath::Userspace;
    let text = |error: ovs::ctl::CtlError| error.to_string();
    let count = ovs::ctl::call(run_dir, "dpctl/ct-get-nconns", &[datapath.dpif()]).await.map_err(text)?;
    if count.trim().parse::<u64>().is_ok_and(|count| count > TRACKED) {
        return Err(format!("there are {}, more than {TRACKED}", count.trim()));
    }
    let mut found = Vec::new();
    for zone in [family.zone(), family.service_zone()] {
        let mut all = TrackedIn::zone(run_dir, datapath, zone).await.map_err(text)?;
        while let Some(some) = all.next().await.map_err(text)? {
            let told = some.into_iter().filter(|one| one.protocol == protocol).map(|one| TrackedConnection {
                by_bridge: true,
                protocol: number(protocol, one.original.0.is_ipv6()),
                from: one.original.0,
                to: one.original.1,
                endpoint: translated(one.original.1, one.reply.0),
                answered: None,
            });
            found.extend(told.filter(&fits));
        }
    }
    Ok(found)
}

fn number(protocol: Protocol, v6: bool) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Icmp if v6 => 58,
        Protocol::Icmp => 1,
        Protocol::Igmp => 2,
    }
}

fn is(found: u8, protocol: Protocol) -> bool {
    [false, true].into_iter().any(|v6| number(protocol, v6) == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut Asked)) -> Result<Wanted, String> {
        let mut asked = Asked::default();
        change(&mut asked);
        Wanted::read(&asked).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_question_is_bounded_and_wrong_ones_name_the_field() {
        let wanted = read(|asked| {
            asked.from = "10.10.1.6".into();
            asked.to = "10.10.2.7,10.10.2.8".into();
            asked.protocol = "udp".into();
            (asked.service, asked.port) = ("fd96::10".into(), "53".into());
        })
        .unwrap();
        assert_eq!((wanted.to.len(), wanted.routes.len(), wanted.protocol), (2, 0, Protocol::Udp));
        assert_eq!(wanted.service, Some("[fd96::10]:53".parse().unwrap()));
        assert_eq!(read(|_| {}).unwrap().protocol, Protocol::Tcp);
        let many = vec!["10.0.0.1"; ADDRESSES + 1].join(",");
        for (wrong, says) in [
            (read(|asked| asked.routes = many), "routes: more than 16 addresses"),
            (read(|asked| asked.to = "10.0.0.1,web".into()), "to web: no address"),
            (read(|asked| asked.from = "10.0.0.1/8".into()), "from 10.0.0.1/8: no address"),
            (read(|asked| asked.protocol = "gre".into()), "protocol gre"),
            (read(|asked| asked.service = "10.96.0.10".into()), "port : 1 to 65535"),
        ] {
            let error = wrong.unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_zone_is_the_bridges_and_what_is_translated_names_its_endpoint() {
        let [from, to, endpoint] = ["10.10.1.6:40000", "10.96.0.10:80", "10.10.2.7:5432"]
            .map(|text| text.parse::<SocketAddr>().unwrap());
        let seen = conntrack::Seen {
            protocol: 6,
            original: (from, to),
            reply: (endpoint, from),
            answered: false,
            zone: None,
        };
        let told = of_kernel(&seen);
        assert_eq!((told.by_bridge, told.endpoint, told.answered), (false, Some(endpoint), Some(false)));
        let told = of_kernel(&conntrack::Seen { reply: (to, from), zone: Some(65_520), ..seen });
        assert_eq!((told.by_bridge, told.endpoint), (true, None));
        assert!(is(58, Protocol::Icmp) && is(1, Protocol::Icmp) && !is(6, Protocol::Udp));
    }
}
