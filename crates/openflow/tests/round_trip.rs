//! What is encoded decodes, and what is written is read, as the same value; nothing panics.

#[path = "support/arbitrary.rs"]
mod arbitrary;

use arbitrary::{action, flow, group, matches, meter};
use bytes::{Bytes, BytesMut};
use openflow::multipart::{FlowEntry, FlowStats, MultipartReply};
use openflow::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn through_bytes(message: &Message) -> Result<Message, TestCaseError> {
    let mut wire = BytesMut::new();
    message.encode(Xid(7), &mut wire).map_err(|e| TestCaseError::reject(e.to_string()))?;
    prop_assert_eq!(wire.len() % 8, 0, "messages of whole words");
    let (xid, back) = match Message::decode(&mut wire) {
        Ok(Some(m)) => m,
        other => return Err(TestCaseError::fail(format!("{other:?}"))),
    };
    prop_assert!(wire.is_empty());
    prop_assert_eq!(xid, Xid(7));
    Ok(back)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn match_text(m in matches()) {
        let text = m.to_string();
        prop_assert_eq!(text.parse::<Match>().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?, m, "{}", text);
    }

    #[test]
    fn action_text(a in action()) {
        let text = a.to_string();
        prop_assert_eq!(text.parse::<Action>().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?, a, "{}", text);
    }

    #[test]
    fn flow_both(f in flow()) {
        let text = f.to_string();
        let read = text.parse::<Flow>().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(&read, &f, "{}", text);
        let key = f.key().to_string();
        prop_assert_eq!(key.parse::<FlowKey>().ok(), Some(f.key()), "{}", key);
        let message = Message::FlowMod(FlowMod::add(f.clone()));
        prop_assert_eq!(through_bytes(&message)?, message);
        let stats = FlowStats { packets: Some(1), ..FlowStats::default() };
        let body = MultipartReply::FlowDesc(vec![FlowEntry { flow: f, stats }]);
        let message = Message::MultipartReply { more: true, body };
        prop_assert_eq!(through_bytes(&message)?, message);
    }

    #[test]
    fn named_tables(f in flow()) {
        let names: TableNames = (0..=255u8).step_by(3).map(|t| (t, format!("Table-{t}"))).collect();
        let text = f.named(&names).to_string();
        let read = Flow::parse_named(&text, &names).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(read, f, "{}", text);
    }

    #[test]
    fn group_both(g in group()) {
        let text = g.to_string();
        prop_assert_eq!(text.parse::<Group>().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?, g.clone(), "{}", text);
        let message = Message::GroupMod(GroupMod::set(g.clone()));
        prop_assert_eq!(through_bytes(&message)?, message);
        let message = Message::MultipartReply { more: false, body: MultipartReply::GroupDesc(vec![g]) };
        prop_assert_eq!(through_bytes(&message)?, message);
    }

    #[test]
    fn meter_both(m in meter()) {
        let text = m.to_string();
        prop_assert_eq!(text.parse::<Meter>().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?, m.clone(), "{}", text);
        let message = Message::MeterMod { command: MeterCommand::Modify, meter: m };
        prop_assert_eq!(through_bytes(&message)?, message);
    }

    #[test]
    fn packets(m in matches(), list in vec(action(), 0..4), packet in vec(any::<u8>(), 0..200), data in vec(any::<u8>(), 0..40)) {
        let packet = Bytes::from(packet);
        let pin = PacketIn2 {
            packet: packet.clone(),
            full_len: Some(2000),
            buffer_id: None,
            table: Some(9),
            cookie: Some(u64::MAX),
            reason: Some(PacketInReason::Group),
            metadata: m.clone(),
            userdata: data.clone().into(),
            continuation: Some(data.into()),
        };
        let through = |message: Message| {
            let mut wire = BytesMut::new();
            message.encode(Xid(1), &mut wire).expect("must encode");
            (Message::decode(&mut wire).expect("must decode").expect("must be whole").1, message)
        };
        for message in [
            Message::PacketIn2(pin.clone()),
            Message::NxResume(pin),
            Message::PacketOut(PacketOut { buffer_id: None, matches: m, actions: list, packet }),
        ] {
            let (back, message) = through(message);
            prop_assert_eq!(back, message);
        }
    }

    /// The order of insertion does not matter, and equal keys have equal hashes.
    #[test]
    fn match_is_canonical(m in matches()) {
        use std::hash::{BuildHasher, RandomState};
        let mut reversed = Match::new();
        let fields: Vec<MatchField> = m.fields().collect();
        for f in fields.iter().rev() {
            reversed.insert(f.field, f.value, f.mask);
        }
        for u in fields {
            prop_assert_eq!(reversed.get(u.field), Some(u));
        }
        prop_assert_eq!(&reversed, &m);
        let hash = RandomState::new();
        prop_assert_eq!(hash.hash_one(&reversed), hash.hash_one(&m));
        prop_assert_eq!(reversed.cmp(&m), std::cmp::Ordering::Equal);
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..300), kind in 0..36u8) {
        let mut wire = vec![6, kind, 0, 0, 0, 0, 0, 1];
        wire.extend(&bytes);
        let len = (wire.len() as u16).to_be_bytes();
        wire[2..4].copy_from_slice(&len);
        let mut input = BytesMut::from(wire.as_slice());
        let _ = Message::decode(&mut input);
        prop_assert!(input.is_empty());
        let _ = Message::decode(&mut BytesMut::from(bytes.as_slice()));
    }

    #[test]
    fn any_text(text in "[a-z0-9_=:,.()/ \\[\\]>-]{0,60}") {
        let _ = text.parse::<Flow>();
        let _ = text.parse::<Group>();
        let _ = text.parse::<Meter>();
    }
}

