use super::process;
use crate::{Board, Panel};

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-operator",
        title: "Antrea / Operator",
        description: "What the operator does and what it sees.",
        every: "antrea_operator_leader",
        rows: vec![
            ("Installation", installation()),
            ("Work", work()),
            ("Certificates", vec![certificates()]),
            process(),
        ],
    }
}

fn installation() -> Vec<Panel> {
    vec![
        Panel::lines("Conditions", "1 while a condition of the AntreaInstallation is true.")
            .query("max by (type) (antrea_operator_condition{@})", "{{type}}"),
        Panel::lines("Nodes", "Nodes by the state of their agent. Updated ones run the wanted revision.")
            .query("sum by (state) (antrea_operator_nodes{@})", "{{state}}"),
        Panel::number("Rollout", "Nodes whose agent is of the wanted revision.")
            .unit("percentunit")
            .width(6)
            .good_from(1.0)
            .query(
                "sum(antrea_operator_nodes{@, state=\"updated\"}) / sum(antrea_operator_nodes{@, state=\"desired\"})",
                "",
            ),
        Panel::number("Failing Nodes", "Nodes whose agent fails; status.nodes.failing says why.")
            .width(6)
            .bad_from(1.0)
            .query("sum(antrea_operator_nodes{@, state=\"failing\"})", ""),
        Panel::number("Leaders", "Operators that lead; one is right.")
            .width(6)
            .good_from(1.0)
            .query("sum(antrea_operator_leader{@})", ""),
        Panel::number("Agents replaced", "Agent Pods replaced in the chosen time.")
            .width(6)
            .query("sum(increase(antrea_operator_agent_pods_replaced_total{@}[$__range]))", ""),
    ]
}

fn work() -> Vec<Panel> {
    vec![
        Panel::lines("Reconciliations", "By result.").unit("ops").query(
            "sum by (result) (rate(antrea_operator_reconcile_duration_seconds_count{@}[$__rate_interval]))",
            "{{result}}",
        ),
        Panel::lines("Duration, 99th percentile", "Duration of a reconciliation, by result.")
            .unit("s")
            .query(
                &super::quantile("0.99", "antrea_operator_reconcile_duration_seconds", "result"),
                "{{result}}",
            ),
        Panel::lines("Changes", "Objects that the operator created, updated or deleted, by kind.")
            .unit("cps")
            .query(
                "sum by (kind, action) (rate(antrea_operator_changes_total{@}[$__rate_interval]))",
                "{{action}} {{kind}}",
            ),
        Panel::lines(
            "Repairs",
            "Objects put back because somebody else changed them. Events name who changed which field.",
        )
        .unit("cps")
        .query("sum by (kind) (rate(antrea_operator_drift_repairs_total{@}[$__rate_interval]))", "{{kind}}"),
    ]
}

fn certificates() -> Panel {
    Panel::lines(
        "Time left",
        "Until a certificate that the operator sees expires. It is renewed long before.",
    )
    .width(24)
    .unit("s")
    .query("antrea_operator_certificate_expiration_timestamp_seconds{@} - time()", "{{certificate}}")
}
