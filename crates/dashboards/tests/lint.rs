//! Boards and alerts keep to the rules, and the rules are able to find fault.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use dashboards::{
    RUNBOOKS, alerts, boards,
    check::{self, Metrics},
    rules,
};
use serde_json::{Value, json};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn metrics() -> Metrics {
    Metrics::from_markdown(&fs::read_to_string(repository().join("docs/metrics.md")).unwrap())
}

fn all_rules() -> Vec<Value> {
    let rules = rules(RUNBOOKS);
    let groups = rules["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn every_board_keeps_to_the_rules() {
    let metrics = metrics();
    for board in boards() {
        let found = check::board(&board.json(), &metrics);
        assert!(found.is_empty(), "{}:\n{}", board.title, found.join("\n"));
    }
}

#[test]
fn every_alert_keeps_to_the_rules() {
    let metrics = metrics();
    for rule in all_rules() {
        let found = check::alert(&rule, &metrics);
        assert!(found.is_empty(), "{}:\n{}", rule["alert"], found.join("\n"));
    }
}

#[test]
fn identities_are_unique() {
    let made = boards();
    assert_eq!(made.iter().map(|board| board.uid).collect::<BTreeSet<_>>().len(), made.len());
    let names: Vec<&str> = alerts().iter().flat_map(|(_, alerts)| alerts).map(|alert| alert.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

/// A ConfigMap holds 1 MiB.
#[test]
fn a_board_fits_into_a_config_map() {
    for board in boards() {
        assert!(board.json().to_string().len() < 512 << 10, "{}", board.title);
    }
}

#[test]
fn every_alert_has_a_runbook_page_and_a_test() {
    let folder = repository().join("docs/runbooks");
    let cases = fs::read_to_string(repository().join("config/monitoring/tests/alerts.yaml")).unwrap();
    let cases: Value = serde_saphyr::from_str(&cases).unwrap();
    let tests = cases["tests"].as_array().unwrap();
    let fires = |name: &str| {
        tests.iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap()).any(|case| {
            case["alertname"] == name && !case["exp_alerts"].as_array().unwrap_or(&Vec::new()).is_empty()
        })
    };
    let is_silent = |name: &str| {
        tests
            .iter()
            .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
            .any(|case| case["alertname"] == name && case["exp_alerts"].as_array().is_none_or(Vec::is_empty))
    };
    let mut pages = BTreeSet::new();
    for (_, alerts) in alerts() {
        for alert in alerts {
            let page = format!("{}.md", alert.name);
            let text = fs::read_to_string(folder.join(&page)).unwrap_or_else(|_| panic!("no {page}"));
            for heading in ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"] {
                assert!(text.contains(heading), "{page}: no {heading}");
            }
            assert!(fires(alert.name), "{}: no case in which it fires", alert.name);
            assert!(is_silent(alert.name), "{}: no case in which it is silent", alert.name);
            pages.insert(page);
        }
    }
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || pages.contains(&name), "{name} is the page of no alert");
    }
}

/// One way to spoil a board, and what the lint must say.
struct Spoil {
    pointer: &'static str,
    value: Option<Value>,
    says: &'static str,
}

const EXPR: &str = "/panels/1/targets/0/expr";

