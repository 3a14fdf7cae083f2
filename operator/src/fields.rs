//! Fields of objects: which differ between two states, and who manages them.
//!
//! Ownership is read from `metadata.managedFields` in the form `FieldsV1`: `f:<name>` is a field,
//! `k:{"<key>":…}` an element of a list that is merged by key, `v:<value>` one of a list that is a set.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

/// One segment of the way to a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// A field of an object.
    Field(String),
    /// An element of a list: its position, and itself, by which `FieldsV1` finds it.
    Element(usize, Value),
}

/// Where a field is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path(Vec<Segment>);

impl Path {
    fn with(&self, segment: Segment) -> Self {
        let mut steps = self.0.clone();
        steps.push(segment);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Segment::Field(name) if name.contains(['.', '/']) => write!(f, "[{name}]")?,
                Segment::Field(name) => write!(f, "{}{name}", if i == 0 { "" } else { "." })?,
                Segment::Element(index, element) => match element_key(element) {
                    Some((_, key)) => write!(f, "[{key}]")?,
                    None => write!(f, "[{index}]")?,
                },
            }
        }
        Ok(())
    }
}

/// A field that differs between two states of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where it is.
    pub path: Path,
    /// Its value in the first state, if it is there.
    pub from: Option<Value>,
    /// Its value in the second state, if it is there.
    pub to: Option<Value>,
}

/// Fields that the API server sets and that say nothing about what is wanted.
const SERVER_FIELDS: [&str; 7] = [
    "managedFields",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "uid",
    "selfLink",
    "deletionTimestamp",
];

/// Names by which elements of lists are told apart, the most telling first.
const ELEMENT_KEYS: [&str; 4] = ["name", "mountPath", "containerPort", "type"];

/// Annotations that controllers of Kubernetes keep on objects of ours.
const SERVER_ANNOTATIONS: [&str; 2] =
    ["deprecated.daemonset.template.generation", "deployment.kubernetes.io/revision"];

fn element_key(element: &Value) -> Option<(&'static str, String)> {
    ELEMENT_KEYS.iter().find_map(|key| match element.get(key)? {
        Value::String(text) => Some((*key, text.clone())),
        Value::Number(number) => Some((*key, number.to_string())),
        _ => None,
    })
}

/// Every field in which `to` differs from `from`, leaving out what the API server sets by itself and the
/// status.
pub fn differences(from: &Value, to: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let (Some(from), Some(to)) = (from.as_object(), to.as_object()) else { return found };
    let keys: std::collections::BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for key in keys {
        if key != "status" {
            let path = Path::default().with(Segment::Field(key.clone()));
            diff_option(&path, from.get(key), to.get(key), &mut found);
        }
    }
    found
}

fn diff_option(path: &Path, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Difference>) {
    match (from, to) {
        (Some(from), Some(to)) => diff(path, from, to, found),
        (None, None) => {}
        (from, to) => {
            found.push(Difference { path: path.clone(), from: from.cloned(), to: to.cloned() });
        }
    }
}

