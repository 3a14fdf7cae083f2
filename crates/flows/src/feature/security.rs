//! The frame of policy: what policy tables do not decide. Rules are [`crate::policy`].

use openflow::{CtState, Flow, Match};

use super::{
    Family,
    priority::{BYPASS, HIGH, NORMAL},
};
use crate::{
    config::{Datapath, Network},
    cookie::Category,
    field::{Destination, Source, begins, destination, host_process, host_process_frame, source},
    table::{Stage, Table},
};

/// Flows that let established connections, the host's own processes and outgoing packets pass by policy.
///
/// A pod can't be isolated from its node: kubelet's probes must arrive. What forwarded packets have of the node is
/// its address alone (NodePort, hostPort, external addresses, all masqueraded by kube-proxy), and they meet policy.
/// Processes of the host are told by what only the host can say: on the kernel datapath by `pkt_mark[31]`, which its
/// firewall sets; on the userspace datapath, which never sees a mark, by the MAC address to which its routing sends
/// them ([`HOST_PROCESS_MAC`](crate::HOST_PROCESS_MAC)). A pod's own packet that a Service brings back to it is
/// exempt too, on the kernel datapath by its mark (see [`super::pod`]), in userspace by the same route. Where rule
/// or route is missing, probes of isolated pods fail: closed, not open.
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
                let goes_on = family.packets().ct_state(known(flag)).bits(begins(), 0);
                flows.push(flow(table, BYPASS, goes_on).action(net.goto(metric)));
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
        let request = CtState::new().unset(CtState::RPL).set(CtState::TRK);
        flows.push(
            flow(Table::IngressSecurityClassifier, HIGH, from_host(net, family).ct_state(request))
                .action(net.goto(Table::ConntrackCommit)),
        );
    }
    flows
}

/// Matches packets that processes of this host sent to this node's pods.
fn from_host(net: &Network, family: Family) -> Match {
    let told = match net.node.datapath {
        Datapath::Kernel => host_process(),
        Datapath::Userspace => host_process_frame(),
    };
    family.packets().bits(source(), Source::Gateway as u128).bits(destination(), 0).bits(told, 1)
}
