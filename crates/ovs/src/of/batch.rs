//! A list of messages on its way to the bridge, as a bundle or plainly.
//!
//! ```text
//! bundle:  open, add…, close      ─► close reply ─►  commit, barrier   ─► barrier reply ─► done
//!                    └ an error on the way ────────►  discard, barrier ─► barrier reply ─► rejected
//! plain:   message…, barrier      ─► barrier reply ─► done, or rejected
//! parts:   open, add…, barrier    ─► barrier reply ─► add…, barrier ─► … ─► add…, close, as above
//! ```
//!
//! A bundle costs two round trips whatever its size. The commit has to wait for the close reply because Open vSwitch
//! commits what is left of a bundle of which it refused messages. A large bundle goes in parts, each a batch of its
//! own: between them other batches find their turn, and still all of it takes effect at once.

use bytes::BytesMut;
use openflow::{BundleControl, BundleCtrlType, BundleFlags, ErrorMsg, Message, Xid};
use tokio::sync::oneshot;

use super::{OfError, Rejection, codec, error::describe};

/// Transaction ids a batch needs besides one per message: open, close, commit or discard, barrier.
const EXTRA: u32 = 4;

/// How a batch's messages belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Each takes effect by itself.
    Plain,
    /// All or none.
    Bundle,
    /// A part of a bundle that takes several.
    Part(Part),
}

/// One part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bundle_id: u32,
    /// The connection that the bundle was opened on. On another the bridge would take the rest for a new bundle.
    pub(super) generation: u64,
    /// The first part opens the bundle.
    pub(super) first: bool,
    /// The last part commits it.
    pub(super) last: bool,
}

impl Kind {
    fn is_bundle(self) -> bool {
        self != Kind::Plain
    }

    /// Whether the batch ends with the bundle's commit.
    fn commits(self) -> bool {
        match self {
            Kind::Plain => false,
            Kind::Bundle => true,
            Kind::Part(part) => part.last,
        }
    }
}

pub(super) struct Batch {
    messages: Vec<Message>,
    kind: Kind,
    reply: oneshot::Sender<Result<(), OfError>>,
}

impl Batch {
    pub(super) fn new(
        messages: Vec<Message>,
        kind: Kind,
        reply: oneshot::Sender<Result<(), OfError>>,
    ) -> Self {
        Self { messages, kind, reply }
    }

    pub(super) fn fail(self, error: OfError) {
        // The caller may have given up.
        let _ = self.reply.send(Err(error));
    }

