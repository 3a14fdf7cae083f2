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
