//! What a request path means.

use std::{borrow::Cow, collections::HashMap};

use http::Method;
use percent_encoding::percent_decode_str;

use crate::{
    selector::{Fields, Labels, NAME},
    status::Failure,
    user::Action,
};

/// A request for a resource under `/apis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRequest {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Object name or empty.
    pub name: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Field selectors of a list or watch.
    pub fields: Fields,
    /// Label selectors of a list or watch.
    pub labels: Labels,
}

impl ResourceRequest {
    /// Reads `/apis/{group}/{version}[/namespaces/{namespace}]/{resource}[/{name}[/{subresource}]]`.
    /// `None` for every other path, discovery among them.
    ///
    /// # Errors
    /// 400 for a selector that cannot be read.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Option<Self>, Failure> {
        let Some(mut request) = Self::parse_path(method, path, query) else { return Ok(None) };
        if matches!(request.verb, "list" | "watch" | "deletecollection") {
            let query = parse_query(query);
            let selector = |name| query.get(name).map(String::as_str).unwrap_or_default();
            request.fields = Fields::parse(selector("fieldSelector"))?;
            request.labels = Labels::parse(selector("labelSelector"))?;
            // A list or watch of one object counts as access to that object, as in the API server.
            if let Some(name) = request.fields.get(NAME) {
                request.name = name.to_owned();
            }
        }
        Ok(Some(request))
    }

    fn parse_path(method: &Method, path: &str, query: Option<&str>) -> Option<Self> {
        let mut segments = path.strip_prefix("/apis/")?.split('/').filter(|s| !s.is_empty());
        let (group, version) = (segments.next()?.to_owned(), segments.next()?.to_owned());
        let mut rest: Vec<&str> = segments.collect();
        let mut namespace = String::new();
        if rest.first() == Some(&"namespaces") && rest.len() >= 3 {
            namespace = rest[1].to_owned();
            rest.drain(..2);
        }
        let (&resource, rest) = rest.split_first()?;
        let name = rest.first().copied().unwrap_or_default().to_owned();
        let subresource = rest.get(1..).unwrap_or_default().join("/");
        let query = parse_query(query);
        let watch = query
            .get("watch")
            .is_some_and(|v| matches!(v.as_str(), "" | "1" | "true" | "t" | "T" | "TRUE" | "True"));
        let verb = match *method {
            Method::GET | Method::HEAD if !name.is_empty() => "get",
            Method::GET | Method::HEAD if watch => "watch",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => return None,
        };
        let resource = resource.to_owned();
        let (fields, labels) = Default::default();
        Some(Self { verb, group, version, namespace, resource, name, subresource, fields, labels })
    }

    /// The same for authorization.
    pub fn action(&self) -> Action {
        Action::Resource {
            verb: self.verb,
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// Decodes a query string; of a repeated key the first value counts.
pub fn parse_query(query: Option<&str>) -> HashMap<String, String> {
    let mut map = HashMap::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.entry(decode(key)).or_insert_with(|| decode(value));
    }
    map
}

fn decode(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// Resolves `%xx`; what is no escape, or decodes to something that is not UTF-8, stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(method: Method, url: &str) -> Option<(&'static str, String, String, String, String)> {
        let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
        let r = ResourceRequest::parse(&method, path, query).unwrap()?;
        Some((r.verb, r.namespace, r.resource, r.name, r.subresource))
    }

    fn want(
        verb: &'static str,
        namespace: &str,
        resource: &str,
        name: &str,
        sub: &str,
    ) -> Option<(&'static str, String, String, String, String)> {
        Some((verb, namespace.into(), resource.into(), name.into(), sub.into()))
    }

    #[test]
    fn reads_resource_paths() {
        let get = Method::GET;
        assert_eq!(parse(get.clone(), "/apis/g/v1/things"), want("list", "", "things", "", ""));
        assert_eq!(parse(get.clone(), "/apis/g/v1/things?watch=true"), want("watch", "", "things", "", ""));
        assert_eq!(parse(get.clone(), "/apis/g/v1/things?watch=0"), want("list", "", "things", "", ""));
        assert_eq!(
            parse(get.clone(), "/apis/g/v1/things?watch=1&fieldSelector=nodeName%3Dn1,metadata.name%3Da"),
            want("watch", "", "things", "a", "")
        );
        assert_eq!(
            parse(get.clone(), "/apis/g/v1/namespaces/ns/things/a"),
            want("get", "ns", "things", "a", "")
        );
        assert_eq!(parse(get.clone(), "/apis/g/v1/namespaces/ns"), want("get", "", "namespaces", "ns", ""));
        assert_eq!(
            parse(Method::POST, "/apis/g/v1/things/a/status"),
            want("create", "", "things", "a", "status")
        );
        for other in ["/", "/apis", "/apis/g", "/apis/g/v1", "/apis/g/v1/", "/metrics", "/api/v1/pods"] {
            assert_eq!(parse(get.clone(), other), None, "{other}");
        }
    }

    #[test]
    fn escapes_are_two_hexadecimal_digits() {
        for (text, plain) in [("a%2Fb", "a/b"), ("%+f", "%+f"), ("%2", "%2"), ("%C3%A4", "ä"), ("%FF", "%FF")]
        {
            assert_eq!(percent_decode(text), plain);
        }
        assert_eq!(parse_query(Some("a=%2B+%+f&a=b&c"))["a"], "+ % f");
    }

    proptest! {
        #[test]
        fn never_panics(path in ".{0,60}", query in proptest::option::of(".{0,60}")) {
            let _ = ResourceRequest::parse(&Method::GET, &format!("/apis/{path}"), query.as_deref());
        }
    }
}
