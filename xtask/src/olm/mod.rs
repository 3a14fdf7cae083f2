//! What the Operator Lifecycle Manager (OLM) installs from: a bundle and a file-based catalog, made from the same
//! sources as `config/`.
//!
//! ```text
//!  config/operator/*.yaml ─┐
//!  antrea_crds::all() ─────┼─► bundle ─► catalog ◄─ olm/history (what was published before)
//!  config/samples, icon ───┘      └────► plan: what OLM makes of the bundle in a cluster
//! ```
//!
//! Who owns what:
//! - OLM: every definition, the operator's Deployment, ServiceAccount, roles and Service.
//! - The operator: all that an AntreaInstallation stands for, with the roles of agents and controller, and the
//!   policy that checks AntreaInstallations, which a bundle cannot hold.
//!
//! No object has two owners; a test holds the two lists against each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use semver::Version;
use serde_json::{Value, json};

mod catalog;
mod csv;
mod descriptors;
pub(crate) mod plan;

/// Name of the package, of the operator's Deployment and of its ServiceAccount.
pub(crate) const PACKAGE: &str = "antrea-operator";

/// Channel of releases; the default.
const STABLE: &str = "stable";

/// Channel of everything that is published, release candidates too.
const CANDIDATE: &str = "candidate";

/// Folder of what was published before, one `olm.bundle` blob per file.
const HISTORY: &str = "olm/history";

/// References of the images that a bundle is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Images {
    pub(crate) operator: String,
    pub(crate) agent: String,
    pub(crate) controller: String,
    pub(crate) bundle: String,
}

impl Images {
    /// Those of a version in the usual registry. Mirrors are told by registry, so it is not left out.
    pub(crate) fn of(version: &Version) -> Self {
        let image = |name: &str| format!("docker.io/antrea/{name}:v{version}");
        Self {
            operator: image("antrea-operator"),
            agent: image("antrea-agent"),
            controller: image("antrea-controller"),
            bundle: image("antrea-operator-bundle"),
        }
    }

    /// Name in `relatedImages`, and reference, of those that run in a cluster.
    fn related(&self) -> [(&'static str, &str); 3] {
        [
            ("antrea-agent", &self.agent),
            ("antrea-controller", &self.controller),
            ("antrea-operator", &self.operator),
        ]
    }
}

/// What a bundle is made for.
pub(crate) struct Release {
    pub(crate) version: Version,
    pub(crate) images: Images,
    /// When it was made, RFC 3339, if that is to be said.
    pub(crate) created: Option<String>,
    /// `olm.bundle` blobs of earlier versions, oldest first.
    pub(crate) history: Vec<Value>,
}

impl Release {
    /// This workspace's version.
    pub(crate) fn current(root: &Path) -> Result<Self> {
        let version: Version = env!("CARGO_PKG_VERSION").parse().context("the workspace's version")?;
        let images = Images::of(&version);
        Ok(Self { version, images, created: None, history: history(&root.join(HISTORY))? })
    }

