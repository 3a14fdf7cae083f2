//! Plugins for user interfaces of others. `hack/headlamp.sh publish` writes what is in them.

use serde_json::json;

use super::managed;
use crate::{
    effective::Effective,
    object::{CONFIG_MAP, Key, Object},
};

/// ConfigMap of Headlamp's plugin.
pub const HEADLAMP: &str = "headlamp-plugin-antrea";

/// The plugin's files, by name: those that Headlamp looks for in a plugin's folder.
const FILES: [(&str, &str); 2] = [
    ("main.js", include_str!("../../../config/ui/headlamp/main.js")),
    ("package.json", include_str!("../../../config/ui/headlamp/package.json")),
];

/// Whether an object is one of those that [`objects`] makes: what goes wrong with it does not hold up the network.
pub fn is_ui(key: &Key) -> bool {
    key.kind == CONFIG_MAP.kind && key.name == HEADLAMP
}

/// The wanted ones.
pub fn objects(config: &Effective) -> Vec<Object> {
    let headlamp = config.headlamp.as_ref().map(|namespace| {
        let data: serde_json::Map<_, _> =
            FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
        managed(&CONFIG_MAP, HEADLAMP, json!({"data": data})).in_namespace(namespace).label("component", "ui")
    });
    headlamp.into_iter().map(Object::stamped).collect()
}
