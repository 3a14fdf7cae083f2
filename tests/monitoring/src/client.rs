//! Prometheus's HTTP API.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;

/// Most points of one series.
const POINTS: u64 = 240;

/// A Prometheus.
pub(crate) struct Client {
    http: Http<HttpConnector, Empty<&'static [u8]>>,
    base: String,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Sample>),
    Matrix(Vec<Series>),
    Scalar((f64, String)),
}

#[derive(Deserialize)]
struct Sample {
    metric: Labels,
    value: (f64, String),
}

/// Labels of a series.
pub(crate) type Labels = std::collections::BTreeMap<String, String>;

/// A series and its values: seconds since 1970 and value.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Series {
    pub(crate) metric: Labels,
    #[serde(rename = "values", deserialize_with = "points")]
    pub(crate) points: Vec<(f64, f64)>,
}

fn points<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<(f64, f64)>, D::Error> {
    let raw = Vec::<(f64, String)>::deserialize(deserializer)?;
    Ok(raw.into_iter().map(|(at, value)| (at, number(&value))).collect())
}

/// Prometheus writes infinity as `+Inf`.
fn number(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

/// `text` in a query string.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        let http = Http::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self { http, base: base.trim_end_matches('/').to_owned() }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
        let url = format!("{}/api/v1/{path}?{}", self.base, query.join("&"));
        let request = Request::get(&url).body(Empty::new()).with_context(|| format!("ask {url}"))?;
        let response = self.http.request(request).await.with_context(|| format!("ask {}", self.base))?;
        let body = response.into_body().collect().await.context("read Prometheus's answer")?.to_bytes();
        let answer: Answer<T> = serde_json::from_slice(&body)
            .with_context(|| format!("parse Prometheus's answer: {}", String::from_utf8_lossy(&body)))?;
        match (answer.data, answer.error) {
            (_, Some(error)) => bail!("{error}"),
            (Some(data), None) => Ok(data),
            (None, None) => bail!("no data and no error"),
        }
    }

    /// The values of now.
    pub(crate) async fn now(&self, expr: &str) -> Result<Vec<Series>> {
        Ok(match self.get("query", &[("query", expr)]).await? {
            Data::Vector(samples) => samples
                .into_iter()
                .map(|sample| Series {
                    metric: sample.metric,
                    points: vec![(sample.value.0, number(&sample.value.1))],
                })
                .collect(),
            Data::Scalar((at, value)) => {
                vec![Series { metric: Labels::new(), points: vec![(at, number(&value))] }]
            }
            Data::Matrix(series) => series,
        })
    }

    /// The values of the last `seconds`.
    pub(crate) async fn range(&self, expr: &str, seconds: u64) -> Result<Vec<Series>> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let step = (seconds / POINTS).max(1);
        let query = [
            ("query", expr),
            ("start", &(end - seconds).to_string()),
            ("end", &end.to_string()),
            ("step", &step.to_string()),
        ];
        match self.get("query_range", &query).await? {
            Data::Matrix(series) => Ok(series),
            Data::Vector(_) | Data::Scalar(_) => bail!("a range query gave no matrix"),
        }
    }

    /// Values of a label of the series that `selector` means.
    pub(crate) async fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        self.get(&format!("label/{label}/values"), &[("match[]", selector)]).await
    }

    /// Loaded alerting rules: name, and why the last evaluation failed if it did.
    pub(crate) async fn rules(&self) -> Result<Vec<(String, Option<String>)>> {
        #[derive(Deserialize)]
        struct Rules {
            groups: Vec<Group>,
        }
        #[derive(Deserialize)]
        struct Group {
            rules: Vec<Rule>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Rule {
            name: String,
            health: String,
            #[serde(default)]
            last_error: String,
        }
        let rules: Rules = self.get("rules", &[("type", "alert")]).await?;
        let rule = |rule: Rule| {
            let bad = rule.health != "ok";
            (rule.name, bad.then(|| format!("{} {}", rule.health, rule.last_error)))
        };
        Ok(rules.groups.into_iter().flat_map(|group| group.rules).map(rule).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_and_numbers_read() {
        assert_eq!(escape("a{b=~\".+\"} > 0"), "a%7Bb%3D~%22.%2B%22%7D%20%3E%200");
        assert!(number("+Inf").is_infinite() && number("NaN").is_nan());
        let data: Data = serde_json::from_str(
            r#"{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1.5,"2"],[2.5,"NaN"]]}]}"#,
        )
        .unwrap();
        let Data::Matrix(series) = data else { panic!("no matrix") };
        assert_eq!(series[0].points[0], (1.5, 2.0));
    }
}
