//! What DNS has told of the domain names in policies.
//!
//! Each domain name in a policy (`fqdn`, with or without `*`) stands for the addresses that DNS told pods of the names that
//! it means. It is known to rules as an AddressGroup is, by what comes and goes, but its members come from answers, and to
//! each rule they are those that were told to pods that it applies to: whoever answers one pod decides nothing for others.
//!
//! # Invariants
//! - An address belongs to a name, for the pod that was told, until the longest time to live that it was told of it has
//!   passed, whatever else is told.
//! - What is kept of a pod is bounded (`NAMES`, `ADDRESSES`, `OF_A_POD`). Where it has no more room, what it was not told for
//!   longest goes, and nothing that it was told just now ([`FRESH`]); so an answer may find no room, which is said.
//! - Nothing of a pod goes for another's sake. Beyond `ALL` a pod gets no more than `SHARE`, which it has room for always.
//! - Names that no policy means are not taken in.

mod again;
mod fqdn;
pub mod lanes;
mod pod;
mod restart;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_packet::DnsAnswer;

pub use self::again::Again;
use self::fqdn::is_meant;
use self::pod::{Held, PodNames};
pub use self::restart::Remembered;
use crate::pods::Attachment;

/// Names that are kept of a pod.
const NAMES: usize = 256;

/// Addresses that are kept of a name of a pod.
const ADDRESSES: usize = 128;

/// Addresses that are kept of a pod, of all its names.
const OF_A_POD: usize = 2048;

/// The same of all pods, but for what [`SHARE`] promises.
const ALL: usize = 32 * 1024;

/// Addresses that there is room for of each pod, whatever others have.
const SHARE: usize = 128;

/// Added to a time to live: it is told in whole seconds, and its receiver may begin a connection in the last of them.
const GRACE: Duration = Duration::from_secs(1);

/// For how long what was told remains at least, and is not crowded out: more than an answer is held for, so that what is let
/// go is still known.
const FRESH: Duration = Duration::from_secs(4);

/// Longer times to live are cut to this, as resolvers do (RFC 8767 §4).
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who was told; `None`: somebody, as agents kept it that did not keep whom. That goes for all pods.
pub(crate) type Asker = Option<Arc<Attachment>>;

/// Who was told, as callers know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The pod behind this OpenFlow port.
    Port(u32),
    /// This one.
    Attachment(Arc<Attachment>),
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// All that it says to policies is known, with the news of this number and those before; 0 where that is nothing.
    Held(u64),
    /// Not all of it is.
    NoRoom,
}

/// How often an address was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Its time had passed.
    pub expired: u64,
    /// There was no room.
    pub crowded_out: u64,
}

/// An address of a domain name, and who was told of it by how many names.
type Askers = HashMap<Asker, u32>;

/// See the module's description.
#[derive(Debug, Default)]
pub struct DnsCache {
    pods: HashMap<Asker, PodNames>,
    by_end: BTreeSet<(Instant, Asker, Arc<str>, IpAddr)>,
    /// Domain names in policies, and the addresses of each.
    fqdns: BTreeMap<Arc<str>, HashMap<IpAddr, Askers>>,
    touched: HashMap<Arc<str>, HashSet<IpAddr>>,
    forgotten: Forgotten,
    /// Whose questions were asked again last.
    asked_last: Option<Arc<Attachment>>,
    /// Counts changes.
    version: u64,
    /// Counts times that rules have got addresses.
    news: u64,
}

