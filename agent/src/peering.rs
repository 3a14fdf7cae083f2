//! Keeps flows, routes, neighbours, tunnel forwarding and host rules in step with the cluster's nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use antrea_flows::{Change, Owner};
use netcfg::NetcfgErrors;
use netcfg::nl::route::RouteFilter;
use openflow::Flow;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bridge::TUNNEL_PORT;
use crate::dataplane::{Batch, Dataplane, DataplaneError, Failures};
use crate::hostnet::{HostConfig, HostNetwork};
use crate::local_traffic::{self, LocalTraffic};
use crate::node::NodeNetwork;
use crate::nodes::Nodes;
use crate::peers::{Underlay, wire};
use crate::status::{Health, Reporter};
use crate::translated::Egress;

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
    /// What the host's rules were made from last.
    pub applied: Option<HostConfig>,
}

/// Makes these flows all that peers have. What is no longer wanted goes first, so that a new node may have the subnet
/// of one that is gone.
async fn install(
    dataplane: &Dataplane,
    wanted: BTreeMap<Owner, Vec<Flow>>,
) -> Result<Failures, DataplaneError> {
    let known = dataplane.owners().await?;
    let stale = known.into_iter().filter(|o| matches!(o, Owner::Peer(_)) && !wanted.contains_key(o));
    let batch = stale.fold(Batch::default(), |batch, owner| batch.with(owner, Change::nothing()));
    let wanted = wanted.into_iter().map(|(owner, flows)| (owner, Change::flows(flows)));
    dataplane.apply(wanted.fold(batch, |batch, (owner, change)| batch.with(owner, change))).await
}

impl Peering {
    /// Brings everything in step with `nodes` once. Goes on after a failure. Returns whether all worked.
    pub async fn apply(&mut self, nodes: &Nodes) -> bool {
        let mut errors = NetcfgErrors::new();
        let mut problems = Vec::new();
        let mut host = self.host.clone();
        let (mut routes, mut neighbours, mut fdb) = (Vec::new(), Vec::new(), Vec::new());
        let mut wanted = BTreeMap::new();
        for peer in nodes.values().filter(|peer| peer.name != self.network.node_name) {
            let wiring = wire(&self.underlay, peer);
            host.cluster_subnets.extend(&peer.pod_cidrs);
            routes.extend(wiring.routes);
            neighbours.extend(wiring.neighbours);
            fdb.extend(wiring.fdb);
            let Some(flow_peer) = wiring.flows else { continue };
            let flows = antrea_flows::peer(self.network.dataplane.network(), &flow_peer);
            wanted.insert(Owner::Peer(peer.name.as_str().into()), flows);
        }
        match install(&self.network.dataplane, wanted).await {
            Ok(failures) => {
                problems.extend(failures.iter().map(|(owner, error)| format!("flows of {owner}: {error}")));
            }
            Err(error) => problems.push(error.to_string()),
        }

        let netlink = &self.network.netlink;
        let local = self.local_traffic();
        routes.extend(local.routes);
        neighbours.extend(local.neighbours);
        errors.check_all(netlink.apply_rules(&local.rules).await);
        errors.check_all(netlink.apply_routes(&RouteFilter::owned(), &routes).await);
        let gateway = self.underlay.gateway_link;
        errors.check_all(netlink.apply_neighbours(gateway, &neighbours).await);
        if self.underlay.kernel_vxlan && self.underlay.mode != crate::config::EncapMode::NoEncap {
            errors.check_all(netlink.apply_fdb(TUNNEL_PORT, &fdb).await);
        }
        host.egress = self.egress();
        self.applied = Some(host.clone());
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

    fn egress(&self) -> Egress {
        let pods = self.network.interfaces().into_iter().flat_map(|pod| pod.ips).collect();
        Egress { pods, policy: self.network.policy.host_egress().borrow().clone() }
    }

    /// Follows this node's pods and their egress policy where they are all that changed. Returns whether it worked.
    async fn apply_pods(&mut self) -> bool {
        let egress = self.egress();
        let mut errors = NetcfgErrors::new();
        errors.check_all(self.network.netlink.apply_rules(&self.local_traffic().rules).await);
        if let Some(host) = self.applied.as_mut().filter(|host| host.egress != egress) {
            let rules = host.egress.policy.allowed != egress.policy.allowed;
            host.egress = egress;
            if rules {
                errors.check_all(self.host_network.apply(host).await);
            } else {
                errors.check_all(self.host_network.apply_sets(host).await);
            }
        }
        for error in errors.errors() {
            tracing::error!(%error, "host network");
        }
        errors.errors().is_empty()
    }

    /// What tells the userspace datapath of packets of the node itself.
    fn local_traffic(&self) -> LocalTraffic {
        if !self.host.userspace {
            return LocalTraffic::default();
        }
        let pods: BTreeSet<_> = self.network.interfaces().into_iter().flat_map(|pod| pod.ips).collect();
        let pods: Vec<_> = pods.into_iter().collect();
        local_traffic::desired(&self.host.gateway, self.underlay.gateway_link, &self.host.subnets, &pods)
    }

    /// Follows `nodes` until `shutdown`.
    pub async fn run(mut self, mut nodes: watch::Receiver<Option<Nodes>>, shutdown: CancellationToken) {
        let mut good = true;
        let mut pods = self.network.interface_count();
        let mut egress = self.network.policy.host_egress();
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
                // A change of pods or policy is in force at the host soon after it is in the bridge. What fails is told
                // and tried again with everything else.
                changed = async { tokio::select! { c = pods.changed() => c, c = egress.changed() => c } } => {
                    if changed.is_err() {
                        return;
                    }
                    if self.apply_pods().await {
                        continue;
                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::fake::{Rig, deletes, flow};

    /// A removal that failed is tried again, and a node that gets the subnet of one that is gone gets it at once.
    #[tokio::test]
    async fn a_new_node_takes_over_the_subnet_of_one_that_is_gone() {
        let rig = Rig::started().await;
        let peer = |name: &str, cookie: u64| (Owner::Peer(name.into()), vec![flow(7).cookie(cookie)]);
        let nodes = |wanted: Vec<(Owner, Vec<Flow>)>| install(&rig.dataplane, wanted.into_iter().collect());
        assert!(nodes(vec![peer("old", 1)]).await.unwrap().is_empty());
        rig.switch.refuse(deletes);
        let failures = nodes(vec![]).await.unwrap();
        assert_eq!(failures.len(), 1, "{failures:?}");
        rig.switch.refuse(|_| false);
        let failures = nodes(vec![peer("new", 2)]).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(rig.switch.flows(), [flow(7).cookie(2)]);
        assert_eq!(rig.dataplane.owners().await.unwrap(), [Owner::Peer("new".into())]);
    }
}
