//! Forgets tracked connections of an address that changes hands.
//!
//! What belongs to a known connection passes policy, and an entry outlives its pod: that of TCP by days. Whoever
//! gets the address next would be reached, and would reach others, by what its former owner was allowed.
//!
//! The host tracks too what it translates: of a hostPort or a Service to the pod, and of the pod to the world and to
//! endpoints that are no pods. A client that goes on sending would stay with the address although the port is another
//! pod's by now, and the host judges first packets alone. See [`host`].

mod host;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use antrea_enforce::established::Connection;
use antrea_flows::Family;
use antrea_flows::policy::Protocol;
use ipnet::IpNet;
use netcfg::Netns;
use openflow::{CtFlush, CtTuple, Message};
use ovs::of::{OfError, OfHandle};

use host::Host;

/// Why connections are not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// The bridge is away or refused.
    #[error("connections of the bridge: {0}")]
    Bridge(#[from] OfError),
    /// The host's kernel refused.
    #[error("connections of the host: {0}")]
    Host(Arc<netcfg::Error>),
}

/// Connections of the bridge and of the host.
#[derive(Clone, Debug)]
pub struct Connections {
    session: OfHandle,
    host: Arc<Host>,
    /// The bridge translates Services.
    services: bool,
}

impl Connections {
    /// Those of the bridge of `session`, and of `host`.
    pub fn new(session: OfHandle, host: Netns) -> Self {
        Self { session, host: Arc::new(Host::new(host)), services: false }
    }

    /// Of a bridge that translates Services, or not.
    #[must_use]
    pub fn with_services(self, services: bool) -> Self {
        Self { services, ..self }
    }

    /// Begins with the addresses of `subnets` that pods have, and forgets what the host tracks of all others.
    ///
    /// # Errors
    /// The host's kernel refused. Each address is looked for then when somebody gets it.
    pub async fn begin(&self, subnets: &[IpNet], held: BTreeSet<IpAddr>) -> Result<(), ForgetError> {
        self.host.begin(subnets, held).await.map_err(ForgetError::Host)
    }

    /// Forgets what the last owner of these addresses left, for somebody who gets them now: the connections that they began
    /// or were the destination of, whatever the protocol, also as endpoints of a Service. What was translated to one is
    /// known by its answers.
    ///
    /// # Errors
    /// The first of bridge and host; the other one's are forgotten all the same.
    pub async fn take_back(&self, ips: &[IpAddr]) -> Result<(), ForgetError> {
        self.forget(ips, self.host.take(ips)).await
    }

    /// The same, for an owner that is gone: nothing is sent by these addresses any more.
    ///
    /// # Errors
    /// See [`Connections::take_back`].
    pub async fn left(&self, ips: &[IpAddr]) -> Result<(), ForgetError> {
        self.forget(ips, self.host.left(ips)).await
    }

    async fn forget(
        &self,
        ips: &[IpAddr],
        host: impl Future<Output = Result<(), Arc<netcfg::Error>>>,
    ) -> Result<(), ForgetError> {
        let messages =
            ips.iter().flat_map(|ip| flushes(*ip, self.services)).map(Message::NxCtFlush).collect();
        let (bridge, host) = tokio::join!(self.session.send_barriered(messages), host);
        bridge?;
        host.map_err(ForgetError::Host)?;
        Ok(())
    }

    /// Forgets these connections in the zone that policy goes by. What the bridge translates of them stays: it is by that
    /// that a client understands the answer to its next packet.
    ///
    /// # Errors
    /// The bridge is away or refuses.
    pub async fn end(&self, connections: &[Connection]) -> Result<(), OfError> {
        self.session.send_barriered(connections.iter().map(flush).map(Message::NxCtFlush).collect()).await
    }

