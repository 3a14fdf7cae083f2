//! Rules about Nodes.

use antrea_api::controlplane::{GroupMember, NodeReference};

use super::*;

/// A member of a group by the Node, and not by a Pod.
fn node_member(name: &str, ip: [u8; 4]) -> GroupMember {
    GroupMember {
        node: Some(NodeReference { name: name.into() }),
        ips: vec![ip.to_vec()],
        ..GroupMember::default()
    }
}

/// A Node has several addresses, and each member some of them: they come and go one by one.
#[test]
fn members_of_one_node_do_not_replace_each_other() {
    let mut node = node();
    let [inner, outer] = [[192, 0, 2, 1], [198, 51, 100, 1]];
    node.event(address_group("n", vec![node_member("n1", inner), node_member("n1", outer)]));
    node.event(Event::Policy(outwards(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["n"])]))));
    let passes = |node: &Node, peer: &str| verdict_of(node, Direction::Out, 7, peer, 80);
    assert!(!passes(&node, "192.0.2.1") && !passes(&node, "198.51.100.1"));
    node.event(address_patch(
        "n",
        vec![node_member("n1", outer)],
        vec![node_member("n1", [198, 51, 100, 2])],
    ));
    assert!(!passes(&node, "192.0.2.1") && passes(&node, "198.51.100.1") && !passes(&node, "198.51.100.2"));
}

/// What the host translates to a Node does not come to the bridge again, with a tunnel either.
#[test]
fn the_host_learns_of_nodes_also_where_pods_are_the_bridges() {
    let mut node = node();
    node.reconciler.attach(&network_of(EncapMode::Encap));
    node.event(address_group("n", vec![node_member("n1", [192, 0, 2, 1])]));
    node.event(Event::Policy(outwards(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["n", "g"])]))));
    let found = node.reconciler.host_egress();
    assert_eq!(found.first[0].groups, ["n".into()].into());
    assert_eq!(found.groups["n"], ["192.0.2.1".parse().unwrap()].into());
}
