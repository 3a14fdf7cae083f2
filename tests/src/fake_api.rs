//! A Kubernetes API server reduced to storage and watches, for suites that need objects to appear and
//! change but no cluster. It checks nothing: authentication, schemas and admission are the real one's.
//!
//! Resources are addressed by their collection path, e.g. `api/v1/nodes` or
//! `apis/crd.antrea.io/v1beta1/antreaagentinfos`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

#[derive(Clone, Debug)]
struct Event {
    collection: String,
    version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    kind: &'static str,
    object: Value,
}

#[derive(Debug, Default)]
struct Store {
    version: u64,
    /// Collection path → `namespace/name` → object.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    log: Vec<Event>,
}

/// The server's objects; clones share them.
#[derive(Clone, Debug)]
pub struct FakeApi {
    store: Arc<Mutex<Store>>,
    events: broadcast::Sender<Event>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self { store: Arc::default(), events: broadcast::channel(4096).0 }
    }
}

/// `collection`, `namespace`, `name` of a request path.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
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
        })
    }

    fn key(&self) -> String {
        key(self.namespace.as_deref(), self.name.as_deref().unwrap_or_default())
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
            object["metadata"]["uid"] = format!("uid-{collection}-{key}").into();
        }
        let kind = if items.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.publish(&mut store, Event { collection: collection.to_owned(), version, kind, object });
    }

    /// Deletes an object; absent is no error.
    pub fn delete(&self, collection: &str, namespace: Option<&str>, name: &str) {
        let mut store = self.store.lock();
        let removed = store.objects.get_mut(collection).and_then(|items| items.remove(&key(namespace, name)));
        if let Some(mut object) = removed {
            store.version += 1;
            let version = store.version;
            object["metadata"]["resourceVersion"] = version.to_string().into();
            let event = Event { collection: collection.to_owned(), version, kind: "DELETED", object };
            self.publish(&mut store, event);
        }
    }

    /// Reads an object.
    pub fn get(&self, collection: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.store.lock().objects.get(collection)?.get(&key(namespace, name)).cloned()
    }

    fn publish(&self, store: &mut Store, event: Event) {
        store.log.push(event.clone());
        // No watcher is no error.
        let _ = self.events.send(event);
    }

    /// The HTTP service.
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    fn list(&self, target: &Target, uri: &Uri) -> Value {
        let store = self.store.lock();
        let items: Vec<Value> = store
            .objects
            .get(&target.collection)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|object| selected(target, uri, object))
            .cloned()
            .collect();
        json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": store.version.to_string()}, "items": items,
        })
    }

    fn watch(&self, target: Target, uri: Uri) -> Response {
        let since: u64 = query(&uri, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        // Subscribe before reading the log, so that no event falls between; the version drops repeats.
        let live = BroadcastStream::new(self.events.subscribe()).filter_map(Result::ok);
        let past = self.store.lock().log.clone();
        let mut last = since;
        let lines = tokio_stream::iter(past).chain(live).filter_map(move |event| {
            if event.version <= last || event.collection != target.collection {
                return None;
            }
            last = event.version;
            selected(&target, &uri, &event.object).then(|| {
                let line = json!({"type": event.kind, "object": event.object});
                Ok::<_, Infallible>(Bytes::from(format!("{line}\n")))
            })
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
    let Some(selector) = query(uri, "fieldSelector") else { return true };
    let selector = selector.replace("%3D", "=").replace("%2C", ",");
    selector.split(',').all(|term| match term.split_once('=') {
        Some((path, value)) => {
            let pointer = format!("/{}", path.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value.trim_start_matches('='))
        }
        None => false,
    })
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
        return if watching {
            api.watch(target, parts.uri)
        } else {
            axum::Json(api.list(&target, &parts.uri)).into_response()
        };
    }
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else {
        return failure(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge");
    };
    let existing =
        api.store.lock().objects.get(&target.collection).and_then(|o| o.get(&target.key())).cloned();
    let sent = serde_json::from_slice::<Value>(&body);
    match (parts.method, existing, sent) {
        (Method::GET, Some(object), _) => axum::Json(object).into_response(),
        (Method::DELETE, Some(object), _) => {
            let name = target.name.clone().unwrap_or_default();
            api.delete(&target.collection, target.namespace.as_deref(), &name);
            axum::Json(object).into_response()
        }
        (Method::POST, _, Ok(mut object)) => {
            if let Some(namespace) = &target.namespace {
                object["metadata"]["namespace"] = namespace.clone().into();
            }
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if api.get(&target.collection, target.namespace.as_deref(), &name).is_some() {
                return failure(StatusCode::CONFLICT, "AlreadyExists");
            }
            api.put(&target.collection, object.clone());
            (StatusCode::CREATED, axum::Json(object)).into_response()
        }
        (Method::PUT, Some(_), Ok(object)) => {
            api.put(&target.collection, object.clone());
            axum::Json(object).into_response()
        }
        (Method::PATCH, existing, Ok(patch)) => {
            let apply = parts
                .headers
                .get("content-type")
                .is_some_and(|v| v.as_bytes().starts_with(b"application/apply"));
            let Some(mut object) = existing.or_else(|| apply.then(|| json!({}))) else {
                return failure(StatusCode::NOT_FOUND, "NotFound");
            };
            merge(&mut object, &patch);
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

    #[test]
    fn reads_request_paths() {
        let parse = |path| Target::parse(path).unwrap();
        assert_eq!(parse("/api/v1/nodes").collection, "api/v1/nodes");
        let target = parse("/apis/crd.antrea.io/v1beta1/antreaagentinfos/node1");
        assert_eq!(target.name.as_deref(), Some("node1"));
        let target = parse("/api/v1/namespaces/kube-system/pods/a/status");
        assert_eq!(target.collection, "api/v1/pods");
        assert_eq!((target.namespace.as_deref(), target.name.as_deref()), (Some("kube-system"), Some("a")));
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
