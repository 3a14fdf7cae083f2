//! The objects that are there, in the words of the test.

use std::collections::BTreeMap;

use antrea_policy::{
    Index, crd, k8s,
    labels::{LabelSelector, LabelSelectorRequirement},
    model::Protocol,
};

use super::{
    events::Event,
    natives::{Group, Native, group_object, policy_object},
};

pub(crate) type Labels = BTreeMap<&'static str, &'static str>;

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub labels: Labels,
    pub node: Option<&'static str>,
    pub v4: Option<u8>,
    pub v6: Option<u8>,
    pub port: Option<u16>,
    pub host_network: bool,
    pub terminated: bool,
}

/// A Node as a peer.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub labels: Labels,
    /// Last octets of its addresses.
    pub v4: Vec<u8>,
    pub v6: Vec<u8>,
}

/// A requirement: key, operator, values.
pub(crate) type Requirement = (&'static str, &'static str, Vec<&'static str>);

/// A label selector; an operator `Near` makes it invalid.
pub(crate) type Expression = Vec<Requirement>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Space {
    Own,
    Named(&'static str),
    Selected(Expression),
    All,
    /// Nodes, not Pods.
    Nodes,
}

#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Pods(Space, Option<Expression>),
    /// Block and exceptions.
    Block(&'static str, Vec<&'static str>),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub ingress: bool,
    pub peers: Vec<Peer>,
    /// A port name, or nothing for all traffic.
    pub port: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub incarnation: u8,
    pub generation: i64,
    /// `policyTypes`
    pub(crate) types: Vec<&'static str>,
    pub pods: Expression,
    pub rules: Vec<Rule>,
}

/// Namespace and name.
pub(crate) type Key = (&'static str, &'static str);

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub pods: BTreeMap<Key, Pod>,
    pub namespaces: BTreeMap<&'static str, Labels>,
    pub nodes: BTreeMap<&'static str, Node>,
    pub policies: BTreeMap<Key, Policy>,
    /// The namespace is empty for ClusterNetworkPolicies.
    pub natives: BTreeMap<Key, Native>,
    pub tiers: BTreeMap<&'static str, i64>,
    /// The namespace is empty for ClusterGroups.
    pub groups: BTreeMap<Key, Group>,
    /// Labels of the Pods behind them.
    pub services: BTreeMap<Key, Labels>,
}

pub(crate) fn uid(key: Key, policy: &Policy) -> String {
    format!("{}/{}/{}/false", key.0, key.1, policy.incarnation)
}

pub(crate) fn pod(key: Key, pod: &Pod) -> k8s::Pod {
    let port = pod.port.map(|port| antrea_policy::model::NamedPort {
        name: "web".into(),
        port,
        protocol: Protocol::Tcp,
    });
    k8s::Pod {
        uid: None,
        namespace: key.0.into(),
        name: key.1.into(),
        labels: pod.labels.iter().map(|(k, v)| (*k, *v)).collect(),
        node: pod.node.map(Into::into),
        ips: k8s::PodIps {
            v4: pod.v4.map(|n| [10, 0, 0, n].into()),
            v6: pod.v6.map(|n| [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)].into()),
        },
        ports: port.into_iter().collect(),
        host_network: pod.host_network,
        terminated: pod.terminated,
    }
}

pub(crate) fn node_ips(node: &Node) -> (Vec<std::net::IpAddr>, Vec<std::net::IpAddr>) {
    let v4 = node.v4.iter().map(|n| [192, 0, 2, *n].into());
    let v6 = node.v6.iter().map(|n| [0xfd01, 0, 0, 0, 0, 0, 0, u16::from(*n)].into());
    (v4.collect(), v6.collect())
}

fn node_object(name: &str, node: &Node) -> k8s::Node {
    let (v4, v6) = node_ips(node);
    let labels = node.labels.iter().map(|(k, v)| (*k, *v)).collect();
    k8s::Node { name: name.into(), labels, ips: v6.into_iter().chain(v4).collect() }
}

fn namespace(name: &str, labels: &Labels) -> k8s::Namespace {
    let logs = labels.len() % 2 == 1;
    k8s::Namespace { name: name.into(), labels: labels.iter().map(|(k, v)| (*k, *v)).collect(), logs }
}

fn service(key: Key, selector: &Labels) -> k8s::Service {
    let selector = selector.iter().map(|(k, v)| (*k, *v)).collect();
    k8s::Service { namespace: key.0.into(), name: key.1.into(), selector }
}

