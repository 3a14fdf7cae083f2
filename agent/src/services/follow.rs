//! The task that keeps the bridge in step with Services.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use antrea_flows::policy::{self as model, Frontend, Targets};
use antrea_flows::{Change, Entry, Network, Owner, ServiceBackend};
use antrea_proxy::{Drained, Here, Name, Protocol, Reached, Served, Services, Way};
use futures::{FutureExt, Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use ovs::of::OfError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::is_stand_in;
use super::everybody::{Ends, Everybody, address, transport};
use super::objects::{SERVICES, SLICES, TolerantService, TolerantSlice};
use super::wrong::{Kind, Wrong};
use crate::dataplane::{Batch, Dataplane};
use crate::facts::{Health, Reporter};
use crate::metrics::{Families, ProxyMetrics};
use crate::ovs::connections::Connections;
use crate::ovs::settled::Settled;
use crate::peers::watch::Nodes;
use crate::policy::{self, PolicyHandle};

/// How long a node that comes up waits for all Services, so that its first flows have them.
const FIRST: Duration = Duration::from_secs(5);

/// What changes together goes to the bridge together.
const GATHER: Duration = Duration::from_millis(3);

/// Events that are taken in before the bridge hears of them.
const MOST_EVENTS: usize = 1_000;

/// Batches of datagrams' ways that wait for the datapath at once.
const MOST_SETTLING: usize = 16;

/// Pause before what the bridge refused is tried again.
const RETRY: Duration = Duration::from_secs(2);

type Events<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

/// Datagrams' ways to endpoints that are gone, by Service.
type Stale = Vec<(Name, Vec<Way>)>;

/// Objects that a list under way has not shown.
#[derive(Debug, Default)]
struct Listed {
    seen: Option<HashSet<Name>>,
    complete: bool,
}

/// Where Services are served.
#[derive(Clone, Debug)]
pub struct Bridge {
    pub node: String,
    pub dataplane: Dataplane,
    /// Connections that it tracks.
    pub connections: Connections,
    /// Whether the datapath goes by its flows.
    pub settled: Settled,
    /// Who has rules that name Services.
    pub policy: PolicyHandle,
}

/// Follows Services and EndpointSlices.
pub struct Follower {
    bridge: Bridge,
    client: Client,
    reporter: Reporter,
    metrics: ProxyMetrics,
    families: Families,
    wrong: Wrong,
    here: Here,
    known: Services,
    /// Service of each EndpointSlice.
    slices: HashMap<Name, Name>,
    services_listed: Listed,
    slices_listed: Listed,
    service_events: Events<TolerantService>,
    slice_events: Events<TolerantSlice>,
    refused: BTreeSet<Name>,
    /// Datagrams' ways that are forgotten once more when the datapath goes by the flows.
    settling: JoinSet<Stale>,
    /// Policy knows of all Services.
    policy_knows: bool,
    /// Where there is no kube-proxy.
    everybody: Option<Everybody>,
}

impl Follower {
    /// Begins both watches. With `ends`, there is no kube-proxy.
    pub fn new(
        bridge: Bridge,
        client: Client,
        zone: String,
        reporter: Reporter,
        metrics: ProxyMetrics,
        ends: Option<Ends>,
    ) -> Self {
        let everybody = ends.map(|ends| Everybody::new(ends, bridge.dataplane.network()));
        let mut known = Services::new();
        if let Some(everybody) = &everybody {
            known.set_own(everybody.own().clone());
        }
        let here = Here { node: bridge.node.clone(), zone };
        let cidrs = &bridge.dataplane.network().node.pod_cidrs;
        let families = [true, false].map(|v4| cidrs.iter().any(|net| net.addr().is_ipv4() == v4));
        Self {
            service_events: services(&client),
            slice_events: slices(&client),
            bridge,
            client,
            reporter,
            metrics,
            families,
            wrong: Wrong::default(),
            here,
            known,
            everybody,
            slices: HashMap::new(),
            services_listed: Listed::default(),
            slices_listed: Listed::default(),
            refused: BTreeSet::new(),
            settling: JoinSet::new(),
            policy_knows: false,
        }
    }

    /// Takes in what there is before the bridge goes live; without an API server it goes live without Services.
    pub async fn first(&mut self) {
        let listed = async {
            while !(self.services_listed.complete && self.slices_listed.complete) {
                self.event().await;
            }
        };
        if tokio::time::timeout(FIRST, listed).await.is_err() {
            tracing::warn!("Services are not listed yet; whoever else serves them does meanwhile");
        }
        self.flush().await;
    }

    /// Follows changes until `shutdown`.
    pub async fn run(mut self, mut nodes: watch::Receiver<Option<Nodes>>, shutdown: CancellationToken) {
        let mut retry_at = tokio::time::Instant::now();
        let mut addresses = self.everybody.as_ref().map(Everybody::addresses);
        self.follow_node(nodes.borrow_and_update().as_ref());
        loop {
            if self.refused.is_empty() {
                retry_at = tokio::time::Instant::now() + RETRY;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = nodes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_node(nodes.borrow_and_update().as_ref());
                    continue;
                }
                addresses = moved(&mut addresses) => if let Some(everybody) = &mut self.everybody {
                    self.known.set_own(everybody.moved(&addresses));
                },
                () = self.event() => {
                    tokio::time::sleep(GATHER).await;
                    for _ in 0..MOST_EVENTS {
                        if self.event().now_or_never().is_none() {
                            break;
                        }
                    }
                }
                () = tokio::time::sleep_until(retry_at), if !self.refused.is_empty() => {
                    retry_at = tokio::time::Instant::now() + RETRY;
                    std::mem::take(&mut self.refused).iter().for_each(|name| self.known.again(name));
                }
            }
            // A list under way hides nothing, and what it does not show is not known before its end.
            if self.services_listed.seen.is_none() && self.slices_listed.seen.is_none() {
                self.flush().await;
            }
        }
    }

    /// What slices say about a zone is not kept, so they are read again for another.
    fn follow_node(&mut self, nodes: Option<&Nodes>) {
        let node = nodes.and_then(|nodes| nodes.get(&self.here.node));
        if let (Some(everybody), Some(node)) = (&mut self.everybody, node) {
            everybody.leaving(node.leaving);
        }
        let zone = node.map(|node| node.zone.clone());
        if let Some(zone) = zone.filter(|zone| *zone != self.here.zone) {
            tracing::info!(zone, "this node is in another zone, its endpoints are chosen anew");
            self.here.zone = zone;
            self.slice_events = slices(&self.client);
        }
    }

    /// Takes one event in. Nothing is lost if it is dropped before it is done.
    async fn event(&mut self) {
        tokio::select! {
            event = self.service_events.next() => match event {
                Some(Ok(event)) => self.service(event),
                Some(Err(error)) => tracing::warn!(%error, "watch on Services"),
                None => self.service_events = services(&self.client),
            },
            event = self.slice_events.next() => match event {
                Some(Ok(event)) => self.slice(event),
                Some(Err(error)) => tracing::warn!(%error, "watch on EndpointSlices"),
                None => self.slice_events = slices(&self.client),
            },
        }
    }

    fn service(&mut self, event: Event<TolerantService>) {
        match event {
            Event::Init => self.services_listed.seen = Some(HashSet::new()),
            Event::InitApply(object) | Event::Apply(object) => {
                let name = full_name(&object.key());
                if let Some(seen) = &mut self.services_listed.seen {
                    seen.insert(name.clone());
                }
                self.metrics.service_update(self.families);
                match object.object {
                    Ok(service) => {
                        let (service, problems) = service.read(&name);
                        self.wrong.read(Kind::Service, &name, problems);
                        self.known.set_service(&name, service);
                    }
                    Err(error) => self.wrong.undecoded(Kind::Service, &name, &error),
                }
            }
            Event::Delete(object) => {
                self.metrics.service_update(self.families);
                self.forget_service(&full_name(&object.key()));
            }
            Event::InitDone => {
                let seen = self.services_listed.seen.take().unwrap_or_default();
                let gone: Vec<Name> =
                    self.known.names().filter(|name| !seen.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.forget_service(name));
                self.services_listed.complete = true;
            }
        }
    }

    fn slice(&mut self, event: Event<TolerantSlice>) {
        match event {
            Event::Init => self.slices_listed.seen = Some(HashSet::new()),
            Event::InitApply(object) | Event::Apply(object) => {
                let key = object.key();
                let name = full_name(&key);
                if let Some(seen) = &mut self.slices_listed.seen {
                    seen.insert(name.clone());
                }
                let slice = match object.object {
                    Ok(slice) => slice,
                    Err(error) => {
                        self.metrics.endpoints_update(self.families);
                        return self.wrong.undecoded(Kind::Slice, &name, &error);
                    }
                };
                self.metrics.endpoints_update(slice.families());
                let service = slice.service().map(|service| full_name(&(key.0, service.to_owned())));
                if self.slices.get(&name) != service.as_ref() {
                    self.forget_slice(&name);
                }
                if let Some(service) = service {
                    let (content, problems) = slice.read(&name, &self.here);
                    self.wrong.read(Kind::Slice, &name, problems);
                    self.known.set_slice(&service, &name, content);
                    self.slices.insert(name, service);
                }
            }
            Event::Delete(object) => {
                let families = object.object.as_ref().map_or(self.families, |slice| slice.families());
                self.metrics.endpoints_update(families);
                self.forget_slice(&full_name(&object.key()));
            }
            Event::InitDone => {
                let seen = self.slices_listed.seen.take().unwrap_or_default();
                let gone: Vec<Name> =
                    self.slices.keys().filter(|name| !seen.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.forget_slice(name));
                self.slices_listed.complete = true;
            }
        }
    }

    fn forget_service(&mut self, name: &Name) {
        self.wrong.gone(Kind::Service, name);
        self.known.set_service(name, None);
    }

    fn forget_slice(&mut self, name: &Name) {
        self.wrong.gone(Kind::Slice, name);
        if let Some(service) = self.slices.remove(name) {
            self.known.set_slice(&service, name, None);
        }
    }

    /// Has policy know where Services are reached, before they are served there: all of them as soon as all are known, and
    /// from then on what changes.
    async fn tell_policy(&mut self, changed: &[(Name, Served)]) {
        let all = !self.policy_knows && self.services_listed.complete;
        let services: Vec<(Name, Targets)> = if all {
            self.known.reached().map(|(name, reached)| (name.clone(), targets(reached))).collect()
        } else {
            changed.iter().map(|(name, served)| (name.clone(), targets(&served.reached))).collect()
        };
        if !all && services.is_empty() {
            return;
        }
        self.policy_knows |= all;
        // Policy offers flows again that were not taken, and tells of it.
        if let Err(error) = self.bridge.policy.tell_services(policy::Reached { services, all }).await {
            tracing::warn!(%error, "rules that name Services are not up to date");
        }
    }

    /// Has the bridge hold what changed.
    async fn flush(&mut self) {
        let start = Instant::now();
        let Drained { services, problems, stale } = self.known.drain();
        self.tell_policy(&services).await;
        self.wrong.served(services.iter().map(|(name, _)| name), problems);
        self.metrics.invalid(self.wrong.counts());
        if services.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        let mut names = Vec::with_capacity(services.len());
        for (name, served) in services {
            let network = self.bridge.dataplane.network();
            let mut entries = entries(network, &served);
            if let Some(everybody) = &mut self.everybody {
                everybody.set(&name, &served);
                entries.extend(everybody.entries(network, &served));
            }
            batch = batch.with(Owner::Service(name.clone()), Change::Whole(entries));
            names.push(name);
        }
        let health = match self.bridge.dataplane.apply(batch).await {
            Ok(failures) => {
                let refused = failures.iter().filter_map(|(owner, _)| match owner {
                    Owner::Service(name) => Some(name.clone()),
                    _ => None,
                });
                self.refused.extend(refused);
                match failures.first() {
                    None => Health::Good,
                    Some((owner, error)) => {
                        failures
                            .iter()
                            .for_each(|(owner, error)| tracing::error!(%owner, %error, "not served"));
                        Health::bad(
                            "ServiceFlowsFailed",
                            format!(
                                "{} Services are not served as they should; {owner}: {error}",
                                failures.len()
                            ),
                        )
                    }
                }
            }
            Err(error) => {
                self.refused.extend(names);
                Health::bad("ServiceFlowsFailed", format!("Services are not served as they should: {error}"))
            }
        };
        if let Some(everybody) = &mut self.everybody {
            everybody.tell(!matches!(health, Health::Good));
        }
        self.reporter.update(|facts| facts.services = health);
        self.metrics.synced(start.elapsed(), self.families, self.known.totals(), self.refused.len());
        self.forget(stale).await;
    }

    /// Has nobody go ways that are no more. Those of Services that the bridge did not take are gone only when it does.
    async fn forget(&mut self, mut stale: Stale) {
        while let Some(ended) = self.settling.try_join_next() {
            match ended {
                Ok(stale) => stale.iter().for_each(|(name, ways)| self.known.forgotten(name, ways)),
                Err(error) => tracing::error!(%error, "ways of datagrams were not forgotten once more"),
            }
        }
        stale.retain(|(name, _)| !self.refused.contains(name));
        if stale.is_empty() {
            return;
        }
        if self.settling.len() >= MOST_SETTLING {
            // They are told again with their Services.
            return self.refused.extend(stale.into_iter().map(|(name, _)| name));
        }
        let _ = forget(&self.bridge.connections, &stale).await;
        // A datagram that meets the datapath as it was goes the old way again, and so do all that follow it.
        let Bridge { connections, settled, .. } = self.bridge.clone();
        self.settling.spawn(async move {
            settled.wait().await;
            while let Err(error) = forget(&connections, &stale).await {
                tracing::debug!(%error, "connections of UDP to endpoints that are gone are not forgotten yet");
                tokio::time::sleep(RETRY).await;
                settled.wait().await;
            }
            stale
        });
    }
}

