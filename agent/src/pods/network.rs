//! The node's network once it is up: what attachments and peers are wired into.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Deref;
use std::time::SystemTime;

use ipnet::IpNet;
use netcfg::Netlink;
use netcfg::sysctl::Tree;
use ovs::Vswitch;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::dataplane::Dataplane;
use crate::ovs::connections::Connections;
use crate::ovs::settled::Settled;
use crate::pods::claims::{Claim, Claims};
use crate::pods::interfaces::{AttachmentKey, InterfaceStore, PodInterface};
use crate::pods::ipam::HostLocal;
use crate::pods::judged::JudgedAddresses;
use crate::pods::leases::Leases;
use crate::pods::ofports::{OfPorts, Reserved};
use crate::policy::PolicyHandle;

/// What follows from configuration, Node object and OVS, fixed for the life of the process.
#[derive(Debug)]
pub struct NodeParts {
    pub node_name: String,
    /// Subnets of this node's pods.
    pub subnets: Vec<IpNet>,
    /// MTU of pod links.
    pub mtu: u32,
    /// OVS bridge.
    pub bridge: String,
    /// Netlink socket in the node's namespace.
    pub netlink: Netlink,
    /// OVSDB.
    pub vswitch: Vswitch,
    /// The bridge's flows.
    pub dataplane: Dataplane,
    /// Connections that the bridge tracks.
    pub connections: Connections,
    /// Whether the datapath goes by the bridge's flows.
    pub settled: Settled,
    /// IPAM.
    pub host_local: HostLocal,
    /// Where the host's /proc is mounted.
    pub host_proc_path_prefix: String,
    /// Where the kernel's parameters are written.
    pub sysctls: Tree,
    /// Whether OVS forwards in userspace.
    pub userspace: bool,
}

/// The node's network: its parts, and the attachments that it has.
#[derive(Debug)]
pub struct NodeNetwork {
    parts: NodeParts,
    /// What ADD asks before a pod is connected. Who else needs policy is given it.
    policy: PolicyHandle,
    interfaces: Mutex<InterfaceStore>,
    count: watch::Sender<usize>,
    ofports: OfPorts,
    claims: Claims,
    judged: JudgedAddresses,
}

impl Deref for NodeNetwork {
    type Target = NodeParts;

    fn deref(&self) -> &NodeParts {
        &self.parts
    }
}

impl NodeNetwork {
    /// A network with the attachments that OVSDB remembers.
    pub fn new(parts: NodeParts, policy: PolicyHandle, interfaces: InterfaceStore) -> Self {
        let count = watch::Sender::new(interfaces.len());
        Self {
            parts,
            policy,
            interfaces: Mutex::new(interfaces),
            count,
            ofports: OfPorts::default(),
            claims: Claims::default(),
            judged: JudgedAddresses::default(),
        }
    }

    pub(super) fn policy(&self) -> &PolicyHandle {
        &self.policy
    }

    /// An attachment.
    pub fn interface(&self, container_id: &str, ifname: &str) -> Option<PodInterface> {
        self.interfaces.lock().get(container_id, ifname).cloned()
    }

    /// All attachments.
    pub fn interfaces(&self) -> Vec<PodInterface> {
        self.interfaces.lock().iter().cloned().collect()
    }

    /// Adds an attachment that is complete.
    pub fn remember(&self, interface: PodInterface) {
        let mut interfaces = self.interfaces.lock();
        interfaces.insert(interface);
        self.count.send_replace(interfaces.len());
    }

    /// Drops an attachment that is gone.
    pub fn forget(&self, container_id: &str, ifname: &str) {
        let mut interfaces = self.interfaces.lock();
        interfaces.remove(container_id, ifname);
        self.count.send_replace(interfaces.len());
    }

    /// Number of attachments, as it changes.
    pub fn interface_count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// An OpenFlow number that no port of the bridge and no attachment has. `None` if all are taken.
    pub fn reserve_ofport(&self) -> Option<Reserved> {
        let mut used = self.vswitch.ofports(&self.bridge);
        used.extend(self.interfaces.lock().iter().map(|interface| interface.ofport));
        self.ofports.reserve(&used)
    }

    /// Takes the name of a host's end for a call about `attachment`.
    ///
    /// # Errors
    /// Another attachment, or a call about one, has the name.
    pub fn claim(&self, name: &str, attachment: &AttachmentKey) -> Result<Claim, AttachmentKey> {
        self.claims.take(name, attachment, |name| {
            let interfaces = self.interfaces.lock();
            let found = interfaces.iter().find(|interface| interface.host_ifname == name);
            found.map(PodInterface::attachment)
        })
    }

    /// Whether a call about the link of that name is under way.
    pub fn is_claimed(&self, name: &str) -> bool {
        self.claims.has(name)
    }

    /// The subnets that hold one of `ips`.
    pub fn subnets_of(&self, ips: &[IpAddr]) -> Vec<IpNet> {
        self.subnets.iter().filter(|subnet| ips.iter().any(|ip| subnet.contains(ip))).copied().collect()
    }

    /// Whose addresses the host's egress policy speaks of.
    pub fn judged(&self) -> &JudgedAddresses {
        &self.judged
    }

    /// IPAM's records. The node's disk may be slow.
    pub async fn leases(&self) -> Leases {
        let folder = self.host_local.allocations();
        off_runtime(move || Leases::read(&folder)).await
    }

    /// Namespace and name of the pod that has the address.
    pub fn pod_at(&self, ip: IpAddr) -> Option<String> {
        let interfaces = self.interfaces.lock();
        let found = interfaces.iter().find(|pod| pod.ips.contains(&ip))?;
        Some(format!("{}/{}", found.pod_namespace, found.pod_name))
    }

    /// An attachment of another container that has one of `ips`, and which.
    pub fn holder(&self, ips: &[IpAddr], container_id: &str) -> Option<(IpAddr, PodInterface)> {
        let interfaces = self.interfaces.lock();
        let others = interfaces.iter().filter(|other| other.container_id != container_id);
        others
            .flat_map(|other| other.ips.iter().map(move |ip| (ip, other)))
            .find_map(|(ip, other)| ips.contains(ip).then(|| (*ip, other.clone())))
    }

    /// Frees addresses of which IPAM's record is damaged and that no attachment has.
    pub async fn free_damaged_leases(&self) {
        let leases = self.leases().await;
        let used = self.interfaces.lock().iter().flat_map(|interface| interface.ips.clone()).collect();
        off_runtime(move || leases.free_damaged(&used, SystemTime::now())).await;
    }

    /// Every attachment that the store or IPAM knows of.
    pub async fn known_attachments(&self) -> BTreeSet<AttachmentKey> {
        let held = self.leases().await.held;
        let mut known: BTreeSet<_> = self.interfaces.lock().iter().map(PodInterface::attachment).collect();
        known.extend(held.into_iter().map(|(_, attachment)| attachment));
        known
    }
}

/// Runs what waits for the disk on a thread of its own. Nothing comes of what panics, which is told.
async fn off_runtime<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "IPAM's records are not looked at");
        T::default()
    })
}
