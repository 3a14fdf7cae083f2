//! Rules with domain names.

use std::time::Duration;

use antrea_packet::DnsAnswer;

use super::*;
use crate::dns::{Learned, Receiver};

fn rule(action: &str, fqdns: &[&str]) -> NetworkPolicyRule {
    let mut rule = native_rule(action, &[]);
    rule.direction = "Out".into();
    rule.from = Default::default();
    rule.to.fqdns = fqdns.iter().map(ToString::to_string).collect();
    rule
}

/// The pod behind a port is told.
fn told(node: &mut Node, ofport: u32, name: &str, address: &str, ttl: u32) -> Diff {
    let answer = DnsAnswer {
        names: vec![name.into()],
        addresses: vec![(address.parse().unwrap(), ttl)],
        ..DnsAnswer::default()
    };
    let told = [(Receiver::Port(ofport), vec![answer])];
    let learned = node.reconciler.learn_dns(&told, Duration::ZERO, Instant::now());
    assert!(matches!(learned[0][..], [Learned::Held(_)]));
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

    told(&mut node, 7, "www.example.com", "192.0.2.1", 10);
    assert!(passes(&node, 7, "192.0.2.1") && passes(&node, 8, "192.0.2.1") && !passes(&node, 7, "192.0.2.2"));
    assert!(told(&mut node, 7, "www.example.com", "192.0.2.1", 20).is_empty(), "known");
    assert!(told(&mut node, 7, "www.example.org", "192.0.2.9", 20).is_empty(), "of a name that nobody means");
    let diff = told(&mut node, 7, "other.example.com", "192.0.2.2", 10);
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
    told(&mut node, 8, "bad.example.com", "192.0.2.1", 10);
    assert!(!passes(&node, 7, "192.0.2.1") && passes(&node, 7, "192.0.2.2") && passes(&node, 9, "192.0.2.1"));
    // What a new policy asks for and one of its pods has been told is there at once.
    node.event(Event::Policy(native("M", (250, 4.0), "b", vec![rule("Reject", &["*.example.com"])])));
    assert!(!passes(&node, 9, "192.0.2.1"));
    assert_eq!(node.reconciler.askers(), [7, 8, 9].into());
}

/// Who answers one pod decides nothing for the rules of others, whatever way those come to the same name.
#[test]
fn what_a_pod_was_told_is_in_the_rules_that_apply_to_it_and_no_others() {
    let mut node = node();
    node.reconciler.attach(&network_of(EncapMode::Encap));
    let everything = || NetworkPolicyRule { to: everybody(), ..rule("Drop", &[]) };
    node.event(applied_to_group("p", &["p"]));
    node.event(applied_to_group("r", &["r"]));
    let name = "api.bank.example";
    let mut port = rule("Drop", &[name]);
    port.services = vec![WireService { port: Some(IntOrString::int(443)), ..WireService::default() }];
    node.event(Event::Policy(native("P", (250, 5.0), "p", vec![rule("Allow", &[name]), everything()])));
    node.event(Event::Policy(native("R", (250, 4.0), "r", vec![port])));
    node.event(Event::Policy(native("Q", (250, 6.0), "r", vec![rule("Drop", &["*.bank.example"])])));
    told(&mut node, 7, name, "192.0.2.1", 604_800);
    assert!(passes(&node, 7, "192.0.2.1") && passes(&node, 9, "192.0.2.1"));
    let peers = |node: &Node, ofport: u32| {
        let rules = node.rules().into_iter().filter(|rule| rule.pods.contains_key(&ofport));
        rules.filter(|rule| rule.peers != Peers::Any).map(|rule| rule.peers).collect::<Vec<_>>()
    };
    let nobody = Peers::Of([].into_iter().collect());
    assert_eq!(peers(&node, 9), [nobody.clone(), nobody.clone()]);
    // Nor does the host believe it of them.
    let egress = node.reconciler.host_egress();
    assert!(host_verdict(&egress, "10.0.0.7", "192.0.2.1", 443));
    assert!(host_verdict(&egress, "10.0.0.9", "192.0.2.1", 443));

    told(&mut node, 9, name, "192.0.2.2", 300);
    assert!(!passes(&node, 7, "192.0.2.2") && !passes(&node, 9, "192.0.2.2"));
    let egress = node.reconciler.host_egress();
    assert!(!host_verdict(&egress, "10.0.0.7", "192.0.2.2", 443));
    assert!(!host_verdict(&egress, "10.0.0.9", "192.0.2.2", 443));

    // A rule that applies to more pods has what these were told, and has it no more without them.
    node.event(applied_to_patch("p", vec![], vec![member("r", &[])]));
    assert!(passes(&node, 7, "192.0.2.2"));
    node.event(applied_to_patch("p", vec![member("r", &[])], vec![]));
    assert!(!passes(&node, 7, "192.0.2.2") && passes(&node, 7, "192.0.2.1"));
    // What a pod was told goes with it; nothing is learned of one that is gone.
    node.pods(&PODS[..2]);
    assert_eq!(node.reconciler.cache.dns().size(), 1);
    let late = DnsAnswer {
        names: vec![name.into()],
        addresses: vec![("192.0.2.3".parse().unwrap(), 300)],
        ..DnsAnswer::default()
    };
    let receivers = [Receiver::Port(9), Receiver::Attachment(Arc::new(("c-r-9".into(), "eth0".into())))];
    for receiver in receivers {
        let told = [(receiver, vec![late.clone()])];
        let learned = node.reconciler.learn_dns(&told, Duration::ZERO, Instant::now());
        assert_eq!(learned, [[Learned::NoRoom]]);
    }
    node.pods(&PODS);
    assert_eq!(peers(&node, 9), [nobody.clone(), nobody]);
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
    told(&mut node, 7, "bad.example.com", "192.0.2.1", 10);
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
    told(&mut node, 7, "bad.example.com", "192.0.2.1", 10);
    let found = node.reconciler.host_egress();
    let [group] = &found.first[0].groups.iter().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
    assert_eq!(found.groups[*group], ["192.0.2.1".parse().unwrap()].into());
}

fn everybody() -> controlplane::NetworkPolicyPeer {
    let all = |ip: Vec<u8>| IpBlock { cidr: controlplane::IpNet { ip, prefix_length: 0 }, except: vec![] };
    let ip_blocks = vec![all(vec![0; 4]), all(vec![0; 16])];
    controlplane::NetworkPolicyPeer { ip_blocks, ..Default::default() }
}
