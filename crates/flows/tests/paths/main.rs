//! Packets through the whole pipeline of a real switch with a real connection tracker: every path of the
//! connectivity matrix, in both families, and everything that must not pass.
//!
//! The host is played by the test: where a packet leaves by the gateway port, the test sends back what the
//! host's routing and kube-proxy's translation would make of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod errors;
mod kernel;
mod reject;

use std::net::IpAddr;

use antrea_flows::{
    HOST_PROCESS_MAC, Network, VIRTUAL_MAC,
    config::{Datapath, TunnelKind, tunnel_mac},
    policy::{Action, Class, Direction, Peers, Realizer, Rule},
};
use anyhow::Result;
use support::{
    Frame, ack, connectivity, ip, mac, network, node, only, packet::Body, pod, switch, switch::Switch, syn,
    syn_ack, udp,
};

/// The addresses of one family.
struct Net {
    gw: IpAddr,
    p1: IpAddr,
    p2: IpAddr,
    /// A pod of the peer behind the tunnel, and the peer's gateway.
    remote: IpAddr,
    remote_gw: IpAddr,
    /// A pod of a peer reached by routing.
    direct: IpAddr,
    node: IpAddr,
    outside: IpAddr,
    service: IpAddr,
}

fn families() -> [Net; 2] {
    [
        Net {
            gw: ip("10.244.1.1"),
            p1: ip("10.244.1.11"),
            p2: ip("10.244.1.12"),
            remote: ip("10.244.2.7"),
            remote_gw: ip("10.244.2.1"),
            direct: ip("10.244.3.7"),
            node: ip("172.30.0.11"),
            outside: ip("198.51.100.1"),
            service: ip("10.96.0.10"),
        },
        Net {
            gw: ip("fd00:1::1"),
            p1: ip("fd00:1::11"),
            p2: ip("fd00:1::12"),
            remote: ip("fd00:2::7"),
            remote_gw: ip("fd00:2::1"),
            direct: ip("fd00:3::7"),
            node: ip("fd30::11"),
            outside: ip("2001:db8::1"),
            service: ip("fd00:96::10"),
        },
    ]
}

fn gw_mac() -> openflow::MacAddr {
    node(Datapath::Userspace, TunnelKind::KernelVxlan).gateway.mac
}

fn userspace() -> Network {
    network(Datapath::Userspace, TunnelKind::KernelVxlan)
}

fn ready(net: &Network) -> Result<Switch> {
    let sw = switch()?;
    sw.install(connectivity(net).iter().map(ToString::to_string))?;
    Ok(sw)
}

/// Sends a frame and requires that exactly one comes out, unchanged in its addresses.
#[track_caller]
fn expect(sw: &mut Switch, port: &str, frame: &Frame, to: &str, dst_mac: openflow::MacAddr, ttl: u8) {
    let out = sw.receive(port, &frame.text()).unwrap();
    let Some((got, packet, got_ttl)) = only(&out) else {
        panic!("{port}: {frame:?}: {out:?}");
    };
    assert_eq!((got, packet.eth_dst, got_ttl), (to, dst_mac, ttl), "{port}: {frame:?}: {packet}");
    let Body::Ip { src, dst, .. } = packet.body else { panic!("{packet}") };
    assert_eq!((src, dst), (frame.src, frame.dst));
}

#[track_caller]
fn dropped(sw: &mut Switch, port: &str, frame: &str) {
    let out = sw.receive(port, frame).unwrap();
    assert!(out.is_empty(), "{port}: {frame}: {out:?}");
}

#[test]
fn pod_to_pod_on_one_node() -> Result<()> {
    let mut sw = ready(&userspace())?;
    for n in families() {
        expect(&mut sw, "p1", &Frame::from_pod(1, n.p2, syn(1000, 80)), "p2", pod(2).mac, 64);
        expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, syn_ack(80, 1000)), "p1", pod(1).mac, 64);
        for _ in 0..2 {
            expect(&mut sw, "p1", &Frame::from_pod(1, n.p2, udp(53, 53)), "p2", pod(2).mac, 64);
            expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, udp(53, 53)), "p1", pod(1).mac, 64);
        }
        // A pod whose only route is its gateway reaches its neighbour too.
        let mut via_gateway = Frame::from_pod(1, n.p2, syn(1001, 80));
        via_gateway.dst_mac = gw_mac();
        expect(&mut sw, "p1", &via_gateway, "p2", pod(2).mac, 64);
    }
    let known = sw.connections()?;
    assert!(known.lines().all(|l| l.contains("mark=3")), "source pod: {known}");
    Ok(())
}

