//! The answer that refuses a packet.

use std::net::IpAddr;

use openflow::MacAddr;

use crate::headers::{ETHERNET, Headers, ICMP, ICMPV6, TCP, Transport, parse, read, with_payload, word};

/// Bits of TCP's flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// "Communication with destination host administratively prohibited" (RFC 1122 §3.2.2.1): type and code.
const PROHIBITED_V4: (u8, u8) = (3, 10);
/// The same of RFC 4443 §3.1.
const PROHIBITED_V6: (u8, u8) = (1, 1);

/// "Port unreachable" of both.
const NO_PORT_V4: (u8, u8) = (3, 3);
const NO_PORT_V6: (u8, u8) = (1, 4);

/// Longest packet that carries an error: RFC 1812 §4.3.2.3, RFC 4443 §2.4(c).
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;

/// Hop limit, and the flag that says "don't fragment", of what is made here.
const TTL: u8 = 64;
const DONT_FRAGMENT: u8 = 2;

/// The packet that tells the sender of this frame that it is refused, in a frame from `by` to `to`: of a TCP segment a
/// reset that it accepts (RFC 9293 §3.10.7.1), of anything else ICMP's "administratively prohibited".
///
/// `None` where there must be no answer: to an error or a reset, to what went to or came from more than one (RFC 1122
/// §3.2.2, RFC 4443 §2.4(e)), to a later fragment, and to what cannot be read. The frame may be cut behind its headers.
pub fn refuse(frame: &[u8], by: MacAddr, to: MacAddr) -> Option<Vec<u8>> {
    answer_with(frame, by, to, (PROHIBITED_V4, PROHIBITED_V6))
}

/// The same where nobody listens: of anything but TCP, ICMP's "port unreachable".
pub fn unreachable(frame: &[u8], by: MacAddr, to: MacAddr) -> Option<Vec<u8>> {
    answer_with(frame, by, to, (NO_PORT_V4, NO_PORT_V6))
}

fn answer_with(
    frame: &[u8],
    by: MacAddr,
    to: MacAddr,
    (error_v4, error_v6): ((u8, u8), (u8, u8)),
) -> Option<Vec<u8>> {
    let headers = parse(frame)?;
    if headers.eth_dst.0[0] & 1 != 0 || !is_one(headers.src) || !is_one(headers.dst) {
        return None;
    }
    let packet = frame.get(ETHERNET..)?;
    let (protocol, at) = upper(packet)?;
    let body = packet.get(at..)?;
    let v4 = headers.src.is_ipv4();
    let answer = |protocol, transport| Headers {
        eth_src: by,
        eth_dst: to,
        src: headers.dst,
        dst: headers.src,
        dscp: 0,
        ttl: TTL,
        flags: if v4 { DONT_FRAGMENT } else { 0 },
        protocol,
        length: 0,
        transport,
    };
    match (protocol, read(protocol, body)) {
        (TCP, Transport::Tcp { flags, .. }) if flags & RST != 0 => None,
        (TCP, segment @ Transport::Tcp { .. }) => {
            let data_at = at + usize::from(body.get(12)? >> 4) * 4;
            let length = headers.length.saturating_sub(u32::try_from(data_at).ok()?);
            with_payload(&answer(TCP, reset(segment, length)?), &[])
        }
        (TCP, _) => None,
        (ICMP | ICMPV6, Transport::Icmp { kind, .. }) if is_error(protocol, kind) => None,
        (ICMP | ICMPV6, Transport::Other) => None,
        _ => {
            let (protocol, (kind, code), longest) = if v4 {
                (ICMP, error_v4, LONGEST_V4 - 20 - 8)
            } else {
                (ICMPV6, error_v6, LONGEST_V6 - 40 - 8)
            };
            let unreachable = Transport::Icmp { kind, code, id: 0, sequence: 0 };
            // Without what Ethernet added to a short one.
            let whole = usize::try_from(headers.length).unwrap_or(usize::MAX);
            with_payload(&answer(protocol, unreachable), packet.get(..longest.min(packet.len()).min(whole))?)
        }
    }
}

/// The reset that answers a segment with so much data.
fn reset(segment: Transport, length: u32) -> Option<Transport> {
    let Transport::Tcp { src, dst, flags, sequence, acknowledged } = segment else { return None };
    let occupied = length + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (flags, sequence, acknowledged) = if flags & ACK != 0 {
        (RST, acknowledged, 0)
    } else {
        (RST | ACK, 0, sequence.wrapping_add(occupied))
    };
    Some(Transport::Tcp { src: dst, dst: src, flags, sequence, acknowledged })
}

/// Whether the address is of one host, which others can reach.
fn is_one(ip: IpAddr) -> bool {
    let every = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(every || ip.is_multicast() || ip.is_unspecified() || ip.is_loopback())
}

/// Whether a message tells of an error of another packet. Redirects are answered as little.
fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        _ => kind < 128 || kind == 137,
    }
}

/// The protocol above IP, and where its header begins; `None` of a later fragment or where it is cut off.
fn upper(packet: &[u8]) -> Option<(u8, usize)> {
    if packet.first()? >> 4 == 4 {
        let is_first = word(packet, 6)? & 0x1fff == 0;
        return is_first.then_some((*packet.get(9)?, usize::from(packet[0] & 0xf) * 4));
    }
    let (mut next, mut at) = (*packet.get(6)?, 40);
    loop {
        match next {
            // Hop-by-hop options, routing, destination options (RFC 8200 §4).
            0 | 43 | 60 => {
                next = *packet.get(at)?;
                at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
            }
            // Fragment.
            44 => {
                if word(packet, at + 2)? & 0xfff8 != 0 {
                    return None;
                }
                next = *packet.get(at)?;
                at += 8;
            }
            protocol => return Some((protocol, at)),
        }
    }
}

#[cfg(test)]
mod tests;
