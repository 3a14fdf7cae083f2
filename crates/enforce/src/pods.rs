//! The pods of this node as policy sees them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use antrea_api::controlplane::ObjectReference;
use antrea_flows::policy::PodIps;

/// Container id and name of the interface in it.
pub type Attachment = (String, String);

/// An attachment of a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    pub pod: ObjectReference,
    /// OpenFlow port.
    pub ofport: u32,
    pub ips: Vec<IpAddr>,
    /// The pod's UID, empty where the runtime did not tell.
    pub uid: String,
    /// Which of the pod's it is.
    pub attachment: Attachment,
}

/// The pod behind a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    pub(crate) attachment: Attachment,
    /// Namespace and name.
    pub pod: ObjectReference,
    /// The pod's UID, empty where the runtime did not tell.
    pub uid: String,
}

/// Ports and addresses by pod.
#[derive(Debug, Default)]
pub struct LocalPods {
    by_pod: HashMap<ObjectReference, BTreeMap<u32, PodIps>>,
    owners: BTreeMap<u32, Arc<PortOwner>>,
}

impl LocalPods {
    /// The interfaces of a pod: OpenFlow port → addresses.
    pub fn get(&self, pod: &ObjectReference) -> impl Iterator<Item = (u32, &PodIps)> {
        self.by_pod.get(pod).into_iter().flatten().map(|(ofport, ips)| (*ofport, ips))
    }

    /// Pods that have this port: one, but see [`Self::set`].
    pub fn on(&self, ofport: u32) -> impl Iterator<Item = &ObjectReference> {
        self.by_pod.iter().filter(move |(_, ports)| ports.contains_key(&ofport)).map(|(pod, _)| pod)
    }

    /// Whose port each is.
    pub fn owners(&self) -> &BTreeMap<u32, Arc<PortOwner>> {
        &self.owners
    }

    /// The attachments behind these ports.
    pub(crate) fn attachments(&self, ofports: impl IntoIterator<Item = u32>) -> HashSet<&Attachment> {
        let owners = ofports.into_iter().filter_map(|ofport| self.owners.get(&ofport));
        owners.map(|owner| &owner.attachment).collect()
    }

    /// Makes these interfaces all there are; returns the pods that differ. An attachment that could not be
    /// taken away may name a port that another pod has by now: to be safe the port then has the addresses
    /// of both.
    pub fn set(&mut self, interfaces: Vec<LocalPod>) -> Vec<ObjectReference> {
        let mut ips: HashMap<u32, BTreeSet<IpAddr>> = HashMap::new();
        for interface in &interfaces {
            ips.entry(interface.ofport).or_default().extend(&interface.ips);
        }
        let mut now: HashMap<ObjectReference, BTreeMap<u32, PodIps>> = HashMap::new();
        self.owners.clear();
        for interface in interfaces {
            let LocalPod { pod, uid, attachment, .. } = &interface;
            let owner = PortOwner { attachment: attachment.clone(), pod: pod.clone(), uid: uid.clone() };
            self.owners.insert(interface.ofport, Arc::new(owner));
            let ips = ips.get(&interface.ofport).into_iter().flatten().copied().collect();
            now.entry(interface.pod).or_default().insert(interface.ofport, ips);
        }
        let before = std::mem::replace(&mut self.by_pod, now);
        let gone = before.keys().filter(|pod| !self.by_pod.contains_key(*pod));
        let changed = self.by_pod.iter().filter(|(pod, ports)| before.get(*pod) != Some(*ports));
        gone.chain(changed.map(|(pod, _)| pod)).cloned().collect()
    }
}

/// All interfaces: those that are about to be connected, and those that are and do not contradict them.
/// OVS gives a port's number, and IPAM an address, to the next pod before the agent has forgotten the last.
pub fn arrange(prepared: Vec<LocalPod>, connected: Vec<LocalPod>) -> Vec<LocalPod> {
    let ports: HashSet<u32> = prepared.iter().map(|interface| interface.ofport).collect();
    let ips: HashSet<_> = prepared.iter().flat_map(|interface| interface.ips.iter().copied()).collect();
    let mut all = prepared;
    all.extend(connected.into_iter().filter(|interface| {
        !ports.contains(&interface.ofport) && !interface.ips.iter().any(|ip| ips.contains(ip))
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::local_pod;

    #[test]
    fn tells_what_changed() {
        let mut pods = LocalPods::default();
        let name = |pod: &ObjectReference| pod.name.clone();
        let set = |pods: &mut LocalPods, list: &[(&str, u32, &str)]| {
            let list = list.iter().map(|(name, ofport, ip)| local_pod(name, *ofport, ip)).collect();
            let mut changed: Vec<_> = pods.set(list).iter().map(name).collect();
            changed.sort();
            changed
        };
        assert_eq!(set(&mut pods, &[("a", 1, "10.0.0.1"), ("b", 2, "10.0.0.2")]), ["a", "b"]);
        assert!(set(&mut pods, &[("a", 1, "10.0.0.1"), ("b", 2, "10.0.0.2")]).is_empty());
        assert_eq!(set(&mut pods, &[("a", 1, "10.0.0.9"), ("c", 3, "10.0.0.3")]), ["a", "b", "c"]);
        assert_eq!(set(&mut pods, &[("a", 1, "10.0.0.9"), ("c", 1, "10.0.0.3")]), ["a", "c"]);
        let pod = ObjectReference { name: "a".into(), namespace: "ns".into() };
        assert_eq!(pods.get(&pod).map(|(_, ips)| ips.len()).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_new_owner_of_a_port_or_address_wins() {
        let new = local_pod("new", 1, "10.0.0.7");
        let connected = vec![
            local_pod("port", 1, "10.0.0.1"),
            local_pod("address", 2, "10.0.0.7"),
            local_pod("b", 3, "10.0.0.3"),
        ];
        let names: Vec<_> = arrange(vec![new], connected).into_iter().map(|i| i.pod.name).collect();
        assert_eq!(names, ["new", "b"]);
    }
}
