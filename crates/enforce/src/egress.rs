//! What egress policy says of packets that the bridge does not judge, for the host's firewall.
//!
//! A Service is translated by the host after the bridge has seen the packet. An endpoint that is a pod brings it
//! back to the bridge and to policy, unless it is a pod of a node that is reached without a tunnel; that and any other
//! is met by the host alone, whose rules the agent makes of this.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use antrea_flows::policy::{Action, Class, Direction, Peers, Rule, Service};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::reconciler::Reconciler;
use crate::rules;
use crate::spec::{RuleSpec, Standing};

/// Egress policy of this node's pods. Groups of pods are in it only where nodes are reached without a tunnel.
///
/// As in the pipeline, of [`Self::first`] the first rule that matches decides. Where it passes, or none matches, pods in
/// [`Self::isolated`] have what [`Self::allowed`] says and no more; of the others the first rule of [`Self::last`]
/// that matches decides, and what none does passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEgress {
    /// Native rules in their order.
    pub first: Vec<HostRule>,
    /// Addresses of pods that an egress policy of Kubernetes isolates.
    pub isolated: BTreeSet<IpAddr>,
    /// What policies of Kubernetes allow those.
    pub allowed: Vec<HostRule>,
    /// Rules of the baseline tier in their order.
    pub last: Vec<HostRule>,
    /// Addresses in the AddressGroups that rules name, and of their domain names.
    pub groups: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}

/// A rule as the host enforces it, which knows pods by their addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRule {
    /// What happens to what it matches.
    pub action: Action,
    /// Addresses of pods.
    pub pods: BTreeSet<IpAddr>,
    /// Where to.
    pub nets: BTreeSet<IpNet>,
    /// And to the members of these of [`HostEgress::groups`].
    pub groups: BTreeSet<Arc<str>>,
    /// Protocols and ports; empty is all.
    pub services: Vec<Service>,
}

impl HostEgress {
    /// The rules in the order in which they decide.
    pub fn rules(&self) -> impl Iterator<Item = &HostRule> {
        self.first.iter().chain(&self.allowed).chain(&self.last)
    }

    /// Pods to which something is forbidden, wherever they send it.
    pub fn restricted(&self) -> BTreeSet<IpAddr> {
        let denying = self.first.iter().chain(&self.last).filter(|rule| rule.action != Action::Allow);
        denying.flat_map(|rule| &rule.pods).chain(&self.isolated).copied().collect()
    }
}

impl Reconciler {
    /// Egress policy as the host needs it.
    pub fn host_egress(&self) -> HostEgress {
        let mut egress = HostEgress::default();
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for (spec, rule) in self.rules_in_force(Direction::Out) {
            if spec.standing == Standing::K8s {
                egress.isolated.extend(rule.pods.values().flatten());
            }
            let Some(found) = self.host_rule(spec, rule, &mut egress.groups) else { continue };
            match rule.class {
                Class::K8s => egress.allowed.push(found),
                Class::Native { priority } => first.push((priority, found)),
                Class::Baseline { priority } => last.push((priority, found)),
                // Of what comes in.
                Class::Service { .. } => {}
            }
        }
        egress.allowed.sort_unstable();
        egress.allowed.dedup();
        (egress.first, egress.last) = (in_order(first), in_order(last));
        egress
    }

    /// What a rule in force means to the host; none: nothing.
    fn host_rule(
        &self,
        spec: &RuleSpec,
        rule: &Rule,
        known: &mut BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    ) -> Option<HostRule> {
        let (mut nets, mut groups) = (BTreeSet::new(), BTreeSet::new());
        let askers = rules::askers(spec, rule.pods.keys().copied(), &self.pods);
        match &rule.peers {
            Peers::Any => nets.extend(everybody()),
            // What the host is given is the endpoint's already, or goes to what the bridge does not serve.
            Peers::Services(_) => {}
            // Names mean to each peer what it says; the rule knows.
            Peers::Of(peers) if spec.has_named_ports() => {
                let is_told = |net: &IpNet| {
                    spec.fqdns.iter().any(|fqdn| self.cache.dns().has(fqdn, &net.addr(), &askers))
                };
                let met = |net: &&IpNet| self.is_routed() || spec.nets.contains(*net) || is_told(net);
                nets.extend(peers.iter().filter(met).copied());
            }
            Peers::Of(_) => {
                nets.extend(&spec.nets);
                for name in &spec.groups {
                    let group = self.cache.address_group(name);
                    if let Some(group) = group.filter(|group| self.is_routed() || group.is_of_others()) {
                        known.entry(name.clone()).or_insert_with(|| group.ips().copied().collect());
                        groups.insert(name.clone());
                    }
                }
                for fqdn in &spec.fqdns {
                    // To another rule it may mean something else: what its pods were told.
                    let name: Arc<str> = format!("fqdn {fqdn} of rule {}", rule.id).into();
                    let told = self.cache.dns().addresses(std::slice::from_ref(fqdn), &askers);
                    known.insert(name.clone(), told.copied().collect());
                    groups.insert(name);
                }
            }
        }
        let pods: BTreeSet<IpAddr> = rule.pods.values().flatten().copied().collect();
        let meets_nobody = pods.is_empty() || (nets.is_empty() && groups.is_empty());
        let services = rule.services.clone();
        (!meets_nobody).then_some(HostRule { action: rule.action, pods, nets, groups, services })
    }

    /// Rules that are in force, each with what it was made of.
    fn rules_in_force(&self, direction: Direction) -> impl Iterator<Item = (&RuleSpec, &Rule)> {
        let rules =
            self.policies.values().flat_map(|realised| realised.policy.rules.iter().zip(&realised.slots));
        rules.filter(move |(spec, _)| spec.direction == direction).flat_map(move |(spec, slot)| {
            let ids = slot.values();
            ids.filter_map(move |id| Some((spec, self.realizer.as_ref()?.rule(*id)?)))
        })
    }
}

fn everybody() -> [IpNet; 2] {
    [Ipv4Net::default().into(), Ipv6Net::default().into()]
}

/// Rules by falling priority. Those of one priority do the same, so their order says nothing and is made one of content.
fn in_order(mut rules: Vec<(u16, HostRule)>) -> Vec<HostRule> {
    rules.sort_unstable_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.cmp(other)));
    rules.dedup();
    rules.into_iter().map(|(_, rule)| rule).collect()
}
