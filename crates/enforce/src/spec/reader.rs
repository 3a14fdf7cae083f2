//! From a policy's message to its rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use antrea_api::controlplane::{self, NetworkPolicyPeer, NetworkPolicyRule, ObjectReference};
use antrea_flows::policy::{Action, Direction, NamedService, PortRange, Protocol, Service};
use antrea_policy::cidr::{self, CidrError};
use antrea_policy::limits::{Budget, TooLarge};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{RuleSpec, Standing, net};
use crate::order::Rank;

/// Problems that are kept of a policy; of more only the number is told.
pub(super) const PROBLEMS: usize = 16;

/// Priority of the baseline tier and of those after it, which come after Kubernetes policies.
const BASELINE_TIER: i32 = 253;

const BOTH: [Direction; 2] = [Direction::In, Direction::Out];

/// What a rule says of services and addresses.
type Contents = (Vec<NamedService>, BTreeSet<IpNet>);

/// What a native rule says of services and peers.
struct Native {
    services: Vec<NamedService>,
    nets: BTreeSet<IpNet>,
    groups: Vec<Arc<str>>,
    fqdns: Vec<Arc<str>>,
    to_services: Vec<Arc<str>>,
}

impl Native {
    /// All traffic, from and to everybody.
    fn all() -> Self {
        Self::of((Vec::new(), everybody()), None)
    }

    /// What `peer` lists, or nobody beside `nets`.
    fn of((services, nets): Contents, peer: Option<&NetworkPolicyPeer>) -> Self {
        let (groups, fqdns) = peer.map(|peer| (groups(peer), fqdns(peer))).unwrap_or_default();
        let to_services = peer.map(|peer| references(&peer.to_services)).unwrap_or_default();
        Self { services, nets, groups, fqdns, to_services }
    }

    fn meets_nobody(&self) -> bool {
        self.nets.is_empty() && self.groups.is_empty() && self.fqdns.is_empty() && self.to_services.is_empty()
    }
}

/// Reads the rules of one policy.
#[derive(Default)]
pub(super) struct Reader {
    at: usize,
    problems: Vec<String>,
    more: usize,
    budget: Budget,
}

impl Reader {
    /// What could not be read or is not supported.
    pub(super) fn into_problems(self) -> Vec<String> {
        let mut problems = self.problems;
        if self.more > 0 {
            problems.push(format!("{} more", self.more));
        }
        problems
    }

    fn problem(&mut self, text: impl std::fmt::Display) {
        let at = self.at;
        self.tell(format!("rule {at}: {text}"));
    }

    fn tell(&mut self, text: String) {
        if self.problems.len() < PROBLEMS {
            self.problems.push(text);
        } else {
            self.more += 1;
        }
    }

    /// The rules of a Kubernetes policy.
    pub(super) fn k8s(&mut self, message: &controlplane::NetworkPolicy) -> Vec<RuleSpec> {
        let (mut rules, mut isolating) = (Vec::new(), Vec::new());
        let of_policy = named(&message.applied_to_groups);
        for (i, rule) in message.rules.iter().enumerate() {
            self.at = i;
            for rule in self.k8s_rule(rule, &applied_to(rule, &of_policy)) {
                if rule.says_nothing() {
                    // One that only isolates does what many do, and there is no other limit to their number.
                    if isolating.contains(&rule) {
                        continue;
                    }
                    isolating.push(rule.clone());
                }
                rules.push(rule);
            }
        }
        rules
    }

    fn k8s_rule(&mut self, rule: &NetworkPolicyRule, applied_to: &[Arc<str>]) -> Vec<RuleSpec> {
        let isolate = |direction| RuleSpec {
            logs: rule.enable_logging,
            ..RuleSpec::isolating(direction, applied_to.to_vec())
        };
        let (direction, peer) = match sides(rule) {
            Ok(sides) => sides,
            Err(other) => {
                self.problem(format_args!("direction {other:?}, isolating both"));
                return BOTH.map(isolate).into();
            }
        };
        if let Some(action) = rule.action.as_deref().filter(|action| *action != "Allow") {
            self.problem(format_args!("action {action:?} in a Kubernetes policy"));
            return vec![isolate(direction)];
        }
        if !(peer.fqdns.is_empty() && peer.to_services.is_empty() && peer.label_identities.is_empty()) {
            self.problem("peers of a kind that Kubernetes policies do not have");
        }
        match self.allowed(rule, peer) {
            Ok(Some((services, nets))) => {
                let nets = nets.into_iter().collect();
                vec![RuleSpec { groups: groups(peer), nets, services, ..isolate(direction) }]
            }
            Ok(None) => vec![isolate(direction)],
            Err(error) => {
                self.problem(error);
                vec![isolate(direction)]
            }
        }
    }

