//! Packets through the whole pipeline of a real switch with a real connection tracker: every path of the
//! connectivity matrix, in both families, and everything that must not pass.
//!
//! The host is played by the test: where a packet leaves by the gateway port, the test sends back what the
//! host's routing and kube-proxy's translation would make of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

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

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

fn ip_packet(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, proto, 0, 0];
            header.extend([src.octets(), dst.octets()].concat());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            [header, payload.to_vec()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = length.to_be_bytes();
            let header = [0x60, 0, 0, 0, length[0], length[1], proto, 64];
            [&header[..], &src.octets(), &dst.octets(), payload].concat()
        }
        _ => panic!("two families"),
    }
}

/// "Host unreachable", which `router` sends to p1 through the gateway about a datagram that p1 sent to `dst`.
fn unreachable(router: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Vec<u8> {
    let me = pod(1);
    let src = me.ips[usize::from(dst.is_ipv6())];
    let udp: Vec<u8> = [sport, dport, 8, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    let about = ip_packet(src, dst, 17, &udp);
    let (kind, proto, ethertype) =
        if src.is_ipv4() { ([3, 1], 1, [8, 0]) } else { ([1, 3], 58, [0x86, 0xdd]) };
    let mut icmp = [&kind[..], &[0; 6], &about].concat();
    let sum = match (router, src) {
        (IpAddr::V6(router), IpAddr::V6(src)) => {
            let length = (icmp.len() as u32).to_be_bytes();
            checksum(&[&router.octets(), &src.octets(), &length, &[0, 0, 0, 58], &icmp])
        }
        _ => checksum(&[&icmp]),
    };
    icmp[2..4].copy_from_slice(&sum);
    [&VIRTUAL_MAC.0[..], &gw_mac().0, &ethertype, &ip_packet(router, src, proto, &icmp)].concat()
}

/// An error about a connection that a pod has reaches it in spite of its isolation, from whichever router; one
/// about a connection that it has not, and a new connection that a tracker relates to a known one, do not.
#[test]
fn errors_reach_isolated_pods_only_about_what_they_have() -> Result<()> {
    let net = userspace();
    let mut sw = ready(&net)?;
    for n in families() {
        expect(&mut sw, "p1", &Frame::from_pod(1, n.outside, udp(1000, 80)), "gw", gw_mac(), 64);
    }
    sw.add_flows(isolation(&net)?)?;
    for (n, router) in families().into_iter().zip(["203.0.113.9", "2001:db8:9::9"].map(ip)) {
        let related = unreachable(router, n.outside, 1000, 80);
        let out = sw.receive_raw("gw", &hex(&related))?;
        let Some((port, packet, _)) = only(&out) else { panic!("from {router}: {out:?}") };
        assert_eq!((port, packet.eth_dst), ("p1", pod(1).mac), "{packet}");
        for (sport, dport) in [(1001, 80), (1000, 81)] {
            let out = sw.receive_raw("gw", &hex(&unreachable(router, n.outside, sport, dport)))?;
            assert!(out.is_empty(), "about a connection of nobody: {out:?}");
        }
        // Such as a helper of the tracker makes; the userspace tracker has none, so the state is given here.
        let (family, src, dst) = if router.is_ipv4() {
            ("tcp", format!("nw_src={}", n.outside), format!("nw_dst={}", n.p1))
        } else {
            ("tcp6", format!("ipv6_src={}", n.outside), format!("ipv6_dst={}", n.p1))
        };
        let packet = format!(
            "in_port=gw,{family},dl_src={},dl_dst={VIRTUAL_MAC},{src},{dst},nw_ttl=64,tp_dst=80",
            gw_mac()
        );
        let reaches = |states: &str| -> Result<bool> {
            let trace = sw.trace(&packet, &[states])?;
            let actions = trace.lines().rfind(|line| line.starts_with("Datapath actions"));
            Ok(!actions.unwrap_or_else(|| panic!("{trace}")).ends_with("drop"))
        };
        assert!(reaches("trk,rel")? && reaches("trk,est")?, "what the pod has");
        assert!(!reaches("trk,new,rel")? && !reaches("trk,new")?, "a new connection is policy's to judge");
    }
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

/// On the kernel datapath the host's mark decides.
#[test]
fn kernel_probes_go_by_mark() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    sw.add_flows(isolation(&net)?)?;
    let probe = "in_port=32769,tcp,dl_src=0a:00:00:00:01:01,dl_dst=0a:00:00:00:01:11,nw_src=10.244.1.1,\
                 nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64";
    let out = sw.trace(&format!("{probe},pkt_mark=0x80000000"), &["trk,new"])?;
    assert!(out.contains("output port is 1\n"), "{out}");
    for unmarked in ["", ",pkt_mark=0x4000"] {
        let out = sw.trace(&format!("{probe}{unmarked}"), &["trk,new"])?;
        assert!(out.trim_end().ends_with("Datapath actions: drop"), "{out}");
    }
    // Only the host can mark.
    let from_pod =
        probe.replace("in_port=32769", "in_port=2").replace("0a:00:00:00:01:01", "0a:00:00:00:01:12");
    let from_pod = from_pod.replace("nw_src=10.244.1.1,", "nw_src=10.244.1.12,");
    let out = sw.trace(&format!("{from_pod},pkt_mark=0x80000000"), &["trk,new"])?;
    assert!(out.trim_end().ends_with("Datapath actions: drop"), "{out}");
    Ok(())
}

/// What a pod sends to itself through a Service comes back from the host with the gateway's address, and with
/// the mark that it left with. That passes isolation, and nobody else's.
#[test]
fn kernel_own_service_passes_isolation() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    sw.add_flows(isolation(&net)?)?;
    for n in [1, 2] {
        let out = sw.trace(
            &format!(
                "in_port={n},tcp,dl_src=0a:00:00:00:01:1{n},dl_dst=0a:00:00:00:01:01,nw_src=10.244.1.1{n},\
                 nw_dst=10.96.0.10,tp_src=1000,tp_dst=80,nw_ttl=64"
            ),
            &["trk,new"],
        )?;
        assert!(out.contains(&format!("set(skb_mark(0x400{n}0000/0x7fff0000))")), "{out}");
    }
    let back = |source: &str, mark: u32| {
        let packet = format!(
            "in_port=32769,tcp,dl_src=0a:00:00:00:01:01,dl_dst=0a:00:00:00:01:11,nw_src={source},\
             nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64,pkt_mark={mark:#x}"
        );
        sw.trace(&packet, &["trk,new"])
    };
    // Also with what kube-proxy adds.
    for mark in [0x4001_0000, 0x4001_c000] {
        let out = back("10.244.1.1", mark)?;
        assert!(out.contains("output port is 1\n"), "{mark:#x}: {out}");
    }
    // Another pod's, one without number, one of somebody else's bits, one from elsewhere.
    for (source, mark) in [
        ("10.244.1.1", 0x4002_0000),
        ("10.244.1.1", 0x4000_0000),
        ("10.244.1.1", 0x0001_0000),
        ("10.244.1.12", 0x4001_0000),
        ("198.51.100.1", 0x4001_0000),
    ] {
        let out = back(source, mark)?;
        assert!(out.trim_end().ends_with("Datapath actions: drop"), "{source} {mark:#x}: {out}");
    }
    Ok(())
}

/// With a tunnel port of OVS's own, the flow says where to.
#[test]
fn flow_based_tunnel() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    let out = sw.trace(
        "in_port=1,tcp,dl_src=0a:00:00:00:01:11,dl_dst=0a:00:00:00:01:01,nw_src=10.244.1.11,\
         nw_dst=10.244.2.7,tp_src=1000,tp_dst=80,nw_ttl=64",
        &["trk,new"],
    )?;
    for step in [
        "set_field:172.30.0.11->tun_src",
        "set_field:172.30.0.12->tun_dst",
        "set_field:aa:bb:cc:dd:ee:ff->eth_dst",
        "dec_ttl",
        "output port is 32768\n",
    ] {
        assert!(out.contains(step), "{step}: {out}");
    }
    let from = |sender: &str| {
        let packet = format!(
            "in_port=32768,tcp,dl_src=0a:00:00:00:02:01,dl_dst=aa:bb:cc:dd:ee:ff,nw_src=10.244.2.7,\
             nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64,{sender}"
        );
        sw.trace(&packet, &["trk,new"])
    };
    // Either address of a peer, and one that is reached without a tunnel.
    for peer in ["tun_src=172.30.0.12", "tun_ipv6_src=fd30::12", "tun_src=172.30.0.13"] {
        let out = from(peer)?;
        assert!(out.contains("output port is 1\n"), "{peer}: {out}");
    }
    // Somebody else, the node itself, and a packet that does not say.
    for stranger in ["tun_src=172.30.0.99", "tun_ipv6_src=fd30::99", "tun_src=172.30.0.11", "tun_src=0.0.0.0"]
    {
        let out = from(stranger)?;
        assert!(out.trim_end().ends_with("Datapath actions: drop"), "{stranger}: {out}");
    }
    Ok(())
}
