//! The task that follows traces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use antrea_crds::Traceflow;
use antrea_crds::traceflow::{NodeResult, Packet, Phase, Status};
use antrea_flows::field::Source;
use antrea_flows::policy::Direction;
use antrea_flows::{Change, Family, Owner, Table, Trace, Traced, trace, traced, tunnel_mac};
use antrea_packet::{self as packet, Headers};
use antrea_runtime::client::describe_watch;
use antrea_runtime::tolerant::{Events, watch_all};
use antrea_traceflow::observe::{self, RECEIVER, SENDER, Surroundings};
use antrea_traceflow::request::{End, Request};
use antrea_traceflow::turns;
use futures::StreamExt;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use netcfg::MacAddr;
use openflow::{Action, Field, Match, PacketIn2, PacketOut, PortNo};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ends::{addresses, local};
use super::status::update;
use crate::dataplane::{DataplaneError, Subscriber};
use crate::peers::watch::Nodes;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;
use crate::policy::{PolicyHandle, Question};

/// What other nodes get to install their flows before the packet is sent, where it may come to one.
const OTHERS: Duration = Duration::from_millis(400);

/// The packet is sent again after these, while its end is not known: a node may have been later, or have started anew.
const AGAIN: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// What a packet of a trace meets in this time is written together: it may come back from the host.
const GATHER: Duration = Duration::from_millis(30);

/// How long after its time the flows of a trace stay that nobody ends.
const GRACE: Duration = Duration::from_secs(10);

/// A trace that runs.
#[derive(Debug)]
struct Active {
    uid: String,
    tag: u8,
    request: Request,
    /// The pod that the packet comes from, if it is here.
    source: Option<PodInterface>,
    /// What of real traffic gets the tag here.
    mark: Vec<Match>,
    /// The packet to send.
    frame: Option<Vec<u8>>,
    /// Where it goes when it is sent.
    asked: Option<IpAddr>,
    send_at: Option<Instant>,
    /// When what was seen is written.
    write_at: Option<Instant>,
    sent: usize,
    ends_at: Instant,
    result: NodeResult,
    captured: Option<Packet>,
    /// The ways by which it came in.
    seen: BTreeSet<u8>,
}

/// Where packets are looked out for.
struct Site {
    network: Arc<NodeNetwork>,
    policy: PolicyHandle,
    client: Client,
    api: Api<Traceflow>,
    nodes: watch::Receiver<Option<Nodes>>,
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
            metered: true,
        }
    }

    /// Follows traces until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let due = |trace: &Active| {
                [trace.send_at, trace.write_at, Some(trace.ends_at)].into_iter().flatten().min()
            };
            let due = self.active.values().filter_map(due).min();
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
            self.site.remove(tag).await;
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
            Err(DataplaneError::OpenFlow(error)) if self.metered => {
                tracing::warn!(%error, "without a meter: queues alone bound the packets of traces");
                wanted.metered = false;
                dataplane.set(owner, Change::Whole(trace(dataplane.network(), &wanted))).await?;
                self.metered = false;
                Ok(())
            }
            other => other,
        }
    }

    async fn end(&mut self, name: &str) {
        if let Some(active) = self.active.remove(name) {
            self.site.remove(active.tag).await;
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
                    tracing::warn!(trace = name, %error, "packets go on to be marked");
                }
                self.active.insert(name.clone(), active);
            }
        }
    }
}

