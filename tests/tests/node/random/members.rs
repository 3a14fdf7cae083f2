//! Who takes part: pods of three namespaces on two nodes, the nodes, and addresses outside; and the words that policies
//! have for them. What is of IPv6 is the same but for the numbers.

use std::net::IpAddr;

use antrea_tests::lab::{Lab, sh};
use antrea_tests::oracle::{End, PodFacts, World};
use antrea_tests::prober::Place;
use antrea_tests::random::Vocabulary;
use netcfg::Family;

use super::SERVICES;

pub(super) struct Member {
    pub(super) place: Place,
    /// As senders and as receivers policy sees them.
    pub(super) sender: End,
    pub(super) receiver: End,
    /// The node of a pod, or which node this is.
    pub(super) node: Option<usize>,
    pub(super) is_node: bool,
}

/// Of two texts the family's.
fn choose(family: Family, v4: &str, v6: &str) -> String {
    if family == Family::V4 { v4 } else { v6 }.to_owned()
}

/// Addresses outside beside the world's own.
fn others_outside(family: Family) -> [IpAddr; 2] {
    [("198.51.100.9", "2001:db8:98::9"), ("198.51.100.130", "2001:db8:98::82")]
        .map(|(v4, v6)| choose(family, v4, v6).parse().unwrap())
}

pub(super) fn members(lab: &mut Lab, world: &World, family: Family) -> Vec<Member> {
    let mut members = Vec::new();
    let namespaces: Vec<&String> = world.namespaces.keys().collect();
    let place = |netns: &str, source: Option<IpAddr>, address: IpAddr| Place {
        netns: Some(netns.to_owned()),
        source,
        address,
        constant: Vec::new(),
    };
    for (number, (name, labels)) in world.pods.iter().enumerate() {
        let ports = if number % 2 == 0 {
            vec![("web", "TCP", 7000), ("dns", "UDP", 7001)]
        } else {
            vec![("web", "TCP", 7001), ("dns", "UDP", 7000)]
        };
        // Neighbours in name are of different nodes, and of each namespace some are of each node.
        let (index, namespace) = (number % 2, namespaces[number / 2 % namespaces.len()].clone());
        let facts = PodFacts { name: name.clone(), namespace, ports };
        lab.put_pod_of(index, &facts, labels);
        let pod = lab.add_pod(index, name);
        let address = pod.ip_of(family);
        let end = End { address, pod: Some(facts) };
        let place = place(&pod.netns, None, address);
        members.push(Member { place, sender: end.clone(), receiver: end, node: Some(index), is_node: false });
    }
    for (index, node) in lab.nodes.iter().enumerate() {
        // To pods its processes send from the gateway's address.
        let number = index + 1;
        let gateway = choose(family, &format!("10.244.{number}.1"), &format!("fd00:244:{number}::1"));
        let address = lab.node_ip(index, family);
        let sender = End { address: gateway.parse().unwrap(), pod: None };
        let receiver = End { address, pod: None };
        let place = place(&node.netns, None, address);
        members.push(Member { place, sender, receiver, node: Some(index), is_node: true });
    }
    let outside = lab.outside();
    for index in 0..lab.nodes.len() {
        let (pods, node) = (lab.pod_cidr(index, family), lab.node_ip(index, family));
        sh(&format!("ip -n {outside} route add {pods} via {node}"));
    }
    for address in others_outside(family) {
        let option = if family == Family::V6 { "nodad" } else { "" };
        sh(&format!("ip -n {outside} addr add {address} dev underlay0 {option}"));
    }
    for address in [lab.outside_of(family)].into_iter().chain(others_outside(family)) {
        let end = End { address, pod: None };
        let place = place(&outside, Some(address), address);
        members.push(Member { place, sender: end.clone(), receiver: end, node: None, is_node: false });
    }
    members
}

/// Blocks that hold some of the members and miss others, and what may be excepted.
pub(super) fn vocabulary(lab: &Lab, members: &[Member], family: Family) -> Vocabulary {
    let single = choose(family, "32", "128");
    let pods: Vec<String> = members
        .iter()
        .filter(|member| member.sender.pod.is_some())
        .map(|member| format!("{}/{single}", member.sender.address))
        .collect();
    let text = |v4: &str, v6: &str| choose(family, v4, v6);
    let of = |number: u8| -> Vec<String> {
        let v4 = |rest: &str| format!("10.244.{number}.{rest}");
        let v6 = |rest: &str| format!("fd00:244:{number}::{rest}");
        let node = text(&v4(""), &v6(""));
        let inside = pods.iter().filter(|pod| pod.starts_with(&node)).cloned();
        inside.chain([text(&v4("0/29"), &v6("0/125")), text(&v4("128/25"), &v6("80/121"))]).collect()
    };
    let all = [
        text("10.244.0.0/16", "fd00:244::/32"),
        text("10.244.2.0/24", "fd00:244:2::/64"),
        text("172.31.0.0/16", "fd00:31::/32"),
        text("198.51.100.128/25", "2001:db8:98::80/121"),
        text("198.51.100.9/32", "2001:db8:98::9/128"),
    ];
    let all = all.into_iter().chain(pods.clone()).collect();
    let outside = lab.outside_ip().octets();
    let underlay = |rest: &str| format!("172.31.{}.{rest}", outside[2]);
    let mut blocks = vec![
        (text("0.0.0.0/0", "::/0"), all),
        (text("10.244.0.0/16", "fd00:244::/32"), [of(1), of(2)].concat()),
        (text("10.244.1.0/24", "fd00:244:1::/64"), of(1)),
        (text("10.244.2.0/24", "fd00:244:2::/64"), of(2)),
        (
            text(&underlay("0/24"), "fd00:31::/64"),
            vec![text(&underlay("1/32"), "fd00:31::1/128"), text(&underlay("11/32"), "fd00:31::11/128")],
        ),
        (
            text("198.51.100.0/24", "2001:db8:98::/120"),
            vec![
                text("198.51.100.0/25", "2001:db8:98::/121"),
                text("198.51.100.128/26", "2001:db8:98::80/122"),
                text("198.51.100.9/32", "2001:db8:98::9/128"),
            ],
        ),
        (text("203.0.113.0/24", "2001:db8:113::/64"), vec![text("203.0.113.0/25", "2001:db8:113::/65")]),
    ];
    blocks.extend(pods.into_iter().map(|pod| (pod, Vec::new())));
    Vocabulary {
        pods: vec![("app", vec!["a", "b", "c"]), ("tier", vec!["x", "y"])],
        namespaces: vec![("team", vec!["red", "blue"]), ("kubernetes.io/metadata.name", vec!["n0", "n1"])],
        blocks,
        services: SERVICES.to_vec(),
        port_names: vec!["web", "dns", "nobody"],
    }
}
