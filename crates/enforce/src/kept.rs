//! Policy of pods that the controller no longer tells of although they are still here.
//!
//! A pod is known to the controller as long as the API server has its object and has not heard that it ended; it can
//! send for as long as its sandbox is there, which may be longer: deleted by force, evicted, its phase told too early.
//! What is taken from a pod therefore stays until it is known that the pod was meant: until the controller, asked after
//! that, still knows the pod, or its interface is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use antrea_api::controlplane::ObjectReference;

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

/// Ports that policies keep, by policy.
#[derive(Debug, Default)]
pub struct Kept {
    by_policy: BTreeMap<Arc<str>, BTreeMap<u32, Lost>>,
    /// Counts reconciliations in which something was lost.
    now: u64,
}

impl Kept {
    /// Owners of the ports that a policy keeps.
    pub fn of(&self, policy: &str) -> impl Iterator<Item = (u32, &Arc<PortOwner>)> {
        self.by_policy.get(policy).into_iter().flatten().map(|(ofport, lost)| (*ofport, &lost.owner))
    }

    /// Forgets ports that have another owner or none; returns the policies that kept one.
    pub fn retain(&mut self, ports: &BTreeMap<u32, Arc<PortOwner>>) -> BTreeSet<Arc<str>> {
        self.remove(|_, ofport, lost| ports.get(&ofport) != Some(&lost.owner)).into_keys().collect()
    }

    /// Begins with what one reconciliation loses.
    pub fn begin(&mut self) {
        self.now += 1;
    }

    /// A policy selects these ports, and lost those.
    pub fn note(
        &mut self,
        policy: &Arc<str>,
        selected: impl Fn(u32) -> bool,
        lost: BTreeMap<u32, Arc<PortOwner>>,
    ) {
        let ports = self.by_policy.entry(policy.clone()).or_default();
        ports.retain(|ofport, _| !selected(*ofport));
        for (ofport, owner) in lost {
            ports.entry(ofport).or_insert(Lost { owner, at: self.now });
        }
        if ports.is_empty() {
            self.by_policy.remove(policy);
        }
    }

    /// Pods to ask about, and which losses an answer that comes from now on is about.
    pub fn doubts(&self) -> BTreeMap<Doubt, u64> {
        let lost = self.by_policy.values().flat_map(BTreeMap::values);
        let doubt = |owner: &PortOwner| Doubt { pod: owner.pod.clone(), uid: owner.uid.clone() };
        lost.map(|lost| (doubt(&lost.owner), self.now)).collect()
    }

    /// The pod is alive: what it lost up to `at` was meant, unless the controller says that it is about to get it back.
    /// Returns its ports, by the policies that kept them.
    pub fn release(
        &mut self,
        doubt: &Doubt,
        at: u64,
        selecting: &[String],
    ) -> BTreeMap<Arc<str>, BTreeSet<u32>> {
        self.remove(|policy, _, lost| {
            lost.at <= at
                && lost.owner.pod == doubt.pod
                && lost.owner.uid == doubt.uid
                && !selecting.iter().any(|name| **name == **policy)
        })
    }

    fn remove(
        &mut self,
        unwanted: impl Fn(&Arc<str>, u32, &Lost) -> bool,
    ) -> BTreeMap<Arc<str>, BTreeSet<u32>> {
        let mut removed: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
        self.by_policy.retain(|policy, ports| {
            ports.retain(|ofport, lost| {
                let goes = unwanted(policy, *ofport, lost);
                if goes {
                    removed.entry(policy.clone()).or_default().insert(*ofport);
                }
                !goes
            });
            !ports.is_empty()
        });
        removed
    }
}
