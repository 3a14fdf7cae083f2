//! `system.antrea.io/v1beta1`: what controller and agents tell of themselves. In JSON only, as upstream's.

use serde::{Deserialize, Serialize};

use crate::k8s::ObjectMeta;

/// API group.
pub const GROUP: &str = "system.antrea.io";
/// API version.
pub const VERSION: &str = "v1beta1";
/// Group and version.
pub const API_VERSION: &str = "system.antrea.io/v1beta1";

/// How far a bundle is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleStatus {
    /// There is none.
    #[default]
    None,
    /// It is being made.
    Collecting,
    /// It can be downloaded.
    Collected,
}

/// A bundle of what helps to find out what is wrong with a component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SupportBundle {
    /// The name is `controller` or `agent`.
    pub metadata: ObjectMeta,
    /// How far it is.
    pub status: BundleStatus,
    /// SHA-256 of the archive, in hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sum: String,
    /// Size of the archive in octets.
    #[serde(skip_serializing_if = "zero")]
    pub size: u32,
    /// Only log lines that are not older: a duration before now such as `1h30m`, `90s`, or a time as RFC 3339 has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
}

fn zero(n: &u32) -> bool {
    *n == 0
}
