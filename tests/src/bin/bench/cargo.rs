//! Benchmarks of single crates, run with cargo and read.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::report::{Figure, Goal, Report};

const FLOWS: f64 = 100_000.0;

fn repository() -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are in no workspace")?;
    ensure!(folder.join("Cargo.toml").is_file(), "{} is gone: run from a checkout", folder.display());
    Ok(folder.to_owned())
}

/// `cargo bench` of one benchmark; its progress passes through. Returns what it printed.
async fn bench(package: &str, bench: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "bench",
            "--quiet",
            "--profile",
            "measure",
            "-p",
            package,
            "--bench",
            bench,
            "--all-features",
            "--",
        ])
        .args(arguments)
        .current_dir(repository()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cargo")?
        .wait_with_output()
        .await?;
    ensure!(output.status.success(), "cargo bench -p {package} --bench {bench}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// 100,000 flows by bundle.
///
/// # Errors
/// The benchmark failed or prints something else.
pub(crate) async fn bundle(report: Report) -> anyhow::Result<()> {
    let text = bench("ovs", "bundle", &[]).await?;
    let of = |label: &str| {
        text.lines()
            .find_map(|line| seconds(line.trim().strip_prefix(label)?.trim()))
            .with_context(|| format!("the benchmark of the bundle printed no {label:?}: {text}"))
    };
    let (ours, theirs) = (of("our bundle")?, of("ovs-ofctl --bundle")?);
    let peer = "peer: ovs-ofctl --bundle add-flows";
    report.add(
        Figure::new("100,000 flows by bundle", "s", ours)
            .peer(theirs)
            .goal(Goal::RatioAtMost(1.0))
            .note(peer),
    );
    report
        .add(Figure::new("flows per second by bundle", "1/s", FLOWS / ours).peer(FLOWS / theirs).note(peer));
    Ok(())
}

/// Reads a `Duration` as `{:?}` prints it.
fn seconds(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

/// Policy computation.
///
/// # Errors
/// The benchmark failed or writes something else.
pub(crate) async fn shapes(report: Report) -> anyhow::Result<()> {
    figures(report, "antrea-policy", "shapes").await
}

/// Native policies of one node.
///
/// # Errors
/// The benchmark failed or writes something else.
pub(crate) async fn native(report: Report) -> anyhow::Result<()> {
    figures(report, "antrea-enforce", "native").await
}

/// A thousand agents that watch.
///
/// # Errors
/// The benchmark failed or writes something else.
pub(crate) async fn watchers(report: Report) -> anyhow::Result<()> {
    figures(report, "apiserver-kit", "watchers").await
}

/// Takes over the figures that a benchmark writes with `--json`.
async fn figures(report: Report, package: &str, name: &str) -> anyhow::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("temporary path is no text")?;
    bench(package, name, &["--json", path]).await?;
    let text = std::fs::read_to_string(path)?;
    let list: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("figures of {name}"))?;
    ensure!(!list.is_empty(), "{name} wrote no figures");
    for item in list {
        let name = item["name"].as_str().context("a figure without a name")?;
        let value = item["value"].as_f64().with_context(|| format!("{name} has no value"))?;
        let mut figure = Figure::new(name, item["unit"].as_str().unwrap_or_default(), value);
        if let Some(peer) = item["peer"].as_f64() {
            figure = figure.peer(peer);
        }
        if let Some(goal) = item["goal"].as_f64() {
            figure = figure.goal(Goal::AtMost(goal));
        }
        if let Some(note) = item["note"].as_str() {
            figure = figure.note(note);
        }
        report.add(figure);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        let near = |text, value: f64| (seconds(text).unwrap() - value).abs() < 1e-12;
        assert!(near("1.5s", 1.5) && near("812.3ms", 0.8123) && near("7.0µs", 7e-6));
        assert_eq!(seconds("1.5"), None);
        assert_eq!(seconds("5 rounds"), None);
    }
}
