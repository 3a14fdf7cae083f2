//! Connections that are there when rules come to deny them. That the order decides as for first packets is a part of the
//! property test.

use super::*;

pub(super) fn resetting(policy: NetworkPolicy) -> NetworkPolicy {
    NetworkPolicy { resets_established: true, ..policy }
}

pub(super) fn denied(node: &Node, connection: &Connection) -> Option<String> {
    node.reconciler.resets().denies(connection).map(|(source, _)| source.to_string())
}

#[test]
fn none_ends_unless_its_author_wants_that() {
    let mut node = node();
    let known = connection(false, "10.0.0.7", "10.0.1.1", 80);
    let drop = |name: &str| native(name, (250, 5.0), "a", vec![native_rule("Drop", &["g"])]);
    node.event(Event::Policy(drop("N1")));
    assert!(node.reconciler.resets().is_empty());
    // Of two with one priority neither comes first.
    node.event(Event::Policy(resetting(drop("N2"))));
    assert_eq!(denied(&node, &known).as_deref(), Some("AntreaClusterNetworkPolicy:N2"));
    assert_eq!(denied(&node, &connection(true, "10.0.0.7", "10.0.1.1", 80)), None, "the other direction");
    assert_eq!(denied(&node, &connection(false, "10.0.0.9", "10.0.1.1", 80)), None, "another pod");
    // One that keeps connections decides before it.
    node.event(Event::Policy(native("N0", (50, 5.0), "a", vec![native_rule("Drop", &["g"])])));
    assert_eq!(denied(&node, &known), None);
    node.event(Event::PolicyDeleted("N0".into()));
    assert!(denied(&node, &known).is_some());
    node.event(Event::PolicyDeleted("N2".into()));
    assert!(node.reconciler.resets().is_empty());
}

#[test]
fn messages_and_source_ports_are_looked_at() {
    let mut node = node();
    let service =
        |service: WireService| NetworkPolicyRule { services: vec![service], ..native_rule("Drop", &["g"]) };
    let udp =
        service(WireService { protocol: Some("UDP".into()), src_port: Some(5000), ..WireService::default() });
    let icmp =
        service(WireService { protocol: Some("ICMP".into()), icmp_type: Some(8), ..WireService::default() });
    node.event(Event::Policy(resetting(native("N1", (250, 5.0), "a", vec![udp, icmp]))));
    let tcp = connection(false, "10.0.0.7", "10.0.1.1", 80);
    let from =
        |port| Connection { protocol: Protocol::Udp, client: SocketAddr::new(tcp.client.ip(), port), ..tcp };
    let echo = |kind| Connection { protocol: Protocol::Icmp, icmp: Some((kind, 0)), ..from(0) };
    let ends = |connection: &Connection| denied(&node, connection).is_some();
    assert_eq!([ends(&tcp), ends(&from(5000)), ends(&from(5001))], [false, true, false]);
    assert_eq!([ends(&Connection { protocol: Protocol::Icmp, ..echo(8) }), ends(&echo(13))], [true, false]);
}
