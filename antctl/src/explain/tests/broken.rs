//! What is not as it should be.

use antrea_crds::traceflow::{NodeResult, Observation, Status};

use super::super::{nodes, probe};
use super::*;

fn isolating() -> [wire::NetworkPolicy; 1] {
    [policy_of("db", "deny", vec![rule("In", "", Vec::new())])]
}

fn node_of<'a>(facts: &'a mut Facts, name: &str) -> &'a mut Node {
    facts.nodes.get_mut(name).unwrap()
}

fn db(facts: &mut Facts) -> &mut Pod {
    facts.ways[0].pod.as_mut().unwrap()
}

/// A situation that differs from all being well by this.
fn but(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = facts();
    change(&mut facts);
    facts
}

#[test]
fn a_destination_that_does_not_serve() {
    let unready = but(|facts| db(facts).unready = Some("containers with unready status: [pg]".into()));
    says(&unready, Verdict::Broken, "shop/db is not ready: containers with unready status: [pg]");
    let pending = but(|facts| {
        db(facts).node = String::new();
        facts.ways[0] = Way { pod: facts.ways[0].pod.clone(), ..Way::default() };
    });
    says(&pending, Verdict::Broken, "shop/db is on no Node yet");
    let waiting = but(|facts| {
        db(facts).ips.clear();
        db(facts).phase = "Pending".into();
        facts.ways[0] = Way { pod: facts.ways[0].pod.clone(), ..Way::default() };
    });
    says(&waiting, Verdict::Broken, "shop/db has no address yet (Pending)");
    says(&but(|facts| db(facts).phase = "Failed".into()), Verdict::Broken, "shop/db has ended (Failed)");
    let elsewhere = but(|facts| facts.ways[0].port = 5433);
    says(&elsewhere, Verdict::Allowed, "declares TCP 5432 and not 5433: does a process listen there?");
    says(&but(|facts| db(facts).ending = true), Verdict::Allowed, "shop/db is being deleted");
}

#[test]
fn a_source_that_cannot_send() {
    says(&but(|facts| facts.source.ips.clear()), Verdict::Broken, "shop/web has no address yet");
    says(&but(|facts| facts.source.unready = Some("no".into())), Verdict::Allowed, "runs, and is not ready");
    let family = but(|facts| facts.ways[0].address = Some(ip("fd00::7")));
    says(&family, Verdict::Broken, "no address of the family");
}

#[test]
fn a_service_without_endpoints() {
    let without = |change: fn(&mut Service)| {
        let mut facts = service();
        facts.ways.clear();
        the_service(&mut facts).ready = 0;
        change(the_service(&mut facts));
        facts
    };
    says(&without(|_| {}), Verdict::Broken, "has no endpoint: its selector takes no Pod");
    says(&without(|service| service.unready = 2), Verdict::Broken, "no ready endpoint; 2 are not ready");
    says(
        &without(|service| service.has_selector = false),
        Verdict::Broken,
        "no selector that would find one",
    );
    let mut many = service();
    the_service(&mut many).ready = 20;
    says(&many, Verdict::Allowed, "2 of 20 endpoints are looked at");
}

#[test]
fn the_address_of_a_service_that_gets_nowhere() {
    let ends = |text: String| {
        let mut facts = service();
        the_service(&mut facts).sent = Some(Ok(text));
        facts
    };
    let dropped = ends(traced(Table::L3Forwarding, End::Drop));
    says(&dropped, Verdict::Broken, "drops what is for 10.96.0.10 in table L3Forwarding");
    says(&dropped, Verdict::Broken, "spec.serviceCIDRs");
    says(&ends(through_tunnel()), Verdict::Broken, "where nobody has that address");
    let device = ends(traced(Table::Output, End::Device));
    says(&device, Verdict::Broken, "where nobody has that address");
    // Of a bridge that serves Services itself, any endpoint is right.
    let mut proxied = ends(through_tunnel());
    let tables = Pipeline::new(Features { services: true, ..FEATURES });
    node_of(&mut proxied, "node1").agent.as_mut().unwrap().tables =
        tables.names().into_iter().map(|(_, name)| name.to_owned()).collect();
    says(&proxied, Verdict::Allowed, "gives what is for 10.96.0.10 an endpoint itself");
}

