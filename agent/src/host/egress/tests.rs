use std::sync::Arc;

use antrea_enforce::egress::HostRule;
use antrea_flows::policy::{Action, PortRange, Protocol, Service};
use netcfg::nft::Set;
use proptest::prelude::*;

use super::chains::MAX_RULES;
use super::*;
use crate::host::network::tests::config;

const PODS_HERE: [&str; 3] = ["10.244.1.5", "10.244.1.6", "fd00:1::5"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn rule(action: Action, pods: &[&str], nets: &[&str], services: Vec<Service>) -> HostRule {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    HostRule { action, pods: ips(pods), nets, groups: BTreeSet::new(), services }
}

fn to(first: u16, last: u16) -> Service {
    Service::to(Protocol::Tcp, PortRange::new(first, last).unwrap())
}

fn with(policy: HostEgress) -> HostConfig {
    HostConfig { egress: Egress { pods: ips(&PODS_HERE), policy }, ..config() }
}

/// A packet at a hook.
#[derive(Clone, Copy, Debug)]
struct Packet<'a> {
    hook: &'a str,
    out: &'a str,
    from: IpAddr,
    to: IpAddr,
    /// Where its connection was sent.
    sent: (IpAddr, u16),
    port: u16,
    translated: bool,
    known: bool,
    /// Of TCP's flags SYN alone.
    syn: bool,
    tracked: bool,
    protocol: u8,
}

