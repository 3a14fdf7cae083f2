//! The state that follows from the objects, computed in the plainest way.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::natives;
use super::world::{Expression, Key, Labels, Peer, Pod, Policy, Space, World, node_ips, uid};

pub(crate) type Names = BTreeSet<String>;

/// Everything as text, so that a difference can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// By name: the policy and its span.
    pub policies: BTreeMap<String, (String, Names)>,
    /// By name: members and span.
    pub address_groups: BTreeMap<String, (Names, Names)>,
    /// By name: members and span.
    pub applied_to_groups: BTreeMap<String, (Names, Names)>,
}

pub(crate) type Selector = (Space, Option<Expression>);

/// A rule with its groups in the form of selectors.
pub(crate) struct Described {
    pub ingress: bool,
    pub peers: Vec<Selector>,
    pub blocks: Vec<String>,
    /// Domain names.
    pub names: Vec<String>,
    /// Services as destinations.
    pub services: Vec<String>,
    pub port: Option<&'static str>,
    pub applied_to: Vec<Selector>,
    pub priority: i32,
    pub action: &'static str,
}

fn valid(expression: &Expression) -> bool {
    expression.iter().all(|(_, operator, _)| *operator != "Near")
}

pub(crate) fn matches(expression: &Expression, labels: &Labels) -> bool {
    expression.iter().all(|(key, operator, values)| {
        let value = labels.get(key);
        match *operator {
            "=" | "In" => value.is_some_and(|v| values.contains(v)),
            "NotIn" => value.is_none_or(|v| !values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => unreachable!("operator {other}"),
        }
    })
}

/// The text of a selector, by the description of the format.
fn text(expression: &Expression) -> String {
    let mut parts: Vec<(&str, bool, String)> = Vec::new();
    for (key, operator, values) in expression {
        let mut values = values.clone();
        values.sort();
        let list = values.join(",");
        parts.push((
            key,
            *operator != "=",
            match *operator {
                "=" => format!("{key}={list}"),
                "In" => format!("{key} in ({list})"),
                "NotIn" => format!("{key} notin ({list})"),
                "Exists" => (*key).to_owned(),
                "DoesNotExist" => format!("!{key}"),
                other => unreachable!("operator {other}"),
            },
        ));
    }
    // By key; of one key matchLabels come before matchExpressions.
    parts.sort_by_key(|(key, expression, _)| (*key, *expression));
    parts.into_iter().map(|(_, _, text)| text).collect::<Vec<_>>().join(",")
}

pub(crate) fn name(key: Key, (space, pods): &Selector) -> String {
    let mut parts = Vec::new();
    match space {
        Space::Own => parts.push(format!("namespace={}", key.0)),
        Space::Named(namespace) => parts.push(format!("namespace={namespace}")),
        Space::Selected(expression) => parts.push(format!("namespaceSelector={}", text(expression))),
        Space::All => {}
        Space::Nodes => parts.push(format!("nodeSelector={}", text(pods.as_ref().unwrap()))),
    }
    let pods = pods.as_ref().filter(|_| *space != Space::Nodes);
    parts.extend(pods.map(|pods| format!("podSelector={}", text(pods))));
    let namespace: Uuid = "e4f24a48-ca1f-4d5b-819c-ea7632b22115".parse().unwrap();
    Uuid::new_v5(&namespace, parts.join(" And ").as_bytes()).to_string()
}

pub(super) fn pods<'a>(world: &'a World, key: Key, selector: &Selector) -> Vec<(&'a Key, &'a Pod)> {
    let selected = |at: &Key, pod: &Pod| {
        let space = match &selector.0 {
            Space::Own => at.0 == key.0,
            Space::Named(namespace) => at.0 == *namespace,
            Space::Selected(expression) => {
                world.namespaces.get(at.0).is_some_and(|labels| matches(expression, labels))
            }
            Space::All => true,
            Space::Nodes => false,
        };
        space
            && !pod.host_network
            && !pod.terminated
            && selector.1.as_ref().is_none_or(|pods| matches(pods, &pod.labels))
    };
    world.pods.iter().filter(|(at, pod)| selected(at, pod)).collect()
}

/// The Nodes that are selected, each as often as it has addresses.
fn nodes(world: &World, selector: &Selector) -> Names {
    let mut members = Names::new();
    let wanted = selector.1.as_ref().filter(|_| selector.0 == Space::Nodes);
    for (name, node) in wanted.into_iter().flat_map(|_| &world.nodes) {
        if !wanted.is_some_and(|wanted| matches(wanted, &node.labels)) {
            continue;
        }
        let (v4, v6) = node_ips(node);
        members.extend(v4.iter().chain(&v6).map(|ip| format!("node {name} {ip}")));
    }
    members
}

fn ports(pod: &Pod) -> String {
    pod.port.map(|port| format!("web={port}/TCP")).unwrap_or_default()
}

