//! Rules about Services.

use antrea_api::controlplane::ObjectReference;
use antrea_flows::policy::{Frontend, Targets};
use antrea_flows::{Network, Round};

use super::established::{denied, resetting};
use super::*;

/// Where each Service may be reached.
const FRONTENDS: [&str; 3] = ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.2:81"];
const NAMES: [&str; 3] = ["shop/a", "shop/b", "bank/a"];

fn served() -> Network {
    let mut network = network();
    network.node.services = true;
    Network::new(network.node, Round::FIRST)
}

fn rule(action: &str, services: &[usize]) -> NetworkPolicyRule {
    let mut rule = native_rule(action, &[]);
    rule.direction = "Out".into();
    rule.from = Default::default();
    let named = services.iter().map(|at| {
        let (namespace, name) = NAMES[*at].split_once('/').unwrap();
        ObjectReference { name: name.into(), namespace: namespace.into() }
    });
    rule.to.to_services = named.collect();
    rule
}

fn everything(action: &str) -> NetworkPolicyRule {
    let all = |ip: Vec<u8>| IpBlock { cidr: controlplane::IpNet { ip, prefix_length: 0 }, except: vec![] };
    let mut rule = rule(action, &[]);
    rule.to.ip_blocks = vec![all(vec![0; 4]), all(vec![0; 16])];
    rule
}

fn frontend(at: usize) -> Frontend {
    Frontend { protocol: Protocol::Tcp, address: FRONTENDS[at].parse().unwrap() }
}

/// A Service that is reached at these; its group is its own.
fn targets(service: usize, at: &[usize]) -> (Arc<str>, Targets) {
    let frontends: BTreeSet<Frontend> = at.iter().map(|at| frontend(*at)).collect();
    let group = 256 * (u32::try_from(service).unwrap() + 1);
    let targets = (!frontends.is_empty()).then_some((group, frontends)).into_iter().collect();
    (NAMES[service].into(), targets)
}

fn tell(node: &mut Node, told: Vec<(Arc<str>, Targets)>, all: bool) -> Diff {
    node.reconciler.cache.change_services(told, all);
    node.settle()
}

/// What the rules of a node say of what the pod on port 7 sends to a frontend.
fn passes(node: &Node, at: usize) -> bool {
    let mut ranked: Vec<(u16, Rule)> = node
        .rules()
        .into_iter()
        .filter(|rule| rule.direction == Direction::Out && rule.pods.contains_key(&7))
        .filter(|rule| match &rule.peers {
            Peers::Any => true,
            Peers::Of(nets) => nets.iter().any(|net| net.prefix_len() == 0),
            Peers::Services(targets) => targets.values().any(|found| found.contains(&frontend(at))),
        })
        .filter_map(|rule| match rule.class {
            Class::Native { priority } => Some((priority, rule)),
            _ => None,
        })
        .collect();
    ranked.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    ranked.first().is_none_or(|(_, rule)| matches!(rule.action, Action::Allow | Action::Pass))
}

fn node_that_serves() -> Node {
    let mut node = node();
    node.reconciler.attach(&served());
    node.settle();
    node
}

#[test]
fn a_rule_follows_its_services() {
    let mut node = node_that_serves();
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule("Drop", &[0])])));
    assert!(!passes(&node, 0) && !passes(&node, 1), "nobody knows where the Service is");
    tell(&mut node, vec![targets(1, &[1])], false);
    assert!(!passes(&node, 1), "and that is not all there are");
    tell(&mut node, vec![targets(0, &[0]), targets(1, &[1])], true);
    assert!(!passes(&node, 0) && passes(&node, 1));
    let diff = tell(&mut node, vec![targets(1, &[2])], false);
    assert!(diff.is_empty(), "of a Service that no rule names: {diff:?}");
    tell(&mut node, vec![targets(0, &[1])], false);
    assert!(passes(&node, 0) && !passes(&node, 1), "it has another address");
    tell(&mut node, vec![targets(0, &[])], false);
    assert!(passes(&node, 1), "it is gone");
    tell(&mut node, vec![targets(0, &[0, 2])], false);
    assert!(!passes(&node, 0) && !passes(&node, 2) && passes(&node, 1));
    // What is not in a list of all is gone.
    tell(&mut node, vec![targets(1, &[1])], true);
    assert!(passes(&node, 0));
    node.event(Event::PolicyDeleted("N".into()));
    let mut left = node.flows.values().map(ToString::to_string);
    assert!(left.all(|flow| !flow.contains("reg11")), "{:?}", node.flows);
}

