//! Tiers.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The Tiers that always exist, with priority and description; the last is evaluated after Kubernetes NetworkPolicies.
/// [`Tier`]'s rules repeat names and priorities.
pub const STATIC_TIERS: [(&str, i32, &str); 6] = [
    ("emergency", 50, "Policies for emergencies"),
    ("securityops", 100, "Policies of whoever is responsible for security"),
    ("networkops", 150, "Policies of whoever is responsible for the network"),
    ("platform", 200, "Policies of whoever runs the platform"),
    ("application", 250, "Policies of applications; where a policy names no Tier it is in this one"),
    ("baseline", 253, "Policies that are evaluated after Kubernetes NetworkPolicies"),
];

/// A place in the order of policies.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "crd.antrea.io",
    version = "v1beta1",
    kind = "Tier",
    plural = "tiers",
    shortname = "tr",
    derive = "PartialEq",
    derive = "Default",
    doc = "Tier is a place in the order of policies: those in a Tier of lower priority are evaluated first.",
    label("app", "antrea"),
    validation = Rule::new("!(self.metadata.name in ['emergency', 'securityops', 'networkops', 'platform', 'application', 'baseline']) || self.spec.priority == {'emergency': 50, 'securityops': 100, 'networkops': 150, 'platform': 200, 'application': 250, 'baseline': 253}[self.metadata.name]")
        .message("spec.priority: that of a Tier which always exists cannot be changed"),
    validation = Rule::new("self.metadata.name in ['emergency', 'securityops', 'networkops', 'platform', 'application', 'baseline'] || !(self.spec.priority in [50, 100, 150, 200, 250, 251, 252, 253, 254, 255])")
        .message("spec.priority: belongs to a Tier which always exists, or is reserved"),
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        description = "Order among Tiers: the lower is evaluated first."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.priority == oldSelf.priority").message("spec.priority: cannot be changed; make another Tier")
)]
pub struct TierSpec {
    /// Order among Tiers, 0 to 255: policies in a Tier of lower priority are evaluated first. Those of Tiers that always
    /// exist, and 251, 252, 254 and 255, are taken.
    #[schemars(range(min = 0, max = 255))]
    pub priority: i32,
    /// What the Tier is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
}
