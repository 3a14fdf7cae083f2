//! A bridge made of a script: it holds what it is told, refuses on demand, and looks after every single message
//! whether all that entries name is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use antrea_flows::state::key_of;
use antrea_flows::{Entry, Key, Network};
use antrea_runtime::metrics::Metrics;
use bytes::{Bytes, BytesMut};
use openflow::multipart::{FlowEntry, FlowStats, MultipartReply, MultipartRequest};
use openflow::{
    BundleControl, BundleCtrlType, ErrorMsg, Features, Flow, FlowCommand, Group, GroupCommand, Match,
    Message, Meter, MeterCommand, Xid,
};
use ovs::backoff::BackoffConfig;
use ovs::connect::Connect;
use ovs::of::{OfConfig, OfHandle, OfSession, OfState};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Dataplane, DataplaneError};
use crate::facts::Reporter;
use crate::metrics::AgentMetrics;
use antrea_enforce::testing::network;

type Rule = Box<dyn Fn(&Message) -> bool + Send>;

/// What the bridge holds and does.
#[derive(Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    bundles: HashMap<u32, Vec<(Xid, Message)>>,
    spoilt: BTreeSet<u32>,
    refuse: Option<Rule>,
    /// Number of messages of each bundle that was committed.
    committed: Vec<usize>,
    /// Entries that lacked what they name, at any moment.
    violations: Vec<String>,
    /// While a bundle is open barriers are answered only as long as this is not set.
    held: bool,
    /// One waits for its answer.
    waits: bool,
    connection: CancellationToken,
}

/// A scripted bridge; clones are the same.
#[derive(Clone, Default)]
pub struct Switch(Arc<Mutex<State>>);

fn error(kind: u16, code: u16) -> Message {
    Message::Error(ErrorMsg { experimenter: 0, kind, code, data: Bytes::new() })
}

impl State {
    fn holds(&self) -> bool {
        self.held && !self.bundles.is_empty()
    }

    fn refuses(&self, message: &Message) -> bool {
        let missing = |entry: Entry| entry.references().iter().any(|key| !self.entries.contains_key(key));
        let there = key_of(message).is_some_and(|key| self.entries.contains_key(&key));
        self.refuse.as_ref().is_some_and(|refuse| refuse(message))
            || match message {
                Message::FlowMod(change) => missing(Entry::Flow(change.flow.clone())),
                Message::GroupMod(change) => missing(Entry::Group(change.group.clone())),
                Message::MeterMod { command: MeterCommand::Add, .. } => there,
                Message::MeterMod { command: MeterCommand::Modify, .. } => !there,
                _ => false,
            }
    }

    /// Carries a message out; false if the bridge refuses.
    fn receive(&mut self, message: Message) -> bool {
        if self.refuses(&message) {
            return false;
        }
        let Some(key) = key_of(&message) else { return false };
        match message {
            Message::FlowMod(change) if change.command == FlowCommand::Add => {
                self.entries.insert(key, Entry::Flow(change.flow));
            }
            Message::GroupMod(change) if change.command == GroupCommand::AddOrModify => {
                self.entries.insert(key, Entry::Group(change.group));
            }
            Message::MeterMod { command: MeterCommand::Add | MeterCommand::Modify, meter } => {
                self.entries.insert(key, Entry::Meter(meter));
            }
            _ => {
                self.entries.remove(&key);
            }
        }
        if self.entries.len() < 1000 {
            for entry in self.entries.values() {
                let missing = entry.references().into_iter().find(|key| !self.entries.contains_key(key));
                self.violations.extend(missing.map(|key| format!("{key} is missing for {entry}")));
            }
        }
        true
    }

    fn commit(&mut self, bundle: u32) -> Vec<(Xid, Message)> {
        let messages = self.bundles.remove(&bundle).unwrap_or_default();
        let before = self.entries.clone();
        let count = messages.len();
        for (xid, message) in messages {
            if !self.receive(message) {
                self.entries = before;
                return vec![(xid, error(5, 0)), (xid, error(17, 14))];
            }
        }
        self.committed.push(count);
        Vec::new()
    }
}

impl Switch {
    /// Refuses these messages from now on.
    pub fn refuse(&self, rule: impl Fn(&Message) -> bool + Send + 'static) {
        self.0.lock().refuse = Some(Box::new(rule));
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().entries.values().cloned().collect()
    }

    pub fn flows(&self) -> Vec<Flow> {
        let flow = |entry| if let Entry::Flow(flow) = entry { Some(flow) } else { None };
        self.entries().into_iter().filter_map(flow).collect()
    }

    /// Sizes of the bundles so far.
    pub fn committed(&self) -> Vec<usize> {
        self.0.lock().committed.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        self.0.lock().violations.clone()
    }