async fn forget(connections: &Connections, stale: &Stale) -> Result<(), OfError> {
    let ways = stale.iter().flat_map(|(_, ways)| ways);
    let ways: Vec<(SocketAddr, SocketAddr)> =
        ways.map(|(frontend, endpoint)| (SocketAddr::new(frontend.ip, frontend.port), *endpoint)).collect();
    connections.forget_datagrams(&ways).await
}

fn services(client: &Client) -> Events<TolerantService> {
    let api: Api<TolerantService> = Api::all(client.clone());
    let config = watcher::Config::default().labels(SERVICES).page_size(500);
    Box::pin(watcher(api, config).default_backoff())
}

fn slices(client: &Client) -> Events<TolerantSlice> {
    let api: Api<TolerantSlice> = Api::all(client.clone());
    let config = watcher::Config::default().labels(SLICES).page_size(500);
    Box::pin(watcher(api, config).default_backoff())
}

fn full_name((namespace, name): &(String, String)) -> Name {
    format!("{namespace}/{name}").into()
}

fn targets(reached: &Reached) -> Targets {
    let frontend = |frontend: &antrea_proxy::Frontend| Frontend {
        protocol: match frontend.protocol {
            Protocol::Tcp => model::Protocol::Tcp,
            Protocol::Udp => model::Protocol::Udp,
            Protocol::Sctp => model::Protocol::Sctp,
        },
        address: SocketAddr::new(frontend.ip, frontend.port),
    };
    // Pods have nothing to look for at what stands for the node's addresses. What comes there is from others.
    let reached = reached.iter().filter(|(_, frontends)| !frontends.is_empty());
    reached
        .flat_map(|(group, frontends)| {
            let (at_node, of_pods): (Vec<_>, Vec<_>) = frontends.iter().partition(|f| is_stand_in(f.ip));
            let by_node = (!at_node.is_empty()).then_some((model::at_node(*group), at_node));
            by_node.into_iter().chain([(*group, of_pods)])
        })
        .map(|(group, all)| (group, all.into_iter().map(frontend).collect()))
        .collect()
}

/// Waits for other addresses of the node, where it serves everybody.
async fn moved(addresses: &mut Option<watch::Receiver<Vec<IpAddr>>>) -> Vec<IpAddr> {
    if let Some(addresses) = addresses
        && addresses.changed().await.is_ok()
    {
        return addresses.borrow_and_update().clone();
    }
    // There are none, or the host's task has ended, and so does the agent.
    std::future::pending().await
}

fn entries(network: &Network, served: &Served) -> Vec<Entry> {
    served
        .backends
        .iter()
        .flat_map(|backend| {
            let first = backend.frontends.iter().chain(&backend.outside).next();
            let backend = ServiceBackend {
                group: backend.group,
                transport: transport(first.map_or(Protocol::Tcp, |frontend| frontend.protocol)),
                frontends: backend.frontends.iter().map(address).collect(),
                outside: backend.outside.iter().map(address).collect(),
                endpoints: backend.endpoints.clone(),
                affinity: backend.affinity,
            };
            antrea_flows::service_backend(network, &backend)
        })
        .collect()
}

#[cfg(test)]
mod tests;
