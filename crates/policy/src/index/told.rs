//! Addresses of Pods that the API server does not know yet: told by the agent of the Pod's node.
//!
//! What an agent tells replaces what it told before, so what it tells no more is forgotten. A status that has an address
//! outweighs it.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::{
    Index,
    slab::{Id, NONE},
};
use crate::k8s::{PodIps, Uid};

/// A Pod's addresses, as the agent of its node tells them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Namespace of the Pod.
    pub namespace: Box<str>,
    pub name: Box<str>,
    /// Which of that name it is.
    pub uid: Uid,
    /// What it has.
    pub ips: PodIps,
}

impl Index {
    /// Those of `told` that are news: of Pods that are known, on this node, by this UID, and without an address in
    /// their status.
    pub fn without_status<'a>(
        &self,
        node: &str,
        told: impl IntoIterator<Item = &'a Told>,
    ) -> impl Iterator<Item = &'a Told> {
        let node = self.find_node(node);
        told.into_iter().filter(move |told| node.is_some_and(|node| self.find_told(node, told).is_some()))
    }

    /// Whether the agent of a node told something that still counts.
    #[must_use]
    pub fn has_told(&self, node: &str) -> bool {
        let node = self.find_node(node);
        node.is_some_and(|node| self.nodes[node].pods.iter().any(|pod| self.pods[*pod].told))
    }

    /// Takes in everything that the agent of a node tells. What is no news is left out, and so are Pods with an address
    /// that another Pod of the node has; those are returned.
    pub fn tell_addresses<'a>(&mut self, node: &str, told: &'a [Told]) -> Vec<&'a Told> {
        let Some(node) = self.find_node(node) else { return Vec::new() };
        let pods = self.nodes[node].pods.clone();
        let known = pods.iter().filter(|pod| !self.pods[**pod].told);
        let mut holders: HashMap<IpAddr, Id> =
            known.flat_map(|pod| self.pods[*pod].ips.iter().map(|ip| (ip, *pod))).collect();
        let (mut news, mut taken) = (HashMap::new(), Vec::new());
        for told in told {
            let Some(pod) = self.find_told(node, told) else { continue };
            if told.ips.iter().any(|ip| holders.get(&ip).is_some_and(|holder| *holder != pod)) {
                taken.push(told);
                continue;
            }
            holders.extend(told.ips.iter().map(|ip| (ip, pod)));
            news.insert(pod, told.ips);
        }
        for pod in pods {
            match news.get(&pod) {
                Some(ips) => self.set_told(pod, *ips),
                None if self.pods[pod].told => self.set_told(pod, PodIps::default()),
                None => {}
            }
        }
        taken
    }

    /// Addresses that a status gives to a Pod are no other's.
    pub(super) fn take_from_told(&mut self, pod: Id) {
        let Self { pods, nodes, .. } = self;
        let (node, ips) = (pods[pod].node, pods[pod].ips);
        if node == NONE || ips.is_empty() || pods[pod].told {
            return;
        }
        let same = |other: PodIps| ips.iter().any(|ip| other.iter().any(|other| other == ip));
        let others = nodes[node].pods.iter().copied();
        let losers: Vec<Id> =
            others.filter(|other| *other != pod && pods[*other].told && same(pods[*other].ips)).collect();
        for loser in losers {
            self.set_told(loser, PodIps::default());
        }
    }

    fn find_told(&self, node: Id, told: &Told) -> Option<Id> {
        let pod = self.find_pod(self.find_namespace(&told.namespace)?, &told.name)?;
        let record = &self.pods[pod];
        let open = record.told || record.ips.is_empty();
        (record.class != NONE && record.node == node && record.uid == Some(told.uid) && open).then_some(pod)
    }

    fn set_told(&mut self, pod: Id, ips: PodIps) {
        if self.pods[pod].ips != ips {
            self.touch_groups(pod, self.pods[pod].class);
        }
        let record = &mut self.pods[pod];
        record.ips = ips;
        record.told = !ips.is_empty();
    }
}
