//! Which link and address connect this node with the others.
//!
//! The address is one that peers know of the node, for that is where they send. The link is the one by which
//! packets to peers leave: an address may be on `lo` or a dummy link (a router announces it), whose MTU says
//! nothing of the way.

use std::net::IpAddr;

use ipnet::IpNet;
use netcfg::{Link, Netlink};

use crate::config::AgentConfig;
use crate::ovs::bridge::BringUpError;
use crate::peers::wiring::Peer;

/// The link and address that carry traffic between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Index of the link.
    pub index: u32,
    pub name: String,
    /// Its MTU in octets.
    pub mtu: u32,
    /// The node's address, with the prefix that it has.
    pub address: IpNet,
}

/// The link of kube-proxy's ipvs mode: it has all addresses of Services, also one that is the node's.
const IPVS_LINK: &str = "kube-ipvs0";

/// Largest MTU that is believed of a way whose link is not known.
const USUAL_MTU: u32 = 1500;

/// An address by which no node is reached, to find the default route (RFC 5737, RFC 3849).
fn anywhere(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    }
}

/// Finds link and address of `node`, which has these peers.
///
/// # Errors
/// No link has an address that peers know, or not the one that the configuration names.
pub async fn find(
    netlink: &Netlink,
    config: &AgentConfig,
    node: &Peer,
    peers: &[IpAddr],
) -> Result<Transport, BringUpError> {
    let failed = |error: netcfg::Error| BringUpError::new("TransportInterfaceMissing", error);
    let mut links = Vec::new();
    for link in netlink.links().await.map_err(failed)? {
        let addresses = netlink.addresses(link.index).await.map_err(failed)?;
        links.push((link, addresses.into_iter().map(|address| address.net).collect::<Vec<_>>()));
    }
    let (link, address) = choose(config, node, &links)
        .map_err(|message| BringUpError::new("TransportInterfaceMissing", message))?;
    let transport = |link: &Link, mtu| Transport { index: link.index, name: link.name.clone(), mtu, address };
    if !config.transport_interface.is_empty() || !config.transport_interface_cidrs.is_empty() {
        return Ok(transport(link, link.mtu));
    }
    let like = address.addr();
    let mut targets: Vec<_> =
        peers.iter().copied().filter(|ip| ip.is_ipv4() == like.is_ipv4()).take(8).collect();
    // Where no peer is known yet, an own link's word is better than that of the default route.
    targets.extend((!carries(config, link)).then(|| anywhere(like)));
    for target in targets {
        let Ok(Some(route)) = netlink.route_towards(target).await else { continue };
        let way = links.iter().map(|(link, _)| link).find(|link| Some(link.index) == route.dev);
        if let Some(way) = way.filter(|way| carries(config, way)) {
            return Ok(transport(way, way.mtu));
        }
    }
    let mtu = if carries(config, link) { link.mtu } else { link.mtu.min(USUAL_MTU) };
    Ok(transport(link, mtu))
}

/// Whether packets leave the node by such a link.
fn carries(config: &AgentConfig, link: &Link) -> bool {
    link.name != "lo"
        && link.name != IPVS_LINK
        && link.name != config.host_gateway
        && link.name != crate::ovs::bridge::TUNNEL_PORT
        && link.kind.as_deref() != Some("dummy")
}

/// The link that has the node's address, and the address. Plain data.
fn choose<'a>(
    config: &AgentConfig,
    node: &Peer,
    links: &'a [(Link, Vec<IpNet>)],
) -> Result<(&'a Link, IpNet), String> {
    let list = |ips: &mut dyn Iterator<Item = String>| ips.collect::<Vec<_>>().join(", ");
    let known = list(&mut node.transport_ips.iter().map(IpAddr::to_string));
    let cidrs = config.transport_interface_cidrs().unwrap_or_default();
    let allowed = |link: &Link, net: &IpNet| match (config.transport_interface.as_str(), cidrs.as_slice()) {
        ("", []) => link.name != IPVS_LINK,
        ("", cidrs) => cidrs.iter().any(|cidr| cidr.contains(&net.addr())),
        (name, _) => link.name == name,
    };
    let all = || links.iter().flat_map(|(link, nets)| nets.iter().map(move |net| (link, *net)));
    // In the order of the node's addresses, and a link that packets leave by before one that none does.
    for ip in &node.transport_ips {
        let mut found: Vec<_> = all().filter(|(link, net)| net.addr() == *ip && allowed(link, net)).collect();
        found.sort_by_key(|(link, _)| !carries(config, link));
        if let Some(found) = found.first() {
            return Ok(*found);
        }
    }
    let key = match (config.transport_interface.as_str(), cidrs.as_slice()) {
        ("", []) => {
            return Err(format!("no link of this node has an address of Node {}: {known}", node.name));
        }
        ("", _) => format!("transportInterfaceCIDRs {}", list(&mut cidrs.iter().map(IpNet::to_string))),
        (name, _) => format!("transportInterface {name}"),
    };
    let there =
        list(&mut all().filter(|(link, net)| allowed(link, net)).map(|(_, net)| net.addr().to_string()));
    if there.is_empty() {
        return Err(format!("{key}: this node has no such link or address"));
    }
    Err(format!(
        "{key}: peers know Node {} by {known}, which is not there; annotate the Node with \
         node.antrea.io/transport-addresses: the one that is to be used of {there}",
        node.name
    ))
}

