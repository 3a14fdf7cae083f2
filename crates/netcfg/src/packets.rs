//! What passes on a link, both ways, as far as a filter of the caller's lets it.

use std::{io::IoSliceMut, os::fd::AsRawFd, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, bind, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
        time::TimeSpec,
    },
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::{Error, Result, frames::link_address};

/// "All protocols" (`ETH_P_ALL`), both ways.
const EVERY: u16 = 3;

/// Room for what comes while nobody reads; the kernel drops what does not fit.
const QUEUE: usize = 2 << 20;

/// An instruction of classic BPF: code, jump if true, jump if false, operand.
pub type FilterInstruction = (u16, u8, u8, u32);

/// Hears what passes on one link. Reading blocks: it is for a thread that may.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    link: String,
}

/// A packet that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How much of it is in the buffer.
    pub kept: usize,
    /// How long it was.
    pub length: usize,
    /// When, since 1970, as the kernel says.
    pub time: Duration,
}

impl PacketSocket {
    /// Opens a socket on `link`, in the namespace of the calling thread, that hears what `filter` lets pass. No call waits
    /// longer than `patience` for a packet.
    ///
    /// # Errors
    /// There is no such Ethernet link, packet sockets are not permitted (`CAP_NET_RAW`), or the kernel does not take the filter.
    pub fn open(link: &str, filter: &[FilterInstruction], patience: Duration) -> Result<Self> {
        let io = |step: &'static str| {
            let link = link.to_owned();
            move |error| Error::io(format!("{link}: {step}"), error)
        };
        let (address, _) = link_address(link)?;
        let protocol = Protocol::from(i32::from(EVERY.to_be()));
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).map_err(io("open packet socket"))?;
        // It hears every link until it is bound. What came by then is thrown away before its own filter is in.
        let nothing = [SockFilter::new(0x06, 0, 0, 0)];
        socket.attach_filter(&nothing).map_err(io("attach a filter"))?;
        bind(socket.as_raw_fd(), &address)
            .map_err(|errno| Error::errno_of(format!("{link}: bind"), errno))?;
        socket.set_recv_buffer_size(QUEUE).map_err(io("set the size of the queue"))?;
        setsockopt(&socket, ReceiveTimestampns, &true)
            .map_err(|errno| Error::errno_of(format!("{link}: ask for times"), errno))?;
        let opened = Self { socket, link: link.to_owned() };
        opened.socket.set_nonblocking(true).map_err(io("set up"))?;
        while opened.receive(&mut [0; 1])?.is_some() {}
        opened.socket.set_nonblocking(false).map_err(io("set up"))?;
        opened.socket.set_read_timeout(Some(patience)).map_err(io("set a limit of time"))?;
        let filter: Vec<SockFilter> = filter
            .iter()
            .map(|(code, yes, no, operand)| SockFilter::new(*code, *yes, *no, *operand))
            .collect();
        opened.socket.attach_filter(&filter).map_err(io("attach a filter"))?;
        Ok(opened)
    }

    /// The next packet, cut to the buffer's length; none if there was none in time.
    ///
    /// # Errors
    /// The link is down or gone.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<Heard>> {
        let room = buffer.len();
        let mut parts = [IoSliceMut::new(buffer)];
        let mut space = nix::cmsg_space!(TimeSpec);
        let failed = |errno| Error::errno_of(format!("{}: receive a packet", self.link), errno);
        let heard = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_TRUNC);
        let heard = match heard {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let times = heard.cmsgs().map_err(failed)?;
        let time = times.filter_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let time = time.last().unwrap_or_default();
        Ok(Some(Heard { kept: heard.bytes.min(room), length: heard.bytes, time }))
    }
}
