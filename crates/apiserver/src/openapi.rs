//! OpenAPI documents: enough for the aggregator to merge and for `kubectl explain` to find the kinds.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::storage::Resource;

/// Name of a kind's schema: the group reversed, as in `io.antrea.controlplane.v1beta2.AddressGroup`.
fn schema_name(resource: &Resource, kind: &str) -> String {
    let mut labels: Vec<_> = resource.group.split('.').collect();
    labels.reverse();
    format!("{}.{}.{kind}", labels.join("."), resource.version)
}

fn schema(resource: &Resource, kind: &str) -> Value {
    json!({
        "type": "object",
        "description": if kind == resource.kind { resource.description } else { "" },
        "properties": {
            "apiVersion": { "type": "string", "description": "Group and version of the object." },
            "kind": { "type": "string", "description": "Kind of the object." },
            "metadata": { "type": "object", "description": "Standard object metadata." },
        },
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind":
            [{ "group": resource.group, "version": resource.version, "kind": kind }],
    })
}

fn list_schema(resource: &Resource, reference: &str) -> Value {
    let mut schema = schema(resource, &format!("{}List", resource.kind));
    schema["properties"]["items"] = json!({ "type": "array", "items": { "$ref": reference } });
    schema["required"] = json!(["items"]);
    schema
}

/// Path, method, action and kind of every operation of a resource.
fn operations(resource: &Resource) -> Vec<(String, &'static str, &'static str, String)> {
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let base = format!("/apis/{}{scope}/{}", resource.api_version, resource.plural);
    let has = |verb: &str| resource.verbs.contains(&verb);
    let mut found = Vec::new();
    if has("list") {
        found.push((base.clone(), "get", "list", format!("{}List", resource.kind)));
    }
    if has("create") {
        found.push((base.clone(), "post", "post", resource.kind.to_owned()));
    }
    if has("get") {
        found.push((format!("{base}/{{name}}"), "get", "get", resource.kind.to_owned()));
    }
    for (name, kind, verbs) in resource.subresources {
        if verbs.contains(&"create") {
            found.push((format!("{base}/{{name}}/{name}"), "post", "post", (*kind).to_owned()));
        }
    }
    found
}

/// Schemas of all kinds, with references that start with `prefix`.
fn schemas<'a>(resources: impl Iterator<Item = &'a Resource>, prefix: &str) -> Map<String, Value> {
    let mut schemas = Map::new();
    for resource in resources {
        let name = schema_name(resource, resource.kind);
        if resource.verbs.contains(&"list") {
            let list = list_schema(resource, &format!("{prefix}{name}"));
            schemas.insert(schema_name(resource, &format!("{}List", resource.kind)), list);
        }
        for (_, kind, _) in resource.subresources {
            schemas.insert(schema_name(resource, kind), schema(resource, kind));
        }
        schemas.insert(name, schema(resource, resource.kind));
    }
    schemas
}

fn operation_id(resource: &Resource, action: &str, path: &str, kind: &str) -> String {
    let status = if path.ends_with("}/status") { "Status" } else { "" };
    format!("{action}{}{kind}{status}", schema_name(resource, "").replace('.', "_"))
}

/// `/openapi/v2`.
pub(crate) fn v2(resources: &[Resource]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        for (path, method, action, kind) in operations(resource) {
            let reference = format!("#/definitions/{}", schema_name(resource, &kind));
            let mut parameters = vec![];
            for name in ["namespace", "name"] {
                if path.contains(&format!("{{{name}}}")) {
                    parameters.push(json!({ "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true }));
                }
            }
            if method == "post" {
                parameters.push(json!({ "name": "body", "in": "body", "required": true, "schema": { "$ref": reference } }));
            }
            let operation = json!({
                "operationId": operation_id(resource, action, &path, &kind),
                "consumes": ["application/json", "application/vnd.kubernetes.protobuf"],
                "produces": ["application/json", "application/vnd.kubernetes.protobuf"],
                "schemes": ["https"],
                "parameters": parameters,
                "responses": { "200": { "description": "OK", "schema": { "$ref": reference } } },
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind":
                    { "group": resource.group, "version": resource.version, "kind": resource.kind },
            });
            paths.entry(path).or_insert_with(|| json!({}))[method] = operation;
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Antrea", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "definitions": schemas(resources.iter(), "#/definitions/"),
    })
}

/// `/openapi/v3/apis/{group}/{version}`.
pub(crate) fn v3(resources: &[Resource], group: &str, version: &str) -> Option<Value> {
    let of_version = || resources.iter().filter(|r| r.group == group && r.version == version);
    of_version().next()?;
    let mut paths = Map::new();
    for resource in of_version() {
        for (path, method, action, kind) in operations(resource) {
            let content = json!({
                "application/json":
                    { "schema": { "$ref": format!("#/components/schemas/{}", schema_name(resource, &kind)) } }
            });
            let parameters: Vec<_> = ["namespace", "name"]
                .iter()
                .filter(|name| path.contains(&format!("{{{name}}}")))
                .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
                .collect();
            let mut operation = json!({
                "operationId": operation_id(resource, action, &path, &kind),
                "parameters": parameters,
                "responses": { "200": { "description": "OK", "content": content } },
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind":
                    { "group": resource.group, "version": resource.version, "kind": resource.kind },
            });
            if method == "post" {
                operation["requestBody"] = json!({ "content": content, "required": true });
            }
            paths.entry(path).or_insert_with(|| json!({}))[method] = operation;
        }
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Antrea", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas(of_version(), "#/components/schemas/") },
    }))
}

/// `/openapi/v3`: where the documents are, with a hash that changes with their content.
pub(crate) fn v3_index(resources: &[Resource]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        let path = format!("apis/{}", resource.api_version);
        if paths.contains_key(&path) {
            continue;
        }
        let document = v3(resources, resource.group, resource.version).unwrap_or_default().to_string();
        let hash: String =
            Sha256::digest(document.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect();
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCE: Resource = Resource {
        group: "g.example.io",
        version: "v1",
        api_version: "g.example.io/v1",
        plural: "things",
        singular: "thing",
        kind: "Thing",
        description: "A thing.",
        namespaced: false,
        short_names: &["th"],
        verbs: &["get", "list", "watch"],
        columns: &[],
        fields: &[],
        subresources: &[("status", "ThingStatus", &["create"])],
    };

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key == "$ref" => found.push(text),
                        other => references(other, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_resolves_and_operation_ids_are_unique() {
        let v3 = v3(&[RESOURCE], "g.example.io", "v1").unwrap();
        for document in [v2(&[RESOURCE]), v3] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() >= 4);
            for reference in found {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            let mut ids: Vec<_> = document["paths"]
                .as_object()
                .unwrap()
                .values()
                .flat_map(|path| path.as_object().unwrap().values())
                .map(|operation| operation["operationId"].as_str().unwrap())
                .collect();
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!((count, ids.len()), (3, 3));
        }
    }

    #[test]
    fn the_index_hash_follows_the_content() {
        let url = |r: &[Resource]| v3_index(r)["paths"]["apis/g.example.io/v1"]["serverRelativeURL"].clone();
        let before = url(&[RESOURCE]);
        assert!(before.as_str().unwrap().starts_with("/openapi/v3/apis/g.example.io/v1?hash="));
        assert_ne!(before, url(&[Resource { description: "Another.", ..RESOURCE }]));
    }
}
