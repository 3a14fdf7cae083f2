use std::net::Ipv4Addr;

use openflow::MacAddr;
use proptest::prelude::*;
use simple_dns::rdata::{A, AAAA, CNAME, HTTPS, TXT};
use simple_dns::{CLASS, QCLASS, QTYPE, Question, ResourceRecord, TYPE};

use super::*;
use crate::headers::{Headers, Transport, with_payload};

fn name(text: &str) -> Name<'_> {
    Name::new_unchecked(text)
}

pub(super) fn record<'a>(owner: &'a str, ttl: u32, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(name(owner), CLASS::IN, ttl, data)
}

pub(super) fn a(ip: [u8; 4]) -> RData<'static> {
    RData::A(A { address: u32::from_be_bytes(ip) })
}

fn cname(to: &str) -> RData<'_> {
    RData::CNAME(CNAME(name(to)))
}

pub(super) fn message(asked: &str, answers: Vec<ResourceRecord<'_>>) -> Vec<u8> {
    let mut packet = Packet::new_reply(7);
    packet.questions.push(Question::new(name(asked), QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
    packet.answers = answers;
    packet.build_bytes_vec_compressed().unwrap()
}

fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let transport = match protocol {
        TCP => Transport::Tcp { src: 53, dst: 4000, flags: 0x18, sequence: 1, acknowledged: 1 },
        _ => Transport::Udp { src: 53, dst: 4000 },
    };
    let mut frame = framed(transport, payload);
    if protocol == UDP {
        frame[38..40].copy_from_slice(&u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    }
    frame
}

pub(super) fn framed(transport: Transport, payload: &[u8]) -> Vec<u8> {
    let headers = Headers {
        eth_src: MacAddr([2, 0, 0, 0, 0, 1]),
        eth_dst: MacAddr([2, 0, 0, 0, 0, 2]),
        src: Ipv4Addr::new(10, 0, 0, 1).into(),
        dst: Ipv4Addr::new(10, 0, 0, 2).into(),
        dscp: 0,
        ttl: 64,
        flags: 0,
        protocol: if matches!(transport, Transport::Tcp { .. }) { TCP } else { UDP },
        length: 0,
        transport,
    };
    with_payload(&headers, payload).unwrap()
}

pub(super) fn answer(names: &[&str], addresses: &[(&str, u32)]) -> DnsAnswer {
    DnsAnswer {
        names: names.iter().map(ToString::to_string).collect(),
        addresses: addresses.iter().map(|(ip, ttl)| (ip.parse().unwrap(), *ttl)).collect(),
        ..DnsAnswer::default()
    }
}

#[test]
fn all_addresses_belong_to_the_name_that_was_asked_for_and_to_its_aliases() {
    let v6 = RData::AAAA(AAAA { address: "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().into() });
    let answers = vec![
        record("b.example.net", 20, a([192, 0, 2, 1])),
        record("WWW.Example.COM", 300, cname("a.example.net")),
        record("b.example.net", 30, v6),
        record("a.example.net", 60, cname("B.example.net")),
        record("elsewhere.example.org", 60, cname("other.example.org")),
        record("www.example.com", 60, RData::TXT(TXT::new())),
    ];
    let told = answer(
        &["www.example.com", "a.example.net", "b.example.net"],
        &[("192.0.2.1", 20), ("2001:db8::1", 30)],
    );
    let message = message("www.EXAMPLE.com", answers);
    assert_eq!(dns(&frame(UDP, &message)), DnsPacket::Answers(vec![told]));
}

#[test]
fn hints_are_addresses() {
    let mut svcb = SVCB::new(1, name("."));
    svcb.set_ipv4hint(&[u32::from_be_bytes([192, 0, 2, 9])]);
    svcb.set_ipv6hint(&[0x2001_0db8 << 96]);
    let message = message("x.example.com", vec![record("x.example.com", 5, RData::HTTPS(HTTPS(svcb)))]);
    let told = answer(&["x.example.com"], &[("192.0.2.9", 5), ("2001:db8::", 5)]);
    assert_eq!(dns(&frame(UDP, &message)), DnsPacket::Answers(vec![told]));
}

#[test]
fn what_tells_no_addresses_is_no_answer_and_what_is_no_message_is_told_from_it() {
    let nothing = message("x.example.com", vec![record("x.example.com", 5, cname("y.example.com"))]);
    assert_eq!(dns(&frame(UDP, &nothing)), DnsPacket::Answers(vec![]));
    let mut query = message("x.example.com", vec![record("x.example.com", 5, a([192, 0, 2, 1]))]);
    query[2] &= 0x7f;
    assert_eq!(dns(&frame(UDP, &query)), DnsPacket::Answers(vec![]));

    let good = message("x.example.com", vec![record("x.example.com", 5, a([192, 0, 2, 1]))]);
    let mut unasked = Packet::new_reply(1);
    unasked.answers.push(record("x.example.com", 5, a([192, 0, 2, 1])));
    let unasked = unasked.build_bytes_vec().unwrap();
    let mut counted = good.clone();
    counted[6..8].copy_from_slice(&[0xff; 2]);
    for bad in
        [&good[..good.len() - 1], &good[..11], &[], &unasked, &counted, b"hello, this is no DNS at all"]
    {
        assert_eq!(dns(&frame(UDP, bad)), DnsPacket::Malformed, "{bad:?}");
    }
    // What follows the answers may be unreadable.
    let mut more = good.clone();
    more[11] = 1;
    assert!(matches!(dns(&frame(UDP, &more)), DnsPacket::Answers(found) if found.len() == 1));

    // A fragment, and something else than UDP or TCP.
    let whole = frame(UDP, &good);
    for (at, value) in [(20, 0x20), (21, 0x01), (23, 1)] {
        let mut part = whole.clone();
        part[at] = value;
        assert_eq!(dns(&part), DnsPacket::Malformed);
    }
    assert_eq!(dns(&[]), DnsPacket::Malformed);
    // What Ethernet adds to a short frame is not of the packet.
    let padded = [&whole[..], &[0; 9]].concat();
    assert_eq!(dns(&padded), dns(&whole));
}

#[test]
fn a_dot_in_a_label_is_not_one_between_two() {
    let labels = [&b"www.example"[..], b"com"].map(simple_dns::Label::new_unchecked);
    let mut packet = Packet::new_reply(1);
    let odd = Name::new_with_labels(&labels);
    packet.questions.push(Question::new(odd, QTYPE::ANY, QCLASS::ANY, false));
    packet.answers.push(record("x", 5, a([192, 0, 2, 1])));
    let told = dns(&frame(UDP, &packet.build_bytes_vec().unwrap()));
    assert_eq!(told, DnsPacket::Answers(vec![answer(&["www?example.com"], &[("192.0.2.1", 5)])]));
}

#[test]
fn aliases_that_go_in_a_circle_or_on_for_long_come_to_an_end() {
    let circle = vec![
        record("a.example", 1, cname("b.example")),
        record("b.example", 1, cname("a.example")),
        record("b.example", 1, a([192, 0, 2, 1])),
    ];
    let told = answer(&["a.example", "b.example"], &[("192.0.2.1", 1)]);
    assert_eq!(dns(&frame(UDP, &message("a.example", circle))), DnsPacket::Answers(vec![told]));

    let names: Vec<String> = (0..100).map(|i| format!("n{i}.example")).collect();
    let mut long: Vec<_> = names.windows(2).map(|pair| record(&pair[0], 1, cname(&pair[1]))).collect();
    long.push(record(&names[99], 1, a([192, 0, 2, 1])));
    let DnsPacket::Answers(told) = dns(&frame(UDP, &message("n0.example", long))) else { panic!() };
    assert_eq!(told[0].names.len(), NAMES);
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..300), protocol in prop_oneof![Just(TCP), Just(UDP)]) {
        dns(&octets);
        dns(&frame(protocol, &octets));
    }

    #[test]
    fn a_damaged_message_is_read_or_refused(at in 0usize..200, value: u8) {
        let answers = vec![record("a.example", 1, cname("b.example")), record("b.example", 1, a([192, 0, 2, 1]))];
        let mut octets = message("a.example", answers);
        let at = at % octets.len();
        octets[at] = value;
        dns(&frame(UDP, &octets));
    }
}
