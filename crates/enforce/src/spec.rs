//! Policies and members as the agent keeps them, read from the controller's messages.
//!
//! A mistake in a message never opens anything. What cannot be read is left out of what a rule allows, and a Kubernetes
//! rule goes on to isolate. A native rule that denies is not left without a part of what it denies: what cannot be read of
//! its peers stands for everybody, of its services for all traffic. A rule that passes could let something through either
//! by what it skips or by what it does not; where it cannot be read, or stands in the baseline tier, it denies. So it is
//! with rules that are larger than a node can be asked to hold ([`antrea_policy::limits`]), with unknown actions, and
//! with policies that do not say where they stand, whose rules that deny come first and whose others are left out. All of
//! it is told ([`Policy::problems`]).

mod reader;

use std::net::IpAddr;
use std::sync::Arc;

use antrea_api::controlplane::{self, GroupMember, ObjectReference};
use antrea_flows::policy::{Action, Direction, NamedPort, NamedService, PodIps, Protocol, SortedSet};
use antrea_policy::cidr;
use ipnet::IpNet;

use self::reader::Reader;
use crate::order::Rank;

/// Types of native policies.
const NATIVE: [&str; 3] = [
    controlplane::ANTREA_CLUSTER_NETWORK_POLICY,
    controlplane::ANTREA_NETWORK_POLICY,
    controlplane::CLUSTER_NETWORK_POLICY,
];

/// A policy as the controller has computed it, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// UID of the source, by which the controller knows it.
    pub name: Arc<str>,
    /// Generation of the source.
    pub generation: i64,
    /// The source for people: type, namespace and name, as Traceflow tells it.
    pub source: Arc<str>,
    /// Whether it is Antrea-native: it isolates nobody, and its rules have an order.
    pub native: bool,
    /// Whether connections that its rules deny end, also those that were there before.
    pub resets: bool,
    pub rules: Vec<RuleSpec>,
    /// What could not be read or is not supported.
    pub problems: Vec<String>,
}

/// A rule whose group names are not resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSpec {
    /// Seen from the pods that the rule applies to.
    pub direction: Direction,
    /// Its name, where its policy is native and gives it one.
    pub name: Option<Arc<str>>,
    /// Where it stands.
    pub standing: Standing,
    /// What happens to what it matches.
    pub action: Action,
    /// Whether pods that keep the policy ([`crate::kept`]) have the rule.
    pub keeps: bool,
    /// AppliedToGroups.
    pub applied_to: Vec<Arc<str>>,
    /// Services, as `namespace/name`, that the rule applies to instead of pods: what comes to them from outside by addresses
    /// of the node. Only of ingress rules whose peers are addresses, and that have no services of their own.
    pub on_services: Vec<Arc<str>>,
    /// AddressGroups whose members are peers.
    pub groups: Vec<Arc<str>>,
    /// Domain names whose addresses are peers, in lower case; `*` stands for any part ([`crate::dns`]).
    pub fqdns: Vec<Arc<str>>,
    /// Services, as `namespace/name`, whoever is behind them: what is sent to one is meant. Only of egress rules that have
    /// no other peers and no services of their own.
    pub to_services: Vec<Arc<str>>,
    /// Further peers; exceptions are subtracted.
    pub nets: SortedSet<IpNet>,
    /// Alternatives; empty is all traffic.
    pub services: Vec<NamedService>,
    /// Whether its decisions are logged.
    pub logs: bool,
    /// What is written with them.
    pub label: Option<Arc<str>>,
}

/// Where a rule stands among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Of a Kubernetes policy.
    K8s,
    /// Of a native policy, before those.
    Native(Rank),
    /// Of a native policy of the baseline tier, after those.
    Baseline(Rank),
}

/// Identity of a group's member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberKey {
    Pod(ObjectReference),
    /// An ExternalEntity.
    External(ObjectReference),
    /// A Node, of which a group has a member for each of its addresses.
    Node(String, PodIps),
    Service(ObjectReference),
    /// Nothing but addresses.
    Addresses(Vec<IpAddr>),
}

/// What a group says of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Addresses.
    pub ips: PodIps,
    pub ports: Box<[NamedPort]>,
}

fn source(message: &controlplane::NetworkPolicy) -> String {
    match &message.source_ref {
        Some(source) if source.namespace.is_empty() => format!("{}:{}", source.type_, source.name),
        Some(source) => format!("{}:{}/{}", source.type_, source.namespace, source.name),
        None => message.metadata.name.clone(),
    }
}

impl Policy {
    /// Reads a message.
    pub fn read(message: &controlplane::NetworkPolicy) -> Self {
        let kind = message.source_ref.as_ref().map_or("", |source| source.type_.as_str());
        let native = NATIVE.contains(&kind);
        let mut policy = Self {
            name: message.metadata.name.as_str().into(),
            generation: message.metadata.generation,
            source: source(message).into(),
            native,
            resets: native && message.resets_established,
            rules: Vec::new(),
            problems: Vec::new(),
        };
        if !native && kind != controlplane::K8S_NETWORK_POLICY {
            policy.problems.push(format!("policies of type {kind:?} are not supported"));
            return policy;
        }
        let mut reader = Reader::default();
        policy.rules = if native { reader.native(message) } else { reader.k8s(message) };
        policy.rules.shrink_to_fit();
        policy.problems = reader.into_problems();
        policy
    }

