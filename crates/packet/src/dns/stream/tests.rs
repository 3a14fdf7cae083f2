use proptest::prelude::*;

use super::*;
use crate::dns::tests::{a, answer, framed, message, record};

const POD: u32 = 7;
const FIN: u8 = 1;
const PSH: u8 = 8;
const HEADERS: usize = 54;

fn segment(client: u16, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    framed(Transport::Tcp { src: 53, dst: client, flags: flags | ACK, sequence, acknowledged: 9 }, data)
}

/// An answer of so many octets or a few less, with its length before it, and what it tells.
fn told(asked: &str, size: usize) -> (Vec<u8>, DnsAnswer) {
    let count = (size / 16).max(1) as u16;
    let ip = |n: u16| [10, 1, (n >> 8) as u8, n as u8];
    let message = message(asked, (0..count).map(|n| record(asked, 60, a(ip(n)))).collect());
    let addresses: Vec<(String, u32)> =
        (0..count).map(|n| (std::net::Ipv4Addr::from(ip(n)).to_string(), 60)).collect();
    let addresses: Vec<(&str, u32)> = addresses.iter().map(|(ip, ttl)| (ip.as_str(), *ttl)).collect();
    let octets = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    (octets, answer(&[asked], &addresses))
}

fn nothing() -> DnsPacket {
    DnsPacket::Answers(Vec::new())
}

/// Streams of which one has begun, whose first octet has this number.
fn begun(client: u16, first: u32, now: Instant) -> DnsStreams {
    let mut streams = DnsStreams::default();
    begin(&mut streams, client, first, now);
    streams
}

fn begin(streams: &mut DnsStreams, client: u16, first: u32, now: Instant) {
    assert_eq!(streams.read(POD, &segment(client, first.wrapping_sub(1), SYN, &[]), now), nothing());
}

#[test]
fn an_answer_is_told_at_the_segment_that_completes_it() {
    let now = Instant::now();
    let (octets, told) = told("long.example", 4000);
    let mut streams = begun(4000, 1000, now);
    let mut sequence = 1000;
    let parts: Vec<&[u8]> = octets.chunks(1400).collect();
    for (n, part) in parts.iter().enumerate() {
        let expected = if n + 1 == parts.len() { DnsPacket::Answers(vec![told.clone()]) } else { nothing() };
        assert_eq!(streams.read(POD, &segment(4000, sequence, PSH, part), now), expected, "{n}");
        // It is sent again, and was told.
        assert_eq!(streams.read(POD, &segment(4000, sequence, PSH, part), now), nothing());
        sequence += part.len() as u32;
    }
    assert_eq!(streams.read(POD, &segment(4000, sequence, FIN, &[]), now), nothing());
}

#[test]
fn what_comes_early_is_left_to_be_sent_again() {
    let now = Instant::now();
    let (octets, told) = told("long.example", 400);
    let mut streams = begun(4000, 1, now);
    let at = |from: usize, to: usize| segment(4000, 1 + from as u32, PSH, &octets[from..to]);
    assert_eq!(streams.read(POD, &at(0, 100), now), nothing());
    assert_eq!(streams.read(POD, &at(200, octets.len()), now), DnsPacket::Early);
    // What overlaps is read as far as it is new.
    assert_eq!(streams.read(POD, &at(50, 200), now), nothing());
    assert_eq!(streams.read(POD, &at(200, octets.len()), now), DnsPacket::Answers(vec![told]));
}

