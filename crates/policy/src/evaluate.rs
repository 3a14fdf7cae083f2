//! Which rules decide about what one endpoint sends to another. For people who ask: agents enforce policies by flows,
//! and what is said here is what those flows do.
//!
//! ```text
//!  egress policies of the sender, then ingress policies of the receiver, each:
//!    native tiers ─(no rule, or Pass)─► Kubernetes policies ─(not isolated)─► baseline tier ─(no rule)─► allowed
//!      Allow, Drop, Reject                 a rule allows, else denied           Allow, Drop, Reject
//! ```
//!
//! Invariants
//! - Rules are looked at in the order in which the bridge has them: by priority of the tier, of the policy, and of the
//!   rule in it; of equal ones, what denies is first.
//! - A named port is what the destination calls so: of egress rules only where a group, not a block, names the
//!   destination.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    Action, Direction, GroupName, IpBlock, NamedPort, NetworkPolicy, PolicyKind, Port, Protocol, Rule,
    Service, ServiceName,
};

/// Priority of the baseline tier, whose rules come after Kubernetes policies.
const BASELINE_TIER: i32 = 253;

/// A Pod, or an address that is no Pod's, as policies see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    /// Policies that apply to it by any of their rules, by name.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// AppliedToGroups that hold it.
    pub applied_to_groups: BTreeSet<GroupName>,
    /// AddressGroups that hold it.
    pub address_groups: BTreeSet<GroupName>,
    pub ips: Vec<IpAddr>,
    /// Named container ports.
    pub ports: Vec<NamedPort>,
    /// Services by whose addresses it is reached, where the bridge of the sender's Node serves them.
    pub services: BTreeSet<ServiceName>,
}

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Traffic {
    /// TCP, UDP or SCTP from and to these ports.
    Transport { protocol: Protocol, src: u16, dst: u16 },
    /// ICMP or ICMPv6 of this type and code.
    Icmp { kind: u8, code: u8 },
}

/// When a rule is looked at.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stage {
    /// Rules of native policies before the baseline tier.
    Native,
    /// Rules of Kubernetes policies.
    Kubernetes,
    /// Rules of the baseline tier.
    Baseline,
}

/// Whether a rule is about the traffic, and if not, why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fit {
    Matches,
    /// It names others on its other side.
    OtherPeer,
    /// It is about other protocols or ports.
    OtherService,
    /// It is about a port of this name, which the destination does not have.
    UnknownPort(Box<str>),
}

/// A rule that applies to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub policy: Arc<NetworkPolicy>,
    /// Position in the computed policy.
    pub at: usize,
    pub fit: Fit,
}

/// Why it is decided as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// No rule says anything: allowed.
    Nothing,
    Rule(Candidate),
    /// These Kubernetes policies isolate the endpoint, and no rule allows it: denied.
    Isolated(Vec<Arc<NetworkPolicy>>),
}

/// What policies of one end decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Allow, Drop or Reject.
    pub action: Action,
    pub cause: Cause,
    /// The rule that left it to Kubernetes policies.
    pub passed: Option<Candidate>,
    /// All rules that apply to the endpoint, in the order in which they are looked at.
    pub considered: Vec<Candidate>,
}

/// What policies of both ends decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    pub egress: Decision,
    pub ingress: Decision,
}

impl Candidate {
    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> &Rule {
        &self.policy.rules[self.at]
    }

    /// Position among the ingress or egress rules of the policy as it is written, as far as no rule before it was
    /// left out.
    #[must_use]
    pub fn index(&self) -> usize {
        index(&self.policy, self.at)
    }

    /// When it is looked at.
    #[must_use]
    pub fn stage(&self) -> Stage {
        stage(&self.policy)
    }

    /// What it does with what it matches: behind the baseline tier there is nothing to pass to.
    #[must_use]
    pub fn action(&self) -> Action {
        match self.rule().action {
            Action::Pass if self.stage() == Stage::Baseline => Action::Drop,
            action => action,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        let (a, b) = (self.rule(), other.rule());
        let priority = |policy: &NetworkPolicy| policy.priority.unwrap_or_default();
        let denies = |rule: &Rule| matches!(rule.action, Action::Drop | Action::Reject);
        self.stage()
            .cmp(&other.stage())
            .then_with(|| self.policy.tier_priority.cmp(&other.policy.tier_priority))
            .then_with(|| priority(&self.policy).total_cmp(&priority(&other.policy)))
            .then_with(|| a.priority.cmp(&b.priority))
            .then_with(|| denies(b).cmp(&denies(a)))
            .then_with(|| (&self.policy.name, self.at).cmp(&(&other.policy.name, other.at)))
    }
}

impl Decision {
    /// Whether the traffic passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.action == Action::Allow
    }
}

impl Evaluation {
    /// The end whose policies decide: where it is denied, and else where the rule stands that is looked at first. None
    /// if no policy says anything.
    #[must_use]
    pub fn deciding(&self) -> Option<(Direction, &Decision)> {
        let ends = [(Direction::Out, &self.egress), (Direction::In, &self.ingress)];
        let rule = |decision: &Decision| match &decision.cause {
            Cause::Rule(rule) => Some(rule.clone()),
            _ => None,
        };
        if let Some(denied) = ends.iter().find(|(_, decision)| !decision.is_allowed()) {
            return Some(*denied);
        }
        match (rule(&self.egress), rule(&self.ingress)) {
            (None, None) => None,
            (Some(a), Some(b)) if a.order(&b) == Ordering::Greater => Some(ends[1]),
            (Some(_), _) => Some(ends[0]),
            (None, Some(_)) => Some(ends[1]),
        }
    }
}

