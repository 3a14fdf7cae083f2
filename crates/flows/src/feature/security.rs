//! The frame of policy: what policy tables do not decide. Rules are [`crate::policy`].

use std::net::IpAddr;

use openflow::{CtState, Flow, Match};

use super::{
    Family,
    priority::{BYPASS, HIGH, NORMAL},
};
use crate::{
    config::{Datapath, Network},
    cookie::Category,
    field::{Destination, Source, destination, host_process, source},
    table::{Stage, Table},
};

/// Flows that let established connections, the host's own processes and outgoing packets pass by policy.
///
/// A pod can't be isolated from its node: kubelet's probes must arrive. On the kernel datapath a packet of a
/// host process is known by `pkt_mark[31]`, which the host's firewall sets; forwarded packets (NodePort with
/// a masqueraded source) don't have it and meet policy, except a pod's own (see [`super::pod`]). If the rule that sets the mark is missing, probes of
/// isolated pods fail: closed, not open. The userspace datapath never sees the mark. There the node's own
/// gateway address, and no other, stands for the node; what kube-proxy masquerades to that address
/// (externalTrafficPolicy Cluster, a pod's connection to itself through a Service) passes too.
pub fn security(net: &Network) -> Vec<Flow> {
    let flow = |table, priority, matches| net.flow(Category::Default, table, priority, matches);
    let known = |flag| CtState::new().unset(CtState::NEW).set(flag);
    let mut flows = Vec::new();
    for family in net.pipeline.families() {
        for (stage, metric) in
            [(Stage::EgressSecurity, Table::EgressMetric), (Stage::IngressSecurity, Table::IngressMetric)]
        {
            // IngressSecurityClassifier heads its stage but is no rule table.
            let first_rule_table = match stage {
                Stage::IngressSecurity => net.pipeline.next(Table::IngressSecurityClassifier),
                stage => net.pipeline.entry(stage),
            };
            for (table, flag) in
                first_rule_table.into_iter().flat_map(|t| [(t, CtState::EST), (t, CtState::REL)])
            {
                flows.push(
                    flow(table, BYPASS, family.packets().ct_state(known(flag))).action(net.goto(metric)),
                );
            }
        }
        for to in [Destination::Gateway, Destination::Tunnel] {
            flows.push(
                flow(
                    Table::IngressSecurityClassifier,
                    NORMAL,
                    family.packets().bits(destination(), to as u128),
                )
                .action(net.goto(Table::IngressMetric)),
            );
        }
        flows.extend(from_host(net, family).into_iter().map(|matches| {
            let request = CtState::new().unset(CtState::RPL).set(CtState::TRK);
            flow(Table::IngressSecurityClassifier, HIGH, matches.ct_state(request))
                .action(net.goto(Table::ConntrackCommit))
        }));
    }
    flows
}

/// Matches packets that processes of this host sent to this node's pods.
fn from_host(net: &Network, family: Family) -> Vec<Match> {
    let from_gateway = |m: Match| m.bits(source(), Source::Gateway as u128).bits(destination(), 0);
    match net.node.datapath {
        Datapath::Kernel => vec![from_gateway(family.packets().bits(host_process(), 1))],
        Datapath::Userspace => net
            .node
            .gateway
            .ips
            .iter()
            .filter(|ip| matches!(ip, IpAddr::V6(_)) == (family == Family::V6))
            .map(|ip| from_gateway(Match::new().nw_src(*ip)))
            .collect(),
    }
}
