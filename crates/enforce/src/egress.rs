//! What egress policy says of addresses outside of the pod network, for the host's firewall.
//!
//! A Service is translated by the host after the bridge has seen the packet. An endpoint that is a pod brings it
//! back to the bridge and to policy; any other is met by the host alone, whose rules the agent
//! makes of this.

use std::collections::BTreeSet;
use std::net::IpAddr;

use antrea_flows::policy::{Direction, NamedService, Service};
use ipnet::IpNet;

use crate::reconciler::Reconciler;

/// Egress policy of this node's pods, without peers that are pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEgress {
    /// Addresses of pods that an egress policy isolates.
    pub isolated: BTreeSet<IpAddr>,
    /// What policies allow them all the same.
    pub allowed: Vec<Allowed>,
}

/// What a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// Addresses of pods.
    pub pods: BTreeSet<IpAddr>,
    /// Where to.
    pub nets: BTreeSet<IpNet>,
    /// Protocols and ports; empty is all.
    pub services: Vec<Service>,
}

impl Reconciler {
    /// Egress policy as the host needs it. Blocks have no named ports, so a rule's names allow nothing here.
    pub fn host_egress(&self) -> HostEgress {
        let mut egress = HostEgress::default();
        for (spec, pods) in self.rules_in_force(Direction::Out) {
            let pods: BTreeSet<IpAddr> = pods.flatten().copied().collect();
            egress.isolated.extend(&pods);
            let services: Vec<Service> = spec
                .services
                .iter()
                .filter_map(|service| match service {
                    NamedService::Plain(service) => Some(*service),
                    NamedService::Named { .. } => None,
                })
                .collect();
            if pods.is_empty() || spec.nets.is_empty() || (services.is_empty() && !spec.services.is_empty()) {
                continue;
            }
            egress.allowed.push(Allowed { pods, nets: spec.nets.clone(), services });
        }
        egress.allowed.sort_unstable();
        egress
    }
}
