//! Keeps peers' flows in step with the cluster's nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use antrea_flows::{Change, Owner};
use openflow::Flow;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dataplane::{Batch, Dataplane, DataplaneError, Failures};
use crate::facts::{Health, Reporter};
use crate::peers::watch::Nodes;
use crate::peers::wiring::{Underlay, wire};

/// Pause before the next try of something that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Nodes that join together are wired together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Wires peers into the bridge.
#[derive(Debug)]
pub struct Peering {
    /// This node, which is no peer.
    pub node: String,
    pub dataplane: Dataplane,
    /// What wiring depends on.
    pub underlay: Underlay,
    /// Where health goes.
    pub reporter: Reporter,
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
    /// Brings flows in step with `nodes` once. Goes on after a failure. Returns whether all worked.
    pub async fn apply(&mut self, nodes: &Nodes) -> bool {
        let mut problems = Vec::new();
        let mut wanted = BTreeMap::new();
        for peer in nodes.values().filter(|peer| peer.name != self.node) {
            let Some(flow_peer) = wire(&self.underlay, peer).flows else { continue };
            let flows = antrea_flows::peer(self.dataplane.network(), &flow_peer);
            wanted.insert(Owner::Peer(peer.name.as_str().into()), flows);
        }
        match install(&self.dataplane, wanted).await {
            Ok(failures) => {
                problems.extend(failures.iter().map(|(owner, error)| format!("flows of {owner}: {error}")));
            }
            Err(error) => problems.push(error.to_string()),
        }
        let health = match problems.first() {
            None => Health::Good,
            Some(first) => {
                for problem in &problems {
                    tracing::error!(problem, "flows of peers");
                }
                Health::bad("PeerFlowsFailed", format!("{} problems, the first: {first}", problems.len()))
            }
        };
        let good = health == Health::Good;
        self.reporter.update(|facts| facts.peers = health);
        good
    }

    /// Follows `nodes` until `shutdown`.
    pub async fn run(mut self, mut nodes: watch::Receiver<Option<Nodes>>, shutdown: CancellationToken) {
        let mut good = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = nodes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                }
                () = tokio::time::sleep(RETRY), if !good => {}
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
