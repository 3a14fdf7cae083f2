//! What the host hands to the bridge where there is no kube-proxy.
//!
//! ```text
//!  a process ─────► address of a Service ── route ──────────────────────────────────────────► antrea-gw0 ─► bridge
//!  outside ───────► of a load balancer, external ── route ──────────────────────────────────►
//!  anybody ───────► own address, node port ── iptables: DNAT to what stands for it ── route ─►
//!  bridge ─ from 169.254.0.253 ─► what is no pod: here, or masqueraded and on
//! ```
//!
//! Addresses of nodes are not routed, whoever gives them to a Service: what others than clients of that send there has to
//! arrive. At the node's own the ports are told apart; those of others are theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use antrea_flows::{NODE_PORT_V4, NODE_PORT_V6, VIRTUAL_MAC, VIRTUAL_V4, VIRTUAL_V6};
use antrea_proxy::{Frontend, Protocol};
use ipnet::IpNet;
use netcfg::ipset::{IpSet, Ipsets, Member, SavedSet, SetType};
use netcfg::iptables::{AddrType, Proto, Rule, Ruleset, SetDir, Table, Target};
use netcfg::nl::neigh::Neighbour;
use netcfg::{Family, Link, MacAddr, Netns, Route, conntrack};
use tokio::sync::watch;

use super::network::{HOST_PROCESS_MARK, HostConfig, TRANSLATED, of_family};
use super::{Host, Progress};
use crate::ovs::bridge::TUNNEL_PORT;
use crate::ovs::links::POD_LINK_GROUP;
use crate::services::access::Access;

/// What marks jumps of the table nat.
const JUMP: &str = "Antrea: jump to rules for Services";

/// The ends of the channels to and from who serves.
#[derive(Debug)]
pub struct Doors {
    access: watch::Receiver<Access>,
    addresses: watch::Sender<Vec<IpAddr>>,
    /// Which addresses have node ports; all if there is none.
    ranges: Vec<IpNet>,
}

impl Doors {
    /// What is the bridge's, and who wants to know the addresses of the node within these ranges.
    pub fn new(
        access: watch::Receiver<Access>,
        addresses: watch::Sender<Vec<IpAddr>>,
        ranges: Vec<IpNet>,
    ) -> Self {
        Self { access, addresses, ranges }
    }
}

/// Waits until something else is the bridge's.
pub(super) async fn changed(doors: &mut Option<Doors>) {
    if let Some(doors) = doors
        && doors.access.changed().await.is_ok()
    {
        return;
    }
    // Nothing ever is, or who serves has ended, and so does the agent.
    std::future::pending().await
}

/// What is the bridge's.
pub(super) fn current(doors: &mut Option<Doors>) -> Option<Access> {
    doors.as_mut().map(|doors| doors.access.borrow_and_update().clone())
}

/// What stands for the node's addresses, and for whom the bridge brings back, in each family.
fn virtuals(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (NODE_PORT_V4.into(), VIRTUAL_V4.into()),
        Family::V6 => (NODE_PORT_V6.into(), VIRTUAL_V6.into()),
    }
}

fn port_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-NODEPORT-IP",
        Family::V6 => "ANTREA-NODEPORT-IP6",
    }
}

fn address_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-EXTERNAL-IP",
        Family::V6 => "ANTREA-EXTERNAL-IP6",
    }
}

/// What the host has been handing to the bridge, by its sets: until an agent knows of Services, those of its last life.
pub async fn remembered(netns: &Netns) -> Access {
    let found = Ipsets::new(netns.clone()).save().await;
    // There may be no ipset yet; what fails otherwise is told when sets are written.
    found.map(|sets| of_sets(&sets)).unwrap_or_default()
}

fn of_sets(sets: &BTreeMap<String, SavedSet>) -> Access {
    let members = |name| sets.get(name).into_iter().flat_map(|set| &set.members);
    let port = |member: &String| -> Option<Frontend> {
        let (ip, port) = member.split_once(',')?;
        let (protocol, port) = port.split_once(':')?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        };
        Some(Frontend { ip: ip.parse().ok()?, protocol, port: port.parse().ok()? })
    };
    let both = Family::BOTH.into_iter();
    Access {
        ports: both.clone().flat_map(|family| members(port_set(family))).filter_map(port).collect(),
        addresses: both
            .flat_map(|family| members(address_set(family)))
            .filter_map(|member| member.parse().ok())
            .collect(),
    }
}

