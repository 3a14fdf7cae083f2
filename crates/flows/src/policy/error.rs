use crate::Table;

/// A rule that can't become flows. The realizer is then as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// 0 means "no rule" in registers and labels.
    #[error("rule id 0 is reserved")]
    ReservedId,
    /// Kubernetes rules can only allow.
    #[error("rule {id} of a Kubernetes policy does not allow")]
    NotAllow { id: u32 },
    /// Baseline rules have nothing to pass to.
    #[error("rule {id} of the baseline tier passes, but nothing comes after it")]
    NothingToPassTo { id: u32 },
    /// The priority is outside the range of the rule's class.
    #[error("rule {id} has OpenFlow priority {priority}, which its class does not have")]
    Priority { id: u32, priority: u16 },
    /// The table of the rule does not exist.
    #[error("rule {id} needs table {}, which is not enabled", .table.name())]
    NoTable { id: u32, table: Table },
    /// A rule about Services that is not one of egress, or has services of its own.
    #[error("rule {id} names Services and says more than where its packets go")]
    Target { id: u32 },
    /// Members of a rule that is not there.
    #[error("rule {id} is not known")]
    Unknown { id: u32 },
}

impl RuleError {
    /// The rule at fault.
    pub fn id(&self) -> u32 {
        match self {
            RuleError::ReservedId => 0,
            RuleError::NotAllow { id }
            | RuleError::NothingToPassTo { id }
            | RuleError::Priority { id, .. }
            | RuleError::NoTable { id, .. }
            | RuleError::Target { id }
            | RuleError::Unknown { id } => *id,
        }
    }
}