#[test]
fn what_cannot_be_read_ends_the_connection_for_its_receiver() {
    let now = Instant::now();
    let (octets, told) = told("a.example", 100);
    let garbage = [&[0, 40][..], &[0xff; 40]].concat();
    let short = [0, 5, 1, 2, 3, 4, 5];
    for bad in [&garbage[..], &short, &short[..2]] {
        let mut streams = begun(4000, 1, now);
        let DnsPacket::Ended(reset) = streams.read(POD, &segment(4000, 1, PSH, bad), now) else { panic!() };
        let read = parse(&reset).unwrap();
        let Transport::Tcp { src: 53, dst: 4000, flags, sequence: 1, .. } = read.transport else { panic!() };
        assert_eq!((flags, reset.len()), (RST | ACK, HEADERS));
        assert_eq!(read.src.to_string(), "10.0.0.1");
        // Nothing of it is let go any more, and the next connection is read anew.
        let later = segment(4000, 1 + bad.len() as u32, PSH, &[7; 30]);
        assert!(matches!(streams.read(POD, &later, now), DnsPacket::Ended(_)));
        begin(&mut streams, 4000, 77, now);
        let answers = streams.read(POD, &segment(4000, 77, PSH, &octets), now);
        assert_eq!(answers, DnsPacket::Answers(vec![told.clone()]));
    }
    // What was read before it in the same segment is not let go either.
    let mut streams = begun(4000, 1, now);
    let both = [&octets[..], &garbage].concat();
    assert!(matches!(streams.read(POD, &segment(4000, 1, PSH, &both), now), DnsPacket::Ended(_)));
}

#[test]
fn a_stream_that_was_not_seen_to_begin_is_followed_from_a_whole_message_on() {
    let now = Instant::now();
    let (first, one) = told("one.example", 300);
    let (second, two) = told("two.example", 300);
    let both = [&first[..], &second].concat();
    let (known, rest) = both.split_at(first.len() + 100);
    let mut streams = DnsStreams::default();
    assert_eq!(streams.read(POD, &segment(4000, 500, PSH, known), now), DnsPacket::Answers(vec![one]));
    let rest = segment(4000, 500 + known.len() as u32, PSH, rest);
    assert_eq!(streams.read(POD, &rest, now), DnsPacket::Answers(vec![two]));
    // From the middle of one, nobody knows where the next begins; nor is the beginning of one enough.
    for unknown in [&first[1..], &first[..100]] {
        let mut streams = DnsStreams::default();
        assert!(matches!(streams.read(POD, &segment(4000, 500, PSH, unknown), now), DnsPacket::Ended(_)));
    }
    // After what may not have reached the pod, too.
    let mut streams = begun(4000, 1, now);
    assert_eq!(streams.read(POD, &segment(4000, 1, PSH, &first[..100]), now), nothing());
    streams.forget(POD);
    assert!(matches!(streams.read(POD, &segment(4000, 101, PSH, &first[100..]), now), DnsPacket::Ended(_)));
}

/// The first message was read and lost with all that was known of the stream; the second one has come through. When the first is
/// sent again, nobody knows what it tells.
#[test]
fn what_was_lost_before_a_stream_is_followed_again_ends_it() {
    let now = Instant::now();
    let ((lost, of_lost), (later, of_later)) = (told("lost.example", 100), told("later.example", 100));
    let whole = [&lost[..], &later].concat();
    let at = 1 + lost.len() as u32;
    for again in [segment(4000, 1, PSH, &lost), segment(4000, 1, PSH, &whole)] {
        let mut streams = begun(4000, 1, now);
        let first = streams.read(POD, &segment(4000, 1, PSH, &lost), now);
        assert_eq!(first, DnsPacket::Answers(vec![of_lost.clone()]));
        streams.forget(POD);
        let second = segment(4000, at, PSH, &later);
        assert_eq!(streams.read(POD, &second, now), DnsPacket::Answers(vec![of_later.clone()]));
        assert_eq!(streams.read(POD, &second, now), nothing(), "what was read is sent again");
        assert!(matches!(streams.read(POD, &again, now), DnsPacket::Ended(_)));
    }
}