    /// The rules of a native policy.
    pub(super) fn native(&mut self, message: &controlplane::NetworkPolicy) -> Vec<RuleSpec> {
        let place = match (message.tier_priority, message.priority) {
            (Some(tier), Some(priority)) if !priority.is_nan() => Some((tier, priority)),
            _ => {
                self.tell("no priority of the tier or policy: only rules that deny are in force".to_owned());
                None
            }
        };
        let (mut rules, mut denying_all): (Vec<RuleSpec>, Vec<RuleSpec>) = (Vec::new(), Vec::new());
        let of_policy = named(&message.applied_to_groups);
        for (i, rule) in message.rules.iter().enumerate() {
            self.at = i;
            for rule in self.native_rule(rule, &applied_to(rule, &of_policy), place) {
                if rule.denies() && rule.services.is_empty() && rule.nets.iter().eq(&everybody()) {
                    // The first of them leaves nothing to others, and there is no other limit to their number.
                    let same = |known: &RuleSpec| {
                        (known.direction, &known.applied_to, &known.on_services)
                            == (rule.direction, &rule.applied_to, &rule.on_services)
                            && known.standing.rank() <= rule.standing.rank()
                    };
                    if denying_all.iter().any(same) {
                        continue;
                    }
                    denying_all.push(rule.clone());
                }
                rules.push(rule);
            }
        }
        // Which of its rules a pod had that is in no group any more is known only where they apply to the same pods. Of
        // others it keeps all that deny.
        let uniform = rules.windows(2).all(|pair| pair[0].applied_to == pair[1].applied_to);
        for rule in &mut rules {
            rule.keeps = uniform || rule.denies();
        }
        rules
    }

    fn native_rule(
        &mut self,
        rule: &NetworkPolicyRule,
        applied_to: &[Arc<str>],
        place: Option<(i32, f64)>,
    ) -> Vec<RuleSpec> {
        let baseline = place.is_some_and(|(tier, _)| tier >= BASELINE_TIER);
        let action = match rule.action.as_deref().unwrap_or("Allow") {
            "Allow" => Action::Allow,
            "Drop" => Action::Drop,
            "Reject" => Action::Reject,
            "Pass" if !baseline => Action::Pass,
            "Pass" => {
                self.problem("action Pass in the baseline tier, after which nothing comes: dropping");
                Action::Drop
            }
            other => {
                self.problem(format_args!("action {other:?}: dropping"));
                Action::Drop
            }
        };
        let action = match (place, action) {
            (None, Action::Allow) => return Vec::new(),
            (None, Action::Pass) => Action::Drop,
            (_, action) => action,
        };
        let (directions, contents, whole) = match sides(rule) {
            Ok((direction, peer)) if action == Action::Allow => {
                let mut contents =
                    self.native_allowed(rule, direction, peer).map(|found| Native::of(found, Some(peer)));
                if let Some(contents) = &mut contents {
                    if direction == Direction::In {
                        contents.fqdns.clear();
                    }
                    if direction == Direction::In || mixes_services(rule, peer) {
                        contents.to_services.clear();
                    }
                }
                (vec![direction], contents, true)
            }
            Ok((direction, peer)) => {
                let (contents, whole) = self.denied(rule, direction, peer);
                (vec![direction], Some(contents), whole)
            }
            Err(other) => {
                self.problem(format_args!("direction {other:?}"));
                let all = (action != Action::Allow).then(Native::all);
                (BOTH.into(), all, false)
            }
        };
        let action = if action == Action::Pass && !whole { Action::Drop } else { action };
        let rank = place.map_or(Rank::first(rule.priority), |(tier, priority)| {
            Rank::new(tier, priority, rule.priority, action)
        });
        // Nobody is on the other side: it says nothing.
        let contents = contents.filter(|contents| !contents.meets_nobody());
        let Some(Native { services, nets, groups, fqdns, to_services }) = contents else { return Vec::new() };
        let on_services = references(&rule.applied_to_services);
        if !on_services.is_empty() {
            let others = groups.len() + fqdns.len() + to_services.len() + services.len();
            if baseline || directions != [Direction::In] || others > 0 {
                self.problem(
                    "more is said of what comes to Services than from which addresses it comes: left out",
                );
                return Vec::new();
            }
        }
        let name = Some(&*rule.name).filter(|name| !name.is_empty()).map(Into::into);
        let spec = |direction| RuleSpec {
            direction,
            name: Option::clone(&name),
            standing: if baseline { Standing::Baseline(rank) } else { Standing::Native(rank) },
            action,
            keeps: true,
            applied_to: applied_to.to_vec(),
            on_services: on_services.clone(),
            groups: groups.clone(),
            fqdns: fqdns.clone(),
            to_services: to_services.clone(),
            nets: nets.iter().copied().collect(),
            services: services.clone(),
            logs: rule.enable_logging,
            label: Some(&*rule.log_label).filter(|label| !label.is_empty()).map(Into::into),
        };
        directions.into_iter().map(spec).collect()
    }

