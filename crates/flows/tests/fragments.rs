//! Datagrams in fragments under rules with ports: what the first packet of a connection is allowed, all its
//! fragments are, in whatever order they come; what is denied does not pass in pieces either.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::IpAddr;

use antrea_flows::{
    VIRTUAL_MAC,
    config::{Datapath, TunnelKind},
    policy::{Action, Class, Direction, Peers, PortRange, Protocol, Realizer, Rule, Service},
};
use anyhow::Result;
use openflow::MacAddr;
use support::{connectivity, ip, network, node, pod, switch, switch::Switch};

/// Above the smallest fragment that the userspace datapath takes (1,200 octets), a multiple of 8.
const PART: usize = 1304;
const ALLOWED: u16 = 80;
const DENIED: u16 = 81;

/// Where a packet comes from and goes to.
#[derive(Clone, Copy, Debug)]
struct Way {
    port: &'static str,
    to: &'static str,
    macs: [MacAddr; 2],
    src: IpAddr,
    dst: IpAddr,
}

impl Way {
    fn back(self) -> Self {
        let Self { port, to, macs: [a, b], src, dst } = self;
        Self { port: to, to: port, macs: [b, a], src: dst, dst: src }
    }
}

fn sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A UDP datagram with its checksum.
fn udp(way: Way, ports: [u16; 2], payload: usize) -> Vec<u8> {
    let length = 8 + payload;
    let data: Vec<u8> = (0..payload).map(|n| n as u8).collect();
    let mut header = [0; 8];
    header[..2].copy_from_slice(&ports[0].to_be_bytes());
    header[2..4].copy_from_slice(&ports[1].to_be_bytes());
    header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    let pseudo =
        [octets(way.src), octets(way.dst), (length as u32).to_be_bytes().to_vec(), vec![0, 0, 0, 17]];
    let check = sum(&[&pseudo.concat(), &header, &data]);
    header[6..8].copy_from_slice(&check.to_be_bytes());
    [&header[..], &data].concat()
}

