use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    MOST_ENDPOINTS, choose,
    ids::{Ids, Purpose},
    model::{Address, Endpoint, Frontend, Name, Own, Port, Problem, Protocol, Service, Slice},
};

/// Where connections to some frontends go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Number of its group; the last eight bits are zero and at the disposal of whoever makes the group.
    pub group: u32,
    /// The frontends, of one protocol and family.
    pub frontends: Vec<Frontend>,
    /// Frontends only for clients from outside of the node, before the backend that has them for everybody.
    pub outside: Vec<Frontend>,
    /// The endpoints in ascending order; at least one, and [`MOST_ENDPOINTS`] at most.
    pub endpoints: Vec<SocketAddr>,
    /// For how many seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
}

/// Frontends of a Service by the number of their group, whether there is any endpoint or not.
pub type Reached = BTreeMap<u32, Vec<Frontend>>;

/// A frontend that has no endpoint for some clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unserved {
    /// What clients connect to.
    pub frontend: Frontend,
    /// Those from outside of the node alone; others have endpoints.
    pub is_outside: bool,
    /// There is no endpoint anywhere, and clients are to be told; else they would find one elsewhere.
    pub is_refused: bool,
}

/// Where and what a node tells load balancers of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its healthCheckNodePort.
    pub port: u16,
    /// Ready endpoints of this node.
    pub endpoints: usize,
}

/// What a Service is served with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Where it is reached: what another Service has is not among it.
    pub reached: Reached,
    /// Groups with their frontends.
    pub backends: Vec<Backend>,
    /// Who is without an endpoint, where the proxy serves everybody.
    pub unserved: Vec<Unserved>,
    /// Frontends for `sources` alone.
    pub guarded: Vec<Frontend>,
    /// Whom guarded frontends take.
    pub sources: Box<[ipnet::IpNet]>,
    /// What load balancers are told.
    pub health: Option<Health>,
}

/// Who has a frontend.
pub(crate) enum Holder {
    Itself,
    Other(Name),
}

impl Backend {
    pub(crate) fn is_udp(&self) -> bool {
        self.all().next().is_some_and(|frontend| frontend.protocol == Protocol::Udp)
    }

    /// Its frontends, whoever they are for.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.iter().chain(&self.outside)
    }
}

impl Served {
    pub(crate) fn counts(&self) -> [[usize; 2]; 2] {
        let mut counts = [[0; 2]; 2];
        for backend in &self.backends {
            let family = usize::from(backend.endpoints.iter().any(SocketAddr::is_ipv6));
            counts[family][0] += 1;
            counts[family][1] += backend.endpoints.len();
        }
        counts
    }
}

/// What kind of address a frontend has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    External,
    Guarded,
}

/// The frontends of a port.
fn frontends(service: &Service, port: &Port, own: Option<&Own>) -> Vec<(Frontend, Kind)> {
    let frontend = |ip: IpAddr, number: u16| Frontend { ip, protocol: port.protocol, port: number };
    let mut all = Vec::new();
    // Without an address of the cluster in a family, a Service is not there in that.
    let has = |ip: IpAddr| {
        let of_cluster = |a: &Address| matches!(a, Address::Cluster(c) if c.is_ipv4() == ip.is_ipv4());
        own.is_none() || service.addresses.iter().any(of_cluster)
    };
    for address in service.addresses.iter().filter(|address| has(address.ip())) {
        let ip = address.ip();
        let kind = match address {
            Address::Cluster(_) => Kind::Cluster,
            Address::External(_) => Kind::External,
            Address::Guarded(_) if own.is_none() => continue,
            Address::Guarded(_) => Kind::Guarded,
        };
        all.push((frontend(ip, port.port), kind));
        // The host takes what comes to an address of its own, and hands on only what stands for it.
        let own = own.filter(|own| kind != Kind::Cluster && own.addresses.contains(&ip));
        let stand_ins = own.into_iter().flat_map(|own| &own.stand_ins);
        let of_family = stand_ins.filter(|stand_in| stand_in.is_ipv4() == ip.is_ipv4());
        all.extend(of_family.map(|stand_in| (frontend(*stand_in, port.port), kind)));
    }
    if let Some(own) = own.filter(|_| port.node_port != 0) {
        let ips = own.addresses.iter().chain(&own.stand_ins).filter(|ip| has(**ip));
        all.extend(ips.map(|ip| (frontend(*ip, port.node_port), Kind::External)));
    }
    all
}

