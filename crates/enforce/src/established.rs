//! Connections that are there when policy begins to deny them.
//!
//! What belongs to an established connection passes by all rules, so that a policy which is changed breaks nothing. An author
//! may want the opposite (`established: Reset`): then a connection that a rule of the policy would deny, were it begun now,
//! ends. This tells which those are, from the rules in force and what the connection tracker knows.
//!
//! The order decides as it does for first packets. A connection that something before the rule allows goes on, and so does
//! one that a policy denies which keeps connections, or that only the isolation by Kubernetes policies would not let begin.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use antrea_flows::policy::{
    Action, Class, Direction, Frontend, Peers, PortRange, Protocol, Rule, Service, SortedMap,
};
use ipnet::IpNet;

use crate::reconciler::{Realised, Reconciler};

/// A connection as it was begun: from the client to where its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    pub protocol: Protocol,
    /// Who began it; with port 0 where the protocol has no ports.
    pub client: SocketAddr,
    /// The server, if it was a Service the endpoint.
    pub server: SocketAddr,
    /// ICMP type and code of its first packet.
    pub icmp: Option<(u8, u8)>,
    /// What the client sent to, where the bridge translated that to the server.
    pub frontend: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
struct Ruling {
    rule: Rule,
    /// Its policy ends what it denies.
    resets: bool,
}

/// The rules of the pods of this node to which a policy with `established: Reset` denies something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resets {
    rulings: Vec<Ruling>,
    /// By pod: the places of its rules, in the order of evaluation.
    by_pod: HashMap<(Direction, IpAddr), Vec<usize>>,
    sources: HashMap<u32, Arc<str>>,
}

impl Resets {
    /// Whether no connection can be denied.
    pub fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    /// The Services of which it matters that a connection is to them.
    pub fn named_services(&self) -> HashSet<Frontend> {
        let named = self.rulings.iter().filter_map(|ruling| match &ruling.rule.peers {
            Peers::Services(targets) => Some(targets.values().flatten().copied()),
            _ => None,
        });
        named.flatten().collect()
    }

    /// The policy that wants the connection to end, for people, and seen from which of its ends; none: it goes on.
    pub fn denies(&self, connection: &Connection) -> Option<(&Arc<str>, Direction)> {
        let (client, server) = (connection.client.ip(), connection.server.ip());
        [(Direction::Out, client, server), (Direction::In, server, client)].into_iter().find_map(
            |(direction, pod, peer)| {
                let rule = self.ruling(self.by_pod.get(&(direction, pod))?, peer, connection)?;
                Some((self.sources.get(&rule.id)?, direction))
            },
        )
    }

    /// The rule that ends the connection: of those that decide about it, which all do the same, one that ends what it denies.
    fn ruling(&self, places: &[usize], peer: IpAddr, connection: &Connection) -> Option<&Rule> {
        let rulings = || places.iter().filter_map(|place| self.rulings.get(*place));
        let of_stage = |stage: u8| rulings().filter(move |ruling| stage_of(&ruling.rule) == stage);
        let matching = |stage| of_stage(stage).filter(|ruling| matches(&ruling.rule, peer, connection));
        let deciding = match matching(NATIVE).next() {
            Some(first) if first.rule.action != Action::Pass => first,
            // Whom Kubernetes policies isolate the baseline tier says nothing about.
            _ if of_stage(K8S).next().is_some() => return None,
            _ => matching(BASELINE).next()?,
        };
        let ends = |ruling: &&Ruling| ruling.rule.class == deciding.rule.class && ruling.ends();
        matching(stage_of(&deciding.rule)).find(ends).map(|ruling| &ruling.rule)
    }
}

impl Ruling {
    /// Whether connections that it matches end.
    fn ends(&self) -> bool {
        self.resets && denies(&self.rule)
    }
}

fn denies(rule: &Rule) -> bool {
    matches!(rule.action, Action::Drop | Action::Reject)
}

