//! Native policies: what they come to, and what stays closed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use antrea_api::controlplane::{
    self, Event, IpBlock, NetworkPolicy, NetworkPolicyRule, Service as WireService,
};
use antrea_api::k8s::IntOrString;
use antrea_flows::policy::{Action, Class, Peers, Protocol, Rule};
use proptest::prelude::*;

use super::tests::Node;
use super::*;
use crate::egress::{HostEgress, HostRule};
use crate::established::Connection;
use crate::testing::*;

mod established;
mod names;
mod nodes;
mod services;
mod spread;

const PODS: [(&str, u32, &str); 3] = [("p", 7, "10.0.0.7"), ("q", 8, "10.0.0.8"), ("r", 9, "10.0.0.9")];

/// A node with all of [`PODS`], which are members of the AppliedToGroup `a`, and AddressGroups `g` and `h`.
fn node() -> Node {
    let mut node = Node::new();
    node.pods(&PODS);
    node.event(applied_to_group("a", &["p", "q"]));
    node.event(applied_to_group("b", &["q", "r"]));
    node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    node.event(address_group("h", vec![member("x", &["10.0.1.1"]), member("y", &["10.0.1.2"])]));
    node
}

/// What the rules of a node say of a new connection into a pod.
fn verdict(node: &Node, ofport: u32, peer: &str, port: u16) -> bool {
    verdict_of(node, Direction::In, ofport, peer, port)
}

/// What the rules of a node say of a new connection, as the tables of the pipeline read them.
fn verdict_of(node: &Node, direction: Direction, ofport: u32, peer: &str, port: u16) -> bool {
    let rules = node.rules();
    let peer: IpAddr = peer.parse().unwrap();
    let mine: Vec<&Rule> =
        rules.iter().filter(|r| r.direction == direction && r.pods.contains_key(&ofport)).collect();
    let matches = |rule: &Rule| {
        let from = match &rule.peers {
            Peers::Any => true,
            Peers::Of(nets) => nets.iter().any(|net| net.contains(&peer)),
            // What goes to no Service.
            Peers::Services(_) => false,
        };
        let to =
            |s: &Service| s.protocol == Protocol::Tcp && s.ports.is_none_or(|ports| ports.contains(port));
        from && (rule.services.is_empty() || rule.services.iter().any(to))
    };
    let first = |of: fn(Class) -> Option<u16>| {
        let ranked = mine.iter().filter_map(|rule| Some((of(rule.class)?, *rule)));
        let found: Vec<_> = ranked.filter(|(_, rule)| matches(rule)).collect();
        let best = found.iter().map(|(priority, _)| *priority).max()?;
        let actions: BTreeSet<bool> =
            found.iter().filter(|(at, _)| *at == best).map(|(_, r)| r.action == Action::Allow).collect();
        assert_eq!(actions.len(), 1, "one priority says two things: {found:?}");
        found.iter().find(|(at, _)| *at == best).map(|(_, rule)| rule.action)
    };
    match first(|class| if let Class::Native { priority } = class { Some(priority) } else { None }) {
        Some(Action::Allow) => return true,
        Some(Action::Drop | Action::Reject) => return false,
        Some(Action::Pass) | None => {}
    }
    let mut k8s = mine.iter().filter(|rule| rule.class == Class::K8s).peekable();
    if k8s.peek().is_some() {
        return k8s.any(|rule| matches(rule));
    }
    let baseline =
        first(|class| if let Class::Baseline { priority } = class { Some(priority) } else { None });
    !matches!(baseline, Some(Action::Drop | Action::Reject))
}

