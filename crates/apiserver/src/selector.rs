//! Field and label selectors: read once, for authorization and for the answer.

use std::collections::BTreeMap;

use crate::status::Failure;

/// The field of an object's name, which authorization looks at too.
pub const NAME: &str = "metadata.name";

/// Values that fields have to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads `key=value,key==value`.
    ///
    /// # Errors
    /// 400 for any other form, and for a field that is to have two values: whoever asks for both may have
    /// been allowed one.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut fields = BTreeMap::new();
        for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
            let (key, value) = term
                .split_once("==")
                .or_else(|| term.split_once('='))
                .map(|(key, value)| (key.trim(), value.trim()))
                .filter(|(key, value)| !key.ends_with('!') && !value.contains(['=', '\\']))
                .ok_or_else(|| {
                    Failure::bad_request(format_args!("field selector {term:?} is not key=value"))
                })?;
            if let Some(other) = fields.insert(key.to_owned(), value.to_owned())
                && other != value
            {
                let message = format!("field selector: {key} cannot be {other:?} and {value:?}");
                return Err(Failure::bad_request(message));
            }
        }
        Ok(Self(fields))
    }

    /// The value that a field has to have.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// All fields with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// Requirements of labels; all have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

impl Labels {
    /// Reads a selector in Kubernetes' text form: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`.
    ///
    /// # Errors
    /// 400 for any other form.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        split(text)
            .map(str::trim)
            .filter(|term| !term.is_empty())
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn match_all(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
        })
    }
}

/// The terms between the commas that are not in parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn requirement(term: &str) -> Result<Requirement, Failure> {
    let wrong = || Failure::bad_request(format_args!("label selector {term:?} cannot be read"));
    let key = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(plain)).then(|| text.to_owned()).ok_or_else(wrong)
    };
    let value = |text: &str| if text.trim().is_empty() { Ok(String::new()) } else { key(text) };
    if let Some(list) = term.strip_suffix(')') {
        let (head, list) = list.split_once('(').ok_or_else(wrong)?;
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        return match head.split_whitespace().collect::<Vec<_>>()[..] {
            [name, "in"] => Ok(Requirement::In(key(name)?, values)),
            [name, "notin"] => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(wrong()),
        };
    }
    if let Some((name, unwanted)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(key(name)?, vec![value(unwanted)?]));
    }
    if let Some((name, wanted)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(key(name)?, vec![value(wanted)?]));
    }
    match term.strip_prefix('!') {
        Some(name) => Ok(Requirement::Missing(key(name)?)),
        None => Ok(Requirement::Exists(key(term)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_one_value() {
        let fields = Fields::parse("nodeName=n1, metadata.name==a,metadata.name=a").unwrap();
        assert_eq!((fields.get("nodeName"), fields.get(NAME)), (Some("n1"), Some("a")));
        assert_eq!(Fields::parse("").unwrap(), Fields::default());
        for wrong in
            ["metadata.name=a,metadata.name=b", "metadata.name!=a", "metadata.name", "a=b=c", r"a=b\,c"]
        {
            assert_eq!(Fields::parse(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }

    #[test]
    fn labels_are_read_as_the_api_server_reads_them() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("x.io/t".into(), String::new())]);
        for (selector, selected) in [
            ("", true),
            ("app=web", true),
            ("app==web,x.io/t", true),
            ("app=db", false),
            ("app!=db", true),
            ("other!=db", true),
            ("app in (db, web),x.io/t=", true),
            ("app notin (db,web)", false),
            ("!other", true),
            ("!app", false),
            ("other", false),
        ] {
            assert_eq!(Labels::parse(selector).unwrap().match_all(&labels), selected, "{selector}");
        }
        for wrong in ["a b", "=b", "a=b=c", "a in b", "a in (b", "in (b)", "a=(b)", "!"] {
            assert!(Labels::parse(wrong).is_err(), "{wrong}");
        }
    }
}