#[test]
fn without_a_proxy_nothing_opens_and_the_status_says_why() {
    for action in ["Allow", "Drop", "Reject", "Pass"] {
        let mut node = node();
        let rules = vec![rule(action, &[0]), everything("Drop")];
        node.event(Event::Policy(native("N", (250, 5.0), "a", rules)));
        tell(&mut node, vec![targets(0, &[0])], true);
        assert!(!passes(&node, 0) && !passes(&node, 1), "{action}");
        let policy = node.reconciler.cache.policy("N").unwrap();
        let problem = node.reconciler.problem(policy).unwrap();
        assert!(problem.starts_with("toServices needs AntreaProxy"), "{problem}");
        // With one it is what it says.
        node.reconciler.attach(&served());
        node.settle();
        assert_eq!(passes(&node, 0), matches!(action, "Allow" | "Pass"), "{action}");
        let policy = node.reconciler.cache.policy("N").unwrap();
        assert_eq!(node.reconciler.problem(policy), None);
    }
    // One that denies alone denies all, and one that allows alone nothing.
    let mut node = node();
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule("Pass", &[0])])));
    assert!(!passes(&node, 1));
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule("Allow", &[0])])));
    assert!(passes(&node, 1));
}

#[test]
fn services_beside_other_destinations_are_taken_for_everybody_or_nobody() {
    let mixed = |action: &str| {
        let mut mixed = rule(action, &[0]);
        mixed.to.ip_blocks = everything("").to.ip_blocks[..1].to_vec();
        mixed.to.ip_blocks[0].cidr = controlplane::IpNet { ip: vec![192, 0, 2, 0], prefix_length: 24 };
        mixed
    };
    let mut node = node_that_serves();
    tell(&mut node, vec![targets(0, &[0])], true);
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![mixed("Drop")])));
    assert!(!passes(&node, 0) && !passes(&node, 1));
    assert!(node.reconciler.cache.policy("N").unwrap().problems[0].contains("toServices beside"));
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![mixed("Allow"), everything("Drop")])));
    assert!(!passes(&node, 0));
    assert!(verdict_of(&node, Direction::Out, 7, "192.0.2.1", 80), "the block is allowed");
    let mut inwards = rule("Drop", &[0]);
    inwards.direction = "In".into();
    inwards.from = std::mem::take(&mut inwards.to);
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![inwards])));
    assert!(!verdict(&node, 7, "10.0.1.9", 80), "from everybody");
}

