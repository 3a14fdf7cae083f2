use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::{
    ids::Ids,
    model::{Frontend, Name, Own, Problem, Service, Slice},
    serve::{self, Backend, Holder, Reached, Served},
};

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The Services concerned and what each is served with from now on.
    pub services: Vec<(Name, Served)>,
    /// All that is wrong with these Services.
    pub problems: Vec<Problem>,
    /// Ways of UDP of these Services that are no more. Nobody closes a connection of UDP: who translates has to forget
    /// these, and they are told again with the Service until [`Services::forgotten`] says so.
    pub stale: Vec<(Name, Vec<Way>)>,
}

/// From where to which endpoint.
pub type Way = (Frontend, SocketAddr);

/// Ways of a Service that wait to be forgotten. Of more, datagrams go to endpoints that are gone until the ways time out.
const MOST_STALE: usize = 10_000;

/// Takes in what was served and is not, and leaves out what is served again.
fn note_stale(before: &[Backend], now: &[Backend], stale: &mut BTreeSet<Way>) {
    let mut served: HashMap<Frontend, Vec<&[SocketAddr]>, RandomState> = HashMap::default();
    for backend in now {
        backend.all().for_each(|frontend| served.entry(*frontend).or_default().push(&backend.endpoints));
    }
    let is_served = |(frontend, endpoint): &Way| {
        let all = served.get(frontend).map(Vec::as_slice).unwrap_or_default();
        all.iter().any(|all| all.binary_search(endpoint).is_ok())
    };
    stale.retain(|way| !is_served(way));
    let ways = before.iter().flat_map(|backend| {
        backend.all().flat_map(|frontend| backend.endpoints.iter().map(|endpoint| (*frontend, *endpoint)))
    });
    let room = MOST_STALE.saturating_sub(stale.len());
    stale.extend(ways.filter(|way| !is_served(way)).take(room));
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
    /// What of that is no more and not known to be forgotten.
    stale: BTreeSet<Way>,
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
    /// The node's addresses, where everybody is served.
    own: Option<Own>,
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
        self.release(&name, before.as_ref());
        self.claim(&name, service.as_ref());
        self.dirty.insert(name);
    }

    /// Serves everybody from now on, node ports among it, by a node with these addresses.
    pub fn set_own(&mut self, own: Own) {
        if self.own.as_ref() == Some(&own) {
            return;
        }
        let names: Vec<Name> = self.names().cloned().collect();
        let service = |this: &Self, name: &Name| this.entries.get(name).and_then(|e| e.service.clone());
        names.iter().for_each(|name| self.release(name, service(self, name).as_ref()));
        self.own = Some(own);
        for name in names {
            let service = service(self, &name);
            self.claim(&name, service.as_ref());
            self.dirty.extend(service.map(|_| name));
        }
    }

    fn release(&mut self, name: &Name, service: Option<&Service>) {
        for (frontend, created) in serve::claims(service, self.own.as_ref()) {
            if let Some(claims) = self.claims.get_mut(&frontend) {
                claims.remove(&(created, name.clone()));
                // Whoever stands back now may have it.
                self.dirty.extend(claims.iter().map(|(_, name)| name.clone()));
                if claims.is_empty() {
                    self.claims.remove(&frontend);
                }
            }
        }
    }

    fn claim(&mut self, name: &Name, service: Option<&Service>) {
        for (frontend, created) in serve::claims(service, self.own.as_ref()) {
            let claims = self.claims.entry(frontend).or_default();
            claims.insert((created, name.clone()));
            self.dirty.extend(claims.iter().map(|(_, name)| name.clone()));
        }
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
                note_stale(&entry.udp, &udp, &mut entry.stale);
                if !entry.stale.is_empty() {
                    drained.stale.push((name.clone(), entry.stale.iter().copied().collect()));
                }
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

    /// Nobody goes these ways of a Service any more.
    pub fn forgotten(&mut self, name: &Name, ways: &[Way]) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.stale.retain(|way| !ways.contains(way));
        }
        self.forget_if_empty(name);
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
        let empty = |e: &Entry| {
            e.service.is_none() && e.slices.is_empty() && e.reached.is_empty() && e.stale.is_empty()
        };
        if self.entries.get(name).is_some_and(empty) {
            self.entries.remove(name);
        }
    }

    /// What a Service is served with, and whether others have some of its frontends.
    fn serve(&mut self, name: &Name, problems: &mut Vec<Problem>) -> (Served, bool) {
        let Some(Entry { service: Some(service), slices, .. }) = self.entries.get(name) else {
            return (Served::default(), false);
        };
        let claims = &self.claims;
        let holder = |frontend: &Frontend| match claims.get(frontend).and_then(BTreeSet::first) {
            Some((_, owner)) if owner != name => Holder::Other(owner.clone()),
            _ => Holder::Itself,
        };
        let (served, lost) =
            serve::serve((name, service), slices, self.own.as_ref(), holder, &mut self.ids, problems);
        let loser = !lost.is_empty();
        problems.extend(lost.into_iter().map(|(frontend, owner)| Problem {
            object: format!("Service {name}"),
            field: "spec".to_owned(),
            message: format!("{frontend} is already served for the older Service {owner}"),
        }));
        (served, loser)
    }
}
