//! When the API server asks the controller, and about what.

#![allow(clippy::unwrap_used, reason = "tests")]

use antrea_operator::{effective::Facts, render::render};
use serde_json::{Value, json};

/// The API server asks the controller about policies only where it takes them in.
#[test]
fn webhooks_come_with_native_policies() {
    let facts = Facts { default_version: "v0.1.0".into(), ..Facts::default() };
    let webhooks = |gate: bool| -> Vec<Value> {
        let spec = serde_json::from_value(json!({"featureGates": {"AntreaPolicy": gate}})).unwrap();
        let objects = render(&spec, &facts).unwrap();
        let hooks = objects.into_iter().filter(|object| object.kind.kind.ends_with("WebhookConfiguration"));
        hooks.flat_map(|object| object.body["webhooks"].as_array().unwrap().clone()).collect()
    };
    assert_eq!(webhooks(false), Vec::<Value>::new());
    let found = webhooks(true);
    assert_eq!(found.len(), 7);
    for hook in found {
        let path = hook["clientConfig"]["service"]["path"].as_str().unwrap();
        assert!(path.starts_with("/validate/") || path.starts_with("/mutate/"), "{path}");
        assert_eq!(
            hook["rules"][0]["apiGroups"],
            json!(["crd.antrea.io"]),
            "nothing else waits for the controller"
        );
        assert_eq!(hook["matchConditions"].as_array().unwrap().len(), 1, "nor does the controller itself");
    }
}
