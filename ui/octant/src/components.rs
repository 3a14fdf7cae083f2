//! Octant's components: `{"metadata": {"type", …}, "config": {…}}`.

use antrea_ui_model::{Health, Verdict};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Rows of a table at most: a page that no browser can draw helps nobody.
pub(crate) const MAX_ROWS: usize = 1_000;

/// Width of a page.
const FULL: u32 = 24;

fn component(type_: &str, title: Option<&str>, config: Value) -> Value {
    let title: Vec<Value> = title.into_iter().map(text).collect();
    json!({"metadata": {"type": type_, "title": title}, "config": config})
}

/// Plain text. Octant escapes it.
pub(crate) fn text(value: &str) -> Value {
    json!({"metadata": {"type": "text"}, "config": {"value": value}})
}

/// A verdict, coloured.
pub(crate) fn health(health: &Health) -> Value {
    let (word, status) = match health.verdict {
        Verdict::Healthy => ("Healthy", 1),
        Verdict::Degraded => ("Degraded", 2),
        Verdict::Unknown => ("Unknown", 2),
        Verdict::Stale => ("Stale", 3),
        Verdict::Unhealthy => ("Unhealthy", 3),
    };
    let value = if health.reason.is_empty() { word.to_owned() } else { format!("{word}: {}", health.reason) };
    json!({"metadata": {"type": "text"}, "config": {"value": value, "status": status}})
}

/// Something that went wrong.
pub(crate) fn problem(value: &str) -> Value {
    json!({"metadata": {"type": "text"}, "config": {"value": value, "status": 3}})
}

/// A link to another page of Octant.
pub(crate) fn link(value: &str, to: &str) -> Value {
    json!({"metadata": {"type": "link"}, "config": {"value": value, "ref": to}})
}

/// A time, or a dash.
pub(crate) fn time(time: Option<Timestamp>) -> Value {
    match time {
        Some(time) => json!({"metadata": {"type": "timestamp"}, "config": {"timestamp": time.as_second()}}),
        None => text("–"),
    }
}

/// A table with these columns; each row has as many components.
pub(crate) fn table<const N: usize>(
    title: &str,
    empty: &str,
    columns: [&str; N],
    rows: Vec<[Value; N]>,
) -> Value {
    let total = rows.len();
    let title = match total {
        ..=MAX_ROWS => title.to_owned(),
        _ => format!("{title} (the first {MAX_ROWS} of {total})"),
    };
    let rows: Vec<Value> = rows
        .into_iter()
        .take(MAX_ROWS)
        .map(|row| columns.iter().map(|name| (*name).to_owned()).zip(row).collect::<Map<_, _>>().into())
        .collect();
    let columns: Vec<Value> = columns.iter().map(|name| json!({"name": name, "accessor": name})).collect();
    let config =
        json!({"columns": columns, "rows": rows, "emptyContent": empty, "loading": false, "filters": {}});
    component("table", Some(&title), config)
}

/// Components below each other.
pub(crate) fn column(accessor: &str, views: Vec<Value>) -> Value {
    let sections: Vec<Value> = views.into_iter().map(|view| json!([{"width": FULL, "view": view}])).collect();
    json!({"metadata": {"type": "flexlayout", "title": [text(accessor)], "accessor": accessor},
        "config": {"sections": sections}})
}

/// Names with values.
pub(crate) fn summary(title: &str, sections: Vec<(&str, Value)>) -> Value {
    let sections: Vec<Value> =
        sections.into_iter().map(|(header, content)| json!({"header": header, "content": content})).collect();
    component("summary", Some(title), json!({"sections": sections}))
}

/// A frame with buttons that open forms.
pub(crate) fn card(title: &str, body: Value, actions: Vec<Value>) -> Value {
    component("card", Some(title), json!({"body": body, "actions": actions}))
}

/// A drawing in Graphviz's language, framed.
pub(crate) fn drawing(title: &str, dot: &str) -> Value {
    card(title, component("graphviz", None, json!({"dot": dot})), Vec::new())
}

/// A whole page.
pub(crate) fn page(title: &str, view: Value) -> Value {
    json!({"title": [text(title)], "viewComponents": [view], "titleComponents": []})
}

/// A button that opens a form and sends it as `action`.
pub(crate) fn action(title: &str, action: &str, mut fields: Vec<Value>) -> Value {
    fields.push(field("hidden", "", "action", json!(action), json!({})));
    json!({"name": title, "title": title, "modal": true, "form": {"fields": fields}})
}

/// A line of text in a form.
pub(crate) fn text_field(label: &str, name: &str, placeholder: &str) -> Value {
    field("text", label, name, json!(""), json!({"placeholder": placeholder}))
}

/// A choice in a form; the first is chosen.
pub(crate) fn choice(label: &str, name: &str, choices: &[String]) -> Value {
    let choices: Vec<Value> = choices
        .iter()
        .enumerate()
        .map(|(position, one)| json!({"label": one, "value": one, "checked": position == 0}))
        .collect();
    let more = json!({"configuration": {"choices": choices, "multiple": false}});
    field("select", label, name, json!([]), more)
}

fn field(type_: &str, label: &str, name: &str, value: Value, more: Value) -> Value {
    let mut config = json!({"type": type_, "label": label, "name": name, "value": value});
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    component("formField", None, config)
}
