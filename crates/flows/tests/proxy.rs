//! Services that the bridge serves itself, through a real switch with a real connection tracker.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use antrea_flows::{
    Entry, Network, Round, ServiceBackend, Transport, VIRTUAL_V4, VIRTUAL_V6,
    config::{Datapath, TunnelKind, tunnel_mac},
    policy::{Action, Class, Direction, Peers, PortRange, Protocol, Realizer, Rule, Service},
};
use anyhow::Result;
use openflow::MacAddr;
use support::{
    Frame, connectivity, ip, node,
    packet::{Body, Packet},
    pod, switch,
    switch::Switch,
    syn, syn_ack, udp,
};

struct Net {
    service: IpAddr,
    external: IpAddr,
    p1: IpAddr,
    p2: IpAddr,
    remote: IpAddr,
    node: IpAddr,
    itself: IpAddr,
}

fn families() -> [Net; 2] {
    [
        Net {
            service: ip("10.96.0.10"),
            external: ip("192.0.2.10"),
            p1: ip("10.244.1.11"),
            p2: ip("10.244.1.12"),
            remote: ip("10.244.2.7"),
            node: ip("172.30.0.11"),
            itself: VIRTUAL_V4.into(),
        },
        Net {
            service: ip("fd00:96::10"),
            external: ip("2001:db8::10"),
            p1: ip("fd00:1::11"),
            p2: ip("fd00:1::12"),
            remote: ip("fd00:2::7"),
            node: ip("fd30::11"),
            itself: VIRTUAL_V6.into(),
        },
    ]
}

/// A packet of a connection that is not its first. Only of those with FIN does the switch make one without payload,
/// for which no window has room.
fn later(sport: u16, dport: u16) -> String {
    format!("tcp(src={sport},dst={dport}),tcp_flags(fin|ack)")
}

fn net() -> Network {
    let mut config = node(Datapath::Userspace, TunnelKind::KernelVxlan);
    config.services = true;
    Network::new(config, Round(7))
}

fn gw_mac() -> MacAddr {
    node(Datapath::Userspace, TunnelKind::KernelVxlan).gateway.mac
}

fn backend(group: u32, frontends: &[IpAddr], port: u16, endpoints: &[(IpAddr, u16)]) -> ServiceBackend {
    ServiceBackend {
        group,
        transport: Transport::Tcp,
        frontends: frontends.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
        outside: Vec::new(),
        endpoints: endpoints.iter().map(|(ip, port)| SocketAddr::new(*ip, *port)).collect(),
        affinity: None,
    }
}

fn texts(entries: &[Entry]) -> (Vec<String>, Vec<String>) {
    let (groups, flows): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| matches!(entry, Entry::Group(_)));
    let text = |entries: Vec<&Entry>| entries.into_iter().map(ToString::to_string).collect();
    (text(groups), text(flows))
}

fn serve(sw: &Switch, net: &Network, backends: &[ServiceBackend]) -> Result<()> {
    let entries: Vec<Entry> = backends.iter().flat_map(|b| antrea_flows::service_backend(net, b)).collect();
    let (groups, flows) = texts(&entries);
    sw.add_entries(&groups, &flows)
}

fn ready(net: &Network, backends: &[ServiceBackend]) -> Result<Switch> {
    let sw = switch()?;
    sw.install(connectivity(net).iter().map(ToString::to_string))?;
    serve(&sw, net, backends)?;
    Ok(sw)
}

/// What came out, as port, addresses and ports.
type Out = (String, IpAddr, IpAddr, u16, u16);

#[track_caller]
fn send(sw: &mut Switch, port: &str, frame: &Frame) -> Option<(Out, Packet)> {
    let out = sw.receive(port, &frame.text()).unwrap();
    assert!(out.len() <= 1, "{port}: {frame:?}: {out:?}");
    let (name, packet) = out.into_iter().next()?;
    let Body::Ip { src, dst, .. } = packet.body else { panic!("{packet}") };
    let (sport, dport) = packet.ports.unwrap();
    Some(((name, src, dst, sport, dport), packet))
}

