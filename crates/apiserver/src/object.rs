//! Objects and watch events as the server handles them: of any type, encoded when first needed.

use std::sync::{Arc, OnceLock};

use antrea_api::k8s::{self, Cell, EventType, ListMeta, ObjectMeta, frame};
use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde_json::{Value, json};

/// An object of any resource.
pub trait Object: Send + Sync + 'static {
    /// By it the object is named, filtered and ordered.
    fn metadata(&self) -> &ObjectMeta;
    /// Group/version and kind.
    fn type_meta(&self) -> (&'static str, &'static str);
    /// The whole object in JSON.
    fn json(&self) -> serde_json::Result<Value>;
    /// The message in protobuf without envelope.
    fn protobuf(&self) -> Vec<u8>;
    /// The message in its protobuf envelope.
    fn sealed(&self) -> Vec<u8>;
    /// Octets of [`Object::protobuf`].
    fn size(&self) -> usize;
    /// Cells of a table row after the name.
    fn cells(&self) -> Vec<Cell>;
}

impl<T: k8s::Resource + Send + Sync + 'static> Object for T {
    fn metadata(&self) -> &ObjectMeta {
        k8s::Resource::metadata(self)
    }

    fn type_meta(&self) -> (&'static str, &'static str) {
        (T::API_VERSION, T::KIND)
    }

    fn json(&self) -> serde_json::Result<Value> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed<'a, T> {
            kind: &'a str,
            api_version: &'a str,
            #[serde(flatten)]
            object: &'a T,
        }
        serde_json::to_value(Typed { kind: T::KIND, api_version: T::API_VERSION, object: self })
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn sealed(&self) -> Vec<u8> {
        self.seal()
    }

    fn size(&self) -> usize {
        self.encoded_len()
    }

    fn cells(&self) -> Vec<Cell> {
        k8s::Resource::cells(self)
    }
}

/// An object that there is in JSON only; its storage says so ([`crate::storage::Storage::has_protobuf`]).
pub struct Document {
    pub metadata: ObjectMeta,
    pub api_version: &'static str,
    pub kind: &'static str,
    /// The whole object but for the two above.
    pub body: Value,
    /// See [`Object::cells`].
    pub cells: Vec<Cell>,
}

impl Object for Document {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn type_meta(&self) -> (&'static str, &'static str) {
        (self.api_version, self.kind)
    }

    fn json(&self) -> serde_json::Result<Value> {
        let mut json = self.body.clone();
        json["apiVersion"] = self.api_version.into();
        json["kind"] = self.kind.into();
        Ok(json)
    }

    fn protobuf(&self) -> Vec<u8> {
        Vec::new()
    }

    fn sealed(&self) -> Vec<u8> {
        Vec::new()
    }

    fn size(&self) -> usize {
        0
    }

    fn cells(&self) -> Vec<Cell> {
        self.cells.clone()
    }
}

/// A column of a resource's table, after the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string` or `integer`.
    #[serde(rename = "type")]
    pub type_: &'static str,
    /// Always empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0, or 1 for `-o wide` only.
    pub priority: u8,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, type_: &'static str, description: &'static str) -> Self {
        Self { name, type_, format: "", description, priority: 0 }
    }
}

/// What a client wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    /// Kubernetes protobuf.
    Protobuf,
    /// JSON of `meta.k8s.io/v1 Table`.
    Table,
}

impl Encoding {
    /// The first entry of an `Accept` header that can be served; JSON if there is no header. `protobuf` says whether there
    /// is a form in it.
    pub fn negotiate(accept: Option<&str>, protobuf: bool) -> Option<Self> {
        let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Some(Self::Json) };
        accept.split(',').find_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let media = parts.next()?.to_ascii_lowercase();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let get = |key: &str| parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
            if get("q").and_then(|q| q.parse::<f32>().ok()) == Some(0.0) {
                return None;
            }
            match (media.as_str(), get("as")) {
                ("application/json" | "application/*" | "*/*", None) => Some(Self::Json),
                ("application/json", Some("Table"))
                    if get("g") == Some("meta.k8s.io") && matches!(get("v"), Some("v1" | "v1beta1")) =>
                {
                    Some(Self::Table)
                }
                (k8s::PROTOBUF, None) if protobuf => Some(Self::Protobuf),
                _ => None,
            }
        })
    }

    /// Content type of an object.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Table => "application/json",
            Self::Protobuf => k8s::PROTOBUF,
        }
    }

    /// Content type of a watch.
    pub fn stream_type(self) -> &'static str {
        match self {
            Self::Json | Self::Table => "application/json;stream=watch",
            Self::Protobuf => k8s::PROTOBUF_WATCH,
        }
    }
}

/// A watch event, encoded once per encoding however many watchers get it.
pub struct Item {
    kind: EventType,
    object: Arc<dyn Object>,
    columns: &'static [Column],
    size: OnceLock<usize>,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
    table: OnceLock<Bytes>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.kind.as_str(), self.object.type_meta().1, self.object.metadata().name)
    }
}

impl Item {
    /// An event about `object` of a resource with these columns.
    pub fn new(kind: EventType, object: impl Object, columns: &'static [Column]) -> Arc<Self> {
        Self::shared(kind, Arc::new(object), columns)
    }