#[test]
fn a_reset_and_a_repeated_beginning_are_understood() {
    let now = Instant::now();
    let (octets, told) = told("a.example", 300);
    let mut streams = begun(4000, 1, now);
    assert_eq!(streams.read(POD, &segment(4000, 1, PSH, &octets[..50]), now), nothing());
    begin(&mut streams, 4000, 1, now);
    let rest = segment(4000, 51, PSH, &octets[50..]);
    assert_eq!(streams.read(POD, &rest, now), DnsPacket::Answers(vec![told]), "its beginning came twice");
    assert_eq!(streams.read(POD, &segment(4000, 400, RST, &[]), now), nothing());
    assert!(streams.receivers[&POD].is_empty());
}

fn kept(streams: &DnsStreams) -> usize {
    streams.receivers.values().flat_map(HashMap::values).map(|progress| progress.unfinished.len()).sum()
}

#[test]
fn what_is_kept_is_bounded() {
    let now = Instant::now();
    // As long as messages get, and never complete.
    let begun = [&[0xff, 0xff][..], &[0; 60_000]].concat();
    let mut streams = DnsStreams::default();
    let mut ended = 0;
    for client in 0..1000 {
        begin(&mut streams, client, 1, now);
        ended += u32::from(matches!(
            streams.read(POD, &segment(client, 1, PSH, &begun), now),
            DnsPacket::Ended(_)
        ));
        assert!(streams.receivers[&POD].len() <= CONNECTIONS && kept(&streams) <= OCTETS);
    }
    assert_eq!(ended, 996, "four have room");
    // Who has little is not touched by those who have much.
    let (octets, told) = told("a.example", 300);
    let other = POD + 1000;
    streams.read(other, &segment(4000, 0, SYN, &[]), now);
    assert_eq!(streams.read(other, &segment(4000, 1, PSH, &octets[..100]), now), nothing());
    for pod in 0..40 {
        for client in 0..4 {
            streams.read(pod, &segment(client, 0, SYN, &[]), now);
            streams.read(pod, &segment(client, 1, PSH, &begun), now);
            assert!(kept(&streams) <= ALL);
        }
    }
    let rest = segment(4000, 101, PSH, &octets[100..]);
    assert_eq!(streams.read(other, &rest, now), DnsPacket::Answers(vec![told]));
    // What is silent is forgotten.
    streams.read(other, &segment(4001, 0, SYN, &[]), now + SILENCE);
    assert_eq!((streams.receivers.len(), kept(&streams)), (1, 0));
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_it_tells_the_same(
        sizes in prop::collection::vec(16usize..600, 1..5),
        first: u32,
        cuts in prop::collection::vec((1usize..400, 0u8..4), 1..40),
    ) {
        let now = Instant::now();
        let (octets, expected): (Vec<Vec<u8>>, Vec<DnsAnswer>) =
            sizes.iter().enumerate().map(|(n, size)| told(&format!("n{n}.example"), *size)).unzip();
        let octets = octets.concat();
        let mut streams = begun(4000, first, now);
        let (mut at, mut found) = (0, Vec::new());
        let mut read = |from: usize, to: usize| {
            let segment = segment(4000, first.wrapping_add(from as u32), PSH, &octets[from..to]);
            match streams.read(POD, &segment, now) {
                DnsPacket::Answers(answers) => { found.extend(answers); true }
                DnsPacket::Early => false,
                other => panic!("{other:?}"),
            }
        };
        for (size, what) in cuts.into_iter().cycle() {
            let end = (at + size).min(octets.len());
            match what {
                // Again, early, or again with more.
                1 => prop_assert!(read(at.saturating_sub(size), at)),
                2 if end < octets.len() => prop_assert!(!read(end, octets.len())),
                _ => {}
            }
            let from = if what == 3 { at.saturating_sub(size / 2) } else { at };
            prop_assert!(read(from, end));
            at = end;
            if at == octets.len() {
                break;
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_stream_makes_it_panic(
        segments in prop::collection::vec((any::<u32>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..100)), 0..20)
    ) {
        let (mut streams, now) = (DnsStreams::default(), Instant::now());
        for (sequence, flags, data) in segments {
            streams.read(POD, &segment(4000, sequence, flags, &data), now);
        }
    }
}
