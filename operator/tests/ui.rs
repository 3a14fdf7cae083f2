//! Plugins for user interfaces, as the operator publishes them.

#![allow(clippy::unwrap_used, reason = "tests")]

use antrea_operator::{
    effective::{Facts, effective},
    render::{self, monitoring::Served},
};
use serde_json::{Value, json};

/// Headlamp's own page says what a plugin's folder has; a ConfigMap may have a mebibyte.
#[test]
fn plugins_for_user_interfaces_are_published_where_they_are_wanted() {
    let facts = Facts { default_version: "v0.1.0".into(), ..Facts::default() };
    let of = |value: Value| effective(&serde_json::from_value(value).unwrap(), &facts).unwrap();
    assert!(render::ui::objects(&of(json!({}))).is_empty());
    let without = of(json!({}));
    assert!(without.ui_image.is_none() && !render::images(&without).iter().any(|image| image.contains("ui")));
    let config =
        of(json!({"ui": {"headlamp": {"namespace": "tools"}}, "images": {"registry": "mirror.example.com"}}));
    let objects = render::extras(&config, Served::default(), "antrea-operator");
    let plugin = objects.iter().find(|object| object.name == "headlamp-plugin-antrea").unwrap();
    assert_eq!(plugin.kind.kind, "ConfigMap");
    assert_eq!(plugin.body["metadata"]["namespace"], "tools");
    let data = plugin.body["data"].as_object().unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["main.js", "package.json"]);
    let package: Value = serde_json::from_str(data["package.json"].as_str().unwrap()).unwrap();
    assert_eq!(package["name"], "antrea");
    assert!(data["main.js"].as_str().unwrap().contains("registerRoute"));
    assert!(plugin.body.to_string().len() < 1 << 20);
    assert!(objects.iter().all(|object| render::is_extra(&object.key())));
    let image = "mirror.example.com/antrea/antrea-ui:v0.1.0";
    assert!(render::images(&config).contains(&image.to_owned()));
    let shown = json!(config.to_spec());
    assert_eq!(shown["images"]["ui"]["repository"], "mirror.example.com/antrea/antrea-ui");
    assert_eq!(shown["ui"], json!({"headlamp": {"namespace": "tools"}}));
    let other = of(json!({"ui": {"headlamp": {"namespace": "tools"}},
        "images": {"ui": {"repository": "example.com/ui", "tag": "x"}}}));
    assert_eq!(other.ui_image.as_deref(), Some("example.com/ui:x"));
}
