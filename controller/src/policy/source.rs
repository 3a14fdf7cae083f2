//! Watched objects that keep only what the index reads.

use std::{borrow::Cow, fmt::Debug, marker::PhantomData};

use antrea_policy::k8s;
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use kube::{Resource, core::ObjectMeta};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        DeserializeOwned, DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
};

/// An object that the index reads.
pub(super) trait Source: DeserializeOwned + Clone + Debug + Send + Sync + 'static {
    /// The full type, for where to find it.
    type Full: Resource<DynamicType = ()>;
}

impl Source for k8s::Pod {
    type Full = core::Pod;
}

impl Source for k8s::Namespace {
    type Full = core::Namespace;
}

impl Source for k8s::NetworkPolicy {
    type Full = networking::NetworkPolicy;
}

/// A `T` with the metadata that a watch needs. Everything else of the object is skipped while it is
/// decoded and never in memory.
#[derive(Debug, Clone)]
pub(super) struct Watched<T> {
    metadata: ObjectMeta,
    pub(super) object: T,
}

impl<T: Source> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = <T::Full as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::Full::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::Full::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::Full::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::Full::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<'de, T: Source> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// The part of the metadata that somebody reads.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing)]
    resource_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<std::collections::BTreeMap<String, String>>,
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Source> Visitor<'de> for ObjectVisitor<T> {
    type Value = Watched<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Watched<T>, A::Error> {
        let mut meta = Meta::default();
        let tee = Tee { map, at_metadata: false, meta: &mut meta };
        let object = T::deserialize(MapAccessDeserializer::new(tee))?;
        let metadata = ObjectMeta {
            name: Some(meta.name),
            namespace: meta.namespace,
            resource_version: meta.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Watched { metadata, object })
    }
}

/// Passes a map on and keeps the metadata on the way: the object's own type does not keep the resource
/// version, and the text can be read only once.
struct Tee<'m, A> {
    map: A,
    at_metadata: bool,
    meta: &'m mut Meta,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Tee<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<Cow<'_, str>>()? else { return Ok(None) };
        self.at_metadata = key == "metadata";
        let key: StrDeserializer<'_, A::Error> = (&*key).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        if !self.at_metadata {
            return self.map.next_value_seed(seed);
        }
        *self.meta = self.map.next_value()?;
        let value = serde_json::to_value(&*self.meta).map_err(A::Error::custom)?;
        seed.deserialize(value).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;

    use super::*;

    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"shop","uid":"u",
        "resourceVersion":"17","labels":{"app":"web"},"managedFields":[{"manager":"x","fieldsV1":{"f:a":{}}}]},
        "spec":{"nodeName":"n1","volumes":[{"name":"v"}]},"status":{"podIPs":[{"ip":"10.0.0.5"}]}}"#;

    #[test]
    fn keeps_what_the_watch_and_the_index_need() {
        let pod: Watched<k8s::Pod> = serde_json::from_str(POD).unwrap();
        assert_eq!(pod.metadata.resource_version.as_deref(), Some("17"));
        assert_eq!(pod.object, serde_json::from_str::<k8s::Pod>(POD).unwrap());
        assert_eq!(&*pod.object.namespace, "shop");
        assert_eq!(Watched::<k8s::Pod>::plural(&()), "pods");
        assert_eq!(Watched::<k8s::NetworkPolicy>::api_version(&()), "networking.k8s.io/v1");
        let event = format!(r#"{{"type":"ADDED","object":{POD}}}"#);
        let WatchEvent::Added(same) = serde_json::from_str::<WatchEvent<Watched<k8s::Pod>>>(&event).unwrap()
        else {
            panic!("not ADDED")
        };
        assert_eq!(same.object, pod.object);
        let late = format!(r#"{{"object":{POD},"type":"MODIFIED"}}"#);
        assert!(serde_json::from_str::<WatchEvent<Watched<k8s::Pod>>>(&late).is_ok());
    }
}