    /// An event about an object that is shared already.
    pub fn shared(kind: EventType, object: Arc<dyn Object>, columns: &'static [Column]) -> Arc<Self> {
        let (json, protobuf, table) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Arc::new(Self { kind, object, columns, size: OnceLock::new(), json, protobuf, table })
    }

    /// What happened.
    pub fn kind(&self) -> EventType {
        self.kind
    }

    pub fn object(&self) -> &Arc<dyn Object> {
        &self.object
    }

    /// Octets of the object's protobuf.
    pub(crate) fn size(&self) -> usize {
        *self.size.get_or_init(|| self.object.size())
    }

    /// The event as it goes into a watch stream.
    pub fn bytes(&self, encoding: Encoding) -> Bytes {
        match encoding {
            Encoding::Protobuf => self.protobuf.get_or_init(|| frame(self.kind, &self.object.sealed())),
            Encoding::Json => self.json.get_or_init(|| self.line(self.object.json())),
            Encoding::Table => self.table.get_or_init(|| {
                let object: &dyn Object = &*self.object;
                self.line(table("", self.columns, std::iter::once(object), Include::Metadata))
            }),
        }
        .clone()
    }

    fn line(&self, object: serde_json::Result<Value>) -> Bytes {
        let event = match object {
            Ok(object) => json!({ "type": self.kind.as_str(), "object": object }),
            Err(error) => {
                let failure = crate::status::Failure::internal(error);
                json!({ "type": EventType::Error.as_str(), "object": failure.json() })
            }
        };
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        line.into()
    }
}

/// How much of an object a table row carries (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Metadata only.
    Metadata,
    /// All of it.
    Object,
}

/// A `meta.k8s.io/v1 Table`.
pub(crate) fn table<'a>(
    resource_version: &str,
    columns: &[Column],
    objects: impl Iterator<Item = &'a dyn Object>,
    include: Include,
) -> serde_json::Result<Value> {
    let name = Column { format: "name", ..Column::new("Name", "string", "Name of the object.") };
    let headings: Vec<_> = std::iter::once(&name).chain(columns).collect();
    let rows = objects
        .map(|object| {
            let meta = object.metadata();
            let mut cells = vec![Value::from(meta.name.clone())];
            cells.extend(object.cells().iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
            // Patches and bookmarks have no cells of their own.
            cells.resize(headings.len(), Value::Null);
            let mut row = json!({ "cells": cells });
            match include {
                Include::None => {}
                Include::Metadata => {
                    row["object"] = json!({
                        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                    });
                }
                Include::Object => row["object"] = object.json()?,
            }
            Ok(row)
        })
        .collect::<serde_json::Result<Vec<_>>>()?;
    Ok(json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "resourceVersion": resource_version },
        "columnDefinitions": headings, "rows": rows,
    }))
}

/// A list in JSON. Items carry no type, as in every Kubernetes list.
pub(crate) fn json_list(
    api_version: &str,
    kind: &str,
    resource_version: &str,
    objects: &[Arc<dyn Object>],
) -> serde_json::Result<Value> {
    let items = objects
        .iter()
        .map(|object| {
            let mut value = object.json()?;
            if let Value::Object(map) = &mut value {
                map.remove("kind");
                map.remove("apiVersion");
            }
            Ok(value)
        })
        .collect::<serde_json::Result<Vec<_>>>()?;
    Ok(json!({
        "kind": format!("{kind}List"), "apiVersion": api_version,
        "metadata": { "resourceVersion": resource_version }, "items": items,
    }))
}

/// A list in protobuf: `metadata` 1, `items` 2, in its envelope.
pub(crate) fn protobuf_list(
    api_version: &str,
    kind: &str,
    resource_version: &str,
    objects: &[Arc<dyn Object>],
) -> Vec<u8> {
    #[derive(Clone, PartialEq, Message)]
    struct List {
        #[prost(message, required, tag = "1")]
        metadata: ListMeta,
        #[prost(bytes = "bytes", repeated, tag = "2")]
        items: Vec<Bytes>,
    }
    let list = List {
        metadata: ListMeta { resource_version: resource_version.to_owned(), ..ListMeta::default() },
        items: objects.iter().map(|object| Bytes::from(object.protobuf())).collect(),
    };
    k8s::seal(api_version, &format!("{kind}List"), &list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiates_what_kubectl_and_agents_send() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Encoding::negotiate(Some(table), true), Some(Encoding::Table));
        let agent = "application/vnd.kubernetes.protobuf, application/json";
        assert_eq!(Encoding::negotiate(Some(agent), true), Some(Encoding::Protobuf));
        assert_eq!(
            Encoding::negotiate(Some("application/vnd.kubernetes.protobuf,*/*"), false),
            Some(Encoding::Json)
        );
        assert_eq!(Encoding::negotiate(Some(k8s::PROTOBUF), false), None);
        assert_eq!(
            Encoding::negotiate(
                Some("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,*/*"),
                true
            ),
            Some(Encoding::Json)
        );
        assert_eq!(Encoding::negotiate(Some("application/json;q=0"), true), None);
        assert_eq!(Encoding::negotiate(Some("text/html"), true), None);
        assert_eq!(Encoding::negotiate(None, true), Some(Encoding::Json));
        assert_eq!(Encoding::negotiate(Some(""), true), Some(Encoding::Json));
    }
}