/// What the host is told of a new connection of a pod, as it reads it.
fn host_verdict(egress: &HostEgress, pod: &str, peer: &str, port: u16) -> bool {
    let [pod, peer]: [IpAddr; 2] = [pod, peer].map(|ip| ip.parse().unwrap());
    let is_to = |rule: &HostRule| {
        rule.nets.iter().any(|net| net.contains(&peer))
            || rule.groups.iter().any(|name| egress.groups[name].contains(&peer))
    };
    let by = |s: &Service| s.protocol == Protocol::Tcp && s.ports.is_none_or(|ports| ports.contains(port));
    let matches = |rule: &&HostRule| {
        rule.pods.contains(&pod) && is_to(rule) && (rule.services.is_empty() || rule.services.iter().any(by))
    };
    match egress.first.iter().find(matches).map(|rule| rule.action) {
        Some(Action::Allow) => true,
        Some(Action::Drop | Action::Reject) => false,
        _ if egress.isolated.contains(&pod) => egress.allowed.iter().any(|rule| matches(&rule)),
        _ => egress.last.iter().find(matches).is_none_or(|rule| rule.action == Action::Allow),
    }
}

/// The same rules about where a pod may send to.
fn outwards(mut policy: NetworkPolicy) -> NetworkPolicy {
    for rule in &mut policy.rules {
        rule.direction = "Out".into();
        rule.to = std::mem::take(&mut rule.from);
    }
    policy
}

#[test]
fn a_drop_denies_what_it_names_and_nothing_else() {
    let mut node = node();
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["g"])])));
    assert!(!verdict(&node, 7, "10.0.1.1", 80) && verdict(&node, 7, "10.0.1.2", 80));
    assert!(verdict(&node, 9, "10.0.1.1", 80), "it does not apply to r");
    assert!(node.reconciler.isolating(7, Direction::In).is_empty(), "native policies isolate nobody");
    node.event(Event::Policy(native("M", (100, 9.0), "a", vec![native_rule("Allow", &["h"])])));
    assert!(verdict(&node, 7, "10.0.1.1", 80), "an earlier tier decides");
    node.event(Event::PolicyDeleted("M".into()));
    node.event(Event::PolicyDeleted("N".into()));
    assert!(node.flows.is_empty() && node.rules().is_empty());
}

/// A policy that denies members of a group that has not come yet would deny less than it says.
#[test]
fn a_native_policy_is_in_force_when_all_its_groups_are() {
    let mut node = node();
    let rules = vec![native_rule("Drop", &["late"]), native_rule("Allow", &["h"])];
    node.event(Event::Policy(native("N", (250, 5.0), "a", rules)));
    assert!(node.rules().is_empty() && node.reconciler.cache.realizable("N").is_none());
    node.event(address_group("late", vec![member("y", &["10.0.1.2"])]));
    assert!(!verdict(&node, 7, "10.0.1.2", 80) && verdict(&node, 7, "10.0.1.1", 80));
    assert!(node.reconciler.cache.realizable("N").is_some());
}

/// Members that could not be read may be anybody.
#[test]
fn a_group_that_was_never_read_whole_is_denied_as_everybody() {
    let mut node = node();
    let error = antrea_api::k8s::DecodeError::malformed("AddressGroup", "members");
    let damaged = antrea_api::controlplane::Damaged {
        name: "d".into(),
        error,
        rest: Some(Box::new(address_group("d", vec![member("y", &["10.0.1.2"])]))),
    };
    node.reconciler.cache.apply(crate::cache::Kind::AddressGroups, Event::Damaged(damaged)).unwrap();
    for (action, open) in [("Drop", false), ("Pass", false), ("Allow", true)] {
        node.event(Event::Policy(native("N", (250, 5.0), "a", vec![native_rule(action, &["d"])])));
        assert_eq!(verdict(&node, 7, "10.0.1.1", 80), open, "{action}");
    }
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["d"])])));
    node.event(address_group("d", vec![member("y", &["10.0.1.2"])]));
    assert!(verdict(&node, 7, "10.0.1.1", 80) && !verdict(&node, 7, "10.0.1.2", 80));
}

