//! What `antctl check installation` tries: who asks whom, and which policies are tried in which steps.

use serde_json::Value;

use super::objects::{self, Role};

/// Somebody asks somebody, who has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) check: &'static str,
    pub(super) who: Role,
    pub(super) whom: &'static str,
    /// Needs a second Node.
    pub(super) far: bool,
}

const fn ask(check: &'static str, who: Role, whom: &'static str, far: bool) -> Ask {
    Ask { check, who, whom, far }
}

/// All of them.
pub(super) const ASKS: [Ask; 11] = [
    ask("pod-to-pod-same-node", Role::Client, "near", false),
    ask("pod-to-pod-across-nodes", Role::Client, "far", true),
    ask("pod-to-service-same-node", Role::Client, "service-near", false),
    ask("pod-to-service-across-nodes", Role::Client, "service-far", true),
    ask("pod-to-itself-by-service", Role::Near, "service-near", false),
    ask("pod-to-nodeport-own-node", Role::Client, "nodeport-near", false),
    ask("pod-to-nodeport-other-node", Role::Client, "nodeport-far", true),
    ask("host-to-pod-same-node", Role::Host, "near", false),
    ask("host-to-pod-across-nodes", Role::Host, "far", true),
    ask("host-to-service", Role::Host, "service-near", false),
    ask("pod-to-internet", Role::Client, "internet", false),
];

/// What is done to policies.
#[derive(Debug)]
pub(super) enum Change {
    Create(Value),
    Delete(&'static str),
}

/// A change, and of whom the client gets answers then, and of whom not. Each differs from the one before, so that what is
/// seen is of now.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) change: Change,
    pub(super) answered: &'static [&'static str],
    pub(super) denied: &'static [&'static str],
}

/// A check of policies: after all of its steps none is left.
pub(super) type Judged = (&'static str, Vec<Step>);

/// Policies that are tried.
pub(super) fn policies() -> [Judged; 3] {
    const ALL: &[&str] = &["near", "far", "service-near", "service-far"];
    const BOTH: &[&str] = &["near", "far"];
    let step = |change, answered, denied| Step { change, answered, denied };
    let shut = || objects::policy("deny-ingress", Role::Near, true, None);
    let open = || objects::policy("allow-client", Role::Near, true, Some(Role::Client));
    [
        (
            "egress-deny-policy",
            vec![
                step(Change::Create(objects::policy("deny-egress", Role::Client, false, None)), &[], ALL),
                step(Change::Delete("deny-egress"), ALL, &[]),
            ],
        ),
        (
            "ingress-deny-policy",
            vec![
                step(Change::Create(shut()), &["far"], &["near"]),
                step(Change::Delete("deny-ingress"), BOTH, &[]),
            ],
        ),
        (
            "ingress-allow-policy",
            vec![
                step(Change::Create(shut()), &["far"], &["near"]),
                step(Change::Create(open()), BOTH, &[]),
                step(Change::Delete("allow-client"), &["far"], &["near"]),
                step(Change::Delete("deny-ingress"), BOTH, &[]),
            ],
        ),
    ]
}
