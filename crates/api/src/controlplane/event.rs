//! Watch events of this API, as a client sees them.

use super::salvage;
use crate::{
    controlplane::{AddressGroup, AddressGroupPatch, AppliedToGroup, AppliedToGroupPatch, NetworkPolicy},
    k8s::{DecodeError, EventType, Object, ObjectMeta, Status, Unknown},
};

/// What happened to a group of type `G`, whose changes travel as `P`.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupEvent<G, P> {
    /// The group is needed now. Replaces one of the same name.
    Added(G),
    /// Members came or went.
    Patched(P),
    /// The group is not needed any more.
    Deleted(String),
}

/// A watch event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    AddressGroup(GroupEvent<AddressGroup, AddressGroupPatch>),
    AppliedToGroup(GroupEvent<AppliedToGroup, AppliedToGroupPatch>),
    /// A policy that is needed now or changed. Replaces one of the same name.
    Policy(NetworkPolicy),
    /// The policy of this name is not needed any more.
    PolicyDeleted(String),
    /// The initial set is complete: what it did not hold is not needed any more.
    Bookmark,
    /// The server ends the watch.
    Error(Status),
    /// An object that does not decode.
    Damaged(Damaged),
}

/// An event whose object does not decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Damaged {
    /// The object's name.
    pub name: String,
    /// What does not decode.
    pub error: DecodeError,
    /// What an object of which nothing is known can be taken for: stricter than it is, never more open. None
    /// where the event only changes or removes what is known.
    pub rest: Option<Box<Event>>,
}

/// Any object's metadata; the rest is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct Meta {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
}

impl Event {
    /// Name of the object that the event tells all of: that it is gone, or what it is from now on.
    pub fn settles(&self) -> Option<&str> {
        match self {
            Self::AddressGroup(GroupEvent::Added(group)) => Some(&group.metadata.name),
            Self::AppliedToGroup(GroupEvent::Added(group)) => Some(&group.metadata.name),
            Self::Policy(policy) => Some(&policy.metadata.name),
            Self::AddressGroup(GroupEvent::Deleted(name))
            | Self::AppliedToGroup(GroupEvent::Deleted(name))
            | Self::PolicyDeleted(name) => Some(name),
            _ => None,
        }
    }

    /// Reads an event that [`FrameDecoder`](crate::k8s::FrameDecoder) found, also one whose object does not decode
    /// but has a name.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn read(kind: EventType, object: &Unknown) -> Result<Self, DecodeError> {
        Self::decode(kind, object).or_else(|error| {
            let ours = !matches!(error, DecodeError::Kind { .. }) && kind != EventType::Error;
            let Some(name) = salvage::name(object).filter(|_| ours) else { return Err(error) };
            let rest = salvage::rest(kind, object, &name).map(Box::new);
            Ok(Self::Damaged(Damaged { name, error, rest }))
        })
    }

    /// Reads an event that [`FrameDecoder`](crate::k8s::FrameDecoder) found.
    ///
    /// # Errors
    /// A kind that is not of this API, or a malformed object.
    pub fn decode(kind: EventType, object: &Unknown) -> Result<Self, DecodeError> {
        if kind == EventType::Error {
            return Ok(Self::Error(object.decode()?));
        }
        if kind == EventType::Bookmark {
            return Ok(Self::Bookmark);
        }
        let deleted = kind == EventType::Deleted;
        match object.kind.as_str() {
            AddressGroup::KIND => group(deleted, object).map(Self::AddressGroup),
            AppliedToGroup::KIND => group(deleted, object).map(Self::AppliedToGroup),
            AddressGroupPatch::KIND => Ok(Self::AddressGroup(GroupEvent::Patched(object.decode()?))),
            AppliedToGroupPatch::KIND => Ok(Self::AppliedToGroup(GroupEvent::Patched(object.decode()?))),
            NetworkPolicy::KIND if deleted => name(object).map(Self::PolicyDeleted),
            NetworkPolicy::KIND => object.decode().map(Self::Policy),
            _ => {
                Err(DecodeError::Kind { api_version: object.api_version.clone(), kind: object.kind.clone() })
            }
        }
    }
}

impl Event {
    /// Metadata of an object, whatever its kind; none if it is malformed.
    pub fn metadata(object: &Unknown) -> Option<ObjectMeta> {
        <Meta as prost::Message>::decode(object.raw.clone()).ok().map(|meta| meta.metadata)
    }
}

fn group<G: Object, P>(deleted: bool, object: &Unknown) -> Result<GroupEvent<G, P>, DecodeError> {
    if deleted { name(object).map(GroupEvent::Deleted) } else { object.decode().map(GroupEvent::Added) }
}