#[track_caller]
fn sends(
    sw: &mut Switch,
    port: &str,
    frame: &Frame,
    to: &str,
    src: IpAddr,
    dst: IpAddr,
    ports: (u16, u16),
) -> Packet {
    let (out, packet) = send(sw, port, frame).unwrap_or_else(|| panic!("{port}: {frame:?}: nothing"));
    assert_eq!(out, (to.to_owned(), src, dst, ports.0, ports.1), "{port}: {frame:?}");
    packet
}

#[test]
fn an_endpoint_of_this_node_and_its_answer() -> Result<()> {
    for n in families() {
        let net = net();
        let mut sw = ready(&net, &[backend(256, &[n.service, n.external], 80, &[(n.p2, 8080)])])?;
        for (frontend, sport) in [(n.service, 1000), (n.external, 1001)] {
            let to = |l4| Frame::from_pod(1, frontend, l4);
            let back = |l4| Frame::from_pod(2, n.p1, l4);
            let there = sends(&mut sw, "p1", &to(syn(sport, 80)), "p2", n.p1, n.p2, (sport, 8080));
            assert_eq!(there.eth_dst, pod(2).mac);
            sends(&mut sw, "p2", &back(syn_ack(8080, sport)), "p1", frontend, n.p1, (80, sport));
            sends(&mut sw, "p1", &to(later(sport, 80)), "p2", n.p1, n.p2, (sport, 8080));
            // Without the Service its connections go on, and new ones go to the host as before.
            sw.remove_groups()?;
            sends(&mut sw, "p1", &to(later(sport, 80)), "p2", n.p1, n.p2, (sport, 8080));
            sends(&mut sw, "p2", &back(later(8080, sport)), "p1", frontend, n.p1, (80, sport));
            sends(&mut sw, "p1", &to(syn(sport + 10, 80)), "gw", n.p1, frontend, (sport + 10, 80));
            serve(&sw, &net, &[backend(256, &[n.service, n.external], 80, &[(n.p2, 8080)])])?;
        }
        // Another port, another protocol.
        sends(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(5, 81)), "gw", n.p1, n.service, (5, 81));
        sends(&mut sw, "p1", &Frame::from_pod(1, n.service, udp(5, 80)), "gw", n.p1, n.service, (5, 80));
    }
    Ok(())
}

/// The Service of datapath probes is served as any other, at an address of its own.
#[test]
fn the_service_of_probes() -> Result<()> {
    let net = net();
    let (entries, frontends) = antrea_flows::probe_service(&net, &pod(2).ips, 7101).unwrap();
    let mut sw = ready(&net, &[])?;
    let (groups, flows) = texts(&entries);
    sw.add_entries(&groups, &flows)?;
    for (n, frontend) in families().into_iter().zip(frontends) {
        let frame = Frame::from_pod(1, frontend, syn(1000, 7101));
        sends(&mut sw, "p1", &frame, "p2", n.p1, n.p2, (1000, 7101));
        let back = Frame::from_pod(2, n.p1, syn_ack(7101, 1000));
        sends(&mut sw, "p2", &back, "p1", frontend, n.p1, (7101, 1000));
    }
    let without = Network::new(node(Datapath::Userspace, TunnelKind::KernelVxlan), Round(7));
    assert_eq!(antrea_flows::probe_service(&without, &pod(2).ips, 7101), None);
    Ok(())
}

#[test]
fn endpoints_elsewhere() -> Result<()> {
    for n in families() {
        let backends = [
            backend(256, &[n.service], 80, &[(n.remote, 8080)]),
            backend(512, &[n.service], 443, &[(n.node, 6443)]),
        ];
        let mut sw = ready(&net(), &backends)?;
        let to = |l4| Frame::from_pod(1, n.service, l4);
        let there = sends(&mut sw, "p1", &to(syn(1000, 80)), "tun", n.p1, n.remote, (1000, 8080));
        assert_eq!(there.eth_dst, tunnel_mac(ip("172.30.0.12")));
        let back = Frame::from_tunnel(n.remote, n.p1, syn_ack(8080, 1000));
        sends(&mut sw, "tun", &back, "p1", n.service, n.p1, (80, 1000));
        sends(&mut sw, "p1", &to(later(1000, 80)), "tun", n.p1, n.remote, (1000, 8080));
        // The node's own address: the host gets it with the pod's address.
        let there = sends(&mut sw, "p1", &to(syn(1000, 443)), "gw", n.p1, n.node, (1000, 6443));
        assert_eq!(there.eth_dst, gw_mac());
        let back = Frame::from_host(n.node, n.p1, syn_ack(6443, 1000));
        sends(&mut sw, "gw", &back, "p1", n.service, n.p1, (443, 1000));
    }
    Ok(())
}

