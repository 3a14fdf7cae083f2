//! What DNS has told of the domain names in policies.
//!
//! Each domain name in a policy (`fqdn`, with or without `*`) stands for the addresses that DNS told pods of the names that
//! it means. It is known to rules as an AddressGroup is, by what comes and goes, but its members come from answers.
//!
//! # Invariants
//! - An address belongs to a name until the longest time to live that was told of it has passed, whatever else is told.
//! - What is kept is bounded: `NAMES`, and `ADDRESSES` of each. Beyond that goes what would have to go first anyway.
//! - Names that no policy means are not taken in.

mod again;
mod fqdn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_packet::DnsAnswer;

use self::again::Questions;
use self::fqdn::is_meant;

/// Names that are kept.
const NAMES: usize = 2048;

/// Addresses of a name that are kept.
const ADDRESSES: usize = 128;

/// Added to a time to live: it is told in whole seconds, and its receiver may begin a connection in the last of them.
const GRACE: Duration = Duration::from_secs(1);

/// Longer ones are cut to this, as resolvers do (RFC 8767 §4).
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A name, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub name: String,
    /// Its addresses, and how long each remains one.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// The name that was asked for when it was told, and whom to ask again.
    pub asked: Option<(String, IpAddr)>,
}

/// How often an address was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Its time had passed.
    pub expired: u64,
    /// There was no room.
    pub crowded_out: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// Until when each is one.
    addresses: HashMap<IpAddr, Instant>,
    /// Domain names in policies that mean this one.
    fqdns: BTreeSet<Arc<str>>,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct DnsCache {
    names: HashMap<Arc<str>, Known>,
    by_end: BTreeSet<(Instant, Arc<str>, IpAddr)>,
    /// Domain names in policies, and the addresses of each with the number of names that have it.
    fqdns: BTreeMap<Arc<str>, HashMap<IpAddr, u32>>,
    questions: Questions,
    touched: HashMap<Arc<str>, HashSet<IpAddr>>,
    forgotten: Forgotten,
    /// Counts changes.
    version: u64,
    /// Counts addresses that rules have got.
    news: u64,
}

impl DnsCache {
    /// Addresses of domain names in policies, perhaps some of them twice.
    pub(crate) fn addresses<'a>(&'a self, fqdns: &'a [Arc<str>]) -> impl Iterator<Item = &'a IpAddr> {
        fqdns.iter().filter_map(|fqdn| self.fqdns.get(fqdn)).flat_map(HashMap::keys)
    }

    /// Whether a domain name in policies has this address.
    pub(crate) fn has(&self, fqdn: &str, address: &IpAddr) -> bool {
        self.fqdns.get(fqdn).is_some_and(|addresses| addresses.contains_key(address))
    }

    /// Number of addresses that are kept.
    pub fn size(&self) -> usize {
        self.by_end.len()
    }

    /// How often one was forgotten.
    pub fn forgotten(&self) -> Forgotten {
        self.forgotten
    }

