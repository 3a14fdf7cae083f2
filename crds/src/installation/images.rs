//! Where container images come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where container images come from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Registry, and path in it, that stands before the name of every image, such as
    /// "registry.example.com/mirror". Default: none, which leaves it to the container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._:/-]{0,253}[A-Za-z0-9])?$"), length(max = 255))]
    #[x_kube(validation = Rule::new("!self.contains('://')").message("spec.images.registry: must not have a scheme such as https://"))]
    pub registry: Option<String>,

    /// When a Node pulls images: "Always", "IfNotPresent" (default) or "Never".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PullPolicy")]
    pub pull_policy: Option<PullPolicy>,

    /// Secrets in the namespace kube-system that hold credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pull_secrets: Vec<PullSecret>,

    /// Image of the agent, of Open vSwitch and of the CNI installer; "antrea/antrea-agent" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<ImageOverride>,

    /// Image of the controller; "antrea/antrea-controller" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ImageOverride>,

    /// Image with the plugins of spec.ui; "antrea/antrea-ui" by default. The operator does not run it: it is for the init
    /// containers of those who load a plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ui: Option<ImageOverride>,
}

/// Says otherwise than registry, name and version would for one image.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.tag) && has(self.digest))").message("spec.images: an image may have a tag or a digest, not both"))]
pub struct ImageOverride {
    /// Repository without tag, such as "registry.example.com/team/antrea-agent"; spec.images.registry
    /// is not put before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._:/-]{0,253}[A-Za-z0-9])?$"), length(max = 255))]
    pub repository: Option<String>,

    /// Tag to use in place of spec.version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"))]
    pub tag: Option<String>,

    /// Digest to use in place of a tag, "sha256:" and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// A Secret of type kubernetes.io/dockerconfigjson.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// When a Node pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// When the Node does not have it.
    IfNotPresent,
    /// Never: images are loaded by other means.
    Never,
}
