use super::{process, quantile};
use crate::{Board, Panel};

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-agent",
        title: "Antrea / Agent",
        description: "The agent of one Node, or of several next to each other.",
        every: "antrea_agent_local_pod_count",
        rows: vec![("Node", node()), ("Datapath", datapath()), ("Flow operations", operations()), process()],
    }
}

fn node() -> Vec<Panel> {
    vec![
        Panel::lines(
            "Conditions",
            "1 while a condition is true on all selected Nodes. The AntreaAgentInfo has reason and message.",
        )
        .query("min by (type) (antrea_agent_condition{@})", "{{type}}"),
        Panel::lines("Pods", "Pods that the agent connects.")
            .query("antrea_agent_local_pod_count{@}", "{{instance}}"),
        Panel::lines("NetworkPolicies", "Policies that select Pods of the Node.")
            .query("antrea_agent_networkpolicy_count{@}", "{{instance}}"),
        Panel::stacked("Policy rules", "Rules that are enforced on the Node.")
            .query("antrea_agent_ingress_networkpolicy_rule_count{@}", "ingress {{instance}}")
            .query("antrea_agent_egress_networkpolicy_rule_count{@}", "egress {{instance}}"),
    ]
}

fn datapath() -> Vec<Panel> {
    vec![
        Panel::lines(
            "Self-test",
            "99th percentile of the time that a test frame takes through the bridge and back.",
        )
        .unit("s")
        .query(
            &quantile("0.99", "antrea_agent_datapath_self_test_duration_seconds", "instance"),
            "{{instance}}",
        ),
        Panel::lines(
            "Lost test frames",
            "Test frames that did not come back: the datapath does not forward.",
        )
        .unit("cps")
        .query("rate(antrea_agent_datapath_self_test_failures_total{@}[$__rate_interval])", "{{instance}}"),
        Panel::lines("Verification", "99th percentile of the time that a comparison of all flows takes.")
            .unit("s")
            .query(
                &quantile("0.99", "antrea_agent_ovs_flow_verification_duration_seconds", "instance"),
                "{{instance}}",
            ),
        Panel::lines("Tracked connections", "Entries of the connection tracking table of each Node.")
            .query("antrea_agent_conntrack_total_connection_count{@}", "{{instance}}"),
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
