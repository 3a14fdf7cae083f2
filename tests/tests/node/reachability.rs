//! What can be reached under "deny all", by kind of address and by who tries: seen, written down in
//! docs/reachability.md, and compared with it. A section of that file belongs to a datapath and a mode of kube-proxy,
//! which is played by what it would configure. `ANTREA_TEST_WRITE=1` writes what was seen instead.

mod document;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::document::{COLUMNS, COMMITTED, INTRODUCTION, ROWS, Seen, file, section, sections};
use antrea_tests::lab::{Datapath, Lab, Pod, sh};
use antrea_tests::oracle::Service;
use antrea_tests::prober::{Pace, Place, Probe, Prober};
use antrea_tests::raw;
use antrea_tests::traffic::Sink;
use netcfg::{MacAddr, Netns};
use serde_json::json;

/// Of the Services, kept by every translation; and of processes that no Service has.
const SERVED: [(&str, u16); 2] = [("TCP", 7000), ("UDP", 7001)];
const PLAIN: [(&str, u16); 2] = [("TCP", 7100), ("UDP", 7101)];
/// Port of the datagram in the tunnel.
const INNER: u16 = 7200;

const CLUSTER_IP: &str = "10.96.0.10";
const CLUSTER_IP_NODE: &str = "10.96.0.21";
const CLUSTER_IP_OUTSIDE: &str = "10.96.0.23";
const EXTERNAL: &str = "203.0.113.9";
const HOST_PORT: &str = "192.0.2.77";

/// How long a probe is given without the policy, and with it, where most do not arrive; and how often each is sent
/// with it.
const BEFORE: Duration = Duration::from_secs(5);
const UNDER: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// A mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Iptables,
    Nftables,
    Ipvs,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
        }
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

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Front {
    fn to(&self, port: u16) -> SocketAddr {
        // As SERVED to PLAIN.
        SocketAddr::new(self.endpoint, if self.process { port + 100 } else { port })
    }
}

fn fronts(lab: &Lab, index: usize, server: &Pod) -> Vec<Front> {
    let front = |address, endpoint, masqueraded| {
        let process = endpoint != server.ip;
        Front { address, endpoint, process, masqueraded }
    };
    vec![
        front(lab.nodes[index].ip.into(), server.ip, true),
        front(ip(EXTERNAL), server.ip, true),
        front(ip(CLUSTER_IP), server.ip, false),
        front(ip(CLUSTER_IP_NODE), lab.nodes[0].ip.into(), false),
        front(ip(CLUSTER_IP_OUTSIDE), lab.outside_ip().into(), false),
    ]
}

/// Before the agents start: what a node has in this mode whatever its Services are.
fn prepare(lab: &Lab, mode: Mode) {
    for node in lab.nodes.iter().filter(|_| mode == Mode::Ipvs) {
        let netns = &node.netns;
        sh(&format!("ip -n {netns} link add kube-ipvs0 type dummy"));
        for address in [CLUSTER_IP, CLUSTER_IP_NODE, CLUSTER_IP_OUTSIDE, EXTERNAL] {
            sh(&format!("ip -n {netns} addr add {address}/32 dev kube-ipvs0"));
        }
        sh(&format!("ip netns exec {netns} sysctl -qw net.ipv4.vs.conntrack=1"));
    }
}