/// What a Kubernetes policy says; native ones say it themselves.
fn kubernetes(policy: &Policy) -> (Selector, Vec<Described>) {
    let odd = policy.types.contains(&"Odd");
    let has_egress = policy.rules.iter().any(|rule| !rule.ingress);
    let ingress = policy.types.is_empty() || odd || policy.types.contains(&"Ingress");
    let egress = odd || policy.types.contains(&"Egress") || (policy.types.is_empty() && has_egress);
    let written = policy.pods.clone();
    let certain = valid(&written);
    let kept = written.into_iter().filter(|(_, operator, _)| *operator != "Near").collect();
    let mut rules = Vec::new();
    for direction in [true, false] {
        if !(if direction { ingress } else { egress }) {
            continue;
        }
        let before = rules.len();
        for rule in policy.rules.iter().filter(|rule| rule.ingress == direction && certain) {
            let mut described = Described {
                ingress: direction,
                peers: vec![],
                blocks: vec![],
                names: vec![],
                services: vec![],
                port: rule.port,
                applied_to: vec![],
                priority: -1,
                action: "Allow",
            };
            for peer in &rule.peers {
                match peer {
                    Peer::Pods(space, pods) => {
                        let space = match space {
                            // A Kubernetes policy says "all" by an empty selector.
                            Space::All => Space::Selected(vec![]),
                            other => other.clone(),
                        };
                        let good_space = !matches!(&space, Space::Selected(e) if !valid(e));
                        if good_space && pods.as_ref().is_none_or(valid) {
                            described.peers.push((space, pods.clone()));
                        }
                    }
                    Peer::Block("10.0.0.0/33", _) => {}
                    Peer::Block(_, except) if except.contains(&"10.0.0.0/8") => {}
                    Peer::Block(cidr, except) => {
                        described.blocks.push(format!("{cidr}-{}", except.join("-")));
                    }
                }
            }
            if rule.peers.is_empty() {
                described.blocks = vec!["0.0.0.0/0-".into(), "::/0-".into()];
                if !direction && rule.port.is_some() {
                    described.peers.push((Space::Selected(vec![]), None));
                }
            }
            if !(described.peers.is_empty() && described.blocks.is_empty()) {
                rules.push(described);
            }
        }
        if rules.len() == before {
            rules.push(Described {
                ingress: direction,
                peers: vec![],
                blocks: vec![],
                names: vec![],
                services: vec![],
                port: None,
                applied_to: vec![],
                priority: -1,
                action: "Allow",
            });
        }
    }
    ((Space::Own, Some(kept)), rules)
}

pub(crate) fn state(world: &World) -> State {
    let mut state = State::default();
    for (key, policy) in &world.policies {
        let (applied_to, rules) = kubernetes(policy);
        let head = Head {
            uid: uid(*key, policy),
            kind: "K8sNetworkPolicy",
            generation: policy.generation,
            order: "None None".into(),
        };
        add(&mut state, world, *key, head, &[applied_to], &rules);
    }
    for (key, native) in &world.natives {
        let (tier, applied_to, rules) = natives::described(world, *key, native);
        let kind = if key.0.is_empty() { "AntreaClusterNetworkPolicy" } else { "AntreaNetworkPolicy" };
        let head = Head {
            uid: natives::uid(*key, native),
            kind,
            generation: native.generation,
            order: format!("Some(5.0) Some({tier})"),
        };
        add(&mut state, world, *key, head, &applied_to, &rules);
    }
    state
}

/// What an internal policy says of itself.
struct Head {
    uid: String,
    kind: &'static str,
    generation: i64,
    order: String,
}

fn add(state: &mut State, world: &World, key: Key, head: Head, applied_to: &[Selector], rules: &[Described]) {
    let names = |selectors: &[Selector]| selectors.iter().map(|s| name(key, s)).collect::<Vec<_>>().join(" ");
    let mut span = Names::new();
    for selector in applied_to.iter().chain(rules.iter().flat_map(|rule| &rule.applied_to)) {
        let mut members = Names::new();
        let mut nodes = Names::new();
        for (at, pod) in pods(world, key, selector) {
            if let Some(node) = pod.node {
                members.insert(format!("{}/{}@{node} {}", at.0, at.1, ports(pod)));
                nodes.insert(node.to_owned());
            }
        }
        span.extend(nodes.clone());
        state.applied_to_groups.insert(name(key, selector), (members, nodes));
    }
    for selector in rules.iter().flat_map(|rule| &rule.peers) {
        let mut members = nodes(world, selector);
        for (at, pod) in pods(world, key, selector) {
            let v4 = pod.v4.map(|n| format!("10.0.0.{n}"));
            let v6 = pod
                .v6
                .map(|n| format!("{}", std::net::Ipv6Addr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])));
            let ips: Vec<_> = v4.into_iter().chain(v6).collect();
            if !ips.is_empty() {
                members.insert(format!("{}/{} {} {}", at.0, at.1, ips.join(","), ports(pod)));
            }
        }
        let entry = state.address_groups.entry(name(key, selector)).or_default();
        entry.0 = members;
        entry.1.extend(span.clone());
    }
    let Head { uid, kind, generation, order } = head;
    let mut text = format!(
        "{kind} {}/{} generation {generation} order {order} to [{}]",
        key.0,
        key.1,
        names(applied_to)
    );
    // By the annotation of the namespace, which stands on every other one (see `world`); of native rules none asks for it.
    let is_annotated = world.namespaces.get(key.0).is_some_and(|labels| labels.len() % 2 == 1);
    let logs = kind == "K8sNetworkPolicy" && is_annotated;
    for rule in rules {
        text += &format!(
            "\n  {} {} {} log {logs} from/to [{}] [{}] [{}] [{}] port {:?} for [{}]",
            if rule.ingress { "In" } else { "Out" },
            rule.action,
            rule.priority,
            names(&rule.peers),
            rule.blocks.join(" "),
            rule.names.join(" "),
            rule.services.join(" "),
            rule.port,
            names(&rule.applied_to),
        );
    }
    state.policies.insert(uid, (text, span));
}