/// Whether a set is one of these, perhaps of before.
pub(super) fn is_own_set(name: &str) -> bool {
    Family::BOTH.into_iter().any(|family| [port_set(family), address_set(family)].contains(&name))
}

fn families(config: &HostConfig) -> impl Iterator<Item = Family> {
    let served = config.services.is_some();
    let has = move |family: &Family| served && of_family(&config.subnets, *family).next().is_some();
    Family::BOTH.into_iter().filter(has)
}

/// Addresses of Services that are routed one by one.
fn addresses(config: &HostConfig, family: Family) -> impl Iterator<Item = IpAddr> {
    let routed = config.services.iter().flat_map(|access| &access.addresses).copied();
    let pods = [&config.subnets, &config.cluster_subnets];
    routed.filter(move |ip| {
        let of_nodes = config.nodes.contains(ip) || config.own.contains(ip);
        let of_pods = pods.iter().any(|nets| nets.iter().any(|net| net.contains(ip)));
        Family::from(*ip) == family && !of_nodes && !of_pods
    })
}

/// What the host routes into the bridge because of Services.
pub(super) fn destinations(config: &HostConfig) -> Vec<IpNet> {
    families(config)
        .flat_map(|family| {
            let (node_ports, _) = virtuals(family);
            let single = addresses(config, family).chain([node_ports]).map(IpNet::from);
            of_family(&config.service_cidrs, family).chain(single)
        })
        .collect()
}

/// The routes to these and to whom the bridge brings back.
pub(super) fn routes(config: &HostConfig, destinations: &[IpNet], gateway: u32) -> Vec<Route> {
    let hop = |net: IpNet| virtuals(Family::from(net)).1;
    let back = families(config).map(|family| Route::new(virtuals(family).1.into()).dev(gateway));
    let to = destinations.iter().map(|net| Route::new(*net).via_onlink(hop(*net)).dev(gateway));
    back.chain(to).collect()
}

/// Who has the addresses that nobody has.
pub(super) fn neighbours(config: &HostConfig) -> Vec<Neighbour> {
    let ips = families(config).flat_map(|family| [virtuals(family).0, virtuals(family).1]);
    ips.map(|ip| Neighbour { ip, mac: MacAddr(VIRTUAL_MAC.0) }).collect()
}

/// The sets that the rules name.
pub(super) fn sets(config: &HostConfig) -> Vec<netcfg::Result<IpSet>> {
    let Some(access) = &config.services else { return Vec::new() };
    let of = |family| {
        let ports = access.ports.iter().filter(move |port| Family::from(port.ip) == family).map(|port| {
            let protocol = match port.protocol {
                Protocol::Tcp => Proto::TCP,
                Protocol::Udp => Proto::UDP,
                Protocol::Sctp => Proto::SCTP,
            };
            Member::IpPort(port.ip, protocol, port.port)
        });
        let addresses = addresses(config, family).map(Member::from);
        [
            IpSet::new(port_set(family), SetType::HashIpPort, family, ports),
            IpSet::new(address_set(family), SetType::HashIp, family, addresses),
        ]
    };
    families(config).flat_map(of).collect()
}

