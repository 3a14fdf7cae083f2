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

    /// What the controller sends, byte by byte: its tests make the same file.
    fn sent() -> Vec<u8> {
        let text = include_str!("../../api/testdata/networkpolicy.hex");
        let digits: String = text.split_ascii_whitespace().collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn reads_what_the_controller_sends() {
        let message = antrea_api::k8s::open(sent().into()).unwrap().decode().unwrap();
        let policy = Policy::read(&message);
        assert!(policy.problems.is_empty(), "{:?}", policy.problems);
        assert_eq!((&*policy.name, policy.generation, policy.rules.len()), ("uid-p", 7, 3));
        let [ingress, egress, all] = &policy.rules[..] else { panic!("{:?}", policy.rules) };
        let to = |protocol, first, last| {
            NamedService::Plain(Service::to(protocol, PortRange::new(first, last).unwrap()))
        };
        let contains = |rule: &RuleSpec, ip: &str| {
            rule.nets.iter().any(|net| net.contains(&ip.parse::<IpAddr>().unwrap()))
        };

        assert_eq!(
            (ingress.direction, egress.direction, all.direction),
            (Direction::In, Direction::Out, Direction::Out)
        );
        for (ip, allowed) in [
            ("10.20.0.0", true),
            ("10.20.255.255", true),
            ("10.20.4.255", true),
            ("10.20.5.0", false),
            ("10.20.5.255", false),
            ("10.20.6.0", true),
            ("10.20.7.7", false),
            ("10.20.7.8", true),
            ("10.19.255.255", false),
            ("10.21.0.0", false),
            ("::1", false),
        ] {
            assert_eq!(contains(ingress, ip), allowed, "{ip}");
        }
        assert_eq!(
            ingress.services,
            [to(Protocol::Tcp, 8000, 8999), to(Protocol::Udp, 53, 53), to(Protocol::Sctp, 3868, 3870)]
        );
        for (ip, allowed) in [
            ("fd00:10::", true),
            ("fd00:10:4:ffff::1", true),
            ("fd00:10:5::", false),
            ("fd00:10:5:ffff::1", false),
            ("fd00:10:6::", true),
            ("fd00:11::", false),
            ("10.20.0.1", false),
        ] {
            assert_eq!(contains(egress, ip), allowed, "{ip}");
        }
        let udp = Service {
            protocol: Protocol::Udp,
            ports: None,
            src_ports: None,
            icmp_type: None,
            icmp_code: None,
        };
        assert_eq!(egress.services, [NamedService::Plain(udp), to(Protocol::Tcp, 65_534, 65_535)]);
        let nets: Vec<_> = all.nets.iter().map(ToString::to_string).collect();
        assert_eq!(
            (nets.as_slice(), all.services.len()),
            (&["0.0.0.0/0".to_owned(), "::/0".to_owned()][..], 0)
        );
    }

    #[test]
    fn ipv4_in_sixteen_bytes() {
        let mapped = [[0; 10].as_slice(), &[0xff, 0xff, 10, 244, 1, 0]].concat();
        let read = |ip: &[u8], prefix_length| net(&controlplane::IpNet { ip: ip.to_vec(), prefix_length });
        let v4 = "10.244.1.0/24".parse().ok();
        // As Go writes `10.244.1.0/24` and `::ffff:10.244.1.0/120`.
        assert_eq!([read(&mapped, 24), read(&mapped, 120), read(&[10, 244, 1, 0], 24)], [v4; 3]);
        assert_eq!(read(&mapped, 95), "::fffe:0:0/95".parse().ok());
        assert_eq!(read(&[0; 16], 0), "::/0".parse().ok());
        assert_eq!(
            [read(&mapped, 129), read(&[10, 244, 1, 0], 33), read(&[10], 8), read(&mapped, -1)],
            [None; 4]
        );
    }

    #[test]
    fn a_rule_that_is_too_large_isolates_and_is_named() {
        let spread = |n: u32, step: u32| {
            let except =
                (0..n).map(|i| (i * step).to_be_bytes()).map(|[_, a, b, c]| format!("10.{a}.{b}.{c}/32"));
            except.collect::<Vec<_>>()
        };
        let except = spread(30_000, 500);
        let except: Vec<_> = except.iter().map(String::as_str).collect();
        let policy = read(rule(block("10.0.0.0/8", &except), vec![]));
        assert_eq!(policy.rules.len(), 1);
        assert!(policy.rules[0].nets.is_empty());
        let expected =
            "rule 0: the rule needs more than 4096 matches of addresses and ports and allows nothing";
        assert_eq!(policy.problems, [expected]);

        // Neither blocks nor port ranges are a way round.
        let blocks = NetworkPolicyPeer {
            ip_blocks: (0..5000u32)
                .map(|i| IpBlock { cidr: cidr(&format!("10.0.{}.{}/32", i >> 8, i & 255)), except: vec![] })
                .collect(),
            ..NetworkPolicyPeer::default()
        };
        let ranges = (1..200).map(|i| controlplane::Service {
            port: Some(IntOrString::int(i)),
            end_port: Some(65_535 - i),
            ..Default::default()
        });
        for large in [rule(blocks, vec![]), rule(block("10.0.0.0/8", &[]), ranges.collect())] {
            let policy = read(large);
            assert!(policy.rules[0].allows_nothing(), "{:?}", policy.rules[0].nets.len());
            assert_eq!(policy.problems, [expected]);
        }
        // As many as there may be.
        let few = NetworkPolicyPeer {
            ip_blocks: (0..4096u32)
                .map(|i| IpBlock { cidr: cidr(&format!("10.0.{}.{}/32", i >> 8, i & 255)), except: vec![] })
                .collect(),
            ..NetworkPolicyPeer::default()
        };
        let policy = read(rule(few, vec![]));
        assert_eq!((policy.rules[0].nets.len(), policy.problems.len()), (4096, 0));
    }

    #[test]
    fn a_policy_has_a_limit_too() {
        let mut message = controlplane::NetworkPolicy {
            applied_to_groups: vec!["a".into()],
            source_ref: Some(NetworkPolicyReference {
                type_: controlplane::K8S_NETWORK_POLICY.into(),
                ..NetworkPolicyReference::default()
            }),
            ..controlplane::NetworkPolicy::default()
        };
        message.rules = vec![rule(block("10.0.0.0/8", &[]), vec![]); 20_000];
        let policy = Policy::read(&message);
        // One rule stands for all that only isolate.
        assert_eq!(policy.rules.len(), 16_385);
        assert!(policy.rules[16_384].allows_nothing());
        assert_eq!(policy.problems.len(), PROBLEMS + 1);
        assert!(policy.problems[0].starts_with("rule 16384: the policy needs more than 16384 matches"));
        assert_eq!(policy.problems[PROBLEMS], "3600 more");
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
