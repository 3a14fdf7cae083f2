//! What callers use.

use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use openflow::{
    BundleControl, BundleCtrlType, BundleFlags, Group, Message, Meter, PacketIn2, PacketOut, PortDesc,
    multipart::{
        FlowEntry, FlowFilter, FlowStats, MeterFeatures, MeterStats, MultipartReply, MultipartRequest,
        PortStats, SwitchDesc,
    },
};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    OfError, OfState,
    batch::{Batch, Kind, Part},
    connection::{Query, STREAMS},
    error::describe,
    session::{Command, Shared},
};

/// Handle to an OpenFlow session; clones share it.
#[derive(Clone)]
pub struct OfHandle {
    commands: mpsc::Sender<Command>,
    batches: mpsc::Sender<Batch>,
    shared: Arc<Shared>,
    limit: Duration,
}

impl fmt::Debug for OfHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfHandle").field("state", &*self.shared.state.borrow()).finish()
    }
}

impl OfHandle {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        batches: mpsc::Sender<Batch>,
        shared: Arc<Shared>,
        limit: Duration,
    ) -> Self {
        Self { commands, batches, shared, limit }
    }

    /// The connection state and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<OfState> {
        self.shared.state.subscribe()
    }

    /// Waits for a connection and returns its generation.
    ///
    /// # Errors
    /// [`OfError::NotConnected`] with the last connection error when `limit` passes.
    pub async fn wait_connected(&self, limit: Duration) -> Result<u64, OfError> {
        let mut state = self.state();
        // The sender lives in `shared`: waiting can only end by success or by the limit.
        let _ = timeout(limit, state.wait_for(OfState::is_connected)).await;
        match &*self.shared.state.borrow() {
            OfState::Connected { generation, .. } => Ok(*generation),
            OfState::Disconnected { error } => Err(OfError::NotConnected(error.to_string())),
        }
    }

    /// Applies flow-mods, group-mods and packet-outs in the order given, all or none. Other messages are refused by
    /// Open vSwitch in bundles (meter-mods for instance: use [`OfHandle::send_barriered`]).
    ///
    /// Bundles are sent one after the other. If the caller goes away while its bundle is being sent, the bundle is
    /// still completed.
    ///
    /// # Errors
    /// [`OfError::Rejected`] or [`OfError::Encode`] naming the message at fault: nothing took effect. Connection
    /// errors, [`OfError::Timeout`].
    pub async fn bundle(&self, messages: Vec<Message>) -> Result<(), OfError> {
        self.batch(messages, Kind::Bundle, "a bundle").await
    }

    /// Sends messages in the order given and waits until the bridge has handled them all. A message that is refused
    /// does not keep those after it from taking effect.
    ///
    /// # Errors
    /// [`OfError::Rejected`] naming the first message refused; [`OfError::Encode`] for the first that cannot be
    /// sent, with which sending stops. Connection errors, [`OfError::Timeout`].
    pub async fn send_barriered(&self, messages: Vec<Message>) -> Result<(), OfError> {
        self.batch(messages, Kind::Plain, "a barrier").await
    }

    /// A bundle that is sent in parts, between which other callers find their turn.
    ///
    /// # Errors
    /// [`OfError::NotConnected`].
    pub fn bundle_in_parts(&self) -> Result<BundleInParts, OfError> {
        let generation = match &*self.shared.state.borrow() {
            OfState::Connected { generation, .. } => *generation,
            OfState::Disconnected { error } => return Err(OfError::NotConnected(error.to_string())),
        };
        let number = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        let bundle_id = STREAMS | number;
        let next = Part { bundle_id, generation, first: true, last: false };
        Ok(BundleInParts { handle: self.clone(), next, last_used: Instant::now() })
    }

    async fn batch(&self, messages: Vec<Message>, kind: Kind, what: &str) -> Result<(), OfError> {
        self.check_connected()?;
        if messages.is_empty() && !matches!(kind, Kind::Part(_)) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let batch = Batch::new(messages, kind, reply);
        self.within(what, async {
            self.batches.send(batch).await.map_err(|_| OfError::Closed)?;
            answer.await.map_err(|_| OfError::Closed)?
        })
        .await
    }

    /// Flows with their actions and counters.
    ///
    /// # Errors
    /// [`OfError::Refused`], connection errors, [`OfError::Timeout`].
    pub async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowEntry>, OfError> {
        self.collect(MultipartRequest::FlowDesc(filter), |reply| match reply {
            MultipartReply::FlowDesc(flows) => Some(flows),
            _ => None,
        })
        .await
    }

    /// Counters of all matching flows together.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn aggregate(&self, filter: FlowFilter) -> Result<FlowStats, OfError> {
        let parts = self
            .collect(MultipartRequest::Aggregate(filter), |reply| match reply {
                MultipartReply::Aggregate(stats) => Some(vec![stats]),
                _ => None,
            })
            .await?;
        only(parts, "aggregate flow statistics")
    }

    /// All groups.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn groups(&self) -> Result<Vec<Group>, OfError> {
        self.collect(MultipartRequest::GroupDesc(None), |reply| match reply {
            MultipartReply::GroupDesc(groups) => Some(groups),
            _ => None,
        })
        .await
    }

    /// All meters.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn meters(&self) -> Result<Vec<Meter>, OfError> {
        self.collect(MultipartRequest::MeterDesc(None), |reply| match reply {
            MultipartReply::MeterDesc(meters) => Some(meters),
            _ => None,
        })
        .await
    }

    /// Counters of all meters.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn meter_stats(&self) -> Result<Vec<MeterStats>, OfError> {
        self.collect(MultipartRequest::MeterStats(None), |reply| match reply {
            MultipartReply::MeterStats(stats) => Some(stats),
            _ => None,
        })
        .await
    }

    /// What meters the datapath can have.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn meter_features(&self) -> Result<MeterFeatures, OfError> {
        let parts = self
            .collect(MultipartRequest::MeterFeatures, |reply| match reply {
                MultipartReply::MeterFeatures(features) => Some(vec![features]),
                _ => None,
            })
            .await?;
        only(parts, "features of meters")
    }

    /// The ports.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn ports(&self) -> Result<Vec<PortDesc>, OfError> {
        self.collect(MultipartRequest::PortDesc(None), |reply| match reply {
            MultipartReply::PortDesc(ports) => Some(ports),
            _ => None,
        })
        .await
    }

    /// Counters of the ports.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn port_stats(&self) -> Result<Vec<PortStats>, OfError> {
        self.collect(MultipartRequest::PortStats(None), |reply| match reply {
            MultipartReply::PortStats(stats) => Some(stats),
            _ => None,
        })
        .await
    }

    /// What the switch is.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn desc(&self) -> Result<SwitchDesc, OfError> {
        let parts = self
            .collect(MultipartRequest::Desc, |reply| match reply {
                MultipartReply::Desc(desc) => Some(vec![desc]),
                _ => None,
            })
            .await?;
        only(parts, "a description")
    }

    /// The answer to any multipart request, part by part.
    ///
    /// # Errors
    /// As [`OfHandle::flows`].
    pub async fn multipart(&self, request: MultipartRequest) -> Result<Vec<MultipartReply>, OfError> {
        self.check_connected()?;
        let (reply, answer) = oneshot::channel();
        let message = Message::MultipartRequest(request);
        let what = describe(&message);
        let query = Query::new(message, reply);
        self.within(&what, async {
            self.commands.send(Command::Query(query)).await.map_err(|_| OfError::Closed)?;
            answer.await.map_err(|_| OfError::Closed)?
        })
        .await
    }

    /// Sends a packet out. There is no answer: a packet that the bridge refuses, or that is under way when the
    /// connection breaks, is lost.
    ///
    /// # Errors
    /// [`OfError::NotConnected`], [`OfError::Closed`].
    pub async fn packet_out(&self, packet: PacketOut) -> Result<(), OfError> {
        self.send(Message::PacketOut(packet)).await
    }

    /// Sends a message to which no answer is expected; an error the bridge may send is logged.
    ///
    /// # Errors
    /// [`OfError::NotConnected`], [`OfError::Closed`].
    pub async fn send(&self, message: Message) -> Result<(), OfError> {
        self.check_connected()?;
        self.commands.send(Command::Send(Box::new(message))).await.map_err(|_| OfError::Closed)
    }

    /// The packet-ins of this session, to one taker. The queue is bounded ([`super::OfConfig::packet_in_queue`]): a
    /// packet that does not fit is dropped and counted.
    #[must_use]
    pub fn take_packet_ins(&self) -> Option<mpsc::Receiver<PacketIn2>> {
        self.shared.packet_in_receiver.lock().take()
    }

    /// Packet-ins dropped since the session began because the queue was full.
    #[must_use]
    pub fn packet_ins_dropped(&self) -> u64 {
        self.shared.packet_ins_dropped.load(Ordering::Relaxed)
    }

    /// Flow-removed and port-status messages from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Arc<Message>> {
        self.shared.events.subscribe()
    }

    /// Counts flows that somebody else changed, with [`super::OfConfig::flow_monitor`]; what happened while the bridge
    /// could not tell counts as one. Nothing is counted between two connections.
    #[must_use]
    pub fn foreign_changes(&self) -> watch::Receiver<u64> {
        self.shared.foreign_changes.subscribe()
    }

    fn check_connected(&self) -> Result<(), OfError> {
        match &*self.shared.state.borrow() {
            OfState::Connected { .. } => Ok(()),
            OfState::Disconnected { error } => Err(OfError::NotConnected(error.to_string())),
        }
    }

    async fn within<T>(
        &self,
        what: &str,
        exchange: impl Future<Output = Result<T, OfError>>,
    ) -> Result<T, OfError> {
        match timeout(self.limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(OfError::Timeout { what: what.to_owned(), after: self.limit }),
        }
    }

    async fn collect<T>(
        &self,
        request: MultipartRequest,
        take: impl Fn(MultipartReply) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, OfError> {
        let mut all = Vec::new();
        for part in self.multipart(request).await? {
            match take(part) {
                Some(items) => all.extend(items),
                None => {
                    return Err(OfError::Protocol(
                        "multipart reply of another type than asked for".to_owned(),
                    ));
                }
            }
        }
        Ok(all)
    }
}

