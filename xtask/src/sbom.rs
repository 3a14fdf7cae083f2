//! Software bill of materials of the shipped binaries: CycloneDX 1.5, from Cargo's own metadata.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// Binaries that images hold.
const SHIPPED: [&str; 5] = ["antctl", "antrea-agent", "antrea-cni", "antrea-controller", "antrea-operator"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// None of a crate of this workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None of what is linked, else `dev` or `build`.
    kind: Option<String>,
}

impl Package {
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// The document. It says nothing that differs from one run to the next.
pub(crate) fn document(root: &Path) -> Result<Value> {
    let args = [
        "metadata",
        "--format-version=1",
        "--offline",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-musl",
    ];
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo).args(args).current_dir(root).output().context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    from(&metadata)
}

fn from(metadata: &Metadata) -> Result<Value> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|one| (one.id.as_str(), one)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|one| (one.id.as_str(), one)).collect();
    let linked = |id: &str| -> Vec<&str> {
        let edges = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
        let linked = edges.iter().filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        linked.map(|edge| edge.pkg.as_str()).collect()
    };
    let shipped = |name: &str| {
        let found = metadata.packages.iter().find(|one| one.name == name && one.source.is_none());
        found.with_context(|| format!("the workspace has no {name}"))
    };
    let mut waiting: Vec<&str> = Vec::new();
    for name in SHIPPED {
        waiting.push(&shipped(name)?.id);
    }
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if reached.insert(id) {
            waiting.extend(linked(id));
        }
    }
    let purl = |id: &str| packages.get(id).map(|one| one.purl()).with_context(|| format!("{id}: no package"));
    let (mut components, mut dependencies) = (BTreeMap::new(), BTreeMap::new());
    for id in reached {
        let package = packages.get(id).with_context(|| format!("{id}: no package"))?;
        let mut component = json!({
            "type": if SHIPPED.contains(&package.name.as_str()) { "application" } else { "library" },
            "bom-ref": package.purl(), "purl": package.purl(),
            "name": package.name, "version": package.version,
        });
        if let Some(license) = &package.license {
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        components.insert(package.purl(), component);
        let on = linked(id).into_iter().map(purl).collect::<Result<BTreeSet<_>>>()?;
        dependencies.insert(package.purl(), json!({"ref": package.purl(), "dependsOn": on}));
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "name": "antrea", "version": shipped("antrea-operator")?.version,
            "bom-ref": "antrea",
        }},
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.into_values().collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_nothing_else() {
        let document = document(&crate::files::root()).unwrap();
        let components = document["components"].as_array().unwrap();
        let names: Vec<&str> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
        for wanted in SHIPPED.iter().chain(&["kube", "tokio", "openflow"]) {
            assert!(names.contains(wanted), "{wanted} is missing");
        }
        for other in ["proptest", "insta", "xtask", "tonic-prost-build"] {
            assert!(!names.contains(&other), "{other} is in no binary");
        }
        let refs: BTreeSet<&str> = components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), components.len());
        for dependency in document["dependencies"].as_array().unwrap() {
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(refs.contains(on.as_str().unwrap()), "{on} is no component");
            }
        }
        assert!(components.iter().all(|one| one["licenses"][0]["expression"].is_string()));
        assert_eq!(document, super::document(&crate::files::root()).unwrap());
    }
}
