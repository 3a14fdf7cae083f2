//! The headers of a packet, as octets and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use openflow::MacAddr;

/// IANA's protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IANA's protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA's protocol number of UDP.
pub const UDP: u8 = 17;
/// IANA's protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Octets of an Ethernet header without a tag.
pub(crate) const ETHERNET: usize = 14;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Of packets that are made here.
const WINDOW: u16 = 64_240;

/// Headers of a frame with an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Sender of the frame.
    pub eth_src: MacAddr,
    /// Receiver of the frame.
    pub eth_dst: MacAddr,
    /// Sender of the packet.
    pub src: IpAddr,
    /// Receiver of the packet, of the same family.
    pub dst: IpAddr,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// The three flags of IPv4; 0 with IPv6.
    pub flags: u8,
    /// Protocol, or next header.
    pub protocol: u8,
    /// Length of the packet as its header says; what is made here fills it in.
    pub length: u32,
    /// What follows.
    pub transport: Transport,
}

/// The header after IP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
        /// The lower eight flags.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// What it acknowledges; nothing without the flag.
        acknowledged: u32,
    },
    Udp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP or ICMPv6 with an identifier, as echo has.
    Icmp {
        /// Type.
        kind: u8,
        code: u8,
        id: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// Another protocol, or a part of a packet that has none of these headers.
    Other,
}

/// The sum of RFC 1071.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The frame. Addresses of two families give none.
pub fn build(headers: &Headers) -> Option<Vec<u8>> {
    with_payload(headers, &[])
}

