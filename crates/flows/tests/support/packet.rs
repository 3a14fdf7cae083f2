//! What tests look at in a frame.

use std::{fmt, net::IpAddr};

use anyhow::{Context, Result};
use openflow::MacAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub eth_src: MacAddr,
    pub eth_dst: MacAddr,
    pub body: Body,
    /// Source and destination port of TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Ip { src: IpAddr, dst: IpAddr, ttl: u8, proto: u8 },
    Arp { op: u16, sha: MacAddr, spa: IpAddr, tha: MacAddr, tpa: IpAddr },
    Other(u16),
}

impl Packet {
    pub fn decode(frame: &[u8]) -> Result<Self> {
        let bytes = |at: usize, n: usize| frame.get(at..at + n).context("frame too short");
        let mac = |at: usize| -> Result<MacAddr> { Ok(MacAddr(bytes(at, 6)?.try_into()?)) };
        let word = |at: usize| -> Result<u16> { Ok(u16::from_be_bytes(bytes(at, 2)?.try_into()?)) };
        let v4 = |at: usize| -> Result<IpAddr> { Ok(<[u8; 4]>::try_from(bytes(at, 4)?)?.into()) };
        let v6 = |at: usize| -> Result<IpAddr> { Ok(<[u8; 16]>::try_from(bytes(at, 16)?)?.into()) };
        let body = match word(12)? {
            0x0800 => Body::Ip { src: v4(26)?, dst: v4(30)?, ttl: bytes(22, 1)?[0], proto: bytes(23, 1)?[0] },
            0x86dd => Body::Ip { src: v6(22)?, dst: v6(38)?, ttl: bytes(21, 1)?[0], proto: bytes(20, 1)?[0] },
            0x0806 => Body::Arp { op: word(20)?, sha: mac(22)?, spa: v4(28)?, tha: mac(32)?, tpa: v4(38)? },
            other => Body::Other(other),
        };
        let transport = match body {
            Body::Ip { src: IpAddr::V4(_), proto: 6 | 17 | 132, .. } => {
                Some(14 + 4 * usize::from(bytes(14, 1)?[0] & 0xf))
            }
            Body::Ip { proto: 6 | 17 | 132, .. } => Some(54),
            _ => None,
        };
        let ports = transport.map(|at| Ok::<_, anyhow::Error>((word(at)?, word(at + 2)?))).transpose()?;
        Ok(Self { eth_dst: mac(0)?, eth_src: mac(6)?, body, ports })
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} ", self.eth_src, self.eth_dst)?;
        match &self.body {
            Body::Ip { src, dst, ttl, proto } => write!(f, "{src} > {dst} ttl {ttl} proto {proto}"),
            Body::Arp { op, sha, spa, tha, tpa } => write!(f, "arp {op} {spa} {sha} > {tpa} {tha}"),
            Body::Other(t) => write!(f, "type {t:#06x}"),
        }
    }
}

/// The sum of RFC 1071.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

/// An IP packet around a payload.
pub fn ip_packet(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, proto, 0, 0];
            header.extend([src.octets(), dst.octets()].concat());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            [header, payload.to_vec()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = length.to_be_bytes();
            let header = [0x60, 0, 0, 0, length[0], length[1], proto, 64];
            [&header[..], &src.octets(), &dst.octets(), payload].concat()
        }
        _ => panic!("two families"),
    }
}

/// A frame with a TCP segment, whose checksum is filled in.
pub fn frame(from: (MacAddr, IpAddr), to: (MacAddr, IpAddr), proto: u8, segment: &[u8]) -> Vec<u8> {
    let mut segment = segment.to_vec();
    let length = (segment.len() as u32).to_be_bytes();
    let (sum, ethertype) = match (from.1, to.1) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            (checksum(&[&src.octets(), &dst.octets(), &[0, proto], &length[2..], &segment]), [8, 0])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            (checksum(&[&src.octets(), &dst.octets(), &length, &[0, 0, 0, proto], &segment]), [0x86, 0xdd])
        }
        _ => panic!("two families"),
    };
    segment[16..18].copy_from_slice(&sum);
    [&to.0.0[..], &from.0.0, &ethertype, &ip_packet(from.1, to.1, proto, &segment)].concat()
}
