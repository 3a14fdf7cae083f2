//! Every feature's flows as the real switch prints them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use antrea_flows::{
    Entry, Network, Round, Trace,
    config::{Datapath, EncapMode, TunnelKind},
    policy::{Action, Class, Direction, Peers, PortRange, Protocol, Realizer, Rule, Service},
};
use anyhow::Result;
use openflow::{Flow, Match};
use support::{connectivity, direct_peer, network, node, pod, sorted, tunnel_peer};

/// Installs flows from their text form and reads them back.
fn dump(flows: &[Flow]) -> Result<String> {
    let sw = support::switch::Switch::start()?;
    sw.install(flows.iter().map(ToString::to_string))?;
    let dump = sw.dump()?;
    assert_eq!(dump.len(), flows.len(), "flows of one key would replace each other");
    Ok(sorted(dump))
}

#[test]
fn node_userspace() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    for (name, flows) in [
        ("base", antrea_flows::base(&net)),
        ("conntrack", antrea_flows::conntrack(&net)),
        ("gateway", antrea_flows::gateway(&net)),
        ("tunnel", antrea_flows::tunnel(&net)),
        ("services", antrea_flows::service_cidrs(&net)),
        ("security_userspace", antrea_flows::security(&net)),
        ("pod", antrea_flows::pod(&net, &pod(1))),
        ("peer_kernel_vxlan", antrea_flows::peer(&net, &tunnel_peer())),
        ("peer_direct", antrea_flows::peer(&net, &direct_peer())),
    ] {
        insta::assert_snapshot!(name, dump(&flows)?);
    }
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    insta::assert_snapshot!("peer_flow_based", dump(&antrea_flows::peer(&net, &tunnel_peer()))?);
    insta::assert_snapshot!("security_kernel", dump(&antrea_flows::security(&net))?);
    insta::assert_snapshot!("services_kernel", dump(&antrea_flows::service_cidrs(&net))?);
    insta::assert_snapshot!("pod_kernel", dump(&antrea_flows::pod(&net, &pod(1)))?);
    Ok(())
}

#[test]
fn node_access() -> Result<()> {
    let mut config = node(Datapath::Userspace, TunnelKind::KernelVxlan);
    (config.services, config.serves_all) = (true, true);
    let net = Network::new(config, Round(7));
    insta::assert_snapshot!("node_access", dump(&antrea_flows::node_access(&net))?);
    insta::assert_snapshot!("peer_of_node_access", dump(&antrea_flows::peer(&net, &tunnel_peer()))?);
    Ok(())
}

#[test]
fn dns() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    insta::assert_snapshot!("dns", dump(&antrea_flows::dns(&net, &[7].into()))?);
    Ok(())
}

/// The whole of the smallest installation: one family, no native policies, no tunnel.
#[test]
fn node_ipv4_noencap() -> Result<()> {
    let mut config = node(Datapath::Kernel, TunnelKind::FlowBased);
    config.encap_mode = EncapMode::NoEncap;
    config.tunnel = None;
    config.antrea_policy = false;
    config.gateway.ips.retain(|ip| ip.is_ipv4());
    config.pod_cidrs.truncate(1);
    config.service_cidrs.truncate(1);
    let net = Network::new(config, Round(1));
    insta::assert_snapshot!("node_ipv4_noencap", dump(&antrea_flows::node(&net))?);
    assert!(antrea_flows::peer(&net, &tunnel_peer()).is_empty(), "no tunnel to reach the peer through");
    Ok(())
}

