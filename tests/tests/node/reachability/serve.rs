//! Who serves Services: a kube-proxy, played by what it would configure on each node, or the agents.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use antrea_tests::lab::families::iptables;
use antrea_tests::lab::{Lab, sh};
use netcfg::Family;
use serde_json::{Value, json};

use super::{PLAIN, SERVED};
use crate::proxy::{SERVICES, SLICES};

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Iptables,
    Nftables,
    Ipvs,
    /// Proxy mode `All`.
    Agents,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "kube-proxy in iptables mode",
            Self::Nftables => "kube-proxy in nftables mode",
            Self::Ipvs => "kube-proxy in ipvs mode",
            Self::Agents => "no kube-proxy (proxy mode `All`)",
        })
    }
}

/// Addresses that somebody translates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) cluster_ip: IpAddr,
    /// With a process of the first node behind it.
    pub(super) cluster_ip_node: IpAddr,
    /// With an address outside behind it.
    pub(super) cluster_ip_outside: IpAddr,
    pub(super) external: IpAddr,
    /// The first node's, of portmap.
    pub(super) host_port: IpAddr,
}

impl Addresses {
    pub(super) fn of(family: Family) -> Self {
        let ip = |v4: &str, v6: &str| if family == Family::V4 { v4 } else { v6 }.parse().unwrap();
        Self {
            cluster_ip: ip("10.96.0.10", "fd00:10:96::10"),
            cluster_ip_node: ip("10.96.0.21", "fd00:10:96::21"),
            cluster_ip_outside: ip("10.96.0.23", "fd00:10:96::23"),
            external: ip("203.0.113.9", "2001:db8:113::9"),
            host_port: ip("192.0.2.77", "2001:db8:77::77"),
        }
    }

    pub(super) fn all(&self) -> [IpAddr; 5] {
        [self.external, self.host_port, self.cluster_ip, self.cluster_ip_node, self.cluster_ip_outside]
    }
}

/// A Service's address at a node.
struct Front {
    address: IpAddr,
    endpoint: IpAddr,
    /// Whether the endpoint is a process on a host, which listens on ports of its own.
    process: bool,
    /// Whether kube-proxy masquerades whoever comes by it.
    masqueraded: bool,
}

impl Front {
    /// The endpoint.
    fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.endpoint, target(self.process, port))
    }
}

/// As SERVED to PLAIN.
fn target(process: bool, port: u16) -> u16 {
    if process { port + PLAIN[0].1 - SERVED[0].1 } else { port }
}

fn fronts(lab: &Lab, index: usize, server: IpAddr) -> Vec<Front> {
    let family = Family::from(server);
    let addresses = Addresses::of(family);
    let front = |address, endpoint, masqueraded| {
        let process = endpoint != server;
        Front { address, endpoint, process, masqueraded }
    };
    vec![
        front(lab.node_ip(index, family), server, true),
        front(addresses.external, server, true),
        front(addresses.cluster_ip, server, false),
        front(addresses.cluster_ip_node, lab.node_ip(0, family), false),
        front(addresses.cluster_ip_outside, lab.outside_of(family), false),
    ]
}

/// Before the agents start: what a node has in this mode whatever its Services are.
pub(super) fn prepare(lab: &Lab, mode: Mode) {
    let addresses = Addresses::of(Family::V4);
    for node in lab.nodes.iter().filter(|_| mode == Mode::Ipvs) {
        let netns = &node.netns;
        sh(&format!("ip -n {netns} link add kube-ipvs0 type dummy"));
        for address in addresses.all().into_iter().filter(|address| *address != addresses.host_port) {
            sh(&format!("ip -n {netns} addr add {address}/32 dev kube-ipvs0"));
        }
        sh(&format!("ip netns exec {netns} sysctl -qw net.ipv4.vs.conntrack=1"));
    }
}

/// Serves what leads to a pod of the first node, and to those that are none.
pub(super) fn serve(lab: &Lab, mode: Mode, server: IpAddr) {
    for index in 0..lab.nodes.len() {
        let (netns, fronts) = (&lab.nodes[index].netns, fronts(lab, index, server));
        match mode {
            Mode::Iptables => by_iptables(netns, &fronts),
            Mode::Nftables => by_nftables(netns, &fronts),
            Mode::Ipvs => by_ipvs(netns, &fronts),
            Mode::Agents => {}
        }
    }
    if mode == Mode::Agents {
        by_agents(lab, server);
    }
    portmap(lab, server);
}

