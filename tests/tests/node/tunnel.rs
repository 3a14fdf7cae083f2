//! Into a node's end of the tunnel come packets of other nodes, and of nobody else: what a tunnel brings is taken for
//! judged by policy.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::{Datapath, Lab, NODES, eventually, sh};
use antrea_tests::raw::{self, Tunnel};
use antrea_tests::traffic::Sink;
use netcfg::{FrameSocket, MacAddr};
use serde_json::{Value, json};

const PORT: u16 = 7300;
const SERVICE: &str = "10.96.0.77";
const LIMIT: Duration = Duration::from_secs(20);

/// Packets that go each forbidden way.
const PROBES: u64 = 20;

/// Packets that rules with this comment have dropped on a node.
fn refused(lab: &Lab, node: usize, chain: &str, why: &str) -> u64 {
    let netns = &lab.nodes[node].netns;
    let rules = sh(&format!("ip netns exec {netns} iptables -w -t mangle -nvxL {chain}"));
    let of = |line: &&str| line.contains(&format!("tunnel packets {why} "));
    rules.lines().filter(of).filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

/// Packets from the tunnel that no peer's flow took in.
fn strangers(lab: &Lab, node: usize) -> u64 {
    let dump = lab.nodes[node].ofctl("dump-flows", &["--names"]);
    let drops = |line: &&str| {
        line.contains("table=Classifier,")
            && line.contains("in_port=\"antrea-tun0\"")
            && line.contains("actions=drop")
    };
    let counts = dump.lines().filter(drops);
    counts.filter_map(|line| line.split("n_packets=").nth(1)?.split(',').next()?.parse::<u64>().ok()).sum()
}

fn link_mac(netns: &str, link: &str) -> MacAddr {
    let shown = sh(&format!("ip -n {netns} -j link show {link}"));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown[0]["address"].as_str().unwrap().parse().unwrap()
}

/// Somebody who packs frames by hand.
struct Packer {
    tunnel: Tunnel,
    socket: FrameSocket,
    ip: IpAddr,
}

impl Packer {
    async fn new(tunnel: Tunnel, netns: &str, link: &'static str, ip: IpAddr) -> Self {
        Self { tunnel, socket: raw::open(netns, link).await, ip }
    }

    /// Sends what comes out at `victim` as if it were of `claimed`, packed for a node or a Service.
    async fn send(&self, to: (MacAddr, IpAddr), port: Option<u16>, claimed: IpAddr, victim: IpAddr) {
        let any = "02:00:00:00:07:07".parse().unwrap();
        let inner = raw::udp((any, claimed), (MacAddr([0x0e, 4, 1, 2, 3, 4]), victim), PORT);
        let frame = raw::packed(self.tunnel, (self.socket.mac(), self.ip), to, port, &inner);
        self.socket.send(&frame).await.unwrap();
    }
}

/// What a node packs by hand comes out at each of the two nodes: nothing but its sender is wrong with the rest. And what
/// was sent before has come out by then, or never will.
struct Fence<'a> {
    /// Sender, the node it sends to, the pod it claims to be, the pod it reaches and what arrives there.
    ways: [(&'a Packer, (MacAddr, IpAddr), IpAddr, IpAddr, &'a Sink); 2],
    /// What had arrived before.
    seen: [u64; 2],
}

impl Fence<'_> {
    async fn pass(&mut self, what: &str) {
        for ((peer, to, claimed, victim, sink), seen) in self.ways.iter().zip(&mut self.seen) {
            peer.send(*to, None, *claimed, *victim).await;
            *seen += 1;
            let arrived = || sink.count() >= *seen;
            eventually(&format!("after {what}: a node's packet arrives"), LIMIT, arrived).await;
            assert_eq!(sink.count(), *seen, "{what}: {:?}", sink.seen());
        }
    }
}

