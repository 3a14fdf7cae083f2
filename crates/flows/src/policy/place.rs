//! Where a rule's flows stand: clauses, tables, priorities.

use super::{Class, Direction, Peers, Rule};
use crate::{
    Table,
    feature::priority::{LOW, NORMAL},
};

/// How many ids share a priority in the Kubernetes tables. A flow can't be longer than 64 KiB, 16 bytes per
/// conjunction, and is sent whole when one rule joins or leaves it. Kubernetes rules only allow, so their
/// order among themselves means nothing.
const IDS_PER_PRIORITY: u32 = 1024;
/// Number of priorities that Kubernetes rules are spread over.
const PRIORITIES: u32 = 1024;

/// The numbers of a rule's clauses: from, to, service, those that restrict something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clauses {
    pub(super) pods: u8,
    pub(super) peers: Option<u8>,
    pub(super) services: Option<u8>,
    pub(super) count: u8,
}

impl Clauses {
    pub(super) fn of(rule: &Rule) -> Self {
        // A conjunction has two clauses at least: a rule for all peers and all services gets one that
        // matches every packet.
        let peers = rule.peers != Peers::Any || rule.services.is_empty();
        let services = !rule.services.is_empty();
        let count = 1 + u8::from(peers) + u8::from(services);
        let (pods, peers_at) = match rule.direction {
            Direction::In => (1 + u8::from(peers), 1),
            Direction::Out => (1, 2),
        };
        Self { pods, peers: peers.then_some(peers_at), services: services.then_some(count), count }
    }
}

/// Whether any packet can match the rule.
pub(super) fn is_active(rule: &Rule) -> bool {
    !rule.pods.is_empty() && !rule.peers.is_nobody()
}

pub(super) fn rule_table(rule: &Rule) -> Table {
    class_table(rule.class, rule.direction)
}

pub(super) fn class_table(class: Class, direction: Direction) -> Table {
    match (class, direction) {
        (Class::K8s, Direction::In) => Table::IngressRule,
        (Class::K8s, Direction::Out) => Table::EgressRule,
        (Class::Native { .. }, Direction::In) => Table::AntreaPolicyIngressRule,
        (Class::Native { .. }, Direction::Out) => Table::AntreaPolicyEgressRule,
        (Class::Baseline { .. }, Direction::In) => Table::IngressDefaultRule,
        (Class::Baseline { .. }, Direction::Out) => Table::EgressDefaultRule,
        (Class::Service { .. }, _) => Table::ServicePolicyRule,
    }
}

pub(super) fn match_priority(rule: &Rule) -> u16 {
    match rule.class {
        Class::K8s => NORMAL + (rule.id / IDS_PER_PRIORITY % PRIORITIES) as u16,
        Class::Native { priority } | Class::Baseline { priority } | Class::Service { priority } => priority,
    }
}

pub(super) fn action_priority(rule: &Rule) -> u16 {
    match rule.class {
        Class::K8s => LOW,
        Class::Native { priority } | Class::Baseline { priority } | Class::Service { priority } => priority,
    }
}