    /// Puts an entry there behind the agent's back.
    pub fn put(&self, entry: impl Into<Entry>) {
        let entry = entry.into();
        self.0.lock().entries.insert(entry.key(), entry);
    }

    /// Takes everything away behind the agent's back.
    pub fn clear(&self) {
        self.0.lock().entries.clear();
    }

    /// Answers no barrier while `held` and a bundle is open.
    pub fn hold(&self, held: bool) {
        self.0.lock().held = held;
    }

    /// Until a barrier waits for its answer, which [`Self::hold`] keeps back.
    pub async fn a_barrier_waits(&self) {
        let seen = async {
            while !self.0.lock().waits {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.expect("no barrier came");
    }

    /// Ends the connection; open bundles are gone, and nothing that is still on its way arrives.
    pub fn disconnect(&self) {
        let mut state = self.0.lock();
        state.bundles.clear();
        state.spoilt.clear();
        std::mem::take(&mut state.connection).cancel();
    }

    async fn serve(self, mut io: DuplexStream) {
        let connection = self.0.lock().connection.clone();
        let mut input = BytesMut::new();
        loop {
            while let Some((xid, message)) = Message::decode(&mut input).unwrap() {
                let is_barrier = matches!(message, Message::BarrierRequest);
                while is_barrier && !connection.is_cancelled() && self.0.lock().holds() {
                    self.0.lock().waits = true;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                self.0.lock().waits &= !is_barrier;
                if connection.is_cancelled() {
                    return;
                }
                let mut out = BytesMut::new();
                for (xid, answer) in self.answer(xid, message) {
                    answer.encode(xid, &mut out).unwrap();
                }
                if io.write_all(&out).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = connection.cancelled() => return,
                read = io.read_buf(&mut input) => if read.unwrap_or(0) == 0 { return },
            }
        }
    }

    fn answer(&self, xid: Xid, message: Message) -> Vec<(Xid, Message)> {
        let mut state = self.0.lock();
        let one = |message| vec![(xid, message)];
        match message {
            Message::Hello { .. } => one(Message::Hello { versions: 1 << 6 }),
            Message::FeaturesRequest => one(Message::FeaturesReply(Features {
                datapath_id: 1,
                n_buffers: 0,
                n_tables: 254,
                auxiliary_id: 0,
                capabilities: 0,
            })),
            Message::BarrierRequest => one(Message::BarrierReply),
            Message::EchoRequest(data) => one(Message::EchoReply(data)),
            Message::MultipartRequest(request) => {
                let parts = state.dump(&request);
                let last = parts.len().saturating_sub(1);
                let reply = |(at, body)| (xid, Message::MultipartReply { more: at != last, body });
                parts.into_iter().enumerate().map(reply).collect()
            }
            Message::BundleControl(control) => state.control(xid, control),
            Message::BundleAdd { bundle_id, message, .. } => {
                let refused = matches!(*message, Message::MeterMod { .. })
                    || state.refuse.as_ref().is_some_and(|refuse| refuse(&message));
                if refused {
                    state.spoilt.insert(bundle_id);
                    return one(error(5, 0));
                }
                state.bundles.entry(bundle_id).or_default().push((xid, *message));
                Vec::new()
            }
            change @ (Message::FlowMod(_) | Message::GroupMod(_) | Message::MeterMod { .. }) => {
                if state.receive(change) { Vec::new() } else { one(error(12, 1)) }
            }
            _ => Vec::new(),
        }
    }
}

impl State {
    fn control(&mut self, xid: Xid, request: BundleControl) -> Vec<(Xid, Message)> {
        let id = request.bundle_id;
        let reply = |kind| vec![(xid, Message::BundleControl(BundleControl { kind, ..request }))];
        match request.kind {
            BundleCtrlType::OpenRequest => {
                self.bundles.insert(id, Vec::new());
                reply(BundleCtrlType::OpenReply)
            }
            BundleCtrlType::CloseRequest => reply(BundleCtrlType::CloseReply),
            BundleCtrlType::CommitRequest => {
                assert!(!self.spoilt.contains(&id), "Open vSwitch would commit what is left of it");
                let errors = self.commit(id);
                if errors.is_empty() { reply(BundleCtrlType::CommitReply) } else { errors }
            }
            _ => {
                self.bundles.remove(&id);
                self.spoilt.remove(&id);
                reply(BundleCtrlType::DiscardReply)
            }
        }
    }

    fn dump(&self, request: &MultipartRequest) -> Vec<MultipartReply> {
        let (mut flows, mut groups, mut meters) = (Vec::new(), Vec::new(), Vec::new());
        for entry in self.entries.values() {
            match entry {
                Entry::Flow(flow) => {
                    flows.push(FlowEntry { flow: flow.clone(), stats: FlowStats::default() });
                }
                Entry::Group(group) => groups.push(group.clone()),
                Entry::Meter(meter) => meters.push(meter.clone()),
            }
        }
        match request {
            MultipartRequest::FlowDesc(_) if flows.is_empty() => vec![MultipartReply::FlowDesc(flows)],
            MultipartRequest::FlowDesc(_) => {
                flows.chunks(100).map(|part| MultipartReply::FlowDesc(part.to_vec())).collect()
            }
            MultipartRequest::GroupDesc(_) => vec![MultipartReply::GroupDesc(groups)],
            MultipartRequest::MeterDesc(_) => vec![MultipartReply::MeterDesc(meters)],
            _ => Vec::new(),
        }
    }
}

struct Connector(Switch);

impl Connect for Connector {
    type Io = DuplexStream;

    async fn connect(&mut self) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(self.0.clone().serve(far));
        Ok(near)
    }
}

/// A dataplane with a scripted bridge.
pub struct Rig {
    pub switch: Switch,
    pub session: OfHandle,
    pub dataplane: Dataplane,
    pub reporter: Reporter,
    _guard: DropGuard,
}

impl Rig {
    /// Nothing is staged and nothing started.
    pub fn new() -> Self {
        let switch = Switch::default();
        let cancel = CancellationToken::new();
        let millis = Duration::from_millis;
        let config =
            OfConfig { backoff: BackoffConfig { first: millis(1), max: millis(5) }, ..OfConfig::default() };
        let (session, _) = OfSession::spawn_with(Connector(switch.clone()), config, cancel.clone());
        let (dataplane, reporter) = dataplane(session.clone(), Arc::new(network()), &cancel);
        Self { switch, session, dataplane, reporter, _guard: cancel.drop_guard() }
    }

    /// The bridge is started anew and has nothing, and is connected again.
    pub async fn restart_switch(&self) {
        let now = self.session.wait_connected(Duration::from_secs(20)).await.unwrap();
        self.switch.clear();
        self.switch.disconnect();
        let again =
            |state: &OfState| matches!(state, OfState::Connected { generation, .. } if *generation > now);
        self.session.state().wait_for(again).await.unwrap();
    }

    pub async fn started() -> Self {
        let rig = Self::new();
        rig.dataplane.start().await.unwrap();
        rig
    }
}

/// A dataplane whose task runs until `cancel`.
pub fn dataplane(
    session: OfHandle,
    network: Arc<Network>,
    cancel: &CancellationToken,
) -> (Dataplane, Reporter) {
    let metrics = AgentMetrics::new(&Metrics::empty()).unwrap();
    let reporter = Reporter::default();
    let (dataplane, task) = Dataplane::new(session, "br-int".to_owned(), network, reporter.clone(), metrics);
    tokio::spawn(task.run(cancel.clone()));
    (dataplane, reporter)
}

pub fn flow(n: u32) -> Flow {
    Flow::new(0, 100).matching(Match::new().reg(0, n)).goto(1)
}

/// Whether the message adds a flow.
pub fn adds(message: &Message) -> bool {
    matches!(message, Message::FlowMod(change) if change.command == FlowCommand::Add)
}

/// Whether the message deletes a flow.
pub fn deletes(message: &Message) -> bool {
    matches!(message, Message::FlowMod(change) if change.command == FlowCommand::DeleteStrict)
}

/// Whether the message is about an entry that tests have refused: a flow with this cookie, a group of id 666, or a
/// meter of that.
pub fn is_cursed(message: &Message) -> bool {
    match message {
        Message::FlowMod(change) => change.command == FlowCommand::Add && change.flow.cookie == CURSE,
        Message::GroupMod(change) => change.command == GroupCommand::AddOrModify && change.group.id == 666,
        Message::MeterMod { command, meter } => *command != MeterCommand::Delete && meter.id == 666,
        _ => false,
    }
}

pub const CURSE: u64 = 666;

/// A group with one bucket.
pub fn group(id: u32, weight: u16) -> Group {
    Group::new(id, openflow::GroupType::Select).bucket(openflow::Bucket::new(1, weight))
}

pub fn meter(id: u32, rate: u32) -> Meter {
    Meter::drop_pktps(id, rate, 10)
}

/// The answer within some seconds.
pub async fn soon<T>(answer: impl Future<Output = Result<T, DataplaneError>>) -> Result<T, DataplaneError> {
    tokio::time::timeout(Duration::from_secs(60), answer).await.expect("no answer")
}
