//! Messages to and from the kernel's netfilter: what nftables and connection tracking have in common.

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{NetlinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

/// `NETLINK_NETFILTER` (netlink.h).
const NETLINK_NETFILTER: i32 = 12;
/// `AF_NETLINK` (socket.h).
const AF_NETLINK: i32 = 16;
/// `struct nlmsghdr` (netlink.h).
pub(crate) const HEADER: usize = 16;
/// `struct nfgenmsg` (nfnetlink.h): family, version, resource.
pub(crate) const GENERIC: usize = 4;
/// `struct nlattr` (netlink.h): length and type.
pub(crate) const ATTRIBUTE: usize = 4;
/// An attribute's type without its flags (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;

/// A socket in the calling thread's namespace that gets what is sent to `groups`, a mask, and answers.
pub(crate) fn socket(kind: Type, groups: u32) -> io::Result<Socket> {
    socket_of(NETLINK_NETFILTER, kind, groups)
}

/// The same for another of the kernel's parts that speak netlink.
pub(crate) fn socket_of(part: i32, kind: Type, groups: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(AF_NETLINK), kind, Some(Protocol::from(part)))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// The first message of a datagram: type, what is after its header, and what is after it.
pub(crate) fn message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let length = usize::try_from(length).ok().filter(|length| *length >= HEADER)?;
    // The last message may be cut by the buffer.
    let end = length.min(datagram.len());
    let after = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, datagram.get(HEADER..end)?, after))
}

/// Attributes one after the other, by type and value. Ends at the first that is damaged.
pub(crate) fn attributes(mut octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, t0, t1, ..] = *octets else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = octets.get(ATTRIBUTE..length)?;
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & KIND, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn value(octets: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(octets).find_map(|(found, value)| (found == kind).then_some(value))
}

/// An attribute with its padding. `value` is at most a few hundred octets long.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    let mut octets = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    octets.extend_from_slice(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// A message of `kind` with what follows `struct nfgenmsg`.
pub(crate) fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + GENERIC + attributes.len()).unwrap_or(u32::MAX);
    let mut octets = length.to_ne_bytes().to_vec();
    octets.extend(kind.to_ne_bytes());
    octets.extend(flags.to_ne_bytes());
    // Sequence number and port: one request at a time needs no telling apart.
    octets.resize(HEADER, 0);
    octets.extend([family, 0, 0, 0]);
    octets.extend_from_slice(attributes);
    octets
}

/// What the first four octets of an acknowledgement, or of the end of a dump, say.
pub(crate) fn answer(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|octets| octets.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(()) }
}

/// Waits for a datagram; longer ones than the buffer are cut.
pub(crate) fn receive(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match io::Read::read(&mut socket, buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
