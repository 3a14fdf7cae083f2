use super::quantile;
use crate::{Board, Panel};

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-ovs",
        title: "Antrea / OVS datapath",
        description: "Flows of Open vSwitch: how many, where, how fast they change, and whether they hold.",
        every: "antrea_agent_ovs_total_flow_count",
        rows: vec![("Flows", flows()), ("Changes", changes()), ("Connections", connections())],
    }
}

fn flows() -> Vec<Panel> {
    vec![
        Panel::lines("Flows by Node", "Flows in all tables.")
            .query("antrea_agent_ovs_total_flow_count{@}", "{{instance}}"),
        Panel::stacked("Flows by table", "Flows of the selected Nodes together.")
            .query("sum by (table_name) (antrea_agent_ovs_flow_count{@}) > 0", "{{table_name}}"),
        Panel::table("Tables", "Flows of the selected Nodes together, table by table.")
            .query("sum by (table_id, table_name) (antrea_agent_ovs_flow_count{@})", ""),
    ]
}

fn changes() -> Vec<Panel> {
    vec![
        Panel::lines("Operations", "Flows added, modified and deleted.").unit("ops").query(
            "sum by (operation) (rate(antrea_agent_ovs_flow_ops_count{@}[$__rate_interval]))",
            "{{operation}}",
        ),
        Panel::lines("Refused", "Operations that Open vSwitch refused.").unit("ops").query(
            "sum by (operation) (rate(antrea_agent_ovs_flow_ops_error_count{@}[$__rate_interval]))",
            "{{operation}}",
        ),
        Panel::lines("Latency, median", "Time that Open vSwitch takes for a bundle.").unit("ms").query(
            &quantile("0.5", "antrea_agent_ovs_flow_ops_latency_milliseconds", "operation"),
            "{{operation}}",
        ),
        Panel::lines("Latency, 99th percentile", "Time that Open vSwitch takes for a bundle.")
            .unit("ms")
            .query(
                &quantile("0.99", "antrea_agent_ovs_flow_ops_latency_milliseconds", "operation"),
                "{{operation}}",
            ),
        Panel::lines(
            "Repaired",
            "Flows that somebody else changed and the agent put back. It is never normal: find out who.",
        )
        .width(24)
        .unit("cps")
        .query("rate(antrea_agent_ovs_flow_repairs_total{@}[$__rate_interval])", "{{instance}}"),
    ]
}

fn connections() -> Vec<Panel> {
    vec![
        Panel::lines("Tracked connections", "Entries of the connection tracking table, of Antrea's zones and of all.")
            .query("antrea_agent_conntrack_total_connection_count{@}", "all {{instance}}")
            .query("antrea_agent_conntrack_antrea_connection_count{@}", "Antrea's {{instance}}"),
        Panel::lines("Table in use", "Share of the connection tracking table that is taken. New connections fail at 100 %.")
            .unit("percentunit")
            .query(
                "antrea_agent_conntrack_total_connection_count{@} / antrea_agent_conntrack_max_connection_count{@}",
                "{{instance}}",
            ),
    ]
}