fn diff(path: &Path, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    match (from, to) {
        (Value::Object(a), Value::Object(b)) => {
            let ignored: &[&str] = match path.0.as_slice() {
                [Segment::Field(name)] if name == "metadata" => &SERVER_FIELDS,
                [Segment::Field(first), Segment::Field(name)]
                    if first == "metadata" && name == "annotations" =>
                {
                    &SERVER_ANNOTATIONS
                }
                _ => &[],
            };
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                if !ignored.contains(&key.as_str()) {
                    diff_option(&path.with(Segment::Field(key.clone())), a.get(key), b.get(key), found);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => diff_lists(path, a, b, found),
        (a, b) if a == b => {}
        (a, b) => found.push(Difference { path: path.clone(), from: Some(a.clone()), to: Some(b.clone()) }),
    }
}

/// Elements are matched by key where all have one, else by position.
fn diff_lists(path: &Path, a: &[Value], b: &[Value], found: &mut Vec<Difference>) {
    let keyed =
        |list: &[Value]| -> Option<Vec<(&'static str, String)>> { list.iter().map(element_key).collect() };
    let unique = |keys: &[(&'static str, String)]| {
        let set: std::collections::BTreeSet<_> = keys.iter().collect();
        set.len() == keys.len()
    };
    if let (Some(ka), Some(kb)) = (keyed(a), keyed(b))
        && unique(&ka)
        && unique(&kb)
    {
        for (i, key) in ka.iter().enumerate() {
            let other = kb.iter().position(|other| other == key).map(|j| &b[j]);
            diff_option(&path.with(Segment::Element(i, a[i].clone())), Some(&a[i]), other, found);
        }
        for (j, key) in kb.iter().enumerate().filter(|(_, key)| !ka.contains(key)) {
            let _ = key;
            diff_option(&path.with(Segment::Element(j, b[j].clone())), None, Some(&b[j]), found);
        }
        return;
    }
    for i in 0..a.len().max(b.len()) {
        let element = a.get(i).or(b.get(i)).cloned().unwrap_or_default();
        diff_option(&path.with(Segment::Element(i, element)), a.get(i), b.get(i), found);
    }
}

/// Who changed the field at `path`: of the managers other than `us`, the one that owns the field or the
/// nearest thing above it, and of several the one that wrote last. A field that was removed has no owner
/// any more; then it is whoever wrote last.
pub fn manager<'a>(entries: &'a [ManagedFieldsEntry], path: &Path, us: &str) -> Option<&'a str> {
    entries
        .iter()
        .filter(|entry| {
            entry.manager.as_deref() != Some(us) && entry.subresource.as_deref().unwrap_or("").is_empty()
        })
        .max_by_key(|entry| {
            let depth = entry.fields_v1.as_ref().map_or(0, |fields| depth(&fields.0, &path.0));
            (depth, entry.time.as_ref().map(|time| time.0))
        })
        .and_then(|entry| entry.manager.as_deref())
}

/// How many steps of the way a manager owns.
fn depth(fields: &Value, steps: &[Segment]) -> usize {
    let Some((step, rest)) = steps.split_first() else { return 0 };
    let Some(map) = fields.as_object() else { return 0 };
    let child = match step {
        Segment::Field(name) => map.get(&format!("f:{name}")),
        Segment::Element(_, element) => map.iter().find_map(|(key, child)| {
            if let Some(key) = key.strip_prefix("k:") {
                let key: Value = serde_json::from_str(key).ok()?;
                let matches = key.as_object()?.iter().all(|(name, value)| element.get(name) == Some(value));
                return matches.then_some(child);
            }
            let value: Value = serde_json::from_str(key.strip_prefix("v:")?).ok()?;
            (value == *element).then_some(child)
        }),
    };
    child.map_or(0, |child| 1 + depth(child, rest))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        apimachinery::pkg::apis::meta::v1::{FieldsV1, Time},
        jiff::Timestamp,
    };
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, seconds: i64, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.into()),
            time: Some(Time(Timestamp::from_second(seconds).unwrap())),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    fn daemon_set(image: &str, level: &str) -> Value {
        json!({
            "metadata": {
                "name": "a", "resourceVersion": image, "labels": {"app": "x"},
                "annotations": {"deprecated.daemonset.template.generation": image},
            },
            "spec": {"template": {"spec": {"containers": [
                {"name": "agent", "image": image, "env": [{"name": "LOG_LEVEL", "value": level}]},
                {"name": "ovs", "image": "i"},
            ]}}},
            "status": {"x": image},
        })
    }

    #[test]
    fn differences_are_named_by_their_path() {
        let found = differences(&daemon_set("a", "info"), &daemon_set("b", "debug"));
        let paths: Vec<String> = found.iter().map(|difference| difference.path.to_string()).collect();
        assert_eq!(
            paths,
            [
                "spec.template.spec.containers[agent].env[LOG_LEVEL].value",
                "spec.template.spec.containers[agent].image",
            ]
        );
        assert_eq!((found[1].from.clone(), found[1].to.clone()), (Some(json!("a")), Some(json!("b"))));
        assert!(differences(&daemon_set("a", "i"), &daemon_set("a", "i")).is_empty());
    }

    #[test]
    fn keyed_elements_may_move_and_others_may_not() {
        let one = json!({"spec": {"v": [{"name": "a"}, {"name": "b"}], "args": ["x", "y"]}});
        let two = json!({"spec": {"v": [{"name": "b"}, {"name": "a"}], "args": ["y", "x"]}});
        let paths: Vec<String> = differences(&one, &two).iter().map(|d| d.path.to_string()).collect();
        assert_eq!(paths, ["spec.args[0]", "spec.args[1]"]);
        let more = json!({"spec": {"v": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "args": ["x", "y"]}});
        let paths: Vec<String> = differences(&one, &more).iter().map(|d| d.path.to_string()).collect();
        assert_eq!(paths, ["spec.v[c]"]);
    }

    #[test]
    fn annotation_keys_stay_readable() {
        let one = json!({"metadata": {"annotations": {"checksum/config": "1"}}});
        let two = json!({"metadata": {"annotations": {"checksum/config": "2"}}});
        assert_eq!(differences(&one, &two)[0].path.to_string(), "metadata.annotations[checksum/config]");
    }

    #[test]
    fn the_manager_is_who_owns_the_field() {
        let from = daemon_set("theirs", "info");
        let to = daemon_set("ours", "info");
        let path = differences(&from, &to)[0].path.clone();
        let image = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"agent\"}": {"f:image": {}}}}}}});
        let other = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"ovs\"}": {"f:image": {}}}}}}});
        let entries = [
            entry("antrea-operator", 30, json!({"f:spec": {}})),
            entry("kubectl-edit", 10, image),
            entry("kubectl-set", 20, other),
        ];
        assert_eq!(manager(&entries, &path, "antrea-operator"), Some("kubectl-edit"));
    }

    #[test]
    fn for_a_removed_field_it_is_who_wrote_last() {
        let from = json!({"data": {}});
        let to = json!({"data": {"a": "b"}});
        let path = differences(&from, &to)[0].path.clone();
        let entries = [entry("old", 1, json!({"f:other": {}})), entry("new", 2, json!({"f:other": {}}))];
        assert_eq!(manager(&entries, &path, "antrea-operator"), Some("new"));
        assert_eq!(manager(&[entry("antrea-operator", 1, json!({}))], &path, "antrea-operator"), None);
    }

    #[test]
    fn status_writers_are_not_blamed() {
        let path = differences(&json!({"spec": {"a": 1}}), &json!({"spec": {"a": 2}}))[0].path.clone();
        let mut status = entry("kube-controller-manager", 9, json!({"f:status": {}}));
        status.subresource = Some("status".into());
        let entries = [status, entry("helm", 1, json!({"f:spec": {"f:a": {}}}))];
        assert_eq!(manager(&entries, &path, "antrea-operator"), Some("helm"));
    }
}
