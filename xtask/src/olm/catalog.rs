//! The file-based catalog: one package, two channels, every version that was ever published.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use semver::Version;
use serde_json::{Value, json};

use super::{CANDIDATE, File, PACKAGE, Release, STABLE};

/// Version of an `olm.bundle` blob.
pub(super) fn version_of(blob: &Value) -> Option<Version> {
    let properties = blob["properties"].as_array()?;
    let package = properties.iter().find(|property| property["type"] == "olm.package")?;
    package["value"]["version"].as_str()?.parse().ok()
}

/// All blobs, for a release with the bundle `files`.
pub(super) fn blobs(root: &Path, release: &Release, files: &[File]) -> Result<Vec<Value>> {
    let versions: Vec<Version> = release.history.iter().filter_map(version_of).collect();
    ensure!(
        versions.iter().all(|earlier| *earlier < release.version),
        "version {} is not newer than what was published before: {}",
        release.version,
        versions.last().map(ToString::to_string).unwrap_or_default()
    );
    let icon = crate::files::text(&root.join("olm/icon.svg"))?;
    let mut blobs = vec![json!({
        "schema": "olm.package",
        "name": PACKAGE,
        "defaultChannel": STABLE,
        "description": "Installs, upgrades and removes the Antrea network of a cluster",
        "icon": {
            "base64data": base64::engine::general_purpose::STANDARD.encode(icon.trim_end()),
            "mediatype": "image/svg+xml",
        },
    })];
    let all: Vec<&Version> = versions.iter().chain([&release.version]).collect();
    let stable: Vec<&Version> = all.iter().copied().filter(|version| version.pre.is_empty()).collect();
    // A default channel cannot be empty: before the first release it is what there is.
    let stable = if stable.is_empty() { all.clone() } else { stable };
    for (channel, versions) in [(CANDIDATE, &all), (STABLE, &stable)] {
        blobs.push(json!({
            "schema": "olm.channel",
            "package": PACKAGE,
            "name": channel,
            "entries": entries(versions),
        }));
    }
    blobs.extend(release.history.iter().cloned());
    blobs.push(bundle_blob(release, files)?);
    Ok(blobs)
}

/// A chain from the oldest to the newest, so that every version stays installable and none is skipped. A release
/// also follows its own candidates, whichever of them a cluster runs.
fn entries(versions: &[&Version]) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut before: Option<&Version> = None;
    for version in versions {
        let mut entry = json!({"name": super::bundle_name(version)});
        if let Some(before) = before {
            entry["replaces"] = super::bundle_name(before).into();
        }
        if version.pre.is_empty() {
            entry["skipRange"] = format!(">={version}-0 <{version}").into();
        }
        entries.push(entry);
        before = Some(version);
    }
    entries
}

fn bundle_blob(release: &Release, files: &[File]) -> Result<Value> {
    let mut properties = vec![json!({
        "type": "olm.package",
        "value": {"packageName": PACKAGE, "version": release.version.to_string()},
    })];
    for crd in antrea_crds::all() {
        for version in &crd.spec.versions {
            properties.push(json!({
                "type": "olm.gvk",
                "value": {"group": crd.spec.group, "kind": crd.spec.names.kind, "version": version.name},
            }));
        }
    }
    let (_, csv) = files.first().context("a bundle must have files")?;
    let csv: Value = serde_saphyr::from_str(csv).context("parse the ClusterServiceVersion")?;
    let spec = &csv["spec"];
    let owned: Vec<Value> = spec["customresourcedefinitions"]["owned"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|crd| {
            let keys = ["name", "version", "kind", "displayName", "description"];
            keys.iter()
                .map(|key| ((*key).to_owned(), crd[*key].clone()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        })
        .collect();
    let mut metadata = json!({
        "annotations": csv["metadata"]["annotations"],
        "labels": csv["metadata"]["labels"],
        "apiServiceDefinitions": {},
        "crdDescriptions": {"owned": owned},
    });
    for key in [
        "description",
        "displayName",
        "installModes",
        "keywords",
        "links",
        "maintainers",
        "maturity",
        "minKubeVersion",
        "provider",
    ] {
        metadata[key] = spec[key].clone();
    }
    properties.push(json!({"type": "olm.csv.metadata", "value": metadata}));
    let mut related: Vec<Value> = vec![json!({"name": "", "image": release.images.bundle})];
    related.extend(spec["relatedImages"].as_array().into_iter().flatten().cloned());
    Ok(json!({
        "schema": "olm.bundle",
        "package": PACKAGE,
        "name": release.name(),
        "image": release.images.bundle,
        "properties": properties,
        "relatedImages": related,
    }))
}
