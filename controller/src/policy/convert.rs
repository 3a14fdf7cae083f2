//! From the index's model to what goes over the wire.

use std::net::IpAddr;

use antrea_api::{
    controlplane as wire,
    k8s::{IntOrString, ObjectMeta},
};
use antrea_policy::model::{
    Action, AddressMember, Direction, IpBlock, NetworkPolicy, Peer, PodMember, PolicyReference, Port, Rule,
    Service, ServiceName,
};
use ipnet::IpNet;

pub(super) fn address_group(name: &str, members: &[AddressMember]) -> wire::AddressGroup {
    wire::AddressGroup {
        metadata: group_meta(name),
        group_members: members.iter().map(address_member).collect(),
    }
}

/// Metadata of a group: its name is unique in time and space.
pub(super) fn group_meta(name: &str) -> ObjectMeta {
    ObjectMeta { uid: name.to_owned(), ..ObjectMeta::named(name) }
}

pub(super) fn address_member(member: &AddressMember) -> wire::GroupMember {
    wire::GroupMember { ips: member.ips.iter().map(octets).collect(), ..pod_member(&member.pod) }
}

pub(super) fn pod_member(pod: &PodMember) -> wire::GroupMember {
    if let Some((node, ip)) = pod.as_node() {
        let node = Some(wire::NodeReference { name: node.to_owned() });
        return wire::GroupMember {
            node,
            ips: ip.map(octets).into_iter().collect(),
            ..wire::GroupMember::default()
        };
    }
    wire::GroupMember {
        pod: Some(wire::ObjectReference {
            name: pod.name.as_ref().to_owned(),
            namespace: pod.namespace.as_ref().to_owned(),
        }),
        ports: pod
            .ports
            .iter()
            .map(|port| wire::NamedPort {
                port: i32::from(port.port),
                name: port.name.as_ref().to_owned(),
                protocol: port.protocol.as_str().to_owned(),
            })
            .collect(),
        ..wire::GroupMember::default()
    }
}

pub(super) fn network_policy(policy: &NetworkPolicy) -> wire::NetworkPolicy {
    wire::NetworkPolicy {
        rules: policy.rules.iter().map(rule).collect(),
        applied_to_groups: policy.applied_to.iter().map(ToString::to_string).collect(),
        priority: policy.priority,
        tier_priority: policy.tier_priority,
        resets_established: policy.resets_established,
        ..policy_head(policy)
    }
}

/// Which policy it is, without what it does.
pub(super) fn policy_head(policy: &NetworkPolicy) -> wire::NetworkPolicy {
    let source = &policy.source;
    wire::NetworkPolicy {
        metadata: ObjectMeta {
            uid: source.uid.as_ref().to_owned(),
            generation: policy.generation,
            ..ObjectMeta::named(policy.name.as_ref())
        },
        source_ref: Some(reference(source)),
        ..wire::NetworkPolicy::default()
    }
}

pub(super) fn reference(source: &PolicyReference) -> wire::NetworkPolicyReference {
    wire::NetworkPolicyReference {
        type_: source.kind.as_str().to_owned(),
        namespace: source.namespace.as_deref().unwrap_or_default().to_owned(),
        name: source.name.as_ref().to_owned(),
        uid: source.uid.as_ref().to_owned(),
    }
}

pub(super) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "In",
        Direction::Out => "Out",
    }
}

pub(super) fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "Allow",
        Action::Drop => "Drop",
        Action::Reject => "Reject",
        Action::Pass => "Pass",
    }
}

fn rule(rule: &Rule) -> wire::NetworkPolicyRule {
    let (from, to) = match rule.direction {
        Direction::In => (peer(&rule.peer), wire::NetworkPolicyPeer::default()),
        Direction::Out => (wire::NetworkPolicyPeer::default(), peer(&rule.peer)),
    };
    wire::NetworkPolicyRule {
        direction: direction(rule.direction).to_owned(),
        from,
        to,
        services: rule.services.iter().map(service).collect(),
        priority: rule.priority,
        action: Some(action(rule.action).to_owned()),
        enable_logging: rule.enable_logging,
        applied_to_groups: rule.applied_to.iter().map(ToString::to_string).collect(),
        name: rule.name.as_deref().unwrap_or_default().to_owned(),
        log_label: rule.log_label.as_deref().unwrap_or_default().to_owned(),
        applied_to_services: rule.on_services.iter().map(service_name).collect(),
    }
}

fn peer(peer: &Peer) -> wire::NetworkPolicyPeer {
    wire::NetworkPolicyPeer {
        address_groups: peer.address_groups.iter().map(ToString::to_string).collect(),
        ip_blocks: peer.ip_blocks.iter().map(ip_block).collect(),
        fqdns: peer.fqdns.iter().map(ToString::to_string).collect(),
        to_services: peer.to_services.iter().map(service_name).collect(),
        ..wire::NetworkPolicyPeer::default()
    }
}

fn service_name(service: &ServiceName) -> wire::ObjectReference {
    wire::ObjectReference { name: service.name.to_string(), namespace: service.namespace.to_string() }
}

fn ip_block(block: &IpBlock) -> wire::IpBlock {
    wire::IpBlock { cidr: ip_net(&block.cidr), except: block.except.iter().map(ip_net).collect() }
}

pub(super) fn ip_net(net: &IpNet) -> wire::IpNet {
    wire::IpNet { ip: octets(net.addr()), prefix_length: i32::from(net.prefix_len()) }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn service(service: &Service) -> wire::Service {
    wire::Service {
        protocol: Some(service.protocol.as_str().to_owned()),
        port: service.port.as_ref().map(|port| match port {
            Port::Number(number) => IntOrString::int(i32::from(*number)),
            Port::Name(name) => IntOrString::string(name.as_ref()),
        }),
        end_port: service.end_port.map(i32::from),
        icmp_type: service.icmp_type.map(i32::from),
        icmp_code: service.icmp_code.map(i32::from),
        src_port: service.src_port.map(i32::from),
        src_end_port: service.src_end_port.map(i32::from),
        ..wire::Service::default()
    }
}
