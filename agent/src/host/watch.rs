//! What others change on the node, as far as it concerns the agent.
//!
//! The kernel tells of links, addresses, routes, neighbours, forwarding entries, routing rules and nftables. It
//! does not tell of parameters below /proc/sys, of sets, and of the rules of iptables-legacy: those are looked at
//! again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use netcfg::nft::NftMonitor;
use netcfg::{ANTREA_PROTOCOL, Event, Monitor, Netlink};

use crate::ovs::links::POD_LINK_GROUP;

/// Pause before a watch that ended is begun anew.
const RETRY: Duration = Duration::from_secs(1);

/// How the names of the agent's chains begin.
const CHAINS: &str = "ANTREA-";

/// What somebody may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Links, addresses, routes or neighbours.
    Links,
    /// iptables' rules; by whom, where it is known.
    Firewall(Option<String>),
}

/// What of the kernel's messages concerns the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// Names of links that are not pods'.
    pub names: BTreeSet<String>,
    /// The same by index.
    pub indexes: BTreeSet<u32>,
    /// Destinations of the agent's routes.
    pub destinations: BTreeSet<IpNet>,
    /// Addresses of whatever link.
    pub every_address: bool,
}

impl Interest {
    /// Whether a message is of something that the agent keeps.
    pub(super) fn covers(&self, event: &Event) -> bool {
        match event {
            Event::Link(link) | Event::LinkRemoved(link) => {
                link.group == POD_LINK_GROUP || self.names.contains(&link.name)
            }
            Event::Address(address) | Event::AddressRemoved(address) => {
                self.every_address || self.indexes.contains(&address.link)
            }
            Event::Route(route) | Event::RouteRemoved(route) => {
                route.proto == ANTREA_PROTOCOL || self.destinations.contains(&route.dst)
            }
            Event::Neighbour { link, fixed } => *fixed && self.indexes.contains(link),
            Event::Rule | Event::Resync => true,
        }
    }
}

/// Follows what others change.
#[derive(Debug)]
pub(super) struct Watch {
    netlink: Netlink,
    links: Option<Monitor>,
    nft: Option<NftMonitor>,
    /// The kernel has no nftables, or does not let us listen.
    deaf: bool,
}

impl Watch {
    /// Begins to follow the namespace of `netlink`.
    pub(super) async fn new(netlink: Netlink) -> Self {
        let mut watch = Self { netlink, links: None, nft: None, deaf: false };
        watch.open().await;
        watch
    }

    async fn open(&mut self) {
        if self.links.is_none() {
            match self.netlink.monitor().await {
                Ok(monitor) => self.links = Some(monitor),
                Err(error) => tracing::warn!(%error, "cannot follow changes of links"),
            }
        }
        if self.nft.is_none() && !self.deaf {
            match NftMonitor::open(self.netlink.netns(), CHAINS).await {
                Ok(monitor) => self.nft = Some(monitor),
                Err(error) => {
                    tracing::info!(%error, "changes of nftables are found by looking only");
                    self.deaf = true;
                }
            }
        }
    }

    /// Whether the kernel tells of rules.
    pub(super) fn hears_rules(&self) -> bool {
        self.nft.is_some()
    }

    /// Waits for the next message of interest. Cancel safe.
    pub(super) async fn next(&mut self, interest: &Interest) -> Suspicion {
        loop {
            let links = async {
                match &mut self.links {
                    Some(monitor) => monitor.next().await,
                    None => {
                        tokio::time::sleep(RETRY).await;
                        None
                    }
                }
            };
            let rules = async {
                match &mut self.nft {
                    Some(monitor) => monitor.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = links => match event {
                    Some(event) if interest.covers(&event) => return Suspicion::Links,
                    Some(_) => {}
                    None => {
                        self.links = None;
                        self.open().await;
                        return Suspicion::Links;
                    }
                },
                change = rules => match change {
                    Ok(who) => {
                        let who = who.map(|who| format!("{} (process {})", who.program, who.pid));
                        return Suspicion::Firewall(who);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "changes of nftables are found by looking only");
                        (self.nft, self.deaf) = (None, true);
                        return Suspicion::Firewall(None);
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netcfg::{Address, Route};

    use super::*;

    #[test]
    fn only_what_the_agent_keeps_is_looked_into() {
        let interest = Interest {
            names: BTreeSet::from(["antrea-gw0".into()]),
            indexes: BTreeSet::from([7]),
            destinations: BTreeSet::from(["10.244.2.0/24".parse().unwrap()]),
            every_address: false,
        };
        let address = |link| {
            Event::AddressRemoved(Address {
                net: "10.244.1.1/24".parse().unwrap(),
                link,
                tentative: false,
                dad_failed: false,
            })
        };
        assert!(interest.covers(&address(7)) && !interest.covers(&address(8)));
        assert!(Interest { every_address: true, ..interest.clone() }.covers(&address(8)), "a node port's");
        let route = |dst: &str, proto| Event::Route(Route::new(dst.parse().unwrap()).proto(proto));
        assert!(interest.covers(&route("10.244.2.0/24", 3)), "in the place of ours");
        assert!(interest.covers(&route("192.0.2.0/24", ANTREA_PROTOCOL)));
        assert!(!interest.covers(&route("192.0.2.0/24", 3)));
        assert!(interest.covers(&Event::Neighbour { link: 7, fixed: true }));
        assert!(!interest.covers(&Event::Neighbour { link: 7, fixed: false }), "ARP comes and goes");
        assert!(!interest.covers(&Event::Neighbour { link: 8, fixed: true }));
        assert!(interest.covers(&Event::Resync));
    }
}
