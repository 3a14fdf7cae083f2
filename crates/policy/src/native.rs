//! Native policies to [`PolicyDraft`]: tiers, groups and namespaces are looked up, every field is checked.
//!
//! A rule may deny, so that "when in doubt match nothing", which makes a Kubernetes policy stricter, and "match
//! everything" can both open what was meant to be shut. What is done instead:
//!
//! - nothing is ever sent as something wider than what is written: a peer, a port, an `appliedTo` that cannot be used
//!   is left out, and so is a rule of which no peer, no port or no `appliedTo` is left;
//! - each of them is told by object and field, and the policy's status is Failed. Where the API server sees that a
//!   denying rule cannot be enforced it refuses the policy to begin with (`crds/src/policy`);
//! - a reference to a group that is not there matches nothing until it is;
//! - a policy whose tier is not there goes by the default tier, with its Drop and Reject rules alone: it keeps denying,
//!   and what it allowed is not allowed at a place where others did not expect it.

mod account;
mod budget;
mod endpoints;
mod names;
mod namespaces;
mod services;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::account::service_account;
pub(crate) use self::budget::take;
pub(crate) use self::names::fqdn;
use self::namespaces::PerNamespace;
use self::services::{services, to_services};
use self::targets::Targets;
use crate::{
    crd::{self, BASELINE_TIER, DEFAULT_TIER, STATIC_TIERS},
    draft::{GroupSelector, PeerDraft, PolicyDraft, RuleDraft, Scope},
    error::{Issues, Place, PolicyError, Problem},
    k8s,
    labels::{LabelSelector, Labels, Selector, shorten},
    limits::{Budget, Spread, TooLarge},
    model::{Action, Direction, Peer, PolicyReference, Port},
    translate::{ip_block, parse_strictly},
};

/// Octets of text that count as much as a requirement of a selector.
const PART: usize = 64;

/// Namespace (empty where there is none) and name.
pub(crate) type Key = (Box<str>, Box<str>);

/// What a policy may refer to.
pub(crate) struct Context<'a> {
    pub(crate) tiers: &'a BTreeMap<Box<str>, i64>,
    pub(crate) groups: &'a BTreeMap<Key, crd::Group>,
    /// Services, by the labels of their Pods.
    pub(crate) services: &'a BTreeMap<Key, Labels>,
    /// Namespaces and their labels.
    pub(crate) namespaces: &'a dyn Fn() -> Vec<(Arc<str>, Labels)>,
}

/// What a policy was found to refer to, whether it is there or not.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    pub(crate) groups: BTreeSet<Key>,
    /// Those that its groups name.
    pub(crate) services: BTreeSet<Key>,
    /// Whether what is sent depends on which namespaces there are.
    pub(crate) namespaces: bool,
}

/// The draft of a policy, what is wrong with the policy, and what it depends on.
pub(crate) fn policy(policy: &crd::Policy, context: &Context<'_>) -> (PolicyDraft, Vec<PolicyError>, Uses) {
    let mut issues = Issues::new(PolicyError::object_of_native(policy));
    let spec = &policy.spec;
    let own = (!policy.namespace.is_empty()).then(|| k8s::shared(&policy.namespace));
    let mut native = Native::new(context, &policy.namespace);
    native.is_last = &*spec.tier == BASELINE_TIER;
    let mut top = issues.top();
    let mut place = top.field("spec");

    let tier = if spec.tier.is_empty() { DEFAULT_TIER } else { &spec.tier };
    let tier = tier_priority(tier, context.tiers);
    if tier.is_none() {
        place.field("tier").add(Problem::NoTier(shorten(&spec.tier)));
    }
    if !matches!(&*spec.established, "" | "Keep" | "Reset") {
        place.field("established").add(Problem::Established(shorten(&spec.established)));
    }
    let applied_to = native.applied_to(&spec.applied_to, &mut place);
    for (direction, field, rules) in
        [(Direction::In, "ingress", &spec.ingress), (Direction::Out, "egress", &spec.egress)]
    {
        for (i, rule) in rules.iter().enumerate() {
            let priority = i32::try_from(i).unwrap_or(i32::MAX);
            native.rule(direction, priority, rule, &applied_to, &mut place.index(field, i));
        }
    }
    drop(place);
    drop(top);

    let Native { mut rules, uses, .. } = native;
    if tier.is_none() {
        rules.retain(|rule| matches!(rule.action, Action::Drop | Action::Reject));
    }
    let draft = PolicyDraft {
        source: PolicyReference {
            kind: policy.kind(),
            namespace: own,
            name: k8s::shared(&policy.name),
            uid: k8s::shared(&policy.uid),
        },
        generation: policy.generation,
        priority: Some(spec.priority),
        tier_priority: Some(tier.unwrap_or(250)),
        resets_established: &*spec.established == "Reset",
        applied_to: applied_to.selectors(),
        rules,
    };
    (draft, issues.into_errors(), uses)
}

