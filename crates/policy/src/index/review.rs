//! What is wrong with an object that somebody is about to write, found by what computes it later: what is told here and
//! what its status would say are one.

use std::{collections::HashSet, fmt::Write};

use super::{Index, native::Written};
use crate::{
    crd::{self, STATIC_TIERS},
    error::{Issues, PolicyError, Problem, Step},
    labels::shorten,
    native::{self, Key},
};

/// Tiers that there may be, the static ones included; upstream's limit.
const MAX_TIERS: usize = 20;

/// Policies and groups that a message names.
const NAMED: usize = 5;

/// What a review found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What no later event can put right but a change of the object.
    pub errors: Vec<PolicyError>,
    /// What may come right, such as a group that is not there yet, or stays without effect in this version.
    pub warnings: Vec<PolicyError>,
}

impl From<Vec<PolicyError>> for Findings {
    fn from(found: Vec<PolicyError>) -> Self {
        let passing = |error: &PolicyError| {
            matches!(
                error.problem,
                Problem::NoGroup(_)
                    | Problem::UnknownService(_)
                    | Problem::SelectsNothing(_)
                    | Problem::Unsupported
            )
        };
        let (warnings, errors) = found.into_iter().partition(passing);
        Self { errors, warnings }
    }
}

impl Index {
    /// Of a policy, as it would be computed now.
    #[must_use]
    pub fn review_native(&self, policy: &crd::Policy) -> Findings {
        let (_, mut found, _) = self.in_context(|context| native::policy(policy, context));
        let mut issues = Issues::new(PolicyError::object_of_native(policy));
        let mut top = issues.top();
        let mut place = top.field("spec");
        let mut names = HashSet::new();
        for (field, rules) in [("ingress", &policy.spec.ingress), ("egress", &policy.spec.egress)] {
            for (i, rule) in rules.iter().enumerate() {
                if !rule.name.is_empty() && !names.insert(&rule.name) {
                    place.at(Step::Index(field, i)).field("name").add(Problem::RuleName(shorten(&rule.name)));
                }
            }
        }
        drop(place);
        drop(top);
        found.extend(issues.into_errors());
        found.into()
    }

    /// Of a group, as it and those that have to do with it would be taken in now.
    #[must_use]
    pub fn review_group(&self, group: &crd::Group) -> Findings {
        let mut found = self.in_context(|context| native::group(group, context));
        if !group.spec.child_groups.is_empty() {
            let own = |key: &Key| *key.0 == *group.namespace;
            let has = |known: &crd::Group| known.spec.child_groups.contains(&group.name);
            let parents = self.natives.groups.iter().filter(|(key, known)| own(key) && has(known));
            let parents = some(parents.map(|(key, _)| &*key.1));
            if !parents.is_empty() {
                let mut issues = Issues::new(PolicyError::object_of_group(group));
                issues.top().field("spec").field("childGroups").add(Problem::IsChild(parents));
                found.extend(issues.into_errors());
            }
        }
        found.into()
    }

    /// Of a Tier that is made or changed.
    #[must_use]
    pub fn review_tier(&self, tier: &crd::Tier) -> Findings {
        let mut issues = Issues::new(PolicyError::object_of_tier(&tier.name));
        let others = || self.natives.tiers.iter().filter(|(name, _)| **name != tier.name);
        if let Some((other, _)) = others().find(|(_, priority)| **priority == tier.priority) {
            issues.top().field("spec").field("priority").add(Problem::TierPriority(other.clone()));
        }
        let fixed = |name: &str| STATIC_TIERS.iter().any(|(tier, _)| *tier == name);
        let made = others().filter(|(name, _)| !fixed(name)).count();
        if !fixed(&tier.name) && made + STATIC_TIERS.len() >= MAX_TIERS {
            issues.top().field("metadata").field("name").add(Problem::Tiers(MAX_TIERS));
        }
        issues.into_errors().into()
    }

    /// Why the Tier may not be deleted: it is one of ours, or policies are in it.
    #[must_use]
    pub fn review_tier_deletion(&self, name: &str) -> Findings {
        let mut issues = Issues::new(PolicyError::object_of_tier(name));
        if STATIC_TIERS.iter().any(|(tier, _)| *tier == name) {
            issues.top().field("metadata").field("name").add(Problem::StaticTier);
        }
        let users = self.natives.policies.values().filter_map(|entry| match &entry.policy {
            Written::Antrea(policy) if *policy.spec.tier == *name => {
                Some(PolicyError::object_of_native(policy))
            }
            _ => None,
        });
        let users = some(users);
        if !users.is_empty() {
            issues.top().field("metadata").field("name").add(Problem::TierInUse(users));
        }
        issues.into_errors().into()
    }
}

/// The first names, and how many more there are.
fn some<N: AsRef<str>>(names: impl Iterator<Item = N>) -> Box<str> {
    let (mut text, mut more) = (String::new(), 0);
    for (i, name) in names.enumerate() {
        if i >= NAMED {
            more += 1;
            continue;
        }
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(name.as_ref());
    }
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text.into()
}