/// What kube-proxy has for a Service with a node's end of the tunnel as its endpoint, and for its NodePort.
fn serve(lab: &Lab, node: usize, service: &str, endpoint: IpAddr, tunnel: u16) {
    let (netns, ip) = (&lab.nodes[node].netns, lab.nodes[node].ip);
    let port = 5300 + u16::try_from(node).unwrap();
    for rule in [
        format!(
            "-A PREROUTING -d {service}/32 -p udp --dport 53 -j DNAT --to-destination {endpoint}:{tunnel}"
        ),
        format!("-A PREROUTING -d {ip}/32 -p udp --dport {port} -j MARK --or-mark 0x4000"),
        format!(
            "-A PREROUTING -d {ip}/32 -p udp --dport {port} -j DNAT --to-destination {endpoint}:{tunnel}"
        ),
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE".to_owned(),
    ] {
        sh(&format!("ip netns exec {netns} iptables -w -t nat {rule}"));
    }
}

async fn only_nodes(config: &[(&str, Value)], tunnel: Tunnel) {
    let mut lab = Lab::start(2, config).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let (near, far) = (Sink::open(&b.netns, PORT).await, Sink::open(&c.netns, PORT).await);
    let ips: [IpAddr; 2] = [0, 1].map(|node| lab.nodes[node].ip.into());
    let macs = [0, 1].map(|node| link_mac(&lab.nodes[node].netns, "eth0"));
    let ends = [(macs[0], ips[0]), (macs[1], ips[1])];
    let gateway = link_mac(&lab.nodes[0].netns, "antrea-gw0");

    let peers = [
        Packer::new(tunnel, &lab.nodes[0].netns, "eth0", ips[0]).await,
        Packer::new(tunnel, &lab.nodes[1].netns, "eth0", ips[1]).await,
    ];
    let outsider = Packer::new(tunnel, &lab.outside(), "underlay0", lab.outside_ip().into()).await;
    let pod = Packer::new(tunnel, &a.netns, "eth0", a.ip).await;

    let mut fence = Fence {
        ways: [(&peers[1], ends[0], c.ip, b.ip, &near), (&peers[0], ends[1], a.ip, c.ip, &far)],
        seen: [0; 2],
    };
    // The first may find a pod that is not known yet.
    tokio::time::sleep(Duration::from_millis(500)).await;
    fence.pass("start").await;

    let from_no_node = "come from Nodes alone";
    let before = refused(&lab, 0, "ANTREA-INPUT", from_no_node);
    for _ in 0..PROBES {
        outsider.send(ends[0], None, c.ip, b.ip).await;
    }
    fence.pass("an outsider's").await;
    assert_eq!(refused(&lab, 0, "ANTREA-INPUT", from_no_node) - before, PROBES);

    // Once he is a node he is heard, until he is none any more.
    let newcomer = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "newcomer"},
        "spec": {"podCIDR": "10.244.99.0/24", "podCIDRs": ["10.244.99.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": lab.outside_ip().to_string()}]},
    });
    lab.api.put(NODES, newcomer);
    let newcomer_pod: IpAddr = "10.244.99.9".parse().unwrap();
    let heard = || near.seen().contains_key(&newcomer_pod);
    for _ in 0..200 {
        outsider.send(ends[0], None, newcomer_pod, b.ip).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if heard() {
            break;
        }
    }
    assert!(heard(), "a new node is not heard");
    lab.api.delete(NODES, None, "newcomer");
    let gone = || !lab.nodes[0].ofctl("dump-flows", &["--no-stats"]).contains("10.244.99.0/24");
    eventually("the node is gone", LIMIT, gone).await;
    let before = refused(&lab, 0, "ANTREA-INPUT", from_no_node);
    for _ in 0..200 {
        outsider.send(ends[0], None, newcomer_pod, b.ip).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if refused(&lab, 0, "ANTREA-INPUT", from_no_node) > before {
            break;
        }
    }
    fence.seen[0] = near.count();
    for _ in 0..PROBES {
        outsider.send(ends[0], None, newcomer_pod, b.ip).await;
    }
    fence.pass("a former node's").await;

    // A node takes in nothing at an address that no Node object has: others could not tell it from one of no node.
    let other: IpAddr = "192.0.2.77".parse().unwrap();
    sh(&format!("ip -n {} addr add {other}/32 dev lo", lab.nodes[0].netns));
    for _ in 0..PROBES {
        peers[1].send((macs[0], other), None, c.ip, b.ip).await;
    }
    fence.pass("those to another address").await;
    assert_eq!(refused(&lab, 0, "ANTREA-INPUT", "are sent to an address of the Node"), PROBES);

    // A pod: to its own node, to another node, whose guard would take them for its node's.
    for (to, claimed, victim, chain) in
        [(ips[0], c.ip, b.ip, "ANTREA-INPUT"), (ips[1], b.ip, c.ip, "ANTREA-FORWARD")]
    {
        for _ in 0..PROBES {
            pod.send((gateway, to), None, claimed, victim).await;
        }
        let told = || refused(&lab, 0, chain, "come from no Pod") >= PROBES;
        eventually(&format!("a pod's to {to} are dropped"), LIMIT, told).await;
        fence.pass("a pod's").await;
    }

    // Through Services whose endpoint is a node.
    if let Some(port) = tunnel.port() {
        let service: IpAddr = SERVICE.parse().unwrap();
        for (node, claimed, victim, chain) in
            [(0, c.ip, b.ip, "ANTREA-INPUT"), (1, b.ip, c.ip, "ANTREA-FORWARD")]
        {
            sh(&format!("ip netns exec {} iptables -w -t nat -F PREROUTING", lab.nodes[0].netns));
            serve(&lab, 0, SERVICE, ips[node], port);
            let before = |lab: &Lab| {
                refused(lab, 0, chain, "come from no Pod") + refused(lab, 0, chain, "go to no Service")
            };
            let had = before(&lab);
            for _ in 0..PROBES {
                pod.send((gateway, service), Some(53), claimed, victim).await;
            }
            eventually("those to a Service are dropped", LIMIT, || before(&lab) - had >= PROBES).await;
            fence.pass("those to a Service").await;
        }
        // Node 2 translates back to node 1, with its own address.
        serve(&lab, 1, SERVICE, ips[0], port);
        let had = refused(&lab, 1, "ANTREA-FORWARD", "go to no Service");
        for from in [&pod, &outsider] {
            let mac = if from.ip == a.ip { gateway } else { macs[1] };
            for _ in 0..PROBES {
                from.send((mac, ips[1]), Some(5301), c.ip, b.ip).await;
            }
        }
        let told = || refused(&lab, 1, "ANTREA-FORWARD", "go to no Service") - had >= 2 * PROBES;
        eventually("those to another node's NodePort are dropped", LIMIT, told).await;
        fence.pass("those to a NodePort").await;
    }

    // Without the firewall, as long as it takes to repair it, flows judge where the tunnel is Open vSwitch's own.
    if Datapath::here() == Datapath::System {
        let had = strangers(&lab, 0);
        sh(&format!("ip netns exec {} iptables -w -t mangle -F ANTREA-INPUT", lab.nodes[0].netns));
        for _ in 0..PROBES {
            outsider.send(ends[0], None, c.ip, b.ip).await;
        }
        fence.pass("an outsider's without firewall").await;
        eventually("flows have dropped them", LIMIT, || strangers(&lab, 0) > had).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_send_into_the_tunnel() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let tunnel = if Datapath::here() == Datapath::System { Tunnel::Geneve } else { Tunnel::Vxlan };
    only_nodes(&[], tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel's datapath: runs in the virtual machine"]
async fn only_nodes_send_into_other_tunnels() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    for (name, tunnel) in [("vxlan", Tunnel::Vxlan), ("gre", Tunnel::Gre)] {
        only_nodes(&[("tunnelType", json!(name))], tunnel).await;
    }
}
