//! How a console shows the fields of a custom resource, from its schema.

use serde_json::{Value, json};

const UI: &str = "urn:alm:descriptor:com.tectonic.ui:";

/// Levels of fields that are described one by one.
const DEPTH: usize = 3;

/// One descriptor for each field below `schema` that holds a value, by path.
pub(super) fn of(schema: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    collect(schema, "", 1, &mut found);
    found
}

fn collect(schema: &Value, above: &str, depth: usize, found: &mut Vec<Value>) {
    let Some(fields) = schema["properties"].as_object() else { return };
    for (name, field) in fields {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        if depth < DEPTH && field["properties"].is_object() && name != "resources" && name != "computed" {
            collect(field, &path, depth + 1, found);
            continue;
        }
        let mut descriptor = json!({
            "path": path,
            "displayName": title(&path),
            "description": field["description"].as_str().map_or_else(|| title(&path), str::to_owned),
        });
        let looks = look(name, field);
        if !looks.is_empty() {
            descriptor["x-descriptors"] = looks.into();
        }
        found.push(descriptor);
    }
}

/// What a console draws for a field.
fn look(name: &str, field: &Value) -> Vec<String> {
    let ui = |what: &str| vec![format!("{UI}{what}")];
    match (name, field["type"].as_str()) {
        ("conditions", _) => vec!["urn:alm:descriptor:io.kubernetes.conditions".to_owned()],
        ("resources", _) => ui("resourceRequirements"),
        ("pullPolicy", _) => ui("imagePullPolicy"),
        (_, Some("boolean")) => ui("booleanSwitch"),
        (_, Some("integer")) => ui("number"),
        (_, Some("string")) => match field["enum"].as_array() {
            Some(values) => {
                values.iter().filter_map(Value::as_str).map(|value| format!("{UI}select:{value}")).collect()
            }
            None => ui("text"),
        },
        _ => Vec::new(),
    }
}

/// A path as words: "agent.logLevel" becomes "Agent log level".
fn title(path: &str) -> String {
    let mut words = String::new();
    let chars: Vec<char> = path.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| chars.get(i));
        let after = chars.get(i + 1);
        let starts = c.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || (before.is_uppercase() && after.is_some_and(|c| c.is_lowercase()))
            });
        if *c == '.' || starts {
            words.push(' ');
        }
        // An abbreviation stays one.
        let alone = starts || before.is_none_or(|before| *before == '.');
        let abbreviation = c.is_uppercase() && (!alone || after.is_some_and(|c| c.is_uppercase()));
        match c {
            '.' => {}
            _ if words.is_empty() => words.extend(c.to_uppercase()),
            _ if abbreviation => words.push(*c),
            _ => words.extend(c.to_lowercase()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_words() {
        for (path, words) in [
            ("mtu", "Mtu"),
            ("trafficEncapMode", "Traffic encap mode"),
            ("agent.logLevel", "Agent log level"),
            ("monitoring.runbookURL", "Monitoring runbook URL"),
            ("kubeAPIServerOverride", "Kube API server override"),
        ] {
            assert_eq!(title(path), words);
        }
    }
}
