//! From rules of policies to chains that pods share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use antrea_enforce::egress::HostRule;
use antrea_flows::policy::{Action, PortRange, Protocol, Service};
use antrea_policy::ports;
use ipnet::IpNet;
use netcfg::Family;
use netcfg::nft::{Chain, Match, Rule, Set, Table, Verdict};
use sha1::{Digest, Sha1};

use super::{Egress, IGMP, SCTP, TCP, UDP, icmp};

/// Most rules of pods' chains in one family, ranges of ports among them. Pods for whose rules there is no room may do
/// nothing; those with most come last.
pub(super) const MAX_RULES: usize = 4096;

/// A rule of a policy that is not larger stands in the chains of pods itself; a larger one has a chain that they share.
const INLINE: usize = 1;

/// What becomes of pods.
pub(super) struct PodChains {
    /// All chains but those of hooks.
    pub(super) table: Table,
    /// Pods for whose rules there is no room.
    pub(super) left_out: BTreeSet<IpAddr>,
}

/// Which rules apply to a pod, by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Profile {
    first: Vec<usize>,
    isolated: bool,
    allowed: Vec<usize>,
    last: Vec<usize>,
}

/// Chains and sets that something needs, and what they cost.
#[derive(Clone, Debug, Default)]
struct Parts {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Set>,
}

/// Chains for all pods of a family, and the map that leads to them.
pub(super) fn of_pods(egress: &Egress, family: Family, name: &'static str, pods: &str) -> PodChains {
    let policy = &egress.policy;
    let mut profiles: BTreeMap<IpAddr, Profile> = egress
        .pods
        .iter()
        .filter(|ip| Family::from(**ip) == family)
        .map(|ip| (*ip, Profile::default()))
        .collect();
    for (ip, profile) in &mut profiles {
        profile.isolated = policy.isolated.contains(ip);
    }
    note(&mut profiles, &policy.first, |profile| &mut profile.first);
    note(&mut profiles, &policy.allowed, |profile| &mut profile.allowed);
    note(&mut profiles, &policy.last, |profile| &mut profile.last);
    let mut alike: BTreeMap<Profile, Vec<IpAddr>> = BTreeMap::new();
    for (ip, profile) in profiles {
        alike.entry(profile).or_default().push(ip);
    }
    let mut made: Vec<(usize, Verdict, Parts, Vec<IpAddr>)> = alike
        .into_iter()
        .map(|(profile, pods)| {
            let (verdict, parts) = Maker { egress, family, parts: Parts::default() }.profile(&profile);
            (parts.cost(), verdict, parts, pods)
        })
        .collect();
    made.sort_by_key(|(cost, ..)| *cost);
    let (mut all, mut left_out, mut map) = (Parts::default(), BTreeSet::new(), BTreeMap::new());
    let mut used = 0;
    for (_, verdict, parts, pods) in made {
        let new = parts.without(&all);
        if used + new.cost() > MAX_RULES {
            map.extend(pods.iter().map(|ip| (*ip, Verdict::Drop)));
            left_out.extend(pods);
            continue;
        }
        used += new.cost();
        all.chains.extend(new.chains);
        all.sets.extend(new.sets);
        map.extend(pods.into_iter().map(|ip| (ip, verdict.clone())));
    }
    let Parts { chains, mut sets } = all;
    // A rule that says what comes anyway is left out, and nobody needs its set.
    let matches = chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.matches);
    let needed: BTreeSet<&String> =
        matches.filter_map(|one| if let Match::DstIn(name) = one { Some(name) } else { None }).collect();
    sets.retain(|name, _| needed.contains(name));
    let table = Table { family, name, chains, sets, maps: [(pods.to_owned(), map)].into() };
    PodChains { table, left_out }
}

fn note(
    profiles: &mut BTreeMap<IpAddr, Profile>,
    rules: &[HostRule],
    list: fn(&mut Profile) -> &mut Vec<usize>,
) {
    for (at, rule) in rules.iter().enumerate() {
        for ip in &rule.pods {
            profiles.get_mut(ip).into_iter().for_each(|profile| list(profile).push(at));
        }
    }
}

impl Parts {
    fn cost(&self) -> usize {
        self.chains.values().flat_map(|chain| &chain.rules).map(cost).sum()
    }

    fn without(self, known: &Self) -> Self {
        let Self { mut chains, mut sets } = self;
        chains.retain(|name, _| !known.chains.contains_key(name));
        sets.retain(|name, _| !known.sets.contains_key(name));
        Self { chains, sets }
    }
}

fn cost(rule: &Rule) -> usize {
    let more = |one: &Match| if let Match::Ports { ranges, .. } = one { ranges.len() - 1 } else { 0 };
    1 + rule.matches.iter().map(more).sum::<usize>()
}

struct Maker<'a> {
    egress: &'a Egress,
    family: Family,
    parts: Parts,
}

