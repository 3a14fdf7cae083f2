use crate::{Board, Panel};

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-networkpolicy",
        title: "Antrea / NetworkPolicy",
        description: "Policy from the controller's computation to the flows of each Node.",
        every: "{__name__=~\"antrea_(agent|controller)_build_info\"}",
        rows: vec![("On the Nodes", nodes()), ("On the way", way())],
    }
}

fn nodes() -> Vec<Panel> {
    vec![
        Panel::lines("Policies", "Policies that select Pods of a Node.")
            .query("antrea_agent_networkpolicy_count{@}", "{{instance}}"),
        Panel::lines("Rules", "Rules on all selected Nodes; one that holds on two of them counts twice.")
            .query("sum(antrea_agent_ingress_networkpolicy_rule_count{@})", "ingress")
            .query("sum(antrea_agent_egress_networkpolicy_rule_count{@})", "egress"),
        Panel::stacked("Flows that enforce policy", "By table, on all selected Nodes.").query(
            "sum by (table_name) (antrea_agent_ovs_flow_count{@, table_name=~\".*(Ingress|Egress)(Default)?Rule\"})",
            "{{table_name}}",
        ),
        Panel::number("Flows per rule", "Ten or less is usual, more while there are few rules; very many mean rules with many ports or addresses.")
            .width(12)
            .query(
                "sum(antrea_agent_ovs_flow_count{@, table_name=~\".*(Ingress|Egress)Rule\"}) / (sum(antrea_agent_ingress_networkpolicy_rule_count{@}) + sum(antrea_agent_egress_networkpolicy_rule_count{@}))",
                "",
            ),
    ]
}

fn way() -> Vec<Panel> {
    vec![
        Panel::lines("Policies computed", "Policies that the controller computed and sent out.")
            .unit("ops")
            .query("sum(rate(antrea_controller_network_policy_processed{@}[$__rate_interval]))", "policies")
            .query("sum(rate(antrea_controller_address_group_processed{@}[$__rate_interval]))", "address groups")
            .query("sum(rate(antrea_controller_applied_to_group_processed{@}[$__rate_interval]))", "applied-to groups"),
        Panel::lines(
            "From change to flow",
            "99th percentiles of the controller's computation and of Open vSwitch taking the flows.",
        )
        .unit("ms")
        .query(
            "histogram_quantile(0.99, sum by (le) (rate(antrea_controller_network_policy_sync_duration_milliseconds_bucket{@}[$__rate_interval])))",
            "computation",
        )
        .query(
            "histogram_quantile(0.99, sum by (le) (rate(antrea_agent_ovs_flow_ops_latency_milliseconds_bucket{@}[$__rate_interval])))",
            "flows",
        ),
    ]
}
