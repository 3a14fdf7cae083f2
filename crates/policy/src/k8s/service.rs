//! Services, for the Pods behind them.

use serde::Deserialize;

use super::null_default;
use crate::labels::Labels;

/// A Service, as far as policies depend on it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "Raw")]
pub struct Service {
    /// `metadata.namespace`
    pub namespace: Box<str>,
    /// `metadata.name`
    pub name: Box<str>,
    /// `spec.selector`: labels of its Pods. Empty where somebody else writes its endpoints, or it has none
    /// (`ExternalName`).
    pub selector: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Metadata,
    #[serde(deserialize_with = "null_default")]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: Box<str>,
    name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "type", deserialize_with = "null_default")]
    type_: Box<str>,
    #[serde(deserialize_with = "null_default")]
    selector: Labels,
}

impl From<Raw> for Service {
    fn from(Raw { metadata, spec }: Raw) -> Self {
        let selector = if &*spec.type_ == "ExternalName" { Labels::default() } else { spec.selector };
        Self { namespace: metadata.namespace, name: metadata.name, selector }
    }
}
