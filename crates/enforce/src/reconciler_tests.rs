use std::collections::VecDeque;
use std::time::Duration;

use antrea_api::controlplane::{
    self, AddressGroup, AppliedToGroup, Event, GroupEvent, GroupMember, IpBlock, NamedPort, NetworkPolicy,
};
use antrea_api::k8s::{IntOrString, ObjectMeta};
use antrea_flows::policy::{Class, Peers, Rule};
use antrea_flows::{EncapMode, Entry, Key};
use proptest::prelude::*;

use super::*;
use crate::cache::Kind;
use crate::testing::*;

/// A reconciler, and a bridge that gets its differences.
pub(super) struct Node {
    pub(super) reconciler: Reconciler,
    pub(super) flows: HashMap<Key, Entry>,
    now: Instant,
    /// Pods that the controller knows no more when it is asked about them.
    pub(super) gone: BTreeSet<&'static str>,
}

impl Node {
    pub(super) fn new() -> Self {
        let mut reconciler = Reconciler::default();
        reconciler.attach(&network());
        Self { reconciler, flows: HashMap::new(), now: Instant::now(), gone: BTreeSet::new() }
    }

    /// Brings the rules up to date, and asks about pods that lost some.
    pub(super) fn settle(&mut self) -> Diff {
        let mut all = self.reconcile();
        loop {
            let doubts = self.reconciler.doubts().into_iter();
            let alive: Vec<_> = doubts.filter(|(doubt, _)| !self.gone.contains(&*doubt.pod.name)).collect();
            if alive.is_empty() {
                return all;
            }
            for (doubt, at) in alive {
                assert!(self.reconciler.release(&doubt, at, &PodSelection::default()));
            }
            let Diff { adds, mods, deletes } = self.reconcile();
            all.adds.extend(adds);
            all.mods.extend(mods);
            all.deletes.extend(deletes);
        }
    }

    fn reconcile(&mut self) -> Diff {
        self.now += Duration::from_millis(700);
        let Reconciled { diff, error, .. } = self.reconciler.reconcile(self.now);
        assert_eq!(error, None);
        for entry in diff.puts() {
            self.flows.insert(entry.key(), entry.clone());
        }
        for key in &diff.deletes {
            assert!(self.flows.remove(key).is_some(), "deletes what is not there");
        }
        diff
    }

    pub(super) fn event(&mut self, event: Event) -> Diff {
        self.reconciler.cache.apply(kind_of(&event), event).unwrap();
        self.settle()
    }

    pub(super) fn pods(&mut self, pods: &[(&str, u32, &str)]) -> Diff {
        let list = pods.iter().map(|(name, ofport, ip)| local_pod(name, *ofport, ip)).collect();
        self.reconciler.set_pods(list);
        self.settle()
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<_> = self.reconciler.realizer.as_ref().unwrap().rules().cloned().collect();
        rules.sort_by_key(|rule| rule.id);
        rules
    }

    /// Whether a pod's port gets packets only if a rule allows them.
    fn isolates(&self, ofport: u32) -> bool {
        self.rules().iter().any(|rule| rule.direction == Direction::In && rule.pods.contains_key(&ofport))
    }

    fn allows(&self, ofport: u32, peer: &str) -> bool {
        let net: IpNet = peer.parse::<IpAddr>().unwrap().into();
        self.rules().iter().any(|rule| {
            rule.direction == Direction::In
                && rule.pods.contains_key(&ofport)
                && match &rule.peers {
                    Peers::Any => true,
                    Peers::Of(nets) => nets.contains(&net),
                }
        })
    }
}