/// What is wrong with a group itself and with the groups in it.
pub(crate) fn group(group: &crd::Group, context: &Context<'_>) -> Vec<PolicyError> {
    let mut issues = Issues::new(PolicyError::object_of_group(group));
    let mut native = Native::new(context, &group.namespace);
    let mut top = issues.top();
    let mut place = top.field("spec");
    native.members(&group.spec, &mut PeerDraft::default(), &mut place);
    for (i, name) in group.spec.child_groups.iter().enumerate() {
        let place = &mut place.index("childGroups", i);
        if native.find_group(name, place).is_some_and(|child| !child.child_groups.is_empty()) {
            place.add(Problem::NestedGroup(shorten(name)));
        }
    }
    drop(place);
    drop(top);
    issues.into_errors()
}

/// What a group holds, and those in it.
pub(crate) fn members(group: &crd::Group, context: &Context<'_>) -> PeerDraft {
    let mut issues = Issues::new(PolicyError::object_of_group(group));
    let mut members = PeerDraft::default();
    Native::new(context, &group.namespace).all_members(&group.spec, &mut members, &mut issues.top());
    members
}

/// The static tiers are what they are, whatever their objects say. Others come before the default one.
fn tier_priority(name: &str, tiers: &BTreeMap<Box<str>, i64>) -> Option<i32> {
    let fixed = STATIC_TIERS.iter().find(|(tier, _)| *tier == name).map(|(_, priority)| *priority);
    fixed.or_else(|| {
        let priority = i32::try_from(*tiers.get(name)?).ok()?;
        (0..=250).contains(&priority).then_some(priority)
    })
}

struct Native<'a> {
    context: &'a Context<'a>,
    /// The policy's namespace.
    own: Option<Arc<str>>,
    uses: Uses,
    namespaces: Option<Vec<(Arc<str>, Labels)>>,
    /// Of a policy in the baseline tier.
    is_last: bool,
    budget: Budget,
    spread: Spread,
    rules: Vec<RuleDraft>,
}

impl<'a> Native<'a> {
    /// `namespace` is empty for what belongs to the cluster.
    fn new(context: &'a Context<'a>, namespace: &str) -> Self {
        Self {
            context,
            own: (!namespace.is_empty()).then(|| k8s::shared(namespace)),
            uses: Uses::default(),
            namespaces: None,
            is_last: false,
            budget: Budget::default(),
            spread: Spread::default(),
            rules: Vec::new(),
        }
    }

    fn scope(&self, namespaces: Option<Selector>) -> Scope {
        match (namespaces, &self.own) {
            (Some(selector), _) => Scope::NamespaceSelector(selector),
            (None, Some(own)) => Scope::Namespace(own.clone()),
            (None, None) => Scope::All,
        }
    }

