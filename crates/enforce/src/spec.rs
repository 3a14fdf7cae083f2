//! Policies and members as the agent keeps them, read from the controller's messages.
//!
//! A mistake in a message never opens anything: what cannot be read is left out of what a rule allows, and
//! the rule goes on to isolate. So does a rule that is larger than a node can be asked to hold
//! ([`antrea_policy::limits`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use antrea_api::controlplane::{self, GroupMember, NetworkPolicyRule, ObjectReference};
use antrea_flows::policy::{Direction, NamedPort, NamedService, PodIps, PortRange, Protocol, Service};
use antrea_policy::cidr::{self, CidrError};
use antrea_policy::limits::{Budget, TooLarge};
use ipnet::IpNet;

/// Problems that are kept of a policy; of more only the number is told.
const PROBLEMS: usize = 16;

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// UID of the source, by which the controller knows it.
    pub name: Arc<str>,
    /// Generation of the source.
    pub generation: i64,
    /// Rules.
    pub rules: Vec<RuleSpec>,
    /// What could not be read or is not supported.
    pub problems: Vec<String>,
}

/// A rule whose group names are not resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSpec {
    /// Seen from the pods that the rule applies to.
    pub direction: Direction,
    /// AppliedToGroups.
    pub applied_to: Vec<Arc<str>>,
    /// AddressGroups whose members are peers.
    pub groups: Vec<Arc<str>>,
    /// Further peers; exceptions are subtracted.
    pub nets: BTreeSet<IpNet>,
    /// Alternatives; empty is all traffic.
    pub services: Vec<NamedService>,
}

/// Identity of a group's member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberKey {
    /// A pod.
    Pod(ObjectReference),
    /// An ExternalEntity.
    External(ObjectReference),
    /// A node.
    Node(String),
    /// A Service.
    Service(ObjectReference),
    /// Nothing but addresses.
    Addresses(Vec<IpAddr>),
}

/// What a group says of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Addresses.
    pub ips: PodIps,
    /// Named ports.
    pub ports: Box<[NamedPort]>,
}

impl Policy {
    /// Reads a message.
    pub fn read(message: &controlplane::NetworkPolicy) -> Self {
        let mut policy = Self {
            name: message.metadata.name.as_str().into(),
            generation: message.metadata.generation,
            rules: Vec::new(),
            problems: Vec::new(),
        };
        let kind = message.source_ref.as_ref().map_or("", |source| source.type_.as_str());
        if kind != controlplane::K8S_NETWORK_POLICY {
            policy.problems.push(format!("policies of type {kind:?} are not supported"));
            return policy;
        }
        let mut isolating = Vec::new();
        let mut reader = Reader { at: 0, problems: Vec::new(), more: 0, budget: Budget::default() };
        for (i, rule) in message.rules.iter().enumerate() {
            reader.at = i;
            let applied_to = if rule.applied_to_groups.is_empty() {
                &message.applied_to_groups
            } else {
                &rule.applied_to_groups
            };
            for rule in reader.rule(rule, applied_to) {
                if rule.allows_nothing() {
                    // One does what many do, and there is no other limit to their number.
                    if isolating.contains(&rule) {
                        continue;
                    }
                    isolating.push(rule.clone());
                }
                policy.rules.push(rule);
            }
        }
        policy.problems = reader.problems;
        if reader.more > 0 {
            policy.problems.push(format!("{} more", reader.more));
        }
        policy
    }

    /// Names of its AddressGroups, with repetitions.
    pub fn address_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.groups)
    }

    /// Names of its AppliedToGroups, with repetitions.
    pub fn applied_to_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.applied_to)
    }
}

impl RuleSpec {
    /// Whether it does no more than isolate.
    fn allows_nothing(&self) -> bool {
        self.groups.is_empty() && self.nets.is_empty() && self.services.is_empty()
    }

    /// Whether a service has a name that members resolve.
    pub fn has_named_ports(&self) -> bool {
        self.services.iter().any(|service| matches!(service, NamedService::Named { .. }))
    }
}

/// What a rule allows: services and addresses.
type Contents = (Vec<NamedService>, BTreeSet<IpNet>);

struct Reader {
    at: usize,
    problems: Vec<String>,
    more: usize,
    budget: Budget,
}

impl Reader {
    fn problem(&mut self, text: impl std::fmt::Display) {
        let at = self.at;
        if self.problems.len() < PROBLEMS {
            self.problems.push(format!("rule {at}: {text}"));
        } else {
            self.more += 1;
        }
    }