#[test]
fn isolation_comes_first_and_peers_follow() {
    let mut node = Node::new();
    node.pods(&[("p", 7, "10.0.0.7")]);
    node.event(applied_to_group("a", &["p", "elsewhere"]));
    node.event(Event::Policy(policy("P", 1, "a", &["g", "h"])));
    assert!(node.isolates(7), "no address group is there yet");
    node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    assert!(node.allows(7, "10.0.1.1") && !node.allows(7, "10.0.1.2"));
    let diff = node.event(address_group("h", vec![member("y", &["10.0.1.2"])]));
    assert_eq!((diff.adds.len(), diff.mods.len(), diff.deletes.len()), (1, 0, 0), "costs what changed");
    let diff = node.event(address_patch("g", vec![member("x", &[])], vec![member("z", &["10.0.1.2"])]));
    assert_eq!((diff.adds.len(), diff.mods.len(), diff.deletes.len()), (0, 0, 1), "two groups have 10.0.1.2");

    let diff = node.pods(&[("p", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
    assert!(diff.is_empty(), "no policy selects q");
    node.event(applied_to_patch("a", vec![], vec![member("q", &[])]));
    assert!(node.isolates(8));
    node.pods(&[("q", 8, "10.0.0.8")]);
    assert!(!node.isolates(7) && node.isolates(8));
    node.event(Event::PolicyDeleted("P".into()));
    assert!(node.flows.is_empty() && node.rules().is_empty());
}

/// What the realizer refuses is not lost, and what came with it is not either.
#[test]
fn a_rule_that_cannot_be_realised_holds_up_no_other_and_comes_again() {
    let mut node = Node::new();
    node.pods(&[("p", 7, "10.0.0.7")]);
    node.event(applied_to_group("a", &["p"]));
    node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    node.event(Event::Policy(policy("P", 1, "a", &["g"])));
    // The realizer knows nothing of the rule any more, and refuses to change its members.
    let (name, id) = (Arc::from("P"), node.rules()[0].id);
    node.reconciler.realizer.as_mut().unwrap().remove_rule(id);
    let events = [
        address_patch("g", vec![], vec![member("y", &["10.0.1.2"])]),
        address_group("h", vec![member("z", &["10.0.1.3"])]),
        Event::Policy(policy("Q", 1, "a", &["h"])),
    ];
    for event in events {
        node.reconciler.cache.apply(kind_of(&event), event).unwrap();
    }
    let outcome = node.reconciler.reconcile(node.now);
    assert_eq!(outcome.error, Some(RuleError::Unknown { id }));
    assert!(node.allows(7, "10.0.1.3"), "a policy that came with it");
    assert!(node.reconciler.refuses(&name));
    assert_eq!(outcome.policies, BTreeSet::from([Arc::from("Q")]), "only that is in force");
    node.settle();
    assert!(node.allows(7, "10.0.1.1") && node.allows(7, "10.0.1.2"));
    assert!(!node.reconciler.refuses(&name));
}

#[test]
fn a_pod_that_is_known_by_name_is_isolated_with_its_new_port() {
    let mut node = Node::new();
    node.event(applied_to_group("a", &["web-0"]));
    node.event(Event::Policy(policy("P", 1, "a", &[])));
    assert!(node.flows.is_empty());
    node.pods(&[("web-0", 21, "10.0.0.21")]);
    assert!(node.isolates(21));
    node.pods(&[("web-0", 22, "10.0.0.22")]);
    assert!(node.isolates(22) && !node.isolates(21));
}

/// A policy moves from one AppliedToGroup, and one AddressGroup, to others. Whatever the order in which the
/// three watches tell of it, the pod is isolated all the time and its peer allowed all the time.
#[test]
fn a_changed_policy_never_opens_nor_breaks_in_any_order() {
    let streams = [
        vec![applied_to_group("a2", &["p"]), Event::AppliedToGroup(GroupEvent::Deleted("a1".into()))],
        vec![
            address_group("g2", vec![member("x", &["10.0.1.1"])]),
            Event::AddressGroup(GroupEvent::Deleted("g1".into())),
        ],
        vec![Event::Policy(policy("P", 2, "a2", &["g2"]))],
    ];
    let mut orders = vec![(Vec::new(), [0, 0, 0])];
    for _ in 0..5 {
        orders = orders
            .into_iter()
            .flat_map(|(order, at): (Vec<usize>, [usize; 3])| {
                let streams = &streams;
                (0..3).filter(move |s| at[*s] < streams[*s].len()).map(move |s| {
                    let (mut order, mut at) = (order.clone(), at);
                    order.push(s);
                    at[s] += 1;
                    (order, at)
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 30);
    for (order, _) in orders {
        let mut node = Node::new();
        node.pods(&[("p", 7, "10.0.0.7")]);
        node.event(applied_to_group("a1", &["p"]));
        node.event(address_group("g1", vec![member("x", &["10.0.1.1"])]));
        node.event(Event::Policy(policy("P", 1, "a1", &["g1"])));
        let flows = node.flows.clone();
        let mut at = [0; 3];
        for stream in &order {
            let diff = node.event(streams[*stream][at[*stream]].clone());
            at[*stream] += 1;
            assert!(diff.is_empty(), "{order:?}: the flows are the same before and after");
        }
        assert_eq!(node.flows, flows);
        let cache = &node.reconciler.cache;
        assert_eq!(cache.realizable("P").unwrap().generation, 2);
        assert_eq!(cache.counts(), [1, 1, 1]);
    }
}

#[test]
fn ids_stay_with_rules() {
    let mut node = Node::new();
    node.pods(&[("p", 7, "10.0.0.7")]);
    node.event(applied_to_group("a", &["p"]));
    let of = |blocks: &[u8]| {
        let mut policy = policy("P", 1, "a", &[]);
        let rule = policy.rules.remove(0);
        for block in blocks {
            let mut rule = rule.clone();
            let cidr = controlplane::IpNet { ip: vec![192, 0, *block, 0], prefix_length: 24 };
            rule.from.ip_blocks.push(IpBlock { cidr, except: vec![] });
            policy.rules.push(rule);
        }
        Event::Policy(policy)
    };
    let ids = |node: &Node| {
        node.rules()
            .into_iter()
            .map(|rule| match &rule.peers {
                Peers::Of(nets) => (nets.iter().next().unwrap().to_string(), rule.id),
                Peers::Any => ("any".into(), rule.id),
            })
            .collect::<BTreeMap<_, _>>()
    };
    node.event(of(&[1, 2, 3]));
    let before = ids(&node);
    assert_eq!(before.values().copied().collect::<Vec<_>>(), [1, 2, 3]);
    node.event(of(&[1, 9, 2, 3]));
    let after = ids(&node);
    assert!(before.iter().all(|(net, id)| after.get(net) == Some(id)));
    assert_eq!(after["192.0.9.0/24"], 4);
    node.event(of(&[1, 8, 2, 3]));
    assert_eq!(ids(&node)["192.0.8.0/24"], 4, "a rule that is edited keeps its id");
    node.event(of(&[8, 2, 3]));
    assert_eq!(ids(&node)["192.0.8.0/24"], 4);
    assert_eq!(node.reconciler.rule_counts(), [3, 0]);

    // The realizer may be made anew; ids stay.
    let known = ids(&node);
    node.reconciler.attach(&network());
    node.flows.clear();
    node.settle();
    assert_eq!(ids(&node), known);
    assert_eq!(node.reconciler.flows().len(), node.flows.len());
}

#[test]
fn named_ports_mean_what_each_member_says_and_isolate_the_rest() {
    let web = |port: u16| NamedPort { port: port.into(), name: "web".into(), protocol: "TCP".into() };
    let named = |direction: &str| {
        let mut policy = policy("P", 1, "a", &["g"]);
        let rule = &mut policy.rules[0];
        rule.direction = direction.into();
        rule.to = rule.from.clone();
        rule.services =
            vec![controlplane::Service { port: Some(IntOrString::string("web")), ..Default::default() }];
        Event::Policy(policy)
    };
    let with = |member: GroupMember, port| GroupMember { ports: vec![web(port)], ..member };

    let mut node = Node::new();
    node.pods(&[("p", 1, "10.0.0.1"), ("q", 2, "10.0.0.2"), ("r", 3, "10.0.0.3")]);
    let members = vec![with(member("p", &[]), 80), with(member("q", &[]), 8080), member("r", &[])];
    node.event(Event::AppliedToGroup(GroupEvent::Added(AppliedToGroup {
        metadata: ObjectMeta::named("a"),
        group_members: members,
    })));
    let peers = vec![with(member("x", &["10.0.1.1"]), 80), member("y", &["10.0.1.2"])];
    node.event(address_group("g", peers));
    node.event(named("In"));
    let ports = |node: &Node, ofport: u32| -> Vec<u16> {
        node.rules()
            .iter()
            .filter(|rule| rule.pods.contains_key(&ofport))
            .flat_map(|rule| rule.services.iter().filter_map(|service| service.ports.map(|p| p.first())))
            .collect()
    };
    assert_eq!([1, 2, 3].map(|ofport| ports(&node, ofport)), [vec![80], vec![8080], vec![]]);
    assert!(node.isolates(3) && !node.allows(3, "10.0.1.1"));
    assert_eq!(node.rules().len(), 3);

    node.event(named("Out"));
    let rules = node.rules();
    assert_eq!(rules.len(), 1, "{rules:?}");
    assert_eq!(rules[0].peers, Peers::Of(BTreeSet::from(["10.0.1.1/32".parse().unwrap()])));
    // Nobody has the name any more: still isolated.
    node.event(address_patch("g", vec![], vec![member("x", &["10.0.1.1"])]));
    assert_eq!(node.rules()[0].peers, Peers::Of(BTreeSet::new()));
    assert_eq!(node.rules()[0].pods.len(), 3);
}

/// A controller whose three watches are not ordered among each other.
#[derive(Default)]
struct Server {
    policies: BTreeMap<String, NetworkPolicy>,
    groups: BTreeMap<(Kind, String), BTreeMap<String, GroupMember>>,
    queues: BTreeMap<Kind, VecDeque<Event>>,
}

impl Server {
    fn send(&mut self, event: Event) {
        self.queues.entry(kind_of(&event)).or_default().push_back(event);
    }

    fn needs(policy: &NetworkPolicy) -> impl Iterator<Item = (Kind, String)> {
        let applied = policy.applied_to_groups.iter().map(|name| (Kind::AppliedToGroups, name.clone()));
        let peers = policy
            .rules
            .iter()
            .flat_map(|rule| rule.from.address_groups.iter().chain(&rule.to.address_groups))
            .map(|name| (Kind::AddressGroups, name.clone()));
        applied.chain(peers)
    }

    fn whole(&self, group: &(Kind, String)) -> Event {
        let metadata = ObjectMeta::named(group.1.clone());
        let group_members = self.groups[group].values().cloned().collect();
        match group.0 {
            Kind::AppliedToGroups => {
                Event::AppliedToGroup(GroupEvent::Added(AppliedToGroup { metadata, group_members }))
            }
            _ => Event::AddressGroup(GroupEvent::Added(AddressGroup { metadata, group_members })),
        }
    }

    fn put(&mut self, policy: NetworkPolicy) {
        for group in Self::needs(&policy) {
            if !self.groups.contains_key(&group) {
                self.groups.insert(group.clone(), BTreeMap::new());
                let event = self.whole(&group);
                self.send(event);
            }
        }
        self.policies.insert(policy.metadata.name.clone(), policy.clone());
        self.send(Event::Policy(policy));
        self.collect();
    }

    fn delete(&mut self, name: &str) {
        if self.policies.remove(name).is_some() {
            self.send(Event::PolicyDeleted(name.into()));
            self.collect();
        }
    }

    /// Deletes groups that no policy needs.
    fn collect(&mut self) {
        let needed: BTreeSet<_> = self.policies.values().flat_map(Self::needs).collect();
        let gone: Vec<_> = self.groups.keys().filter(|group| !needed.contains(*group)).cloned().collect();
        for group in gone {
            self.groups.remove(&group);
            self.send(match group.0 {
                Kind::AppliedToGroups => Event::AppliedToGroup(GroupEvent::Deleted(group.1)),
                _ => Event::AddressGroup(GroupEvent::Deleted(group.1)),
            });
        }
    }

    fn change(&mut self, group: &(Kind, String), pod: &str, now: Option<GroupMember>) {
        let Some(members) = self.groups.get_mut(group) else { return };
        let old = match &now {
            Some(now) => members.insert(pod.into(), now.clone()),
            None => members.remove(pod),
        };
        let (removed, added) = (old.into_iter().collect(), now.into_iter().collect());
        self.send(match group.0 {
            Kind::AppliedToGroups => applied_to_patch(&group.1, removed, added),
            _ => address_patch(&group.1, removed, added),
        });
    }

    fn list(&self) -> Vec<Event> {
        let groups = self.groups.keys().map(|group| self.whole(group));
        groups.chain(self.policies.values().cloned().map(Event::Policy)).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Policy { name: u8, applied_to: u8, groups: Vec<u8>, egress: bool, named: bool, rules: u8 },
    Delete(u8),
    Applied { group: u8, pod: u8, port: Option<u8> },
    Unapplied { group: u8, pod: u8 },
    Address { group: u8, pod: u8, ip: u8, port: Option<u8> },
    Unaddress { group: u8, pod: u8 },
    Pods(Vec<(u8, u8)>),
    Deliver(Kind),
    Relist,
    Reattach,
}

fn op() -> impl Strategy<Value = Op> {
    let port = || proptest::option::of(0_u8..2);
    let kind = prop_oneof![Just(Kind::Policies), Just(Kind::AddressGroups), Just(Kind::AppliedToGroups)];
    prop_oneof![
        3 => (0_u8..3, 0_u8..3, proptest::collection::vec(0_u8..3, 0..3), any::<bool>(), any::<bool>(), 1_u8..3)
            .prop_map(|(name, applied_to, groups, egress, named, rules)| {
                Op::Policy { name, applied_to, groups, egress, named, rules }
            }),
        1 => (0_u8..3).prop_map(Op::Delete),
        3 => (0_u8..3, 0_u8..3, port()).prop_map(|(group, pod, port)| Op::Applied { group, pod, port }),
        1 => (0_u8..3, 0_u8..3).prop_map(|(group, pod)| Op::Unapplied { group, pod }),
        3 => (0_u8..3, 0_u8..4, 0_u8..3, port())
            .prop_map(|(group, pod, ip, port)| Op::Address { group, pod, ip, port }),
        1 => (0_u8..3, 0_u8..4).prop_map(|(group, pod)| Op::Unaddress { group, pod }),
        2 => proptest::collection::vec((0_u8..3, 0_u8..4), 0..4).prop_map(Op::Pods),
        12 => kind.prop_map(Op::Deliver),
        1 => Just(Op::Relist),
        1 => Just(Op::Reattach),
    ]
}

/// What a rule says, without its id.
fn sayings(rules: impl IntoIterator<Item = Rule>) -> Vec<String> {
    let mut all: Vec<_> = rules
        .into_iter()
        .map(|rule| format!("{:?} {:?} {:?} {:?}", rule.direction, rule.pods, rule.peers, rule.services))
        .collect();
    all.sort();
    all
}

fn ports(port: Option<u8>) -> Vec<NamedPort> {
    let named = |n: u8| NamedPort { port: 80 + i32::from(n), name: "web".into(), protocol: "TCP".into() };
    port.map(named).into_iter().collect()
}

fn perform(op: Op, server: &mut Server, node: &mut Node) {
    match op {
        Op::Policy { name, applied_to, groups, egress, named, rules } => {
            let names: Vec<_> = groups.iter().map(|g| format!("g{g}")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let mut policy = policy(&format!("P{name}"), 1, &format!("a{applied_to}"), &names);
            let rule = &mut policy.rules[0];
            if egress {
                rule.direction = "Out".into();
                rule.to = std::mem::take(&mut rule.from);
            }
            if named {
                rule.services = vec![controlplane::Service {
                    port: Some(IntOrString::string("web")),
                    ..Default::default()
                }];
            }
            for more in 1..rules {
                let mut rule = policy.rules[0].clone();
                rule.services.push(controlplane::Service {
                    port: Some(IntOrString::int(80 + i32::from(more))),
                    ..Default::default()
                });
                policy.rules.insert(0, rule);
            }
            server.put(policy);
        }
        Op::Delete(name) => server.delete(&format!("P{name}")),
        Op::Applied { group, pod, port } => {
            let pod = format!("p{pod}");
            let now = GroupMember { ports: ports(port), ..member(&pod, &[]) };
            server.change(&(Kind::AppliedToGroups, format!("a{group}")), &pod, Some(now));
        }
        Op::Unapplied { group, pod } => {
            server.change(&(Kind::AppliedToGroups, format!("a{group}")), &format!("p{pod}"), None);
        }
        Op::Address { group, pod, ip, port } => {
            let pod = format!("x{pod}");
            let now = GroupMember { ports: ports(port), ..member(&pod, &[&format!("10.1.0.{ip}")]) };
            server.change(&(Kind::AddressGroups, format!("g{group}")), &pod, Some(now));
        }
        Op::Unaddress { group, pod } => {
            server.change(&(Kind::AddressGroups, format!("g{group}")), &format!("x{pod}"), None);
        }
        Op::Pods(pods) => {
            let pods = pods.iter().map(|(pod, port)| {
                local_pod(&format!("p{pod}"), 10 + u32::from(*port), &format!("10.0.0.{}", 10 + port))
            });
            node.reconciler.set_pods(pods.collect());
        }
        Op::Deliver(kind) => {
            if let Some(event) = server.queues.get_mut(&kind).and_then(VecDeque::pop_front) {
                node.reconciler.cache.apply(kind, event).unwrap();
            }
        }
        Op::Relist => {
            server.queues.clear();
            for kind in Kind::ALL {
                node.reconciler.cache.begin(kind);
            }
            for event in server.list() {
                node.reconciler.cache.apply(kind_of(&event), event).unwrap();
            }
            for kind in Kind::ALL {
                node.reconciler.cache.apply(kind, Event::Bookmark).unwrap();
            }
        }
        Op::Reattach => {
            node.reconciler.attach(&network());
            node.flows.clear();
        }
    }
}

fn expected(reconciler: &Reconciler) -> Vec<Rule> {
    let cache = &reconciler.cache;
    let facts = Facts { cache, local: &reconciler.pods, kept: None };
    cache
        .policies()
        .flat_map(|name| &cache.policy(name).unwrap().rules)
        .flat_map(|spec| {
            rules::variants(spec, facts)
                .into_iter()
                .map(|variant| variant.rule(1, spec.direction, Class::K8s, spec.action))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// After every event the rules are those that a look at everything gives, the differences add up to the
    /// flows, and when all events are in they are those of a node that has just listed.
    #[test]
    fn any_sequence_of_events_ends_where_a_fresh_list_begins(
        ops in proptest::collection::vec((op(), any::<bool>()), 1..80)
    ) {
        let (mut server, mut node) = (Server::default(), Node::new());
        for (op, settle) in ops {
            perform(op, &mut server, &mut node);
            // Some changes are taken together.
            if !settle {
                continue;
            }
            node.settle();
            prop_assert_eq!(sayings(node.rules()), sayings(expected(&node.reconciler)));
            let flows: HashMap<_, _> = node.reconciler.flows().into_iter().map(Entry::Flow).map(|e| (e.key(), e)).collect();
            prop_assert_eq!(&flows, &node.flows);
        }
        for kind in [Kind::Policies, Kind::AddressGroups, Kind::AppliedToGroups] {
            for event in server.queues.remove(&kind).into_iter().flatten() {
                node.reconciler.cache.apply(kind, event).unwrap();
            }
        }
        node.settle();
        let mut fresh = Node::new();
        perform(Op::Relist, &mut server, &mut fresh);
        fresh.reconciler.pods = std::mem::take(&mut node.reconciler.pods);
        fresh.settle();
        prop_assert_eq!(sayings(node.rules()), sayings(fresh.rules()));
        prop_assert_eq!(node.reconciler.cache.counts(), fresh.reconciler.cache.counts());
        for name in server.policies.keys() {
            prop_assert!(node.reconciler.cache.realizable(name).is_some());
        }
        let ids: BTreeSet<_> = node.rules().iter().map(|rule| rule.id).collect();
        prop_assert_eq!(ids.len(), node.rules().len());
    }
}

/// Rules as far as they are about these ports.
fn about(rules: Vec<Rule>, port: impl Fn(&u32) -> bool) -> Vec<Rule> {
    let cut = rules.into_iter().map(|mut rule| {
        rule.pods.retain(|ofport, _| port(ofport));
        rule
    });
    cut.filter(|rule| !rule.pods.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is told of a pod whose object is gone, its port stays isolated for as long as it is the pod's. Pods
    /// that are alive have what they would have without it.
    #[test]
    fn a_pod_without_an_object_stays_isolated_until_its_interface_is_gone(
        ops in proptest::collection::vec((op(), any::<bool>()), 1..80)
    ) {
        let (mut server, mut node) = (Server::default(), Node::new());
        node.gone.insert("p0");
        let mut isolated: BTreeMap<(u32, bool), Arc<PortOwner>> = BTreeMap::new();
        for (mut op, settle) in ops {
            // Whoever turns a policy's direction around means that, also for this pod.
            if let Op::Policy { name, egress, .. } = &mut op {
                *egress = *name == 1;
            }
            perform(op, &mut server, &mut node);
            if !settle {
                continue;
            }
            node.settle();
            let owners = node.reconciler.pods.owners();
            let gone = |ofport: &u32| owners.get(ofport).is_some_and(|owner| owner.pod.name == "p0");
            let now: BTreeSet<(u32, bool)> = node
                .rules()
                .iter()
                .flat_map(|rule| rule.pods.keys().map(|port| (*port, rule.direction == Direction::In)))
                .collect();
            for (way, owner) in &isolated {
                prop_assert!(owners.get(&way.0) != Some(owner) || now.contains(way), "{way:?} opened");
            }
            isolated = now
                .iter()
                .filter(|(port, _)| gone(port))
                .filter_map(|way| Some((*way, owners.get(&way.0)?.clone())))
                .collect();
            // What isolates a port all the same says what it may.
            for (ofport, ingress) in &now {
                let direction = if *ingress { Direction::In } else { Direction::Out };
                let of = |rules: Vec<Rule>| {
                    let rules = rules.into_iter().filter(|rule| rule.direction == direction).collect();
                    about(rules, |port| port == ofport)
                };
                let meant = of(expected(&node.reconciler));
                if !meant.is_empty() {
                    prop_assert_eq!(sayings(of(node.rules())), sayings(meant));
                }
            }
            let alive = |rules| sayings(about(rules, |port| !gone(port)));
            prop_assert_eq!(alive(node.rules()), alive(expected(&node.reconciler)));
            let flows: HashMap<_, _> = node.reconciler.flows().into_iter().map(Entry::Flow).map(|e| (e.key(), e)).collect();
            prop_assert_eq!(&flows, &node.flows);
        }
        node.pods(&[]);
        prop_assert!(node.rules().is_empty() && node.flows.is_empty());
    }
}

/// A pod is deleted by force: the controller knows it no more, its policy goes with it, and only then its sandbox.
#[test]
fn a_pod_keeps_its_policy_until_its_interface_is_gone() {
    let ends = [
        vec![applied_to_patch("a", vec![member("p", &[])], vec![]), Event::PolicyDeleted("P".into())],
        vec![Event::PolicyDeleted("P".into()), Event::AppliedToGroup(GroupEvent::Deleted("a".into()))],
    ];
    for end in ends {
        let mut node = Node::new();
        node.pods(&[("p", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
        node.event(applied_to_group("a", &["p", "q"]));
        node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
        node.event(Event::Policy(policy("P", 1, "a", &["g"])));
        node.gone.insert("p");
        for event in end {
            node.event(event);
            node.event(address_patch("g", vec![], vec![]));
            assert!(node.isolates(7) && node.allows(7, "10.0.1.1"), "{:?}", node.rules());
            assert!(!node.allows(7, "10.0.1.2"));
        }
        node.event(Event::AddressGroup(GroupEvent::Deleted("g".into())));
        assert!(node.isolates(7) && !node.isolates(8), "the other was meant");
        // Its port and address are somebody else's now.
        node.pods(&[("r", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
        assert!(node.rules().is_empty() && node.flows.is_empty());
    }
}

/// An answer says nothing of what a pod loses after the question, nor counts before all that it names has arrived.
#[test]
fn an_answer_is_about_what_was_lost_before_the_question() {
    let egress = |name: &str, group: &str| {
        let mut policy = policy(name, 1, group, &[]);
        policy.rules[0].direction = "Out".into();
        policy
    };
    let mut node = Node::new();
    node.gone.insert("p");
    node.pods(&[("p", 7, "10.0.0.7")]);
    node.event(applied_to_group("a", &["p"]));
    node.event(applied_to_group("b", &["p"]));
    node.event(Event::Policy(policy("P", 1, "a", &[])));
    node.event(Event::Policy(egress("Q", "b")));
    node.event(applied_to_patch("a", vec![member("p", &[])], vec![]));
    let question = node.reconciler.doubts();
    let [(doubt, at)] = &question.into_iter().collect::<Vec<_>>()[..] else { panic!("one pod") };
    node.event(applied_to_patch("b", vec![member("p", &[])], vec![]));
    assert_eq!(node.rules().len(), 2);
    let selection = PodSelection { policies: vec!["P".into()], applied_to_groups: vec!["a".into()] };
    assert!(!node.reconciler.release(doubt, *at, &selection));
    node.settle();
    assert_eq!(node.rules().len(), 2, "P is about to select it again");
    assert!(node.reconciler.release(doubt, *at, &PodSelection::default()));
    node.settle();
    assert!(!node.isolates(7) && node.rules().len() == 1, "Q was lost after the question");
    // Selected again, it is like any other.
    node.gone.clear();
    node.event(applied_to_patch("b", vec![], vec![member("p", &[])]));
    node.event(applied_to_patch("b", vec![member("p", &[])], vec![]));
    assert!(node.rules().is_empty());
}

/// Policies allow in union: what is kept beside another one would let through what nobody allows any more.
#[test]
fn nothing_is_kept_of_what_another_policy_isolates() {
    let mut node = Node::new();
    node.gone.insert("p");
    node.pods(&[("p", 7, "10.0.0.7")]);
    for (policy_name, group, address) in [("P", "a", "10.0.1.1"), ("Q", "b", "10.0.1.2")] {
        node.event(applied_to_group(group, &["p"]));
        node.event(address_group(policy_name, vec![member("x", &[address])]));
        node.event(Event::Policy(policy(policy_name, 1, group, &[policy_name])));
    }
    node.event(applied_to_patch("a", vec![member("p", &[])], vec![]));
    assert!(node.isolates(7) && node.allows(7, "10.0.1.2") && !node.allows(7, "10.0.1.1"));
    assert!(node.reconciler.doubts().is_empty(), "there is nothing to ask about");
    node.event(Event::PolicyDeleted("Q".into()));
    assert!(node.isolates(7) && node.allows(7, "10.0.1.2"), "the last one is kept");
    // Another one comes instead.
    node.event(applied_to_patch("a", vec![], vec![member("p", &[])]));
    assert!(node.allows(7, "10.0.1.1") && !node.allows(7, "10.0.1.2"));
    assert!(node.reconciler.doubts().is_empty());
}

#[test]
fn many_policies_on_one_node_are_quick() {
    let mut node = Node::new();
    node.pods(&[("p", 7, "10.0.0.7")]);
    node.event(applied_to_group("a", &["p"]));
    let cache = &mut node.reconciler.cache;
    for n in 0..2000_u32 {
        let members =
            (0..10).map(|m| member(&format!("x{m}"), &[&format!("10.{m}.{}.{}", n / 250, n % 250)]));
        let event = address_group(&format!("g{n}"), members.collect());
        cache.apply(Kind::AddressGroups, event).unwrap();
        let event = Event::Policy(policy(&format!("P{n}"), 1, "a", &[&format!("g{n}")]));
        cache.apply(Kind::Policies, event).unwrap();
    }
    let start = Instant::now();
    node.settle();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(node.reconciler.rule_counts(), [2000, 0]);
    // One member of one group must not cost what all policies cost.
    let diff = node.event(address_patch("g5", vec![], vec![member("new", &["10.99.0.1"])]));
    assert_eq!(diff.len(), 1);
}

#[test]
fn the_host_learns_whom_egress_policy_isolates_and_which_blocks_it_allows() {
    let mut node = Node::new();
    node.reconciler.attach(&network_of(EncapMode::Encap));
    node.pods(&[("p", 1, "10.0.0.1"), ("q", 2, "10.0.0.2"), ("r", 3, "10.0.0.3")]);
    node.event(applied_to_group("a", &["p"]));
    node.event(applied_to_group("b", &["q"]));
    node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    let egress = |name: &str, group: &str, block: Option<u8>| {
        let mut policy = policy(name, 1, group, &["g"]);
        let rule = &mut policy.rules[0];
        rule.direction = "Out".into();
        rule.to = std::mem::take(&mut rule.from);
        rule.to.ip_blocks.extend(block.map(|block| IpBlock {
            cidr: controlplane::IpNet { ip: vec![192, 0, block, 0], prefix_length: 24 },
            except: vec![],
        }));
        policy
    };
    node.event(Event::Policy(egress("P", "a", Some(2))));
    node.event(Event::Policy(egress("Q", "b", None)));
    let found = node.reconciler.host_egress();
    assert_eq!(found.isolated, ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap()).into());
    let [allowed] = &found.allowed[..] else { panic!("{found:?}") };
    assert_eq!(allowed.pods, ["10.0.0.1".parse().unwrap()].into());
    assert_eq!(
        allowed.nets,
        ["192.0.2.0/24".parse().unwrap()].into(),
        "pods among the peers are the bridge's"
    );
    assert!(allowed.services.is_empty());

    // Names mean nothing on a block: the rule must not become one for all ports.
    let mut named = egress("P", "a", Some(2));
    named.rules[0].services =
        vec![controlplane::Service { port: Some(IntOrString::string("web")), ..Default::default() }];
    node.event(Event::Policy(named));
    let found = node.reconciler.host_egress();
    assert!(found.isolated.len() == 2 && found.allowed.is_empty(), "{found:?}");

    // Where other nodes are reached without a tunnel, their pods are the host's matter too.
    node.reconciler.attach(&network_of(EncapMode::Hybrid));
    let mut served = member("served", &["10.0.1.2"]);
    served.ports = vec![NamedPort { name: "web".into(), port: 8080, protocol: "TCP".into() }];
    node.event(address_patch("g", vec![], vec![served]));
    let found = node.reconciler.host_egress();
    assert_eq!(found.groups["g"], ["10.0.1.1", "10.0.1.2"].map(|ip| ip.parse().unwrap()).into());
    let [by_name, by_group] = &found.allowed[..] else { panic!("{found:?}") };
    assert_eq!(by_group.groups, ["g".into()].into());
    assert_eq!(by_group.pods, ["10.0.0.2".parse().unwrap()].into());
    assert_eq!(by_name.nets, ["10.0.1.2/32".parse().unwrap()].into(), "to others the name means nothing");
    assert_eq!(by_name.services.len(), 1);
    assert_eq!(by_name.pods, ["10.0.0.1".parse().unwrap()].into());
    node.event(Event::PolicyDeleted("P".into()));
    node.event(Event::PolicyDeleted("Q".into()));
    assert_eq!(node.reconciler.host_egress(), Default::default());
}

/// A process that starts anew does not know why a pod was isolated; that it was is enough.
#[test]
fn who_was_isolated_in_the_last_life_stays_so_until_the_pod_is_known_or_gone() {
    let mut last = Node::new();
    last.pods(&[("p", 7, "10.0.0.7"), ("q", 8, "10.0.0.8"), ("r", 9, "10.0.0.9"), ("s", 10, "10.0.0.10")]);
    last.event(applied_to_group("a", &["p", "q", "r"]));
    last.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    last.event(Event::Policy(policy("P", 1, "a", &["g"])));
    // One keeps it already.
    last.gone.insert("p");
    last.event(applied_to_patch("a", vec![member("p", &[])], vec![]));
    let isolation = last.reconciler.isolation();
    assert_eq!(isolation.len(), 3, "{isolation:?}");

    let begin = || {
        let mut node = Node::new();
        node.gone.extend(["p", "q"]);
        node.reconciler.recall(isolation.clone());
        node.pods(&[
            ("p", 7, "10.0.0.7"),
            ("q", 8, "10.0.0.8"),
            ("r", 9, "10.0.0.9"),
            ("s", 10, "10.0.0.10"),
        ]);
        assert!(node.isolates(7) && node.isolates(8) && !node.isolates(9) && !node.isolates(10));
        assert!(!node.allows(7, "10.0.1.1") && !node.allows(8, "10.0.1.1"));
        assert!(node.rules().iter().all(|rule| rule.direction == Direction::In), "egress was free");
        assert_eq!(node.reconciler.isolation().len(), 2);
        node
    };
    // The interface goes, and another pod gets the port.
    let mut node = begin();
    node.pods(&[("t", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
    assert!(!node.isolates(7) && node.isolates(8));
    node.pods(&[]);
    assert!(node.rules().is_empty() && node.flows.is_empty());
    // The pod is known after all.
    let mut node = begin();
    node.gone.clear();
    node.settle();
    assert!(node.rules().is_empty() && node.flows.is_empty());
    // Policy isolates it: what was is no matter then, nor later.
    let mut node = begin();
    node.event(applied_to_group("a", &["p", "q"]));
    node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    node.event(Event::Policy(policy("P", 1, "a", &["g"])));
    assert!(node.allows(7, "10.0.1.1") && node.allows(8, "10.0.1.1"));
    node.gone.clear();
    node.event(Event::PolicyDeleted("P".into()));
    assert!(node.rules().is_empty() && node.flows.is_empty());
    // The pipeline is replaced, and what was is told again.
    let mut node = begin();
    node.reconciler.attach(&network());
    node.reconciler.recall(isolation);
    node.flows.clear();
    node.settle();
    assert!(node.isolates(7) && node.isolates(8) && !node.isolates(9));
    node.pods(&[]);
    assert!(node.rules().is_empty() && node.flows.is_empty());
}
