use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::Method,
    response::Response,
};
use serde_json::json;

use super::*;
use crate::object::{CONFIG_MAP, CRD, SERVICE};

/// An API server that stores objects by path, merges what is applied, and keeps managedFields only as far
/// as the tests write them.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// "PATCH", "PATCH dry", "GET" …, with the last part of the path.
    requests: Vec<String>,
    refuse: Option<&'static str>,
}

const MAP: &str = "/api/v1/namespaces/kube-system/configmaps/antrea-config";

impl Server {
    fn applier(&self) -> Applier {
        Applier::new(Client::new(Router::new().fallback(answer).with_state(self.clone()), "default"))
    }

    /// Somebody else changes an object.
    fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let mut stored = self.0.lock().unwrap();
        stored.version += 1;
        let version = stored.version.to_string();
        let object = stored.objects.get_mut(path).unwrap();
        edit(object);
        object["metadata"]["resourceVersion"] = version.into();
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    /// What the watches would know.
    fn owned(&self) -> BTreeMap<Key, String> {
        let stored = self.0.lock().unwrap();
        let entry = |object: &Value| {
            let kind = object::kind(object["kind"].as_str().unwrap()).unwrap();
            let key = Key {
                kind: kind.kind,
                namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
                name: object["metadata"]["name"].as_str().unwrap().to_owned(),
            };
            let metadata = serde_json::from_value(object["metadata"].clone()).unwrap();
            (key, fingerprint(&metadata))
        };
        stored.objects.values().map(entry).collect()
    }
}

fn respond(code: u16, value: &Value) -> Response {
    Response::builder().status(code).body(Body::from(value.to_string())).unwrap()
}

fn failure(code: u16, message: &str) -> Response {
    respond(
        code,
        &json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": if code == 404 { "NotFound" } else { "Invalid" }, "message": message}),
    )
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().to_owned();
    let dry = parts.uri.query().is_some_and(|query| query.contains("dryRun=All"));
    let mut stored = server.0.lock().unwrap();
    let name = path.rsplit('/').next().unwrap();
    stored.requests.push(format!("{}{} {name}", parts.method, if dry { " dry" } else { "" }));
    if let Some(message) = stored.refuse {
        return failure(422, message);
    }
    match parts.method {
        Method::GET => {
            stored.objects.get(&path).map_or_else(|| failure(404, "not found"), |object| respond(200, object))
        }
        Method::DELETE => match stored.objects.remove(&path) {
            Some(object) => respond(200, &object),
            None => failure(404, "not found"),
        },
        Method::PATCH => {
            let query = parts.uri.query().unwrap_or_default();
            assert!(
                query.contains("fieldManager=antrea-operator") && query.contains("force=true"),
                "{query}"
            );
            assert_eq!(parts.headers["content-type"], "application/apply-patch+yaml");
            let before = stored.objects.get(&path).cloned();
            let mut object = before.clone().unwrap_or(Value::Null);
            merge(&mut object, serde_json::from_slice(&body).unwrap());
            if !dry && before.as_ref() != Some(&object) {
                stored.version += 1;
                object["metadata"]["resourceVersion"] = stored.version.to_string().into();
                stored.objects.insert(path, object.clone());
            }
            respond(200, &object)
        }
        other => failure(405, other.as_str()),
    }
}

fn config(value: &str) -> Object {
    Object::new(&CONFIG_MAP, "antrea-config", "default", json!({"data": {"a": value}})).stamped()
}

/// Compares and applies everything; returns what was put back.
async fn converge(applier: &mut Applier, server: &Server, objects: &[Object]) -> Vec<Repair> {
    let owned = server.owned();
    let mut repairs = Vec::new();
    for planned in applier.compare(objects, &owned, Class::Restart).await.unwrap() {
        repairs.extend(applier.apply(&planned).await.unwrap());
    }
    repairs
}

#[tokio::test]
async fn what_is_applied_is_not_looked_at_again() {
    let server = Server::default();
    let mut applier = server.applier();
    let objects = [config("1")];
    assert!(converge(&mut applier, &server, &objects).await.is_empty());
    assert_eq!(server.requests(), ["GET antrea-config", "PATCH antrea-config"]);
    assert!(converge(&mut applier, &server, &objects).await.is_empty());
    assert!(server.requests().is_empty());
    // A new process has to look, and finds nothing to do.
    assert!(converge(&mut server.applier(), &server, &objects).await.is_empty());
    assert_eq!(server.requests(), ["GET antrea-config", "PATCH dry antrea-config"]);
}

