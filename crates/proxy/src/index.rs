use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::{
    MOST_ENDPOINTS, choose,
    ids::{Ids, Purpose},
    model::{Address, Endpoint, Frontend, Name, Port, Problem, Protocol, Service, Slice},
};

/// Where connections to some frontends go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Number of its group; the last eight bits are zero and at the disposal of whoever makes the group.
    pub group: u32,
    /// The frontends, of one protocol and family.
    pub frontends: Vec<Frontend>,
    /// The endpoints in ascending order; at least one, and [`MOST_ENDPOINTS`] at most.
    pub endpoints: Vec<SocketAddr>,
    /// For how many seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
}

/// Frontends of a Service by the number of their group, whether there is any endpoint or not.
pub type Reached = BTreeMap<u32, Vec<Frontend>>;

/// What a Service is served with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Where it is reached: what another Service has is not among it.
    pub reached: Reached,
    /// Groups with their frontends.
    pub backends: Vec<Backend>,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The Services concerned and what each is served with from now on.
    pub services: Vec<(Name, Served)>,
    /// All that is wrong with these Services.
    pub problems: Vec<Problem>,
    /// Ways of UDP that are no more. Nobody closes a connection of UDP: who translates has to forget these.
    pub stale: Vec<(Frontend, SocketAddr)>,
}

impl Backend {
    fn is_udp(&self) -> bool {
        self.frontends.first().is_some_and(|frontend| frontend.protocol == Protocol::Udp)
    }
}

impl Served {
    fn counts(&self) -> [[usize; 2]; 2] {
        let mut counts = [[0; 2]; 2];
        for backend in &self.backends {
            let family = usize::from(backend.endpoints.iter().any(SocketAddr::is_ipv6));
            counts[family][0] += 1;
            counts[family][1] += backend.endpoints.len();
        }
        counts
    }
}

/// Pairs of frontend and endpoint that were served and are not.
fn stale(before: &[Backend], now: &[Backend], stale: &mut Vec<(Frontend, SocketAddr)>) {
    let served: HashMap<Frontend, &[SocketAddr], RandomState> =
        now.iter().flat_map(|b| b.frontends.iter().map(|frontend| (*frontend, &*b.endpoints))).collect();
    for backend in before {
        for frontend in &backend.frontends {
            let left = served.get(frontend).copied().unwrap_or_default();
            let gone = backend.endpoints.iter().filter(|endpoint| left.binary_search(endpoint).is_err());
            stale.extend(gone.map(|endpoint| (*frontend, *endpoint)));
        }
    }
}

/// A Service's right to a frontend: the least has it.
type Claim = (i64, Name);

#[derive(Debug, Default)]
struct Entry {
    service: Option<Service>,
    slices: BTreeMap<Box<str>, Slice>,
    /// Where it was last reached.
    reached: Reached,
    /// What it was last served with over UDP.
    udp: Vec<Backend>,
    /// Ports and endpoints that it was last served with, of IPv4 and of IPv6.
    counts: [[usize; 2]; 2],
}

/// All Services and their endpoints, as one node sees them.
#[derive(Debug, Default)]
pub struct Services {
    entries: HashMap<Name, Entry, RandomState>,
    claims: HashMap<Frontend, BTreeSet<Claim>, RandomState>,
    ids: Ids,
    dirty: BTreeSet<Name>,
}

impl Services {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or, with `None`, removes a Service.
    pub fn set_service(&mut self, name: &str, service: Option<Service>) {
        let name = self.name(name);
        let entry = self.entries.entry(name.clone()).or_default();
        if entry.service == service {
            self.forget_if_empty(&name);
            return;
        }
        let before = std::mem::replace(&mut entry.service, service.clone());
        for (frontend, created) in claims(before.as_ref()) {
            if let Some(claims) = self.claims.get_mut(&frontend) {
                claims.remove(&(created, name.clone()));
                // Whoever stands back now may have it.
                self.dirty.extend(claims.iter().map(|(_, name)| name.clone()));
                if claims.is_empty() {
                    self.claims.remove(&frontend);
                }
            }
        }
        for (frontend, created) in claims(service.as_ref()) {
            let claims = self.claims.entry(frontend).or_default();
            claims.insert((created, name.clone()));
            self.dirty.extend(claims.iter().map(|(_, name)| name.clone()));
        }
        self.dirty.insert(name);
    }

    /// Sets or, with `None`, removes an EndpointSlice of a Service.
    pub fn set_slice(&mut self, service: &str, slice: &str, content: Option<Slice>) {
        let name = self.name(service);
        let entry = self.entries.entry(name.clone()).or_default();
        let changed = match content {
            Some(content) if entry.slices.get(slice) == Some(&content) => false,
            Some(content) => {
                entry.slices.insert(slice.into(), content);
                true
            }
            None => entry.slices.remove(slice).is_some(),
        };
        if changed && entry.service.is_some() {
            self.dirty.insert(name.clone());
        }
        self.forget_if_empty(&name);
    }

    /// What changed since the last call.
    pub fn drain(&mut self) -> Drained {
        let mut drained = Drained::default();
        let mut losers = BTreeSet::new();
        for name in std::mem::take(&mut self.dirty) {
            let (served, lost) = self.serve(&name, &mut drained.problems);
            if lost {
                losers.insert(name.clone());
            }
            if let Some(entry) = self.entries.get_mut(&name) {
                let udp: Vec<Backend> =
                    served.backends.iter().filter(|backend| backend.is_udp()).cloned().collect();
                stale(&entry.udp, &udp, &mut drained.stale);
                entry.udp = udp;
                entry.counts = served.counts();
                let before = std::mem::replace(&mut entry.reached, served.reached.clone());
                let gone = before.keys().filter(|id| !entry.reached.contains_key(id));
                gone.for_each(|id| self.ids.release(*id));
            }
            self.forget_if_empty(&name);
            drained.services.push((name, served));
        }
        // Who may have lost a frontend comes before who may have got it.
        drained.services.sort_by_key(|(name, served)| !(served.backends.is_empty() || losers.contains(name)));
        drained
    }

