//! Tables and JSON.

use std::io::{self, Write};

use super::shapes::{Mark, Shape};

/// How cost may grow with size.
const EXPONENT_GOAL: f64 = 1.1;

/// One shape at one size.
#[derive(Clone, Copy, Default)]
pub(crate) struct Point {
    pub(crate) scale: f64,
    pub(crate) seconds: f64,
    pub(crate) megabytes: f64,
    pub(crate) changes: f64,
    pub(crate) members: f64,
    pub(crate) nodes: f64,
    /// Of one event once everything is there, in µs.
    pub(crate) micros: f64,
}

pub(crate) struct Row<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) points: Vec<Point>,
}

impl Row<'_> {
    fn whole(&self) -> Point {
        self.points.iter().find(|point| (point.scale - 1.0).abs() < 1e-9).copied().unwrap_or_default()
    }

    /// The slope of the line through the logarithms of size and time.
    fn exponent(&self) -> f64 {
        let logs: Vec<(f64, f64)> = self.points.iter().map(|p| (p.scale.ln(), p.seconds.ln())).collect();
        let count = logs.iter().map(|_| 1.0).sum::<f64>();
        let mean_x = logs.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = logs.iter().map(|(_, y)| y).sum::<f64>() / count;
        let covariance = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>();
        covariance / logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>()
    }
}

pub(crate) fn progress(shape: &Shape, p: &Point) -> io::Result<()> {
    writeln!(
        io::stderr(),
        "{:<70} × {:<5} {:>8.4} s {:>7.1} MB  {} changes, {} members, {} nodes; then {:.1} µs/event",
        shape.name,
        p.scale,
        p.seconds,
        p.megabytes,
        p.changes,
        p.members,
        p.nodes,
        p.micros
    )
}

fn goal(value: f64, mark: Option<&Mark>, unit: &str) -> String {
    match mark {
        None => String::new(),
        Some(mark) => format!(
            "goal ≤ {} {unit}{}, Go {} {unit} = {:.0} ×",
            mark.goal,
            if value <= mark.goal { "" } else { " MISSED" },
            mark.peer,
            mark.peer / value
        ),
    }
}

pub(crate) fn table(rows: &[Row<'_>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "The figures of the Go original were measured elsewhere, on a host of the same kind.")?;
    for row in rows {
        let whole = row.whole();
        writeln!(out, "\n{}", row.shape.name)?;
        let seconds = row.shape.seconds.as_ref();
        writeln!(out, "  time      {:>8.4} s   {}", whole.seconds, goal(whole.seconds, seconds, "s"))?;
        let megabytes = row.shape.megabytes.as_ref();
        writeln!(out, "  peak RSS  {:>8.1} MB  {}", whole.megabytes, goal(whole.megabytes, megabytes, "MB"))?;
        let exponent = row.exponent();
        let missed = if exponent <= EXPONENT_GOAL { "" } else { " MISSED" };
        write!(out, "  growth    {exponent:>8.2}     goal ≤ {EXPONENT_GOAL}{missed}; ")?;
        let times =
            row.points.iter().map(|p| format!("×{}: {:.4} s, {:.0} MB", p.scale, p.seconds, p.megabytes));
        writeln!(out, "{}", times.collect::<Vec<_>>().join("; "))?;
        let events = row.points.iter().map(|p| format!("×{}: {:.1} µs", p.scale, p.micros));
        writeln!(out, "  an event  {:>8.1} µs  {}", whole.micros, events.collect::<Vec<_>>().join("; "))?;
    }
    Ok(())
}

/// A list of `{name, unit, value, peer, ratio, goal, met, note}`; ratio is peer over value.
pub(crate) fn json(rows: &[Row<'_>]) -> String {
    let mut list = Vec::new();
    let mut add = |name: String, unit: &str, value: f64, peer: Option<f64>, goal: Option<f64>| {
        list.push(serde_json::json!({
            "name": name,
            "unit": unit,
            "value": value,
            "peer": peer,
            "ratio": peer.map(|peer| peer / value),
            "goal": goal,
            "met": goal.map(|goal| value <= goal),
            "note": peer.map(|_| "peer: the Go original, measured elsewhere on a host of the same kind"),
        }));
    };
    for row in rows {
        let (name, whole) = (row.shape.name, row.whole());
        let marks = |mark: &Option<Mark>| (mark.as_ref().map(|m| m.peer), mark.as_ref().map(|m| m.goal));
        let (peer, goal) = marks(&row.shape.seconds);
        add(format!("policy computation: {name}: time"), "s", whole.seconds, peer, goal);
        let (peer, goal) = marks(&row.shape.megabytes);
        add(format!("policy computation: {name}: peak RSS"), "MB", whole.megabytes, peer, goal);
        add(format!("policy computation: {name}: one Pod event"), "µs", whole.micros, None, None);
        let name = format!("policy computation: {name}: growth exponent");
        add(name, "", row.exponent(), None, Some(EXPONENT_GOAL));
    }
    format!("{:#}\n", serde_json::Value::Array(list))
}
