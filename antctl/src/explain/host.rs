//! What the Nodes' own network stacks do with the packet: routes and the neighbours that they lead to, connections that are
//! tracked, and kube-proxy's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use antrea_api::agent::{HostLink, HostPath, HostRoute, ServiceRules, TrackedConnection};

use super::bridge;
use super::facts::{Facts, Node, Service, Target, Way};
use super::finding::{Finding, Mark};
use super::nodes::OVERHEAD;
use super::trace::{Hop, serves_services};
use crate::get::escape;

/// Number of UDP, as the kernel's tables have it.
const UDP: u8 = 17;

/// Whose rules are looked at.
const KUBE_PROXY: &str = "see whether kube-proxy runs on that Node, and its log: kubectl -n kube-system get pods -l k8s-app=kube-proxy \
                          -o wide";

/// Whom a route leads to, as far as it matters here.
struct Whom<'a> {
    shown: String,
    /// What is for a Pod of this Node, or of another that is reached by a tunnel, is Antrea's bridge's.
    by_bridge: bool,
    /// The Node itself, whose address the tunnel is for.
    peer: Option<&'a Node>,
}

/// What is to be asked of which Node.
pub(super) fn questions(facts: &Facts) -> Vec<(String, String)> {
    let source = &facts.source;
    let mut asked: Vec<(&str, IpAddr)> = Vec::new();
    let proxied = kube_proxied(facts);
    for way in &facts.ways {
        let Some(address) = way.address else { continue };
        let hop = bridge::hop(facts, way).map(|(hop, _)| hop);
        match &hop {
            Some(Hop::Tunnel(peer)) => asked.push((&source.node, *peer)),
            Some(Hop::Host) => asked.push((&source.node, address)),
            _ => {}
        }
        if source.host_network || proxied.is_some() {
            asked.push((&source.node, address));
        }
        let Some(pod) = way.pod.as_ref().filter(|pod| !pod.host_network && pod.node != source.node) else {
            continue;
        };
        asked.push((&pod.node, address));
        let back = match &hop {
            Some(Hop::Tunnel(peer)) => {
                let mut own = facts.source_node().into_iter().flat_map(addresses);
                own.find(|ip| ip.is_ipv6() == peer.is_ipv6())
            }
            Some(Hop::Host) => source.address(address.is_ipv6()),
            _ => None,
        };
        asked.extend(back.map(|ip| (&pod.node[..], ip)));
    }
    // The source's Node has connections and rules also where no route matters.
    let mut routes: BTreeMap<&str, BTreeSet<IpAddr>> = [(&source.node[..], BTreeSet::new())].into();
    for (node, to) in asked {
        routes.entry(node).or_default().insert(to);
    }
    let listed = |addresses: Vec<IpAddr>| {
        escape(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    };
    let to: BTreeSet<IpAddr> = facts.ways.iter().filter_map(|way| way.address).collect();
    let from = facts.ways.iter().find_map(|way| source.address(way.address?.is_ipv6()));
    let path = |(node, routes): (&str, BTreeSet<IpAddr>)| {
        let mut path = format!(
            "/hostpath?protocol={}&routes={}&to={}",
            facts.packet.protocol.as_str().to_ascii_lowercase(),
            listed(routes.into_iter().collect()),
            listed(to.iter().copied().collect())
        );
        if let Some(from) = from {
            path.push_str(&format!("&from={}", escape(&from.to_string())));
        }
        if let Some(address) = proxied.filter(|_| node == source.node) {
            path.push_str(&format!("&service={}&port={}", escape(&address.to_string()), facts.packet.port));
        }
        (node.to_owned(), path)
    };
    routes.into_iter().filter(|(node, _)| !node.is_empty()).map(path).collect()
}

/// The Service's address, where the source's Node leaves it to kube-proxy.
fn kube_proxied(facts: &Facts) -> Option<IpAddr> {
    let Target::Service(service) = &facts.target else { return None };
    let agent = facts.source_node()?.agent.as_ref().ok()?;
    service.address.filter(|_| !serves_services(&agent.tables))
}

/// Addresses by which a Node is reached, the transport's first.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let info = node.agent.as_ref().ok().and_then(|agent| agent.info.network_info.as_ref());
    let transport = info.into_iter().flat_map(|info| &info.transport_interface_ips);
    let transport = transport.filter_map(|cidr| cidr.split('/').next()?.parse().ok());
    transport.chain(node.addresses.iter().copied()).collect()
}

