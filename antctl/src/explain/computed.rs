//! Computed policy, of the controller or of an agent, and what it decides.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use antrea_api::controlplane as wire;
use antrea_policy::evaluate::{self, Decision, Endpoint, Traffic};
use antrea_policy::model::{
    Action, Direction, GroupName, IpBlock, NamedPort, NetworkPolicy, Peer, PolicyKind, PolicyReference, Port,
    Protocol, Rule, Service, ServiceName,
};
use ipnet::IpNet;

use super::facts::Pod;
use crate::output::address;

/// The objects of `controlplane.antrea.io` that a Node needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Computed {
    pub(super) policies: Vec<wire::NetworkPolicy>,
    /// With the Node's own Pods as members.
    pub(super) applied_to: Vec<wire::AppliedToGroup>,
    pub(super) addresses: Vec<wire::AddressGroup>,
}

impl Computed {
    /// What the policies of `subject` decide in one direction about traffic of `peers`, addresses of one party, `through` a
    /// Service that the bridge serves.
    pub(super) fn decide(
        &self,
        direction: Direction,
        subject: &Pod,
        (peers, through): (&[IpAddr], Option<&ServiceName>),
        traffic: Traffic,
    ) -> Decision {
        let mut peer = self.peer(peers);
        peer.services.extend(through.cloned());
        evaluate::decide(direction, &self.subject(subject), &peer, Some(traffic))
    }

    /// UID and generation of the policies that apply to a Pod, with what they are called.
    pub(super) fn applied(&self, pod: &Pod) -> Vec<(String, i64, String)> {
        let groups = self.groups(pod);
        let holds = |policy: &&wire::NetworkPolicy| {
            let own = policy.rules.iter().flat_map(|rule| &rule.applied_to_groups);
            policy.applied_to_groups.iter().chain(own).any(|group| groups.contains(group.as_str()))
        };
        let told = |policy: &wire::NetworkPolicy| {
            let source = policy.source_ref.clone().unwrap_or_default();
            (policy.metadata.name.clone(), policy.metadata.generation, named(&source))
        };
        self.policies.iter().filter(holds).map(told).collect()
    }

    /// Whether a policy that applies to a Pod in one direction says what cannot be read here. Without that it would decide
    /// otherwise: a rule whose only service is left out is about all of them.
    pub(super) fn is_strange(&self, direction: Direction, pod: &Pod) -> bool {
        let groups = self.groups(pod);
        let selects = |names: &[String]| names.iter().any(|group| groups.contains(group.as_str()));
        self.policies.iter().any(|policy| {
            let of_all = selects(&policy.applied_to_groups);
            let mut own = policy.rules.iter().filter(|rule| of_all || selects(&rule.applied_to_groups));
            match kind(policy) {
                None => of_all || own.next().is_some(),
                Some(_) => own.any(|rule| ends(rule).0 == direction && !is_readable(rule)),
            }
        })
    }

    fn groups(&self, pod: &Pod) -> BTreeSet<&str> {
        let holds = |group: &&wire::AppliedToGroup| member(&group.group_members, pod).is_some();
        self.applied_to.iter().filter(holds).map(|group| group.metadata.name.as_str()).collect()
    }

    fn subject(&self, pod: &Pod) -> Endpoint {
        let members = self.applied_to.iter().filter_map(|group| member(&group.group_members, pod));
        Endpoint {
            policies: self.policies.iter().filter_map(policy).map(Arc::new).collect(),
            applied_to_groups: self.groups(pod).into_iter().map(group_name).collect(),
            ports: members.flat_map(|member| &member.ports).filter_map(named_port).collect(),
            ..Endpoint::default()
        }
    }

    /// Flows know a peer by its addresses alone.
    fn peer(&self, ips: &[IpAddr]) -> Endpoint {
        let is = |member: &&wire::GroupMember| {
            member.ips.iter().filter_map(|ip| address(ip)).any(|ip| ips.contains(&ip))
        };
        let mut peer = Endpoint { ips: ips.to_vec(), ..Endpoint::default() };
        for group in &self.addresses {
            if let Some(member) = group.group_members.iter().find(is) {
                peer.address_groups.insert(group_name(&group.metadata.name));
                peer.ports.extend(member.ports.iter().filter_map(named_port));
            }
        }
        peer
    }
}

fn member<'a>(members: &'a [wire::GroupMember], wanted: &Pod) -> Option<&'a wire::GroupMember> {
    let is = |pod: &wire::ObjectReference| pod.name == wanted.name && pod.namespace == wanted.namespace;
    members.iter().find(|member| member.pod.as_ref().is_some_and(is))
}

/// Kind, namespace and name of a policy, as people know it.
fn named(source: &wire::NetworkPolicyReference) -> String {
    let kind = match source.type_.as_str() {
        wire::K8S_NETWORK_POLICY => "NetworkPolicy",
        wire::ANTREA_CLUSTER_NETWORK_POLICY => "ClusterNetworkPolicy",
        wire::CLUSTER_NETWORK_POLICY => "clusternetworkpolicy.policy.networking.k8s.io",
        wire::ANTREA_NETWORK_POLICY => "Antrea NetworkPolicy",
        other => other,
    };
    if source.namespace.is_empty() {
        format!("{kind} {}", source.name)
    } else {
        format!("{kind} {}/{}", source.namespace, source.name)
    }
}

/// The same of a policy that decides.
pub(super) fn policy_name(policy: &NetworkPolicy) -> String {
    named(&wire::NetworkPolicyReference {
        type_: policy.source.kind.as_str().to_owned(),
        namespace: policy.source.namespace.as_deref().unwrap_or_default().to_owned(),
        name: policy.source.name.to_string(),
        uid: String::new(),
    })
}