#[test]
fn an_mtu_that_loses_large_packets() {
    let narrow = but(|facts| {
        let node = node_of(facts, "node2").agent.as_mut().unwrap();
        node.info.network_info.as_mut().unwrap().transport_interface_mtu = 1400;
    });
    says(
        &narrow,
        Verdict::Broken,
        "do not fit the MTU 1400 of eth0 on node2: small packets arrive, large ones are lost",
    );
    let other = but(|facts| {
        let node = node_of(facts, "node2").agent.as_mut().unwrap();
        node.info.network_info.as_mut().unwrap().pod_mtu = 1400;
    });
    says(&other, Verdict::Allowed, "large datagrams of the former may be lost");
    // Between Pods of a Node there is no tunnel.
    let mut local = on_one_node();
    let node = node_of(&mut local, "node1").agent.as_mut().unwrap();
    node.info.network_info.as_mut().unwrap().transport_interface_mtu = 1400;
    says(&local, Verdict::Allowed, "gives it to shop/db");
    assert!(nodes::mtu(&local, "node9").is_none());
}

#[test]
fn a_tunnel_that_leads_elsewhere() {
    let astray = sends(facts(), traced(Table::Output, End::Tunnel("192.0.2.77")));
    says(&astray, Verdict::Broken, "sends it to 192.0.2.77, which is not an address of node2");
}

/// The bridges do all as they should, and what is between them does not.
#[test]
fn a_tunnel_that_a_firewall_blocks() {
    let seen = |node: &str, action: &str, table: &str, tunnel: &str| NodeResult {
        node: node.into(),
        observations: vec![Observation {
            component: "Forwarding".into(),
            component_info: table.into(),
            action: action.into(),
            pod: if action == "Delivered" { "shop/db".into() } else { String::new() },
            tunnel_dst_ip: tunnel.into(),
            ..Observation::default()
        }],
        ..NodeResult::default()
    };
    let left = seen("node1", "Forwarded", "Output", "192.0.2.2");
    let fate = |results: Vec<NodeResult>| {
        let status = Status { results, reason: "traceflow timeout".into(), ..Status::default() };
        but(|facts| facts.probe = Some(Ok(status)))
    };
    let words = "it left node1 through the tunnel to 192.0.2.2, and did not come out there";
    says(&fate(vec![left.clone()]), Verdict::Broken, words);
    let arrived = fate(vec![left.clone(), seen("node2", "Delivered", "Output", "")]);
    says(&arrived, Verdict::Allowed, "it came to shop/db on node2");
    let drop = traced(Table::IngressDefaultRule, End::Drop);
    says(&receives(with(arrived, &isolating()), drop.clone()), Verdict::Broken, "although policy denies it");
    let dropped = fate(vec![left, seen("node2", "Dropped", "IngressDefaultRule", "")]);
    says(&dropped, Verdict::Broken, "dropped on node2 in IngressDefaultRule, although policy allows it");
    says(&receives(with(dropped, &isolating()), drop), Verdict::Denied, "it was dropped on node2");
    says(&fate(Vec::new()), Verdict::Unknown, "is not known: traceflow timeout");
    let out = seen("node1", "ForwardedOutOfOverlay", "Output", "");
    says(&fate(vec![out]), Verdict::Allowed, "it left the network of Pods on node1");
    let none = but(|facts| facts.probe = Some(Err("forbidden".into())));
    says(&none, Verdict::Unknown, "none was sent: forbidden");
}

#[test]
fn what_is_sent_is_what_is_asked_about() {
    let asked =
        |facts: &Facts| probe::asked(facts).map(|trace| (trace.source, trace.destination, trace.flow));
    let ends = |to: &str, flow: &str| Ok(("shop/web".to_owned(), to.to_owned(), flow.to_owned()));
    assert_eq!(asked(&facts()), ends("shop/db", "tcp,tcp_dst=5432,tcp_flags=2"));
    assert_eq!(asked(&service()), ends("shop/db", "tcp,tcp_dst=80,tcp_flags=2"));
    let outside = but(|facts| {
        facts.ways[0].pod = None;
        facts.ways[0].address = Some(ip("2001:db8::1"));
        facts.packet.protocol = Protocol::Icmp;
    });
    assert_eq!(asked(&outside), ends("2001:db8::1", "icmp6"));
    assert!(asked(&but(|facts| facts.packet.protocol = Protocol::Sctp)).unwrap_err().contains("SCTP"));
    assert!(asked(&but(|facts| facts.source.host_network = true)).is_err());
}

