//! Random events in a world that is small enough for everything to meet.

use std::ops::Range;

use proptest::{collection, option, prelude::*, sample::select};

use super::natives::{self, GROUPS, Group, Native, SERVICES, TIERS};
use super::world::{Expression, Key, Labels, Node, Peer, Pod, Policy, Requirement, Rule, Space};

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Pod(Key, Option<Pod>),
    Namespace(&'static str, Option<Labels>),
    Policy(Key, Option<Policy>),
    Native(Key, Option<Native>),
    Tier(&'static str, Option<i64>),
    Group(Key, Option<Group>),
    /// Labels of the Pods behind a Service.
    Service(Key, Option<Labels>),
    ResetServices(u32),
    Node(&'static str, Option<Node>),
    ResetNodes(u32, Vec<(&'static str, Node)>),
    ResetPods(u32, Vec<(Key, Pod)>),
    ResetNamespaces(u32, Vec<(&'static str, Labels)>),
    ResetPolicies(u32, Vec<(Key, Policy)>),
    /// Of the cluster, or of namespaces.
    ResetNatives(bool, u32),
    ResetGroups(bool, u32),
    ResetTiers(u32),
    /// Compares what can be looked up, and leaves the changes undrained.
    Peek,
    /// Drains and compares everything.
    Drain,
}

const NAMESPACES: [&str; 3] = ["n0", "n1", "n2"];
const NODES: [&str; 4] = ["k0", "k1", "k2", "k3"];
const PODS: [&str; 4] = ["p0", "p1", "p2", "p3"];
const POLICIES: [&str; 3] = ["q0", "q1", "q2"];
const KEYS: [&str; 3] = ["a", "b", "c"];
const VALUES: [&str; 3] = ["x", "y", ""];
const BLOCKS: [(&str, &[&str]); 5] = [
    ("10.0.0.0/8", &[]),
    ("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]),
    ("fd00::/8", &[]),
    ("10.0.0.0/33", &[]),
    ("10.0.0.0/24", &["10.0.0.0/8"]),
];

pub(crate) fn events(count: Range<usize>) -> impl Strategy<Value = Vec<Event>> {
    collection::vec(event(), count)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (key(PODS), option::weighted(0.75, pod())).prop_map(|(key, pod)| Event::Pod(key, pod)),
        4 => (select(&NAMESPACES), option::weighted(0.8, labels())).prop_map(|(n, l)| Event::Namespace(n, l)),
        6 => (key(POLICIES), option::weighted(0.7, policy())).prop_map(|(key, p)| Event::Policy(key, p)),
        6 => (native_key(POLICIES), option::weighted(0.7, natives::native())).prop_map(|(key, p)| Event::Native(key, p)),
        2 => (select(&TIERS[..]), option::weighted(0.7, 0i64..20)).prop_map(|(name, p)| Event::Tier(name, p)),
        4 => (native_key(GROUPS), option::weighted(0.7, natives::group())).prop_map(|(key, g)| Event::Group(key, g)),
        3 => (select(&SERVICES[..]), option::weighted(0.8, labels())).prop_map(|(key, l)| Event::Service(key, l)),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Event::ResetServices(a & b)),
        3 => (select(&NODES[..]), option::weighted(0.75, node())).prop_map(|(name, n)| Event::Node(name, n)),
        1 => (any::<u32>(), any::<u32>(), collection::vec((select(&NODES[..]), node()), 0..3))
            .prop_map(|(a, b, changed)| Event::ResetNodes(a & b, changed)),
        1 => (any::<u32>(), any::<u32>(), collection::vec((key(PODS), pod()), 0..4))
            .prop_map(|(a, b, changed)| Event::ResetPods(a & b, changed)),
        1 => (any::<u32>(), any::<u32>(), collection::vec((select(&NAMESPACES[..]), labels()), 0..2))
            .prop_map(|(a, b, changed)| Event::ResetNamespaces(a & b, changed)),
        1 => (any::<u32>(), any::<u32>(), collection::vec((key(POLICIES), policy()), 0..3))
            .prop_map(|(a, b, changed)| Event::ResetPolicies(a & b, changed)),
        1 => (any::<bool>(), any::<u32>(), any::<u32>()).prop_map(|(cluster, a, b)| Event::ResetNatives(cluster, a & b)),
        1 => (any::<bool>(), any::<u32>(), any::<u32>()).prop_map(|(cluster, a, b)| Event::ResetGroups(cluster, a & b)),
        1 => any::<u32>().prop_map(Event::ResetTiers),
        1 => Just(Event::Peek),
        8 => Just(Event::Drain),
    ]
}

fn key<const N: usize>(names: [&'static str; N]) -> impl Strategy<Value = Key> {
    (select(&NAMESPACES[..]), select(names.to_vec()))
}

/// Mostly of the cluster.
fn native_key(names: [&'static str; 3]) -> impl Strategy<Value = Key> {
    (select(&["", "", "n0", "n1"][..]), select(names.to_vec()))
}

fn labels() -> impl Strategy<Value = Labels> {
    collection::btree_map(select(&KEYS[..]), select(&VALUES[..]), 0..3)
}

/// Addresses of several Nodes may be the same for a while.
fn node() -> impl Strategy<Value = Node> {
    let octets = || collection::btree_set(0u8..6, 0..4).prop_map(|octets| octets.into_iter().collect());
    (labels(), octets(), octets()).prop_map(|(labels, v4, v6)| Node { labels, v4, v6 })
}

fn pod() -> impl Strategy<Value = Pod> {
    (
        labels(),
        option::weighted(0.85, select(&NODES[..])),
        option::weighted(0.8, 0u8..5),
        option::weighted(0.2, 0u8..5),
        option::weighted(0.4, 80u16..82),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(labels, node, v4, v6, port, host_network, terminated)| Pod {
            labels,
            node,
            v4,
            v6,
            port,
            host_network,
            terminated,
        })
}

fn requirement(invalid: bool) -> impl Strategy<Value = Requirement> {
    let set = (select(&["In", "NotIn"][..]), collection::vec(select(&VALUES[..]), 1..3));
    let existence = (select(&["Exists", "DoesNotExist"][..]), Just(vec![]));
    let near = (Just("Near"), Just(vec!["x"]));
    let equal = (Just("="), select(&VALUES[..]).prop_map(|value| vec![value]));
    let test = prop_oneof![4 => equal, 3 => set, 2 => existence, u32::from(invalid) => near];
    (select(&KEYS[..]), test).prop_map(|(key, (operator, values))| (key, operator, values))
}

/// At most one equality per key, as `matchLabels` is a map.
pub(crate) fn expression(invalid: bool) -> impl Strategy<Value = Expression> {
    collection::vec(requirement(invalid), 0..3).prop_map(|mut list| {
        let mut seen = Vec::new();
        list.retain(|(key, operator, _)| {
            let again = *operator == "=" && seen.contains(key);
            if *operator == "=" {
                seen.push(*key);
            }
            !again
        });
        list
    })
}

fn space(invalid: bool) -> impl Strategy<Value = Space> {
    prop_oneof![
        3 => Just(Space::Own),
        2 => expression(invalid).prop_map(Space::Selected),
        1 => Just(Space::All),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let invalid = true;
    let blocks = 0..BLOCKS.len();
    prop_oneof![
        4 => (space(invalid), option::weighted(0.8, expression(invalid))).prop_map(|(space, pods)| {
            // Nothing at all would be an empty peer, which is refused and tested elsewhere.
            let pods = if space == Space::Own { pods.or(Some(vec![])) } else { pods };
            Peer::Pods(space, pods)
        }),
        1 => blocks.prop_map(|i| Peer::Block(BLOCKS[i].0, BLOCKS[i].1.to_vec())),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = (any::<bool>(), collection::vec(peer(), 0..3), option::weighted(0.3, Just("web")));
    let rule = rule.prop_map(|(ingress, peers, port)| Rule { ingress, peers, port });
    let types = select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"], vec!["Odd"]]);
    let rules = collection::vec(rule, 0..3);
    (0u8..2, 0i64..3, types, prop_oneof![9 => expression(false), 1 => expression(true)], rules).prop_map(
        |(incarnation, generation, types, pods, rules)| Policy {
            incarnation,
            generation,
            types,
            pods,
            rules,
        },
    )
}
