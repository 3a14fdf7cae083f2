//! What rules take of their policy's limits.

use super::{Native, services::matches};
use crate::{draft::RuleDraft, limits::TooLarge, translate::prefixes};

impl Native<'_> {
    /// Takes what a rule needs from the policy's limits, and the rule.
    pub(super) fn take(&mut self, rule: RuleDraft) -> Result<(), TooLarge> {
        let budget = &mut self.budget;
        budget.begin_rule();
        for service in &rule.services {
            budget.take(matches(service))?;
        }
        let peer = &rule.peer;
        budget.take(peer.groups.len() + peer.fqdns.len() + peer.to_services.len() + rule.on_services.len())?;
        for block in &rule.peer.ip_blocks {
            budget.take(prefixes(block, budget.left()))?;
        }
        budget.end_rule()?;
        self.rules.push(rule);
        Ok(())
    }
}