#[test]
fn pod_to_pod_across_nodes() -> Result<()> {
    let mut sw = ready(&userspace())?;
    let peer = tunnel_mac(ip("172.30.0.12"));
    for n in families() {
        expect(&mut sw, "p1", &Frame::from_pod(1, n.remote, syn(1000, 80)), "tun", peer, 63);
        let reply = Frame::from_tunnel(n.remote, n.p1, syn_ack(80, 1000));
        expect(&mut sw, "tun", &reply, "p1", pod(1).mac, 63);
        let request = Frame::from_tunnel(n.remote, n.p2, syn(2000, 80));
        let out = sw.receive("tun", &request.text())?;
        assert_eq!(out[0].1.eth_src, gw_mac(), "to pods the gateway is the sender: {out:?}");
        expect(&mut sw, "p2", &Frame::from_pod(2, n.remote, syn_ack(80, 2000)), "tun", peer, 63);
    }
    Ok(())
}

#[test]
fn pod_to_node_and_outside() -> Result<()> {
    let mut sw = ready(&userspace())?;
    for n in families() {
        for dst in [n.outside, n.node, n.gw, n.direct] {
            expect(&mut sw, "p1", &Frame::from_pod(1, dst, syn(1000, 80)), "gw", gw_mac(), 64);
            let reply = Frame::from_host(dst, n.p1, syn_ack(80, 1000));
            expect(&mut sw, "gw", &reply, "p1", pod(1).mac, 64);
        }
        // The gateway of another node.
        let peer = tunnel_mac(ip("172.30.0.12"));
        expect(&mut sw, "p1", &Frame::from_pod(1, n.remote_gw, syn(1000, 80)), "tun", peer, 63);
        let reply = Frame::from_tunnel(n.remote_gw, n.p1, syn_ack(80, 1000));
        expect(&mut sw, "tun", &reply, "p1", pod(1).mac, 63);
    }
    Ok(())
}

#[test]
fn node_to_pods() -> Result<()> {
    let mut sw = ready(&userspace())?;
    let peer = tunnel_mac(ip("172.30.0.12"));
    for n in families() {
        expect(&mut sw, "gw", &Frame::from_host(n.gw, n.p1, syn(1000, 80)), "p1", pod(1).mac, 64);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.gw, syn_ack(80, 1000)), "gw", gw_mac(), 64);
        // To a pod of another node: the host has decremented nothing, for it is the source.
        expect(&mut sw, "gw", &Frame::from_host(n.gw, n.remote, syn(1000, 80)), "tun", peer, 64);
        let reply = Frame::from_tunnel(n.remote, n.gw, syn_ack(80, 1000));
        expect(&mut sw, "tun", &reply, "gw", gw_mac(), 64);
        // And the other way round: another node's host to a pod of this node.
        expect(&mut sw, "tun", &Frame::from_tunnel(n.remote_gw, n.p1, syn(3000, 80)), "p1", pod(1).mac, 63);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.remote_gw, syn_ack(80, 3000)), "tun", peer, 63);
        // A pod of a peer that is reached by routing.
        expect(&mut sw, "gw", &Frame::from_host(n.direct, n.p1, syn(1000, 80)), "p1", pod(1).mac, 64);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.direct, syn_ack(80, 1000)), "gw", gw_mac(), 64);
    }
    Ok(())
}