    /// Pods by labels, in the policy's namespace or wherever the policy looks.
    fn selector(
        &self,
        pods: &Option<LabelSelector>,
        namespaces: &Option<LabelSelector>,
        place: &mut Place<'_>,
    ) -> Option<GroupSelector> {
        let mut parse = |selector: &Option<LabelSelector>, field: &'static str| match selector {
            Some(selector) => parse_strictly(selector, &mut place.field(field)).map(Some),
            None => Ok(None),
        };
        let pods = parse(pods, "podSelector");
        let namespaces = parse(namespaces, "namespaceSelector");
        let (Ok(pods), Ok(namespaces)) = (pods, namespaces) else { return None };
        Some(GroupSelector { scope: self.scope(namespaces), pods })
    }

    /// Adds the members of a group. What of it cannot be used is reported at the place that names the group.
    fn group(&mut self, name: &str, to: &mut PeerDraft, place: &mut Place<'_>) {
        if let Some(spec) = self.find_group(name, place) {
            self.all_members(spec, to, place);
        }
    }

    fn all_members(&mut self, spec: &crd::GroupSpec, to: &mut PeerDraft, place: &mut Place<'_>) {
        self.members(spec, to, place);
        for name in &spec.child_groups {
            let Some(child) = self.find_group(name, place) else { continue };
            if child.child_groups.is_empty() {
                self.members(child, to, place);
            } else {
                place.add(Problem::NestedGroup(shorten(name)));
            }
        }
    }

    fn find_group(&mut self, name: &str, place: &mut Place<'_>) -> Option<&'a crd::GroupSpec> {
        let key = (self.own.as_deref().unwrap_or_default().into(), name.into());
        let found = self.context.groups.get(&key).map(|group| &group.spec);
        self.uses.groups.insert(key);
        if found.is_none() {
            place.add(Problem::NoGroup(shorten(name)));
        }
        found
    }

    fn members(&mut self, spec: &crd::GroupSpec, to: &mut PeerDraft, place: &mut Place<'_>) {
        let unsupported = [
            ("externalEntitySelector", spec.external_entity_selector.is_some()),
            ("nodeSelector", spec.node_selector.is_some()),
        ];
        if refuse(&unsupported, place) {
            return;
        }
        if spec.pod_selector.is_some() || spec.namespace_selector.is_some() {
            to.groups.extend(self.selector(&spec.pod_selector, &spec.namespace_selector, place));
        }
        if let Some(service) = &spec.service_reference {
            to.groups.extend(self.endpoints(service, &mut place.field("serviceReference")));
        }
        for (i, block) in spec.ip_blocks.iter().enumerate() {
            to.ip_blocks.extend(ip_block(block, &mut place.index("ipBlocks", i)));
        }
    }

    fn rule(
        &mut self,
        direction: Direction,
        priority: i32,
        rule: &crd::Rule,
        policy_applied_to: &Targets,
        place: &mut Place<'_>,
    ) {
        let own_applied_to = self.applied_to(&rule.applied_to, place);
        let applied_to = if rule.applied_to.is_empty() { policy_applied_to } else { &own_applied_to };
        if applied_to.is_empty() {
            return;
        }
        let action = match &*rule.action {
            "Allow" => Action::Allow,
            "Drop" => Action::Drop,
            "Reject" => Action::Reject,
            "Pass" => {
                // Agents drop what it matches.
                if self.is_last {
                    place.field("action").add(Problem::NothingToPassTo);
                }
                Action::Pass
            }
            other => return place.field("action").add(Problem::Action(shorten(other))),
        };
        if refuse(&[("l7Protocols", !rule.l7_protocols.is_empty())], place) {
            return;
        }
        if !applied_to.services.is_empty() && !self.suits_services(direction, rule, place) {
            return;
        }
        let services = services(rule, place);
        let (written, other, list, misplaced) = match direction {
            Direction::In => (&rule.from, &rule.to, "from", "to"),
            Direction::Out => (&rule.to, &rule.from, "to", "from"),
        };
        if !other.is_empty() {
            return place.field(misplaced).add(Problem::Misplaced);
        }
        let Ok(to_services) = to_services(rule, direction, self.own.as_deref(), place) else { return };
        let mut peer = PeerDraft { to_services, ..PeerDraft::default() };
        let mut relative = Vec::new();
        let mut named = BTreeSet::new();
        for (i, written) in written.iter().enumerate() {
            // A group may hold much, and is there once however often it is named.
            let (group, scope) = (&written.group, &written.scope);
            let alone = || crd::Peer { group: group.clone(), scope: scope.clone(), ..crd::Peer::default() };
            let good = group.is_some() && matches!(&**scope, "" | "Cluster") && *written == alone();
            if good && !named.insert(group) {
                continue;
            }
            relative.extend(self.peer(direction, written, &mut peer, &mut place.index(list, i)));
        }
        if written.is_empty() && rule.to_services.is_empty() {
            peer.ip_blocks = Peer::anywhere().ip_blocks.into_vec();
            // A named port has to be looked up on the destination, which here is any Pod at all.
            if direction == Direction::Out && services.iter().any(|s| matches!(s.port, Some(Port::Name(_)))) {
                let scope = Scope::NamespaceSelector(Selector::everything());
                peer.groups.push(GroupSelector { scope, pods: None });
            }
        }
        let hollow = services.is_empty() && !(rule.ports.is_empty() && rule.protocols.is_empty());
        if hollow {
            return;
        }
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Into::into);
        let on_services = applied_to.services.clone();
        let make = |peer, applied_to| RuleDraft {
            direction,
            peer,
            services: services.clone(),
            priority,
            action,
            enable_logging: rule.enable_logging,
            applied_to,
            on_services: on_services.clone(),
            name: text(&rule.name),
            log_label: text(&rule.log_label),
        };
        let before = self.rules.len();
        // Each is taken from the limits before the next is made: who writes the rule decides how many there would be.
        let take_all = || {
            if peer != PeerDraft::default() {
                self.take(make(peer, own_applied_to.selectors()))?;
            }
            for peer in &relative {
                for (peer, applied_to) in self.expand(peer, &applied_to.pods)? {
                    self.spread.copy((rule.name.len() + rule.log_label.len()) / PART)?;
                    let peer = PeerDraft { groups: vec![peer], ..PeerDraft::default() };
                    self.take(make(peer, applied_to))?;
                }
            }
            Ok::<_, TooLarge>(())
        };
        // All that becomes of a rule, or nothing: a part would depend on the order of namespaces.
        if let Err(error) = take_all() {
            self.rules.truncate(before);
            place.add(error.into());
        }
    }

    /// Adds what is written to `peer`; what depends on the namespace is returned. A mistake is reported and adds
    /// nothing.
    fn peer(
        &mut self,
        direction: Direction,
        written: &crd::Peer,
        peer: &mut PeerDraft,
        place: &mut Place<'_>,
    ) -> Option<PerNamespace> {
        let unsupported = [
            ("externalEntitySelector", written.external_entity_selector.is_some()),
            ("scope", !matches!(&*written.scope, "" | "Cluster")),
        ];
        if refuse(&unsupported, place) {
            return None;
        }
        let selects = written.pod_selector.is_some()
            || written.namespace_selector.is_some()
            || written.namespaces.is_some();
        let others =
            written.ip_block.is_some() || written.group.is_some() || written.service_account.is_some();
        if let Some(selector) = &written.node_selector {
            if selects || others || written.fqdn.is_some() {
                place.add(Problem::MixedNativePeer);
            } else if self.own.is_some() {
                place.field("nodeSelector").add(Problem::ClusterOnly);
            } else if let Ok(nodes) = parse_strictly(selector, &mut place.field("nodeSelector")) {
                peer.groups.push(GroupSelector { scope: Scope::Nodes, pods: Some(nodes) });
            }
            return None;
        }
        if let Some(name) = &written.fqdn {
            if selects || others {
                place.add(Problem::MixedNativePeer);
            } else {
                peer.fqdns.extend(fqdn(name, direction, &mut place.field("fqdn")));
            }
            return None;
        }
        match (&written.ip_block, &written.group, &written.service_account) {
            (None, None, None) if !selects => place.add(Problem::EmptyNativePeer),
            (None, None, Some(account)) if !selects => {
                peer.groups.extend(service_account(account, &mut place.field("serviceAccount")));
            }
            (Some(block), None, None) if !selects => {
                peer.ip_blocks.extend(ip_block(block, &mut place.field("ipBlock")));
            }
            (None, Some(group), None) if !selects => self.group(group, peer, &mut place.field("group")),
            (None, None, None) => {
                let Some(namespaces) = &written.namespaces else {
                    peer.groups.extend(self.selector(
                        &written.pod_selector,
                        &written.namespace_selector,
                        place,
                    ));
                    return None;
                };
                let selector = self.selector(&written.pod_selector, &None, place)?;
                let place = &mut place.field("namespaces");
                if self.own.is_some() {
                    place.add(Problem::ClusterOnly);
                } else if written.namespace_selector.is_some() {
                    place.add(Problem::MixedNamespaces);
                } else if (&*namespaces.match_ == "Self") != namespaces.same_labels.is_empty()
                    || !matches!(&*namespaces.match_, "" | "Self")
                {
                    place.add(Problem::PeerNamespaces);
                } else {
                    self.uses.namespaces = true;
                    let mut seen = BTreeSet::new();
                    let keys = namespaces.same_labels.iter().filter(|key| seen.insert(&**key)).cloned();
                    return Some(PerNamespace { keys: keys.collect(), pods: selector.pods });
                }
            }
            _ => place.add(Problem::MixedNativePeer),
        }
        None
    }
}

/// Reports which of these are there though this version cannot enforce them; whether any is.
fn refuse(fields: &[(&'static str, bool)], place: &mut Place<'_>) -> bool {
    let mut any = false;
    for (field, there) in fields {
        if *there {
            place.field(field).add(Problem::Unsupported);
            any = true;
        }
    }
    any
}
