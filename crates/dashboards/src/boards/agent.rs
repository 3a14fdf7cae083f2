use super::{process, quantile};
use crate::{Board, Panel};

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-agent",
        title: "Antrea / Agent",
        description: "The agent of one Node, or of several next to each other.",
        every: "antrea_agent_local_pod_count",
        rows: vec![("Node", node()), ("Flow operations", operations()), process()],
    }
}

fn node() -> Vec<Panel> {
    vec![
        Panel::lines("Pods", "Pods that the agent connects.")
            .query("antrea_agent_local_pod_count{@}", "{{instance}}"),
        Panel::lines("Flows", "Flows in all tables.")
            .query("antrea_agent_ovs_total_flow_count{@}", "{{instance}}"),
        Panel::lines("NetworkPolicies", "Policies that select Pods of the Node.")
            .query("antrea_agent_networkpolicy_count{@}", "{{instance}}"),
        Panel::stacked("Policy rules", "Rules that are enforced on the Node.")
            .query("antrea_agent_ingress_networkpolicy_rule_count{@}", "ingress {{instance}}")
            .query("antrea_agent_egress_networkpolicy_rule_count{@}", "egress {{instance}}"),
    ]
}

fn operations() -> Vec<Panel> {
    vec![
        Panel::lines("Operations", "Flows added, modified and deleted.").unit("ops").query(
            "sum by (operation) (rate(antrea_agent_ovs_flow_ops_count{@}[$__rate_interval]))",
            "{{operation}}",
        ),
        Panel::lines("Latency", "99th percentile of the time that Open vSwitch takes for a bundle.")
            .unit("ms")
            .query(
                &quantile("0.99", "antrea_agent_ovs_flow_ops_latency_milliseconds", "operation"),
                "{{operation}}",
            ),
        Panel::lines(
            "Refused",
            "Operations that Open vSwitch refused. The Pod or policy concerned is not as it should be.",
        )
        .unit("ops")
        .query(
            "sum by (instance, operation) (rate(antrea_agent_ovs_flow_ops_error_count{@}[$__rate_interval]))",
            "{{operation}} {{instance}}",
        ),
        Panel::lines("Repaired", "Flows that somebody else changed and the agent put back.")
            .unit("cps")
            .query("rate(antrea_agent_ovs_flow_repairs_total{@}[$__rate_interval])", "{{instance}}"),
    ]
}