/// kube-proxy translates in the host: each connection crosses the bridge twice.
#[test]
fn cluster_ip() -> Result<()> {
    let mut sw = ready(&userspace())?;
    let peer = tunnel_mac(ip("172.30.0.12"));
    for n in families() {
        // Local endpoint. Its reply is addressed to a neighbour, but must go back through the host.
        expect(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(1000, 80)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.p1, n.p2, syn(1000, 8080)), "p2", pod(2).mac, 64);
        expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, syn_ack(8080, 1000)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.service, n.p1, syn_ack(80, 1000)), "p1", pod(1).mac, 64);
        for _ in 0..2 {
            expect(&mut sw, "p1", &Frame::from_pod(1, n.service, udp(1000, 53)), "gw", gw_mac(), 64);
            expect(&mut sw, "gw", &Frame::from_host(n.p1, n.p2, udp(1000, 53)), "p2", pod(2).mac, 64);
            expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, udp(53, 1000)), "gw", gw_mac(), 64);
            expect(&mut sw, "gw", &Frame::from_host(n.service, n.p1, udp(53, 1000)), "p1", pod(1).mac, 64);
        }

        // Remote endpoint. Its reply comes in addressed to the pod.
        expect(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(1001, 80)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.p1, n.remote, syn(1001, 8080)), "tun", peer, 64);
        expect(&mut sw, "tun", &Frame::from_tunnel(n.remote, n.p1, syn_ack(8080, 1001)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.service, n.p1, syn_ack(80, 1001)), "p1", pod(1).mac, 64);

        // The endpoint is the client itself: the host masquerades to the gateway's address.
        expect(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(1002, 80)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.gw, n.p1, syn(1002, 8080)), "p1", pod(1).mac, 64);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.gw, syn_ack(8080, 1002)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.service, n.p1, syn_ack(80, 1002)), "p1", pod(1).mac, 64);
    }
    Ok(())
}

#[test]
fn node_port_and_host_port() -> Result<()> {
    let mut sw = ready(&userspace())?;
    let peer = tunnel_mac(ip("172.30.0.12"));
    for n in families() {
        // externalTrafficPolicy Local, hostPort: the client's address is kept.
        expect(&mut sw, "gw", &Frame::from_host(n.outside, n.p1, syn(1000, 8080)), "p1", pod(1).mac, 64);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.outside, syn_ack(8080, 1000)), "gw", gw_mac(), 64);
        // externalTrafficPolicy Cluster: masqueraded to the gateway's address, endpoint here or there.
        expect(&mut sw, "gw", &Frame::from_host(n.gw, n.p1, syn(1001, 8080)), "p1", pod(1).mac, 64);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.gw, syn_ack(8080, 1001)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.gw, n.remote, syn(1002, 8080)), "tun", peer, 64);
        expect(&mut sw, "tun", &Frame::from_tunnel(n.remote, n.gw, syn_ack(8080, 1002)), "gw", gw_mac(), 64);
        // A pod of this node is the client, its neighbour the endpoint, its address kept.
        expect(&mut sw, "p1", &Frame::from_pod(1, n.node, syn(1003, 30080)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.p1, n.p2, syn(1003, 8080)), "p2", pod(2).mac, 64);
        expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, syn_ack(8080, 1003)), "gw", gw_mac(), 64);
        expect(&mut sw, "gw", &Frame::from_host(n.node, n.p1, syn_ack(30080, 1003)), "p1", pod(1).mac, 64);
    }
    Ok(())
}

#[test]
fn forged_packets_go_nowhere() -> Result<()> {
    let mut sw = ready(&userspace())?;
    for n in families() {
        let honest = Frame::from_pod(1, n.p2, syn(1000, 80));
        let mut forged = Vec::new();
        for src in [n.p2, n.gw, n.remote, n.outside, n.node] {
            forged.push(Frame { src, ..honest.clone() });
        }
        for src_mac in [pod(2).mac, gw_mac(), VIRTUAL_MAC, mac("02:00:00:00:00:09")] {
            forged.push(Frame { src_mac, ..honest.clone() });
        }
        // The other pod as a whole.
        forged.push(Frame { src_mac: pod(2).mac, src: n.p2, dst: n.gw, ..honest.clone() });
        // An IP that is not the neighbour's, to the neighbour's MAC address: would dodge ingress policy.
        for dst in [n.outside, n.node] {
            forged.push(Frame { dst, ..honest.clone() });
        }
        // Group addresses, by IP or by MAC.
        for (dst, dst_mac) in [
            (n.outside, "ff:ff:ff:ff:ff:ff"),
            (if n.gw.is_ipv4() { ip("255.255.255.255") } else { ip("ff02::1") }, "ff:ff:ff:ff:ff:ff"),
            (if n.gw.is_ipv4() { ip("224.0.0.251") } else { ip("ff02::fb") }, "33:33:00:00:00:fb"),
        ] {
            forged.push(Frame { dst, dst_mac: mac(dst_mac), ..honest.clone() });
        }
        // An address of the node's CIDR that no pod has.
        let nobody = if n.gw.is_ipv4() { ip("10.244.1.99") } else { ip("fd00:1::99") };
        forged.push(Frame { dst: nobody, dst_mac: gw_mac(), ..honest.clone() });
        for frame in &forged {
            dropped(&mut sw, "p1", &frame.text());
        }
        // From a port that no pod's flows know.
        dropped(&mut sw, "p3", &Frame::from_pod(3, n.p2, syn(1000, 80)).text());
        // Out of the tunnel only pods of this node and its gateway are reached.
        for dst in [n.outside, n.node, n.remote, n.service, n.direct, nobody] {
            let mut frame = Frame::from_tunnel(n.remote, dst, syn(1000, 80));
            dropped(&mut sw, "tun", &frame.text());
            frame.dst_mac = gw_mac();
            dropped(&mut sw, "tun", &frame.text());
        }
    }
    let tagged = "eth(src=0a:00:00:00:01:11,dst=0a:00:00:00:01:12),eth_type(0x8100),vlan(vid=7,pcp=0),\
        encap(eth_type(0x0800),ipv4(src=10.244.1.11,dst=10.244.1.12,proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2))";
    dropped(&mut sw, "p1", tagged);
    assert_eq!(sw.connections()?, "", "nothing of this is remembered");
    Ok(())
}

