//! Ends of datapath probes: namespaces of the agent's own that are wired as those of containers are.
//!
//! What differs: nobody knows the namespace but this process, with which it ends; the addresses are those that no pod gets;
//! no policy is asked for; and it is no attachment, so that nobody counts, checks or collects it. In OVSDB its port is a
//! container's without a pod: what an agent of any version removes when it starts.

use std::net::IpAddr;
use std::sync::Arc;

use antrea_flows::{Change, Entry, Owner};
use netcfg::{MacAddr, Netns};
use tokio_util::task::TaskTracker;

use super::{
    AttachError, Call, OFPORT_TIMEOUT, claim_as, configure, configure_container, handover, link, ownership,
    result_of,
};
use crate::pods::claims::Claim;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;

/// Name of the link in the namespace.
const LINK: &str = "eth0";

/// An end of probes.
#[derive(Debug)]
pub struct ProbePort {
    node: Arc<NodeNetwork>,
    /// Its namespace, which ends with the last handle.
    pub netns: Netns,
    /// How it is wired.
    interface: PodInterface,
    /// What the bridge holds for it beside the flows that wire it.
    besides: Vec<Entry>,
    /// Its port on the way into OVSDB: what is on the way cannot be taken away yet.
    adding: TaskTracker,
    _name: Claim,
}

/// Whom links and ports of that name belong to.
fn call(name: &str) -> Call {
    Call {
        container_id: name.to_owned(),
        netns: String::new(),
        ifname: LINK.to_owned(),
        args: String::new(),
        path: String::new(),
        egress: None,
    }
}

impl ProbePort {
    /// Makes a namespace. `name` is that of the host's link and of the port to come; no pod's is like it.
    ///
    /// # Errors
    /// What failed; nothing is left of it.
    pub async fn new(node: &Arc<NodeNetwork>, name: &str, ips: Vec<IpAddr>) -> Result<Self, AttachError> {
        let claim = claim_as(node, &call(name), name)?;
        let netns = Netns::unshare().await.map_err(configure)?;
        let reserved = node.reserve_ofport().ok_or_else(|| configure("no OpenFlow port number is free"))?;
        let interface = PodInterface {
            host_ifname: name.to_owned(),
            container_id: name.to_owned(),
            ifname: LINK.to_owned(),
            pod_name: String::new(),
            pod_namespace: String::new(),
            pod_uid: String::new(),
            netns: String::new(),
            mac: MacAddr::random().0,
            ips,
            ofport: reserved.number(),
        };
        let (besides, adding) = (Vec::new(), TaskTracker::new());
        Ok(Self { node: node.clone(), netns, interface, besides, adding, _name: claim })
    }

    /// Wires it. May be broken off.
    ///
    /// # Errors
    /// What failed. What was done before is taken away by [`Self::remove`], as all else is.
    pub async fn wire(&mut self) -> Result<(), AttachError> {
        let (node, interface) = (&self.node, &self.interface);
        let call = call(&interface.host_ifname);
        let container = link(node, &call, &interface.host_ifname, &self.netns, interface.mac).await?;
        let allocated = result_of(node, interface);
        let (configured, ofport, installed) = tokio::join!(
            configure_container(node, &container, interface, &allocated),
            self.connect(),
            async {
                handover::take_back(node, &interface.ips).await?;
                self.install().await
            }
        );
        configured?;
        let ofport = ofport?;
        installed?;
        if ofport != self.interface.ofport {
            self.interface.ofport = ofport;
            self.install().await?;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<u32, AttachError> {
        let (vswitch, port) = (self.node.vswitch.clone(), self.interface.port(&self.node.bridge));
        let adding = self.adding.spawn(async move { vswitch.add_port(&port).await });
        adding.await.map_err(configure)?.map_err(configure)?;
        let number = self.node.vswitch.wait_ofport(&self.interface.host_ifname, OFPORT_TIMEOUT);
        number.await.map_err(configure)
    }

    fn owner(&self) -> Owner {
        Owner::Probe(self.interface.host_ifname.as_str().into())
    }

    /// As the pipeline knows it.
    pub fn flow_port(&self) -> antrea_flows::PodInterface {
        let PodInterface { ofport, mac, ips, .. } = &self.interface;
        antrea_flows::PodInterface { ofport: *ofport, mac: (*mac).into(), ips: ips.clone() }
    }

    async fn install(&self) -> Result<(), AttachError> {
        let flows = antrea_flows::pod(self.node.dataplane.network(), &self.flow_port());
        let entries = flows.into_iter().map(Entry::from).chain(self.besides.iter().cloned()).collect();
        self.node.dataplane.set(self.owner(), Change::Whole(entries)).await.map_err(configure)
    }

    /// Has the bridge hold its policy or Service, in place of what it held before, and waits until the datapath goes by it.
    ///
    /// # Errors
    /// The bridge refused it or is away.
    pub async fn hold(&mut self, besides: Vec<Entry>) -> Result<(), AttachError> {
        self.besides = besides;
        self.install().await?;
        self.node.settled.wait().await;
        Ok(())
    }

    /// Its addresses.
    pub fn ips(&self) -> &[IpAddr] {
        &self.interface.ips
    }

    /// Takes everything away. What cannot be is told, and goes when the next of the name is made or an agent starts.
    pub async fn remove(self) {
        let (name, call) = (&self.interface.host_ifname, call(&self.interface.host_ifname));
        self.adding.close();
        self.adding.wait().await;
        let flows = self.node.dataplane.set(self.owner(), Change::nothing()).await.map_err(configure);
        let port = ownership::delete_port(&self.node, &call, name).await.map_err(configure);
        let link = ownership::delete_link(&self.node, &call, name).await.map(drop).map_err(configure);
        let connections = handover::left(&self.node, &self.interface.ips).await;
        for failure in [flows, port, link, connections].into_iter().filter_map(Result::err) {
            tracing::warn!(probe = name, error = %failure, "not removed");
        }
    }
}
