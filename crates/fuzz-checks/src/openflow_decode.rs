//! Any bytes: decoding does not panic, and what decodes is encoded and decoded as the same message.

use bytes::BytesMut;
use openflow::Message;

/// Checks one input and returns how many messages it held.
pub fn check(data: &[u8]) -> usize {
    let mut input = BytesMut::from(data);
    let mut count = 0;
    while let Ok(Some((xid, message))) = Message::decode(&mut input) {
        count += 1;
        let _ = message.to_string();
        let mut again = BytesMut::new();
        // A canonical form may be longer than what came.
        if message.encode(xid, &mut again).is_ok() {
            let back = Message::decode(&mut again);
            assert_eq!(back, Ok(Some((xid, message))));
        }
    }
    count
}