/// The host sees no packet that the bridge has translated, and what it translates itself is to no Service that is served.
#[test]
fn the_host_learns_of_what_cannot_be_told_alone() {
    let mut node = node();
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![rule("Drop", &[0])])));
    assert_eq!(node.reconciler.host_egress().first[0].nets.len(), 2, "everybody");
    node.reconciler.attach(&served());
    tell(&mut node, vec![targets(0, &[0])], true);
    assert_eq!(node.reconciler.host_egress().rules().count(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    /// Actions, each with Services or, without, for everything.
    Policy(usize, Option<Vec<(usize, Vec<usize>)>>),
    Service(usize, Vec<usize>),
    All,
}

fn op() -> impl Strategy<Value = Op> {
    let services = proptest::collection::vec(0..NAMES.len(), 0..3);
    let rules = proptest::collection::vec((0usize..4, services), 1..3);
    prop_oneof![
        3 => (0usize..3, proptest::option::weighted(0.8, rules)).prop_map(|(at, rules)| Op::Policy(at, rules)),
        3 => (0..NAMES.len(), proptest::collection::vec(0..FRONTENDS.len(), 0..3))
            .prop_map(|(service, at)| Op::Service(service, at)),
        1 => Just(Op::All),
    ]
}

/// What is known, in the plainest way.
#[derive(Default)]
struct World {
    policies: BTreeMap<usize, Vec<(usize, Vec<usize>)>>,
    services: BTreeMap<usize, Vec<usize>>,
    all: bool,
}

impl World {
    fn apply(&mut self, node: &mut Node, op: Op) {
        match op {
            Op::Policy(at, Some(rules)) => {
                let message = |(action, services): &(usize, Vec<usize>)| match services.is_empty() {
                    true => everything(ACTIONS[*action]),
                    false => rule(ACTIONS[*action], services),
                };
                let rules_of: Vec<_> = rules.iter().map(message).collect();
                let order = (250, f64::from(u8::try_from(at).unwrap()));
                node.event(Event::Policy(native(&format!("P{at}"), order, "a", rules_of)));
                self.policies.insert(at, rules);
            }
            Op::Policy(at, None) => {
                node.event(Event::PolicyDeleted(format!("P{at}")));
                self.policies.remove(&at);
            }
            Op::Service(service, at) => {
                tell(node, vec![targets(service, &at)], false);
                self.services.insert(service, at);
            }
            Op::All => {
                let told = self.services.iter().map(|(service, at)| targets(*service, at)).collect();
                tell(node, told, true);
                self.all = true;
            }
        }
    }

    /// The first rule that names the Service of the frontend, or everything, decides. Before Services are known, what
    /// does not allow denies.
    fn specified(&self, at: usize) -> bool {
        let names = |service: &usize| self.services.get(service).is_some_and(|found| found.contains(&at));
        for (action, services) in self.policies.values().flatten() {
            let about = services.is_empty() || services.iter().any(names);
            match (ACTIONS[*action], self.all || services.is_empty()) {
                ("Allow", true) | ("Pass", true) if about => return true,
                ("Drop" | "Reject", true) if about => return false,
                ("Drop" | "Reject" | "Pass", false) => return false,
                _ => {}
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever policies and Services come, change and go, in whatever order: rules say what the specification says, and
    /// what was worked out change by change is what is worked out at once.
    #[test]
    fn rules_about_services_decide_as_the_specification_says(ops in proptest::collection::vec(op(), 1..16)) {
        let mut node = node_that_serves();
        let mut world = World::default();
        for op in ops {
            world.apply(&mut node, op);
            for (at, name) in FRONTENDS.iter().enumerate() {
                prop_assert_eq!(passes(&node, at), world.specified(at), "{}: {:#?}", name, node.rules());
            }
        }
        let mut fresh = node_that_serves();
        let mut again = World { services: world.services.clone(), ..World::default() };
        if world.all {
            again.apply(&mut fresh, Op::All);
        }
        let told = world.services.iter().map(|(service, at)| targets(*service, at)).collect();
        tell(&mut fresh, told, false);
        for (at, rules) in &world.policies {
            again.apply(&mut fresh, Op::Policy(*at, Some(rules.clone())));
        }
        let texts = |node: &Node| {
            let text = |rule: &Rule| format!("{:?} {:?} {:?} {:?}", rule.direction, rule.action, rule.pods, rule.peers);
            let mut texts: Vec<String> = node.rules().iter().map(text).collect();
            texts.sort();
            texts
        };
        prop_assert_eq!(texts(&node), texts(&fresh));
        let mut count = node.flows.len();
        prop_assert_eq!(count, node.reconciler.flows().len());
        for at in world.policies.keys() {
            node.event(Event::PolicyDeleted(format!("P{at}")));
            count = node.flows.len();
        }
        prop_assert!(world.policies.is_empty() || count == 0, "{:?}", node.flows);
    }
}

#[test]
fn what_was_sent_to_a_service_ends_with_a_rule_that_names_it() {
    let mut node = node();
    node.reconciler.attach(&served());
    node.event(Event::Policy(resetting(native("N1", (250, 5.0), "a", vec![rule("Drop", &[0])]))));
    tell(&mut node, vec![targets(0, &[0]), targets(1, &[1])], true);
    assert!(!node.reconciler.resets().named_services().is_empty());
    let direct = connection(true, "10.0.0.7", "10.0.1.1", 8080);
    let ends = |at: Option<usize>| {
        denied(&node, &Connection { frontend: at.map(|at| frontend(at).address), ..direct }).is_some()
    };
    assert_eq!([ends(None), ends(Some(0)), ends(Some(1))], [false, true, false]);
}

/// A rule for what comes to Services from outside.
fn on_services(action: &str, services: &[usize]) -> NetworkPolicyRule {
    let named = rule(action, services).to.to_services;
    NetworkPolicyRule {
        applied_to_services: named,
        from: std::mem::take(&mut everything(action).to),
        services: Vec::new(),
        ..native_rule(action, &[])
    }
}

/// The Services' numbers that rules of the node have, with actions, the first first.
fn gates(node: &Node) -> Vec<(Vec<u32>, Action)> {
    let mut ranked: Vec<(u16, Vec<u32>, Action)> = node
        .rules()
        .into_iter()
        .filter_map(|rule| match rule.class {
            Class::Service { priority } => Some((priority, rule.pods.keys().copied().collect(), rule.action)),
            _ => None,
        })
        .collect();
    ranked.sort_by_key(|(priority, ..)| std::cmp::Reverse(*priority));
    ranked.into_iter().map(|(_, groups, action)| (groups, action)).collect()
}

/// Where a Service is reached by pods, and by addresses of the node.
fn at(service: usize, at_node: bool) -> (Arc<str>, Targets) {
    let (name, mut targets) = targets(service, &[service]);
    let group = *targets.keys().next().unwrap();
    if at_node {
        targets.insert(antrea_flows::policy::at_node(group), [frontend(2)].into());
    }
    (name, targets)
}

fn serve_everybody(node: &mut Node) {
    let mut network = served();
    network.node.serves_all = true;
    node.reconciler.attach(&Network::new(network.node, Round::FIRST));
    node.settle();
}

/// Groups of Services and ports of pods may have the same numbers.
#[test]
fn no_pod_is_taken_for_a_service_that_has_its_number() {
    let mut node = node_that_serves();
    serve_everybody(&mut node);
    tell(&mut node, vec![at(0, true)], true);
    node.pods(&[("p", 257, "10.0.0.7")]);
    node.event(applied_to_group("c", &["p"]));
    node.event(applied_to_group("nodes", &[]));
    let of_services = || on_services("Drop", &[0]);
    node.event(Event::Policy(native("N", (250, 5.0), "nodes", vec![of_services()])));
    assert_eq!(gates(&node), [(vec![257], Action::Drop)]);
    assert!(node.reconciler.isolation().is_empty(), "nothing is denied to the pod");
    node.event(Event::PolicyDeleted("N".into()));
    assert_eq!(gates(&node), []);
    // A pod that the controller knows no more keeps what a policy denies it, and nothing else.
    let of_pods = NetworkPolicyRule { applied_to_groups: vec!["c".into()], ..native_rule("Drop", &["g"]) };
    node.event(Event::Policy(native("N", (250, 5.0), "nodes", vec![of_services(), of_pods])));
    assert_eq!((gates(&node).len(), node.rules().len()), (1, 2));
    node.gone.insert("p");
    node.event(Event::PolicyDeleted("N".into()));
    assert_eq!(gates(&node), []);
    assert!(!verdict(&node, 257, "10.0.1.1", 80));
}

#[test]
fn rules_apply_to_services_where_the_node_serves_everybody() {
    let mut node = node_that_serves();
    node.event(applied_to_group("nodes", &[]));
    let rules = || vec![on_services("Allow", &[0]), on_services("Drop", &[0, 1]), on_services("Drop", &[1])];
    node.event(Event::Policy(native("N", (250, 5.0), "nodes", rules())));
    tell(&mut node, vec![at(0, true), at(1, true)], true);
    assert_eq!(gates(&node), [], "it serves pods alone");
    let policy = node.reconciler.cache.policy("N").unwrap();
    let problem = node.reconciler.problem(policy).unwrap();
    assert!(
        problem.starts_with("a policy that applies to Services needs AntreaProxy for everybody"),
        "{problem}"
    );

    serve_everybody(&mut node);
    let policy = node.reconciler.cache.policy("N").unwrap();
    assert_eq!((node.reconciler.problem(policy), &*policy.problems), (None, &[][..]));
    let both = [(vec![257], Action::Allow), (vec![257, 513], Action::Drop), (vec![513], Action::Drop)];
    assert_eq!(gates(&node), both);
    assert!(verdict(&node, 7, "10.0.1.9", 80), "nothing of Pods");
    // They follow what nodes have of the Services.
    tell(&mut node, vec![at(1, false)], false);
    assert_eq!(gates(&node), [(vec![257], Action::Allow), (vec![257], Action::Drop)]);
    tell(&mut node, vec![at(1, true)], false);
    assert_eq!(gates(&node), both);
    // Rules that find no room between them move others, in their own table.
    for n in 0..40 {
        let rules = vec![on_services("Drop", &[0])];
        node.event(Event::Policy(native(&format!("M{n}"), (250, 5.0 - f64::from(n) * 1e-9), "nodes", rules)));
    }
    assert_eq!(gates(&node).len(), 43);
    assert_eq!(gates(&node)[40..], both);
    // What cannot be one of Services is none of Pods.
    let mut ports = on_services("Drop", &[0]);
    ports.services = native_rule("Drop", &[]).services;
    ports.services.push(Default::default());
    node.event(Event::Policy(native("N", (250, 5.0), "a", vec![ports])));
    assert_eq!(gates(&node).len(), 40);
    assert!(verdict(&node, 7, "10.0.1.9", 80));
    assert!(
        node.reconciler.cache.policy("N").unwrap().problems[0]
            .contains("more is said of what comes to Services")
    );
}