/// A kernel's VXLAN device finds the peer by the MAC address alone.
#[test]
fn a_device_of_the_kernel_is_a_tunnel_too() {
    let by_mac = but(|facts| facts.ways[0].sent = Some(Ok(traced(Table::Output, End::Device))));
    says(&by_mac, Verdict::Allowed, "through the tunnel to node2 (192.0.2.2)");
    let other = but(|facts| {
        facts.ways[0].sent = Some(Ok(traced(Table::Output, End::Device)));
        node_of(facts, "node2").addresses = vec![ip("192.0.2.3")];
    });
    says(&other, Verdict::Broken, "sends what is for shop/db through the tunnel to a Node that is not known");
}

#[test]
fn a_peer_without_flows() {
    let lost = sends(facts(), traced(Table::L3Forwarding, End::Drop));
    says(&lost, Verdict::Broken, "in table L3Forwarding: it has no route to the address");
    let unknown = sends(facts(), traced(Table::Classifier, End::Drop));
    says(&unknown, Verdict::Broken, "it knows nobody at the port");
    says(&sends(facts(), traced(Table::SpoofGuard, End::Drop)), Verdict::Broken, "for forged");
    let mut astray = on_one_node();
    astray.ways[0].sent = Some(Ok(to_host()));
    says(&astray, Verdict::Broken, "sends what is for shop/db to the Node's network stack");
}

#[test]
fn flows_that_drifted() {
    let shut = receives(facts(), traced(Table::IngressDefaultRule, End::Drop));
    says(&shut, Verdict::Broken, "drops it in table IngressDefaultRule, although ingress policy allows it");
    says(&with(facts(), &isolating()), Verdict::Broken, "lets it through, although ingress policy denies it");
    let quiet = policy_of("web", "quiet", vec![rule("Out", "", Vec::new())]);
    let open = with(facts(), &[quiet]);
    says(&open, Verdict::Broken, "lets it through, although egress policy denies it");
    let mut local = with(on_one_node(), &isolating());
    says(&local, Verdict::Broken, "the bridge of node1 lets it through, although ingress policy denies it");
    local.ways[0].sent = Some(Ok(traced(Table::IngressDefaultRule, End::Drop)));
    says(&local, Verdict::Denied, "the bridge of node1 drops it in table IngressDefaultRule, as policy says");
}

#[test]
fn an_agent_that_has_other_policies() {
    let other = |policies: &[wire::NetworkPolicy]| {
        let mut facts = receives(with(facts(), &isolating()), traced(Table::IngressDefaultRule, End::Drop));
        let computed = computed(&facts, policies);
        node_of(&mut facts, "node2").agent.as_mut().unwrap().computed = computed;
        facts
    };
    says(&other(&[]), Verdict::Broken, "it does not have NetworkPolicy shop/deny");
    says(&other(&[]), Verdict::Broken, "by what it has, no policy selects shop/db for ingress");
    let mut old = isolating();
    old[0].metadata.generation = 0;
    says(&other(&old), Verdict::Broken, "it has NetworkPolicy shop/deny of generation 0, not 1");
    let more = [isolating()[0].clone(), policy_of("db", "gone", vec![rule("In", "web", Vec::new())])];
    says(&other(&more), Verdict::Broken, "it still has NetworkPolicy shop/gone");
}

/// The policies are the same, and a group is not.
#[test]
fn an_agent_whose_groups_are_old() {
    let mut facts = with(facts(), &[policy_of("db", "clients", vec![rule("In", "web", Vec::new())])]);
    let agent = node_of(&mut facts, "node2").agent.as_mut().unwrap();
    agent.computed.addresses.clear();
    let facts = receives(facts, traced(Table::IngressDefaultRule, End::Drop));
    says(&facts, Verdict::Broken, "by what it has, NetworkPolicy shop/clients isolates shop/db");
}

#[test]
fn an_agent_that_is_gone() {
    let gone = |age: Option<i64>| {
        but(|facts| {
            let node = node_of(facts, "node2");
            node.agent = Err("connection refused".into());
            node.told.as_mut().unwrap().1 = age;
            facts.ways[0].received = None;
        })
    };
    says(&gone(Some(600)), Verdict::Broken, "the agent of node2 has been silent for 600 s");
    says(&gone(None), Verdict::Broken, "the agent of node2 has never said how it is");
    let words = "the agent of node2 does not say: connection refused; so what it enforces is not known";
    says(&gone(Some(20)), Verdict::Unknown, words);
    let mut denied = with(gone(Some(20)), &isolating());
    says(&denied, Verdict::Denied, words);
    node_of(&mut denied, "node2").computed = Err("no answer".into());
    says(&denied, Verdict::Unknown, "what policies decide at shop/db is not known");
}

