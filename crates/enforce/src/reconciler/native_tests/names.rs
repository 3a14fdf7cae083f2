//! Rules with domain names.

use std::time::Duration;

use antrea_packet::DnsAnswer;

use super::*;

fn rule(action: &str, fqdns: &[&str]) -> NetworkPolicyRule {
    let mut rule = native_rule(action, &[]);
    rule.direction = "Out".into();
    rule.from = Default::default();
    rule.to.fqdns = fqdns.iter().map(ToString::to_string).collect();
    rule
}

fn told(node: &mut Node, name: &str, address: &str, ttl: u32) -> Diff {
    let answer = DnsAnswer {
        names: vec![name.into()],
        addresses: vec![(address.parse().unwrap(), ttl)],
        ..DnsAnswer::default()
    };
    node.reconciler.cache.change_dns(|dns| dns.learn(&answer, Duration::ZERO, Instant::now()));
    node.settle()
}

fn passes(node: &Node, ofport: u32, peer: &str) -> bool {
    verdict_of(node, Direction::Out, ofport, peer, 443)
}

#[test]
fn addresses_come_to_rules_and_go_from_them_one_by_one() {
    let mut node = node();
    let everything = NetworkPolicyRule { to: everybody(), ..rule("Drop", &[]) };
    let rules = vec![rule("Allow", &["*.Example.com."]), everything];
    node.event(Event::Policy(native("N", (250, 5.0), "a", rules)));
    assert_eq!(node.reconciler.askers(), [7, 8].into());
    assert!(!passes(&node, 7, "192.0.2.1"), "nothing was told yet");

    told(&mut node, "www.example.com", "192.0.2.1", 10);
    assert!(passes(&node, 7, "192.0.2.1") && passes(&node, 8, "192.0.2.1") && !passes(&node, 7, "192.0.2.2"));
    assert!(told(&mut node, "www.example.com", "192.0.2.1", 20).is_empty(), "known");
    assert!(told(&mut node, "www.example.org", "192.0.2.9", 20).is_empty(), "of a name that nobody means");
    let diff = told(&mut node, "other.example.com", "192.0.2.2", 10);
    assert!(passes(&node, 7, "192.0.2.2"));
    let counts = (diff.adds.len(), diff.mods.len(), diff.deletes.len());
    assert_eq!(counts, (1, 0, 0), "one flow, however many pods");

    node.reconciler.cache.change_dns(|dns| dns.expire(Instant::now() + Duration::from_secs(15)));
    let diff = node.settle();
    assert!(passes(&node, 7, "192.0.2.1") && !passes(&node, 7, "192.0.2.2"));
    assert_eq!((diff.adds.len(), diff.mods.len(), diff.deletes.len()), (0, 0, 1));

    node.event(Event::PolicyDeleted("N".into()));
    assert!(node.reconciler.askers().is_empty());
}

#[test]
fn a_rule_that_denies_names_denies_their_addresses_and_no_others() {
    let mut node = node();
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule("Drop", &["bad.example.com"])])));
    assert!(passes(&node, 7, "192.0.2.1"));
    told(&mut node, "bad.example.com", "192.0.2.1", 10);
    assert!(!passes(&node, 7, "192.0.2.1") && passes(&node, 7, "192.0.2.2") && passes(&node, 9, "192.0.2.1"));
    // What a new policy asks for and another has been told is there at once.
    node.event(Event::Policy(native("M", (250, 4.0), "b", vec![rule("Reject", &["*.example.com"])])));
    assert!(!passes(&node, 9, "192.0.2.1"));
    assert_eq!(node.reconciler.askers(), [7, 8, 9].into());
}

/// Of what is behind a domain name nobody knows the names of ports.
#[test]
fn a_named_port_means_nothing_of_a_domain_name_and_a_number_does() {
    let mut node = node();
    let mut named = rule("Drop", &["bad.example.com"]);
    let port = |port| WireService { port: Some(port), ..WireService::default() };
    named.services = vec![port(IntOrString::string("web")), port(IntOrString::int(443))];
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![named])));
    assert_eq!(node.reconciler.askers(), [7, 8].into(), "before anything is known");
    told(&mut node, "bad.example.com", "192.0.2.1", 10);
    assert!(!passes(&node, 7, "192.0.2.1"));
    assert!(verdict_of(&node, Direction::Out, 7, "192.0.2.1", 80));
    node.reconciler.cache.change_dns(|dns| dns.expire(Instant::now() + Duration::from_secs(15)));
    node.settle();
    assert!(passes(&node, 7, "192.0.2.1"));
}

/// What kube-proxy translates to an address behind a name does not come to the bridge again.
#[test]
fn the_host_learns_of_addresses_too() {
    let mut node = node();
    node.reconciler.attach(&network_of(EncapMode::Encap));
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule("Drop", &["bad.example.com"])])));
    told(&mut node, "bad.example.com", "192.0.2.1", 10);
    let found = node.reconciler.host_egress();
    let [group] = &found.first[0].groups.iter().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
    assert_eq!(found.groups[*group], ["192.0.2.1".parse().unwrap()].into());
}

fn everybody() -> controlplane::NetworkPolicyPeer {
    let all = |ip: Vec<u8>| IpBlock { cidr: controlplane::IpNet { ip, prefix_length: 0 }, except: vec![] };
    let ip_blocks = vec![all(vec![0; 4]), all(vec![0; 16])];
    controlplane::NetworkPolicyPeer { ip_blocks, ..Default::default() }
}
