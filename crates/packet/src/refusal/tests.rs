use super::*;
use crate::headers::{UDP, build, checksum};
use proptest::prelude::*;

const BY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn pair(v4: bool) -> (IpAddr, IpAddr) {
    if v4 {
        ("10.0.0.1".parse().unwrap(), "192.0.2.7".parse().unwrap())
    } else {
        ("2001:db8::1".parse().unwrap(), "2001:db8:1::7".parse().unwrap())
    }
}

fn packet(v4: bool, protocol: u8, transport: Transport) -> Headers {
    let (src, dst) = pair(v4);
    let (eth_src, eth_dst) = (MacAddr([2, 0, 0, 0, 0, 8]), MacAddr([2, 0, 0, 0, 0, 9]));
    Headers { eth_src, eth_dst, src, dst, dscp: 9, ttl: 7, flags: 0, protocol, length: 0, transport }
}

fn segment(flags: u8, sequence: u32, acknowledged: u32) -> Transport {
    Transport::Tcp { src: 40_000, dst: 80, flags, sequence, acknowledged }
}

/// Flags, sequence number and acknowledgement of the answer to a segment.
fn answered(v4: bool, transport: Transport, data: &[u8]) -> (u8, u32, u32) {
    let frame = with_payload(&packet(v4, TCP, transport), data).unwrap();
    let answer = parse(&refuse(&frame, BY, TO).unwrap()).unwrap();
    assert_eq!((answer.eth_src, answer.eth_dst, answer.dscp), (BY, TO, 0));
    assert_eq!((answer.dst, answer.src), pair(v4));
    match answer.transport {
        Transport::Tcp { src: 80, dst: 40_000, flags, sequence, acknowledged } => {
            (flags, sequence, acknowledged)
        }
        other => panic!("{other:?}"),
    }
}

/// The table of RFC 9293 §3.10.7.1, and none to a reset.
#[test]
fn a_segment_is_answered_by_a_reset_that_its_sender_accepts() {
    for v4 in [true, false] {
        assert_eq!(answered(v4, segment(SYN, 1000, 0), b""), (RST | ACK, 0, 1001));
        assert_eq!(answered(v4, segment(SYN, u32::MAX, 0), b""), (RST | ACK, 0, 0));
        assert_eq!(answered(v4, segment(SYN, 1000, 0), b"fast open"), (RST | ACK, 0, 1010));
        assert_eq!(answered(v4, segment(FIN, 5, 77), b"abc"), (RST | ACK, 0, 9));
        assert_eq!(answered(v4, segment(ACK, 1000, 77), b"data"), (RST, 77, 0));
        assert_eq!(answered(v4, segment(SYN | ACK, 1000, 77), b""), (RST, 77, 0));
        let frame = build(&packet(v4, TCP, segment(RST | ACK, 1, 2))).unwrap();
        assert_eq!(refuse(&frame, BY, TO), None);
    }
}

/// A client of a Service that nobody serves is told what kube-proxy would tell it.
#[test]
fn where_nobody_listens_the_error_says_so() {
    for (v4, kind) in [(true, NO_PORT_V4), (false, NO_PORT_V6)] {
        let frame = build(&packet(v4, UDP, Transport::Udp { src: 9, dst: 53 })).unwrap();
        let answer = parse(&unreachable(&frame, BY, TO).unwrap()).unwrap();
        let Transport::Icmp { kind: told, code, .. } = answer.transport else { panic!("{answer:?}") };
        assert_eq!((told, code), kind);
        let frame = build(&packet(v4, TCP, segment(SYN, 1000, 0))).unwrap();
        assert_eq!(unreachable(&frame, BY, TO), refuse(&frame, BY, TO));
    }
}

