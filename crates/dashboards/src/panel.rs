//! One panel: what it shows, and the JSON that Grafana reads.

use serde_json::{Value, json};

/// Stands for the matchers of job and instance in the text of a query.
const SELECTED: &str = "{@";

/// Job and instance as the board's variables have them; a query's own matchers follow.
const MATCHERS: &str = "{job=~\"$job\", instance=~\"$instance\"";

/// How a panel looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines over time.
    Lines,
    /// Areas on top of each other over time.
    Stacked,
    /// One number per series.
    Number,
    /// One row per series.
    Table,
}

/// One query of a panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// PromQL with Grafana's variables.
    pub expr: String,
    /// Name of a series, from its labels.
    pub legend: &'static str,
}

/// A panel of a board.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What it is about, in few words.
    pub title: &'static str,
    /// What a reader should know to judge it.
    pub description: &'static str,
    /// How it looks.
    pub kind: Kind,
    /// Unit by Grafana's identifier, such as "bytes" or "short".
    pub unit: &'static str,
    /// What it shows.
    pub targets: Vec<Target>,
    /// Width in Grafana's 24 columns.
    pub width: u64,
    /// Height in Grafana's rows of 30 pixels.
    pub height: u64,
    steps: Vec<(Option<f64>, &'static str)>,
    names: Vec<(i64, &'static str, &'static str)>,
    hidden: Vec<&'static str>,
}

impl Panel {
    fn new(kind: Kind, title: &'static str, description: &'static str) -> Self {
        let (width, height) = match kind {
            Kind::Number => (4, 4),
            Kind::Table => (24, 8),
            Kind::Lines | Kind::Stacked => (12, 8),
        };
        Self {
            title,
            description,
            kind,
            unit: "short",
            targets: Vec::new(),
            width,
            height,
            steps: vec![(None, "blue")],
            names: Vec::new(),
            hidden: Vec::new(),
        }
    }

    pub(crate) fn lines(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines, title, description)
    }

    pub(crate) fn stacked(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Stacked, title, description)
    }

    pub(crate) fn number(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Number, title, description)
    }

    pub(crate) fn table(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Table, title, description)
    }

    pub(crate) fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    pub(crate) fn width(mut self, width: u64) -> Self {
        self.width = width;
        self
    }

    /// Adds a query. `{@}` and `{@, ...}` stand for a selector with the board's job and instance.
    pub(crate) fn query(mut self, expr: &str, legend: &'static str) -> Self {
        self.targets.push(Target { expr: expr.replace(SELECTED, MATCHERS), legend });
        self
    }

    /// Green, and red from `value` on.
    pub(crate) fn bad_from(mut self, value: f64) -> Self {
        self.steps = vec![(None, "green"), (Some(value), "red")];
        self
    }

    /// Red, and green from `value` on.
    pub(crate) fn good_from(mut self, value: f64) -> Self {
        self.steps = vec![(None, "red"), (Some(value), "green")];
        self
    }

    /// Shows `text` in a colour instead of a value.
    pub(crate) fn name(mut self, value: i64, text: &'static str, colour: &'static str) -> Self {
        self.names.push((value, text, colour));
        self
    }

    /// Columns that a table does not show.
    pub(crate) fn without(mut self, columns: &[&'static str]) -> Self {
        self.hidden.extend(columns);
        self
    }

    /// The panel at a place of the grid.
    pub(crate) fn json(&self, id: u64, x: u64, y: u64) -> Value {
        let source = data_source();
        let targets: Vec<Value> =
            self.targets.iter().zip('A'..='Z').map(|(target, name)| self.target(target, name)).collect();
        let mut panel = json!({
            "id": id,
            "type": self.type_name(),
            "title": self.title,
            "description": self.description,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self.defaults(), "overrides": []},
            "options": self.options(),
            "targets": targets,
        });
        if self.kind == Kind::Table {
            let mut hidden = json!({"Time": true});
            for column in &self.hidden {
                hidden[column] = true.into();
            }
            panel["transformations"] = json!([{"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": {}}}]);
        }
        panel
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Lines | Kind::Stacked => "timeseries",
            Kind::Number => "stat",
            Kind::Table => "table",
        }
    }

    fn target(&self, target: &Target, name: char) -> Value {
        let over_time = matches!(self.kind, Kind::Lines | Kind::Stacked);
        json!({
            "refId": name.to_string(),
            "datasource": data_source(),
            "expr": target.expr,
            "legendFormat": target.legend,
            "instant": !over_time,
            "range": over_time,
            "format": if self.kind == Kind::Table { "table" } else { "time_series" },
        })
    }

    fn defaults(&self) -> Value {
        let steps: Vec<Value> =
            self.steps.iter().map(|(from, color)| json!({"color": color, "value": from})).collect();
        let mut defaults = json!({
            "unit": self.unit,
            "color": {"mode": if self.kind == Kind::Number { "thresholds" } else { "palette-classic" }},
            "thresholds": {"mode": "absolute", "steps": steps},
        });
        if !self.names.is_empty() {
            let options: serde_json::Map<String, Value> = self
                .names
                .iter()
                .zip(0..)
                .map(|((value, text, color), index)| {
                    (value.to_string(), json!({"text": text, "color": color, "index": index}))
                })
                .collect();
            defaults["mappings"] = json!([{"type": "value", "options": options}]);
        }
        if matches!(self.kind, Kind::Lines | Kind::Stacked) {
            let stacked = self.kind == Kind::Stacked;
            defaults["min"] = 0.into();
            defaults["custom"] = json!({
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": if stacked { 40 } else { 8 },
                "showPoints": "never",
                "stacking": {"mode": if stacked { "normal" } else { "none" }, "group": "A"},
            });
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Lines | Kind::Stacked => json!({
                "legend": {
                    "showLegend": true, "displayMode": "table", "placement": "right",
                    "calcs": ["lastNotNull", "max"],
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Kind::Number => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "colorMode": "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "orientation": "auto",
                "textMode": "auto",
                "wideLayout": true,
                "showPercentChange": false,
                "percentChangeColorMode": "standard",
            }),
            Kind::Table => json!({
                "frameIndex": 0,
                "showHeader": true,
                "cellHeight": "sm",
                "sortBy": [],
            }),
        }
    }
}

/// The data source that the reader of a board chose.
pub(crate) fn data_source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}