/// Where load balancers are told of a Service: a port of the host, which is one Service's as frontends are.
fn told_at(service: &Service, own: Option<&Own>) -> Option<Frontend> {
    let told = own.is_some() && service.health_port != 0;
    let ip = Ipv4Addr::UNSPECIFIED.into();
    told.then_some(Frontend { ip, protocol: Protocol::Tcp, port: service.health_port })
}

/// What a Service has a right to, if nobody older has.
pub(crate) fn claims(service: Option<&Service>, own: Option<&Own>) -> BTreeSet<(Frontend, i64)> {
    let of = |service: &Service| {
        let all = service.ports.iter().flat_map(|port| frontends(service, port, own));
        let all = all.map(|(frontend, _)| frontend).chain(told_at(service, own));
        all.map(|frontend| (frontend, service.created)).collect()
    };
    service.map(of).unwrap_or_default()
}

/// What a Service is served with, and the frontends that others have.
pub(crate) fn serve(
    (name, service): (&Name, &Service),
    slices: &BTreeMap<Box<str>, Slice>,
    own: Option<&Own>,
    holder: impl Fn(&Frontend) -> Holder,
    ids: &mut Ids,
    problems: &mut Vec<Problem>,
) -> (Served, BTreeSet<(Frontend, Name)>) {
    let mut served = Served { sources: service.sources.clone(), ..Served::default() };
    let mut lost = BTreeSet::new();
    for port in &service.ports {
        for ipv6 in [false, true] {
            let (mut of_cluster, mut of_node, mut outside) = (Vec::new(), Vec::new(), Vec::new());
            let of_port = frontends(service, port, own).into_iter();
            for (frontend, kind) in of_port.filter(|(frontend, _)| frontend.ip.is_ipv6() == ipv6) {
                if let Holder::Other(owner) = holder(&frontend) {
                    lost.insert((frontend, owner));
                    continue;
                }
                if kind == Kind::Guarded {
                    served.guarded.push(frontend);
                }
                if kind == Kind::Cluster && service.internal_local {
                    of_node.push(frontend);
                    continue;
                }
                of_cluster.push(frontend);
                if kind != Kind::Cluster && service.external_local && own.is_some() {
                    outside.push(frontend);
                }
            }
            for frontends in [&mut of_cluster, &mut of_node, &mut outside] {
                frontends.sort_unstable();
                frontends.dedup();
            }
            if of_cluster.is_empty() && of_node.is_empty() {
                continue;
            }
            let all = endpoints(slices, port, ipv6);
            let cluster = choose::cluster(&all);
            let local = choose::local(&all);
            if own.is_some() {
                let mut without = |frontends: &[Frontend], is_outside, is_refused| {
                    let unserved =
                        |frontend: &Frontend| Unserved { frontend: *frontend, is_outside, is_refused };
                    served.unserved.extend(frontends.iter().map(unserved));
                };
                if cluster.is_empty() {
                    without(&of_cluster, false, true);
                    without(&of_node, false, true);
                } else if local.is_empty() {
                    without(&of_node, false, false);
                    without(&outside, true, false);
                }
            }
            for (is_local, frontends, outside, chosen) in
                [(false, of_cluster, Vec::new(), cluster), (true, of_node, outside, local)]
            {
                if frontends.is_empty() && outside.is_empty() {
                    continue;
                }
                let mut endpoints: Vec<SocketAddr> = chosen
                    .into_iter()
                    .map(|(endpoint, number)| SocketAddr::new(endpoint.ip, *number))
                    .collect();
                let purpose = Purpose {
                    service: name.clone(),
                    port: port.name.clone(),
                    protocol: port.protocol,
                    ipv6,
                    local: is_local,
                };
                let group = ids.get(purpose);
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
                let affinity = service.affinity;
                served.backends.push(Backend { group, frontends, outside, endpoints, affinity });
            }
        }
    }
    match told_at(service, own).map(|at| (at, holder(&at))) {
        None => {}
        Some((at, Holder::Other(owner))) => drop(lost.insert((at, owner))),
        Some((at, Holder::Itself)) => {
            let all = slices.values().flat_map(|slice| slice.endpoints.iter());
            let here: BTreeSet<IpAddr> = all.filter(|e| e.local && e.ready).map(|e| e.ip).collect();
            served.health = Some(Health { port: at.port, endpoints: here.len() });
        }
    }
    (served, lost)
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