    /// Forgets how datagrams to these frontends came to these endpoints, so that the next one is given another.
    ///
    /// # Errors
    /// The bridge is away or refused.
    pub async fn forget_datagrams(&self, ways: &[(SocketAddr, SocketAddr)]) -> Result<(), OfError> {
        let flush = |(frontend, endpoint): &(SocketAddr, SocketAddr)| flush_datagrams(*frontend, *endpoint);
        self.session.send_barriered(ways.iter().map(flush).map(Message::NxCtFlush).collect()).await
    }
}

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn flushes(ip: IpAddr, services: bool) -> Vec<CtFlush> {
    let family = family(ip);
    let from = CtTuple { src: Some(ip), ..CtTuple::default() };
    let to = CtTuple { dst: Some(ip), ..CtTuple::default() };
    let in_zone = |zone| CtFlush { zone: Some(zone), ..CtFlush::default() };
    let mut flushes = [from, to].map(|original| CtFlush { original, ..in_zone(family.zone()) }).to_vec();
    if services {
        let zone = family.service_zone();
        flushes.push(CtFlush { original: from, ..in_zone(zone) });
        flushes.push(CtFlush { reply: from, ..in_zone(zone) });
        flushes.push(CtFlush { original: from, ..in_zone(family.hairpin_zone()) });
    }
    flushes
}

fn flush(connection: &Connection) -> CtFlush {
    let (client, server) = (connection.client, connection.server);
    let ports = connection.icmp.is_none();
    CtFlush {
        protocol: match (connection.protocol, client.ip()) {
            (Protocol::Tcp, _) => 6,
            (Protocol::Udp, _) => UDP,
            (Protocol::Sctp, _) => 132,
            (Protocol::Icmp | Protocol::Igmp, IpAddr::V4(_)) => 1,
            (Protocol::Icmp | Protocol::Igmp, IpAddr::V6(_)) => 58,
        },
        zone: Some(family(client.ip()).zone()),
        original: CtTuple {
            src: Some(client.ip()),
            dst: Some(server.ip()),
            src_port: ports.then(|| client.port()),
            dst_port: ports.then(|| server.port()),
        },
        ..CtFlush::default()
    }
}

/// IP protocol number of UDP.
const UDP: u8 = 17;

fn flush_datagrams(frontend: SocketAddr, endpoint: SocketAddr) -> CtFlush {
    CtFlush {
        protocol: UDP,
        zone: Some(family(frontend.ip()).service_zone()),
        original: CtTuple { dst: Some(frontend.ip()), dst_port: Some(frontend.port()), ..CtTuple::default() },
        reply: CtTuple { src: Some(endpoint.ip()), src_port: Some(endpoint.port()), ..CtTuple::default() },
    }
}

#[cfg(test)]
mod tests {
    use antrea_flows::field::{HAIRPIN_ZONE_V4, SERVICE_ZONE_V4, SERVICE_ZONE_V6, ZONE_V4, ZONE_V6};

    use super::*;

    #[test]
    fn both_directions_in_the_familys_zones() {
        let zones = |ip: &str, services| -> Vec<u16> {
            flushes(ip.parse().unwrap(), services).iter().filter_map(|flush| flush.zone).collect()
        };
        assert_eq!(zones("10.244.1.5", false), [ZONE_V4; 2]);
        assert_eq!(
            zones("10.244.1.5", true)[1..],
            [ZONE_V4, SERVICE_ZONE_V4, SERVICE_ZONE_V4, HAIRPIN_ZONE_V4]
        );
        assert_eq!(zones("fd00::5", true)[1..4], [ZONE_V6, SERVICE_ZONE_V6, SERVICE_ZONE_V6]);
        let address: IpAddr = "10.244.1.5".parse().unwrap();
        let (ip, flushes) = (Some(address), flushes(address, true));
        assert_eq!((flushes[0].original.src, flushes[1].original.dst), (ip, ip));
        assert_eq!((flushes[2].original.src, flushes[3].reply.src), (ip, ip), "client and endpoint");
    }

    #[test]
    fn datagrams_of_one_way_alone() {
        let flush = flush_datagrams("10.96.0.10:53".parse().unwrap(), "10.244.1.5:5353".parse().unwrap());
        assert_eq!((flush.protocol, flush.zone), (17, Some(SERVICE_ZONE_V4)));
        assert_eq!((flush.original.dst_port, flush.reply.src_port), (Some(53), Some(5353)));
        assert_eq!((flush.original.src, flush.reply.dst), (None, None), "whoever sends");
    }
}