    /// Whether the caller has given up.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// The bundle that this is a part of.
    pub(super) fn part(&self) -> Option<Part> {
        match self.kind {
            Kind::Part(part) => Some(part),
            Kind::Plain | Kind::Bundle => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Number of transaction ids needed; `None` if the list is too long for them.
    pub(super) fn xids(&self) -> Option<u32> {
        u32::try_from(self.messages.len()).ok()?.checked_add(EXTRA)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// Everything is sent, the close reply is awaited.
    Closing,
    /// Commit, discard or the last plain message is sent, the barrier reply is awaited.
    Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Open,
    /// Of an earlier part, counted from the first: Open vSwitch looks for some faults at the commit only.
    Earlier(usize),
    Message(usize),
    Close,
    Decision,
    Barrier,
}

/// A batch that is being sent. Its transaction ids are consecutive from `base`.
pub(super) struct Running {
    batch: Batch,
    /// Transaction ids before the first message, and number of messages, of the bundle's earlier parts.
    earlier: Vec<(u32, usize)>,
    base: u32,
    bundle_id: u32,
    phase: Phase,
    opened: bool,
    sent: usize,
    committed: bool,
    unsendable: Option<OfError>,
    first_error: Option<(Piece, ErrorMsg)>,
    errors: usize,
}

const FLAGS: BundleFlags = BundleFlags(BundleFlags::ATOMIC.0 | BundleFlags::ORDERED.0);

impl Running {
    pub(super) fn new(batch: Batch, base: u32, bundle_id: u32, earlier: Vec<(u32, usize)>) -> Self {
        Self {
            earlier,
            opened: matches!(batch.kind, Kind::Part(part) if !part.first),
            bundle_id: match batch.kind {
                Kind::Part(part) => part.bundle_id,
                Kind::Plain | Kind::Bundle => bundle_id,
            },
            batch,
            base,
            phase: Phase::Streaming,
            sent: 0,
            committed: false,
            unsendable: None,
            first_error: None,
            errors: 0,
        }
    }

    fn total(&self) -> usize {
        self.batch.messages.len()
    }

    fn xid(&self, part: Piece) -> Xid {
        // The list's length was checked against 32 bits when the ids were allotted.
        let total = self.total();
        let offset = match part {
            Piece::Open => 0,
            Piece::Message(index) => 1 + index,
            // Nothing is sent for them any more.
            Piece::Earlier(_) | Piece::Close => total + 1,
            Piece::Decision => total + 2,
            Piece::Barrier => total + 3,
        };
        Xid(self.base.wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX)))
    }

    fn part(&self, xid: Xid) -> Option<Piece> {
        let mut before = 0;
        for (base, count) in &self.earlier {
            let offset = usize::try_from(xid.0.wrapping_sub(*base)).ok()?;
            if (1..=*count).contains(&offset) {
                return Some(Piece::Earlier(before + offset - 1));
            }
            before += count;
        }
        let offset = usize::try_from(xid.0.wrapping_sub(self.base)).ok()?;
        let total = self.total();
        match offset {
            0 => Some(Piece::Open),
            _ if offset <= total => Some(Piece::Message(offset - 1)),
            _ => match offset - total {
                1 => Some(Piece::Close),
                2 => Some(Piece::Decision),
                3 => Some(Piece::Barrier),
                _ => None,
            },
        }
    }

    fn control(&self, out: &mut BytesMut, part: Piece, kind: BundleCtrlType) -> Result<(), OfError> {
        let control = BundleControl { bundle_id: self.bundle_id, kind, flags: FLAGS };
        codec::encode(self.xid(part), &Message::BundleControl(control), out)
    }

    /// Appends what can be sent now until `out` holds `limit` bytes.
    pub(super) fn fill(&mut self, out: &mut BytesMut, limit: usize) -> Result<(), OfError> {
        if self.phase != Phase::Streaming {
            return Ok(());
        }
        if self.batch.kind.is_bundle() && !self.opened {
            self.opened = true;
            self.control(out, Piece::Open, BundleCtrlType::OpenRequest)?;
        }
        while self.sent < self.total() && out.len() < limit {
            self.send_next(out);
            if self.unsendable.is_some() {
                return self.end(out);
            }
        }
        if self.sent < self.total() {
            return Ok(());
        }
        if self.batch.kind.commits() {
            self.phase = Phase::Closing;
            self.control(out, Piece::Close, BundleCtrlType::CloseRequest)
        } else {
            self.end(out)
        }
    }

    fn send_next(&mut self, out: &mut BytesMut) {
        let index = self.sent;
        let xid = self.xid(Piece::Message(index));
        let Some(slot) = self.batch.messages.get_mut(index) else { return };
        if self.batch.kind.is_bundle() {
            // Wrapped in place: the list stays for the text of errors.
            let message = std::mem::replace(slot, Message::BarrierRequest);
            *slot =
                Message::BundleAdd { bundle_id: self.bundle_id, flags: FLAGS, message: Box::new(message) };
        }
        if let Err(error) = codec::encode(xid, slot, out) {
            let error = match error {
                OfError::Protocol(text) => text,
                other => other.to_string(),
            };
            let subject = Box::new(slot.clone());
            self.unsendable = Some(OfError::Encode { index, message: describe(slot), subject, error });
        }
        self.sent += 1;
    }

    /// Sends the decision, if it is due, and the barrier.
    fn end(&mut self, out: &mut BytesMut) -> Result<(), OfError> {
        if self.batch.kind.commits() {
            let failed = self.errors > 0 || self.unsendable.is_some();
            let kind = if failed { BundleCtrlType::DiscardRequest } else { BundleCtrlType::CommitRequest };
            self.control(out, Piece::Decision, kind)?;
        }
        self.phase = Phase::Ending;
        codec::encode(self.xid(Piece::Barrier), &Message::BarrierRequest, out)
    }

    /// Whether a message with this transaction id is about this batch.
    pub(super) fn owns(&self, xid: Xid) -> bool {
        self.part(xid).is_some()
    }

    /// Takes an answer; true when the batch is done.
    pub(super) fn receive(
        &mut self,
        xid: Xid,
        message: Message,
        out: &mut BytesMut,
    ) -> Result<bool, OfError> {
        let Some(part) = self.part(xid) else { return Ok(false) };
        match message {
            Message::Error(error) => {
                let deciding = self.phase == Phase::Ending;
                self.record(part, error);
                if self.batch.kind.is_bundle() && !deciding {
                    self.end(out)?;
                }
            }
            Message::BundleControl(control) => match (part, control.kind) {
                (Piece::Close, BundleCtrlType::CloseReply) if self.phase == Phase::Closing => {
                    self.end(out)?
                }
                (Piece::Decision, BundleCtrlType::CommitReply) => self.committed = true,
                _ => {}
            },
            Message::BarrierReply => return Ok(part == Piece::Barrier),
            other => tracing::debug!(?other, "unexpected answer to a batch"),
        }
        Ok(false)
    }

    fn record(&mut self, part: Piece, error: ErrorMsg) {
        let names_message = matches!(part, Piece::Message(_) | Piece::Earlier(_));
        // "A message of the bundle failed" follows the error of that message; what follows a refused message counts
        // only when it is about another one.
        if names_message || self.errors == 0 {
            self.errors += 1;
        }
        let better = match &self.first_error {
            None => true,
            Some((Piece::Message(_) | Piece::Earlier(_), _)) => false,
            Some(_) => names_message,
        };
        if better {
            self.first_error = Some((part, error));
        }
    }

    /// Ends a batch whose barrier reply has come.
    pub(super) fn finish(self) {
        let outcome = self.outcome();
        let _ = self.batch.reply.send(outcome);
    }

    fn outcome(&self) -> Result<(), OfError> {
        if let Some(error) = &self.unsendable {
            return Err(error.clone());
        }
        if let Some((part, error)) = &self.first_error {
            let own = match part {
                Piece::Message(index) => self.batch.messages.get(*index),
                _ => None,
            };
            let before: usize = self.earlier.iter().map(|(_, count)| count).sum();
            let (index, message) = match part {
                Piece::Message(index) => (Some(before + index), own.map(describe).unwrap_or_default()),
                Piece::Earlier(index) => (Some(*index), "of an earlier part of the bundle".to_owned()),
                Piece::Open => (None, "to open a bundle".to_owned()),
                Piece::Close => (None, "to close a bundle".to_owned()),
                Piece::Decision => (None, "to commit a bundle".to_owned()),
                Piece::Barrier => (None, "a barrier".to_owned()),
            };
            let further = self.errors - 1;
            let subject = own.cloned();
            let rejection = Rejection { index, message, subject, error: error.clone(), further };
            return Err(Box::new(rejection).into());
        }
        if self.batch.kind.commits() && !self.committed {
            return Err(OfError::Protocol("barrier reply before the commit reply of a bundle".to_owned()));
        }
        Ok(())
    }

    /// Ends the batch of a broken connection.
    pub(super) fn lose(self, reason: &str) {
        self.batch.fail(OfError::ConnectionLost(reason.to_owned()));
    }
}