/// Position of a rule among those of its direction as they are written.
#[must_use]
pub fn index(policy: &NetworkPolicy, at: usize) -> usize {
    let rule = &policy.rules[at];
    // One rule of a native policy may have become several.
    usize::try_from(rule.priority).unwrap_or_else(|_| {
        policy.rules[..at].iter().filter(|before| before.direction == rule.direction).count()
    })
}

/// What policies decide of what `source` sends to `destination`; without `traffic` every rule is taken to be about it
/// whatever its protocol and ports.
#[must_use]
pub fn evaluate(source: &Endpoint, destination: &Endpoint, traffic: Option<Traffic>) -> Evaluation {
    Evaluation {
        egress: decide(Direction::Out, source, destination, traffic),
        ingress: decide(Direction::In, destination, source, traffic),
    }
}

/// What the policies of `subject` decide in one direction.
#[must_use]
pub fn decide(
    direction: Direction,
    subject: &Endpoint,
    peer: &Endpoint,
    traffic: Option<Traffic>,
) -> Decision {
    let mut considered = Vec::new();
    for policy in &subject.policies {
        for (at, rule) in policy.rules.iter().enumerate() {
            let groups = policy.applied_to_of(rule);
            let applies = groups.iter().any(|group| subject.applied_to_groups.contains(group));
            if rule.direction == direction && applies {
                let fit = fit(rule, subject, peer, traffic);
                considered.push(Candidate { policy: Arc::clone(policy), at, fit });
            }
        }
    }
    considered.sort_by(Candidate::order);
    let first = |stage| {
        let matching = |rule: &&Candidate| rule.stage() == stage && rule.fit == Fit::Matches;
        considered.iter().find(matching).cloned()
    };
    let native = first(Stage::Native);
    let passed = native.clone().filter(|rule| rule.action() == Action::Pass);
    let mut isolating: Vec<Arc<NetworkPolicy>> = considered
        .iter()
        .filter(|rule| rule.stage() == Stage::Kubernetes)
        .map(|rule| Arc::clone(&rule.policy))
        .collect();
    isolating.dedup_by(|a, b| a.name == b.name);
    let rule = match native.filter(|_| passed.is_none()) {
        Some(rule) => Some(rule),
        None if isolating.is_empty() => first(Stage::Baseline),
        None => first(Stage::Kubernetes),
    };
    let (action, cause) = match rule {
        Some(rule) => (rule.action(), Cause::Rule(rule)),
        None if isolating.is_empty() => (Action::Allow, Cause::Nothing),
        None => (Action::Drop, Cause::Isolated(isolating)),
    };
    Decision { action, cause, passed, considered }
}

fn stage(policy: &NetworkPolicy) -> Stage {
    match (policy.source.kind, policy.tier_priority) {
        (PolicyKind::K8sNetworkPolicy, _) => Stage::Kubernetes,
        (_, Some(tier)) if tier >= BASELINE_TIER => Stage::Baseline,
        _ => Stage::Native,
    }
}

fn fit(rule: &Rule, subject: &Endpoint, peer: &Endpoint, traffic: Option<Traffic>) -> Fit {
    let by_group = rule.peer.address_groups.iter().any(|group| peer.address_groups.contains(group));
    let by_block = || rule.peer.ip_blocks.iter().any(|block| peer.ips.iter().any(|ip| holds(block, *ip)));
    let by_service = || rule.peer.to_services.iter().any(|service| peer.services.contains(service));
    if !by_group && !by_block() && !by_service() {
        return Fit::OtherPeer;
    }
    let Some(traffic) = traffic.filter(|_| !rule.services.is_empty()) else { return Fit::Matches };
    let ports: &[NamedPort] = match rule.direction {
        Direction::In => &subject.ports,
        Direction::Out if by_group => &peer.ports,
        Direction::Out => &[],
    };
    let mut fit = Fit::OtherService;
    for service in &rule.services {
        match service_fit(service, traffic, ports) {
            Fit::Matches => return Fit::Matches,
            unknown @ Fit::UnknownPort(_) => fit = unknown,
            _ => {}
        }
    }
    fit
}

fn holds(block: &IpBlock, ip: IpAddr) -> bool {
    block.cidr.contains(&ip) && !block.except.iter().any(|except| except.contains(&ip))
}

fn service_fit(service: &Service, traffic: Traffic, ports: &[NamedPort]) -> Fit {
    let matches = |fits: bool| if fits { Fit::Matches } else { Fit::OtherService };
    let within = |first: Option<u16>, last: Option<u16>, port: u16| {
        first.is_none_or(|first| (first..=last.unwrap_or(first)).contains(&port))
    };
    match traffic {
        Traffic::Icmp { kind, code } => {
            let fits = |wanted: Option<u8>, is: u8| wanted.is_none_or(|wanted| wanted == is);
            matches(
                service.protocol == Protocol::Icmp
                    && fits(service.icmp_type, kind)
                    && fits(service.icmp_code, code),
            )
        }
        Traffic::Transport { protocol, src, dst } => {
            if service.protocol != protocol || !within(service.src_port, service.src_end_port, src) {
                return Fit::OtherService;
            }
            match &service.port {
                None => Fit::Matches,
                Some(Port::Number(first)) => matches(within(Some(*first), service.end_port, dst)),
                Some(Port::Name(name)) => {
                    let mut named = ports
                        .iter()
                        .filter(|port| port.name == *name && port.protocol == protocol)
                        .peekable();
                    if named.peek().is_none() {
                        return Fit::UnknownPort(name.clone());
                    }
                    matches(named.any(|port| port.port == dst))
                }
            }
        }
    }
}
