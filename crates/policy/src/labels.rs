//! Label sets and label selectors, as Kubernetes defines them (apimachinery `labels` and `metav1.LabelSelector`).

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::error::{Issues, Place, PolicyError, Problem, Step};

/// A label set: keys in ascending order, each once.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Key and value pairs in ascending order of keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// With this value of a key, or without the key.
    #[must_use]
    pub fn with(self, key: &str, value: Option<&str>) -> Self {
        let mut pairs = self.0.into_vec();
        match (pairs.binary_search_by(|(k, _)| (**k).cmp(key)), value) {
            (Ok(at), Some(value)) => pairs[at].1 = value.into(),
            (Err(at), Some(value)) => pairs.insert(at, (key.into(), value.into())),
            (Ok(at), None) => drop(pairs.remove(at)),
            (Err(_), None) => {}
        }
        Self(pairs.into_boxed_slice())
    }

    /// Number of labels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    /// Of a key given twice the last value stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut pairs: Vec<(Box<str>, Box<str>)> =
            iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        pairs.reverse();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|a, b| a.0 == b.0);
        Self(pairs.into_boxed_slice())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<Box<str>, Box<str>>::deserialize(deserializer)?;
        Ok(map.into_iter().collect())
    }
}

/// `metav1.LabelSelector` as it is written in a policy: not yet checked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// All of these labels must be present with these values.
    #[serde(deserialize_with = "crate::k8s::null_default")]
    pub match_labels: Labels,
    /// All of these requirements must hold as well.
    #[serde(deserialize_with = "crate::k8s::null_default")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// `metav1.LabelSelectorRequirement`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct LabelSelectorRequirement {
    pub key: Box<str>,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`; anything else is reported when the selector is checked.
    pub operator: Box<str>,
    /// The values of `In` and `NotIn`.
    #[serde(deserialize_with = "crate::k8s::null_default")]
    pub values: Vec<Box<str>>,
}

/// How a requirement looks at its key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operator {
    /// The value is the one given (from `matchLabels`).
    Equals,
    /// The value is one of those given.
    In,
    /// The key is absent or its value is none of those given.
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// One checked requirement.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
    /// Ascending. One for `Equals`, at least one for `In` and `NotIn`, none otherwise.
    values: Vec<Box<str>>,
}

impl Requirement {
    /// The label key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How the label's value is compared with [`Self::values`].
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values in ascending order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.iter().map(|v| &**v)
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| **x == *v);
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A checked selector. Its text form is the one of apimachinery's `labels.Selector.String()`, from which the
/// names of groups are derived: requirements in order of keys, values in order.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// The selector that matches every label set.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// The selector that asks for these labels too.
    #[must_use]
    pub(crate) fn and_equals<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut requirements = self.0.clone();
        for (key, value) in pairs {
            let wanted =
                Requirement { key: key.into(), operator: Operator::Equals, values: vec![value.into()] };
            if !requirements.contains(&wanted) {
                requirements.insert(0, wanted);
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self(requirements)
    }

    /// The requirements, ascending by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// How much there is of it: requirements and their values.
    pub(crate) fn parts(&self) -> usize {
        self.0.iter().map(|requirement| 1 + requirement.values.len()).sum()
    }

    /// Whether the labels meet every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|r| r.matches(labels.get(&r.key)))
    }

    /// Checks a selector that stands in the object at the path.
    ///
    /// # Errors
    /// All mistakes in it.
    pub fn check(selector: &LabelSelector, object: &str, path: &str) -> Result<Self, Vec<PolicyError>> {
        let mut issues = Issues::new(object);
        let parsed = Self::parse(selector, &mut issues.top());
        let mut errors = issues.into_errors();
        if errors.is_empty() {
            return Ok(parsed);
        }
        for error in &mut errors {
            error.path = format!("{path}.{}", error.path).into();
        }
        Err(errors)
    }

    /// Checks a selector. Requirements that are malformed are reported and left out, so what comes back can
    /// only select more than was meant: a caller must not use it where that would permit something.
    pub(crate) fn parse(selector: &LabelSelector, place: &mut Place<'_>) -> Self {
        let mut requirements = Vec::with_capacity(selector.match_labels.len());
        for (key, value) in selector.match_labels.iter() {
            match check_key(key).and_then(|()| check_value(value)) {
                Ok(()) => requirements.push(Requirement {
                    key: key.into(),
                    operator: Operator::Equals,
                    values: vec![value.into()],
                }),
                Err(problem) => place.at(Step::Key("matchLabels", shorten(key))).add(problem),
            }
        }
        for (i, expression) in selector.match_expressions.iter().enumerate() {
            requirements.extend(parse_expression(expression, &mut place.index("matchExpressions", i)));
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self(requirements)
    }
}

fn parse_expression(expression: &LabelSelectorRequirement, place: &mut Place<'_>) -> Option<Requirement> {
    let operator = match &*expression.operator {
        "In" => Ok(Operator::In),
        "NotIn" => Ok(Operator::NotIn),
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::DoesNotExist),
        other => Err(Problem::Operator(shorten(other))),
    };
    let operator = place.field("operator").check(operator);
    let mut good = place.field("key").check(check_key(&expression.key)).is_some();
    let set = matches!(operator, Some(Operator::In | Operator::NotIn));
    if set && expression.values.is_empty() {
        place.field("values").add(Problem::ValuesRequired);
        good = false;
    } else if operator.is_some() && !set && !expression.values.is_empty() {
        place.field("values").add(Problem::ValuesForbidden);
        good = false;
    }
    for (i, value) in expression.values.iter().enumerate() {
        good &= place.index("values", i).check(check_value(value)).is_some();
    }
    let operator = operator.filter(|_| good)?;
    let mut values = expression.values.clone();
    values.sort_unstable();
    Some(Requirement { key: expression.key.clone(), operator, values })
}

/// A qualified name: optional DNS subdomain of at most 253 characters and a slash, then a name.
fn check_key(key: &str) -> Result<(), Problem> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good_prefix =
        prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(|part| is_name(part, lower, |b| b == b'-')));
    if good_prefix && name.len() <= 63 && is_label_name(name) {
        Ok(())
    } else {
        Err(Problem::LabelKey(shorten(key)))
    }
}

fn check_value(value: &str) -> Result<(), Problem> {
    if value.is_empty() || (value.len() <= 63 && is_label_name(value)) {
        Ok(())
    } else {
        Err(Problem::LabelValue(shorten(value)))
    }
}

fn is_label_name(name: &str) -> bool {
    is_name(name, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.'))
}

/// Non-empty, of `outer` or `inner` bytes, with `outer` ones at both ends.
fn is_name(name: &str, outer: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            outer(*first) && outer(*last) && bytes.iter().all(|b| outer(*b) || inner(*b))
        }
        _ => false,
    }
}

/// At most 64 characters of hostile text, for messages.
pub(crate) fn shorten(text: &str) -> Box<str> {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", &text[..at]).into(),
        None => text.into(),
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operator {
            Operator::Exists => return f.write_str(&self.key),
            Operator::DoesNotExist => return write!(f, "!{}", self.key),
            Operator::Equals => write!(f, "{}=", self.key)?,
            Operator::In => write!(f, "{} in (", self.key)?,
            Operator::NotIn => write!(f, "{} notin (", self.key)?,
        }
        for (i, value) in self.values.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(value)?;
        }
        if self.operator == Operator::Equals { Ok(()) } else { f.write_str(")") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
        LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: values.iter().map(|v| (*v).into()).collect(),
        }
    }

    fn parse(selector: &LabelSelector) -> (Selector, Vec<String>) {
        let mut issues = Issues::new("NetworkPolicy a/b");
        let parsed = Selector::parse(selector, &mut issues.top().field("spec").field("podSelector"));
        (parsed, issues.into_errors().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn text_is_apimachinerys() {
        let selector = LabelSelector {
            match_labels: [("b", "1"), ("a", "")].into_iter().collect(),
            match_expressions: vec![
                expression("d", "NotIn", &["y", "x"]),
                expression("c", "In", &["z"]),
                expression("f", "DoesNotExist", &[]),
                expression("e", "Exists", &[]),
            ],
        };
        let (parsed, errors) = parse(&selector);
        assert_eq!(parsed.to_string(), "a=,b=1,c in (z),d notin (x,y),e,!f");
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(parse(&LabelSelector::default()).0.to_string(), "");
    }

    #[test]
    fn matching() {
        let labels: Labels = [("app", "web"), ("tier", "")].into_iter().collect();
        let cases = [
            (expression("app", "In", &["db", "web"]), true),
            (expression("app", "NotIn", &["db", "web"]), false),
            (expression("app", "NotIn", &["db"]), true),
            (expression("zone", "NotIn", &["db"]), true),
            (expression("zone", "In", &["db"]), false),
            (expression("tier", "Exists", &[]), true),
            (expression("tier", "In", &[""]), true),
            (expression("tier", "DoesNotExist", &[]), false),
            (expression("zone", "DoesNotExist", &[]), true),
            (expression("zone", "Exists", &[]), false),
        ];
        for (requirement, expected) in cases {
            let text = format!("{requirement:?}");
            let (parsed, _) =
                parse(&LabelSelector { match_expressions: vec![requirement], ..Default::default() });
            assert_eq!(parsed.matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn malformed_requirements_are_named() {
        let long = "x".repeat(64);
        let selector = LabelSelector {
            match_labels: [("a b", "v"), ("good.io/k", "v v"), ("ok", "v")].into_iter().collect(),
            match_expressions: vec![
                expression("k", "Near", &["a"]),
                expression("k", "In", &[]),
                expression("k", "Exists", &["a"]),
                expression("k", "In", &["good", &long]),
                expression("UPPER.io/k", "Exists", &[]),
                expression("", "Exists", &[]),
            ],
        };
        let (parsed, errors) = parse(&selector);
        assert_eq!(parsed.to_string(), "ok=v");
        let expected = [
            "NetworkPolicy a/b: spec.podSelector.matchLabels[a b]: \"a b\" is not a label key".to_owned(),
            "NetworkPolicy a/b: spec.podSelector.matchLabels[good.io/k]: \"v v\" is not a label value".into(),
            "NetworkPolicy a/b: spec.podSelector.matchExpressions[0].operator: \"Near\" is not one of In, NotIn, Exists, DoesNotExist".into(),
            "NetworkPolicy a/b: spec.podSelector.matchExpressions[1].values: In and NotIn need at least one value".into(),
            "NetworkPolicy a/b: spec.podSelector.matchExpressions[2].values: Exists and DoesNotExist take no values".into(),
            format!("NetworkPolicy a/b: spec.podSelector.matchExpressions[3].values[1]: \"{long}\" is not a label value"),
            "NetworkPolicy a/b: spec.podSelector.matchExpressions[4].key: \"UPPER.io/k\" is not a label key".into(),
            "NetworkPolicy a/b: spec.podSelector.matchExpressions[5].key: \"\" is not a label key".into(),
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn labels_are_sorted_and_unique() {
        let labels: Labels = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!(labels.get("b"), Some("3"));
        assert_eq!(labels.get("c"), None);
    }
}
