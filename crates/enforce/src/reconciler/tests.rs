mod kept;
mod random;

use std::net::IpAddr;
use std::time::Duration;

use antrea_api::controlplane::{
    self, AddressGroup, AppliedToGroup, Event, GroupEvent, GroupMember, IpBlock, NamedPort, NetworkPolicy,
};
use antrea_api::k8s::{IntOrString, ObjectMeta};
use antrea_flows::policy::{Class, Peers, Rule};
use antrea_flows::{EncapMode, Entry, Key};
use ipnet::IpNet;

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
                    Peers::Services(_) => false,
                }
        })
    }
}

/// Counters and connections of the last life mean the rules that they meant.
#[test]
fn the_next_life_has_the_same_ids_in_whatever_order_policies_come() {
    let (names, mut version) = (["P", "Q", "R"], 0);
    let mut before = Node::new();
    before.pods(&[("p", 7, "10.0.0.7")]);
    before.event(applied_to_group("a", &["p"]));
    for name in names {
        before.event(Event::Policy(policy(name, 1, "a", &[])));
    }
    before.event(Event::PolicyDeleted("Q".into()));
    let of = |node: &Node| -> BTreeMap<Arc<str>, u32> {
        let owners = node.reconciler.owners().into_iter();
        owners.map(|(id, counted)| (counted.policy.name.clone(), id)).collect()
    };
    let (ids, had) = (before.reconciler.rule_ids(&mut version).unwrap(), of(&before));
    assert_eq!(before.reconciler.rule_ids(&mut version), None, "nothing has changed");
    let mut after = Node::new();
    after.reconciler.recall_ids(ids, [2].into());
    after.pods(&[("p", 7, "10.0.0.7")]);
    after.event(applied_to_group("a", &["p"]));
    for name in ["S", "R", "Q", "P"] {
        after.event(Event::Policy(policy(name, 1, "a", &[])));
    }
    let has = of(&after);
    assert_eq!((has["P"], has["R"]), (had["P"], had["R"]));
    assert!(has["S"] > 3 && has["Q"] > 3, "a flow of the bridge may still count for 2: {has:?}");
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
                Peers::Services(_) => ("Services".into(), rule.id),
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
    assert_eq!(rules[0].peers, Peers::Of(["10.0.1.1/32".parse().unwrap()].into()));
    // Nobody has the name any more: still isolated.
    node.event(address_patch("g", vec![], vec![member("x", &["10.0.1.1"])]));
    assert_eq!(node.rules()[0].peers, Peers::Of([].into()));
    assert_eq!(node.rules()[0].pods.len(), 3);
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
