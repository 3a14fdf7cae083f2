//! Datagrams larger than the MTU under rules with ports: from sockets, through the kernel's fragmentation, and as nobody
//! but an attacker would cut them.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use antrea_tests::lab::{Lab, Pod, eventually, sh};
use antrea_tests::raw;
use antrea_tests::traffic::{Sink, ping, udp};
use netcfg::{FrameSocket, MacAddr};
use serde_json::{Value, json};

/// One datagram of a little more than the MTU, one of many fragments, one that fits.
const SIZES: [usize; 3] = [1500, 30_000, 1000];

fn ports(from: u16, to: u16) -> Value {
    json!([{"protocol": "UDP", "port": from, "endPort": to}])
}

/// Pods of two nodes, in the order server, near, far, client. 7600 and up may be asked of the server, 7600 and up may be
/// asked by the client.
async fn scene() -> (Lab, [Pod; 4]) {
    let mut lab = Lab::without_agents(2, &[]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let pods =
        [("server", 0), ("near", 0), ("far", 1), ("client", 0)].map(|(name, node)| lab.add_pod(node, name));
    for (name, direction, rules) in [("server", "Ingress", "ingress"), ("client", "Egress", "egress")] {
        lab.put_policy(
            name,
            &json!({
                "podSelector": {"matchLabels": {"name": name}},
                "policyTypes": [direction],
                rules: [{"ports": ports(7600, 7699)}],
            }),
        );
    }
    let [server, _, far, client] = &pods;
    let isolated = || !ping(&far.netns, server.ip, 56, true) && !ping(&client.netns, far.ip, 56, true);
    eventually("the policies are in force", Duration::from_secs(30), isolated).await;
    (lab, pods)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_datagrams_pass_where_their_port_is_allowed_and_nowhere_else() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let (_lab, [server, near, far, client]) = scene().await;

    let mut failures = Vec::new();
    let (mut allowed, mut denied) = (7600, 7700);
    for (from, to) in
        [(&near, &server), (&far, &server), (&client, &near), (&client, &far), (&client, &server)]
    {
        let address: [fn(&Pod) -> IpAddr; 2] = [|pod| pod.ip, Pod::ipv6];
        for address in address.map(|of| of(to)) {
            for size in SIZES {
                // Each the first of its connection.
                let answered = udp(&from.netns, &to.netns, address, allowed, size).await;
                if let Err(error) = answered {
                    failures.push(format!("{} to {address}, {size} octets: {error}", from.name));
                }
                allowed += 1;
            }
            let leaked = udp(&from.netns, &to.netns, address, denied, SIZES[0]).await;
            if leaked.is_ok() {
                failures.push(format!("{} to {address}: passed on a port that is denied", from.name));
            }
            denied += 1;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Octets of a crafted datagram with its UDP header.
const DATAGRAM: usize = 2008;

/// Where it is cut: Open vSwitch's own reassembly takes no first fragment below 1200 octets, 1280 with IPv6.
const CUT: usize = 1392;

/// Datagrams of each kind; each has a source port of its own and so is the first of a connection.
const EACH: u16 = 20;

const ALLOWED: u16 = 7600;
const DENIED: u16 = 7700;

/// A way to cut a datagram: pieces in the order in which they are sent.
struct Cut {
    what: &'static str,
    /// A piece is of the datagram itself, or of one that differs from it by having the other port.
    pieces: Vec<(bool, Range<usize>)>,
}

/// What every receiver puts together again.
fn honest() -> [Cut; 2] {
    let (head, tail) = ((true, 0..CUT), (true, CUT..DATAGRAM));
    [
        Cut { what: "in order", pieces: vec![head.clone(), tail.clone()] },
        Cut { what: "last first", pieces: vec![tail, head] },
    ]
}

/// What tries to have one port judged and another one reached.
fn hostile() -> [Cut; 6] {
    let (head, tail) = ((true, 0..CUT), (true, CUT..DATAGRAM));
    let (other, ports) = ((false, 0..CUT), (false, 0..8));
    let cut = |what, pieces: &[&(bool, Range<usize>)]| Cut {
        what,
        pieces: pieces.iter().map(|piece| (*piece).clone()).collect(),
    };
    [
        cut("a first of eight octets", &[&(true, 0..8), &(true, 8..CUT), &tail]),
        cut("an overlap in the middle", &[&head, &(true, CUT - 16..DATAGRAM)]),
        cut("another head second", &[&head, &other, &tail]),
        cut("another head last", &[&tail, &head, &other]),
        cut("other ports second", &[&head, &ports, &tail]),
        cut("other ports first", &[&ports, &head, &tail]),
    ]
}

/// Somebody who sends frames of his own making to a pod.
struct Sender {
    socket: FrameSocket,
    from: IpAddr,
    /// By hardware address and address.
    to: (MacAddr, IpAddr),
    /// Source port and identification, both of no earlier datagram.
    next: u16,
}

impl Sender {
    /// Sends datagrams to `port` cut this way.
    async fn send(&mut self, cut: &Cut, port: u16, other: u16) {
        for _ in 0..EACH {
            self.next += 1;
            let datagram =
                |port| raw::datagram((self.from, self.next), (self.to.1, port), &[b'f'; DATAGRAM - 8]);
            let (own, foreign) = (datagram(port), datagram(other));
            for (is_own, range) in &cut.pieces {
                let octets = if *is_own { &own } else { &foreign };
                let place = (range.start, range.end < DATAGRAM);
                let from = (self.socket.mac(), self.from);
                let frame = raw::fragment(from, self.to, self.next, place, &octets[range.clone()]);
                self.socket.send(&frame).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn gateway_mac(lab: &Lab, node: usize) -> MacAddr {
    let link = sh(&format!("ip -n {} -o link show dev antrea-gw0", lab.nodes[node].netns));
    link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_datagram_is_cut_its_port_decides() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let (lab, [server, near, far, client]) = scene().await;
    let gateways = [0, 1].map(|node| gateway_mac(&lab, node));
    let mut sent = 0;
    for (from, to, via) in [
        (&near, &server, None),
        (&far, &server, Some(gateways[1])),
        (&client, &near, None),
        (&client, &far, Some(gateways[0])),
    ] {
        let (allowed, denied) = (Sink::open(&to.netns, ALLOWED).await, Sink::open(&to.netns, DENIED).await);
        let addresses: [fn(&Pod) -> IpAddr; 2] = [|pod| pod.ip, Pod::ipv6];
        for of in addresses {
            let mac = via.unwrap_or_else(|| to.mac.parse().unwrap());
            let socket = raw::open(&from.netns, "eth0").await;
            let mut sender = Sender { socket, from: of(from), to: (mac, of(to)), next: 10_000 };
            let arrive = async |sender: &mut Sender, cut: &Cut| {
                let before = allowed.count();
                sender.send(cut, ALLOWED, DENIED).await;
                let what = format!("{} datagrams of {} to {}, {}", EACH, from.name, sender.to.1, cut.what);
                eventually(&what, Duration::from_secs(20), || allowed.count() >= before + u64::from(EACH))
                    .await;
            };
            for cut in &honest() {
                arrive(&mut sender, cut).await;
                sender.send(cut, DENIED, ALLOWED).await;
                sent += u64::from(EACH);
            }
            for cut in &hostile() {
                sender.send(cut, ALLOWED, DENIED).await;
                sender.send(cut, DENIED, ALLOWED).await;
                sent += 2 * u64::from(EACH);
                let leaked = denied.count();
                assert_eq!(leaked, 0, "{} to {}, {}", from.name, sender.to.1, cut.what);
            }
            // What was cut with malice holds up nobody, and all of it has arrived by now or never will.
            arrive(&mut sender, &honest()[0]).await;
            assert_eq!(denied.count(), 0, "{} to {}: {:?}", from.name, sender.to.1, denied.seen());
        }
    }
    println!("{sent} datagrams that could have reached a denied port, none did");
}
