//! Kubernetes NetworkPolicy to [`PolicyDraft`], with every field checked.
//!
//! The API server refuses most mistakes, but a policy may have been stored before a check existed or under a
//! looser one. A mistake must never open anything, so:
//!
//! - the policy always isolates: each direction it declares keeps at least one rule, if need be one that allows
//!   nothing;
//! - a bad peer matches nothing, and a bad exception spoils its whole block (ignoring it would allow more);
//! - a rule whose peers are all bad, or whose ports are all bad, is left out: an empty list would mean "any";
//! - a rule that is larger than [`crate::limits`] allow is left out;
//! - a bad requirement in the policy's own Pod selector is ignored, so that at least the Pods that were meant are
//!   selected. As others may be selected too, all rules are replaced by ones that allow nothing;
//! - an unknown policy type declares both directions.

use ipnet::IpNet;

use crate::{
    cidr::{self, CidrError},
    draft::{GroupSelector, PeerDraft, PolicyDraft, RuleDraft, Scope},
    error::{Issues, Place, PolicyError, Problem},
    k8s::{self, IntOrString, NetworkPolicyPeer, NetworkPolicyPort},
    labels::{LabelSelector, Selector, shorten},
    limits::{Budget, TooLarge},
    model::{
        Action, DEFAULT_RULE_PRIORITY, Direction, IpBlock, Peer, PolicyKind, PolicyReference, Port, Protocol,
        Service,
    },
    ports::PortRange,
};

/// The draft of a policy and what is wrong with the policy. The draft is safe to enforce in any case.
#[must_use]
pub fn network_policy(policy: &k8s::NetworkPolicy) -> (PolicyDraft, Vec<PolicyError>) {
    let mut issues = Issues::new(PolicyError::object_of(policy));
    let mut top = issues.top();
    let mut place = top.field("spec");
    let namespace = k8s::shared(&policy.namespace);
    let spec = &policy.spec;

    let pods = parse_strictly(&spec.pod_selector, &mut place.field("podSelector"));
    let certain = pods.is_ok();
    let pods = pods.unwrap_or_else(|wider| wider);
    let declared = directions(spec, &mut place);

    let mut budget = Budget::default();
    let translator = Translator { scope: Scope::Namespace(namespace.clone()) };
    let mut rules = Vec::with_capacity(spec.ingress.len().max(1) + spec.egress.len());
    for (direction, declared) in [Direction::In, Direction::Out].into_iter().zip(declared) {
        if !declared {
            continue;
        }
        let before = rules.len();
        match direction {
            Direction::In => {
                for (i, rule) in spec.ingress.iter().enumerate() {
                    let mut place = place.index("ingress", i);
                    rules.extend(translator.rule(
                        direction,
                        &rule.from,
                        &rule.ports,
                        &mut budget,
                        &mut place,
                    ));
                }
            }
            Direction::Out => {
                for (i, rule) in spec.egress.iter().enumerate() {
                    let mut place = place.index("egress", i);
                    rules.extend(translator.rule(direction, &rule.to, &rule.ports, &mut budget, &mut place));
                }
            }
        }
        if !certain {
            rules.truncate(before);
        }
        if rules.len() == before {
            rules.push(rule_draft(direction, PeerDraft::default(), Vec::new()));
        }
    }
    drop(place);
    drop(top);

    let source = PolicyReference {
        kind: PolicyKind::K8sNetworkPolicy,
        namespace: Some(namespace),
        name: k8s::shared(&policy.name),
        uid: k8s::shared(&policy.uid),
    };
    let applied_to = vec![GroupSelector { scope: translator.scope, pods: Some(pods) }];
    let generation = policy.generation;
    let draft = PolicyDraft {
        source,
        generation,
        priority: None,
        tier_priority: None,
        resets_established: false,
        applied_to,
        rules,
    };
    (draft, issues.into_errors())
}

