use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// `namespace/name`.
pub type Name = Arc<str>;

/// Protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub ip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} port {}", self.ip, self.protocol, self.port)
    }
}

/// The node that pods are on, as far as the choice of endpoints depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Name of the Node.
    pub node: String,
    /// Its zone (label `topology.kubernetes.io/zone`), empty if it has none.
    pub zone: String,
}

/// The node's own addresses, where its proxy serves everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Those with node ports.
    pub addresses: Vec<IpAddr>,
    /// What stands for all of them, in each family.
    pub stand_ins: Vec<IpAddr>,
}

/// An address of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// `spec.clusterIPs`: internalTrafficPolicy applies.
    Cluster(IpAddr),
    /// `spec.externalIPs` or of a load balancer. To pods these are another way into the cluster: they reach every
    /// endpoint, also where externalTrafficPolicy is Local.
    External(IpAddr),
    /// Of a load balancer that takes some clients alone ([`Service::sources`]).
    Guarded(IpAddr),
}

impl Address {
    /// The address.
    pub fn ip(self) -> IpAddr {
        match self {
            Address::Cluster(ip) | Address::External(ip) | Address::Guarded(ip) => ip,
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name; empty where the Service has one port.
    pub name: Box<str>,
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
    /// Number at addresses of nodes; zero if it has none there.
    pub node_port: u16,
}

/// A Service that this node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Seconds since 1970 at which it was made; decides between claims.
    pub created: i64,
    /// Where it is reached.
    pub addresses: Box<[Address]>,
    pub ports: Box<[Port]>,
    /// internalTrafficPolicy is Local.
    pub internal_local: bool,
    /// externalTrafficPolicy is Local.
    pub external_local: bool,
    /// Who may come to guarded addresses.
    pub sources: Box<[IpNet]>,
    /// Where the node tells load balancers whether it has an endpoint; zero if nowhere.
    pub health_port: u16,
    /// For how many seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
}

/// An endpoint of a slice. Hints are kept as what they say about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, ready or not.
    pub serving: bool,
    /// Is about to end.
    pub terminating: bool,
    /// Is on this node.
    pub local: bool,
    /// The hints for nodes: there are some, and this node is in.
    pub node_hint: Hint,
    /// The hints for zones: there are some, and this node's zone is in.
    pub zone_hint: Hint,
}

/// What hints say about this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hint {
    /// There is none.
    #[default]
    Absent,
    /// It is for others.
    Elsewhere,
    /// It is for this node.
    Here,
}

/// A port that every endpoint of a slice has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the Service's port.
    pub name: Box<str>,
    pub protocol: Protocol,
    /// Number at the endpoints: named target ports are resolved.
    pub port: u16,
}

/// An EndpointSlice of IP addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub ports: Box<[SlicePort]>,
    pub endpoints: Box<[Endpoint]>,
}

/// Why a part of an object is not served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{object}: {field}: {message}")]
pub struct Problem {
    /// Kind, namespace and name.
    pub object: String,
    /// Field path.
    pub field: String,
    /// What is wrong and what follows.
    pub message: String,
}
