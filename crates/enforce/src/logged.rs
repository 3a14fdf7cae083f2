//! What the audit log says of rules.

use std::collections::HashMap;
use std::sync::Arc;

use antrea_flows::Table;
use antrea_flows::policy::{Action, Direction};

use crate::reconciler::Reconciler;

/// A rule whose decisions are logged, or the isolation of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it stands.
    pub table: Table,
    /// The policy: type, namespace and name.
    pub policy: Arc<str>,
    /// Its name, where it has one.
    pub rule: Option<Arc<str>>,
    /// Seen from the pods that it applies to.
    pub direction: Direction,
    /// What it decides.
    pub action: Action,
    /// Priority of its flow.
    pub priority: Option<u16>,
    /// What its author wants to read with it.
    pub label: Option<Arc<str>>,
}

impl Logged {
    /// What no rule allowed, of pods that Kubernetes policies isolate; `None` of a table that does not do that.
    pub fn isolation(table: Table) -> Option<Self> {
        let direction = match table {
            Table::IngressDefaultRule => Direction::In,
            Table::EgressDefaultRule => Direction::Out,
            _ => return None,
        };
        let (policy, action) = ("K8sNetworkPolicy".into(), Action::Drop);
        Some(Self { table, policy, rule: None, direction, action, priority: None, label: None })
    }
}

impl Reconciler {
    /// Rules in force whose decisions are logged, by id.
    pub fn logged(&self) -> HashMap<u32, Logged> {
        let mut all = HashMap::new();
        for realised in self.policies.values() {
            for (spec, slot) in
                realised.policy.rules.iter().zip(&realised.slots).filter(|(spec, _)| spec.logs)
            {
                for id in slot.values() {
                    let Some(rule) = self.realizer.as_ref().and_then(|realizer| realizer.rule(*id)) else {
                        continue;
                    };
                    let (table, priority) = rule.place();
                    let logged = Logged {
                        table,
                        policy: realised.policy.source.clone(),
                        rule: spec.name.clone(),
                        direction: rule.direction,
                        action: rule.action,
                        priority: Some(priority),
                        label: spec.label.clone(),
                    };
                    all.insert(*id, logged);
                }
            }
        }
        all
    }
}