/// Ingress and egress: which of the two the policy isolates.
fn directions(spec: &k8s::NetworkPolicySpec, place: &mut Place<'_>) -> [bool; 2] {
    if spec.policy_types.is_empty() {
        return [true, !spec.egress.is_empty()];
    }
    let mut declared = [false, false];
    for (i, name) in spec.policy_types.iter().enumerate() {
        match &**name {
            "Ingress" => declared[0] = true,
            "Egress" => declared[1] = true,
            other => {
                place.index("policyTypes", i).add(Problem::PolicyType(shorten(other)));
                declared = [true, true];
            }
        }
    }
    declared
}

/// The selector, or what is left of it without its malformed requirements.
pub(crate) fn parse_strictly(selector: &LabelSelector, place: &mut Place<'_>) -> Result<Selector, Selector> {
    let parsed = Selector::parse(selector, place);
    let written = selector.match_labels.len() + selector.match_expressions.len();
    if parsed.requirements().len() == written { Ok(parsed) } else { Err(parsed) }
}

fn rule_draft(direction: Direction, peer: PeerDraft, services: Vec<Service>) -> RuleDraft {
    RuleDraft {
        direction,
        peer,
        services,
        priority: DEFAULT_RULE_PRIORITY,
        action: Action::Allow,
        enable_logging: false,
        applied_to: Vec::new(),
        on_services: Vec::new(),
        name: None,
        log_label: None,
    }
}

struct Translator {
    scope: Scope,
}

impl Translator {
    fn rule(
        &self,
        direction: Direction,
        peers: &[NetworkPolicyPeer],
        ports: &[NetworkPolicyPort],
        budget: &mut Budget,
        place: &mut Place<'_>,
    ) -> Option<RuleDraft> {
        budget.begin_rule();
        let mut services = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let mut place = place.index("ports", i);
            let Some(service) = service(port, &mut place) else { continue };
            place.check(budget.take(matches(&service)).map_err(Problem::from))?;
            services.push(service);
        }
        let mut peer = PeerDraft::default();
        let list = if direction == Direction::In { "from" } else { "to" };
        for (i, written) in peers.iter().enumerate() {
            let mut place = place.index(list, i);
            if let Err(error) = self.peer(written, &mut peer, budget, &mut place) {
                place.add(error.into());
                return None;
            }
        }
        if peers.is_empty() {
            peer.ip_blocks = Peer::anywhere().ip_blocks.into_vec();
            place.check(budget.take(peer.ip_blocks.len()).map_err(Problem::from))?;
            // A named port has to be looked up on the destination, which here is any Pod at all.
            if direction == Direction::Out && services.iter().any(|s| matches!(s.port, Some(Port::Name(_)))) {
                let scope = Scope::NamespaceSelector(Selector::everything());
                peer.groups.push(GroupSelector { scope, pods: None });
            }
        }
        let hollow = peer == PeerDraft::default() || (services.is_empty() && !ports.is_empty());
        if hollow {
            return None;
        }
        place.check(budget.end_rule().map_err(Problem::from))?;
        Some(rule_draft(direction, peer, services))
    }

    /// Adds what is written to `peer`. A mistake is reported and adds nothing.
    fn peer(
        &self,
        written: &NetworkPolicyPeer,
        peer: &mut PeerDraft,
        budget: &mut Budget,
        place: &mut Place<'_>,
    ) -> Result<(), TooLarge> {
        let selects = written.pod_selector.is_some() || written.namespace_selector.is_some();
        match &written.ip_block {
            Some(_) if selects => place.add(Problem::MixedPeer),
            Some(block) => {
                if let Some(block) = ip_block(block, &mut place.field("ipBlock")) {
                    budget.take(prefixes(&block, budget.left()))?;
                    peer.ip_blocks.push(block);
                }
            }
            None if !selects => place.add(Problem::EmptyPeer),
            None => {
                let mut parse = |selector: &Option<LabelSelector>, field: &'static str| match selector {
                    Some(selector) => parse_strictly(selector, &mut place.field(field)).map(Some),
                    None => Ok(None),
                };
                let pods = parse(&written.pod_selector, "podSelector");
                let namespaces = parse(&written.namespace_selector, "namespaceSelector");
                if let (Ok(pods), Ok(namespaces)) = (pods, namespaces) {
                    budget.take(1)?;
                    let scope = namespaces.map_or_else(|| self.scope.clone(), Scope::NamespaceSelector);
                    peer.groups.push(GroupSelector { scope, pods });
                }
            }
        }
        Ok(())
    }
}

