//! A copy of the state that is kept by folding changes, and the state as it can be looked up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use antrea_policy::{
    Index,
    model::{
        AddressMember, Direction, GroupChange, GroupName, IndexChange, NetworkPolicy, PodMember,
        PolicyChange, Port, SpanChange,
    },
};
use proptest::prelude::*;

use super::{
    natives,
    oracle::{Names, State},
    world::{Key, World},
};

#[derive(Default)]
pub(crate) struct Replica {
    pub state: State,
}

fn ports(pod: &PodMember) -> String {
    let list = pod.ports.iter().map(|p| format!("{}={}/{}", p.name, p.port, p.protocol.as_str()));
    list.collect::<Vec<_>>().join(",")
}

fn address(member: &AddressMember) -> String {
    let ips: Vec<_> = member.ips.iter().map(|ip| ip.to_string()).collect();
    if let Some((node, _)) = member.pod.as_node() {
        return format!("node {node} {}", ips.join(","));
    }
    format!("{}/{} {} {}", member.pod.namespace, member.pod.name, ips.join(","), ports(&member.pod))
}

fn applied_to(member: &Arc<PodMember>) -> String {
    format!("{}/{}@{} {}", member.namespace, member.name, member.node.as_ref().unwrap(), ports(member))
}

fn policy(policy: &NetworkPolicy) -> String {
    let names = |names: &[GroupName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(policy.name, policy.source.uid);
    let mut text = format!(
        "{} {}/{} generation {} order {:?} {:?} to [{}]",
        policy.source.kind.as_str(),
        policy.source.namespace.as_deref().unwrap_or_default(),
        policy.source.name,
        policy.generation,
        policy.priority,
        policy.tier_priority,
        names(&policy.applied_to),
    );
    for rule in &policy.rules {
        let blocks = rule.peer.ip_blocks.iter().map(|block| {
            let except: Vec<_> = block.except.iter().map(ToString::to_string).collect();
            format!("{}-{}", block.cidr, except.join("-"))
        });
        let services =
            rule.peer.to_services.iter().map(|service| format!("{}/{}", service.namespace, service.name));
        assert!(rule.services.len() <= 1);
        let port = rule.services.first().map(|service| match &service.port {
            Some(Port::Name(name)) => &**name,
            other => panic!("{other:?}"),
        });
        text += &format!(
            "\n  {:?} {:?} {} log {} from/to [{}] [{}] [{}] [{}] port {port:?} for [{}]",
            rule.direction,
            rule.action,
            rule.priority,
            rule.enable_logging,
            names(&rule.peer.address_groups),
            blocks.collect::<Vec<_>>().join(" "),
            rule.peer.fqdns.join(" "),
            services.collect::<Vec<_>>().join(" "),
            names(&rule.applied_to),
        );
    }
    text
}

fn names(nodes: &[Arc<str>]) -> Names {
    nodes.iter().map(ToString::to_string).collect()
}

fn fold_span(span: &mut Names, change: &SpanChange) -> Result<(), String> {
    for node in &change.removed {
        if !span.remove(&**node) {
            return Err(format!("node {node} removed that was not there"));
        }
    }
    for node in &change.added {
        if !span.insert(node.to_string()) {
            return Err(format!("node {node} added that was there"));
        }
    }
    Ok(())
}

fn fold_group<M>(
    groups: &mut BTreeMap<String, (Names, Names)>,
    name: &GroupName,
    change: GroupChange<M>,
    text: fn(&M) -> String,
) -> Result<(), String> {
    let key = name.to_string();
    match change {
        GroupChange::Created { members, span } => {
            let texts: Names = members.iter().map(text).collect();
            if texts.len() != members.len() {
                return Err("a member is there twice".into());
            }
            if groups.insert(key, (texts, names(&span))).is_some() {
                return Err("created, but is there".into());
            }
        }
        GroupChange::Updated { added, removed, span } => {
            if added.is_empty() && removed.is_empty() && span.is_empty() {
                return Err("updated without a change".into());
            }
            let (members, nodes) = groups.get_mut(&key).ok_or("updated, but is not there")?;
            for member in &removed {
                if !members.remove(&text(member)) {
                    return Err(format!("{} removed that was not there", text(member)));
                }
            }
            for member in &added {
                if !members.insert(text(member)) {
                    return Err(format!("{} added that was there", text(member)));
                }
                // Some clients apply what was added first.
                if removed.iter().any(|other| text(other) == text(member)) {
                    return Err(format!("{} removed and added", text(member)));
                }
            }
            fold_span(nodes, &span)?;
        }
        GroupChange::Deleted => {
            groups.remove(&key).ok_or("deleted, but is not there")?;
        }
    }
    Ok(())
}

impl Replica {
    pub(crate) fn fold(&mut self, change: IndexChange) -> Result<(), String> {
        let shown = format!("{change:?}");
        let state = &mut self.state;
        let folded = match change {
            IndexChange::AddressGroup(name, change) => {
                fold_group(&mut state.address_groups, &name, change, address)
            }
            IndexChange::AppliedToGroup(name, change) => {
                fold_group(&mut state.applied_to_groups, &name, change, applied_to)
            }
            IndexChange::Policy(name, change) => self.fold_policy(&name, change),
        };
        folded.map_err(|error| format!("{error}: {shown}"))
    }

    fn fold_policy(&mut self, name: &str, change: PolicyChange) -> Result<(), String> {
        let state = &mut self.state;
        match change {
            PolicyChange::Created { policy: object, span } => {
                // No policy refers to a group that is not there.
                for rule in &object.rules {
                    let peers = rule.peer.address_groups.iter();
                    if peers.clone().any(|group| !state.address_groups.contains_key(&group.to_string())) {
                        return Err("refers to an unknown AddressGroup".into());
                    }
                    let groups = object.applied_to.iter().chain(&rule.applied_to);
                    if groups.clone().any(|group| !state.applied_to_groups.contains_key(&group.to_string())) {
                        return Err("refers to an unknown AppliedToGroup".into());
                    }
                }
                if state.policies.insert(name.into(), (policy(&object), names(&span))).is_some() {
                    return Err("created, but is there".into());
                }
            }
            PolicyChange::Updated { policy: object, modified, span } => {
                let (text, nodes) = state.policies.get_mut(name).ok_or("updated, but is not there")?;
                let now = policy(&object);
                if modified != (now != *text) || (!modified && span.is_empty()) {
                    return Err("updated without a change, or changed in silence".into());
                }
                *text = now;
                fold_span(nodes, &span)?;
            }
            PolicyChange::Deleted { .. } => {
                state.policies.remove(name).ok_or("deleted, but is not there")?;
            }
        }
        Ok(())
    }
}

/// The state by looking everything up.
pub(crate) fn state_of(index: &Index) -> State {
    let policies = index.network_policies().map(|object| {
        let span = index.network_policy_span(&object.name).unwrap();
        assert_eq!(index.network_policy(&object.name).unwrap(), *object);
        (object.name.to_string(), (policy(object), names(&span)))
    });
    let address_groups = index.address_groups().map(|group| {
        assert_eq!(index.address_group(&group.name).unwrap(), group);
        (group.name.to_string(), (group.members.iter().map(address).collect(), names(&group.span)))
    });
    let applied_to_groups = index.applied_to_groups().map(|group| {
        assert_eq!(index.applied_to_group(&group.name).unwrap(), group);
        (group.name.to_string(), (group.members.iter().map(applied_to).collect(), names(&group.span)))
    });
    State {
        policies: policies.collect(),
        address_groups: address_groups.collect(),
        applied_to_groups: applied_to_groups.collect(),
    }
}

/// What single nodes and Pods are told is what follows from the whole.
pub(crate) fn check_views(index: &Index, world: &World, state: &State) -> Result<(), TestCaseError> {
    for node in ["k0", "k1", "k2", "k3"] {
        let view = index.node_view(node);
        let on_node = |groups: &BTreeMap<String, (Names, Names)>| {
            let groups = groups.iter().filter(|(_, (_, span))| span.contains(node));
            groups.map(|(name, _)| name.clone()).collect::<Names>()
        };
        let policies: Names = view.policies.iter().map(|policy| policy.name.to_string()).collect();
        let expected = state.policies.iter().filter(|(_, (_, span))| span.contains(node));
        prop_assert_eq!(policies, expected.map(|(name, _)| name.clone()).collect::<Names>());
        let addresses: Names = view.address_groups.iter().map(ToString::to_string).collect();
        prop_assert_eq!(addresses, on_node(&state.address_groups));
        let groups: Names = view.applied_to_groups.iter().map(|(name, _)| name.to_string()).collect();
        prop_assert_eq!(groups, on_node(&state.applied_to_groups));
        for (name, members) in &view.applied_to_groups {
            let all = &state.applied_to_groups[&name.to_string()].0;
            let here = all.iter().filter(|member| member.contains(&format!("@{node} ")));
            let told: Names = members.iter().map(applied_to).collect();
            prop_assert_eq!(told, here.cloned().collect::<Names>());
        }
    }
    for group in world.groups.keys() {
        let members = index.group_members(group.0, group.1).unwrap().pods;
        let told: Vec<_> = members.iter().map(|member| (&*member.pod.namespace, &*member.pod.name)).collect();
        let mut expected = natives::pods_in(world, *group);
        expected.retain(|pod| world.pods[pod].v4.is_some() || world.pods[pod].v6.is_some());
        prop_assert_eq!(told, expected);
    }
    for ((namespace, name), pod) in &world.pods {
        let effective = index.effective(namespace, name);
        let peerings = index.peerings(namespace, name);
        let groups = index.groups_with_pod(namespace, name);
        if pod.host_network || pod.terminated {
            prop_assert!(effective.is_none() && peerings.is_none() && groups.is_none());
            continue;
        }
        let of = |group: &Key| natives::pods_in(world, *group).contains(&(*namespace, *name));
        let expected: Vec<Key> = world.groups.keys().filter(|group| of(group)).copied().collect();
        let groups = groups.unwrap();
        prop_assert_eq!(groups.iter().map(|g| (&*g.namespace, &*g.name)).collect::<Vec<_>>(), expected);
        let (effective, peerings) = (effective.unwrap(), peerings.unwrap());
        let prefix = |mark: &str| format!("{namespace}/{name}{mark}");
        if pod.node.is_some() {
            let groups: BTreeSet<_> = state
                .applied_to_groups
                .iter()
                .filter(|(_, (members, _))| members.iter().any(|m| m.starts_with(&prefix("@"))))
                .map(|(name, _)| name.clone())
                .collect();
            for (direction, list) in
                [(Direction::In, &effective.ingress), (Direction::Out, &effective.egress)]
            {
                let applies = |policy: &NetworkPolicy| {
                    policy.rules.iter().any(|rule| {
                        let own =
                            if rule.applied_to.is_empty() { &policy.applied_to } else { &rule.applied_to };
                        rule.direction == direction && own.iter().any(|g| groups.contains(&g.to_string()))
                    })
                };
                let expected = index.network_policies().filter(|policy| applies(policy));
                let expected: Names = expected.map(|policy| policy.name.to_string()).collect();
                let told: Vec<_> = list.iter().map(|policy| policy.name.to_string()).collect();
                prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
            }
        }
        if pod.v4.is_some() || pod.v6.is_some() {
            let groups: Names = state
                .address_groups
                .iter()
                .filter(|(_, (members, _))| members.iter().any(|m| m.starts_with(&prefix(" "))))
                .map(|(name, _)| name.clone())
                .collect();
            let mut expected = BTreeSet::new();
            for policy in index.network_policies() {
                for (i, rule) in policy.rules.iter().enumerate() {
                    if rule.peer.address_groups.iter().any(|g| groups.contains(&g.to_string())) {
                        expected.insert((policy.name.to_string(), i));
                    }
                }
            }
            let told: Vec<_> = peerings.iter().map(|p| (p.policy.name.to_string(), p.rule)).collect();
            prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
        }
    }
    Ok(())
}
