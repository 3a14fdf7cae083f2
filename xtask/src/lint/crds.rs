//! Definitions.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::{Bundle, Rule, error, items, name, warning};

pub(super) const RULES: &[Rule<Bundle>] = &[
    error("owned-crds-shipped", |bundle| {
        let shipped = shipped(bundle);
        let missing = owned(bundle)
            .into_iter()
            .filter(|(name, version)| !shipped.get(name).is_some_and(|versions| versions.contains(version)));
        missing.map(|(name, version)| format!("{name} {version} is owned but not in the bundle")).collect()
    }),
    error("shipped-crds-owned", |bundle| {
        let owned = owned(bundle);
        let mut foreign = Vec::new();
        for (crd, versions) in shipped(bundle) {
            for version in versions.into_iter().filter(|version| !owned.contains(&(crd, version))) {
                foreign.push(format!("{crd} {version} is in the bundle but not owned"));
            }
        }
        foreign
    }),
    error("crds-once", |bundle| {
        let mut count = BTreeMap::new();
        for crd in bundle.of_kind("CustomResourceDefinition") {
            *count.entry(crd["metadata"]["name"].as_str().unwrap_or_default()).or_insert(0) += 1;
        }
        count
            .into_iter()
            .filter(|(_, n)| *n > 1)
            .map(|(crd, n)| format!("{crd} is in the bundle {n} times"))
            .collect()
    }),
    error("owned-once", |bundle| {
        let mut seen = Vec::new();
        let mut twice = Vec::new();
        for one in owned(bundle) {
            if seen.contains(&one) {
                twice.push(format!("{} {} is owned twice", one.0, one.1));
            }
            seen.push(one);
        }
        twice
    }),
    error("crds-valid", |bundle| {
        bundle.of_kind("CustomResourceDefinition").into_iter().flat_map(validity).collect()
    }),
    warning("crd-descriptions", |bundle| {
        let owned = items(&bundle.spec()["customresourcedefinitions"]["owned"]).iter();
        let silent =
            owned.filter(|one| one["description"].as_str().is_none_or(|text| text.trim().is_empty()));
        silent
            .map(|one| format!("spec.customresourcedefinitions.owned: {} has no description", one["name"]))
            .collect()
    }),
];

/// Versions of the definitions in the bundle.
fn shipped(bundle: &Bundle) -> BTreeMap<&str, Vec<&str>> {
    let crds = bundle.of_kind("CustomResourceDefinition").into_iter();
    crds.filter_map(|crd| {
        let versions = items(&crd["spec"]["versions"]).iter().filter_map(|version| version["name"].as_str());
        Some((crd["metadata"]["name"].as_str()?, versions.collect()))
    })
    .collect()
}

fn owned(bundle: &Bundle) -> Vec<(&str, &str)> {
    let owned = items(&bundle.spec()["customresourcedefinitions"]["owned"]).iter();
    owned.filter_map(|one| Some((one["name"].as_str()?, one["version"].as_str()?))).collect()
}

/// What an API server would refuse first; the cluster suite asks a real one.
fn validity(crd: &Value) -> Vec<String> {
    let who = name(crd);
    // The old form has a rule of its own.
    if crd["apiVersion"] != "apiextensions.k8s.io/v1" {
        return Vec::new();
    }
    let typed: CustomResourceDefinition = match serde_json::from_value(crd.clone()) {
        Ok(typed) => typed,
        Err(error) => return vec![format!("{who}: {error}")],
    };
    let spec = typed.spec;
    let mut wrong = Vec::new();
    if typed.metadata.name != Some(format!("{}.{}", spec.names.plural, spec.group)) {
        wrong.push(format!("{who}: its name is not <plural>.<group>"));
    }
    if !matches!(spec.scope.as_str(), "Cluster" | "Namespaced") {
        wrong.push(format!("{who}: scope {:?}", spec.scope));
    }
    if spec.versions.iter().filter(|version| version.storage).count() != 1 {
        wrong.push(format!("{who}: not one version is stored"));
    }
    for version in &spec.versions {
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        if schema.and_then(|schema| schema.type_.as_deref()) != Some("object") {
            wrong.push(format!("{who}: version {} has no schema of type object", version.name));
        }
    }
    wrong
}
