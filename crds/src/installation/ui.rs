//! User interfaces that others load.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Plugins that show Antrea in user interfaces of others. The image "antrea/antrea-ui", which status.computed.images.ui
/// names, has all of them, ready for an init container.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.headlamp)").message("spec.ui: say which, such as headlamp"))]
pub struct Ui {
    /// Headlamp's plugin, as ConfigMap "headlamp-plugin-antrea"; absent (default): none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headlamp: Option<HeadlampPlugin>,
}

/// Headlamp's plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeadlampPlugin {
    /// Existing namespace, that of Headlamp, in which the ConfigMap is made. Its keys are the plugin's files.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub namespace: String,
}
