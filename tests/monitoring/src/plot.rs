//! One picture per board, from what Prometheus has, so that a person can look.

use std::{fs, io::Write, path::Path};

use anyhow::{Context, Result};
use dashboards::{Board, Kind, Panel, check::Variables};
use plotters::{
    coord::Shift,
    prelude::{
        AreaSeries, BLACK, ChartBuilder, Color, DrawingArea, IntoDrawingArea, IntoFont, LineSeries, Palette,
        Palette99, PathElement, RGBColor, SVGBackend, SeriesLabelPosition, Text, WHITE,
    },
};

use crate::{
    Server,
    client::{Client, Labels, Series},
};

/// Width of a picture in pixels: Grafana's 24 columns.
const WIDTH: u32 = 1440;

/// Height of a row of the grid in pixels.
const ROW: u32 = 32;

/// Most series with a name beside the lines.
const NAMED: usize = 8;

/// Most rows of a table.
const ROWS: usize = 14;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws every board into `folder`.
pub(crate) async fn run(server: &Server, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let client = Client::new(&server.prometheus);
    for board in dashboards::boards() {
        let variables = server.variables(&client, &board).await?;
        let mut panels = Vec::new();
        for panel in board.panels() {
            panels.push((panel, ask(&client, server, &variables, panel).await?));
        }
        let path = folder.join(format!("{}.svg", board.uid));
        draw(&board, &panels, &path).with_context(|| format!("draw {}", path.display()))?;
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    Ok(())
}

/// A series with its name.
type Named = (String, Series);

async fn ask(client: &Client, server: &Server, variables: &Variables, panel: &Panel) -> Result<Vec<Named>> {
    let mut found = Vec::new();
    for target in &panel.targets {
        let expr = variables.fill(&target.expr);
        let series = match panel.kind {
            Kind::Lines | Kind::Stacked => client.range(&expr, server.range).await,
            Kind::Number | Kind::Table => client.now(&expr).await,
        };
        let series = series.with_context(|| format!("panel {}", panel.title))?;
        found.extend(series.into_iter().map(|one| (legend(target.legend, &one.metric), one)));
    }
    Ok(found)
}

/// `{{label}}` in the name of a series.
fn legend(template: &str, labels: &Labels) -> String {
    if template.is_empty() {
        let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return pairs.join(" ");
    }
    labels
        .iter()
        .fold(template.to_owned(), |text, (key, value)| text.replace(&format!("{{{{{key}}}}}"), value))
}

/// A number as people read it.
fn shown(value: f64, unit: &str) -> String {
    let scaled = |value: f64, step: f64, names: &[&str]| {
        let mut index = 0;
        let mut value = value;
        while value.abs() >= step && index + 1 < names.len() {
            value /= step;
            index += 1;
        }
        format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned() + names[index]
    };
    match unit {
        _ if value.is_nan() => "-".into(),
        "bytes" => scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB"]),
        "percentunit" => format!("{:.2} %", value * 100.0),
        "s" if value >= 172_800.0 => format!("{:.1} d", value / 86_400.0),
        "s" => scaled(value, 1e9, &[" s"]),
        "ms" => scaled(value, 1e9, &[" ms"]),
        "ops" | "cps" | "reqps" => scaled(value, 1000.0, &["/s", "k/s", "M/s"]),
        _ => scaled(value, 1000.0, &["", "k", "M", "G"]),
    }
}

fn draw(board: &Board, panels: &[(&Panel, Vec<Named>)], path: &Path) -> Result<()> {
    let places = places(board);
    let rows = places.iter().map(|(_, y, panel)| y + panel.height).max().unwrap_or(1);
    let height = u32::try_from(rows).unwrap_or(u32::MAX) * ROW + ROW;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let bad = |error: plotters::drawing::DrawingAreaErrorKind<std::io::Error>| anyhow::anyhow!("{error}");
    root.fill(&WHITE).map_err(bad)?;
    root.draw(&Text::new(board.title, (8, 8), ("sans-serif", 20).into_font())).map_err(bad)?;
    for ((x, y, panel), (_, series)) in places.iter().zip(panels) {
        let pixel = |cells: u64, size: u32| i32::try_from(cells).unwrap_or(0) * size.cast_signed();
        let (left, top) = (pixel(*x, WIDTH / 24), pixel(*y, ROW) + ROW.cast_signed());
        let (right, bottom) = (left + pixel(panel.width, WIDTH / 24), top + pixel(panel.height, ROW));
        let area = root
            .clone()
            .shrink((left, top), ((right - left - 4).unsigned_abs(), (bottom - top - 4).unsigned_abs()));
        draw_panel(&area, panel, series).with_context(|| format!("panel {}", panel.title))?;
    }
    root.present().map_err(bad)
}

/// Where panels are: column, row, panel. Titles of rows take no place here.
fn places(board: &Board) -> Vec<(u64, u64, &Panel)> {
    let (mut made, mut y) = (Vec::new(), 0);
    for (_, panels) in &board.rows {
        let (mut x, mut height) = (0, 0);
        for panel in panels {
            if x + panel.width > 24 {
                y += height;
                (x, height) = (0, 0);
            }
            made.push((x, y, panel));
            x += panel.width;
            height = height.max(panel.height);
        }
        y += height;
    }
    made
}

fn draw_panel(area: &Area<'_>, panel: &Panel, series: &[Named]) -> Result<()> {
    match panel.kind {
        Kind::Lines | Kind::Stacked => lines(area, panel, series),
        Kind::Number | Kind::Table => text(area, panel, series),
    }
}

/// Title and one line per series.
fn text(area: &Area<'_>, panel: &Panel, series: &[Named]) -> Result<()> {
    let bad = |error: plotters::drawing::DrawingAreaErrorKind<std::io::Error>| anyhow::anyhow!("{error}");
    area.draw(&Text::new(panel.title, (4, 4), ("sans-serif", 14).into_font())).map_err(bad)?;
    let size = if panel.kind == Kind::Number { 28 } else { 12 };
    let mut y = 28;
    for (name, one) in series.iter().take(ROWS) {
        let value = one.points.last().map_or(f64::NAN, |(_, value)| *value);
        let line = match panel.kind {
            Kind::Number => shown(value, panel.unit),
            _ => format!("{name}   {}", shown(value, panel.unit)),
        };
        area.draw(&Text::new(line, (8, y), ("sans-serif", size).into_font())).map_err(bad)?;
        y += size + 4;
    }
    if series.is_empty() {
        area.draw(&Text::new("no data", (8, y), ("sans-serif", size).into_font())).map_err(bad)?;
    }
    Ok(())
}

/// Series on top of each other, where they are stacked; each with its own last value in its name.
fn stacked(series: &[Named], unit: &str) -> Vec<Named> {
    let mut below: std::collections::BTreeMap<u64, f64> = std::collections::BTreeMap::new();
    let mut made = Vec::new();
    for (name, one) in labelled(series, unit) {
        let mut top = one;
        for (at, value) in &mut top.points {
            let sum = below.entry(at.to_bits()).or_insert(0.0);
            *sum += if value.is_nan() { 0.0 } else { *value };
            *value = *sum;
        }
        made.push((name, top));
    }
    // The highest first, so that the lower ones are drawn over it.
    made.reverse();
    made
}

/// With the last value in the name.
fn labelled(series: &[Named], unit: &str) -> Vec<Named> {
    let last = |one: &Series| one.points.last().map_or(f64::NAN, |(_, value)| *value);
    series.iter().map(|(name, one)| (format!("{name} {}", shown(last(one), unit)), one.clone())).collect()
}

fn lines(area: &Area<'_>, panel: &Panel, series: &[Named]) -> Result<()> {
    let bad = |error: plotters::drawing::DrawingAreaErrorKind<std::io::Error>| anyhow::anyhow!("{error}");
    let drawn =
        if panel.kind == Kind::Stacked { stacked(series, panel.unit) } else { labelled(series, panel.unit) };
    let points = || drawn.iter().flat_map(|(_, one)| &one.points).filter(|(_, value)| value.is_finite());
    let highest = points().map(|(_, value)| *value).fold(0.0, f64::max);
    let last = points().map(|(at, _)| *at).fold(0.0, f64::max);
    let first = points().map(|(at, _)| *at).fold(last, f64::min);
    if points().next().is_none() {
        return text(area, panel, &[]);
    }
    let highest = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 14))
        .margin(6)
        .x_label_area_size(20)
        .y_label_area_size(70)
        .build_cartesian_2d((first - last).min(-1.0)..0.0, 0.0..highest)
        .map_err(bad)?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
        .y_label_formatter(&|value| shown(*value, panel.unit))
        .draw()
        .map_err(bad)?;
    for (index, (name, one)) in drawn.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let shape: Vec<(f64, f64)> = one
            .points
            .iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(at, value)| (at - last, *value))
            .collect();
        if panel.kind == Kind::Stacked {
            let fill = AreaSeries::new(shape.iter().copied(), 0.0, colour.mix(0.5));
            chart.draw_series(fill).map_err(bad)?;
        }
        let line = chart.draw_series(LineSeries::new(shape, colour)).map_err(bad)?;
        if index < NAMED {
            line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 11))
        .background_style(WHITE.mix(0.7))
        .border_style(BLACK.mix(0.2))
        .draw()
        .map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { metric: Labels::from([("op".into(), "add".into())]), points: points.to_vec() }
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(legend("{{op}} x", &series(&[]).metric), "add x");
        assert_eq!(legend("", &series(&[]).metric), "op=add");
        assert_eq!(shown(1536.0, "bytes"), "1.5 KiB");
        assert_eq!(shown(0.5, "percentunit"), "50.00 %");
        assert_eq!(shown(f64::NAN, "s"), "-");
        assert_eq!(shown(250_000.0, "short"), "250k");
    }

    #[test]
    fn stacks_add_up_and_are_drawn_from_the_top() {
        let parts = [("a".into(), series(&[(1.0, 2.0)])), ("b".into(), series(&[(1.0, 3.0)]))];
        let made = stacked(&parts, "short");
        assert_eq!((made[0].0.as_str(), made[0].1.points[0].1), ("b 3", 5.0));
        assert_eq!((made[1].0.as_str(), made[1].1.points[0].1), ("a 2", 2.0));
    }

    /// Every board can be drawn, with and without data.
    #[test]
    fn boards_are_drawn() {
        let file = std::env::temp_dir().join(format!("antrea-board-{}.svg", std::process::id()));
        for board in dashboards::boards() {
            for data in [vec![], vec![("a".to_owned(), series(&[(1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0)]))]] {
                let panels: Vec<(&Panel, Vec<Named>)> =
                    board.panels().map(|panel| (panel, data.clone())).collect();
                draw(&board, &panels, &file).unwrap();
                let picture = fs::read_to_string(&file).unwrap();
                for panel in board.panels() {
                    assert!(picture.contains(panel.title), "{}: {}", board.title, panel.title);
                }
            }
        }
        fs::remove_file(&file).unwrap();
    }
}
