//! An API server for tests that answers by path as it is told and keeps what was asked of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use antrea_crds::AntreaInstallation;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};

use super::{Context, Settings};
use crate::{effective::Facts, metrics, render::Delivery, watches::Shared};

/// How the API server of a test answers a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Success, with this body.
    Ok(Value),
    /// A failure with a code and a message.
    Fail(u16, &'static str),
}

/// The server. What nobody told it about is not found; it serves no API group but those that it is told.
#[derive(Clone, Default)]
pub(crate) struct Kube(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: BTreeMap<String, Answer>,
    requests: Vec<(String, String, Value)>,
}

impl Kube {
    /// Says what is answered from now on to requests for `path`: whatever their method, or as "METHOD path" to those
    /// of one.
    pub(crate) fn on(&self, path: &str, answer: Answer) {
        self.0.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    /// What was asked of it that would change something, as "METHOD path", with the bodies; dry runs as
    /// "METHOD path (dry)".
    pub(crate) fn written(&self) -> Vec<(String, Value)> {
        let script = self.0.lock().unwrap();
        let writes = script.requests.iter().filter(|(method, ..)| method != "GET");
        writes
            .map(|(method, uri, body)| {
                let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
                let dry = if query.contains("dryRun=All") { " (dry)" } else { "" };
                (format!("{method} {path}{dry}"), body.clone())
            })
            .collect()
    }

    /// A client of this API server, without a network between them.
    pub(crate) fn client(&self) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }
}

async fn answer(State(kube): State<Kube>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut script = kube.0.lock().unwrap();
    script.requests.push((parts.method.to_string(), parts.uri.to_string(), body));
    let path = parts.uri.path();
    let exact = script.answers.get(&format!("{} {path}", parts.method));
    let (code, body) = match exact.or_else(|| script.answers.get(path)) {
        Some(Answer::Ok(body)) => (200, body.clone()),
        Some(Answer::Fail(code, message)) => (*code, failure(*code, message)),
        None if path == "/apis" => (200, json!({"kind": "APIGroupList", "groups": []})),
        None => (404, failure(404, "not found")),
    };
    Response::builder().status(code).body(Body::from(body.to_string())).unwrap()
}

fn failure(code: u16, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "reason": if code == 404 { "NotFound" } else { "Invalid" }, "message": message,
    })
}

/// A reconciler against `kube` that has seen nothing yet.
pub(crate) fn context(kube: &Kube) -> Context {
    let settings = Settings {
        facts: Facts { default_version: "v1.0.0".into(), ..Facts::default() },
        delivery: Delivery::Manifests,
        operator_version: "v1.0.0".into(),
        grace: SignedDuration::from_secs(30),
    };
    let metrics = metrics::register().unwrap().operator;
    Context::new(kube.client(), Shared::new(Timestamp::now()), settings, metrics, "test")
}

/// An AntreaInstallation with that spec.
pub(crate) fn installation(spec: Value) -> AntreaInstallation {
    let object = json!({
        "apiVersion": "operator.antrea.io/v1alpha1", "kind": "AntreaInstallation",
        "metadata": {"name": "default", "uid": "1", "generation": 1}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}
