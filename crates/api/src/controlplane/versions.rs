//! Controller and agents of two versions read each other's messages: a field that the reader does not know is passed over
//! wherever it stands, and one that the writer did not know has its default. An upgrade replaces the controller first, then
//! node by node the agents, so both happen, for as long as it takes.

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::{
    k8s::{EventType, FrameDecoder, Unknown, frame, open},
    selection::{PodQuery, PodSelection},
};

/// What the controller's and the agent's tests agree on, byte by byte.
const SENT: &str = include_str!("../../testdata/networkpolicy.hex");

fn sent() -> Unknown {
    let digits: String = SENT.split_ascii_whitespace().collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    open((0..digits.len()).step_by(2).map(byte).collect::<Vec<u8>>().into()).unwrap()
}

/// Fields of a message that are messages themselves.
struct Nested(&'static [(u64, Self)]);

const LEAF: Nested = Nested(&[]);
const BLOCK: Nested = Nested(&[(1, LEAF), (2, LEAF)]);
const PEER: Nested = Nested(&[(2, BLOCK)]);
const RULE: Nested = Nested(&[(2, PEER), (3, PEER), (4, Nested(&[(2, LEAF)]))]);
const POLICY: Nested = Nested(&[(1, LEAF), (2, RULE), (6, LEAF)]);
const MEMBER: Nested = Nested(&[(1, LEAF), (4, LEAF), (5, LEAF)]);
const GROUP: Nested = Nested(&[(1, LEAF), (2, MEMBER), (3, MEMBER)]);
const STATUS: Nested = Nested(&[(1, LEAF), (2, LEAF)]);

fn varint(bytes: &mut &[u8]) -> u64 {
    prost::encoding::decode_varint(bytes).unwrap()
}

fn put_varint(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value, out);
}

/// The message as a version writes it that has more fields, of every wire type, at every level.
fn newer(mut bytes: &[u8], nested: &Nested) -> Vec<u8> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        put_varint(key, &mut out);
        match key & 7 {
            0 => put_varint(varint(&mut bytes), &mut out),
            1 => out.extend(bytes.split_off(..8).unwrap()),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let field = bytes.split_off(..length).unwrap();
                let inner =
                    nested.0.iter().find(|(tag, _)| *tag == key >> 3).map(|(_, inner)| newer(field, inner));
                let field = inner.unwrap_or_else(|| field.to_vec());
                put_varint(field.len() as u64, &mut out);
                out.extend(field);
            }
            5 => out.extend(bytes.split_off(..4).unwrap()),
            other => panic!("wire type {other}"),
        }
    }
    for (tag, kind, value) in
        [(900, 0, &[0x96, 0x01][..]), (901, 1, &[7; 8]), (902, 2, &[3, b'n', b'e', b'w']), (903, 5, &[7; 4])]
    {
        put_varint(tag << 3 | kind, &mut out);
        out.extend(value);
    }
    out
}

/// JSON with another key in every object.
fn newer_json(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(newer_json);
            map.insert("addedLater".to_owned(), json!({"deep": [1, {"deeper": true}]}));
        }
        Value::Array(list) => list.iter_mut().for_each(newer_json),
        _ => {}
    }
}

fn survives<T: Message + std::fmt::Debug + Default + PartialEq + Serialize + DeserializeOwned>(
    message: &T,
    nested: &Nested,
) {
    let bytes = newer(&message.encode_to_vec(), nested);
    assert!(bytes.len() > message.encoded_len());
    assert_eq!(&T::decode(&*bytes).unwrap(), message);
    survives_as_json(message);
}

fn survives_as_json<T: std::fmt::Debug + PartialEq + Serialize + DeserializeOwned>(message: &T) {
    let mut value = serde_json::to_value(message).unwrap();
    newer_json(&mut value);
    assert_eq!(&serde_json::from_value::<T>(value).unwrap(), message);
}

fn group() -> AddressGroupPatch {
    AddressGroupPatch {
        metadata: ObjectMeta::named("g"),
        added_group_members: vec![GroupMember {
            pod: Some(ObjectReference { name: "web".into(), namespace: "shop".into() }),
            ips: vec![vec![10, 0, 0, 1]],
            ports: vec![NamedPort { port: 80, name: "http".into(), protocol: "TCP".into() }],
            node: Some(NodeReference { name: "n1".into() }),
            ..GroupMember::default()
        }],
        removed_group_members: vec![GroupMember::default()],
    }
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    let policy: NetworkPolicy = sent().decode().unwrap();
    assert_eq!(policy.rules.len(), 3, "nothing was tried if it is empty");
    survives(&policy, &POLICY);
    survives(&group(), &GROUP);
    let nodes = vec![NetworkPolicyNodeStatus {
        node_name: "n1".into(),
        generation: 7,
        realization_failure: true,
        message: "m".into(),
    }];
    survives(&NetworkPolicyStatus { metadata: ObjectMeta::named("p"), nodes }, &STATUS);
    survives_as_json(&PodSelection { policies: vec!["p".into()], applied_to_groups: vec!["g".into()] });
}

/// A whole watch event, down to what an agent takes from it.
#[test]
fn an_agent_follows_a_newer_controller() {
    let policy: NetworkPolicy = sent().decode().unwrap();
    let event = |kind: &str, body: &[u8], nested: &Nested| {
        // The envelope has fields of its own: type and raw.
        let sealed = Unknown { raw: newer(body, nested).into(), ..sent() };
        let sealed = crate::k8s::seal(API_VERSION, kind, &Raw(sealed.raw.to_vec()));
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame(EventType::Modified, &sealed));
        let (kind, object) = decoder.next_event().unwrap().unwrap();
        Event::decode(kind, &object).unwrap()
    };
    assert_eq!(event("NetworkPolicy", &policy.encode_to_vec(), &POLICY), Event::Policy(policy));
    let patch = event("AddressGroupPatch", &group().encode_to_vec(), &GROUP);
    assert_eq!(patch, Event::AddressGroup(GroupEvent::Patched(group())));
}

/// Bytes that are a message already.
#[derive(Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        unreachable!("it is only written")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

#[test]
fn fields_that_were_not_written_have_their_defaults() {
    // Name, one rule with a direction, a selection without groups.
    let oldest: &[u8] = &[0x0a, 3, 0x0a, 1, b'p', 0x12, 4, 0x0a, 2, b'I', b'n'];
    let policy = NetworkPolicy::decode(oldest).unwrap();
    assert_eq!((policy.metadata.name.as_str(), policy.rules[0].direction.as_str()), ("p", "In"));
    assert_eq!((policy.rules[0].action.as_deref(), policy.rules[0].services.len()), (None, 0));
    let same: NetworkPolicy =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "rules": [{"direction": "In"}]})).unwrap();
    assert_eq!(policy, same);
    let query: PodQuery = serde_json::from_value(json!({"pod": "web"})).unwrap();
    assert_eq!(query, PodQuery { pod: "web".into(), ..PodQuery::default() });
}