#[cfg(test)]
mod tests {
    use netcfg::{Netns, OperState, Route, VethSpec};
    use serde_json::json;

    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>, addresses: &[&str]) -> (Link, Vec<IpNet>) {
        let link = Link {
            index,
            name: name.into(),
            mac: None,
            mtu: 1500,
            up: true,
            oper_state: OperState::Up,
            kind: kind.map(str::to_owned),
            peer_index: None,
            peer_netns_id: None,
            controller: None,
            group: 0,
            vxlan: None,
        };
        (link, addresses.iter().map(|net| net.parse().unwrap()).collect())
    }

    fn node(addresses: &[&str]) -> Peer {
        let list: Vec<_> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let node = json!({
            "metadata": {"name": "node1"}, "spec": {"podCIDR": "10.244.1.0/24"}, "status": {"addresses": list}
        });
        Peer::from_node(&serde_json::from_value(node).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn the_link_with_the_nodes_address_is_chosen() {
        let config = AgentConfig::default();
        let links = [
            link(1, "kube-ipvs0", Some("dummy"), &["192.0.2.11/32"]),
            link(2, "eth0", None, &["198.51.100.3/24", "192.0.2.11/24"]),
        ];
        let (chosen, address) = choose(&config, &node(&["192.0.2.11"]), &links).unwrap();
        assert_eq!((chosen.name.as_str(), address.to_string()), ("eth0", "192.0.2.11/24".to_owned()));
        let error = choose(&config, &node(&["192.0.2.12"]), &links).unwrap_err();
        assert!(error.contains("node1") && error.contains("192.0.2.12"), "{error}");
    }

    #[test]
    fn an_address_may_be_on_a_link_that_carries_nothing() {
        let config = AgentConfig::default();
        let links = [link(1, "lo", None, &["192.0.2.11/32"]), link(2, "eth0", None, &["198.51.100.3/31"])];
        let (chosen, _) = choose(&config, &node(&["192.0.2.11"]), &links).unwrap();
        assert_eq!(chosen.name, "lo");
        assert!(!carries(&config, chosen), "its MTU is not that of the way");
        let both =
            [link(1, "dum0", Some("dummy"), &["192.0.2.11/32"]), link(2, "eth0", None, &["192.0.2.11/24"])];
        assert_eq!(choose(&config, &node(&["192.0.2.11"]), &both).unwrap().0.name, "eth0");
    }

    #[test]
    fn the_configuration_names_link_or_range() {
        let links = [link(2, "eth0", None, &["192.0.2.11/24"]), link(3, "eth1", None, &["198.51.100.3/24"])];
        let by_name = AgentConfig { transport_interface: "eth1".into(), ..AgentConfig::default() };
        let annotated = node(&["198.51.100.3"]);
        assert_eq!(choose(&by_name, &annotated, &links).unwrap().0.name, "eth1");
        let error = choose(&by_name, &node(&["192.0.2.11"]), &links).unwrap_err();
        for part in ["transportInterface eth1", "192.0.2.11", "transport-addresses", "198.51.100.3"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let cidrs = vec!["198.51.100.0/24".to_owned()];
        let by_range = AgentConfig { transport_interface_cidrs: cidrs, ..AgentConfig::default() };
        assert_eq!(choose(&by_range, &annotated, &links).unwrap().0.name, "eth1");
        assert!(choose(&by_range, &node(&["192.0.2.11"]), &links).unwrap_err().contains("198.51.100.0/24"));
        let missing = AgentConfig { transport_interface: "eth7".into(), ..AgentConfig::default() };
        assert!(choose(&missing, &annotated, &links).unwrap_err().contains("no such link"));
    }

    /// A router announces the node's address, which is on lo, and two links carry packets to peers.
    #[tokio::test]
    async fn the_way_to_peers_says_which_link_and_mtu_it_is() {
        let space = Netns::unshare().await.unwrap();
        let netlink = space.spawn_netlink().await.unwrap();
        for (host_name, peer_name, host_mtu) in [("way0", "end0", 9000), ("way1", "end1", 1400)] {
            let (host_mac, host_group, peer_mac) = (None, None, None);
            let pair = VethSpec {
                host_name,
                host_mac,
                host_mtu,
                host_group,
                peer_name,
                peer_mac,
                peer_mtu: 0,
                peer_ns: &space,
            };
            netlink.create_veth(&pair).await.unwrap();
        }
        let links = netlink.links().await.unwrap();
        let index = |name: &str| links.iter().find(|link| link.name == name).unwrap().index;
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        for (name, addresses) in [
            ("lo", nets(&["192.0.2.11/32"])),
            ("way0", nets(&["198.51.100.1/24"])),
            ("way1", nets(&["203.0.113.1/24"])),
        ] {
            netlink.set_up(index(name)).await.unwrap();
            netlink.apply_addresses(index(name), &addresses).await.unwrap();
        }
        for name in ["end0", "end1"] {
            netlink.set_up(index(name)).await.unwrap();
        }
        let (config, node) = (AgentConfig::default(), node(&["192.0.2.11"]));
        let found = async |peers: &[&str]| {
            let peers: Vec<IpAddr> = peers.iter().map(|ip| ip.parse().unwrap()).collect();
            let Transport { name, mtu, address, .. } = find(&netlink, &config, &node, &peers).await.unwrap();
            assert_eq!(address.addr().to_string(), "192.0.2.11");
            (name, mtu)
        };
        assert_eq!(found(&["203.0.113.9"]).await, ("way1".to_owned(), 1400));
        assert_eq!(found(&["198.51.100.9"]).await, ("way0".to_owned(), 9000));
        // Without a peer, and without a route to anywhere, no MTU is believed that is larger than usual.
        assert_eq!(found(&[]).await, ("lo".to_owned(), USUAL_MTU));
        let default = Route::default_v4().via("203.0.113.9".parse().unwrap()).dev(index("way1"));
        netlink.set_route(&default).await.unwrap();
        assert_eq!(found(&[]).await, ("way1".to_owned(), 1400));
    }
}