#[test]
fn a_pod_that_is_its_own_endpoint() -> Result<()> {
    for n in families() {
        let net = net();
        let mut sw = ready(&net, &[backend(256, &[n.service], 80, &[(n.p1, 8080)])])?;
        sw.add_flows(isolate(&net, &[1, 2], Peers::Of([].into()), vec![])?)?;
        let to = |l4| Frame::from_pod(1, n.service, l4);
        let there = sends(&mut sw, "p1", &to(syn(1000, 80)), "p1", n.itself, n.p1, (1000, 8080));
        assert_eq!((there.eth_src, there.eth_dst), (gw_mac(), pod(1).mac));
        let back = |l4| Frame::from_pod(1, n.itself, l4);
        let answer = sends(&mut sw, "p1", &back(syn_ack(8080, 1000)), "p1", n.service, n.p1, (80, 1000));
        assert_eq!((answer.eth_src, answer.eth_dst), (gw_mac(), pod(1).mac));
        sends(&mut sw, "p1", &to(later(1000, 80)), "p1", n.itself, n.p1, (1000, 8080));
        // Nobody asked.
        assert_eq!(send(&mut sw, "p1", &back(syn_ack(8080, 1001))).map(|o| o.0), None);
        assert_eq!(send(&mut sw, "p1", &back(syn(8080, 1001))).map(|o| o.0), None);
        assert_eq!(send(&mut sw, "p2", &Frame::from_pod(2, n.itself, udp(8080, 1000))).map(|o| o.0), None);
    }
    Ok(())
}

fn isolate(net: &Network, pods: &[u32], allowed: Peers, services: Vec<Service>) -> Result<Vec<String>> {
    let mut realizer = Realizer::new(net);
    for (id, direction) in [(1, Direction::In), (2, Direction::Out)] {
        realizer.upsert_rule(Rule {
            id,
            direction,
            class: Class::K8s,
            action: Action::Allow,
            pods: pods.iter().map(|n| (*n, pod(*n).ips.into())).collect(),
            peers: if direction == Direction::Out { allowed.clone() } else { Peers::Of([].into()) },
            services: services.clone(),
            logs: false,
        })?;
    }
    Ok(realizer.flows().iter().map(ToString::to_string).collect())
}

/// What is allowed is the endpoint and its port; Service address and port say nothing. The second packet of what is
/// refused is refused too, although its translation is known by then.
#[test]
fn egress_policy_judges_the_endpoint() -> Result<()> {
    for n in families() {
        let net = net();
        let backends = [
            backend(256, &[n.service], 80, &[(n.remote, 8080)]),
            backend(512, &[n.service], 8080, &[(n.remote, 80)]),
            backend(768, &[n.service], 443, &[(n.node, 8080)]),
        ];
        let mut sw = ready(&net, &backends)?;
        let only = Peers::Of([n.remote.into()].into());
        let port = Service::to(Protocol::Tcp, PortRange::single(8080));
        sw.add_flows(isolate(&net, &[1], only, vec![port])?)?;
        let to = |l4| Frame::from_pod(1, n.service, l4);
        for _ in 0..2 {
            sends(&mut sw, "p1", &to(syn(1000, 80)), "tun", n.p1, n.remote, (1000, 8080));
            assert_eq!(send(&mut sw, "p1", &to(syn(1000, 8080))).map(|o| o.0), None, "another port");
            assert_eq!(send(&mut sw, "p1", &to(syn(1000, 443))).map(|o| o.0), None, "another endpoint");
        }
        // Allowed in the end, its answers are known for what they are.
        sw.add_flows(isolate(&net, &[1], Peers::Any, vec![])?)?;
        sends(&mut sw, "p1", &to(syn(1000, 8080)), "tun", n.p1, n.remote, (1000, 80));
        let back = Frame::from_tunnel(n.remote, n.p1, syn_ack(80, 1000));
        sends(&mut sw, "tun", &back, "p1", n.service, n.p1, (8080, 1000));
    }
    Ok(())
}