/// All that is to be said of it. `denied`: policy does not let the packet through.
pub(super) fn told(facts: &Facts, denied: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, node) in &facts.nodes {
        let path = match &node.path {
            None => continue,
            Some(Ok(path)) => path,
            Some(Err(why)) => {
                let text = format!("what the network stack of {name} does is not known: {why}");
                found.push(Finding::new("host", Mark::Unknown, text));
                continue;
            }
        };
        found.extend(routes(facts, name, path));
        found.extend(
            path.unknown
                .iter()
                .map(|what| Finding::new("host", Mark::Unknown, format!("not known of {name}: {what}"))),
        );
        found.extend(connections(facts, name, path, denied));
        if let (Target::Service(service), Some(rules)) = (&facts.target, &path.service) {
            found.push(rules_of(facts, name, service, rules));
        }
    }
    found
}

fn routes(facts: &Facts, node: &str, path: &HostPath) -> Vec<Finding> {
    let (mut broken, mut well) = (Vec::new(), Vec::new());
    for route in &path.routes {
        let whom = whom(facts, node, route.to);
        match fault(facts, node, route, &whom) {
            Some(finding) => broken.push(finding),
            None => well.push(format!("{} by {}", whom.shown, reached(route))),
        }
    }
    if broken.is_empty() && !well.is_empty() {
        let text = format!("{node} has the routes that it needs: to {}", well.join(", to "));
        broken.push(Finding::new("route", Mark::Ok, text));
    }
    broken
}

fn reached(route: &HostRoute) -> String {
    let link = route.link.as_ref().map(|link| link.name.as_str()).unwrap_or_default();
    match route.via {
        Some(via) => format!("{link} and {via}"),
        None => link.to_owned(),
    }
}

fn whom<'a>(facts: &'a Facts, node: &str, to: IpAddr) -> Whom<'a> {
    if facts.source.ips.contains(&to) {
        let shown = format!("{} ({to})", facts.source.full());
        return Whom {
            shown,
            by_bridge: facts.source.node == node && !facts.source.host_network,
            peer: None,
        };
    }
    if let Some(way) = facts.ways.iter().find(|way| way.address == Some(to)) {
        let shown = match &way.pod {
            Some(pod) => format!("{} ({to})", pod.full()),
            None => to.to_string(),
        };
        return Whom { shown, by_bridge: is_of_bridge(facts, node, way), peer: None };
    }
    let peer = facts.nodes.iter().find(|(name, other)| *name != node && addresses(other).contains(&to));
    match peer {
        Some((name, peer)) => Whom { shown: format!("{name} ({to})"), by_bridge: false, peer: Some(peer) },
        None => Whom { shown: to.to_string(), by_bridge: false, peer: None },
    }
}

fn is_of_bridge(facts: &Facts, node: &str, way: &Way) -> bool {
    let tunnelled = || matches!(bridge::hop(facts, way), Some((Hop::Tunnel(_) | Hop::Elsewhere, _)));
    way.pod.as_ref().is_some_and(|pod| !pod.host_network && (pod.node == node || tunnelled()))
}

