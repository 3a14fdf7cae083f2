//! Any octets as a traced frame: reading does not panic, and a frame made of what was read is read as the same.

use antrea_packet::{self as packet, Transport};

/// Checks one input and returns whether it can be read.
pub fn check(data: &[u8]) -> usize {
    let Some(mut headers) = packet::parse(data) else { return 0 };
    let frame = packet::build(&headers);
    assert!(frame.is_some(), "two families in {headers:?}");
    let frame = frame.unwrap_or_default();
    let length = u32::try_from(frame.len() - 14).unwrap_or_default();
    headers.length = length;
    // A header that is cut or of a fragment is not made.
    if headers.transport == Transport::Other {
        headers.protocol = 0;
        let again = packet::parse(&frame).map(|read| packet::Headers {
            protocol: 0,
            transport: Transport::Other,
            ..read
        });
        assert_eq!(again, Some(headers));
    } else {
        assert_eq!(packet::parse(&frame), Some(headers));
    }
    1
}
