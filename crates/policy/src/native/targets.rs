//! What policies and rules apply to: Pods, or Services for what comes to them from outside.

use std::collections::BTreeSet;

use super::{Native, account::service_account, refuse};
use crate::{
    crd::{self, AppliedTo},
    draft::{GroupSelector, PeerDraft, Scope},
    error::{Place, Problem},
    labels::Selector,
    model::{Direction, ServiceName},
};

/// What `appliedTo` says, as far as it can be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets {
    pub(super) pods: Vec<GroupSelector>,
    pub(super) services: Vec<ServiceName>,
}

impl Targets {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.services.is_empty()
    }

    /// The groups by whose members Nodes are told of the policy. What comes to a Service comes by any Node.
    pub(super) fn selectors(&self) -> Vec<GroupSelector> {
        let nodes = GroupSelector { scope: Scope::Nodes, pods: Some(Selector::everything()) };
        if self.services.is_empty() { self.pods.clone() } else { vec![nodes] }
    }
}

impl Native<'_> {
    /// What of `appliedTo` can be used.
    pub(super) fn applied_to(&mut self, written: &[AppliedTo], place: &mut Place<'_>) -> Targets {
        let mut targets = Targets::default();
        let mut named = BTreeSet::new();
        for (i, target) in written.iter().enumerate() {
            // It is there once however often it is named.
            let good = target.group.is_some()
                && *target == AppliedTo { group: target.group.clone(), ..AppliedTo::default() };
            if good && !named.insert(&target.group) {
                continue;
            }
            self.target(target, &mut targets, &mut place.index("appliedTo", i));
        }
        if !targets.services.is_empty() && written.iter().any(|target| target.service.is_none()) {
            place.field("appliedTo").add(Problem::MixedTargets);
            targets.services.clear();
        }
        targets
    }

    fn target(&mut self, target: &AppliedTo, to: &mut Targets, place: &mut Place<'_>) {
        let unsupported = [
            ("externalEntitySelector", target.external_entity_selector.is_some()),
            ("nodeSelector", target.node_selector.is_some()),
        ];
        if refuse(&unsupported, place) {
            return;
        }
        let selects = target.pod_selector.is_some() || target.namespace_selector.is_some();
        match (&target.group, &target.service_account, &target.service) {
            (None, None, None) if !selects => place.add(Problem::EmptyAppliedTo),
            (None, None, None) if self.own.is_some() && target.namespace_selector.is_some() => {
                place.field("namespaceSelector").add(Problem::ClusterOnly);
            }
            (None, None, None) => {
                to.pods.extend(self.selector(&target.pod_selector, &target.namespace_selector, place));
            }
            (None, Some(account), None) if !selects => {
                let place = &mut place.field("serviceAccount");
                if self.is_foreign(&account.namespace) {
                    place.field("namespace").add(Problem::ClusterOnly);
                } else {
                    to.pods.extend(service_account(account, place));
                }
            }
            (Some(group), None, None) if !selects => {
                let place = &mut place.field("group");
                let mut members = PeerDraft::default();
                self.group(group, &mut members, place);
                if !members.ip_blocks.is_empty() {
                    place.add(Problem::AddressesAppliedTo);
                }
                to.pods.extend(members.groups);
            }
            (None, None, Some(service)) if !selects => {
                let place = &mut place.field("service");
                if service.name.is_empty() || service.namespace.is_empty() {
                    place.add(Problem::NoService);
                } else if self.is_foreign(&service.namespace) {
                    place.field("namespace").add(Problem::ClusterOnly);
                } else {
                    let crd::NamespacedName { name, namespace } = service.clone();
                    to.services.push(ServiceName { namespace, name });
                }
            }
            _ => place.add(Problem::MixedAppliedTo),
        }
    }

    /// Whether it is another namespace: whoever may write policies in one decides nothing about what others have.
    fn is_foreign(&self, namespace: &str) -> bool {
        self.own.as_ref().is_some_and(|own| **own != *namespace)
    }

    /// Whether a rule can be one of Services: of what comes to them, by no more than the addresses that it comes from.
    pub(super) fn suits_services(
        &self,
        direction: Direction,
        rule: &crd::Rule,
        place: &mut Place<'_>,
    ) -> bool {
        if direction == Direction::Out {
            place.add(Problem::EgressOfServices);
            return false;
        }
        if self.is_last {
            place.add(Problem::ServicesAreNotLast);
            return false;
        }
        let mut suits = true;
        for (field, any) in [("ports", !rule.ports.is_empty()), ("protocols", !rule.protocols.is_empty())] {
            if any {
                place.field(field).add(Problem::PortsOfServices);
                suits = false;
            }
        }
        for (i, peer) in rule.from.iter().enumerate() {
            if peer.ip_block.is_none() {
                place.index("from", i).add(Problem::PeersOfServices);
                suits = false;
            }
        }
        suits
    }
}
