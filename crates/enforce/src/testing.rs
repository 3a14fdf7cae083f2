//! Objects as the controller sends them, pods and a pipeline, for tests.

#![allow(clippy::unwrap_used)]

use antrea_api::controlplane::{
    self, AddressGroup, AddressGroupPatch, AppliedToGroup, AppliedToGroupPatch, Damaged, Event, GroupEvent,
    GroupMember, K8S_NETWORK_POLICY, NetworkPolicyPeer, NetworkPolicyReference, NetworkPolicyRule,
    ObjectReference,
};
use antrea_api::k8s::{DecodeError, ObjectMeta};
use antrea_flows::{Datapath, EncapMode, Gateway, Network, NodeConfig, Round};

use crate::cache::Kind;
use crate::pods::LocalPod;

/// An ingress policy for `applied_to` that allows `groups`.
pub fn policy(name: &str, generation: i64, applied_to: &str, groups: &[&str]) -> controlplane::NetworkPolicy {
    controlplane::NetworkPolicy {
        metadata: ObjectMeta { generation, ..ObjectMeta::named(name) },
        rules: vec![NetworkPolicyRule {
            direction: "In".into(),
            from: NetworkPolicyPeer {
                address_groups: groups.iter().map(ToString::to_string).collect(),
                ..NetworkPolicyPeer::default()
            },
            ..NetworkPolicyRule::default()
        }],
        applied_to_groups: vec![applied_to.to_owned()],
        source_ref: Some(NetworkPolicyReference {
            type_: K8S_NETWORK_POLICY.into(),
            ..NetworkPolicyReference::default()
        }),
        ..controlplane::NetworkPolicy::default()
    }
}

/// A cluster-wide native policy; its rules have the order in which they stand.
pub fn native(
    name: &str,
    (tier, priority): (i32, f64),
    applied_to: &str,
    rules: Vec<NetworkPolicyRule>,
) -> controlplane::NetworkPolicy {
    let rules = (0..).zip(rules).map(|(i, rule)| NetworkPolicyRule { priority: i, ..rule }).collect();
    controlplane::NetworkPolicy {
        metadata: ObjectMeta { generation: 1, ..ObjectMeta::named(name) },
        rules,
        applied_to_groups: vec![applied_to.to_owned()],
        priority: Some(priority),
        tier_priority: Some(tier),
        source_ref: Some(NetworkPolicyReference {
            type_: controlplane::ANTREA_CLUSTER_NETWORK_POLICY.into(),
            name: name.into(),
            ..NetworkPolicyReference::default()
        }),
        ..controlplane::NetworkPolicy::default()
    }
}

/// An ingress rule about these groups.
pub fn native_rule(action: &str, groups: &[&str]) -> NetworkPolicyRule {
    NetworkPolicyRule { action: Some(action.into()), ..policy("", 0, "", groups).rules.remove(0) }
}

pub fn member(pod: &str, ips: &[&str]) -> GroupMember {
    GroupMember {
        pod: Some(ObjectReference { name: pod.into(), namespace: "ns".into() }),
        ips: ips.iter().map(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec()).collect(),
        ..GroupMember::default()
    }
}

pub fn address_group(name: &str, members: Vec<GroupMember>) -> Event {
    Event::AddressGroup(GroupEvent::Added(AddressGroup {
        metadata: ObjectMeta::named(name),
        group_members: members,
    }))
}

pub fn applied_to_group(name: &str, pods: &[&str]) -> Event {
    let group_members = pods.iter().map(|pod| member(pod, &[])).collect();
    Event::AppliedToGroup(GroupEvent::Added(AppliedToGroup {
        metadata: ObjectMeta::named(name),
        group_members,
    }))
}

pub fn address_patch(name: &str, removed: Vec<GroupMember>, added: Vec<GroupMember>) -> Event {
    Event::AddressGroup(GroupEvent::Patched(AddressGroupPatch {
        metadata: ObjectMeta::named(name),
        added_group_members: added,
        removed_group_members: removed,
    }))
}

pub fn applied_to_patch(name: &str, removed: Vec<GroupMember>, added: Vec<GroupMember>) -> Event {
    Event::AppliedToGroup(GroupEvent::Patched(AppliedToGroupPatch {
        metadata: ObjectMeta::named(name),
        added_group_members: added,
        removed_group_members: removed,
    }))
}

/// A policy that does not decode, but for its name and what it applies to.
pub fn damaged(name: &str, applied_to: &str) -> Event {
    let mut rest = policy(name, 0, applied_to, &[]);
    rest.rules = vec![NetworkPolicyRule::default()];
    let error = DecodeError::malformed("NetworkPolicy", "rules");
    Event::Damaged(Damaged { name: name.to_owned(), error, rest: Some(Box::new(Event::Policy(rest))) })
}

/// The watch that an event comes by.
pub fn kind_of(event: &Event) -> Kind {
    match event {
        Event::AddressGroup(_) => Kind::AddressGroups,
        Event::AppliedToGroup(_) => Kind::AppliedToGroups,
        _ => Kind::Policies,
    }
}

/// A pod `ns/name` with one address.
pub fn local_pod(name: &str, ofport: u32, ip: &str) -> LocalPod {
    LocalPod {
        pod: ObjectReference { name: name.into(), namespace: "ns".into() },
        ofport,
        ips: vec![ip.parse().unwrap()],
        uid: String::new(),
        attachment: (format!("c-{name}-{ofport}"), "eth0".into()),
    }
}

/// The pipeline of a node without tunnels.
pub fn network() -> Network {
    network_of(EncapMode::NoEncap)
}

/// The pipeline of a node without a tunnel port.
pub fn network_of(encap_mode: EncapMode) -> Network {
    network_with(encap_mode, false)
}

/// The pipeline of a node whose bridge serves Services.
pub fn serving_network() -> Network {
    network_with(EncapMode::NoEncap, true)
}

fn network_with(encap_mode: EncapMode, services: bool) -> Network {
    let config = NodeConfig {
        datapath: Datapath::Kernel,
        encap_mode,
        gateway: Gateway {
            ofport: 2,
            mac: [2, 0, 0, 0, 0, 9].into(),
            ips: vec!["10.0.0.1".parse().unwrap()],
        },
        tunnel: None,
        pod_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        service_cidrs: Vec::new(),
        antrea_policy: true,
        services,
        serves_all: false,
        metered: false,
    };
    Network::new(config, Round::FIRST)
}
