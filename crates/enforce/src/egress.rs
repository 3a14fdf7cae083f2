//! What egress policy says of packets that the bridge does not judge, for the host's firewall.
//!
//! A Service is translated by the host after the bridge has seen the packet. An endpoint that is a pod brings it
//! back to the bridge and to policy, unless it is a pod of a node that is reached without a tunnel; that and any other
//! is met by the host alone, whose rules the agent makes of this.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use antrea_flows::policy::{Direction, NamedService, Peers, Rule, Service};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::reconciler::Reconciler;
use crate::spec::{RuleSpec, Standing};

/// Egress policy of this node's pods. Peers that are pods are in it only where nodes are reached without a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEgress {
    /// Addresses of pods that an egress policy isolates.
    pub isolated: BTreeSet<IpAddr>,
    /// Addresses in the AddressGroups that [`Self::allowed`] names.
    pub groups: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// What policies allow them all the same.
    pub allowed: Vec<Allowed>,
}

/// What a rule allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    pub pods: BTreeSet<IpAddr>,
    /// Where to.
    pub nets: BTreeSet<IpNet>,
    /// And to the members of these AddressGroups.
    pub groups: BTreeSet<Arc<str>>,
    /// Protocols and ports; empty is all.
    pub services: Vec<Service>,
}

impl Reconciler {
    /// Egress policy as the host needs it.
    pub fn host_egress(&self) -> HostEgress {
        let mut egress = HostEgress::default();
        for (spec, slot) in self.rules_in_force(Direction::Out) {
            let pods: BTreeSet<IpAddr> = addresses(slot.clone());
            egress.isolated.extend(&pods);
            if self.is_routed() && spec.has_named_ports() {
                // Names mean to each peer what it says; the rules know.
                egress.allowed.extend(slot.filter_map(resolved));
                continue;
            }
            let groups = if self.is_routed() { &spec.groups[..] } else { &[] };
            let services: Vec<Service> = spec
                .services
                .iter()
                .filter_map(|service| match service {
                    NamedService::Plain(service) => Some(*service),
                    // Blocks have no named ports: the name allows nothing here.
                    NamedService::Named { .. } => None,
                })
                .collect();
            let nothing = spec.nets.is_empty() && groups.is_empty();
            if pods.is_empty() || nothing || (services.is_empty() && !spec.services.is_empty()) {
                continue;
            }
            for name in groups {
                if let Some(group) = self.cache.address_group(name) {
                    egress.groups.entry(name.clone()).or_insert_with(|| group.ips().copied().collect());
                }
            }
            let groups = groups.iter().filter(|name| egress.groups.contains_key(*name)).cloned().collect();
            egress.allowed.push(Allowed { pods, nets: spec.nets.clone(), groups, services });
        }
        egress.allowed.sort_unstable();
        egress.allowed.dedup();
        egress
    }

    /// Rules of Kubernetes policies that are in force.
    fn rules_in_force(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (&RuleSpec, impl Iterator<Item = &Rule> + Clone)> {
        let rules =
            self.policies.values().flat_map(|realised| realised.policy.rules.iter().zip(&realised.slots));
        let is_such = move |spec: &RuleSpec| spec.direction == direction && spec.standing == Standing::K8s;
        rules.filter(move |(spec, _)| is_such(spec)).map(|(spec, slot)| {
            let ids = HashMap::values(slot);
            (spec, ids.filter_map(|id| self.realizer.as_ref()?.rule(*id)))
        })
    }
}

fn addresses<'a>(rules: impl Iterator<Item = &'a Rule>) -> BTreeSet<IpAddr> {
    rules.flat_map(|rule| rule.pods.values()).flatten().copied().collect()
}

/// What a rule without names allows.
fn resolved(rule: &Rule) -> Option<Allowed> {
    let nets = match &rule.peers {
        Peers::Any => [Ipv4Net::default().into(), Ipv6Net::default().into()].into(),
        Peers::Of(nets) => nets.clone(),
    };
    let allowed = Allowed {
        pods: addresses(std::iter::once(rule)),
        nets,
        groups: BTreeSet::new(),
        services: rule.services.clone(),
    };
    (!allowed.nets.is_empty() && !allowed.pods.is_empty()).then_some(allowed)
}