/// The frame with the octets `range` of an IP payload.
fn fragment(way: Way, id: u16, payload: &[u8], range: std::ops::Range<usize>) -> String {
    let more = range.end < payload.len();
    let data = &payload[range.clone()];
    let mut frame = Vec::new();
    frame.extend(way.macs[1].0);
    frame.extend(way.macs[0].0);
    if way.src.is_ipv4() {
        let mut header = [0u8; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        let offset = (range.start / 8) as u16 | if more { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&offset.to_be_bytes());
        (header[8], header[9]) = (64, 17);
        header[12..16].copy_from_slice(&octets(way.src));
        header[16..20].copy_from_slice(&octets(way.dst));
        let check = sum(&[&header]);
        header[10..12].copy_from_slice(&check.to_be_bytes());
        frame.extend([0x08, 0x00]);
        frame.extend(header);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((8 + data.len() as u16).to_be_bytes());
        frame.extend([44, 64]);
        frame.extend(octets(way.src));
        frame.extend(octets(way.dst));
        frame.extend([17, 0]);
        frame.extend((range.start as u16 | u16::from(more)).to_be_bytes());
        frame.extend(u32::from(id).to_be_bytes());
    }
    frame.extend(data);
    frame.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// A datagram in three fragments.
fn fragments(way: Way, id: u16, ports: [u16; 2]) -> Vec<String> {
    let payload = udp(way, ports, 3000);
    let end = payload.len();
    [0..PART, PART..2 * PART, 2 * PART..end].map(|range| fragment(way, id, &payload, range)).to_vec()
}

/// Sends frames and returns how many came out at the way's end; none may come out elsewhere.
#[track_caller]
fn arrived(sw: &mut Switch, way: Way, frames: &[String]) -> usize {
    let mut count = 0;
    for frame in frames {
        let out = sw.receive_raw(way.port, frame).unwrap();
        assert!(out.iter().all(|(port, _)| port == way.to), "{way:?}: {out:?}");
        count += out.len();
    }
    count
}

/// Pod 1 may receive, pod 2 may send UDP to port 80 only, whoever the peer is.
fn ready(class: Class, action: Action, port: u16) -> Result<Switch> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    let sw = switch()?;
    let mut realizer = Realizer::new(&net);
    for (id, direction, n) in [(1, Direction::In, 1), (2, Direction::Out, 2)] {
        realizer.upsert_rule(Rule {
            id,
            direction,
            class,
            action,
            pods: [(n, pod(n).ips.into())].into(),
            peers: Peers::Of(["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).into()),
            services: vec![Service::to(Protocol::Udp, PortRange::single(port))],
            logs: false,
        })?;
    }
    sw.install(connectivity(&net).iter().chain(&realizer.flows()).map(ToString::to_string))?;
    Ok(sw)
}

/// Into pod 1 from the tunnel and the host, out of pod 2 to the host, from pod 2 to pod 1; both families.
fn ways() -> Vec<Way> {
    let gw = node(Datapath::Userspace, TunnelKind::KernelVxlan).gateway.mac;
    let one = |v6: usize| {
        let [far, outside] = [["10.244.2.7", "198.51.100.1"], ["fd00:2::7", "2001:db8::1"]][v6].map(ip);
        let (p1, p2) = (pod(1), pod(2));
        [
            Way { port: "tun", to: "p1", macs: [gw, p1.mac], src: far, dst: p1.ips[v6] },
            Way { port: "gw", to: "p1", macs: [gw, p1.mac], src: outside, dst: p1.ips[v6] },
            Way { port: "p2", to: "gw", macs: [p2.mac, gw], src: p2.ips[v6], dst: outside },
            Way { port: "p2", to: "p1", macs: [p2.mac, p1.mac], src: p2.ips[v6], dst: p1.ips[v6] },
        ]
    };
    [0, 1].map(one).concat()
}

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn all_fragments_of_a_datagram_share_its_fate() -> Result<()> {
    let allow_one = ready(Class::K8s, Action::Allow, ALLOWED)?;
    let deny_one = ready(Class::Native { priority: 5000 }, Action::Drop, DENIED)?;
    let mut id = 0;
    for mut sw in [allow_one, deny_one] {
        for way in ways() {
            for order in ORDERS {
                for port in [DENIED, ALLOWED] {
                    id += 1;
                    let frames = fragments(way, id, [2000 + id, port]);
                    let frames = order.map(|n| frames[n].clone());
                    let expected = if port == ALLOWED { 3 } else { 0 };
                    assert_eq!(arrived(&mut sw, way, &frames), expected, "{way:?} {order:?} {port}");
                    // The answer belongs to the connection.
                    let answer = fragments(back_to_sender(way), id, [port, 2000 + id]);
                    if port == ALLOWED {
                        let back = back_to_sender(way);
                        assert_eq!(arrived(&mut sw, back, &answer), 3, "answer: {way:?} {order:?}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Through the tunnel or the host the frame's other end is the bridge's gateway.
fn back_to_sender(way: Way) -> Way {
    let gw = node(Datapath::Userspace, TunnelKind::KernelVxlan).gateway.mac;
    let mut back = way.back();
    if back.port == "gw" {
        back.macs[0] = gw;
        back.macs[1] = if back.to == "gw" { VIRTUAL_MAC } else { back.macs[1] };
    }
    back
}

/// Pieces that do not make a datagram, or that contradict each other, or that are too small to say what they
/// belong to.
#[test]
fn what_is_no_datagram_does_not_pass() -> Result<()> {
    let mut sw = ready(Class::K8s, Action::Allow, ALLOWED)?;
    for (n, way) in (0u16..).zip(ways()) {
        let id = 3000 + 10 * n;
        let ports = [id, ALLOWED];
        let good = udp(way, ports, 3000);
        let piece = |id, range| fragment(way, id, &good, range);
        // The last one never comes.
        assert_eq!(arrived(&mut sw, way, &[piece(id, 0..PART), piece(id, PART..2 * PART)]), 0, "{way:?}");
        // No first one.
        let rest = [piece(id + 1, PART..2 * PART), piece(id + 1, 2 * PART..good.len())];
        assert_eq!(arrived(&mut sw, way, &rest), 0, "{way:?}");
        // A second first fragment says another port: the denied datagram's must not come out.
        let bad = udp(way, [id, DENIED], 3000);
        let frames = [
            piece(id + 2, 0..PART),
            fragment(way, id + 2, &bad, 0..PART),
            piece(id + 2, PART..2 * PART),
            piece(id + 2, 2 * PART..good.len()),
        ];
        assert!(arrived(&mut sw, way, &frames) <= 3, "{way:?}");
        let frames = [
            fragment(way, id + 3, &bad, 0..PART),
            piece(id + 3, 0..PART),
            fragment(way, id + 3, &bad, PART..2 * PART),
            fragment(way, id + 3, &bad, 2 * PART..bad.len()),
        ];
        assert_eq!(arrived(&mut sw, way, &frames), 0, "{way:?}");
        // One that lies over the end of another.
        let frames = [
            fragment(way, id + 4, &bad, 0..PART),
            piece(id + 4, PART - 8..2 * PART),
            piece(id + 4, 2 * PART..good.len()),
        ];
        assert_eq!(arrived(&mut sw, way, &frames), 0, "{way:?}");
        // Eight octets hold the ports and no more; none hold nothing.
        let tiny = [piece(id + 5, 0..8), piece(id + 5, 8..PART), piece(id + 5, PART..good.len())];
        assert_eq!(arrived(&mut sw, way, &tiny), 0, "{way:?}");
        // And the connection can be made all the same.
        let frames = fragments(way, id + 6, ports);
        assert_eq!(arrived(&mut sw, way, &frames), 3, "{way:?}");
    }
    Ok(())
}

/// What waits for the rest of its datagram in vain does not come out later, with other packets.
#[test]
fn fragments_that_waited_in_vain_are_dropped() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    let mut sw = switch()?;
    sw.install(connectivity(&net).iter().map(ToString::to_string))?;
    for way in ways() {
        let frames = fragments(way, 7, [1000, ALLOWED]);
        assert_eq!(arrived(&mut sw, way, &frames[1..]), 0, "{way:?}");
    }
    // Longer than the tracker waits.
    sw.pass_time(60_000)?;
    for (id, way) in (100..).zip(ways()) {
        assert_eq!(arrived(&mut sw, way, &fragments(way, id, [id, ALLOWED])), 3, "{way:?}");
    }
    Ok(())
}
