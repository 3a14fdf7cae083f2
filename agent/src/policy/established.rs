//! Ends connections that policies with `established: Reset` deny.
//!
//! When what is denied has changed, and the datapath goes by it, what the tracker knows is judged ([`Resets`]). A connection
//! that is denied is taken from the tracker, so that its client's next packet is judged like a first one. Before that the
//! bridge is told what else may come of it (`antrea_flows::ended`), which lasts for hours in the bridge and as long as this
//! process in what is wanted of it: an agent that is started anew judges what the tracker knows by then.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use antrea_enforce::established::{Connection, Resets};
use antrea_flows::policy::{Direction, Protocol};
use antrea_flows::{Change, Ended, Owner};
use ovs::ctl::CtlError;
use prometheus::IntCounterVec;

use super::PolicyHandle;
use crate::dataplane::DataplaneError;
use crate::ovs::bridge::Datapath;
use crate::ovs::tracked::{Tracked, tracked};
use crate::pods::network::NodeNetwork;

/// Connections that are ended in one bundle.
const TOGETHER: usize = 512;

/// Connections of which packets may still be met. The first of more is forgotten, as the tracker forgets one that is silent.
const REMEMBERED: usize = 4096;

/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error("what the bridge tracks: {0}")]
    List(#[from] CtlError),
    #[error(transparent)]
    Bridge(#[from] DataplaneError),
    #[error("connections of the bridge: {0}")]
    Forget(#[from] ovs::of::OfError),
    #[error("the process ends")]
    Closed,
}

/// A connection that is to end.
struct Denied {
    connection: Connection,
    direction: Direction,
    policy: Arc<str>,
}

/// Ends connections; see the module's description.
pub struct Ender<'a> {
    network: &'a NodeNetwork,
    run_dir: PathBuf,
    datapath: Datapath,
    ended: VecDeque<Ended>,
    count: IntCounterVec,
}

impl PolicyHandle {
    /// Has the connections of this node end that policies want to, for ever.
    pub async fn end_connections(&self, network: &NodeNetwork, run_dir: PathBuf, datapath: Datapath) {
        let count = self.ended.clone();
        let mut ender = Ender { network, run_dir, datapath, ended: VecDeque::new(), count };
        let mut resets = self.in_force.resets.clone();
        loop {
            let now = resets.borrow_and_update().clone();
            let done = ender.follow(now).await;
            if let Err(error) = &done {
                tracing::warn!(%error, "connections that policy denies are not ended yet");
            }
            tokio::select! {
                changed = resets.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(AGAIN), if done.is_err() => {}
            }
        }
    }
}

impl Ender<'_> {
    async fn follow(&mut self, resets: Arc<Resets>) -> Result<(), EndError> {
        if resets.is_empty() {
            if !self.ended.is_empty() {
                self.ended.clear();
                self.remember().await?;
            }
            return Ok(());
        }
        // What the tracker takes in until then may still be by the rules of before.
        self.network.settled.wait().await;
        let connections = self.connections(resets.name_services()).await?;
        let judged = move || {
            let denied = connections.into_iter().filter_map(|connection| {
                let (policy, direction) = resets.denies(&connection)?;
                Some(Denied { connection, direction, policy: policy.clone() })
            });
            denied.collect()
        };
        let denied: Vec<Denied> = tokio::task::spawn_blocking(judged).await.map_err(|_| EndError::Closed)?;
        for denied in denied.chunks(TOGETHER) {
            self.end(denied).await?;
        }
        Ok(())
    }

    /// What pods of this node have begun or are the destination of, but for what the node itself has begun: it may ask its
    /// pods, whatever policy says.
    async fn connections(&self, with_services: bool) -> Result<Vec<Connection>, EndError> {
        let net = self.network.dataplane.network();
        let own = &net.node.gateway.ips;
        let mut connections = Vec::new();
        for family in net.pipeline.families() {
            let frontends =
                if with_services { self.frontends(family.service_zone()).await? } else { HashMap::new() };
            let known = tracked(&self.run_dir, self.datapath, family.zone()).await?;
            let others = known.iter().filter(|known| {
                let (client, server) = known.original;
                client.ip() != server.ip() && !(known.from_host && own.contains(&client.ip()))
            });
            connections.extend(others.map(|known| Connection {
                protocol: known.protocol,
                client: known.original.0,
                server: known.original.1,
                icmp: known.icmp,
                frontend: frontends.get(&(known.protocol, known.original.0, known.original.1)).copied(),
            }));
        }
        Ok(connections)
    }

    /// What was sent to, by who sent it and where it went.
    async fn frontends(
        &self,
        zone: u16,
    ) -> Result<HashMap<(Protocol, SocketAddr, SocketAddr), SocketAddr>, CtlError> {
        let known = tracked(&self.run_dir, self.datapath, zone).await?;
        let translated = |known: &Tracked| {
            let (client, frontend) = known.original;
            ((known.protocol, client, known.reply.0), frontend)
        };
        Ok(known.iter().map(translated).collect())
    }

    async fn end(&mut self, denied: &[Denied]) -> Result<(), EndError> {
        for Denied { connection: Connection { protocol, client, server, .. }, .. } in denied {
            let ended = Ended { protocol: *protocol, client: *client, server: *server };
            if !self.ended.contains(&ended) {
                self.ended.push_back(ended);
            }
        }
        let excess = self.ended.len().saturating_sub(REMEMBERED);
        self.ended.drain(..excess);
        self.remember().await?;
        let ways: Vec<_> = denied.iter().map(|denied| denied.connection).collect();
        self.network.connections.end(&ways).await?;
        let mut counts: HashMap<(&Arc<str>, Direction), u64> = HashMap::new();
        for denied in denied {
            *counts.entry((&denied.policy, denied.direction)).or_default() += 1;
        }
        for ((policy, direction), count) in counts {
            let direction = match direction {
                Direction::In => "ingress",
                Direction::Out => "egress",
            };
            self.count.with_label_values(&[direction]).inc_by(count);
            tracing::info!(%policy, direction, count, "established connections ended");
        }
        Ok(())
    }

    /// Has the bridge know what of the ended connections it may still meet.
    async fn remember(&self) -> Result<(), DataplaneError> {
        let dataplane = &self.network.dataplane;
        let flows = antrea_flows::ended(dataplane.network(), &self.ended);
        dataplane.set(Owner::Ended, Change::flows(flows)).await
    }
}
