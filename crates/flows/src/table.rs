//! The tables of the pipeline and how they get their numbers.
//!
//! Tables are known by name. Which of them exist, and under which number, follows from the enabled
//! features: a [`Pipeline`] numbers the tables that some feature needs from 0 in declaration order. So
//! numbers differ between installations; people and tools use the names, which the agent writes to OVSDB.

/// What a packet must be to walk a table: each pipeline is a chain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Table 0 only: sorts packets into the other two.
    Root,
    Arp,
    /// IPv4 and IPv6.
    Ip,
}

/// The steps of packet processing, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Sorts by protocol.
    Start,
    /// Finds out where a packet comes from.
    Classifier,
    /// Drops packets with a forged source.
    Validation,
    /// Gives packets to Services an endpoint's address.
    Translation,
    /// Looks the connection up.
    ConntrackState,
    /// Picks what has to be translated before routing.
    PreRouting,
    /// Egress policy.
    EgressSecurity,
    /// Picks the next hop.
    Routing,
    /// Work on routed packets, such as the hop limit.
    PostRouting,
    /// Picks the output port.
    Switching,
    /// Ingress policy.
    IngressSecurity,
    /// Commits new connections.
    Conntrack,
    /// Sends.
    Output,
}

/// What happens to a packet that no flow of a table matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Dropped.
    Drop,
    /// On to the next table of the same pipeline.
    Next,
}

/// The optional parts of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The cluster has IPv4 pods.
    pub ipv4: bool,
    /// The cluster has IPv6 pods.
    pub ipv6: bool,
    /// Antrea-native policies (feature gate `AntreaPolicy`): tables evaluated before those of Kubernetes
    /// policies.
    pub antrea_policy: bool,
    /// The bridge serves Services to pods (feature gate `AntreaProxy`).
    pub services: bool,
}

impl Features {
    fn any(&self) -> bool {
        self.ipv4 || self.ipv6
    }
}