#[test]
fn ingress_policy_sees_the_client() -> Result<()> {
    for n in families() {
        let net = net();
        let mut sw = ready(&net, &[backend(256, &[n.service], 80, &[(n.p2, 8080)])])?;
        let mut realizer = Realizer::new(&net);
        let mut allow = |peers| {
            realizer.upsert_rule(Rule {
                id: 1,
                direction: Direction::In,
                class: Class::K8s,
                action: Action::Allow,
                pods: [(2, pod(2).ips.into())].into(),
                peers,
                services: vec![Service::to(Protocol::Tcp, PortRange::single(8080))],
                logs: false,
            })?;
            anyhow::Ok(realizer.flows().iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        sw.add_flows(allow(Peers::Of([].into()))?)?;
        let first = Frame::from_pod(1, n.service, syn(1000, 80));
        for _ in 0..2 {
            assert_eq!(send(&mut sw, "p1", &first).map(|o| o.0), None);
        }
        sw.add_flows(allow(Peers::Of([n.p1.into()].into()))?)?;
        sends(&mut sw, "p1", &first, "p2", n.p1, n.p2, (1000, 8080));
        assert_eq!(send(&mut sw, "p3", &first).map(|o| o.0), None, "a forged sender");
    }
    Ok(())
}

/// A connection that the host translates, from before the bridge served Services, goes on there.
#[test]
fn a_connection_of_the_host_stays_with_the_host() -> Result<()> {
    for n in families() {
        let net = net();
        let mut sw = ready(&net, &[])?;
        let to = |l4| Frame::from_pod(1, n.service, l4);
        sends(&mut sw, "p1", &to(syn(1000, 80)), "gw", n.p1, n.service, (1000, 80));
        let back = Frame::from_host(n.service, n.p1, syn_ack(80, 1000));
        sends(&mut sw, "gw", &back, "p1", n.service, n.p1, (80, 1000));
        serve(&sw, &net, &[backend(256, &[n.service], 80, &[(n.p2, 8080)])])?;
        sends(&mut sw, "p1", &to(later(1000, 80)), "gw", n.p1, n.service, (1000, 80));
        sends(&mut sw, "p1", &to(syn(1001, 80)), "p2", n.p1, n.p2, (1001, 8080));
    }
    Ok(())
}

fn many(n: &Net, count: u16) -> Vec<(IpAddr, u16)> {
    let pods = [n.remote, n.p2];
    (0..count).map(|k| (pods[usize::from(k % 2)], 2000 + k)).collect()
}

/// A client keeps its endpoint while it connects now and then, for as long as the endpoint is one.
#[test]
fn a_client_keeps_its_endpoint() -> Result<()> {
    for (n, count) in families().iter().zip([20, 600]) {
        let net = net();
        let keeping =
            ServiceBackend { affinity: Some(100), ..backend(256, &[n.service], 80, &many(n, count)) };
        let mut sw = ready(&net, std::slice::from_ref(&keeping))?;
        let mut port = 1000;
        let mut connect = |sw: &mut Switch, client: u32| {
            port += 1;
            let name = format!("p{client}");
            let (out, _) = send(sw, &name, &Frame::from_pod(client, n.service, syn(port, 80))).unwrap();
            (out.2, out.4)
        };
        let first = connect(&mut sw, 1);
        for _ in 0..10 {
            assert_eq!(connect(&mut sw, 1), first);
        }
        // Its endpoint goes: another one at once, and that from then on.
        let left: Vec<_> = many(n, count).into_iter().filter(|endpoint| *endpoint != first).collect();
        let fewer = ServiceBackend { affinity: Some(100), ..backend(256, &[n.service], 80, &left) };
        sw.remove_groups()?;
        sw.install(connectivity(&net).iter().map(ToString::to_string))?;
        serve(&sw, &net, std::slice::from_ref(&fewer))?;
        let second = connect(&mut sw, 1);
        assert_ne!(second, first);
        for _ in 0..10 {
            assert_eq!(connect(&mut sw, 1), second);
        }
    }
    Ok(())
}

/// What was learned stays when endpoints change, and then an endpoint that is none any more is not used.
#[test]
fn a_kept_endpoint_that_is_gone_is_not_used() -> Result<()> {
    let [n, _] = families();
    let net = net();
    let keeping = |endpoints: &[(IpAddr, u16)]| ServiceBackend {
        affinity: Some(100),
        ..backend(256, &[n.service], 80, endpoints)
    };
    let mut sw = ready(&net, &[keeping(&[(n.p2, 8080)])])?;
    sends(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(1, 80)), "p2", n.p1, n.p2, (1, 8080));
    let learned = sw.dump()?;
    let learned: Vec<&String> =
        learned.iter().filter(|flow| flow.starts_with("cookie=0x30000000000,")).collect();
    assert_eq!(learned.len(), 1, "{learned:?}");
    // As the agent's difference does it: the flow of the endpoint goes, the group gets another one.
    let entries = antrea_flows::service_backend(&net, &keeping(&[(n.p2, 8081)]));
    let (groups, flows) = texts(&entries);
    let gone = antrea_flows::service_backend(&net, &keeping(&[(n.p2, 8080)]));
    let gone: Vec<&Entry> =
        gone.iter().filter(|entry| !entries.iter().any(|new| new.key() == entry.key())).collect();
    for entry in gone {
        let Entry::Flow(flow) = entry else { continue };
        let text = openflow::Flow::new(flow.table, flow.priority).matching(flow.matches.clone()).to_string();
        let key = text.split(" actions=").next().unwrap().replace("cookie=0x0,", "");
        sw.add_flows([format!("delete_strict {key}")])?;
    }
    sw.set_groups(&groups)?;
    sw.add_flows(flows)?;
    sends(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(2, 80)), "p2", n.p1, n.p2, (2, 8081));
    Ok(())
}

