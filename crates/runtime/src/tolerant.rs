//! Objects of a watch that need not decode.
//!
//! kube's watcher fails as a whole on an object that its type cannot hold: a list never completes, and a watch
//! starts over to fail again. With [`Tolerant`] it sees every object, and whoever takes the events decides what
//! to do about one that does not decode.

use std::{borrow::Cow, fmt, marker::PhantomData};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client, Resource,
    core::ObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::client::WatchBackoff;

/// An object of kind `K`, as far as it decodes as `T`.
#[derive(Debug, Clone)]
pub struct Tolerant<T, K = T> {
    /// Name, namespace and resource version only; empty where not even they can be read.
    metadata: ObjectMeta,
    /// The object, or why there is none.
    pub object: Result<T, Undecoded>,
    kind: PhantomData<fn() -> K>,
}

/// An object that does not decode.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct Undecoded {
    /// What does not decode.
    pub error: String,
    /// The object as it came.
    pub value: Value,
}

impl<T, K> Tolerant<T, K> {
    /// Namespace, empty for an object that has none, and name.
    pub fn key(&self) -> (String, String) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (text(&self.metadata.namespace), text(&self.metadata.name))
    }
}

impl<T, K: Resource<DynamicType = ()>> Resource for Tolerant<T, K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<'de, T: DeserializeOwned, K> Deserialize<'de> for Tolerant<T, K> {
    /// Fails only where the text is no JSON.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Cut out first: a decoder that failed within an object cannot find the next one.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let text = text.get();
        let (metadata, object) = match (serde_json::from_str::<Head>(text), serde_json::from_str(text)) {
            (Ok(head), Ok(object)) => (head.metadata, Ok(object)),
            (head, object) => {
                let error = object.err().or(head.err()).map(|error| error.to_string()).unwrap_or_default();
                let value: Value = serde_json::from_str(text).unwrap_or_default();
                (Meta::of(&value), Err(Undecoded { error, value }))
            }
        };
        let Meta { name, namespace, resource_version } = metadata;
        let metadata = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        Ok(Self { metadata, object, kind: PhantomData })
    }
}

/// What a watch tells.
pub type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// Follows all objects of a kind, those of them that decode: whatever somebody made of one, the others are seen to.
pub fn watch_all<K>(client: &Client) -> Events<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + 'static,
{
    let api = Api::<Tolerant<K>>::all(client.clone());
    let events = watcher(api, watcher::Config::default().page_size(500)).backoff(WatchBackoff::default());
    events.filter_map(async |event| event.map(decoded).transpose()).boxed()
}

/// The event as one of an object, if that decodes. Of one that does not the log tells, and what is known of it stays; one that
/// is listed is taken for absent.
fn decoded<K: Resource<DynamicType = ()>>(event: Event<Tolerant<K>>) -> Option<Event<K>> {
    let read = |tolerant: Tolerant<K>| {
        let (namespace, name) = tolerant.key();
        let kind = K::kind(&());
        let told = |error: &Undecoded| {
            tracing::error!(%kind, namespace, name, %error, "an object does not decode: what is known of it stays");
        };
        tolerant.object.inspect_err(told).ok()
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

/// What a watch needs of an object.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl Meta {
    /// What can be read of it.
    fn of(object: &Value) -> Self {
        let text = |key: &str| object.get("metadata")?.get(key)?.as_str().map(str::to_owned);
        Self { name: text("name"), namespace: text("namespace"), resource_version: text("resourceVersion") }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};
    use kube::{ResourceExt, core::ObjectList, core::WatchEvent};

    use super::*;

    #[test]
    fn an_object_that_does_not_decode_is_one_of_many() {
        let text = r#"{"apiVersion":"v1","kind":"NodeList","metadata":{"resourceVersion":"9"},"items":[
            {"metadata":{"name":"n1","resourceVersion":"7"},"spec":{"podCIDR":"10.0.0.0/24"}},
            {"metadata":{"name":"n2","resourceVersion":"8"},"spec":{"podCIDR":5}},
            {"metadata":{"name":"n3","labels":[]},"spec":{}},
            {"metadata":{"name":7}}, 12, null,
            {"metadata":{"name":"n4"}}]}"#;
        let list: ObjectList<Tolerant<Node>> = serde_json::from_str(text).unwrap();
        let names: Vec<String> = list.items.iter().map(|item| item.key().1).collect();
        assert_eq!(names, ["n1", "n2", "n3", "", "", "", "n4"]);
        let good: Vec<bool> = list.items.iter().map(|item| item.object.is_ok()).collect();
        assert_eq!(good, [true, false, false, false, false, false, true]);
        let bad = list.items[1].object.as_ref().unwrap_err();
        assert!(bad.to_string().contains("expected a string"), "{bad}");
        assert_eq!(bad.value["metadata"]["name"], "n2");
        assert_eq!(list.items[1].resource_version().as_deref(), Some("8"));
        assert_eq!(list.items[0].object.as_ref().unwrap().name_any(), "n1");
    }

    #[test]
    fn events_of_what_decodes_go_on() {
        let pod = |text: &str| serde_json::from_str::<Tolerant<Pod>>(text).unwrap();
        let (good, bad) = (r#"{"metadata":{"name":"p"}}"#, r#"{"metadata":{"name":"q"},"spec":7}"#);
        for of in [Event::Apply, Event::Delete, Event::InitApply] {
            assert!(decoded(of(pod(good))).is_some());
            assert!(decoded(of(pod(bad))).is_none());
        }
        assert!(matches!(decoded::<Pod>(Event::Init), Some(Event::Init)));
        assert!(matches!(decoded::<Pod>(Event::InitDone), Some(Event::InitDone)));
    }

    #[test]
    fn events_of_a_watch() {
        let text = r#"{"type":"MODIFIED","object":{"metadata":{"name":"p","namespace":"shop"},"spec":7}}"#;
        let WatchEvent::Modified(pod) = serde_json::from_str::<WatchEvent<Tolerant<Pod>>>(text).unwrap()
        else {
            panic!("not MODIFIED")
        };
        assert_eq!(pod.key(), ("shop".to_owned(), "p".to_owned()));
        assert!(pod.object.is_err());
        assert_eq!(Tolerant::<Pod>::plural(&()), "pods");
    }
}
