//! A Kubernetes API server reduced to storage and watches, for suites that need objects to appear and
//! change but no cluster. It checks nothing: authentication, schemas and admission are the real one's. Reviews
//! of tokens and of access are answered so that components can serve their own APIs: a token `lab-NAME` is
//! that of user NAME, who may do everything unless it is [`NOBODY`]; with `lab-NAME@NODE` it is bound to a Pod there.
//! Whoever asks for a token of a ServiceAccount gets one, which is good for the audience that was asked for.
//!
//! Resources are addressed by their collection path, e.g. `api/v1/nodes` or
//! `apis/crd.antrea.io/v1beta1/antreaagentinfos`. The objects outlive the servers that serve them, as
//! those of a cluster do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

use crate::background::Background;

mod reviews;

pub use reviews::NOBODY;

#[derive(Debug)]
struct Event {
    collection: String,
    version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    kind: &'static str,
    object: Value,
}

/// An object, and how it is sent: a large cluster is listed more often than it changes.
#[derive(Debug)]
struct Stored {
    object: Value,
    text: String,
}

#[derive(Debug, Default)]
struct Store {
    version: u64,
    /// Collection path → `namespace/name` → object.
    objects: BTreeMap<String, BTreeMap<String, Stored>>,
    log: Vec<Arc<Event>>,
}

/// The server's objects; clones share them.
#[derive(Clone, Debug)]
pub struct FakeApi {
    store: Arc<Mutex<Store>>,
    /// Length of the log.
    length: watch::Sender<usize>,
    /// Files with what Pods have written, by `namespace/name`.
    outputs: Arc<Mutex<BTreeMap<String, PathBuf>>>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self { store: Arc::default(), length: watch::Sender::new(0), outputs: Arc::default() }
    }
}

/// `collection`, `namespace`, `name` of a request path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    /// It is about a part of the object, such as its status.
    is_part: bool,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let prefix = match *parts.first()? {
            "api" => 2,
            "apis" => 3,
            _ => return None,
        };
        let (group, rest) = parts.split_at_checked(prefix)?;
        let (namespace, rest) = match rest {
            ["namespaces", namespace, resource, ..] if !resource.is_empty() => (Some(*namespace), &rest[2..]),
            _ => (None, rest),
        };
        let collection = format!("{}/{}", group.join("/"), rest.first()?);
        // A subresource is stored with its object.
        Some(Self {
            collection,
            namespace: namespace.map(str::to_owned),
            name: rest.get(1).map(|name| (*name).to_owned()),
            is_part: rest.len() > 2,
        })
    }
}

