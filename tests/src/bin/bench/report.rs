//! Figures, their table and their JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Value at most this, in the figure's unit.
    AtMost(f64),
    /// Value below this.
    Below(f64),
    /// Value over peer at most this.
    RatioAtMost(f64),
    /// Value over peer at least this.
    RatioAtLeast(f64),
}

impl Goal {
    fn met(self, value: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(limit) => value.map(|value| value <= limit),
            Self::Below(limit) => value.map(|value| value < limit),
            Self::RatioAtMost(limit) => ratio.map(|ratio| ratio <= limit),
            Self::RatioAtLeast(limit) => ratio.map(|ratio| ratio >= limit),
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {} {unit}", number(limit)),
            Self::Below(limit) => format!("< {} {unit}", number(limit)),
            Self::RatioAtMost(limit) => format!("ratio ≤ {}", number(limit)),
            Self::RatioAtLeast(limit) => format!("ratio ≥ {}", number(limit)),
        }
        .trim_end()
        .to_owned()
    }
}

/// One measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure {
    name: String,
    unit: String,
    value: Option<f64>,
    peer: Option<f64>,
    goal: Option<Goal>,
    note: Option<String>,
    failed: bool,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &str, value: f64) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), value: Some(value), ..Self::default() }
    }

    /// A figure that could not be taken, and why.
    pub(crate) fn missing(name: impl Into<String>, unit: &str, why: impl Into<String>) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), note: Some(why.into()), ..Self::default() }
    }

    /// The floor or rival, in the same unit.
    pub(crate) fn peer(mut self, peer: f64) -> Self {
        self.peer = Some(peer);
        self
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Value over peer.
    fn ratio(&self) -> Option<f64> {
        self.value.zip(self.peer).filter(|(_, peer)| *peer > 0.0).map(|(value, peer)| value / peer)
    }

    fn met(&self) -> Option<bool> {
        if self.failed { Some(false) } else { self.goal?.met(self.value, self.ratio()) }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "value": self.value, "peer": self.peer,
            "ratio": self.ratio(), "goal": self.goal.map(|goal| goal.text(&self.unit)), "met": self.met(),
            "note": self.note,
        })
    }

    fn cells(&self) -> [String; 7] {
        let shown = |number_: Option<f64>| number_.map_or_else(|| "-".to_owned(), number);
        [
            self.name.clone(),
            shown(self.value),
            self.unit.clone(),
            shown(self.peer),
            self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            self.goal.map_or_else(String::new, |goal| goal.text(&self.unit)),
            match self.met() {
                _ if self.failed => "FAILED",
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            }
            .to_owned(),
        ]
    }
}

/// Three significant digits, and never an exponent.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size < 0.01 => 5,
        size if size < 1.0 => 3,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The figures so far; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    figures: Arc<Mutex<Vec<Figure>>>,
    started: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self { figures: Arc::default(), started: Instant::now() }
    }
}

impl Report {
    /// A line of progress.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{:6.1}s  {text}", self.started.elapsed().as_secs_f64());
    }

    pub(crate) fn section(&self, name: &str, about: &str) {
        self.say(&format!("== {name}: {about}"));
    }

    pub(crate) fn add(&self, figure: Figure) {
        let [name, value, unit, peer, ratio, ..] = figure.cells();
        let mut line = format!("{name}: {value} {unit}");
        if figure.peer.is_some() {
            let _ = write!(line, ", peer {peer} {unit}, ratio {ratio}");
        }
        if let Some(note) = &figure.note {
            let _ = write!(line, " ({note})");
        }
        self.say(&line);
        self.figures.lock().push(figure);
    }

    pub(crate) fn failed(&self, section: &str, why: &str) {
        let figure = Figure::missing(format!("section {section}"), "", why);
        self.add(Figure { failed: true, ..figure });
    }

    /// How busy the machine is: figures taken beside other work are to be read so.
    pub(crate) fn machine(&self, when: &str) -> anyhow::Result<()> {
        let text = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
        let load = text.split(' ').next().and_then(|word| word.parse().ok()).context("/proc/loadavg")?;
        let cpus = std::thread::available_parallelism()?;
        self.add(Figure::new(format!("load average {when}"), "", load).note(format!("{cpus} CPUs")));
        Ok(())
    }

    pub(crate) fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let list: Vec<Value> = self.figures.lock().iter().map(Figure::json).collect();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let text = format!("{:#}\n", Value::Array(list));
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    pub(crate) fn table(&self) -> String {
        let figures = self.figures.lock();
        let head = ["", "value", "unit", "peer", "ratio", "goal", "met"].map(str::to_owned);
        let rows: Vec<[String; 7]> = std::iter::once(head).chain(figures.iter().map(Figure::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        let mut text = String::from("\n");
        for (index, row) in rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let _ = match column {
                    1 | 3 | 4 => write!(text, "{cell:>width$}  "),
                    _ => write!(text, "{cell:<width$}  "),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
            // Why there is no figure belongs beside where it would be; other notes are in the JSON.
            if let Some(figure) = index.checked_sub(1).map(|index| &figures[index])
                && figure.value.is_none()
            {
                for line in figure.note.iter().flat_map(|note| note.lines()).take(8) {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
        text
    }
}

/// The `percent`th percentile in milliseconds: the smallest sample that so many do not exceed.
pub(crate) fn percentile(samples: &[Duration], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&samples, 50), 100.0);
        assert_eq!(percentile(&samples, 99), 198.0);
        assert_eq!(percentile(&samples[..1], 99), 200.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn goals_judge_value_or_ratio() {
        let figure = Figure::new("a", "ms", 3.0).peer(2.0);
        assert_eq!(figure.clone().goal(Goal::RatioAtMost(1.5)).met(), Some(true));
        assert_eq!(figure.clone().goal(Goal::RatioAtLeast(1.6)).met(), Some(false));
        assert_eq!(figure.clone().goal(Goal::AtMost(2.0)).met(), Some(false));
        assert_eq!(figure.clone().goal(Goal::Below(3.0)).met(), Some(false));
        assert_eq!(figure.met(), None);
        assert_eq!(Figure::missing("a", "MB", "why").goal(Goal::AtMost(1.0)).met(), None);
    }

    #[test]
    fn the_list_has_what_the_table_shows() {
        let report = Report::default();
        report.add(Figure::new("restart", "s", 0.5).goal(Goal::Below(2.0)));
        report.failed("cni", "no OVS\nat all");
        let value = report.figures.lock()[0].json();
        assert_eq!(value["goal"], "< 2 s");
        assert_eq!(value["met"], true);
        assert_eq!(value["peer"], Value::Null);
        let table = report.table();
        assert!(table.contains("section cni") && table.contains("FAILED") && table.contains("    no OVS\n"));
    }

    #[test]
    fn numbers_read_well() {
        let texts: Vec<String> = [0.0, 0.0004, 0.25, 1.5, 2.0, 12.34, 123.6, 4e6].map(number).to_vec();
        assert_eq!(texts, ["0", "0.0004", "0.25", "1.5", "2", "12.3", "124", "4000000"]);
    }
}
