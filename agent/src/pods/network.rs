//! The node's network once it is up: what attachments and peers are wired into.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Deref;
use std::time::SystemTime;

use ipnet::IpNet;
use netcfg::Netlink;
use netcfg::sysctl::{Sysctl, Tree};
use ovs::Vswitch;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::dataplane::Dataplane;
use crate::ovs::connections::Connections;
use crate::pods::claims::{Claim, Claims};
use crate::pods::interfaces::{AttachmentKey, InterfaceStore, PodInterface};
use crate::pods::ipam::HostLocal;
use crate::pods::leases::Leases;
use crate::pods::ofports::{OfPorts, Reserved};
use crate::policy::PolicyHandle;

/// Device group of every link that this agent makes: what carries it and is no port of the bridge is
/// left over. It also marks the links whose packets only OVS may handle.
pub const POD_LINK_GROUP: u32 = 0xa27e;

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
    pub policy: PolicyHandle,
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
    interfaces: Mutex<InterfaceStore>,
    count: watch::Sender<usize>,
    ofports: OfPorts,
    claims: Claims,
}

impl Deref for NodeNetwork {
    type Target = NodeParts;

    fn deref(&self) -> &NodeParts {
        &self.parts
    }
}

impl NodeNetwork {
    /// A network with the attachments that OVSDB remembers.
    pub fn new(parts: NodeParts, interfaces: InterfaceStore) -> Self {
        let count = watch::Sender::new(interfaces.len());
        Self {
            parts,
            interfaces: Mutex::new(interfaces),
            count,
            ofports: OfPorts::default(),
            claims: Claims::default(),
        }
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

    /// IPAM's records.
    pub fn leases(&self) -> Leases {
        Leases::read(&self.host_local.allocations())
    }

    /// Frees addresses of which IPAM's record is damaged and that no attachment has.
    pub fn free_damaged_leases(&self) {
        let used = self.interfaces.lock().iter().flat_map(|interface| interface.ips.clone()).collect();
        self.leases().free_damaged(&used, SystemTime::now());
    }

    /// Every attachment that the store or IPAM knows of.
    pub fn known_attachments(&self) -> BTreeSet<AttachmentKey> {
        let mut known: BTreeSet<_> =
            self.interfaces.lock().iter().map(|i| (i.container_id.clone(), i.ifname.clone())).collect();
        known.extend(self.leases().held.into_iter().map(|(_, attachment)| attachment));
        known
    }
}

/// Keeps the host's own stack away from a link of ours: a raw-table rule drops what comes from
/// [`POD_LINK_GROUP`], and these settings keep ARP and IPv6 discovery silent. In the userspace datapath
/// OVS reads the link through a packet socket, and the stack would see every packet too; in the kernel's
/// it would route, past all policy, what a pod sends before its link has become a port.
///
/// # Errors
/// The setting cannot be written.
pub async fn quiet_link(
    netlink: &Netlink,
    sysctls: &Tree,
    link: &str,
) -> netcfg::Result<(), netcfg::NetcfgErrors> {
    sysctls.ensure(netlink.netns(), quiet_settings(sysctls, link)?).await.map(drop)
}

/// The settings of [`quiet_link`].
///
/// # Errors
/// The link's name cannot be part of a setting.
pub fn quiet_settings(sysctls: &Tree, link: &str) -> netcfg::Result<Vec<(Sysctl, &'static str)>> {
    // 8: answer no ARP request, whatever address it asks for (Documentation/networking/ip-sysctl).
    let mut settings = vec![(Sysctl::arp_ignore(link)?, "8")];
    // A kernel without IPv6 (ipv6.disable=1) has nothing to be kept silent.
    if sysctls.has_ipv6() {
        settings.push((Sysctl::disable_ipv6(link)?, "1"));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use netcfg::VethSpec;

    use super::*;

    #[tokio::test]
    async fn a_quiet_link_answers_nothing() {
        let space = netcfg::Netns::unshare().await.unwrap();
        let netlink = space.spawn_netlink().await.unwrap();
        let pair = VethSpec {
            host_name: "quiet",
            host_mac: None,
            host_mtu: 0,
            host_group: None,
            peer_name: "other",
            peer_mac: None,
            peer_mtu: 0,
            peer_ns: &space,
        };
        netlink.create_veth(&pair).await.unwrap();
        quiet_link(&netlink, &Tree::default(), "quiet").await.unwrap();
        let read = async |link: &str| {
            let files = [format!("ipv4/conf/{link}/arp_ignore"), format!("ipv6/conf/{link}/disable_ipv6")];
            let read =
                move || files.map(|file| std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap());
            space.run(read).await.unwrap().map(|text| text.trim().to_owned())
        };
        assert_eq!(read("quiet").await, ["8", "1"]);
        assert_eq!(read("other").await, ["0", "0"], "another link is as the kernel made it");
    }
}
