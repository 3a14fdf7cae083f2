//! Policies and members as the agent keeps them, read from the controller's messages.
//!
//! A mistake in a message never opens anything: what cannot be read is left out of what a rule allows, and
//! the rule goes on to isolate.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use antrea_api::controlplane::{self, GroupMember, NetworkPolicyRule, ObjectReference};
use antrea_flows::policy::{Direction, NamedPort, NamedService, PodIps, PortRange, Protocol, Service};
use antrea_policy::cidr;
use ipnet::IpNet;

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    /// UID of the source, by which the controller knows it.
    pub(crate) name: Arc<str>,
    /// Generation of the source.
    pub(crate) generation: i64,
    /// Rules.
    pub(crate) rules: Vec<RuleSpec>,
    /// What could not be read or is not supported.
    pub(crate) problems: Vec<String>,
}

/// A rule whose group names are not resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RuleSpec {
    /// Seen from the pods that the rule applies to.
    pub(crate) direction: Direction,
    /// AppliedToGroups.
    pub(crate) applied_to: Vec<Arc<str>>,
    /// AddressGroups whose members are peers.
    pub(crate) groups: Vec<Arc<str>>,
    /// Further peers; exceptions are subtracted.
    pub(crate) nets: BTreeSet<IpNet>,
    /// Alternatives; empty is all traffic.
    pub(crate) services: Vec<NamedService>,
}

/// Identity of a group's member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum MemberKey {
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
pub(crate) struct Member {
    /// Addresses.
    pub(crate) ips: PodIps,
    /// Named ports.
    pub(crate) ports: Box<[NamedPort]>,
}

impl Policy {
    /// Reads a message.
    pub(crate) fn read(message: &controlplane::NetworkPolicy) -> Self {
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
        for (i, rule) in message.rules.iter().enumerate() {
            let applied_to = if rule.applied_to_groups.is_empty() {
                &message.applied_to_groups
            } else {
                &rule.applied_to_groups
            };
            let mut reader = Reader { at: i, problems: &mut policy.problems };
            policy.rules.extend(reader.rule(rule, applied_to));
        }
        policy
    }

    /// Names of its AddressGroups, with repetitions.
    pub(crate) fn address_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.groups)
    }

    /// Names of its AppliedToGroups, with repetitions.
    pub(crate) fn applied_to_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(|rule| &rule.applied_to)
    }
}

impl RuleSpec {
    /// Whether a service has a name that members resolve.
    pub(crate) fn has_named_ports(&self) -> bool {
        self.services.iter().any(|service| matches!(service, NamedService::Named { .. }))
    }
}

struct Reader<'a> {
    at: usize,
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, text: impl std::fmt::Display) {
        let at = self.at;
        self.problems.push(format!("rule {at}: {text}"));
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
        let services: Vec<_> = rule.services.iter().filter_map(|service| self.service(service)).collect();
        if services.is_empty() && !rule.services.is_empty() {
            return vec![isolate(direction)];
        }
        let nets = peer.ip_blocks.iter().flat_map(|block| self.block(block)).collect();
        let groups = peer.address_groups.iter().map(|name| name.as_str().into()).collect();
        vec![RuleSpec { direction, applied_to, groups, nets, services }]
    }

    fn block(&mut self, block: &controlplane::IpBlock) -> Vec<IpNet> {
        let read = || {
            let cidr = net(&block.cidr)?;
            let except = block.except.iter().map(net).collect::<Option<Vec<_>>>()?;
            cidr::subtract(cidr, &except).ok()
        };
        read().unwrap_or_else(|| {
            self.problem("malformed ipBlock");
            Vec::new()
        })
    }

    fn service(&mut self, service: &controlplane::Service) -> Option<NamedService> {
        let read = read_service(service);
        if let Err(error) = &read {
            self.problem(error);
        }
        read.ok()
    }
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
    IpNet::new(address(&net.ip)?, length).ok().map(|net| net.trunc())
}

