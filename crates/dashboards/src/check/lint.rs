//! The rules of a good board and a good alert.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    metrics::Metrics,
    promql::{Rules, problems},
};

/// Longest identity that Grafana stores.
const LONGEST_UID: usize = 40;

/// Everything that is wrong with the JSON of a board, each with the place.
pub fn board(board: &Value, metrics: &Metrics) -> Vec<String> {
    let mut found = Vec::new();
    head(board, &mut found);
    variables(board, metrics, &mut found);
    let empty = Vec::new();
    let panels = board["panels"].as_array().unwrap_or(&empty);
    if panels.is_empty() {
        found.push("panels: there are none".to_owned());
    }
    grid(panels, &mut found);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap_or_default();
        for problem in panel_problems(panel, metrics) {
            found.push(format!("panel \"{title}\": {problem}"));
        }
    }
    found
}

/// Everything that is wrong with a rule of the JSON of an alert.
pub fn alert(rule: &Value, metrics: &Metrics) -> Vec<String> {
    let name = rule["alert"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    if !name.starts_with("Antrea") {
        found.push(format!("alert: \"{name}\" does not start with Antrea"));
    }
    if !["critical", "warning", "info"].iter().any(|severity| rule["labels"]["severity"] == *severity) {
        found.push("labels.severity: not one of critical, warning, info".into());
    }
    for field in ["summary", "description"] {
        if text(&rule["annotations"][field]).is_empty() {
            found.push(format!("annotations.{field}: missing"));
        }
    }
    if !text(&rule["annotations"]["runbook_url"]).ends_with(&format!("/docs/runbooks/{name}.md")) {
        found.push("annotations.runbook_url: not the page of this alert".into());
    }
    let rules = Rules { metrics, board: false };
    found.extend(problems(text(&rule["expr"]), &rules).into_iter().map(|problem| format!("expr: {problem}")));
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default().trim()
}

fn head(board: &Value, found: &mut Vec<String>) {
    let uid = text(&board["uid"]);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if uid.is_empty() || uid.len() > LONGEST_UID || !uid.chars().all(plain) {
        found.push(format!("uid: \"{uid}\" is not 1 to {LONGEST_UID} small letters, digits and dashes"));
    }
    for (field, wanted) in [
        ("id", Value::Null),
        ("editable", json!(false)),
        ("tags", json!(["antrea"])),
        ("refresh", json!("30s")),
        ("graphTooltip", json!(1)),
    ] {
        if board[field] != wanted {
            found.push(format!("{field}: not {wanted}"));
        }
    }
    for field in ["title", "description"] {
        if text(&board[field]).is_empty() {
            found.push(format!("{field}: missing"));
        }
    }
    if !board["schemaVersion"].as_u64().is_some_and(|version| (39..=42).contains(&version)) {
        found.push("schemaVersion: not 39 to 42".into());
    }
    if !["browser", "utc"].contains(&text(&board["timezone"])) {
        found.push("timezone: neither browser nor utc".into());
    }
    for field in ["__inputs", "__requires", "version", "iteration"] {
        if board.get(field).is_some() {
            found.push(format!("{field}: differs from export to export"));
        }
    }
}

fn is_chosen_source(value: &Value) -> bool {
    *value == json!({"type": "prometheus", "uid": "${datasource}"})
}

fn variables(board: &Value, metrics: &Metrics, found: &mut Vec<String>) {
    let list = board["templating"]["list"].as_array().cloned().unwrap_or_default();
    let source = list.first().cloned().unwrap_or_default();
    if source["name"] != "datasource" || source["type"] != "datasource" || source["query"] != "prometheus" {
        found.push("templating: the first variable is not the data source".into());
    }
    for name in ["job", "instance"] {
        let Some(variable) = list.iter().find(|variable| variable["name"] == name) else {
            found.push(format!("templating: no variable {name}"));
            continue;
        };
        for (field, wanted) in [
            ("type", json!("query")),
            ("refresh", json!(2)),
            ("multi", json!(true)),
            ("includeAll", json!(true)),
            // Whatever Prometheus has must not be taken for a job of ours.
            ("allValue", if name == "job" { Value::Null } else { json!(".+") }),
        ] {
            if variable[field] != wanted {
                found.push(format!("templating.{name}.{field}: not {wanted}"));
            }
        }
        if !is_chosen_source(&variable["datasource"]) {
            found.push(format!("templating.{name}.datasource: not the chosen one"));
        }
        let query = text(&variable["query"]);
        let values =
            query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(&format!(", {name})")));
        match values {
            None => found.push(format!("templating.{name}.query: not label_values(..., {name})")),
            Some(selector) => {
                let selector = selector.replace("$job", "x");
                let unknown = problems(&selector, &Rules { metrics, board: false });
                // What is wrong with a counter's value does not matter: only its labels are looked at.
                let unknown = unknown.into_iter().filter(|problem| !problem.contains("is a counter"));
                found.extend(unknown.map(|problem| format!("templating.{name}.query: {problem}")));
            }
        }
    }
}

fn grid(panels: &[Value], found: &mut Vec<String>) {
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = text(&panel["title"]);
        if !ids.insert(panel["id"].as_u64()) || panel["id"].is_null() {
            found.push(format!("panel \"{title}\": id missing or not unique"));
        }
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_default();
        let (x, y, width, height) = (side("x"), side("y"), side("w"), side("h"));
        if width == 0 || height == 0 || x + width > 24 {
            found.push(format!("panel \"{title}\": gridPos: not in the 24 columns"));
            continue;
        }
        let mut free = true;
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            free &= cells.insert(cell);
        }
        if !free {
            found.push(format!("panel \"{title}\": gridPos: on top of another panel"));
        }
    }
}

fn panel_problems(panel: &Value, metrics: &Metrics) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["title", "description"] {
        if text(&panel[field]).is_empty() {
            found.push(format!("{field}: missing"));
        }
    }
    if text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty() {
        found.push("unit: missing".into());
    }
    if !is_chosen_source(&panel["datasource"]) {
        found.push("datasource: not the chosen one".into());
    }
    let targets = panel["targets"].as_array().cloned().unwrap_or_default();
    if targets.is_empty() {
        found.push("targets: there are none".into());
    }
    let mut names = BTreeSet::new();
    for target in &targets {
        let name = text(&target["refId"]).to_owned();
        if !is_chosen_source(&target["datasource"]) {
            found.push(format!("target {name}: datasource: not the chosen one"));
        }
        if panel["type"] == "timeseries" && text(&target["legendFormat"]).is_empty() {
            found.push(format!("target {name}: legendFormat: missing"));
        }
        let rules = Rules { metrics, board: true };
        let wrong = problems(text(&target["expr"]), &rules);
        found.extend(wrong.into_iter().map(|problem| format!("target {name}: expr: {problem}")));
        if name.is_empty() || !names.insert(name) {
            found.push("targets: refId missing or not unique".into());
        }
    }
    found
}