/// The frame with something after its headers.
pub(crate) fn with_payload(headers: &Headers, payload: &[u8]) -> Option<Vec<u8>> {
    let mut body = transport(headers.transport);
    body.extend(payload);
    let length = body.len() as u16;
    let mut frame = Vec::with_capacity(ETHERNET + 40 + body.len());
    frame.extend(headers.eth_dst.0);
    frame.extend(headers.eth_src.0);
    match (headers.src, headers.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let pseudo = [&src.octets()[..], &dst.octets(), &[0, headers.protocol], &length.to_be_bytes()];
            // ICMP's sum has no pseudo header.
            sum(headers, &mut body, if headers.protocol == ICMP { &[] } else { &pseudo });
            frame.extend(TYPE_IPV4);
            let total = (20 + length).to_be_bytes();
            let mut ip = vec![0x45, headers.dscp << 2, total[0], total[1], 0, 0, headers.flags << 5, 0];
            ip.extend([headers.ttl, headers.protocol, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum);
            frame.extend(ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let pseudo = [
                &src.octets()[..],
                &dst.octets(),
                &u32::from(length).to_be_bytes(),
                &[0, 0, 0, headers.protocol],
            ];
            sum(headers, &mut body, &pseudo);
            frame.extend(TYPE_IPV6);
            let class = headers.dscp << 2;
            frame.extend([0x60 | class >> 4, class << 4, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([headers.protocol, headers.ttl]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        _ => return None,
    }
    frame.extend(body);
    Some(frame)
}

fn transport(transport: Transport) -> Vec<u8> {
    let mut body = Vec::with_capacity(20);
    match transport {
        Transport::Tcp { src, dst, flags, sequence, acknowledged } => {
            body.extend(src.to_be_bytes());
            body.extend(dst.to_be_bytes());
            body.extend(sequence.to_be_bytes());
            body.extend(acknowledged.to_be_bytes());
            body.extend([5 << 4, flags]);
            body.extend(WINDOW.to_be_bytes());
            body.extend([0; 4]);
        }
        Transport::Udp { src, dst } => {
            body.extend(src.to_be_bytes());
            body.extend(dst.to_be_bytes());
            body.extend(8u16.to_be_bytes());
            body.extend([0; 2]);
        }
        Transport::Icmp { kind, code, id, sequence } => {
            body.extend([kind, code, 0, 0]);
            body.extend(id.to_be_bytes());
            body.extend(sequence.to_be_bytes());
        }
        Transport::Other => {}
    }
    body
}

/// Puts the checksum in.
fn sum(headers: &Headers, body: &mut [u8], pseudo: &[&[u8]]) {
    let at = match headers.transport {
        Transport::Tcp { .. } => 16,
        Transport::Udp { .. } => 6,
        Transport::Icmp { .. } => 2,
        Transport::Other => return,
    };
    let parts: Vec<&[u8]> = pseudo.iter().copied().chain([&*body]).collect();
    let mut sum = checksum(&parts);
    // None is said by zero.
    if matches!(headers.transport, Transport::Udp { .. }) && sum == [0, 0] {
        sum = [0xff, 0xff];
    }
    body[at..at + 2].copy_from_slice(&sum);
}

pub(crate) fn word(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

fn long(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a frame, which may be cut; `None` if it is no untagged frame with an IP header.
pub fn parse(frame: &[u8]) -> Option<Headers> {
    let mac = |at: usize| Some(MacAddr(frame.get(at..at + 6)?.try_into().ok()?));
    let (eth_dst, eth_src) = (mac(0)?, mac(6)?);
    let kind: [u8; 2] = frame.get(12..14)?.try_into().ok()?;
    let ip = frame.get(ETHERNET..)?;
    let headers = |src, dst, dscp, ttl, flags, protocol, length, transport| Headers {
        eth_src,
        eth_dst,
        src,
        dst,
        dscp,
        ttl,
        flags,
        protocol,
        length,
        transport,
    };
    match kind {
        TYPE_IPV4 if ip.first()? >> 4 == 4 => {
            let header = usize::from(ip[0] & 0xf) * 4;
            if header < 20 {
                return None;
            }
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
            let fragment = word(ip, 6)?;
            let protocol = *ip.get(9)?;
            let body = if fragment & 0x1fff == 0 { ip.get(header..).unwrap_or_default() } else { &[] };
            let (src, dst) = (address(12)?.into(), address(16)?.into());
            let (flags, length) = ((fragment >> 13) as u8, word(ip, 2)?.into());
            Some(headers(src, dst, ip[1] >> 2, ip[8], flags, protocol, length, read(protocol, body)))
        }
        TYPE_IPV6 if ip.first()? >> 4 == 6 => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
            let (src, dst) = (address(8)?.into(), address(24)?.into());
            let class = (word(ip, 0)? >> 4) as u8;
            let length = u32::from(word(ip, 4)?) + 40;
            let protocol = ip[6];
            let transport = read(protocol, ip.get(40..).unwrap_or_default());
            Some(headers(src, dst, class >> 2, ip[7], 0, protocol, length, transport))
        }
        _ => None,
    }
}

/// Whether the frame's packet is of IPv4.
pub(crate) fn is_ipv4(frame: &[u8]) -> bool {
    frame.get(12..ETHERNET).is_some_and(|kind| *kind == TYPE_IPV4)
}

/// The protocol of a whole packet, and where in the frame what IP carries is. `None` of a fragment, of what is cut, and of
/// what is no untagged frame with an IP header.
pub(crate) fn segment(frame: &[u8]) -> Option<(u8, Range<usize>)> {
    let packet = frame.get(ETHERNET..)?;
    let (protocol, body) = match <[u8; 2]>::try_from(frame.get(12..ETHERNET)?).ok()? {
        // A fragment says so by its offset, or by the flag that more follow.
        TYPE_IPV4 if word(packet, 6)? & 0x3fff == 0 && packet[0] & 0xf >= 5 => {
            (*packet.get(9)?, usize::from(packet[0] & 0xf) * 4..usize::from(word(packet, 2)?))
        }
        TYPE_IPV6 => (*packet.get(6)?, 40..40 + usize::from(word(packet, 4)?)),
        _ => return None,
    };
    packet.get(body.clone())?;
    Some((protocol, ETHERNET + body.start..ETHERNET + body.end))
}

/// The header of a protocol.
pub(crate) fn read(protocol: u8, body: &[u8]) -> Transport {
    let header = || match protocol {
        TCP => Some(Transport::Tcp {
            src: word(body, 0)?,
            dst: word(body, 2)?,
            flags: *body.get(13)?,
            sequence: long(body, 4)?,
            acknowledged: long(body, 8)?,
        }),
        UDP => Some(Transport::Udp { src: word(body, 0)?, dst: word(body, 2)? }),
        ICMP | ICMPV6 => Some(Transport::Icmp {
            kind: *body.first()?,
            code: *body.get(1)?,
            id: word(body, 4)?,
            sequence: word(body, 6)?,
        }),
        _ => None,
    };
    header().unwrap_or(Transport::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (a.into(), b.into())),
        ]
    }

    prop_compose! {
        fn frames()(
            (src, dst) in addresses(),
            macs in any::<([u8; 6], [u8; 6])>(),
            dscp in 0u8..64,
            ttl in any::<u8>(),
            flags in 0u8..8,
            which in 0..4,
            ports in any::<(u16, u16, u8)>(),
            numbers in any::<(u32, u32)>(),
        ) -> Headers {
            let v4 = src.is_ipv4();
            let (protocol, transport, size) = match which {
                0 => {
                    let ((src, dst, flags), (sequence, acknowledged)) = (ports, numbers);
                    (TCP, Transport::Tcp { src, dst, flags, sequence, acknowledged }, 20)
                }
                1 => (UDP, Transport::Udp { src: ports.0, dst: ports.1 }, 8),
                2 => {
                    let icmp = Transport::Icmp { kind: ports.2, code: 0, id: ports.0, sequence: ports.1 };
                    (if v4 { ICMP } else { ICMPV6 }, icmp, 8)
                }
                _ => (47, Transport::Other, 0),
            };
            let length = if v4 { 20 + size } else { 40 + size };
            let flags = if v4 { flags } else { 0 };
            let (eth_src, eth_dst) = (MacAddr(macs.0), MacAddr(macs.1));
            Headers { eth_src, eth_dst, src, dst, dscp, ttl, flags, protocol, length, transport }
        }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_and_its_sums_are_right(headers in frames()) {
            let frame = build(&headers).unwrap();
            prop_assert_eq!(parse(&frame), Some(headers.clone()));
            if headers.src.is_ipv4() {
                prop_assert_eq!(checksum(&[&frame[14..34]]), [0, 0]);
            }
            let (pseudo, body) = match headers.src {
                IpAddr::V4(_) => (frame[26..34].to_vec(), &frame[34..]),
                IpAddr::V6(_) => (frame[22..54].to_vec(), &frame[54..]),
            };
            let rest = [0, headers.protocol, 0, body.len() as u8];
            match headers.transport {
                Transport::Other => {}
                Transport::Icmp { .. } if headers.src.is_ipv4() => prop_assert_eq!(checksum(&[body]), [0, 0]),
                _ => prop_assert_eq!(checksum(&[&pseudo, &rest, body]), [0, 0]),
            }
        }

        #[test]
        fn what_is_cut_is_read_as_far_as_it_goes(headers in frames(), cut in 0usize..80) {
            let frame = build(&headers).unwrap();
            let cut = cut.min(frame.len());
            match parse(&frame[..cut]) {
                Some(read) => prop_assert_eq!((read.src, read.dst), (headers.src, headers.dst)),
                None => prop_assert!(cut < 54),
            }
        }
    }

    #[test]
    fn families_do_not_mix() {
        let headers = Headers {
            eth_src: MacAddr([0; 6]),
            eth_dst: MacAddr([0; 6]),
            src: "192.0.2.1".parse().unwrap(),
            dst: "2001:db8::1".parse().unwrap(),
            dscp: 7,
            ttl: 64,
            flags: 0,
            protocol: 6,
            length: 0,
            transport: Transport::Other,
        };
        assert_eq!(build(&headers), None);
        assert_eq!(parse(&[]), None);
    }
}
