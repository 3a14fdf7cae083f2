//! One connection: multiplexes a running batch, queries, packets and probes over a byte stream.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use openflow::{
    DecodeError, Features, Message, PacketIn2, PacketInFormat, SwitchConfig, Xid,
    multipart::{FlowMonitor, FlowUpdate, MultipartReply, MultipartRequest},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{
    OfConfig, OfError,
    batch::{Batch, Running},
    codec,
    error::describe,
    session::{Command, Queues, Shared},
};
use crate::reconnect::End;

/// Free space kept for each read, in bytes: one longest message fits.
const READ_CHUNK: usize = 128 << 10;
/// Bytes waiting to be written below which the batch is asked for more.
const WRITE_LOW: usize = 64 << 10;
/// Bytes up to which the batch fills the buffer.
const WRITE_HIGH: usize = 256 << 10;
/// Queries without full answer above which no further command is taken from the queue.
const MAX_PENDING: usize = 64;

/// Bundles that take several parts are numbered from here on, others below.
pub(super) const STREAMS: u32 = 1 << 31;

/// Number of the flow monitor; there is one.
const MONITOR: u32 = 1;

type QueryReply = oneshot::Sender<Result<Vec<MultipartReply>, OfError>>;

/// A request with an answer in parts.
pub(super) struct Query {
    message: Message,
    reply: QueryReply,
}

impl Query {
    pub(super) fn new(message: Message, reply: QueryReply) -> Self {
        Self { message, reply }
    }

    pub(super) fn fail(self, error: OfError) {
        let _ = self.reply.send(Err(error));
    }
}

struct Pending {
    what: String,
    parts: Vec<MultipartReply>,
    reply: QueryReply,
}

/// Answers awaited while greeting.
#[derive(Default)]
struct Greeting {
    hello: bool,
    features: Option<Features>,
    barrier: bool,
    error: Option<OfError>,
}

pub(super) struct Connection<'a, S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    input: codec::Input,
    out: BytesMut,
    next_xid: u32,
    next_bundle: u32,
    generation: u64,
    /// The latest bundle in parts, and for each part the transaction id before its first message, and their number.
    parts: (u32, Vec<(u32, usize)>),
    running: Option<Running>,
    /// When the running batch's caller has given up for certain: a bridge that owes an answer for so long is not
    /// worth the connection.
    batch_deadline: Instant,
    pending: HashMap<Xid, Pending>,
    /// Answers are the greeting's until it is over.
    greeting: Option<Greeting>,
    /// When to probe, or, while a probe is out, when to give up.
    deadline: Instant,
    probing: bool,
    config: &'a OfConfig,
    shared: &'a Shared,
}

enum Next {
    Command(Command),
    Batch(Batch),
    Finished,
}