fn ways_to_spoil_a_board() -> Vec<Spoil> {
    let set = |pointer, value, says| Spoil { pointer, value: Some(value), says };
    let expr = |expr: &str, says| Spoil { pointer: EXPR, value: Some(expr.into()), says };
    let chosen = "job=~\"$job\", instance=~\"$instance\"";
    vec![
        set("/uid", json!("x".repeat(41)), "uid"),
        set("/id", json!(7), "id"),
        set("/editable", json!(true), "editable"),
        set("/tags", json!([]), "tags"),
        set("/title", json!(""), "title"),
        set("/schemaVersion", json!(14), "schemaVersion"),
        set("/timezone", json!("Europe/Berlin"), "timezone"),
        set("/version", json!(3), "version"),
        set("/templating/list/0/query", json!("loki"), "data source"),
        set("/templating/list/1/name", json!("jobs"), "no variable job"),
        set("/templating/list/1/refresh", json!(1), "templating.job.refresh"),
        set("/templating/list/1/allValue", json!(".+"), "templating.job.allValue"),
        set("/templating/list/2/allValue", json!(""), "templating.instance.allValue"),
        set(
            "/templating/list/2/query",
            json!("label_values(antrea_unheard_of, instance)"),
            "no metric of ours",
        ),
        set("/templating/list/2/datasource/uid", json!("abc"), "templating.instance.datasource"),
        set("/panels/1/title", json!(" "), "title: missing"),
        Spoil { pointer: "/panels/1/description", value: None, says: "description: missing" },
        Spoil { pointer: "/panels/1/fieldConfig/defaults/unit", value: None, says: "unit: missing" },
        set("/panels/1/datasource/uid", json!("abc"), "datasource"),
        set("/panels/1/targets", json!([]), "targets: there are none"),
        set("/panels/1/targets/0/datasource/uid", json!("abc"), "target A: datasource"),
        set("/panels/1/targets/0/legendFormat", json!(""), "legendFormat"),
        set("/panels/1/targets/0/refId", json!(""), "refId"),
        set("/panels/2/id", json!(1), "not unique"),
        set("/panels/2/gridPos", json!({"x": 20, "y": 90, "w": 8, "h": 8}), "24 columns"),
        set("/panels/2/gridPos", json!({"x": 0, "y": 0, "w": 8, "h": 8}), "on top of another"),
        expr("sum(", "no PromQL"),
        expr("antrea_agent_local_pod_count", "not narrowed by job"),
        expr("antrea_agent_local_pod_count{job=~\"$job\"}", "not narrowed by instance"),
        expr("antrea_agent_local_pod_count{job=\"$job\", instance=~\"$instance\"}", "not narrowed by job"),
        expr(&format!("antrea_agent_pods{{{chosen}}}"), "no metric of ours"),
        expr(&format!("antrea_agent_local_pod_count{{{chosen}, pod_name=\"x\"}}"), "no label pod_name"),
        expr(&format!("sum by (nod) (antrea_agent_local_pod_count{{{chosen}}})"), "label nod"),
        expr(&format!("antrea_agent_ovs_flow_ops_count{{{chosen}}}"), "is a counter"),
        expr(&format!("rate(antrea_agent_ovs_flow_ops_count{{{chosen}}}[5m])"), "neither $__rate_interval"),
        expr(&format!("rate(antrea_agent_local_pod_count{{{chosen}}}[$__rate_interval])"), "is a gauge"),
        expr(&format!("antrea_agent_ovs_flow_ops_latency_milliseconds_bucket{{{chosen}}}"), "is a counter"),
        expr(&format!("antrea_agent_local_pod_count{{{chosen}, node=\"$node\"}}"), "does not have"),
    ]
}

#[test]
fn the_lint_finds_what_is_wrong_with_a_board() {
    let metrics = metrics();
    let good = boards().iter().find(|board| board.uid == "antrea-agent").unwrap().json();
    for Spoil { pointer, value, says } in ways_to_spoil_a_board() {
        let mut bad = good.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = bad.pointer_mut(parent).unwrap();
        match (parent, &value) {
            (Value::Object(map), Some(value)) => drop(map.insert(field.to_owned(), value.clone())),
            (Value::Object(map), None) => assert!(map.remove(field).is_some(), "{pointer}"),
            _ => panic!("{pointer}"),
        }
        let found = check::board(&bad, &metrics);
        assert!(
            found.iter().any(|problem| problem.contains(says)),
            "{pointer} = {value:?}: no \"{says}\" in {found:?}"
        );
    }
}

#[test]
fn the_lint_finds_what_is_wrong_with_an_alert() {
    let metrics = metrics();
    let good = all_rules().into_iter().find(|rule| rule["alert"] == "AntreaOVSFlowOpsErrors").unwrap();
    let spoilt: [(&str, Value, &str); 7] = [
        ("/alert", json!("Down"), "does not start"),
        ("/labels/severity", json!("page"), "severity"),
        ("/annotations/summary", json!(""), "summary"),
        ("/annotations/description", json!(null), "description"),
        ("/annotations/runbook_url", json!("https://example.com"), "runbook_url"),
        ("/expr", json!("antrea_agent_ovs_flow_ops_error_count > 0"), "is a counter"),
        ("/expr", json!("increase(antrea_agent_ovs_flow_ops_error_count{pod_name=\"x\"}[1m])"), "no label"),
    ];
    for (pointer, value, says) in spoilt {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let found = check::alert(&bad, &metrics);
        assert!(found.iter().any(|problem| problem.contains(says)), "{pointer}: no \"{says}\" in {found:?}");
    }
}

#[test]
fn what_an_alert_looks_at_is_found() {
    let inputs = |expr| check::inputs(expr).unwrap();
    assert_eq!(inputs("absent(up{job=\"a\"} == 1)"), ["up{job=\"a\"}"]);
    assert_eq!(inputs("max(a) - sum(b) > 0 and (c unless d == 2)"), ["max(a) - sum(b)", "c", "d"]);
    assert!(check::inputs("sum(").is_err());
}