pub(crate) fn label_selector(expression: &Expression) -> LabelSelector {
    // Equality goes into matchLabels where the key is not there yet.
    let mut match_labels = BTreeMap::new();
    let mut match_expressions = Vec::new();
    for (key, operator, values) in expression {
        if *operator == "=" {
            match_labels.insert(*key, values[0]);
        } else {
            match_expressions.push(LabelSelectorRequirement {
                key: (*key).into(),
                operator: (*operator).into(),
                values: values.iter().map(|v| (*v).into()).collect(),
            });
        }
    }
    LabelSelector { match_labels: match_labels.into_iter().collect(), match_expressions }
}

pub(crate) fn network_policy(key: Key, policy: &Policy) -> k8s::NetworkPolicy {
    let mut spec = k8s::NetworkPolicySpec {
        pod_selector: label_selector(&policy.pods),
        policy_types: policy.types.iter().map(|t| (*t).into()).collect(),
        ..Default::default()
    };
    for rule in &policy.rules {
        let peers = rule
            .peers
            .iter()
            .map(|peer| match peer {
                Peer::Pods(space, pods) => k8s::NetworkPolicyPeer {
                    pod_selector: pods.as_ref().map(label_selector),
                    namespace_selector: match space {
                        Space::Own | Space::Named(_) | Space::Nodes => None,
                        Space::Selected(expression) => Some(label_selector(expression)),
                        Space::All => Some(LabelSelector::default()),
                    },
                    ip_block: None,
                },
                Peer::Block(cidr, except) => k8s::NetworkPolicyPeer {
                    ip_block: Some(k8s::IpBlock {
                        cidr: (*cidr).into(),
                        except: except.iter().map(|e| (*e).into()).collect(),
                    }),
                    ..Default::default()
                },
            })
            .collect();
        let ports = rule
            .port
            .map(|name| k8s::NetworkPolicyPort {
                protocol: None,
                port: Some(k8s::IntOrString::String(name.into())),
                end_port: None,
            })
            .into_iter()
            .collect();
        if rule.ingress {
            spec.ingress.push(k8s::NetworkPolicyIngressRule { ports, from: peers });
        } else {
            spec.egress.push(k8s::NetworkPolicyEgressRule { ports, to: peers });
        }
    }
    k8s::NetworkPolicy {
        namespace: key.0.into(),
        name: key.1.into(),
        uid: uid(key, policy).into(),
        generation: policy.generation,
        spec,
    }
}