/// The rules of a family.
pub(super) fn add_rules(config: &HostConfig, family: Family, rules: &mut Ruleset) {
    if !families(config).any(|own| own == family) {
        return;
    }
    let (node_ports, brought_back) = virtuals(family);
    let to_ports = |rule: Rule| rule.in_set(port_set(family), [SetDir::Dst, SetDir::Dst]);
    // Who is on a link with the node could send there what comes in by an address without node ports.
    for ip in [node_ports, brought_back] {
        rules.rule(
            Table::Raw,
            "ANTREA-PREROUTING",
            Rule::new(Target::Drop)
                .dst(ip.into())
                .not_in_iface(config.gateway.as_str())
                .comment("Antrea: nobody sends to addresses of the Node alone"),
        );
    }
    for (from, chain) in [("PREROUTING", "ANTREA-PREROUTING"), ("OUTPUT", "ANTREA-OUTPUT")] {
        rules.jump_first(Table::Nat, from, chain, JUMP);
        let translated = to_ports(Rule::new(Target::Dnat(node_ports.into())));
        rules.rule(Table::Nat, chain, translated.comment("Antrea: hand node ports to OVS"));
    }
    rules.rule(
        Table::Nat,
        "ANTREA-POSTROUTING",
        Rule::new(Target::Masquerade { random_fully: config.random_fully })
            .src(brought_back.into())
            .comment("Antrea: masquerade what OVS brings back"),
    );
    // A process that asks a node port of its own node reckons with the loopback link, and is not told of less.
    rules.rule(
        Table::Mangle,
        "ANTREA-POSTROUTING",
        Rule::new(Target::ClampMss)
            .out_iface(config.gateway.as_str())
            .proto(Proto::TCP)
            .opens()
            .comment("Antrea: segments that fit the way to OVS"),
    );
    // As what goes to pods and to the cluster's ranges.
    if config.userspace {
        rules.jump(Table::Mangle, "OUTPUT", "ANTREA-OUTPUT", TRANSLATED);
        let to_addresses = |rule: Rule| rule.in_set(address_set(family), [SetDir::Dst]);
        for rule in [to_ports(Rule::new(mark())), to_addresses(Rule::new(mark()))] {
            let own = rule.src_type(AddrType::Local).mark(0, u32::MAX);
            rules.rule(
                Table::Mangle,
                "ANTREA-OUTPUT",
                own.comment("Antrea: route packets of local processes to Services by their mark"),
            );
        }
    }
}

fn mark() -> Target {
    Target::or_mark(HOST_PROCESS_MARK)
}

/// Whether an address of the node has node ports.
fn has_node_ports(ip: IpAddr, ranges: &[IpNet]) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    !is_local && (ranges.is_empty() || ranges.iter().any(|range| range.contains(&ip)))
}

impl Host {
    /// Forgets the ways of datagrams to node ports that are new: while somebody sends, the host goes on by what was.
    pub(super) async fn forget_datagrams(&self, wanted: Option<&Access>, progress: &mut Progress) {
        let before = self.applied.as_ref().and_then(|applied| applied.access.as_ref());
        let is_new = |port: &&Frontend| {
            port.protocol == Protocol::Udp && !before.is_some_and(|before| before.ports.contains(*port))
        };
        let new = wanted.iter().flat_map(|access| access.ports.iter().filter(is_new));
        let new: BTreeSet<SocketAddr> = new.map(|port| SocketAddr::new(port.ip, port.port)).collect();
        if !new.is_empty() {
            let netns = self.network.netlink.netns();
            progress.errors.check(conntrack::forget_datagrams(netns, new).await);
        }
    }

