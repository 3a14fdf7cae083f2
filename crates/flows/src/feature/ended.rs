//! What may still come of connections that a policy ended.
//!
//! The tracker has forgotten them, and to it their next packet begins a connection: the client's is judged, and denied; the
//! server's would begin one the other way round, which is perhaps allowed, and carry the client's packets as its answers.
//!
//! ```text
//!  ConntrackState  TCP, new, no SYN, of the connection   ─controller(meter 256)─► agent ─ reset ─► whoever sent it
//!                  UDP, SCTP, new, from the server       drop
//! ```
//!
//! Both ends of a TCP connection hear of it by their next packet. A SYN is none of its packets and begins another one, and
//! datagrams from the server's port to the client's are dropped until there are none for a while.

use std::net::SocketAddr;

use openflow::{CtState, Field, Flow, Match};

use super::{Family, priority::HIGH, reject};
use crate::{config::Network, cookie::Category, policy::Protocol, table::Table};

/// Seconds for which packets of a TCP connection are refused: an end that has nothing to send asks after two hours, with
/// Linux's default (net.ipv4.tcp_keepalive_time), whether the other one is there.
pub const REFUSED_FOR: u16 = 3 * 60 * 60;

/// Seconds without a datagram of the server's after which it is taken for one that has heard of the end.
const SILENT: u16 = 180;

/// A connection that a policy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    pub server: SocketAddr,
}

/// Flows of connections that policy ended.
pub fn ended<'a>(net: &Network, connections: impl IntoIterator<Item = &'a Ended>) -> Vec<Flow> {
    let flow = |matches| net.flow(Category::NetworkPolicy, Table::ConntrackState, HIGH, matches);
    let mut flows = Vec::new();
    for Ended { protocol, client, server } in connections {
        let from_server = packets(*protocol, *server, *client).map(flow);
        if *protocol == Protocol::Tcp {
            let from_client = packets(*protocol, *client, *server).map(flow);
            let refused =
                |flow: Flow| flow.hard_timeout(REFUSED_FOR).action(reject::send_up(net, reject::REJECT));
            flows.extend(from_server.into_iter().chain(from_client).map(refused));
        } else {
            flows.extend(from_server.map(|flow| flow.idle_timeout(SILENT)));
        }
    }
    flows
}

/// Packets that the tracker takes for the first of a connection although they are none.
fn packets(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Option<Match> {
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    let (number, source, destination) = match protocol {
        Protocol::Tcp => (6, Field::TcpSrc, Field::TcpDst),
        Protocol::Udp => (17, Field::UdpSrc, Field::UdpDst),
        Protocol::Sctp => (132, Field::SctpSrc, Field::SctpDst),
        Protocol::Icmp | Protocol::Igmp => return None,
    };
    let all = family
        .packets()
        .nw_proto(number)
        .ct_state(CtState::new().set(CtState::NEW | CtState::TRK))
        .nw_src(from.ip())
        .nw_dst(to.ip())
        .exact(source, from.port().into())
        .exact(destination, to.port().into());
    Some(if protocol == Protocol::Tcp { all.tcp_flags(0, SYN) } else { all })
}

/// Of `tcp_flags`.
const SYN: u16 = 0x002;