/// The sender finds its connection by the packet in the error.
#[test]
fn anything_else_is_answered_by_an_error_that_carries_it() {
    let echo = |kind| Transport::Icmp { kind, code: 0, id: 5, sequence: 6 };
    for (v4, protocol, transport) in [
        (true, UDP, Transport::Udp { src: 9, dst: 53 }),
        (false, UDP, Transport::Udp { src: 9, dst: 53 }),
        (true, ICMP, echo(8)),
        (false, ICMPV6, echo(128)),
        (true, 132, Transport::Other),
        (false, 132, Transport::Other),
    ] {
        let frame = with_payload(&packet(v4, protocol, transport), &[7; 40]).unwrap();
        let answer = refuse(&frame, BY, TO).unwrap();
        let read = parse(&answer).unwrap();
        let (kind, code, header) = if v4 { (3, 10, 20) } else { (1, 1, 40) };
        assert_eq!(read.transport, Transport::Icmp { kind, code, id: 0, sequence: 0 });
        assert_eq!((read.dst, read.src), pair(v4));
        assert_eq!(&answer[ETHERNET + header + 8..], &frame[ETHERNET..], "the whole packet");
        let body = &answer[ETHERNET + header..];
        let pseudo = if v4 { Vec::new() } else { answer[ETHERNET + 8..ETHERNET + 40].to_vec() };
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let rest: &[u8] = if v4 { &[] } else { &[0, 0, 0, ICMPV6] };
        let sum: &[&[u8]] = if v4 { &[body] } else { &[&pseudo, &length, rest, body] };
        assert_eq!(checksum(sum), [0, 0]);
    }
    let frame = with_payload(&packet(true, UDP, Transport::Udp { src: 9, dst: 53 }), &[7; 1400]).unwrap();
    assert_eq!(refuse(&frame, BY, TO).unwrap().len(), ETHERNET + LONGEST_V4);
    // Short packets are filled up in a frame.
    let frame = build(&packet(true, UDP, Transport::Udp { src: 9, dst: 53 })).unwrap();
    let filled = [&frame[..], &[0; 18]].concat();
    assert_eq!(refuse(&filled, BY, TO), refuse(&frame, BY, TO));
}

#[test]
fn errors_crowds_and_later_fragments_get_no_answer() {
    let udp = Transport::Udp { src: 9, dst: 53 };
    let silent = |headers: &Headers| refuse(&build(headers).unwrap(), BY, TO).is_none();
    for (v4, protocol, kinds) in [(true, ICMP, vec![3, 4, 5, 11, 12]), (false, ICMPV6, vec![1, 2, 3, 4, 137])]
    {
        for kind in kinds {
            let error = Transport::Icmp { kind, code: 0, id: 0, sequence: 0 };
            assert!(silent(&packet(v4, protocol, error)), "{kind}");
        }
    }
    for ip in ["224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1"] {
        let ip: IpAddr = ip.parse().unwrap();
        assert!(silent(&Headers { dst: ip, ..packet(true, UDP, udp) }), "to {ip}");
        assert!(silent(&Headers { src: ip, ..packet(true, UDP, udp) }), "from {ip}");
    }
    for ip in ["ff02::1", "::", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        assert!(silent(&Headers { dst: ip, ..packet(false, UDP, udp) }), "to {ip}");
        assert!(silent(&Headers { src: ip, ..packet(false, UDP, udp) }), "from {ip}");
    }
    assert!(silent(&Headers { eth_dst: MacAddr([0xff; 6]), ..packet(true, UDP, udp) }));
    let whole = build(&packet(true, UDP, udp)).unwrap();
    for (offset, answered) in [(0x2000u16, true), (0x2001, false), (0x0001, false)] {
        let mut frame = whole.clone();
        frame[20..22].copy_from_slice(&offset.to_be_bytes());
        assert_eq!(refuse(&frame, BY, TO).is_some(), answered, "{offset:#x}");
    }
}

/// Options of IPv6 before the transport header, a fragment header among them.
#[test]
fn headers_between_ip_and_transport_are_passed_over() {
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let with = |first: u8, between: &[u8], segment: Transport| {
        let inner = build(&packet(false, TCP, segment)).unwrap();
        let frame = Headers {
            protocol: first,
            transport: Transport::Other,
            ..packet(false, first, Transport::Other)
        };
        with_payload(&frame, &[between, &inner[ETHERNET + 40..]].concat()).unwrap()
    };
    let chained = |next: u8| [&[next], &options[1..]].concat();
    let one = with(0, &chained(TCP), segment(SYN, 1, 0));
    let two = with(0, &[chained(60), chained(TCP)].concat(), segment(SYN, 1, 0));
    let first = with(44, &[TCP, 0, 0, 1, 0, 0, 0, 9], segment(SYN, 1, 0));
    for frame in [one, two, first] {
        let answer = parse(&refuse(&frame, BY, TO).unwrap()).unwrap();
        assert_eq!(
            answer.transport,
            Transport::Tcp { src: 80, dst: 40_000, flags: RST | ACK, sequence: 0, acknowledged: 2 }
        );
    }
    let later = with(44, &[TCP, 0, 0, 8, 0, 0, 0, 9], segment(SYN, 1, 0));
    assert_eq!(refuse(&later, BY, TO), None);
}

proptest! {
    /// Whatever the octets, and wherever they end; and nothing that is made here is answered again.
    #[test]
    fn any_frame(mut frame in prop::collection::vec(any::<u8>(), 0..200), v4: bool) {
        if let Some(kind) = frame.get_mut(12..15) {
            kind.copy_from_slice(if v4 { &[8, 0, 0x45] } else { &[0x86, 0xdd, 0x60] });
        }
        if let Some(answer) = refuse(&frame, BY, TO) {
            prop_assert_eq!(refuse(&answer, TO, BY), None);
        }
    }
}
