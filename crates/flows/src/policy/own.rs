//! What becomes of packets that a rule matched.

use openflow::{Action as OfAction, CtState, Flow, Match};

use super::{
    Action, Class, Direction, Rule,
    place::{action_priority, rule_table},
    target,
};
use crate::{
    Network, Table,
    cookie::Category,
    feature::{
        priority::NORMAL,
        reject::{LOG, REJECT, send_up},
    },
    field,
};

/// Flows that say what becomes of packets that the rule matched.
pub(super) fn flows(net: &Network, rule: &Rule) -> Vec<Flow> {
    let flow = |table, priority, matches| {
        Flow::new(net.pipeline.id(table), priority)
            .cookie(net.cookie(Category::NetworkPolicy, rule.id))
            .matching(matches)
    };
    let id = u128::from(rule.id);
    let (metric, k8s_table, register, label) = match rule.direction {
        Direction::In => {
            (Table::IngressMetric, Table::IngressRule, field::ingress_rule(), field::ct_ingress_rule())
        }
        Direction::Out => {
            (Table::EgressMetric, Table::EgressRule, field::egress_rule(), field::ct_egress_rule())
        }
    };
    let decision = flow(rule_table(rule), action_priority(rule), Match::new().conj_id(rule.id));
    let next = net.goto_next(metric);
    if let (Class::Service { .. }, Action::Allow | Action::Pass) = (rule.class, rule.action) {
        // What it lets in goes on as if nobody had looked at it.
        let logs = rule.logs && rule.action == Action::Allow;
        let on = OfAction::resubmit_table(net.pipeline.id(Table::ServiceState));
        return vec![decision.actions(logs.then(|| send_up(net, LOG))).action(on)];
    }
    match rule.action {
        Action::Allow => {
            let new = CtState::new().set(CtState::NEW | CtState::TRK);
            let known = CtState::new().unset(CtState::NEW).set(CtState::TRK);
            vec![
                decision.action(register.load(id)).action(net.goto(metric)),
                flow(metric, NORMAL, Match::new().ct_state(new).bits(register, id))
                    .actions(rule.logs.then(|| send_up(net, LOG)))
                    .actions(next.clone()),
                flow(metric, NORMAL, Match::new().ct_state(known).bits(label, id)).actions(next),
            ]
        }
        Action::Drop | Action::Reject => {
            let rejects = rule.action == Action::Reject;
            let disposition = if rejects { 2 } else { 1 };
            // What is sent up goes nowhere else: whatever becomes of the answer, the packet is dropped.
            let told = if rejects { REJECT } else { 0 } | if rule.logs { LOG } else { 0 };
            let ends = (told != 0).then(|| send_up(net, told));
            let denies = |decision: Flow| {
                decision
                    .action(field::deny_rule().load(id))
                    .action(field::denied().load(1))
                    .action(field::disposition().load(disposition))
                    .action(net.goto(metric))
            };
            let before = || flow(Table::DNAT, target::GUARD, Match::new().conj_id(rule.id));
            let guard = target::guards(rule).then(|| denies(before()));
            let counts = Match::new().bits(field::denied(), 1).bits(field::deny_rule(), id);
            [denies(decision), flow(metric, NORMAL, counts).actions(ends)].into_iter().chain(guard).collect()
        }
        Action::Pass => vec![decision.action(net.goto(k8s_table))],
    }
}
