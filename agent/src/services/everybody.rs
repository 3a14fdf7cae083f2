//! What is more to do where there is no kube-proxy: the node's addresses, the host, load balancers that ask, clients of
//! Services without endpoints.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use antrea_flows::{Audience, Entry, Guard, Network, SERVICE_PACKET_IN, Transport, Unserved};
use antrea_proxy::{Frontend, Name, Own, Protocol, Served};
use ipnet::IpNet;
use tokio::sync::watch;

use super::access::{Access, Parts, stand_ins};
use super::health::{Answer, Told};
use crate::dataplane::{Dataplane, Subscriber};

/// The ends of the channels to and from the host, and to who answers load balancers.
#[derive(Debug)]
pub struct Ends {
    /// Addresses of the node that have node ports.
    pub addresses: watch::Receiver<Vec<IpAddr>>,
    /// What the host hands to the bridge.
    pub access: watch::Sender<Access>,
    /// What load balancers are told.
    pub told: watch::Sender<Told>,
    /// The API server, which the node has to reach as it is.
    pub api_server: Option<IpAddr>,
}

/// Serves everybody.
#[derive(Debug)]
pub(super) struct Everybody {
    ends: Ends,
    own: Own,
    parts: Parts,
    told: Told,
}

impl Everybody {
    pub(super) fn new(ends: Ends, network: &Network) -> Self {
        let stand_ins = stand_ins(&network.node.pod_cidrs);
        let own = Own { addresses: ends.addresses.borrow().clone(), stand_ins };
        let before = ends.access.borrow().clone();
        let parts = Parts::new(network.node.service_cidrs.clone(), ends.api_server, before);
        Self { ends, own, parts, told: Told::default() }
    }

    /// The node's addresses.
    pub(super) fn own(&self) -> &Own {
        &self.own
    }

    /// The node's addresses as they change.
    pub(super) fn addresses(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.ends.addresses.clone()
    }

    /// Takes them in.
    pub(super) fn moved(&mut self, addresses: &[IpAddr]) -> Own {
        self.own.addresses = addresses.to_vec();
        self.own.clone()
    }

    /// Takes in what a Service is served with from now on.
    pub(super) fn set(&mut self, name: &Name, served: &Served) {
        self.parts.set(name, served, &self.own);
        self.told.answers.retain(|_, answer| answer.service != *name);
        if let Some(health) = served.health {
            let answer = Answer { service: name.clone(), endpoints: health.endpoints };
            self.told.answers.insert(health.port, answer);
        }
    }

    /// Tells of what was taken in, after the bridge has it. `behind`: it does not have all of it.
    pub(super) fn tell(&mut self, behind: bool) {
        if let Some(access) = self.parts.changed() {
            self.ends.access.send_replace(access);
        }
        self.told.synced |= !behind;
        self.told.behind = behind.then(|| self.told.behind.unwrap_or_else(Instant::now));
        self.send();
    }

    /// The node is about to go, or not.
    pub(super) fn leaving(&mut self, leaving: bool) {
        self.told.leaving = leaving;
        self.send();
    }

    fn send(&self) {
        self.ends.told.send_if_modified(|told| {
            let differs = *told != self.told;
            if differs {
                told.clone_from(&self.told);
            }
            differs
        });
    }

    /// What the bridge holds of a Service beyond its backends.
    pub(super) fn entries(&self, network: &Network, served: &Served) -> Vec<Entry> {
        let unserved = served.unserved.iter().map(|unserved| Unserved {
            transport: transport(unserved.frontend.protocol),
            frontend: address(&unserved.frontend),
            audience: if unserved.is_outside { Audience::Outside } else { Audience::Everybody },
            is_refused: unserved.is_refused,
        });
        let mut entries: Vec<Entry> =
            unserved.flat_map(|unserved| antrea_flows::unserved(network, &unserved)).collect();
        let sources = sources(&served.sources, &self.own.addresses, &network.node.gateway.ips);
        entries.extend(served.guarded.iter().flat_map(|frontend| {
            let guard = Guard {
                transport: transport(frontend.protocol),
                frontend: address(frontend),
                sources: sources.clone(),
            };
            antrea_flows::guard(network, &guard)
        }));
        entries
    }
}

/// Who may come: what the node itself sends has the gateway's address.
fn sources(ranges: &[IpNet], own: &[IpAddr], gateways: &[IpAddr]) -> Vec<IpNet> {
    let node = |gateway: &&IpAddr| {
        let mut of_family = own.iter().filter(|ip| ip.is_ipv4() == gateway.is_ipv4());
        of_family.any(|ip| ranges.iter().any(|range| range.contains(ip)))
    };
    let gateways = gateways.iter().filter(node).map(|gateway| IpNet::from(*gateway));
    ranges.iter().copied().chain(gateways).collect()
}

pub(super) fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

pub(super) fn address(frontend: &Frontend) -> SocketAddr {
    SocketAddr::new(frontend.ip, frontend.port)
}

/// Tells clients of Services without endpoints, for ever.
pub async fn refuse(dataplane: &Dataplane) {
    let mut packets = dataplane.subscribe(Subscriber::Services);
    while let Some(packet) = packets.recv().await {
        let Some(source) = antrea_flows::unserved_source(&packet) else {
            tracing::debug!(kind = SERVICE_PACKET_IN, "a packet to a Service of no known origin");
            continue;
        };
        let make = |by, to| antrea_packet::unreachable(&packet.packet, by, to);
        let Some(answer) = antrea_flows::refusal(dataplane.network(), source, make) else { continue };
        if let Err(error) = dataplane.session().packet_out(answer).await {
            tracing::debug!(%error, "a client is not told that its Service has no endpoint");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_with_the_node_in_it_takes_the_node() {
        let ips = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|ip| ip.parse().unwrap()).collect() };
        let (own, gateways) = (ips(&["192.0.2.11"]), ips(&["10.244.1.1", "fd00:1::1"]));
        let of = |ranges: &[&str]| -> Vec<String> {
            let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
            sources(&ranges, &own, &gateways).iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&["192.0.2.0/24"]), ["192.0.2.0/24", "10.244.1.1/32"]);
        assert_eq!(of(&["198.51.100.0/24", "2001:db8::/32"]), ["198.51.100.0/24", "2001:db8::/32"]);
    }
}
