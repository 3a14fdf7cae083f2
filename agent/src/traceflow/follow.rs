//! The task that follows traces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use antrea_crds::Traceflow;
use antrea_crds::traceflow::{NodeResult, Packet, Phase, Status};
use antrea_flows::{Change, Owner, Trace, trace, traced};
use antrea_packet as packet;
use antrea_runtime::client::describe_watch;
use antrea_runtime::tolerant::{Events, watch_all};
use antrea_traceflow::observe::{self, RECEIVER, SENDER};
use antrea_traceflow::request::{End, Request};
use antrea_traceflow::turns;
use futures::StreamExt;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use openflow::{Action, Match, PacketIn2, PacketOut, PortNo};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ends::local;
use super::site::Site;
use super::status::update;
use crate::dataplane::{DataplaneError, Subscriber};
use crate::peers::watch::Nodes;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;
use crate::policy::PolicyHandle;

/// The packet is sent again after these, while its end is not known: a node may have been later, or have started anew.
const AGAIN: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// What a packet of a trace meets in this time is written together: it may come back from the host.
const GATHER: Duration = Duration::from_millis(30);

/// Pause before flows that the bridge did not take, or did not let go, are tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How long after its time the flows of a trace stay that nobody ends.
const GRACE: Duration = Duration::from_secs(10);

/// A trace that runs.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) uid: String,
    pub(super) tag: u8,
    pub(super) request: Request,
    /// The pod that the packet comes from, if it is here.
    pub(super) source: Option<PodInterface>,
    /// What of real traffic gets the tag here.
    pub(super) mark: Vec<Match>,
    /// The packet to send.
    pub(super) frame: Option<Vec<u8>>,
    /// Where it goes when it is sent.
    pub(super) asked: Option<IpAddr>,
    pub(super) send_at: Option<Instant>,
    /// When what was seen is written.
    pub(super) write_at: Option<Instant>,
    pub(super) sent: usize,
    pub(super) ends_at: Instant,
    pub(super) result: NodeResult,
    pub(super) captured: Option<Packet>,
    /// The ways by which it came in.
    pub(super) seen: BTreeSet<u8>,
}

/// Follows traces; see the module's description.
pub struct Tracer {
    site: Site,
    events: Events<Traceflow>,
    packets: mpsc::Receiver<PacketIn2>,
    /// Traces that run, by name.
    active: BTreeMap<String, Active>,
    /// Of a list under way, the traces that it has shown.
    listed: Option<BTreeSet<String>>,
    /// Traces whose time here is over although nobody has ended them, by UID.
    overdue: BTreeSet<String>,
    /// Tags whose flows in the bridge are not those that are wanted now, and when that is tried again.
    behind: BTreeSet<u8>,
    again_at: Option<Instant>,
    metered: bool,
}

impl Tracer {
    /// Begins to look out.
    pub fn new(
        network: Arc<NodeNetwork>,
        policy: PolicyHandle,
        client: Client,
        nodes: watch::Receiver<Option<Nodes>>,
    ) -> Self {
        let api = Api::all(client.clone());
        Self {
            packets: network.dataplane.subscribe(Subscriber::Traceflow),
            events: watch_all(&client),
            site: Site { network, policy, client, api, nodes },
            active: BTreeMap::new(),
            listed: None,
            overdue: BTreeSet::new(),
            behind: BTreeSet::new(),
            again_at: None,
            metered: true,
        }
    }