impl Maker<'_> {
    /// Where the rules of pods of a profile begin.
    fn profile(mut self, profile: &Profile) -> (Verdict, Parts) {
        let egress = self.egress;
        let policy = &egress.policy;
        let mut next = Verdict::Accept;
        let last = self.chain(&policy.last, &profile.last, &Verdict::Drop, &next);
        next = self.put("B", last, next);
        if profile.isolated {
            let allowed = self.chain(&policy.allowed, &profile.allowed, &Verdict::Drop, &Verdict::Drop);
            next = self.put("K", allowed, Verdict::Drop);
        }
        let first = self.chain(&policy.first, &profile.first, &next, &next);
        (self.put("F", first, next), self.parts)
    }

    /// The rules of a chain; `pass` is where Pass leads, `end` what happens to what no rule decides.
    fn chain(&mut self, rules: &[HostRule], which: &[usize], pass: &Verdict, end: &Verdict) -> Vec<Rule> {
        let mut chain = Vec::new();
        for rule in which.iter().filter_map(|at| rules.get(*at)) {
            let verdict = match rule.action {
                Action::Allow => Verdict::Accept,
                Action::Drop | Action::Reject => Verdict::Drop,
                Action::Pass => pass.clone(),
            };
            let found = self.rule(rule, &verdict);
            // Where Pass leads differs from pod to pod.
            if found.len() <= INLINE || rule.action == Action::Pass {
                chain.extend(found);
            } else {
                let name = self.share("R", found);
                chain.push(Rule::new(Verdict::Jump(name)));
            }
        }
        // What decides as the end does decides nothing there.
        while chain.last().is_some_and(|rule| rule.verdict == *end) {
            chain.pop();
        }
        chain
    }

    /// A chain of these rules and then the end, and what leads there.
    fn put(&mut self, kind: &str, mut rules: Vec<Rule>, end: Verdict) -> Verdict {
        if rules.is_empty() {
            return end;
        }
        rules.push(Rule::new(end));
        Verdict::Goto(self.share(kind, rules))
    }

    fn share(&mut self, kind: &str, rules: Vec<Rule>) -> String {
        let name = named(kind, rules.iter().map(|rule| format!("{rule:?}")));
        self.parts.chains.insert(name.clone(), Chain { hook: None, rules });
        name
    }

    /// What one rule of a policy comes to.
    fn rule(&mut self, rule: &HostRule, verdict: &Verdict) -> Vec<Rule> {
        let mut to = Vec::new();
        let nets: BTreeSet<IpNet> =
            rule.nets.iter().copied().filter(|net| Family::from(*net) == self.family).collect();
        if nets.iter().any(|net| net.prefix_len() == 0) {
            to.push(Rule::new(verdict.clone()));
        } else if let (Some(net), 1) = (nets.first(), nets.len()) {
            to.push(Rule::new(verdict.clone()).when(Match::Dst(*net)));
        } else if !nets.is_empty() {
            let name = named("N", &nets);
            to.push(Rule::new(verdict.clone()).when(Match::DstIn(name.clone())));
            self.parts.sets.insert(name, Set::of_nets(nets));
        }
        for group in &rule.groups {
            let name = named("G", [group]);
            to.push(Rule::new(verdict.clone()).when(Match::DstIn(name.clone())));
            let members = self.members(group);
            self.parts.sets.insert(name, Set::Addresses(members));
        }
        if rule.services.is_empty() {
            return to;
        }
        let services = services(&rule.services, self.family);
        let narrowed = to.iter().flat_map(|rule| {
            services
                .iter()
                .map(|service| service.iter().fold(rule.clone(), |rule, one| rule.when(one.clone())))
        });
        narrowed.collect()
    }

    fn members(&self, group: &Arc<str>) -> BTreeSet<IpAddr> {
        let members = self.egress.policy.groups.get(group).into_iter().flatten().copied();
        members.filter(|ip| Family::from(*ip) == self.family).collect()
    }
}

/// The alternatives of what is matched. Destination ports of a protocol that differ in nothing else are one.
fn services(services: &[Service], family: Family) -> Vec<Vec<Match>> {
    let mut ranges: BTreeMap<(Protocol, Option<PortRange>), Vec<PortRange>> = BTreeMap::new();
    let mut others = Vec::new();
    for service in services {
        match service.protocol {
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => ranges
                .entry((service.protocol, service.src_ports))
                .or_default()
                .push(service.ports.unwrap_or(PortRange::ALL)),
            Protocol::Icmp => {
                let kind = service.icmp_type.map(|kind| Match::IcmpType(kind, kind));
                let code = service.icmp_code.map(Match::IcmpCode);
                others.push([Match::Protocol(icmp(family))].into_iter().chain(kind).chain(code).collect());
            }
            Protocol::Igmp if family == Family::V4 => others.push(vec![Match::Protocol(IGMP)]),
            Protocol::Igmp => {}
        }
    }
    let transport = ranges.into_iter().map(|((protocol, from), to)| {
        let (name, number) = match protocol {
            Protocol::Udp => ("udp", UDP),
            Protocol::Sctp => ("sctp", SCTP),
            _ => ("tcp", TCP),
        };
        let ports = |which, ranges: Vec<PortRange>| {
            let ranges: Vec<_> = ranges.iter().map(|range| (range.first(), range.last())).collect();
            Match::Ports { protocol: name, which, ranges }
        };
        let (from, to) = (from.unwrap_or(PortRange::ALL), ports::merge(to));
        let mut matches = vec![Match::Protocol(number)];
        matches.extend((from != PortRange::ALL).then(|| ports("sport", vec![from])));
        matches.extend((to != [PortRange::ALL]).then(|| ports("dport", to)));
        matches
    });
    transport.chain(others).collect()
}

/// A name that follows from content. Tenants choose the content, so it has to be hard to hit that of another one's: 80
/// bits of SHA-1 beside the kind.
fn named(kind: &str, content: impl IntoIterator<Item = impl Display>) -> String {
    let mut hash = Sha1::new();
    for part in content {
        hash.update(format!("{part} "));
    }
    let digest: String = hash.finalize().iter().take(10).map(|octet| format!("{octet:02x}")).collect();
    format!("{kind}-{digest}")
}
