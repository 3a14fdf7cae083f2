//! Asks for everything that boards and alerts ask for.

use std::io::Write;

use anyhow::Result;
use dashboards::{Kind, check};

use crate::{
    Server,
    client::{Client, Series},
    selector,
};

/// Counts what was asked and notes what had no answer.
struct Report {
    asked: usize,
    failed: usize,
}

impl Report {
    /// Notes the outcome of one query: it has to give at least one series.
    fn note(&mut self, what: &str, expr: &str, answer: Result<usize>) -> Result<()> {
        self.asked += 1;
        let problem = match answer {
            Ok(0) => "no data".to_owned(),
            Ok(_) => return Ok(()),
            Err(error) => format!("{error:#}"),
        };
        self.failed += 1;
        writeln!(std::io::stderr(), "{what}: {problem}\n    {expr}")?;
        Ok(())
    }
}

/// Whether all had data. What has none is written to stderr.
pub(crate) async fn run(server: &Server) -> Result<bool> {
    let client = Client::new(&server.prometheus);
    let mut report = Report { asked: 0, failed: 0 };
    for board in dashboards::boards() {
        let variables = server.variables(&client, &board).await?;
        for variable in board.variables() {
            let what = format!("{}, variable {}", board.title, variable.name);
            let query = variables.fill(&variable.query);
            let values = client.label_values(selector(&query), variable.name).await;
            report.note(&what, &variable.query, values.map(|values| values.len()))?;
        }
        for panel in board.panels() {
            for target in &panel.targets {
                let expr = variables.fill(&target.expr);
                let answer = match panel.kind {
                    Kind::Lines | Kind::Stacked => client.range(&expr, server.range).await,
                    Kind::Number | Kind::Table => client.now(&expr).await,
                };
                let answer = answer.map(|series| with_data(&series));
                report.note(&format!("{}, panel {}", board.title, panel.title), &expr, answer)?;
            }
        }
    }
    alerts(&client, &mut report).await?;
    writeln!(std::io::stdout(), "{} queries, {} without data", report.asked, report.failed)?;
    Ok(report.failed == 0)
}

/// Series with at least one number: a quantile of nothing is none.
fn with_data(series: &[Series]) -> usize {
    series.iter().filter(|series| series.points.iter().any(|(_, value)| value.is_finite())).count()
}

/// An alert is sound if Prometheus evaluates it without error and everything that it looks at has data: then
/// it is silent because all is well and not because it looks at nothing.
async fn alerts(client: &Client, report: &mut Report) -> Result<()> {
    let loaded = client.rules().await?;
    for (_, alerts) in dashboards::alerts() {
        for alert in alerts {
            let health = match loaded.iter().find(|(name, _)| name == alert.name) {
                None => Err(anyhow::anyhow!("not loaded")),
                Some((_, Some(problem))) => Err(anyhow::anyhow!("{problem}")),
                Some((_, None)) => Ok(1),
            };
            report.note(&format!("alert {}", alert.name), alert.expr, health)?;
            for input in check::inputs(alert.expr).map_err(anyhow::Error::msg)? {
                let answer = client.now(&input).await.map(|series| with_data(&series));
                report.note(&format!("alert {}, input", alert.name), &input, answer)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_without_a_number_is_no_data() {
        let series = |points: &[(f64, f64)]| Series { metric: Default::default(), points: points.to_vec() };
        assert_eq!(with_data(&[series(&[]), series(&[(1.0, f64::NAN), (2.0, f64::INFINITY)])]), 0);
        assert_eq!(with_data(&[series(&[(1.0, f64::NAN), (2.0, 0.0)])]), 1);
    }
}
