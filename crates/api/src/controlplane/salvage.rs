//! What can be read of an object that does not decode.
//!
//! What is made of it is stricter than the object, never more open: a policy isolates in both directions and
//! allows nothing, a group has the members that decode.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};
use prost::{
    Message,
    encoding::{DecodeContext, decode_key, skip_field},
};

use crate::{
    controlplane::{
        AddressGroup, AppliedToGroup, Event, GroupEvent, GroupMember, K8S_NETWORK_POLICY, NetworkPolicy,
        NetworkPolicyReference, NetworkPolicyRule,
    },
    k8s::{EventType, Object, ObjectMeta, Unknown},
};

/// Field number of every object's metadata.
const METADATA: u32 = 1;
/// Field number of a group's members.
const MEMBERS: u32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Meta>,
}

#[derive(Clone, PartialEq, Message)]
struct Meta {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Member {
    #[prost(message, optional, tag = "2")]
    member: Option<GroupMember>,
}

/// The object's name, if it has one that can be read.
pub(super) fn name(object: &Unknown) -> Option<String> {
    let heads = fields(object.raw.clone()).into_iter().filter(|(tag, _)| *tag == METADATA);
    let mut names = heads.filter_map(|(_, field)| Some(Head::decode(field).ok()?.metadata?.name));
    names.find(|name| !name.is_empty())
}

/// What an event that adds or replaces the object can be taken for; none of others, which only change what is
/// known.
pub(super) fn rest(kind: EventType, object: &Unknown, name: &str) -> Option<Event> {
    if !matches!(kind, EventType::Added | EventType::Modified) {
        return None;
    }
    let metadata = ObjectMeta::named(name);
    match object.kind.as_str() {
        NetworkPolicy::KIND => Some(Event::Policy(policy(metadata, object.raw.clone()))),
        AddressGroup::KIND => {
            let group = AddressGroup { metadata, group_members: members(object.raw.clone()) };
            Some(Event::AddressGroup(GroupEvent::Added(group)))
        }
        AppliedToGroup::KIND => {
            let group = AppliedToGroup { metadata, group_members: members(object.raw.clone()) };
            Some(Event::AppliedToGroup(GroupEvent::Added(group)))
        }
        _ => None,
    }
}

fn policy(metadata: ObjectMeta, raw: Bytes) -> NetworkPolicy {
    let (mut groups, mut source) = (BTreeSet::new(), None);
    for part in fields(raw).into_iter().filter_map(|(_, field)| NetworkPolicy::decode(field).ok()) {
        groups.extend(part.applied_to_groups);
        groups.extend(part.rules.into_iter().flat_map(|rule| rule.applied_to_groups));
        source = part.source_ref.or(source);
    }
    let unknown = || NetworkPolicyReference { type_: K8S_NETWORK_POLICY.to_owned(), ..Default::default() };
    NetworkPolicy {
        metadata,
        // Of no direction, which isolates both, and of no action, which native policies take for Drop.
        rules: vec![NetworkPolicyRule { action: Some(String::new()), ..NetworkPolicyRule::default() }],
        applied_to_groups: groups.into_iter().collect(),
        source_ref: Some(source.unwrap_or_else(unknown)),
        ..NetworkPolicy::default()
    }
}

fn members(raw: Bytes) -> Vec<GroupMember> {
    let fields = fields(raw).into_iter().filter(|(tag, _)| *tag == MEMBERS);
    fields.filter_map(|(_, field)| Member::decode(field).ok()?.member).collect()
}

/// The fields of a message with their numbers, as far as they can be told apart. Each is a message of its own.
fn fields(mut rest: Bytes) -> Vec<(u32, Bytes)> {
    let mut found = Vec::new();
    while rest.has_remaining() {
        let whole = rest.clone();
        let Ok((tag, wire)) = decode_key(&mut rest) else { break };
        if skip_field(wire, tag, &mut rest, DecodeContext::default()).is_err() {
            break;
        }
        found.push((tag, whole.slice(..whole.len() - rest.len())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::{DecodeError, open};

    /// The object after the first occurrence of `from` in its bytes has become `to`.
    fn damaged<T: Object>(object: &T, from: &[u8], to: &[u8]) -> Unknown {
        let mut sealed = object.seal();
        let at = sealed.windows(from.len()).position(|window| window == from).unwrap();
        sealed[at..at + from.len()].copy_from_slice(to);
        open(sealed.into()).unwrap()
    }

    fn read(kind: EventType, object: &Unknown) -> (String, Option<Event>) {
        assert!(Event::decode(kind, object).is_err());
        match Event::read(kind, object).unwrap() {
            Event::Damaged(damaged) => (damaged.name, damaged.rest.map(|rest| *rest)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_isolates_its_pods() {
        let policy = NetworkPolicy {
            metadata: ObjectMeta::named("p"),
            rules: vec![NetworkPolicyRule { direction: "Inward".into(), ..NetworkPolicyRule::default() }],
            applied_to_groups: vec!["a".into(), "b".into()],
            ..NetworkPolicy::default()
        };
        let (name, rest) = read(EventType::Added, &damaged(&policy, b"Inward", b"\xff\xff\xff\xff\xff\xff"));
        assert_eq!(name, "p");
        let Some(Event::Policy(rest)) = rest else { panic!("{rest:?}") };
        assert_eq!((rest.metadata.name.as_str(), rest.applied_to_groups.join(" ").as_str()), ("p", "a b"));
        let [rule] = &rest.rules[..] else { panic!("{:?}", rest.rules) };
        assert_eq!((rule.direction.as_str(), rule.action.as_deref()), ("", Some("")));
        assert_eq!(rest.source_ref.unwrap().type_, K8S_NETWORK_POLICY);
    }

    #[test]
    fn a_group_keeps_the_members_that_decode() {
        let member = |label: &str| GroupMember {
            node: Some(crate::controlplane::NodeReference { name: label.to_owned() }),
            ..GroupMember::default()
        };
        let group_members = vec![member("one"), member("two"), member("six")];
        let group = AppliedToGroup { metadata: ObjectMeta::named("g"), group_members };
        let (name, rest) = read(EventType::Added, &damaged(&group, b"two", b"\xff\xff\xff"));
        assert_eq!(name, "g");
        let Some(Event::AppliedToGroup(GroupEvent::Added(rest))) = rest else { panic!("{rest:?}") };
        assert_eq!(rest.group_members, [member("one"), member("six")]);
    }

    #[test]
    fn changes_and_what_has_no_name_cannot_be_salvaged() {
        use crate::controlplane::AddressGroupPatch;
        let patch = AddressGroupPatch {
            metadata: ObjectMeta { uid: "uid".into(), ..ObjectMeta::named("g") },
            ..AddressGroupPatch::default()
        };
        assert_eq!(
            read(EventType::Modified, &damaged(&patch, b"uid", b"\xff\xff\xff")),
            ("g".to_owned(), None)
        );
        let policy = NetworkPolicy { metadata: ObjectMeta::named("p"), ..NetworkPolicy::default() };
        let nameless = damaged(&policy, b"\x0a\x01p", b"\x0a\x01\xff");
        assert!(Event::read(EventType::Added, &nameless).is_err());
        let foreign = Unknown { kind: "Pod".into(), ..open(policy.seal().into()).unwrap() };
        assert!(matches!(Event::read(EventType::Added, &foreign), Err(DecodeError::Kind { .. })));
    }
}