/// A pod without an object keeps each of its native policies, whatever else selects it, until the controller still knows it.
#[test]
fn a_pod_without_an_object_stays_denied() {
    let mut node = node();
    let of_b = NetworkPolicyRule { applied_to_groups: vec!["b".into()], ..native_rule("Drop", &["g"]) };
    let mut policy_of_two = native("N", (250, 5.0), "a", vec![native_rule("Drop", &["h"]), of_b]);
    node.event(Event::Policy(policy_of_two.clone()));
    node.event(Event::Policy(policy("K", 1, "b", &["h"])));
    node.gone.insert("q");
    // It leaves one group after the other, and only one of them is without a rule of the policy then.
    node.event(applied_to_patch("a", vec![member("q", &[])], vec![]));
    assert!(!verdict(&node, 8, "10.0.1.2", 80), "what applied by the first group stays");
    node.event(applied_to_patch("b", vec![member("q", &[])], vec![]));
    assert!(!verdict(&node, 8, "10.0.1.2", 80) && !verdict(&node, 8, "10.0.1.1", 80));
    policy_of_two.metadata.generation = 2;
    node.event(Event::Policy(policy_of_two));
    assert!(!verdict(&node, 8, "10.0.1.2", 80), "a new form of the policy applies too");
    node.event(Event::PolicyDeleted("N".into()));
    assert!(!verdict(&node, 8, "10.0.1.2", 80), "and when it is deleted");
    assert!(verdict(&node, 7, "10.0.1.2", 80), "others have lost it");
    node.gone.clear();
    node.settle();
    assert!(verdict(&node, 8, "10.0.1.2", 80));
}

/// What named ports meant is known from the pod's object.
#[test]
fn a_pod_without_an_object_is_denied_all_of_a_rule_with_names() {
    let mut node = node();
    let services = vec![WireService { port: Some(IntOrString::string("web")), ..WireService::default() }];
    let rule = NetworkPolicyRule { services, ..native_rule("Drop", &["g"]) };
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule])));
    assert!(verdict(&node, 8, "10.0.1.1", 80), "q has no port of the name");
    node.gone.insert("q");
    node.event(applied_to_patch("a", vec![member("q", &[])], vec![]));
    node.event(address_patch("g", vec![], vec![member("z", &["10.0.1.9"])]));
    let mut web = member("p", &[]);
    web.ports =
        vec![antrea_api::controlplane::NamedPort { port: 80, name: "web".into(), protocol: "TCP".into() }];
    node.event(applied_to_patch("a", vec![], vec![web.clone()]));
    assert!(!verdict(&node, 7, "10.0.1.1", 80) && verdict(&node, 7, "10.0.1.1", 81));
    node.gone.insert("p");
    node.event(applied_to_patch("a", vec![web], vec![]));
    assert!(!verdict(&node, 7, "10.0.1.1", 80), "p stays denied what it was");
}

#[test]
fn who_was_denied_in_the_last_life_is_isolated_until_the_pod_is_known() {
    let mut last = node();
    last.event(Event::Policy(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["g"])])));
    let record = last.reconciler.isolation();
    let text: BTreeSet<String> = record.values().map(ToString::to_string).collect();
    assert_eq!(text, BTreeSet::from(["ingress-denied".to_owned()]));

    let mut next = Node::new();
    next.gone.extend(["p", "q", "r"]);
    for event in [
        applied_to_group("a", &["p"]),
        address_group("g", vec![member("x", &["10.0.1.1"])]),
        Event::Policy(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["g"])])),
    ] {
        next.event(event);
    }
    next.reconciler.recall(record);
    next.pods(&PODS);
    assert!(verdict(&next, 7, "10.0.1.2", 80), "p is still denied what it was, and no more");
    assert!(!verdict(&next, 8, "10.0.1.2", 80), "q has no object any more");
    assert!(verdict(&next, 9, "10.0.1.1", 80), "nothing denied r anything");
    next.gone.clear();
    next.settle();
    assert!(verdict(&next, 8, "10.0.1.2", 80));
}