    /// Follows traces until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let due = |trace: &Active| {
                [trace.send_at, trace.write_at, Some(trace.ends_at)].into_iter().flatten().min()
            };
            let due = self.active.values().filter_map(due).chain(self.again_at).min();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.events.next() => match event {
                    Some(Ok(event)) => self.event(event).await,
                    Some(Err(error)) => {
                        tracing::debug!(error = describe_watch(&error), "watch on Traceflows");
                    }
                    None => self.events = watch_all(&self.site.client),
                },
                packet = self.packets.recv() => match packet {
                    Some(packet) => self.packet(&packet).await,
                    None => return,
                },
                () = sleep_until(due) => self.due().await,
            }
        }
    }

    async fn event(&mut self, event: Event<Traceflow>) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(trace) => {
                self.listed.get_or_insert_default().insert(trace.name_any());
                self.follow(&trace).await;
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> =
                    self.active.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                for name in gone {
                    self.end(&name).await;
                }
            }
            Event::Apply(trace) => self.follow(&trace).await,
            Event::Delete(trace) => {
                self.overdue.remove(&trace.uid().unwrap_or_default());
                self.end(&trace.name_any()).await;
            }
        }
    }

    /// Begins or ends what is done for a trace.
    async fn follow(&mut self, trace: &Traceflow) {
        let (name, uid) = (trace.name_any(), trace.uid().unwrap_or_default());
        let wanted = turns::tag(trace).filter(|_| trace.metadata.deletion_timestamp.is_none());
        let has = self.active.get(&name).map(|active| (active.uid.clone(), active.tag));
        if has.as_ref().map(|(uid, tag)| (uid, Some(*tag))) == Some((&uid, wanted)) {
            return;
        }
        if has.is_some() {
            self.end(&name).await;
        }
        match wanted {
            Some(tag) if !self.overdue.contains(&uid) => self.begin(name, uid, tag, trace).await,
            Some(_) => {}
            None => {
                self.overdue.remove(&uid);
            }
        }
    }

    async fn begin(&mut self, name: String, uid: String, tag: u8, trace: &Traceflow) {
        // The controller has told what is wrong with one that cannot be read.
        let Ok(request) = Request::read(&trace.spec) else { return };
        let status = trace.status.as_ref();
        let known = status.and_then(|status| {
            status.results.iter().find(|result| result.node == self.site.network.node_name).cloned()
        });
        let pods = self.site.network.interfaces();
        let source = match &request.source {
            End::Pod(name) => local(&pods, name).cloned(),
            _ => None,
        };
        let mut active = Active {
            uid,
            tag,
            source,
            mark: Vec::new(),
            frame: None,
            asked: None,
            send_at: None,
            write_at: None,
            sent: 0,
            ends_at: Instant::now() + turns::limit(trace) + GRACE,
            result: known.clone().unwrap_or_default(),
            captured: None,
            seen: BTreeSet::new(),
            request,
        };
        let prepared = if known.is_some() { Ok(()) } else { self.site.prepare(&mut active, &pods).await };
        let installed = match prepared {
            Ok(()) => self.install(&active).await.map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = installed {
            tracing::warn!(trace = name, reason, "not traced");
            // Others may see the packet; without its sender there is none.
            if active.source.is_some() {
                fail(&self.site.api, &name, &active.uid, &reason).await;
            }
            self.remove(tag).await;
            return;
        }
        tracing::info!(trace = name, tag, sender = active.source.is_some(), "looking out for a packet");
        self.active.insert(name, active);
    }

    /// Has the bridge hold the trace's flows.
    async fn install(&mut self, active: &Active) -> Result<(), DataplaneError> {
        let mut wanted = Trace {
            tag: active.tag,
            source: active.source.as_ref().map(|pod| pod.ofport),
            mark: active.mark.clone(),
            live: active.request.live,
            metered: self.metered,
        };
        let dataplane = &self.site.network.dataplane;
        let owner = Owner::Trace(active.tag);
        let first = dataplane.set(owner.clone(), Change::Whole(trace(dataplane.network(), &wanted))).await;
        match first {
            Err(DataplaneError::OpenFlow(error)) if self.metered && !error.is_connection() => {
                tracing::warn!(%error, "without a meter: queues alone bound the packets of traces");
                wanted.metered = false;
                dataplane.set(owner, Change::Whole(trace(dataplane.network(), &wanted))).await?;
                self.metered = false;
            }
            other => other?,
        }
        self.behind.remove(&active.tag);
        Ok(())
    }

    /// Has the bridge hold nothing of a trace. What it does not let go now is in its store still, and would be installed
    /// again with everything else.
    async fn remove(&mut self, tag: u8) {
        let gone = self.site.network.dataplane.set(Owner::Trace(tag), Change::nothing()).await;
        match gone {
            Ok(()) => drop(self.behind.remove(&tag)),
            Err(error) => {
                tracing::warn!(tag, %error, "the flows of a trace are removed later");
                self.is_behind(tag);
            }
        }
    }

    fn is_behind(&mut self, tag: u8) {
        self.behind.insert(tag);
        self.again_at = Some(Instant::now() + RETRY);
    }

    /// Has the bridge hold what it did not take before.
    async fn catch_up(&mut self) {
        self.again_at = None;
        for tag in self.behind.clone() {
            let name = self.active.iter().find(|(_, active)| active.tag == tag).map(|(name, _)| name.clone());
            let Some((name, active)) = name.and_then(|name| self.active.remove_entry(&name)) else {
                self.remove(tag).await;
                continue;
            };
            if let Err(error) = self.install(&active).await {
                tracing::debug!(trace = name, %error, "its flows are not those that they should be yet");
                self.is_behind(tag);
            }
            self.active.insert(name, active);
        }
    }

    async fn end(&mut self, name: &str) {
        if let Some(active) = self.active.remove(name) {
            self.remove(active.tag).await;
            if active.write_at.is_some() {
                self.site.write(name, &active).await;
            }
            tracing::info!(trace = name, tag = active.tag, "no longer looking out");
        }
    }

    /// Sends what has to be sent now, and ends what nobody has ended.
    async fn due(&mut self) {
        let now = Instant::now();
        let over = self.active.iter().filter(|(_, active)| active.ends_at <= now);
        let over: Vec<(String, String)> =
            over.map(|(name, active)| (name.clone(), active.uid.clone())).collect();
        for (name, uid) in over {
            self.overdue.insert(uid);
            self.end(&name).await;
        }
        if self.again_at.is_some_and(|at| at <= now) {
            self.catch_up().await;
        }
        for (name, active) in &mut self.active {
            if active.write_at.is_some_and(|at| at <= now) {
                active.write_at = None;
                self.site.write(name, active).await;
            }
            if active.send_at.is_none_or(|at| at > now) {
                continue;
            }
            active.send_at = AGAIN.get(active.sent).map(|pause| now + *pause);
            active.sent += 1;
            let (Some(frame), Some(source)) = (&active.frame, &active.source) else { continue };
            let packet = PacketOut {
                buffer_id: None,
                matches: Match::new().in_port(source.ofport),
                actions: vec![Action::Output(PortNo::TABLE)],
                packet: frame.clone().into(),
            };
            if let Err(error) = self.site.network.dataplane.session().packet_out(packet).await {
                tracing::warn!(trace = name, %error, "the packet is not sent");
            }
        }
    }

    /// A packet of a trace, when all of this node is decided.
    async fn packet(&mut self, packet: &PacketIn2) {
        let pipeline = &self.site.network.dataplane.network().pipeline;
        let Some(found) = traced(pipeline, packet) else { return };
        let Some(headers) = packet::parse(&packet.packet) else { return };
        let known = self.active.iter().find(|(_, active)| active.tag == found.tag);
        let Some((name, active)) = known.map(|(name, active)| (name.clone(), active)) else { return };
        if !active.request.fits(&headers) || active.seen.contains(&(found.source as u8)) {
            return;
        }
        let facts = self.site.facts(active, &found, &headers, packet).await;
        let observations = observe::observe(&found, &headers, &facts);
        if active.request.dropped_only && !observe::is_dropped(&observations) {
            return;
        }
        let node = self.site.network.node_name.clone();
        let Some(active) = self.active.get_mut(&name) else { return };
        active.seen.insert(found.source as u8);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        active.result.node = node;
        active.result.role = if facts.sender { SENDER } else { RECEIVER }.to_owned();
        active.result.timestamp = i64::try_from(now).unwrap_or_default();
        active.result.observations.extend(observations);
        if active.request.live && active.captured.is_none() {
            active.captured = Some(observe::captured(&headers));
        }
        active.write_at.get_or_insert(Instant::now() + GATHER);
        if !active.mark.is_empty() {
            // Of real traffic, the first packet alone.
            active.mark = Vec::new();
            if let Some(active) = self.active.remove(&name) {
                if let Err(error) = self.install(&active).await {
                    tracing::warn!(trace = name, %error, "packets go on to be marked for now");
                    self.is_behind(active.tag);
                }
                self.active.insert(name.clone(), active);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn fail(api: &Api<Traceflow>, name: &str, uid: &str, reason: &str) {
    let change = |status: &mut Status| {
        let runs = status.phase == Some(Phase::Running);
        if runs {
            status.phase = Some(Phase::Failed);
            status.reason = reason.to_owned();
        }
        runs
    };
    update(api, name, uid, change).await;
}

#[cfg(test)]
mod tests {
    use antrea_crds::TraceflowSpec;
    use serde_json::json;

    use super::*;
    use crate::dataplane::fake::deletes;
    use crate::pods::attach::rollback_tests::Lab;
    use crate::policy::attached_for_tests;

    /// What the bridge did not let go would come back with everything else, and mark a tenant's packets.
    #[tokio::test(flavor = "multi_thread")]
    async fn flows_of_a_trace_that_the_bridge_kept_are_removed_later() {
        let lab = Lab::start().await;
        let folder = tempfile::tempdir().unwrap();
        let policy = attached_for_tests(folder.path(), &lab.rig.dataplane).await;
        let nowhere = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = Client::try_from(nowhere).unwrap();
        let mut tracer = Tracer::new(lab.node.clone(), policy, client, watch::Sender::new(None).subscribe());
        let before = lab.rig.switch.flows().len();
        let spec = json!({
            "source": {"namespace": "shop", "pod": "web"}, "destination": {"ip": "192.0.2.1"}, "liveTraffic": true,
        });
        let spec: TraceflowSpec = serde_json::from_value(spec).unwrap();
        let active = Active {
            uid: "u".to_owned(),
            tag: 7,
            request: Request::read(&spec).unwrap(),
            source: None,
            mark: Vec::new(),
            frame: None,
            asked: None,
            send_at: None,
            write_at: None,
            sent: 0,
            ends_at: Instant::now() + GRACE,
            result: NodeResult::default(),
            captured: None,
            seen: BTreeSet::new(),
        };
        tracer.install(&active).await.unwrap();
        tracer.active.insert("t".to_owned(), active);
        let installed = lab.rig.switch.flows().len();
        assert!(installed > before);
        lab.rig.switch.refuse(deletes);
        tracer.end("t").await;
        assert_eq!(lab.rig.switch.flows().len(), installed);
        lab.rig.switch.refuse(|_| false);
        assert!(tracer.again_at.is_some_and(|at| at <= Instant::now() + RETRY));
        tracer.catch_up().await;
        assert_eq!((lab.rig.switch.flows().len(), tracer.again_at), (before, None));
    }
}
