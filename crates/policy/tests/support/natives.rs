//! Native policies, tiers and groups of the test's world, and what follows from them in the plainest way.

use antrea_policy::{
    crd,
    k8s::{IntOrString, IpBlock},
};
use proptest::{collection, option, prelude::*, sample::select};

use super::{
    events::expression,
    oracle::{Described, Selector},
    world::{Expression, Key, Space, World, label_selector},
};

/// What a native policy or one of its rules applies to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Namespaces (policies of the cluster only) and Pods.
    Pods(Option<Expression>, Option<Expression>),
    Group(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) enum NativePeer {
    Pods(Option<Expression>, Option<Expression>),
    Group(&'static str),
    Block(&'static str),
    SameNamespace(Option<Expression>),
    SameLabel(&'static str, Option<Expression>),
    /// Of egress rules only.
    Fqdn(&'static str),
    /// Of policies of the cluster only.
    Nodes(Expression),
}

#[derive(Clone, Debug)]
pub(crate) struct NativeRule {
    pub ingress: bool,
    pub action: &'static str,
    pub peers: Vec<NativePeer>,
    /// Services as destinations: namespace, or none, and name.
    pub services: Vec<(&'static str, &'static str)>,
    pub port: Option<&'static str>,
    pub applied_to: Vec<Target>,
}

#[derive(Clone, Debug)]
pub(crate) struct Native {
    pub incarnation: u8,
    pub generation: i64,
    pub tier: &'static str,
    pub applied_to: Vec<Target>,
    pub rules: Vec<NativeRule>,
}

#[derive(Clone, Debug)]
pub(crate) enum Group {
    Pods(Option<Expression>, Option<Expression>),
    Blocks(Vec<&'static str>),
    /// Namespace, or none, and name of a Service.
    Service(&'static str, &'static str),
    Children(Vec<&'static str>),
}

pub(crate) const TIERS: [&str; 2] = ["t0", "t1"];
pub(crate) const GROUPS: [&str; 3] = ["g0", "g1", "g2"];
pub(crate) const SERVICES: [Key; 2] = [("n0", "s"), ("n1", "t")];
const BLOCKS: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];

// === events ===

/// Selectors of namespaces and Pods, at least one.
fn selectors() -> impl Strategy<Value = (Option<Expression>, Option<Expression>)> {
    (option::of(expression(false)), option::weighted(0.8, expression(false))).prop_map(
        |(namespaces, pods)| {
            if namespaces.is_none() && pods.is_none() { (None, Some(vec![])) } else { (namespaces, pods) }
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        3 => selectors().prop_map(|(namespaces, pods)| Target::Pods(namespaces, pods)),
        1 => select(&GROUPS[..]).prop_map(Target::Group),
    ]
}

fn peer() -> impl Strategy<Value = NativePeer> {
    let pods = || option::weighted(0.8, expression(false));
    prop_oneof![
        3 => selectors().prop_map(|(namespaces, pods)| NativePeer::Pods(namespaces, pods)),
        2 => select(&GROUPS[..]).prop_map(NativePeer::Group),
        1 => select(&BLOCKS[..]).prop_map(NativePeer::Block),
        1 => pods().prop_map(NativePeer::SameNamespace),
        1 => (select(&["a", "b"][..]), pods()).prop_map(|(key, pods)| NativePeer::SameLabel(key, pods)),
        2 => expression(false).prop_map(NativePeer::Nodes),
        1 => select(&["a.example.com", "*.example.org"][..]).prop_map(NativePeer::Fqdn),
    ]
}

pub(crate) fn native() -> impl Strategy<Value = Native> {
    let rule = (
        any::<bool>(),
        select(&["Allow", "Drop", "Reject", "Pass"][..]),
        collection::vec(peer(), 0..3),
        option::weighted(0.2, collection::vec(select(&[("n0", "s"), ("", "t")][..]), 1..3)),
        option::weighted(0.3, Just("web")),
        collection::vec(target(), 0..2),
    );
    let rule = rule.prop_map(|(ingress, action, peers, services, port, applied_to)| NativeRule {
        ingress,
        action,
        // Beside other destinations, Services are refused: now and then it may be so.
        peers: if services.is_some() && peers.len() < 2 { vec![] } else { peers },
        services: services.unwrap_or_default(),
        port,
        applied_to,
    });
    let tier = select(&["", "emergency", "baseline", "t0", "t1"][..]);
    (0u8..2, 0i64..3, tier, collection::vec(target(), 0..3), collection::vec(rule, 0..3)).prop_map(
        |(incarnation, generation, tier, applied_to, rules)| Native {
            incarnation,
            generation,
            tier,
            applied_to,
            rules,
        },
    )
}

pub(crate) fn group() -> impl Strategy<Value = Group> {
    prop_oneof![
        3 => selectors().prop_map(|(namespaces, pods)| Group::Pods(namespaces, pods)),
        1 => collection::vec(select(&BLOCKS[..]), 1..3).prop_map(Group::Blocks),
        1 => (select(&["", "n0", "n1"][..]), select(&["s", "t"][..])).prop_map(|(at, name)| Group::Service(at, name)),
        2 => collection::vec(select(&GROUPS[..]), 1..3).prop_map(Group::Children),
    ]
}

// === objects ===

/// A policy of a namespace has no selector of namespaces.
fn namespaces(key: Key, selector: &Option<Expression>) -> Option<antrea_policy::labels::LabelSelector> {
    selector.as_ref().filter(|_| key.0.is_empty()).map(label_selector)
}

fn targets(key: Key, targets: &[Target]) -> Vec<crd::AppliedTo> {
    let target = |target: &Target| match target {
        Target::Pods(spaces, pods) => crd::AppliedTo {
            namespace_selector: namespaces(key, spaces),
            pod_selector: pods_of(key, spaces, pods).as_ref().map(label_selector),
            ..Default::default()
        },
        Target::Group(name) => crd::AppliedTo { group: Some((*name).into()), ..Default::default() },
    };
    targets.iter().map(target).collect()
}

/// Without a selector of namespaces there has to be one of Pods.
fn pods_of(key: Key, spaces: &Option<Expression>, pods: &Option<Expression>) -> Option<Expression> {
    if key.0.is_empty() && spaces.is_some() { pods.clone() } else { pods.clone().or(Some(vec![])) }
}

fn block(cidr: &str) -> IpBlock {
    IpBlock { cidr: cidr.into(), except: Vec::new() }
}

pub(crate) fn policy_object(key: Key, native: &Native) -> crd::Policy {
    let peer = |peer: &NativePeer| {
        let same = |match_: &str, labels: Vec<Box<str>>, pods: &Option<Expression>| crd::Peer {
            namespaces: Some(crd::PeerNamespaces { match_: match_.into(), same_labels: labels }),
            pod_selector: pods.as_ref().map(label_selector),
            ..Default::default()
        };
        match peer {
            NativePeer::Pods(spaces, pods) => crd::Peer {
                namespace_selector: spaces.as_ref().map(label_selector),
                pod_selector: pods.as_ref().map(label_selector),
                ..Default::default()
            },
            NativePeer::Group(name) => crd::Peer { group: Some((*name).into()), ..Default::default() },
            NativePeer::Block(cidr) => crd::Peer { ip_block: Some(block(cidr)), ..Default::default() },
            NativePeer::SameNamespace(pods) => same("Self", vec![], pods),
            NativePeer::SameLabel(label, pods) => same("", vec![(*label).into()], pods),
            NativePeer::Nodes(labels) => {
                crd::Peer { node_selector: Some(label_selector(labels)), ..Default::default() }
            }
            NativePeer::Fqdn(name) => crd::Peer { fqdn: Some((*name).into()), ..Default::default() },
        }
    };
    let service = |(namespace, name): &(&str, &str)| crd::PeerService {
        namespace: (*namespace).into(),
        name: (*name).into(),
        scope: Box::default(),
    };
    let mut spec = crd::PolicySpec {
        tier: native.tier.into(),
        priority: 5.0,
        applied_to: targets(key, &native.applied_to),
        ..Default::default()
    };
    for rule in &native.rules {
        let peers: Vec<_> = rule.peers.iter().map(peer).collect();
        let port = rule
            .port
            .map(|name| crd::Port { port: Some(IntOrString::String(name.into())), ..Default::default() });
        let mut object = crd::Rule {
            action: rule.action.into(),
            ports: port.into_iter().collect(),
            applied_to: targets(key, &rule.applied_to),
            to_services: rule.services.iter().map(service).collect(),
            ..Default::default()
        };
        if rule.ingress {
            object.from = peers;
            spec.ingress.push(object);
        } else {
            object.to = peers;
            spec.egress.push(object);
        }
    }
    crd::Policy {
        namespace: key.0.into(),
        name: key.1.into(),
        uid: uid(key, native).into(),
        generation: native.generation,
        spec,
    }
}

pub(crate) fn group_object(key: Key, group: &Group) -> crd::Group {
    let spec = match group {
        Group::Pods(spaces, pods) => crd::GroupSpec {
            namespace_selector: spaces.as_ref().map(label_selector),
            pod_selector: pods.as_ref().map(label_selector),
            ..Default::default()
        },
        Group::Blocks(blocks) => crd::GroupSpec {
            ip_blocks: blocks.iter().map(|cidr| block(cidr)).collect(),
            ..Default::default()
        },
        Group::Service(namespace, name) => crd::GroupSpec {
            service_reference: Some(crd::NamespacedName {
                namespace: (*namespace).into(),
                name: (*name).into(),
            }),
            ..Default::default()
        },
        Group::Children(names) => crd::GroupSpec {
            child_groups: names.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        },
    };
    crd::Group { namespace: key.0.into(), name: key.1.into(), uid: Box::default(), spec }
}

pub(crate) fn uid(key: Key, native: &Native) -> String {
    format!("{}/{}/{}/true", key.0, key.1, native.incarnation)
}

// === what follows ===

/// What a policy says: its tier's priority, what rules apply to that do not say it, and the rules.
pub(crate) fn described(world: &World, key: Key, native: &Native) -> (i64, Vec<Selector>, Vec<Described>) {
    let tier = match native.tier {
        "" => Some(250),
        "emergency" => Some(50),
        "baseline" => Some(253),
        other => world.tiers.get(other).copied(),
    };
    let policy_targets = applied_to(world, key, &native.applied_to);
    let mut rules = Vec::new();
    for ingress in [true, false] {
        let of_direction = native.rules.iter().filter(|rule| rule.ingress == ingress);
        for (rule, priority) in of_direction.zip(0..) {
            let own = applied_to(world, key, &rule.applied_to);
            let applies = if rule.applied_to.is_empty() { &policy_targets } else { &own };
            let denies = matches!(rule.action, "Drop" | "Reject");
            if applies.is_empty() || (tier.is_none() && !denies) {
                continue;
            }
            let alone = !ingress && rule.peers.is_empty() && rule.port.is_none();
            if !rule.services.is_empty() && !alone {
                continue;
            }
            let namespaced = rule.services.iter().map(|(namespace, name)| match *namespace {
                "" => (key.0, name),
                named => (named, name),
            });
            let services: Vec<String> = namespaced
                .filter(|(namespace, _)| !namespace.is_empty())
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .collect();
            let make = |peers, blocks, names, applied_to| Described {
                ingress,
                peers,
                blocks,
                names,
                services: services.clone(),
                port: rule.port,
                applied_to,
                priority,
                action: rule.action,
            };
            let (mut peers, mut blocks, mut names, mut relative) = (vec![], vec![], vec![], vec![]);
            let mut named = std::collections::BTreeSet::new();
            for peer in &rule.peers {
                match peer {
                    NativePeer::Group(name) if !named.insert(name) => {}
                    NativePeer::Pods(spaces, pods) => peers.push((space(key, spaces), pods.clone())),
                    NativePeer::Group(name) => members(world, key, name, &mut peers, &mut blocks),
                    NativePeer::Block(cidr) => blocks.push(format!("{cidr}-")),
                    NativePeer::SameNamespace(_) | NativePeer::SameLabel(..) if !key.0.is_empty() => {}
                    NativePeer::SameNamespace(pods) => relative.push((None, pods)),
                    NativePeer::SameLabel(label, pods) => relative.push((Some(*label), pods)),
                    NativePeer::Nodes(labels) if key.0.is_empty() => {
                        peers.push((Space::Nodes, Some(labels.clone())));
                    }
                    NativePeer::Nodes(_) => {}
                    NativePeer::Fqdn(name) if !ingress => names.push((*name).to_owned()),
                    NativePeer::Fqdn(_) => {}
                }
            }
            if rule.peers.is_empty() && rule.services.is_empty() {
                blocks = vec!["0.0.0.0/0-".into(), "::/0-".into()];
                if !ingress && rule.port.is_some() {
                    peers.push((Space::Selected(vec![]), None));
                }
            }
            if !(peers.is_empty() && blocks.is_empty() && names.is_empty() && services.is_empty()) {
                rules.push(make(peers, blocks, names, own.clone()));
            }
            for (label, pods) in relative {
                for (class, targets) in classes(world, label, applies) {
                    let space = match label {
                        None => Space::Named(class),
                        Some(label) => Space::Selected(vec![(label, "=", vec![class])]),
                    };
                    rules.push(make(vec![(space, pods.clone())], vec![], vec![], targets));
                }
            }
        }
    }
    (tier.unwrap_or(250), policy_targets, rules)
}

/// For each namespace, or value of the label, that the targets reach: what the rule applies to there.
fn classes(
    world: &World,
    label: Option<&'static str>,
    applies: &[Selector],
) -> std::collections::BTreeMap<&'static str, Vec<Selector>> {
    let mut classes: std::collections::BTreeMap<&'static str, Vec<Selector>> = Default::default();
    for (space, pods) in applies {
        for (namespace, labels) in &world.namespaces {
            if matches!(space, Space::Selected(wanted) if !super::oracle::matches(wanted, labels)) {
                continue;
            }
            if matches!(space, Space::Named(only) if only != namespace) {
                continue;
            }
            let class = match label {
                None => Some(*namespace),
                Some(label) => labels.get(label).copied(),
            };
            let Some(class) = class else { continue };
            let narrowed = match label {
                None => Space::Named(class),
                Some(_) if matches!(space, Space::Named(_)) => space.clone(),
                Some(label) => {
                    let mut wanted = match space {
                        Space::Selected(wanted) => wanted.clone(),
                        _ => vec![],
                    };
                    let equal = (label, "=", vec![class]);
                    if !wanted.contains(&equal) {
                        wanted.push(equal);
                    }
                    Space::Selected(wanted)
                }
            };
            let targets = classes.entry(class).or_default();
            let target = (narrowed, pods.clone());
            let name = super::oracle::name(("", ""), &target);
            if !targets.iter().any(|known| super::oracle::name(("", ""), known) == name) {
                targets.push(target);
            }
        }
    }
    classes
}

fn space(key: Key, spaces: &Option<Expression>) -> Space {
    match spaces {
        Some(expression) => Space::Selected(expression.clone()),
        None if key.0.is_empty() => Space::All,
        None => Space::Own,
    }
}

fn applied_to(world: &World, key: Key, targets: &[Target]) -> Vec<Selector> {
    let (mut selectors, mut named) = (vec![], std::collections::BTreeSet::new());
    for target in targets {
        match target {
            // However often it is written, a group is there once.
            Target::Group(name) if !named.insert(name) => {}
            Target::Pods(spaces, pods) => {
                let spaces = spaces.clone().filter(|_| key.0.is_empty());
                selectors.push((space(key, &spaces), pods_of(key, &spaces, pods)));
            }
            Target::Group(name) => members(world, key, name, &mut selectors, &mut vec![]),
        }
    }
    selectors
}

/// A group's members; those of its children, which have none themselves.
fn members(world: &World, key: Key, name: &'static str, pods: &mut Vec<Selector>, blocks: &mut Vec<String>) {
    let find = |name| world.groups.get(&(key.0, name));
    let mut add = |group: &Group| match group {
        Group::Pods(spaces, selector) => pods.push((space(key, spaces), selector.clone())),
        Group::Blocks(list) => blocks.extend(list.iter().map(|cidr| format!("{cidr}-"))),
        Group::Service(namespace, name) => {
            let at = if namespace.is_empty() { key.0 } else { namespace };
            let foreign = !key.0.is_empty() && at != key.0;
            let labels = world.services.get(&(at, *name)).filter(|labels| !labels.is_empty() && !foreign);
            let equal =
                |labels: &super::world::Labels| labels.iter().map(|(k, v)| (*k, "=", vec![*v])).collect();
            pods.extend(labels.map(|labels| (Space::Named(at), Some(equal(labels)))));
        }
        Group::Children(_) => {}
    };
    match find(name) {
        Some(Group::Children(names)) => names.iter().filter_map(|name| find(name)).for_each(add),
        Some(group) => add(group),
        None => {}
    }
}

/// The Pods that are in a group, in order.
pub(crate) fn pods_in(world: &World, key: Key) -> Vec<Key> {
    let (mut selectors, mut blocks) = (vec![], vec![]);
    members(world, key, key.1, &mut selectors, &mut blocks);
    let found = selectors.iter().flat_map(|selector| super::oracle::pods(world, key, selector));
    found.map(|(at, _)| *at).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}