    /// Tells of a Service again, as where what was made of it was not taken.
    pub fn again(&mut self, name: &Name) {
        self.dirty.insert(name.clone());
    }

    /// Ports and endpoints that are served, of IPv4 and of IPv6.
    pub fn totals(&self) -> [[usize; 2]; 2] {
        let mut totals = [[0; 2]; 2];
        for counts in self.entries.values().map(|entry| entry.counts) {
            for (total, count) in totals.as_flattened_mut().iter_mut().zip(counts.as_flattened()) {
                *total += count;
            }
        }
        totals
    }

    /// Where each Service is reached, as it was last drained.
    pub fn reached(&self) -> impl Iterator<Item = (&Name, &Reached)> {
        self.entries.iter().map(|(name, entry)| (name, &entry.reached))
    }

    /// The names of Services that were told, and of those of which slices were.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys()
    }

    fn name(&self, name: &str) -> Name {
        self.entries.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| name.clone())
    }

    fn forget_if_empty(&mut self, name: &Name) {
        let empty = |e: &Entry| e.service.is_none() && e.slices.is_empty() && e.reached.is_empty();
        if self.entries.get(name).is_some_and(empty) {
            self.entries.remove(name);
        }
    }

    /// What a Service is served with, and whether others have some of its frontends.
    fn serve(&mut self, name: &Name, problems: &mut Vec<Problem>) -> (Served, bool) {
        let mut served = Served::default();
        let Some(Entry { service: Some(service), slices, .. }) = self.entries.get(name) else {
            return (served, false);
        };
        let mut lost = BTreeSet::new();
        for port in &service.ports {
            for ipv6 in [false, true] {
                let mut of_cluster = Vec::new();
                let mut of_node = Vec::new();
                for address in service.addresses.iter().filter(|address| address.ip().is_ipv6() == ipv6) {
                    let frontend = frontend(*address, port);
                    let first = self.claims.get(&frontend).and_then(BTreeSet::first);
                    match first {
                        Some((_, owner)) if owner != name => {
                            lost.insert((frontend, owner.clone()));
                        }
                        _ if service.internal_local && matches!(address, Address::Cluster(_)) => {
                            of_node.push(frontend);
                        }
                        _ => of_cluster.push(frontend),
                    }
                }
                if of_cluster.is_empty() && of_node.is_empty() {
                    continue;
                }
                let all = endpoints(slices, port, ipv6);
                for (local, mut frontends) in [(false, of_cluster), (true, of_node)] {
                    let chosen = if local { choose::local(&all) } else { choose::cluster(&all) };
                    let mut endpoints: Vec<SocketAddr> = chosen
                        .into_iter()
                        .map(|(endpoint, number)| SocketAddr::new(endpoint.ip, *number))
                        .collect();
                    if frontends.is_empty() {
                        continue;
                    }
                    frontends.sort_unstable();
                    frontends.dedup();
                    let purpose = Purpose {
                        service: name.clone(),
                        port: port.name.clone(),
                        protocol: port.protocol,
                        ipv6,
                        local,
                    };
                    let group = self.ids.get(purpose);
                    served.reached.entry(group).or_default().extend(&frontends);
                    if endpoints.is_empty() {
                        continue;
                    }
                    if endpoints.len() > MOST_ENDPOINTS {
                        problems.push(Problem {
                            object: format!("Service {name}"),
                            field: format!("spec.ports[{}]", port.name),
                            message: format!(
                                "{} endpoints, of which the first {MOST_ENDPOINTS} are used",
                                endpoints.len()
                            ),
                        });
                        endpoints.truncate(MOST_ENDPOINTS);
                    }
                    served.backends.push(Backend { group, frontends, endpoints, affinity: service.affinity });
                }
            }
        }
        let loser = !lost.is_empty();
        problems.extend(lost.into_iter().map(|(frontend, owner)| Problem {
            object: format!("Service {name}"),
            field: "spec".to_owned(),
            message: format!("{frontend} is already served for the older Service {owner}"),
        }));
        (served, loser)
    }
}

fn frontend(address: Address, port: &Port) -> Frontend {
    Frontend { ip: address.ip(), protocol: port.protocol, port: port.port }
}

fn claims(service: Option<&Service>) -> BTreeSet<(Frontend, i64)> {
    let of = |service: &Service| {
        let of_port = |port| service.addresses.iter().map(move |address| frontend(*address, port));
        service.ports.iter().flat_map(of_port).map(|frontend| (frontend, service.created)).collect()
    };
    service.map(of).unwrap_or_default()
}

/// The endpoints of a port, with its number there, in order. Slices that tell of one twice, as while it moves from one
/// to the other, are taken for the better of what they say.
fn endpoints(slices: &BTreeMap<Box<str>, Slice>, port: &Port, ipv6: bool) -> Vec<(Endpoint, u16)> {
    let mut all: Vec<(Endpoint, u16)> = Vec::new();
    for slice in slices.values() {
        let numbers = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in numbers.map(|p| p.port) {
            let of_family = slice.endpoints.iter().filter(|endpoint| endpoint.ip.is_ipv6() == ipv6);
            all.extend(of_family.map(|endpoint| (*endpoint, number)));
        }
    }
    all.sort_by_key(|(e, number)| (e.ip, *number, !e.ready, !(e.serving && e.terminating)));
    all.dedup_by_key(|(endpoint, number)| (endpoint.ip, *number));
    all
}