    fn rule(&mut self, rule: &NetworkPolicyRule, applied_to: &[String]) -> Vec<RuleSpec> {
        let applied_to: Vec<Arc<str>> = applied_to.iter().map(|name| name.as_str().into()).collect();
        let isolate = |direction| RuleSpec {
            direction,
            applied_to: applied_to.clone(),
            groups: Vec::new(),
            nets: BTreeSet::new(),
            services: Vec::new(),
        };
        let (direction, peer) = match rule.direction.as_str() {
            "In" => (Direction::In, &rule.from),
            "Out" => (Direction::Out, &rule.to),
            other => {
                self.problem(format_args!("direction {other:?}, isolating both"));
                return vec![isolate(Direction::In), isolate(Direction::Out)];
            }
        };
        if let Some(action) = rule.action.as_deref().filter(|action| *action != "Allow") {
            self.problem(format_args!("action {action:?} in a Kubernetes policy"));
            return vec![isolate(direction)];
        }
        if !(peer.fqdns.is_empty() && peer.to_services.is_empty() && peer.label_identities.is_empty()) {
            self.problem("peers of a kind that Kubernetes policies do not have");
        }
        match self.contents(rule, peer) {
            Ok(Some((services, nets))) => {
                let groups = peer.address_groups.iter().map(|name| name.as_str().into()).collect();
                vec![RuleSpec { direction, applied_to, groups, nets, services }]
            }
            Ok(None) => vec![isolate(direction)],
            Err(error) => {
                self.problem(error);
                vec![isolate(direction)]
            }
        }
    }

    /// What a rule allows of services and addresses; `None` if all of its services are unreadable.
    fn contents(
        &mut self,
        rule: &NetworkPolicyRule,
        peer: &controlplane::NetworkPolicyPeer,
    ) -> Result<Option<Contents>, TooLarge> {
        self.budget.begin_rule();
        let mut services = Vec::new();
        for service in &rule.services {
            match read_service(service) {
                Ok(service) => {
                    self.budget.take(matches(&service))?;
                    services.push(service);
                }
                Err(error) => self.problem(error),
            }
        }
        if services.is_empty() && !rule.services.is_empty() {
            return Ok(None);
        }
        self.budget.take(peer.address_groups.len())?;
        let mut nets = BTreeSet::new();
        for block in &peer.ip_blocks {
            nets.extend(self.block(block)?);
        }
        self.budget.end_rule()?;
        Ok(Some((services, nets)))
    }

    fn block(&mut self, block: &controlplane::IpBlock) -> Result<Vec<IpNet>, TooLarge> {
        let left = self.budget.left();
        let read = || {
            let cidr = net(&block.cidr)?;
            let except = block.except.iter().map(net).collect::<Option<Vec<_>>>()?;
            Some(cidr::subtract(cidr, &except, left))
        };
        match read() {
            Some(Ok(nets)) => {
                self.budget.take(nets.len())?;
                Ok(nets)
            }
            Some(Err(CidrError::TooMany { .. })) => self.budget.take(left + 1).map(|()| Vec::new()),
            Some(Err(CidrError::Outside { .. })) | None => {
                self.problem("malformed ipBlock");
                Ok(Vec::new())
            }
        }
    }
}

/// Matches that a service needs.
fn matches(service: &NamedService) -> usize {
    let NamedService::Plain(service) = service else { return 1 };
    let masks = |range: Option<PortRange>| range.map_or(1, |range| range.masks().len());
    masks(service.ports) * masks(service.src_ports)
}

fn read_service(service: &controlplane::Service) -> Result<NamedService, String> {
    let name = service.protocol.as_deref().unwrap_or("TCP");
    let protocol = match name {
        "ICMP" => Protocol::Icmp,
        "IGMP" => Protocol::Igmp,
        name => Protocol::transport(name).ok_or_else(|| format!("protocol {name:?}"))?,
    };
    let number = |value: i32| u16::try_from(value).map_err(|_| format!("port {value}"));
    let octet = |value: i32| u8::try_from(value).map_err(|_| format!("ICMP type or code {value}"));
    let range = |first: Option<i32>, last: Option<i32>| -> Result<Option<PortRange>, String> {
        let Some(first) = first else { return Ok(None) };
        let (first, last) = (number(first)?, last.map(number).transpose()?);
        PortRange::new(first, last.unwrap_or(first)).map(Some).map_err(|error| error.to_string())
    };
    let port = match &service.port {
        Some(port) if port.kind == 1 => {
            return Ok(NamedService::Named { protocol, name: port.str_val.as_str().into() });
        }
        Some(port) => Some(port.int_val),
        None => None,
    };
    Ok(NamedService::Plain(Service {
        protocol,
        ports: range(port, service.end_port)?,
        src_ports: range(service.src_port, service.src_end_port)?,
        icmp_type: service.icmp_type.map(octet).transpose()?,
        icmp_code: service.icmp_code.map(octet).transpose()?,
    }))
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
            GroupMember { node: Some(node), .. } => MemberKey::Node(node.name.clone()),
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
            MemberKey::Node(name) => message.node = Some(controlplane::NodeReference { name: name.clone() }),
            MemberKey::Service(service) => message.service = Some(service.clone()),
            MemberKey::Addresses(_) => {}
        }
        message
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