impl Member {
    /// Reads a message; addresses and ports that make no sense are left out.
    pub(crate) fn read(message: &GroupMember) -> (MemberKey, Self) {
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
    pub(crate) fn write(&self, key: &MemberKey) -> GroupMember {
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
mod tests {
    use antrea_api::controlplane::{IpBlock, NetworkPolicyPeer, NetworkPolicyReference};
    use antrea_api::k8s::{IntOrString, ObjectMeta};

    use super::*;

    fn cidr(text: &str) -> controlplane::IpNet {
        let net: IpNet = text.parse().unwrap();
        let ip = match net.addr() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        controlplane::IpNet { ip, prefix_length: net.prefix_len().into() }
    }

    fn read(rule: NetworkPolicyRule) -> Policy {
        Policy::read(&controlplane::NetworkPolicy {
            metadata: ObjectMeta { generation: 3, ..ObjectMeta::named("uid") },
            rules: vec![rule],
            applied_to_groups: vec!["a".into()],
            source_ref: Some(NetworkPolicyReference {
                type_: controlplane::K8S_NETWORK_POLICY.into(),
                ..NetworkPolicyReference::default()
            }),
            ..controlplane::NetworkPolicy::default()
        })
    }

    fn rule(peer: NetworkPolicyPeer, services: Vec<controlplane::Service>) -> NetworkPolicyRule {
        NetworkPolicyRule { direction: "In".into(), from: peer, services, ..NetworkPolicyRule::default() }
    }

    fn block(cidr_: &str, except: &[&str]) -> NetworkPolicyPeer {
        let block = IpBlock { cidr: cidr(cidr_), except: except.iter().map(|text| cidr(text)).collect() };
        NetworkPolicyPeer { ip_blocks: vec![block], ..NetworkPolicyPeer::default() }
    }

    #[test]
    fn reads_blocks_ports_and_names() {
        let service = |port, end_port| controlplane::Service { port, end_port, ..Default::default() };
        let policy = read(rule(
            block("10.0.0.0/30", &["10.0.0.1/32"]),
            vec![
                service(Some(IntOrString::int(80)), Some(90)),
                service(Some(IntOrString::string("web")), None),
            ],
        ));
        assert!(policy.problems.is_empty(), "{:?}", policy.problems);
        let rule = &policy.rules[0];
        let nets: Vec<_> = rule.nets.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.0.0.0/32", "10.0.0.2/31"]);
        let ports = PortRange::new(80, 90).unwrap();
        assert_eq!(rule.services[0], NamedService::Plain(Service::to(Protocol::Tcp, ports)));
        assert!(rule.has_named_ports());
        assert_eq!(&*rule.applied_to[0], "a");
        assert_eq!(policy.generation, 3);
    }

    #[test]
    fn mistakes_isolate_and_are_named() {
        // An exception outside the block would allow more if it were ignored.
        let policy = read(rule(block("10.0.0.0/24", &["10.1.0.0/32"]), vec![]));
        assert!(policy.rules[0].nets.is_empty() && policy.problems[0].contains("ipBlock"));

        let bad = controlplane::Service { protocol: Some("XTP".into()), ..Default::default() };
        let policy = read(rule(block("10.0.0.0/24", &[]), vec![bad]));
        assert!(policy.rules[0].nets.is_empty(), "no services must not mean all services");
        assert!(policy.problems[0].contains("XTP"));

        for port in [-1, 65_536] {
            let bad = controlplane::Service { port: Some(IntOrString::int(port)), ..Default::default() };
            let policy = read(rule(block("10.0.0.0/24", &[]), vec![bad]));
            assert!(policy.rules[0].nets.is_empty() && policy.problems.len() == 1);
        }

        let odd = NetworkPolicyRule { direction: "Up".into(), ..rule(block("10.0.0.0/24", &[]), vec![]) };
        let directions: Vec<_> = read(odd).rules.iter().map(|rule| rule.direction).collect();
        assert_eq!(directions, [Direction::In, Direction::Out]);

        let drop =
            NetworkPolicyRule { action: Some("Drop".into()), ..rule(block("10.0.0.0/24", &[]), vec![]) };
        assert!(read(drop).rules[0].nets.is_empty());

        let native = controlplane::NetworkPolicy {
            source_ref: Some(NetworkPolicyReference {
                type_: "AdminNetworkPolicy".into(),
                ..Default::default()
            }),
            ..controlplane::NetworkPolicy::default()
        };
        assert!(Policy::read(&native).problems[0].contains("AdminNetworkPolicy"));
    }

    #[test]
    fn members_keep_what_matters() {
        let message = GroupMember {
            pod: Some(ObjectReference { name: "web".into(), namespace: "ns".into() }),
            ips: vec![vec![10, 0, 0, 1], [[0; 10].as_slice(), &[0xff, 0xff, 10, 0, 0, 2]].concat(), vec![1]],
            ports: vec![
                controlplane::NamedPort { port: 80, name: "web".into(), protocol: "TCP".into() },
                controlplane::NamedPort { port: 70_000, name: "bad".into(), protocol: "TCP".into() },
            ],
            ..GroupMember::default()
        };
        let (key, member) = Member::read(&message);
        let ips: Vec<_> = member.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(member.ports.len(), 1);
        assert_eq!(Member::read(&member.write(&key)), (key, member));
    }
}
