//! A board: rows of panels and the variables that narrow them.

use serde_json::{Value, json};

use crate::panel::{Panel, data_source};

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// Version of the form of the JSON: Grafana 11 and later read it, and upgrade it in memory.
const SCHEMA: u64 = 39;

/// What a reader chooses at the top of a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name in queries.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// Query that lists its values.
    pub query: String,
}

/// A Grafana board.
#[derive(Clone, Debug, PartialEq)]
pub struct Board {
    /// Identity in Grafana; does not change, because links and bookmarks hold it.
    pub uid: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// A metric that every instance on the board has.
    pub every: &'static str,
    /// Rows: a title and panels, which flow from left to right.
    pub rows: Vec<(&'static str, Vec<Panel>)>,
}

impl Board {
    /// The panels of every row, in the order in which they are seen.
    pub fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|(_, panels)| panels)
    }

    /// What narrows it, besides the data source.
    pub fn variables(&self) -> [Variable; 2] {
        let every = self.every;
        [
            Variable { name: "job", label: "Job", query: format!("label_values({every}, job)") },
            Variable {
                name: "instance",
                label: "Instance",
                query: format!("label_values({}, instance)", narrowed(every)),
            },
        ]
    }

    /// What Grafana imports.
    pub fn json(&self) -> Value {
        let source = json!({
            "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
            "refresh": 1, "hide": 0, "includeAll": false, "multi": false, "regex": "", "options": [],
            "skipUrlSync": false,
        });
        let mut variables = vec![source];
        variables.extend(self.variables().iter().map(variable));
        json!({
            "id": null,
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["antrea"],
            "editable": false,
            "schemaVersion": SCHEMA,
            "timezone": "browser",
            "refresh": "30s",
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "templating": {"list": variables},
            "annotations": {"list": []},
            "links": [{
                "type": "dashboards", "title": "Antrea", "tags": ["antrea"], "asDropdown": true, "keepTime": true,
                "includeVars": false, "targetBlank": false, "icon": "external link", "tooltip": "", "url": "",
            }],
            "panels": self.panels_json(),
        })
    }

    fn panels_json(&self) -> Vec<Value> {
        let (mut made, mut y) = (Vec::new(), 0);
        let mut ids = 1..;
        let mut next = || ids.next().unwrap_or_default();
        for (title, panels) in &self.rows {
            made.push(json!({
                "id": next(), "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in panels {
                if x + panel.width > COLUMNS {
                    y += height;
                    (x, height) = (0, 0);
                }
                made.push(panel.json(next(), x, y));
                x += panel.width;
                height = height.max(panel.height);
            }
            y += height;
        }
        made
    }
}

/// `metric` with the chosen jobs; a selector of a set of metrics is narrowed too.
fn narrowed(metric: &str) -> String {
    match metric.strip_suffix('}') {
        Some(selector) => format!("{selector}, job=~\"$job\"}}"),
        None => format!("{metric}{{job=~\"$job\"}}"),
    }
}

fn variable(variable: &Variable) -> Value {
    let mut made = json!({
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": data_source(),
        "query": variable.query,
        "definition": variable.query,
        // On every change of the time range: instances come and go.
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
        "regex": "",
        "options": [],
        "skipUrlSync": false,
    });
    // All instances of the chosen jobs. All jobs, in contrast, are those that the query finds: `process_*` is
    // what every process in a Prometheus has.
    if variable.name != "job" {
        made["allValue"] = ".+".into();
    }
    made
}