impl Site {
    /// Finds out what there is to send or to mark here.
    async fn prepare(&self, active: &mut Active, pods: &[PodInterface]) -> Result<(), String> {
        let net = self.network.dataplane.network();
        let request = &active.request;
        let here = match &request.destination {
            End::Pod(name) => local(pods, name),
            _ => None,
        };
        let Some(source) = active.source.clone() else {
            let anybody = request.live && !matches!(request.source, End::Pod(_));
            if let (true, Some(pod)) = (anybody, here) {
                let from = match request.source {
                    End::Ip(ip) => vec![ip],
                    _ => Vec::new(),
                };
                active.mark = request.matches(net.pipeline.families(), &from, &pod.ips);
            }
            return Ok(());
        };
        let to = addresses(&self.client, pods, &request.destination).await?;
        if request.live {
            if net.pipeline.features().services && matches!(request.destination, End::Service(_)) {
                let reason = "the bridge has given the traffic an endpoint's address before it can be marked; name \
                              the Pod of an endpoint";
                return Err(format!("spec.destination.service: {reason}"));
            }
            let matches = request.matches(net.pipeline.families(), &source.ips, &to);
            active.mark = matches.into_iter().map(|one| one.in_port(source.ofport)).collect();
            if active.mark.is_empty() {
                return Err("spec: both ends have no addresses of one family".to_owned());
            }
            return Ok(());
        }
        let family = |ip: &IpAddr| if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let wanted = |ip: &&IpAddr| request.family.is_none_or(|own| own == family(ip));
        let pair = source
            .ips
            .iter()
            .filter(wanted)
            .find_map(|src| Some((*src, *to.iter().find(|dst| family(dst) == family(src))?)));
        let Some((src, dst)) = pair else {
            return Err("spec: both ends have no addresses of the packet's family".to_owned());
        };
        let receiver = pods.iter().find(|pod| pod.ips.contains(&dst));
        let eth_dst = receiver.map_or(net.node.gateway.mac, |pod| pod.mac.into());
        let [a, b, c, d, ..] = MacAddr::random().0.map(u32::from);
        let random = a << 24 ^ b << 16 ^ c << 8 ^ d << 20;
        let headers = request.headers((source.mac.into(), eth_dst), (src, dst), active.tag, random);
        active.frame = packet::build(&headers);
        active.asked = Some(dst);
        let wait = if receiver.is_some() { Duration::ZERO } else { OTHERS };
        active.send_at = Some(Instant::now() + wait);
        Ok(())
    }

    /// Writes what was seen here.
    async fn write(&self, name: &str, active: &Active) {
        let change = |status: &mut Status| observe::merge(status, &active.result, active.captured.as_ref());
        update(&self.api, name, &active.uid, change).await;
    }

    async fn remove(&self, tag: u8) {
        if let Err(error) = self.network.dataplane.set(Owner::Trace(tag), Change::nothing()).await {
            tracing::warn!(tag, %error, "the flows of a trace stay until the next change of the bridge");
        }
    }

    async fn facts(
        &self,
        active: &Active,
        found: &Traced,
        headers: &Headers,
        packet: &PacketIn2,
    ) -> Surroundings {
        let pods = self.network.interfaces();
        let sender = active.source.is_some();
        let target = pods.iter().find(|pod| found.destination.is_none() && Some(pod.ofport) == found.target);
        let rules = [found.egress_rule, found.ingress_rule, found.denied.map(|(rule, _)| rule)];
        let isolated = match found.reached {
            Some(Table::EgressDefaultRule) => {
                let from = active.source.as_ref().or(pods.iter().find(|pod| pod.ips.contains(&headers.src)));
                from.map(|pod| (pod.ofport, Direction::Out))
            }
            Some(Table::IngressDefaultRule) => found.target.map(|port| (port, Direction::In)),
            _ => None,
        };
        let question = Question { rules: rules.into_iter().flatten().collect(), isolated };
        let answer = self.policy.explain(question).await;
        let mut answers = answer.rules.into_iter();
        let [egress, ingress, denied] =
            rules.map(|rule| rule.and_then(|_| answers.next()).flatten().map(|policy| policy.to_string()));
        let nodes = self.nodes.borrow().clone().unwrap_or_default();
        let peers = || nodes.values().filter(|peer| peer.name != self.network.node_name);
        let outer =
            [Field::TunDst, Field::TunIpv6Dst].map(|field| packet.metadata.get(field).map(|m| m.value));
        let told = match outer {
            [Some(ip), _] if ip != 0 => Some(IpAddr::from((ip as u32).to_be_bytes())),
            [_, Some(ip)] if ip != 0 => Some(IpAddr::from(ip.to_be_bytes())),
            _ => None,
        };
        let by_mac =
            || peers().flat_map(|peer| &peer.transport_ips).find(|ip| tunnel_mac(**ip) == headers.eth_dst);
        let node = &self.network.dataplane.network().node;
        let served = node.service_cidrs.iter().any(|cidr| cidr.contains(&headers.dst));
        Surroundings {
            sender,
            again: sender && found.source == Source::Gateway,
            asked: active.asked,
            pod: target.map(|pod| format!("{}/{}", pod.pod_namespace, pod.pod_name)),
            tunnel: told.or_else(|| by_mac().copied()),
            stays: served
                || peers().any(|peer| peer.pod_cidrs.iter().any(|cidr| cidr.contains(&headers.dst))),
            egress,
            ingress,
            denied,
            isolating: answer.isolating.iter().map(ToString::to_string).collect(),
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
