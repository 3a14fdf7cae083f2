//! What rules take of their policy's limits.

use super::{Native, services::matches};
use crate::{
    draft::RuleDraft,
    limits::{Budget, TooLarge},
    translate::prefixes,
};

/// Takes what a rule needs from a policy's limits.
pub(crate) fn take(rule: &RuleDraft, budget: &mut Budget) -> Result<(), TooLarge> {
    budget.begin_rule();
    for service in &rule.services {
        budget.take(matches(service))?;
    }
    let peer = &rule.peer;
    budget.take(peer.groups.len() + peer.fqdns.len() + peer.to_services.len() + rule.on_services.len())?;
    for block in &peer.ip_blocks {
        budget.take(prefixes(block, budget.left()))?;
    }
    budget.end_rule()
}

impl Native<'_> {
    /// Takes what a rule needs from the policy's limits, and the rule.
    pub(super) fn take(&mut self, rule: RuleDraft) -> Result<(), TooLarge> {
        take(&rule, &mut self.budget)?;
        self.rules.push(rule);
        Ok(())
    }
}