    /// The source as the controller knows it.
    pub fn reference(&self) -> controlplane::NetworkPolicyReference {
        let (kind, rest) = self.source.split_once(':').unwrap_or_default();
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        controlplane::NetworkPolicyReference {
            type_: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: self.name.to_string(),
        }
    }

    /// The policy before it is in force.
    pub fn without_rules(&self) -> Self {
        Self { rules: Vec::new(), problems: Vec::new(), ..self.clone() }
    }

    /// Names of its AddressGroups, with repetitions.
    pub fn address_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.groups)
    }

    /// Domain names of its rules, with repetitions.
    pub(crate) fn fqdns(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.fqdns)
    }

    /// Services that its rules are about, with repetitions.
    pub(crate) fn to_services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.to_services)
    }

    /// Services that its rules apply to, with repetitions.
    pub(crate) fn on_services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.on_services)
    }

    /// Names of its AppliedToGroups, with repetitions.
    pub fn applied_to_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.applied_to)
    }
}

impl Standing {
    /// Its place among native rules.
    pub fn rank(self) -> Option<Rank> {
        match self {
            Self::K8s => None,
            Self::Native(rank) | Self::Baseline(rank) => Some(rank),
        }
    }
}

impl RuleSpec {
    /// A Kubernetes rule that isolates and allows nothing.
    pub(crate) fn isolating(direction: Direction, applied_to: Vec<Arc<str>>) -> Self {
        Self {
            direction,
            name: None,
            standing: Standing::K8s,
            action: Action::Allow,
            keeps: true,
            applied_to,
            on_services: Vec::new(),
            groups: Vec::new(),
            fqdns: Vec::new(),
            to_services: Vec::new(),
            nets: SortedSet::new(),
            services: Vec::new(),
            logs: false,
            label: None,
        }
    }

    /// Whether it does no more than isolate.
    fn says_nothing(&self) -> bool {
        self.groups.is_empty() && self.nets.is_empty() && self.services.is_empty()
    }

    /// Whether what it matches is not let through.
    pub fn denies(&self) -> bool {
        matches!(self.action, Action::Drop | Action::Reject)
    }

    /// Whether a service has a name that members resolve.
    pub fn has_named_ports(&self) -> bool {
        self.services.iter().any(|service| matches!(service, NamedService::Named { .. }))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    // Go's net.IP keeps IPv4 addresses in 16 bytes too.
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::from(v6).to_canonical())
}

fn net(net: &controlplane::IpNet) -> Option<IpNet> {
    let length = u8::try_from(net.prefix_length).ok()?;
    // In 16 bytes a length beyond 32 counts the bits of an IPv6 address.
    match <[u8; 16]>::try_from(&*net.ip) {
        Ok(v6) if length > 32 => cidr::plain_block(v6.into(), length),
        _ => IpNet::new(address(&net.ip)?, length).ok().map(|net| net.trunc()),
    }
}

impl Member {
    /// Reads a message; addresses and ports that make no sense are left out.
    pub fn read(message: &GroupMember) -> (MemberKey, Self) {
        let ips: PodIps = message.ips.iter().filter_map(|ip| address(ip)).collect();
        let ports = message.ports.iter().filter_map(|port| {
            Some(NamedPort {
                name: port.name.as_str().into(),
                port: u16::try_from(port.port).ok().filter(|port| *port > 0)?,
                protocol: Protocol::transport(&port.protocol)?,
            })
        });
        let key = match message {
            GroupMember { pod: Some(pod), .. } => MemberKey::Pod(pod.clone()),
            GroupMember { external_entity: Some(entity), .. } => MemberKey::External(entity.clone()),
            GroupMember { node: Some(node), .. } => MemberKey::Node(node.name.clone(), ips.clone()),
            GroupMember { service: Some(service), .. } => MemberKey::Service(service.clone()),
            _ => MemberKey::Addresses(ips.to_vec()),
        };
        (key, Self { ports: ports.collect(), ips })
    }

    /// The message again.
    pub fn write(&self, key: &MemberKey) -> GroupMember {
        let mut message = GroupMember {
            ips: self
                .ips
                .iter()
                .map(|ip| match ip {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                })
                .collect(),
            ports: self
                .ports
                .iter()
                .map(|port| controlplane::NamedPort {
                    port: port.port.into(),
                    name: port.name.to_string(),
                    protocol: port.protocol.as_str().to_owned(),
                })
                .collect(),
            ..GroupMember::default()
        };
        match key {
            MemberKey::Pod(pod) => message.pod = Some(pod.clone()),
            MemberKey::External(entity) => message.external_entity = Some(entity.clone()),
            MemberKey::Node(name, _) => {
                message.node = Some(controlplane::NodeReference { name: name.clone() })
            }
            MemberKey::Service(service) => message.service = Some(service.clone()),
            MemberKey::Addresses(_) => {}
        }
        message
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
