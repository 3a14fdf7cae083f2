//! How much one policy may ask of a node.
//!
//! OpenFlow has neither "except" nor port ranges, so a short policy can become a great many matches: 30,000
//! exceptions, which an object of the API server may hold, become three million prefixes. Each match is a flow that
//! agent and Open vSwitch hold, so without a limit whoever may create a NetworkPolicy could take nodes away from
//! everybody. The controller enforces the limit and names the field; an agent enforces it again, for what it reads
//! may have been written under another one.

use thiserror::Error;

/// Matches of one rule: address prefixes after exceptions, port masks, and selectors.
pub const RULE: usize = 4_096;

/// Matches of all rules of a policy; a rule that has none counts as one.
pub const POLICY: usize = 16_384;

/// The limit that was passed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum TooLarge {
    #[error("the rule needs more than {RULE} matches of addresses and ports and allows nothing")]
    Rule,
    #[error("the policy needs more than {POLICY} matches of addresses and ports; this rule allows nothing")]
    Policy,
    #[error(
        "the policy's rules by namespace are too much for the namespaces that there are; this rule allows nothing"
    )]
    Namespaces,
}

/// What a policy has used of its limits so far.
#[derive(Debug, Default)]
pub struct Budget {
    /// By rules that were taken.
    rules: usize,
    /// By the rule at hand.
    rule: usize,
}

impl Budget {
    /// Begins a rule. What the last one used is forgotten unless it was taken.
    pub fn begin_rule(&mut self) {
        self.rule = 0;
    }

    /// What the rule may still use.
    #[must_use]
    pub fn left(&self) -> usize {
        (RULE - self.rule).min(POLICY - self.rules - self.rule)
    }

    /// Uses `matches` for the rule.
    ///
    /// # Errors
    /// Less is left. Nothing is used then.
    pub fn take(&mut self, matches: usize) -> Result<(), TooLarge> {
        if matches <= self.left() {
            self.rule += matches;
            return Ok(());
        }
        Err(if matches > RULE - self.rule { TooLarge::Rule } else { TooLarge::Policy })
    }

    /// Ends a rule that will be enforced.
    ///
    /// # Errors
    /// The rule has no match, and nothing is left for the one that it counts as.
    pub fn end_rule(&mut self) -> Result<(), TooLarge> {
        if self.rule == 0 {
            self.take(1)?;
        }
        self.rules += std::mem::take(&mut self.rule);
        Ok(())
    }
}

/// How much rules by namespace may be compared with namespaces and copied for them, in parts: selectors, and what these
/// require. Of a policy of a few octets there would else be thousands of times as many, made before anybody counts.
#[derive(Debug)]
pub(crate) struct Spread {
    compared: usize,
    copied: usize,
}

impl Default for Spread {
    fn default() -> Self {
        Self { compared: 256 * POLICY, copied: 32 * POLICY }
    }
}

impl Spread {
    /// Before `parts` are compared with each of so many namespaces.
    pub(crate) fn compare(&mut self, parts: usize, namespaces: usize) -> Result<(), TooLarge> {
        let all = parts.saturating_mul(namespaces.saturating_add(1));
        self.compared = self.compared.checked_sub(all).ok_or(TooLarge::Namespaces)?;
        Ok(())
    }

    /// Before `parts` are copied.
    pub(crate) fn copy(&mut self, parts: usize) -> Result<(), TooLarge> {
        self.copied = self.copied.checked_sub(parts).ok_or(TooLarge::Namespaces)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_were_not_taken_use_nothing() {
        let mut budget = Budget::default();
        for _ in 0..POLICY / RULE {
            budget.begin_rule();
            budget.take(RULE).unwrap();
            assert_eq!(budget.take(1), Err(TooLarge::Rule));
            // Tried again after a rule that was too large.
            budget.begin_rule();
            budget.take(RULE).unwrap();
            budget.end_rule().unwrap();
        }
        budget.begin_rule();
        assert_eq!(budget.left(), 0);
        assert_eq!(budget.take(1), Err(TooLarge::Policy));
        assert_eq!(budget.end_rule(), Err(TooLarge::Policy), "a rule without matches is a rule");
    }
}
