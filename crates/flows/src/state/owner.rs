use std::{fmt, sync::Arc};

/// Who wants an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The node itself: see [`crate::node`].
    Node,
    /// Policy. Rules share flows, so [`crate::policy::Realizer`] keeps track within.
    Policy,
    /// Domain names in policies: what takes DNS's answers to the agent.
    Dns,
    /// Policy: what is left of connections that it ended.
    Ended,
    /// A pod of this node, by interface name or whatever else the caller knows pods by.
    Pod(Arc<str>),
    /// Another node, by name.
    Peer(Arc<str>),
    /// A Service, by namespace and name.
    Service(Arc<str>),
    /// A Traceflow, by its tag.
    Trace(u8),
    /// An end of datapath probes, by the name of its port.
    Probe(Arc<str>),
}

impl Owner {
    /// Whether the safety of others rests on what this owner has: nothing may be installed without it.
    pub fn is_vital(&self) -> bool {
        matches!(self, Owner::Node | Owner::Policy | Owner::Dns)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Node => f.write_str("the node"),
            Owner::Policy => f.write_str("policy"),
            Owner::Dns => f.write_str("domain names in policies"),
            Owner::Ended => f.write_str("connections that policy ended"),
            Owner::Pod(name) => write!(f, "pod {name}"),
            Owner::Peer(name) => write!(f, "peer {name}"),
            Owner::Service(name) => write!(f, "Service {name}"),
            Owner::Trace(tag) => write!(f, "trace {tag}"),
            Owner::Probe(name) => write!(f, "probe {name}"),
        }
    }
}