    /// What a native rule allows; none if that is nothing.
    fn native_allowed(
        &mut self,
        rule: &NetworkPolicyRule,
        direction: Direction,
        peer: &NetworkPolicyPeer,
    ) -> Option<Contents> {
        for kind in unsupported(direction, rule, peer) {
            self.problem(format_args!("{kind} are not supported: not allowed"));
        }
        match self.allowed(rule, peer) {
            Ok(contents) => contents,
            Err(error) => {
                self.problem(error);
                None
            }
        }
    }

    /// What a rule denies, or leaves to Kubernetes policies, and whether all of it was understood.
    fn denied(
        &mut self,
        rule: &NetworkPolicyRule,
        direction: Direction,
        peer: &NetworkPolicyPeer,
    ) -> (Native, bool) {
        let (mut all_peers, mut all_services, mut whole) = (false, false, true);
        for kind in unsupported(direction, rule, peer) {
            self.problem(format_args!("{kind} are not supported: taken for everybody"));
            all_peers = true;
        }
        self.budget.begin_rule();
        let (mut services, mut nets, mut too_large) = (Vec::new(), BTreeSet::new(), None);
        for service in &rule.services {
            match read_service(service) {
                Ok(NamedService::Plain(Service { protocol: Protocol::Igmp, .. })) => {
                    self.problem("IGMP is not supported: all of it is denied");
                    services.push(NamedService::Plain(Service::all(Protocol::Igmp)));
                    whole = false;
                }
                Ok(service) => {
                    too_large = too_large.or(self.budget.take(matches(&service)).err());
                    services.push(service);
                }
                Err(error) => {
                    self.problem(format_args!("{error}: taken for all traffic"));
                    all_services = true;
                }
            }
        }
        too_large = too_large.or(self.budget.take(selectors(peer)).err());
        for block in &peer.ip_blocks {
            match self.block(block) {
                Ok(Some(found)) => nets.extend(found),
                Ok(None) => {
                    self.problem("malformed ipBlock: taken for everybody");
                    all_peers = true;
                }
                Err(error) => {
                    too_large = Some(error);
                    break;
                }
            }
        }
        too_large = too_large.or(self.budget.end_rule().err());
        if let Some(error) = too_large {
            self.problem(format_args!("{error}, but denies everything"));
            return (Native::all(), false);
        }
        if all_services {
            services.clear();
        }
        let contents = if all_peers {
            Native::of((services, everybody()), None)
        } else {
            Native::of((services, nets), Some(peer))
        };
        (contents, whole && !all_peers && !all_services)
    }

    /// What a rule allows of services and addresses; `None` if all of its services are unreadable.
    fn allowed(
        &mut self,
        rule: &NetworkPolicyRule,
        peer: &NetworkPolicyPeer,
    ) -> Result<Option<Contents>, TooLarge> {
        self.budget.begin_rule();
        let mut services = Vec::new();
        for service in &rule.services {
            match read_service(service) {
                Ok(NamedService::Plain(Service { protocol: Protocol::Igmp, .. })) => {
                    self.problem("IGMP is not supported");
                }
                Ok(service) => {
                    self.budget.take(matches(&service))?;
                    services.push(service);
                }
                Err(error) => self.problem(error),
            }
        }
        if services.is_empty() && !rule.services.is_empty() {
            return Ok(None);
        }
        self.budget.take(selectors(peer))?;
        let mut nets = BTreeSet::new();
        for block in &peer.ip_blocks {
            match self.block(block)? {
                Some(found) => nets.extend(found),
                None => self.problem("malformed ipBlock"),
            }
        }
        self.budget.end_rule()?;
        Ok(Some((services, nets)))
    }

    /// `None` if it is malformed.
    fn block(&mut self, block: &controlplane::IpBlock) -> Result<Option<Vec<IpNet>>, TooLarge> {
        let left = self.budget.left();
        let read = || {
            let cidr = net(&block.cidr)?;
            let except = block.except.iter().map(net).collect::<Option<Vec<_>>>()?;
            Some(cidr::subtract(cidr, &except, left))
        };
        match read() {
            Some(Ok(nets)) => {
                self.budget.take(nets.len())?;
                Ok(Some(nets))
            }
            Some(Err(CidrError::TooMany { .. })) => self.budget.take(left + 1).map(|()| None),
            Some(Err(CidrError::Outside { .. })) | None => Ok(None),
        }
    }
}