fn by_iptables(netns: &str, fronts: &[Front]) {
    let mut rules = vec![
        "-N PROXY".to_owned(),
        "-A PREROUTING -j PROXY".to_owned(),
        "-A OUTPUT -j PROXY".to_owned(),
        "-N MASQ".to_owned(),
        "-A POSTROUTING -j MASQ".to_owned(),
        "-A MASQ -m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
        "-A MASQ -j MARK --xor-mark 0x4000".to_owned(),
        "-A MASQ -j MASQUERADE --random-fully".to_owned(),
    ];
    for (protocol, port) in SERVED {
        for front in fronts {
            let to = format!("-A PROXY -d {} -p {protocol} --dport {port}", front.address);
            if front.masqueraded {
                rules.push(format!("{to} -j MARK --or-mark 0x4000"));
            }
            rules.push(format!("{to} -j DNAT --to-destination {}", front.to(port)));
        }
    }
    let program = iptables(Family::from(fronts[0].address));
    for rule in rules {
        sh(&format!("ip netns exec {netns} {program} -w -t nat {rule}"));
    }
}

fn by_nftables(netns: &str, fronts: &[Front]) {
    let mut rules = String::new();
    for (protocol, port) in SERVED {
        let protocol = protocol.to_lowercase();
        for front in fronts {
            let mark = if front.masqueraded { "meta mark set meta mark or 0x4000 " } else { "" };
            let Front { address, .. } = front;
            writeln!(rules, "ip daddr {address} {protocol} dport {port} {mark}dnat to {}", front.to(port))
                .unwrap();
        }
    }
    let table = format!(
        "table ip kube-proxy {{
            chain services {{ {rules} }}
            chain pre {{ type nat hook prerouting priority dstnat; jump services; }}
            chain out {{ type nat hook output priority -100; jump services; }}
            chain post {{ type nat hook postrouting priority srcnat;
                meta mark & 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade fully-random; }}
        }}"
    );
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", netns, "nft", "-f", "-"]).stdin(Stdio::piped());
    let mut nft = nft.spawn().unwrap();
    nft.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{table}");
}

fn by_ipvs(netns: &str, fronts: &[Front]) {
    let inside = format!("ip netns exec {netns}");
    for (protocol, port) in SERVED {
        let kind = if protocol == "TCP" { "-t" } else { "-u" };
        for front in fronts {
            sh(&format!("{inside} ipvsadm -A {kind} {}:{port} -s rr", front.address));
            sh(&format!("{inside} ipvsadm -a {kind} {}:{port} -r {} -m", front.address, front.to(port)));
            let chains: &[&str] =
                if front.masqueraded { &["PREROUTING", "OUTPUT"] } else { &["OUTPUT ! -s 10.244.0.0/16"] };
            for chain in chains {
                sh(&format!(
                    "{inside} iptables -w -t nat -A {chain} -d {} -p {protocol} --dport {port} -j MARK \
                     --or-mark 0x4000",
                    front.address
                ));
            }
        }
    }
    let masquerade = "POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE";
    sh(&format!("{inside} iptables -w -t nat -A {masquerade}"));
}

fn by_agents(lab: &Lab, server: IpAddr) {
    let family = Family::from(server);
    let addresses = Addresses::of(family);
    for (name, ip, endpoint) in [
        ("server", addresses.cluster_ip, server),
        ("node", addresses.cluster_ip_node, lab.node_ip(0, family)),
        ("outside", addresses.cluster_ip_outside, lab.outside_of(family)),
    ] {
        let of_pod = endpoint == server;
        let ports =
            |of: &dyn Fn(&str, u16) -> Value| SERVED.map(|(protocol, port)| of(protocol, port)).to_vec();
        let front = |protocol: &str, port: u16| {
            let node_port = if of_pod { port } else { 0 };
            json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port, "nodePort": node_port})
        };
        let back = |protocol: &str, port: u16| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": target(!of_pod, port)});
        let (kind, external) =
            if of_pod { ("NodePort", vec![addresses.external]) } else { ("ClusterIP", vec![]) };
        lab.api.put(
            SERVICES,
            json!({"metadata": {"namespace": "default", "name": name},
                   "spec": {"type": kind, "clusterIP": ip, "clusterIPs": [ip],
                            "externalIPs": external, "ports": ports(&front)}}),
        );
        lab.api.put(
            SLICES,
            json!({"metadata": {"namespace": "default", "name": format!("{name}-1"),
                                "labels": {"kubernetes.io/service-name": name}},
                   "addressType": if family == Family::V6 { "IPv6" } else { "IPv4" },
                   "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}],
                   "ports": ports(&back)}),
        );
    }
}

/// portmap's, whoever serves Services.
fn portmap(lab: &Lab, server: IpAddr) {
    let family = Family::from(server);
    let address = Addresses::of(family).host_port;
    let inside = format!("ip netns exec {} {} -w -t nat", lab.nodes[0].netns, iptables(family));
    for (protocol, port) in SERVED {
        for chain in ["PREROUTING", "OUTPUT"] {
            let to = format!("-A {chain} -d {address} -p {protocol} --dport {port}");
            if chain == "PREROUTING" {
                sh(&format!("{inside} {to} -s {} -j MARK --or-mark 0x2000", lab.pod_cidr(0, family)));
            }
            sh(&format!("{inside} {to} -j DNAT --to-destination {server}"));
        }
    }
    sh(&format!("{inside} -A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE"));
}
