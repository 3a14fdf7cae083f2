//! Keeps flows, routes, neighbours, tunnel forwarding and host rules in step with the cluster's nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use antrea_flows::Owner;
use netcfg::NetcfgErrors;
use netcfg::nl::route::RouteFilter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bridge::TUNNEL_PORT;
use crate::dataplane::stale_peers;
use crate::hostnet::{HostConfig, HostNetwork};
use crate::node::NodeNetwork;
use crate::nodes::Nodes;
use crate::peers::{Underlay, wire};
use crate::status::{Health, Reporter};

/// How often the host is compared with what is intended.
const RESYNC: Duration = Duration::from_secs(60);

/// Pause before the next try of something that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Nodes that join together are wired together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Wires peers.
#[derive(Debug)]
pub struct Peering {
    /// This node.
    pub network: Arc<NodeNetwork>,
    /// What wiring depends on.
    pub underlay: Underlay,
    /// The host's rules, with this node's own subnets only.
    pub host: HostConfig,
    /// Applies them.
    pub host_network: HostNetwork,
    /// Where health goes.
    pub reporter: Reporter,
    /// Peers that have flows.
    pub known: BTreeSet<String>,
}

impl Peering {
    /// Brings everything in step with `nodes` once. Goes on after a failure. Returns whether all worked.
    pub async fn apply(&mut self, nodes: &Nodes) -> bool {
        let mut errors = NetcfgErrors::new();
        let mut problems = Vec::new();
        let mut host = self.host.clone();
        let (mut routes, mut neighbours, mut fdb) = (Vec::new(), Vec::new(), Vec::new());
        let mut wanted = BTreeSet::new();
        for peer in nodes.values().filter(|peer| peer.name != self.network.node_name) {
            let wiring = wire(&self.underlay, peer);
            host.cluster_subnets.extend(&peer.pod_cidrs);
            routes.extend(wiring.routes);
            neighbours.extend(wiring.neighbours);
            fdb.extend(wiring.fdb);
            let Some(flow_peer) = wiring.flows else { continue };
            wanted.insert(peer.name.clone());
            let flows = antrea_flows::peer(self.network.dataplane.network(), &flow_peer);
            if let Err(error) =
                self.network.dataplane.set(Owner::Peer(peer.name.as_str().into()), flows).await
            {
                problems.push(format!("flows of node {}: {error}", peer.name));
            }
        }
        for owner in stale_peers(&self.known, &wanted) {
            if let Err(error) = self.network.dataplane.set(owner.clone(), Vec::new()).await {
                problems.push(format!("flows of {owner}: {error}"));
            }
        }
        self.known = wanted;

        let netlink = &self.network.netlink;
        errors.check_all(netlink.apply_routes(&RouteFilter::owned(), &routes).await);
        let gateway = self.underlay.gateway_link;
        errors.check_all(netlink.apply_neighbours(gateway, &neighbours).await);
        if self.underlay.kernel_vxlan && self.underlay.mode != crate::config::EncapMode::NoEncap {
            errors.check_all(netlink.apply_fdb(TUNNEL_PORT, &fdb).await);
        }
        let changed = errors.check_all(self.host_network.apply(&host).await);
        if changed == Some(true) {
            tracing::info!("host rules changed");
        }
        problems.extend(errors.errors().iter().map(ToString::to_string));
        let health = match problems.first() {
            None => Health::Good,
            Some(first) => {
                for problem in &problems {
                    tracing::error!(problem, "host network");
                }
                Health::bad("HostNetworkFailed", format!("{} problems, the first: {first}", problems.len()))
            }
        };
        let good = health == Health::Good;
        self.reporter.update(|facts| facts.host = health);
        good
    }

    /// Follows `nodes` until `shutdown`.
    pub async fn run(mut self, mut nodes: watch::Receiver<Option<Nodes>>, shutdown: CancellationToken) {
        let mut good = true;
        loop {
            let pause = if good { RESYNC } else { RETRY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = nodes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                }
                () = tokio::time::sleep(pause) => {}
            }
            let current = nodes.borrow_and_update().clone();
            if let Some(current) = current {
                good = self.apply(&current).await;
            }
        }
    }
}