/// A rule's AppliedToGroups. Rules share the names of those of their policy.
fn applied_to(rule: &NetworkPolicyRule, of_policy: &[Arc<str>]) -> Vec<Arc<str>> {
    let of_rule = &rule.applied_to_groups;
    if of_rule.is_empty() { of_policy.to_vec() } else { named(of_rule) }
}

fn named(names: &[String]) -> Vec<Arc<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

/// Its direction and the other end, or what stands where the direction should.
fn sides(rule: &NetworkPolicyRule) -> Result<(Direction, &NetworkPolicyPeer), &str> {
    match rule.direction.as_str() {
        "In" => Ok((Direction::In, &rule.from)),
        "Out" => Ok((Direction::Out, &rule.to)),
        other => Err(other),
    }
}

fn groups(peer: &NetworkPolicyPeer) -> Vec<Arc<str>> {
    named(&peer.address_groups)
}

/// Domain names in the form in which they are compared.
fn fqdns(peer: &NetworkPolicyPeer) -> Vec<Arc<str>> {
    peer.fqdns.iter().map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()).collect()
}

/// Services as `namespace/name`.
fn references(services: &[ObjectReference]) -> Vec<Arc<str>> {
    services.iter().map(|service| format!("{}/{}", service.namespace, service.name).into()).collect()
}

/// Whether Services stand beside what also says where to, or by which port.
fn mixes_services(rule: &NetworkPolicyRule, peer: &NetworkPolicyPeer) -> bool {
    let others = peer.ip_blocks.len() + selectors(peer) - peer.to_services.len() + rule.services.len();
    !peer.to_services.is_empty() && others > 0
}

/// What of the peer has members that others tell.
fn selectors(peer: &NetworkPolicyPeer) -> usize {
    peer.address_groups.len() + peer.fqdns.len() + peer.to_services.len()
}

fn everybody() -> BTreeSet<IpNet> {
    [Ipv4Net::default().into(), Ipv6Net::default().into()].into()
}

/// Kinds of peers that it has and this version does not know what to do with.
fn unsupported(
    direction: Direction,
    rule: &NetworkPolicyRule,
    peer: &NetworkPolicyPeer,
) -> impl Iterator<Item = &'static str> {
    let kinds = [
        ("sources by FQDN", peer.fqdns.is_empty() || direction == Direction::Out),
        ("Services as sources", peer.to_services.is_empty() || direction == Direction::Out),
        ("toServices beside other destinations", !mixes_services(rule, peer)),
        ("label identities", peer.label_identities.is_empty()),
    ];
    kinds.into_iter().filter(|(_, none)| !none).map(|(kind, _)| kind)
}

/// Matches that a service needs.
fn matches(service: &NamedService) -> usize {
    let masks = |range: Option<PortRange>| range.map_or(1, |range| range.masks().len());
    match service {
        NamedService::Plain(service) => masks(service.ports) * masks(service.src_ports),
        NamedService::Named { src_ports, .. } => masks(*src_ports),
    }
}

fn read_service(service: &controlplane::Service) -> Result<NamedService, String> {
    let name = service.protocol.as_deref().unwrap_or("TCP");
    let protocol = match name {
        "ICMP" => Protocol::Icmp,
        "IGMP" => Protocol::Igmp,
        name => Protocol::transport(name).ok_or_else(|| format!("protocol {name:?}"))?,
    };
    let number = |value: i32| u16::try_from(value).map_err(|_| format!("port {value}"));
    let octet = |value: i32| u8::try_from(value).map_err(|_| format!("ICMP type or code {value}"));
    let range = |first: Option<i32>, last: Option<i32>| -> Result<Option<PortRange>, String> {
        let Some(first) = first else { return Ok(None) };
        let (first, last) = (number(first)?, last.map(number).transpose()?);
        PortRange::new(first, last.unwrap_or(first)).map(Some).map_err(|error| error.to_string())
    };
    let src_ports = range(service.src_port, service.src_end_port)?;
    let port = match &service.port {
        Some(port) if port.kind == 1 => {
            return Ok(NamedService::Named { protocol, name: port.str_val.as_str().into(), src_ports });
        }
        Some(port) => Some(port.int_val),
        None => None,
    };
    Ok(NamedService::Plain(Service {
        protocol,
        ports: range(port, service.end_port)?,
        src_ports,
        icmp_type: service.icmp_type.map(octet).transpose()?,
        icmp_code: service.icmp_code.map(octet).transpose()?,
    }))
}
