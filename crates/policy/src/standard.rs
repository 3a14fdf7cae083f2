//! ClusterNetworkPolicy of `policy.networking.k8s.io`, the Kubernetes project's own, to [`PolicyDraft`].
//!
//! Its Admin tier stands where upstream has it, after the tiers of native policies and before Kubernetes policies, and its
//! Baseline tier after everything. It fails closed as its API says: what an Accept rule has that cannot be read it does not
//! match, and a Deny or Pass rule that has such a thing denies everything.

use serde::Deserialize;

use crate::{
    draft::{GroupSelector, PeerDraft, PolicyDraft, RuleDraft, Scope},
    error::{Issues, Place, PolicyError, Problem},
    k8s::{self, IntOrString, null_default},
    labels::{LabelSelector, shorten},
    limits::Budget,
    model::{Action, Direction, Peer as ModelPeer, PolicyKind, PolicyReference, Service},
    native::{fqdn, take},
    translate::{parse_cidr, parse_strictly, service},
};

/// What the tiers are among Antrea's; upstream's numbers.
const ADMIN: i32 = 251;
const BASELINE: i32 = 254;

/// A ClusterNetworkPolicy of `policy.networking.k8s.io`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "Raw")]
pub struct Policy {
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.uid`: the name of the internal policy.
    pub uid: Box<str>,
    /// `metadata.generation`
    pub generation: i64,
    spec: Spec,
}

#[derive(Deserialize)]
struct Raw {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: Box<str>,
    #[serde(deserialize_with = "null_default")]
    uid: Box<str>,
    generation: i64,
}

impl From<Raw> for Policy {
    fn from(Raw { metadata: Metadata { name, uid, generation }, spec }: Raw) -> Self {
        Self { name, uid, generation, spec }
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Spec {
    tier: Box<str>,
    priority: i32,
    subject: Pods,
    #[serde(deserialize_with = "null_default")]
    ingress: Vec<Rule>,
    #[serde(deserialize_with = "null_default")]
    egress: Vec<Rule>,
}

/// Pods, by one of the two.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Pods {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPods>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct NamespacedPods {
    #[serde(deserialize_with = "null_default")]
    namespace_selector: LabelSelector,
    #[serde(deserialize_with = "null_default")]
    pod_selector: LabelSelector,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Rule {
    #[serde(deserialize_with = "null_default")]
    name: Box<str>,
    action: Box<str>,
    #[serde(deserialize_with = "null_default")]
    from: Vec<Peer>,
    #[serde(deserialize_with = "null_default")]
    to: Vec<Peer>,
    #[serde(deserialize_with = "null_default")]
    protocols: Vec<Protocol>,
}

/// One of these.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Peer {
    #[serde(flatten)]
    pods: Pods,
    nodes: Option<LabelSelector>,
    #[serde(deserialize_with = "null_default")]
    networks: Vec<Box<str>>,
    #[serde(deserialize_with = "null_default")]
    domain_names: Vec<Box<str>>,
}

/// One of these.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Protocol {
    tcp: Option<Transport>,
    udp: Option<Transport>,
    sctp: Option<Transport>,
    #[serde(deserialize_with = "null_default")]
    destination_named_port: Box<str>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Transport {
    destination_port: Option<Port>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Port {
    number: Option<i64>,
    range: Option<Range>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Range {
    start: i64,
    end: i64,
}

/// Something cannot be read, and was reported.
struct Unreadable;

/// The draft of a policy, and what is wrong with it.
pub(crate) fn policy(policy: &Policy) -> (PolicyDraft, Vec<PolicyError>) {
    let mut issues = Issues::new(PolicyError::object_of_standard(&policy.name));
    let spec = &policy.spec;
    let mut top = issues.top();
    let mut place = top.field("spec");
    let tier = match &*spec.tier {
        "Admin" => Some(ADMIN),
        "Baseline" => Some(BASELINE),
        other => {
            place.field("tier").add(Problem::StandardTier(shorten(other)));
            None
        }
    };
    let subject = pods(&spec.subject, &mut place.field("subject"));
    let mut budget = Budget::default();
    let mut rules = Vec::new();
    for (direction, field, written) in
        [(Direction::In, "ingress", &spec.ingress), (Direction::Out, "egress", &spec.egress)]
    {
        for (i, written) in written.iter().enumerate() {
            let place = &mut place.index(field, i);
            let Some(mut rule) = rule(direction, written, place) else { continue };
            rule.priority = i32::try_from(i).unwrap_or(i32::MAX);
            // There is nothing after the last tier but what it would be without policies.
            if rule.action == Action::Pass && tier == Some(BASELINE) {
                rule.action = Action::Allow;
            }
            if tier.is_none() && rule.action != Action::Drop {
                continue;
            }
            if let Err(error) = take(&rule, &mut budget) {
                place.add(error.into());
                if rule.action == Action::Allow {
                    continue;
                }
                deny_everything(&mut rule);
            }
            rules.push(rule);
        }
    }
    drop(place);
    drop(top);
    let draft = PolicyDraft {
        source: PolicyReference {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: None,
            name: k8s::shared(&policy.name),
            uid: k8s::shared(&policy.uid),
        },
        generation: policy.generation,
        priority: Some(f64::from(spec.priority)),
        tier_priority: Some(tier.unwrap_or(ADMIN)),
        resets_established: false,
        applied_to: subject.into_iter().collect(),
        rules,
    };
    (draft, issues.into_errors())
}

fn pods(written: &Pods, place: &mut Place<'_>) -> Option<GroupSelector> {
    let (namespaces, pods) = match (&written.namespaces, &written.pods) {
        (Some(namespaces), None) => (parse_strictly(namespaces, &mut place.field("namespaces")).ok()?, None),
        (None, Some(written)) => {
            let place = &mut place.field("pods");
            let namespaces =
                parse_strictly(&written.namespace_selector, &mut place.field("namespaceSelector"));
            let pods = parse_strictly(&written.pod_selector, &mut place.field("podSelector"));
            (namespaces.ok()?, Some(pods.ok()?))
        }
        _ => {
            place.add(Problem::StandardPods);
            return None;
        }
    };
    Some(GroupSelector { scope: Scope::NamespaceSelector(namespaces), pods })
}

fn rule(direction: Direction, written: &Rule, place: &mut Place<'_>) -> Option<RuleDraft> {
    let action = match &*written.action {
        "Accept" => Action::Allow,
        "Deny" => Action::Drop,
        "Pass" => Action::Pass,
        other => {
            place.field("action").add(Problem::StandardAction(shorten(other)));
            Action::Drop
        }
    };
    let (list, peers) = match direction {
        Direction::In => ("from", &written.from),
        Direction::Out => ("to", &written.to),
    };
    let mut draft = RuleDraft {
        direction,
        peer: PeerDraft::default(),
        services: Vec::new(),
        priority: 0,
        action,
        enable_logging: false,
        applied_to: Vec::new(),
        on_services: Vec::new(),
        name: Some(&*written.name).filter(|name| !name.is_empty()).map(Into::into),
        log_label: None,
    };
    let mut is_whole = true;
    for (i, written) in peers.iter().enumerate() {
        is_whole &= peer(direction, written, &mut draft.peer, &mut place.index(list, i)).is_ok();
    }
    if peers.is_empty() {
        place.field(list).add(Problem::StandardPart);
        is_whole = false;
    }
    for (i, protocol) in written.protocols.iter().enumerate() {
        is_whole &= services(protocol, &mut draft.services, &mut place.index("protocols", i)).is_ok();
    }
    if action != Action::Allow && !is_whole {
        deny_everything(&mut draft);
        return Some(draft);
    }
    let hollow = draft.services.is_empty() && !written.protocols.is_empty();
    (draft.peer != PeerDraft::default() && !hollow).then_some(draft)
}

/// In place of what a Deny or Pass rule says and that cannot be enforced.
fn deny_everything(rule: &mut RuleDraft) {
    rule.peer = PeerDraft { ip_blocks: ModelPeer::anywhere().ip_blocks.into(), ..PeerDraft::default() };
    rule.services.clear();
    rule.action = Action::Drop;
}

fn peer(
    direction: Direction,
    written: &Peer,
    to: &mut PeerDraft,
    place: &mut Place<'_>,
) -> Result<(), Unreadable> {
    let Peer { nodes, networks, domain_names: names, .. } = written;
    let of_egress = nodes.is_some() || !networks.is_empty() || !names.is_empty();
    if direction == Direction::In && of_egress {
        place.add(Problem::EgressOnly);
        return Err(Unreadable);
    }
    if let Some(nodes) = nodes {
        let nodes = parse_strictly(nodes, &mut place.field("nodes")).map_err(|_| Unreadable)?;
        to.groups.push(GroupSelector { scope: Scope::Nodes, pods: Some(nodes) });
        return Ok(());
    }
    let mut is_whole = true;
    for (i, network) in networks.iter().enumerate() {
        let cidr = place.index("networks", i).check(parse_cidr(network));
        is_whole &= cidr.is_some();
        to.ip_blocks.extend(cidr.map(|cidr| crate::model::IpBlock { cidr, except: Box::default() }));
    }
    for (i, name) in names.iter().enumerate() {
        let name = fqdn(name, direction, &mut place.index("domainNames", i));
        is_whole &= name.is_some();
        to.fqdns.extend(name);
    }
    if networks.is_empty() && names.is_empty() {
        if written.pods == Pods::default() {
            place.add(Problem::StandardPart);
            return Err(Unreadable);
        }
        let pods = pods(&written.pods, place);
        is_whole &= pods.is_some();
        to.groups.extend(pods);
    }
    if is_whole { Ok(()) } else { Err(Unreadable) }
}

/// A named port is one of whatever protocol has that name.
fn services(written: &Protocol, to: &mut Vec<Service>, place: &mut Place<'_>) -> Result<(), Unreadable> {
    let transports =
        [("tcp", "TCP", &written.tcp), ("udp", "UDP", &written.udp), ("sctp", "SCTP", &written.sctp)];
    let mut found = Vec::new();
    for (field, protocol, transport) in transports {
        let (port, end_port) = match (transport, &*written.destination_named_port) {
            (None, "") => continue,
            (None, name) => (Some(IntOrString::String(name.into())), None),
            (Some(Transport { destination_port: None }), _) => (None, None),
            (Some(Transport { destination_port: Some(port) }), _) => match (&port.number, &port.range) {
                (Some(number), None) => (Some(IntOrString::Int(*number)), None),
                (None, Some(range)) => (Some(IntOrString::Int(range.start)), Some(range.end)),
                _ => {
                    place.field(field).field("destinationPort").add(Problem::StandardPart);
                    return Err(Unreadable);
                }
            },
        };
        let written = k8s::NetworkPolicyPort { protocol: Some(protocol.into()), port, end_port };
        let read = match transport {
            Some(_) => service(&written, &mut place.field(field)),
            None => service(&written, place),
        };
        found.push(read.ok_or(Unreadable)?);
    }
    if found.is_empty() {
        place.add(Problem::StandardPart);
        return Err(Unreadable);
    }
    to.extend(found);
    Ok(())
}
