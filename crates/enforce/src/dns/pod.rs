//! What one pod was told, and what of it goes when there is no more room.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::again::{Again, Questions};
use super::{ADDRESSES, FRESH};
use crate::pods::Attachment;

/// An address of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Until when it is one.
    pub(super) end: Instant,
    /// The number of the news with which rules have got it.
    pub(super) since: u64,
    /// When it was told last.
    pub(super) told: Instant,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) addresses: HashMap<IpAddr, Held>,
    /// Domain names in policies that mean this one.
    pub(super) fqdns: BTreeSet<Arc<str>>,
    /// When something of it was told last.
    told: Instant,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct PodNames {
    pub(super) names: HashMap<Arc<str>, Known>,
    /// Addresses of all names.
    pub(super) size: usize,
    pub(super) questions: Questions,
}

/// An address of a name that goes, and its end.
type Going = (Arc<str>, IpAddr, Instant);

impl PodNames {
    /// All of it.
    pub(super) fn all(&self) -> Vec<Going> {
        self.names.iter().flat_map(|(name, known)| known.all(name)).collect()
    }

    /// What is known of an address that is told again; none if it is not.
    pub(super) fn tell(&mut self, name: &str, address: &IpAddr, now: Instant) -> Option<&mut Held> {
        let known = self.names.get_mut(name)?;
        let held = known.addresses.get_mut(address)?;
        (known.told, held.told) = (now, now);
        Some(held)
    }

    /// A name that something is told of; these mean it if it is new.
    pub(super) fn name(
        &mut self,
        name: &Arc<str>,
        now: Instant,
        meaning: impl FnOnce() -> BTreeSet<Arc<str>>,
    ) -> &mut Known {
        let new = || Known { addresses: HashMap::new(), fqdns: meaning(), told: now };
        let known = self.names.entry(name.clone()).or_insert_with(new);
        known.told = now;
        known
    }

    /// What has to go before a name may have one more address, where so many names and addresses are kept; none: it cannot.
    pub(super) fn make_room(
        &self,
        name: &str,
        (names, most): (usize, usize),
        now: Instant,
    ) -> Option<Vec<Going>> {
        match self.names.get(name) {
            Some(known) if known.addresses.len() >= ADDRESSES => {
                return Some(vec![known.oldest(name, now)?]);
            }
            None if self.names.len() >= names => {
                let (name, known) = self.oldest().filter(|(_, known)| is_old(known.told, now))?;
                return Some(known.all(name).collect());
            }
            _ if self.size < most => return Some(Vec::new()),
            _ => {}
        }
        let (first, known) = self.oldest()?;
        let oldest = known.oldest(first, now);
        // A name that is told all the time may have addresses that are not.
        let any = || self.names.iter().find_map(|(name, known)| known.oldest(name, now));
        Some(vec![oldest.or_else(any)?])
    }

    /// Takes an address from a name. Returns the domain names in policies that mean it.
    pub(super) fn remove(&mut self, name: &str, address: &IpAddr) -> BTreeSet<Arc<str>> {
        let Some(known) = self.names.get_mut(name) else { return BTreeSet::new() };
        self.size -= usize::from(known.addresses.remove(address).is_some());
        let fqdns = known.fqdns.clone();
        if known.addresses.is_empty() {
            self.names.remove(name);
        }
        fqdns
    }

    /// A question that has to be asked again by now and may be.
    pub(super) fn due(
        &mut self,
        pod: &Arc<Attachment>,
        now: Instant,
        may_ask: impl Fn(&Again) -> bool,
    ) -> Option<Again> {
        let names = &self.names;
        let is_wanted = |name: &Arc<str>| names.get(name).is_some_and(|known| !known.fqdns.is_empty());
        self.questions.due(pod, now, is_wanted, may_ask)
    }

    /// The name that nothing was told of for longest; one that no policy means before all others.
    fn oldest(&self) -> Option<(&Arc<str>, &Known)> {
        self.names.iter().min_by_key(|(_, known)| (!known.fqdns.is_empty(), known.told))
    }
}

impl Known {
    fn all(&self, name: &Arc<str>) -> impl Iterator<Item = Going> {
        self.addresses.iter().map(move |(address, held)| (name.clone(), *address, held.end))
    }

    /// The address that was not told for longest, if it may go.
    fn oldest(&self, name: &str, now: Instant) -> Option<Going> {
        let (address, held) = self.addresses.iter().min_by_key(|(_, held)| held.told)?;
        is_old(held.told, now).then(|| (name.into(), *address, held.end))
    }
}

fn is_old(told: Instant, now: Instant) -> bool {
    now.saturating_duration_since(told) >= FRESH
}