#[test]
fn needs_more_bytes() {
    let mut wire = BytesMut::new();
    Message::EchoRequest(Bytes::from_static(b"12345678")).encode(Xid(3), &mut wire).expect("must encode");
    for n in 0..wire.len() {
        let mut part = BytesMut::from(&wire[..n]);
        assert_eq!(Message::decode(&mut part), Ok(None));
        assert_eq!(part.len(), n);
    }
}

#[test]
fn bad_messages_say_where() {
    // A flow-mod whose match says that it is longer than the message.
    let flow = Flow::new(1, 2).matching(Match::new().tcp());
    let mut wire = BytesMut::new();
    Message::from(FlowMod::add(flow)).encode(Xid(9), &mut wire).expect("must encode");
    wire[51] = 0xff;
    wire.extend_from_slice(&[6, 20, 0, 8, 0, 0, 0, 10]);
    let error = Message::decode(&mut wire).expect_err("must fail");
    assert_eq!((error.kind, error.xid, error.what), (14, Xid(9), "match"));
    assert!(error.offset >= 48 && !error.is_fatal(), "{error}");
    // The stream goes on.
    assert_eq!(Message::decode(&mut wire), Ok(Some((Xid(10), Message::BarrierRequest))));
    let mut lost = BytesMut::from(&[6, 20, 0, 7, 0, 0, 0, 1, 2, 3][..]);
    assert!(Message::decode(&mut lost).expect_err("must fail").is_fatal());
    assert!(lost.is_empty());
}

#[test]
fn too_long_is_refused() {
    let actions = vec![Action::DecTtl; 10_000];
    let mut out = BytesMut::from(&b"before"[..]);
    let message = Message::from(FlowMod::add(Flow::new(0, 0).actions(actions)));
    assert!(message.encode(Xid(1), &mut out).is_err());
    assert_eq!(&out[..], b"before");
}

#[test]
fn deep_nesting_is_refused() {
    let mut a = Action::DecTtl;
    for _ in 0..100 {
        a = Action::Clone(vec![a]);
    }
    assert!(a.to_string().parse::<Action>().is_err());
    let mut wire = BytesMut::new();
    Message::from(FlowMod::add(Flow::new(0, 0).action(a))).encode(Xid(1), &mut wire).expect("must encode");
    assert_eq!(Message::decode(&mut wire).expect_err("must fail").problem, Problem::TooDeep);
}
