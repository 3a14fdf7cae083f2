//! What the host sends to Services where there is no kube-proxy, through a real switch with a real connection tracker.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::net::{IpAddr, SocketAddr};

use antrea_flows::{
    Audience, Entry, Guard, NODE_PORT_V4, NODE_PORT_V6, Network, Round, ServiceBackend, Transport, Unserved,
    VIRTUAL_V4, VIRTUAL_V6,
    config::{Datapath, TunnelKind},
    policy::{Action, Class, Direction, Peers, PodIps, Realizer, Rule, at_node},
};
use anyhow::Result;
use support::{Frame, connectivity, ip, node, packet::Body, pod, switch, switch::Switch, syn, syn_ack, udp};

struct Net {
    service: IpAddr,
    external: IpAddr,
    node_port: IpAddr,
    gateway: IpAddr,
    p1: IpAddr,
    p2: IpAddr,
    remote: IpAddr,
    direct: IpAddr,
    node: IpAddr,
    brought_back: IpAddr,
    outside: IpAddr,
}

fn families() -> [Net; 2] {
    let of = |texts: [&str; 9], node_port: IpAddr, brought_back: IpAddr| {
        let [service, external, gateway, p1, p2, remote, direct, node, outside] = texts.map(ip);
        Net { service, external, node_port, gateway, p1, p2, remote, direct, node, brought_back, outside }
    };
    [
        of(
            [
                "10.96.0.10",
                "192.0.2.10",
                "10.244.1.1",
                "10.244.1.11",
                "10.244.1.12",
                "10.244.2.7",
                "10.244.3.7",
                "172.30.0.11",
                "203.0.113.9",
            ],
            NODE_PORT_V4.into(),
            VIRTUAL_V4.into(),
        ),
        of(
            [
                "fd00:96::10",
                "2001:db8::10",
                "fd00:1::1",
                "fd00:1::11",
                "fd00:1::12",
                "fd00:2::7",
                "fd00:3::7",
                "fd30::11",
                "2001:db8:9::9",
            ],
            NODE_PORT_V6.into(),
            VIRTUAL_V6.into(),
        ),
    ]
}

fn net() -> Network {
    let mut config = node(Datapath::Userspace, TunnelKind::KernelVxlan);
    (config.services, config.serves_all) = (true, true);
    Network::new(config, Round(7))
}

fn backend(group: u32, frontends: &[IpAddr], port: u16, endpoint: IpAddr) -> ServiceBackend {
    ServiceBackend {
        group,
        transport: Transport::Tcp,
        frontends: frontends.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
        outside: Vec::new(),
        endpoints: vec![SocketAddr::new(endpoint, 8080)],
        affinity: None,
    }
}

fn add(sw: &Switch, entries: Vec<Entry>) -> Result<()> {
    let (groups, flows): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| matches!(entry, Entry::Group(_)));
    let text = |entries: Vec<Entry>| entries.iter().map(ToString::to_string).collect::<Vec<_>>();
    sw.add_entries(&text(groups), &text(flows))
}

fn ready(net: &Network, backends: &[ServiceBackend]) -> Result<Switch> {
    let sw = switch()?;
    sw.install(connectivity(net).iter().map(ToString::to_string))?;
    add(&sw, backends.iter().flat_map(|backend| antrea_flows::service_backend(net, backend)).collect())?;
    Ok(sw)
}

/// Where a frame came out, from whom and to whom.
type Out = (String, SocketAddr, SocketAddr);