macro_rules! tables {
    ($( $(#[$doc:meta])* $name:ident $protocol:ident $stage:ident $miss:ident $needed:expr; )*) => {
        /// A table, under upstream Antrea's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Table {
            $( $(#[$doc])* $name, )*
        }

        impl Table {
            /// Every table, in pipeline order.
            pub const ALL: &'static [Table] = &[$(Table::$name),*];

            /// The name, as in OVSDB and in `ovs-ofctl --names dump-flows`.
            pub const fn name(self) -> &'static str {
                match self { $(Table::$name => stringify!($name)),* }
            }

            /// The chain that the table is part of.
            pub const fn protocol(self) -> Protocol {
                match self { $(Table::$name => Protocol::$protocol),* }
            }

            /// The step that the table is part of.
            pub const fn stage(self) -> Stage {
                match self { $(Table::$name => Stage::$stage),* }
            }

            /// The fate of packets that match no flow.
            pub const fn miss(self) -> Miss {
                match self { $(Table::$name => Miss::$miss),* }
            }

            fn needed(self, features: &Features) -> bool {
                match self { $(Table::$name => { let needed: fn(&Features) -> bool = $needed; needed(features) }),* }
            }
        }
    };
}

tables! {
    /// Sorts packets into the ARP and the IP pipeline.
    PipelineRootClassifier Root Start           Drop |_| true;
    /// Lets ARP pass only with the sender's own addresses.
    ARPSpoofGuard          Arp  Validation      Drop |f| f.ipv4;
    /// Answers for peers' gateways; switches the rest.
    ARPResponder           Arp  Output          Drop |f| f.ipv4;
    /// Marks where a packet comes from.
    Classifier             Ip   Classifier      Drop Features::any;
    /// Lets packets pass only with the sender's own addresses.
    SpoofGuard             Ip   Validation      Drop Features::any;
    /// Switches neighbour discovery that passed the spoof guard.
    IPv6                   Ip   Validation      Drop |f| f.ipv6;
    /// Picks what pods send to Services.
    PreRoutingClassifier   Ip   Translation     Next |f| f.any() && f.services;
    /// Tells known connections from new ones.
    ServiceState           Ip   Translation     Next |f| f.any() && f.services;
    /// Rules of Antrea-native policies that apply to Services: who from outside may come to them by a node's addresses.
    ServicePolicyRule      Ip   Translation     Drop |f| f.any() && f.services && f.antrea_policy;
    /// The endpoints that clients keep; the switch learns them.
    SessionAffinity        Ip   Translation     Drop |f| f.any() && f.services;
    /// Finds the Service of a new connection.
    ServiceLB              Ip   Translation     Next |f| f.any() && f.services;
    /// Takes an endpoint that the client keeps, if it still is one; else chooses.
    EndpointDNAT           Ip   Translation     Next |f| f.any() && f.services;
    /// Brings back to a pod what it sent to itself.
    SNAT                   Ip   Translation     Next |f| f.any() && f.services;
    /// Sends packets through the connection tracker.
    ConntrackZone          Ip   ConntrackState  Next Features::any;
    /// Acts on the connection's state.
    ConntrackState         Ip   ConntrackState  Next Features::any;
    /// Sends traffic to Services to the host, where kube-proxy translates it.
    DNAT                   Ip   PreRouting      Next Features::any;
    /// Egress rules of Antrea-native policies.
    AntreaPolicyEgressRule Ip   EgressSecurity  Next |f| f.any() && f.antrea_policy;
    /// Egress rules of Kubernetes policies.
    EgressRule             Ip   EgressSecurity  Next Features::any;
    /// Drops what isolated pods send and no rule allowed.
    EgressDefaultRule      Ip   EgressSecurity  Next Features::any;
    /// Counts per egress rule; drops what a rule denied.
    EgressMetric           Ip   EgressSecurity  Next Features::any;
    /// Picks the next hop.
    L3Forwarding           Ip   Routing         Drop Features::any;
    /// Decrements the hop limit of forwarded packets.
    L3DecTTL               Ip   PostRouting     Next Features::any;
    /// Picks the output port.
    L2ForwardingCalc       Ip   Switching       Drop Features::any;
    /// Decides which packets ingress rules apply to.
    IngressSecurityClassifier Ip IngressSecurity Next Features::any;
    /// Ingress rules of Antrea-native policies.
    AntreaPolicyIngressRule Ip  IngressSecurity Next |f| f.any() && f.antrea_policy;
    /// Ingress rules of Kubernetes policies.
    IngressRule            Ip   IngressSecurity Next Features::any;
    /// Drops what isolated pods are sent and no rule allowed.
    IngressDefaultRule     Ip   IngressSecurity Next Features::any;
    /// Counts per ingress rule; drops what a rule denied.
    IngressMetric          Ip   IngressSecurity Next Features::any;
    /// Commits new connections.
    ConntrackCommit        Ip   Conntrack       Next Features::any;
    /// Sends the packet out.
    Output                 Ip   Output          Drop Features::any;
}

/// The tables that exist and their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    features: Features,
    tables: Vec<Table>,
}

impl Pipeline {
    /// Numbers the tables that these features need.
    pub fn new(features: Features) -> Self {
        let tables = Table::ALL.iter().copied().filter(|t| t.needed(&features)).collect();
        Self { features, tables }
    }

    /// What the pipeline was made for.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The tables that exist, in order of their numbers.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Number and name of each table, for the `flow_tables` column of OVSDB's `Bridge`.
    pub fn names(&self) -> Vec<(u8, &'static str)> {
        (0u8..).zip(self.tables.iter().map(|t| t.name())).collect()
    }

    /// A table's number; `None` if no enabled feature needs the table.
    pub fn number(&self, table: Table) -> Option<u8> {
        self.tables.iter().position(|t| *t == table).map(|n| n as u8)
    }

    /// The table with this number.
    pub fn table(&self, number: u8) -> Option<Table> {
        self.tables.get(usize::from(number)).copied()
    }

    /// The table with this name, if it exists.
    pub fn by_name(&self, name: &str) -> Option<Table> {
        self.tables.iter().copied().find(|t| t.name() == name)
    }

    /// The table after `table` in the same chain.
    pub fn next(&self, table: Table) -> Option<Table> {
        self.tables.iter().copied().find(|t| *t > table && t.protocol() == table.protocol())
    }

    /// The first table of a step of the IP chain.
    pub fn entry(&self, stage: Stage) -> Option<Table> {
        self.tables.iter().copied().find(|t| t.stage() == stage && t.protocol() == Protocol::Ip)
    }

    /// The number of a table that the caller knows to exist.
    pub(crate) fn id(&self, table: Table) -> u8 {
        self.number(table).expect("must be a table that the features of the caller need")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Features = Features { ipv4: true, ipv6: false, antrea_policy: false, services: false };
    const ALL: Features = Features { ipv4: true, ipv6: true, antrea_policy: true, services: true };

    #[test]
    fn numbers_are_dense_and_follow_the_features() {
        let all = Pipeline::new(ALL);
        assert_eq!(all.tables(), Table::ALL);
        assert_eq!(all.number(Table::PipelineRootClassifier), Some(0));

        let v4 = Pipeline::new(V4);
        assert_eq!(v4.tables().len(), Table::ALL.len() - 10);
        assert_eq!(v4.number(Table::IPv6), None);
        assert_eq!(v4.names().last(), Some(&(v4.tables().len() as u8 - 1, "Output")));
        for (number, name) in v4.names() {
            assert_eq!(v4.table(number).unwrap().name(), name);
            assert_eq!(v4.by_name(name).and_then(|t| v4.number(t)), Some(number));
        }
        let v6 = Pipeline::new(Features { ipv6: true, ipv4: false, ..V4 });
        assert_eq!(v6.number(Table::ARPSpoofGuard), None);
        assert_eq!(v6.number(Table::Classifier), Some(1));
    }

    #[test]
    fn next_stays_in_the_chain() {
        let p = Pipeline::new(V4);
        assert_eq!(p.next(Table::PipelineRootClassifier), None);
        assert_eq!(p.next(Table::ARPSpoofGuard), Some(Table::ARPResponder));
        assert_eq!(p.next(Table::ARPResponder), None);
        assert_eq!(p.next(Table::SpoofGuard), Some(Table::ConntrackZone));
        assert_eq!(p.next(Table::Output), None);
        assert_eq!(p.entry(Stage::EgressSecurity), Some(Table::EgressRule));
        assert_eq!(Pipeline::new(ALL).entry(Stage::EgressSecurity), Some(Table::AntreaPolicyEgressRule));
    }

    #[test]
    fn tables_are_declared_in_stage_order() {
        for chain in [Protocol::Root, Protocol::Arp, Protocol::Ip] {
            let stages: Vec<Stage> =
                Table::ALL.iter().filter(|t| t.protocol() == chain).map(|t| t.stage()).collect();
            assert!(stages.is_sorted(), "{chain:?}: {stages:?}");
        }
    }
}
