//! Members that came to rules or went from them, while all else of their policies stays.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_flows::policy::{Action, MemberChange, Peers, Realizer, RuleChange};
use antrea_packet::DnsAnswer;
use ipnet::IpNet;

use super::Reconciler;
use crate::dns::{DnsCache, Learned, Receiver};
use crate::rules;

/// Peers of rules whose addresses change by themselves.
pub(super) enum PeerSet {
    /// An AddressGroup.
    Group(Arc<str>),
    /// A domain name.
    Fqdn(Arc<str>),
}

impl Reconciler {
    /// Has rules know what DNS answered pods, each of which addresses remain for `shortest` at least. Returns what became of
    /// each answer.
    pub fn learn_dns(
        &mut self,
        told: &[(Receiver, Vec<DnsAnswer>)],
        shortest: Duration,
        now: Instant,
    ) -> Vec<Vec<Learned>> {
        let pods = &self.pods;
        let learn = |dns: &mut DnsCache, (receiver, answers): &(Receiver, Vec<DnsAnswer>)| {
            let asker = match receiver {
                Receiver::Port(ofport) => {
                    pods.owners().get(ofport).map(|owner| Arc::new(owner.attachment.clone()))
                }
                // What is asked again may come when the pod has gone.
                Receiver::Attachment(attachment) => Some(attachment.clone()).filter(|attachment| {
                    pods.owners().values().any(|owner| owner.attachment == **attachment)
                }),
            };
            let learned = answers.iter().map(|answer| match &asker {
                Some(_) => dns.learn(&asker, answer, shortest, now),
                None => Learned::NoRoom,
            });
            learned.collect::<Vec<_>>()
        };
        self.cache.change_dns(|dns| told.iter().map(|told| learn(dns, told)).collect())
    }

    /// Ports of pods to which rules with domain names apply: what DNS answers them has to be known before they know it.
    pub fn askers(&self) -> BTreeSet<u32> {
        let policies = self.policies.iter().filter(|_| self.takes_native);
        let rules =
            policies.flat_map(|(name, realised)| realised.policy.rules.iter().map(move |spec| (name, spec)));
        let named = rules.filter(|(_, spec)| !spec.fqdns.is_empty());
        named.flat_map(|(name, spec)| rules::pods(spec, self.facts(name)).into_keys()).collect()
    }

    /// Members of AppliedToGroups, or their interfaces, changed. False: the policy has to be done as a whole.
    pub(super) fn change_pods(&self, name: &str, realizer: &Realizer, changes: &mut Vec<RuleChange>) -> bool {
        let Some(realised) = self.policies.get(name) else { return false };
        if self.cache.policy(name).is_none() {
            return false;
        }
        let mut found = Vec::new();
        for (spec, slot) in realised.policy.rules.iter().zip(&realised.slots) {
            let pods = rules::pods(spec, self.facts(name));
            if pods.is_empty() && slot.is_empty() {
                continue;
            }
            let only = if slot.len() == 1 { slot.values().next() } else { None };
            let Some(rule) = only.and_then(|id| realizer.rule(*id)) else { return false };
            // With its pods changes what domain names mean.
            if spec.has_named_ports() || !spec.fqdns.is_empty() || pods.is_empty() {
                return false;
            }
            let change = MemberChange {
                removed_pods: rule.pods.keys().filter(|ofport| !pods.contains_key(ofport)).copied().collect(),
                added_pods: pods
                    .into_iter()
                    .filter(|(ofport, ips)| rule.pods.get(ofport) != Some(ips))
                    .collect(),
                ..MemberChange::default()
            };
            if change != MemberChange::default() {
                found.push(RuleChange::Members(rule.id, change));
            }
        }
        changes.extend(found);
        true
    }

    /// These addresses came into or went from a set of peers. False: as above.
    pub(super) fn change_peers(
        &self,
        name: &str,
        set: &PeerSet,
        touched: &HashSet<IpAddr>,
        realizer: &Realizer,
        changes: &mut Vec<RuleChange>,
    ) -> bool {
        let Some(realised) = self.policies.get(name) else { return false };
        let mut found = Vec::new();
        for (spec, slot) in realised.policy.rules.iter().zip(&realised.slots) {
            let names = match set {
                PeerSet::Group(group) => spec.groups.contains(group),
                PeerSet::Fqdn(fqdn) => spec.fqdns.contains(fqdn),
            };
            if !names {
                continue;
            }
            // While its members mean nothing by their names, such a rule has none of these.
            if spec.has_named_ports() {
                return false;
            }
            if slot.is_empty() {
                continue;
            }
            // Everybody takes the place of members that nobody knows, until they are known.
            let unknown = |id| realizer.rule(id).is_none_or(|rule| rule.peers == Peers::Any);
            let becomes_known = spec.action != Action::Allow && slot.values().any(|id| unknown(*id));
            if becomes_known {
                return false;
            }
            let askers = if spec.fqdns.is_empty() {
                HashSet::new()
            } else {
                rules::askers(spec, rules::pods(spec, self.facts(name)).into_keys(), &self.pods)
            };
            let (added_peers, removed_peers) = touched
                .iter()
                .map(|ip| IpNet::from(*ip))
                .partition(|net| rules::is_peer(spec, &self.cache, &askers, net));
            let change = MemberChange { added_peers, removed_peers, ..MemberChange::default() };
            found.extend(slot.values().map(|id| RuleChange::Members(*id, change.clone())));
        }
        changes.extend(found);
        true
    }
}
