use super::process;
use crate::{Board, Panel};

/// What is computed: name in metrics, name for people.
const KINDS: [(&str, &str); 3] = [
    ("network_policy", "policies"),
    ("address_group", "address groups"),
    ("applied_to_group", "applied-to groups"),
];

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-controller",
        title: "Antrea / Controller",
        description: "Computation of policy and its way to the agents.",
        every: "antrea_controller_network_policy_processed",
        rows: vec![("Health", health()), ("Policy computation", computation()), ("API", api()), process()],
    }
}

fn health() -> Vec<Panel> {
    vec![
        Panel::lines(
            "Conditions",
            "1 while a condition is true. The AntreaControllerInfo has reason and message.",
        )
        .query("min by (type) (antrea_controller_condition{@})", "{{type}}"),
        Panel::lines("Connected agents", "Agents that watch for policy.")
            .query("sum(antrea_controller_connected_agents{@})", "agents"),
    ]
}

fn api() -> Vec<Panel> {
    vec![
        Panel::lines("Requests", "Requests to the controller's API, by verb and HTTP status.")
            .unit("reqps")
            .query(
                "sum by (verb, code) (rate(apiserver_request_total{@}[$__rate_interval]))",
                "{{verb}} {{code}}",
            ),
        Panel::lines("Watches", "Open watches by resource; each agent has one of each.")
            .query("sum by (resource) (apiserver_registered_watchers{@})", "{{resource}}"),
    ]
}

/// One query per kind.
fn each(mut panel: Panel, expr: impl Fn(&str) -> String) -> Panel {
    for (kind, legend) in KINDS {
        panel = panel.query(&expr(kind), legend);
    }
    panel
}

fn computation() -> Vec<Panel> {
    let sync = |quantile: &'static str| {
        move |kind: &str| {
            format!(
                "histogram_quantile({quantile}, sum by (le) (rate(antrea_controller_{kind}_sync_duration_milliseconds_bucket{{@}}[$__rate_interval])))"
            )
        }
    };
    vec![
        each(Panel::lines("Processed", "Objects computed and sent out.").unit("ops"), |kind| {
            format!("sum(rate(antrea_controller_{kind}_processed{{@}}[$__rate_interval]))")
        }),
        each(
            Panel::lines("Queue", "Events that wait to be taken in. A queue that only grows is stuck."),
            |kind| format!("sum(antrea_controller_length_{kind}_queue{{@}})"),
        ),
        each(
            Panel::lines("Duration, median", "From taking in a change to having sent out what follows.")
                .unit("ms"),
            sync("0.5"),
        ),
        each(
            Panel::lines(
                "Duration, 99th percentile",
                "From taking in a change to having sent out what follows.",
            )
            .unit("ms"),
            sync("0.99"),
        ),
    ]
}