impl DnsCache {
    /// Addresses of domain names in policies that were told to one of these pods, perhaps some of them twice.
    pub(crate) fn addresses<'a>(
        &'a self,
        fqdns: &'a [Arc<str>],
        pods: &'a HashSet<&'a Attachment>,
    ) -> impl Iterator<Item = &'a IpAddr> {
        let known = fqdns.iter().filter_map(|fqdn| self.fqdns.get(fqdn)).flatten();
        known.filter(move |(_, askers)| are_among(askers, pods)).map(|(address, _)| address)
    }

    /// Whether one of these pods was told that a domain name in policies has this address.
    pub(crate) fn has(&self, fqdn: &str, address: &IpAddr, pods: &HashSet<&Attachment>) -> bool {
        let askers = self.fqdns.get(fqdn).and_then(|addresses| addresses.get(address));
        askers.is_some_and(|askers| are_among(askers, pods))
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

    /// Takes in an answer to a pod. Addresses remain for `shortest` at least, however short their time to live is.
    pub(crate) fn learn(
        &mut self,
        asker: &Asker,
        answer: &DnsAnswer,
        shortest: Duration,
        now: Instant,
    ) -> Learned {
        let is_wanted = |name: &&String| self.fqdns.keys().any(|fqdn| is_meant(fqdn, name));
        let names: Vec<Arc<str>> =
            answer.names.iter().filter(is_wanted).map(|name| name.as_str().into()).collect();
        if names.is_empty() {
            return Learned::Held(0);
        }
        let mut addresses: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for (address, seconds) in &answer.addresses {
            let longest = addresses.entry(*address).or_default();
            *longest = (*seconds).max(*longest);
        }
        // What can have no room takes nobody's; what is there has it, whatever others have taken since.
        let pod = self.pods.get(asker);
        let known = |name: &Arc<str>| pod.and_then(|pod| pod.names.get(name)).map(|known| &known.addresses);
        let is_there =
            |name| known(name).is_some_and(|known| addresses.keys().all(|ip| known.contains_key(ip)));
        let is_too_much = addresses.len() * names.len() > self.most(asker);
        if addresses.len() > ADDRESSES || (is_too_much && !names.iter().all(is_there)) {
            return Learned::NoRoom;
        }
        let lives = |seconds: u32| Duration::from_secs(seconds.into()).max(shortest).min(LONGEST);
        let mut since = 0;
        for name in &names {
            for (address, seconds) in &addresses {
                let end = now + (lives(*seconds) + GRACE).max(FRESH);
                let Some(held) = self.put(asker, name, *address, (now, end)) else { return Learned::NoRoom };
                since = held.max(since);
            }
        }
        let soonest = answer.addresses.iter().map(|(_, seconds)| *seconds).min().unwrap_or_default();
        if let (Some(server), Some(question)) = (answer.server, answer.names.first())
            && let Some(pod) = self.pods.get_mut(asker)
        {
            pod.questions.answered(question, server, names, (now, lives(soonest)));
        }
        Learned::Held(since)
    }

    /// Forgets what is not to be known any more.
    pub fn expire(&mut self, now: Instant) {
        while self.next_end().is_some_and(|end| end <= now) {
            let Some((_, asker, name, address)) = self.by_end.pop_first() else { return };
            self.forgotten.expired += 1;
            self.dropped(&asker, &name, address);
        }
    }

    /// Forgets what other pods were told.
    pub(crate) fn keep_pods(&mut self, pods: &HashSet<&Attachment>) {
        let is_gone = |asker: &&Asker| asker.as_ref().is_some_and(|asker| !pods.contains(&**asker));
        let gone: Vec<Asker> = self.pods.keys().filter(is_gone).cloned().collect();
        for asker in gone {
            let Some(pod) = self.pods.get(&asker) else { continue };
            for (name, address, end) in pod.all() {
                self.by_end.remove(&(end, asker.clone(), name.clone(), address));
                self.dropped(&asker, &name, address);
            }
        }
    }

    /// The questions that have to be asked again by now and may be, beside those that are under way: one of each pod in turn.
    pub(crate) fn due(&mut self, now: Instant, under_way: &[Again]) -> Vec<Again> {
        let mut askers: Vec<Arc<Attachment>> = self.pods.keys().flatten().cloned().collect();
        askers.sort_unstable();
        let after =
            askers.partition_point(|asker| self.asked_last.as_ref().is_some_and(|last| asker <= last));
        askers.rotate_left(after);
        let mut all = under_way.to_vec();
        let mut before = usize::MAX;
        while all.len() != before {
            before = all.len();
            for asker in &askers {
                let Some(pod) = self.pods.get_mut(&Some(asker.clone())) else { continue };
                if let Some(again) = pod.due(asker, now, |again| again::has_room(&all, again)) {
                    self.asked_last = Some(asker.clone());
                    all.push(again);
                }
            }
        }
        all.split_off(under_way.len())
    }

    /// Addresses that came to domain names in policies, or went from them, for whichever pod, since the last call.
    pub(crate) fn take_touched(&mut self) -> HashMap<Arc<str>, HashSet<IpAddr>> {
        std::mem::take(&mut self.touched)
    }

    /// A policy has this domain name.
    pub(crate) fn want(&mut self, fqdn: &Arc<str>) {
        if self.fqdns.contains_key(fqdn) {
            return;
        }
        let news = self.news + 1;
        let mut addresses: HashMap<IpAddr, Askers> = HashMap::new();
        for (asker, pod) in &mut self.pods {
            for (name, known) in &mut pod.names {
                if is_meant(fqdn, name) {
                    known.fqdns.insert(fqdn.clone());
                    for (address, held) in &mut known.addresses {
                        held.since = news;
                        *addresses.entry(*address).or_default().entry(asker.clone()).or_insert(0) += 1;
                        self.news = news;
                    }
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
        for known in self.pods.values_mut().flat_map(|pod| pod.names.values_mut()) {
            known.fqdns.remove(fqdn);
        }
    }

    /// Addresses that may be kept of a pod: what others leave of all, and its share at least.
    fn most(&self, asker: &Asker) -> usize {
        let others = self.size() - self.pods.get(asker).map_or(0, |pod| pod.size);
        let left = ALL.saturating_sub(others);
        if asker.is_some() { left.clamp(SHARE, OF_A_POD) } else { left }
    }

    /// Makes an address one of a name's. Returns the number of the news that it came with; none if there is no room for it.
    fn put(
        &mut self,
        asker: &Asker,
        name: &Arc<str>,
        address: IpAddr,
        (now, end): (Instant, Instant),
    ) -> Option<u64> {
        if let Some(held) = self.pods.get_mut(asker).and_then(|pod| pod.tell(name, &address, now)) {
            if held.end < end {
                self.by_end.remove(&(held.end, asker.clone(), name.clone(), address));
                held.end = end;
                self.by_end.insert((end, asker.clone(), name.clone(), address));
                self.version += 1;
            }
            return Some(held.since);
        }
        let most = self.most(asker);
        let names = if asker.is_some() { NAMES } else { ALL };
        if let Some(pod) = self.pods.get(asker) {
            for (name, address, end) in pod.make_room(name, (names, most), now)? {
                self.by_end.remove(&(end, asker.clone(), name.clone(), address));
                self.forgotten.crowded_out += 1;
                self.dropped(asker, &name, address);
            }
        }
        let fqdns = &self.fqdns;
        let meaning = || fqdns.keys().filter(|fqdn| is_meant(fqdn, name)).cloned().collect();
        let pod = self.pods.entry(asker.clone()).or_default();
        let known = pod.name(name, now, meaning);
        self.news += u64::from(!known.fqdns.is_empty());
        known.addresses.insert(address, Held { end, since: self.news, told: now });
        for fqdn in &known.fqdns {
            let Some(addresses) = self.fqdns.get_mut(fqdn) else { continue };
            let count = addresses.entry(address).or_default().entry(asker.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                self.touched.entry(fqdn.clone()).or_default().insert(address);
            }
        }
        pod.size += 1;
        self.by_end.insert((end, asker.clone(), name.clone(), address));
        self.version += 1;
        Some(self.news)
    }

    /// An address is not one of the name any more.
    fn dropped(&mut self, asker: &Asker, name: &Arc<str>, address: IpAddr) {
        self.version += 1;
        let Some(pod) = self.pods.get_mut(asker) else { return };
        for fqdn in pod.remove(name, &address) {
            let Some(addresses) = self.fqdns.get_mut(&fqdn) else { continue };
            let Some(askers) = addresses.get_mut(&address) else { continue };
            let Some(count) = askers.get_mut(asker) else { continue };
            *count -= 1;
            if *count == 0 {
                askers.remove(asker);
                if askers.is_empty() {
                    addresses.remove(&address);
                }
                self.touched.entry(fqdn).or_default().insert(address);
            }
        }
        if pod.names.is_empty() {
            self.pods.remove(asker);
        }
    }
}

/// Whether one of these pods is one of those, or may be.
fn are_among(askers: &Askers, pods: &HashSet<&Attachment>) -> bool {
    askers.keys().any(|asker| asker.as_ref().is_none_or(|asker| pods.contains(&**asker)))
}

#[cfg(test)]
mod tests;