fn arp(op: u8, eth: [&str; 2], sha: &str, spa: &str, tpa: &str) -> String {
    format!(
        "eth(src={},dst={}),eth_type(0x0806),arp(sip={spa},tip={tpa},op={op},sha={sha},tha=00:00:00:00:00:00)",
        eth[0], eth[1]
    )
}

#[test]
fn arp_is_checked_and_answered() -> Result<()> {
    let mut sw = ready(&userspace())?;
    let (p1, p2, gw, all) =
        ("0a:00:00:00:01:11", "0a:00:00:00:01:12", "0a:00:00:00:01:01", "ff:ff:ff:ff:ff:ff");
    // Of one's own.
    let out = sw.receive("p1", &arp(1, [p1, all], p1, "10.244.1.11", "10.244.1.12"))?;
    let ports: Vec<&str> = out.iter().map(|(port, _)| port.as_str()).collect();
    assert!(ports.contains(&"p2") && ports.contains(&"gw") && !ports.contains(&"p1"), "{out:?}");
    let out = sw.receive("p2", &arp(2, [p2, p1], p2, "10.244.1.12", "10.244.1.11"))?;
    assert_eq!(out.iter().map(|o| o.0.as_str()).collect::<Vec<_>>(), ["p1"]);
    let out = sw.receive("gw", &arp(1, [gw, all], gw, "10.244.1.1", "10.244.1.11"))?;
    assert!(out.iter().any(|o| o.0 == "p1"), "{out:?}");
    // The host asks for a peer's gateway.
    let out = sw.receive("gw", &arp(1, [gw, all], gw, "10.244.1.1", "10.244.2.1"))?;
    let [(port, packet)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(port, "gw");
    assert_eq!((packet.eth_src, packet.eth_dst), (VIRTUAL_MAC, gw_mac()));
    assert_eq!(
        packet.body,
        Body::Arp { op: 2, sha: VIRTUAL_MAC, spa: ip("10.244.2.1"), tha: gw_mac(), tpa: ip("10.244.1.1") }
    );
    // Forged.
    for op in [1, 2] {
        for (eth_src, sha, spa) in [
            (p1, p1, "10.244.1.12"),
            (p1, p1, "10.244.1.1"),
            (p1, p2, "10.244.1.11"),
            (p1, gw, "10.244.1.11"),
            (p2, p1, "10.244.1.11"),
            (p2, p2, "10.244.1.12"),
        ] {
            dropped(&mut sw, "p1", &arp(op, [eth_src, all], sha, spa, "10.244.1.12"));
        }
        dropped(&mut sw, "tun", &arp(op, [gw, all], gw, "10.244.1.1", "10.244.1.12"));
        dropped(
            &mut sw,
            "p3",
            &arp(op, ["0a:00:00:00:01:13", all], "0a:00:00:00:01:13", "10.244.1.13", "10.244.1.12"),
        );
    }
    Ok(())
}

#[test]
fn neighbour_discovery_is_checked() -> Result<()> {
    let mut sw = ready(&userspace())?;
    let (p1, p2, gw) = ("0a:00:00:00:01:11", "0a:00:00:00:01:12", "0a:00:00:00:01:01");
    let (ll1, ll2) = ("fe80::800:ff:fe00:111", "fe80::800:ff:fe00:112");
    let nd = |eth_src: &str, eth_dst: &str, src: &str, dst: &str, icmp_type: u8, nd: &str| {
        format!(
            "eth(src={eth_src},dst={eth_dst}),eth_type(0x86dd),\
             ipv6(src={src},dst={dst},label=0,proto=58,tclass=0,hlimit=255,frag=no),\
             icmpv6(type={icmp_type},code=0){nd}"
        )
    };
    let ns = |target: &str, sll: &str| format!(",nd(target={target},sll={sll})");
    let na = |target: &str, tll: &str| format!(",nd(target={target},tll={tll})");
    let group = "33:33:ff:00:00:12";
    let none = "00:00:00:00:00:00";
    // Of one's own.
    for (eth_src, eth_dst, src, dst, kind, options) in [
        (p1, group, "fd00:1::11", "ff02::1:ff00:12", 135, ns("fd00:1::12", p1)),
        (p1, group, ll1, "ff02::1:ff00:12", 135, ns("fd00:1::12", p1)),
        (p1, group, "::", "ff02::1:ff00:11", 135, ns("fd00:1::11", none)),
        (p1, p2, "fd00:1::11", "fd00:1::12", 135, ns("fd00:1::12", none)),
        (p1, p2, "fd00:1::11", "fd00:1::12", 136, na("fd00:1::11", p1)),
        (p1, p2, ll1, ll2, 136, na(ll1, p1)),
        (p1, group, "fd00:1::11", "ff02::1", 136, na("fd00:1::11", p1)),
    ] {
        let out = sw.receive("p1", &nd(eth_src, eth_dst, src, dst, kind, &options))?;
        assert!(out.iter().any(|o| o.0 == "p2"), "{src} {kind} {options}: {out:?}");
    }
    let out = sw.receive("gw", &nd(gw, group, "fd00:1::1", "ff02::1:ff00:12", 135, &ns("fd00:1::12", gw)))?;
    assert!(out.iter().any(|o| o.0 == "p2"), "{out:?}");
    // Forged: sender, target, link-layer address; and what only routers send.
    for (eth_src, src, kind, options) in [
        (p1, "fd00:1::12", 135, ns("fd00:1::12", p1)),
        (p1, "fd00:1::1", 135, ns("fd00:1::12", p1)),
        (p1, ll2, 135, ns("fd00:1::12", p1)),
        (p1, "fd00:1::11", 135, ns("fd00:1::12", p2)),
        (p2, "fd00:1::11", 135, ns("fd00:1::12", p1)),
        (p1, "::", 135, ns("fd00:1::12", none)),
        (p1, "fd00:1::11", 136, na("fd00:1::1", p1)),
        (p1, "fd00:1::11", 136, na("fd00:1::12", p1)),
        (p1, "fd00:1::11", 136, na("fd00:1::11", p2)),
        (p1, "fd00:1::12", 136, na("fd00:1::12", p1)),
        (p1, ll1, 133, String::new()),
        (p1, ll1, 134, String::new()),
        (p1, "fd00:1::11", 134, String::new()),
        (p1, ll1, 137, String::new()),
    ] {
        for (eth_dst, dst) in [(group, "ff02::1"), (p2, "fd00:1::12")] {
            dropped(&mut sw, "p1", &nd(eth_src, eth_dst, src, dst, kind, &options));
        }
    }
    dropped(&mut sw, "tun", &nd(gw, p2, "fd00:1::1", "fd00:1::12", 136, &na("fd00:1::1", p1)));
    Ok(())
}

/// Isolates pods 1 and 2 both ways without allowing anything.
fn isolation(net: &Network) -> Result<Vec<String>> {
    let mut realizer = Realizer::new(net);
    for (id, direction) in [(1, Direction::In), (2, Direction::Out)] {
        realizer.upsert_rule(Rule {
            id,
            direction,
            class: Class::K8s,
            action: Action::Allow,
            pods: [1, 2].map(|n| (n, pod(n).ips.into())).into(),
            peers: Peers::Of([].into()),
            services: vec![],
            logs: false,
        })?;
    }
    Ok(realizer.flows().iter().map(ToString::to_string).collect())
}

#[test]
fn isolated_pods_hear_only_their_node() -> Result<()> {
    let net = userspace();
    let mut sw = ready(&net)?;
    for n in families() {
        // A connection from before.
        expect(&mut sw, "p1", &Frame::from_pod(1, n.p2, udp(1000, 80)), "p2", pod(2).mac, 64);
        expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, udp(80, 1000)), "p1", pod(1).mac, 64);
    }
    sw.add_flows(isolation(&net)?)?;
    for n in families() {
        expect(&mut sw, "p1", &Frame::from_pod(1, n.p2, udp(1000, 80)), "p2", pod(2).mac, 64);
        expect(&mut sw, "p2", &Frame::from_pod(2, n.p1, udp(80, 1000)), "p1", pod(1).mac, 64);
        // Twice: the userspace tracker takes a second packet of a committed connection for established.
        for _ in 0..2 {
            dropped(&mut sw, "p1", &Frame::from_pod(1, n.p2, syn(1001, 80)).text());
            dropped(&mut sw, "p1", &Frame::from_pod(1, n.outside, syn(1001, 80)).text());
            dropped(&mut sw, "tun", &Frame::from_tunnel(n.remote, n.p1, syn(1001, 80)).text());
            dropped(&mut sw, "tun", &Frame::from_tunnel(n.remote_gw, n.p1, syn(1001, 80)).text());
            dropped(&mut sw, "gw", &Frame::from_host(n.outside, n.p1, syn(1001, 80)).text());
            dropped(&mut sw, "gw", &Frame::from_host(n.node, n.p1, syn(1001, 80)).text());
            dropped(&mut sw, "gw", &Frame::from_host(n.p2, n.p1, syn(1001, 80)).text());
            // Forwarded, with a source that kube-proxy masqueraded.
            dropped(&mut sw, "gw", &Frame::from_host(n.gw, n.p1, syn(1001, 80)).text());
            // The address by which the host tells of its processes, from others.
            for (port, src) in [("p2", n.p2), ("tun", n.remote)] {
                let mut frame = Frame::from_tunnel(src, n.p1, syn(1001, 80));
                (frame.src_mac, frame.dst_mac) = (pod(2).mac, HOST_PROCESS_MAC);
                dropped(&mut sw, port, &frame.text());
            }
        }
        // kubelet's probe, and the reply.
        let probe = Frame { dst_mac: HOST_PROCESS_MAC, ..Frame::from_host(n.gw, n.p1, syn(2000, 80)) };
        expect(&mut sw, "gw", &probe, "p1", pod(1).mac, 64);
        expect(&mut sw, "p1", &Frame::from_pod(1, n.gw, syn_ack(80, 2000)), "gw", gw_mac(), 64);
    }
    let known = sw.connections()?;
    assert!(!known.contains("sport=1001"), "dropped connections are not remembered: {known}");
    Ok(())
}