/// Pods of a rule.
fn ways(rule: &Rule) -> impl Iterator<Item = (Direction, IpAddr)> + '_ {
    rule.pods.values().flatten().map(|ip| (rule.direction, *ip))
}

const NATIVE: u8 = 0;
const K8S: u8 = 1;
const BASELINE: u8 = 2;

fn stage_of(rule: &Rule) -> u8 {
    match rule.class {
        Class::Native { .. } | Class::Service { .. } => NATIVE,
        Class::K8s => K8S,
        Class::Baseline { .. } => BASELINE,
    }
}

/// Its place among the rules of a pod: less is evaluated first.
fn place_of(rule: &Rule) -> (u8, u16, u32) {
    let falling = match rule.class {
        Class::Native { priority } | Class::Baseline { priority } | Class::Service { priority } => {
            u16::MAX - priority
        }
        Class::K8s => 0,
    };
    (stage_of(rule), falling, rule.id)
}

fn matches(rule: &Rule, peer: IpAddr, connection: &Connection) -> bool {
    let is_peer = match &rule.peers {
        Peers::Any => true,
        Peers::Of(nets) => {
            let longest = if peer.is_ipv4() { 32 } else { 128 };
            (0..=longest)
                .rev()
                .any(|length| IpNet::new(peer, length).is_ok_and(|net| nets.contains(&net.trunc())))
        }
        Peers::Services(targets) => connection.frontend.is_some_and(|address| {
            let frontend = Frontend { protocol: connection.protocol, address };
            targets.values().any(|frontends| frontends.contains(&frontend))
        }),
    };
    is_peer
        && (rule.services.is_empty() || rule.services.iter().any(|service| is_service(service, connection)))
}

fn is_service(service: &Service, connection: &Connection) -> bool {
    let Service { protocol, ports, src_ports, icmp_type, icmp_code } = *service;
    let within = |range: Option<PortRange>, port| range.is_none_or(|range| range.contains(port));
    let is = |wanted: Option<u8>, found: Option<u8>| wanted.is_none_or(|wanted| found == Some(wanted));
    let (kind, code) = connection.icmp.unzip();
    protocol == connection.protocol
        && within(ports, connection.server.port())
        && within(src_ports, connection.client.port())
        && is(icmp_type, kind)
        && is(icmp_code, code)
}

impl Reconciler {
    /// Whose connections policies end; empty if no policy does.
    pub fn resets(&self) -> Resets {
        let rules = |realised| self.rules_of(realised);
        let resetting = || self.policies.values().filter(|realised| realised.policy.resets);
        let concerned: HashSet<_> =
            resetting().flat_map(rules).filter(|rule| denies(rule)).flat_map(ways).collect();
        if concerned.is_empty() {
            return Resets::default();
        }
        let mut resets = Resets::default();
        for realised in self.policies.values() {
            let policy = &realised.policy;
            for rule in rules(realised).filter(|rule| ways(rule).any(|way| concerned.contains(&way))) {
                if policy.resets {
                    resets.sources.insert(rule.id, policy.source.clone());
                }
                resets.rulings.push(Ruling { rule: rule.clone(), resets: policy.resets });
            }
        }
        resets.rulings.sort_unstable_by_key(|ruling| place_of(&ruling.rule));
        for (place, Ruling { rule, .. }) in resets.rulings.iter().enumerate() {
            for way in ways(rule).filter(|way| concerned.contains(way)) {
                resets.by_pod.entry(way).or_default().push(place);
            }
        }
        resets
    }

    /// Rules of a policy that are in force.
    fn rules_of<'a>(&'a self, realised: &'a Realised) -> impl Iterator<Item = &'a Rule> {
        let ids = realised.slots.iter().flat_map(SortedMap::values);
        ids.filter_map(|id| self.realizer.as_ref()?.rule(*id))
    }
}
