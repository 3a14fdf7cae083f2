//! What can be reached under "deny all", by kind of address and by who tries: seen, written down in
//! docs/reachability.md, and compared with it. A section of that file belongs to a datapath, a family, and who serves Services:
//! a mode of kube-proxy, which is played by what it would configure, or the agents. `ANTREA_TEST_WRITE=1` writes what was seen instead.

mod document;
mod serve;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use self::document::{COLUMNS, COMMITTED, INTRODUCTION, ROWS, Seen, file, section, sections};
use self::serve::{Addresses, Mode};
use antrea_tests::lab::{Datapath, Lab, Pod, sh};
use antrea_tests::oracle::Service;
use antrea_tests::prober::{Pace, Place, Probe, Prober};
use antrea_tests::raw;
use antrea_tests::traffic::Sink;
use netcfg::{Family, MacAddr, Netns};
use serde_json::{Value, json};

/// Of the Services, kept by every translation; and of processes that no Service has.
const SERVED: [(&str, u16); 2] = [("TCP", 7000), ("UDP", 7001)];
const PLAIN: [(&str, u16); 2] = [("TCP", 7100), ("UDP", 7101)];
/// Port of the datagram in the tunnel.
const INNER: u16 = 7200;

/// How long a probe is given without the policy, and with it, where most do not arrive; and how often each is sent
/// with it.
const BEFORE: Duration = Duration::from_secs(5);
const UNDER: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// A datagram for the isolated pod from a free pod of the other node, as a peer would send it; with both addresses that
/// a tunnelled frame may have.
fn tunnelled(lab: &Lab, (from, to): (&Pod, &Pod), case: Case) -> (u16, Vec<Vec<u8>>) {
    let node = lab.nodes[0].ip.octets();
    let macs = [
        MacAddr([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]),
        MacAddr([0x0e, 0x04, node[0], node[1], node[2], node[3]]),
    ];
    // VNI 0: VXLAN's flag says that it is valid (RFC 7348 §5), Geneve's protocol that a frame follows (RFC 8926 §3.4).
    let (port, header) = match case.datapath {
        Datapath::Userspace => (4789, [8, 0, 0, 0, 0, 0, 0, 0]),
        Datapath::System => (6081, [0, 0, 0x65, 0x58, 0, 0, 0, 0]),
    };
    let mac: MacAddr = from.mac.parse().unwrap();
    let ip = |pod: &Pod| pod.ip_of(case.family);
    let frame = |to_mac| [&header[..], &raw::udp((mac, ip(from)), (to_mac, ip(to)), INNER)].concat();
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

/// What a section is about.
#[derive(Clone, Copy, Debug)]
struct Case {
    datapath: Datapath,
    mode: Mode,
    family: Family,
}

impl Case {
    fn here(mode: Mode, family: Family) -> Self {
        Self { datapath: Datapath::here(), mode, family }
    }

    /// Heading of its section.
    fn name(self) -> String {
        let datapath = match self.datapath {
            Datapath::System => "kernel",
            Datapath::Userspace => "userspace",
        };
        let family = if self.family == Family::V6 { ", IPv6" } else { "" };
        format!("Open vSwitch's {datapath} datapath, {}{family}", self.mode)
    }

    async fn lab(self) -> Lab {
        let mut config = Vec::<(&str, Value)>::new();
        if self.datapath != Datapath::here() {
            config.push(("ovsDatapathType", json!("netdev")));
        }
        if self.mode == Mode::Agents {
            config.push(("featureGates", json!({"AntreaProxy": true})));
            config.push(("antreaProxy", json!({"proxyAll": true})));
        }
        if self.family == Family::V6 {
            config.push(("serviceCIDRv6", json!("fd00:10:96::/112")));
        }
        let mut lab = Lab::without_agents(2, &config).await;
        if self.family == Family::V6 {
            lab.add_ipv6();
        }
        serve::prepare(&lab, self.mode);
        lab.start_agents().await;
        lab
    }
}

async fn under_deny_all(case: Case) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = case.lab().await;
    let family = case.family;
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
    let addresses = Addresses::of(family);
    serve::serve(&lab, case.mode, server.ip_of(family));
    sh(&format!("ip -n {} addr add {} dev lo", lab.nodes[0].netns, addresses.host_port));
    let (outside, nodes) = (lab.outside(), [0, 1].map(|index| lab.node_ip(index, family)));
    let by_the_node = addresses.all().map(|address| address.to_string());
    for to in by_the_node.into_iter().chain([lab.pod_cidr(0, family)]) {
        sh(&format!("ip -n {outside} route add {to} via {}", nodes[0]));
    }
    sh(&format!("ip -n {} route add {} via {}", lab.nodes[1].netns, addresses.host_port, nodes[0]));

    let end = |netns: &str, address: IpAddr| Place {
        netns: Some(netns.to_owned()),
        source: None,
        address,
        constant: Vec::new(),
    };
    let outside_ip = lab.outside_of(family);
    let mut places: Vec<Place> = clients.iter().map(|pod| end(&pod.netns, pod.ip_of(family))).collect();
    places.extend([0, 1].map(|index| end(&lab.nodes[index].netns, nodes[index])));
    places.push(end(&outside, outside_ip));
    places.push(end(&server.netns, server.ip_of(family)));
    let netns = std::array::from_fn(|column| places[column].netns.clone().unwrap());
    let target = |places: &mut Vec<Place>, address: IpAddr| {
        places.push(Place { netns: None, source: None, address, constant: Vec::new() });
        places.len() - 1
    };
    let (served, plain): ([Service; 2], [Service; 2]) = (SERVED.map(Some), PLAIN.map(Some));
    let api = |port| vec![Some(("TCP", port))];
    let rows = vec![
        (target(&mut places, server.ip_of(family)), served.to_vec()),
        (target(&mut places, addresses.cluster_ip), served.to_vec()),
        (target(&mut places, nodes[0]), served.to_vec()),
        (target(&mut places, nodes[1]), served.to_vec()),
        (target(&mut places, addresses.host_port), served.to_vec()),
        (target(&mut places, addresses.external), served.to_vec()),
        (target(&mut places, addresses.cluster_ip_node), served.to_vec()),
        (target(&mut places, addresses.cluster_ip_outside), served.to_vec()),
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
        tunnel: tunnelled(&lab, (&clients[3], &server), case),
        // Nodes tunnel by their first addresses.
        node: lab.nodes[0].ip.into(),
    };
    let served_to = |row: usize, from: usize| {
        let (to, services) = &world.rows[row];
        services.iter().map(move |service| (Probe { from, to: *to, service: *service }, UNDER))
    };
    // Agents serve a moment after the objects are there, each in its own time.
    let begin = Instant::now();
    loop {
        let probes = [(1, 2), (2, 2), (1, 3), (3, 3), (5, 3), (7, 2), (7, 3)];
        let probes = probes.into_iter().flat_map(|(row, from)| served_to(row, from));
        if world.prober.probe(probes).await.iter().all(|outcome| outcome.arrived) {
            break;
        }
        assert!(begin.elapsed() < LIMIT, "Services are not served");
    }
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

    let name = case.name();
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
    under_deny_all(Case::here(Mode::Iptables, Family::V4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_deny_all_beside_iptables_in_ipv6() {
    under_deny_all(Case::here(Mode::Iptables, Family::V6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_deny_all_beside_nftables() {
    under_deny_all(Case::here(Mode::Nftables, Family::V4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_deny_all_without_kube_proxy() {
    under_deny_all(Case::here(Mode::Agents, Family::V4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_deny_all_without_kube_proxy_in_ipv6() {
    under_deny_all(Case::here(Mode::Agents, Family::V6)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel module ip_vs: runs in the virtual machine"]
async fn under_deny_all_beside_ipvs() {
    under_deny_all(Case::here(Mode::Ipvs, Family::V4)).await;
}

/// The machine that has ip_vs has the kernel's datapath too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel module ip_vs: runs in the virtual machine"]
async fn under_deny_all_beside_ipvs_in_userspace() {
    under_deny_all(Case { datapath: Datapath::Userspace, mode: Mode::Ipvs, family: Family::V4 }).await;
}