#[test]
fn policy() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    let mut realizer = Realizer::new(&net);
    let pods = |ns: &[u32]| ns.iter().map(|n| (*n, pod(*n).ips.into())).collect();
    let nets = |s: &[&str]| Peers::Of(s.iter().map(|s| s.parse().unwrap()).collect());
    let tcp = |a, b| Service::to(Protocol::Tcp, PortRange::new(a, b).unwrap());
    let rule = |id, direction, pods, peers, services| Rule {
        id,
        direction,
        class: Class::K8s,
        action: Action::Allow,
        pods,
        peers,
        services,
        logs: false,
    };
    let icmp = Service { icmp_type: Some(8), ..Service::all(Protocol::Icmp) };
    for rule in [
        Rule {
            logs: true,
            ..rule(
                1,
                Direction::In,
                pods(&[1, 2]),
                nets(&["10.244.2.7/32", "fd00:2::7/128"]),
                vec![tcp(80, 83)],
            )
        },
        rule(2, Direction::In, pods(&[1]), nets(&["10.244.2.7/32", "192.0.2.0/24"]), vec![]),
        rule(3, Direction::In, pods(&[2]), nets(&[]), vec![]),
        rule(4, Direction::Out, pods(&[1]), Peers::Any, vec![]),
        rule(
            5,
            Direction::Out,
            pods(&[2]),
            Peers::Any,
            vec![Service::to(Protocol::Sctp, PortRange::single(9)), icmp],
        ),
        Rule {
            class: Class::Native { priority: 14_400 },
            action: Action::Reject,
            ..rule(6, Direction::Out, pods(&[1]), nets(&["198.51.100.0/24"]), vec![])
        },
        Rule {
            class: Class::Native { priority: 14_399 },
            action: Action::Pass,
            ..rule(7, Direction::In, pods(&[1]), Peers::Any, vec![Service::all(Protocol::Udp)])
        },
        Rule {
            class: Class::Baseline { priority: 170 },
            action: Action::Drop,
            logs: true,
            ..rule(8, Direction::In, pods(&[1]), Peers::Any, vec![])
        },
        rule(2000, Direction::In, pods(&[1]), nets(&["10.244.2.7/32"]), vec![]),
    ] {
        realizer.upsert_rule(rule)?;
    }
    insta::assert_snapshot!("policy", dump(&realizer.flows())?);
    Ok(())
}

/// The flows of each kind of trace, and what they share: the meter, and a flow in each table that tells how far a packet
/// came.
#[test]
fn traces() -> Result<()> {
    let net = network(Datapath::Userspace, TunnelKind::KernelVxlan);
    let mut direct = node(Datapath::Kernel, TunnelKind::FlowBased);
    direct.encap_mode = EncapMode::NoEncap;
    direct.tunnel = None;
    let noencap = Network::new(direct, Round(1));
    let real: Vec<Match> = vec!["tcp,reg1=0x1,nw_dst=10.244.2.7,tp_dst=80".parse()?];
    for (name, net, trace) in [
        ("sent_from_here", &net, Trace { tag: 7, source: Some(1), ..Trace::default() }),
        ("sent_from_elsewhere", &net, Trace { tag: 7, ..Trace::default() }),
        ("sent_without_tunnel", &noencap, Trace { tag: 7, source: Some(1), ..Trace::default() }),
        ("live_from_here", &net, Trace { tag: 7, mark: real, live: true, ..Trace::default() }),
        ("live_from_elsewhere", &net, Trace { tag: 7, live: true, ..Trace::default() }),
    ] {
        let plain = antrea_flows::trace(net, &trace);
        let flows: Vec<Flow> = plain.iter().map(|entry| flow(entry).unwrap().clone()).collect();
        insta::assert_snapshot!(format!("trace_{name}"), dump(&flows)?);
        // With meters the packets go up by one, and nothing else is otherwise.
        let metered = antrea_flows::trace(net, &Trace { metered: true, ..trace });
        let meter = "meter=257 pktps burst bands=\ntype=drop rate=100 burst_size=200";
        assert_eq!(metered[0].to_string(), meter);
        let without = |entry: &Entry| entry.to_string().replace(",meter_id=257", "");
        assert!(metered[1..].iter().map(without).eq(plain.iter().map(without)));
    }
    Ok(())
}

fn flow(entry: &Entry) -> Option<&Flow> {
    let Entry::Flow(flow) = entry else { return None };
    Some(flow)
}

/// All features together claim no key twice, and the switch takes them in one bundle.
#[test]
fn features_do_not_collide() -> Result<()> {
    for (datapath, kind) in
        [(Datapath::Userspace, TunnelKind::KernelVxlan), (Datapath::Kernel, TunnelKind::FlowBased)]
    {
        let net = network(datapath, kind);
        dump(&connectivity(&net))?;
    }
    Ok(())
}
