//! Kubernetes' own wire forms, as far as our APIs need them: metadata, status, the protobuf envelope and
//! watch frames.
//!
//! Field numbers are those of `k8s.io/apimachinery` `meta/v1/generated.proto`,
//! `runtime/generated.proto` and `util/intstr/generated.proto`. Unknown fields are skipped.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub mod base64;
mod wire;

pub use wire::{
    DecodeError, EventType, FrameDecoder, MAX_FRAME, Object, PROTOBUF, PROTOBUF_WATCH, Unknown, frame, open,
    seal,
};

/// An object with metadata that lists and tables can show.
pub trait Resource: Object + Serialize {
    /// By it the object is named, filtered and ordered.
    fn metadata(&self) -> &ObjectMeta;

    /// Cells of a table row after the name, one for each of the resource's columns.
    fn cells(&self) -> Vec<Cell> {
        Vec::new()
    }
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// Column type `string`.
    Text(String),
    /// Column type `integer`.
    Number(usize),
}

/// Annotation of the bookmark that ends the initial events of a watch.
pub const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Metadata of an object.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name, unique in its scope.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Prefix of a name to be made up.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Namespace, empty for cluster-scoped objects.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Not used any more.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub self_link: String,
    /// Unique in time and space.
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Opaque version.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Counts changes of the desired state.
    #[prost(int64, tag = "7")]
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the object was made.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    #[prost(btree_map = "string, string", tag = "11")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ObjectMeta {
    /// Metadata with nothing but a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Metadata of a bookmark at `resource_version`; `initial` marks the one that ends the initial events.
    pub fn bookmark(resource_version: impl Into<String>, initial: bool) -> Self {
        let end = initial.then(|| (INITIAL_EVENTS_END.to_owned(), "true".to_owned()));
        Self {
            resource_version: resource_version.into(),
            annotations: end.into_iter().collect(),
            ..Self::default()
        }
    }
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Metadata of a list.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// Opaque version of the list.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Token for the next page.
    #[prost(string, tag = "3")]
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_: String,
}

/// A point in time, RFC 3339 in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Time {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds of the second; not kept in JSON.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::from_second(self.seconds).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&time)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Self { seconds: time.as_second(), nanos: 0 })
    }
}

/// The outcome of a request that failed.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Always empty here.
    #[prost(message, required, tag = "1")]
    pub metadata: ListMeta,
    /// `Success` or `Failure`.
    #[prost(string, tag = "2")]
    pub status: String,
    /// For people.
    #[prost(string, tag = "3")]
    pub message: String,
    /// For programs, such as `NotFound`.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// HTTP status.
    #[prost(int32, tag = "6")]
    pub code: i32,
}

impl Object for Status {
    const API_VERSION: &'static str = "v1";
    const KIND: &'static str = "Status";
}

/// A number or a name.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct IntOrString {
    /// 0: `int_val` counts; 1: `str_val`.
    #[prost(int64, tag = "1")]
    pub kind: i64,
    /// The number.
    #[prost(int32, tag = "2")]
    pub int_val: i32,
    /// The name.
    #[prost(string, tag = "3")]
    pub str_val: String,
}

impl IntOrString {
    /// A number.
    pub fn int(value: i32) -> Self {
        Self { kind: 0, int_val: value, str_val: String::new() }
    }

    /// A name.
    pub fn string(value: impl Into<String>) -> Self {
        Self { kind: 1, int_val: 0, str_val: value.into() }
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.kind == 0 {
            serializer.serialize_i32(self.int_val)
        } else {
            serializer.serialize_str(&self.str_val)
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Int(i32),
            Str(String),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Int(value) => Self::int(value),
            Either::Str(value) => Self::string(value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_has_kubernetes_field_numbers() {
        let meta = ObjectMeta {
            name: "a".into(),
            namespace: "b".into(),
            uid: "c".into(),
            resource_version: "7".into(),
            generation: 3,
            creation_timestamp: Some(Time { seconds: 1, nanos: 0 }),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            annotations: [("x".to_owned(), "y".to_owned())].into(),
            ..ObjectMeta::default()
        };
        // name 1, namespace 3, uid 5, resourceVersion 6, generation 7, creationTimestamp 8, labels 11,
        // annotations 12; each written out by hand.
        let bytes = [
            b"\x0a\x01a\x1a\x01b\x2a\x01c\x32\x017\x38\x03".as_slice(),
            b"\x42\x02\x08\x01",
            b"\x5a\x06\x0a\x01k\x12\x01v",
            b"\x62\x06\x0a\x01x\x12\x01y",
        ]
        .concat();
        assert_eq!(meta.encode_to_vec(), bytes);
        assert_eq!(ObjectMeta::decode(bytes.as_slice()).unwrap(), meta);
        let json = serde_json::to_value(&meta).unwrap();
        assert_eq!(json["creationTimestamp"], "1970-01-01T00:00:01Z");
        assert_eq!(serde_json::from_value::<ObjectMeta>(json).unwrap(), meta);
    }

    #[test]
    fn int_or_string_is_bare_in_json() {
        assert_eq!(serde_json::to_string(&IntOrString::int(80)).unwrap(), "80");
        assert_eq!(serde_json::from_str::<IntOrString>("\"http\"").unwrap(), IntOrString::string("http"));
        assert_eq!(IntOrString::string("h").encode_to_vec(), b"\x08\x01\x1a\x01h");
    }
}