    /// When the next address has to go.
    pub fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, ..)| *end)
    }

    /// Changes with what is kept.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What is kept.
    pub fn remember(&self, now: Instant) -> Vec<Remembered> {
        let left = |(address, end): (&IpAddr, &Instant)| (*address, end.saturating_duration_since(now));
        let asked = self.questions.of_names();
        let one = |(name, known): (&Arc<str>, &Known)| Remembered {
            name: name.to_string(),
            addresses: known.addresses.iter().map(left).collect(),
            asked: asked.get(name).map(|(question, server)| (question.to_string(), *server)),
        };
        self.names.iter().map(one).collect()
    }

    /// Takes in what was kept in the agent's last life, before policies are known: of all names.
    pub fn recall(&mut self, remembered: Vec<Remembered>, now: Instant) {
        let mut told: HashMap<(String, IpAddr), Vec<Arc<str>>> = HashMap::new();
        for Remembered { name, addresses, asked } in remembered {
            let name: Arc<str> = name.into();
            for (address, left) in addresses {
                self.put(&name, address, now + left.min(LONGEST + GRACE));
            }
            if let Some(asked) = asked {
                told.entry(asked).or_default().push(name);
            }
        }
        for ((question, server), names) in told {
            self.questions.answered(&question, server, names, (now, Duration::ZERO));
        }
    }

    /// How many addresses rules have got by now, those among them that they have lost again.
    pub fn news(&self) -> u64 {
        self.news
    }

    /// At most so many questions that have to be asked again by now, and whom.
    pub(crate) fn due(&mut self, now: Instant, most: usize) -> Vec<(Arc<str>, IpAddr)> {
        let names = &self.names;
        self.questions.due(now, most, |name| names.get(name).is_some_and(|known| !known.fqdns.is_empty()))
    }

    /// Takes in an answer. Addresses remain for `shortest` at least, however short their time to live is.
    pub fn learn(&mut self, answer: &DnsAnswer, shortest: Duration, now: Instant) {
        let mut told = Vec::new();
        for name in &answer.names {
            if !self.fqdns.keys().any(|fqdn| is_meant(fqdn, name)) {
                continue;
            }
            let name = self
                .names
                .get_key_value(&**name)
                .map_or_else(|| name.as_str().into(), |(name, _)| name.clone());
            for (address, seconds) in &answer.addresses {
                let lives = Duration::from_secs((*seconds).into()).max(shortest).min(LONGEST);
                self.put(&name, *address, now + lives + GRACE);
            }
            told.push(name);
        }
        let soonest = answer.addresses.iter().map(|(_, seconds)| *seconds).min().unwrap_or_default();
        if let (Some(server), Some(question)) = (answer.server, answer.names.first())
            && !told.is_empty()
        {
            let lives = Duration::from_secs(soonest.into()).max(shortest).min(LONGEST);
            self.questions.answered(question, server, told, (now, lives));
        }
    }

    /// Forgets what is not to be known any more.
    pub fn expire(&mut self, now: Instant) {
        while self.next_end().is_some_and(|end| end <= now) {
            let Some((_, name, address)) = self.by_end.pop_first() else { return };
            self.forgotten.expired += 1;
            self.dropped(&name, address);
        }
    }

    /// Addresses that came to domain names in policies, or went from them, since the last call.
    pub(crate) fn take_touched(&mut self) -> HashMap<Arc<str>, HashSet<IpAddr>> {
        std::mem::take(&mut self.touched)
    }

    /// A policy has this domain name.
    pub(crate) fn want(&mut self, fqdn: &Arc<str>) {
        if self.fqdns.contains_key(fqdn) {
            return;
        }
        let mut addresses: HashMap<IpAddr, u32> = HashMap::new();
        for (name, known) in &mut self.names {
            if is_meant(fqdn, name) {
                known.fqdns.insert(fqdn.clone());
                for address in known.addresses.keys() {
                    *addresses.entry(*address).or_insert(0) += 1;
                }
            }
        }
        self.fqdns.insert(fqdn.clone(), addresses);
    }

    /// No policy has it any more. What it stood for stays until its time has passed: a policy that is replaced may want it
    /// again.
    pub(crate) fn unwant(&mut self, fqdn: &str) {
        self.fqdns.remove(fqdn);
        self.touched.remove(fqdn);
        for known in self.names.values_mut() {
            known.fqdns.remove(fqdn);
        }
    }

    fn put(&mut self, name: &Arc<str>, address: IpAddr, end: Instant) {
        if !self.names.contains_key(name) {
            if self.names.len() >= NAMES
                && let Some((_, first, _)) = self.by_end.first().cloned()
            {
                self.crowd_out(&first, usize::MAX);
            }
            let fqdns = self.fqdns.keys().filter(|fqdn| is_meant(fqdn, name)).cloned().collect();
            self.names.insert(name.clone(), Known { fqdns, ..Known::default() });
        }
        let Some(known) = self.names.get_mut(name) else { return };
        match known.addresses.get_mut(&address) {
            Some(before) if *before >= end => return,
            Some(before) => {
                self.by_end.remove(&(*before, name.clone(), address));
                *before = end;
            }
            None => {
                if known.addresses.len() >= ADDRESSES {
                    self.crowd_out(name, 1);
                }
                let Some(known) = self.names.get_mut(name) else { return };
                known.addresses.insert(address, end);
                self.news += u64::from(!known.fqdns.is_empty());
                for fqdn in &known.fqdns {
                    let Some(addresses) = self.fqdns.get_mut(fqdn) else { continue };
                    let count = addresses.entry(address).or_insert(0);
                    *count += 1;
                    if *count == 1 {
                        self.touched.entry(fqdn.clone()).or_default().insert(address);
                    }
                }
            }
        }
        self.by_end.insert((end, name.clone(), address));
        self.version += 1;
    }

    /// Forgets so many addresses of a name, those first that would go first.
    fn crowd_out(&mut self, name: &Arc<str>, count: usize) {
        let Some(known) = self.names.get(name) else { return };
        let mut ends: Vec<(Instant, IpAddr)> =
            known.addresses.iter().map(|(address, end)| (*end, *address)).collect();
        ends.sort_unstable();
        for (end, address) in ends.into_iter().take(count) {
            self.by_end.remove(&(end, name.clone(), address));
            self.forgotten.crowded_out += 1;
            self.dropped(name, address);
        }
    }

    /// An address is not one of the name any more.
    fn dropped(&mut self, name: &Arc<str>, address: IpAddr) {
        self.version += 1;
        let Some(known) = self.names.get_mut(name) else { return };
        known.addresses.remove(&address);
        for fqdn in &known.fqdns {
            let Some(addresses) = self.fqdns.get_mut(fqdn) else { continue };
            let Some(count) = addresses.get_mut(&address) else { continue };
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
                self.touched.entry(fqdn.clone()).or_default().insert(address);
            }
        }
        if known.addresses.is_empty() {
            self.names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