pub(super) fn service_name(namespace: &str, name: &str) -> ServiceName {
    ServiceName { namespace: namespace.into(), name: name.into() }
}

fn group_name(name: &str) -> GroupName {
    // Any text is one.
    let Ok(name) = name.parse();
    name
}

fn named_port(port: &wire::NamedPort) -> Option<NamedPort> {
    Some(NamedPort {
        name: port.name.as_str().into(),
        port: u16::try_from(port.port).ok()?,
        protocol: Protocol::transport(&port.protocol)?,
    })
}

/// None of a kind that is not known here.
fn kind(policy: &wire::NetworkPolicy) -> Option<PolicyKind> {
    match policy.source_ref.as_ref().map(|source| source.type_.as_str()) {
        Some(wire::K8S_NETWORK_POLICY) => Some(PolicyKind::K8sNetworkPolicy),
        Some(wire::ANTREA_CLUSTER_NETWORK_POLICY) => Some(PolicyKind::AntreaClusterNetworkPolicy),
        Some(wire::ANTREA_NETWORK_POLICY) => Some(PolicyKind::AntreaNetworkPolicy),
        Some(wire::CLUSTER_NETWORK_POLICY) => Some(PolicyKind::ClusterNetworkPolicy),
        _ => None,
    }
}

fn policy(policy: &wire::NetworkPolicy) -> Option<NetworkPolicy> {
    let source = policy.source_ref.clone().unwrap_or_default();
    Some(NetworkPolicy {
        name: policy.metadata.name.as_str().into(),
        source: PolicyReference {
            kind: kind(policy)?,
            namespace: Some(source.namespace.as_str()).filter(|name| !name.is_empty()).map(Into::into),
            name: source.name.as_str().into(),
            uid: source.uid.as_str().into(),
        },
        generation: policy.metadata.generation,
        priority: policy.priority,
        tier_priority: policy.tier_priority,
        resets_established: policy.resets_established,
        applied_to: policy.applied_to_groups.iter().map(|name| group_name(name)).collect(),
        rules: policy.rules.iter().map(rule).collect(),
    })
}

/// Which way a rule is about, and the other end.
fn ends(rule: &wire::NetworkPolicyRule) -> (Direction, &wire::NetworkPolicyPeer) {
    match rule.direction.as_str() {
        "Out" => (Direction::Out, &rule.to),
        _ => (Direction::In, &rule.from),
    }
}

/// Whether [`rule`] leaves nothing out.
fn is_readable(rule: &wire::NetworkPolicyRule) -> bool {
    let blocks = &ends(rule).1.ip_blocks;
    blocks.iter().all(|block| self::block(block).is_some())
        && rule.services.iter().all(|service| self::service(service).is_some())
}

fn rule(rule: &wire::NetworkPolicyRule) -> Rule {
    let (direction, peer) = ends(rule);
    Rule {
        direction,
        peer: Peer {
            address_groups: peer.address_groups.iter().map(|name| group_name(name)).collect(),
            ip_blocks: peer.ip_blocks.iter().filter_map(block).collect(),
            fqdns: peer.fqdns.iter().map(|name| name.as_str().into()).collect(),
            to_services: peer
                .to_services
                .iter()
                .map(|service| service_name(&service.namespace, &service.name))
                .collect(),
        },
        services: rule.services.iter().filter_map(service).collect(),
        priority: rule.priority,
        // What is not known denies, at the agents too.
        action: match rule.action.as_deref() {
            None | Some("" | "Allow") => Action::Allow,
            Some("Reject") => Action::Reject,
            Some("Pass") => Action::Pass,
            Some(_) => Action::Drop,
        },
        enable_logging: rule.enable_logging,
        applied_to: rule.applied_to_groups.iter().map(|name| group_name(name)).collect(),
        on_services: rule
            .applied_to_services
            .iter()
            .map(|service| service_name(&service.namespace, &service.name))
            .collect(),
        name: Some(rule.name.as_str()).filter(|name| !name.is_empty()).map(Into::into),
        log_label: None,
    }
}

fn block(block: &wire::IpBlock) -> Option<IpBlock> {
    let net = |net: &wire::IpNet| {
        IpNet::new(address(&net.ip)?, u8::try_from(net.prefix_length).ok()?).ok().map(|net| net.trunc())
    };
    let except: Option<_> = block.except.iter().map(net).collect();
    Some(IpBlock { cidr: net(&block.cidr)?, except: except? })
}

/// A number that there may be. None if there is one that is none of the kind.
fn optional<T: TryFrom<i32>>(number: Option<i32>) -> Option<Option<T>> {
    number.map(T::try_from).transpose().ok()
}

fn service(service: &wire::Service) -> Option<Service> {
    let protocol = match service.protocol.as_deref().unwrap_or("TCP") {
        "ICMP" => Protocol::Icmp,
        "IGMP" => Protocol::Igmp,
        other => Protocol::transport(other)?,
    };
    Some(Service {
        protocol,
        port: match &service.port {
            Some(named) if named.kind != 0 => Some(Port::Name(named.str_val.as_str().into())),
            Some(number) => Some(Port::Number(u16::try_from(number.int_val).ok()?)),
            None => None,
        },
        end_port: optional(service.end_port)?,
        src_port: optional(service.src_port)?,
        src_end_port: optional(service.src_end_port)?,
        icmp_type: optional(service.icmp_type)?,
        icmp_code: optional(service.icmp_code)?,
    })
}