impl World {
    /// Applies an event here and to the index.
    pub(crate) fn play(&mut self, event: &Event, index: &mut Index) {
        match event {
            Event::Pod(key, Some(value)) => {
                index.apply_pod(&pod(*key, value));
                self.pods.insert(*key, value.clone());
            }
            Event::Pod(key, None) => {
                index.delete_pod(key.0, key.1);
                self.pods.remove(key);
            }
            Event::Namespace(name, Some(labels)) => {
                index.apply_namespace(&namespace(name, labels));
                self.namespaces.insert(name, labels.clone());
            }
            Event::Namespace(name, None) => {
                index.delete_namespace(name);
                self.namespaces.remove(name);
            }
            Event::Node(name, Some(node)) => {
                index.apply_node(&node_object(name, node));
                self.nodes.insert(name, node.clone());
            }
            Event::Node(name, None) => {
                index.delete_node(name);
                self.nodes.remove(name);
            }
            Event::ResetNodes(gone, changed) => {
                let mut i = 0;
                self.nodes.retain(|_, _| {
                    i += 1;
                    gone & (1 << i) == 0
                });
                self.nodes.extend(changed.iter().map(|(name, node)| (*name, node.clone())));
                let list: Vec<_> = self.nodes.iter().map(|(name, node)| node_object(name, node)).collect();
                index.reset_nodes(&list, []);
            }
            Event::Policy(key, Some(policy)) => {
                let _ = index.apply_network_policy(&network_policy(*key, policy));
                self.policies.insert(*key, policy.clone());
            }
            Event::Policy(key, None) => {
                index.delete_network_policy(key.0, key.1);
                self.policies.remove(key);
            }
            Event::Native(key, Some(native)) => {
                index.apply_native(&policy_object(*key, native));
                self.natives.insert(*key, native.clone());
            }
            Event::Native(key, None) => {
                index.delete_native(key.0, key.1);
                self.natives.remove(key);
            }
            Event::Tier(name, Some(priority)) => {
                index.apply_tier(&crd::Tier { name: (*name).into(), priority: *priority });
                self.tiers.insert(name, *priority);
            }
            Event::Tier(name, None) => {
                index.delete_tier(name);
                self.tiers.remove(name);
            }
            Event::Group(key, Some(group)) => {
                index.apply_group(&group_object(*key, group));
                self.groups.insert(*key, group.clone());
            }
            Event::Group(key, None) => {
                index.delete_group(key.0, key.1);
                self.groups.remove(key);
            }
            Event::Service(key, Some(selector)) => {
                index.apply_service(&service(*key, selector));
                self.services.insert(*key, selector.clone());
            }
            Event::Service(key, None) => {
                index.delete_service(key.0, key.1);
                self.services.remove(key);
            }
            Event::ResetServices(gone) => {
                let mut i = 0;
                self.services.retain(|_, _| {
                    i += 1;
                    gone & (1 << i) == 0
                });
                let list: Vec<_> = self.services.iter().map(|(key, labels)| service(*key, labels)).collect();
                index.reset_services(&list, []);
            }
            // A watch that starts over: some objects have gone meanwhile, others have changed.
            Event::ResetPods(gone, changed) => {
                let mut i = 0;
                self.pods.retain(|_, _| {
                    i += 1;
                    gone & (1 << i) == 0
                });
                self.pods.extend(changed.iter().map(|(key, pod)| (*key, pod.clone())));
                let list: Vec<_> = self.pods.iter().map(|(key, value)| pod(*key, value)).collect();
                index.reset_pods(&list, []);
            }
            Event::ResetNamespaces(gone, changed) => {
                let mut i = 0;
                self.namespaces.retain(|_, _| {
                    i += 1;
                    gone & (1 << i) == 0
                });
                self.namespaces.extend(changed.iter().map(|(name, labels)| (*name, labels.clone())));
                let list: Vec<_> = self.namespaces.iter().map(|(name, l)| namespace(name, l)).collect();
                index.reset_namespaces(&list, []);
            }
            Event::ResetPolicies(gone, changed) => {
                let mut i = 0;
                self.policies.retain(|_, _| {
                    i += 1;
                    gone & (1 << i) == 0
                });
                self.policies.extend(changed.iter().map(|(key, policy)| (*key, policy.clone())));
                let list: Vec<_> = self.policies.iter().map(|(key, p)| network_policy(*key, p)).collect();
                let _ = index.reset_network_policies(&list, []);
            }
            Event::ResetNatives(cluster, gone) => {
                let mut i = 0;
                self.natives.retain(|key, _| {
                    i += 1;
                    key.0.is_empty() != *cluster || gone & (1 << i) == 0
                });
                let of_kind = self.natives.iter().filter(|(key, _)| key.0.is_empty() == *cluster);
                let list: Vec<_> = of_kind.map(|(key, native)| policy_object(*key, native)).collect();
                index.reset_natives(*cluster, &list, []);
            }
            Event::ResetGroups(cluster, gone) => {
                let mut i = 0;
                self.groups.retain(|key, _| {
                    i += 1;
                    key.0.is_empty() != *cluster || gone & (1 << i) == 0
                });
                let of_kind = self.groups.iter().filter(|(key, _)| key.0.is_empty() == *cluster);
                let list: Vec<_> = of_kind.map(|(key, group)| group_object(*key, group)).collect();
                index.reset_groups(*cluster, &list, []);
            }
            Event::ResetTiers(gone) => {
                let mut i = 0;
                self.tiers.retain(|_, _| {
                    i += 1;
                    gone & (1 << i) == 0
                });
                let tier =
                    |(name, priority): (&&str, &i64)| crd::Tier { name: (*name).into(), priority: *priority };
                let list: Vec<_> = self.tiers.iter().map(tier).collect();
                index.reset_tiers(&list, []);
            }
            Event::Drain | Event::Peek => {}
        }
    }

    pub(crate) fn delete_all(&mut self, index: &mut Index) {
        for key in std::mem::take(&mut self.pods).into_keys() {
            index.delete_pod(key.0, key.1);
        }
        for name in std::mem::take(&mut self.namespaces).into_keys() {
            index.delete_namespace(name);
        }
        for name in std::mem::take(&mut self.nodes).into_keys() {
            index.delete_node(name);
        }
        for key in std::mem::take(&mut self.policies).into_keys() {
            index.delete_network_policy(key.0, key.1);
        }
        for key in std::mem::take(&mut self.natives).into_keys() {
            index.delete_native(key.0, key.1);
        }
        for name in std::mem::take(&mut self.tiers).into_keys() {
            index.delete_tier(name);
        }
        for key in std::mem::take(&mut self.groups).into_keys() {
            index.delete_group(key.0, key.1);
        }
        for key in std::mem::take(&mut self.services).into_keys() {
            index.delete_service(key.0, key.1);
        }
    }
}