impl<'a, S: AsyncRead + AsyncWrite> Connection<'a, S> {
    pub(super) fn new(io: S, config: &'a OfConfig, shared: &'a Shared) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self {
            reader,
            writer,
            input: codec::Input::default(),
            out: BytesMut::new(),
            next_xid: 1,
            next_bundle: 1,
            generation: 0,
            parts: (0, Vec::new()),
            running: None,
            batch_deadline: Instant::now(),
            pending: HashMap::new(),
            greeting: Some(Greeting::default()),
            deadline: Instant::now() + config.probe_interval,
            probing: false,
            config,
            shared,
        }
    }

    /// Agrees on the version, learns what the bridge is and sets this connection up.
    pub(super) async fn handshake(&mut self) -> Result<Features, OfError> {
        self.send(&Message::Hello { versions: codec::VERSIONS })?;
        self.greet(|greeting| greeting.hello).await?;
        let mut messages = vec![
            Message::FeaturesRequest,
            Message::NxSetPacketInFormat(PacketInFormat::Nxt2),
            // Connections to the management socket get asynchronous messages only with a nonzero length here.
            Message::SetConfig(SwitchConfig { flags: 0, miss_send_len: u16::MAX }),
        ];
        messages.extend(self.config.controller_id.map(Message::NxSetControllerId));
        messages.extend(self.config.role.map(Message::RoleRequest));
        messages.extend(self.config.asynchronous.clone().map(Message::SetAsync));
        messages.push(Message::BarrierRequest);
        for message in &messages {
            self.send(message)?;
        }
        self.greet(|greeting| greeting.barrier).await?;
        self.greeting
            .take()
            .and_then(|greeting| greeting.features)
            .ok_or_else(|| OfError::Protocol("no features reply before the barrier reply".to_owned()))
    }

    async fn greet(&mut self, done: impl Fn(&Greeting) -> bool) -> Result<(), OfError> {
        loop {
            if let Some(greeting) = &mut self.greeting {
                if let Some(error) = greeting.error.take() {
                    return Err(error);
                }
                if done(greeting) {
                    return Ok(());
                }
            }
            self.pump(None).await?;
        }
    }

    /// Serves requests until the connection is lost or no handle is left.
    pub(super) async fn serve(&mut self, generation: u64, queues: &mut Queues) -> End<OfError> {
        self.generation = generation;
        if self.config.flow_monitor {
            // Not part of the greeting: a bridge that cannot do this is still of use.
            let request = MultipartRequest::FlowMonitor(FlowMonitor::all(MONITOR));
            if let Err(error) = self.send(&Message::MultipartRequest(request)) {
                return End::Lost(error);
            }
        }
        let error = loop {
            match self.pump(Some(queues)).await {
                Ok(true) => {}
                Ok(false) => return End::Finished,
                Err(error) => break error,
            }
        };
        let reason = error.reason();
        if let Some(running) = self.running.take() {
            running.lose(&reason);
        }
        for (_, pending) in self.pending.drain() {
            let _ = pending.reply.send(Err(OfError::ConnectionLost(reason.to_string())));
        }
        End::Lost(error)
    }

    /// `count` consecutive transaction ids. 0 is left to messages the bridge sends by itself.
    fn allot(&mut self, count: u32) -> u32 {
        if self.next_xid.checked_add(count).is_none() {
            self.next_xid = 1;
        }
        let first = self.next_xid;
        self.next_xid += count;
        first
    }

    fn send(&mut self, message: &Message) -> Result<Xid, OfError> {
        let xid = Xid(self.allot(1));
        codec::encode(xid, message, &mut self.out)?;
        Ok(xid)
    }

    /// Does whatever can be done next. False when no handle is left.
    async fn pump(&mut self, queues: Option<&mut Queues>) -> Result<bool, OfError> {
        if self.out.len() < WRITE_LOW
            && let Some(running) = &mut self.running
        {
            running.fill(&mut self.out, WRITE_HIGH)?;
        }
        let room = self.out.len() < WRITE_HIGH && self.pending.len() < MAX_PENDING;
        let free = self.running.is_none();
        let next = async {
            let Some(queues) = queues else { return std::future::pending().await };
            tokio::select! {
                command = queues.commands.recv(), if room => command.map_or(Next::Finished, Next::Command),
                batch = queues.batches.recv(), if free => batch.map_or(Next::Finished, Next::Batch),
                else => std::future::pending().await,
            }
        };
        self.input.buffer().reserve(READ_CHUNK);
        tokio::select! {
            read = self.reader.read_buf(self.input.buffer()) => {
                match read {
                    Ok(0) => return Err(OfError::ConnectionLost("closed by the bridge".to_owned())),
                    Ok(_) => self.deadline = Instant::now() + self.config.probe_interval,
                    Err(error) => return Err(OfError::ConnectionLost(error.to_string())),
                }
                self.probing = false;
                while let Some(packet) = self.input.next()? {
                    match packet {
                        Ok((xid, message)) => self.receive(xid, message)?,
                        Err(error) => self.unreadable(&error),
                    }
                }
            }
            written = self.writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                if let Err(error) = written {
                    return Err(OfError::ConnectionLost(error.to_string()));
                }
            }
            next = next => match next {
                Next::Command(command) => self.accept(command),
                Next::Batch(batch) => self.start(batch),
                Next::Finished => return Ok(false),
            },
            () = sleep_until(self.batch_deadline), if !free => {
                return Err(OfError::ConnectionLost(format!(
                    "a bundle or batch was not answered within {:?}",
                    self.config.request_timeout
                )));
            }
            () = sleep_until(self.deadline) => {
                if self.probing {
                    return Err(OfError::ConnectionLost(format!(
                        "no sign of life for {:?}",
                        self.config.probe_interval * 2
                    )));
                }
                self.probing = true;
                self.send(&Message::EchoRequest(Bytes::new()))?;
                self.deadline = Instant::now() + self.config.probe_interval;
            }
        }
        Ok(true)
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Send(message) => {
                if let Err(error) = self.send(&message) {
                    tracing::warn!(message = %describe(&message), %error, "message not sent");
                }
            }
            Command::Query(query) if query.reply.is_closed() => {}
            Command::Query(query) => match self.send(&query.message) {
                Ok(xid) => {
                    let what = describe(&query.message);
                    self.pending.insert(xid, Pending { what, parts: Vec::new(), reply: query.reply });
                }
                Err(error) => query.fail(error),
            },
        }
    }

    fn start(&mut self, batch: Batch) {
        if batch.is_abandoned() {
            return;
        }
        if batch.part().is_some_and(|part| part.generation != self.generation) {
            batch.fail(OfError::ConnectionLost("the bundle was opened on an earlier connection".to_owned()));
            return;
        }
        let Some(count) = batch.xids() else {
            batch.fail(OfError::Protocol("more messages in a batch than transaction ids".to_owned()));
            return;
        };
        let base = self.allot(count);
        let bundle_id = self.next_bundle;
        self.next_bundle = self.next_bundle % (STREAMS - 1) + 1;
        let mut earlier = Vec::new();
        if let Some(part) = batch.part() {
            if self.parts.0 != part.bundle_id {
                self.parts = (part.bundle_id, Vec::new());
            }
            earlier.clone_from(&self.parts.1);
            self.parts.1.push((base, batch.len()));
        }
        self.running = Some(Running::new(batch, base, bundle_id, earlier));
        self.batch_deadline = Instant::now() + self.config.request_timeout;
    }

    fn receive(&mut self, xid: Xid, message: Message) -> Result<(), OfError> {
        match message {
            Message::EchoRequest(data) => codec::encode(xid, &Message::EchoReply(data), &mut self.out)?,
            Message::EchoReply(_) => {}
            Message::PacketIn2(packet) => self.packet_in(packet),
            event @ (Message::FlowRemoved(_) | Message::PortStatus { .. }) => {
                // Fails only when nobody listens.
                let _ = self.shared.events.send(Arc::new(event));
            }
            message if self.greeting.is_some() => self.greeted(message),
            message => self.answered(xid, message)?,
        }
        Ok(())
    }

    /// A message that cannot be read is passed over; if it answers a query, that has failed.
    fn unreadable(&mut self, error: &DecodeError) {
        tracing::warn!(%error, "unreadable message from the bridge");
        if let Some(pending) = self.pending.remove(&error.xid) {
            let error = OfError::Protocol(format!("answer to {}: {error}", pending.what));
            let _ = pending.reply.send(Err(error));
        }
    }

    fn packet_in(&self, mut packet: PacketIn2) {
        // Copied, since a waiting slice would hold on to the whole read buffer.
        for bytes in [&mut packet.packet, &mut packet.userdata].into_iter().chain(&mut packet.continuation) {
            *bytes = Bytes::copy_from_slice(bytes);
        }
        if self.shared.packet_ins.try_send(packet).is_err() {
            self.shared.packet_ins_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn greeted(&mut self, message: Message) {
        let Some(greeting) = &mut self.greeting else { return };
        match message {
            Message::Hello { versions } if versions & codec::VERSIONS == 0 => {
                greeting.error = Some(OfError::Protocol(format!(
                    "the bridge speaks the OpenFlow versions {versions:#x} (bit n for wire version n), not 1.5"
                )));
            }
            Message::Hello { .. } => greeting.hello = true,
            Message::FeaturesReply(features) => greeting.features = Some(features),
            Message::BarrierReply => greeting.barrier = true,
            Message::Error(error) => {
                greeting.error =
                    Some(OfError::Refused { what: "the greeting".to_owned(), error: Box::new(error) });
            }
            other => tracing::debug!(?other, "message while greeting"),
        }
    }

    fn answered(&mut self, xid: Xid, message: Message) -> Result<(), OfError> {
        if let Some(running) = &mut self.running
            && running.owns(xid)
        {
            if running.receive(xid, message, &mut self.out)?
                && let Some(running) = self.running.take()
            {
                running.finish();
            }
            return Ok(());
        }
        match message {
            Message::MultipartReply { body: MultipartReply::FlowMonitor(updates), .. }
                if !self.pending.contains_key(&xid) =>
            {
                let foreign = updates.iter().filter(|update| is_foreign(update)).count() as u64;
                if foreign > 0 {
                    self.shared.foreign_changes.send_modify(|count| *count += foreign);
                }
            }
            Message::MultipartReply { more, body } => {
                if let Some(pending) = self.pending.get_mut(&xid) {
                    pending.parts.push(body);
                    if !more && let Some(pending) = self.pending.remove(&xid) {
                        let _ = pending.reply.send(Ok(pending.parts));
                    }
                }
            }
            Message::Error(error) => match self.pending.remove(&xid) {
                Some(pending) => {
                    let error = OfError::Refused { what: pending.what, error: Box::new(error) };
                    let _ = pending.reply.send(Err(error));
                }
                None => tracing::warn!(error = %error, "the bridge refused a message"),
            },
            other => tracing::debug!(?other, "message without a receiver"),
        }
        Ok(())
    }
}

/// Whether the update says, or may say, that somebody else changed a flow.
fn is_foreign(update: &FlowUpdate) -> bool {
    !matches!(update, FlowUpdate::Abbreviated(_) | FlowUpdate::Paused)
}