/// Open vSwitch drops a bundle that nothing is added to for 10 s, and would take what comes later for a new one.
const MAX_PAUSE: Duration = Duration::from_secs(6);

/// A bundle that is sent in parts; see [`OfHandle::bundle_in_parts`]. Nothing takes effect unless it is committed.
#[derive(Debug)]
pub struct BundleInParts {
    handle: OfHandle,
    next: Part,
    last_used: Instant,
}

impl BundleInParts {
    /// Sends a part and waits until the bridge has looked at it.
    ///
    /// # Errors
    /// As [`OfHandle::bundle`]; the bundle is over then. [`OfError::Timeout`] also after a pause of 6 s.
    pub async fn add(&mut self, messages: Vec<Message>) -> Result<(), OfError> {
        let result = self.send(messages).await;
        // The last part has discarded what it did not commit.
        if result.is_ok() || self.next.last {
            return result;
        }
        let flags = BundleFlags::ATOMIC | BundleFlags::ORDERED;
        let kind = BundleCtrlType::DiscardRequest;
        let discard = BundleControl { bundle_id: self.next.bundle_id, kind, flags };
        // Without a connection there is no bundle either. That it may be gone already is logged.
        let _ = self.handle.send(Message::BundleControl(discard)).await;
        result
    }

    /// Has all of it take effect at once.
    ///
    /// # Errors
    /// As [`OfHandle::bundle`].
    pub async fn commit(mut self) -> Result<(), OfError> {
        self.next.last = true;
        self.add(Vec::new()).await
    }

    async fn send(&mut self, messages: Vec<Message>) -> Result<(), OfError> {
        let paused = self.last_used.elapsed();
        if paused > MAX_PAUSE {
            return Err(OfError::Timeout { what: "the next part of a bundle".to_owned(), after: paused });
        }
        let result = self.handle.batch(messages, Kind::Part(self.next), "a part of a bundle").await;
        self.next.first = false;
        self.last_used = Instant::now();
        result
    }
}

fn only<T>(parts: Vec<T>, what: &str) -> Result<T, OfError> {
    parts.into_iter().next().ok_or_else(|| OfError::Protocol(format!("no {what} in the reply")))
}
