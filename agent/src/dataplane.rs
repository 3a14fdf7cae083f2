//! What the bridge holds: what is intended, and keeping Open vSwitch at it.
//!
//! ```text
//!  a pod and its policy ─┐                         ┌─► one bundle ─► ovs-vswitchd
//!  peers                ─┼─► queue ─► BridgeStore ─┤
//!  policy               ─┘                         └◄─ dump, compare, repair (on connect, after a change by
//!                                                       others, every minute)
//! ```
//!
//! One task owns the store and the session. It takes whatever waits in its queue together, so that many
//! pods at once cost one bundle. Packets that flows send up go to whoever subscribed. Nothing is sent before [`Dataplane::start`]: then the first comparison
//! with what OVS holds replaces what an earlier process has left in one transaction, and no packet meets
//! a half-filled pipeline.
//!
//! # Invariants
//! - The store never says what the bridge has not: what is refused is taken back, and its caller told.
//! - Nobody waits for somebody else's mistake: a bundle that is refused goes again without the owner at fault.
//! - Nobody waits for somebody else's size: a large bundle goes in parts, between which others are served. It still
//!   takes effect at once, for half of a policy's change could allow what neither the old nor the new form does.

use std::sync::Arc;

use antrea_flows::{Change, Conflict, Network, Owner};
use antrea_runtime::trace;
use openflow::PacketIn2;
use ovs::of::{OfError, OfHandle};
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use self::packets::Packets;
use crate::facts::Reporter;
use crate::metrics::AgentMetrics;

mod packets;
pub mod schedule;
mod sync;
mod task;

pub use packets::Subscriber;
pub use task::Task;

/// Callers that wait beyond this see back-pressure.
const QUEUE: usize = 256;

/// Why a change was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Two owners want different things.
    #[error(transparent)]
    Conflict(#[from] Box<Conflict>),
    /// The bridge refused it or is away.
    #[error("flows: {0}")]
    OpenFlow(#[from] Box<OfError>),
    /// The process ends.
    #[error("flows: the agent is shutting down")]
    Closed,
}

impl From<OfError> for DataplaneError {
    fn from(error: OfError) -> Self {
        Self::OpenFlow(Box::new(error))
    }
}

/// Owners whose changes were not taken, and why.
pub type Failures = Vec<(Owner, DataplaneError)>;

/// Changes of several owners that go to the bridge in one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    required: Vec<(Owner, Change)>,
    others: Vec<(Owner, Change)>,
}

impl Batch {
    /// A change without which nothing of the batch is installed.
    #[must_use]
    pub fn require(mut self, owner: Owner, change: Change) -> Self {
        self.required.push((owner, change));
        self
    }

    /// A change that, if it is not taken, fails alone. It comes after the required ones, and in the order given: an
    /// owner may take over what an earlier one gives up.
    #[must_use]
    pub fn with(mut self, owner: Owner, change: Change) -> Self {
        self.others.push((owner, change));
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.others.is_empty()
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = (&Owner, &Change)> {
        self.required.iter().chain(&self.others).map(|(owner, change)| (owner, change))
    }
}

type Reply<T = ()> = oneshot::Sender<Result<T, DataplaneError>>;

#[derive(Debug)]
enum Request {
    /// With what it is part of.
    Apply(Batch, Reply<Failures>, Span),
    Owners(oneshot::Sender<Vec<Owner>>),
    Start(Reply),
    Verify(Reply),
}

/// Handle to what the bridge holds; clones share the task.
#[derive(Clone, Debug)]
pub struct Dataplane {
    requests: mpsc::Sender<Request>,
    network: Arc<Network>,
    session: OfHandle,
    packets: Packets,
}

impl Dataplane {
    /// Makes a dataplane and the task that has to be run for it. `bridge` is a name for people.
    pub fn new(
        session: OfHandle,
        bridge: String,
        network: Arc<Network>,
        reporter: Reporter,
        metrics: AgentMetrics,
    ) -> (Self, Task) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let packets = Packets::new(metrics.packet_ins.clone());
        let task =
            Task::new(session.clone(), queue, (bridge, network.clone()), packets.clone(), reporter, metrics);
        (Self { requests, network, session, packets }, task)
    }

    /// The pipeline.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Has the bridge hold what the batch says, in one transaction. Returns the owners whose changes were not taken;
    /// they have what they had before.
    ///
    /// # Errors
    /// A required change was not taken or the bridge is away: everything is as it was.
    pub async fn apply(&self, batch: Batch) -> Result<Failures, DataplaneError> {
        let span = trace::current();
        self.request(|reply| Request::Apply(batch, reply, span)).await
    }

    /// Changes what one owner has.
    ///
    /// # Errors
    /// The bridge refused it or is away; the owner then has what it had before.
    pub async fn set(&self, owner: Owner, change: Change) -> Result<(), DataplaneError> {
        self.apply(Batch::default().require(owner, change)).await.map(drop)
    }

    /// Who has something on the bridge, or should have.
    ///
    /// # Errors
    /// The process ends.
    pub async fn owners(&self) -> Result<Vec<Owner>, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Owners(reply)).await.map_err(|_| DataplaneError::Closed)?;
        answer.await.map_err(|_| DataplaneError::Closed)
    }

    /// Packets that flows send up to this subscriber, from now on. A packet that its queue has no room for is dropped.
    pub fn subscribe(&self, subscriber: Subscriber) -> mpsc::Receiver<PacketIn2> {
        self.packets.subscribe(subscriber)
    }

    /// What the bridge holds, to be looked at. Nothing waits for it: it is as it is in this moment.
    pub fn session(&self) -> &OfHandle {
        &self.session
    }

    /// Everything that was set so far is complete: install it and remove what is not of it.
    ///
    /// # Errors
    /// The bridge refused it or stayed away.
    pub async fn start(&self) -> Result<(), DataplaneError> {
        self.request(Request::Start).await
    }

    /// Compares what the bridge holds with what is intended now, and repairs.
    ///
    /// # Errors
    /// The bridge is away or refused the repair.
    pub async fn verify(&self) -> Result<(), DataplaneError> {
        self.request(Request::Verify).await
    }

    async fn request<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(make(reply)).await.map_err(|_| DataplaneError::Closed)?;
        answer.await.map_err(|_| DataplaneError::Closed)?
    }
}

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;