/// What is wrong with a route.
fn fault(facts: &Facts, node: &str, route: &HostRoute, whom: &Whom<'_>) -> Option<Finding> {
    let (shown, to) = (&whom.shown, route.to);
    let look = format!("ip route get {to} on {node}");
    let broken = |text: String| Some(Finding::new("route", Mark::Broken, text));
    let Some(link) = &route.link else {
        let advice = match whom.by_bridge {
            true => format!("{look}; its agent puts routes to Pods back within a minute: see its log"),
            false => format!("give {node} a route to it, and see by {look} that none drops it"),
        };
        return broken(format!("{node} has no route to {shown}")).map(|finding| finding.differs(advice));
    };
    let name = &link.name;
    if !link.up {
        return broken(format!("{name}, by which {node} reaches {shown}, is down"))
            .map(|finding| finding.differs(format!("ip link set {name} up on {node}")));
    }
    if route.local && (whom.by_bridge || whom.peer.is_some()) {
        return broken(format!("{node} takes the address of {shown} for its own")).map(|finding| {
            finding.advise(format!("take that address off {node}: ip addr, ip route show table local"))
        });
    }
    if whom.by_bridge && !link.is_gateway {
        return broken(format!(
            "{node} routes what is for {shown} out of {name}, and not into Antrea's bridge"
        ))
        .map(|finding| {
            finding.differs(format!("another route comes before Antrea's: {look}, ip rule, ip route"))
        });
    }
    if whom.peer.is_some() && link.is_gateway {
        return broken(format!(
            "{node} routes what is for {shown} into Antrea's bridge, so that the tunnel leads into itself"
        ))
        .map(|finding| finding.differs(format!("the address is in the range of Pods of a Node: {look}")));
    }
    // Of Pods it may be of a former owner of the address: nobody asks again until there is something to be sent.
    let mute = route.neighbour.as_ref().filter(|n| n.state == "FAILED" || n.state == "INCOMPLETE");
    if let Some(neighbour) = mute.filter(|_| !whom.by_bridge) {
        let text = format!(
            "nobody answers for {} on {name} of {node}, by which it reaches {shown} (neighbour {})",
            neighbour.ip, neighbour.state
        );
        return broken(text).map(|finding| {
            finding.differs("see whether that machine runs and is on the same network, and whether ARP or neighbour discovery passes")
        });
    }
    whom.peer.and_then(|_| narrow(facts, node, shown, link))
}

/// A route with an MTU of its own, which the transport link's does not show.
fn narrow(facts: &Facts, node: &str, shown: &str, link: &HostLink) -> Option<Finding> {
    let own = facts.nodes.get(node)?.agent.as_ref().ok()?.info.network_info.clone()?;
    let mtu = i32::try_from(link.mtu).ok().filter(|mtu| *mtu > 0)?;
    // What the link itself does not carry is told of the link.
    if mtu >= own.transport_interface_mtu || own.pod_mtu <= 0 || own.pod_mtu + OVERHEAD <= mtu {
        return None;
    }
    let text = format!(
        "the route of {node} to {shown} has the MTU {mtu}, and Pods send packets of {} octets, which with the tunnel's headers do \
         not fit: small packets arrive, large ones are lost",
        own.pod_mtu
    );
    let advice = "set spec.mtu of the AntreaInstallation to what fits the narrowest way";
    Some(Finding::new("mtu", Mark::Broken, text).advise(advice))
}

