//! Messages to and from the kernel's netfilter: what nftables and connection tracking have in common.

use std::{io, os::fd::AsRawFd, time::Duration};

use nix::{
    errno::Errno,
    sys::socket::{NetlinkAddr, bind},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Netns, Result};

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
/// `NLM_F_REQUEST` and `NLMSG_ERROR` (netlink.h).
pub(crate) const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// The kernel answers before it returns from the request, which loads a module first where one is what is asked for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Parts of netfilter that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Ipsets,
    Nftables,
}

impl Part {
    /// What it answers whatever it holds.
    fn question(self) -> Vec<u8> {
        match self {
            // Subsystem 6, IPSET_CMD_PROTOCOL 1 with IPSET_ATTR_PROTOCOL 1, the asker's version (ip_set.h).
            Part::Ipsets => request(6 << 8 | 1, REQUEST, 0, &attribute(1, &[6])),
            // Subsystem 10, NFT_MSG_GETGEN 16 (nf_tables.h).
            Part::Nftables => request(10 << 8 | 16, REQUEST, 0, &[]),
        }
    }
}

/// Whether the kernel has a part of netfilter, of which a module may be loaded for it.
///
/// # Errors
/// The kernel was not asked, or answered neither yes nor no.
pub async fn kernel_has(netns: &Netns, part: Part) -> Result<bool> {
    let asked = netns.run(move || has(NETLINK_NETFILTER, &part.question(), Errno::EINVAL)).await?;
    asked.map_err(|error| Error::io(format!("ask the kernel for {part:?}"), error))
}

/// Whether one of the kernel's parts that speak netlink has what a question is about. `lacks` is what it answers if not.
pub(crate) fn has(part: i32, question: &[u8], lacks: Errno) -> io::Result<bool> {
    let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno as i32);
    let socket = match socket_of(part, Type::RAW.cloexec(), 0) {
        Err(error) if is(&error, Errno::EPROTONOSUPPORT) => return Ok(false),
        other => other?,
    };
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(question)?;
    // That there is an answer is all that is of interest.
    let mut buffer = [0; 1024];
    let length = receive(&socket, &mut buffer)?;
    match message(buffer.get(..length).unwrap_or_default()) {
        Some((ERROR, body, _)) => match answer(body) {
            Err(error) if is(&error, lacks) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("no answer but an acknowledgement")),
        },
        Some(_) => Ok(true),
        None => Err(io::Error::other("an answer that is no message")),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_the_kernel_lacks_is_told_from_one_that_cannot_be_asked() {
        let netns = Netns::unshare().await.unwrap();
        for part in [Part::Ipsets, Part::Nftables] {
            assert!(kernel_has(&netns, part).await.unwrap(), "{part:?}");
        }
        let none = request(0xff << 8, REQUEST, 0, &[]);
        assert!(!has(NETLINK_NETFILTER, &none, Errno::EINVAL).unwrap());
        assert!(has(NETLINK_NETFILTER, &none, Errno::ENOENT).is_err());
        // No part of Linux: netlink has 32 at most.
        assert!(!has(31, &none, Errno::EINVAL).unwrap());
    }
}
