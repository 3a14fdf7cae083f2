//! Changes made by others: a bounded stream of link, address, route, neighbour and routing rule events.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourMessage, NeighbourState},
};
use rtnetlink::{MulticastGroup, sys::AsyncSocket};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    addr::{Address, address_of},
    link::Link,
    route::{Route, route_of},
};
use crate::{Error, Netlink, Result};

/// Events held for a slow reader before they are given up for [`Event::Resync`].
const QUEUE: usize = 1024;
/// Socket receive buffer in octets: room for the storm that a bridge with thousands of ports can raise.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Something changed in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone.
    LinkRemoved(Link),
    /// An address was added or changed.
    Address(Address),
    /// An address is gone.
    AddressRemoved(Address),
    /// A route was added or replaced.
    Route(Route),
    /// A route is gone.
    RouteRemoved(Route),
    /// A neighbour or forwarding entry was added, changed or removed.
    Neighbour {
        /// The link's index.
        link: u32,
        /// Whether somebody wrote it, rather than a protocol found it.
        fixed: bool,
    },
    /// A routing rule was added or is gone.
    Rule,
    /// Events were lost, here or in the kernel (`ENOBUFS`): read everything anew.
    Resync,
}

/// A stream of events; ends when the socket does. Dropping it closes the socket.
#[derive(Debug)]
pub struct Monitor {
    events: mpsc::Receiver<Event>,
    lost: Arc<AtomicBool>,
    driver: AbortHandle,
    pump: AbortHandle,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.driver.abort();
        self.pump.abort();
    }
}

impl Monitor {
    /// The next event. `None` when the socket failed; the caller opens a new one and reads everything anew.
    pub async fn next(&mut self) -> Option<Event> {
        if self.lost.swap(false, Ordering::AcqRel) {
            return Some(Event::Resync);
        }
        match self.events.recv().await {
            Some(event) => Some(event),
            None if self.lost.swap(false, Ordering::AcqRel) => Some(Event::Resync),
            None => None,
        }
    }
}

impl Netlink {
    /// Subscribes to changes of links, addresses, routes, neighbours and routing rules in the socket's namespace, from now on.
    pub async fn monitor(&self) -> Result<Monitor> {
        let what = || format!("monitor {}", self.netns());
        let (mut connection, _handle, mut messages) = self
            .netns()
            .run(|| {
                rtnetlink::new_multicast_connection(&[
                    MulticastGroup::Link,
                    MulticastGroup::Ipv4Ifaddr,
                    MulticastGroup::Ipv6Ifaddr,
                    MulticastGroup::Ipv4Route,
                    MulticastGroup::Ipv6Route,
                    MulticastGroup::Neigh,
                    MulticastGroup::Ipv4Rule,
                    MulticastGroup::Ipv6Rule,
                ])
            })
            .await?
            .map_err(|e| Error::io(what(), e))?;
        // Limited by net.core.rmem_max for the unprivileged; the default works, only with more resyncs.
        let _ = connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER);
        let driver = tokio::spawn(connection).abort_handle();
        let (tx, events) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        // The library's channel has no bound: this task keeps it empty and drops what does not fit ours.
        let pump = tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let event = match message.payload {
                    NetlinkPayload::InnerMessage(inner) => event_of(inner),
                    NetlinkPayload::Overrun(_) => Some(Event::Resync),
                    _ => None,
                };
                let Some(event) = event else { continue };
                match tx.try_send(event) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => flag.store(true, Ordering::Release),
                    Err(mpsc::error::TrySendError::Closed(_)) => break,
                }
            }
        })
        .abort_handle();
        Ok(Monitor { events, lost, driver, pump })
    }
}

fn event_of(message: RouteNetlinkMessage) -> Option<Event> {
    Some(match message {
        RouteNetlinkMessage::NewLink(message) => Event::Link(message.into()),
        RouteNetlinkMessage::DelLink(message) => Event::LinkRemoved(message.into()),
        RouteNetlinkMessage::NewAddress(message) => Event::Address(address_of(&message)?),
        RouteNetlinkMessage::DelAddress(message) => Event::AddressRemoved(address_of(&message)?),
        RouteNetlinkMessage::NewRoute(message) => Event::Route(route_of(&message)?),
        RouteNetlinkMessage::DelRoute(message) => Event::RouteRemoved(route_of(&message)?),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message),
        RouteNetlinkMessage::DelNeighbour(message) => neighbour(&message),
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Event::Rule,
        _ => return None,
    })
}

fn neighbour(message: &NeighbourMessage) -> Event {
    let header = &message.header;
    // A forwarding entry that the kernel learned is not permanent; one that is deleted by hand fails first.
    let fixed = header.family == AddressFamily::Bridge
        || matches!(header.state, NeighbourState::Permanent | NeighbourState::Failed);
    Event::Neighbour { link: header.ifindex, fixed }
}
