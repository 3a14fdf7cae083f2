//! From a rule of a policy to the rules that the flows are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use antrea_api::controlplane::ObjectReference;
use antrea_flows::policy::{
    Action, Class, Direction, NamedPort, NamedService, Peers, PodIps, Rule, Service, SortedSet,
    resolve_named_ports,
};
use ipnet::IpNet;

use crate::cache::Cache;
use crate::kept::Kept;
use crate::pods::{Attachment, LocalPods};
use crate::spec::{MemberKey, RuleSpec, Standing};

/// What a rule says to some of its members. A rule without named ports has one variant; with named ports
/// one for each meaning of the names, and one that does no more than isolate the pods to which they mean nothing. A native
/// rule has nothing to say to those, but for pods that only keep it: there one that denies denies everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Alternatives; empty is all traffic.
    pub(crate) services: Vec<Service>,
    /// Pods of this node.
    pub(crate) pods: BTreeMap<u32, PodIps>,
    /// The other end.
    pub(crate) peers: Peers,
}

impl Variant {
    /// The rule with an id.
    pub(crate) fn rule(self, id: u32, spec: &RuleSpec, (class, action): (Class, Action)) -> Rule {
        let Self { services, pods, peers } = self;
        let RuleSpec { direction, logs, .. } = *spec;
        let pods = pods.into_iter().collect();
        Rule { id, direction, class, action, pods, peers, services, logs }
    }
}

/// What the rules of a policy are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// What the controller said.
    pub cache: &'a Cache,
    /// Pods of this node.
    pub local: &'a LocalPods,
    /// The bridge serves Services.
    pub serves: bool,
    /// To everybody, by addresses of the node too.
    pub serves_all: bool,
    /// The policy's name, and pods that keep it.
    pub kept: Option<(&'a str, &'a Kept)>,
}

/// Pods of this node that the rule applies to, or the numbers of what comes to its Services.
pub(crate) fn pods(spec: &RuleSpec, facts: Facts<'_>) -> BTreeMap<u32, PodIps> {
    if !spec.on_services.is_empty() {
        return facts.cache.services().at_node(&spec.on_services);
    }
    applied(spec, facts).into_iter().map(|(ofport, (ips, _))| (ofport, ips.clone())).collect()
}

/// The pods among these that what DNS tells is asked of for the rule: none without domain names.
pub(crate) fn askers<'a>(
    spec: &RuleSpec,
    ofports: impl IntoIterator<Item = u32>,
    local: &'a LocalPods,
) -> HashSet<&'a Attachment> {
    if spec.fqdns.is_empty() { HashSet::new() } else { local.attachments(ofports) }
}

/// What is known of named ports: nothing of a pod that only keeps the policy.
type Applied<'a> = BTreeMap<u32, (&'a PodIps, Option<&'a [NamedPort]>)>;

/// Should two pods have one port (see [`LocalPods::set`]), the first by name decides what named ports mean. To a pod that
/// only keeps the policy they mean nothing any more.
fn applied<'a>(spec: &RuleSpec, facts: Facts<'a>) -> Applied<'a> {
    let Facts { cache, local, kept, .. } = facts;
    let mut applied: BTreeMap<u32, (&'a ObjectReference, &'a PodIps, Option<&'a [NamedPort]>)> =
        BTreeMap::new();
    for group in spec.applied_to.iter().filter_map(|name| cache.applied_to_group(name)) {
        for (key, member) in group.members() {
            let MemberKey::Pod(pod) = key else { continue };
            for (ofport, ips) in local.get(pod) {
                let known = applied.entry(ofport).or_insert((pod, ips, Some(&member.ports)));
                if pod < known.0 {
                    *known = (pod, ips, Some(&member.ports));
                }
            }
        }
    }
    let kept = kept.filter(|_| spec.keeps);
    for (ofport, owner) in kept.into_iter().flat_map(|(policy, kept)| kept.of(policy, spec.direction)) {
        if let Some((_, ips)) = local.get(&owner.pod).find(|(known, _)| *known == ofport) {
            applied.entry(ofport).or_insert((&owner.pod, ips, None));
        }
    }
    applied.into_iter().map(|(ofport, (_, ips, ports))| (ofport, (ips, ports))).collect()
}