    /// `metadata.name` of its ClusterServiceVersion.
    pub(crate) fn name(&self) -> String {
        bundle_name(&self.version)
    }
}

fn bundle_name(version: &Version) -> String {
    format!("{PACKAGE}.v{version}")
}

/// The blobs in a folder, oldest version first; none if there is no folder.
pub(crate) fn history(folder: &Path) -> Result<Vec<Value>> {
    let mut blobs = Vec::new();
    for file in crate::files::yaml_files(folder)? {
        for blob in crate::files::documents(&file)? {
            ensure!(catalog::version_of(&blob).is_some(), "{}: no olm.bundle with a version", file.display());
            blobs.push(blob);
        }
    }
    blobs.sort_by_key(catalog::version_of);
    Ok(blobs)
}

/// A file below the folder of a bundle or of `olm/`.
pub(crate) type File = (PathBuf, String);

/// The files of a bundle, relative to its folder.
pub(crate) fn bundle(root: &Path, release: &Release) -> Result<Vec<File>> {
    let manifests = Path::new("manifests");
    let csv = csv::cluster_service_version(root, release)?;
    let mut files = vec![(manifests.join(format!("{PACKAGE}.clusterserviceversion.yaml")), yaml(&csv)?)];
    for crd in antrea_crds::all() {
        let name = crate::generate::file_name(&crd);
        files.push((manifests.join(name), yaml(&serde_json::to_value(crd)?)?));
    }
    let mut service = source(root, "service.yaml")?;
    // OLM puts it into the namespace that the operator is installed in.
    service["metadata"].as_object_mut().context("metadata of the Service")?.remove("namespace");
    files.push((manifests.join(format!("{PACKAGE}_v1_service.yaml")), yaml(&service)?));
    let annotations: serde_json::Map<String, Value> =
        LABELS.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    files.push((PathBuf::from("metadata/annotations.yaml"), yaml(&json!({"annotations": annotations}))?));
    files.push((PathBuf::from("tests/scorecard/config.yaml"), yaml(&scorecard())?));
    Ok(files)
}

/// Everything in `olm/` that is generated, relative to that folder.
pub(crate) fn files(root: &Path, release: &Release) -> Result<Vec<File>> {
    let bundle = bundle(root, release)?;
    let catalog = catalog::blobs(root, release, &bundle)?;
    let mut out: Vec<File> =
        bundle.into_iter().map(|(path, text)| (Path::new("bundle").join(path), text)).collect();
    out.push((PathBuf::from("bundle.Dockerfile"), dockerfile()));
    out.push((Path::new("catalog").join(PACKAGE).join("catalog.yaml"), documents(&catalog)?));
    Ok(out)
}

/// Facts about the bundle that its image has as labels, and `metadata/annotations.yaml` repeats.
const LABELS: [(&str, &str); 9] = [
    ("operators.operatorframework.io.bundle.mediatype.v1", "registry+v1"),
    ("operators.operatorframework.io.bundle.manifests.v1", "manifests/"),
    ("operators.operatorframework.io.bundle.metadata.v1", "metadata/"),
    ("operators.operatorframework.io.bundle.package.v1", PACKAGE),
    ("operators.operatorframework.io.bundle.channels.v1", "candidate,stable"),
    ("operators.operatorframework.io.bundle.channel.default.v1", STABLE),
    ("operators.operatorframework.io.test.mediatype.v1", "scorecard+v1"),
    ("operators.operatorframework.io.test.config.v1", "tests/scorecard/"),
    // The first that is Kubernetes 1.30; see minKubeVersion.
    ("com.redhat.openshift.versions", "v4.17"),
];

fn dockerfile() -> String {
    let mut text = String::from(crate::generate::HEADER);
    text.push_str("# Built in the folder olm/.\nFROM scratch\n");
    for (key, value) in LABELS {
        text.push_str(&format!("LABEL {key}={value}\n"));
    }
    text.push_str("COPY bundle/manifests /manifests/\nCOPY bundle/metadata /metadata/\n");
    text.push_str("COPY bundle/tests/scorecard /tests/scorecard/\n");
    text
}

/// The tests that operator-sdk's scorecard runs on a bundle.
fn scorecard() -> Value {
    const IMAGE: &str = "quay.io/operator-framework/scorecard-test:v1.41.1";
    let test = |suite: &str, test: &str| {
        json!({
            "entrypoint": ["scorecard-test", test],
            "image": IMAGE,
            "labels": {"suite": suite, "test": format!("{test}-test")},
        })
    };
    let olm = [
        "olm-bundle-validation",
        "olm-crds-have-validation",
        "olm-crds-have-resources",
        "olm-spec-descriptors",
        "olm-status-descriptors",
    ];
    let mut tests = vec![test("basic", "basic-check-spec")];
    tests.extend(olm.map(|name| test("olm", name)));
    json!({
        "apiVersion": "scorecard.operatorframework.io/v1alpha3",
        "kind": "Configuration",
        "metadata": {"name": "config"},
        "stages": [{"parallel": true, "tests": tests}],
    })
}

/// The only document of a file in `config/operator`.
fn source(root: &Path, name: &str) -> Result<Value> {
    let path = root.join("config/operator").join(name);
    let mut documents = crate::files::documents(&path)?;
    ensure!(documents.len() == 1, "{}: {} documents", path.display(), documents.len());
    Ok(documents.remove(0))
}

fn yaml(value: &Value) -> Result<String> {
    Ok(format!("{}{}", crate::generate::HEADER, serde_saphyr::to_string(value).context("write YAML")?))
}

fn documents(values: &[Value]) -> Result<String> {
    let mut text = String::from(crate::generate::HEADER);
    for value in values {
        text.push_str("---\n");
        text.push_str(serde_saphyr::to_string(value).context("write YAML")?.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// Writes files below `folder`.
pub(crate) fn write(folder: &Path, files: &[File]) -> Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
