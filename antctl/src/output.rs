//! Results as tables, JSON and YAML.

use std::net::IpAddr;

use antrea_api::controlplane::{GroupMember, IpNet};
use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::Format;

/// A result in both of its shapes.
#[derive(Debug)]
pub(crate) struct Output {
    /// Column names.
    pub(crate) columns: &'static [&'static str],
    /// One cell for each column.
    pub(crate) rows: Vec<Vec<String>>,
    /// As the API has it.
    pub(crate) value: Value,
}

impl Output {
    /// The text to print, which ends with a line feed.
    pub(crate) fn render(&self, format: Format) -> anyhow::Result<String> {
        let mut text = match format {
            Format::Table => table(self.columns, &self.rows),
            Format::Json => serde_json::to_string_pretty(&readable(self.value.clone()))?,
            Format::Yaml => {
                serde_saphyr::to_string(&readable(self.value.clone())).context("write the result as YAML")?
            }
            Format::Raw => self.value.to_string(),
        };
        text.truncate(text.trim_end().len());
        text.push('\n');
        Ok(text)
    }
}

fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = columns.iter().map(ToString::to_string).collect();
    let mut widths = vec![0; columns.len()];
    for row in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in [&header].into_iter().chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{:width$}", if cell.is_empty() { "-" } else { cell }))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// Addresses as people write them: the API has them as bytes in base64.
fn readable(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(readable).collect(),
        // A prefix of length 0 is left out.
        Value::Object(map)
            if map.contains_key("ip") && map.keys().all(|key| key == "ip" || key == "prefixLength") =>
        {
            let net: Option<IpNet> = serde_json::from_value(Value::Object(map.clone())).ok();
            match net.and_then(|net| Some(format!("{}/{}", address(&net.ip)?, net.prefix_length))) {
                Some(text) => text.into(),
                None => Value::Object(map),
            }
        }
        Value::Object(map) => {
            let entry = |(key, value): (String, Value)| {
                let value = if key == "ips" { addresses(value) } else { readable(value) };
                (key, value)
            };
            Value::Object(map.into_iter().map(entry).collect())
        }
        plain => plain,
    }
}

/// What is no list of addresses in base64 stays as it is.
fn addresses(value: Value) -> Value {
    let decoded = serde_json::from_value::<GroupMember>(json!({"ips": value}))
        .ok()
        .and_then(|member| member.ips.iter().map(|ip| address(ip)).collect::<Option<Vec<IpAddr>>>());
    decoded.map_or(value, |ips| json!(ips))
}

/// An address of 4 or 16 bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_result() {
        let value = json!([{"name": "a", "ips": ["CgoABQ==", "/QAAAAAAAAAAAAAAAAAAAQ=="]},
                           {"cidr": {"ip": "CgoAAA==", "prefixLength": 16}, "ips": ["no base64"]},
                           {"cidr": {"ip": "AAAAAA=="}, "ip": "10.0.0.1"}, {"cidr": {"ip": "AAAAAAAAAAAAAAAAAAAAAA=="}}]);
        let rows = vec![vec!["a".to_owned(), String::new()], vec!["longer".to_owned(), "2".to_owned()]];
        let output = Output { columns: &["NAME", "N"], rows, value: value.clone() };
        assert_eq!(output.render(Format::Table).unwrap(), "NAME     N\na        -\nlonger   2\n");
        assert_eq!(output.render(Format::Raw).unwrap(), format!("{value}\n"));
        let readable = json!([{"name": "a", "ips": ["10.10.0.5", "fd00::1"]}, {"cidr": "10.10.0.0/16", "ips": ["no base64"]},
                              {"cidr": "0.0.0.0/0", "ip": "10.0.0.1"}, {"cidr": "::/0"}]);
        let text = output.render(Format::Json).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), readable);
        let text = output.render(Format::Yaml).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), readable);
    }
}