#[track_caller]
fn send(sw: &mut Switch, port: &str, frame: &Frame) -> Option<Out> {
    let out = sw.receive(port, &frame.text()).unwrap();
    assert!(out.len() <= 1, "{port}: {frame:?}: {out:?}");
    let (name, packet) = out.into_iter().next()?;
    let Body::Ip { src, dst, .. } = packet.body else { panic!("{packet}") };
    let (sport, dport) = packet.ports.unwrap();
    Some((name, SocketAddr::new(src, sport), SocketAddr::new(dst, dport)))
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A question and its answer, as client, pod and host see them: the question comes out of `port` from `seen`, and the
/// answer comes back to the client by the gateway from whom it has asked.
#[track_caller]
fn asks(sw: &mut Switch, client: SocketAddr, to: SocketAddr, port: &str, seen: IpAddr, endpoint: IpAddr) {
    for again in [false, true] {
        let question = Frame::from_host(client.ip(), to.ip(), syn(client.port(), to.port()));
        let out = send(sw, "gw", &question);
        assert_eq!(out, Some((port.into(), at(seen, client.port()), at(endpoint, 8080))), "{to} {again}");
    }
    let l4 = syn_ack(8080, client.port());
    let (from, answer) = match port {
        "tun" => ("tun", Frame::from_tunnel(endpoint, seen, l4)),
        "gw" => ("gw", Frame::from_host(endpoint, seen, l4)),
        pod => (pod, Frame::from_pod(pod[1..].parse().unwrap(), seen, l4)),
    };
    assert_eq!(send(sw, from, &answer), Some(("gw".into(), to, client)), "the answer of {endpoint}");
}

#[test]
fn endpoints_of_every_kind_see_who_can_be_answered() -> Result<()> {
    for n in families() {
        let kinds = [n.p1, n.remote, n.direct, n.node];
        let backends: Vec<ServiceBackend> = (0u16..)
            .zip(kinds)
            .map(|(k, endpoint)| {
                let all = [n.service, n.external, n.node_port];
                backend(256 * u32::from(k + 1), &all, 80 + k, endpoint)
            })
            .collect();
        let mut sw = ready(&net(), &backends)?;
        let mut sport = 1000;
        for (k, endpoint) in (0u16..).zip(kinds) {
            for frontend in [n.service, n.external, n.node_port] {
                for client in [n.gateway, n.outside] {
                    sport += 1;
                    let (port, seen) = match endpoint {
                        e if e == n.p1 => ("p1", client),
                        e if e == n.remote => ("tun", n.gateway),
                        _ => ("gw", n.brought_back),
                    };
                    asks(&mut sw, at(client, sport), at(frontend, 80 + k), port, seen, endpoint);
                }
            }
        }
        // Pods have nothing to look for at what stands for the node's addresses, and what they send comes by no other way.
        let forged = Frame::from_host(n.p2, n.service, syn(5, 80));
        assert_eq!(send(&mut sw, "gw", &forged), None, "of a pod, from the host");
        let out = send(&mut sw, "p2", &Frame::from_pod(2, n.node_port, syn(5, 80)));
        assert_eq!(out, Some(("gw".into(), at(n.p2, 5), at(n.node_port, 80))), "as anything that nobody has");
        let out = send(&mut sw, "p2", &Frame::from_pod(2, n.external, syn(6, 80)));
        assert_eq!(out, Some(("p1".into(), at(n.p2, 6), at(n.p1, 8080))));
        // An answer that nobody asked for.
        let stray = Frame::from_host(n.node, n.brought_back, syn_ack(8080, 7777));
        assert_eq!(send(&mut sw, "gw", &stray), None);
    }
    Ok(())
}

#[test]
fn those_outside_may_have_endpoints_of_their_own_or_none() -> Result<()> {
    for n in families() {
        let net = net();
        let everybody = backend(256, &[n.service, n.node_port], 80, n.remote);
        let outside = ServiceBackend { outside: vec![at(n.node_port, 80)], ..backend(512, &[], 80, n.p1) };
        let mut sw = ready(&net, &[everybody, outside])?;
        asks(&mut sw, at(n.outside, 1000), at(n.node_port, 80), "p1", n.outside, n.p1);
        asks(&mut sw, at(n.gateway, 1001), at(n.node_port, 80), "tun", n.gateway, n.remote);
        asks(&mut sw, at(n.outside, 1002), at(n.service, 80), "tun", n.gateway, n.remote);
        let unserved = |audience, is_refused, port| Unserved {
            transport: Transport::Tcp,
            frontend: at(n.node_port, port),
            audience,
            is_refused,
        };
        add(&sw, antrea_flows::unserved(&net, &unserved(Audience::Outside, false, 80)))?;
        let from = |client: IpAddr, port| Frame::from_host(client, n.node_port, syn(2000, port));
        assert_eq!(send(&mut sw, "gw", &from(n.outside, 80)), None);
        asks(&mut sw, at(n.gateway, 1003), at(n.node_port, 80), "tun", n.gateway, n.remote);
        let entries = antrea_flows::unserved(&net, &unserved(Audience::Everybody, true, 81));
        assert!(entries.iter().any(|entry| entry.to_string().contains("userdata=04")), "{entries:?}");
        add(&sw, entries)?;
        for client in [n.gateway, n.outside] {
            assert_eq!(send(&mut sw, "gw", &from(client, 81)), None, "the agent answers");
        }
    }
    Ok(())
}

#[test]
fn a_guarded_frontend_takes_its_sources_alone() -> Result<()> {
    for n in families() {
        let net = net();
        let mut sw = ready(&net, &[backend(256, &[n.external, n.service], 80, n.p1)])?;
        let guard = Guard {
            transport: Transport::Tcp,
            frontend: at(n.external, 80),
            sources: vec![n.outside.into()],
        };
        add(&sw, antrea_flows::guard(&net, &guard))?;
        asks(&mut sw, at(n.outside, 1000), at(n.external, 80), "p1", n.outside, n.p1);
        assert_eq!(send(&mut sw, "gw", &Frame::from_host(n.gateway, n.external, syn(1001, 80))), None);
        assert_eq!(send(&mut sw, "p2", &Frame::from_pod(2, n.external, syn(1001, 80))), None);
        asks(&mut sw, at(n.gateway, 1002), at(n.service, 80), "p1", n.gateway, n.p1);
    }
    Ok(())
}

/// Neither the gateway's address nor a Service exempts from what a pod takes.
#[test]
fn ingress_policy_judges_what_the_host_sends_to_services() -> Result<()> {
    for n in families() {
        let net = net();
        let mut sw = ready(&net, &[backend(256, &[n.service, n.node_port], 80, n.p1)])?;
        let mut realizer = Realizer::new(&net);
        let mut allow = |peers| {
            realizer.upsert_rule(Rule {
                id: 1,
                direction: Direction::In,
                class: Class::K8s,
                action: Action::Allow,
                pods: [(1, pod(1).ips.into())].into(),
                peers,
                services: vec![],
                logs: false,
            })?;
            anyhow::Ok(realizer.flows().iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        sw.add_flows(allow(Peers::Of([].into()))?)?;
        for (client, to) in [(n.outside, n.node_port), (n.gateway, n.node_port), (n.gateway, n.service)] {
            for _ in 0..2 {
                let question = Frame::from_host(client, to, syn(1000, 80));
                assert_eq!(send(&mut sw, "gw", &question), None, "{client} to {to}");
            }
        }
        sw.add_flows(allow(Peers::Of([n.outside.into()].into()))?)?;
        asks(&mut sw, at(n.outside, 1001), at(n.node_port, 80), "p1", n.outside, n.p1);
        let question = Frame::from_host(n.gateway, n.node_port, syn(1002, 80));
        assert_eq!(send(&mut sw, "gw", &question), None);
    }
    Ok(())
}

/// A rule that applies to Services decides on what comes to them from outside by the node's addresses, wherever the endpoint
/// is, and on nothing else.
#[test]
fn rules_of_services_judge_who_comes_from_outside_by_the_node() -> Result<()> {
    for n in families() {
        let net = net();
        let all = [n.service, n.external, n.node_port];
        let backends: Vec<ServiceBackend> = (1u16..)
            .zip([n.p1, n.remote, n.node, n.p1])
            .map(|(k, endpoint)| backend(256 * u32::from(k), &all, 80 + k, endpoint))
            .collect();
        let datagrams =
            ServiceBackend { transport: Transport::Udp, ..backend(1280, &[n.node_port], 81, n.p1) };
        let mut sw = ready(&net, &[&backends[..], &[datagrams]].concat())?;
        asks(&mut sw, at(n.outside, 900), at(n.node_port, 81), "p1", n.outside, n.p1);
        let datagram = |port| Frame::from_host(n.outside, n.node_port, udp(port, 81));
        let arrived = Some(("p1".into(), at(n.outside, 900), at(n.p1, 8080)));
        assert_eq!(send(&mut sw, "gw", &datagram(900)), arrived);
        let answer = Frame::from_pod(1, n.outside, udp(8080, 900));
        assert_eq!(
            send(&mut sw, "p1", &answer),
            Some(("gw".into(), at(n.node_port, 81), at(n.outside, 900)))
        );
        let mut realizer = Realizer::new(&net);
        let mut put = |id, priority, action, peers| {
            realizer.upsert_rule(Rule {
                id,
                direction: Direction::In,
                class: Class::Service { priority },
                action,
                pods: [256, 512, 768, 1280].map(|group| (at_node(group), PodIps::new())).into(),
                peers,
                services: vec![],
                logs: false,
            })?;
            anyhow::Ok(realizer.flows().iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        sw.add_flows(put(1, 500, Action::Drop, Peers::Any)?)?;
        for port in 81..=83 {
            for again in [false, true] {
                let question = Frame::from_host(n.outside, n.node_port, syn(1000, port));
                assert_eq!(send(&mut sw, "gw", &question), None, "{port} {again}");
            }
        }
        // A connection that is there goes on, and another one by its ports does not begin.
        assert_eq!(send(&mut sw, "gw", &datagram(900)), arrived);
        assert_eq!(send(&mut sw, "gw", &datagram(901)), None);
        let anew = Frame::from_host(n.outside, n.node_port, syn(900, 81));
        assert_eq!(send(&mut sw, "gw", &anew), None);
        // Not by another address, not the node itself, not to another Service, and not pods.
        asks(&mut sw, at(n.outside, 1001), at(n.external, 81), "p1", n.outside, n.p1);
        asks(&mut sw, at(n.gateway, 1002), at(n.node_port, 81), "p1", n.gateway, n.p1);
        asks(&mut sw, at(n.outside, 1003), at(n.node_port, 84), "p1", n.outside, n.p1);
        let out = send(&mut sw, "p2", &Frame::from_pod(2, n.service, syn(1004, 81)));
        assert_eq!(out, Some(("p1".into(), at(n.p2, 1004), at(n.p1, 8080))));
        // Whom an earlier rule lets in comes to endpoints of every kind.
        sw.add_flows(put(2, 600, Action::Allow, Peers::Of([n.outside.into()].into()))?)?;
        asks(&mut sw, at(n.outside, 1005), at(n.node_port, 81), "p1", n.outside, n.p1);
        asks(&mut sw, at(n.outside, 1006), at(n.node_port, 82), "tun", n.gateway, n.remote);
        asks(&mut sw, at(n.outside, 1007), at(n.node_port, 83), "gw", n.brought_back, n.node);
        let other = Frame::from_host(n.direct, n.node_port, syn(1008, 81));
        assert_eq!(send(&mut sw, "gw", &other), None, "nobody else");
        sw.add_flows(put(2, 600, Action::Reject, Peers::Of([n.outside.into()].into()))?)?;
        let refused = Frame::from_host(n.outside, n.node_port, syn(1009, 81));
        assert_eq!(send(&mut sw, "gw", &refused), None, "the agent answers");
    }
    Ok(())
}