fn connections(facts: &Facts, node: &str, path: &HostPath, denied: bool) -> Vec<Finding> {
    let check = "connections";
    let note = |text: String| Finding::new(check, Mark::Note, text);
    let mut found: Vec<Finding> = path
        .connections_unknown
        .iter()
        .map(|why| note(format!("not all connections that {node} tracks are known: {why}")))
        .collect();
    let of_bridge: Vec<&TrackedConnection> = path.connections.iter().filter(|one| one.by_bridge).collect();
    if !of_bridge.is_empty() {
        let (more, source) = (if path.more_connections { "at least " } else { "" }, facts.source.full());
        let text = format!(
            "the bridge of {node} tracks {more}{} of {source} to it",
            connections_of(of_bridge.len())
        );
        found.push(match denied {
            true => note(format!("{text}: what was established before goes on, whatever policies say now")).advise(
                "to end what a policy denies: its field established, of Antrea's own policies; or end one of the processes",
            ),
            false => Finding::new(check, Mark::Ok, text),
        });
    }
    let mute = path.connections.iter().filter(|one| one.answered == Some(false)).count();
    if mute > 0 {
        found.push(note(format!(
            "{} that {node} tracks had no answer yet: does a process listen there?",
            connections_of(mute)
        )));
    }
    if let Target::Service(service) = &facts.target {
        let gone = |one: &&TrackedConnection| {
            let to_service = service.address == Some(one.to.ip());
            to_service && one.endpoint.is_some_and(|endpoint| !service.endpoints.contains(&endpoint))
        };
        for one in path.connections.iter().filter(gone).take(4) {
            found.push(stale(node, one));
        }
    }
    found
}

fn connections_of(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// A connection to an endpoint that the Service has no more.
fn stale(node: &str, one: &TrackedConnection) -> Finding {
    let endpoint = one.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
    let text = format!(
        "{node} still sends what {} sends to {} to {endpoint}, which is no ready endpoint",
        one.from, one.to
    );
    // A datagram has no beginning: whoever goes on sending from the port never gets another endpoint.
    match one.protocol {
        UDP => Finding::new("connections", Mark::Broken, text).differs(format!(
            "on {node}: conntrack -D -p udp --orig-src {} --orig-dst {}; and {KUBE_PROXY}",
            one.from.ip(),
            one.to.ip()
        )),
        _ => Finding::new("connections", Mark::Note, format!("{text}: that connection will end")),
    }
}

fn rules_of(facts: &Facts, node: &str, service: &Service, rules: &ServiceRules) -> Finding {
    let check = "service rules";
    let address =
        service.address.map(|ip| SocketAddr::new(ip, facts.packet.port).to_string()).unwrap_or_default();
    let broken = |text: String| Finding::new(check, Mark::Broken, text).differs(KUBE_PROXY);
    if rules.by.is_empty() {
        return broken(format!("kube-proxy has no rules on {node}: nobody gives {address} an endpoint"));
    }
    let by = format!("kube-proxy ({})", rules.by);
    if !rules.found {
        return broken(format!("{by} has nothing for {address} on {node}"));
    }
    let shown = |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if rules.refused || rules.endpoints.is_empty() {
        return match service.endpoints.is_empty() {
            true => Finding::new(
                check,
                Mark::Ok,
                format!("{by} of {node} refuses {address}, which has no ready endpoint"),
            ),
            false => broken(format!(
                "{by} of {node} refuses {address}, although {} is ready",
                shown(&service.endpoints.iter().copied().take(4).collect::<Vec<_>>())
            )),
        };
    }
    let extra: Vec<SocketAddr> =
        rules.endpoints.iter().copied().filter(|endpoint| !service.endpoints.contains(endpoint)).collect();
    if !extra.is_empty() && !service.endpoints.is_empty() {
        return broken(format!(
            "{by} of {node} gives {address} to {}, which is no ready endpoint: connections fail now and then",
            shown(&extra)
        ));
    }
    let missing = service.endpoints.iter().filter(|endpoint| !rules.endpoints.contains(endpoint)).count();
    let count = rules.endpoints.len();
    let text = format!(
        "{by} of {node} gives {address} one of {count} {}",
        if count == 1 { "endpoint" } else { "endpoints" }
    );
    match missing {
        0 => Finding::new(check, Mark::Ok, text),
        // A policy of the Service or the topology may want that.
        _ if rules.more_endpoints => Finding::new(check, Mark::Ok, format!("{text} or more")),
        missing => Finding::new(
            check,
            Mark::Note,
            format!(
                "{text}; {missing} that are ready get nothing from there, as with internalTrafficPolicy or zones"
            ),
        ),
    }
}