/// More ranks than priorities: what denies stays in force, and each is told.
#[test]
fn what_finds_no_priority_denies_or_is_left_out() {
    let mut node = node();
    for n in 0..170u32 {
        let name = format!("B{n}");
        let rule = native_rule("Allow", &["g"]);
        node.event(Event::Policy(native(&name, (253, f64::from(n)), "a", vec![rule])));
    }
    let told = |node: &Node, name: &str| {
        node.reconciler.problem(node.reconciler.cache.policy(name).unwrap()).is_some()
    };
    node.event(Event::Policy(native("D", (253, 500.0), "a", vec![native_rule("Drop", &["h"])])));
    assert!(told(&node, "D") && !told(&node, "B7"));
    assert!(!verdict(&node, 7, "10.0.1.1", 80), "it comes before what allows");
    node.event(Event::Policy(native("A", (253, 501.0), "a", vec![native_rule("Allow", &["h"])])));
    assert!(told(&node, "A"));
    node.event(Event::PolicyDeleted("B7".into()));
    assert!(verdict(&node, 7, "10.0.1.1", 80), "there is room again, and it has its place behind them");
    assert_eq!(told(&node, "D"), !told(&node, "A"), "for one of them");
}

/// Pods among the peers are the bridge's matter where a tunnel brings packets to them; whoever cannot be read stands for
/// everybody there too.
#[test]
fn the_host_learns_of_native_rules_in_their_order() {
    let mut node = node();
    node.reconciler.attach(&network_of(EncapMode::Encap));
    let block = |action: &str, octet: u8, port: i32| {
        let mut rule = native_rule(action, &["g"]);
        rule.from.ip_blocks = vec![IpBlock {
            cidr: controlplane::IpNet { ip: vec![192, 0, octet, 0], prefix_length: 24 },
            except: vec![],
        }];
        rule.services = vec![WireService { port: Some(IntOrString::int(port)), ..WireService::default() }];
        rule
    };
    let rules = vec![block("Pass", 2, 80), block("Drop", 2, 443), native_rule("Drop", &["g"])];
    node.event(Event::Policy(outwards(native("late", (250, 5.0), "a", rules))));
    node.event(Event::Policy(outwards(native("early", (50, 5.0), "b", vec![block("Allow", 3, 1)]))));
    node.event(Event::Policy(outwards(native("base", (253, 5.0), "a", vec![block("Drop", 4, 1)]))));
    let found = node.reconciler.host_egress();
    let actions: Vec<_> = found.first.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [Action::Allow, Action::Pass, Action::Drop]);
    assert!(found.rules().all(|rule| rule.groups.is_empty() && rule.nets.len() == 1), "{found:?}");
    assert_eq!(found.last.len(), 1);
    assert_eq!(found.restricted(), ["10.0.0.7", "10.0.0.8"].map(|ip| ip.parse().unwrap()).into());
    assert!(found.isolated.is_empty() && found.allowed.is_empty());

    let mut broken = native_rule("Drop", &["g"]);
    broken.from.to_services = vec![controlplane::ObjectReference::default()];
    node.event(Event::Policy(outwards(native("late", (250, 5.0), "a", vec![broken]))));
    let found = node.reconciler.host_egress();
    assert_eq!(found.first[1].nets.len(), 2, "everybody: {found:?}");
}

#[test]
fn without_tables_nothing_of_it_is_in_force_and_that_is_told() {
    let mut node = node();
    let mut network = network();
    network.node.antrea_policy = false;
    node.reconciler.attach(&antrea_flows::Network::new(network.node, antrea_flows::Round::FIRST));
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![native_rule("Drop", &["g"])])));
    assert!(node.rules().is_empty());
    let policy = node.reconciler.cache.policy("N").unwrap();
    assert!(node.reconciler.problem(policy).unwrap().contains("AntreaPolicy"));
}

