//! What a sender may have left to its network card.

use crate::headers::{ETHERNET, TCP, UDP, checksum, is_ipv4, segment, word};

/// Bits of TCP's flags that the last segment alone has: FIN and PSH.
const LAST: u8 = 0x09;

/// The frames that a network card would send for one of a whole UDP or TCP packet: with checksums, and TCP's in segments if
/// the packet is longer than `mtu` octets. `None` of anything else, and of what has no room for its own headers.
pub fn without_offload(frame: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let (protocol, body) = segment(frame)?;
    let frame = &frame[..body.end];
    if protocol != TCP || frame.len() <= ETHERNET + mtu {
        return Some(vec![with_checksum(frame.to_vec())?]);
    }
    let payload = body.start + usize::from(*frame.get(body.start + 12)? >> 4) * 4;
    let room = (ETHERNET + mtu).checked_sub(payload).filter(|room| *room > 0)?;
    let (headers, data) = frame.split_at_checked(payload)?;
    let sequence = u32::from_be_bytes(headers.get(body.start + 4..body.start + 8)?.try_into().ok()?);
    let count = data.len().div_ceil(room);
    let mut frames = Vec::with_capacity(count);
    for (n, part) in data.chunks(room).enumerate() {
        let mut made = [headers, part].concat();
        let at = sequence.wrapping_add(u32::try_from(n * room).ok()?);
        made[body.start + 4..body.start + 8].copy_from_slice(&at.to_be_bytes());
        if n + 1 < count {
            made[body.start + 13] &= !LAST;
        }
        let length = made.len() - ETHERNET;
        if is_ipv4(frame) {
            let id = word(headers, ETHERNET + 4)?.wrapping_add(u16::try_from(n).ok()?);
            made[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
            made[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
            made[ETHERNET + 10..ETHERNET + 12].fill(0);
            let sum = checksum(&[&made[ETHERNET..body.start]]);
            made[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
        } else {
            made[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&u16::try_from(length - 40).ok()?.to_be_bytes());
        }
        frames.push(with_checksum(made)?);
    }
    Some(frames)
}

fn with_checksum(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let (protocol, body) = segment(&frame)?;
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let field = body.start + at..body.start + at + 2;
    if field.end > body.end {
        return None;
    }
    let (v4, length) = (is_ipv4(&frame), u32::try_from(body.len()).ok()?.to_be_bytes());
    // In IPv4 a sender of UDP need not make one.
    if protocol == UDP && v4 && frame[field.clone()] == [0, 0] {
        return Some(frame);
    }
    frame[field.clone()].fill(0);
    let addresses = if v4 { 26..34 } else { 22..54 };
    let mut sum = checksum(&[&frame[addresses], &length, &[0, 0, 0, protocol], &frame[body]]);
    // None is said by zero.
    if protocol == UDP && sum == [0, 0] {
        sum = [0xff, 0xff];
    }
    frame[field].copy_from_slice(&sum);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use openflow::MacAddr;
    use proptest::prelude::*;

    use super::*;
    use crate::headers::{Headers, Transport, parse, with_payload};

    fn frame(v4: bool, transport: Transport, payload: &[u8]) -> Vec<u8> {
        let [src, dst] = if v4 { ["192.0.2.1", "192.0.2.2"] } else { ["2001:db8::1", "2001:db8::2"] };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let headers = Headers {
            eth_src: MacAddr([2, 0, 0, 0, 0, 1]),
            eth_dst: MacAddr([2, 0, 0, 0, 0, 2]),
            src: ip(src),
            dst: ip(dst),
            dscp: 0,
            ttl: 64,
            flags: 0,
            protocol: if matches!(transport, Transport::Tcp { .. }) { TCP } else { UDP },
            length: 0,
            transport,
        };
        with_payload(&headers, payload).unwrap()
    }

    fn tcp(sequence: u32) -> Transport {
        Transport::Tcp { src: 53, dst: 4000, flags: 0x19, sequence, acknowledged: 7 }
    }

    #[test]
    fn what_is_no_whole_udp_or_tcp_packet_is_nothing() {
        let whole = frame(true, tcp(1), b"abc");
        assert_eq!(without_offload(&whole[..whole.len() - 1], 1500), None);
        let mut other = whole.clone();
        other[23] = 47;
        assert_eq!(without_offload(&other, 1500), None);
        assert_eq!(without_offload(&frame(true, tcp(1), &[0; 100]), 40), None, "no room");
        let mut none = frame(true, Transport::Udp { src: 53, dst: 4000 }, b"");
        none[40..42].fill(0);
        assert_eq!(
            without_offload(&none, 1500),
            Some(vec![none.clone()]),
            "UDP over IPv4 need not have a sum"
        );
    }

    proptest! {
        #[test]
        fn segments_are_the_packet_and_sums_are_right(
            v4: bool, sequence: u32, mtu in 100usize..1500, size in 0usize..5000, damage in 1u8..
        ) {
            let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let whole = frame(v4, tcp(sequence), &payload);
            let mut sent = whole.clone();
            let sum = if v4 { 50 } else { 70 };
            sent[sum] ^= damage;
            let made = without_offload(&sent, mtu).unwrap();
            let headers = if v4 { 54 } else { 74 };
            let mut found: Vec<u8> = Vec::new();
            for (n, made) in made.iter().enumerate() {
                let read = parse(made).unwrap();
                prop_assert!(made.len() <= 14 + mtu && read.length as usize == made.len() - 14);
                let Transport::Tcp { sequence: at, flags, .. } = read.transport else { panic!() };
                prop_assert_eq!(at, sequence.wrapping_add(found.len() as u32));
                found.extend(&made[headers..]);
                prop_assert_eq!(flags, if found.len() == size { 0x19 } else { 0x10 }, "{}", n);
                let again = frame(v4, Transport::Tcp { src: 53, dst: 4000, flags, sequence: at, acknowledged: 7 }, &made[headers..]);
                prop_assert_eq!(&again[headers - 20..], &made[headers - 20..]);
                if v4 {
                    prop_assert_eq!(checksum(&[&made[14..34]]), [0, 0]);
                }
            }
            prop_assert_eq!(found, payload);
        }
    }
}