fn proxy(lab: &Lab, index: usize, server: &Pod, mode: Mode) {
    let netns = &lab.nodes[index].netns;
    let fronts = fronts(lab, index, server);
    let inside = format!("ip netns exec {netns}");
    match mode {
        Mode::Iptables => {
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
                for front in &fronts {
                    let to = format!("-A PROXY -d {} -p {protocol} --dport {port}", front.address);
                    if front.masqueraded {
                        rules.push(format!("{to} -j MARK --or-mark 0x4000"));
                    }
                    rules.push(format!("{to} -j DNAT --to-destination {}", front.to(port)));
                }
            }
            for rule in rules {
                sh(&format!("{inside} iptables -w -t nat {rule}"));
            }
        }
        Mode::Nftables => {
            let mut rules = String::new();
            for (protocol, port) in SERVED {
                let protocol = protocol.to_lowercase();
                for front in &fronts {
                    let mark = if front.masqueraded { "meta mark set meta mark or 0x4000 " } else { "" };
                    writeln!(
                        rules,
                        "ip daddr {} {protocol} dport {port} {mark}dnat to {}",
                        front.address,
                        front.to(port)
                    )
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
        Mode::Ipvs => {
            for (protocol, port) in SERVED {
                let kind = if protocol == "TCP" { "-t" } else { "-u" };
                for front in &fronts {
                    sh(&format!("{inside} ipvsadm -A {kind} {}:{port} -s rr", front.address));
                    sh(&format!(
                        "{inside} ipvsadm -a {kind} {}:{port} -r {} -m",
                        front.address,
                        front.to(port)
                    ));
                    let chains: &[&str] = if front.masqueraded {
                        &["PREROUTING", "OUTPUT"]
                    } else {
                        &["OUTPUT ! -s 10.244.0.0/16"]
                    };
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
    }
    // portmap's, whatever kube-proxy does.
    for (protocol, port) in SERVED.into_iter().filter(|_| index == 0) {
        for chain in ["PREROUTING", "OUTPUT"] {
            let to = format!("-A {chain} -d {HOST_PORT} -p {protocol} --dport {port}");
            if chain == "PREROUTING" {
                sh(&format!(
                    "{inside} iptables -w -t nat {to} -s {} -j MARK --or-mark 0x2000",
                    lab.nodes[index].pod_cidr
                ));
            }
            sh(&format!("{inside} iptables -w -t nat {to} -j DNAT --to-destination {}", server.ip));
        }
    }
    if index == 0 {
        sh(&format!("{inside} iptables -w -t nat -A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE"));
    }
}

/// A datagram for the isolated pod from a free pod of the other node, as a peer would send it; with both addresses that
/// a tunnelled frame may have.
fn tunnelled(lab: &Lab, from: &Pod, to: &Pod) -> (u16, Vec<Vec<u8>>) {
    let node = lab.nodes[0].ip.octets();
    let macs = [
        MacAddr([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]),
        MacAddr([0x0e, 0x04, node[0], node[1], node[2], node[3]]),
    ];
    // VNI 0: VXLAN's flag says that it is valid (RFC 7348 §5), Geneve's protocol that a frame follows (RFC 8926 §3.4).
    let (port, header) = match Datapath::here() {
        Datapath::Userspace => (4789, [8, 0, 0, 0, 0, 0, 0, 0]),
        Datapath::System => (6081, [0, 0, 0x65, 0x58, 0, 0, 0, 0]),
    };
    let mac: MacAddr = from.mac.parse().unwrap();
    let frame = |to_mac| [&header[..], &raw::udp((mac, from.ip), (to_mac, to.ip), INNER)].concat();
    (port, macs.into_iter().map(frame).collect())
}

/// Whether what is sent to the tunnel port from a namespace arrives in the pod.
async fn through_tunnel(netns: &str, port: u16, node: IpAddr, frames: &[Vec<u8>], sink: &Sink) -> bool {
    let before = sink.count();
    for _ in 0..ROUNDS {
        let frames = frames.to_vec();
        let send = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for frame in frames {
                // A refusal by the host itself is an error of the next call.
                let _ = socket.send_to(&frame, SocketAddr::new(node, port));
            }
        };
        Netns::open(format!("/run/netns/{netns}")).unwrap().run(send).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    sink.count() > before
}

struct World {
    prober: Prober,
    /// Targets by row, with their services; the tunnel's row has none.
    rows: Vec<(usize, Vec<Service>)>,
    netns: [String; 7],
    sink: Sink,
    tunnel: (u16, Vec<Vec<u8>>),
    node: IpAddr,
}

impl World {
    async fn look(&self, rounds: usize, patience: Duration) -> Seen {
        let mut seen = Seen::new();
        let mut open: Vec<(usize, Probe)> = Vec::new();
        for (row, (to, services)) in self.rows.iter().enumerate() {
            for from in 0..COLUMNS.len() {
                let cell = seen.entry((row, from)).or_default();
                cell.1 = services.len();
                open.extend(services.iter().map(|service| (row, Probe { from, to: *to, service: *service })));
            }
        }
        for _ in 0..rounds {
            let outcomes = self.prober.probe(open.iter().map(|(_, probe)| (*probe, patience))).await;
            let mut rest = Vec::new();
            for ((row, probe), outcome) in open.into_iter().zip(outcomes) {
                if outcome.arrived {
                    seen.entry((row, probe.from)).or_default().0 += 1;
                } else {
                    rest.push((row, probe));
                }
            }
            open = rest;
        }
        let row = ROWS.iter().position(|row| row.contains("tunnel")).unwrap();
        for (column, netns) in self.netns.iter().enumerate() {
            let (port, frames) = &self.tunnel;
            let reached = through_tunnel(netns, *port, self.node, frames, &self.sink).await;
            seen.insert((row, column), (usize::from(reached), 1));
        }
        seen
    }
}

async fn under_deny_all(mode: Mode) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    prepare(&lab, mode);
    lab.start_agents().await;
    let pod = |lab: &mut Lab, index: usize, name: &str, app: &str| {
        lab.put_pod(index, name, &[("app", app)], None);
        lab.add_pod(index, name)
    };
    let server = pod(&mut lab, 0, "server", "isolated");
    let clients = [
        pod(&mut lab, 0, "near", "isolated"),
        pod(&mut lab, 1, "far", "isolated"),
        pod(&mut lab, 0, "nearfree", "free"),
        pod(&mut lab, 1, "farfree", "free"),
    ];
    for index in 0..2 {
        proxy(&lab, index, &server, mode);
    }
    sh(&format!("ip -n {} addr add {HOST_PORT}/32 dev lo", lab.nodes[0].netns));
    let (outside, nodes): (_, [IpAddr; 2]) = (lab.outside(), [0, 1].map(|index| lab.nodes[index].ip.into()));
    let by_the_node = [EXTERNAL, HOST_PORT, CLUSTER_IP, CLUSTER_IP_NODE, CLUSTER_IP_OUTSIDE];
    for to in by_the_node.map(str::to_owned).into_iter().chain([lab.nodes[0].pod_cidr.clone()]) {
        sh(&format!("ip -n {outside} route add {to} via {}", nodes[0]));
    }

    sh(&format!("ip -n {} route add {HOST_PORT} via {}", lab.nodes[1].netns, nodes[0]));

    let end = |netns: &str, address: IpAddr| Place {
        netns: Some(netns.to_owned()),
        source: None,
        address,
        constant: Vec::new(),
    };
    let outside_ip = IpAddr::from(lab.outside_ip());
    let mut places: Vec<Place> = clients.iter().map(|pod| end(&pod.netns, pod.ip)).collect();
    places.extend([0, 1].map(|index| end(&lab.nodes[index].netns, nodes[index])));
    places.push(end(&outside, outside_ip));
    places.push(end(&server.netns, server.ip));
    let netns = std::array::from_fn(|column| places[column].netns.clone().unwrap());
    let target = |places: &mut Vec<Place>, address: IpAddr| {
        places.push(Place { netns: None, source: None, address, constant: Vec::new() });
        places.len() - 1
    };
    let (served, plain): ([Service; 2], [Service; 2]) = (SERVED.map(Some), PLAIN.map(Some));
    let api = |port| vec![Some(("TCP", port))];
    let rows = vec![
        (target(&mut places, server.ip), served.to_vec()),
        (target(&mut places, ip(CLUSTER_IP)), served.to_vec()),
        (target(&mut places, nodes[0]), served.to_vec()),
        (target(&mut places, nodes[1]), served.to_vec()),
        (target(&mut places, ip(HOST_PORT)), served.to_vec()),
        (target(&mut places, ip(EXTERNAL)), served.to_vec()),
        (target(&mut places, ip(CLUSTER_IP_NODE)), served.to_vec()),
        (target(&mut places, ip(CLUSTER_IP_OUTSIDE)), served.to_vec()),
        (target(&mut places, nodes[0]), plain.to_vec()),
        (target(&mut places, nodes[1]), plain.to_vec()),
        (target(&mut places, outside_ip), plain.to_vec()),
        (0, Vec::new()),
        (target(&mut places, nodes[0]), api(lab.nodes[0].api_port)),
        (target(&mut places, outside_ip), api(10_349)),
    ];
    let world = World {
        prober: Prober::start(&places, &[SERVED, PLAIN].concat(), Pace::default(), 1),
        rows,
        netns,
        sink: Sink::open(&server.netns, INNER).await,
        tunnel: tunnelled(&lab, &clients[3], &server),
        node: nodes[0],
    };
    let before = world.look(2, BEFORE).await;

    lab.put_policy(
        "deny-all",
        &json!({"podSelector": {"matchLabels": {"app": "isolated"}}, "policyTypes": ["Ingress", "Egress"]}),
    );
    let service = Some(("TCP", 7000));
    let (begin, pod_row) = (Instant::now(), world.rows[0].0);
    loop {
        // Into the pod from a free one, and out of each isolated one, also where the host judges.
        let out = [(0, 4), (1, 5), (0, world.rows[7].0), (1, world.rows[7].0)];
        let probes = [(2, pod_row), (3, pod_row)].into_iter().chain(out);
        let probes = probes.map(|(from, to)| (Probe { from, to, service }, UNDER));
        if world.prober.probe(probes).await.iter().all(|outcome| !outcome.arrived) {
            break;
        }
        assert!(begin.elapsed() < LIMIT, "the policy is not in force");
    }
    let under = world.look(ROUNDS, UNDER).await;

    let datapath = match Datapath::here() {
        Datapath::System => "kernel",
        Datapath::Userspace => "userspace",
    };
    let name = format!("Open vSwitch's {datapath} datapath, kube-proxy in {} mode", mode.name());
    let table = section(&name, &before, &under);
    println!("## {name}\n\n{table}");
    if std::env::var_os("ANTREA_TEST_WRITE").is_some() {
        let mut all = sections(&std::fs::read_to_string(file()).unwrap_or_default());
        all.insert(name, table);
        let text = all
            .iter()
            .fold(INTRODUCTION.to_owned(), |text, (name, body)| text + "\n## " + name + "\n\n" + body);
        std::fs::write(file(), text).unwrap();
        return;
    }
    let committed = sections(COMMITTED).remove(&name).unwrap_or_default();
    assert_eq!(table, committed, "docs/reachability.md says something else; if this is right, write it anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_deny_all_beside_iptables() {
    under_deny_all(Mode::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_deny_all_beside_nftables() {
    under_deny_all(Mode::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel module ip_vs: runs in the virtual machine"]
async fn under_deny_all_beside_ipvs() {
    under_deny_all(Mode::Ipvs).await;
}
