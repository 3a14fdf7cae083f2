//! Frames of a protocol of our own on a link, to find out whether what is behind the link works.

use std::os::{
    fd::{AsRawFd, OwnedFd},
    unix::net,
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, bind},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UnixDatagram;

use crate::{Error, MacAddr, Result};

/// Sends any frame on one link, and receives those of one EtherType that come in on it.
#[derive(Debug)]
pub struct FrameSocket {
    /// A packet socket: tokio has no type for it, and this one only ever calls send(2) and recv(2).
    socket: UnixDatagram,
    link: String,
    mac: MacAddr,
}

impl FrameSocket {
    /// Opens a socket on `link`, in the namespace of the calling thread.
    ///
    /// # Errors
    /// There is no such Ethernet link, or packet sockets are not permitted (`CAP_NET_RAW`).
    pub fn open(link: &str, ether_type: u16) -> Result<Self> {
        let what = |step: &str| format!("{link}: {step}");
        let (address, mac) = link_address(link)?;
        let protocol = Protocol::from(i32::from(ether_type.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))
            .map_err(|error| Error::io(what("open packet socket"), error))?;
        // The address has no protocol, so the socket's own stays.
        bind(socket.as_raw_fd(), &address).map_err(|errno| Error::errno_of(what("bind"), errno))?;
        let socket = UnixDatagram::from_std(net::UnixDatagram::from(OwnedFd::from(socket)))
            .map_err(|error| Error::io(what("poll packet socket"), error))?;
        Ok(Self { socket, link: link.to_owned(), mac })
    }

    /// Hardware address of the link when the socket was opened.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Sends a frame, header included.
    ///
    /// # Errors
    /// The link is down or gone.
    pub async fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send(frame).await;
        sent.map(drop).map_err(|error| Error::io(format!("{}: send a frame", self.link), error))
    }

    /// The next frame, cut to the buffer's length. Cancel safe.
    ///
    /// # Errors
    /// The link is down or gone.
    pub async fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.socket.recv(buffer).await;
        read.map_err(|error| Error::io(format!("{}: receive a frame", self.link), error))
    }
}

/// Address for a packet socket, and hardware address, of an Ethernet link.
///
/// # Errors
/// There is no such link, or it is not Ethernet.
pub(crate) fn link_address(link: &str) -> Result<(LinkAddr, MacAddr)> {
    // The list holds one AF_PACKET entry per link, whatever its addresses and state.
    let address: LinkAddr = getifaddrs()
        .map_err(|errno| Error::errno_of(format!("{link}: list links"), errno))?
        .filter(|entry| entry.interface_name == link)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| Error::LinkNotFound(link.to_owned()))?;
    let mac = address.addr().filter(|_| address.halen() == 6).map(MacAddr).ok_or_else(|| Error::Invalid {
        what: "interface for frames",
        value: link.to_owned(),
        reason: "not an Ethernet interface",
    })?;
    Ok((address, mac))
}