fn key(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

impl FakeApi {
    /// Creates or replaces an object, as a client of the real server would.
    pub fn put(&self, collection: &str, mut object: Value) {
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut store = self.store.lock();
        store.version += 1;
        let version = store.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let items = store.objects.entry(collection.to_owned()).or_default();
        let key = key(namespace.as_deref(), &name);
        if object["metadata"].get("uid").is_none() {
            let name = format!("{collection}/{key}");
            object["metadata"]["uid"] =
                Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string().into();
        }
        let stored = Stored { object: object.clone(), text: object.to_string() };
        let kind = if items.insert(key, stored).is_some() { "MODIFIED" } else { "ADDED" };
        self.publish(&mut store, Event { collection: collection.to_owned(), version, kind, object });
    }

    /// Takes a Secret's `stringData` in as the real server does.
    fn encode_string_data(object: &mut Value) {
        let Some(Value::Object(texts)) =
            object.as_object_mut().and_then(|object| object.remove("stringData"))
        else {
            return;
        };
        for (key, text) in texts {
            let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
            object["data"][key] = serde_json::to_value(k8s_openapi::ByteString(bytes)).unwrap_or_default();
        }
    }

    /// Deletes an object; absent is no error.
    pub fn delete(&self, collection: &str, namespace: Option<&str>, name: &str) {
        let mut store = self.store.lock();
        let removed = store.objects.get_mut(collection).and_then(|items| items.remove(&key(namespace, name)));
        if let Some(Stored { mut object, .. }) = removed {
            store.version += 1;
            let version = store.version;
            object["metadata"]["resourceVersion"] = version.to_string().into();
            let event = Event { collection: collection.to_owned(), version, kind: "DELETED", object };
            self.publish(&mut store, event);
        }
    }

    /// All objects of a collection, of whichever namespace.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        let store = self.store.lock();
        let items = store.objects.get(collection).into_iter().flat_map(BTreeMap::values);
        items.map(|stored| stored.object.clone()).collect()
    }

    /// Reads an object.
    pub fn get(&self, collection: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        let store = self.store.lock();
        Some(store.objects.get(collection)?.get(&key(namespace, name))?.object.clone())
    }

    /// Says which file holds a Pod's log.
    pub fn log_pod(&self, namespace: &str, name: &str, file: PathBuf) {
        self.outputs.lock().insert(key(Some(namespace), name), file);
    }

    /// The last whole line of a Pod's log.
    fn last_line(&self, target: &Target) -> String {
        let name = key(target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
        let text = self.outputs.lock().get(&name).and_then(|file| std::fs::read_to_string(file).ok());
        let text = text.unwrap_or_default();
        let whole = text.rfind('\n').map(|end| &text[..end]);
        whole.and_then(|whole| whole.lines().last()).unwrap_or_default().to_owned()
    }

    /// Resource version of the latest change.
    pub fn version(&self) -> u64 {
        self.store.lock().version
    }

    /// What a cluster's object was made since `version`, the oldest first.
    pub fn history(&self, collection: &str, name: &str, version: u64) -> Vec<Value> {
        let store = self.store.lock();
        let later = &store.log[store.log.partition_point(|event| event.version <= version)..];
        let of_object =
            |event: &&Arc<Event>| event.collection == collection && event.object["metadata"]["name"] == name;
        later.iter().filter(of_object).map(|event| event.object.clone()).collect()
    }

    fn publish(&self, store: &mut Store, event: Event) {
        store.log.push(Arc::new(event));
        self.length.send_replace(store.log.len());
    }

    /// Serves the objects until what is returned is dropped; then it stops listening and cuts all connections. The
    /// listener must not block.
    pub fn serve(&self, listener: std::net::TcpListener) -> Background {
        let service = TowerToHyperService::new(self.router());
        Background::run(move || async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let service = service.clone();
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that went away is no concern of the server.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        })
    }

    /// The HTTP service.
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    /// All objects, or as many as the request has room for and where the rest begins.
    fn list(&self, target: &Target, uri: &Uri) -> Response {
        let store = self.store.lock();
        let after = query(uri, "continue").filter(|key| !key.is_empty()).map(|key| key.replace("%2F", "/"));
        let room = query(uri, "limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = store
            .objects
            .get(&target.collection)
            .into_iter()
            .flat_map(|items| items.range((begin.clone(), Bound::Unbounded)))
            .filter(|(_, stored)| selected(target, uri, &stored.object))
            .peekable();
        let mut metadata = json!({"resourceVersion": store.version.to_string()});
        let mut items = String::new();
        for (count, (key, stored)) in rest.by_ref().take(room).enumerate() {
            if count > 0 {
                items.push(',');
            }
            items.push_str(&stored.text);
            metadata["continue"] = key.clone().into();
        }
        if rest.peek().is_none() {
            metadata["continue"] = "".into();
        }
        // Clients of Go take in a list of their objects' own kind only.
        let kinds = store.objects.get(&target.collection).and_then(|items| items.values().next());
        let of = |field: &str| kinds.and_then(|stored| stored.object[field].as_str());
        let (kind, version) = match (of("kind"), of("apiVersion")) {
            (Some(kind), Some(version)) => (format!("{kind}List"), version),
            _ => ("List".to_owned(), "v1"),
        };
        let text = format!(
            r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":[{items}]}}"#
        );
        ([("content-type", "application/json")], text).into_response()
    }

    fn watch(&self, target: Target, uri: Uri) -> Response {
        let since: u64 = query(&uri, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let (api, length) = (self.clone(), self.length.subscribe());
        let start = self.store.lock().log.partition_point(|event| event.version <= since);
        let lines = futures::stream::unfold((start, length), move |(mut next, mut length)| {
            let (api, target, uri) = (api.clone(), target.clone(), uri.clone());
            async move {
                loop {
                    let events: Vec<_> = api.store.lock().log.get(next..).unwrap_or_default().to_vec();
                    next += events.len();
                    // The type first, as the real server writes it.
                    let lines: String = events
                        .iter()
                        .filter(|event| {
                            event.collection == target.collection && selected(&target, &uri, &event.object)
                        })
                        .map(|event| format!("{{\"type\":\"{}\",\"object\":{}}}\n", event.kind, event.object))
                        .collect();
                    if !lines.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(lines)), (next, length)));
                    }
                    length.wait_for(|length| *length > next).await.ok()?;
                }
            }
        });
        ([("content-type", "application/json")], Body::from_stream(lines)).into_response()
    }
}

fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|p| p.1)
}

fn selected(target: &Target, uri: &Uri, object: &Value) -> bool {
    if target.namespace.is_some() && object["metadata"]["namespace"].as_str() != target.namespace.as_deref() {
        return false;
    }
    let labels = &object["metadata"]["labels"];
    let terms = |name: &str, holds: &dyn Fn(&str, &str) -> bool| {
        let Some(selector) = query(uri, name) else { return true };
        let selector =
            selector.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/").replace("%21", "!");
        selector.split(',').all(|term| match term.split_once('=') {
            Some((key, value)) => holds(key, value.trim_start_matches('=')),
            // Of labels: whether there is one.
            None => match term.strip_prefix('!') {
                Some(key) => labels.get(key).is_none(),
                None => labels.get(term).is_some(),
            },
        })
    };
    let field = |path: &str, value: &str| {
        object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str) == Some(value)
    };
    let label = |key: &str, value: &str| labels[key].as_str() == Some(value);
    terms("fieldSelector", &field) && terms("labelSelector", &label)
}

fn failure(code: StatusCode, reason: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16(),
    });
    (code, axum::Json(status)).into_response()
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

async fn handle(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(target) = Target::parse(parts.uri.path()) else {
        return failure(StatusCode::NOT_FOUND, "NotFound");
    };
    if parts.method == Method::GET && target.name.is_none() {
        let watching = query(&parts.uri, "watch").is_some_and(|value| value == "true" || value == "1");
        return if watching { api.watch(target, parts.uri) } else { api.list(&target, &parts.uri) };
    }
    if parts.method == Method::GET && target.collection == "api/v1/pods" && parts.uri.path().ends_with("/log")
    {
        return api.last_line(&target).into_response();
    }
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else {
        return failure(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge");
    };
    let existing =
        api.get(&target.collection, target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    let sent = serde_json::from_slice::<Value>(&body);
    match (parts.method, existing, sent) {
        (Method::GET, Some(object), _) => axum::Json(object).into_response(),
        (Method::DELETE, Some(object), _) => {
            let name = target.name.clone().unwrap_or_default();
            api.delete(&target.collection, target.namespace.as_deref(), &name);
            axum::Json(object).into_response()
        }
        (Method::POST, _, Ok(object)) if parts.uri.path().ends_with("/token") => {
            (StatusCode::CREATED, axum::Json(reviews::issue(object, &target))).into_response()
        }
        (Method::POST, _, Ok(object)) if target.collection.ends_with("reviews") => {
            (StatusCode::CREATED, axum::Json(reviews::review(object))).into_response()
        }
        (Method::POST, _, Ok(mut object)) => {
            if let Some(namespace) = &target.namespace {
                object["metadata"]["namespace"] = namespace.clone().into();
            }
            let generated = object["metadata"]["generateName"].as_str();
            let generated = generated.map(|start| format!("{start}{}", api.version()));
            if object["metadata"]["name"].is_null()
                && let Some(name) = generated
            {
                object["metadata"]["name"] = name.into();
            }
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if api.get(&target.collection, target.namespace.as_deref(), &name).is_some() {
                return failure(StatusCode::CONFLICT, "AlreadyExists");
            }
            api.put(&target.collection, object.clone());
            (StatusCode::CREATED, axum::Json(object)).into_response()
        }
        (Method::PUT, Some(existing), Ok(object)) => {
            // Whoever says which version it has read is told when there is a newer one.
            let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            if version(&object).is_some_and(|read| Some(read) != version(&existing)) {
                return failure(StatusCode::CONFLICT, "Conflict");
            }
            api.put(&target.collection, object);
            let name = target.name.as_deref().unwrap_or_default();
            axum::Json(api.get(&target.collection, target.namespace.as_deref(), name)).into_response()
        }
        (Method::PATCH, existing, Ok(patch)) => {
            let apply = parts
                .headers
                .get("content-type")
                .is_some_and(|v| v.as_bytes().starts_with(b"application/apply"));
            // A part comes with nothing that could make an object.
            let made = || (apply && !target.is_part).then(|| json!({}));
            let Some(mut object) = existing.or_else(made) else {
                return failure(StatusCode::NOT_FOUND, "NotFound");
            };
            merge(&mut object, &patch);
            FakeApi::encode_string_data(&mut object);
            object["metadata"]["name"] = target.name.clone().into();
            if let Some(namespace) = &target.namespace {
                object["metadata"]["namespace"] = namespace.clone().into();
            }
            api.put(&target.collection, object.clone());
            axum::Json(object).into_response()
        }
        (_, None, _) => failure(StatusCode::NOT_FOUND, "NotFound"),
        _ => failure(StatusCode::BAD_REQUEST, "BadRequest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_in_pages() {
        let api = FakeApi::default();
        for name in ["a", "b", "c"] {
            api.put("api/v1/pods", json!({"metadata": {"name": name, "namespace": "n"}}));
        }
        let target = Target::parse("/api/v1/pods").unwrap();
        let (mut names, mut next, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let uri: Uri =
                format!("/api/v1/pods?limit=2&continue={}", next.replace('/', "%2F")).parse().unwrap();
            let body = axum::body::to_bytes(api.list(&target, &uri).into_body(), 1 << 20).await.unwrap();
            let list: Value = serde_json::from_slice(&body).unwrap();
            let items = list["items"].as_array().unwrap();
            names.extend(items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
            pages += 1;
            next = list["metadata"]["continue"].as_str().unwrap().to_owned();
            if next.is_empty() {
                break;
            }
        }
        assert_eq!((names, pages), (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 2));
    }

    #[test]
    fn takes_string_data_in() {
        let mut secret = json!({"kind": "Secret", "stringData": {"a": "text"}});
        FakeApi::encode_string_data(&mut secret);
        assert_eq!(secret, json!({"kind": "Secret", "data": {"a": "dGV4dA=="}}));
    }

    #[test]
    fn reads_request_paths() {
        let parse = |path| Target::parse(path).unwrap();
        assert_eq!(parse("/api/v1/nodes").collection, "api/v1/nodes");
        let target = parse("/apis/crd.antrea.io/v1beta1/antreaagentinfos/node1");
        assert_eq!(target.name.as_deref(), Some("node1"));
        let target = parse("/api/v1/namespaces/kube-system/pods/a/status");
        assert_eq!(target.collection, "api/v1/pods");
        assert_eq!((target.namespace.as_deref(), target.name.as_deref()), (Some("kube-system"), Some("a")));
        assert!(target.is_part && !parse("/api/v1/namespaces/kube-system/pods/a").is_part);
        assert_eq!(parse("/api/v1/namespaces/default").name.as_deref(), Some("default"));
        assert_eq!(Target::parse("/healthz"), None);
    }

    #[test]
    fn merges_as_rfc_7386_says() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut target, &json!({"a": {"b": null, "e": {"f": 3}}, "d": [2]}));
        assert_eq!(target, json!({"a": {"c": 2, "e": {"f": 3}}, "d": [2]}));
    }
}