#[test]
fn a_controller_that_does_not_answer() {
    let mut facts = receives(with(facts(), &isolating()), traced(Table::IngressDefaultRule, End::Drop));
    node_of(&mut facts, "node2").computed = Err("service unavailable".into());
    says(&facts, Verdict::Denied, "(by what the agent of node2 was told)");
    let alone = but(|facts| node_of(facts, "node1").computed = Err("service unavailable".into()));
    says(&alone, Verdict::Unknown, "what the controller has computed for node1 is not known");
}

#[test]
fn an_agent_that_is_ill() {
    let ill = |type_: AgentConditionType, reason: &'static str| {
        but(|facts| {
            let info = &mut node_of(facts, "node2").agent.as_mut().unwrap().info;
            let condition = info.agent_conditions.iter_mut().find(|c| c.type_ == type_).unwrap();
            condition.status = "False".into();
            (condition.reason, condition.message) =
                (reason.into(), "the route to 10.10.1.0/24 is missing".into());
        })
    };
    let words = "the agent of node2 is not healthy: HostDrift the route to 10.10.1.0/24 is missing";
    says(&ill(AgentConditionType::AgentHealthy, "HostDrift"), Verdict::Broken, words);
    let hostile = ill(AgentConditionType::AgentHealthy, "\x1b[2J\nallowed:");
    let text = says(&hostile, Verdict::Broken, "is not healthy:  [2J allowed: the route");
    assert!(text.reason.contains('\x1b'), "it is for the terminal alone that it is left out");
    let lost = ill(AgentConditionType::ControllerConnectionUp, "Disconnected");
    says(&lost, Verdict::Allowed, "it holds to what it was told before");
    let node = but(|facts| node_of(facts, "node1").unready = Some("kubelet stopped posting status".into()));
    says(&node, Verdict::Broken, "Node node1 is not ready: kubelet stopped posting status");
}

#[test]
fn a_pod_that_the_agent_does_not_know() {
    let unknown = but(|facts| node_of(facts, "node1").agent.as_mut().unwrap().interfaces.clear());
    says(&unknown, Verdict::Broken, "the agent of node1 has no interface of shop/web");
    let other = but(|facts| {
        node_of(facts, "node2").agent.as_mut().unwrap().interfaces[0].ips = vec![ip("10.10.2.9")];
    });
    says(&other, Verdict::Broken, "10.10.2.7 by its status, and 10.10.2.9 by the agent of node2");
}

#[test]
fn an_address_that_nobody_has() {
    let dead = |text: String| {
        let mut facts = sends(facts(), text);
        facts.target = Target::Address;
        facts.ways[0].pod = None;
        facts.nodes.remove("node2");
        facts
    };
    let words = "10.10.2.7 is in the range of Pods of the Node with the address 192.0.2.2, and no Pod has it";
    says(&dead(through_tunnel()), Verdict::Broken, words);
    // A kernel's VXLAN device says no more than that it is the tunnel.
    let words = "10.10.2.7 is in the range of Pods of another Node, and no Pod has it";
    says(&dead(traced(Table::Output, End::Device)), Verdict::Broken, words);
    let local = dead(traced(Table::L3Forwarding, End::Drop));
    says(&local, Verdict::Broken, "no Pod of this Node has the address");
}

#[test]
fn a_trace_that_says_nothing() {
    let refused = sends(facts(), "Bad openflow flow syntax: tun_src=x: bad value\n".into());
    says(&refused, Verdict::Unknown, "Open vSwitch says \"Bad openflow flow syntax");
    let unanswered = but(|facts| facts.ways[0].received = Some(Err("no answer within 4s".into())));
    says(&unanswered, Verdict::Unknown, "what the bridge of node2 does with it is not known: no answer");
    // Tables of another version have no names.
    let mut strange = sends(facts(), traced(Table::L3Forwarding, End::Drop));
    node_of(&mut strange, "node1").agent.as_mut().unwrap().tables.push("Tomorrow".into());
    says(&strange, Verdict::Broken, "in a table that is not known here");
}
