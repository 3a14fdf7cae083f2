//! Any bytes: decoding does not panic, and what decodes is encoded and decoded as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = bytes::BytesMut::from(data);
    while let Ok(Some((xid, message))) = openflow::Message::decode(&mut input) {
        let _ = message.to_string();
        let mut again = bytes::BytesMut::new();
        // A canonical form may be longer than what came.
        if message.encode(xid, &mut again).is_ok() {
            let back = openflow::Message::decode(&mut again);
            assert_eq!(back, Ok(Some((xid, message))));
        }
    }
});