/// A policy between two others changes its own flows and next to no others'.
#[test]
fn an_insertion_sends_little_but_the_flows_of_its_own() {
    let mut node = node();
    let mut sent = Vec::new();
    for n in 0..400u32 {
        // Multiplied with a number that has no factor in common, all of them come, in no order.
        let priority = f64::from(n * 173 % 400);
        let rule = native_rule("Drop", &["g"]);
        let name = format!("N{n}");
        let diff = node.event(Event::Policy(native(&name, (250, priority), "a", vec![rule])));
        sent.push(diff.adds.len() + diff.mods.len() + diff.deletes.len());
    }
    sent.sort_unstable();
    let own = sent[0];
    assert!(sent[395] <= 2 * own, "p99 {} where its own are {own}", sent[395]);
}

/// A rule of the messages, in few words.
#[derive(Clone, Debug)]
struct Saying {
    action: usize,
    peers: usize,
    port: Option<u16>,
    applied_to: Option<usize>,
}

#[derive(Clone, Debug)]
struct Speech {
    /// None: a Kubernetes policy.
    order: Option<(i32, i32)>,
    applied_to: usize,
    rules: Vec<Saying>,
}

const ACTIONS: [&str; 4] = ["Allow", "Drop", "Reject", "Pass"];
const APPLIED: [&str; 2] = ["a", "b"];
const GROUPS: [&[&str]; 3] = [&["g"], &["h"], &["g", "h"]];

fn speech() -> impl Strategy<Value = Speech> {
    let saying = (
        0usize..4,
        0usize..3,
        proptest::option::of(prop_oneof![Just(80u16), Just(443)]),
        proptest::option::weighted(0.3, 0usize..2),
    )
        .prop_map(|(action, peers, port, applied_to)| Saying { action, peers, port, applied_to });
    let tier = prop_oneof![Just(50), Just(250), Just(253)];
    (proptest::option::weighted(0.75, (tier, 0i32..4)), 0usize..2, proptest::collection::vec(saying, 1..4))
        .prop_map(|(order, applied_to, rules)| Speech { order, applied_to, rules })
}

fn message(name: &str, speech: &Speech) -> NetworkPolicy {
    let applied_to = APPLIED[speech.applied_to];
    let rule = |saying: &Saying| NetworkPolicyRule {
        action: Some(if speech.order.is_some() { ACTIONS[saying.action] } else { "Allow" }.into()),
        services: saying
            .port
            .map(|port| WireService { port: Some(IntOrString::int(port.into())), ..WireService::default() })
            .into_iter()
            .collect(),
        applied_to_groups: match (speech.order, saying.applied_to) {
            (Some(_), Some(group)) => vec![APPLIED[group].into()],
            _ => Vec::new(),
        },
        ..native_rule("", GROUPS[saying.peers])
    };
    let rules: Vec<_> = speech.rules.iter().map(rule).collect();
    match speech.order {
        Some((tier, priority)) => NetworkPolicy {
            resets_established: true,
            ..native(name, (tier, f64::from(priority)), applied_to, rules)
        },
        None => NetworkPolicy { rules, ..policy(name, 1, applied_to, &[]) },
    }
}