fn name(object: &Unknown) -> Result<String, DecodeError> {
    let meta = <Meta as prost::Message>::decode(object.raw.clone());
    meta.map(|meta| meta.metadata.name).map_err(|e| DecodeError::malformed(object.kind.clone(), e))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{
        controlplane::{
            GroupMember, IpBlock, IpNet, NamedPort, NetworkPolicyPeer, NetworkPolicyRule, ObjectReference,
            Service,
        },
        k8s::{FrameDecoder, IntOrString, frame},
    };

    fn through_the_wire(kind: EventType, sealed: &[u8]) -> Result<Event, DecodeError> {
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame(kind, sealed));
        let (kind, object) = decoder.next_event()?.unwrap();
        Event::decode(kind, &object)
    }

    fn member() -> impl Strategy<Value = GroupMember> {
        ("[a-z]{1,8}", "[a-z]{0,8}", proptest::collection::vec(any::<[u8; 4]>(), 0..3), any::<u16>())
            .prop_map(|(name, namespace, ips, port)| GroupMember {
                pod: Some(ObjectReference { name: name.clone(), namespace }),
                ips: ips.into_iter().map(Vec::from).collect(),
                ports: vec![NamedPort { port: i32::from(port), name, protocol: "TCP".into() }],
                ..GroupMember::default()
            })
    }

    fn policy() -> impl Strategy<Value = NetworkPolicy> {
        ("[a-z0-9-]{1,36}", any::<Option<i32>>(), any::<Option<u16>>(), -1_i32..3, any::<bool>()).prop_map(
            |(name, tier_priority, port, priority, enable_logging)| NetworkPolicy {
                metadata: ObjectMeta::named(name.clone()),
                rules: vec![NetworkPolicyRule {
                    direction: "In".into(),
                    from: NetworkPolicyPeer {
                        address_groups: vec![name],
                        ip_blocks: vec![IpBlock {
                            cidr: IpNet { ip: vec![10, 0, 0, 0], prefix_length: 8 },
                            except: vec![IpNet { ip: vec![0; 16], prefix_length: 0 }],
                        }],
                        ..NetworkPolicyPeer::default()
                    },
                    services: vec![Service {
                        protocol: Some("SCTP".into()),
                        port: port.map(|p| IntOrString::int(i32::from(p))),
                        ..Service::default()
                    }],
                    priority,
                    enable_logging,
                    ..NetworkPolicyRule::default()
                }],
                priority: tier_priority.map(f64::from),
                tier_priority,
                ..NetworkPolicy::default()
            },
        )
    }

    proptest! {
        #[test]
        fn groups_and_patches_survive_the_wire_and_json(members in proptest::collection::vec(member(), 0..5)) {
            let group = AddressGroup { metadata: ObjectMeta::named("g"), group_members: members.clone() };
            prop_assert_eq!(
                through_the_wire(EventType::Added, &group.seal()).unwrap(),
                Event::AddressGroup(GroupEvent::Added(group.clone()))
            );
            prop_assert_eq!(
                through_the_wire(EventType::Deleted, &group.seal()).unwrap(),
                Event::AddressGroup(GroupEvent::Deleted("g".into()))
            );
            let json = serde_json::to_string(&group).unwrap();
            prop_assert_eq!(serde_json::from_str::<AddressGroup>(&json).unwrap(), group);
            let patch = AppliedToGroupPatch {
                metadata: ObjectMeta::named("g"),
                added_group_members: members.clone(),
                removed_group_members: members,
            };
            prop_assert_eq!(
                through_the_wire(EventType::Modified, &patch.seal()).unwrap(),
                Event::AppliedToGroup(GroupEvent::Patched(patch))
            );
        }

        #[test]
        fn policies_survive_the_wire_and_json(policy in policy()) {
            prop_assert_eq!(
                through_the_wire(EventType::Modified, &policy.seal()).unwrap(),
                Event::Policy(policy.clone())
            );
            let json = serde_json::to_string(&policy).unwrap();
            prop_assert_eq!(serde_json::from_str::<NetworkPolicy>(&json).unwrap(), policy);
        }

        #[test]
        fn damaged_events_never_panic(policy in policy(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut sealed = policy.seal();
            let at = at.index(sealed.len());
            sealed[at] = byte;
            let _ = through_the_wire(EventType::Added, &sealed);
        }
    }

    #[test]
    fn bookmark_and_error() {
        let bookmark =
            NetworkPolicy { metadata: ObjectMeta::bookmark("1", true), ..NetworkPolicy::default() };
        assert_eq!(through_the_wire(EventType::Bookmark, &bookmark.seal()).unwrap(), Event::Bookmark);
        let gone = Status { code: 410, reason: "Expired".into(), ..Status::default() };
        assert_eq!(through_the_wire(EventType::Error, &gone.seal()).unwrap(), Event::Error(gone));
    }

    #[test]
    fn field_numbers_are_upstreams() {
        let rule = NetworkPolicyRule {
            direction: "In".into(),
            services: vec![Service { icmp_code: Some(0), ..Service::default() }],
            priority: -1,
            action: Some("Drop".into()),
            enable_logging: true,
            applied_to_groups: vec!["a".into()],
            name: "n".into(),
            log_label: "l".into(),
            ..NetworkPolicyRule::default()
        };
        let bytes = [
            b"\x0a\x02In\x12\x00\x1a\x00\x22\x02\x28\x00".as_slice(),
            b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x32\x04Drop\x38\x01\x42\x01a\x4a\x01n\x5a\x01l",
        ]
        .concat();
        assert_eq!(rule.encode_to_vec(), bytes);
        let policy =
            NetworkPolicy { priority: Some(1.0), tier_priority: Some(250), ..NetworkPolicy::default() };
        assert_eq!(policy.encode_to_vec(), b"\x0a\x00\x21\0\0\0\0\0\0\xf0\x3f\x28\xfa\x01");
        let member = GroupMember { ips: vec![vec![10, 0, 0, 1]], ..GroupMember::default() };
        assert_eq!(member.encode_to_vec(), b"\x1a\x04\x0a\0\0\x01");
    }
}
