//! What is known of two ends and of the Nodes that they are on, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use antrea_api::agent::HostPath;
use antrea_crds::AgentInfo;
use antrea_crds::traceflow::Status;
use antrea_policy::evaluate::Traffic;
use antrea_policy::model::Protocol;

use super::computed::Computed;

/// The port that the packet comes from: one of those that clients get.
pub(super) const SOURCE_PORT: u16 = 40_000;

/// What could not be had says why.
pub(super) type Asked<T> = Result<T, String>;

/// Everything that an explanation is made of.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) source: Pod,
    pub(super) target: Target,
    pub(super) packet: Packet,
    /// By name: those of the source and of whoever it may end at.
    pub(super) nodes: BTreeMap<String, Node>,
    /// Whom it may end at: one for a Pod or an address, the endpoints that are looked at of a Service.
    pub(super) ways: Vec<Way>,
    /// What became of a packet that was sent; none where none was.
    pub(super) probe: Option<Asked<Status>>,
}

/// Whom the packet is for, as it was asked for.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Pod,
    Address,
    Service(Service),
}

/// What is sent. ICMP is an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) protocol: Protocol,
    /// The port that it is for; of a Service, the Service's.
    pub(super) port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Empty until it is scheduled.
    pub(super) node: String,
    pub(super) phase: String,
    /// Why it is not ready.
    pub(super) unready: Option<String>,
    /// It was deleted and ends.
    pub(super) ending: bool,
    pub(super) host_network: bool,
    pub(super) ips: Vec<IpAddr>,
    /// What its containers declare.
    pub(super) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerPort {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Its cluster IP of the packet's family; none of a headless one.
    pub(super) address: Option<IpAddr>,
    pub(super) has_selector: bool,
    /// How many endpoints are ready, and how many are not.
    pub(super) ready: usize,
    pub(super) unready: usize,
    /// Those that are ready, of the packet's family.
    pub(super) endpoints: BTreeSet<SocketAddr>,
    /// What the source's bridge does with a packet for its address; none where nobody was asked.
    pub(super) sent: Option<Asked<String>>,
}

/// Somebody whom the packet may end at.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    /// None of a Pod without one.
    pub(super) address: Option<IpAddr>,
    /// The port there.
    pub(super) port: u16,
    /// Whose address it is, if a Pod's.
    pub(super) pod: Option<Pod>,
    /// What the source's bridge does with it, in the words of `ofproto/trace`; none where nobody was asked.
    pub(super) sent: Option<Asked<String>>,
    /// The same of the bridge where it arrives.
    pub(super) received: Option<Asked<String>>,
}

/// What API server, agent and bridge say of a Node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Why it is not ready.
    pub(super) unready: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// What its agent has said of itself to the API server, and how many seconds ago.
    pub(super) told: Asked<(AgentInfo, Option<i64>)>,
    /// What the controller has computed for it.
    pub(super) computed: Asked<Computed>,
    /// What its agent says now.
    pub(super) agent: Asked<Agent>,
    /// What its own network stack does with the packet; none where nobody was asked.
    pub(super) path: Option<Asked<HostPath>>,
}

/// What an agent says.
#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    pub(super) info: AgentInfo,
    pub(super) interfaces: Vec<Interface>,
    /// What it has of the controller.
    pub(super) computed: Computed,
    /// Names of the tables of its bridge.
    pub(super) tables: Vec<String>,
}

/// The interface of a Pod, as the agent has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) ips: Vec<IpAddr>,
    /// OpenFlow port number.
    pub(super) ofport: u32,
}

impl Packet {
    /// The same with another port, as policies look at it.
    pub(super) fn traffic(self, port: u16, v6: bool) -> Traffic {
        match self.protocol {
            Protocol::Icmp => Traffic::Icmp { kind: if v6 { 128 } else { 8 }, code: 0 },
            protocol => Traffic::Transport { protocol, src: SOURCE_PORT, dst: port },
        }
    }

    /// The packet with another port, as people write it.
    pub(super) fn shown(self, port: u16) -> String {
        match self.protocol {
            Protocol::Icmp => "ICMP echo".to_owned(),
            protocol => format!("{} {port}", protocol.as_str()),
        }
    }
}

impl Pod {
    /// Namespace and name.
    pub(super) fn full(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its address of a family.
    pub(super) fn address(&self, v6: bool) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv6() == v6)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

impl Service {
    /// Namespace and name.
    pub(super) fn full(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Way {
    /// Who that is, for people.
    pub(super) fn shown(&self) -> String {
        match (&self.pod, self.address) {
            (Some(pod), _) => pod.full(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "nobody".to_owned(),
        }
    }
}

impl Facts {
    /// The Node that the packet comes from, if it was asked.
    pub(super) fn source_node(&self) -> Option<&Node> {
        self.nodes.get(&self.source.node)
    }

    /// Whether the packet is of IPv6, by whom it is for.
    pub(super) fn v6(&self, way: &Way) -> bool {
        way.address.is_some_and(|address| address.is_ipv6())
    }
}
