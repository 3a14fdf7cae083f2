//! Watched objects that keep only what the index reads.

use std::fmt::Debug;

use antrea_policy::k8s;
use antrea_runtime::tolerant::Tolerant;
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A `T` as a watch shows it. Everything that `T` has not is skipped while it is decoded and never in memory.
pub(super) type Watched<T> = Tolerant<T, <T as Source>::Full>;

/// An object that the index reads.
pub(super) trait Source: DeserializeOwned + Clone + Debug + Send + Sync + 'static {
    /// The full type, for where to find it.
    type Full: Resource<DynamicType = ()> + Clone + Debug;

    /// What can safely be made of an object that does not decode and of which nothing is known: it may be
    /// stricter than what was meant, never more open. None where it is best left out.
    fn salvage(object: &Value) -> Option<Self>;
}

impl Source for k8s::Pod {
    type Full = core::Pod;

    /// Without addresses and ports no rule allows anything to or from it, but policies select it.
    fn salvage(object: &Value) -> Option<Self> {
        let spec =
            readable(&object["spec"], &[("nodeName", Value::is_string), ("hostNetwork", Value::is_boolean)]);
        let status = readable(&object["status"], &[("phase", Value::is_string)]);
        let mut metadata = metadata(object);
        metadata.insert("labels".to_owned(), strings(&object["metadata"]["labels"]));
        named(&json!({ "metadata": metadata, "spec": spec, "status": status }))
    }
}

impl Source for k8s::Namespace {
    type Full = core::Namespace;

    /// Selectors of namespaces may ask for labels that are not there.
    fn salvage(_: &Value) -> Option<Self> {
        None
    }
}

impl Source for k8s::Node {
    type Full = core::Node;

    /// A group that it would be in has one member less than it should: what denies Nodes would let it through, which a
    /// Node that nobody knows does anyway.
    fn salvage(_: &Value) -> Option<Self> {
        None
    }
}

impl Source for k8s::Service {
    type Full = core::Service;

    /// A group of the Pods behind it has no members then, as if it was not there.
    fn salvage(_: &Value) -> Option<Self> {
        None
    }
}

impl Source for k8s::NetworkPolicy {
    type Full = networking::NetworkPolicy;

    /// It isolates, in the directions that it names, and allows nothing. A selector that cannot be read is
    /// widened until it can, so that at least the Pods that were meant are isolated.
    fn salvage(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let types = match &spec["policyTypes"] {
            Value::Array(types) if types.iter().all(Value::is_string) && !types.is_empty() => json!(types),
            Value::Null if spec["egress"].is_null() => json!(["Ingress"]),
            _ => json!(["Ingress", "Egress"]),
        };
        let selector = &spec["podSelector"];
        let labels = strings(&selector["matchLabels"]);
        let selectors = [
            selector.clone(),
            json!({ "matchLabels": labels, "matchExpressions": selector["matchExpressions"] }),
            json!({ "matchLabels": labels }),
        ];
        selectors.into_iter().find_map(|selector| {
            let spec = json!({ "podSelector": selector, "policyTypes": types });
            named(&json!({ "metadata": metadata(object), "spec": spec }))
        })
    }
}

/// The object, if it has a name.
fn named<T: DeserializeOwned>(object: &Value) -> Option<T> {
    let name = object["metadata"]["name"].as_str()?;
    if name.is_empty() { None } else { T::deserialize(object).ok() }
}

fn metadata(object: &Value) -> Map<String, Value> {
    let text = Value::is_string as fn(&Value) -> bool;
    let fields = [("name", text), ("namespace", text), ("uid", text), ("generation", Value::is_i64)];
    readable(&object["metadata"], &fields)
}

/// A field's name and what its value should be.
type Field = (&'static str, fn(&Value) -> bool);

/// The fields that are what they should be.
fn readable(object: &Value, fields: &[Field]) -> Map<String, Value> {
    let good = fields.iter().filter(|(name, is_good)| is_good(&object[*name]));
    good.map(|(name, _)| ((*name).to_owned(), object[*name].clone())).collect()
}

/// The members of a map that are strings.
fn strings(map: &Value) -> Value {
    let members = map.as_object().into_iter().flatten().filter(|(_, value)| value.is_string());
    Value::Object(members.map(|(key, value)| (key.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"shop","uid":"u",
        "resourceVersion":"17","labels":{"app":"web"},"managedFields":[{"manager":"x","fieldsV1":{"f:a":{}}}]},
        "spec":{"nodeName":"n1","volumes":[{"name":"v"}]},"status":{"podIPs":[{"ip":"10.0.0.5"}]}}"#;

    #[test]
    fn keeps_what_the_watch_and_the_index_need() {
        let pod: Watched<k8s::Pod> = serde_json::from_str(POD).unwrap();
        assert_eq!(pod.meta().resource_version.as_deref(), Some("17"));
        assert_eq!(pod.object.unwrap(), serde_json::from_str::<k8s::Pod>(POD).unwrap());
        assert_eq!(Watched::<k8s::Pod>::plural(&()), "pods");
        assert_eq!(Watched::<k8s::NetworkPolicy>::api_version(&()), "networking.k8s.io/v1");
    }

    #[test]
    fn a_salvaged_pod_is_selected_and_allowed_nothing() {
        let mut pod: Value = serde_json::from_str(POD).unwrap();
        pod["spec"]["containers"] = json!(3);
        pod["metadata"]["labels"]["odd"] = json!(7);
        let pod = k8s::Pod::salvage(&pod).unwrap();
        assert_eq!((&*pod.namespace, &*pod.name, pod.node.as_deref()), ("shop", "web", Some("n1")));
        assert_eq!(pod.labels, [("app", "web")].into_iter().collect());
        assert!(pod.ips.is_empty() && pod.ports.is_empty());
        assert_eq!(k8s::Pod::salvage(&json!({ "metadata": { "name": 5 } })), None);
        assert_eq!(k8s::Pod::salvage(&json!(null)), None);
    }

    #[test]
    fn a_salvaged_policy_isolates_what_was_meant() {
        let salvage = |spec: Value| {
            let metadata = json!({ "name": "p", "namespace": "shop", "uid": "u", "generation": 4 });
            k8s::NetworkPolicy::salvage(&json!({ "metadata": metadata, "spec": spec })).unwrap()
        };
        let selected = |labels: Value| -> k8s::NetworkPolicySpec {
            serde_json::from_value(
                json!({ "podSelector": { "matchLabels": labels }, "policyTypes": ["Ingress"] }),
            )
            .unwrap()
        };
        let web = json!({ "app": "web" });
        let policy = salvage(json!({ "podSelector": { "matchLabels": web }, "ingress": 5 }));
        assert_eq!((policy.generation, &policy.spec), (4, &selected(web.clone())));
        // A selector is widened: what was meant is selected with others.
        let odd = json!({ "matchLabels": { "app": "web", "odd": 1 }, "matchExpressions": "x" });
        assert_eq!(salvage(json!({ "podSelector": odd })).spec, selected(web));
        assert_eq!(salvage(json!({ "podSelector": 5 })).spec, selected(json!({})));
        // Directions that cannot be read are both.
        let types =
            |spec: Value| salvage(spec).spec.policy_types.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(types(json!({ "policyTypes": ["Egress"], "egress": 1 })), ["Egress"]);
        assert_eq!(types(json!({ "policyTypes": [1] })), ["Ingress", "Egress"]);
        assert_eq!(types(json!({ "egress": 1 })), ["Ingress", "Egress"]);
    }
}
