//! The metrics that components publish, from the table in `docs/metrics.md`.

use std::collections::BTreeMap;

/// Labels that Prometheus and the shipped ServiceMonitors give to every series.
const TARGET_LABELS: [&str; 9] =
    ["__name__", "job", "instance", "namespace", "service", "pod", "container", "endpoint", "node"];

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// What is promised of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// What it counts.
    pub type_: Type,
    pub labels: Vec<String>,
}

/// Metrics by name.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, Metric>);

impl Metrics {
    /// Reads the rows `| name | type | labels |...` of Markdown tables; other lines are passed over.
    /// What Prometheus itself makes (`up`) is added.
    pub fn from_markdown(text: &str) -> Self {
        let cell = |cell: &str| cell.trim().replace('`', "");
        let mut metrics = Self::default();
        for line in text.lines() {
            let cells: Vec<String> = line.trim().trim_matches('|').split('|').map(cell).collect();
            let [name, type_, labels, ..] = cells.as_slice() else { continue };
            let type_ = match type_.as_str() {
                "counter" => Type::Counter,
                "gauge" => Type::Gauge,
                "histogram" => Type::Histogram,
                _ => continue,
            };
            let is_label = |label: &&str| label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let labels = labels.split([',', ' ']).filter(is_label).map(str::to_owned).collect();
            metrics.0.insert(name.clone(), Metric { type_, labels });
        }
        metrics.0.insert("up".into(), Metric { type_: Type::Gauge, labels: Vec::new() });
        metrics
    }

    /// Names without the suffixes of histograms, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The metric behind a series' name, and how the series behaves: those of a histogram are counters.
    pub fn series(&self, name: &str) -> Option<(&Metric, Type)> {
        if let Some(metric) = self.0.get(name).filter(|metric| metric.type_ != Type::Histogram) {
            return Some((metric, metric.type_));
        }
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
        let metric = self.0.get(base).filter(|metric| metric.type_ == Type::Histogram)?;
        Some((metric, Type::Counter))
    }
}

impl Metric {
    /// Whether its series have this label.
    pub fn has(&self, label: &str) -> bool {
        TARGET_LABELS.contains(&label)
            || self.labels.iter().any(|own| own == label)
            || (self.type_ == Type::Histogram && label == "le")
    }
}