/// Matches that a service needs.
fn matches(service: &Service) -> usize {
    match (&service.port, service.end_port) {
        (Some(Port::Number(first)), Some(last)) => {
            PortRange::new(*first, last).map_or(1, |range| range.masks().len())
        }
        _ => 1,
    }
}

/// Prefixes that a block needs, as far as `limit`; beyond it the answer is that and one.
pub(crate) fn prefixes(block: &IpBlock, limit: usize) -> usize {
    match cidr::subtract(block.cidr, &block.except, limit) {
        Ok(prefixes) => prefixes.len(),
        Err(CidrError::TooMany { .. }) => limit + 1,
        Err(CidrError::Outside { .. }) => 0,
    }
}

pub(crate) fn parse_cidr(text: &str) -> Result<IpNet, Problem> {
    cidr::parse(text).ok_or_else(|| Problem::Cidr(shorten(text)))
}

pub(crate) fn ip_block(block: &k8s::IpBlock, place: &mut Place<'_>) -> Option<IpBlock> {
    let cidr = place.field("cidr").check(parse_cidr(&block.cidr));
    let mut except = Vec::with_capacity(block.except.len());
    for (i, text) in block.except.iter().enumerate() {
        let net = parse_cidr(text).and_then(|net| match cidr {
            Some(cidr) if !cidr.contains(&net) => Err(Problem::Except { except: net, cidr }),
            _ => Ok(net),
        });
        except.extend(place.index("except", i).check(net));
    }
    let good = except.len() == block.except.len();
    Some(IpBlock { cidr: cidr.filter(|_| good)?, except: except.into() })
}

pub(crate) fn service(written: &NetworkPolicyPort, place: &mut Place<'_>) -> Option<Service> {
    let protocol = match written.protocol.as_deref() {
        None => Ok(Protocol::Tcp),
        Some(text) => Protocol::transport(text).ok_or_else(|| Problem::Protocol(shorten(text))),
    };
    let protocol = place.field("protocol").check(protocol);
    let port = match &written.port {
        None => Ok(None),
        Some(IntOrString::Int(number)) => port_number(*number).map(|n| Some(Port::Number(n))),
        Some(IntOrString::String(name)) => port_name(name).map(|n| Some(Port::Name(n))),
    };
    let port = place.field("port").check(port);
    let end = match (written.end_port, &port) {
        (None, _) => Ok(None),
        (Some(end), Some(Some(Port::Number(port)))) => port_number(end).and_then(|number| {
            if number < *port { Err(Problem::EndPort { end, port: *port }) } else { Ok(Some(number)) }
        }),
        (Some(_), _) => Err(Problem::EndPortAlone),
    };
    let end_port = place.field("endPort").check(end);
    Some(Service { port: port?, end_port: end_port?, ..Service::protocol(protocol?) })
}

pub(crate) fn port_number(number: i64) -> Result<u16, Problem> {
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or(Problem::Port(number))
}

/// An IANA service name (RFC 6335 §5.1) in lower case, as container ports have it.
fn port_name(name: &str) -> Result<Box<str>, Problem> {
    let bytes = name.as_bytes();
    let good = (1..=15).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if good { Ok(name.into()) } else { Err(Problem::PortName(shorten(name))) }
}