impl Packet<'_> {
    /// What the host forwards by another link, translated.
    fn forwarded(from: &str, to: &str, port: u16) -> Self {
        let sent = (ip("10.96.0.1"), 443);
        let (from, to) = (ip(from), ip(to));
        Self {
            hook: "FORWARD",
            out: "eth0",
            from,
            to,
            sent,
            port,
            translated: true,
            known: false,
            syn: true,
            tracked: true,
            protocol: TCP,
        }
    }

    fn has(&self, one: &Match, table: &Table) -> bool {
        match one {
            Match::InIface(_) => self.hook != "OUTPUT",
            Match::NotOutIface(link) => self.out != link,
            Match::Src(net) => net.contains(&self.from),
            Match::NotSrc(address) => self.from != *address,
            Match::Dst(net) => net.contains(&self.to),
            Match::DstIn(name) => match &table.sets[name] {
                Set::Addresses(addresses) => addresses.contains(&self.to),
                Set::Ranges(ranges) => ranges.iter().any(|(first, last)| (first..=last).contains(&&self.to)),
            },
            Match::Known => self.known,
            Match::TcpGoesOn => !self.syn,
            Match::NotProtocol(number) => *number != self.protocol,
            Match::Translated => self.translated,
            Match::Tracked => self.tracked,
            Match::AsSent(address) => self.sent.0 == self.to && *address == self.to,
            Match::NotSentTo(first, last) => !(first..=last).contains(&&self.sent.1),
            Match::Protocol(number) => *number == self.protocol,
            Match::Ports { protocol, which, ranges } => {
                let port = if *which == "dport" { self.port } else { 40_000 };
                *protocol == (if self.protocol == TCP { "tcp" } else { "udp" })
                    && ranges.iter().any(|(first, last)| (first..=last).contains(&&port))
            }
            Match::IcmpType(..) | Match::IcmpCode(_) => false,
        }
    }

    /// As the kernel walks the chains; none: back to where it came from.
    fn walk(&self, chain: &str, table: &Table) -> Option<bool> {
        for rule in &table.chains[chain].rules {
            if !rule.matches.iter().all(|one| self.has(one, table)) {
                continue;
            }
            let decided = |verdict: &Verdict| match verdict {
                Verdict::Accept => Some(true),
                Verdict::Drop => Some(false),
                Verdict::Goto(chain) | Verdict::Jump(chain) => self.walk(chain, table),
                Verdict::OfSource(_) => panic!("a map of maps"),
            };
            let found = match &rule.verdict {
                Verdict::OfSource(map) => table.maps[map].get(&self.from).and_then(decided),
                // What comes back from there goes back further.
                Verdict::Goto(chain) => return self.walk(chain, table),
                verdict => decided(verdict),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn passes(&self, config: &HostConfig) -> bool {
        let (table, _) = egress_table(config, self.from.into());
        self.walk(self.hook, &table).unwrap_or(true)
    }
}

fn egress_table(config: &HostConfig, family: Family) -> (Table, BTreeSet<IpAddr>) {
    table(config, family).unwrap()
}

/// Every rule, word by word.
#[test]
fn the_whole_table() {
    let pods = &PODS_HERE[..2];
    let icmp = Service { icmp_type: Some(8), icmp_code: Some(0), ..Service::all(Protocol::Icmp) };
    let from = Service { src_ports: Some(PortRange::new(5, 6).unwrap()), ..Service::all(Protocol::Udp) };
    let group: Arc<str> = "pods".into();
    let grouped =
        HostRule { groups: [group.clone()].into(), ..rule(Action::Allow, &PODS_HERE, &[], vec![to(80, 80)]) };
    let policy = HostEgress {
        first: vec![
            rule(
                Action::Drop,
                pods,
                &["192.0.2.0/25", "192.0.2.130/32", "2001:db8::/64"],
                vec![to(1, 9), to(4, 20)],
            ),
            rule(Action::Pass, &pods[..1], &["198.18.0.0/24"], vec![icmp, from]),
            rule(Action::Allow, pods, &["198.18.0.0/16"], vec![to(80, 80), Service::all(Protocol::Udp)]),
        ],
        isolated: ips(&[PODS_HERE[0], PODS_HERE[2]]),
        allowed: vec![grouped],
        last: vec![rule(Action::Reject, pods, &["0.0.0.0/0", "::/0"], Vec::new())],
        groups: [(group, ips(&["10.244.2.7", "fd00:2::7"]))].into(),
    };
    let config = with(policy);
    let text: String =
        Family::BOTH.into_iter().map(|family| egress_table(&config, family).0.to_string()).collect();
    assert_eq!(text, include_str!("../testdata/egress.txt"), "{text}");
}

#[test]
fn only_what_came_by_translation_or_to_the_node_is_judged_and_new_pods_may_do_nothing() {
    let config = with(HostEgress { isolated: ips(&PODS_HERE[..1]), ..HostEgress::default() });
    let away = Packet::forwarded(PODS_HERE[0], "192.0.2.99", 80);
    let own = Packet { hook: "INPUT", out: "", to: ip("192.0.2.11"), translated: false, ..away };
    let isolated: [(&str, Packet<'_>, bool); 13] = [
        ("translated", away, false),
        ("known", Packet { known: true, syn: false, ..away }, true),
        ("a SYN of a known connection", Packet { known: true, ..away }, false),
        ("not translated", Packet { translated: false, ..away }, true),
        (
            "a Service's address that nobody serves",
            Packet { translated: false, to: ip("10.96.0.9"), ..away },
            false,
        ),
        ("back to the bridge", Packet { out: "antrea-gw0", ..away }, true),
        ("to the node", Packet { sent: (own.to, 80), ..own }, true),
        ("to the node, by iptables", Packet { translated: true, ..own }, false),
        ("to the node, by ipvs", own, false),
        ("to the node's NodePort", Packet { sent: (own.to, 30_080), ..own }, false),
        (
            "to another address here",
            Packet { to: ip("203.0.113.9"), sent: (ip("203.0.113.9"), 80), ..own },
            false,
        ),
        ("sent on by ipvs", Packet { hook: "OUTPUT", translated: false, ..away }, false),
        (
            "of the gateway's",
            Packet { hook: "OUTPUT", translated: false, from: ip("10.244.1.1"), ..away },
            true,
        ),
    ];
    for (what, packet, passes) in isolated {
        assert_eq!(packet.passes(&config), passes, "{what}: {packet:?}");
        let free = Packet {
            from: if what == "of the gateway's" { packet.from } else { ip(PODS_HERE[1]) },
            ..packet
        };
        assert!(free.passes(&config), "{what} of a free pod");
        let new = Packet { from: ip("10.244.1.99"), ..packet };
        assert_eq!(new.passes(&config), passes && what != "of the gateway's", "{what} of a pod that is new");
    }
    assert!(!Packet::forwarded("fd00:1::99", "2001:db8::1", 80).passes(&config), "new, IPv6");
    assert!(Packet::forwarded(PODS_HERE[2], "2001:db8::1", 80).passes(&config));
    let v4 = HostConfig { subnets: vec!["10.244.1.0/24".parse().unwrap()], ..config };
    assert!(table(&v4, Family::V6).is_none(), "no pods of the family");
}

/// Ipvs translates after the firewall has seen the packet, and flows do not see the sender where a device of the kernel is
/// the tunnel.
#[test]
fn what_is_translated_to_the_tunnel_does_not_get_in() {
    let config = config();
    let node = ip("192.0.2.11");
    let of_a_peer = Packet {
        hook: "INPUT",
        out: "",
        from: ip("192.0.2.12"),
        to: node,
        sent: (node, 6081),
        port: 6081,
        translated: false,
        known: false,
        syn: false,
        tracked: false,
        protocol: UDP,
    };
    assert!(of_a_peer.passes(&config), "the tunnel's own packets are not tracked");
    for from in [PODS_HERE[1], "192.0.2.12", "203.0.113.9"] {
        let translated = Packet { from: ip(from), sent: (ip("10.96.0.9"), 80), tracked: true, ..of_a_peer };
        assert!(!translated.passes(&config), "{from}");
    }
    let other = Packet { port: 6080, tracked: true, ..of_a_peer };
    assert!(other.passes(&config));
    let v6 = HostConfig { subnets: vec!["fd00:1::/64".parse().unwrap()], ..config };
    let (table, _) = table(&v6, Family::V4).unwrap();
    assert!(table.to_string().contains("udp dport { 6081 }"), "also where pods have another family: {table}");
}

#[test]
fn what_is_beyond_the_limit_is_refused_to_who_wants_it_alone() {
    let allow = |pods: &[&str], count: usize| {
        let ports = (0..count)
            .map(|port| to(2 * u16::try_from(port).unwrap() + 1, 2 * u16::try_from(port).unwrap() + 1));
        rule(Action::Allow, pods, &["198.18.0.0/24"], ports.collect())
    };
    let policy = |allowed| HostEgress { isolated: ips(&PODS_HERE), allowed, ..HostEgress::default() };
    // The end of the chain is a rule too.
    let config = with(policy(vec![allow(&PODS_HERE[..1], MAX_RULES - 1)]));
    assert!(egress_table(&config, Family::V4).1.is_empty(), "that many are taken");
    let few = allow(&PODS_HERE[1..], 3);
    let config = with(policy(vec![allow(&PODS_HERE[..1], MAX_RULES - 1), few]));
    assert_eq!(egress_table(&config, Family::V4).1, ips(&PODS_HERE[..1]));
    assert!(!Packet::forwarded(PODS_HERE[0], "198.18.0.1", 1).passes(&config));
    assert!(Packet::forwarded(PODS_HERE[1], "198.18.0.1", 1).passes(&config));
    assert!(egress_table(&config, Family::V6).1.is_empty(), "each family has room of its own");
}

#[test]
fn pods_of_the_same_rules_share_chains_and_a_group_changes_in_its_set() {
    let members = |third: u8, count: u8| (0..count).map(move |last| IpAddr::from([10, 244, third, last]));
    let many: BTreeSet<IpAddr> = members(1, 100).collect();
    let group: Arc<str> = "one".into();
    let two = vec![Service::all(Protocol::Tcp), Service::all(Protocol::Udp)];
    let allowed = HostRule {
        pods: many.clone(),
        groups: [group.clone()].into(),
        ..rule(Action::Allow, &[], &["192.0.2.0/24", "192.0.4.0/24"], two)
    };
    let policy = HostEgress {
        isolated: many.clone(),
        allowed: vec![allowed],
        groups: [(group.clone(), members(2, 200).collect())].into(),
        ..HostEgress::default()
    };
    let mut config = HostConfig { egress: Egress { pods: many, policy }, ..config() };
    let (first, _) = egress_table(&config, Family::V4);
    assert_eq!(first.chains.len(), 4 + 2, "hooks and JUDGE, the pods' and the rule's: {first}");
    assert_eq!((first.maps[PODS].len(), first.sets.len()), (100, 2));
    config.egress.policy.groups.insert(group, members(2, 199).collect());
    let (second, _) = egress_table(&config, Family::V4);
    assert_eq!(first.chains, second.chains);
    assert_ne!(first.sets, second.sets);
}

fn host_rule() -> impl Strategy<Value = HostRule> {
    let action = prop::sample::select(vec![Action::Allow, Action::Drop, Action::Reject, Action::Pass]);
    let pods = prop::sample::subsequence(PODS_HERE[..2].to_vec(), 1..=2);
    let blocks = vec!["192.0.2.0/24", "192.0.2.128/25", "192.0.2.7/32", "198.18.0.0/16", "0.0.0.0/0"];
    let nets = prop::sample::subsequence(blocks, 0..=3);
    let service =
        prop::sample::select(vec![to(80, 80), to(80, 90), to(443, 443), Service::all(Protocol::Udp)]);
    (action, pods, nets, prop::collection::vec(service, 0..3), any::<bool>()).prop_map(
        |(action, pods, nets, services, group)| HostRule {
            groups: group.then(|| "g".into()).into_iter().collect(),
            ..rule(action, &pods, &nets, services)
        },
    )
}

/// The specification: the first native rule that matches, what Kubernetes' policies allow, the first of the baseline.
fn specified(policy: &HostEgress, from: IpAddr, to: IpAddr, port: u16) -> bool {
    let in_group = |group: &Arc<str>| policy.groups.get(group).is_some_and(|ips| ips.contains(&to));
    let is_to =
        |rule: &HostRule| rule.nets.iter().any(|net| net.contains(&to)) || rule.groups.iter().any(in_group);
    let serves =
        |s: &Service| s.protocol == Protocol::Tcp && s.ports.is_none_or(|ports| ports.contains(port));
    let by = |rule: &HostRule| rule.services.is_empty() || rule.services.iter().any(serves);
    let matches = |rule: &&HostRule| rule.pods.contains(&from) && is_to(rule) && by(rule);
    match policy.first.iter().find(matches).map(|rule| rule.action) {
        Some(Action::Allow) => return true,
        Some(Action::Drop | Action::Reject) => return false,
        Some(Action::Pass) | None => {}
    }
    if policy.isolated.contains(&from) {
        return policy.allowed.iter().any(|rule| matches(&rule));
    }
    policy.last.iter().find(matches).is_none_or(|rule| rule.action == Action::Allow)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn chains_decide_as_the_specification_says(
        first in prop::collection::vec(host_rule(), 0..5),
        mut allowed in prop::collection::vec(host_rule(), 0..4),
        last in prop::collection::vec(host_rule(), 0..3),
        isolated in prop::sample::subsequence(PODS_HERE[..2].to_vec(), 0..=2),
    ) {
        allowed.iter_mut().for_each(|rule| rule.action = Action::Allow);
        let groups = [("g".into(), ips(&["192.0.2.7", "203.0.113.1"]))].into();
        let policy = HostEgress { first, isolated: ips(&isolated), allowed, last, groups };
        let config = with(policy.clone());
        for from in &PODS_HERE[..2] {
            for to in ["192.0.2.7", "192.0.2.200", "198.18.0.1", "203.0.113.1", "203.0.113.2"] {
                for port in [80, 85, 443, 8080] {
                    prop_assert_eq!(
                        Packet::forwarded(from, to, port).passes(&config),
                        specified(&policy, ip(from), ip(to), port),
                        "{} to {}:{}: {}", from, to, port, egress_table(&config, Family::V4).0
                    );
                }
            }
        }
    }
}