#[tokio::test]
async fn a_field_that_was_changed_is_put_back_and_its_manager_named() {
    let server = Server::default();
    let mut applier = server.applier();
    let objects = [config("1")];
    converge(&mut applier, &server, &objects).await;
    server.edit(MAP, |object| {
        object["data"]["a"] = "2".into();
        object["metadata"]["managedFields"] = json!([
            {"manager": "antrea-operator", "operation": "Apply", "fieldsV1": {"f:data": {}}},
            {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:data": {"f:a": {}}}},
        ]);
    });
    let repairs = converge(&mut applier, &server, &objects).await;
    let notes: Vec<String> = repairs.iter().map(Repair::note).collect();
    assert_eq!(
        notes,
        [
            "ConfigMap kube-system/antrea-config: field data.a was set to \"2\" by kubectl-edit; put back to \"1\""
        ]
    );
    assert_eq!(server.0.lock().unwrap().objects[MAP]["data"]["a"], "1");
    server.requests();
    assert!(converge(&mut applier, &server, &objects).await.is_empty());
    assert!(server.requests().is_empty(), "it is settled");
}

#[tokio::test]
async fn a_change_of_ours_is_no_drift_and_fields_of_others_stay() {
    let server = Server::default();
    let mut applier = server.applier();
    converge(&mut applier, &server, &[config("1")]).await;
    server.edit(MAP, |object| object["data"]["theirs"] = "x".into());
    assert!(converge(&mut applier, &server, &[config("2")]).await.is_empty());
    let data = server.0.lock().unwrap().objects[MAP]["data"].clone();
    assert_eq!(data, json!({"a": "2", "theirs": "x"}));
}

#[tokio::test]
async fn a_deleted_object_is_made_again_and_told() {
    let server = Server::default();
    let mut applier = server.applier();
    let objects = [config("1")];
    converge(&mut applier, &server, &objects).await;
    server.0.lock().unwrap().objects.clear();
    let repairs = converge(&mut applier, &server, &objects).await;
    assert_eq!(repairs[0].note(), "ConfigMap kube-system/antrea-config was deleted; created again");
    assert!(server.0.lock().unwrap().objects.contains_key(MAP));
}

#[tokio::test]
async fn orphans_are_removed_but_no_definitions() {
    let server = Server::default();
    let mut applier = server.applier();
    let service = Object::new(&SERVICE, "old", "default", json!({"spec": {}}));
    let crd = Object::new(&CRD, "olds.crd.antrea.io", "default", json!({"spec": {}}));
    converge(&mut applier, &server, &[config("1"), service, crd]).await;
    converge(&mut applier, &server, &[config("1")]).await;
    let left: Vec<String> = server.0.lock().unwrap().objects.keys().cloned().collect();
    assert_eq!(left, [MAP, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/olds.crd.antrea.io"]);
}

/// What the Kubernetes project defines may be there in a newer form.
#[tokio::test]
async fn a_definition_that_somebody_else_has_brought_stays_as_it_is() {
    const NAME: &str = "clusternetworkpolicies.policy.networking.k8s.io";
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{NAME}");
    let crd = |version: &str| Object::new(&CRD, NAME, "default", json!({"spec": {"versions": [version]}}));
    let server = Server::default();
    let theirs = json!({"kind": CRD.kind, "metadata": {"name": NAME, "resourceVersion": "1"}, "spec": {"versions": ["v1beta1"]}});
    server.0.lock().unwrap().objects.insert(path.clone(), theirs.clone());
    let mut applier = server.applier();
    converge(&mut applier, &server, &[crd("v1alpha2")]).await;
    assert_eq!(server.0.lock().unwrap().objects[&path], theirs);
    // One of ours is kept up to date.
    server.0.lock().unwrap().objects.clear();
    for version in ["v1alpha2", "v1alpha3"] {
        converge(&mut applier, &server, &[crd(version)]).await;
        assert_eq!(server.0.lock().unwrap().objects[&path]["spec"]["versions"], json!([version]));
    }
}

#[tokio::test]
async fn errors_name_the_object_and_the_cause() {
    let server = Server::default();
    server.0.lock().unwrap().refuse = Some("spec.selector: field is immutable");
    let mut applier = server.applier();
    let error = applier.compare(&[config("1")], &BTreeMap::new(), Class::Live).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "get ConfigMap kube-system/antrea-config: spec.selector: field is immutable"
    );
}

#[tokio::test]
async fn an_object_moves_to_another_namespace() {
    let server = Server::default();
    let mut applier = server.applier();
    converge(&mut applier, &server, &[config("1")]).await;
    converge(&mut applier, &server, &[config("1").in_namespace("monitoring")]).await;
    let left: Vec<String> = server.0.lock().unwrap().objects.keys().cloned().collect();
    assert_eq!(left, ["/api/v1/namespaces/monitoring/configmaps/antrea-config"]);
}

/// The whole installation, changed by a level and by a setting that Pods read at start only.
#[tokio::test]
async fn a_log_level_is_a_live_change_of_one_object() {
    let objects = |spec: Value| {
        let spec = serde_json::from_value(spec).unwrap();
        render::render(&spec, &crate::effective::Facts::default()).unwrap()
    };
    let server = Server::default();
    let mut applier = server.applier();
    converge(&mut applier, &server, &objects(json!({}))).await;
    let mut plan = async |spec: Value| {
        let wanted = objects(spec);
        let planned = applier.compare(&wanted, &server.owned(), Class::Restart).await.unwrap();
        let change = |planned: &Planned<'_>| (planned.change.key.to_string(), planned.change.class);
        planned.iter().map(change).collect::<Vec<_>>()
    };
    let map = ("ConfigMap kube-system/antrea-config".to_owned(), Class::Live);
    for spec in [json!({"logLevel": "Debug"}), json!({"agent": {"logLevel": "Trace"}})] {
        assert_eq!(plan(spec).await, std::slice::from_ref(&map));
    }
    let mtu = plan(json!({"mtu": 1400})).await;
    assert_eq!(mtu, [map, ("DaemonSet kube-system/antrea-agent".to_owned(), Class::Restart)]);
}