    /// Tells of the node's addresses, where somebody wants to know.
    pub(super) async fn own_addresses(&self, links: &[Link], progress: &mut Progress) {
        let Some(Doors { addresses, ranges, .. }) = &self.services else { return };
        // Pods reach the gateway's as any, and ip_vs keeps those of Services on a link of its own.
        let ours = [self.config.host_gateway.as_str(), TUNNEL_PORT, "kube-ipvs0"];
        let mut found = Vec::new();
        for link in links {
            if link.group == POD_LINK_GROUP || ours.contains(&link.name.as_str()) {
                continue;
            }
            // A link that went meanwhile has none.
            let read = match self.network.netlink.addresses(link.index).await {
                Err(error) if error.is_not_found() => continue,
                read => read,
            };
            let Some(read) = progress.errors.check(read) else { return };
            let ips = read.into_iter().map(|address| address.net.addr());
            found.extend(ips.filter(|ip| has_node_ports(*ip, ranges)));
        }
        found.sort_unstable();
        found.dedup();
        addresses.send_if_modified(|known| {
            let differs = *known != found;
            if differs {
                *known = found;
            }
            differs
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::network::tests::config;

    fn serving() -> HostConfig {
        let port = |ip: &str, protocol| Frontend { ip: ip.parse().unwrap(), protocol, port: 30080 };
        let access = Access {
            ports: [
                port("192.0.2.11", Protocol::Tcp),
                port("192.0.2.11", Protocol::Sctp),
                port("2001:db8::11", Protocol::Udp),
            ]
            .into(),
            addresses: ["203.0.113.7", "192.0.2.12", "10.244.2.9", "2001:db8:7::7"]
                .map(|ip| ip.parse().unwrap())
                .into(),
        };
        let nodes = ["192.0.2.11", "192.0.2.12"].map(|ip| ip.parse().unwrap()).to_vec();
        HostConfig { services: Some(access), nodes, ..config() }
    }

    #[test]
    fn services_are_routed_and_addresses_of_nodes_and_pods_are_not() {
        let config = serving();
        let to = destinations(&config);
        let texts: Vec<String> = to.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "10.96.0.0/16",
                "203.0.113.7/32",
                "169.254.0.252/32",
                "2001:db8:7::7/128",
                "fc01::aabb:ccdd:eefe/128"
            ]
        );
        let routes: Vec<String> = routes(&config, &to, 7).iter().map(ToString::to_string).collect();
        assert_eq!(routes.len(), 7, "{routes:?}");
        assert!(routes.iter().all(|route| route.contains("dev #7")), "{routes:?}");
        assert_eq!(neighbours(&config).len(), 4);
        assert!(destinations(&super::super::network::tests::config()).is_empty());
    }

    #[test]
    fn sets_and_rules_are_there_with_the_mode_alone() {
        let config = serving();
        let sets: Vec<IpSet> = sets(&config).into_iter().map(Result::unwrap).collect();
        let sizes: Vec<_> = sets.iter().map(|set| (set.name(), set.members().len())).collect();
        assert_eq!(
            sizes,
            [
                ("ANTREA-NODEPORT-IP", 2),
                ("ANTREA-EXTERNAL-IP", 1),
                ("ANTREA-NODEPORT-IP6", 1),
                ("ANTREA-EXTERNAL-IP6", 1)
            ]
        );
        assert!(sets.iter().all(|set| is_own_set(set.name())) && !is_own_set("ANTREA-POD-IP"));
        let text = |config: &HostConfig, family| {
            let mut rules = Ruleset::new(family);
            add_rules(config, family, &mut rules);
            rules.to_string()
        };
        let userspace = HostConfig { userspace: true, ..config.clone() };
        let shown = format!(
            "=== kernel\n{}=== userspace, IPv6\n{}",
            text(&config, Family::V4),
            text(&userspace, Family::V6)
        );
        assert_eq!(shown, include_str!("testdata/services.txt"), "{shown}");
        let off = HostConfig { services: None, ..config };
        assert_eq!(text(&off, Family::V4), Ruleset::new(Family::V4).to_string());
    }

    #[test]
    fn sets_tell_what_was_handed_on() {
        let set = |members: &[&str]| SavedSet {
            kind: String::new(),
            family: None,
            maxelem: 0,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        };
        let sets = [
            ("ANTREA-NODEPORT-IP", set(&["192.0.2.11,tcp:30000", "192.0.2.11,icmp:8/0", "x"])),
            ("ANTREA-NODEPORT-IP6", set(&["2001:db8::b,sctp:30001"])),
            ("ANTREA-EXTERNAL-IP", set(&["203.0.113.7"])),
            ("ANTREA-POD-IP", set(&["10.244.1.0/24"])),
        ];
        let found = of_sets(&sets.map(|(name, set)| (name.to_owned(), set)).into());
        let ports: Vec<String> = found.ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["192.0.2.11 TCP port 30000", "2001:db8::b SCTP port 30001"]);
        assert_eq!(found.addresses, ["203.0.113.7".parse().unwrap()].into());
    }

    #[test]
    fn loopback_has_no_node_ports_and_ranges_choose() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for none in ["127.0.0.1", "::1", "fe80::1", "169.254.7.7"] {
            assert!(!has_node_ports(ip(none), &[]), "{none}");
        }
        let ranges = ["192.0.2.0/24".parse().unwrap()];
        assert!(has_node_ports(ip("192.0.2.1"), &ranges) && !has_node_ports(ip("198.51.100.1"), &ranges));
        assert!(has_node_ports(ip("2001:db8::1"), &[]));
    }
}
