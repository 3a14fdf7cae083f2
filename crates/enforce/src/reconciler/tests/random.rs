//! Whatever happens in whatever order: a controller that says things, and nodes that hear of them late.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

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
    let facts = Facts { cache, local: &reconciler.pods, serves: false, serves_all: false, kept: None };
    cache
        .policies()
        .flat_map(|name| &cache.policy(name).unwrap().rules)
        .flat_map(|spec| {
            rules::variants(spec, facts)
                .into_iter()
                .map(|variant| variant.rule(1, spec, (Class::K8s, spec.action)))
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