/// The variants of a rule, none if it applies to no pod of this node. Groups that are not there allow nothing.
pub(crate) fn variants(spec: &RuleSpec, facts: Facts<'_>) -> Vec<Variant> {
    let cache = facts.cache;
    if !spec.on_services.is_empty() {
        let pods = pods(spec, facts);
        if pods.is_empty() || !facts.serves_all {
            return Vec::new();
        }
        return vec![Variant { services: Vec::new(), pods, peers: peers(spec, facts) }];
    }
    let applied = applied(spec, facts);
    if applied.is_empty() {
        return Vec::new();
    }
    let owned = |(ofport, (ips, _)): (&u32, &(&PodIps, _))| (*ofport, (*ips).clone());
    let all = || applied.iter().map(owned).collect::<BTreeMap<_, _>>();
    if !spec.has_named_ports() {
        let services = spec.services.iter().filter_map(|service| match service {
            NamedService::Plain(service) => Some(*service),
            NamedService::Named { .. } => None,
        });
        return vec![Variant { services: services.collect(), pods: all(), peers: peers(spec, facts) }];
    }
    // Different names may come to the same numbers.
    let mut by_services: BTreeMap<usize, Variant> = BTreeMap::new();
    let mut places: HashMap<Vec<Service>, usize> = HashMap::new();
    let mut place = |services: &Vec<Service>| {
        let next = places.len();
        *places.entry(services.clone()).or_insert(next)
    };
    let mut unheard = all();
    match spec.direction {
        Direction::In => {
            let known =
                applied.iter().filter(|(_, (_, ports))| ports.is_some() || spec.standing == Standing::K8s);
            let members = known.map(|(ofport, (_, ports))| (*ofport, ports.unwrap_or_default()));
            let peers = peers(spec, facts);
            for (services, ofports) in resolve_named_ports(&spec.services, members) {
                let pods = ofports.iter().filter_map(|ofport| unheard.remove_entry(ofport));
                let variant = by_services.entry(place(&services)).or_insert_with(|| Variant {
                    services,
                    pods: BTreeMap::new(),
                    peers: peers.clone(),
                });
                variant.pods.extend(pods);
            }
        }
        Direction::Out => {
            let blocks = spec.nets.iter().map(|net| (*net, &[][..]));
            let members = spec.groups.iter().filter_map(|name| cache.address_group(name)).flat_map(|group| {
                group.members().values().flat_map(|m| m.ips.iter().map(|ip| (IpNet::from(*ip), &*m.ports)))
            });
            // Of what is behind a domain name nobody knows ports.
            let askers = askers(spec, applied.keys().copied(), facts.local);
            let told = cache.dns().addresses(&spec.fqdns, &askers).map(|ip| (IpNet::from(*ip), &[][..]));
            let mut nets: BTreeMap<usize, BTreeSet<IpNet>> = BTreeMap::new();
            for (services, found) in resolve_named_ports(&spec.services, blocks.chain(members).chain(told)) {
                let at = place(&services);
                nets.entry(at).or_default().extend(found);
                let peers = Peers::Of(SortedSet::new());
                by_services.insert(at, Variant { services, pods: unheard.clone(), peers });
            }
            for (at, nets) in nets {
                if let Some(variant) = by_services.get_mut(&at) {
                    variant.peers = of(nets.into_iter().collect());
                }
            }
            if !by_services.is_empty() {
                unheard.clear();
            }
        }
    }
    if spec.standing != Standing::K8s {
        unheard.retain(|ofport, _| {
            spec.denies() && applied.get(ofport).is_some_and(|(_, ports)| ports.is_none())
        });
        if !unheard.is_empty() {
            let at = place(&Vec::new());
            let peers = peers(spec, facts);
            by_services
                .insert(at, Variant { services: Vec::new(), pods: std::mem::take(&mut unheard), peers });
        }
    }
    let mut variants: Vec<Variant> = by_services.into_values().collect();
    if !unheard.is_empty() {
        let peers = Peers::Of(SortedSet::new());
        variants.push(Variant { services: Vec::new(), pods: unheard, peers });
    }
    variants
}

fn peers(spec: &RuleSpec, facts: Facts<'_>) -> Peers {
    let cache = facts.cache;
    if !spec.to_services.is_empty() {
        let targets = cache.services().targets(&spec.to_services).filter(|_| facts.serves);
        return match targets {
            Some(targets) => Peers::Services(targets),
            // Where these are is not known, or what is sent to them cannot be told from other packets.
            None if spec.action == Action::Allow => Peers::Of(SortedSet::new()),
            None => Peers::Any,
        };
    }
    if spec.action != Action::Allow && spec.groups.iter().any(|name| cache.is_partial(name)) {
        return Peers::Any;
    }
    let mut nets = spec.nets.clone();
    for group in spec.groups.iter().filter_map(|name| cache.address_group(name)) {
        nets.extend(group.ips().map(|ip| IpNet::from(*ip)));
    }
    if !spec.fqdns.is_empty() {
        let askers = askers(spec, applied(spec, facts).into_keys(), facts.local);
        nets.extend(cache.dns().addresses(&spec.fqdns, &askers).map(|ip| IpNet::from(*ip)));
    }
    of(nets)
}

fn of(nets: SortedSet<IpNet>) -> Peers {
    let whole = |v6| nets.iter().any(|net| net.prefix_len() == 0 && matches!(net, IpNet::V6(_)) == v6);
    if whole(false) && whole(true) { Peers::Any } else { Peers::Of(nets) }
}

/// Whether an address is among the peers of a rule without named ports, whose domain names are what these pods were told.
pub(crate) fn is_peer(spec: &RuleSpec, cache: &Cache, askers: &HashSet<&Attachment>, net: &IpNet) -> bool {
    spec.nets.contains(net)
        || spec
            .groups
            .iter()
            .filter_map(|name| cache.address_group(name))
            .any(|group| group.contains(&net.addr()))
        || spec.fqdns.iter().any(|fqdn| cache.dns().has(fqdn, &net.addr(), askers))
}