/// More endpoints than a group has room for: all of them get connections, roughly as many each.
#[test]
fn connections_spread_over_thousands_of_endpoints() -> Result<()> {
    let [n, _] = families();
    for (count, connections, least) in [(4, 200, 4), (600, 900, 300)] {
        let mut sw = ready(&net(), &[backend(256, &[n.service], 80, &many(&n, count))])?;
        let mut seen = BTreeSet::new();
        for sport in 0..connections {
            let frame = Frame::from_pod(1, n.service, syn(10_000 + sport, 80));
            let (out, _) = send(&mut sw, "p1", &frame).unwrap();
            assert!(many(&n, count).contains(&(out.2, out.4)), "{out:?}");
            seen.insert(out.4);
        }
        assert!(seen.len() >= least, "{} of {count} endpoints", seen.len());
    }
    Ok(())
}

/// A pod's packet to a Service is judged at the endpoint and refused; the answer to it comes from the Service.
#[test]
fn a_refusal_comes_from_the_frontend() -> Result<()> {
    let net = net();
    for n in families() {
        let endpoints = [(n.p2, 8080)];
        let mut sw = ready(&net, &[backend(256, &[n.service], 80, &endpoints)])?;
        let mut realizer = Realizer::new(&net);
        realizer.upsert_rule(Rule {
            id: 1,
            direction: Direction::In,
            class: Class::Native { priority: 1000 },
            action: Action::Reject,
            pods: [(2, pod(2).ips.into())].into(),
            peers: Peers::Any,
            services: vec![],
            logs: false,
        })?;
        sw.add_flows(realizer.flows().iter().map(ToString::to_string))?;
        assert!(send(&mut sw, "p1", &Frame::from_pod(1, n.service, syn(1000, 80))).is_none());
        let reset = |by: MacAddr, to: MacAddr| {
            let ports = [8080u16, 1000].map(u16::to_be_bytes).concat();
            // RST and ACK of a SYN with number 0.
            let segment = [&ports[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x14, 0, 0, 0, 0, 0, 0]].concat();
            Some(support::packet::frame((by, n.p2), (to, n.p1), 6, &segment))
        };
        let source = antrea_flows::field::Source::Pod;
        let answer = antrea_flows::refusal(&net, source, reset).unwrap();
        let out = sw.packet_out(&answer)?;
        let [(port, packet)] = &out[..] else { panic!("{out:?}") };
        let Body::Ip { src, dst, .. } = packet.body else { panic!("{packet}") };
        assert_eq!((port.as_str(), src, dst, packet.ports), ("p1", n.service, n.p1, Some((80, 1000))));
        assert_eq!(packet.eth_dst, pod(1).mac);
    }
    Ok(())
}
