//! Announcing an address to the neighbours: gratuitous ARP, unsolicited neighbour advertisement.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};

use crate::{Error, MacAddr, Netns, Result, frames::link_address};

/// ff02::1, all nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends one announcement per address out of `iface`, with the interface's own hardware address.
pub async fn announce(netns: &Netns, iface: &str, ips: &[IpAddr]) -> Result<()> {
    let iface = iface.to_owned();
    let ips = ips.to_vec();
    netns.run(move || announce_here(&iface, &ips)).await?
}

fn announce_here(iface: &str, ips: &[IpAddr]) -> Result<()> {
    let what = |step: &str| format!("announce addresses on {iface}: {step}");
    let (link, mac) = link_address(iface)?;
    // Protocol 0: the socket sends and never receives; a frame's own type is taken.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| Error::errno_of(what("open packet socket"), e))?;
    bind(socket.as_raw_fd(), &link).map_err(|e| Error::errno_of(what("bind"), e))?;
    for ip in ips {
        let frame = match ip {
            IpAddr::V4(ip) => gratuitous_arp(mac, *ip),
            IpAddr::V6(ip) => neighbour_advertisement(mac, *ip),
        };
        send(socket.as_raw_fd(), &frame, MsgFlags::empty())
            .map_err(|e| Error::errno_of(what(&format!("send {ip}")), e))?;
    }
    Ok(())
}

/// A broadcast ARP request by `ip` for itself (RFC 5227 §3 announcement).
pub fn gratuitous_arp(mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(MacAddr::BROADCAST.0);
    frame.extend(mac.0);
    frame.extend([0x08, 0x06]);
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(ip.octets());
    frame.extend(MacAddr::ZERO.0);
    frame.extend(ip.octets());
    frame
}

/// An unsolicited neighbour advertisement to all nodes with the override flag (RFC 4861 §7.2.6).
pub fn neighbour_advertisement(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    const LENGTH: u8 = 32;
    const ICMPV6: u8 = 58;
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]); // target link-layer address, 8 octets
    message.extend(mac.0);
    let pseudo = [&ip.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, LENGTH, 0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(mac.0);
    frame.extend([0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, LENGTH, ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_right_length_and_checksum() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(gratuitous_arp(mac, Ipv4Addr::new(10, 0, 0, 1)).len(), 42);
        let ip: Ipv6Addr = "fd00::1".parse().unwrap();
        let frame = neighbour_advertisement(mac, ip);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // A correct checksum makes the sum over everything come out as zero.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
