//! The connection tracker: one look-up per packet, one commit per connection.
//!
//! Connections are committed in one place, after all policy. The userspace datapath takes the second packet
//! of a committed connection for an established one even if the first was dropped later on, so a commit
//! between egress and ingress policy would let retransmitted SYNs round the ingress rules. The ids of the
//! rules that allowed the connection wait in registers until then.
//!
//! A SYN begins a connection. The kernel's tracker takes one with the addresses and ports of a connection that its client
//! closed less than two minutes ago for a packet of that: established, as far as `ct_state` tells. Policy judges it as
//! what it is ([`begins`]); else a port that is used again would carry what is forbidden by now.

use openflow::{Action, Ct, CtState, CtZone, Flow, SubField};

use super::{
    SYN, established,
    priority::{HIGH, LOW, NORMAL},
};
use crate::{
    config::Network,
    cookie::Category,
    field::{
        begins, ct_egress_rule, ct_ingress_rule, ct_masqueraded, ct_service, ct_source, egress_rule,
        has_endpoint, ingress_rule, masqueraded, source,
    },
    table::{Stage, Table},
};

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// Flows of ConntrackZone, ConntrackState and ConntrackCommit.
pub fn conntrack(net: &Network) -> Vec<Flow> {
    let flow = |table, priority, matches| net.flow(Category::Default, table, priority, matches);
    let policy = net.pipeline.entry(Stage::EgressSecurity);
    net.pipeline
        .families()
        .flat_map(|family| {
            let zone = CtZone::Immediate(family.zone());
            let invalid = CtState::new().set(CtState::INV | CtState::TRK);
            // Whatever the tracker gives back without a word about it, such as fragments that belong to no datagram.
            let untracked = CtState::new().unset(CtState::TRK);
            let new = CtState::new().set(CtState::NEW | CtState::TRK);
            let look_up = Ct { zone, table: net.pipeline.number(Table::ConntrackState), ..Ct::default() };
            let commit = Ct {
                commit: true,
                zone,
                exec: vec![
                    copy(source(), ct_source()),
                    copy(ingress_rule(), ct_ingress_rule()),
                    copy(egress_rule(), ct_egress_rule()),
                ],
                ..Ct::default()
            };
            let served = net.pipeline.features().services.then(|| {
                let mut commit = commit.clone();
                commit.exec.push(ct_service().load(1));
                if net.node.serves_all {
                    commit.exec.push(copy(masqueraded(), ct_masqueraded()));
                }
                let matches = family.packets().ct_state(new).bits(has_endpoint(), 1);
                flow(Table::ConntrackCommit, HIGH, matches).action(commit).action(net.goto(Table::Output))
            });
            let again = established().set(CtState::EST).unset(CtState::INV);
            let again = family.packets().nw_proto(TCP).ct_state(again).tcp_flags(SYN.0, SYN.1);
            [
                flow(Table::ConntrackState, NORMAL, again)
                    .action(begins().load(1))
                    .actions(policy.map(|t| net.goto(t))),
                flow(Table::ConntrackZone, NORMAL, family.packets()).action(look_up),
                flow(Table::ConntrackState, NORMAL, family.packets().ct_state(invalid)),
                flow(Table::ConntrackState, NORMAL, family.packets().ct_state(untracked)),
                flow(Table::ConntrackState, LOW, family.packets().ct_state(established()))
                    .actions(policy.map(|t| net.goto(t))),
                flow(Table::ConntrackCommit, NORMAL, family.packets().ct_state(new))
                    .action(commit)
                    .action(net.goto(Table::Output)),
            ]
            .into_iter()
            .chain(served)
        })
        .collect()
}

fn copy(src: SubField, dst: SubField) -> Action {
    Action::move_bits(src, dst).expect("must be sub-fields of one width")
}
