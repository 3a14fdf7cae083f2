//! Policy of pods that the controller no longer tells of although they are still here.
//!
//! A pod is known to the controller as long as the API server has its object and has not heard that it ended; it can
//! send for as long as its sandbox is there, which may be longer: deleted by force, evicted, its phase told too early.
//! What isolates a pod is therefore not taken from it until it is known that the pod was meant: until the controller,
//! asked after that, still knows the pod, or its interface is gone.
//!
//! Only what nothing else isolates keeps a policy. Policies allow in union: beside another one, what is kept would
//! only let through what nobody allows any more. Without another one everything would be let through, so that a policy
//! that is kept, whatever it allows, never allows more than is meant.
//!
//! Native policies deny, whatever else selects a pod: each is kept as a whole, in its place in the order. Whether the pod
//! has lost it is asked rule by rule, for rules of one policy may apply to different pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use antrea_api::controlplane::ObjectReference;
use antrea_flows::policy::Direction;

use crate::pods::PortOwner;

/// A pod that the controller is to be asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubt {
    /// Namespace and name.
    pub pod: ObjectReference,
    /// Its UID, empty where the runtime did not tell.
    pub uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lost {
    owner: Arc<PortOwner>,
    /// When, by the count of reconciliations.
    at: u64,
}

/// A port, and which of its traffic.
pub type Way = (u32, Direction);

/// What policies keep, by policy.
#[derive(Debug, Default)]
pub struct Kept {
    by_policy: BTreeMap<Arc<str>, BTreeMap<Way, Lost>>,
    /// Counts reconciliations in which something was lost.
    now: u64,
}

impl Kept {
    /// Owners of the ports whose traffic in a direction a policy keeps isolated.
    pub fn of(&self, policy: &str, direction: Direction) -> impl Iterator<Item = (u32, &Arc<PortOwner>)> {
        let ways = self.by_policy.get(policy).into_iter().flatten();
        ways.filter(move |((_, of), _)| *of == direction).map(|((ofport, _), lost)| (*ofport, &lost.owner))
    }

    /// Ports that a policy keeps.
    pub fn ports(&self, policy: &str) -> BTreeSet<u32> {
        self.by_policy.get(policy).into_iter().flatten().map(|((ofport, _), _)| *ofport).collect()
    }

    /// Forgets what need not be kept; returns the policies that kept it.
    pub fn retain(&mut self, stays: impl Fn(&str, Way, &Arc<PortOwner>) -> bool) -> BTreeSet<Arc<str>> {
        self.remove(|policy, way, lost| !stays(policy, way, &lost.owner)).into_keys().collect()
    }

    /// Begins with what one reconciliation loses.
    pub fn begin(&mut self) {
        self.now += 1;
    }

    /// A policy selects these ports, and is to be kept for those ways.
    pub fn note(
        &mut self,
        policy: &Arc<str>,
        selected: impl Fn(u32) -> bool,
        lost: BTreeMap<Way, Arc<PortOwner>>,
    ) {
        let ways = self.by_policy.entry(policy.clone()).or_default();
        ways.retain(|(ofport, _), _| !selected(*ofport));
        for (way, owner) in lost {
            ways.entry(way).or_insert(Lost { owner, at: self.now });
        }
        if ways.is_empty() {
            self.by_policy.remove(policy);
        }
    }

    /// Pods to ask about, and which losses an answer that comes from now on is about.
    pub fn doubts(&self) -> BTreeMap<Doubt, u64> {
        let lost = self.by_policy.values().flat_map(BTreeMap::values);
        let doubt = |owner: &PortOwner| Doubt { pod: owner.pod.clone(), uid: owner.uid.clone() };
        lost.map(|lost| (doubt(&lost.owner), self.now)).collect()
    }

    /// The pod is alive: what it lost up to `at` was meant. Returns its ports, by the policies that kept them.
    pub fn release(&mut self, doubt: &Doubt, at: u64) -> BTreeMap<Arc<str>, BTreeSet<u32>> {
        self.remove(|_, _, lost| lost.at <= at && lost.owner.pod == doubt.pod && lost.owner.uid == doubt.uid)
    }

    fn remove(&mut self, unwanted: impl Fn(&str, Way, &Lost) -> bool) -> BTreeMap<Arc<str>, BTreeSet<u32>> {
        let mut removed: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
        self.by_policy.retain(|policy, ways| {
            ways.retain(|way, lost| {
                let goes = unwanted(policy, *way, lost);
                if goes {
                    removed.entry(policy.clone()).or_default().insert(way.0);
                }
                !goes
            });
            !ways.is_empty()
        });
        removed
    }
}