/// Egress of the sender allowed, ingress of the receiver not: the case in which an early commit leaks.
#[test]
fn ingress_drop_after_egress_allow_holds_for_retries() -> Result<()> {
    let net = userspace();
    let mut sw = ready(&net)?;
    let mut realizer = Realizer::new(&net);
    let rule = |id, direction, n: u32, peers| Rule {
        id,
        direction,
        class: Class::K8s,
        action: Action::Allow,
        pods: [(n, pod(n).ips.into())].into(),
        peers,
        services: vec![],
        logs: false,
    };
    realizer.upsert_rule(rule(1, Direction::Out, 1, Peers::Any))?;
    realizer.upsert_rule(rule(2, Direction::In, 2, Peers::Of([].into())))?;
    sw.add_flows(realizer.flows().iter().map(ToString::to_string))?;
    for n in families() {
        for l4 in [syn(1000, 80), syn(1000, 80), ack(1000, 80), udp(1000, 80), udp(1000, 80)] {
            dropped(&mut sw, "p1", &Frame::from_pod(1, n.p2, l4).text());
        }
        expect(&mut sw, "p1", &Frame::from_pod(1, n.outside, syn(1000, 80)), "gw", gw_mac(), 64);
    }
    let known = sw.connections()?;
    assert!(known.lines().all(|l| l.contains("labels=0x100000000")), "egress rule 1: {known}");
    Ok(())
}