/// The specification: tiers in order, in them policies by priority, in these rules as they stand; the first that matches
/// decides. Among equals what denies is first. Pass, and where none matches, go on to Kubernetes policies, which let
/// only through to a pod that they select what one of them allows. Pods that none of them selects are left to the
/// baseline tier, and what that does not decide passes.
fn specified(policies: &BTreeMap<usize, Speech>, pod: &str, peer: &str, port: u16) -> Specified {
    let in_group = |group: usize| [["p", "q"], ["q", "r"]][group].contains(&pod);
    let applies = |speech: &Speech, saying: &Saying| in_group(saying.applied_to.unwrap_or(speech.applied_to));
    let matches = |saying: &Saying| {
        let has = peer == "10.0.1.1" || (peer == "10.0.1.2" && saying.peers != 0);
        has && saying.port.is_none_or(|of| of == port)
    };
    let mut native: Vec<_> = policies
        .values()
        .filter_map(|speech| Some((speech.order?, speech)))
        .flat_map(|(order, speech)| {
            speech.rules.iter().enumerate().map(move |(i, rule)| (order, i, rule, speech))
        })
        .filter(|(_, _, rule, speech)| applies(speech, rule) && matches(rule))
        .map(|((tier, priority), i, rule, _)| {
            // Nothing comes after the baseline tier.
            let action =
                if tier == 253 && ACTIONS[rule.action] == "Pass" { "Drop" } else { ACTIONS[rule.action] };
            let strict = ["Drop", "Reject", "Pass", "Allow"].iter().position(|of| *of == action);
            (tier, priority, i, strict, action)
        })
        .collect();
    native.sort_unstable();
    match native.iter().find(|rule| rule.0 < 253).map(|rule| rule.4) {
        Some("Allow") => return Specified::Passes,
        Some("Drop" | "Reject") => return Specified::Denied,
        _ => {}
    }
    let selecting =
        || policies.values().filter(|speech| speech.order.is_none() && in_group(speech.applied_to));
    if selecting().next().is_some() {
        let allowed = selecting().flat_map(|speech| &speech.rules).any(matches);
        return if allowed { Specified::Passes } else { Specified::Isolated };
    }
    match native.iter().find(|rule| rule.0 == 253).map(|rule| rule.4) {
        Some("Drop" | "Reject") => Specified::Denied,
        _ => Specified::Passes,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Specified {
    Passes,
    /// By a native policy.
    Denied,
    /// By Kubernetes policies.
    Isolated,
}

fn connection(out: bool, pod: &str, peer: &str, port: u16) -> Connection {
    let [client, server] = if out { [pod, peer] } else { [peer, pod] };
    Connection {
        protocol: Protocol::Tcp,
        client: SocketAddr::new(client.parse().unwrap(), 40_000),
        server: SocketAddr::new(server.parse().unwrap(), port),
        icmp: None,
        frontend: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever policies come, change and go: the rules, read as the pipeline does, say what the specification says, and
    /// so does what the host is told of those of egress, and what is said of connections that are there already.
    #[test]
    fn rules_decide_as_the_specification_says(
        changes in proptest::collection::vec((0usize..6, proptest::option::weighted(0.8, speech())), 1..14),
        out in any::<bool>(),
    ) {
        let mut node = node();
        let mut policies: BTreeMap<usize, Speech> = BTreeMap::new();
        for (at, change) in changes {
            let name = format!("P{at}");
            match change {
                Some(speech) => {
                    let message = message(&name, &speech);
                    node.event(Event::Policy(if out { outwards(message) } else { message }));
                    policies.insert(at, speech);
                }
                None => {
                    node.event(Event::PolicyDeleted(name));
                    policies.remove(&at);
                }
            }
            let (direction, egress) =
                (if out { Direction::Out } else { Direction::In }, node.reconciler.host_egress());
            let resets = node.reconciler.resets();
            for (pod, ofport, ip) in PODS {
                for peer in ["10.0.1.1", "10.0.1.2", "10.0.1.3"] {
                    for port in [80, 443, 8080] {
                        let specified = specified(&policies, pod, peer, port);
                        let right = specified == Specified::Passes;
                        let ended = resets.denies(&connection(out, ip, peer, port)).is_some();
                        prop_assert_eq!(
                            ended,
                            specified == Specified::Denied,
                            "{} and {} at {}, established: {:#?}", pod, peer, port, policies
                        );
                        prop_assert_eq!(
                            verdict_of(&node, direction, ofport, peer, port),
                            right,
                            "{} and {} at {}: {:#?}\n{:#?}", pod, peer, port, policies, node.rules()
                        );
                        prop_assert_eq!(
                            host_verdict(&egress, ip, peer, port),
                            !out || right,
                            "{} to {} at {}, at the host: {:#?}\n{:#?}", pod, peer, port, policies, egress
                        );
                    }
                }
            }
        }
    }
}
