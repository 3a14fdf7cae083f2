//! A pod sends only as itself. What counts is what arrives at the receiver: an answer to a forged source would never
//! come back to the forger, whether or not his packet passed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antrea_tests::lab::{Lab, Pod, eventually, sh};
use antrea_tests::traffic::{Sink, send_from, udp};

const PORT: u16 = 7100;
const LIMIT: Duration = Duration::from_secs(20);

/// Datagrams sent with each forged source to each receiver.
const FORGED: u64 = 5;

/// Somebody whom the forger sends to.
struct Receiver {
    name: &'static str,
    /// By family: IPv4, IPv6.
    ips: [IpAddr; 2],
    sink: Sink,
}

impl Receiver {
    async fn new(name: &'static str, netns: &str, ips: [IpAddr; 2]) -> Self {
        Self { name, ips, sink: Sink::open(netns, PORT).await }
    }
}

fn both(pod: &Pod) -> [IpAddr; 2] {
    [pod.ip, pod.ipv6()]
}

/// Packets that the node's guard against forged sources has dropped. Open vSwitch counts a packet within a second.
fn dropped(lab: &Lab, table: &str) -> u64 {
    let dump = lab.nodes[0].ofctl("dump-flows", &["--names"]);
    dump.lines()
        .filter(|line| line.contains(&format!("table={table},")) && line.contains("actions=drop"))
        .filter_map(|line| line.split("n_packets=").nth(1)?.split(',').next()?.parse::<u64>().ok())
        .sum()
}

/// Sends as itself to each receiver and waits for that to arrive: whatever was sent before has arrived by then, or
/// never will. `seen` is what had arrived earlier; nothing else may have.
async fn honest(from: &Pod, receivers: &[Receiver], seen: &mut [u64]) {
    for (receiver, seen) in receivers.iter().zip(seen) {
        for (source, to) in both(from).into_iter().zip(receiver.ips) {
            send_from(&from.netns, source, SocketAddr::new(to, PORT)).await.unwrap();
            *seen += 1;
            eventually(&format!("{source} reaches {}", receiver.name), LIMIT, || {
                receiver.sink.count() >= *seen
            })
            .await;
        }
        assert_eq!(receiver.sink.count(), *seen, "at {}: {:?}", receiver.name, receiver.sink.seen());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_sources_go_nowhere() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let victim = lab.add_pod(0, "victim");
    let receivers = [
        Receiver::new("a pod of the node", &b.netns, both(&b)).await,
        Receiver::new("a pod of another node", &c.netns, both(&c)).await,
        Receiver::new("the world outside", &lab.outside(), [lab.outside_ip().into(), lab.outside_ipv6()])
            .await,
    ];
    let mut seen = [0; 3];
    honest(&a, &receivers, &mut seen).await;

    // Addresses of nobody, those of a neighbour and of a pod elsewhere.
    let nobody: [IpAddr; 2] = ["10.244.1.200", "fd00:244:1::200"].map(|ip| ip.parse().unwrap());
    for forged in [nobody, both(&victim), both(&c)] {
        for (family, source) in forged.into_iter().enumerate() {
            let length = if source.is_ipv4() { "32" } else { "128 nodad" };
            sh(&format!("ip -n {} addr add {source}/{length} dev eth0", a.netns));
            let before = dropped(&lab, "SpoofGuard");
            let mut sent = 0;
            for to in receivers.iter().map(|receiver| receiver.ips[family]).filter(|to| *to != source) {
                for _ in 0..FORGED {
                    send_from(&a.netns, source, SocketAddr::new(to, PORT)).await.unwrap();
                    sent += 1;
                }
            }
            let told = || dropped(&lab, "SpoofGuard") >= before + sent;
            eventually(&format!("{sent} datagrams from {source} are dropped"), LIMIT, told).await;
            sh(&format!(
                "ip -n {} addr del {source}/{} dev eth0",
                a.netns,
                length.split(' ').next().unwrap()
            ));
            honest(&a, &receivers, &mut seen).await;
        }
    }

    // Another MAC with the right addresses. The forger knows his neighbours already: its questions for them would not
    // pass either.
    let neighbours = sh(&format!("ip -n {} neigh show dev eth0", a.netns));
    let known: BTreeMap<&str, &str> = neighbours
        .lines()
        .filter_map(|line| Some((line.split(' ').next()?, line.split("lladdr ").nth(1)?.split(' ').next()?)))
        .collect();
    let before = dropped(&lab, "SpoofGuard");
    sh(&format!("ip -n {} link set eth0 address 02:11:22:33:44:55", a.netns));
    for (ip, mac) in &known {
        sh(&format!("ip -n {} neigh replace {ip} lladdr {mac} nud permanent dev eth0", a.netns));
    }
    let mut sent = 0;
    for (source, family) in both(&a).into_iter().zip(0..) {
        for receiver in &receivers {
            for _ in 0..FORGED {
                send_from(&a.netns, source, SocketAddr::new(receiver.ips[family], PORT)).await.unwrap();
                sent += 1;
            }
        }
    }
    let told = || dropped(&lab, "SpoofGuard") >= before + sent;
    eventually(&format!("{sent} datagrams from another MAC are dropped"), LIMIT, told).await;
    sh(&format!("ip -n {} link set eth0 address {}", a.netns, a.mac));
    honest(&a, &receivers, &mut seen).await;
}

/// Announcements that claim another's address change nobody's table. One of the forger's own address, sent after
/// them, does: so the others had their chance.
#[tokio::test(flavor = "multi_thread")]
async fn forged_announcements_are_not_heard() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let (a, b, d) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(0, "d"));
    assert!(udp(&d.netns, &b.netns, b.ip, 7000, 10).await.is_ok());
    // d makes an entry of every announcement that it hears.
    sh(&format!("ip netns exec {} sysctl -qw net.ipv4.conf.all.arp_accept=1", d.netns));
    sh(&format!("ip netns exec {} sysctl -qw net.ipv4.conf.eth0.arp_accept=1", d.netns));
    let table = |ip: &str| sh(&format!("ip -n {} neigh show {ip}", d.netns));
    let (nobody, own) = ("10.244.1.200", a.ip.to_string());
    assert!(table(nobody).is_empty() && table(&own).is_empty());
    let before = dropped(&lab, "ARPSpoofGuard");
    let netns = netcfg::Netns::open(format!("/run/netns/{}", a.netns)).unwrap();
    let claims = [b.ip, nobody.parse().unwrap(), a.ip];
    eventually("the forger's own announcement is heard", LIMIT, || {
        let announce = netcfg::garp::announce(&netns, "eth0", &claims);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(announce)).unwrap();
        table(&own).contains(&a.mac)
    })
    .await;
    let victim = table(&b.ip.to_string());
    assert!(victim.contains(&b.mac) && !victim.contains(&a.mac), "{victim}");
    assert_eq!(table(nobody), "", "an announcement of an address of nobody was heard");
    eventually("both are counted", LIMIT, || dropped(&lab, "ARPSpoofGuard") >= before + 2).await;
}
